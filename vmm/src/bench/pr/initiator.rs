//! An initiator of a target in this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use storage::scsi::{Command, Nexus, Response, ScsiQueue, Status, Target};
use storage::{AlignedBuffer, Buffers};

use super::{BenchError, Written};
use crate::bench::places::Places;

const READ_16: u8 = 0x88;
const WRITE_16: u8 = 0x8a;
const PERSISTENT_RESERVE_OUT: u8 = 0x5f;
/// Service actions of it (SPC-4 table 216), and the type of its reservation: write exclusive,
/// registrants only.
const RESERVE: u8 = 1;
const CLEAR: u8 = 3;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;
const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 5;
/// Bytes of its parameter list.
const LIST_LEN: u8 = 24;
const BLOCK: u64 = 512;
const READ_LEN: usize = 4096;

/// A nexus and a queue of one thread.
pub(super) struct Initiator {
    nexus: Nexus,
    queue: ScsiQueue,
    memory: Vec<Arc<AlignedBuffer>>,
    places: Places,
}

impl Initiator {
    /// The port `name`, which has heard all that there is to hear at first.
    pub(super) fn new(target: &Target, name: &str, depth: u16) -> Result<Initiator, BenchError> {
        let nexus = target.nexus(super::port(name)?);
        let queue = target.queue(depth).map_err(BenchError::scsi)?;
        let memory = (0..depth).map(|_| Arc::new(AlignedBuffer::new(super::WRITE_LEN))).collect();
        let mut initiator = Initiator { nexus, queue, memory, places: Places::default() };
        // TEST UNIT READY takes the unit attentions of before, one at a time.
        while initiator.run(&[0; 6], &[])?.status == Status::CheckCondition {}
        Ok(initiator)
    }

    pub(super) fn register(&mut self, key: u64) -> Result<(), BenchError> {
        self.out(REGISTER_AND_IGNORE, 0, key)
    }

    pub(super) fn reserve(&mut self, key: u64) -> Result<(), BenchError> {
        self.out(RESERVE, key, 0)
    }

    pub(super) fn clear(&mut self, key: u64) -> Result<(), BenchError> {
        self.out(CLEAR, key, 0)
    }

    pub(super) fn preempt_and_abort(&mut self, key: u64, victim: u64) -> Result<(), BenchError> {
        self.out(PREEMPT_AND_ABORT, key, victim)
    }

    /// Whether reservations would let a write through.
    pub(super) fn may_write(&self) -> bool {
        self.nexus.may(0, &[WRITE_16])
    }

    fn out(&mut self, action: u8, key: u64, other: u64) -> Result<(), BenchError> {
        let mut cdb = [0; 10];
        cdb[..3].copy_from_slice(&[PERSISTENT_RESERVE_OUT, action, WRITE_EXCLUSIVE_REGISTRANTS]);
        cdb[8] = LIST_LEN;
        let mut list = [0; LIST_LEN as usize];
        list[..8].copy_from_slice(&key.to_be_bytes());
        list[8..16].copy_from_slice(&other.to_be_bytes());
        let response = self.run(&cdb, &list)?;
        if response.status == Status::Good {
            return Ok(());
        }
        let status = response.status;
        Err(BenchError::Scsi { what: format!("PERSISTENT RESERVE OUT {action} ended {status:?}") })
    }

    /// Carries out one command.
    fn run(&mut self, cdb: &[u8], data_out: &[u8]) -> Result<Response, BenchError> {
        let mut memory = AlignedBuffer::new(data_out.len());
        memory.bytes().copy_from_slice(data_out);
        let command = command(cdb, Buffers::whole(&Arc::new(memory)), Buffers::none());
        if let Some(response) = self.queue.submit(0, &self.nexus, command) {
            return Ok(response);
        }
        let mut done = Vec::new();
        self.queue.drain(&mut done);
        let lost = || BenchError::Scsi { what: "a command was not answered".to_owned() };
        done.pop().map(|(_, response)| response).ok_or_else(lost)
    }

    /// A random block of those that are `len` bytes long.
    fn place(&mut self, size: u64, len: usize) -> u64 {
        let len = len as u64;
        self.places.next_of(size / len) * len / BLOCK
    }

    /// Writes at random places, all of its queue at once, until it is told to stop or refused.
    pub(super) fn write(
        mut self,
        len: usize,
        size: u64,
        stop: &AtomicBool,
        ended: &Sender<Written>,
    ) {
        let mut begun: BTreeMap<u64, Instant> = BTreeMap::new();
        let mut free: Vec<u64> = (0..self.memory.len() as u64).collect();
        let mut done = Vec::new();
        let mut refused = false;
        loop {
            while let Some(token) = free.pop_if(|_| !refused && !stop.load(Ordering::Relaxed)) {
                let cdb = transfer(WRITE_16, self.place(size, len), len);
                let memory = self.memory.get(usize::try_from(token).unwrap_or_default());
                let Some(memory) = memory else { return };
                begun.insert(token, Instant::now());
                let command = command(&cdb, Buffers::whole(memory), Buffers::none());
                let answer = self.queue.submit(token, &self.nexus, command);
                refused |= answer.as_ref().is_some_and(|answer| answer.status != Status::Good);
                done.extend(answer.map(|answer| (token, answer)));
            }
            self.queue.poll(&mut done);
            for (token, response) in done.drain(..) {
                free.push(token);
                refused |= response.status != Status::Good;
                if let Some(begun) = begun.remove(&token) {
                    let (ended_at, status) = (Instant::now(), response.status);
                    let _ = ended.send(Written { begun, ended: ended_at, status });
                }
            }
            if self.queue.in_flight() > 0 {
                let _ = poll(&mut [PollFd::new(&self.queue.ready_fd(), PollFlags::IN)], None);
            } else if refused || stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Reads 4 KiB at random places, all of its queue at once; reads a second.
    pub(super) fn reads(&mut self, size: u64, time: Duration) -> Result<f64, BenchError> {
        let begun = Instant::now();
        let mut free: Vec<u64> = (0..self.memory.len() as u64).collect();
        let mut done = Vec::new();
        let mut count = 0u32;
        while begun.elapsed() < time {
            while let Some(token) = free.pop() {
                let cdb = transfer(READ_16, self.place(size, READ_LEN), READ_LEN);
                let memory = self.memory.get(usize::try_from(token).unwrap_or_default());
                let Some(memory) = memory else { break };
                let command = command(&cdb, Buffers::none(), Buffers::whole(memory));
                done.extend(
                    self.queue.submit(token, &self.nexus, command).map(|answer| (token, answer)),
                );
            }
            self.queue.poll(&mut done);
            for (token, response) in done.drain(..) {
                if response.status != Status::Good {
                    let what = format!("a read ended {:?}", response.status);
                    return Err(BenchError::Scsi { what });
                }
                free.push(token);
                count += 1;
            }
        }
        self.queue.drain(&mut done);
        Ok(f64::from(count) / begun.elapsed().as_secs_f64())
    }
}

fn transfer(opcode: u8, block: u64, len: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..10].copy_from_slice(&block.to_be_bytes());
    let blocks = u32::try_from(len as u64 / BLOCK).unwrap_or_default();
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn command(cdb: &[u8], data_out: Buffers, data_in: Buffers) -> Command {
    let mut bytes = [0; 32];
    bytes[..cdb.len()].copy_from_slice(cdb);
    let cdb_len = u8::try_from(cdb.len()).unwrap_or_default();
    Command { lun: 0, cdb: bytes, cdb_len, tag: 0, data_out, data_in }
}
