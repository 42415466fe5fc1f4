//! A logical unit as a medium for block devices, which know nothing of SCSI: each request becomes
//! a command, so that what other initiators have reserved stays theirs, and what they compare and
//! write stays atomic.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::command::{Command, Response, Status};
use super::nexus::Nexus;
use super::queue::ScsiQueue;
use super::sense::{self, key};
use super::target::{Target, TargetError};
use super::unit::{self, UNMAP_BLOCKS_MAX, Unit};
use crate::reservation::SenseCode;
use crate::{
    AlignedBuffer, Answer, Buffers, Bytes, DiskError, DiskRequest, IoError, Limits, Medium,
    Operation, RequestQueue,
};

/// How often one command is submitted at most. A unit attention or the abort of a command by
/// another initiator is a reason to try again; more of them than can wait for an initiator at once
/// only come from one that means no good.
const ATTEMPTS_MAX: u32 = 32;

/// A logical unit of a target as one initiator port sees it, for block devices.
///
/// A request longer than a command may be is carried out as several, one after the other: others
/// may see it half done, as they may see any request to a disk. It ends with the first that fails.
///
/// Unit attentions, of which a block device cannot tell its guest, are taken note of and passed
/// over, hence the nexus should be used by nobody who has to hear of them.
pub struct SharedMedium {
    target: Target,
    unit: Arc<Unit>,
    number: usize,
    nexus: Nexus,
}

impl SharedMedium {
    /// Logical unit number `lun` of `target`, seen from the port whose nexus with it this is.
    ///
    /// # Errors
    /// There is no such unit.
    pub fn new(target: Target, lun: u64, nexus: Nexus) -> Result<SharedMedium, TargetError> {
        let number = usize::try_from(lun).map_err(|_| TargetError::NoSuchUnit { lun })?;
        let unit = target.units().get(number).ok_or(TargetError::NoSuchUnit { lun })?;
        Ok(SharedMedium { unit: Arc::clone(unit), target, number, nexus })
    }
}

impl std::fmt::Debug for SharedMedium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedMedium")
            .field("disk", &self.unit.disk)
            .field("port", &self.nexus.port().name())
            .finish_non_exhaustive()
    }
}

impl Medium for SharedMedium {
    type Queue = SharedQueue;

    fn size(&self) -> Bytes {
        self.unit.disk.size()
    }
    fn logical_block_size(&self) -> u32 {
        self.unit.block
    }
    fn limits(&self) -> Limits {
        self.unit.disk.limits()
    }
    fn read_only(&self) -> bool {
        self.unit.disk.read_only()
    }
    fn queue(&self, depth: u16) -> Result<SharedQueue, DiskError> {
        let depth = depth.max(1);
        Ok(SharedQueue {
            queue: self.target.queue(depth)?,
            unit: Arc::clone(&self.unit),
            lun: unit::address(self.number),
            nexus: self.nexus.clone(),
            depth: usize::from(depth),
            pending: Vec::new(),
            free: Vec::new(),
            done: Vec::new(),
            responses: Vec::new(),
        })
    }
}

/// A thread's way to a [`SharedMedium`].
pub struct SharedQueue {
    // Declared first, hence dropped first: waits until nobody uses the memory of requests.
    queue: ScsiQueue,
    unit: Arc<Unit>,
    lun: u64,
    nexus: Nexus,
    depth: usize,
    /// By the token of its command.
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    /// Answers found while waiting for room.
    done: Vec<Answer>,
    /// Kept between calls.
    responses: Vec<(u64, Response)>,
}

/// A request that is not answered.
struct Pending {
    token: u64,
    operation: Operation,
    /// The first byte that is not done.
    start: u64,
    /// Bytes that are not done.
    left: u64,
    /// Their memory.
    buffers: Buffers,
    /// Bytes that the command under way is about.
    part: u64,
    attempts: u32,
}

/// What follows from a command's end.
enum Next {
    /// The request has ended.
    Answer(Result<(), IoError>),
    /// There is another command to submit.
    Go,
}

impl SharedQueue {
    /// Submits commands of a request until one of them is under way (`None`), or the request is at
    /// its end.
    fn go_on(&mut self, slot: usize) -> Option<Answer> {
        loop {
            let pending = self.pending.get_mut(slot)?.as_mut()?;
            pending.attempts += 1;
            let command = pending.command(self.lun, &self.unit);
            let response = self.queue.submit(slot as u64, &self.nexus, command)?;
            if let Some(answer) = self.take(slot, &response) {
                return Some(answer);
            }
        }
    }

    /// Takes a command's response; the answer, if the request is at its end.
    fn take(&mut self, slot: usize, response: &Response) -> Option<Answer> {
        let place = self.pending.get_mut(slot)?;
        match place.as_mut()?.next(response) {
            Next::Go => None,
            Next::Answer(result) => {
                let token = place.take()?.token;
                self.free.push(slot);
                Some((token, result))
            }
        }
    }

    fn insert(&mut self, pending: Pending) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.pending.push(None);
            self.pending.len() - 1
        });
        if let Some(place) = self.pending.get_mut(slot) {
            *place = Some(pending);
        }
        slot
    }

    fn under_way(&self) -> usize {
        self.pending.len() - self.free.len()
    }
}

impl RequestQueue for SharedQueue {
    fn submit(&mut self, token: u64, request: DiskRequest) -> Option<Result<(), IoError>> {
        if let Err(error) = self.unit.disk.state().check(&request) {
            return Some(Err(error));
        }
        let DiskRequest { operation, range, buffers } = request;
        if range.is_empty() && operation != Operation::Flush {
            // To SCSI, no blocks may mean all of them.
            return Some(Ok(()));
        }
        while self.under_way() >= self.depth {
            let mut done = std::mem::take(&mut self.done);
            self.poll(&mut done);
            self.done = done;
            if self.under_way() >= self.depth {
                self.queue.wait();
            }
        }
        let (start, left) = (range.start(), range.len());
        let pending = Pending { token, operation, start, left, buffers, part: 0, attempts: 0 };
        let slot = self.insert(pending);
        self.go_on(slot).map(|(_, result)| result)
    }

    fn poll(&mut self, done: &mut Vec<Answer>) {
        done.append(&mut self.done);
        loop {
            let mut responses = std::mem::take(&mut self.responses);
            self.queue.poll(&mut responses);
            let mut submitted = false;
            for (slot, response) in responses.drain(..) {
                let slot = usize::try_from(slot).unwrap_or(usize::MAX);
                let answer = self.take(slot, &response).or_else(|| {
                    submitted = true;
                    self.go_on(slot)
                });
                done.extend(answer);
            }
            self.responses = responses;
            if !submitted {
                return;
            }
            // The host has yet to hear of these.
        }
    }

    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.queue.ready_fd())
    }

    fn in_flight(&self) -> usize {
        self.under_way() + self.done.len()
    }

    fn drain(&mut self, done: &mut Vec<Answer>) {
        self.poll(done);
        while self.under_way() > 0 {
            self.queue.wait();
            self.poll(done);
        }
    }
}

impl std::fmt::Debug for SharedQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedQueue").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

impl Pending {
    /// The next command.
    fn command(&mut self, lun: u64, unit: &Unit) -> Command {
        let block = u64::from(unit.block);
        let blocks_max = match self.operation {
            Operation::Read | Operation::Write => unit.transfer_max(),
            Operation::Discard => UNMAP_BLOCKS_MAX.into(),
            Operation::Flush | Operation::WriteZeroes { .. } => u32::MAX.into(),
        };
        self.part = self.left.min(blocks_max.saturating_mul(block));
        let count = u32::try_from(self.part / block).unwrap_or(u32::MAX);
        let lba = self.start / block;
        // The command uses its list up, and may have to be submitted again.
        let data = self.buffers.duplicate().split_to(self.part);
        let (opcode, flags, data_out, data_in) = match self.operation {
            Operation::Read => (0x88, 0, Buffers::none(), data),
            Operation::Write => (0x8a, 0, data, Buffers::none()),
            Operation::Flush => (0x91, 0, Buffers::none(), Buffers::none()),
            Operation::Discard => (0x42, 0, unmap_list(lba, count), Buffers::none()),
            // WRITE SAME(16) with NDOB: a block of zeroes that needs not be sent.
            Operation::WriteZeroes { unmap } => {
                (0x93, 0x01 | u8::from(unmap) << 3, Buffers::none(), Buffers::none())
            }
        };
        let mut cdb = [0; 32];
        (cdb[0], cdb[1]) = (opcode, flags);
        let cdb_len = if self.operation == Operation::Discard {
            cdb[8] = UNMAP_LIST_LEN;
            10
        } else {
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[10..14].copy_from_slice(&count.to_be_bytes());
            16
        };
        Command { lun, cdb, cdb_len, tag: self.token, data_out, data_in }
    }

    /// What follows from the end of the command.
    fn next(&mut self, response: &Response) -> Next {
        let operation = self.operation.word();
        match response.status {
            Status::Good => {
                self.start = self.start.saturating_add(self.part);
                self.left -= self.part;
                self.buffers.advance(self.part);
                self.attempts = 0;
                if self.left > 0 { Next::Go } else { Next::Answer(Ok(())) }
            }
            Status::ReservationConflict => {
                Next::Answer(Err(IoError::ReservationConflict { operation }))
            }
            _ => {
                let code = response.sense.code();
                let attention = code.is_some_and(|code| code.key == key::UNIT_ATTENTION);
                let elsewhere = response.status == Status::TaskAborted && !response.silent;
                if (attention || elsewhere) && self.attempts < ATTEMPTS_MAX {
                    return Next::Go;
                }
                Next::Answer(Err(failure(operation, response.status, code)))
            }
        }
    }
}

fn failure(operation: &'static str, status: Status, code: Option<SenseCode>) -> IoError {
    match code {
        Some(sense::WRITE_PROTECTED) => IoError::ReadOnly { operation },
        _ => IoError::Target { operation, status, code: code.unwrap_or(sense::NO_SENSE) },
    }
}

/// Bytes of a list with one descriptor.
const UNMAP_LIST_LEN: u8 = 24;

/// The parameter list of an UNMAP of one range (SBC-3 5.28.2).
fn unmap_list(lba: u64, count: u32) -> Buffers {
    let mut memory = AlignedBuffer::new(UNMAP_LIST_LEN.into());
    let list = memory.bytes();
    list[1] = UNMAP_LIST_LEN - 2;
    list[3] = UNMAP_LIST_LEN - 8;
    list[8..16].copy_from_slice(&lba.to_be_bytes());
    list[16..20].copy_from_slice(&count.to_be_bytes());
    Buffers::whole(&Arc::new(memory))
}
