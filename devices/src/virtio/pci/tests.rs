pub(super) mod machine;

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use crate::bus::{Bus, BusDevice};
use crate::pci::PciBus;
use crate::platform::MsiMessage;
use crate::platform::fake::FakePlatform;
use crate::sync::lock;
use crate::virtio::device::{
    ActivateError, Activation, DeviceInfo, DeviceType, Transport, VirtioDevice,
};
use crate::virtio::driver::{MEMORY, memory};
use crate::virtio::queue::QueueState;
use machine::{Machine, Probe};

pub(super) const MMIO32: std::ops::Range<u64> = 0xC000_0000..0xE000_0000;
pub(super) const MMIO64: std::ops::Range<u64> = 0x80_0000_0000..0x90_0000_0000;
pub(super) const ECAM: u64 = 0xE000_0000;
pub(super) const CONFIG: u64 = ECAM + (1 << 15);

const DEVICE_FEATURE: u64 = 0x20;
const VERSION_1: u64 = 1 << 32;
const FEATURES: u64 = DEVICE_FEATURE | VERSION_1 | 1 << 28 | 1 << 29;
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;

const COMMON: u64 = 0;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;

#[test]
fn a_driver_finds_the_device_and_its_registers() {
    let machine = Machine::new();
    assert_eq!(machine.read(CONFIG), [0xF4, 0x1A, 0x44, 0x10]);
    assert_eq!(machine.read::<1>(CONFIG + 0x3D), [0], "no interrupt pin");
    for (cfg_type, offset, len) in
        [(1, 0, 0x38), (2, 0x3000, 12), (3, 0x1000, 1), (4, 0x2000, 0x1000u32)]
    {
        let at = CONFIG + machine.capability(9, Some(cfg_type)).unwrap();
        assert_eq!(machine.read::<1>(at + 4), [0]);
        assert_eq!(u32::from_le_bytes(machine.read(at + 8)), offset);
        assert_eq!(u32::from_le_bytes(machine.read(at + 12)), len);
        if cfg_type == 2 {
            assert_eq!(u32::from_le_bytes(machine.read(at + 16)), 4);
            assert_eq!(machine.read::<1>(at + 2), [20], "length of the capability");
        }
    }
    assert_eq!(u16::from_le_bytes(machine.read(machine.window + COMMON + 0x12)), 3);
    machine.write(machine.window + COMMON, 1u32.to_le_bytes());
    assert_eq!(machine.read(machine.window + COMMON + 4), [1, 0, 0, 0]);
    machine.write(machine.window + COMMON, 2u32.to_le_bytes());
    assert_eq!(machine.read(machine.window + COMMON + 4), [0; 4]);
}

#[test]
fn the_window_moves_and_the_doorbells_with_it() {
    let mut machine = Machine::new();
    machine.start();
    let doorbells = |base: u64| vec![base + NOTIFY, base + NOTIFY + 8];
    assert_eq!(machine.platform.doorbells(), doorbells(machine.window));
    let old = machine.window;
    machine.set_bar(MMIO64.start);
    machine.window = MMIO64.start;
    assert_eq!(machine.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(machine.read(old), [0xFF; 4], "not where it was");
    assert_eq!(machine.platform.doorbells(), doorbells(MMIO64.start));
    // Finding out the size, and places that are not for PCI.
    for place in [u64::MAX, 0, ECAM, MMIO32.end, MMIO64.start - 0x8000] {
        machine.set_bar(place);
        assert!(machine.platform.doorbells().is_empty());
        assert!(machine.mmio.write(ECAM, &[0]), "configuration space is still there");
    }
    machine.set_bar(MMIO32.end - 0x4000);
    assert_eq!(machine.bar(), MMIO32.end - 0x8000, "low bits are not kept");
    assert_eq!(machine.platform.doorbells(), doorbells(MMIO32.end - 0x8000));
    machine.write(CONFIG + 4, [0; 2]);
    machine.set_bar(old);
    assert_eq!(machine.read(old), [0xFF; 4], "memory decoding is off");
    machine.write(CONFIG + 4, [2, 0]);
    machine.window = old;
    assert_eq!(machine.platform.doorbells(), doorbells(old));
    assert_eq!(machine.set_status(0), 0);
    assert!(machine.platform.doorbells().is_empty());
}

#[test]
fn doorbells_are_gone_before_another_window_can_be_there() {
    let machine = Machine::new();
    machine.start();
    let (mmio, taken) = (machine.mmio.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = taken.clone();
    machine.platform.on_detach(move |doorbell| {
        struct Nothing;
        impl BusDevice for Nothing {
            fn read(&mut self, _: u64, _: &mut [u8]) {}
            fn write(&mut self, _: u64, _: &[u8]) {}
        }
        lock(&seen).push(mmio.insert(doorbell, 2, Arc::new(Mutex::new(Nothing))).is_err());
    });
    machine.set_bar(MMIO64.start);
    assert_eq!(*lock(&taken), [true, true]);
}

#[test]
fn two_windows_are_not_in_one_place() {
    let machine = Machine::new();
    let other = Probe(
        DeviceInfo {
            id: DeviceType::Console,
            queue_sizes: vec![2],
            features: 0,
            external_backend: false,
        },
        Arc::default(),
    );
    let platform = machine.platform.clone();
    let slot = lock(&machine.pci).add_virtio(Box::new(other), machine.memory.clone(), platform);
    let config = ECAM + (u64::from(slot.unwrap().0) << 15);
    machine.write(config + 4, [2, 0]);
    machine.write(config + 0x10, machine.window.to_le_bytes());
    assert_eq!(u16::from_le_bytes(machine.read(machine.window + COMMON + 0x12)), 3, "the first");
    machine.set_bar(MMIO64.start);
    machine.write(config + 4, [2, 0]);
    assert_eq!(u16::from_le_bytes(machine.read(machine.window + COMMON + 0x12)), 1, "the second");
}

#[test]
fn the_status_goes_by_the_specification() {
    let machine = Machine::new();
    assert_eq!(machine.set_status(ACKNOWLEDGE), ACKNOWLEDGE);
    assert_eq!(machine.set_status(DRIVER), ACKNOWLEDGE | DRIVER, "bits stay set");
    let driver = ACKNOWLEDGE | DRIVER;
    assert_eq!(machine.set_status(driver | DRIVER_OK), driver, "features come first");
    assert_eq!(machine.set_status(driver | NEEDS_RESET), driver, "that is the device's");
    assert_eq!(machine.accept(DEVICE_FEATURE), driver, "VERSION_1 is not optional");
    assert_eq!(machine.accept(FEATURES | 2), driver, "not offered");
    assert_eq!(machine.accept(FEATURES), driver | FEATURES_OK);
    machine.accept(VERSION_1);
    assert_eq!(machine.set_status(driver | FEATURES_OK | DRIVER_OK), 0xF);
    let record = lock(&machine.record);
    let activation = record.activation.as_ref().unwrap();
    assert_eq!(activation.features, FEATURES, "not after FEATURES_OK");
    assert!(activation.queues.is_empty());
    drop(record);
    machine.set_status(0xF);
    assert_eq!(lock(&machine.record).starts, 1);
    assert_eq!(machine.set_status(0), 0);
    assert!(!machine.is_started());
}

#[test]
fn queues_are_configured_before_the_driver_is_ready() {
    let machine = Machine::new();
    let size = || u16::from_le_bytes(machine.read(machine.window + COMMON + 0x18));
    let set_size = |size: u16| machine.write(machine.window + COMMON + 0x18, size.to_le_bytes());
    machine.select(1);
    assert_eq!(size(), 64);
    for wrong in [0, 3, 128] {
        set_size(wrong);
        assert_eq!(size(), 64);
    }
    set_size(16);
    assert_eq!(size(), 16);
    machine.select(3);
    for register in 0x18..0x38 {
        let at = machine.window + COMMON + register;
        // A queue that does not exist has no vector.
        let wanted = if matches!(register, 0x1A | 0x1B) { 0xFF } else { 0 };
        assert_eq!(machine.read(at), [wanted], "register {register:#x}");
    }
    machine.start();
    machine.select(0);
    set_size(16);
    assert_eq!(size(), 256, "too late");
    machine.write(machine.window + COMMON + 0x20, [0; 8]);
    assert_eq!(u64::from_le_bytes(machine.read(machine.window + COMMON + 0x20)), 0x1_0000);
    let record = lock(&machine.record);
    let queues = &record.activation.as_ref().unwrap().queues;
    assert_eq!(queues.iter().map(|queue| queue.index).collect::<Vec<_>>(), [0, 2]);
    let state = queues[1].state();
    assert_eq!((state.layout.size, state.layout.used), (2, 0x2_4000));
}

#[test]
fn a_device_that_cannot_start_asks_for_a_reset() {
    let machine = Machine::new();
    machine.open_vector(0);
    machine.write(machine.window + COMMON + 0x10, 0u16.to_le_bytes());
    for misplaced in [0x8, MEMORY - 16, u64::MAX - 15] {
        machine.set_status(0);
        machine.write(machine.window + COMMON + 0x10, 0u16.to_le_bytes());
        machine.accept(FEATURES);
        machine.set_up_queue(0, misplaced);
        assert_eq!(machine.set_status(0xF), 0xF | NEEDS_RESET);
        assert!(!machine.is_started());
        assert_eq!(machine.platform.vector(0).take_sent().len(), 1, "the driver is told");
        assert_eq!(machine.set_status(0xF), 0xF | NEEDS_RESET);
    }
    machine.start();
    assert!(machine.is_started(), "a reset mends it");
    lock(&machine.record).refuse = true;
    machine.start();
    assert_eq!(machine.status(), 0xF | NEEDS_RESET);
    machine.set_status(0);
}

#[test]
fn interrupts_reach_the_vector_that_the_driver_chose() {
    let machine = Machine::new();
    machine.start();
    let vector = |queue: u16| {
        machine.select(queue);
        u16::from_le_bytes(machine.read(machine.window + COMMON + 0x1A))
    };
    let choose = |queue: u16, vector: u16| {
        machine.select(queue);
        machine.write(machine.window + COMMON + 0x1A, vector.to_le_bytes());
    };
    let transport = machine.transport();
    transport.notify_used(2);
    assert_eq!(machine.read(machine.window + ISR), [1], "MSI-X is off");
    assert_eq!(machine.read(machine.window + ISR), [0], "reading clears it");
    machine.open_vector(3);
    choose(2, 3);
    choose(0, 4);
    assert_eq!((vector(2), vector(0)), (3, 0xFFFF), "there are four vectors");
    transport.notify_used(2);
    transport.notify_used(0);
    transport.notify_used(9);
    let message = MsiMessage { address: 0xFEE0_0000, data: 3 };
    assert_eq!(machine.platform.vector(3).take_sent(), [message]);
    assert_eq!(machine.read(machine.window + ISR), [0]);
    let generation = || machine.read::<1>(machine.window + COMMON + 0x15)[0];
    let before = generation();
    transport.notify_config();
    assert_ne!(generation(), before);
    assert_eq!(machine.read(machine.window + ISR), [2]);
    machine.set_status(0);
    assert_eq!(vector(2), 0xFFFF);
}

#[test]
fn events_of_a_queue_follow_it_from_vector_to_vector() {
    let machine = Machine::new();
    machine.start();
    let choose = |queue: u16, vector: u16| {
        machine.select(queue);
        machine.write(machine.window + COMMON + 0x1A, vector.to_le_bytes());
    };
    let event = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let takers = || {
        let takes = |vector: &usize| machine.platform.vector(*vector).takes(&event);
        (0..4).filter(takes).collect::<Vec<_>>()
    };
    let transport = machine.transport();
    machine.open_vector(1);
    machine.open_vector(3);
    transport.connect_used(2, &event);
    assert_eq!(takers(), [0; 0], "the driver has chosen none");
    choose(2, 3);
    assert_eq!(takers(), [3]);
    choose(2, 1);
    choose(2, 1);
    choose(0, 3);
    assert_eq!(takers(), [1]);
    choose(2, 0xFFFF);
    assert_eq!(takers(), [0; 0]);
    choose(2, 3);
    transport.disconnect_used(2);
    assert_eq!(takers(), [0; 0]);
    transport.connect_used(2, &event);
    assert_eq!(takers(), [3]);
    machine.set_status(0);
    assert_eq!(takers(), [0; 0], "a reset ends it");
}

#[test]
fn doorbells_ring_for_queues_that_work() {
    let machine = Machine::new();
    machine.write(machine.window + NOTIFY, [0; 2]);
    machine.start();
    let rung = |position: usize| {
        let record = lock(&machine.record);
        record.activation.as_ref().unwrap().queues[position].doorbell.read().is_ok()
    };
    assert!(machine.platform.write(machine.window + NOTIFY + 8));
    assert!(!rung(0) && rung(1));
    // Where the platform does not catch the write.
    machine.write(machine.window + NOTIFY, [0; 4]);
    assert!(rung(0) && !rung(1));
    for offset in [4, 12, 0xFF8] {
        machine.write(machine.window + NOTIFY + offset, [0; 4]);
        assert!(!rung(0) && !rung(1), "no queue at {offset:#x}");
    }
}

#[test]
fn the_window_can_be_reached_through_configuration_space() {
    let machine = Machine::new();
    let at = machine.capability(9, Some(5)).unwrap();
    let port = |register: u64| {
        let address = 1 << 31 | 1 << 11 | u32::try_from(register & !3).unwrap();
        assert!(machine.ports.write(0xCF8, &address.to_le_bytes()));
        0xCFC + (register & 3)
    };
    let write = |register, data: &[u8]| assert!(machine.ports.write(port(register), data));
    write(at + 4, &[0]);
    write(at + 8, &(u32::try_from(DEVICE).unwrap() + 2).to_le_bytes());
    write(at + 12, &2u32.to_le_bytes());
    write(at + 16, &[7, 8]);
    assert_eq!(lock(&machine.record).config, [0, 0, 7, 8, 0, 0, 0, 0]);
    lock(&machine.record).config[3] = 9;
    let mut data = [0; 2];
    machine.ports.read(port(at + 16), &mut data);
    assert_eq!(data, [7, 9]);
    write(at + 12, &3u32.to_le_bytes());
    write(at + 16, &[1, 1, 1, 1]);
    write(at + 12, &2u32.to_le_bytes());
    write(at + 4, &[1]);
    write(at + 16, &[1, 1, 1, 1]);
    assert_eq!(lock(&machine.record).config, [0, 0, 7, 9, 0, 0, 0, 0], "not valid accesses");
}

#[test]
fn a_stopped_machine_stays_stopped() {
    let machine = Machine::new();
    machine.start();
    lock(&machine.pci).stop_all();
    lock(&machine.pci).stop_all();
    assert!(!machine.is_started());
    assert!(machine.platform.doorbells().is_empty());
    machine.start();
    assert!(!machine.is_started());
}

#[test]
fn the_bus_is_full_after_31_devices() {
    let pci = Mutex::new(PciBus::new(Arc::new(Bus::new("memory")), 0..0x10_0000, 0..0));
    let memory = memory();
    let mut added = 0;
    let full = loop {
        let info = DeviceInfo {
            id: DeviceType::Entropy,
            queue_sizes: vec![1],
            features: 0,
            external_backend: false,
        };
        let probe = Box::new(Probe(info, Arc::default()));
        match lock(&pci).add_virtio(probe, memory.clone(), Arc::new(FakePlatform::default())) {
            Ok(_) => added += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(added, 31);
    assert!(full.help().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any accesses to configuration space and window: no panic, and a reset still works.
    #[test]
    fn hostile_accesses_do_no_harm(accesses in proptest::collection::vec(
        (prop_oneof![
            4 => (0u64..0x40).prop_map(|at| (true, at)),
            2 => (0u64..0x8000).prop_map(|at| (true, at)),
            2 => (0u64..0x108).prop_map(|at| (false, at)),
         ],
         prop_oneof![Just(1usize), Just(2), Just(4), Just(8)],
         prop_oneof![Just(0u64), Just(1), Just(0xF), Just(0x1_0000), Just(u64::MAX), any::<u64>()],
         any::<bool>()), 0..150))
    {
        let machine = Machine::new();
        for ((in_window, at), width, value, write) in accesses {
            let address = if in_window { machine.bar() + at } else { CONFIG + at };
            let mut data = value.to_le_bytes();
            if write {
                machine.mmio.write(address, &data[..width]);
            } else {
                machine.mmio.read(address, &mut data[..width]);
            }
        }
        machine.set_bar(machine.window);
        machine.write(CONFIG + 4, [2, 0]);
        prop_assert_eq!(machine.set_status(0), 0);
        prop_assert!(!machine.is_started());
        machine.start();
        prop_assert_eq!(machine.status(), 0xF);
        let memory = machine.memory.memory();
        prop_assert!(memory.read_obj::<u8>(GuestAddress(0)).is_ok());
    }
}
