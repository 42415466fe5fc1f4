//! The raw format: byte *n* of the disk is byte *n* of the file. The map never changes, so there
//! is nothing to pin, to publish or to flush.

use crate::layer::{
    Erase, Extent, FileId, Layer, LayerError, LayerInfo, Outcome, Source, Ticket, WriteStep,
};
use crate::units::{DiskRange, FileOffset};

/// A file taken as a disk.
pub(crate) struct RawLayer {
    info: LayerInfo,
    file: FileId,
}

impl RawLayer {
    /// The first `info.size` bytes of `file`.
    pub(crate) fn new(file: FileId, info: LayerInfo) -> RawLayer {
        RawLayer { info, file }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> RawLayer {
        RawLayer::new(FileId(0), LayerInfo { size: 8192, read_only: false })
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
    fn nothing_is_mapped_beyond_the_end() {
        let range = DiskRange::new(8192 - 512, 1024).unwrap();
        let mut steps = Vec::new();
        let error = layer().resolve_erase(range, Erase::Discard, &mut steps).unwrap_err();
        assert!(matches!(error, LayerError::Beyond { size: 8192, .. }));
        assert!(steps.is_empty());
    }
}
