//! Files and folders that the guest has open.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::messages::Result;
use crate::sync::lock;

/// Something open.
#[derive(Clone)]
pub(super) enum Handle {
    /// A regular file.
    File(Arc<File>),
    /// A folder, and the node that it is.
    Folder(Arc<Folder>),
}

/// An open folder. Its position is that of the descriptor, so that only one request reads it.
pub(super) struct Folder {
    pub(super) node: u64,
    pub(super) file: Mutex<File>,
}

/// All of them, by number. Numbers are not used twice.
pub(super) struct Handles {
    max: usize,
    open: Mutex<(u64, HashMap<u64, Handle>)>,
}

impl Handles {
    /// Room for `max` at a time.
    pub(super) fn new(max: usize) -> Handles {
        Handles { max, open: Mutex::new((1, HashMap::new())) }
    }

    /// Adds one; says its number.
    pub(super) fn add(&self, handle: Handle) -> Result<u64> {
        let mut open = lock(&self.open);
        if open.1.len() >= self.max {
            return Err(Errno::NFILE);
        }
        let number = open.0;
        open.0 += 1;
        open.1.insert(number, handle);
        Ok(number)
    }

    /// A file.
    pub(super) fn file(&self, number: u64) -> Result<Arc<File>> {
        match lock(&self.open).1.get(&number) {
            Some(Handle::File(file)) => Ok(Arc::clone(file)),
            _ => Err(Errno::BADF),
        }
    }

    /// A folder.
    pub(super) fn folder(&self, number: u64) -> Result<Arc<Folder>> {
        match lock(&self.open).1.get(&number) {
            Some(Handle::Folder(folder)) => Ok(Arc::clone(folder)),
            _ => Err(Errno::BADF),
        }
    }

    /// Closes one, as soon as no request uses it.
    pub(super) fn close(&self, number: u64) -> Result<()> {
        let closed = lock(&self.open).1.remove(&number);
        // Closing can take long: not under the lock.
        closed.map(drop).ok_or(Errno::BADF)
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        let closed = std::mem::take(&mut lock(&self.open).1);
        drop(closed);
    }

    /// How many are open.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.open).1.len()
    }
}
