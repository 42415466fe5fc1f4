use std::collections::VecDeque;

use memshare::MemoryHandle;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddressSpace};

use super::super::area::fuse;
use super::super::{Chain, Queue};
use super::*;
use crate::virtio::driver::{Driver, memory};

const RINGS: u64 = 0x1_0000;
const SIZE: u16 = 8;

/// A driver, and memory for a record of its requests that nothing else is in.
fn parts() -> (Driver, MemoryHandle, Arc<GuestMemory>) {
    let handle = memory();
    let driver = Driver::new(handle.memory().into_inner(), RINGS, SIZE, false);
    let record = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
    (driver, handle, Arc::new(record))
}

fn tracked(driver: &Driver, record: &Arc<GuestMemory>) -> Queue {
    driver.queue().track(Inflight::new(record, 0, SIZE).unwrap()).unwrap()
}

fn pop(queue: &mut Queue) -> Option<u16> {
    let mut chain = Chain::default();
    queue.pop(&mut chain).unwrap().then(|| chain.head())
}

fn pop_all(queue: &mut Queue) -> Vec<u16> {
    std::iter::from_fn(|| pop(queue)).collect()
}

fn add(driver: &mut Driver) -> u16 {
    driver.add(&[(0, 1, false)]).unwrap()
}

#[test]
fn what_was_taken_and_not_answered_is_taken_again_in_order() {
    let (mut driver, _handle, record) = parts();
    let heads: Vec<u16> = (0..6).map(|_| add(&mut driver)).collect();
    let mut queue = tracked(&driver, &record);
    for &head in &heads[..5] {
        assert_eq!(pop(&mut queue), Some(head));
    }
    queue.push_used(heads[3], 0);
    queue.push_used(heads[0], 0);
    queue.publish();
    queue.push_used(heads[1], 0);
    drop(queue);

    let mut queue = tracked(&driver, &record);
    assert!(queue.has_available());
    assert_eq!(pop_all(&mut queue), [heads[1], heads[2], heads[4], heads[5]]);
    for head in [1, 2, 4, 5].map(|n| heads[n]) {
        queue.push_used(head, 0);
    }
    queue.publish();
    let used: Vec<u16> = std::iter::from_fn(|| driver.take_used()).map(|(head, _)| head).collect();
    assert_eq!(used, [3, 0, 1, 2, 4, 5].map(|n| heads[n]));
    drop(queue);
    let queue = tracked(&driver, &record);
    assert!(!queue.has_available(), "all is answered");
}

#[test]
fn a_new_record_begins_where_the_rings_are() {
    let (mut driver, _handle, record) = parts();
    let first = add(&mut driver);
    let mut queue = driver.queue();
    assert_eq!(pop(&mut queue), Some(first));
    queue.push_used(first, 0);
    queue.publish();
    let second = add(&mut driver);
    assert_eq!(pop_all(&mut tracked(&driver, &record)), [second]);
}

#[test]
fn a_record_of_another_queue_is_refused() {
    let (driver, _handle, record) = parts();
    drop(tracked(&driver, &record));
    let error = |inflight| driver.queue().track(inflight).err();
    let wrong = RingError::Inflight { version: 1, entries: SIZE };
    assert_eq!(error(Inflight::new(&record, 0, 2 * SIZE).unwrap()), Some(wrong));
    let small = Inflight::new(&record, 1, SIZE / 2).unwrap();
    assert!(matches!(error(small), Some(RingError::Inflight { .. })), "too small");
    record.write_obj(2u16, GuestAddress(8)).unwrap();
    let newer = RingError::Inflight { version: 2, entries: SIZE };
    assert_eq!(error(Inflight::new(&record, 0, SIZE).unwrap()), Some(newer));
    assert!(Inflight::new(&record, 1000, SIZE).is_none(), "not all in memory");
}

#[test]
fn a_queue_made_smaller_forgets_requests_beyond_its_end() {
    let (mut driver, handle, record) = parts();
    let heads: Vec<u16> = (0..SIZE).map(|_| add(&mut driver)).collect();
    let mut queue = tracked(&driver, &record);
    assert_eq!(pop_all(&mut queue), heads);
    let memory = handle.memory().into_inner();
    let small = Driver::new(memory, RINGS, SIZE / 2, false);
    let mut queue = tracked(&small, &record);
    let again: Vec<u16> = std::iter::from_fn(|| pop(&mut queue)).take(SIZE.into()).collect();
    assert!(again.iter().all(|&head| head < SIZE / 2), "{again:?}");
}

/// What a device does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Add,
    Pop,
    /// Answers the request that is so many from the oldest.
    Use(usize),
    Publish,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Add),
        3 => Just(Step::Pop),
        3 => (0..usize::from(SIZE)).prop_map(Step::Use),
        2 => Just(Step::Publish),
    ]
}

/// Lets the driver take back what was answered, each request once.
fn take_back(driver: &mut Driver, outstanding: &mut Vec<u16>) {
    while let Some((head, _)) = driver.take_used() {
        let at = outstanding.iter().position(|&other| other == head);
        outstanding.remove(at.expect("a request that waits for its answer"));
    }
}

proptest! {
    /// A device that is killed at any store, and its successor too while it finds out what was
    /// left: the next one takes every request that the driver has no answer to, exactly once, and
    /// in the order in which the driver made them.
    #[test]
    fn no_request_is_lost_or_answered_twice(
        lives in proptest::collection::vec(
            (proptest::collection::vec(step(), 0..60), 1u64..150), 1..6),
    ) {
        let (mut driver, _handle, record) = parts();
        let mut outstanding = Vec::new();
        for (steps, stores) in lives {
            let mut waiting: VecDeque<u16> = outstanding.iter().copied().collect();
            let mut held = Vec::new();
            fuse::set(Some(stores));
            let mut queue = tracked(&driver, &record);
            for step in steps {
                if fuse::blown() {
                    break;
                }
                match step {
                    Step::Add => {
                        if let Some(head) = driver.add(&[(0, 1, false)]) {
                            waiting.push_back(head);
                            outstanding.push(head);
                        }
                    }
                    Step::Pop => {
                        let popped = pop(&mut queue);
                        prop_assert_eq!(popped, waiting.pop_front());
                        held.extend(popped);
                    }
                    Step::Use(at) if at < held.len() => queue.push_used(held.remove(at), 0),
                    Step::Use(_) => {}
                    Step::Publish => {
                        queue.publish();
                        if !fuse::blown() {
                            take_back(&mut driver, &mut outstanding);
                        }
                    }
                }
            }
            drop(queue);
            fuse::set(None);
            take_back(&mut driver, &mut outstanding);
        }
        prop_assert_eq!(pop_all(&mut tracked(&driver, &record)), outstanding);
    }

    /// Whatever is in a record, a queue on it does not fail other than by saying so, and takes no
    /// more than there can be.
    #[test]
    fn a_record_with_anything_in_it_does_no_harm(
        header in any::<[u16; 2]>(),
        entries in proptest::collection::vec(any::<(u8, u16, u64)>(), usize::from(SIZE)),
        version in 0u16..3,
        used in any::<u16>(),
    ) {
        let (mut driver, handle, record) = parts();
        let put = |at: u64, value: u16| record.write_obj(value, GuestAddress(at)).unwrap();
        put(8, version);
        put(10, SIZE);
        put(12, header[0]);
        put(14, header[1]);
        for (at, (inflight, next, counter)) in (1u64..).zip(entries) {
            record.write_obj(inflight % 2, GuestAddress(16 * at)).unwrap();
            put(16 * at + 6, next % (2 * SIZE));
            record.write_obj(counter, GuestAddress(16 * at + 8)).unwrap();
        }
        handle.memory().write_obj(used, GuestAddress(driver.layout.used + 2)).unwrap();
        add(&mut driver);
        let tracked = driver.queue().track(Inflight::new(&record, 0, SIZE).unwrap());
        let Ok(mut queue) = tracked else { return Ok(()) };
        let mut chain = Chain::default();
        for _ in 0..2 * SIZE {
            match queue.pop(&mut chain) {
                Ok(true) => queue.push_used(chain.head(), 0),
                Ok(false) | Err(_) => break,
            }
            queue.publish();
        }
        prop_assert!(queue.inflight.as_ref().unwrap().again().is_none_or(|_| version == 1));
    }
}
