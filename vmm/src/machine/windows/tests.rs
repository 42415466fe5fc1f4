use std::path::Path;

use memshare::Window;
use vm_memory::{Bytes, GuestAddressSpace};

use super::*;
use crate::machine::kvm::Hypervisor;
use crate::machine::{layout, memory};

const RAM: u64 = 4 << 20;
const LEN: u64 = 2 << 20;
const HIGH: u64 = 64 << 30;

struct Machine {
    ram: Arc<GuestRam>,
    windows: Arc<Windows>,
    slots: Arc<Slots>,
}

/// None where no guest can run.
fn machine() -> Option<Machine> {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: there is no /dev/kvm");
        return None;
    }
    let slots = Slots::new(Hypervisor::open().unwrap().vm);
    let ram = GuestRam::new(RAM, layout::LOW_RAM_END, layout::HIGH_RAM_START).unwrap();
    memory::attach(&slots, &ram).unwrap();
    let ram = Arc::new(ram);
    let windows = Arc::new(Windows::new(&slots, &ram, &Arc::new(Ending::new().unwrap())));
    Some(Machine { ram, windows, slots })
}

impl Machine {
    fn shared(&self, writable: bool) -> SharedMemory {
        let window = Window::reserve("test", LEN, LEN).unwrap();
        SharedMemory { id: 0, window, writable, placer: self.windows.clone() }
    }

    /// Numbers of the slots that are taken.
    fn slots(&self) -> String {
        format!("{:?}", self.slots)
    }

    /// Whether devices reach memory at this address.
    fn is_memory(&self, at: u64) -> bool {
        self.ram.memory().memory().write_obj(7u8, GuestAddress(at)).is_ok()
    }
}

#[test]
fn windows_come_move_and_go() {
    let Some(machine) = machine() else { return };
    let (one, two) = (machine.shared(false), machine.shared(true));
    machine.windows.place(&one, Some(HIGH)).unwrap();
    machine.windows.place(&two, Some(HIGH + LEN)).unwrap();
    assert!(machine.slots().contains("[0, 1, 2]"), "{}", machine.slots());
    assert!(machine.is_memory(HIGH) && machine.is_memory(HIGH + 2 * LEN - 1));
    machine.windows.place(&one, Some(2 * HIGH)).unwrap();
    assert!(!machine.is_memory(HIGH) && machine.is_memory(2 * HIGH));
    machine.windows.place(&one, None).unwrap();
    machine.windows.place(&one, None).unwrap();
    assert!(!machine.is_memory(2 * HIGH) && machine.is_memory(HIGH + LEN));
    assert!(machine.slots().contains("[0, 2]"), "{}", machine.slots());
    machine.windows.place(&one, Some(HIGH)).unwrap();
    assert!(machine.slots().contains("[0, 1, 2]"), "{}", machine.slots());
}

#[test]
fn a_window_where_memory_is_already_is_nowhere() {
    let Some(machine) = machine() else { return };
    let (one, two) = (machine.shared(true), machine.shared(true));
    machine.windows.place(&one, Some(HIGH)).unwrap();
    for at in [0, RAM - 4096, HIGH, HIGH + LEN - 4096, u64::MAX - LEN] {
        assert!(machine.windows.place(&two, Some(at)).is_err(), "{at:#x}");
        assert!(machine.slots().contains("[0, 1]"), "{}", machine.slots());
    }
    assert!(machine.is_memory(HIGH) && machine.is_memory(RAM - 1));
    machine.windows.place(&two, Some(HIGH + LEN)).unwrap();
}

#[test]
fn what_a_device_writes_to_a_window_is_there_for_all() {
    let Some(machine) = machine() else { return };
    let one = machine.shared(true);
    machine.windows.place(&one, Some(HIGH)).unwrap();
    machine.ram.memory().memory().write_obj(9u64, GuestAddress(HIGH + 8)).unwrap();
    machine.windows.place(&one, Some(2 * HIGH)).unwrap();
    let read: u64 = machine.ram.memory().memory().read_obj(GuestAddress(2 * HIGH + 8)).unwrap();
    assert_eq!(read, 9);
}
