//! The idea that unites storage: a layer answers where bytes are, one engine moves them.
//!
//! Resolution is pure metadata: a layer sees neither guest memory nor payload, and holds no lock
//! while I/O is under way. What it must keep in place until then, it pins with a [`Ticket`].

use crate::units::{DiskRange, FileOffset};

/// One of a disk's open files, by its place in the disk's table of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId(pub(crate) u16);

/// Where the bytes of a range are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The range, as the guest counts.
    pub range: DiskRange,
    /// What is there.
    pub source: Source,
}

/// What the bytes of an extent are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// They are in a file, from this offset on.
    Data {
        /// The file.
        file: FileId,
        /// The offset of the extent's first byte.
        offset: FileOffset,
    },
    /// They are zero, and nowhere.
    Zero,
}

/// One thing to do to files so that a change of a disk takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteStep {
    /// Put the payload of `range` into a file.
    Store {
        /// The range, as the guest counts.
        range: DiskRange,
        /// The file.
        file: FileId,
        /// Where its first byte goes.
        at: FileOffset,
    },
    /// Make a part of a file read as zeroes.
    ZeroFill {
        /// The file.
        file: FileId,
        /// Where.
        at: FileOffset,
        /// How many bytes.
        len: u64,
        /// Whether the file system may take the space back.
        unmap: bool,
    },
    /// Give a part of a file back to the file system; its content does not matter any more.
    Deallocate {
        /// The file.
        file: FileId,
        /// Where.
        at: FileOffset,
        /// How many bytes.
        len: u64,
    },
}

/// A change of a range that carries no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erase {
    /// The content is not needed any more.
    Discard,
    /// The range must read as zeroes.
    Zero {
        /// Whether its space may be given back.
        unmap: bool,
    },
}

/// A layer's hold on the blocks of one request, from resolution until [`Layer::finish`]. Each is
/// redeemed exactly once.
#[derive(Debug)]
#[must_use = "a ticket that is not redeemed pins its blocks for good"]
pub struct Ticket(u64);

impl Ticket {
    /// A ticket by which the layer that gives it out recognises the request. Layers whose map
    /// never changes give out 0.
    pub fn new(request: u64) -> Ticket {
        Ticket(request)
    }

    /// What [`Ticket::new`] was given.
    pub fn request(&self) -> u64 {
        self.0
    }
}

/// How the I/O that a ticket covers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step was done: new mappings may be published.
    Done,
    /// Some step failed: what was allocated for it must not become visible.
    Abort,
}

/// What never changes while a layer is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Bytes the layer maps.
    pub size: u64,
    /// Whether it refuses changes.
    pub read_only: bool,
}

/// A map from ranges of a disk to extents.
pub trait Layer: Send + Sync {
    /// What never changes.
    fn info(&self) -> &LayerInfo;
    /// Appends the extents that make up `range`, in order, without gap or overlap.
    fn resolve_read(&self, range: DiskRange, out: &mut Vec<Extent>) -> Result<Ticket, LayerError>;
    /// Appends the steps that store a payload for `range`; the ranges of its
    /// [`WriteStep::Store`] steps make up `range`, in order, without gap or overlap.
    fn resolve_write(
        &self,
        range: DiskRange,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError>;
    /// Appends the steps that erase `range`.
    fn resolve_erase(
        &self,
        range: DiskRange,
        how: Erase,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError>;
    /// Takes a ticket back after the I/O it covers; publishes what [`Outcome::Done`] made true.
    fn finish(&self, ticket: Ticket, how: Outcome) -> Result<(), LayerError>;
    /// Makes published mappings durable. Called when the payload already is.
    fn flush_metadata(&self) -> Result<(), LayerError>;
}

/// Why a layer cannot answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The range is not the layer's. Requests are checked against the disk's size before, so this
    /// is a disk whose layers disagree.
    #[error("range {range} is beyond the layer's {size} bytes")]
    Beyond {
        /// What was asked for.
        range: DiskRange,
        /// What the layer has.
        size: u64,
    },
    /// The layer's answer does not make up the range that was asked for.
    #[error("the map of range {range} has a gap or overlap")]
    Gap {
        /// What was asked for.
        range: DiskRange,
    },
}
