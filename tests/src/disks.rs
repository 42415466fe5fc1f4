//! A folder of disks, on which tests run `cohort disk`.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::cohort::{Cohort, Finished};
use crate::oracles::Qemu;

/// A folder of disks.
#[derive(Debug)]
pub struct Disks(tempfile::TempDir);

impl Disks {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Disks {
        Disks(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A command line, in which `@` stands for the folder.
    pub fn command(&self, line: &str) -> Cohort {
        Cohort::new(self.words(line))
    }

    fn words(&self, line: &str) -> Vec<String> {
        let folder = format!("{}/", self.0.path().display());
        line.split_whitespace().map(|word| word.replace('@', &folder)).collect()
    }

    /// `qemu-img …`, with the same words: whether it succeeded, and what it said.
    pub fn qemu_img(&self, qemu: &Qemu, line: &str) -> (bool, String) {
        let words = self.words(line);
        qemu.run("qemu-img", &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The same with every version of QEMU, each of which must succeed.
    #[track_caller]
    pub fn qemu_done(&self, line: &str) {
        for qemu in Qemu::all() {
            let (good, text) = self.qemu_img(&qemu, line);
            assert!(good, "qemu-img {line} ({qemu:?}): {text}");
        }
    }

    /// `cohort disk …`, to its end.
    pub fn disk(&self, line: &str) -> Finished {
        self.command(&format!("disk {line}")).finish()
    }

    /// The same, which must succeed.
    #[track_caller]
    pub fn done(&self, line: &str) -> Finished {
        let finished = self.disk(line);
        finished.expect_status(0);
        finished
    }

    /// The same, which must fail with one error message that has these parts.
    #[track_caller]
    pub fn refused(&self, line: &str, status: i32, parts: &[&str]) {
        let finished = self.disk(line);
        finished.expect_status(status).expect_message(&["error: "]).expect_message(parts);
        assert_eq!(finished.stderr.matches("error: ").count(), 1, "{}", finished.stderr);
    }

    /// A raw disk of 16 MiB with some bytes.
    pub fn raw(&self, name: &str, content: &[(u64, &[u8])]) {
        let file = fs::File::create(self.at(name)).expect("a new file");
        file.set_len(16 << 20).expect("room");
        self.write(name, content);
    }

    /// Writes to a file without cohort's knowing.
    pub fn write(&self, name: &str, content: &[(u64, &[u8])]) {
        let file = fs::File::options().write(true).open(self.at(name)).expect("a file");
        for (at, bytes) in content {
            file.write_all_at(bytes, *at).expect("room");
        }
    }

    /// The names of all files in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the folder");
        let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<String> =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// What the layers of a disk are, by `cohort disk info`.
    pub fn layers(&self, name: &str) -> Vec<Value> {
        let finished = self.done(&format!("info --chain --json @{name}"));
        let value: Value = serde_json::from_str(&finished.stdout).expect("JSON");
        value["layers"].as_array().expect("layers").clone()
    }
}
