use memshare::MemoryHandle;
use vm_memory::GuestAddress;
use vm_memory::GuestAddressSpace;

use super::*;
use crate::virtio::driver::{Driver, MEMORY, Told, activation, memory};

const RINGS: u64 = 0x1_0000;
const DATA: u64 = 0x10_0000;

fn started() -> (Rng, Driver, Arc<Told>, MemoryHandle) {
    let handle = memory();
    let driver = Driver::new(handle.memory().into_inner(), RINGS, 8, true);
    let told = Arc::new(Told::default());
    let mut device = Rng::new();
    device.start(activation(&handle, 0, &[&driver], &told)).unwrap();
    (device, driver, told, handle)
}

#[test]
fn buffers_are_filled_with_bytes_that_differ() {
    let (mut device, mut driver, _told, handle) = started();
    let mut seen = Vec::new();
    for _ in 0..20 {
        let old = driver.position();
        driver.add(&[(DATA, 3, true), (DATA + 3, 29, true)]).unwrap();
        driver.notify_since(old);
        assert_eq!(driver.await_used().1, 32);
        let bytes: [u8; 32] = handle.memory().read_obj(GuestAddress(DATA)).unwrap();
        assert!(!seen.contains(&bytes));
        seen.push(bytes);
    }
    let [state] = device.stop()[..] else { panic!("one queue") };
    assert_eq!((state.next_available, state.next_used), (20, 20));
    assert!(device.stop().is_empty());
}

#[test]
fn a_request_is_given_so_much_and_no_more() {
    let (_device, mut driver, _told, _handle) = started();
    driver.add(&[(DATA, 1 << 20, true)]).unwrap();
    driver.add(&[(DATA, 16, false)]).unwrap();
    driver.doorbell.write(1).unwrap();
    assert_eq!(driver.await_used().1, 4096);
    assert_eq!(driver.await_used().1, 0, "nowhere to write");
}

#[test]
fn a_buffer_outside_of_memory_breaks_the_queue() {
    let (mut device, mut driver, told, _handle) = started();
    driver.add(&[(MEMORY - 1, 2, true)]).unwrap();
    driver.doorbell.write(1).unwrap();
    told.await_needs_reset();
    assert_eq!(device.stop().len(), 1);
}

#[test]
fn requests_before_one_that_breaks_the_queue_are_returned() {
    let handle = memory();
    let mut driver = Driver::new(handle.memory().into_inner(), RINGS, 8, true);
    driver.add(&[(DATA, 16, true)]).unwrap();
    driver.add(&[(MEMORY - 1, 2, true)]).unwrap();
    let told = Arc::new(Told::default());
    let mut device = Rng::new();
    device.start(activation(&handle, 0, &[&driver], &told)).unwrap();
    told.await_needs_reset();
    assert_eq!(driver.take_used().map(|(_, len)| len), Some(16));
    assert_eq!(told.used(), 1);
}

#[test]
fn without_its_queue_it_has_nothing_to_do() {
    let handle = memory();
    let mut device = Rng::new();
    device.start(activation(&handle, 0, &[], &Arc::default())).unwrap();
    assert!(device.stop().is_empty());
}
