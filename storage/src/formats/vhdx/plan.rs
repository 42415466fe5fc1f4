//! How a write or an erasure goes to each block: in place, to new space, or by a mark alone.

use smallvec::SmallVec;

use super::bat::{self, Payload, Piece};
use super::change::Change;
use super::map::Map;
use crate::formats::FormatError;
use crate::formats::pins::Hold;
use crate::layer::{Erase, FileId, WriteStep};
use crate::units::{DiskRange, FileOffset};

/// What is asked of a piece of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// It gets a payload.
    Write,
    /// It becomes zero.
    Erase(Erase),
}

impl Wish {
    /// Whether the space may be given back.
    fn gives_back(self) -> bool {
        matches!(self, Wish::Erase(Erase::Discard | Erase::Zero { unmap: true }))
    }
}

/// What is done to a piece of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Nothing,
    /// Bytes change where they are, this being where the block is.
    InPlace {
        at: u64,
        partial: bool,
    },
    /// The block gets space. What is not of the piece is the parent's if `transparent`, else zero.
    Place {
        transparent: bool,
    },
    /// The block is marked as zero and loses its space.
    Mark {
        space: Option<u64>,
    },
}

/// What is done to each piece of a range.
#[derive(Debug)]
pub(super) struct Plan {
    wish: Wish,
    pieces: SmallVec<[(Piece, Way); 2]>,
}

impl Plan {
    /// Looks at where the blocks of `range` are. Sets nothing aside yet.
    pub(super) fn new(
        map: &mut Map,
        range: DiskRange,
        wish: Wish,
        leave_allocated: bool,
    ) -> Result<Plan, FormatError> {
        let geometry = map.geometry;
        let mut pieces = SmallVec::new();
        for piece in geometry.pieces(range.start(), range.end()) {
            let (block, _, len) = piece;
            let whole = len == geometry.used(block);
            let payload = map.payload(block)?;
            let way = match (wish, payload) {
                (Wish::Erase(Erase::Discard), Payload::Fully(_)) if leave_allocated => Way::Nothing,
                (_, Payload::Fully(at) | Payload::Partially(at)) => {
                    let partial = matches!(payload, Payload::Partially(_));
                    match whole && wish.gives_back() && !leave_allocated {
                        true => Way::Mark { space: Some(at) },
                        false => Way::InPlace { at, partial },
                    }
                }
                (Wish::Write, Payload::Zero) => Way::Place { transparent: false },
                (Wish::Write, Payload::NotPresent) => {
                    Way::Place { transparent: geometry.differencing && !whole }
                }
                (Wish::Erase(_), Payload::NotPresent) if geometry.differencing => match whole {
                    true => Way::Mark { space: None },
                    // Fresh space is zero.
                    false => Way::Place { transparent: true },
                },
                // Others may read what there was before the block was discarded. As all of it was,
                // all of it may become zero.
                (Wish::Erase(Erase::Zero { .. }), Payload::Zero)
                    if !map.is_marked_zero(block)? =>
                {
                    Way::Mark { space: None }
                }
                (Wish::Erase(_), Payload::Zero | Payload::NotPresent) => Way::Nothing,
            };
            pieces.push((piece, way));
        }
        Ok(Plan { wish, pieces })
    }

    /// How the request must hold its blocks: where one of them moves, alone.
    pub(super) fn hold(&self) -> Hold {
        let moves = |way| matches!(way, Way::Place { .. } | Way::Mark { .. });
        match self.pieces.iter().any(|&(_, way)| moves(way)) {
            true => Hold::Exclusive,
            false => Hold::Shared,
        }
    }

    /// Sets space aside, and appends steps and the changes that follow when they are done.
    pub(super) fn carry_out(
        &self,
        map: &mut Map,
        file: FileId,
        out: &mut Vec<WriteStep>,
        changes: &mut Vec<Change>,
    ) -> Result<(), FormatError> {
        let geometry = map.geometry;
        for &((block, within, len), way) in &self.pieces {
            let bits = map.bits(block, within, len);
            let at = match way {
                Way::Nothing => continue,
                Way::Mark { space } => {
                    let entry = match self.wish {
                        Wish::Erase(Erase::Discard) => bat::UNMAPPED,
                        // With offset 0, as Hyper-V wants it.
                        _ => bat::ZERO,
                    };
                    changes.push(Change::Erase { block, entry, space });
                    continue;
                }
                Way::InPlace { at, partial } => {
                    if partial && !present(map, block, bits.clone())? {
                        changes.push(Change::Present { block, bits });
                    }
                    at
                }
                Way::Place { transparent } => {
                    let offset = map.space.payload(&map.image, geometry.block)?;
                    let bits = transparent.then_some(bits);
                    changes.push(Change::Place { block, offset, bits });
                    if self.wish != Wish::Write {
                        continue;
                    }
                    offset
                }
            };
            let place = FileOffset::new(at).and_then(|at| at.checked_add(within));
            let range = DiskRange::new(block * geometry.block + within, len);
            let (Some(at), Some(range)) = (place, range) else {
                return Err(FormatError::damaged(at, "beyond what a file can have"));
            };
            let partial = matches!(way, Way::InPlace { partial: true, .. });
            out.push(match self.wish {
                Wish::Write => WriteStep::Store { range, file, at },
                // Sectors that were the parent's get their bits: then they must be zero.
                Wish::Erase(Erase::Discard) if partial => {
                    WriteStep::ZeroFill { file, at, len, unmap: true }
                }
                Wish::Erase(Erase::Discard) => WriteStep::Deallocate { file, at, len },
                Wish::Erase(Erase::Zero { unmap }) => WriteStep::ZeroFill { file, at, len, unmap },
            });
        }
        Ok(())
    }
}

fn present(map: &mut Map, block: u64, bits: std::ops::Range<u64>) -> Result<bool, FormatError> {
    let bitmap = map.bitmap_of_partial(block)?;
    bitmap.all_set(&mut map.pages, &map.image, bits)
}
