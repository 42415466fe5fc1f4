use memshare::MemoryHandle;
use proptest::prelude::*;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddressSpace};

use super::*;
use crate::virtio::driver::{Buffer, Driver, INDIRECT, MEMORY, NEXT, WRITE, memory};

const RINGS: u64 = 0x1_0000;
const TABLE: u64 = 0x10_0000;
const SIZE: u16 = 8;

fn driver(event_idx: bool) -> (Driver, MemoryHandle) {
    let handle = memory();
    (Driver::new(handle.memory().into_inner(), RINGS, SIZE, event_idx), handle)
}

fn taken(queue: &mut Queue) -> (u16, Vec<Segment>, Vec<Segment>) {
    let mut chain = Chain::default();
    assert_eq!(queue.pop(&mut chain), Ok(true));
    (chain.head(), chain.readable().to_vec(), chain.writable().to_vec())
}

fn segment((address, len, _): Buffer) -> Segment {
    Segment { address: GuestAddress(address), len }
}

/// The error that a queue finds in descriptors set as given.
fn error(descriptors: &[(u64, u32, u16, u16)]) -> RingError {
    let (mut driver, _handle) = driver(false);
    for (number, &(address, len, flags, next)) in (0u64..).zip(descriptors) {
        driver.set_descriptor(RINGS + 16 * number, (address, len), flags, next);
        driver.set_descriptor(TABLE + 16 * number, (address, len), flags & !INDIRECT, next);
    }
    driver.offer(0);
    driver.queue().pop(&mut Chain::default()).expect_err("a broken chain")
}

#[test]
fn a_chain_has_a_readable_and_a_writable_part() {
    let (mut driver, _handle) = driver(false);
    let mut queue = driver.queue();
    let buffers = [(1, 2, false), (3, 4, false), (5, 0, false), (5, 6, true), (7, 8, true)];
    let [a, b, _, c, d] = buffers.map(segment);
    for indirect in [false, true] {
        let head = match indirect {
            true => driver.add_indirect(TABLE, &buffers),
            false => driver.add(&buffers),
        };
        assert_eq!(taken(&mut queue), (head.unwrap(), vec![a, b], vec![c, d]));
        queue.push_used(head.unwrap(), 14);
        assert_eq!(driver.take_used(), None, "not published");
        queue.publish();
        assert_eq!(driver.take_used(), Some((head.unwrap(), 14)));
    }
    assert_eq!(queue.pop(&mut Chain::default()), Ok(false));
}

#[test]
fn a_chain_may_end_in_an_indirect_table() {
    let (mut driver, _handle) = driver(false);
    driver.set_descriptor(RINGS, (1, 1), NEXT, 3);
    driver.set_descriptor(RINGS + 48, (TABLE + 1, 32), INDIRECT | WRITE, 0);
    driver.set_descriptor(TABLE + 1, (2, 2), NEXT, 1);
    driver.set_descriptor(TABLE + 17, (3, 3), WRITE, 0);
    driver.offer(0);
    let readable = [(1, 1, false), (2, 2, false)].map(segment).to_vec();
    assert_eq!(taken(&mut driver.queue()), (0, readable, vec![segment((3, 3, true))]));
}

#[test]
fn chains_that_break_the_rules_are_told_apart() {
    assert_eq!(error(&[(0, 1, NEXT, 0)]), RingError::Length(0), "a loop");
    assert_eq!(error(&[(0, 1, NEXT, 1), (0, 1, NEXT, 0)]), RingError::Length(0));
    assert_eq!(error(&[(0, 1, NEXT, SIZE)]), RingError::Descriptor(SIZE));
    let order = [(0, 1, NEXT | WRITE, 1), (0, 1, 0, 0)];
    assert_eq!(error(&order), RingError::Order(0));
    let indirect = RingError::Indirect(0);
    assert_eq!(error(&[(TABLE, 16, INDIRECT | NEXT, 1)]), indirect, "more after the table");
    assert_eq!(error(&[(TABLE, 0, INDIRECT, 0)]), indirect, "an empty table");
    assert_eq!(error(&[(TABLE, 24, INDIRECT, 0)]), indirect, "half a descriptor");
    assert_eq!(error(&[(TABLE, 16 * 1025, INDIRECT, 0)]), indirect, "too large");
    assert_eq!(error(&[(MEMORY - 8, 16, INDIRECT, 0)]), indirect, "not in memory");
    assert_eq!(error(&[(u64::MAX - 7, 16, INDIRECT, 0)]), indirect, "beyond all addresses");
}

#[test]
fn tables_are_checked_like_the_queue() {
    let error = |descriptors: &[(u64, u32, u16, u16)]| {
        let (mut driver, _handle) = driver(false);
        driver.set_descriptor(RINGS, (TABLE, 32), INDIRECT, 0);
        for (number, &(address, len, flags, next)) in (0u64..).zip(descriptors) {
            driver.set_descriptor(TABLE + 16 * number, (address, len), flags, next);
        }
        driver.offer(0);
        driver.queue().pop(&mut Chain::default()).expect_err("a broken table")
    };
    assert_eq!(error(&[(TABLE, 16, INDIRECT, 0)]), RingError::Indirect(0), "nested");
    assert_eq!(error(&[(0, 1, NEXT, 2)]), RingError::Descriptor(2));
    assert_eq!(error(&[(0, 1, NEXT, 1), (0, 1, NEXT, 0)]), RingError::Length(0));
    assert_eq!(error(&[(0, 1, NEXT | WRITE, 1), (0, 1, 0, 0)]), RingError::Order(0));
}

#[test]
fn rings_that_break_the_rules_are_found() {
    let (mut driver, _handle) = driver(false);
    let mut queue = driver.queue();
    driver.set_available_index(SIZE + 1);
    let ahead = RingError::Index { index: SIZE + 1, used: 0 };
    assert_eq!(queue.pop(&mut Chain::default()), Err(ahead));
    driver.set_available_index(u16::MAX);
    assert!(queue.pop(&mut Chain::default()).is_err(), "backwards");
    driver.set_available_index(0);
    driver.offer(SIZE);
    assert_eq!(queue.pop(&mut Chain::default()), Err(RingError::Descriptor(SIZE)));
}

#[test]
fn buffers_that_were_not_returned_count() {
    let (mut driver, _handle) = driver(false);
    let mut queue = driver.queue();
    driver.set_descriptor(RINGS, (0, 1), 0, 0);
    let mut chain = Chain::default();
    for _ in 0..SIZE {
        driver.offer(0);
        assert_eq!(queue.pop(&mut chain), Ok(true));
    }
    driver.offer(0);
    assert!(queue.pop(&mut chain).is_err(), "one more than the queue has");
}

#[test]
fn a_queue_must_be_in_memory_and_aligned() {
    let (driver, handle) = driver(false);
    let memory = handle.memory().into_inner();
    let new = |change: fn(&mut QueueLayout)| {
        let mut layout = driver.layout;
        change(&mut layout);
        Queue::new(layout, memory.clone(), false).err()
    };
    assert_eq!(new(|_| ()), None);
    for size in [0, 3, 32769, u16::MAX] {
        let layout = QueueLayout { size, ..driver.layout };
        assert_eq!(Queue::new(layout, memory.clone(), false).err(), Some(RingError::Size(size)));
    }
    assert!(new(|layout| layout.descriptors += 8).is_some());
    assert!(new(|layout| layout.available += 1).is_some());
    assert!(new(|layout| layout.used += 2).is_some());
    assert!(new(|layout| layout.descriptors = MEMORY - 16).is_some());
    assert!(new(|layout| layout.available = MEMORY - 16).is_some());
    assert!(new(|layout| layout.used = u64::MAX - 3).is_some());
    // The last byte that fits: 4 + 8 * SIZE + 2, rounded up to the alignment.
    assert_eq!(new(|layout| layout.used = MEMORY - 72), None);
    assert!(new(|layout| layout.used = MEMORY - 68).is_some());
}

#[test]
fn notifications_are_asked_for_and_suppressed() {
    for event_idx in [false, true] {
        let (mut driver, _handle) = driver(event_idx);
        let mut queue = driver.queue();
        let mut chain = Chain::default();
        queue.suppress_notifications();
        assert!(!queue.request_notifications(), "nothing there");
        let old = driver.position();
        driver.add(&[(0, 1, false)]).unwrap();
        assert!(driver.must_notify(old));
        queue.suppress_notifications();
        assert_eq!(queue.pop(&mut chain), Ok(true));
        let old = driver.position();
        driver.add(&[(0, 1, false)]).unwrap();
        assert!(!driver.must_notify(old), "the device is looking");
        assert!(queue.request_notifications(), "the one of which there was no notification");
    }
}

#[test]
fn interrupts_are_sent_when_the_driver_wants_them() {
    for event_idx in [false, true] {
        let (mut driver, handle) = driver(event_idx);
        let mut queue = driver.queue();
        let mut chain = Chain::default();
        let mut use_one = |driver: &mut Driver| {
            let head = driver.add(&[(0, 1, false)]).unwrap();
            assert_eq!(queue.pop(&mut chain), Ok(true));
            queue.push_used(head, 0);
            queue.publish();
            let needed = queue.needs_notification();
            assert!(!queue.needs_notification(), "nothing new");
            needed
        };
        driver.want_interrupt();
        assert!(use_one(&mut driver));
        if event_idx {
            assert!(!use_one(&mut driver), "the event was behind");
        } else {
            handle.memory().write_obj(1u16, GuestAddress(driver.layout.available)).unwrap();
            assert!(!use_one(&mut driver), "VIRTQ_AVAIL_F_NO_INTERRUPT");
            handle.memory().write_obj(0u16, GuestAddress(driver.layout.available)).unwrap();
            assert!(use_one(&mut driver));
        }
    }
}

proptest! {
    /// On chains that follow the rules we take what virtio-queue takes; on all others, it takes
    /// no more than the part before the fault.
    #[test]
    fn chains_agree_with_virtio_queue(
        table in proptest::collection::vec(
            (0u64..MEMORY, 1u32..100, 0u16..4, 0u16..SIZE + 1), usize::from(SIZE)),
        head in 0..SIZE,
    ) {
        let (mut driver, handle) = driver(false);
        for (slot, (address, len, flags, next)) in (0u64..).zip(table) {
            driver.set_descriptor(RINGS + 16 * slot, (address, len), flags, next);
        }
        driver.offer(head);
        let layout = driver.layout;
        let mut oracle = virtio_queue::Queue::new(SIZE).unwrap();
        oracle.try_set_desc_table_address(GuestAddress(layout.descriptors)).unwrap();
        oracle.try_set_avail_ring_address(GuestAddress(layout.available)).unwrap();
        oracle.try_set_used_ring_address(GuestAddress(layout.used)).unwrap();
        oracle.set_ready(true);
        let memory = handle.memory();
        let wanted: Vec<_> = oracle
            .pop_descriptor_chain(&*memory)
            .unwrap()
            .map(|d| (Segment { address: d.addr(), len: d.len() }, d.is_write_only()))
            .collect();
        let mut chain = Chain::default();
        let popped = driver.queue().pop(&mut chain);
        let readable = chain.readable().iter().map(|&segment| (segment, false));
        let writable = chain.writable().iter().map(|&segment| (segment, true));
        let got: Vec<_> = readable.chain(writable).collect();
        match popped {
            Ok(found) => prop_assert!(found && got == wanted),
            Err(_) => prop_assert!(wanted.starts_with(&got)),
        }
    }

    #[test]
    fn pieces_are_a_window_on_the_bytes(
        lens in proptest::collection::vec(1u32..20, 0..8),
        skip in 0u64..100,
        len in 0u64..100,
    ) {
        let mut at = 1000;
        let mut segments = Vec::new();
        for len in lens {
            segments.push(Segment { address: GuestAddress(at), len });
            at += u64::from(len) + 7;
        }
        let bytes = |segment: Segment| segment.address.0..segment.address.0 + u64::from(segment.len);
        let wanted: Vec<u64> = segments.iter().copied().flat_map(bytes)
            .skip(usize::try_from(skip).unwrap()).take(usize::try_from(len).unwrap()).collect();
        let got: Vec<u64> = pieces(&segments, skip, len).flat_map(bytes).collect();
        prop_assert_eq!(got, wanted);
    }
}
