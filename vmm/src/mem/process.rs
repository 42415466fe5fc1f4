//! A process, told apart from another that has its number later.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// A process. Numbers are used again; the moment of its start tells which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it was started, in clock ticks since the host was.
    pub started: u64,
}

impl Process {
    /// The calling process.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn current() -> io::Result<Process> {
        let of_own = Process::with_pid(std::process::id())?;
        of_own.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// The process that has the number `pid` now, if there is one that has not ended.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn with_pid(pid: u32) -> io::Result<Option<Process>> {
        match fs::read(format!("/proc/{pid}/stat")) {
            Ok(stat) => Ok(parse(&stat).map(|started| Process { pid, started })),
            Err(error) if gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it has not ended. In doubt, it has not.
    pub fn runs(self) -> bool {
        Process::with_pid(self.pid).map_or(true, |now| now == Some(self))
    }
}

/// Whether an error of a file in `/proc/PID` says that the process has ended.
pub(super) fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The start time in a `stat` file (proc_pid_stat(5), field 22), unless the process has ended and
/// only waits to be collected.
fn parse(stat: &[u8]) -> Option<u64> {
    // The second field, a name in parentheses, may hold anything: read behind its end.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end.checked_add(1)?..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    // The state is field 3.
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_kind_does_not_move_the_fields() {
        let stat = b"12 (a) R 1 (\xff) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 9 9\n";
        assert_eq!(parse(stat), Some(777));
        assert_eq!(parse(b"12 (a) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 9\n"), None);
        for broken in [&b""[..], b"12", b"12 (a)", b"12 (a) S 1", b")"] {
            assert_eq!(parse(broken), None);
        }
    }

    #[test]
    fn another_process_with_the_same_number_is_another() {
        let own = Process::current().unwrap();
        assert!(own.runs());
        assert!(!Process { started: own.started + 1, ..own }.runs());
        assert_eq!(Process::with_pid(u32::MAX).unwrap(), None);
    }

    #[test]
    fn a_process_that_waits_to_be_collected_has_ended() {
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let process = Process::with_pid(child.id()).unwrap().unwrap();
        drop(child.stdin.take());
        while process.runs() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!process.runs());
    }
}
