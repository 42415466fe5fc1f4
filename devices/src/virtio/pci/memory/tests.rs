use std::io;
use std::sync::{Arc, Mutex};

use memshare::Window;
use proptest::prelude::*;

use super::*;
use crate::sync::lock;
use crate::virtio::device::{ActivateError, Activation, DeviceInfo, VirtioDevice};
use crate::virtio::pci::tests::machine::{Machine, Probe, Record, info};
use crate::virtio::pci::tests::{CONFIG, ECAM, MMIO32, MMIO64};
use crate::virtio::queue::QueueState;
use crate::virtio::shared_memory::WindowPlacer;

/// Not a power of two, so that the register decodes more.
const LEN: u64 = 6 << 20;
const DECODED: u64 = 8 << 20;
const REGISTER: u64 = CONFIG + 0x18;

/// Where memory is, and where it may not be.
#[derive(Default)]
struct Places {
    at: Mutex<Option<u64>>,
    refused: Mutex<Vec<u64>>,
    moves: Mutex<usize>,
    missed: Mutex<Vec<(u64, bool)>>,
}

impl WindowPlacer for Places {
    fn place(&self, _: &SharedMemory, at: Option<u64>) -> io::Result<()> {
        let mut now = lock(&self.at);
        assert!(now.is_none() || at.is_none(), "moved without having been taken away");
        *lock(&self.moves) += 1;
        *now = at.filter(|at| !lock(&self.refused).contains(at));
        if *now == at { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
    }

    fn missed(&self, _: &SharedMemory, offset: u64, write: bool) {
        lock(&self.missed).push((offset, write));
    }
}

/// A device with memory.
struct Sharing(Probe, SharedMemory);

impl VirtioDevice for Sharing {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }
    fn shared_memory(&self) -> Option<&SharedMemory> {
        Some(&self.1)
    }
    fn read_config(&self, offset: usize, out: &mut [u8]) {
        self.0.read_config(offset, out);
    }
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.0.write_config(offset, data);
    }
    fn start(&mut self, with: Activation) -> Result<(), ActivateError> {
        self.0.start(with)
    }
    fn stop(&mut self) -> Vec<QueueState> {
        self.0.stop()
    }
}

fn device(len: u64, placer: &Arc<Places>, record: &Arc<Mutex<Record>>) -> Box<Sharing> {
    let window = Window::reserve("test", len, 1 << 21).unwrap();
    let memory = SharedMemory { id: 3, window, writable: true, placer: placer.clone() };
    Box::new(Sharing(Probe(info(), record.clone()), memory))
}

fn machine() -> (Machine, Arc<Places>) {
    let (placer, record) = (Arc::new(Places::default()), Arc::default());
    (Machine::of(device(LEN, &placer, &record), record), placer)
}

fn set(machine: &Machine, address: u64) {
    machine.write(REGISTER, address.to_le_bytes());
}

fn decode(machine: &Machine, on: bool) {
    machine.write(CONFIG + 4, [if on { 2 } else { 0 }, 0]);
}

#[test]
fn a_driver_finds_the_memory() {
    let (machine, placer) = machine();
    let at = CONFIG + machine.capability(9, Some(8)).unwrap();
    assert_eq!(machine.read::<4>(at + 2)[0], 24, "length of the capability");
    assert_eq!(machine.read(at + 4), [BAR, 3], "register and number");
    for (offset, value) in [(8, 0), (12, LEN), (16, 0), (20, 0)] {
        assert_eq!(u64::from(u32::from_le_bytes(machine.read(at + offset))), value);
    }
    let register = u64::from_le_bytes(machine.read(REGISTER));
    assert_eq!(register & 0xF, 0b1100, "64 bits, prefetchable");
    let base = register & !0xF;
    assert!(MMIO64.contains(&base) && base.is_multiple_of(DECODED));
    assert_eq!(*lock(&placer.at), Some(base), "from the start");
    set(&machine, u64::MAX);
    assert_eq!(u64::from_le_bytes(machine.read(REGISTER)), !(DECODED - 1) | 0b1100);
}

#[test]
fn a_device_without_memory_has_neither_register_nor_capability() {
    let machine = Machine::new();
    assert_eq!(machine.capability(9, Some(8)), None);
    set(&machine, u64::MAX);
    assert_eq!(machine.read(REGISTER), [0; 8]);
}

#[test]
fn the_memory_moves_where_the_guest_wants_it() {
    let (machine, placer) = machine();
    let first = lock(&placer.at).unwrap();
    for place in [MMIO64.start + (1 << 32), MMIO32.start + DECODED, MMIO64.end - DECODED] {
        set(&machine, place);
        assert_eq!(*lock(&placer.at), Some(place));
        // With other bits of the command register, nothing changes.
        let moves = *lock(&placer.moves);
        machine.write(CONFIG + 4, [6, 0]);
        assert_eq!(*lock(&placer.moves), moves);
    }
    set(&machine, first);
    assert_eq!(*lock(&placer.at), Some(first));
}

#[test]
fn finding_out_the_size_moves_nothing() {
    let (machine, placer) = machine();
    let (first, moves) = (*lock(&placer.at), *lock(&placer.moves));
    decode(&machine, false);
    machine.write(REGISTER, [0xFF; 4]);
    machine.write(REGISTER + 4, [0xFF; 4]);
    set(&machine, first.unwrap());
    decode(&machine, true);
    assert_eq!((*lock(&placer.at), *lock(&placer.moves)), (first, moves));
}

#[test]
fn memory_is_nowhere_while_it_cannot_be_where_it_should() {
    let (machine, placer) = machine();
    let first = lock(&placer.at).unwrap();
    let refused = MMIO64.start + (1 << 34);
    lock(&placer.refused).push(refused);
    for place in [0, ECAM, MMIO32.end, MMIO64.start - DECODED, MMIO64.end, u64::MAX, refused] {
        set(&machine, place);
        assert_eq!(*lock(&placer.at), None, "{place:#x}");
        set(&machine, first);
        assert_eq!(*lock(&placer.at), Some(first), "after {place:#x}");
    }
    // The machine is as it was.
    assert_eq!(machine.set_status(0), 0);
    machine.start();
    assert!(machine.is_started());
}

#[test]
fn no_two_windows_are_in_one_place() {
    let (machine, placer) = machine();
    let first = lock(&placer.at).unwrap();
    // Registers where the memory is.
    machine.set_bar(first + 0x10_0000);
    let common = |base: u64| u16::from_le_bytes(machine.read(base + 0x12));
    assert_eq!(common(first + 0x10_0000), 0, "what is behind memory");
    // Memory where the registers are.
    machine.set_bar(machine.window);
    assert_eq!(common(machine.window), 3);
    set(&machine, machine.window & !(DECODED - 1));
    assert_eq!(*lock(&placer.at), None);
    assert_eq!(common(machine.window), 3);
    set(&machine, first);
    // Memory where memory is.
    let other = Arc::new(Places::default());
    let (memory, platform) = (machine.memory.clone(), machine.platform.clone());
    let second = device(LEN, &other, &Arc::default());
    let slot = lock(&machine.pci).add_virtio(second, memory, platform).unwrap();
    let config = ECAM + (u64::from(slot.0) << 15);
    let second = lock(&other.at).unwrap();
    assert!(second >= first + DECODED || second + DECODED <= first);
    machine.write(config + 0x18, first.to_le_bytes());
    assert_eq!((*lock(&placer.at), *lock(&other.at)), (Some(first), None));
    set(&machine, first + (1 << 30));
    machine.write(config + 0x18, first.to_le_bytes());
    assert_eq!(*lock(&other.at), Some(first));
}

#[test]
fn memory_that_does_not_fit_is_refused() {
    let (machine, _) = machine();
    let other = Arc::new(Places::default());
    let add = |len| {
        let (memory, platform) = (machine.memory.clone(), machine.platform.clone());
        let device = device(len, &other, &Arc::default());
        lock(&machine.pci).add_virtio(device, memory, platform)
    };
    let error = add(1 << 37).unwrap_err();
    assert!(matches!(error, PciError::NoMemory { len } if len == 1 << 37), "{error}");
    assert!(error.help().is_some_and(|help| help.contains("dax=off")));
    lock(&other.refused).push(MMIO64.start + (1 << 34));
    let error = add(1 << 34).unwrap_err();
    assert!(error.to_string().contains("test"), "{error}");
    assert!(add(LEN).is_ok());
}

#[test]
fn what_the_hypervisor_does_not_answer_does_no_harm() {
    let (machine, placer) = machine();
    let base = lock(&placer.at).unwrap();
    machine.write(base, [0xFF; 8]);
    machine.write(base + DECODED - 8, [0xFF; 8]);
    assert_eq!(machine.read(base + LEN), [0; 8]);
    assert_eq!(machine.read(base + LEN - 8), [0; 8]);
    assert_eq!(*lock(&placer.missed), [(0, true), (LEN - 8, false)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is written to configuration space: the memory is where the register says and the
    /// guest can have it, or nowhere, and comes back.
    #[test]
    fn hostile_moves_do_no_harm(writes in proptest::collection::vec(
        (prop_oneof![Just(4u64), Just(0x10), Just(0x14), Just(0x18), Just(0x1C)],
         prop_oneof![
             Just(0u32), Just(2), Just(u32::MAX), Just(0x80), Just(0x81), Just(0x8F),
             Just(0xC000_0000), Just(0xDF80_0000), any::<u32>(),
         ]), 0..60))
    {
        let (machine, placer) = machine();
        let first = lock(&placer.at).unwrap();
        for (at, value) in writes {
            machine.write(CONFIG + at, value.to_le_bytes());
            let at = *lock(&placer.at);
            if let Some(at) = at {
                let end = at.checked_add(DECODED).unwrap();
                prop_assert!([MMIO32, MMIO64].iter().any(|w| w.start <= at && end <= w.end));
            }
        }
        machine.set_bar(machine.window);
        set(&machine, first);
        decode(&machine, true);
        prop_assert_eq!(*lock(&placer.at), Some(first));
        prop_assert_eq!(machine.set_status(0), 0);
    }
}
