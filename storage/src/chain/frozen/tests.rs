//! The flattened map against layers that are asked one after the other.

use proptest::prelude::*;

use super::*;
use crate::format::Format;
use crate::identity::Identity;
use crate::layer::{Erase, Finding, LayerInfo, Ticket, WriteStep};
use crate::link::ParentLink;

/// Bytes of a run of the layers here: several to a window, and several windows to a disk.
const RUN: u64 = WINDOW / 8;
const RUNS: u64 = 20;
const RUNS_MAX: usize = 20;

/// What a layer has in one run.
#[derive(Clone, Copy, Debug)]
enum Run {
    Transparent,
    Zero,
    Data,
    Encoded,
}

/// A layer of runs, whose data is at its own offset in its file.
struct Runs {
    info: LayerInfo,
    runs: Vec<Run>,
    file: u16,
}

impl Runs {
    fn new(runs: Vec<Run>, file: u16) -> Runs {
        let info = LayerInfo {
            format: Format::Layer,
            size: runs.len() as u64 * RUN,
            sector: 512,
            granularity: 512,
            read_only: true,
            parent: None,
            traits: None,
        };
        Runs { info, runs, file }
    }

    fn source(&self, at: u64) -> Source {
        let run = usize::try_from(at / RUN).unwrap();
        match self.runs[run] {
            Run::Transparent => Source::Transparent,
            Run::Zero => Source::Zero,
            Run::Encoded => Source::Encoded { layer: 0 },
            Run::Data => {
                Source::Data { file: FileId(self.file), offset: FileOffset::new(at).unwrap() }
            }
        }
    }
}

impl Layer for Runs {
    fn info(&self) -> &LayerInfo {
        &self.info
    }

    fn resolve_read(&self, range: DiskRange, out: &mut Vec<Extent>) -> Result<Ticket, LayerError> {
        let mut at = range.start();
        while at < range.end() {
            let end = range.end().min((at / RUN + 1) * RUN);
            let part = DiskRange::new(at, end - at).unwrap();
            out.push(Extent { range: part, source: self.source(at) });
            at = end;
        }
        Ok(Ticket::new(0))
    }

    fn finish(&self, _ticket: Ticket, _how: Outcome) -> Result<(), LayerError> {
        Ok(())
    }

    fn identity(&self) -> Result<Identity, LayerError> {
        unreachable!("frozen layers are asked where bytes are, and nothing else")
    }

    fn resolve_write(
        &self,
        _range: DiskRange,
        _out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        unreachable!("nobody writes to a frozen layer")
    }

    fn resolve_erase(
        &self,
        _range: DiskRange,
        _how: Erase,
        _out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        unreachable!("nobody writes to a frozen layer")
    }

    fn flush_metadata(&self) -> Result<(), LayerError> {
        unreachable!("nobody writes to a frozen layer")
    }

    fn announce_change(&self) -> Result<(), LayerError> {
        unreachable!("nobody writes to a frozen layer")
    }

    fn set_parent(&self, _link: &ParentLink) -> Result<(), LayerError> {
        unreachable!("nobody writes to a frozen layer")
    }

    fn close(&self) -> Result<(), LayerError> {
        unreachable!("nobody writes to a frozen layer")
    }

    fn check(&self, _repair: bool) -> Result<Vec<Finding>, LayerError> {
        unreachable!("frozen layers are asked where bytes are, and nothing else")
    }
}

/// What the byte at `at` is, by asking the layers from the top down.
fn asked(layers: &[Runs], at: u64) -> Source {
    for (layer, index) in layers.iter().zip(1..) {
        if at >= layer.info.size {
            return Source::Zero;
        }
        match layer.source(at) {
            Source::Transparent => {}
            Source::Encoded { .. } => return Source::Encoded { layer: index },
            source => return source,
        }
    }
    Source::Zero
}

fn run() -> impl Strategy<Value = Run> {
    prop_oneof![
        4 => Just(Run::Transparent),
        1 => Just(Run::Zero),
        2 => Just(Run::Data),
        1 => Just(Run::Encoded),
    ]
}

fn shared(layers: &[Runs]) -> Vec<Arc<dyn Layer>> {
    let copy = |layer: &Runs| Arc::new(Runs::new(layer.runs.clone(), layer.file)) as Arc<dyn Layer>;
    layers.iter().map(copy).collect()
}

proptest! {
    #[test]
    fn the_map_is_what_the_layers_say_one_by_one(
        layers in prop::collection::vec(prop::collection::vec(run(), 1..=RUNS_MAX), 0..6),
        ranges in prop::collection::vec((0..RUNS * RUN / 512, 1..RUNS * RUN / 512), 1..8),
        memory in prop_oneof![Just(0usize), Just(4096), Just(1 << 20)],
    ) {
        let layers: Vec<Runs> =
            layers.into_iter().zip(1u16..).map(|(runs, file)| Runs::new(runs, file)).collect();
        let frozen = Frozen::new(1, shared(&layers), memory);
        for (start, len) in ranges {
            let len = len.min(RUNS * RUN / 512 - start);
            let range = DiskRange::from_sectors(start, len).unwrap();
            let mut extents = Vec::new();
            frozen.resolve(range, &mut extents).unwrap();
            let mut at = range.start();
            for extent in extents {
                prop_assert_eq!(extent.range.start(), at);
                at = extent.range.end();
                // Its first byte, its last, and each first one of a run are what the layers say.
                let runs = (extent.range.start() / RUN + 1..=(at - 1) / RUN).map(|run| run * RUN);
                for byte in [extent.range.start(), at - 1].into_iter().chain(runs) {
                    let inside = byte - extent.range.start();
                    let found = match extent.source {
                        Source::Data { file, offset } => {
                            Source::Data { file, offset: offset.checked_add(inside).unwrap() }
                        }
                        source => source,
                    };
                    prop_assert_eq!(found, asked(&layers, byte), "byte {:#x}", byte);
                }
            }
            prop_assert_eq!(at, range.end());
        }
        let cost: usize = frozen.shards.iter().map(|shard| shard.read().unwrap().cost).sum();
        prop_assert!(cost <= memory);
    }
}

#[test]
fn neighbours_from_one_file_are_one_extent() {
    let runs = vec![Run::Data; 8];
    let frozen = Frozen::new(1, vec![Arc::new(Runs::new(runs, 1))], 1 << 20);
    let range = DiskRange::new(512, WINDOW - 1024).unwrap();
    let mut extents = Vec::new();
    frozen.resolve(range, &mut extents).unwrap();
    let offset = FileOffset::new(512).unwrap();
    assert_eq!(extents, [Extent { range, source: Source::Data { file: FileId(1), offset } }]);
}
