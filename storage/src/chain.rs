//! The layers of a disk, asked as one.

use crate::layer::{Erase, Extent, Layer, LayerError, LayerInfo, Outcome, Ticket, WriteStep};
use crate::units::DiskRange;

/// A disk's layers. Whatever comes out of here has been checked: the extents or stores of a range
/// make it up in order, so the queue may cut its buffers along them.
pub(crate) struct Chain {
    top: Box<dyn Layer>,
}

impl Chain {
    /// A chain of one layer.
    pub(crate) fn new(top: Box<dyn Layer>) -> Chain {
        Chain { top }
    }

    /// Size and kind of the disk.
    pub(crate) fn info(&self) -> &LayerInfo {
        self.top.info()
    }

    /// The extents of `range`, in order.
    pub(crate) fn resolve_read(
        &self,
        range: DiskRange,
        out: &mut Vec<Extent>,
    ) -> Result<Ticket, LayerError> {
        let ticket = self.top.resolve_read(range, out)?;
        self.check(range, out.iter().map(|extent| extent.range), ticket)
    }

    /// The steps that store a payload for `range`, in order.
    pub(crate) fn resolve_write(
        &self,
        range: DiskRange,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        let ticket = self.top.resolve_write(range, out)?;
        let stores = out.iter().filter_map(|step| match step {
            WriteStep::Store { range, .. } => Some(*range),
            WriteStep::ZeroFill { .. } | WriteStep::Deallocate { .. } => None,
        });
        self.check(range, stores, ticket)
    }

    /// The steps that erase `range`.
    pub(crate) fn resolve_erase(
        &self,
        range: DiskRange,
        how: Erase,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        self.top.resolve_erase(range, how, out)
    }

    /// Redeems a ticket.
    pub(crate) fn finish(&self, ticket: Ticket, how: Outcome) -> Result<(), LayerError> {
        self.top.finish(ticket, how)
    }

    /// Makes published mappings durable.
    pub(crate) fn flush_metadata(&self) -> Result<(), LayerError> {
        self.top.flush_metadata()
    }

    /// Gives `ticket` on if `parts` make up `range`, redeems it as aborted if not.
    fn check(
        &self,
        range: DiskRange,
        parts: impl Iterator<Item = DiskRange>,
        ticket: Ticket,
    ) -> Result<Ticket, LayerError> {
        let mut at = Some(range.start());
        for part in parts {
            at = at.filter(|&at| part.start() == at && !part.is_empty()).map(|_| part.end());
        }
        if at == Some(range.end()) {
            return Ok(ticket);
        }
        self.top.finish(ticket, Outcome::Abort)?;
        Err(LayerError::Gap { range })
    }
}
