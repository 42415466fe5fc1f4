//! What follows from the result of a system call: more of the same, another way, the end.

use std::io;

use crate::error::IoError;
use crate::file::{self, BackingFile};
use crate::transfer::{Action, SpaceChange, Transfer};

/// What to do with a transfer that an engine gave back.
#[derive(Debug)]
pub(super) enum Next {
    /// Start it again: it has been changed to what is left to do.
    Again,
    /// Everything was done.
    Done,
    /// It cannot be done.
    Failed(IoError),
}

/// Changes a transfer that `file` is known to refuse into one that it does not.
pub(super) fn prepare(file: &BackingFile, transfer: &mut Transfer) -> Next {
    match transfer.action() {
        Action::Space(change) if !file.may(change) => instead(file, transfer, change),
        _ => Next::Again,
    }
}

/// Decides on a transfer to `file` of which one system call's worth had this result.
pub(super) fn next(file: &BackingFile, transfer: &mut Transfer, result: io::Result<u64>) -> Next {
    match result {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Next::Again,
        Err(error) => match transfer.action() {
            Action::Space(change) if file::is_refusal(&error) => {
                file.refuses(change);
                instead(file, transfer, change)
            }
            // This range only: a block device whose blocks are larger than the guest's sectors
            // changes whole ones of them.
            Action::Space(change) if error.raw_os_error() == Some(libc::EINVAL) => match change {
                SpaceChange::Punch { for_zeroes: false } => Next::Done,
                SpaceChange::Punch { for_zeroes: true } | SpaceChange::ZeroRange => {
                    transfer.become_zero_write();
                    Next::Again
                }
            },
            _ => failed(transfer, error),
        },
        Ok(count) => match transfer.action() {
            Action::Sync | Action::Space(_) => Next::Done,
            Action::Read | Action::Write => moved(file, transfer, count),
        },
    }
}

/// Goes on after `count` bytes were moved.
fn moved(file: &BackingFile, transfer: &mut Transfer, count: u64) -> Next {
    let count = if file.is_direct() {
        // Only whole blocks can be resumed after. A part of one is all there is before the end of
        // a file, and is found out when the next call moves nothing.
        count - count % u64::from(file.alignment().length)
    } else {
        count
    };
    transfer.advance(count);
    match (transfer.left(), count, transfer.action()) {
        (0, ..) => Next::Done,
        (_, 0, Action::Write) => Next::Failed(IoError::NothingWritten { offset: transfer.at() }),
        (_, 0, _) => Next::Failed(IoError::UnexpectedEnd { offset: transfer.at() }),
        _ => Next::Again,
    }
}

/// Goes on after the file system refused `change`.
fn instead(file: &BackingFile, transfer: &mut Transfer, change: SpaceChange) -> Next {
    match change {
        // Content that does not matter may as well stay.
        SpaceChange::Punch { for_zeroes: false } => {
            match file.drop_blocks(transfer.at(), transfer.left()) {
                Ok(()) => Next::Done,
                Err(error) => failed(transfer, error),
            }
        }
        SpaceChange::Punch { for_zeroes: true } if file.may(SpaceChange::ZeroRange) => {
            transfer.become_space_change(SpaceChange::ZeroRange);
            Next::Again
        }
        SpaceChange::Punch { for_zeroes: true } | SpaceChange::ZeroRange => {
            transfer.become_zero_write();
            Next::Again
        }
    }
}

fn failed(transfer: &Transfer, source: io::Error) -> Next {
    let operation = transfer.action().word();
    Next::Failed(IoError::Host { operation, offset: transfer.at(), source })
}
