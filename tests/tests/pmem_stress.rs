//! Files in guest memory (virtio-pmem) on a host that changes them, or has no memory for them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cohort_guest::pattern::{Checksum, Pattern};
use cohort_tests::cohort::binary;
use cohort_tests::{Cohort, kvm_is_there};

/// The bytes of a file of this size, none of whose pages are alike.
fn content(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    Pattern { seed: 17 }.fill(0, &mut bytes);
    bytes
}

/// What `pmem.sum` prints of these bytes.
fn sum(bytes: &[u8]) -> String {
    let mut sum = Checksum::default();
    sum.add_bytes(0, bytes);
    format!("{:016x}", sum.value())
}

#[test]
fn eight_guests_go_on_while_their_file_is_rewritten_replaced_unlinked_and_cut() {
    const GUESTS: usize = 8;
    const HALF: usize = 2 << 20;
    if !kvm_is_there() {
        return;
    }
    let bytes = content(2 * HALF);
    let text = format!(
        "schema = 1\n[vm.reader]\ncount = {GUESTS}\nmemory = \"32M\"\npmem = [\"file.bin\"]\n\
         script = \"pmem.sum 0 {HALF}; print {{name}} runs; \
         repeat 150 {{ sleep 10ms; pmem.sum 0 {HALF} }}; print {{name}} is through\"\n"
    );
    let run = Cohort::new(["lab", "run", "trial.toml", "--results", "results", "-v"]);
    let path = run.file("file.bin", &bytes);
    run.file("trial.toml", text);
    let run = run.start();
    for guest in 0..GUESTS {
        run.wait_for(&format!("reader-{guest} runs"));
    }
    let file = File::options().write(true).open(&path).expect("the file");
    // Every byte is written, with what it was.
    file.write_all_at(&bytes, 0).expect("rewritten");
    let other = path.with_file_name("other");
    fs::write(&other, [1; 100]).expect("another file");
    fs::rename(&other, &path).expect("replaced");
    fs::remove_file(&path).expect("unlinked");
    // The guests' file still, which has no name any more.
    file.set_len(HALF as u64).expect("cut");
    let finished = run.finish();
    finished.expect_status(0).expect_message(&["file.bin was cut from 4194304 to 2097152"]);
    let wanted = sum(&bytes[..HALF]);
    for guest in 0..GUESTS {
        let console = finished.folder().join(format!("results/reader-{guest}.console"));
        let console = fs::read_to_string(console).expect("a console file");
        assert!(console.contains("is through"), "{console}");
        let sums: Vec<_> = console.lines().filter(|line| line.starts_with("pmem.sum")).collect();
        assert_eq!(sums.len(), 151, "{console}");
        assert!(sums.iter().all(|line| line.ends_with(&wanted)), "{wanted}: {console}");
    }
}

/// A control group of this test's own that permits its processes little memory.
struct Group(PathBuf);

impl Group {
    /// `None` where this user may have none (cgroup v1's memory controller is what it takes), which
    /// has been printed.
    fn new(limit: u64) -> Option<Group> {
        let name = format!("cohort-test-{}", std::process::id());
        let folder = Path::new("/sys/fs/cgroup/memory").join(name);
        match fs::create_dir(&folder) {
            Ok(()) => {
                let group = Group(folder);
                group.set("memory.limit_in_bytes", &limit.to_string());
                Some(group)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => panic!("{folder:?} is there"),
            Err(error) => {
                println!("skipped: no control group {}: {error}", folder.display());
                None
            }
        }
    }

    fn set(&self, name: &str, value: &str) {
        fs::write(self.0.join(name), value).expect("a setting of a control group");
    }

    fn number(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.0.join(name)).expect("a number of a control group");
        text.trim().parse().expect("a number")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn pages_that_the_host_reclaims_come_back_on_touch() {
    const SIZE: usize = 128 << 20;
    const LIMIT: u64 = 48 << 20;
    if !kvm_is_there() {
        return;
    }
    let Some(group) = Group::new(LIMIT) else { return };
    let bytes = content(SIZE);
    let wanted = sum(&bytes);
    // In the group first, then cohort.
    let mut command = Command::new("sh");
    command.args(["-ec", "echo $$ >\"$1\"; shift; exec \"$@\"", "sh"]);
    command.arg(group.0.join("cgroup.procs")).arg(binary());
    command.args(["run", "--memory", "16M", "--pmem", "file.bin", "--script"]);
    command.arg("pmem.sum; pmem.sum; exit 0");
    let run = Cohort::from_command(command);
    let path = run.file("file.bin", &bytes);
    drop(bytes);
    // What is in the page cache already belongs to whoever read it, so nothing may be.
    let mut of = std::ffi::OsString::from("of=");
    of.push(&path);
    let dropped = Command::new("dd")
        .arg(of)
        .args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"])
        .status();
    assert!(dropped.expect("dd").success());
    let finished = run.finish();
    finished.expect_status(0);
    assert_eq!(finished.stderr.matches(&wanted).count(), 2, "{}", finished.stderr);
    assert!(group.number("memory.max_usage_in_bytes") <= LIMIT);
    assert!(group.number("memory.failcnt") > 0, "nothing was reclaimed");
}
