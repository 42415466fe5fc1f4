//! The format of Hyper-V (MS-VHDX): headers, a table of regions, metadata, a table of blocks, and
//! a log through which every change of metadata goes.

use std::sync::Arc;

use super::{FormatError, LayerFile, NewLayer};
use crate::image::ImageFile;

mod bat;
mod bitmap;
mod bytes;
mod change;
mod check;
mod create;
mod guid;
mod header;
mod journal;
mod layer;
mod locator;
mod log;
mod map;
mod metadata;
mod pages;
mod plan;
mod region;
mod replay;
mod space;
#[cfg(test)]
mod tests;

/// Regions, the log and blocks begin at multiples of this and have such lengths (MS-VHDX 2.1).
const MIB: u64 = 1 << 20;

/// The unit of the log (MS-VHDX 2.3), and of what is cached of metadata.
const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;

/// Opens the layer in `file`. A log that was left behind is replayed: into the file where that is
/// writable, else into memory.
pub(super) fn open(file: LayerFile) -> Result<layer::VhdxLayer, FormatError> {
    layer::VhdxLayer::open(file)
}

/// Makes an empty file into a VHDX.
pub(super) fn create(image: &Arc<ImageFile>, new: &NewLayer) -> Result<(), FormatError> {
    create::create(image, new)
}
