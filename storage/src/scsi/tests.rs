//! The target as initiators see it.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Command, Nexus, Response, ScsiQueue, Status, Target, TaskManagement, UnitOptions};
use crate::reservation::{InitiatorPort, Reservations, SenseCode};
use crate::{AlignedBuffer, Buffers, Bytes, Disk, DiskOptions, EngineChoice};

mod blocks;
mod hostile;
mod info;
mod initiator;
mod medium;
mod model;
mod reservations;
mod saving;
mod shared;
mod shared_medium;
mod tasks;

const BLOCK: usize = 512;

fn code(key: u8, asc: u8, ascq: u8) -> SenseCode {
    SenseCode { key, asc, ascq }
}

fn options(engine: EngineChoice) -> DiskOptions {
    DiskOptions { engine, ..DiskOptions::default() }
}

fn unit(size: u64, engine: EngineChoice) -> UnitOptions {
    let disk = Disk::scratch(Bytes::new(size), &options(engine)).unwrap();
    UnitOptions { disk, identity: "a disk".to_owned(), reservations: Reservations::default() }
}

fn target(size: u64) -> Target {
    Target::new(vec![unit(size, EngineChoice::Auto)], None).unwrap()
}

/// A nexus that has heard its unit attention.
fn nexus(target: &Target, name: &str) -> Nexus {
    let nexus = target.nexus(InitiatorPort::new(name).unwrap());
    for access in &nexus.0.access {
        while access.take_attention().is_some() {}
    }
    nexus
}

/// An initiator with a thread of its own.
struct Rig {
    target: Target,
    queue: ScsiQueue,
    nexus: Nexus,
}

/// An answer and the data-in buffer.
struct Got {
    response: Response,
    data: Vec<u8>,
}

impl Got {
    #[track_caller]
    fn good(self) -> Vec<u8> {
        assert_eq!(self.response.status, Status::Good, "{:x?}", self.response.sense.bytes());
        let filled = usize::try_from(self.response.data_in).unwrap();
        self.data[..filled].to_vec()
    }

    #[track_caller]
    fn check(&self, key: u8, asc: u8, ascq: u8) -> &[u8] {
        assert_eq!(self.response.status, Status::CheckCondition);
        assert_eq!(self.response.sense.code(), Some(code(key, asc, ascq)));
        self.response.sense.bytes()
    }

    #[track_caller]
    fn conflict(&self) {
        assert_eq!(self.response.status, Status::ReservationConflict);
    }
}

/// What lies in memory that nobody fills.
const UNTOUCHED: u8 = 0xa5;

fn filled(bytes: &[u8]) -> Arc<AlignedBuffer> {
    crate::testkit::filled(bytes)
}

fn command(cdb: &[u8], data_out: &[u8], room: &Arc<AlignedBuffer>) -> Command {
    let mut bytes = [0; 32];
    bytes[..cdb.len()].copy_from_slice(cdb);
    Command {
        lun: 0,
        cdb: bytes,
        cdb_len: u8::try_from(cdb.len()).unwrap(),
        tag: 0,
        data_out: Buffers::whole(&filled(data_out)),
        data_in: Buffers::whole(room),
    }
}

impl Rig {
    fn new(size: u64) -> Rig {
        Rig::on(&target(size), "iqn.a,i,0x000000000001")
    }

    fn on(target: &Target, name: &str) -> Rig {
        let queue = target.queue(8).unwrap();
        Rig { nexus: nexus(target, name), queue, target: target.clone() }
    }

    fn run_at(&mut self, lun: u64, cdb: &[u8], data_out: &[u8], room: usize) -> Got {
        let mut memory = filled(&vec![UNTOUCHED; room]);
        let command = Command { lun, ..command(cdb, data_out, &memory) };
        let response = self.queue.submit(5, &self.nexus, command).unwrap_or_else(|| {
            let mut done = Vec::new();
            self.queue.drain(&mut done);
            assert_eq!(done.len(), 1);
            assert_eq!(done[0].0, 5);
            done[0].1.clone()
        });
        assert_eq!(self.queue.in_flight(), 0);
        let data = Arc::get_mut(&mut memory).expect("the command is over").bytes().to_vec();
        let filled = usize::try_from(response.data_in).unwrap();
        assert!(filled <= room);
        if response.status == Status::Good {
            assert!(data[filled..].iter().all(|byte| *byte == UNTOUCHED));
        }
        assert!(response.data_out <= data_out.len() as u64);
        assert_eq!(response.status == Status::CheckCondition, !response.sense.is_empty());
        Got { response, data }
    }

    fn run(&mut self, cdb: &[u8], data_out: &[u8], room: usize) -> Got {
        self.run_at(0, cdb, data_out, room)
    }

    fn write(&mut self, lba: u32, data: &[u8]) -> Got {
        let count = u16::try_from(data.len() / BLOCK).unwrap();
        self.run(&cdb10(0x2a, 0, lba, count), data, 0)
    }

    fn read(&mut self, lba: u32, count: u16) -> Vec<u8> {
        self.run(&cdb10(0x28, 0, lba, count), &[], usize::from(count) * BLOCK).good()
    }
}

fn cdb10(opcode: u8, flags: u8, lba: u32, count: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&count.to_be_bytes());
    cdb
}

fn cdb12(opcode: u8, flags: u8, lba: u32, count: u32) -> [u8; 12] {
    let mut cdb = [0; 12];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[6..10].copy_from_slice(&count.to_be_bytes());
    cdb
}

fn cdb16(opcode: u8, flags: u8, lba: u64, count: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&count.to_be_bytes());
    cdb
}

fn compare_and_write(lba: u64, count: u8) -> [u8; 16] {
    cdb16(0x89, 0, lba, u32::from(count))
}

fn reserve_out(action: u8, kind: u8, key: u64, new: u64) -> ([u8; 10], [u8; 24]) {
    let (mut cdb, mut list) = ([0; 10], [0; 24]);
    (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5f, action, kind, 24);
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&new.to_be_bytes());
    (cdb, list)
}

impl Rig {
    fn persistent_out(&mut self, action: u8, kind: u8, key: u64, new: u64) -> Got {
        let (cdb, list) = reserve_out(action, kind, key, new);
        self.run(&cdb, &list, 0)
    }
}

/// Bytes that differ from block to block.
fn pattern(seed: u8, blocks: usize) -> Vec<u8> {
    bytes(seed, blocks * BLOCK)
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed.wrapping_add(u8::try_from(at / BLOCK % 199 + at % 7).unwrap())).collect()
}
