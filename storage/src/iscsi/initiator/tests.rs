//! The initiator against the server of this crate, through a relay that cuts, and against targets
//! that do wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::iscsi::secrets::ChapSecrets;
use crate::iscsi::tests::{BLOCK, INITIATOR, TARGET, options as server_options, server, target};
use crate::iscsi::{IscsiName, Server, ServerLimits, ServerOptions};
use crate::scsi::{Command, Outcome, Response, ServiceResponse, Status, TaskManagement};
use crate::testkit::filled;
use crate::{AlignedBuffer, Buffers};

mod cuts;
mod fake;
mod tgt;
mod ways;

const UNTOUCHED: u8 = 0xee;

fn options() -> SessionOptions {
    let mut options =
        SessionOptions::new(IscsiName::new(INITIATOR).unwrap(), [0x80, 0, 0, 0, 0, 1]);
    options.limits.retry_first = Duration::from_millis(1);
    options.limits.retry_most = Duration::from_millis(10);
    // Nothing that should go on by itself goes on because of a question.
    options.limits.idle_time = Duration::from_secs(3600);
    options
}

fn url(address: SocketAddr) -> IscsiUrl {
    format!("iscsi://{address}/{TARGET}/1").parse().unwrap()
}

fn connect(address: SocketAddr, options: SessionOptions) -> Result<RemoteTarget, ConnectError> {
    RemoteTarget::connect(&url(address), options)
}

/// Waits until something is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A session and a queue of it.
struct Rig {
    queue: Box<dyn CommandQueue>,
    remote: RemoteTarget,
}

/// A command and its memory.
struct Asked {
    command: Command,
    data_in: Arc<AlignedBuffer>,
    _data_out: Arc<AlignedBuffer>,
}

fn asked(cdb: &[u8], data_out: &[u8], room: usize) -> Asked {
    let (memory, data_in) = (filled(data_out), filled(&vec![UNTOUCHED; room]));
    let mut bytes = [0; 32];
    bytes[..cdb.len()].copy_from_slice(cdb);
    let command = Command {
        lun: 0,
        cdb: bytes,
        // As guests' devices have it: there is room for 32 bytes.
        cdb_len: 32,
        tag: 77,
        data_out: Buffers::whole(&memory),
        data_in: Buffers::whole(&data_in),
    };
    Asked { command, data_in, _data_out: memory }
}

fn bytes_of(mut memory: Arc<AlignedBuffer>) -> Vec<u8> {
    Arc::get_mut(&mut memory)
        .expect("nobody uses the memory of an answered command")
        .bytes()
        .to_vec()
}

impl Rig {
    fn new(server: &Server, options: SessionOptions) -> Rig {
        Rig::at(server.addresses()[0], options)
    }

    fn at(address: SocketAddr, options: SessionOptions) -> Rig {
        let remote = connect(address, options).unwrap();
        let queue = remote.queue(64).unwrap();
        Rig { queue, remote }
    }

    /// The answer to one command, and what it read.
    fn try_run(&mut self, cdb: &[u8], data_out: &[u8], room: usize) -> (ServiceResponse, Vec<u8>) {
        let Asked { command, data_in, .. } = asked(cdb, data_out, room);
        let answer = self.queue.submit(5, command).unwrap_or_else(|| {
            let mut done = Vec::new();
            self.queue.drain(&mut done);
            assert_eq!(done.len(), 1, "one answer");
            assert_eq!(done[0].0, 5);
            done[0].1.clone()
        });
        (answer, bytes_of(data_in))
    }

    fn run(&mut self, cdb: &[u8], data_out: &[u8], room: usize) -> (Response, Vec<u8>) {
        match self.try_run(cdb, data_out, room) {
            (ServiceResponse::Complete(response), data) => (response, data),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// Has unit attentions reported, which new ports have.
    fn settle(&mut self) -> &mut Rig {
        for _ in 0..10 {
            let (answer, _) = self.try_run(&[0; 6], &[], 0);
            if matches!(answer, ServiceResponse::Complete(Response { status: Status::Good, .. })) {
                return self;
            }
        }
        panic!("the unit is not ready");
    }

    fn write(&mut self, lba: u32, data: &[u8]) {
        let blocks = u16::try_from(data.len() / BLOCK).unwrap();
        let (response, _) = self.run(&cdb10(0x2a, lba, blocks), data, 0);
        assert_eq!(response.status, Status::Good, "{response:?}");
        let all = data.len() as u64;
        assert_eq!((response.data_out, response.wanted), (all, all));
    }

    fn read(&mut self, lba: u32, len: usize) -> Vec<u8> {
        let blocks = u16::try_from(len / BLOCK).unwrap();
        let (response, data) = self.run(&cdb10(0x28, lba, blocks), &[], len);
        assert_eq!((response.status, response.data_in), (Status::Good, len as u64));
        data
    }

    fn manage(&mut self, what: TaskManagement) -> ServiceResponse {
        self.queue.manage(6, 0, what);
        let mut done = Vec::new();
        self.queue.drain(&mut done);
        let found = done.iter().position(|&(token, _)| token == 6).unwrap();
        done[found].1.clone()
    }
}

fn cdb10(code: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = code;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// Bytes that differ from place to place.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at / 7 + at / 512) % 251).unwrap().wrapping_add(seed);
    (0..len).map(byte).collect()
}

/// PERSISTENT RESERVE OUT: its CDB and its parameters.
fn reserve_out(action: u8, kind: u8, key: u64, new_key: u64) -> ([u8; 10], [u8; 24]) {
    let mut parameters = [0; 24];
    parameters[..8].copy_from_slice(&key.to_be_bytes());
    parameters[8..16].copy_from_slice(&new_key.to_be_bytes());
    ([0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], parameters)
}
