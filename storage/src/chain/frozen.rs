//! The layers that nobody changes while the chain is open, as one map: those below the top one, and
//! with it where the disk is read-only.
//!
//! What they say of a window of the disk is asked for once, layer by layer, and kept: after that,
//! 256 layers cost what one costs. The memory for it is bounded; what does not fit is asked for
//! again.

use std::sync::{Arc, PoisonError, RwLock};

use smallvec::SmallVec;

use crate::layer::{Extent, FileId, Layer, LayerError, Outcome, Source};
use crate::numbered::Numbered;
use crate::units::{DiskRange, FileOffset};

#[cfg(test)]
mod tests;

/// Bytes of the disk that are looked up together.
const WINDOW: u64 = 1 << 20;
/// Independent parts of the memory, so that threads do not wait for each other.
const SHARDS: usize = 16;
/// What a window costs besides its pieces.
const WINDOW_COST: usize = 112;

/// One run of a window, which ends where the next one starts. As small as it can be: every read
/// looks for its own.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it starts in the window.
    start: u32,
    kind: Kind,
    /// The file of data, the layer of what is encoded.
    of: u16,
    /// Where data is in its file.
    offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Zero,
    Data,
    Encoded,
}

impl Piece {
    fn new(start: u32, source: Source, layer: u16) -> Piece {
        let (kind, of, offset) = match source {
            Source::Transparent | Source::Zero => (Kind::Zero, 0, 0),
            Source::Data { file, offset } => (Kind::Data, file.0, offset.get()),
            Source::Encoded { .. } => (Kind::Encoded, layer, 0),
        };
        Piece { start, kind, of, offset }
    }

    /// What is `inside` bytes behind its start.
    fn source(&self, inside: u64) -> Option<Source> {
        Some(match self.kind {
            Kind::Zero => Source::Zero,
            Kind::Data => Source::Data {
                file: FileId(self.of),
                offset: FileOffset::new(self.offset.checked_add(inside)?)?,
            },
            Kind::Encoded => Source::Encoded { layer: self.of },
        })
    }

    /// Whether `next` is more of the same.
    fn goes_on(&self, next: &Piece) -> bool {
        let between = u64::from(next.start.saturating_sub(self.start));
        (self.kind, self.of) == (next.kind, next.of)
            && match self.kind {
                Kind::Zero => true,
                Kind::Data => self.offset.checked_add(between) == Some(next.offset),
                // Each encoded range is decoded as a whole.
                Kind::Encoded => false,
            }
    }
}

/// A window's runs. Most windows have few, which are then in the table itself: one cache line less
/// to wait for.
type Pieces = SmallVec<[Piece; 2]>;

#[derive(Default)]
struct Shard {
    windows: Numbered<Pieces>,
    cost: usize,
}

/// Appends what the pieces of a window, which make it up, say of `range` in it.
fn cut(window: &[Piece], range: DiskRange, out: &mut Vec<Extent>) -> Result<(), LayerError> {
    let start = range.start() - range.start() % WINDOW;
    let starts = |piece: &Piece| start + u64::from(piece.start);
    let behind = window.partition_point(|piece| starts(piece) <= range.start());
    let mut pieces = window.get(behind.saturating_sub(1)..).unwrap_or_default().iter().peekable();
    let mut at = range.start();
    while let Some(piece) = pieces.next().filter(|_| at < range.end()) {
        let end = pieces.peek().map_or(start + WINDOW, |next| starts(next)).min(range.end());
        let extent = || {
            let source = piece.source(at.checked_sub(starts(piece))?)?;
            Some(Extent { range: DiskRange::new(at, end.checked_sub(at)?)?, source })
        };
        out.push(extent().ok_or(LayerError::Gap { range })?);
        at = end;
    }
    Ok(())
}

/// Neighbouring layers of a disk, nearest to the top first.
pub(crate) struct Frozen {
    /// Place in the chain of the first one.
    first: u16,
    layers: Vec<Arc<dyn Layer>>,
    shards: [RwLock<Shard>; SHARDS],
    /// Bytes that each shard may take.
    room: usize,
}

impl Frozen {
    /// A map of `layers`, the first of which is layer `first` of its chain, that takes at most
    /// about `memory` bytes.
    pub(crate) fn new(first: u16, layers: Vec<Arc<dyn Layer>>, memory: usize) -> Frozen {
        Frozen { first, layers, shards: Default::default(), room: memory / SHARDS }
    }

    /// The layers, nearest first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &dyn Layer> {
        self.layers.iter().map(|layer| &**layer)
    }

    /// Appends the extents of `range`, none of them [`Source::Transparent`].
    pub(crate) fn resolve(
        &self,
        range: DiskRange,
        out: &mut Vec<Extent>,
    ) -> Result<(), LayerError> {
        let mut at = range.start();
        while at < range.end() {
            let end = range.end().min(at - at % WINDOW + WINDOW);
            let part = DiskRange::new(at, end - at).ok_or(LayerError::Gap { range })?;
            self.resolve_window(at / WINDOW, part, out)?;
            at = end;
        }
        Ok(())
    }

    /// Appends the extents of `range`, which lies in this window.
    fn resolve_window(
        &self,
        number: u64,
        range: DiskRange,
        out: &mut Vec<Extent>,
    ) -> Result<(), LayerError> {
        let shard = &self.shards[usize::try_from(number).unwrap_or_default() % SHARDS];
        let known = shard.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = known.windows.get(&number) {
            return cut(window, range, out);
        }
        drop(known);
        let window = self.look_up(number)?;
        cut(&window, range, out)?;
        let elsewhere = if window.spilled() { size_of_val(&*window) } else { 0 };
        let cost = WINDOW_COST + elsewhere;
        let mut known = shard.write().unwrap_or_else(PoisonError::into_inner);
        if known.cost + cost > self.room {
            *known = Shard::default();
        }
        if cost <= self.room && known.windows.insert(number, window).is_none() {
            known.cost += cost;
        }
        Ok(())
    }

    /// Asks the layers, each for what those above it leave open.
    fn look_up(&self, number: u64) -> Result<Pieces, LayerError> {
        let start = number * WINDOW;
        let (mut pieces, mut open) = (Pieces::new(), vec![(start, start + WINDOW)]);
        let (mut left, mut extents) = (Vec::new(), Vec::new());
        let mut add = |(from, to): (u64, u64), source, layer| {
            if from < to {
                let from = u32::try_from(from - start).unwrap_or_default();
                pieces.push(Piece::new(from, source, layer));
            }
        };
        for (layer, index) in self.layers.iter().zip(self.first..) {
            for &(from, to) in &open {
                // What is beyond a layer's end is zero, whatever the layers below it have there.
                let end = to.min(layer.info().size).max(from);
                add((end, to), Source::Zero, index);
                let Some(range) = DiskRange::new(from, end - from).filter(|r| !r.is_empty()) else {
                    continue;
                };
                extents.clear();
                let ticket = layer.resolve_read(range, &mut extents)?;
                layer.finish(ticket, Outcome::Done)?;
                let mut at = from;
                for extent in &extents {
                    let part = (extent.range.start(), extent.range.end());
                    if part.0 != at || part.1 > end {
                        return Err(LayerError::Gap { range });
                    }
                    at = part.1;
                    match extent.source {
                        Source::Transparent => left.push(part),
                        source => add(part, source, index),
                    }
                }
                if at != end {
                    return Err(LayerError::Gap { range });
                }
            }
            open.clear();
            std::mem::swap(&mut open, &mut left);
        }
        for part in open {
            add(part, Source::Zero, 0);
        }
        pieces.sort_unstable_by_key(|piece| piece.start);
        pieces.dedup_by(|next, piece| piece.goes_on(next));
        pieces.shrink_to_fit();
        Ok(pieces)
    }
}
