//! An engine for tests that fails, tears and reorders. What it does carry, it carries by
//! positional calls, when it is reaped.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use super::{Engine, Finished, positional};
use crate::file::BackingFile;
use crate::transfer::{Action, Transfer};

/// What happens to a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: one system call's worth is done.
    None,
    /// At most this many bytes are moved.
    Tear(u64),
    /// The kernel answers with this error.
    Fail(i32),
    /// The call moves nothing, and is no error.
    Nothing,
}

/// The test's hand on the engine: faults for the next transfers, and a record of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    faults: VecDeque<Fault>,
    seen: Vec<Action>,
}

impl Script {
    /// Plays these faults, one for each transfer, and none after them.
    pub(crate) fn new(faults: impl IntoIterator<Item = Fault>) -> Script {
        let faults = faults.into_iter().collect();
        Script(Arc::new(Mutex::new(State { faults, seen: Vec::new() })))
    }

    /// Transfers so far.
    pub(crate) fn seen(&self) -> Vec<Action> {
        self.0.lock().unwrap().seen.clone()
    }

    fn next(&self, action: Action) -> Fault {
        let mut state = self.0.lock().unwrap();
        state.seen.push(action);
        state.faults.pop_front().unwrap_or(Fault::None)
    }
}

/// Holds transfers back and then carries them out last come, first served, one at a reap.
#[derive(Debug, Default)]
pub(crate) struct Faulty {
    script: Script,
    #[expect(clippy::vec_box, reason = "boxes are what engines get and give")]
    held: Vec<Box<Transfer>>,
}

impl Faulty {
    /// An engine that plays this script.
    pub(crate) fn new(script: &Script) -> Box<Faulty> {
        Box::new(Faulty { script: script.clone(), held: Vec::new() })
    }

    fn carry(&self, files: &[BackingFile], transfer: &mut Transfer) -> io::Result<u64> {
        let file = &files[usize::from(transfer.file().0)];
        let moves = matches!(transfer.action(), Action::Read | Action::Write);
        let cut = moves && file.cuts_blocks(transfer.at(), transfer.window().len());
        match self.script.next(transfer.action()) {
            Fault::None if cut => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            Fault::None => positional::perform(file, transfer),
            Fault::Tear(bytes) => transfer.torn(bytes, |part| positional::perform(file, part)),
            Fault::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
            Fault::Nothing => Ok(0),
        }
    }
}

impl Engine for Faulty {
    fn is_asynchronous(&self) -> bool {
        // Nothing is served from the page cache: every transfer is the script's.
        false
    }

    fn start(&mut self, _files: &[BackingFile], transfer: Box<Transfer>) -> Option<Finished> {
        self.held.push(transfer);
        None
    }

    fn kick(&mut self) {}

    fn reap(&mut self, files: &[BackingFile], finished: &mut Vec<Finished>) {
        if let Some(mut transfer) = self.held.pop() {
            let result = self.carry(files, &mut transfer);
            finished.push((transfer, result));
        }
    }

    fn wait(&mut self) {}

    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
