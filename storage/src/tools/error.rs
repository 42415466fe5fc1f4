//! Why a tool did not do what it was asked for.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use super::siblings::Children;
use crate::chain::ChainError;
use crate::error::{DiskError, IoError};
use crate::format::Format;
use crate::formats::FormatError;
use crate::identity::{Digest, Identity};
use crate::quoted::Quoted;

/// A tool that failed. [`ToolError::help`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// A disk cannot be opened, or its layers do not make up a chain.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The file that is to be made is there already.
    #[error("{} already exists", .0.display())]
    Exists(PathBuf),
    /// The folder of the file that is to be made, or something like it.
    #[error("cannot {action} {}", path.display())]
    Host {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Reading or writing a disk failed.
    #[error("disk {} failed", path.display())]
    Io {
        /// The disk.
        path: PathBuf,
        /// How.
        source: IoError,
    },
    /// The format cannot hold what was asked for.
    #[error("cannot create {} in the format {format}", path.display())]
    Create {
        /// The new file.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// Why not.
        source: FormatError,
    },
    /// Neither a size nor a parent that has one.
    #[error("the disk {} has neither a size nor a parent", .0.display())]
    NoSize(PathBuf),
    /// No disk can have this size.
    #[error("a disk cannot have {size} bytes: that is no multiple of {unit} above 0")]
    Size {
        /// The size asked for.
        size: u64,
        /// What it must be a multiple of.
        unit: u32,
    },
    /// A child must hold all of its parent.
    #[error("{size} bytes are fewer than the parent {} has: {parent_size}", parent.display())]
    SmallerThanParent {
        /// The size asked for.
        size: u64,
        /// The parent.
        parent: PathBuf,
        /// What the parent has.
        parent_size: u64,
    },
    /// The parent cannot take what the child has beyond the parent's end.
    #[error("{} has {size} bytes, more than its parent {}: {parent_size}", child.display(), parent.display())]
    LargerThanParent {
        /// The child.
        child: PathBuf,
        /// Its size.
        size: u64,
        /// Its parent.
        parent: PathBuf,
        /// What the parent has.
        parent_size: u64,
    },
    /// The layer has no parent.
    #[error("{} is no child: it records no parent", .0.display())]
    NoParent(PathBuf),
    /// Layers record the places of parents in UTF-8.
    #[error("no layer can record where {} is: its name is not UTF-8", .0.display())]
    ParentName(PathBuf),
    /// Changing a layer would damage its children.
    #[error("{} has other children: {} (of those in {})",
        parent.display(), list(&known.found), list(&known.searched))]
    Children {
        /// The layer that was to be changed.
        parent: PathBuf,
        /// Those known of.
        known: Children,
    },
    /// A change of the parent's permissions would look like one of its contents.
    #[error(
        "taking the write permission of {} changes its times, by which other children know it: {}",
        parent.display(), list(children)
    )]
    KnownByTimes {
        /// The parent.
        parent: PathBuf,
        /// Its children.
        children: Vec<PathBuf>,
    },
    /// Nothing says that the parent has what the child was made on.
    #[error(
        "{} is not known to be what {} was made on: it has the identity {found}, the child records \
         {}{}",
        parent.display(), child.display(),
        recorded.as_ref().map_or_else(|| "none".to_owned(), |identity| identity.to_string()),
        digests.as_ref().map_or_else(String::new, |digests| {
            let (recorded, found) = &**digests;
            format!("; its digest is {found}, the child records {recorded}")
        })
    )]
    Unverified {
        /// The child.
        child: PathBuf,
        /// The parent that was named.
        parent: PathBuf,
        /// The identity that the child records.
        recorded: Option<Box<Identity>>,
        /// The identity that the parent has.
        found: Box<Identity>,
        /// The digest that the child records, and the parent's; where there is one.
        digests: Option<Box<(Digest, Digest)>>,
    },
    /// It was asked to stop.
    #[error("interrupted")]
    Interrupted,
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

impl ToolError {
    /// A system call that failed.
    pub(crate) fn host(
        path: &Path,
        action: &'static str,
    ) -> impl FnOnce(io::Error) -> ToolError + use<> {
        let path = path.to_owned();
        move |source| ToolError::Host { path, action, source }
    }

    /// The layers that do not fit together, if that is what is wrong.
    pub fn chain(&self) -> Option<&ChainError> {
        match self {
            ToolError::Disk(DiskError::Chain(error)) => Some(error),
            _ => None,
        }
    }

    /// Whether what was asked for cannot be, whatever the host does.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            ToolError::Exists(_)
                | ToolError::NoSize(_)
                | ToolError::Size { .. }
                | ToolError::SmallerThanParent { .. }
                | ToolError::LargerThanParent { .. }
                | ToolError::NoParent(_)
                | ToolError::ParentName(_)
                | ToolError::Children { .. }
                | ToolError::KnownByTimes { .. }
                | ToolError::Unverified { .. }
                | ToolError::Create { source: FormatError::Unsupported { .. }, .. }
        )
    }

    /// What to do about it, where known.
    pub fn help(&self) -> Option<String> {
        match self {
            ToolError::Disk(error) => error.help(),
            ToolError::Exists(path) => Some(in_place_of(path).to_owned()),
            ToolError::NoSize(_) => {
                Some("add --size, as in --size 10G, or --parent PATH".to_owned())
            }
            ToolError::SmallerThanParent { .. } => {
                Some("leave out --size for the parent's, or ask for more".to_owned())
            }
            ToolError::LargerThanParent { child, .. } => Some(format!(
                "write the whole disk to a new file: cohort disk convert {} NEW",
                Quoted(child)
            )),
            ToolError::ParentName(_) => Some("rename it, or the folder that it is in".to_owned()),
            ToolError::Children { known, .. } => Some(format!(
                "their contents rest on it: merge {} first, or --force, after which they do not \
                 open any more",
                if known.found.len() == 1 { "that one" } else { "those" }
            )),
            ToolError::KnownByTimes { .. } => {
                Some("leave out --protect; a first child can protect its parent".to_owned())
            }
            ToolError::Unverified { .. } => Some(
                "if you know that its contents are right for the child, add --force".to_owned(),
            ),
            ToolError::Host { .. } | ToolError::Io { .. } | ToolError::Create { .. } => {
                room_for(self).map(str::to_owned)
            }
            ToolError::Size { .. } | ToolError::NoParent(_) | ToolError::Interrupted => None,
        }
    }
}

/// What to do about a name that is taken: advice that costs nothing but a file.
fn in_place_of(path: &Path) -> &'static str {
    match path.symlink_metadata().map(|facts| facts.file_type()) {
        Ok(kind) if kind.is_dir() => "name a new file, in this folder for example",
        Ok(kind) if kind.is_file() || kind.is_symlink() => {
            "name another file, or remove this one first"
        }
        Ok(_) => {
            "name a new file: nothing is copied onto devices, but `dd` can do that with a raw one"
        }
        Err(_) => "name another file",
    }
}

/// What to do if there was no room for what was to be written.
fn room_for(error: &ToolError) -> Option<&'static str> {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let code = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error()).last();
    match code {
        Some(libc::ENOSPC | libc::EDQUOT) => {
            Some("make room on its file system, and run the same command again")
        }
        Some(libc::EFBIG) => Some(
            "its file system takes no larger files, or `ulimit -f` forbids them: raise that, or \
             use another file system",
        ),
        _ => None,
    }
}
