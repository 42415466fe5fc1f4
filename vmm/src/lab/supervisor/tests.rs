//! The supervisor with shell scripts in place of guests: `$2` is the descriptor of the guest's
//! description, `$4` the one for its outcome.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use rustix::pipe::{PipeFlags, pipe_with};

use super::*;

/// Tells the outcome `poweroff`.
const POWEROFF: &str = r#"
tell() { echo '{"name":"?","outcome":"'$1'","status":'${2:-0}',"signal":15,"wall_ms":1,"cpu_ms":2,
    "memory":{"peak_rss_kib":3,"pss_kib":4}}' > /proc/self/fd/$O; }
O=$4; S=$2
"#;

struct Bench {
    dir: tempfile::TempDir,
    signals: StopSignals,
    sender: Option<File>,
}

impl Bench {
    fn new() -> Bench {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        Bench {
            dir: tempfile::tempdir().unwrap(),
            signals: reader.into(),
            sender: Some(writer.into()),
        }
    }

    fn results(&self) -> Results {
        Results::open(&self.dir.path().join("results")).unwrap()
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join("results").join(name)).unwrap()
    }

    /// Runs `guests` guests of one script.
    fn run(&self, lab: &str, script: &str, options: Options) -> (Report, String) {
        let lab = Lab::parse(Path::new("test.toml"), &format!("schema = 1\n{lab}"), &[]).unwrap();
        let options = Options { command: shell(script), ..options };
        let mut messages = Vec::new();
        let report = run(&lab, &options, &self.results(), &self.signals, &mut messages).unwrap();
        (report, String::from_utf8(messages).unwrap())
    }

    /// Sends a signal's record when `file` exists.
    fn signal_when(&mut self, signal: u8, file: &Path) -> thread::JoinHandle<()> {
        let mut sender = self.sender.take().unwrap();
        let file = file.to_path_buf();
        thread::spawn(move || {
            while !file.exists() {
                thread::sleep(Duration::from_millis(5));
            }
            let mut record = [0; size_of::<libc::signalfd_siginfo>()];
            record[0] = signal;
            sender.write_all(&record).unwrap();
            // Kept open: the end of the pipe would be readable for ever.
            thread::sleep(Duration::from_millis(10));
            std::mem::forget(sender);
        })
    }
}

fn shell(script: &str) -> GuestCommand {
    GuestCommand {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), format!("{POWEROFF}{script}").into(), "sh".into()],
    }
}

fn quiet() -> Options {
    Options { jobs: None, echo: false, command: shell("") }
}

fn words(report: &Report) -> Vec<String> {
    let word = |guest: &GuestReport| guest.outcome.ending.word().to_owned();
    report.guests.iter().map(word).collect()
}

#[test]
fn guests_run_and_their_files_are_written() {
    let bench = Bench::new();
    let (report, messages) =
        bench.run("vm.n.count = 3", "cat /proc/self/fd/$S; echo oops >&2; tell poweroff", quiet());
    assert_eq!(words(&report), ["poweroff"; 3]);
    assert_eq!((report.status, report.guests[1].outcome.cpu_ms), (0, 2));
    let spec: crate::spec::VmSpec = serde_json::from_str(&bench.file("n-1.console")).unwrap();
    assert_eq!(spec.name, "n-1");
    let outcome: Outcome = serde_json::from_str(&bench.file("n-2.json")).unwrap();
    assert_eq!((outcome.name.as_str(), outcome.ending), ("n-2", Ending::Poweroff));
    assert!(bench.file("lab.json").contains("\"status\": 0"));
    for line in ["n-0: oops\n", "n-1: oops\n", "n-2: oops\n"] {
        assert!(messages.contains(line), "{messages}");
    }
    // Two for each guest, and those of the lab: lab.json, memory.csv, memory.json, memory.svg.
    assert_eq!(fs::read_dir(bench.dir.path().join("results")).unwrap().count(), 3 * 2 + 4);
}

#[test]
fn echo_passes_on_whole_lines_with_names() {
    let bench = Bench::new();
    let options = Options { echo: true, ..quiet() };
    let script = "printf 'one\\r\\ntw'; sleep 0.1; printf 'o\\nend'; tell poweroff";
    let (_, messages) = bench.run("vm.n.count = 2", script, options);
    let mut lines: Vec<&str> = messages.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["n-0| end", "n-0| one", "n-0| two", "n-1| end", "n-1| one", "n-1| two"]);
    assert_eq!(bench.file("n-0.console"), "one\r\ntwo\nend", "the file has every byte");
}

#[test]
fn a_killed_guest_is_a_host_failure_and_others_go_on() {
    let bench = Bench::new();
    let script = "grep -q '\"name\":\"b\"' /proc/self/fd/$S && kill -9 $$; tell poweroff";
    let (report, _) = bench.run("vm.a = {}\nvm.b = {}", script, quiet());
    assert_eq!(words(&report), ["poweroff", "vmm-error"]);
    assert_eq!(report.status, 125);
    let detail = report.guests[1].outcome.detail.as_deref();
    assert_eq!(detail, Some("its process was killed by signal 9"));
}

#[test]
fn a_guest_that_tells_nothing_is_a_host_failure() {
    let bench = Bench::new();
    let (report, _) =
        bench.run("vm.a = {}", "echo '{\"name\":' > /proc/self/fd/$O; exit 3", quiet());
    let detail = report.guests[0].outcome.detail.as_deref();
    assert_eq!(detail, Some("its process ended with status 3 and told no outcome"));
    let missing =
        Options { command: GuestCommand { program: "/none".into(), args: vec![] }, ..quiet() };
    let lab = Lab::parse(Path::new("t.toml"), "schema = 1\nvm.a = {}", &[]).unwrap();
    let report = run(&lab, &missing, &bench.results(), &bench.signals, &mut io::sink()).unwrap();
    let detail = report.guests[0].outcome.detail.as_deref().unwrap();
    assert!(detail.starts_with("its process cannot be started: "), "{detail}");
}

#[test]
fn expectations_decide_the_status() {
    let bench = Bench::new();
    let run = |lab: &str, script: &str| bench.run(lab, script, quiet()).0.status;
    assert_eq!(run("vm.a = {}", "tell exited 0"), 0);
    assert_eq!(run("vm.a = {}", "tell exited 3"), 1);
    assert_eq!(run("vm.a = {}\nexpect.status = 3", "tell exited 3"), 0);
    assert_eq!(run("vm.a = {}\nexpect.outcome = \"crash\"", "tell crash"), 0);
    assert_eq!(run("vm.a = {}\nexpect.outcome = \"crash\"", "tell poweroff"), 1);
    assert_eq!(run("vm.a = {}\nexpect.outcome = \"vmm-error\"", "kill -9 $$"), 0);
    assert_eq!(run("vm.a = {}", "tell vmm-error"), 125);
}

#[test]
fn jobs_limit_how_many_run_at_once() {
    let bench = Bench::new();
    let busy = bench.dir.path().join("busy");
    // Making a folder that is there already fails: two ran at once.
    let script =
        format!("mkdir {0} || exit 9; sleep 0.05; rmdir {0}; tell poweroff", busy.display());
    let options = Options { jobs: Some(1), ..quiet() };
    let (report, _) = bench.run("vm.n.count = 4", &script, options);
    assert_eq!(words(&report), ["poweroff"; 4]);
}

#[test]
fn the_timeout_of_a_lab_ends_its_guests() {
    let bench = Bench::new();
    let options = Options { jobs: Some(1), ..quiet() };
    let (report, _) =
        bench.run("lab.timeout = \"100ms\"\nvm.n.count = 2", "exec sleep 100", options);
    assert_eq!(words(&report), ["timeout", "timeout"]);
    assert_eq!(report.guests[0].outcome.detail.as_deref(), Some("the lab's timeout stopped it"));
    assert_eq!(report.guests[1].outcome.detail.as_deref(), Some("it was never started"));
    assert_eq!(report.status, 1);
}

#[test]
fn a_signal_stops_every_guest_even_a_deaf_one() {
    let mut bench = Bench::new();
    let ready = bench.dir.path().join("ready");
    let script = format!(
        "grep -q '\"name\":\"b\"' /proc/self/fd/$S && {{ trap '' TERM; touch {}; }}
        while :; do sleep 0.05; done",
        ready.display()
    );
    let sending = bench.signal_when(2, &ready);
    let (report, _) = bench.run("vm.a = {}\nvm.b = {}", &script, quiet());
    sending.join().unwrap();
    assert_eq!(words(&report), ["signaled", "signaled"]);
    assert_eq!(report.guests[0].outcome.ending, Ending::Signaled { signal: 2 });
    let detail = report.guests[1].outcome.detail.as_deref();
    assert_eq!(detail, Some("it did not stop within 2s and was killed"));
    assert_eq!((report.status, report.interrupted), (130, Some(2)));
}

/// Not a test of its own: the supervisor that the next test kills. It prints its guests' process
/// ids, through their consoles.
#[test]
#[ignore = "started by the_death_of_the_supervisor_ends_its_guests"]
fn supervisor_to_be_killed() {
    let bench = Bench::new();
    let options =
        Options { echo: true, command: shell("echo pid=$$; exec sleep 1000"), jobs: None };
    let lab = Lab::parse(Path::new("t.toml"), "schema = 1\nvm.n.count = 2", &[]).unwrap();
    let _ = run(&lab, &options, &bench.results(), &bench.signals, &mut io::stderr());
}

#[test]
fn the_death_of_the_supervisor_ends_its_guests() {
    let scratch = tempfile::tempdir().unwrap();
    let mut supervisor = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lab::supervisor::tests::supervisor_to_be_killed", "--ignored"])
        .arg("--nocapture")
        .env("TMPDIR", scratch.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(supervisor.stderr.take().unwrap());
    let pids: Vec<String> = stderr
        .lines()
        .filter_map(|line| line.unwrap().split_once("| pid=").map(|(_, pid)| pid.to_owned()))
        .take(2)
        .collect();
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    // Their parent is gone, so nobody here can wait for them: a process is gone, or a zombie
    // that init has yet to reap.
    let runs = |pid: &String| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    };
    for _ in 0..500 {
        if !pids.iter().any(runs) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("still running: {pids:?}");
}
