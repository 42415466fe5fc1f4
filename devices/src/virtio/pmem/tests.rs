use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::*;
use crate::virtio::driver::{Driver, MEMORY, Told, activation, memory};

const RINGS: u64 = 0x1_0000;
const DATA: u64 = 0x10_0000;

#[test]
fn the_driver_is_told_where_the_memory_is() {
    let sought = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&sought);
    let found = move || count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    let mut device = Pmem::new(0x1_4000_0000..0x1_4060_0000, found);
    assert_eq!(sought.load(Ordering::Relaxed), 0);
    let mut config = [0xFF; 20];
    device.read_config(0, &mut config);
    assert_eq!(config[..8], 0x1_4000_0000u64.to_le_bytes());
    assert_eq!(config[8..16], 0x60_0000u64.to_le_bytes());
    assert_eq!(config[16..], [0; 4]);
    device.write_config(8, &[1]);
    let mut size = [0; 8];
    device.read_config(8, &mut size);
    assert_eq!(size, 0x60_0000u64.to_le_bytes());
    assert_eq!(device.info().id.number(), 27);
    assert_eq!(sought.load(Ordering::Relaxed), 1, "once");
}

#[test]
fn flushes_succeed_and_what_is_no_request_does_not() {
    let handle = memory();
    let mut driver = Driver::new(handle.memory().into_inner(), RINGS, 8, true);
    let told = Arc::new(Told::default());
    let mut device = Pmem::new(0..0x20_0000, || {});
    device.start(activation(&handle, 0, &[&driver], &told)).unwrap();
    for (kind, answer) in [(FLUSH, DONE), (7, FAILED), (FLUSH, DONE)] {
        let memory = handle.memory();
        memory.write_obj(kind, GuestAddress(DATA)).unwrap();
        memory.write_obj(5u32, GuestAddress(DATA + 8)).unwrap();
        let old = driver.position();
        driver.add(&[(DATA, 4, false), (DATA + 8, 4, true)]).unwrap();
        driver.notify_since(old);
        assert_eq!(driver.await_used().1, 4);
        assert_eq!(memory.read_obj::<u32>(GuestAddress(DATA + 8)).unwrap(), answer);
    }
    let [state] = device.stop()[..] else { panic!("one queue") };
    assert_eq!((state.next_available, state.next_used), (3, 3));
}

#[test]
fn a_request_without_room_for_its_answer_breaks_the_queue() {
    let shapes: [&[(u64, u32, bool)]; 4] = [
        &[(DATA, 4, false)],
        &[(DATA, 2, false), (DATA + 8, 4, true)],
        &[(DATA, 4, false), (DATA + 8, 3, true)],
        &[(DATA, 4, false), (MEMORY - 2, 4, true)],
    ];
    for buffers in shapes {
        let handle = memory();
        let mut driver = Driver::new(handle.memory().into_inner(), RINGS, 8, true);
        let told = Arc::new(Told::default());
        let mut device = Pmem::new(0..0x20_0000, || {});
        driver.add(buffers).unwrap();
        device.start(activation(&handle, 0, &[&driver], &told)).unwrap();
        told.await_needs_reset();
        assert_eq!(device.stop().len(), 1);
    }
}
