//! What disks read as: fresh ones, after writes of every shape, after erasure.

use super::*;
use crate::request::Operation;

/// Ranges at and across the borders of sectors, pages, clusters and blocks.
const RANGES: [(u64, usize); 12] = [
    (0, 512),
    (512, 4096),
    (4096, 4096),
    (8192 + 512, 7 * 512),
    (65_536 - 512, 1024),
    (65_536 * 3, 65_536),
    (65_536 * 5 + 1536, 3 * 65_536 + 512),
    ((1 << 20) - 4096, 8192),
    ((2 << 20) - 512, 1024),
    ((2 << 20) + 65_536, 1 << 20),
    ((4 << 20) + 512, 512),
    (SIZE - 1536, 1536),
];

/// Bytes that are written before some are erased, from the start.
const OWN: usize = (2 << 20) + 512 * 512;

const ZEROES: [Operation; 2] =
    [Operation::WriteZeroes { unmap: false }, Operation::WriteZeroes { unmap: true }];

fn whole(subject: &Subject) -> Vec<u8> {
    testkit::read(&mut subject.queue(&READ_ONLY), 0, usize::try_from(SIZE).unwrap()).unwrap()
}

/// Compares without printing megabytes.
fn same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    if found != expected {
        let at = found.iter().zip(expected).position(|(one, other)| one != other).unwrap();
        panic!("{what}: byte {at:#x} is {:#x} instead of {:#x}", found[at], expected[at]);
    }
}

#[test]
fn a_fresh_base_is_zero() {
    for subject in bases() {
        assert_eq!(subject.open(&WRITABLE).size().get(), SIZE);
        same(&whole(&subject), &vec![0; usize::try_from(SIZE).unwrap()], &subject.name());
    }
}

#[test]
fn a_fresh_child_is_its_parent() {
    for subject in children(PARENT_SIZE) {
        let mut expected = pattern(7, usize::try_from(PARENT_SIZE).unwrap());
        expected.resize(usize::try_from(SIZE).unwrap(), 0);
        same(&whole(&subject), &expected, &subject.name());
    }
}

#[test]
fn beyond_the_end_of_the_parent_is_zero() {
    // Not a whole number of anybody's blocks.
    let end = (1 << 20) + 3 * 512;
    for subject in children(end as u64) {
        let mut expected = pattern(7, end);
        expected.resize(usize::try_from(SIZE).unwrap(), 0);
        same(&whole(&subject), &expected, &subject.name());
        // A write at the border takes over no more than there is.
        let mut queue = subject.queue(&WRITABLE);
        let bytes = pattern(9, 1024);
        testkit::write(&mut queue, end as u64 - 512, &bytes).unwrap();
        expected[end - 512..end + 512].copy_from_slice(&bytes);
        drop(queue);
        same(&whole(&subject), &expected, &subject.name());
    }
}

#[test]
fn writes_of_every_shape_are_read_back() {
    for subject in bases().into_iter().chain(children(PARENT_SIZE)) {
        let mut expected = whole(&subject);
        for round in 0..2 {
            let mut queue = subject.queue(&WRITABLE);
            for (number, (start, len)) in RANGES.into_iter().enumerate() {
                let bytes = pattern(number + round * 20, len);
                testkit::write(&mut queue, start, &bytes).unwrap();
                let at = usize::try_from(start).unwrap();
                expected[at..at + len].copy_from_slice(&bytes);
                let back = testkit::read(&mut queue, start, len).unwrap();
                same(&back, &bytes, &subject.name());
                if number == 5 {
                    testkit::flush(&mut queue).unwrap();
                }
            }
            let all = testkit::read(&mut queue, 0, expected.len()).unwrap();
            same(&all, &expected, &subject.name());
            drop(queue);
            same(&whole(&subject), &expected, &format!("reopened {}", subject.name()));
        }
    }
}

#[test]
fn zeroes_are_zero_and_nothing_else_is() {
    for how in ZEROES {
        for subject in bases().into_iter().chain(children(PARENT_SIZE)) {
            let mut expected = whole(&subject);
            let mut queue = subject.queue(&WRITABLE);
            let bytes = pattern(3, OWN);
            testkit::write(&mut queue, 0, &bytes).unwrap();
            expected[..bytes.len()].copy_from_slice(&bytes);
            for (start, len) in RANGES {
                testkit::erase(&mut queue, how, start, len as u64).unwrap();
                let at = usize::try_from(start).unwrap();
                expected[at..at + len].fill(0);
            }
            let all = testkit::read(&mut queue, 0, expected.len()).unwrap();
            same(&all, &expected, &subject.name());
            drop(queue);
            same(&whole(&subject), &expected, &format!("reopened {}", subject.name()));
            // And can be written again.
            let mut queue = subject.queue(&WRITABLE);
            for (start, len) in RANGES {
                let at = usize::try_from(start).unwrap();
                expected[at..at + len].copy_from_slice(&pattern(5, len));
                testkit::write(&mut queue, start, &pattern(5, len)).unwrap();
            }
            drop(queue);
            same(&whole(&subject), &expected, &format!("written again {}", subject.name()));
        }
    }
}

#[test]
fn what_is_discarded_is_zero_or_the_layers_own() {
    for subject in bases().into_iter().chain(children(PARENT_SIZE)) {
        let parents = whole(&subject);
        let mut queue = subject.queue(&WRITABLE);
        let own = pattern(3, OWN);
        testkit::write(&mut queue, 0, &own).unwrap();
        for (start, len) in RANGES {
            testkit::erase(&mut queue, Operation::Discard, start, len as u64).unwrap();
        }
        let live = testkit::read(&mut queue, 0, parents.len()).unwrap();
        drop(queue);
        for (found, when) in [(live, "at once"), (whole(&subject), "reopened")] {
            let discarded = |at: usize| {
                RANGES.iter().any(|&(start, len)| {
                    let start = usize::try_from(start).unwrap();
                    (start..start + len).contains(&at)
                })
            };
            for (sector, bytes) in found.chunks_exact(512).enumerate() {
                let at = sector * 512;
                let own = own.get(at..at + 512);
                let fine = if discarded(at) {
                    *bytes == [0; 512] || own == Some(bytes)
                } else {
                    own.unwrap_or(&parents[at..at + 512]) == bytes
                };
                assert!(fine, "{when}: sector {sector} of {}", subject.name());
            }
        }
    }
}

#[test]
fn a_disk_that_is_only_read_is_left_alone() {
    for subject in bases().into_iter().chain(children(PARENT_SIZE)) {
        let mut queue = subject.queue(&WRITABLE);
        testkit::write(&mut queue, 70_000 / 512 * 512, &pattern(3, 4096)).unwrap();
        drop(queue);
        let (before, identity) = (image(&subject.path), testkit::identity(&subject.path));
        let parent = subject.parent.as_deref().map(image);
        for options in [WRITABLE, READ_ONLY] {
            let mut queue = subject.queue(&options);
            testkit::read(&mut queue, 0, 1 << 20).unwrap();
            testkit::flush(&mut queue).unwrap();
            drop(queue);
            assert!(image(&subject.path) == before, "{} {options:?}", subject.name());
            assert_eq!(testkit::identity(&subject.path), identity, "{}", subject.name());
        }
        assert!(subject.parent.as_deref().map(image) == parent);
    }
}

#[test]
fn a_layer_in_use_stays_sound() {
    for subject in bases().into_iter().chain(children(PARENT_SIZE)) {
        let mut queue = subject.queue(&WRITABLE);
        for (start, len) in RANGES {
            testkit::write(&mut queue, start, &pattern(3, len)).unwrap();
        }
        testkit::erase(&mut queue, Operation::Discard, 0, 3 << 20).unwrap();
        drop(queue);
        for options in [READ_ONLY, WRITABLE] {
            assert_sound(testkit::top(&subject.open(&options)));
        }
    }
}
