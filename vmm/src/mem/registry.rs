//! Which guests run: an entry for each in a folder that its user alone can use.
//!
//! The folder is `$XDG_RUNTIME_DIR/cohort`, or `cohort-guests-UID` in the folder for temporary files
//! where the user has no such folder. It is there as long as it has entries. A guest that is killed leaves its entry behind, which the
//! next who looks removes: an entry counts only while the very process runs that it names.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fstat, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Given, Process};
use crate::spec::VmSpec;

#[cfg(test)]
mod tests;

/// Largest entry that is read, in bytes.
const ENTRY_MAX: u64 = 1 << 20;
/// Most entries that are looked at.
const ENTRIES_MAX: usize = 16 << 10;
/// How often an entry is tried while others remove the folder, empty as it is.
const TRIES: usize = 16;

/// A guest that runs, as its entry tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// The lab that it belongs to.
    pub lab: Option<LabRun>,
    /// Its process.
    pub process: Process,
    /// What it was given.
    pub given: Given,
}

/// One run of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabRun {
    /// The lab's name.
    pub name: String,
    /// The process of `cohort lab run`: a lab can run several times at once.
    pub supervisor: u32,
}

/// The folder with the entries.
#[derive(Clone, Debug)]
pub struct Registry {
    path: PathBuf,
}

/// An entry, removed when this is dropped.
#[derive(Debug)]
pub struct Entry {
    registry: Registry,
    name: String,
}

/// Why the entries cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Others could put entries there.
    #[error("the folder of running guests, {}, {what}", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The host refuses.
    #[error("cannot use the folder of running guests, {}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl RegistryError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            RegistryError::Foreign { path, .. } => Some(format!(
                "if it is nobody else's, remove it: rm -r {}; else set XDG_RUNTIME_DIR to a folder \
                 of your own, here and where guests are started",
                path.display()
            )),
            RegistryError::Io { .. } => Some(
                "set XDG_RUNTIME_DIR to a folder of your own, here and where guests are started"
                    .into(),
            ),
        }
    }
}

impl Registry {
    /// The calling user's.
    pub fn of_user() -> Registry {
        let of_session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        Registry { path: folder_of(of_session, rustix::process::geteuid().as_raw()) }
    }

    /// The one in the folder `path`, which need not be there.
    pub fn at(path: &Path) -> Registry {
        Registry { path: path.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes an entry for a guest.
    ///
    /// # Errors
    /// The folder cannot be made or used.
    pub fn enter(&self, guest: &Guest) -> Result<Entry, RegistryError> {
        let text = serde_json::to_vec(guest).map_err(|error| self.io(error.into()))?;
        let name = name(guest.process);
        let mut outcome = Err(Errno::NOENT.into());
        // The folder can lose its last entry, and go, between any two steps.
        for _ in 0..TRIES {
            match mkdirat(CWD, &self.path, Mode::RWXU) {
                Err(error) if error != Errno::EXIST => return Err(self.io(error.into())),
                _ => {}
            }
            let Some(folder) = self.folder()? else { continue };
            outcome = write(&folder, &name, &text);
            match &outcome {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        outcome.map_err(|source| self.io(source))?;
        Ok(Entry { registry: self.clone(), name })
    }

    /// The guests that run, in the order of labs, names and processes. Entries of those that do
    /// not run any more are removed.
    ///
    /// # Errors
    /// The folder cannot be used. That there is none is no error.
    pub fn guests(&self) -> Result<Vec<Guest>, RegistryError> {
        let Some(folder) = self.folder()? else { return Ok(Vec::new()) };
        let entries = Dir::read_from(&folder).map_err(|error| self.io(error.into()))?;
        let mut guests = Vec::new();
        for entry in entries.take(ENTRIES_MAX) {
            let entry = entry.map_err(|error| self.io(error.into()))?;
            let name = entry.file_name();
            // One that is being written, or was when its process was killed, has a dot before it.
            let plain = name.to_str().map(|name| name.trim_start_matches('.'));
            let Some(process) = plain.ok().and_then(process) else { continue };
            if !process.runs() {
                // Somebody else may have swept it.
                let _ = unlinkat(&folder, name, AtFlags::empty());
            } else if let Some(guest) = read(&folder, name).filter(|guest| guest.process == process)
            {
                guests.push(guest);
            }
        }
        self.leave_if_empty();
        let lab = |guest: &Guest| guest.lab.as_ref().map(|lab| (lab.name.clone(), lab.supervisor));
        guests.sort_by_cached_key(|guest| (lab(guest), guest.name.clone(), guest.process.pid));
        Ok(guests)
    }

    /// Removes the entries of guests that do not run any more, as far as that can be done.
    pub fn sweep(&self) {
        if let Err(error) = self.guests() {
            tracing::debug!(%error, "entries of guests that have ended stay");
        }
    }

    /// Opens the folder, if it is there, and makes sure that it is the user's own.
    fn folder(&self) -> Result<Option<OwnedFd>, RegistryError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let foreign = |what: String| Err(RegistryError::Foreign { path: self.path.clone(), what });
        let folder = match openat(CWD, &self.path, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => return foreign("is no folder".to_owned()),
            Err(error) => return Err(self.io(error.into())),
        };
        let facts = fstat(&folder).map_err(|error| self.io(error.into()))?;
        if facts.st_uid != rustix::process::geteuid().as_raw() {
            return foreign(format!("belongs to another user ({})", facts.st_uid));
        }
        if facts.st_mode & 0o022 != 0 {
            return foreign("is writable for other users".to_owned());
        }
        Ok(Some(folder))
    }

    /// Removes the folder once nothing is in it.
    fn leave_if_empty(&self) {
        let _ = unlinkat(CWD, &self.path, AtFlags::REMOVEDIR);
    }

    fn io(&self, source: io::Error) -> RegistryError {
        RegistryError::Io { path: self.path.clone(), source }
    }
}

impl Guest {
    /// The guest that the calling process runs; none where `/proc` cannot be read.
    pub fn of_this_process(spec: &VmSpec, lab: Option<LabRun>) -> Option<Guest> {
        let current = Process::current();
        let process = current.inspect_err(|error| tracing::debug!(%error, "no /proc")).ok()?;
        Some(Guest { name: spec.name.clone(), lab, process, given: Given::of(spec) })
    }

    /// Makes the guest known to `cohort mem`, until the result is dropped. Where that cannot be,
    /// the guest runs all the same.
    pub fn announce(&self) -> Option<Entry> {
        let registry = Registry::of_user();
        registry
            .enter(self)
            .inspect_err(|error| {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::debug!(%error, ?cause, "cohort mem will not find this guest");
            })
            .ok()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Ok(Some(folder)) = self.registry.folder() {
            let _ = unlinkat(folder, &self.name, AtFlags::empty());
        }
        self.registry.leave_if_empty();
    }
}

/// The folder of the user `own`, who has the folder `of_session` for sockets and the like. One of
/// another user, as after `su`, is no place for entries.
fn folder_of(of_session: Option<PathBuf>, own: u32) -> PathBuf {
    let is_own = |path: &PathBuf| {
        path.is_absolute() && fs::metadata(path).is_ok_and(|facts| facts.uid() == own)
    };
    match of_session.filter(is_own) {
        Some(path) => path.join("cohort"),
        None => std::env::temp_dir().join(format!("cohort-guests-{own}")),
    }
}

/// The name of a process's entry.
fn name(process: Process) -> String {
    format!("{}-{}.guest", process.pid, process.started)
}

/// The process that an entry of this name is about.
fn process(name: &str) -> Option<Process> {
    let (pid, started) = name.strip_suffix(".guest")?.split_once('-')?;
    Some(Process { pid: pid.parse().ok()?, started: started.parse().ok()? })
}

/// Writes an entry, which others see whole or not at all.
fn write(folder: &OwnedFd, name: &str, text: &[u8]) -> io::Result<()> {
    let hidden = format!(".{name}");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, &hidden, flags, Mode::RUSR | Mode::WUSR)?;
    let written = File::from(file)
        .write_all(text)
        .and_then(|()| Ok(renameat(folder, &hidden, folder, name)?));
    written.inspect_err(|_| {
        let _ = unlinkat(folder, &hidden, AtFlags::empty());
    })
}

/// Reads an entry; none if it is damaged.
fn read(folder: &OwnedFd, name: &std::ffi::CStr) -> Option<Guest> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(folder, name, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(ENTRY_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
