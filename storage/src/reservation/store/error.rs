//! Why reservations cannot be kept.

use std::io;
use std::path::{Path, PathBuf};

use crate::lock::Holder;
use crate::quoted::Quoted;

/// Why there is no store, or why it does not take something. [`StoreError::help`] says what to do
/// about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The host failed.
    #[error("cannot {action} the reservations in {}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path names something that cannot hold them.
    #[error("{} is not a file that can hold reservations", path.display())]
    NotAFile {
        /// What was opened.
        path: PathBuf,
    },
    /// Another server has it open.
    #[error("the reservations in {} are in use by {}", path.display(), described(holder.as_ref()))]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who it is, where the host tells.
        holder: Option<Holder>,
    },
    /// Nothing in the file can be used.
    #[error("{} holds no reservations that can be read: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why not.
        what: &'static str,
    },
    /// The file is of a cohort that is newer.
    #[error("{} holds reservations in version {version}, which is not known", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: u32,
    },
    /// There is no room.
    #[error("no room for more reservations in {}: {what}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What is too much.
        what: &'static str,
    },
}

impl StoreError {
    /// An error of the host's.
    pub(super) fn host(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Host { path: path.to_owned(), action, source }
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            StoreError::Host { .. } => None,
            StoreError::NotAFile { .. } => Some("name a file, or one to be made".to_owned()),
            StoreError::Locked { holder, .. } => Some(match holder {
                Some(holder) => format!("wait for process {} to end or stop it", holder.pid),
                None => "wait for the other server to end or stop it".to_owned(),
            }),
            StoreError::Damaged { path, .. } => Some(format!(
                "if it is the right file, make sure that no guest counts on being alone; then take \
                 it away, and all reservations are gone: mv {0} {0}.damaged",
                Quoted(path)
            )),
            StoreError::Version { .. } => Some("use the cohort that wrote it".to_owned()),
            StoreError::Full { .. } => {
                Some("let guests give up registrations that they do not use".to_owned())
            }
        }
    }
}

fn described(holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => format!("process {} ({})", holder.pid, holder.command),
        None => "another server".to_owned(),
    }
}
