//! The guest that the initiator works for: commands, their memory, and their answers.

use std::sync::Arc;

use crate::fuzzing::Script;
use crate::iscsi::initiator::port::RemoteQueue;
use crate::scsi::{Command, CommandQueue, ServiceResponse, TaskManagement};
use crate::{AlignedBuffer, Buffers};

/// Bytes around the room of a command, which nobody may touch.
const GUARD: usize = 64;
const UNTOUCHED: u8 = 0xa5;

/// A command that was submitted, and its memory.
struct Sent {
    token: u64,
    room: usize,
    memory: Arc<AlignedBuffer>,
}

/// The guest's side.
pub(super) struct Guest {
    queue: RemoteQueue,
    sent: Vec<Sent>,
    managed: Vec<u64>,
    done: Vec<(u64, ServiceResponse)>,
    completed: usize,
}

impl Guest {
    pub(super) fn new(queue: RemoteQueue) -> Guest {
        Guest { queue, sent: Vec::new(), managed: Vec::new(), done: Vec::new(), completed: 0 }
    }

    /// Passes on what was asked for, and looks at the answers.
    pub(super) fn poll(&mut self) {
        self.queue.poll(&mut self.done);
        self.check_answers();
    }

    pub(super) fn manage(&mut self, token: u64, what: TaskManagement) {
        self.managed.push(token);
        self.queue.manage(token, 0, what);
    }

    /// Has all that was asked for aborted.
    pub(super) fn forget(&mut self) {
        self.poll();
        self.queue.forget();
    }

    /// The other side is gone, and all is answered. Says how many commands were completed.
    pub(super) fn end(mut self) -> usize {
        self.poll();
        assert!(self.sent.is_empty(), "{} commands without an answer", self.sent.len());
        assert!(self.managed.is_empty() && self.queue.in_flight() == 0, "functions without one");
        self.completed
    }

    /// Each answer is the first one, and memory around the room for data is as it was.
    fn check_answers(&mut self) {
        for (token, response) in std::mem::take(&mut self.done) {
            if let Some(at) = self.managed.iter().position(|&managed| managed == token) {
                self.managed.swap_remove(at);
                continue;
            }
            let at = self.sent.iter().position(|sent| sent.token == token);
            let Some(at) = at else { panic!("command {token} is answered again") };
            let Sent { room, mut memory, .. } = self.sent.swap_remove(at);
            let Some(memory) = Arc::get_mut(&mut memory) else {
                panic!("the memory of a command is still in use");
            };
            let bytes = memory.bytes();
            let (before, after) = (&bytes[..GUARD], &bytes[GUARD + room..]);
            let untouched = |bytes: &[u8]| bytes.iter().all(|&byte| byte == UNTOUCHED);
            assert!(untouched(before) && untouched(after), "written beyond the room");
            if let ServiceResponse::Complete(response) = response {
                assert!(response.data_in <= room as u64, "more data than room");
                self.completed += usize::from(!response.silent);
            }
        }
    }

    pub(super) fn submit(&mut self, token: u64, script: &mut Script<'_>, writes: bool) {
        let [opcode, len, more, tag] = script.array();
        let room = if writes && more & 1 == 0 { 0 } else { usize::from(len) * 16 };
        let out = if writes { usize::from(len) << (more >> 5) } else { 0 };
        let fill = u8::try_from(token).unwrap_or(0) | 0x40;
        let mut memory = AlignedBuffer::new(room + 2 * GUARD);
        memory.bytes().fill(UNTOUCHED);
        let memory = Arc::new(memory);
        let mut data_in = Buffers::whole(&memory);
        data_in.advance(GUARD as u64);
        let data_in = data_in.split_to(room as u64);
        let mut data = AlignedBuffer::new(out);
        data.bytes().fill(fill);
        let mut cdb = [0; 32];
        (cdb[0], cdb[15]) = (opcode, fill);
        // REPORT LUNS is answered here, about one unit.
        let command = Command {
            lun: 0,
            cdb,
            cdb_len: 16 + (more >> 1 & 16),
            tag: tag.into(),
            data_out: Buffers::whole(&Arc::new(data)),
            data_in,
        };
        self.sent.push(Sent { token, room, memory });
        if let Some(response) = self.queue.submit(token, command) {
            self.done.push((token, response));
        }
    }
}
