//! Random requests and snapshots on chains of mixed layers, against plain bytes in memory.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::DiskQueue;
use crate::disk::EngineChoice;
use crate::request::Operation;

/// Sectors of the base.
const SECTORS: u64 = 3 * 2048 + 24;
/// Most layers.
const DEPTH: usize = 8;

/// A range of the disk; it is cut to fit.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    len: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Read(Span),
    Write(Span, usize),
    Discard(Span),
    Zeroes(Span, bool),
    Flush,
    Reopen {
        read_only: bool,
    },
    /// The top layer becomes a parent; the new one is this much larger.
    Snapshot {
        format: Index,
        more: u64,
    },
}

fn span() -> impl Strategy<Value = Span> {
    // Much happens at few places, so that it happens to the same blocks.
    let start = prop_oneof![
        3 => 0..160u64,
        3 => 2048 - 80..2048 + 80u64,
        1 => 0..SECTORS,
        1 => SECTORS - 100..SECTORS + 100,
    ];
    let len = prop_oneof![4 => 1..40u64, 2 => Just(8), 1 => Just(128), 1 => 1..5000u64];
    (start, len).prop_map(|(start, len)| Span { start, len })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => span().prop_map(Step::Read),
        8 => (span(), 0..240usize).prop_map(|(span, seed)| Step::Write(span, seed)),
        3 => span().prop_map(Step::Discard),
        3 => (span(), any::<bool>()).prop_map(|(span, unmap)| Step::Zeroes(span, unmap)),
        1 => Just(Step::Flush),
        2 => any::<bool>().prop_map(|read_only| Step::Reopen { read_only }),
        3 => (any::<Index>(), prop_oneof![3 => Just(0u64), 1 => 1..200u64])
            .prop_map(|(format, more)| Step::Snapshot { format, more }),
    ]
}

/// A chain and what it must hold.
struct Pair {
    folder: tempfile::TempDir,
    path: PathBuf,
    queue: Option<DiskQueue>,
    options: DiskOptions,
    layers: usize,
    model: Vec<u8>,
    /// The sectors that were written to the top layer.
    own: Vec<bool>,
}

impl Pair {
    fn new(place: &Path, base: Format, engine: EngineChoice) -> Pair {
        let folder = tempfile::tempdir_in(place).unwrap();
        let path = testkit::file_in(folder.path(), "0", base);
        testkit::create(&path, SECTORS * 512, None).unwrap();
        let model = vec![0; usize::try_from(SECTORS * 512).unwrap()];
        let options = DiskOptions { engine, ..WRITABLE };
        let own = vec![false; model.len() / 512];
        let mut pair = Pair { folder, path, queue: None, options, layers: 1, model, own };
        pair.open(false);
        pair
    }

    /// Closes the disk and opens it again.
    fn open(&mut self, read_only: bool) {
        self.queue = None;
        let options = DiskOptions { read_only, ..self.options };
        let disk = Disk::open(&self.path, &options).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(disk.size().get(), self.model.len() as u64);
        self.queue = Some(disk.queue(4).unwrap());
    }

    fn queue(&mut self) -> &mut DiskQueue {
        self.queue.as_mut().unwrap()
    }

    /// The bytes of a span.
    fn cut(&self, span: Span) -> std::ops::Range<usize> {
        let sectors = self.model.len() / 512;
        let start = usize::try_from(span.start).unwrap() % sectors;
        let len = usize::try_from(span.len).unwrap().min(sectors - start);
        start * 512..(start + len) * 512
    }

    fn read(&mut self, range: std::ops::Range<usize>) -> Vec<u8> {
        testkit::read(self.queue(), range.start as u64, range.len()).unwrap()
    }

    fn erase(&mut self, operation: Operation, range: &std::ops::Range<usize>) {
        let (start, len) = (range.start as u64, range.len() as u64);
        testkit::erase(self.queue(), operation, start, len).unwrap();
    }

    fn expect(&mut self, range: std::ops::Range<usize>, what: &str) {
        let found = self.read(range.clone());
        let expected = &self.model[range.clone()];
        if found != expected {
            let at = found.iter().zip(expected).position(|(one, other)| one != other).unwrap();
            panic!(
                "{what}: byte {:#x} is {:#x} instead of {:#x} in {}",
                range.start + at,
                found[at],
                expected[at],
                self.path.display()
            );
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Read(span) => {
                let range = self.cut(span);
                self.expect(range, "read");
            }
            Step::Write(span, seed) => {
                let range = self.cut(span);
                let bytes = pattern(seed, range.len());
                testkit::write(self.queue(), range.start as u64, &bytes).unwrap();
                self.own[range.start / 512..range.end / 512].fill(true);
                self.model[range].copy_from_slice(&bytes);
            }
            Step::Discard(span) => {
                let range = self.cut(span);
                self.erase(Operation::Discard, &range);
                // Undefined, but the layer's own. From here on, it is what it is.
                let found = self.read(range.clone());
                for (sector, now) in (range.start / 512..).zip(found.chunks_exact(512)) {
                    let old = &self.model[sector * 512..][..512];
                    let fine = *now == [0; 512] || self.own[sector] && now == old;
                    assert!(fine, "sector {sector} of {}", self.path.display());
                }
                self.model[range].copy_from_slice(&found);
            }
            Step::Zeroes(span, unmap) => {
                let range = self.cut(span);
                self.erase(Operation::WriteZeroes { unmap }, &range);
                self.model[range].fill(0);
            }
            Step::Flush => testkit::flush(self.queue()).unwrap(),
            Step::Reopen { read_only } => {
                if read_only {
                    self.open(true);
                    self.expect(0..self.model.len(), "reopened to read");
                }
                self.open(false);
            }
            Step::Snapshot { format, more } => {
                if self.layers == DEPTH {
                    return;
                }
                self.queue = None;
                let name = self.layers.to_string();
                let path = testkit::file_in(self.folder.path(), &name, *format.get(&CHILDREN));
                self.model.resize(self.model.len() + usize::try_from(more * 512).unwrap(), 0);
                self.own = vec![false; self.model.len() / 512];
                testkit::create(&path, self.model.len() as u64, Some(&self.path)).unwrap();
                self.path = path;
                self.layers += 1;
                self.open(false);
            }
        }
    }
}

fn run(base: Index, in_memory: bool, engine: EngineChoice, steps: &[Step]) {
    let place = if in_memory { "/dev/shm" } else { env!("CARGO_MANIFEST_DIR") };
    let mut pair = Pair::new(Path::new(place), *base.get(&BASES), engine);
    for step in steps {
        pair.step(step);
    }
    pair.expect(0..pair.model.len(), "at the end");
    pair.open(true);
    pair.expect(0..pair.model.len(), "reopened at the end");
    let disk = Disk::open(&pair.path, &READ_ONLY).unwrap();
    disk.state().chain.layers().for_each(assert_sound);
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..60)
}

proptest! {
    #![proptest_config(testkit::cases(40))]

    #[test]
    fn chains_on_io_uring(base: Index, in_memory: bool, steps in steps()) {
        run(base, in_memory, EngineChoice::IoUring, &steps);
    }

    #[test]
    fn chains_on_positional(base: Index, in_memory: bool, steps in steps()) {
        run(base, in_memory, EngineChoice::Positional, &steps);
    }
}
