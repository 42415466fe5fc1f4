use std::sync::Arc;

use memshare::{GuestMemory, MemoryHandle};
use storage::reservation::{InitiatorPort, Reservations};
use storage::scsi::{Initiator, LocalInitiator, Target, UnitOptions};
use storage::{Bytes as Size, Disk, DiskOptions};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::Scsi;
use crate::virtio::VirtioDevice;
use crate::virtio::driver::{Buffer, Driver, Told, activation, memory};

mod control;
mod data;
mod faults;
mod held;

const RINGS: u64 = 0x1_0000;
const REQUEST: u64 = 0x10_0000;
const RESPONSE: u64 = 0x18_0000;
const DATA_OUT: u64 = 0x20_0000;
const DATA_IN: u64 = 0x30_0000;
const TABLE: u64 = 0x40_0000;
const BLOCK: usize = 512;
/// What lies in memory that nobody fills.
const UNTOUCHED: u8 = 0xA5;

const OK: u8 = 0;
const OVERRUN: u8 = 1;
const ABORTED: u8 = 2;
const BAD_TARGET: u8 = 3;
const FAILURE: u8 = 9;

const CHECK: u8 = 0x02;
const CONFLICT: u8 = 0x18;

const UNIT: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];
const SENSE: u32 = 96;

/// A started device and its driver: control, event and two request queues.
struct Host {
    device: Scsi,
    drivers: Vec<Driver>,
    told: Arc<Told>,
    memory: Arc<GuestMemory>,
    handle: MemoryHandle,
    sense_size: u32,
    cdb_size: u32,
}

/// An answer.
#[derive(Debug)]
struct Got {
    response: u8,
    status: u8,
    residual: u32,
    sense: Vec<u8>,
    data: Vec<u8>,
    used: u32,
}

impl Got {
    #[track_caller]
    fn good(self) -> Vec<u8> {
        assert_eq!((self.response, self.status), (OK, 0), "{:x?}", self.sense);
        self.data
    }

    /// Sense key, additional sense code and its qualifier.
    #[track_caller]
    fn check(&self) -> (u8, u8, u8) {
        assert_eq!((self.response, self.status), (OK, CHECK));
        assert_eq!(self.sense.len(), 18);
        (self.sense[2], self.sense[12], self.sense[13])
    }
}

fn target() -> Target {
    let disk = Disk::scratch(Size::new(1 << 20), &DiskOptions::default()).unwrap();
    let unit =
        UnitOptions { disk, identity: "a disk".to_owned(), reservations: Reservations::default() };
    Target::new(vec![unit], None).unwrap()
}

fn initiator(target: &Target, name: &str) -> Arc<dyn Initiator> {
    let nexus = target.nexus(InitiatorPort::new(name).unwrap());
    Arc::new(LocalInitiator::new(target.clone(), nexus))
}

impl Host {
    fn new(initiator: Arc<dyn Initiator>) -> Host {
        Host::in_memory(initiator, memory())
    }

    fn in_memory(initiator: Arc<dyn Initiator>, handle: MemoryHandle) -> Host {
        let device = Scsi::new(initiator, 2);
        let memory = handle.memory().into_inner();
        let drivers = Host::drivers(&memory);
        let told = Arc::new(Told::default());
        let (sense_size, cdb_size) = (SENSE, 32);
        let mut host = Host { device, drivers, told, memory, handle, sense_size, cdb_size };
        host.start();
        host
    }

    /// One on a target, that has heard of the power on.
    fn on(target: &Target, name: &str) -> Host {
        let mut host = Host::new(initiator(target, name));
        assert_eq!(host.run(&[0; 6], &[], 0).check(), (6, 0x29, 0));
        host
    }

    fn drivers(memory: &Arc<GuestMemory>) -> Vec<Driver> {
        (0..4).map(|n| Driver::new(memory.clone(), RINGS * (n + 1), 16, n % 2 == 0)).collect()
    }

    fn start(&mut self) {
        let drivers: Vec<&Driver> = self.drivers.iter().collect();
        let features = self.device.info().features;
        self.device.start(activation(&self.handle, features, &drivers, &self.told)).unwrap();
    }

    /// As after a reset by the driver.
    fn restart(&mut self) {
        self.device.stop();
        self.drivers = Host::drivers(&self.memory);
        self.start();
    }

    fn send(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let old = self.drivers[queue].position();
        let head = self.drivers[queue].add(buffers).unwrap();
        self.drivers[queue].notify_since(old);
        head
    }

    fn ask(&mut self, queue: usize, buffers: &[Buffer]) -> u32 {
        let head = self.send(queue, buffers);
        let (used, len) = self.drivers[queue].await_used();
        assert_eq!(used, head);
        len
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn request_len(&self) -> u32 {
        19 + self.cdb_size
    }

    fn response_len(&self) -> u32 {
        12 + self.sense_size
    }

    fn prepare(&self, lun: [u8; 8], tag: u64, cdb: &[u8], data_out: &[u8]) {
        self.put(REQUEST, &[0; 300]);
        self.put(REQUEST, &lun);
        self.put(REQUEST + 8, &tag.to_le_bytes());
        self.put(REQUEST + 19, cdb);
        self.put(DATA_OUT, data_out);
        self.put(RESPONSE, &vec![UNTOUCHED; 12 + self.sense_size as usize]);
    }

    /// The usual buffers of a request.
    fn buffers(&self, out: usize, room: usize) -> Vec<Buffer> {
        let len = |len: usize| u32::try_from(len).unwrap();
        let buffers = [
            (REQUEST, self.request_len(), false),
            (DATA_OUT, len(out), false),
            (RESPONSE, self.response_len(), true),
            (DATA_IN, len(room), true),
        ];
        buffers.into_iter().filter(|buffer| buffer.1 > 0).collect()
    }

    fn got(&self, room: usize, used: u32) -> Got {
        let response = self.bytes(RESPONSE, 12 + self.sense_size as usize);
        let number = |at: usize| u32::from_le_bytes(response[at..at + 4].try_into().unwrap());
        let len = number(0) as usize;
        assert_eq!(response[8..10], [0, 0]);
        Got {
            residual: number(4),
            status: response[10],
            response: response[11],
            sense: response[12..12 + len].to_vec(),
            data: self.bytes(DATA_IN, room),
            used,
        }
    }

    fn run_at(
        &mut self,
        (queue, lun): (usize, [u8; 8]),
        cdb: &[u8],
        data_out: &[u8],
        room: usize,
    ) -> Got {
        self.prepare(lun, 1, cdb, data_out);
        self.put(DATA_IN, &vec![UNTOUCHED; room + 1]);
        let buffers = self.buffers(data_out.len(), room);
        let used = self.ask(queue, &buffers);
        assert_eq!(self.bytes(DATA_IN + room as u64, 1), [UNTOUCHED]);
        self.got(room, used)
    }

    fn run(&mut self, cdb: &[u8], data_out: &[u8], room: usize) -> Got {
        self.run_at((2, UNIT), cdb, data_out, room)
    }

    fn set_config(&mut self, at: usize, value: u32) {
        self.device.write_config(at, &value.to_le_bytes());
    }

    fn config(&self, at: usize) -> u32 {
        let mut field = [0; 4];
        self.device.read_config(at, &mut field);
        u32::from_le_bytes(field)
    }
}

fn cdb10(opcode: u8, lba: u32, count: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&count.to_be_bytes());
    cdb
}

fn cdb16(opcode: u8, lba: u64, count: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&count.to_be_bytes());
    cdb
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 241).unwrap()).collect()
}
