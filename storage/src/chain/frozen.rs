//! The layers that nobody changes while the chain is open, as one map: those below the top one, and
//! with it where the disk is read-only.
//!
//! What they say of a window of the disk is asked for once, layer by layer, and kept: after that,
//! 256 layers cost what one costs. The memory for it is bounded; what does not fit is asked for
//! again.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

use crate::layer::{Extent, FileId, Layer, LayerError, Outcome, Source};
use crate::units::{DiskRange, FileOffset};

#[cfg(test)]
mod tests;

/// Bytes of the disk that are looked up together.
const WINDOW: u64 = 1 << 20;
/// Independent parts of the memory, so that threads do not wait for each other.
const SHARDS: usize = 16;
/// What a window costs besides its pieces.
const WINDOW_COST: usize = 96;

/// One run of a window.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it starts in the window, and how long it is.
    start: u32,
    len: u32,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Zero,
    Data { file: u16, offset: u64 },
    Encoded { layer: u16 },
}

impl Piece {
    fn end(&self) -> u32 {
        self.start + self.len
    }

    /// The part of it in `range`, which it touches, as an extent.
    fn extent(&self, window: u64, range: DiskRange) -> Option<Extent> {
        let start = (window + u64::from(self.start)).max(range.start());
        let end = (window + u64::from(self.end())).min(range.end());
        let inside = start - window - u64::from(self.start);
        let source = match self.place {
            Place::Zero => Source::Zero,
            Place::Data { file, offset } => {
                Source::Data { file: FileId(file), offset: FileOffset::new(offset + inside)? }
            }
            Place::Encoded { layer } => Source::Encoded { layer },
        };
        Some(Extent { range: DiskRange::new(start, end.checked_sub(start)?)?, source })
    }

    /// Whether `next` goes on where this one ends.
    fn goes_on(&self, next: &Piece) -> bool {
        self.end() == next.start
            && match (self.place, next.place) {
                (Place::Data { file, offset }, Place::Data { file: other, offset: at }) => {
                    file == other && offset + u64::from(self.len) == at
                }
                // Each encoded range is decoded as a whole.
                (Place::Encoded { .. }, _) => false,
                (place, other) => place == other,
            }
    }
}

/// Numbers of windows spread over a table: they come in runs, and nobody who picks them gains by
/// making them collide but slows down a disk of their own.
#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing; the table uses the topmost bits and the lowest ones.
        let spread = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = spread ^ spread >> 32;
    }
}

#[derive(Default)]
struct Shard {
    windows: HashMap<u64, Box<[Piece]>, BuildHasherDefault<NumberHasher>>,
    cost: usize,
}

/// Appends what the pieces of a window that begins at `start` say of `range`.
fn cut(
    window: &[Piece],
    start: u64,
    range: DiskRange,
    out: &mut Vec<Extent>,
) -> Result<(), LayerError> {
    let (from, to) = (range.start() - start, range.end() - start);
    let first = window.partition_point(|piece| u64::from(piece.end()) <= from);
    for piece in window.iter().skip(first).take_while(|piece| u64::from(piece.start) < to) {
        out.push(piece.extent(start, range).ok_or(LayerError::Gap { range })?);
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
            let start = at - at % WINDOW;
            let end = range.end().min(start + WINDOW);
            let part = DiskRange::new(at, end - at).ok_or(LayerError::Gap { range })?;
            self.resolve_window(start, part, out)?;
            at = end;
        }
        Ok(())
    }

    /// Appends the extents of `range`, which lies in the window that begins at `start`.
    fn resolve_window(
        &self,
        start: u64,
        range: DiskRange,
        out: &mut Vec<Extent>,
    ) -> Result<(), LayerError> {
        let number = start / WINDOW;
        let shard = &self.shards[usize::try_from(number).unwrap_or_default() % SHARDS];
        let known = shard.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = known.windows.get(&number) {
            return cut(window, start, range, out);
        }
        drop(known);
        let window = self.look_up(number)?;
        cut(&window, start, range, out)?;
        let cost = WINDOW_COST + size_of_val(&*window);
        let mut known = shard.write().unwrap_or_else(PoisonError::into_inner);
        if known.cost + cost > self.room {
            *known = Shard::default();
        }
        if cost <= self.room && known.windows.insert(number, window.into()).is_none() {
            known.cost += cost;
        }
        Ok(())
    }

    /// Asks the layers, each for what those above it leave open.
    fn look_up(&self, number: u64) -> Result<Vec<Piece>, LayerError> {
        let start = number * WINDOW;
        let (mut pieces, mut open) = (Vec::new(), vec![(start, start + WINDOW)]);
        let (mut left, mut extents) = (Vec::new(), Vec::new());
        let mut add = |range: (u64, u64), place| {
            let within = |at: u64| u32::try_from(at - start).unwrap_or_default();
            let (from, to) = (within(range.0), within(range.1));
            if from < to {
                pieces.push(Piece { start: from, len: to - from, place });
            }
        };
        for (layer, index) in self.layers.iter().zip(self.first..) {
            for &(from, to) in &open {
                // What is beyond a layer's end is zero, whatever the layers below it have there.
                let end = to.min(layer.info().size).max(from);
                add((end, to), Place::Zero);
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
                        Source::Zero => add(part, Place::Zero),
                        Source::Data { file, offset } => {
                            add(part, Place::Data { file: file.0, offset: offset.get() });
                        }
                        Source::Encoded { .. } => add(part, Place::Encoded { layer: index }),
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
            add(part, Place::Zero);
        }
        pieces.sort_unstable_by_key(|piece| piece.start);
        pieces.dedup_by(|next, piece| {
            let one = piece.goes_on(next);
            if one {
                piece.len += next.len;
            }
            one
        });
        Ok(pieces)
    }
}
