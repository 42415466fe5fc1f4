//! The raw format: byte *n* of the disk is byte *n* of the file. The map never changes, so there
//! is nothing to pin, to publish or to flush.

use std::sync::Arc;

use super::{FormatError, LayerFile, NewLayer};
use crate::format::Format;
use crate::identity::Identity;
use crate::image::ImageFile;
use crate::layer::{
    Erase, Extent, FileId, Finding, Layer, LayerError, LayerInfo, Outcome, Source, Ticket,
    WriteStep,
};
use crate::link::ParentLink;
use crate::units::{DiskRange, FileOffset};

/// [`SECTOR`](crate::SECTOR), as layers tell it.
const SECTOR_BYTES: u32 = 512;

/// A file taken as a disk.
pub(crate) struct RawLayer {
    info: LayerInfo,
    image: Arc<ImageFile>,
    file: FileId,
}

/// Gives an empty file its size.
pub(super) fn create(image: &ImageFile, new: &NewLayer) -> Result<(), FormatError> {
    if new.parent.is_some() {
        let what = "a raw layer with a parent (nothing in the file could record it)";
        return Err(FormatError::Unsupported { what: what.to_owned() });
    }
    image.set_len(new.size).map_err(FormatError::host("set the size of", 0))?;
    image.sync().map_err(FormatError::host("sync", 0))
}

impl RawLayer {
    /// All bytes of the file.
    pub(super) fn open(file: LayerFile) -> Result<RawLayer, FormatError> {
        let LayerFile { image, id, .. } = file;
        let size = image.len().map_err(FormatError::host("find the size of", 0))?;
        let info = LayerInfo {
            format: Format::Raw,
            size,
            sector: SECTOR_BYTES,
            granularity: SECTOR_BYTES,
            read_only: !image.is_writable(),
            parent: None,
            traits: None,
        };
        Ok(RawLayer { info, image, file: id })
    }

    /// Where `range` starts in the file.
    fn locate(&self, range: DiskRange) -> Result<FileOffset, LayerError> {
        FileOffset::new(range.start())
            .filter(|_| range.end() <= self.info.size)
            .ok_or(LayerError::Beyond { range, size: self.info.size })
    }
}

/// The ticket of a map that never changes.
const UNCHANGING: u64 = 0;

impl Layer for RawLayer {
    fn info(&self) -> &LayerInfo {
        &self.info
    }

    fn identity(&self) -> Result<Identity, LayerError> {
        Ok(Identity::of(self.image.file()).map_err(FormatError::host("examine", 0))?)
    }

    fn resolve_read(&self, range: DiskRange, out: &mut Vec<Extent>) -> Result<Ticket, LayerError> {
        let offset = self.locate(range)?;
        out.push(Extent { range, source: Source::Data { file: self.file, offset } });
        Ok(Ticket::new(UNCHANGING))
    }

    fn resolve_write(
        &self,
        range: DiskRange,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        let at = self.locate(range)?;
        out.push(WriteStep::Store { range, file: self.file, at });
        Ok(Ticket::new(UNCHANGING))
    }

    fn resolve_erase(
        &self,
        range: DiskRange,
        how: Erase,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        let (file, at, len) = (self.file, self.locate(range)?, range.len());
        out.push(match how {
            Erase::Discard => WriteStep::Deallocate { file, at, len },
            Erase::Zero { unmap } => WriteStep::ZeroFill { file, at, len, unmap },
        });
        Ok(Ticket::new(UNCHANGING))
    }

    fn finish(&self, _ticket: Ticket, _how: Outcome) -> Result<(), LayerError> {
        Ok(())
    }

    fn flush_metadata(&self) -> Result<(), LayerError> {
        Ok(())
    }

    /// Every write changes the file's times, but the payload may be durable before they are. Of a
    /// device there is nothing to renew: what is written to it is counted, as long as this kernel
    /// runs, and the next one's identities are all others.
    fn announce_change(&self) -> Result<(), LayerError> {
        Ok(self.image.renew_times().map_err(FormatError::host("renew the times of", 0))?)
    }

    fn set_parent(&self, _link: &ParentLink) -> Result<(), LayerError> {
        let what = "a parent of a raw layer".to_owned();
        Err(FormatError::Unsupported { what }.into())
    }

    /// There is no metadata to leave in order; payload is made durable when the guest asks for it.
    fn close(&self) -> Result<(), LayerError> {
        Ok(())
    }

    fn check(&self, _repair: bool) -> Result<Vec<Finding>, LayerError> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> RawLayer {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let image = Arc::new(ImageFile::new(file, "disk".as_ref(), true));
        RawLayer::open(LayerFile::alone(image, 32 << 20)).unwrap()
    }

    #[test]
    fn a_range_is_one_extent_at_its_own_offset() {
        let range = DiskRange::new(512, 1024).unwrap();
        let mut extents = Vec::new();
        let ticket = layer().resolve_read(range, &mut extents).unwrap();
        let offset = FileOffset::new(512).unwrap();
        assert_eq!(extents, [Extent { range, source: Source::Data { file: FileId(0), offset } }]);
        layer().finish(ticket, Outcome::Done).unwrap();
    }

    #[test]
    fn a_change_is_announced_by_the_times_of_the_file() {
        let layer = layer();
        let before = layer.identity().unwrap();
        // More than the step in which kernels count times.
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(layer.identity().unwrap(), before);
        layer.announce_change().unwrap();
        assert_ne!(layer.identity().unwrap(), before);
    }

    #[test]
    fn nothing_is_mapped_beyond_the_end() {
        let range = DiskRange::new(8192 - 512, 1024).unwrap();
        let mut steps = Vec::new();
        let error = layer().resolve_erase(range, Erase::Discard, &mut steps).unwrap_err();
        assert!(matches!(error, LayerError::Beyond { size: 8192, .. }));
        assert!(steps.is_empty());
    }
}
