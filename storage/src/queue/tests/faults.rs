//! What becomes of requests when the kernel fails, tears or refuses.

use super::*;

const SIZE: usize = 1 << 20;

fn faulty(faults: impl IntoIterator<Item = Fault>) -> (Disk, Script, DiskQueue) {
    let disk = Disk::scratch(Bytes::new(SIZE as u64), &DiskOptions::default()).unwrap();
    let script = Script::new(faults);
    let queue = disk.queue_on(Faulty::new(&script), 8);
    (disk, script, queue)
}

#[test]
fn torn_transfers_are_resumed_until_all_is_moved() {
    let (_disk, script, mut queue) = faulty([Fault::Tear(1), Fault::Tear(700), Fault::Tear(4096)]);
    let data = pattern(1, 16384);
    write(&mut queue, 512, &data).unwrap();
    assert_eq!(script.seen(), [Action::Write; 4]);
    assert_eq!(read(&mut queue, 512, data.len()).unwrap(), data);
}

#[test]
fn torn_reads_are_resumed_too() {
    let (_disk, script, mut queue) = faulty([Fault::None, Fault::Tear(3), Fault::Tear(512)]);
    let data = pattern(9, 8192);
    write(&mut queue, 0, &data).unwrap();
    assert_eq!(read(&mut queue, 0, data.len()).unwrap(), data);
    assert_eq!(script.seen().len(), 4);
}

#[test]
fn an_error_is_reported_with_its_cause_and_place() {
    let (_disk, _script, mut queue) = faulty([Fault::Tear(512), Fault::Fail(libc::EIO)]);
    let error = write(&mut queue, 4096, &pattern(1, 4096)).unwrap_err();
    let IoError::Host { operation: "write", offset: 4608, source } = error else {
        panic!("{error:?}")
    };
    assert_eq!(source.raw_os_error(), Some(libc::EIO));
}

#[test]
fn lack_of_space_can_be_told_from_other_errors() {
    let (_disk, _script, mut queue) = faulty([Fault::Fail(libc::ENOSPC), Fault::Fail(libc::EIO)]);
    assert!(write(&mut queue, 0, &pattern(1, 512)).unwrap_err().is_no_space());
    assert!(!write(&mut queue, 0, &pattern(1, 512)).unwrap_err().is_no_space());
}

#[test]
fn interrupted_calls_are_made_again() {
    let (_disk, script, mut queue) = faulty([Fault::Fail(libc::EINTR), Fault::Fail(libc::EINTR)]);
    write(&mut queue, 0, &pattern(1, 512)).unwrap();
    assert_eq!(script.seen().len(), 3);
}

#[test]
fn a_call_that_moves_nothing_is_an_error_and_no_loop() {
    let (_disk, _script, mut queue) = faulty([Fault::Nothing, Fault::Tear(1024), Fault::Nothing]);
    let error = write(&mut queue, 512, &pattern(1, 512)).unwrap_err();
    assert!(matches!(error, IoError::NothingWritten { offset: 512 }), "{error:?}");
    let error = read(&mut queue, 2048, 4096).unwrap_err();
    assert!(matches!(error, IoError::UnexpectedEnd { offset: 3072 }), "{error:?}");
}

#[test]
fn a_failed_flush_is_not_reported_as_done() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = folder.path().join("disk");
    File::create(&path).unwrap().set_len(4096).unwrap();
    let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
    let script = Script::new([Fault::Fail(libc::EIO)]);
    let mut queue = disk.queue_on(Faulty::new(&script), 1);
    let flush = || request(Operation::Flush, 0, 0, Buffers::none());
    assert!(matches!(ask(&mut queue, flush()), Err(IoError::Host { .. })));
    ask(&mut queue, flush()).unwrap();
    assert_eq!(script.seen(), [Action::Sync; 2]);
}

#[test]
fn zeroes_are_written_where_the_file_system_cannot_make_them() {
    let refused = Fault::Fail(libc::EOPNOTSUPP);
    // The third writes the first 256 KiB of zeroes; torn, the rest of these follows.
    let (_disk, script, mut queue) = faulty([Fault::None, refused, refused, Fault::Tear(100)]);
    write(&mut queue, 0, &pattern(5, SIZE)).unwrap();
    let len = 300 << 10;
    let zeroes = Operation::WriteZeroes { unmap: true };
    ask(&mut queue, request(zeroes, 4096, len as u64, Buffers::none())).unwrap();
    let expected = [
        Action::Space(SpaceChange::Punch { for_zeroes: true }),
        Action::Space(SpaceChange::ZeroRange),
        Action::Write,
        Action::Write,
        Action::Write,
    ];
    assert_eq!(script.seen()[1..], expected);
    let mut wanted = pattern(5, SIZE);
    wanted[4096..4096 + len].fill(0);
    assert!(read(&mut queue, 0, SIZE).unwrap() == wanted);

    // The refusals are remembered.
    let before = script.seen().len();
    ask(&mut queue, request(zeroes, 0, 512, Buffers::none())).unwrap();
    assert_eq!(script.seen()[before..], [Action::Write]);
    ask(&mut queue, request(Operation::Discard, 0, 512, Buffers::none())).unwrap();
    assert_eq!(script.seen().len(), before + 1);
}

#[test]
fn a_range_that_is_no_whole_block_of_the_host_is_zeroed_by_writing() {
    let refused = Fault::Fail(libc::EINVAL);
    let (_disk, script, mut queue) = faulty([Fault::None, refused, Fault::None, refused]);
    write(&mut queue, 0, &pattern(5, 4096)).unwrap();
    let zeroes = Operation::WriteZeroes { unmap: true };
    ask(&mut queue, request(zeroes, 512, 512, Buffers::none())).unwrap();
    ask(&mut queue, request(Operation::Discard, 1024, 512, Buffers::none())).unwrap();
    let mut wanted = pattern(5, 4096);
    wanted[512..1024].fill(0);
    assert!(read(&mut queue, 0, 4096).unwrap() == wanted);
    // Other ranges are still tried.
    ask(&mut queue, request(zeroes, 0, 4096, Buffers::none())).unwrap();
    let punch = |for_zeroes| Action::Space(SpaceChange::Punch { for_zeroes });
    let expected = [punch(true), Action::Write, punch(false), Action::Read, punch(true)];
    assert_eq!(script.seen()[1..], expected);
}

#[test]
fn every_token_is_answered_once_in_any_order() {
    let (_disk, _script, mut queue) = faulty([Fault::Tear(5), Fault::Fail(libc::EIO)]);
    let memory = filled(&pattern(0, 4096));
    let mut done: Vec<Answer> = Vec::new();
    for token in 0..100 {
        let buffers = Buffers::whole(&memory);
        if let Some(result) = queue.submit(token, request(Operation::Write, 0, 4096, buffers)) {
            done.push((token, result));
        }
    }
    queue.drain(&mut done);
    assert_eq!(queue.in_flight(), 0);
    assert_eq!(done.iter().filter(|(_, result)| result.is_err()).count(), 1);
    let mut tokens: Vec<u64> = done.into_iter().map(|(token, _)| token).collect();
    assert_ne!(tokens, (0..100).collect::<Vec<_>>(), "this engine reorders");
    tokens.sort_unstable();
    assert_eq!(tokens, (0..100).collect::<Vec<_>>());
    assert_eq!(Arc::strong_count(&memory), 1, "all memory is released");
}
