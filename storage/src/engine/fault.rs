//! An engine for tests that fails, tears and reorders. What it does carry, it carries by
//! positional calls.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use super::held::{Carry, Held};
use super::positional;
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

/// Plays a script on transfers: last come, first served.
#[derive(Debug)]
pub(crate) struct Faulty(Script);

impl Faulty {
    /// An engine that plays this script.
    pub(crate) fn new(script: &Script) -> Box<Held<Faulty>> {
        Held::new(Faulty(script.clone()))
    }
}

impl Carry for Faulty {
    fn choose(&mut self, held: usize) -> usize {
        held - 1
    }

    fn carry(&mut self, file: &BackingFile, transfer: &mut Transfer) -> io::Result<u64> {
        let moves = matches!(transfer.action(), Action::Read | Action::Write);
        let cut = moves && file.cuts_blocks(transfer.at(), transfer.window().len());
        match self.0.next(transfer.action()) {
            Fault::None if cut => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            Fault::None => positional::perform(file, transfer),
            Fault::Tear(bytes) => transfer.torn(bytes, |part| positional::perform(file, part)),
            Fault::Fail(errno) => Err(io::Error::from_raw_os_error(errno)),
            Fault::Nothing => Ok(0),
        }
    }
}
