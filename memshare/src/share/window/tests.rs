use super::*;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

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

fn page_of(offset: u64) -> usize {
    usize::try_from(offset / PAGE_SIZE).unwrap()
}

/// What is done to a window.
#[derive(Clone, Debug)]
enum Act {
    Map { at: usize, pages: usize, file: usize, from: usize, access: Access },
    Unmap { at: usize, pages: usize },
    Write { at: usize, len: usize, value: u8 },
}

const PAGES: usize = 12;
/// Bytes of the files; one is no whole number of pages.
const SIZES: [usize; 3] = [5 * PAGE, 3 * PAGE + 77, PAGE];

fn act() -> impl Strategy<Value = Act> {
    let access = prop_oneof![Just(Access::Read), Just(Access::Private), Just(Access::Write)];
    prop_oneof![
        4 => (0..PAGES, 1..PAGES, 0..SIZES.len(), 0..6usize, access)
            .prop_map(|(at, pages, file, from, access)| Act::Map { at, pages, file, from, access }),
        2 => (0..PAGES, 1..PAGES).prop_map(|(at, pages)| Act::Unmap { at, pages }),
        3 => (0..PAGES * PAGE, 1..PAGE, any::<u8>())
            .prop_map(|(at, len, value)| Act::Write { at, len, value }),
    ]
}

/// What a page of the window is: a file's, or its own with this content.
#[derive(Clone)]
enum Page {
    Of { file: usize, page: usize, access: Access },
    Own(Vec<u8>),
}

struct Model {
    files: Vec<Vec<u8>>,
    pages: Vec<Page>,
}

impl Model {
    fn of_file(&self, file: usize, page: usize) -> Vec<u8> {
        let content = &self.files[file];
        let end = content.len().min((page + 1) * PAGE);
        let mut bytes = content.get(page * PAGE..end).unwrap_or_default().to_vec();
        bytes.resize(PAGE, 0);
        bytes
    }

    fn content(&self) -> Vec<u8> {
        let page = |page: &Page| match page {
            Page::Of { file, page, .. } => self.of_file(*file, *page),
            Page::Own(bytes) => bytes.clone(),
        };
        self.pages.iter().flat_map(page).collect()
    }

    fn write(&mut self, at: usize, value: u8) {
        let (page, offset) = (at / PAGE, at % PAGE);
        match self.pages[page].clone() {
            Page::Own(mut bytes) => {
                bytes[offset] = value;
                self.pages[page] = Page::Own(bytes);
            }
            Page::Of { file, page: of, access: Access::Write } => {
                // What is behind the end of a file is nobody's.
                if let Some(byte) = self.files[file].get_mut(of * PAGE + offset) {
                    *byte = value;
                }
            }
            Page::Of { file, page: of, .. } => {
                let mut bytes = self.of_file(file, of);
                bytes[offset] = value;
                self.pages[page] = Page::Own(bytes);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_window_does_what_its_model_does(acts in prop::collection::vec(act(), 1..40)) {
        let window = window(PAGES);
        let files: Vec<Vec<u8>> = (1..).zip(SIZES).map(|(seed, len)| pattern(len, seed * 50)).collect();
        let regions: Vec<_> = files.iter().map(|content| file(content)).collect();
        let mut model = Model { files, pages: vec![Page::Own(vec![0; PAGE]); PAGES] };
        // Which file's page was mapped where, whatever was written since.
        let mut mapped: Vec<Option<(usize, usize, Access)>> = vec![None; PAGES];
        for act in acts {
            match act {
                Act::Map { at, pages, file, from, access } => {
                    let Some(range) = window.range((at * PAGE) as u64, (pages * PAGE) as u64) else {
                        continue;
                    };
                    let done = window.map(range, &regions[file], (from * PAGE) as u64, access);
                    prop_assert_eq!(done.is_ok(), from * PAGE < SIZES[file]);
                    if done.is_err() {
                        continue;
                    }
                    for page in 0..pages {
                        let exists = (from + page) * PAGE < SIZES[file];
                        mapped[at + page] = exists.then_some((file, from + page, access));
                        model.pages[at + page] = match exists {
                            true => Page::Of { file, page: from + page, access },
                            false => Page::Own(vec![0; PAGE]),
                        };
                    }
                }
                Act::Unmap { at, pages } => {
                    let Some(range) = window.range((at * PAGE) as u64, (pages * PAGE) as u64) else {
                        continue;
                    };
                    window.unmap(range).unwrap();
                    mapped[at..at + pages].fill(None);
                    model.pages[at..at + pages].fill(Page::Own(vec![0; PAGE]));
                }
                Act::Write { at, len, value } => {
                    let len = len.min(PAGES * PAGE - at);
                    // Not behind the end of a file that is shared: the kernel does not say what
                    // becomes of such bytes.
                    for at in at..at + len {
                        if let Some((file, page, Access::Write)) = mapped[at / PAGE]
                            && page * PAGE + at % PAGE >= SIZES[file]
                        {
                            continue;
                        }
                        write(&window, at, &[value]);
                        model.write(at, value);
                    }
                }
            }
        }
        prop_assert!(bytes(&window, 0, PAGES * PAGE) == model.content());
        for (region, content) in regions.iter().zip(&model.files) {
            let mut bytes = vec![0; content.len()];
            region.file().read_exact_at(&mut bytes, 0).unwrap();
            prop_assert!(&bytes == content);
        }
        // The record says page by page what was mapped, in as few pieces as there are.
        let mut recorded = vec![None; PAGES];
        let record = window.record(0);
        for piece in &record {
            let file = regions.iter().position(|region| *region.identity() == piece.file).unwrap();
            for page in 0..page_of(piece.len) {
                let at = page_of(piece.guest) + page;
                recorded[at] = Some((file, page_of(piece.offset) + page, piece.access));
            }
        }
        prop_assert_eq!(&recorded, &mapped);
        let continues = |pair: &[Option<(usize, usize, Access)>]| match (pair[0], pair[1]) {
            (Some((file, page, access)), next) => next == Some((file, page + 1, access)),
            (None, next) => next.is_none(),
        };
        let starts = mapped.windows(2).filter(|pair| !continues(pair) && pair[1].is_some()).count();
        prop_assert_eq!(record.len(), starts + usize::from(mapped[0].is_some()));
    }
}
