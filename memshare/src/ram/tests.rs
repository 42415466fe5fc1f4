use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddressSpace};

use super::*;
use crate::share::{Access, SharedRegion, Window};

const LOW_END: u64 = 0x10_0000;
const HIGH_START: u64 = 0x100_0000;

fn ram(size: u64) -> GuestRam {
    GuestRam::new(size, LOW_END, HIGH_START).expect("RAM")
}

/// A file whose byte `i` is a function of `i` that differs from page to page and is never zero.
fn patterned(len: u64) -> File {
    let mut file = tempfile::tempfile().expect("temporary file");
    let bytes: Vec<u8> = (0..len).map(pattern).collect();
    file.write_all(&bytes).expect("write");
    file
}

fn pattern(at: u64) -> u8 {
    u8::try_from((at + at / PAGE_SIZE) % 251).expect("below 251") + 1
}

fn contents(ram: &GuestRam, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.memory().memory().read_slice(&mut bytes, GuestAddress(at)).expect("in RAM");
    bytes
}

fn expected(offset: u64, len: u64) -> Vec<u8> {
    (offset..offset + len).map(pattern).collect()
}

#[test]
fn memory_goes_on_above_the_hole() {
    let ram = ram(LOW_END + 3 * PAGE_SIZE);
    let regions: Vec<_> = ram.regions().map(|r| (r.start.0, r.len, r.memfd_offset)).collect();
    assert_eq!(regions, [(0, LOW_END, 0), (HIGH_START, 3 * PAGE_SIZE, LOW_END)]);
    let memory = ram.memory().memory();
    memory.write_obj(7u8, GuestAddress(HIGH_START)).expect("high RAM");
    let mut byte = [0];
    ram.memfd.read_exact_at(&mut byte, LOW_END).expect("memfd read");
    assert_eq!(byte, [7]);
    assert!(memory.write_obj(1u8, GuestAddress(LOW_END)).is_err());
}

#[test]
fn small_memory_has_no_high_region() {
    assert_eq!(ram(LOW_END).regions().count(), 1);
    assert_eq!(ram(PAGE_SIZE).regions().count(), 1);
}

#[test]
fn impossible_layouts_are_refused() {
    for (size, low, high) in [
        (0, LOW_END, HIGH_START),
        (PAGE_SIZE + 1, LOW_END, HIGH_START),
        (PAGE_SIZE, 0, HIGH_START),
        (PAGE_SIZE, LOW_END + 1, HIGH_START),
        (PAGE_SIZE, HIGH_START, LOW_END),
        (u64::MAX - PAGE_SIZE + 1, LOW_END, HIGH_START),
    ] {
        assert!(GuestRam::new(size, low, high).is_err(), "{size:#x} {low:#x} {high:#x}");
    }
}

#[test]
fn the_memfd_cannot_be_resized() {
    let ram = ram(LOW_END);
    assert!(ram.memfd.set_len(0).is_err());
    assert!(ram.memfd.set_len(2 * LOW_END).is_err());
}

#[test]
fn aligned_pages_are_mapped_and_edges_copied() {
    let ram = ram(LOW_END);
    let file = patterned(5 * PAGE_SIZE);
    // What RAM held around the range must stay.
    let memory = ram.memory().memory();
    memory.write_slice(&[0xAA; 0x8000], GuestAddress(0x8000)).expect("in RAM");
    let (offset, len) = (PAGE_SIZE - 10, 2 * PAGE_SIZE + 30);
    let at = 0x9000 + PAGE_SIZE - 10;
    let placed =
        ram.place(&file, offset, len, GuestAddress(at), Placement::CopyOnWrite).expect("placed");
    assert_eq!(placed, Placed { mapped: 2 * PAGE_SIZE, copied: 30 });
    assert_eq!(contents(&ram, at, 2 * 4096 + 30), expected(offset, len));
    assert_eq!(contents(&ram, at - 1, 1), [0xAA]);
    assert_eq!(contents(&ram, at + len, 1), [0xAA]);
    let record = ram.record();
    assert_eq!(record.len(), 1);
    assert_eq!(
        (record[0].guest, record[0].len, record[0].offset),
        (0xA000, 2 * PAGE_SIZE, PAGE_SIZE)
    );
}

#[test]
fn guest_writes_stay_out_of_the_file_and_the_memfd() {
    let ram = ram(LOW_END);
    let file = patterned(PAGE_SIZE);
    ram.place(&file, 0, PAGE_SIZE, GuestAddress(0x4000), Placement::CopyOnWrite).expect("placed");
    let memory = ram.memory().memory();
    memory.write_slice(&[0; 16], GuestAddress(0x4000)).expect("in RAM");
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, 0).expect("read");
    assert_eq!(bytes.as_slice(), expected(0, 16));
    ram.memfd.read_exact_at(&mut bytes, 0x4000).expect("read");
    assert_eq!(bytes, [0; 16]);
    assert_eq!(contents(&ram, 0x4000, 16), [0; 16]);
}

#[test]
fn copies_are_in_the_memfd() {
    let ram = ram(LOW_END);
    let file = patterned(2 * PAGE_SIZE);
    let placed =
        ram.place(&file, 0, 2 * PAGE_SIZE, GuestAddress(0x4000), Placement::Copy).expect("placed");
    assert_eq!(placed, Placed { mapped: 0, copied: 2 * PAGE_SIZE });
    let mut bytes = vec![0; 8192];
    ram.memfd.read_exact_at(&mut bytes, 0x4000).expect("read");
    assert_eq!(bytes, expected(0, 8192));
    assert!(ram.record().is_empty());
}

#[test]
fn what_cannot_be_mapped_is_copied() {
    let ram = ram(LOW_END);
    let file = patterned(4 * PAGE_SIZE);
    for (offset, len, at) in [
        (1, 2 * PAGE_SIZE, 0x4000),               // addresses disagree
        (100, 200, 0x8000 + 100),                 // inside one page
        (PAGE_SIZE - 8, 16, 0xC000 + 0x1000 - 8), // two edges, no page between
        (5, 0, 0x10_0000),                        // nothing, at the very end of RAM
    ] {
        let placed = ram
            .place(&file, offset, len, GuestAddress(at), Placement::CopyOnWrite)
            .expect("placed");
        assert_eq!((placed.mapped, placed.copied), (0, len));
        let got = contents(&ram, at.min(LOW_END - 1), usize::try_from(len).expect("small"));
        assert_eq!(got, expected(offset, len));
    }
}

#[test]
fn neighbours_in_one_page_do_not_disturb_each_other() {
    let ram = ram(LOW_END);
    let file = patterned(4 * PAGE_SIZE);
    // Two segments of an ELF file whose boundary lies inside a page.
    for (offset, len) in [(0, PAGE_SIZE + 100), (PAGE_SIZE + 100, 2 * PAGE_SIZE)] {
        ram.place(&file, offset, len, GuestAddress(0x4000 + offset), Placement::CopyOnWrite)
            .expect("placed");
    }
    let len = 3 * PAGE_SIZE + 100;
    assert_eq!(contents(&ram, 0x4000, 0x3064), expected(0, len));
}

#[test]
fn bad_requests_have_their_own_errors() {
    let ram = ram(LOW_END + PAGE_SIZE);
    let file = patterned(4 * PAGE_SIZE);
    let place = |offset, len, at| {
        ram.place(&file, offset, len, GuestAddress(at), Placement::CopyOnWrite)
            .expect_err("refused")
    };
    // Over the end of low RAM, into the hole, from the hole, past the end, around the end of u64.
    for at in [LOW_END - PAGE_SIZE, LOW_END, HIGH_START - PAGE_SIZE, HIGH_START, u64::MAX - 1] {
        assert!(matches!(place(0, 2 * PAGE_SIZE, at), RamError::OutsideRam { .. }));
    }
    for (offset, len) in [(0, 4 * PAGE_SIZE + 1), (4 * PAGE_SIZE, 1), (u64::MAX, 2)] {
        assert!(matches!(place(offset, len, 0), RamError::BeyondFile { .. }));
    }
    ram.place(&file, 0, PAGE_SIZE, GuestAddress(0x4000), Placement::CopyOnWrite).expect("placed");
    assert!(matches!(place(0, 1, 0x4FFF), RamError::Overlap { .. }));
    assert!(matches!(place(0, 0x2000, 0x3000), RamError::Overlap { .. }));
    let pipe = File::open("/dev/null").expect("/dev/null");
    assert!(matches!(
        ram.place(&pipe, 0, 0, GuestAddress(0), Placement::Copy),
        Err(RamError::NotRegular)
    ));
}

#[test]
fn a_file_that_is_gone_leaves_its_pages() {
    let ram = ram(LOW_END);
    let file = patterned(PAGE_SIZE);
    ram.place(&file, 0, PAGE_SIZE, GuestAddress(0), Placement::CopyOnWrite).expect("placed");
    drop(file);
    assert_eq!(contents(&ram, 0, 4096), expected(0, PAGE_SIZE));
}

#[test]
fn the_memfd_is_not_inherited() {
    let ram = ram(LOW_END);
    let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", ram.memfd().as_raw_fd()))
        .expect("fdinfo");
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
    let flags = i32::from_str_radix(flags.trim(), 8).expect("octal");
    assert_ne!(flags & libc::O_CLOEXEC, 0);
}

#[test]
fn devices_reach_windows() {
    let ram = ram(LOW_END);
    let before = ram.memory().memory();
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, &[7; 5000]).expect("written");
    let region = SharedRegion::new(file, "file".into(), None).expect("a region");
    let window = Window::reserve("pmem", 4 * PAGE_SIZE, PAGE_SIZE).expect("a window");
    window
        .map(window.range(0, 4 * PAGE_SIZE).expect("whole"), &region, 0, Access::Read)
        .expect("mapped");
    let start = GuestAddress(1 << 40);
    ram.add_window(start, &window).expect("no other memory is there");
    let memory = ram.memory().memory();
    let mut bytes = [0; 2];
    memory.read_slice(&mut bytes, GuestAddress((1 << 40) + 4999)).expect("in the window");
    assert_eq!(bytes, [7, 0]);
    // Who began before does not see it.
    assert!(before.read_slice(&mut bytes, start).is_err());
    // A device that writes there changes the guest's copy alone.
    memory.write_slice(&[1], start).expect("in the window");
    memory.read_slice(&mut bytes, start).expect("in the window");
    assert_eq!(bytes, [1, 7]);
    region.file().read_exact_at(&mut bytes, 0).expect("read");
    assert_eq!(bytes, [7, 7]);
    let record = ram.record();
    assert_eq!((record.len(), record[0].guest, record[0].by.as_str()), (1, 1 << 40, "pmem"));
    // Not over RAM, not twice, not at the end of all addresses.
    for at in [0, 1 << 40, (1 << 40) + PAGE_SIZE, u64::MAX - PAGE_SIZE + 1] {
        let other = Window::reserve("other", 2 * PAGE_SIZE, PAGE_SIZE).expect("a window");
        let refused = ram.add_window(GuestAddress(at), &other);
        assert!(matches!(refused, Err(RamError::WindowOverlap { .. })), "{at:#x}: {refused:?}");
    }
    assert!(ram.remove_window(GuestAddress(4096)).is_none());
    let removed = ram.remove_window(start).expect("it was there");
    assert!(Arc::ptr_eq(&removed, &window) && ram.record().is_empty());
    assert!(ram.memory().memory().read_slice(&mut bytes, start).is_err());
    ram.add_window(start, &window).expect("it may come back");
    drop(ram);
    assert!(window.record(0).is_empty());
}

#[test]
fn memory_that_a_device_keeps_outlives_its_window() {
    let ram = ram(LOW_END);
    let region = SharedRegion::new(patterned(PAGE_SIZE), "file".into(), None).expect("a region");
    let window = Window::reserve("pmem", 2 * PAGE_SIZE, PAGE_SIZE).expect("a window");
    let page = window.range(0, PAGE_SIZE).expect("a page");
    window.map(page, &region, 0, Access::Private).expect("mapped");
    let start = GuestAddress(1 << 40);
    ram.add_window(start, &window).expect("no other memory is there");
    let kept = ram.memory().memory();
    drop(ram);
    drop(window);
    // A device that has not ended yet finds memory there, though none of the file.
    let mut bytes = [1; 16];
    kept.read_slice(&mut bytes, start).expect("still memory");
    assert_eq!(bytes, [0; 16]);
    kept.write_slice(&[1; 16], start).expect("still memory");
    // Nothing holds the file any more.
    assert_eq!(Arc::strong_count(&region), 1);
}

#[test]
fn what_a_device_sees_follows_the_mappings() {
    let ram = ram(LOW_END);
    let region =
        SharedRegion::new(patterned(2 * PAGE_SIZE), "file".into(), None).expect("a region");
    let window = Window::reserve("dax", 2 * PAGE_SIZE, PAGE_SIZE).expect("a window");
    let start = GuestAddress(1 << 40);
    ram.add_window(start, &window).expect("no other memory is there");
    let memory = ram.memory().memory();
    let read = || {
        let mut bytes = [0; 32];
        memory.read_slice(&mut bytes, start).expect("in the window");
        bytes.to_vec()
    };
    assert_eq!(read(), [0; 32]);
    let page = window.range(0, PAGE_SIZE).expect("a page");
    window.map(page, &region, PAGE_SIZE, Access::Write).expect("mapped");
    assert_eq!(read(), expected(PAGE_SIZE, 32));
    // A device that writes into a writable page of the file writes the file.
    memory.write_slice(&[9; 4], start).expect("in the window");
    let mut bytes = [0; 4];
    region.file().read_exact_at(&mut bytes, PAGE_SIZE).expect("read");
    assert_eq!(bytes, [9; 4]);
    // Of a page that is mapped to be read, neither the file nor other guests see it.
    let other = Window::reserve("other", PAGE_SIZE, PAGE_SIZE).expect("a window");
    let others = other.range(0, PAGE_SIZE).expect("a page");
    other.map(others, &region, 0, Access::Read).expect("mapped");
    ram.add_window(GuestAddress(2 << 40), &other).expect("no other memory is there");
    window.map(page, &region, 0, Access::Read).expect("mapped");
    memory.write_slice(&[8; 4], start).expect("in the window");
    let later = ram.memory().memory();
    later.read_slice(&mut bytes, GuestAddress(2 << 40)).expect("in the window");
    assert_eq!(bytes.as_slice(), expected(0, 4));
    region.file().read_exact_at(&mut bytes, 0).expect("read");
    assert_eq!(bytes.as_slice(), expected(0, 4));
    // And it is gone when the page is mapped again.
    window.map(page, &region, 0, Access::Read).expect("mapped");
    assert_eq!(read(), expected(0, 32));
}
