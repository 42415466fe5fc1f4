//! A window against a model of it: plain bytes, a page's origin, and what the host has mapped.

use super::*;

use proptest::prelude::*;

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
        // And so does the host.
        let hosts: Vec<_> = mapped
            .iter()
            .map(|page| {
                let (file, page, access) = (*page)?;
                Some((regions[file].identity().inode, page, access == Access::Write))
            })
            .collect();
        prop_assert_eq!(host_pages(&window, PAGES), hosts);
        let continues = |pair: &[Option<(usize, usize, Access)>]| match (pair[0], pair[1]) {
            (Some((file, page, access)), next) => next == Some((file, page + 1, access)),
            (None, next) => next.is_none(),
        };
        let starts = mapped.windows(2).filter(|pair| !continues(pair) && pair[1].is_some()).count();
        prop_assert_eq!(record.len(), starts + usize::from(mapped[0].is_some()));
    }
}
