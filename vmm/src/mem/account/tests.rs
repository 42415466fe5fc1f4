use proptest::prelude::*;

use super::super::origin::tests::{PROGRAM, given};
use super::super::smaps::tests::{GUEST, OLD};
use super::*;

fn mapping(inode: u64, name: &str, rss_kib: u64) -> Mapping {
    let file = (inode != 0).then_some(FileId { major: 1, minor: 2, inode });
    let sizes = Sizes { rss_kib, pss_kib: rss_kib, private_kib: rss_kib, ..Sizes::default() };
    Mapping { start: 0, end: 0, executable: false, offset: 0, file, name: name.to_owned(), sizes }
}

fn sum(parts: &[Part]) -> Sizes {
    let mut sum = Sizes::default();
    for part in parts {
        sum += part.sizes;
    }
    sum
}

#[test]
fn the_parts_of_a_guest_are_together_all_of_it() {
    for text in [GUEST, OLD] {
        let mappings = smaps::read(text.as_bytes()).unwrap();
        let parts = parts(&given(), Some(PROGRAM), &mappings);
        assert_eq!(sum(&parts), smaps::total(&mappings));
        assert!(parts.is_sorted_by_key(|part| part.origin));
    }
}

#[test]
fn a_recorded_guest_is_taken_apart() {
    let mappings = smaps::read(GUEST.as_bytes()).unwrap();
    let parts = parts(&given(), Some(PROGRAM), &mappings);
    let origins = origins(&parts);
    let of = |origin| origins.iter().find(|found| found.origin == origin).unwrap();
    let memory = of(Origin::Memory);
    assert_eq!((memory.sizes.rss_kib, memory.held_kib()), (16_440, 16_440));
    let pmem = of(Origin::Pmem);
    assert_eq!((pmem.held_kib(), pmem.unshared_kib()), (88, 256));
    let kernel = of(Origin::Kernel);
    assert_eq!((kernel.sizes.copied_kib, kernel.held_kib(), kernel.unshared_kib()), (4, 54, 164));
    // Any program is shared by those who run it: that is no merit of ours.
    let program = of(Origin::Program);
    assert_eq!(program.held_kib(), program.unshared_kib());
    let program: Vec<_> = parts.iter().filter(|part| part.origin == Origin::Program).collect();
    assert_eq!(program[0].sizes.rss_kib, 512 + 2048 + 128);
    assert_eq!(program[0].ranges.len(), 3);
}

#[test]
fn a_disk_server_that_maps_a_guests_memory_does_not_make_it_less() {
    let sizes = Sizes { rss_kib: 100, pss_kib: 50, shared_kib: 100, ..Sizes::default() };
    let memory = OriginUse { origin: Origin::Memory, sizes };
    assert_eq!((memory.held_kib(), memory.unshared_kib()), (100, 100));
}

#[test]
fn a_thousand_files_are_the_largest_and_the_rest() {
    let mut mappings: Vec<Mapping> =
        (1..=1000).map(|n| mapping(n, &format!("/srv/share/{n}"), n)).collect();
    mappings.push(mapping(0, "[heap]", 5));
    mappings.extend((1..=200).map(|n| mapping(5000 + n, &format!("/other/{n}"), 1)));
    let parts = parts(&given(), None, &mappings);
    assert_eq!(sum(&parts), smaps::total(&mappings));
    let of = |origin| parts.iter().filter(move |part| part.origin == origin);
    assert_eq!(of(Origin::Share).count(), FILES_MAX + 1);
    let rest = of(Origin::Share).next_back().unwrap();
    assert_eq!((rest.files, rest.file), (Some(1000 - FILES_MAX), None));
    assert_eq!(rest.sizes.rss_kib, (1..=1000 - FILES_MAX as u64).sum::<u64>());
    assert_eq!(of(Origin::Share).next().unwrap().path.as_deref(), Some("/srv/share/1000"));
    assert_eq!(of(Origin::Other).next_back().unwrap().files, Some(200 - FILES_MAX));
    assert_eq!(of(Origin::Heap).count(), 1);
}

#[test]
fn the_calling_process_has_an_account_and_one_that_is_gone_has_none() {
    let process = Process::current().unwrap();
    let guest = Guest { name: "a".into(), lab: None, process, given: Given::default() };
    let account = GuestAccount::read(&guest).unwrap();
    assert_eq!(sum(&account.parts), account.total);
    assert!(account.origins().iter().any(|part| part.origin == Origin::Program));
    assert!(account.held_kib() > 0 && account.held_kib() == account.unshared_kib());
    assert!(!of_self(&guest.given).is_empty());
    let other = Process { started: process.started + 1, ..process };
    let error = GuestAccount::read(&Guest { process: other, ..guest.clone() }).unwrap_err();
    assert!(matches!(error, MemError::Gone { .. }), "{error}");
    let none = Process { pid: u32::MAX, started: 0 };
    let error = GuestAccount::read(&Guest { process: none, ..guest }).unwrap_err();
    assert!(matches!(error, MemError::Gone { .. }), "{error}");
}

#[test]
fn who_may_not_look_hears_that_in_one_line() {
    let denied = std::io::Error::from_raw_os_error(libc::EACCES);
    let error = MemError::of("a", 7, denied);
    assert_eq!(
        error.to_string(),
        "the memory of the guest a (process 7) may not be read by this user"
    );
    assert!(error.help().is_some());
}

proptest! {
    /// Whatever is mapped: nothing is lost or counted twice, and sharing never costs.
    #[test]
    fn parts_are_the_whole(
        files in proptest::collection::vec((0..300u64, 0..1000u64, 0..1000u64, 0..4usize), 0..600),
    ) {
        let names = ["/srv/share/f", "/memfd:cohort-ram (deleted)", "/lib/x.so", "[heap]"];
        let mappings: Vec<Mapping> = files
            .iter()
            .map(|(inode, private, shared, name)| {
                let sizes = Sizes {
                    rss_kib: private + shared,
                    pss_kib: private + shared / 3,
                    private_kib: *private,
                    shared_kib: *shared,
                    ..Sizes::default()
                };
                Mapping { sizes, ..mapping(*inode, names[*name], 0) }
            })
            .collect();
        let parts = parts(&given(), None, &mappings);
        prop_assert_eq!(sum(&parts), smaps::total(&mappings));
        for origin in origins(&parts) {
            prop_assert!(origin.held_kib() <= origin.unshared_kib());
        }
    }
}
