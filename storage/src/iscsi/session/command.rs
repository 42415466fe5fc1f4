//! SCSI commands (RFC 7143 section 11.2): what came is checked, their data collected, their turn
//! awaited.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{End, IMMEDIATE_MAX, Scsi, Session};
use crate::iscsi::pdu::{self, Header, Pdu, Reason};
use crate::iscsi::pool::Pool;
use crate::scsi::{Command, Response};
use crate::{AlignedBuffer, Buffers};

/// When a task has its turn (RFC 7143 section 11.2.1, SAM-5 8.6). Between the commands of one
/// session only: those of others come when they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Simple,
    /// After all before it and before all after it.
    Ordered,
    /// Before those that wait.
    First,
}

impl Turn {
    fn of(flags: u8) -> Turn {
        match flags & 7 {
            2 => Turn::Ordered,
            3 => Turn::First,
            // Untagged and simple; ACA needs a condition that is never there.
            _ => Turn::Simple,
        }
    }
}

/// Data that the initiator was asked for.
#[derive(Debug)]
pub(super) struct R2t {
    pub(super) tag: u32,
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) received: u32,
    pub(super) next_data_sn: u32,
}

/// A SCSI command from its arrival to its answer.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) lun: u64,
    cdb: [u8; 32],
    cdb_len: u8,
    turn: Turn,
    pub(super) immediate: bool,
    /// Bytes that the initiator sends.
    pub(super) expected_out: u32,
    /// Bytes that it wants.
    pub(super) expected_in: u32,
    /// It had its turn: there is memory.
    started: bool,
    submitted: bool,
    /// Data comes without being asked for.
    pub(super) unsolicited: bool,
    /// Data was lost: the command fails when no more can come.
    pub(super) spoiled: bool,
    /// The reason is that there was no room for it.
    pub(super) full: bool,
    pub(super) next_data_sn: u32,
    /// Data that came before the turn.
    pub(super) early: Vec<u8>,
    /// Where the initiator's data goes.
    pub(super) memory: Option<AlignedBuffer>,
    /// The same, and where the disk puts data, while the disk has them.
    pub(super) sent: Option<Arc<AlignedBuffer>>,
    pub(super) lent: Option<Arc<AlignedBuffer>>,
    /// Bytes that came.
    pub(super) received: u32,
    /// Bytes that came or were asked for.
    pub(super) asked: u32,
    pub(super) r2ts: VecDeque<R2t>,
    pub(super) next_r2t_sn: u32,
    /// What it was charged for memory.
    pub(super) cost: usize,
}

impl Task {
    pub(super) fn is_submitted(&self) -> bool {
        self.submitted
    }

    /// Whether it has memory for data that the initiator has yet to send.
    pub(super) fn lacks_data(&self) -> bool {
        self.started && !self.submitted
    }

    /// Whether all data is there that it ever gets.
    fn is_complete(&self) -> bool {
        self.started && !self.unsolicited && self.received >= self.expected_out
    }
}

/// What is wrong with a command, if anything.
fn fault(
    header: &Header,
    data: usize,
    first_burst: u32,
    may_send: (bool, bool),
) -> Option<&'static str> {
    let (immediate_data, unsolicited) = may_send;
    let flags = header.flags();
    let (last, writes) = (flags & 0x80 != 0, flags & 0x20 != 0);
    let most = if writes { header.u32(20).min(first_burst) } else { 0 };
    if data > 0 && !(immediate_data && writes) {
        return Some("immediate data that was not agreed on");
    }
    if u32::try_from(data).is_ok_and(|data| data > most) {
        return Some("more immediate data than was agreed on");
    }
    if !(last || writes && unsolicited) {
        return Some("unsolicited data that was not agreed on");
    }
    None
}

impl Session<'_> {
    /// Makes the task of a command; without one the command was rejected.
    pub(super) fn accept(&mut self, pdu: &Pdu<'_>) -> Result<Option<u32>, End> {
        let header = &pdu.header;
        if self.discovery {
            return Err(self.offence(header, Reason::Protocol, "a command to a discovery session"));
        }
        let may_send = (self.agreed.immediate_data, !self.agreed.initial_r2t);
        if let Some(why) = fault(header, pdu.data.len(), self.agreed.first_burst, may_send) {
            return Err(self.offence(header, Reason::Protocol, why));
        }
        let Some(additional) = pdu::additional(pdu.ahs) else {
            return Err(self.offence(
                header,
                Reason::InvalidField,
                "additional headers that are none",
            ));
        };
        let tag = header.task_tag();
        if tag == pdu::NO_TAG || self.tasks.contains_key(&tag) {
            return Err(self.offence(header, Reason::Protocol, "a task's tag that is in use"));
        }
        if header.is_immediate() && self.immediate >= IMMEDIATE_MAX {
            self.reject(header, Reason::TooManyImmediate);
            return Ok(None);
        }
        let flags = header.flags();
        let (reads, writes) = (flags & 0x40 != 0, flags & 0x20 != 0);
        let expected = header.u32(20);
        let mut cdb = [0; 32];
        let bytes = header.bytes().get(32..48).unwrap_or_default();
        // No command that is known has more than 32 bytes.
        let extra = additional.cdb.iter().take(16);
        cdb.iter_mut().zip(bytes.iter().chain(extra)).for_each(|(to, from)| *to = *from);
        let received = u32::try_from(pdu.data.len()).unwrap_or(u32::MAX);
        let expected_in = match (reads, writes) {
            (true, false) => expected,
            (true, true) => additional.read_len.unwrap_or(0),
            (false, _) => 0,
        };
        self.early_data += pdu.data.len();
        self.tasks.insert(
            tag,
            Task {
                lun: header.lun(),
                cdb,
                cdb_len: u8::try_from(16 + additional.cdb.len().min(16)).unwrap_or(32),
                turn: Turn::of(flags),
                immediate: header.is_immediate(),
                expected_out: if writes { expected } else { 0 },
                expected_in,
                started: false,
                submitted: false,
                unsolicited: flags & 0x80 == 0,
                spoiled: false,
                full: false,
                next_data_sn: 0,
                early: pdu.data.to_vec(),
                memory: None,
                sent: None,
                lent: None,
                received,
                asked: received,
                r2ts: VecDeque::new(),
                next_r2t_sn: 0,
                cost: 0,
            },
        );
        Ok(Some(tag))
    }

    /// It is this command's turn by its number.
    pub(super) fn deliver(&mut self, tag: u32) {
        // One that was aborted meanwhile only had its number.
        let Some(task) = self.tasks.get(&tag) else { return };
        if task.immediate {
            self.immediate += 1;
        } else {
            self.open += 1;
        }
        match task.turn {
            Turn::First => self.waiting.push_front(tag),
            Turn::Simple | Turn::Ordered => self.waiting.push_back(tag),
        }
        self.start_waiting();
        self.bound_early(tag);
    }

    /// Lets go of the data of a command that waits, if there is no room for it: its initiator is
    /// told that the task set is full, and sends it again later. Says whether that was so.
    pub(super) fn bound_early(&mut self, tag: u32) -> bool {
        let Some(task) = self.tasks.get_mut(&tag) else { return false };
        if self.early_data <= self.share.early_max() || task.early.is_empty() {
            return false;
        }
        self.early_data -= std::mem::take(&mut task.early).len();
        (task.spoiled, task.full) = (true, true);
        self.give_up(tag);
        true
    }

    /// Starts the commands for which there is memory, in order.
    pub(super) fn start_waiting(&mut self) {
        if !self.start_those_with_room() && self.in_line {
            self.share.leave();
            self.in_line = false;
        }
    }

    /// The same; says whether one waits for memory that all sessions share.
    fn start_those_with_room(&mut self) -> bool {
        while let Some(&tag) = self.waiting.front() {
            let Some(task) = self.tasks.get_mut(&tag) else {
                self.waiting.pop_front();
                continue;
            };
            let most = self.shared.policy.limits.command_bytes;
            let out = usize::try_from(task.expected_out).unwrap_or(usize::MAX);
            // What is lost already needs no memory.
            let out = if task.spoiled { 0 } else { out };
            let room = usize::try_from(task.expected_in).unwrap_or(usize::MAX).min(most);
            let cost = Pool::size(out).saturating_add(Pool::size(room));
            let too_long = out > most || cost > self.shared.policy.limits.session_bytes;
            let ordered = task.turn == Turn::Ordered;
            if self.barrier || (ordered && self.running > 0) {
                return false;
            }
            if !too_long && self.used + cost > self.shared.policy.limits.session_bytes {
                return false;
            }
            if !too_long && !self.share.take(cost) {
                self.in_line = true;
                // What is kept for later may do.
                self.pool.clear(&mut self.share);
                if !self.share.take(cost) {
                    return true;
                }
            }
            self.waiting.pop_front();
            self.running += 1;
            task.started = true;
            if too_long {
                self.refuse(tag);
                continue;
            }
            self.barrier = ordered;
            self.used += cost;
            task.cost = cost;
            if out > 0 {
                let mut memory = self.pool.take(out, &mut self.share);
                let early = std::mem::take(&mut task.early);
                self.early_data -= early.len();
                if let Some(place) = memory.bytes().get_mut(..early.len()) {
                    place.copy_from_slice(&early);
                }
                task.memory = Some(memory);
            }
            self.advance(tag);
        }
        false
    }

    /// Goes on with a command: asks for more data, or has it carried out.
    pub(super) fn advance(&mut self, tag: u32) {
        let Some(task) = self.tasks.get_mut(&tag) else { return };
        if task.spoiled {
            return self.give_up(tag);
        }
        if !task.is_complete() {
            if task.started && !task.unsolicited {
                self.ask(tag);
            }
            return;
        }
        let Some(Scsi { queue, nexus }) = &mut self.scsi else { return };
        let most = self.shared.policy.limits.command_bytes;
        let room = usize::try_from(task.expected_in).unwrap_or(usize::MAX).min(most);
        let lend = |memory: AlignedBuffer, len: usize| {
            let memory = Arc::new(memory);
            let buffers = Buffers::whole(&memory).split_to(len as u64);
            (Some(memory), buffers)
        };
        let out = usize::try_from(task.expected_out).unwrap_or(usize::MAX);
        let data_out;
        (task.sent, data_out) = match task.memory.take() {
            Some(memory) => lend(memory, out),
            None => (None, Buffers::none()),
        };
        let data_in;
        (task.lent, data_in) = match room {
            0 => (None, Buffers::none()),
            _ => lend(self.pool.take(room, &mut self.share), room),
        };
        task.submitted = true;
        let command = Command {
            lun: task.lun,
            cdb: task.cdb,
            cdb_len: task.cdb_len,
            tag: u64::from(tag),
            data_out,
            data_in,
        };
        if let Some(response) = queue.submit(u64::from(tag), nexus, command) {
            self.finish(u64::from(tag), &response);
        }
    }

    /// Forgets a task, answered or not, and gives back what it took. Memory that is still to be
    /// sent is charged on.
    pub(super) fn forget(&mut self, tag: u32) -> Option<Task> {
        let task = self.tasks.remove(&tag)?;
        self.early_data -= task.early.len();
        if task.started {
            self.running -= 1;
            if task.turn == Turn::Ordered {
                self.barrier = false;
            }
        }
        let delivered = task.started || self.waiting.contains(&tag);
        if !task.started {
            self.waiting.retain(|&waiting| waiting != tag);
        }
        if delivered && task.immediate {
            self.immediate -= 1;
        } else if delivered {
            self.open -= 1;
        }
        Some(task)
    }

    /// A command is over.
    pub(super) fn finish(&mut self, token: u64, response: &Response) {
        let tag = u32::try_from(token).unwrap_or(pdu::NO_TAG);
        let Some(mut task) = self.forget(tag) else { return };
        // The disk is through with the memory, so nobody else has it.
        if let Some(Ok(memory)) = task.sent.take().map(Arc::try_unwrap) {
            self.pool.give(memory, &mut self.share);
        }
        let memory = task.lent.take().map(Arc::try_unwrap);
        if response.silent {
            self.release(task.cost);
            return;
        }
        if let Some(Err(_)) = memory {
            tracing::error!("memory of an answered command is still in use");
            self.release(task.cost);
            return self.respond_failure(tag);
        }
        self.answer(tag, &task, response, memory.and_then(Result::ok));
    }
}
