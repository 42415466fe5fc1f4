//! What a window shows, and what it costs.

mod model;

use super::*;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::share::alone::alone;

const PAGE: usize = 4096;

fn file(content: &[u8]) -> Arc<SharedRegion> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    SharedRegion::new(file, "content".into(), None).unwrap()
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at / 7 % 251).unwrap().wrapping_add(seed)).collect()
}

fn window(pages: usize) -> Arc<Window> {
    Window::reserve("test", (pages * PAGE) as u64, PAGE_SIZE).unwrap()
}

fn bytes(window: &Window, at: usize, len: usize) -> Vec<u8> {
    assert!((at + len) as u64 <= window.len());
    let mut bytes = vec![0; len];
    // SAFETY: inside the window, which is readable.
    unsafe { window.host().add(at).copy_to_nonoverlapping(bytes.as_mut_ptr(), len) };
    bytes
}

fn write(window: &Window, at: usize, bytes: &[u8]) {
    assert!((at + bytes.len()) as u64 <= window.len());
    // SAFETY: inside the window, which is writable.
    unsafe { window.host().add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}

/// Mappings of this process within the window's address space.
fn maps_in(window: &Window) -> usize {
    let start = window.host() as usize;
    let end = start + usize::try_from(window.len()).unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let starts =
        maps.lines().filter_map(|line| usize::from_str_radix(line.split('-').next()?, 16).ok());
    starts.filter(|at| (start..end).contains(at)).count()
}

#[test]
fn what_a_file_gets_later_is_there_if_it_was_mapped_ahead() {
    let (window, file) = (window(4), file(&pattern(100, 1)));
    let range = |at: u64, count: u64| window.range(at * PAGE_SIZE, count * PAGE_SIZE).unwrap();
    window.map_ahead(range(0, 2), &file, 0, Access::Read).unwrap();
    window.map_ahead(range(2, 1), &file, 8 * PAGE_SIZE, Access::Read).unwrap();
    assert_eq!(window.record(0).iter().map(|r| r.len).collect::<Vec<_>>(), [8192, 4096]);
    assert_eq!(window.lost().map(|lost| lost.offset), Some(PAGE_SIZE));
    file.file().set_len(0).unwrap();
    assert_eq!(window.lost().map(|lost| lost.offset), Some(0), "what it had comes first");
    file.file().set_len(9 * PAGE_SIZE).unwrap();
    assert_eq!(window.lost(), None);
    assert_eq!(bytes(&window, PAGE, 2 * PAGE), vec![0; 2 * PAGE]);
    file.file().write_all_at(b"later", PAGE_SIZE).unwrap();
    assert_eq!(bytes(&window, PAGE, 5), b"later");
}

#[test]
fn only_whole_pages_inside_are_ranges() {
    let window = window(4);
    assert!(window.range(0, 4 * PAGE_SIZE).is_some() && window.range(4096, 4096).is_some());
    for (offset, len) in [(0, 0), (1, 4096), (0, 100), (0, 5 * 4096), (4 * 4096, 4096)] {
        assert_eq!(window.range(offset, len), None);
    }
    assert_eq!(window.range(u64::MAX - 4095, 4096), None);
    for (len, align) in
        [(0, 4096), (100, 4096), (4096, 1), (4096, 3 << 12), (u64::MAX - 4095, 4096)]
    {
        assert!(Window::reserve("bad", len, align).is_err());
    }
    let aligned = Window::reserve("large", 6 << 20, 2 << 20).unwrap();
    assert_eq!(aligned.host() as usize % (2 << 20), 0);
}

#[test]
fn a_file_appears_and_what_is_behind_its_end_is_zeroes() {
    let window = window(8);
    let content = pattern(2 * PAGE + 100, 1);
    let region = file(&content);
    window.map(window.range(PAGE_SIZE, 5 * PAGE_SIZE).unwrap(), &region, 0, Access::Read).unwrap();
    let mut expected = vec![0; PAGE];
    expected.extend(&content);
    expected.resize(8 * PAGE, 0);
    assert_eq!(bytes(&window, 0, 8 * PAGE), expected);
    let record = window.record(1 << 40);
    assert_eq!(record.len(), 1);
    let first = &record[0];
    assert_eq!((first.guest, first.len, first.offset), ((1 << 40) + PAGE_SIZE, 3 * PAGE_SIZE, 0));
    assert_eq!((&first.file, first.by.as_str()), (region.identity(), "test"));
    let found = window.lookup(window.host() as usize + 2 * PAGE + 5).unwrap();
    assert_eq!(found.offset, PAGE_SIZE + 5);
    assert_eq!(window.lookup(window.host() as usize), None);
    assert_eq!(window.lookup(0), None);
    window.clear();
    assert_eq!(bytes(&window, 0, 8 * PAGE), [0; 8 * PAGE]);
    assert!(window.record(0).is_empty());
}

#[test]
fn what_cannot_be_mapped_changes_nothing() {
    let window = window(4);
    let region = file(&pattern(2 * PAGE, 1));
    let all = window.range(0, 4 * PAGE_SIZE).unwrap();
    window.map(all, &region, 0, Access::Read).unwrap();
    let before = (bytes(&window, 0, 4 * PAGE), window.record(0));
    assert!(matches!(
        window.map(all, &region, 2 * PAGE_SIZE, Access::Read),
        Err(ShareError::BeyondFile { .. })
    ));
    assert!(matches!(window.map(all, &region, 1, Access::Read), Err(ShareError::Unaligned { .. })));
    let folder = File::open("/").unwrap();
    assert!(matches!(SharedRegion::new(folder, "/".into(), None), Err(ShareError::NotRegular(_))));
    // A file that may not be written cannot be mapped for others to see what is.
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().write_all_at(&[1; PAGE], 0).unwrap();
    let read_only =
        SharedRegion::new(File::open(named.path()).unwrap(), "ro".into(), None).unwrap();
    assert!(matches!(window.map(all, &read_only, 0, Access::Write), Err(ShareError::Host { .. })));
    assert_eq!((bytes(&window, 0, 4 * PAGE), window.record(0)), before);
}

#[test]
fn writes_go_where_the_access_says() {
    let content = pattern(PAGE, 1);
    let region = file(&content);
    let windows = [Access::Read, Access::Private, Access::Write].map(|access| {
        let window = window(1);
        window.map(window.range(0, PAGE_SIZE).unwrap(), &region, 0, access).unwrap();
        window
    });
    let of_file = || {
        let mut bytes = vec![0; PAGE];
        region.file().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    for (at, window) in windows.iter().enumerate().take(2) {
        write(window, 10 + at, b"x");
        assert_eq!(bytes(window, 10 + at, 1), b"x");
        assert_eq!(of_file(), content);
    }
    write(&windows[2], 20, b"y");
    assert_eq!(of_file()[20], b'y');
    assert_eq!(bytes(&windows[2], 20, 1), b"y");
    // Those that wrote have a copy; it is of the time when they did.
    assert_eq!(bytes(&windows[0], 20, 1), &content[20..21]);
}

#[test]
fn neighbours_that_go_on_are_one() {
    let window = window(8);
    let region = file(&pattern(8 * PAGE, 1));
    for page in [0, 2, 1, 5, 4, 6] {
        let at = page * PAGE_SIZE;
        window.map(window.range(at, PAGE_SIZE).unwrap(), &region, at, Access::Read).unwrap();
    }
    let runs = |window: &Window| {
        let record = window.record(0);
        record.iter().map(|one| (one.guest, one.len)).collect::<Vec<_>>()
    };
    assert_eq!(runs(&window), [(0, 3 * PAGE_SIZE), (4 * PAGE_SIZE, 3 * PAGE_SIZE)]);
    // The host's kernel sees it in the same way.
    assert!(maps_in(&window) <= 5);
    // Another access, and the same bytes at another place, are not the same.
    let range = window.range(PAGE_SIZE, PAGE_SIZE).unwrap();
    window.map(range, &region, PAGE_SIZE, Access::Private).unwrap();
    assert_eq!(runs(&window).len(), 4);
    window.unmap(range).unwrap();
    assert_eq!(runs(&window).len(), 3);
    window.map(range, &region, PAGE_SIZE, Access::Read).unwrap();
    assert_eq!(runs(&window).len(), 2);
}

#[test]
fn there_are_only_so_many_mappings() {
    let window = window(2 * MAPPINGS_MAX + 4);
    let region = file(&pattern(2 * PAGE, 1));
    let mut mapped = 0;
    let error = loop {
        let range = window.range(2 * mapped as u64 * PAGE_SIZE, PAGE_SIZE).unwrap();
        match window.map(range, &region, 0, Access::Read) {
            Ok(()) => mapped += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ShareError::TooMany { .. }), "{error}");
    assert!((1000..=MAPPINGS_MAX).contains(&mapped), "{mapped}");
    window.clear();
    window.map(window.range(0, PAGE_SIZE).unwrap(), &region, 0, Access::Read).unwrap();
}

#[test]
fn mapping_again_and_again_leaves_nothing() {
    // The whole proof is a million of them; the test takes fewer.
    let cycles = std::env::var("COHORT_WINDOW_CYCLES").ok().and_then(|text| text.parse().ok());
    let window = window(512);
    let region = file(&pattern(512 * PAGE, 3));
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = (maps_in(&window), descriptors());
    for cycle in 0..cycles.unwrap_or(20_000u64) {
        let at = cycle.wrapping_mul(0x9e37_79b9) % 500 * PAGE_SIZE;
        let range = window.range(at, (1 + cycle % 12) * PAGE_SIZE).unwrap();
        match cycle % 3 {
            2 => window.unmap(range).unwrap(),
            _ => window.map(range, &region, cycle % 400 * PAGE_SIZE, Access::Read).unwrap(),
        }
    }
    assert!(window.record(0).len() <= 512);
    window.clear();
    assert_eq!((maps_in(&window), descriptors()), before);
}

#[test]
fn a_full_window_can_be_emptied_and_changed() {
    alone("share::window::tests::a_full_window_can_be_emptied_and_changed", || {
        let window = window(2 * MAPPINGS_MAX + 8);
        let region = file(&pattern(4 * PAGE, 1));
        // One of four pages, to be cut, and then as many as there may be.
        let four = window.range(0, 4 * PAGE_SIZE).unwrap();
        window.map(four, &region, 0, Access::Read).unwrap();
        let nth = |n: usize| window.range((2 * n as u64 + 6) * PAGE_SIZE, PAGE_SIZE).unwrap();
        for n in 0..MAPPINGS_MAX - 3 {
            window.map(nth(n), &region, 0, Access::Read).unwrap();
        }
        let cut = window.range(PAGE_SIZE, PAGE_SIZE).unwrap();
        window.map(cut, &region, 0, Access::Read).unwrap();
        assert_eq!(window.record(0).len(), MAPPINGS_MAX);
        // Not one more; but one in the place of another, and one less.
        let more = window.map(nth(MAPPINGS_MAX - 3), &region, 0, Access::Read);
        assert!(matches!(more, Err(ShareError::TooMany { .. })), "{more:?}");
        window.map(nth(0), &region, PAGE_SIZE, Access::Read).unwrap();
        window.unmap(nth(1)).unwrap();
        window.map(nth(1), &region, PAGE_SIZE, Access::Read).unwrap();
        window.unmap(four).unwrap();
        assert_eq!(window.record(0).len(), MAPPINGS_MAX - 3);
    });
}

#[test]
fn windows_leave_mappings_to_the_rest_of_the_process() {
    alone("share::window::tests::windows_leave_mappings_to_the_rest_of_the_process", || {
        let region = file(&pattern(2 * PAGE, 1));
        let mut windows = Vec::new();
        let error = 'full: loop {
            let window = window(2 * MAPPINGS_MAX);
            for n in 0..MAPPINGS_MAX as u64 - 2 {
                let range = window.range(2 * n * PAGE_SIZE, PAGE_SIZE).unwrap();
                if let Err(error) = window.map(range, &region, 0, Access::Read) {
                    windows.push(window);
                    break 'full error;
                }
            }
            windows.push(window);
            // A host that permits ever so many has no limit to be shown.
            if windows.len() > 8 {
                return;
            }
        };
        assert!(matches!(error, ShareError::TooMany { .. }), "{error}");
        let maps = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        assert!(maps + MAPS_MARGIN / 2 < maps_max(), "{maps} of {}", maps_max());
        // Threads still start.
        std::thread::spawn(|| ()).join().unwrap();
        // What one window gives back, another may have.
        windows.swap_remove(0);
        let last = windows.last().unwrap();
        last.clear();
        last.map(last.range(0, PAGE_SIZE).unwrap(), &region, 0, Access::Read).unwrap();
    });
}

#[test]
fn mapping_again_and_again_takes_no_memory() {
    alone("share::window::tests::mapping_again_and_again_takes_no_memory", || {
        let window = window(512);
        let region = file(&pattern(512 * PAGE, 3));
        let run = |cycles: u64| {
            for cycle in 0..cycles {
                let at = cycle % 500 * PAGE_SIZE;
                let range = window.range(at, (1 + cycle % 12) * PAGE_SIZE).unwrap();
                window.map(range, &region, cycle % 400 * PAGE_SIZE, Access::Private).unwrap();
                // The guest's own copy of a page has to go with the mapping.
                write(&window, usize::try_from(at).unwrap(), b"x");
                window.unmap(range).unwrap();
            }
        };
        // Pages of memory in use that are not a file's, and of address space.
        let memory = || {
            let text = fs::read_to_string("/proc/self/statm").unwrap();
            let pages: Vec<u64> = text.split(' ').filter_map(|n| n.trim().parse().ok()).collect();
            (pages[1] - pages[2], pages[0])
        };
        let cycles = std::env::var("COHORT_WINDOW_CYCLES").ok().and_then(|text| text.parse().ok());
        run(1000);
        let (used, space) = memory();
        run(cycles.unwrap_or(50_000));
        let (used_after, space_after) = memory();
        assert!(used_after < used + 256, "{used} pages became {used_after}");
        assert!(space_after < space + 256, "{space} pages became {space_after}");
    });
}

#[test]
fn ranges_that_are_replaced_are_there_at_every_moment() {
    let window = window(8);
    let regions = [file(&[1; 8 * PAGE]), file(&[2; 8 * PAGE])];
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changers: Vec<_> = (0..2u64)
            .map(|seed| {
                let (window, regions) = (&window, &regions);
                scope.spawn(move || {
                    for n in 0..3000u64 {
                        let range = window.range((n + seed) % 5 * PAGE_SIZE, 3 * PAGE_SIZE);
                        let range = range.unwrap();
                        match (n + seed) % 3 {
                            2 => window.unmap(range).unwrap(),
                            file => {
                                let region = &regions[usize::try_from(file).unwrap()];
                                window.map(range, region, 0, Access::Read).unwrap();
                            }
                        }
                    }
                })
            })
            .collect();
        let (window, done) = (&window, &done);
        let reader = scope.spawn(move || {
            let mut seen = [0usize; 3];
            while !done.load(Ordering::Relaxed) {
                for page in 0..8 {
                    // A moment without a mapping would end this process.
                    // SAFETY: inside the window. Others change the mapping, so it is read volatile.
                    let byte = unsafe { window.host().add(page * PAGE).read_volatile() };
                    seen[usize::from(byte)] += 1;
                }
            }
            seen
        });
        for changer in changers {
            changer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap().iter().sum::<usize>() > 0);
    });
    // The record is what the host has, whoever was last.
    let of_record: Vec<_> =
        window.record(0).iter().map(|one| (one.guest, one.file.inode)).collect();
    let mut of_host: Vec<(u64, u64)> = Vec::new();
    for (page, found) in (0u64..).zip(host_pages(&window, 8)) {
        let Some((inode, at, _)) = found else { continue };
        let begins = of_record.iter().any(|one| *one == (page * PAGE_SIZE, inode));
        let goes_on = page > 0 && at > 0;
        assert!(begins || goes_on, "page {page} is not in {of_record:?}");
        if begins {
            of_host.push((page * PAGE_SIZE, inode));
        }
    }
    assert_eq!(of_host, of_record);
}

#[test]
fn a_file_that_refuses_to_be_mapped_leaves_no_hole() {
    // A regular file with a size, whose file system refuses when the mapping is nearly made.
    let Ok(odd) = File::open("/sys/kernel/mm/transparent_hugepage/enabled") else {
        eprintln!("no such file on this host: nothing is tried");
        return;
    };
    let odd = SharedRegion::new(odd, "odd".into(), None).unwrap();
    let window = window(3);
    let content = pattern(3 * PAGE, 1);
    window.map(window.range(0, 3 * PAGE_SIZE).unwrap(), &file(&content), 0, Access::Read).unwrap();
    let refused = window.map(window.range(PAGE_SIZE, PAGE_SIZE).unwrap(), &odd, 0, Access::Read);
    assert!(matches!(refused, Err(ShareError::Host { .. })), "{refused:?}");
    // A hole would end this process here.
    let found = bytes(&window, 0, 3 * PAGE);
    let pages = host_pages(&window, 3);
    assert_eq!(window.lookup(window.host() as usize + PAGE).is_some(), pages[1].is_some());
    assert_eq!((&found[..PAGE], &found[2 * PAGE..]), (&content[..PAGE], &content[2 * PAGE..]));
}

#[test]
fn a_file_that_grew_is_mapped_as_long_as_it_is() {
    let window = window(4);
    let content = pattern(3 * PAGE, 1);
    let region = file(&content[..PAGE]);
    region.file().write_all_at(&content[PAGE..], PAGE_SIZE).unwrap();
    window.map(window.range(0, 4 * PAGE_SIZE).unwrap(), &region, 0, Access::Read).unwrap();
    assert_eq!(bytes(&window, 0, 3 * PAGE), content);
    assert_eq!(window.record(0)[0].len, 3 * PAGE_SIZE);
    // And one that shrank has no page to begin with.
    region.file().set_len(PAGE_SIZE).unwrap();
    let range = window.range(0, PAGE_SIZE).unwrap();
    let refused = window.map(range, &region, PAGE_SIZE, Access::Read);
    assert!(matches!(refused, Err(ShareError::BeyondFile { len: PAGE_SIZE, .. })), "{refused:?}");
}

/// What the host has at each page of a window: the file's inode, the page in it, whether others
/// see what is written.
fn host_pages(window: &Window, pages: usize) -> Vec<Option<(u64, usize, bool)>> {
    let mut found = vec![None; pages];
    let base = window.host() as usize;
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut words = line.split_whitespace();
        let (start, end) = words.next().unwrap().split_once('-').unwrap();
        let number = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        let shared = words.next().unwrap().ends_with('s');
        let from = number(words.next().unwrap()) / PAGE;
        let inode: u64 = words.nth(1).unwrap().parse().unwrap();
        for (page, found) in found.iter_mut().enumerate() {
            let at = base + page * PAGE;
            if inode != 0 && (start..end).contains(&at) {
                *found = Some((inode, from + (at - start) / PAGE, shared));
            }
        }
    }
    found
}

#[test]
fn two_windows_on_a_file_have_the_same_page_frames() {
    let region = file(&pattern(4 * PAGE, 9));
    let windows = [window(4), window(4)];
    for window in &windows {
        window.map(window.range(0, 4 * PAGE_SIZE).unwrap(), &region, 0, Access::Read).unwrap();
        bytes(window, 0, 4 * PAGE);
    }
    let frame = |window: &Window, page: usize| {
        let at = (window.host() as usize / PAGE + page) as u64 * 8;
        let mut entry = [0; 8];
        File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut entry, at).unwrap();
        u64::from_le_bytes(entry) & ((1 << 55) - 1)
    };
    if frame(&windows[0], 0) == 0 {
        eprintln!("not permitted to see page frames (CAP_SYS_ADMIN): nothing is compared");
        return;
    }
    for page in 0..4 {
        assert_eq!(frame(&windows[0], page), frame(&windows[1], page));
    }
    write(&windows[0], PAGE, b"mine");
    assert_ne!(frame(&windows[0], 1), frame(&windows[1], 1));
}

#[test]
fn lost_pages_are_found_by_looking_at_the_files() {
    let window = window(8);
    let region = file(&pattern(6 * PAGE, 1));
    let range = window.range(PAGE_SIZE, 4 * PAGE_SIZE).unwrap();
    window.map(range, &region, 2 * PAGE_SIZE, Access::Read).unwrap();
    assert_eq!(window.lost(), None);
    region.file().set_len(3 * PAGE_SIZE + 1).unwrap();
    assert_eq!(window.lost().unwrap().offset, 4 * PAGE_SIZE);
    region.file().set_len(0).unwrap();
    assert_eq!(window.lost().unwrap().offset, 2 * PAGE_SIZE);
}
