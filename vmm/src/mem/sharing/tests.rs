use super::super::origin::{Given, Origin};
use super::super::{Part, Process, Sizes};
use super::*;

fn part(origin: Origin, inode: u64, rss_kib: u64, pss_kib: u64) -> Part {
    Part {
        origin,
        path: Some(format!("/{inode}")),
        file: Some(FileId { major: 1, minor: 1, inode }),
        files: None,
        sizes: Sizes { rss_kib, pss_kib, ..Sizes::default() },
        with: Vec::new(),
        frames: None,
        ranges: Vec::new(),
    }
}

fn guest(name: &str, pid: u32, lab: Option<(&str, u32)>, parts: Vec<Part>) -> GuestAccount {
    let lab = lab.map(|(name, supervisor)| LabRun { name: name.to_owned(), supervisor });
    GuestAccount { name: name.into(), lab, pid, ram_kib: 0, total: Sizes::default(), parts }
}

fn account(guests: Vec<GuestAccount>) -> Account {
    let mut account = Account { guests, ..Account::default() };
    account.sum_up();
    account
}

#[test]
fn guests_share_what_is_the_same_file() {
    let parts = || vec![part(Origin::Pmem, 5, 300, 100), part(Origin::Heap, 6, 9, 9)];
    let mut third = parts();
    // In two places of one guest, as two devices have it.
    third.push(part(Origin::Share, 5, 10, 10));
    third[1].file = None;
    let account = account(vec![
        guest("a", 1, Some(("pair", 9)), parts()),
        guest("b", 2, Some(("pair", 9)), vec![part(Origin::Pmem, 7, 50, 50)]),
        guest("c", 3, Some(("pair", 9)), third),
        guest("a", 4, Some(("pair", 10)), parts()),
        guest("guest", 5, None, vec![part(Origin::Kernel, 5, 1, 1)]),
    ]);
    let with = |guest: usize, part: usize| account.guests[guest].parts[part].with.clone();
    assert_eq!(with(0, 0), ["c", "pair/a", "guest (5)"]);
    assert_eq!(with(2, 2), ["a", "pair/a", "guest (5)"]);
    assert!(with(1, 0).is_empty() && with(2, 1).is_empty());
    assert_eq!(with(4, 0), ["pair/a", "pair/c", "pair/a"]);
    assert_eq!(account.held_kib, 109 + 50 + 119 + 109 + 1);
    assert_eq!(account.unshared_kib, 309 + 50 + 319 + 309 + 1);
    let one = account.only(|pid| pid == 1);
    assert_eq!((one.guests.len(), one.held_kib, one.unshared_kib), (1, 109, 309));
    assert_eq!(one.guests[0].parts[0].with.len(), 3);
}

#[test]
fn guests_that_have_ended_are_left_out() {
    let of = |process| Guest { name: "x".into(), lab: None, process, given: Given::default() };
    let own = of(Process::current().unwrap());
    let gone = of(Process { pid: u32::MAX, started: 1 });
    let account = Account::of([&own, &gone], false);
    assert_eq!((account.guests.len(), account.unknown.len()), (1, 0));
    assert!(account.held_kib > 0);
}

#[test]
fn page_frames_of_shared_files_are_the_same_or_refused() {
    use std::io::Write;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 8 * 4096]).unwrap();
    let path = file.path().canonicalize().unwrap();
    // A process that has the file mapped from beginning to end: a shell cannot, this one can.
    let mapped = vm_memory::MmapRegion::<()>::build(
        Some(vm_memory::FileOffset::new(file.reopen().unwrap(), 0)),
        8 * 4096,
        libc::PROT_READ,
        libc::MAP_PRIVATE | libc::MAP_POPULATE,
    )
    .unwrap();
    let given = Given {
        files: vec![super::super::origin::GivenFile::new(Origin::Pmem, &path)],
        ..Given::default()
    };
    let guest = |name: &str| Guest {
        name: name.into(),
        lab: None,
        process: Process::current().unwrap(),
        given: given.clone(),
    };
    // One process, looked at as two guests: each frame is in both.
    let account = Account::of([&guest("a"), &guest("b")], true);
    for guest in &account.guests {
        let pmem = guest.parts.iter().find(|part| part.origin == Origin::Pmem).unwrap();
        assert!(pmem.sizes.rss_kib >= 32, "{pmem:?}");
        match (&pmem.frames, &account.no_frames) {
            (Some(frames), None) => {
                assert_eq!((frames.count, frames.shared), (8, 8));
                assert!(frames.first.iter().all(|frame| frame.number > 0));
            }
            (None, Some(why)) => assert!(!why.is_empty()),
            other => panic!("{other:?}"),
        }
    }
    drop(mapped);
}
