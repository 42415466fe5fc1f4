//! Requests a second through one queue of a block device: a thread plays the driver, polls its
//! used ring and rings the doorbell when asked to, as a guest would. `cargo bench -p devices`,
//! with a folder as argument for the disk's file (by default the host's memory).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use devices::virtio::blk::Block;
use devices::virtio::queue::{Queue, QueueLayout};
use devices::virtio::{Activation, StartedQueue, Transport, VirtioDevice};
use memshare::{GuestMemory, MemoryHandle};
use storage::{Disk, DiskOptions};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const DISK: u64 = 256 << 20;
const DISK_LEN: usize = 256 << 20;
const BLOCK: u64 = 4096;
const SIZE: u16 = 256;
const RINGS: u64 = 0x1_0000;
const AVAILABLE: u64 = RINGS + 0x2000;
const USED: u64 = RINGS + 0x4000;
const HEADERS: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const EVENT_IDX: u64 = 1 << 29;
const MILLIS: u64 = 400;

struct Interrupts(AtomicU64);

impl Transport for Interrupts {
    fn notify_used(&self, _queue: u16) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn notify_config(&self) {}
    fn needs_reset(&self) {
        panic!("the device asks for a reset");
    }
}

fn main() {
    // `cargo bench` passes options of its own.
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let path = PathBuf::from(folder.unwrap_or("/dev/shm".to_owned())).join("cohort-bench-blk");
    std::fs::write(&path, vec![0x5A; DISK_LEN]).expect("disk");
    println!("{:>6} {:>3} {:>10} {:>9} {:>10}", "", "qd", "requests/s", "doorbells", "interrupts");
    for kind in [0u32, 1] {
        for depth in [1, 4, 32] {
            run(&path, kind, depth);
        }
    }
    std::fs::remove_file(&path).expect("remove");
}

fn run(path: &std::path::Path, kind: u32, depth: u16) {
    let handle = MemoryHandle::new(
        GuestMemory::from_ranges(&[(GuestAddress(0), 16 << 20)]).expect("memory"),
    );
    let memory = handle.memory().into_inner();
    // One chain of three descriptors for each request that can be under way.
    for n in 0..u64::from(depth) {
        let (header, data) = (HEADERS + 32 * n, DATA + BLOCK * n);
        memory.write_obj([kind, 0], GuestAddress(header)).expect("header");
        let to_driver = if kind == 0 { 2u64 } else { 0 };
        let parts = [(header, 16, 1), (data, BLOCK, 1 | to_driver), (header + 16, 1, 2)];
        for (part, (address, len, flags)) in (3 * n..).zip(parts) {
            let rest = len | flags << 32 | (part + 1) << 48;
            memory.write_obj([address, rest], GuestAddress(RINGS + 16 * part)).expect("chain");
        }
    }
    let layout = QueueLayout { size: SIZE, descriptors: RINGS, available: AVAILABLE, used: USED };
    let queue = Queue::new(layout, memory.clone(), true).expect("queue");
    let doorbell = EventFd::new(EFD_NONBLOCK).expect("doorbell");
    let mut device = Block::new(Disk::open(path, &DiskOptions::default()).expect("disk"), 1, "");
    let interrupts = Arc::new(Interrupts(AtomicU64::new(0)));
    let with = Activation {
        memory: handle.clone(),
        features: device.info().features | EVENT_IDX,
        queues: vec![StartedQueue { index: 0, queue, doorbell: doorbell.try_clone().expect("fd") }],
        transport: interrupts.clone(),
    };
    device.start(with).expect("start");

    let event = memory.get_slice_at(USED + 4 + 8 * u64::from(SIZE));
    let used = memory.get_slice_at(USED + 2);
    let available = memory.get_slice_at(AVAILABLE + 2);
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let (mut next_available, mut next_used, mut doorbells) = (0u16, 0u16, 0u64);
    let mut offer = |head: u16, next_available: &mut u16| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let sector = random % (DISK / BLOCK) * (BLOCK / 512);
        let header = HEADERS + 32 * u64::from(head / 3);
        memory.write_obj(sector, GuestAddress(header + 8)).expect("header");
        let slot = AVAILABLE + 4 + 2 * u64::from(*next_available % SIZE);
        memory.write_obj(head, GuestAddress(slot)).expect("available");
        *next_available = next_available.wrapping_add(1);
    };
    for n in 0..depth {
        offer(3 * n, &mut next_available);
    }
    let mut old = 0;
    let start = Instant::now();
    let mut requests = 0u64;
    while requests & 0xFFF != 0 || start.elapsed() < Duration::from_millis(MILLIS) {
        if old != next_available {
            available.store(next_available, Ordering::Release);
            fence(Ordering::SeqCst);
            let event = event.load(Ordering::Relaxed);
            if next_available.wrapping_sub(event).wrapping_sub(1) < next_available.wrapping_sub(old)
            {
                doorbell.write(1).expect("doorbell");
                doorbells += 1;
            }
            old = next_available;
        }
        let seen = used.load(Ordering::Acquire);
        if seen == next_used {
            std::hint::spin_loop();
            continue;
        }
        while next_used != seen {
            let slot = USED + 4 + 8 * u64::from(next_used % SIZE);
            let head: u32 = memory.read_obj(GuestAddress(slot)).expect("used");
            next_used = next_used.wrapping_add(1);
            requests += 1;
            offer(u16::try_from(head).expect("head"), &mut next_available);
        }
    }
    let rate = requests as f64 / start.elapsed().as_secs_f64();
    device.stop();
    let name = if kind == 0 { "read" } else { "write" };
    let interrupts = interrupts.0.load(Ordering::Relaxed);
    println!("{name:>6} {depth:>3} {rate:>10.0} {doorbells:>9} {interrupts:>10}");
}

/// A 16-bit field of a ring.
trait Field {
    fn get_slice_at(&self, at: u64) -> Cell<'_>;
}

struct Cell<'a>(&'a GuestMemory, GuestAddress);

impl Field for Arc<GuestMemory> {
    fn get_slice_at(&self, at: u64) -> Cell<'_> {
        Cell(self, GuestAddress(at))
    }
}

impl Cell<'_> {
    fn load(&self, order: Ordering) -> u16 {
        self.0.load(self.1, order).expect("field")
    }
    fn store(&self, value: u16, order: Ordering) {
        self.0.store(value, self.1, order).expect("field");
    }
}
