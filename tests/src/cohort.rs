//! Runs the binary under test, in surroundings of its own, and looks at what it leaves behind.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::processes::{self, Signal};

/// How long anything that must happen may take on a slow, busy host. Nothing is asserted about
/// speed: this only keeps a broken run from hanging.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// The binary under test: `COHORT_BIN`, else built now in the profile of the tests.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("COHORT_BIN") {
        Some(binary) => binary.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    let messages = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package=cohort", "--message-format=json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    String::from_utf8_lossy(&messages.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "cohort")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo builds the binary")
}

/// An example lab of the source tree.
pub fn example_lab(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests is in the workspace").join("resources/labs").join(name)
}

/// Whether guests can run here. Where `/dev/kvm` is missing the test is to return at once: this
/// has printed why. With `COHORT_BIN` set the suite runs, which prints such lines.
pub fn kvm_is_there() -> bool {
    let there = Path::new("/dev/kvm").exists();
    if !there {
        eprintln!("skipped: there is no /dev/kvm");
    }
    there
}

/// One invocation of cohort, being put together.
pub struct Cohort {
    command: Command,
    folder: TempDir,
    marker: String,
}

impl Cohort {
    /// `cohort` with these arguments, in a folder of its own that also takes its temporary files.
    pub fn new<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Cohort {
        let mut command = Command::new(binary());
        command.args(arguments);
        Cohort::from_command(command)
    }

    /// A command that ends up as cohort, for runs in changed surroundings (`unshare`, `setpriv`).
    pub fn from_command(mut command: Command) -> Cohort {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let marker = format!("{}-{run}", std::process::id());
        let folder = tempfile::tempdir().expect("a temporary folder");
        for sub in ["tmp", "run"] {
            fs::create_dir(folder.path().join(sub)).expect("a folder");
        }
        command
            .current_dir(folder.path())
            .env("TMPDIR", folder.path().join("tmp"))
            .env("XDG_RUNTIME_DIR", folder.path().join("run"))
            .env_remove("COHORT_LOG")
            .env(processes::MARKER, &marker)
            .stdin(Stdio::null());
        Cohort { command, folder, marker }
    }

    /// `cohort run` of the built-in guest with a script.
    pub fn script(script: &str) -> Cohort {
        Cohort::new(["run", "--script", script])
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Cohort {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Cohort {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Cohort {
        self.command.env(name, value);
        self
    }

    /// The folder in which it will run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into its folder and returns the path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).expect("a file in the test's folder");
        path
    }

    /// Makes a disk image full of zeroes in its folder and returns the path.
    pub fn image(&self, name: &str, size: u64) -> PathBuf {
        let path = self.folder.path().join(name);
        let file = fs::File::create(&path).expect("an image in the test's folder");
        file.set_len(size).expect("room for an image");
        path
    }

    /// Starts it, for tests that act while it runs.
    pub fn start(self) -> Running {
        self.start_with(Stdio::null())
    }

    /// Starts it with something to read from.
    pub fn start_with(mut self, input: Stdio) -> Running {
        let mut child = self
            .command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary under test starts");
        let (progress, news) = channel();
        let output = Reader::new(child.stdout.take().expect("piped"), progress.clone());
        let errors = Reader::new(child.stderr.take().expect("piped"), progress);
        let unfinished = Unfinished(self.marker.clone());
        let (folder, marker) = (self.folder, self.marker);
        Running { unfinished, child, output, errors, news, folder, marker }
    }

    /// Runs it to its end, and checks that nothing is left of it.
    pub fn finish(self) -> Finished {
        self.start().finish()
    }
}

/// Ends the processes of a test that fails: nobody waits for them any more.
struct Unfinished(String);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if thread::panicking() {
            processes::marked(&self.0).into_iter().for_each(processes::kill);
        }
    }
}

/// An invocation that has been started.
pub struct Running {
    unfinished: Unfinished,
    child: Child,
    output: Reader,
    errors: Reader,
    news: Receiver<()>,
    folder: TempDir,
    marker: String,
}

impl Running {
    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder in which it runs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What stands between the test and the standard input it asked to pipe.
    pub fn input(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("standard input was piped")
    }

    /// Waits until a text has appeared on standard output or error.
    pub fn wait_for(&self, text: &str) {
        self.wait_until(text, |said| said.contains(text));
    }

    /// Waits until what was said on standard output or error is as wanted; `what` is for the report
    /// if that never comes.
    pub fn wait_until(&self, what: &str, mut wanted: impl FnMut(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&self.output.text()) && !wanted(&self.errors.text()) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && self.news.recv_timeout(left).is_ok(),
                "{what:?} did not appear; stdout:\n{}\nstderr:\n{}",
                self.output.text(),
                self.errors.text()
            );
        }
    }

    /// What it has said on standard output so far.
    pub fn said(&self) -> String {
        self.output.text()
    }

    /// What it has said on standard error so far, where the console of a guest goes.
    pub fn console(&self) -> String {
        self.errors.text()
    }

    /// The processes that it started, directly or not.
    pub fn descendants(&self) -> Vec<u32> {
        let mut all = processes::marked(&self.marker);
        all.retain(|pid| *pid != self.pid());
        all
    }

    /// Sends a signal to the process that was started.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Waits for its end, and checks that nothing is left of it.
    pub fn finish(mut self) -> Finished {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child to wait for") {
                break status;
            }
            if Instant::now() > deadline {
                processes::marked(&self.marker).into_iter().for_each(processes::kill);
                panic!("cohort did not end; stderr:\n{}", self.errors.text());
            }
            thread::sleep(Duration::from_millis(5));
        };
        let remaining = processes::remaining(&self.marker, Duration::from_secs(10));
        let finished = Finished {
            status,
            stdout: self.output.finish(),
            stderr: self.errors.finish(),
            folder: self.folder,
        };
        drop(self.unfinished);
        assert!(
            remaining.is_empty(),
            "processes are left: {remaining:?}; stderr:\n{}",
            finished.stderr
        );
        if finished.status.code().is_none() {
            // Who is killed cannot take back that its guests run; whoever looks next does that.
            remove_guests_entries(&finished.folder.path().join("run/cohort"));
        }
        for temporary in ["tmp", "run"] {
            let left: Vec<_> = fs::read_dir(finished.folder.path().join(temporary))
                .expect("the test's folder")
                .map(|entry| entry.expect("an entry").path())
                .collect();
            assert!(left.is_empty(), "files are left: {left:?}");
        }
        finished
    }
}

/// Removes the folder with the entries of running guests, if it has nothing else.
fn remove_guests_entries(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_some_and(|extension| extension == "guest") {
            fs::remove_file(path).expect("an entry in the test's folder");
        }
    }
    let _ = fs::remove_dir(folder);
}

/// How an invocation went.
pub struct Finished {
    status: ExitStatus,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
    folder: TempDir,
}

impl Finished {
    /// The folder in which it ran.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its exit status; none if a signal ended it.
    pub fn status(&self) -> Option<i32> {
        self.status.code()
    }

    /// Checks the exit status, showing everything if it is another.
    #[track_caller]
    pub fn expect_status(&self, expected: i32) -> &Finished {
        assert_eq!(
            self.status.code(),
            Some(expected),
            "{}; stdout:\n{}\nstderr:\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Checks that standard error has each of these texts.
    #[track_caller]
    pub fn expect_message(&self, parts: &[&str]) -> &Finished {
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "cohort panicked:\n{}", self.stderr);
        self
    }

    /// Reads a JSON file that it wrote in its folder.
    #[track_caller]
    pub fn json(&self, name: &str) -> Value {
        let path = self.folder.path().join(name);
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{name}: {error}; stderr:\n{}", self.stderr));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error} in:\n{text}"))
    }
}

/// Reads a stream in a thread, so that neither side ever waits for the other.
struct Reader {
    text: Arc<Mutex<String>>,
    thread: JoinHandle<()>,
}

impl Reader {
    fn new(stream: impl Read + Send + 'static, progress: std::sync::mpsc::Sender<()>) -> Reader {
        let text = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&text);
        let thread = thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            loop {
                // What has arrived, be it a whole line or not.
                let count = match stream.fill_buf() {
                    Ok([]) | Err(_) => return,
                    Ok(bytes) => {
                        let arrived = String::from_utf8_lossy(bytes);
                        kept.lock().expect("no reader panics").push_str(&arrived);
                        bytes.len()
                    }
                };
                stream.consume(count);
                // Nobody may be waiting any more.
                let _ = progress.send(());
            }
        });
        Reader { text, thread }
    }

    fn text(&self) -> String {
        self.text.lock().expect("no reader panics").clone()
    }

    fn finish(self) -> String {
        self.thread.join().expect("no reader panics");
        Arc::into_inner(self.text).and_then(|text| text.into_inner().ok()).unwrap_or_default()
    }
}
