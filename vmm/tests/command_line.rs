//! The command line as a user meets it, as far as no guest has to run.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn cohort(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cohort")).args(args).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

#[test]
fn help_and_version_need_nothing() {
    for args in [&["--help"][..], &["--version"], &["run", "-h"], &["lab", "run", "--help"]] {
        let output = cohort(args);
        assert_eq!(status(&output), 0, "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
    let help = String::from_utf8(cohort(&["--help"]).stdout).unwrap();
    assert!(!help.contains(" vm "), "the guest process is no command for people");
}

#[test]
fn wrong_command_lines_have_status_2_and_say_what_to_write() {
    for (args, says) in [
        (&["run", "-m", "256"][..], "the size 256 has no unit: write 256M"),
        (&["run", "--timeout", "60"], "the duration 60 has no unit: write 60s"),
        (&["run", "--cpus", "65"], "65 is not in 1..=64"),
        (&["run", "--disk", "a,rw"], "unknown disk option \"rw\""),
        (&["run", "--disk", "scratch=1"], "write 1M for MiB"),
        (&["run", "-i=tty"], "expected serial or hvc"),
        (&["run", "-a", "x", "--script", "y"], "cannot be used with"),
        (
            &["run", "-k", "vmlinux", "--script", "y"],
            "give a Linux kernel its command line with -a",
        ),
        (&["run", "--initrd", "y"], "name a Linux kernel with --kernel"),
        (&["lab", "run", "x.toml", "-j", "0"], "0 is not in"),
        (&["lab", "run", "/none/x.toml"], "cannot read the lab /none/x.toml"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["vm", "--spec", "2", "--outcome", "99"], "2 is no inherited descriptor"),
        (&["vm", "--spec", "98", "--outcome", "99"], "98 is no inherited descriptor"),
    ] {
        let output = cohort(args);
        let said = stderr(&output);
        assert_eq!(status(&output), 2, "{args:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(says), "{args:?}: {said}");
    }
}

#[test]
fn one_file_is_not_two_writable_disks() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.img");
    fs::write(&file, [0; 512]).unwrap();
    let disk = file.to_str().unwrap();
    let output = cohort(&["run", "--disk", disk, "--disk", &format!("{disk},ro")]);
    assert_eq!(status(&output), 2);
    let expected =
        format!("error: disk {disk} is given twice, and not read-only\n  help:  add ,ro");
    assert!(stderr(&output).starts_with(&expected), "{}", stderr(&output));
}

#[test]
fn a_failure_before_the_start_is_an_outcome_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outcome.json");
    let file = path.to_str().unwrap();
    let output = cohort(&["run", "--outcome", file, "--name", "x", "--console", "/none/console"]);
    assert_eq!(status(&output), 125);
    let outcome = json(&fs::read(&path).unwrap());
    assert_eq!((&outcome["name"], &outcome["outcome"]), (&"x".into(), &"vmm-error".into()));
    assert!(outcome["detail"].as_str().unwrap().starts_with("cannot write the console to /none"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_outcome_that_could_not_be_kept_is_told_before_the_start() {
    for path in ["/none/outcome.json", "/"] {
        let output = cohort(&["run", "--outcome", path, "--console", "/dev/null"]);
        let said = stderr(&output);
        assert_eq!(status(&output), 125);
        assert!(said.contains("the outcome cannot be written to"), "{said}");
        assert!(said.contains("\n  cause: "), "{said}");
    }
}

#[test]
fn the_status_is_the_same_where_messages_cannot_be_written() {
    let lab = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (args, expected) in [
        (&["run", "--outcome", "/none/outcome.json"][..], 125),
        (&["run", "--initrd", "x"], 2),
        (&["lab", "validate", lab], 2),
        (&["frobnicate"], 2),
    ] {
        // One that is full, and one that nobody reads.
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let (_, gone) = std::io::pipe().unwrap();
        for stderr in [Stdio::from(full), Stdio::from(gone)] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_cohort"));
            let status = command.args(args).stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(expected), "{args:?}: {status}");
        }
    }
}

#[test]
fn a_name_cannot_command_the_terminal() {
    let said = stderr(&cohort(&["run", "--outcome", "/none/\x1b[2Jx\u{9b}2J", "--name", "x"]));
    assert!(said.contains("/none/\u{fffd}[2Jx\u{fffd}2J\n"), "{said:?}");
}

#[test]
fn a_report_that_cannot_be_written_is_a_failure_that_says_so() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cohort"));
    let output = command.args(["doctor"]).stdout(full).output().unwrap();
    assert_eq!(status(&output), 125);
    let said = stderr(&output);
    assert!(said.starts_with("error: cannot write to standard output\n  cause: "), "{said}");
}

/// Whoever waits for the other end of a named pipe can be interrupted.
#[test]
fn a_signal_ends_a_run_that_waits_for_a_pipe_to_be_opened() {
    use std::os::unix::process::ExitStatusExt;
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let pipe = pipe.to_str().unwrap();
    for args in [["run", "--outcome", pipe], ["run", "--console", pipe], ["lab", "run", pipe]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cohort"));
        let mut child = command.args(args).stderr(Stdio::null()).spawn().unwrap();
        let asleep = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id()));
            stat.is_ok_and(|stat| !stat.contains(") R ") && !stat.contains(") D "))
        };
        while !asleep() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = (0..500).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            child.try_wait().unwrap()
        });
        if ended.is_none() {
            child.kill().unwrap();
        }
        assert_eq!(ended.and_then(|status| status.signal()), Some(15), "{args:?}");
    }
}

#[test]
fn mistakes_of_a_lab_are_told_by_run_and_validate_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lab.toml");
    fs::write(&path, "schema = 1\n[lab]\nname = \"x\"\n[vm.a]\nmemory = 64\nshare = []\n").unwrap();
    let file = path.to_str().unwrap();
    let results = dir.path().join("results");
    for args in [
        &["lab", "validate", file][..],
        &["lab", "run", file, "--results", results.to_str().unwrap()],
    ] {
        let output = cohort(args);
        assert_eq!(status(&output), 2);
        assert_eq!(
            stderr(&output),
            format!(
                "{file}:5:10: vm.a.memory: the size 64 has no unit\n  \
                 help: write \"64M\" for MiB, or use B, K, G or T\n\
                 {file}:6:1: vm.a.share: unknown key\n  \
                 help: known here: count, kernel, initrd, cmdline, script, memory, cpus, \
                 cpu-mask, disks, pmem, shares, timeout, expect\n\
                 error: {file} has 2 mistakes\n"
            )
        );
    }
    assert!(!results.exists(), "nothing was started");
    let output = cohort(&["lab", "validate", file, "--json"]);
    let mistakes = &json(&output.stdout)["mistakes"];
    assert_eq!((&mistakes[0]["line"], &mistakes[0]["column"]), (&5.into(), &10.into()));
    assert_eq!(mistakes[1]["key"], "vm.a.share");
}

#[test]
fn example_labs_are_right() {
    let labs = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/labs");
    let quickstart = format!("{labs}/quickstart.toml");
    let output = cohort(&["lab", "validate", &quickstart, "--json"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert_eq!(json(&output.stdout)["guests"].as_array().unwrap().len(), 3);
}

#[test]
fn doctor_says_the_same_in_words_and_json() {
    let words = cohort(&["doctor"]);
    let report = cohort(&["doctor", "--json"]);
    assert_eq!(status(&words), status(&report));
    let can = json(&report.stdout)["can_run_guests"].as_bool().unwrap();
    assert_eq!(status(&words), i32::from(!can));
    let text = String::from_utf8(words.stdout).unwrap();
    assert!(text.contains("io_uring"), "{text}");
}
