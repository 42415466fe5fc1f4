//! What fuzzers call: the messages of a front end, and what it has in its memory.
//!
//! The device works in the caller's thread, so that an input always does the same.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock};

use storage::fuzzing::Script;
use storage::{Bytes, Disk, DiskOptions, EngineChoice};
use vhost::vhost_user::VhostUserBackendReqHandlerMut;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserInflight, VhostUserMemoryRegion, VhostUserSingleMemoryRegion,
    VhostUserVringAddrFlags,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::fds::{self, sealed_memfd};
use super::handler::protocol_features;
use super::session::Session;
use super::signals::Signals;
use crate::virtio::VirtioDevice;
use crate::virtio::blk::{Block, Stepped, Steps};

mod seeds;

pub use seeds::vhost_user_seeds;

const QUEUES: u16 = 2;
const QUEUE_SIZE: u16 = 64;
/// Guest memory, where the front end has it, and where in it the parts of a queue are.
const MEMORY: u64 = 1 << 20;
const USER: u64 = 1 << 20;
const QUEUE: u64 = 1 << 16;
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x8000;
/// Where requests are, and how far apart.
const REQUESTS: u64 = 0x4_0000;
const REQUEST: u64 = 0x2000;
const STEPS_MAX: usize = 96;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Has a back end do what a front end says that the input describes.
pub fn vhost_user(input: &[u8]) {
    let _ = run(input);
}

/// The same; says how many requests were answered.
fn run(input: &[u8]) -> Option<u64> {
    let block = Block::new(disk()?, QUEUES, "fuzzed");
    let (device, steps) = Stepped::new(block).ok()?;
    let device: Arc<Mutex<Box<dyn VirtioDevice>>> = Arc::new(Mutex::new(Box::new(device)));
    let mut script = Script::new(input);
    let mut front = Front::new(&device, &steps)?;
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        front.step(&mut script);
    }
    let answered = front.answered();
    front.session.halt();
    // Whatever this one did, the next one is served.
    let mut next = Front::new(&device, &steps)?;
    next.request(0, 0, 1, 0);
    next.steps.work();
    assert_eq!(next.answered(), 1, "a well-behaved front end is not answered");
    assert_eq!(next.byte(REQUESTS + 0x1800), 0, "its request failed");
    next.session.halt();
    Some(answered)
}

/// A small disk, the same for all inputs.
fn disk() -> Option<Disk> {
    static DISK: OnceLock<Option<Disk>> = OnceLock::new();
    let options = DiskOptions { engine: EngineChoice::Positional, ..DiskOptions::default() };
    DISK.get_or_init(|| Disk::scratch(Bytes::new(1 << 20), &options).ok()).clone()
}

/// A front end with its memory, and its session with the back end.
struct Front {
    session: Session,
    steps: Steps,
    memory: File,
    /// The record of requests in flight, if there is one.
    records: Option<(VhostUserInflight, File)>,
    /// Indices of the available rings, and requests so far.
    available: [u16; QUEUES as usize],
    requests: u64,
}

impl Front {
    /// One whose queues are at work.
    fn new(device: &Arc<Mutex<Box<dyn VirtioDevice>>>, steps: &Steps) -> Option<Front> {
        let signals = Arc::new(Signals::new(QUEUES.into()));
        let (device, steps) = (Arc::clone(device), steps.clone());
        let session = Session::new(device, signals, Box::new(|| ()), Box::new(|_| ()));
        let memory = sealed_memfd("guest", MEMORY).ok()?;
        let (available, requests) = ([0; QUEUES as usize], 0);
        let mut front = Front { session, steps, memory, records: None, available, requests };
        front.begin();
        assert!(front.session.rings.iter().all(|ring| ring.running), "queues do not start");
        Some(front)
    }

    /// Says what makes queues work.
    fn begin(&mut self) {
        let offered = self.session.offered;
        let _ = self.session.set_features(offered);
        let _ = self.session.set_protocol_features(protocol_features().bits());
        let whole = VhostUserMemoryRegion::new(0, MEMORY, USER, 0);
        let files: Vec<File> = self.memory.try_clone().into_iter().collect();
        let _ = self.session.set_mem_table(&[whole], files, None);
        for queue in 0..QUEUES {
            let at = USER + QUEUE * u64::from(queue);
            let (number, flags) = (u32::from(queue), VhostUserVringAddrFlags::empty());
            let _ = self.session.set_vring_num(number, QUEUE_SIZE.into());
            let _ = self.session.set_vring_addr(number, flags, at, at + USED, at + AVAILABLE, 0);
            let index = u8::try_from(queue).unwrap_or(0);
            let _ = self.session.set_vring_call(index, event());
            let _ = self.session.set_vring_kick(index, event());
            let _ = self.session.set_vring_enable(number, true);
        }
    }

    fn write(&self, bytes: &[u8], at: u64) {
        // Only within what there is: the file keeps its length.
        let at = at % MEMORY;
        let room = usize::try_from(MEMORY - at).unwrap_or(0).min(bytes.len());
        let _ = self.memory.write_all_at(&bytes[..room], at);
    }

    fn byte(&self, at: u64) -> u8 {
        let mut byte = [0xff];
        let _ = self.memory.read_exact_at(&mut byte, at);
        byte[0]
    }

    /// Requests that were answered, by the used rings.
    fn answered(&self) -> u64 {
        let index = |queue| {
            let at = QUEUE * u64::from(queue) + USED + 2;
            u64::from(u16::from_le_bytes([self.byte(at), self.byte(at + 1)]))
        };
        (0..QUEUES).map(index).sum()
    }

    fn descriptor(
        &self,
        queue: u16,
        index: u16,
        (address, len): (u64, u32),
        flags: u16,
        next: u16,
    ) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend([flags.to_le_bytes(), next.to_le_bytes()].concat());
        self.write(&bytes, QUEUE * u64::from(queue) + 16 * u64::from(index));
    }

    fn offer(&mut self, queue: u16, head: u16) {
        let at = QUEUE * u64::from(queue) + AVAILABLE;
        let Some(index) = self.available.get_mut(usize::from(queue)) else { return };
        let slot = u64::from(*index % QUEUE_SIZE);
        *index = index.wrapping_add(1);
        let index = *index;
        self.write(&head.to_le_bytes(), at + 4 + 2 * slot);
        self.write(&index.to_le_bytes(), at + 2);
    }

    /// A request for so many sectors, of virtio 1.3, 5.2.6.
    fn request(&mut self, queue: u16, kind: u8, sectors: u8, sector: u8) {
        let number = u16::try_from(self.requests % 16).unwrap_or(0);
        self.requests += 1;
        let at = REQUESTS + REQUEST * u64::from(number);
        let mut header = [0; 16];
        (header[0], header[8]) = (kind, sector);
        self.write(&header, at);
        // One range of DISCARD and WRITE ZEROES.
        self.write(&[sector, 0, 0, 0, 0, 0, 0, 0, sectors, 0, 0, 0, 0, 0, 0, 0], at + 0x200);
        self.write(&[0xff], at + 0x1800);
        let head = number * 3;
        let len = if matches!(kind, 11 | 13) { 16 } else { 512 * u32::from(sectors) };
        let flags = if matches!(kind, 0 | 8) { WRITE } else { 0 };
        self.descriptor(queue, head, (at, 16), NEXT, head + 1);
        self.descriptor(queue, head + 1, (at + 0x200, len), NEXT | flags, head + 2);
        self.descriptor(queue, head + 2, (at + 0x1800, 1), WRITE, 0);
        self.offer(queue, head);
    }

    /// One message, or one change of memory.
    fn step(&mut self, script: &mut Script<'_>) {
        let [kind, which] = script.array();
        let queue = u16::from(which & 1);
        // Mostly a queue that there is.
        let number = if which & 0xf0 == 0xf0 { u32::from(which) } else { queue.into() };
        let index = u8::try_from(number).unwrap_or(u8::MAX);
        match kind % 20 {
            0 | 1 => {
                let [kind, sectors, sector] = script.array();
                self.request(queue, kind, sectors & 7, sector);
            }
            2 => {
                let (address, len) = (script.number(), script.u32());
                self.descriptor(
                    queue,
                    script.u16() & 63,
                    (address, len),
                    script.u16(),
                    script.u16(),
                );
            }
            3 => {
                let head = script.u16();
                self.offer(queue, head);
            }
            4 => {
                let at = u64::from(script.u32());
                let count = usize::from(which);
                self.write(script.bytes(count), at);
            }
            5..=7 => self.steps.work(),
            8 => self.memory_message(script, which),
            9 => drop(self.session.set_vring_num(number, low(script.number()))),
            10 => {
                let mut near = || match which & 2 {
                    0 => USER + u64::from(script.u16()) * 16,
                    _ => script.number(),
                };
                let [a, b, c] = [near(), near(), near()];
                let flags = VhostUserVringAddrFlags::empty();
                let _ = self.session.set_vring_addr(number, flags, a, b, c, 0);
            }
            11 => drop(self.session.set_vring_base(number, low(script.number()))),
            12 => drop(self.session.get_vring_base(number)),
            13 => drop(self.session.set_vring_kick(index, self.file(which >> 2))),
            14 if which & 2 == 0 => drop(self.session.set_vring_call(index, self.file(which >> 2))),
            14 => drop(self.session.set_vring_err(index, self.file(which >> 2))),
            15 => drop(self.session.set_vring_enable(number, which & 2 != 0)),
            16 => {
                let (offset, flags) = (low(script.number()), VhostUserConfigFlags::WRITABLE);
                let _ = self.session.get_config(offset, low(script.number()), flags);
                let count = usize::from(which & 15);
                let _ = self.session.set_config(offset, script.bytes(count), flags);
            }
            17 => self.inflight_message(script, which),
            18 => match which & 7 {
                0 => drop(self.session.set_features(script.number())),
                1 => drop(self.session.set_features(self.session.offered & !script.number())),
                2 => drop(self.session.set_protocol_features(script.number())),
                3 => drop(self.session.reset_owner()),
                4 => drop(self.session.reset_device()),
                _ => self.begin(),
            },
            _ => self.begin_anew(queue),
        }
    }

    fn memory_message(&mut self, script: &mut Script<'_>, which: u8) {
        let Some(file) = self.file(which >> 4) else { return };
        let (guest, len, user) = match which & 4 {
            0 => (MEMORY * u64::from(which & 3), MEMORY, USER + MEMORY * u64::from(which & 3)),
            _ => (script.number(), script.number(), script.number()),
        };
        let offset = if which & 8 == 0 { 0 } else { script.number() };
        let region = VhostUserMemoryRegion::new(guest, len, user, offset);
        let single = VhostUserSingleMemoryRegion::new(guest, len, user, offset);
        match which & 3 {
            0 => drop(self.session.set_mem_table(&[region], vec![file], None)),
            1 => drop(self.session.add_mem_region(&single, file, None)),
            2 => drop(self.session.remove_mem_region(&single)),
            _ => {
                let Some(again) = self.file(3) else { return };
                let whole = VhostUserMemoryRegion::new(0, MEMORY, USER, 0);
                drop(self.session.set_mem_table(&[whole, region], vec![again, file], None));
            }
        }
    }

    fn inflight_message(&mut self, script: &mut Script<'_>, which: u8) {
        match which & 3 {
            0 => {
                let asked = VhostUserInflight::new(0, 0, QUEUES, QUEUE_SIZE);
                self.records = self.session.get_inflight_fd(&asked).ok();
            }
            1 => {
                // What a predecessor is said to have left there.
                let Some((_, file)) = &self.records else { return };
                let at = u64::from(script.u16() % 2048);
                let count = usize::from(which >> 2);
                let _ = file.write_all_at(script.bytes(count), at);
            }
            2 => {
                let Some((records, file)) = &self.records else { return };
                let Ok(file) = file.try_clone() else { return };
                drop(self.session.set_inflight_fd(&records.clone(), file));
            }
            _ => {
                let (size, offset) = (script.number(), script.number());
                let asked = VhostUserInflight::new(size, offset, script.u16(), script.u16());
                let _ = self.session.get_inflight_fd(&asked);
                let Some(file) = self.file(which >> 4) else { return };
                let _ = self.session.set_inflight_fd(&asked, file);
            }
        }
    }

    /// Has a queue begin at its used ring's index, as a front end does whose server is gone.
    fn begin_anew(&mut self, queue: u16) {
        let at = QUEUE * u64::from(queue) + USED + 2;
        let base = u16::from_le_bytes([self.byte(at), self.byte(at + 1)]);
        let index = u8::try_from(queue).unwrap_or(0);
        let _ = self.session.get_vring_base(queue.into());
        let _ = self.session.set_vring_base(queue.into(), base.into());
        let _ = self.session.set_vring_kick(index, event());
    }

    /// A descriptor, mostly of the kind that is wanted.
    fn file(&self, kind: u8) -> Option<File> {
        match kind & 7 {
            0 | 1 => event(),
            2 => File::open("/dev/null").ok(),
            7 => None,
            _ => self.memory.try_clone().ok(),
        }
    }
}

fn low(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0)
}

fn event() -> Option<File> {
    let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).ok()?;
    Some(fds::borrow(&event).as_fd().try_clone_to_owned().ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_served() {
        let seeds = vhost_user_seeds();
        let answered: Vec<u64> = seeds.iter().map(|seed| run(seed).unwrap()).collect();
        assert!(answered.iter().sum::<u64>() > 20, "{answered:?}");
    }
}
