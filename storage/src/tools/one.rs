//! One layer by itself, without those below it.

use std::path::Path;
use std::sync::Arc;

use crate::chain::{Chain, open};
use crate::disk::{Disk, MapMemory};
use crate::error::DiskError;
use crate::format::Format;
use crate::image::ImageFile;
use crate::layer::{Layer, LayerError};
use crate::lock::Use;

use super::io::options;

/// An open layer and its file.
pub(super) struct OneLayer {
    pub(super) image: Arc<ImageFile>,
    pub(super) layer: Arc<dyn Layer>,
}

impl OneLayer {
    /// Opens and locks the layer at `path`.
    pub(super) fn open(
        path: &Path,
        format: Option<Format>,
        wanted: Use,
    ) -> Result<OneLayer, DiskError> {
        let image = open::lock(open::open_file(path, wanted)?, path, wanted)?;
        OneLayer::of(image, format)
    }

    /// Opens it for a look: without a lock, so that it can be in use.
    pub(super) fn look(path: &Path, format: Option<Format>) -> Result<OneLayer, DiskError> {
        let file = open::open_file(path, Use::Read)?;
        OneLayer::of(Arc::new(ImageFile::new(file, path, false)), format)
    }

    fn of(image: Arc<ImageFile>, format: Option<Format>) -> Result<OneLayer, DiskError> {
        let format = format.unwrap_or_else(|| Format::of_name(image.path()));
        let layer = open::open_layer(format, &image, 0, &MapMemory::default())?;
        Ok(OneLayer { image, layer })
    }

    /// The layer as a disk, which reads as zeroes where the layer has nothing.
    pub(super) fn into_disk(self, read_only: bool) -> Result<Disk, DiskError> {
        let OneLayer { image, layer } = self;
        let chain = Chain::of_one(layer);
        Disk::assemble(chain, &[image], &options(None, read_only))
    }

    /// Puts the name of the file to an error of the layer.
    pub(super) fn named<T>(&self, result: Result<T, LayerError>) -> Result<T, DiskError> {
        result.map_err(|source| DiskError::Layer { path: self.image.path().to_owned(), source })
    }

    /// Leaves the layer in order, if it may have been changed.
    pub(super) fn close(self) -> Result<(), DiskError> {
        if self.layer.info().read_only { Ok(()) } else { self.named(self.layer.close()) }
    }
}
