use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use memshare::{GuestMemory, MemoryHandle};
use proptest::prelude::*;
use storage::reservation::{InitiatorPort, Reservations};
use storage::scsi::{SharedMedium, Target, UnitOptions};
use storage::{Disk, DiskOptions, EngineChoice};
use virtio_bindings::virtio_blk::*;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::Block;
use crate::virtio::VirtioDevice;
use crate::virtio::driver::{Buffer, Driver, MEMORY, Told, activation, memory};

mod shared;

const RINGS: u64 = 0x1_0000;
const HEADER: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const STATUS: u64 = 0x30_0000;
const DISK_LEN: usize = 1 << 20;
const NO_STATUS: u8 = 0xEE;

/// What a device is on.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A disk of its own.
    Own,
    /// A logical unit of a target that others may use as well.
    Shared,
}

/// A started device on a file, and its driver.
struct Machine {
    device: Box<dyn VirtioDevice>,
    driver: Driver,
    told: Arc<Told>,
    memory: Arc<GuestMemory>,
    handle: MemoryHandle,
    file: File,
    _folder: tempfile::TempDir,
}

fn byte_at(position: usize) -> u8 {
    u8::try_from(position % 241).unwrap()
}

fn disk(engine: EngineChoice, read_only: bool) -> (Disk, File, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("disk");
    let content: Vec<u8> = (0..DISK_LEN).map(byte_at).collect();
    std::fs::write(&path, content).unwrap();
    let options = DiskOptions { read_only, engine, ..DiskOptions::default() };
    let disk = Disk::open(&path, &options).unwrap();
    (disk, File::open(&path).unwrap(), folder)
}

fn target(disk: Disk) -> Target {
    let (identity, reservations) = ("a disk".to_owned(), Reservations::default());
    Target::new(vec![UnitOptions { disk, identity, reservations }], None).unwrap()
}

fn shared(target: &Target, name: &str) -> SharedMedium {
    let nexus = target.nexus(InitiatorPort::new(name).unwrap());
    SharedMedium::new(target.clone(), 0, nexus).unwrap()
}

fn device(kind: Kind, disk: Disk, queues: u16, serial: &str) -> Box<dyn VirtioDevice> {
    match kind {
        Kind::Own => Box::new(Block::new(disk, queues, serial)),
        Kind::Shared => Box::new(Block::new(shared(&target(disk), "a"), queues, serial)),
    }
}

impl Machine {
    fn new(kind: Kind, engine: EngineChoice, read_only: bool, refused: u64) -> Machine {
        let (disk, file, folder) = disk(engine, read_only);
        let device = device(kind, disk, 1, "serial number of disk");
        Machine::of(device, file, folder, refused)
    }

    fn of(
        mut device: Box<dyn VirtioDevice>,
        file: File,
        folder: tempfile::TempDir,
        refused: u64,
    ) -> Machine {
        let handle = memory();
        let memory = handle.memory().into_inner();
        let driver = Driver::new(memory.clone(), RINGS, 16, true);
        let told = Arc::new(Told::default());
        let features = device.info().features & !refused;
        device.start(activation(&handle, features, &[&driver], &told)).unwrap();
        Machine { device, driver, told, memory, handle, file, _folder: folder }
    }

    fn usual(kind: Kind) -> Machine {
        Machine::new(kind, EngineChoice::Auto, false, 0)
    }

    fn header(&self, kind: u32, sector: u64) {
        self.driver.write(HEADER, kind);
        self.driver.write(HEADER + 4, 0u32);
        self.driver.write(HEADER + 8, sector);
        self.driver.write(STATUS, NO_STATUS);
    }

    fn send(&mut self, buffers: &[Buffer]) -> (u8, u32) {
        let old = self.driver.position();
        let head = self.driver.add(buffers).unwrap();
        self.driver.notify_since(old);
        let (used, len) = self.driver.await_used();
        assert_eq!(used, head);
        (self.memory.read_obj(GuestAddress(STATUS)).unwrap(), len)
    }

    /// One request with data in one piece; the status and the used length.
    fn request(&mut self, kind: u32, sector: u64, len: u32, to_device: bool) -> (u8, u32) {
        self.header(kind, sector);
        let (header, status) = ((HEADER, 16, false), (STATUS, 1, true));
        if len == 0 {
            self.send(&[header, status])
        } else {
            self.send(&[header, (DATA, len, !to_device), status])
        }
    }

    fn data(&self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(DATA)).unwrap();
        data
    }

    fn on_disk(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.file.read_exact_at(&mut data, offset).unwrap();
        data
    }

    fn range_request(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        self.driver.write(DATA, sector);
        self.driver.write(DATA + 8, sectors);
        self.driver.write(DATA + 12, flags);
        self.request(kind, 0, 16, true).0
    }
}

/// Makes tests of functions: one on each kind of medium.
macro_rules! on_every_medium {
    ($($name:ident),+ $(,)?) => {
        mod own {
            $(#[test] fn $name() { super::$name(super::Kind::Own); })+
        }
        mod shared_medium {
            $(#[test] fn $name() { super::$name(super::Kind::Shared); })+
        }
    };
}

on_every_medium! {
    data_goes_both_ways_with_every_engine,
    a_request_may_be_cut_into_any_pieces,
    the_serial_number_is_twenty_bytes_at_most,
    what_cannot_be_done_is_an_error_of_that_request_alone,
    zeroes_and_discards_change_their_range_only,
    a_read_only_disk_is_not_written,
    a_driver_that_cannot_flush_gets_write_through,
    the_driver_chooses_between_write_back_and_write_through,
    what_the_driver_chose_before_it_was_ready_counts,
    a_request_without_header_or_status_breaks_the_queue,
    stopping_answers_everything_and_can_be_repeated,
    requests_that_wait_when_the_device_starts_are_served,
}

fn data_goes_both_ways_with_every_engine(kind: Kind) {
    for engine in [EngineChoice::Auto, EngineChoice::Positional] {
        let mut machine = Machine::new(kind, engine, false, 0);
        assert_eq!(machine.request(VIRTIO_BLK_T_IN, 3, 4096, false), (0, 4097));
        let wanted: Vec<u8> = (3 * 512..3 * 512 + 4096).map(byte_at).collect();
        assert_eq!(machine.data(4096), wanted);
        machine.memory.write_slice(&[0xAB; 1024], GuestAddress(DATA)).unwrap();
        assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 7, 1024, true), (0, 1));
        assert_eq!(machine.on_disk(7 * 512, 1024), [0xAB; 1024]);
        assert_eq!(machine.on_disk(9 * 512, 1), [byte_at(9 * 512)]);
        assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, 0, false), (0, 1));
    }
}

fn a_request_may_be_cut_into_any_pieces(kind: Kind) {
    let mut machine = Machine::usual(kind);
    machine.header(VIRTIO_BLK_T_IN, 1);
    // The status byte at the end of a buffer that also takes data, the header in three parts.
    let used = machine.send(&[
        (HEADER, 3, false),
        (HEADER + 3, 0, false),
        (HEADER + 3, 12, false),
        (HEADER + 15, 1, false),
        (DATA, 5, true),
        (DATA + 5, 1000, true),
        (STATUS - 19, 20, true),
    ]);
    assert_eq!(used, (0, 1025));
    let wanted: Vec<u8> = (512..512 + 1005).map(byte_at).collect();
    assert_eq!(machine.data(1005), wanted);
}

fn the_serial_number_is_twenty_bytes_at_most(kind: Kind) {
    let mut machine = Machine::usual(kind);
    assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, 20, false), (0, 21));
    assert_eq!(machine.data(21), b"serial number of dis\0");
    assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, 64, false), (0, 20));
    machine.driver.write(DATA, 0u64);
    assert_eq!(machine.request(VIRTIO_BLK_T_GET_ID, 0, 4, false), (0, 5));
    assert_eq!(machine.data(8), b"seri\0\0\0\0");
}

fn what_cannot_be_done_is_an_error_of_that_request_alone(kind: Kind) {
    let mut machine = Machine::usual(kind);
    let sectors = DISK_LEN as u64 / 512;
    let (ok, io_error, unsupported) = (0, 1, 2);
    assert_eq!(machine.request(VIRTIO_BLK_T_IN, sectors, 512, false), (io_error, 0));
    assert_eq!(machine.request(VIRTIO_BLK_T_IN, sectors - 1, 1024, false).0, io_error);
    assert_eq!(machine.request(VIRTIO_BLK_T_OUT, u64::MAX, 512, true), (io_error, 1));
    assert_eq!(machine.request(VIRTIO_BLK_T_OUT, u64::MAX / 512, 512, true).0, io_error);
    assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, 100, false).0, io_error, "part of a sector");
    assert_eq!(machine.request(10, 0, 512, false), (unsupported, 0));
    assert_eq!(machine.request(0x8000_0001, 0, 512, true).0, unsupported);
    assert_eq!(machine.range_request(VIRTIO_BLK_T_DISCARD, 0, 8, 1), unsupported);
    assert_eq!(machine.range_request(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), unsupported);
    assert_eq!(machine.range_request(VIRTIO_BLK_T_DISCARD, sectors, 8, 0), io_error);
    assert_eq!(machine.range_request(VIRTIO_BLK_T_DISCARD, 0, u32::MAX, 0), io_error);
    assert_eq!(machine.request(VIRTIO_BLK_T_DISCARD, 0, 32, true).0, io_error, "two ranges");
    assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, 0, false), (ok, 1), "no data at all");
    assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, 512, false), (ok, 513));
    assert_eq!(machine.told.needs_reset.load(std::sync::atomic::Ordering::SeqCst), 0);
}

fn zeroes_and_discards_change_their_range_only(kind: Kind) {
    let mut machine = Machine::usual(kind);
    assert_eq!(machine.range_request(VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 1), 0);
    assert_eq!(machine.on_disk(4096, 4096), [0; 4096]);
    assert_eq!(machine.range_request(VIRTIO_BLK_T_WRITE_ZEROES, 17, 3, 0), 0);
    assert_eq!(machine.on_disk(17 * 512, 3 * 512), [0; 3 * 512]);
    assert_eq!(machine.range_request(VIRTIO_BLK_T_DISCARD, 64, 64, 0), 0);
    for place in [4095, 8192, 17 * 512 - 1, 20 * 512, 64 * 512 - 1, 128 * 512] {
        assert_eq!(machine.on_disk(place as u64, 1), [byte_at(place)]);
    }
}

fn a_read_only_disk_is_not_written(kind: Kind) {
    let mut machine = Machine::new(kind, EngineChoice::Auto, true, 0);
    assert_ne!(machine.device.info().features & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 0, 512, true).0, 1);
    assert_eq!(machine.range_request(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), 2, "not offered");
    assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, 512, false).0, 0);
    assert_eq!(machine.request(VIRTIO_BLK_T_FLUSH, 0, 0, false).0, 0);
    assert_eq!(machine.on_disk(0, 1), [0]);
}

fn a_driver_that_cannot_flush_gets_write_through(kind: Kind) {
    let refused = 1 << VIRTIO_BLK_F_CONFIG_WCE | 1 << VIRTIO_BLK_F_FLUSH;
    let mut machine = Machine::new(kind, EngineChoice::Auto, false, refused);
    let mut writeback = [9];
    machine.device.read_config(0x20, &mut writeback);
    assert_eq!(writeback, [0]);
    machine.memory.write_slice(&[1; 512], GuestAddress(DATA)).unwrap();
    assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 0, 512, true), (0, 1));
    assert_eq!(machine.on_disk(0, 512), [1; 512]);
    machine.device.stop();
    machine.device.read_config(0x20, &mut writeback);
    assert_eq!(writeback, [1], "as after a reset");
}

fn the_driver_chooses_between_write_back_and_write_through(kind: Kind) {
    let mut machine = Machine::usual(kind);
    for choice in [0, 1, 0] {
        machine.device.write_config(0x20, &[choice]);
        let mut writeback = [9];
        machine.device.read_config(0x20, &mut writeback);
        assert_eq!(writeback, [choice]);
        assert_eq!(machine.request(VIRTIO_BLK_T_OUT, 0, 512, true), (0, 1));
    }
    machine.device.write_config(0, &[0; 8]);
    let mut capacity = [0; 8];
    machine.device.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), DISK_LEN as u64 / 512);
    let mut beyond = [9; 8];
    machine.device.read_config(0x38, &mut beyond);
    assert_eq!(beyond, [1, 0, 0, 0, 0, 0, 0, 0]);
    machine.device.read_config(usize::MAX - 2, &mut beyond);
}

fn what_the_driver_chose_before_it_was_ready_counts(kind: Kind) {
    let flush_missing = 1 << VIRTIO_BLK_F_FLUSH;
    // Refused features, what is chosen before the start, what holds after it.
    for (refused, chosen, wanted) in
        [(0, Some(0), 0), (0, None, 1), (flush_missing, None, 0), (flush_missing, Some(1), 0)]
    {
        let (disk, _, _folder) = disk(EngineChoice::Auto, false);
        let mut device = device(kind, disk, 1, "");
        let handle = memory();
        let driver = Driver::new(handle.memory().into_inner(), RINGS, 16, true);
        if let Some(chosen) = chosen {
            device.write_config(0x20, &[chosen]);
        }
        let features = device.info().features & !refused;
        device.start(activation(&handle, features, &[&driver], &Arc::default())).unwrap();
        let mut writeback = [9];
        device.read_config(0x20, &mut writeback);
        assert_eq!(writeback, [wanted], "refused {refused:#x}, chosen {chosen:?}");
    }
}

fn a_request_without_header_or_status_breaks_the_queue(kind: Kind) {
    let chains: [&[Buffer]; 5] = [
        &[(HEADER, 16, false)],
        &[(HEADER, 15, false), (STATUS, 1, true)],
        &[(HEADER, 16, false), (MEMORY, 1, true)],
        &[(HEADER, 16, false), (u64::MAX, 2, true)],
        &[(MEMORY - 8, 16, false), (STATUS, 1, true)],
    ];
    for chain in chains {
        let mut machine = Machine::usual(kind);
        machine.header(VIRTIO_BLK_T_IN, 0);
        let head = machine.driver.add(chain).unwrap();
        machine.driver.doorbell.write(1).unwrap();
        machine.told.await_needs_reset();
        assert_eq!(machine.driver.take_used(), None);
        machine.device.stop();
        let mut driver = Driver::new(machine.memory.clone(), RINGS, 16, true);
        std::mem::swap(&mut driver, &mut machine.driver);
        let features = machine.device.info().features;
        let with = activation(&machine.handle, features, &[&machine.driver], &machine.told);
        machine.device.start(with).unwrap();
        assert_eq!(machine.request(VIRTIO_BLK_T_IN, 0, 512, false), (0, 513), "after {head}");
    }
}

fn stopping_answers_everything_and_can_be_repeated(kind: Kind) {
    for _ in 0..20 {
        let mut machine = Machine::usual(kind);
        machine.header(VIRTIO_BLK_T_IN, 0);
        let mut sent = 0;
        for slot in 0..5 {
            let data = (DATA + 0x1000 * slot, 0x1000, true);
            machine.driver.add(&[(HEADER, 16, false), data, (STATUS, 1, true)]).unwrap();
            sent += 1;
        }
        machine.driver.doorbell.write(1).unwrap();
        let [state] = machine.device.stop()[..] else { panic!("one queue") };
        let answered = (0..).take_while(|_| machine.driver.take_used().is_some()).count();
        assert_eq!(state.next_available, state.next_used, "taken and answered");
        assert_eq!(usize::from(state.next_used), answered);
        assert!(answered <= sent);
        let interrupts = u64::from(answered > 0);
        assert_eq!(machine.told.used(), interrupts, "one, for the first of them was asked for");
        assert!(machine.device.stop().is_empty());
    }
}

fn requests_that_wait_when_the_device_starts_are_served(kind: Kind) {
    let (disk, _, _folder) = disk(EngineChoice::Auto, false);
    let mut device = device(kind, disk, 2, "");
    let handle = memory();
    let memory = handle.memory().into_inner();
    let mut drivers = [0, 1].map(|n| Driver::new(memory.clone(), RINGS * (n + 1), 16, n == 1));
    for driver in &mut drivers {
        driver.write(HEADER, VIRTIO_BLK_T_FLUSH);
        driver.add(&[(HEADER, 16, false), (STATUS, 1, true)]).unwrap();
    }
    let told = Arc::new(Told::default());
    let [first, second] = &drivers;
    let features = device.info().features;
    device.start(activation(&handle, features, &[first, second], &told)).unwrap();
    for driver in &mut drivers {
        assert_eq!(driver.await_used().1, 1);
    }
    assert_eq!(device.stop().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in rings, headers and buffers: the device answers, errs or asks for a reset,
    /// and can be stopped.
    #[test]
    fn hostile_rings_do_no_harm(
        medium in prop_oneof![Just(Kind::Own), Just(Kind::Shared)],
        rings in proptest::collection::vec((0u64..0x9000, any::<u64>()), 0..64),
        table in proptest::collection::vec(
            (prop_oneof![Just(HEADER), Just(STATUS), 0..MEMORY + 9, any::<u64>()],
             prop_oneof![Just(1u32), Just(16), 0u32..9000, any::<u32>()],
             0u16..8, 0u16..18), 0..16),
        kind in prop_oneof![0u32..16, any::<u32>()],
        sector in prop_oneof![0u64..3000, any::<u64>()],
        ahead in prop_oneof![0u16..20, any::<u16>()],
    ) {
        let mut machine = Machine::usual(medium);
        machine.header(kind, sector);
        for (at, value) in rings {
            machine.driver.write(RINGS + (at & !7), value);
        }
        for (slot, (address, len, flags, next)) in (0u64..).zip(table) {
            let place = machine.driver.layout.descriptors + 16 * slot;
            machine.driver.set_descriptor(place, (address, len), flags, next);
        }
        machine.driver.set_available_index(ahead);
        machine.driver.doorbell.write(1).unwrap();
        std::thread::yield_now();
        machine.device.stop();
        prop_assert!(machine.device.stop().is_empty());
    }
}
