//! The file in which reservations outlast a loss of power, a server's end and a host's.
//!
//! There are two slots, written by turns ([`slot`]). A change is written to the slot that does not
//! hold what is durable, and is durable itself before it is answered: a crash leaves what was there
//! before or what is there now, whatever becomes of the write.
//!
//! What is kept belongs to a disk, by its identity: a server that offers its disks in another order
//! must not fence the wrong guests.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::Reservations;
#[cfg(test)]
use crate::crash::{Change, Recorder};
use crate::engine::sys::{self, LockKind};
use crate::image::ImageFile;
use crate::lock::Holder;

mod error;
mod slot;
#[cfg(test)]
mod tests;

pub use error::StoreError;
use slot::{Contents, SLOTS, Slot, Unit};

/// Times that a lock is asked for again, and how long to wait in between: the kernel closes the
/// files of a killed server a moment after it is gone.
const PATIENCE: (u32, Duration) = (10, Duration::from_millis(20));

/// The reservations of several logical units, in a file that no other server has open.
#[derive(Debug)]
pub struct Store {
    image: ImageFile,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What is durable.
    contents: Contents,
    /// A write failed and could not be taken back: what is in the other slot is not known.
    uncertain: bool,
}

impl Store {
    /// Opens the file, or makes it where there is none. Fails where another server has it open, and
    /// where it holds something else: reservations are never forgotten silently.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        // Another server may make it meanwhile, or take it away, but not for ever.
        let mut tries = 0;
        loop {
            match OpenOptions::new().read(true).write(true).open(path) {
                Ok(file) => return Store::of(file, path),
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 3 => {
                    tries += 1;
                    create(path).map_err(StoreError::host(path, "make"))?;
                }
                Err(error) => return Err(StoreError::host(path, "open")(error)),
            }
        }
    }

    fn of(file: File, path: &Path) -> Result<Store, StoreError> {
        let facts = file.metadata().map_err(StoreError::host(path, "look at"))?;
        if !facts.is_file() {
            return Err(StoreError::NotAFile { path: path.to_owned() });
        }
        lock(&file, path)?;
        let image = ImageFile::new(file, path, true);
        // A server that was killed may have written what it did not live to make durable. Once it
        // is told to others, it has to last.
        image.sync().map_err(StoreError::host(path, "sync"))?;
        let contents = current(&image)?;
        Ok(Store { image, state: Mutex::new(State { contents, uncertain: false }) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.image.path()
    }

    /// What a loss of power left of the reservations of the logical unit whose disk has this
    /// identity.
    pub fn load(&self, identity: &str) -> Option<Reservations> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.contents.units.get(identity).map(|unit| unit.reservations.clone())
    }

    /// Keeps what a loss of power is to leave of these reservations, durably. Only one logical unit
    /// of a server may have this identity; `lun` is where it is found now.
    ///
    /// If this fails, the command that made the change must not be answered with GOOD, nor its
    /// change stand. What is kept is what was kept before: the change is taken back where it may
    /// have reached the file. Where the file takes nothing at all any more, it can be either until
    /// a later call succeeds.
    pub fn save(
        &self,
        lun: u16,
        identity: &str,
        reservations: &Reservations,
    ) -> Result<(), StoreError> {
        let path = self.path();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut units = state.contents.units.clone();
        let kept = reservations.after_power_loss();
        if kept == Reservations::default() {
            units.remove(identity);
        } else {
            units.insert(identity.to_owned(), Unit { lun, reservations: kept });
        }
        if units == state.contents.units && !state.uncertain {
            return Ok(());
        }
        let next = Contents { sequence: state.contents.sequence + 1, units };
        let bytes = next.encode().map_err(|what| StoreError::Full { path: path.into(), what })?;
        let saved = self.put(&bytes, next.place());
        if saved.is_ok() {
            *state = State { contents: next, uncertain: false };
        } else {
            // Whoever starts anew must not find what an initiator was told did not happen.
            state.uncertain = true;
            self.take_back(&mut state);
        }
        saved
    }

    /// Tries again to take back what a failed [`Store::save`] may have left, if it has. Nothing
    /// depends on it.
    pub(crate) fn settle(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.uncertain {
            self.take_back(&mut state);
        }
    }

    /// Writes what is durable over what is not certain. The slot with what is durable is left
    /// alone, so that this is as safe as any other change.
    fn take_back(&self, state: &mut State) {
        let units = state.contents.units.clone();
        let same = Contents { sequence: state.contents.sequence + 1, units };
        let Ok(bytes) = same.encode() else { return };
        if self.put(&bytes, same.place()).is_ok() {
            *state = State { contents: same, uncertain: false };
        }
    }

    /// Writes a slot, durably. After a sync that failed, bytes that are written again are synced
    /// again, too.
    fn put(&self, bytes: &[u8], at: u64) -> Result<(), StoreError> {
        let path = self.path();
        self.image.write_at(bytes, at).map_err(StoreError::host(path, "write"))?;
        self.image.sync().map_err(StoreError::host(path, "sync"))
    }
}

/// What was written last of what was written to its end.
fn current(image: &ImageFile) -> Result<Contents, StoreError> {
    let path = image.path();
    let mut why = "it is empty";
    let mut newest: Option<Contents> = None;
    for at in SLOTS {
        match Slot::read(image, at)? {
            Slot::Unused => {}
            Slot::Damaged(what) => {
                // As a write that was cut short leaves it; also as damage to the last one would.
                tracing::warn!("a part of {} is not used: {what}", path.display());
                why = what;
            }
            Slot::Valid(contents) => {
                if newest.as_ref().is_none_or(|other| other.sequence < contents.sequence) {
                    newest = Some(contents);
                }
            }
        }
    }
    newest.ok_or_else(|| StoreError::Damaged { path: path.to_owned(), what: why })
}

/// Locks the file for as long as it is open.
fn lock(file: &File, path: &Path) -> Result<(), StoreError> {
    let mut tries = 0;
    loop {
        match sys::set_lock(file, LockKind::Exclusive, 0, 1) {
            Ok(()) => return Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) if tries < PATIENCE.0 => {
                    tries += 1;
                    thread::sleep(PATIENCE.1);
                }
                Some(libc::EAGAIN | libc::EACCES) => {
                    let holder = Holder::find(path);
                    return Err(StoreError::Locked { path: path.to_owned(), holder });
                }
                _ => return Err(StoreError::host(path, "lock")(error)),
            },
        }
    }
}

/// Makes a file that holds nothing and gives it its name when it is complete. It is no error if the
/// name is taken by then.
fn create(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let hidden = hidden(folder);
    // Who may write it may say who is fenced.
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&hidden);
    let file = file?;
    #[cfg(test)]
    Recorder::note(&hidden, Change::Create);
    let image = ImageFile::new(file, &hidden, true);
    let first = Contents { sequence: 1, units: BTreeMap::new() };
    let made = first
        .encode()
        .map_err(io::Error::other)
        .and_then(|bytes| image.write_at(&bytes, first.place()))
        .and_then(|()| image.sync_all())
        .and_then(|()| sys::rename_new(&hidden, path));
    if let Err(error) = made {
        // What went wrong before is what counts.
        let _ = std::fs::remove_file(&hidden);
        return match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        };
    }
    #[cfg(test)]
    Recorder::note(&hidden, Change::Rename(path.to_owned()));
    let synced = File::open(folder)?.sync_all();
    #[cfg(test)]
    Recorder::note(folder, Change::SyncFolder);
    synced
}

/// A name that nobody uses.
fn hidden(folder: &Path) -> PathBuf {
    folder.join(format!(".reservations-{}.tmp", uuid::Uuid::new_v4()))
}
