//! The load of an initiator.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use storage::iscsi::{IscsiName, IscsiUrl, RemoteTarget, SessionOptions};
use storage::scsi::{Command, CommandQueue, Initiator, ServiceResponse, Status};
use storage::{AlignedBuffer, Buffers};

use super::DEPTH;
use crate::bench::BenchError;
use crate::bench::places::Places;

const READ_16: u8 = 0x88;
const WRITE_16: u8 = 0x8a;
const TEST_UNIT_READY: u8 = 0;
const BLOCK: u64 = 512;
const LEN: u64 = BUFFER_LEN as u64;
const BUFFER_LEN: usize = 4096;
const ISID: [u8; 6] = [0x80, 0, 0, 0, 0, 1];
/// How long an answer may take.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Requests of 4 KiB a second at random places of the disk at `url`.
pub(super) fn rate(
    url: Option<&IscsiUrl>,
    size: u64,
    write: bool,
    time: Duration,
) -> Result<f64, BenchError> {
    let Some(url) = url else {
        return Err(BenchError::Scsi { what: "the server has no address".to_owned() });
    };
    let name = IscsiName::new("iqn.2026-11.cohort.bench:initiator").map_err(BenchError::scsi)?;
    let target = RemoteTarget::connect(url, SessionOptions::new(name, ISID));
    let target = target.map_err(BenchError::scsi)?;
    let mut load = Load {
        queue: target.queue(DEPTH).map_err(BenchError::scsi)?,
        memory: (0..DEPTH).map(|_| Arc::new(AlignedBuffer::new(BUFFER_LEN))).collect(),
        places: Places::default(),
        done: Vec::new(),
    };
    // Takes the unit attentions of a new session, one at a time.
    load.submit(0, &[TEST_UNIT_READY; 6], None)?;
    while load.wait()?.iter().any(|(_, status)| *status != Status::Good) {
        load.submit(0, &[TEST_UNIT_READY; 6], None)?;
    }
    let begun = Instant::now();
    let mut count = 0u32;
    for token in 0..u64::from(DEPTH) {
        load.transfer(token, write, size)?;
    }
    loop {
        let done = load.wait()?;
        let over = begun.elapsed() >= time;
        for (token, status) in done {
            if status != Status::Good {
                return Err(BenchError::Scsi { what: format!("a request ended {status:?}") });
            }
            count += 1;
            if !over {
                load.transfer(token, write, size)?;
            }
        }
        if load.queue.in_flight() == 0 {
            return Ok(f64::from(count) / begun.elapsed().as_secs_f64());
        }
    }
}

struct Load {
    queue: Box<dyn CommandQueue>,
    memory: Vec<Arc<AlignedBuffer>>,
    places: Places,
    done: Vec<(u64, ServiceResponse)>,
}

impl Load {
    fn transfer(&mut self, token: u64, write: bool, size: u64) -> Result<(), BenchError> {
        let at = self.places.next_of(size / LEN);
        let mut cdb = [0; 16];
        cdb[0] = if write { WRITE_16 } else { READ_16 };
        cdb[2..10].copy_from_slice(&(at * LEN / BLOCK).to_be_bytes());
        cdb[13] = u8::try_from(LEN / BLOCK).unwrap_or_default();
        self.submit(token, &cdb, Some(write))
    }

    fn submit(&mut self, token: u64, cdb: &[u8], write: Option<bool>) -> Result<(), BenchError> {
        let mut bytes = [0; 32];
        bytes[..cdb.len()].copy_from_slice(cdb);
        let lost = || BenchError::Scsi { what: "an answer to nothing".to_owned() };
        let memory = self.memory.get(usize::try_from(token).unwrap_or(usize::MAX));
        let memory = Buffers::whole(memory.ok_or_else(lost)?);
        let (data_out, data_in) = match write {
            None => (Buffers::none(), Buffers::none()),
            Some(true) => (memory, Buffers::none()),
            Some(false) => (Buffers::none(), memory),
        };
        let cdb_len = u8::try_from(cdb.len()).unwrap_or_default();
        let command = Command { lun: 0, cdb: bytes, cdb_len, tag: token, data_out, data_in };
        self.done.extend(self.queue.submit(token, command).map(|answer| (token, answer)));
        Ok(())
    }

    /// Waits until something is answered.
    fn wait(&mut self) -> Result<Vec<(u64, Status)>, BenchError> {
        loop {
            self.queue.poll(&mut self.done);
            if !self.done.is_empty() {
                break;
            }
            let mut fds = [PollFd::from_borrowed_fd(self.queue.ready_fd(), PollFlags::IN)];
            if poll(&mut fds, Some(&PATIENCE)) == Ok(0) {
                return Err(BenchError::Scsi { what: "the target does not answer".to_owned() });
            }
        }
        let status = |(token, answer)| match answer {
            ServiceResponse::Complete(response) => Ok((token, response.status)),
            other => Err(BenchError::Scsi { what: format!("a request ended as {other:?}") }),
        };
        self.done.drain(..).map(status).collect()
    }
}
