//! A logical unit as a block device has it.

use super::tasks::gated;
use super::*;
use crate::engine::fault::{Fault, Faulty, Script};
use crate::scsi::{SharedMedium, SharedQueue, TargetError};
use crate::testkit::request;
use crate::{Answer, DiskRequest, IoError, Medium, Operation, RequestQueue};

const SIZE: u64 = 1 << 20;
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const CLEAR: u8 = 3;

fn medium(target: &Target, name: &str) -> SharedMedium {
    // It has unit attentions to hear of.
    let nexus = target.nexus(InitiatorPort::new(name).unwrap());
    SharedMedium::new(target.clone(), 0, nexus).unwrap()
}

fn queue(target: &Target, name: &str) -> SharedQueue {
    medium(target, name).queue(4).unwrap()
}

fn ask(queue: &mut SharedQueue, request: DiskRequest) -> Result<(), IoError> {
    if let Some(result) = queue.submit(77, request) {
        return result;
    }
    let mut done: Vec<Answer> = Vec::new();
    queue.drain(&mut done);
    assert_eq!((done.len(), queue.in_flight()), (1, 0));
    let (token, result) = done.remove(0);
    assert_eq!(token, 77);
    result
}

fn write(queue: &mut SharedQueue, start: u64, bytes: &[u8]) -> Result<(), IoError> {
    let buffers = Buffers::whole(&filled(bytes));
    ask(queue, request(Operation::Write, start, bytes.len() as u64, buffers))
}

fn read(queue: &mut SharedQueue, start: u64, len: usize) -> Result<Vec<u8>, IoError> {
    let mut memory = filled(&vec![UNTOUCHED; len]);
    ask(queue, request(Operation::Read, start, len as u64, Buffers::whole(&memory)))?;
    Ok(Arc::get_mut(&mut memory).expect("the request is over").bytes().to_vec())
}

fn bare(
    queue: &mut SharedQueue,
    operation: Operation,
    start: u64,
    len: u64,
) -> Result<(), IoError> {
    ask(queue, request(operation, start, len, Buffers::none()))
}

const OPERATIONS: [Operation; 3] = [
    Operation::Discard,
    Operation::WriteZeroes { unmap: true },
    Operation::WriteZeroes { unmap: false },
];

#[test]
fn requests_do_what_they_do_to_a_disk() {
    for engine in [EngineChoice::Auto, EngineChoice::Positional] {
        let target = Target::new(vec![unit(SIZE, engine)], None).unwrap();
        let mut queue = queue(&target, "a");
        let data = pattern(1, 64);
        for (at, operation) in (0u64..).zip(OPERATIONS) {
            let start = at * 128 * 512;
            write(&mut queue, start, &data).unwrap();
            assert_eq!(read(&mut queue, start, data.len()).unwrap(), data);
            bare(&mut queue, operation, start + 8 * 512, 16 * 512).unwrap();
            let got = read(&mut queue, start, data.len()).unwrap();
            assert!(got[..8 * BLOCK] == data[..8 * BLOCK], "{operation:?}");
            assert!(got[24 * BLOCK..] == data[24 * BLOCK..], "{operation:?}");
            assert!(got[8 * BLOCK..24 * BLOCK].iter().all(|byte| *byte == 0), "{operation:?}");
        }
        bare(&mut queue, Operation::Flush, 0, 0).unwrap();
    }
}

#[test]
fn requests_of_no_bytes_touch_nothing() {
    let target = target(SIZE);
    let mut queue = queue(&target, "a");
    write(&mut queue, 0, &[7; BLOCK]).unwrap();
    for operation in OPERATIONS {
        bare(&mut queue, operation, 0, 0).unwrap();
    }
    write(&mut queue, 0, &[]).unwrap();
    assert!(read(&mut queue, 0, 0).unwrap().is_empty());
    assert_eq!(read(&mut queue, 0, BLOCK).unwrap(), [7; BLOCK]);
}

#[test]
fn what_a_disk_refuses_is_refused() {
    let target = target(SIZE);
    let mut queue = queue(&target, "a");
    assert!(matches!(read(&mut queue, SIZE, BLOCK), Err(IoError::OutOfRange { .. })));
    assert!(matches!(read(&mut queue, 0, 100), Err(IoError::Misaligned { .. })));
    assert!(matches!(bare(&mut queue, Operation::Read, 0, 512), Err(IoError::BufferLength { .. })));
    let medium = medium(&target, "a");
    assert_eq!((medium.size().get(), medium.logical_block_size()), (SIZE, 512));
    let nexus = nexus(&target, "b");
    for lun in [1, 256, u64::MAX] {
        let error = SharedMedium::new(target.clone(), lun, nexus.clone());
        assert!(matches!(error, Err(TargetError::NoSuchUnit { lun: it }) if it == lun));
    }
}

#[test]
fn a_unit_is_one_of_several() {
    let units = ["one", "two"]
        .map(|name| UnitOptions { identity: name.to_owned(), ..unit(SIZE, EngineChoice::Auto) });
    let target = Target::new(units.into(), None).unwrap();
    let at = |lun| SharedMedium::new(target.clone(), lun, nexus(&target, "a")).unwrap();
    let (mut first, mut second) = (at(0).queue(1).unwrap(), at(1).queue(1).unwrap());
    write(&mut first, 0, &[1; BLOCK]).unwrap();
    write(&mut second, 0, &[2; BLOCK]).unwrap();
    assert_eq!(read(&mut first, 0, BLOCK).unwrap(), [1; BLOCK]);
    assert_eq!(read(&mut second, 0, BLOCK).unwrap(), [2; BLOCK]);
}

#[test]
fn a_reservation_stops_those_it_is_to_stop() {
    let target = target(SIZE);
    let mut holder = Rig::on(&target, "holder");
    let mut queue = queue(&target, "a");
    write(&mut queue, 0, &[1; BLOCK]).unwrap();
    holder.persistent_out(REGISTER, 0, 0, 1).good();
    // Exclusive access.
    holder.persistent_out(RESERVE, 3, 1, 0).good();
    let refused = |result| matches!(result, Err(IoError::ReservationConflict { .. }));
    assert!(refused(write(&mut queue, 0, &[2; BLOCK])));
    assert!(refused(read(&mut queue, 0, BLOCK).map(drop)));
    assert!(refused(bare(&mut queue, Operation::Flush, 0, 0)));
    for operation in OPERATIONS {
        assert!(refused(bare(&mut queue, operation, 0, 512)), "{operation:?}");
    }
    assert_eq!(holder.read(0, 1), [1; BLOCK]);
    holder.persistent_out(CLEAR, 0, 1, 0).good();
    write(&mut queue, 0, &[2; BLOCK]).unwrap();
    assert_eq!(holder.read(0, 1), [2; BLOCK]);
}

#[test]
fn unit_attentions_are_passed_over() {
    let target = target(SIZE);
    let mut queue = queue(&target, "a");
    let nexus = nexus(&target, "a");
    let access = &nexus.0.access[0];
    for round in 0..3 {
        for ascq in 0..16 {
            access.attend(code(6, 0x3f, ascq));
        }
        write(&mut queue, 0, &[round; BLOCK]).unwrap();
        assert_eq!(read(&mut queue, 0, BLOCK).unwrap(), [round; BLOCK]);
    }
}

#[test]
fn what_another_initiator_aborts_is_done_again() {
    let (target, gate) = gated();
    let mut queue = queue(&target, "a");
    let other = nexus(&target, "b");
    gate.shut(true);
    let buffers = Buffers::whole(&filled(&[9; BLOCK]));
    assert!(queue.submit(5, request(Operation::Write, 0, 512, buffers)).is_none());
    let managed = target.manage(&other, 0, TaskManagement::LogicalUnitReset);
    assert_eq!(managed.outcome(), crate::scsi::Outcome::Complete);
    gate.shut(false);
    let mut done = Vec::new();
    queue.drain(&mut done);
    assert!(matches!(done[..], [(5, Ok(()))]), "{done:?}");
    assert_eq!(read(&mut queue, 0, BLOCK).unwrap(), [9; BLOCK]);
    // What the port itself aborts is not.
    let port = nexus(&target, "a");
    gate.shut(true);
    let buffers = Buffers::whole(&filled(&[8; BLOCK]));
    assert!(queue.submit(6, request(Operation::Write, 0, 512, buffers)).is_none());
    let _ = target.manage(&port, 0, TaskManagement::AbortTaskSet);
    gate.shut(false);
    done.clear();
    queue.drain(&mut done);
    assert!(matches!(done[..], [(6, Err(IoError::Target { .. }))]), "{done:?}");
}

#[test]
fn long_requests_are_carried_out_in_parts() {
    const LEN: usize = (66 << 20) + 512;
    let target = target(80 << 20);
    let mut queue = queue(&target, "a");
    let data = pattern(3, LEN / BLOCK);
    write(&mut queue, 512, &data).unwrap();
    assert!(read(&mut queue, 512, LEN).unwrap() == data);
    assert_eq!(read(&mut queue, 0, BLOCK).unwrap(), [0; BLOCK]);
    bare(&mut queue, Operation::Discard, 0, 80 << 20).unwrap();
    assert!(read(&mut queue, 512, LEN).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn a_long_request_ends_with_the_first_part_that_fails() {
    const LEN: usize = 40 << 20;
    let script = Script::new([Fault::Fail(libc::ENOSPC), Fault::Fail(libc::EIO)]);
    let hand = script.clone();
    let options = unit(80 << 20, EngineChoice::Positional);
    let target = Target::with_engine(options, Box::new(move || Faulty::new(&hand)));
    let mut queue = queue(&target, "a");
    let error = write(&mut queue, 0, &vec![1; LEN]).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    let error = write(&mut queue, 0, &vec![1; LEN]).unwrap_err();
    assert!(!error.is_no_space() && matches!(error, IoError::Target { .. }), "{error}");
    assert_eq!(read(&mut queue, 32 << 20, BLOCK).unwrap(), [0; BLOCK]);
    write(&mut queue, 0, &[2; BLOCK]).unwrap();
}

#[test]
fn a_full_queue_waits() {
    let target = target(SIZE);
    for depth in [1, 3] {
        let mut queue = medium(&target, "a").queue(depth).unwrap();
        let mut done = Vec::new();
        for token in 0..100 {
            let buffers = Buffers::whole(&filled(&pattern(1, 8)));
            let now = queue.submit(token, request(Operation::Write, token * 4096, 4096, buffers));
            done.extend(now.map(|result| (token, result)));
            assert!(queue.in_flight() <= 100);
        }
        queue.drain(&mut done);
        let mut tokens: Vec<u64> = done.iter().map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        assert!(tokens.iter().copied().eq(0..100) && done.iter().all(|it| it.1.is_ok()));
        assert_eq!(queue.in_flight(), 0);
    }
}

#[test]
fn a_write_protected_unit_is_read_only() {
    let options = DiskOptions { read_only: true, ..options(EngineChoice::Auto) };
    let disk = Disk::scratch(Bytes::new(SIZE), &options).unwrap();
    let options = UnitOptions { disk, ..unit(SIZE, EngineChoice::Auto) };
    let target = Target::new(vec![options], None).unwrap();
    assert!(medium(&target, "a").read_only());
    let mut queue = queue(&target, "a");
    assert!(matches!(write(&mut queue, 0, &[1; BLOCK]), Err(IoError::ReadOnly { .. })));
    bare(&mut queue, Operation::Flush, 0, 0).unwrap();
    assert_eq!(read(&mut queue, 0, BLOCK).unwrap(), [0; BLOCK]);
}

/// A block that a writer marks and others count in: the last mark, and the count since.
fn parse(block: &[u8]) -> (u32, u32) {
    let number = u64::from_le_bytes(*block.first_chunk().unwrap());
    (u32::try_from(number >> 32).unwrap(), u32::try_from(number & 0xffff_ffff).unwrap())
}

fn block(mark: u32, count: u32) -> Vec<u8> {
    let mut block = vec![u8::try_from(mark % 251).unwrap(); BLOCK];
    block[..8].copy_from_slice(&(u64::from(mark) << 32 | u64::from(count)).to_le_bytes());
    block
}

#[test]
fn no_increment_and_no_write_is_lost_between_initiators() {
    const MARKS: u32 = 150;
    const INCREMENTS: usize = 500;
    for engine in [EngineChoice::Auto, EngineChoice::Positional] {
        let target = Target::new(vec![unit(SIZE, engine)], None).unwrap();
        let mut counted = Vec::new();
        std::thread::scope(|scope| {
            // Writes the counted block and those beside it at once.
            scope.spawn(|| {
                let mut queue = queue(&target, "writer");
                for mark in 1..=MARKS {
                    write(&mut queue, 512, &block(mark, 0).repeat(3)).unwrap();
                    let found = read(&mut queue, 512, 3 * BLOCK).unwrap();
                    assert_eq!(parse(&found[BLOCK..2 * BLOCK]).0, mark, "undone by others");
                    assert_eq!(found[..BLOCK], block(mark, 0));
                    assert_eq!(found[2 * BLOCK..], block(mark, 0));
                }
            });
            let mut rig = Rig::on(&target, "counter");
            for _ in 0..INCREMENTS {
                loop {
                    let old = rig.read(2, 1);
                    let (mark, count) = parse(&old);
                    let new = block(mark, count + 1);
                    let got = rig.run(&compare_and_write(2, 1), &[old, new].concat(), 0);
                    if got.response.status == Status::Good {
                        counted.push((mark, count));
                        break;
                    }
                    got.check(0xe, 0x1d, 0);
                }
            }
        });
        // Since each mark, every count once.
        for (at, &(mark, count)) in counted.iter().enumerate() {
            let before = at.checked_sub(1).map(|at| counted[at]).filter(|it| it.0 == mark);
            assert_eq!(count, before.map_or(0, |it| it.1 + 1));
        }
        let end = parse(&Rig::on(&target, "last").read(2, 1));
        let last = counted.last().filter(|it| it.0 == MARKS).map_or(0, |it| it.1 + 1);
        assert_eq!(end, (MARKS, last));
    }
}
