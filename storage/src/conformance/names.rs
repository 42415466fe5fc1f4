//! Identities: when they change and when they do not; locks.

use super::*;
use crate::crash::{Change, Recorder};
use crate::request::Operation;

/// Changes that a guest can make, each of another range.
fn changes() -> [(&'static str, Operation); 4] {
    [
        ("write", Operation::Write),
        ("discard", Operation::Discard),
        ("zeroes", Operation::WriteZeroes { unmap: false }),
        ("unmap", Operation::WriteZeroes { unmap: true }),
    ]
}

fn change(queue: &mut crate::DiskQueue, operation: Operation) {
    match operation {
        Operation::Write => testkit::write(queue, 1 << 20, &pattern(9, 4096)).unwrap(),
        other => testkit::erase(queue, other, 0, 3 << 20).unwrap(),
    }
}

#[test]
fn every_kind_of_change_changes_the_identity_once_for_each_open() {
    for subject in bases().into_iter().chain(children(PARENT_SIZE)) {
        let mut queue = subject.queue(&WRITABLE);
        testkit::write(&mut queue, 0, &pattern(3, 3 << 20)).unwrap();
        drop(queue);
        let mut seen = vec![testkit::identity(&subject.path)];
        for (name, operation) in changes() {
            let disk = subject.open(&WRITABLE);
            let mut queue = disk.queue(1).unwrap();
            let now = || testkit::top(&disk).identity().unwrap();
            assert_eq!(now(), seen[seen.len() - 1], "{name}, opened: {}", subject.name());
            change(&mut queue, operation);
            let first = now();
            assert!(!seen.contains(&first), "{name}: {}", subject.name());
            if Format::of_name(&subject.path) != Format::Raw {
                change(&mut queue, operation);
                assert_eq!(now(), first, "{name}, once more: {}", subject.name());
                testkit::flush(&mut queue).unwrap();
            }
            drop((queue, disk));
            seen.push(testkit::identity(&subject.path));
            if Format::of_name(&subject.path) != Format::Raw {
                assert_eq!(seen[seen.len() - 1], first, "{name}, closed: {}", subject.name());
            }
        }
    }
}

#[test]
fn the_identity_is_durable_before_the_first_byte_of_payload() {
    for subject in bases().into_iter().chain(children(PARENT_SIZE)) {
        if Format::of_name(&subject.path) == Format::Raw {
            continue;
        }
        let mut queue = subject.queue(&WRITABLE);
        testkit::write(&mut queue, 0, &pattern(3, 4096)).unwrap();
        drop(queue);
        let recorder = Recorder::default();
        let installed = recorder.install();
        let disk = subject.open(&WRITABLE);
        let engine = crate::engine::record::Recording::new(&recorder, 1);
        let mut queue = disk.queue_on(engine, 1);
        drop(disk);
        let bytes = pattern(9, 4096);
        testkit::write(&mut queue, 0, &bytes).unwrap();
        drop((queue, installed));
        let changes = recorder.changes();
        let payload = changes.iter().position(|(_, change)| {
            matches!(change, Change::Write { bytes: written, .. } if *written == bytes)
        });
        let before = &changes[..payload.expect("the payload is recorded")];
        let synced = before.iter().rposition(|(_, change)| *change == Change::Sync);
        let renewed = &before[..synced.expect("a sync comes before the payload")];
        let wrote = renewed.iter().any(|(_, change)| matches!(change, Change::Write { .. }));
        assert!(wrote, "{}: {before:x?}", subject.name());
    }
}

#[test]
fn a_disk_opened_to_read_writes_nothing() {
    for subject in bases().into_iter().chain(children(PARENT_SIZE)) {
        let recorder = Recorder::default();
        let installed = recorder.install();
        let disk = subject.open(&READ_ONLY);
        testkit::read(&mut disk.queue(1).unwrap(), 0, 1 << 20).unwrap();
        testkit::top(&disk).check(false).unwrap();
        assert!(disk.read_only());
        drop((disk, installed));
        let mut changes = recorder.changes();
        changes.retain(|(_, change)| *change != Change::Sync);
        assert_eq!(changes, [], "{}", subject.name());
    }
}

#[test]
fn who_writes_a_layer_has_it_for_himself() {
    for subject in children(PARENT_SIZE) {
        let parent = subject.parent.as_deref().unwrap();
        let writer = subject.open(&WRITABLE);
        for options in [WRITABLE, READ_ONLY] {
            let error = Disk::open(&subject.path, &options).unwrap_err();
            assert!(matches!(error, DiskError::Locked { .. }), "{error:?}");
        }
        // Its parent is read by it, and may be by others.
        let error = Disk::open(parent, &WRITABLE).unwrap_err();
        assert!(matches!(error, DiskError::Locked { .. }), "{error:?}");
        drop(Disk::open(parent, &READ_ONLY).unwrap());
        drop(writer);

        let writer = Disk::open(parent, &WRITABLE).unwrap();
        for options in [WRITABLE, READ_ONLY] {
            let error = broken(&subject.path, &options);
            assert!(matches!(error, ChainError::ParentInUse { .. }), "{error:?}");
        }
        drop(writer);
        let (_one, _other) = (subject.open(&READ_ONLY), subject.open(&READ_ONLY));
    }
}
