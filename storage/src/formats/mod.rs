//! How layers keep their bytes. A format maps ranges to extents; it does no I/O on payload and
//! touches no memory but its own.

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use crate::format::Format;
use crate::image::ImageFile;
use crate::layer::{DiskTraits, FileId, Layer};
use crate::link::{LinkError, ParentLink};

pub(crate) use decoded::Decoded;

mod decoded;
mod layer;
mod pins;
mod qcow2;
pub(crate) mod raw;
mod vhdx;

/// A layer's file, about to be opened.
pub(crate) struct LayerFile {
    /// The file, locked.
    pub(crate) image: Arc<ImageFile>,
    /// The number by which extents and steps name it.
    pub(crate) id: FileId,
    /// Bytes of memory that the layer may take for what it keeps of its map. It may take a little
    /// more where a format needs some of its tables at once.
    pub(crate) memory: usize,
    /// Where layers of the chain keep what they had to decode.
    pub(crate) decoded: Arc<Decoded>,
}

impl LayerFile {
    /// That of the only layer of its chain.
    pub(crate) fn alone(image: Arc<ImageFile>, memory: usize) -> LayerFile {
        LayerFile { image, id: FileId(0), memory, decoded: Arc::default() }
    }
}

/// What a new layer is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLayer {
    /// Bytes the guest sees.
    pub size: u64,
    /// Bytes of its logical blocks: 512 or 4096.
    pub sector: u32,
    /// Its parent: without one, the layer is a base and reads as zeroes.
    pub parent: Option<ParentLink>,
    /// Take all of the space at once, where the format knows such images (VHDX: fixed).
    pub fixed: bool,
    /// What its parents say that the disk is; without it, it is a new disk.
    pub traits: Option<DiskTraits>,
}

/// Opens the layer in `file`, writable where the file is. Changes nothing but what the format
/// must mend before anything can be read.
pub(crate) fn open(format: Format, file: LayerFile) -> Result<Box<dyn Layer>, FormatError> {
    match format {
        Format::Raw => Ok(Box::new(raw::RawLayer::open(file)?)),
        Format::Layer => Ok(Box::new(layer::RuntimeLayer::open(file)?)),
        Format::Qcow2 => Ok(Box::new(qcow2::Qcow2Layer::open(file)?)),
        Format::Vhdx => Ok(Box::new(vhdx::open(file)?)),
    }
}

/// Makes an empty file into a layer. Durable on return.
pub(crate) fn create(
    format: Format,
    image: &Arc<ImageFile>,
    new: &NewLayer,
) -> Result<(), FormatError> {
    match format {
        Format::Raw => raw::create(image, new),
        Format::Layer => layer::create(image, new),
        Format::Qcow2 => qcow2::create(image, new),
        Format::Vhdx => vhdx::create(image, new),
    }
}

/// Why a file cannot be used as a layer of its format.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The file does not begin as files of this format do.
    #[error("the file is no {format} image")]
    NotThis {
        /// The format.
        format: Format,
    },
    /// Something in the file contradicts itself or the format's rules.
    #[error("damaged at file offset {offset:#x}: {what}")]
    Damaged {
        /// Where.
        offset: u64,
        /// What, in a few words.
        what: String,
    },
    /// The file, or what was asked for, needs something that cohort does not do.
    #[error("{what} is not supported")]
    Unsupported {
        /// What.
        what: String,
    },
    /// The host's kernel failed.
    #[error("cannot {action} {}", part(action, *offset))]
    Host {
        /// `read`, `write`, `sync`, …
        action: &'static str,
        /// Where.
        offset: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The record of the parent makes no sense.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// What an action is on: metadata at some place, or the file as a whole.
fn part(action: &str, offset: u64) -> String {
    match action {
        "read" | "write" | "allocate" | "punch" | "zero" => {
            format!("metadata at file offset {offset:#x}")
        }
        _ => "the file".to_owned(),
    }
}

impl FormatError {
    /// A contradiction in the file.
    pub(crate) fn damaged(offset: u64, what: impl Into<String>) -> FormatError {
        FormatError::Damaged { offset, what: what.into() }
    }

    /// A system call on metadata that failed; a file that is too short is a damaged one.
    pub(crate) fn host(action: &'static str, offset: u64) -> impl FnOnce(io::Error) -> FormatError {
        move |source| match source.kind() {
            io::ErrorKind::UnexpectedEof => FormatError::damaged(offset, "the file ends here"),
            _ => FormatError::Host { action, offset, source },
        }
    }
}
