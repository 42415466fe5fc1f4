use proptest::prelude::*;

use super::*;

/// Linux 6.18: a guest's process with a kernel of one page in its RAM, a file of 256 KiB as
/// persistent memory that three guests map, one page of it written, and the program.
pub(in crate::mem) const GUEST: &str = include_str!("guest-6.18.smaps");
/// Linux 4.4: before `smaps_rollup`, `Pss_Dirty` and `KSM`, with fields in another order.
pub(in crate::mem) const OLD: &str = include_str!("old-4.4.smaps");
const ROLLUP: &str = "\
559b305ca000-7ffd1b907000 ---p 00000000 00:00 0                          [rollup]
Rss:                1640 kB
Pss:                 273 kB
Pss_Dirty:           112 kB
Pss_Anon:            112 kB
Pss_File:            161 kB
Pss_Shmem:             0 kB
Shared_Clean:       1488 kB
Shared_Dirty:          0 kB
Private_Clean:        40 kB
Private_Dirty:       112 kB
Referenced:         1640 kB
Anonymous:           112 kB
Swap:                  8 kB
SwapPss:               8 kB
Locked:                0 kB
";

fn parsed(text: &str) -> Vec<Mapping> {
    read(text.as_bytes()).unwrap()
}

#[test]
fn every_mapping_is_read_with_its_file_and_sizes() {
    let mappings = parsed(GUEST);
    assert_eq!(mappings.len(), GUEST.matches("VmFlags").count());
    let pmem = mappings.iter().find(|mapping| mapping.name == "/srv/lab/app v2.erofs").unwrap();
    assert_eq!(pmem.file, Some(FileId { major: 0xfe, minor: 0, inode: 10_027_041 }));
    assert_eq!((pmem.start, pmem.end), (0x7f1e_4000_0000, 0x7f1e_4004_0000));
    let sizes = Sizes {
        rss_kib: 256,
        pss_kib: 88,
        private_kib: 4,
        shared_kib: 252,
        copied_kib: 4,
        swap_kib: 0,
    };
    assert_eq!(pmem.sizes, sizes);
    let heap = mappings.iter().find(|mapping| mapping.name == "[heap]").unwrap();
    assert_eq!((heap.file, heap.sizes.copied_kib, heap.sizes.swap_kib), (None, 0, 4));
}

#[test]
fn older_kernels_are_understood() {
    let mappings = parsed(OLD);
    assert_eq!(mappings.len(), 3);
    let total = total(&mappings);
    assert_eq!((total.rss_kib, total.pss_kib), (1024 + 708 + 12, 340 + 12));
    assert_eq!((total.private_kib, total.shared_kib), (4 + 12, 1020 + 708));
}

#[test]
fn a_rollup_is_one_mapping() {
    let [rollup] = &parsed(ROLLUP)[..] else { panic!("one") };
    let Sizes { rss_kib, pss_kib, private_kib, shared_kib, swap_kib, .. } = rollup.sizes;
    assert_eq!((rss_kib, pss_kib, private_kib, shared_kib, swap_kib), (1640, 273, 152, 1488, 8));
}

#[test]
fn names_of_any_kind_are_kept_and_mistaken_for_nothing() {
    for name in [
        "/tmp/a b  c",
        "/tmp/Rss:   7 kB",
        "/tmp/7f00-7f10 r--p 00000000 00:00 5 /x",
        "/tmp/new\\012line",
        "/memfd:cohort-ram (deleted)",
        "/tmp/trailing ",
        "",
    ] {
        let text = format!("7f00-7f10 r--s 00001000 00:1f 77       {name}\nRss: 8 kB\n");
        let [mapping] = &parsed(&text)[..] else { panic!("{name}") };
        assert_eq!((mapping.name.as_str(), mapping.sizes.rss_kib), (name, 8));
        assert_eq!(mapping.file, Some(FileId { major: 0, minor: 0x1f, inode: 77 }));
    }
    // Names are bytes, not text.
    let mappings = read(&b"7f00-7f10 r--s 0 00:1f 7 /\xff\nRss: 4 kB\n"[..]).unwrap();
    assert_eq!(mappings[0].name, "/\u{fffd}");
}

#[test]
fn the_sum_of_this_process_mappings_is_what_its_rollup_says() {
    // Of a child that does nothing: this process goes on while it is looked at.
    let mut child = std::process::Command::new("/bin/cat")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // It has answered, so it waits for more.
    let mut answer = [0; 1];
    io::Write::write_all(child.stdin.as_mut().unwrap(), b"x").unwrap();
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut answer).unwrap();
    let sleeping = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.contains(") S ")
    };
    while !sleeping(child.id()) {
        std::thread::yield_now();
    }
    let mappings = of_process(child.id()).unwrap();
    let (sum, rollup) = (total(&mappings), rollup(child.id()).unwrap().unwrap());
    assert_eq!(sum.rss_kib, rollup.rss_kib);
    assert_eq!(sum.private_kib + sum.shared_kib, sum.rss_kib);
    assert_eq!(rollup.private_kib + rollup.shared_kib, rollup.rss_kib);
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(super::rollup(child.id()).map_or(true, |sizes| sizes.is_none()));
    assert!(of_process(child.id()).map_or(true, |mappings| mappings.is_empty()));
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in any::<Vec<u8>>()) {
        let _ = read(&text[..]);
    }

    #[test]
    fn no_change_of_a_real_text_is_too_strange(
        at in 0..GUEST.len(),
        byte in any::<u8>(),
        end in 0..GUEST.len(),
    ) {
        let mut text = GUEST.as_bytes().to_vec();
        text[at] = byte;
        text.truncate(end);
        let _ = read(&text[..]);
    }
}
