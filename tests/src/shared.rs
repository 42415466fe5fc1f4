//! Disks that guests share: the servers and the guests of one test, in one folder.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::cohort::{Cohort, Running};
use crate::processes::Signal;

/// SIGTERM's number.
const TERM: i32 = 15;

/// A folder with a disk, `disk.raw`, and the sockets of those who serve it.
pub struct Shared {
    folder: TempDir,
}

impl Shared {
    /// A disk of `size` bytes, all of them zero.
    ///
    /// It is in memory where the host has a place for that: a server that is killed keeps its locks
    /// until its last flush has ended, which on a disk that others are busy with can take longer than
    /// guests wait for the next server.
    pub fn new(size: u64) -> Shared {
        let in_memory = tempfile::tempdir_in("/dev/shm");
        let folder = in_memory.or_else(|_| tempfile::tempdir()).expect("a temporary folder");
        let disk = fs::File::create(folder.path().join("disk.raw")).expect("a disk");
        disk.set_len(size).expect("room for a disk");
        Shared { folder }
    }

    /// The path of a file in the folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What is on the disk.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(self.at("disk.raw")).expect("the disk")
    }

    /// The counter in word `word` of the block at `offset`, as it is on the disk.
    pub fn counter(&self, offset: usize, word: usize) -> u64 {
        let bytes = self.bytes();
        let at = offset + 8 * word;
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    /// `cohort` with these words as arguments; `@` at the start of a word, or behind a `=`, is the
    /// folder.
    pub fn command(&self, words: &str) -> Cohort {
        let folder = format!("{}/", self.folder.path().display());
        let place = |word: &str| match word.strip_prefix('@') {
            Some(rest) => format!("{folder}{rest}"),
            None => word.replace("=@", &format!("={folder}")),
        };
        Cohort::new(words.split_whitespace().map(place))
    }

    /// Starts `cohort shared-disk` with these words, and waits until it serves. Its control socket is
    /// `@NAME.control`, where it outlives a server that is killed.
    pub fn start(&self, name: &str, words: &str) -> Running {
        let command = format!("shared-disk {words} --control @{name}.control");
        let server = self.command(&command).start();
        server.wait_for("control: ");
        server
    }

    /// Serves the disk.
    pub fn serve(&self, words: &str) -> Running {
        self.start("serve", &format!("serve @disk.raw {words}"))
    }

    /// A built-in guest whose disk is behind a socket in the folder.
    pub fn guest(&self, kind: &str, socket: &str, script: &str) -> Cohort {
        let option = format!("vhost-user={},kind={kind}", self.at(socket).display());
        Cohort::script(script).args(["--disk", &option])
    }

    /// What a server says of itself.
    pub fn status(&self, name: &str) -> Value {
        let finished = self.command(&format!("shared-disk status --json @{name}.control")).finish();
        finished.expect_status(0);
        serde_json::from_str(&finished.stdout).expect("JSON")
    }
}

/// Where a server's logical units are found over iSCSI.
pub fn urls(server: &Running) -> Vec<String> {
    let said = server.said();
    said.lines().filter(|line| line.starts_with("iscsi://")).map(str::to_owned).collect()
}

/// Ends a server without a warning.
pub fn kill(server: Running) {
    server.signal(Signal::KILL);
    assert_eq!(server.finish().status(), None, "it ended by itself");
}

/// Stops a server, which must not have complained of itself.
pub fn stop(server: Running) {
    server.signal(Signal::TERM);
    server.finish().expect_status(128 + TERM).expect_message(&[]);
}
