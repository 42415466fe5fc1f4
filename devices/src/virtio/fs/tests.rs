use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use memshare::{Access, GuestMemory, MemoryHandle, SharedRegion, Window};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::fuse::{Reply, Request};
use super::pool::THREADS_MAX;
use super::requests::{Answer, Service};
use super::*;
use crate::sync::lock;
use crate::virtio::driver::{Driver, MEMORY, Told, activation};
use crate::virtio::{SharedMemory, VirtioDevice, WindowPlacer};

mod share;

const RINGS: u64 = 0x1_0000;
const REQUESTS: u64 = 0x10_0000;
/// Memory of one request: what the driver sends, and half a page on, what it gets.
const ROOM: u64 = 0x1000;
const OUTPUT: u64 = 0x800;
const FORGET: u32 = 2;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
/// Operations of the test's own.
const QUICK: u32 = 1001;
const SLOW: u32 = 1002;
const PANIC: u32 = 1003;

/// Answers what is quick, and keeps the rest waiting until it is interrupted or let go.
#[derive(Default)]
struct Fake {
    seen: Mutex<Vec<(u32, u64)>>,
    waiting: AtomicUsize,
    /// Requests that may go on, by number.
    released: Mutex<Vec<u64>>,
    changed: Condvar,
}

impl Fake {
    fn release(&self, unique: u64) {
        lock(&self.released).push(unique);
        self.changed.notify_all();
    }

    fn saw(&self, opcode: u32) -> usize {
        lock(&self.seen).iter().filter(|seen| seen.0 == opcode).count()
    }
}

impl Service for Fake {
    fn handle(&self, mut request: Request, answer: Answer) {
        let mut header = [0; 48];
        let len = usize::try_from(request.input.len()).unwrap();
        request.input.copy_to(&mut header[..len.min(48)]);
        let opcode = u32::from_le_bytes(header[4..8].try_into().unwrap());
        let unique = u64::from_le_bytes(header[8..16].try_into().unwrap());
        lock(&self.seen).push((opcode, unique));
        match opcode {
            INTERRUPT => {
                self.release(u64::from_le_bytes(header[40..48].try_into().unwrap()));
                return answer.done(0);
            }
            FORGET | DESTROY => return answer.done(0),
            SLOW => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let mut released = lock(&self.released);
                while !released.contains(&unique) {
                    released = self.changed.wait(released).unwrap();
                }
                released.retain(|other| *other != unique);
            }
            PANIC => panic!("as the test wants it"),
            _ => {}
        }
        request.output.copy_from(&unique.to_le_bytes());
        answer.done(8);
    }
}

/// A started device, and the drivers of its queues.
struct Machine {
    device: Fs,
    drivers: Vec<Driver>,
    told: Arc<Told>,
    memory: Arc<GuestMemory>,
    handle: MemoryHandle,
    service: Arc<Fake>,
    /// Numbers of requests that are under way, by queue and head.
    sent: HashMap<(usize, u16), u64>,
}

impl Machine {
    fn new(queues: u16) -> Machine {
        Machine::with(queues, None)
    }

    fn with(queues: u16, memory: Option<SharedMemory>) -> Machine {
        let service = Arc::new(Fake::default());
        let device = Fs::serving("tag".parse().unwrap(), service.clone(), queues, memory);
        let handle = crate::virtio::driver::memory();
        let memory = handle.memory().into_inner();
        let drivers = (0..=u64::from(queues))
            .map(|n| Driver::new(memory.clone(), RINGS + 0x1_0000 * n, 256, true))
            .collect();
        let told = Arc::default();
        let sent = HashMap::new();
        let mut machine = Machine { device, drivers, told, memory, handle, service, sent };
        machine.start();
        machine
    }

    fn start(&mut self) {
        let drivers: Vec<&Driver> = self.drivers.iter().collect();
        self.device.start(activation(&self.handle, 0, &drivers, &self.told)).unwrap();
    }

    fn send(&mut self, queue: usize, opcode: u32, unique: u64, argument: u64) {
        let at = REQUESTS + ROOM * unique;
        assert!(at + ROOM <= MEMORY);
        let mut message = vec![0u8; 48];
        message[4..8].copy_from_slice(&opcode.to_le_bytes());
        message[8..16].copy_from_slice(&unique.to_le_bytes());
        message[40..].copy_from_slice(&argument.to_le_bytes());
        self.memory.write_slice(&message, GuestAddress(at)).unwrap();
        let mut buffers = vec![(at, 48, false)];
        if !matches!(opcode, FORGET | INTERRUPT) {
            buffers.push((at + OUTPUT, 64, true));
        }
        let driver = &mut self.drivers[queue];
        let old = driver.position();
        let head = driver.add(&buffers).unwrap();
        driver.notify_since(old);
        self.sent.insert((queue, head), unique);
    }

    /// Waits for a request to come back: its number, and how much was written.
    fn receive(&mut self, queue: usize) -> (u64, u32) {
        let (head, written) = self.drivers[queue].await_used();
        let unique = self.sent.remove(&(queue, head)).unwrap();
        if written == 8 {
            let at = GuestAddress(REQUESTS + ROOM * unique + OUTPUT);
            assert_eq!(self.memory.read_obj::<u64>(at).unwrap(), unique);
        }
        (unique, written)
    }

    fn await_waiting(&self, count: usize) {
        for _ in 0..60_000 {
            if self.service.waiting.load(Ordering::SeqCst) == count {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("requests did not begin");
    }
}

#[test]
fn the_configuration_names_the_file_system() {
    let device = Machine::new(3).device;
    assert_eq!((device.info().id.number(), device.info().features), (26, 0));
    assert_eq!(device.info().queue_sizes.len(), 4);
    let mut config = [0xFF; 48];
    device.read_config(0, &mut config);
    assert_eq!(&config[..5], b"tag\0\0");
    assert_eq!(config[36..48], [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut beyond = [0xFF; 2];
    device.read_config(usize::MAX, &mut beyond);
    assert_eq!(beyond, [0; 2]);
}

#[test]
fn requests_of_all_queues_are_answered() {
    let mut machine = Machine::new(2);
    for round in 0..20 {
        for queue in 1..3 {
            machine.send(queue, QUICK, 2 * round + queue as u64, 0);
        }
    }
    for queue in 1..3 {
        let mut numbers: Vec<u64> = (0..20).map(|_| machine.receive(queue).0).collect();
        numbers.sort_unstable();
        assert!(numbers.iter().all(|n| n % 2 == queue as u64 % 2));
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
    }
    machine.send(0, FORGET, 90, 0);
    assert_eq!(machine.receive(0), (90, 0), "without an answer");
    assert_eq!(machine.service.saw(FORGET), 1);
    assert!(machine.told.used() > 0);
}

#[test]
fn slow_requests_do_not_keep_quick_ones_waiting() {
    let mut machine = Machine::new(1);
    let slow = 20;
    for unique in 0..slow {
        machine.send(1, SLOW, unique, 0);
    }
    machine.await_waiting(20);
    for unique in slow..slow + 30 {
        machine.send(1, QUICK, unique, 0);
        assert_eq!(machine.receive(1), (unique, 8));
    }
    for unique in (0..slow).rev() {
        machine.service.release(unique);
        assert_eq!(machine.receive(1), (unique, 8));
    }
}

#[test]
fn interrupts_and_forgets_pass_while_every_thread_waits() {
    let mut machine = Machine::new(1);
    let count = THREADS_MAX as u64 + 10;
    for unique in 0..count {
        machine.send(1, SLOW, unique, 0);
    }
    machine.await_waiting(THREADS_MAX);
    machine.send(0, FORGET, 100, 0);
    assert_eq!(machine.receive(0), (100, 0));
    machine.send(1, FORGET, 101, 0);
    assert_eq!(machine.receive(1), (101, 0));
    let mut back = Vec::new();
    for unique in 0..count {
        machine.send(0, INTERRUPT, 102, unique);
        assert_eq!(machine.receive(0), (102, 0));
        back.push(machine.receive(1).0);
    }
    back.sort_unstable();
    assert_eq!(back, (0..count).collect::<Vec<_>>());
}

#[test]
fn stopping_ends_what_waits_and_answers_it() {
    let mut machine = Machine::new(2);
    for unique in 0..80 {
        machine.send(1 + usize::from(unique % 2 == 1), SLOW, unique, 0);
    }
    machine.await_waiting(THREADS_MAX);
    let states = machine.device.stop();
    let places: Vec<_> = states.iter().map(|s| (s.index, s.next_available, s.next_used)).collect();
    assert_eq!(places, [(0, 0, 0), (1, 40, 40), (2, 40, 40)]);
    for queue in 1..3 {
        for _ in 0..40 {
            assert_eq!(machine.receive(queue).1, 8);
        }
    }
    assert_eq!(machine.service.saw(DESTROY), 1);
    assert!(machine.device.stop().is_empty());
    assert_eq!(machine.service.saw(DESTROY), 1);
}

#[test]
fn a_request_that_panics_is_answered_and_harms_no_other() {
    let mut machine = Machine::new(1);
    for unique in 0..THREADS_MAX as u64 + 8 {
        machine.send(1, PANIC, unique, 0);
        assert_eq!(machine.receive(1), (unique, 0));
        machine.send(1, QUICK, 100 + unique, 0);
        assert_eq!(machine.receive(1), (100 + unique, 8));
    }
    machine.device.stop();
}

#[test]
fn buffers_outside_of_memory_break_the_queue_alone() {
    let mut machine = Machine::new(2);
    let old = machine.drivers[1].position();
    machine.drivers[1].add(&[(MEMORY - 16, 64, false)]).unwrap();
    machine.drivers[1].notify_since(old);
    machine.told.await_needs_reset();
    machine.send(2, QUICK, 1, 0);
    assert_eq!(machine.receive(2), (1, 8));
    machine.device.stop();
}

struct Nowhere;

impl WindowPlacer for Nowhere {
    fn place(&self, _: &SharedMemory, _: Option<u64>) -> std::io::Result<()> {
        Ok(())
    }
    fn missed(&self, _: &SharedMemory, _: u64, _: bool) {}
}

#[test]
fn the_window_is_empty_after_a_reset() {
    let window = Window::reserve("test", 2 << 20, 2 << 20).unwrap();
    let placer = Arc::new(Nowhere);
    let shared = SharedMemory { id: 0, window: window.clone(), writable: false, placer };
    let mut machine = Machine::with(1, Some(shared));
    assert_eq!(machine.device.shared_memory().unwrap().id, 0);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "content").unwrap();
    let file = SharedRegion::new(file.reopen().unwrap(), "file".into(), None).unwrap();
    window.map(window.range(4096, 4096).unwrap(), &file, 0, Access::Read).unwrap();
    machine.device.stop();
    assert!(window.record(0).is_empty());
}
