//! The engine for hosts that forbid rings: positional system calls in the queue's own thread,
//! each of which may wait for a device.

use std::io;
use std::os::fd::BorrowedFd;

use super::sys::{self, Patience};
use super::{Engine, Finished};
use crate::file::BackingFile;
use crate::transfer::{Action, Transfer};

/// Carries every transfer before `start` returns.
pub(crate) struct Positional;

/// Does one system call's worth of `transfer`.
pub(super) fn perform(file: &BackingFile, transfer: &Transfer) -> io::Result<u64> {
    let (file, at) = (file.file(), transfer.at());
    match transfer.action() {
        Action::Read => sys::read(file, transfer.window(), at, Patience::Wait),
        Action::Write => sys::write(file, transfer.window(), at, Patience::Wait),
        Action::Sync => file.sync_data().map(|()| 0),
        Action::Space(change) => {
            sys::fallocate(file, change.mode(), at, transfer.left()).map(|()| transfer.left())
        }
    }
}

impl Engine for Positional {
    fn is_asynchronous(&self) -> bool {
        false
    }

    fn start(&mut self, files: &[BackingFile], transfer: Box<Transfer>) -> Option<Finished> {
        let result = match files.get(usize::from(transfer.file().0)) {
            Some(file) => perform(file, &transfer),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        };
        Some((transfer, result))
    }

    fn kick(&mut self) {}

    fn reap(&mut self, _files: &[BackingFile], _finished: &mut Vec<Finished>) {}

    fn wait(&mut self) {}

    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
