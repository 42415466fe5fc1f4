//! Why the memory of a guest cannot be told.

use std::io;

use super::process::gone;

/// Why the memory of a guest cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum MemError {
    /// Its process has ended.
    #[error("the guest {name} (process {pid}) has ended")]
    Gone {
        /// The guest.
        name: String,
        /// Its process.
        pid: u32,
    },
    /// The host keeps it from this user.
    #[error("the memory of the guest {name} (process {pid}) may not be read by this user")]
    Denied {
        /// The guest.
        name: String,
        /// Its process.
        pid: u32,
        /// What the host answered.
        source: io::Error,
    },
    /// The host fails otherwise.
    #[error("the memory of the guest {name} (process {pid}) cannot be read from /proc")]
    Read {
        /// The guest.
        name: String,
        /// Its process.
        pid: u32,
        /// What the host answered.
        source: io::Error,
    },
}

impl MemError {
    /// What reading a file of the process `pid` ended with.
    pub(super) fn of(name: &str, pid: u32, source: io::Error) -> MemError {
        let name = name.to_owned();
        match source.kind() {
            _ if gone(&source) => MemError::Gone { name, pid },
            io::ErrorKind::PermissionDenied => MemError::Denied { name, pid, source },
            _ => MemError::Read { name, pid, source },
        }
    }

    /// What to do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            MemError::Denied { .. } => Some("ask as the user who started the guest, or as root"),
            MemError::Gone { .. } | MemError::Read { .. } => None,
        }
    }
}
