//! The idea that unites storage: a layer answers where bytes are, one engine moves them.
//!
//! Resolution is pure metadata: a layer sees neither guest memory nor payload, and holds no lock
//! while I/O is under way. What it must keep in place until then, it pins with a [`Ticket`].

use uuid::Uuid;

use crate::format::Format;
use crate::formats::FormatError;
use crate::identity::Identity;
use crate::link::ParentLink;
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
    /// This layer has none: they are the parent's, or zero where there is no parent.
    Transparent,
    /// They are in a form that only the layer can read, by [`Layer::read_encoded`]. The layer
    /// itself gives 0; the chain puts in which layer it is.
    Encoded {
        /// The layer's place in its chain, the top being 0.
        layer: u16,
    },
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
    /// Put into a file what `range` reads as without the top layer. Comes before every
    /// [`WriteStep::Store`] of its answer, and is done when these begin.
    CopyUp {
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
    /// How it keeps its bytes.
    pub format: Format,
    /// Bytes the layer maps.
    pub size: u64,
    /// Bytes of the disk's logical blocks, in which guests count: 512 or 4096.
    pub sector: u32,
    /// Bytes that the layer takes from its parent at a time; smaller writes cost more. A power of
    /// two.
    pub granularity: u32,
    /// Whether it refuses changes.
    pub read_only: bool,
    /// Its parent, if it has one.
    pub parent: Option<ParentLink>,
    /// What the disk is, where the format says.
    pub traits: Option<DiskTraits>,
}

/// What a disk is, whatever its contents. Its children are the same disk (MS-VHDX 2.6.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskTraits {
    /// What tells it from all others (MS-VHDX 2.6.2.3).
    pub id: Uuid,
    /// Bytes of a physical sector: 512 or 4096 (MS-VHDX 2.6.2.5).
    pub physical_sector: u32,
}

/// A map from ranges of a disk to extents.
///
/// Any number of threads call this at once. An answer may be [`LayerError::Busy`] while another
/// request holds what this one must change; it is asked for again when some request has ended.
pub trait Layer: Send + Sync {
    /// What never changes.
    fn info(&self) -> &LayerInfo;
    /// The identity of the contents as they are now.
    fn identity(&self) -> Result<Identity, LayerError>;
    /// Appends the extents that make up `range`, in order, without gap or overlap.
    fn resolve_read(&self, range: DiskRange, out: &mut Vec<Extent>) -> Result<Ticket, LayerError>;
    /// Appends the steps that store a payload for `range`; the ranges of its
    /// [`WriteStep::Store`] steps make up `range`, in order, without gap or overlap.
    fn resolve_write(
        &self,
        range: DiskRange,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError>;
    /// Appends the steps that erase `range`. It reads as zeroes when it is
    /// [`finished`](Layer::finish), never as the parent's bytes; after [`Erase::Discard`], what
    /// this layer itself held may also still be there.
    fn resolve_erase(
        &self,
        range: DiskRange,
        how: Erase,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError>;
    /// Takes a ticket back after the I/O it covers; publishes what [`Outcome::Done`] made true.
    /// Never [`LayerError::Busy`].
    fn finish(&self, ticket: Ticket, how: Outcome) -> Result<(), LayerError>;
    /// Makes published mappings durable. Called when the payload already is.
    fn flush_metadata(&self) -> Result<(), LayerError>;
    /// Fills `bytes` from `range`, which lies in one [`Source::Encoded`] extent.
    fn read_encoded(&self, range: DiskRange, bytes: &mut [u8]) -> Result<(), LayerError> {
        let _ = bytes;
        Err(LayerError::Gap { range })
    }
    /// Renews the identity, durably. Called once after a writable open, before the first change of
    /// what a reader sees.
    fn announce_change(&self) -> Result<(), LayerError>;
    /// Replaces the record of the parent, durably. Not a change of contents: the identity stays.
    fn set_parent(&self, link: &ParentLink) -> Result<(), LayerError>;
    /// Makes the layer's metadata durable, with the payload that it refers to, and marks the file
    /// as left in order. Called once, when no request
    /// is under way and none will come.
    fn close(&self) -> Result<(), LayerError>;
    /// Looks for damage of the layer's structure, and with `repair` mends what can be mended
    /// without loss.
    fn check(&self, repair: bool) -> Result<Vec<Finding>, LayerError>;
}

/// Something that is not as it should be in a layer's file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What, and where in the file.
    pub what: String,
    /// Space is lost, or something is out of date; no content is wrong. Otherwise, content may be.
    pub harmless: bool,
    /// It has been mended.
    pub repaired: bool,
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
    /// Another request holds what this one must change. Not an error: it is asked for again.
    #[error("another request is in the way")]
    Busy,
    /// The layer's metadata cannot be read or written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The layer's answer does not make up the range that was asked for.
    #[error("the map of range {range} has a gap or overlap")]
    Gap {
        /// What was asked for.
        range: DiskRange,
    },
}
