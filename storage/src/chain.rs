//! The layers of a disk, asked as one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;

use crate::format::Format;
use crate::layer::{
    DiskTraits, Erase, Extent, Layer, LayerError, LayerInfo, Outcome, Source, Ticket, WriteStep,
};
use crate::units::DiskRange;

mod error;
mod frozen;
pub(crate) mod in_use;
pub(crate) mod open;
mod record;

pub use error::ChainError;
use frozen::Frozen;

/// A disk's layers. Whatever comes out of here has been checked: the extents or stores of a range
/// make it up in order, so the queue may cut its buffers along them.
pub(crate) struct Chain {
    top: Arc<dyn Layer>,
    parents: Frozen,
    /// All layers, of a disk that is read-only.
    frozen: Option<Frozen>,
    /// Whether the top layer's identity has been renewed since it was opened.
    announced: AtomicBool,
    announcing: Mutex<()>,
    /// Whether the top layer was left in order.
    closed: AtomicBool,
}

impl Chain {
    /// A chain of `top` and its parents, nearest first, which nobody changes while the chain
    /// lives; `memory` bounds the bytes of their map.
    pub(crate) fn new(top: Arc<dyn Layer>, parents: Vec<Arc<dyn Layer>>, memory: usize) -> Chain {
        let info = top.info();
        // A raw layer has no map that could be kept.
        let frozen = (info.read_only && info.format != Format::Raw).then(|| {
            let all = std::iter::once(&top).chain(&parents).map(Arc::clone).collect();
            Frozen::new(0, all, memory)
        });
        Chain {
            top,
            parents: Frozen::new(1, parents, memory),
            frozen,
            announced: AtomicBool::new(false),
            announcing: Mutex::new(()),
            closed: AtomicBool::new(false),
        }
    }

    /// A chain of one layer.
    pub(crate) fn of_one(layer: Arc<dyn Layer>) -> Chain {
        Chain::new(layer, Vec::new(), 0)
    }

    /// Size and kind of the disk.
    pub(crate) fn info(&self) -> &LayerInfo {
        self.top.info()
    }

    /// The layer that requests change.
    pub(crate) fn top(&self) -> &dyn Layer {
        &*self.top
    }

    /// The layers, top first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &dyn Layer> {
        std::iter::once(&*self.top).chain(self.parents.layers())
    }

    /// What the disk is, where a layer says: all of them are of the same disk.
    pub(crate) fn traits(&self) -> Option<DiskTraits> {
        self.layers().find_map(|layer| layer.info().traits)
    }

    /// The extents of `range`, in order, none of them [`Source::Transparent`].
    pub(crate) fn resolve_read(
        &self,
        range: DiskRange,
        out: &mut Vec<Extent>,
    ) -> Result<Ticket, LayerError> {
        if let Some(frozen) = &self.frozen {
            frozen.resolve(range, out)?;
            return Ok(Ticket::new(0));
        }
        let ticket = self.top.resolve_read(range, out)?;
        let ticket = self.check(range, out.iter().map(|extent| extent.range), ticket)?;
        match self.fill_in(out) {
            Ok(()) => Ok(ticket),
            Err(error) => {
                self.top.finish(ticket, Outcome::Abort)?;
                Err(error)
            }
        }
    }

    /// Replaces what the top layer leaves open by what the parents say of it.
    fn fill_in(&self, out: &mut Vec<Extent>) -> Result<(), LayerError> {
        // Nearly every request is about one extent, and of a deep chain it is seldom the top's.
        if let [Extent { range, source: Source::Transparent }] = out[..] {
            out.clear();
            return self.parents.resolve(range, out);
        }
        if !out.iter().any(|extent| extent.source == Source::Transparent) {
            return Ok(());
        }
        let own: SmallVec<[Extent; 8]> = out.drain(..).collect();
        for extent in own {
            match extent.source {
                Source::Transparent => self.parents.resolve(extent.range, out)?,
                _ => out.push(extent),
            }
        }
        Ok(())
    }

    /// The extents of `range` as it reads without the top layer.
    pub(crate) fn resolve_below(
        &self,
        range: DiskRange,
        out: &mut Vec<Extent>,
    ) -> Result<(), LayerError> {
        self.parents.resolve(range, out)
    }

    /// Fills `bytes` from a range that a layer keeps in a form of its own.
    pub(crate) fn read_encoded(
        &self,
        layer: u16,
        range: DiskRange,
        bytes: &mut [u8],
    ) -> Result<(), LayerError> {
        let layer = self.layers().nth(usize::from(layer)).ok_or(LayerError::Gap { range })?;
        layer.read_encoded(range, bytes)
    }

    /// Renews the disk's identity, if that was not done since it was opened. Comes before every
    /// change.
    pub(crate) fn announce_change(&self) -> Result<(), LayerError> {
        if self.announced.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one = self.announcing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.announced.load(Ordering::Acquire) {
            self.top.announce_change()?;
            self.announced.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Whether changes may be made now.
    #[cfg(test)]
    pub(crate) fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Acquire)
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
            _ => None,
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
        match self.frozen {
            // Its map gives tickets back itself.
            Some(_) => Ok(()),
            None => self.top.finish(ticket, how),
        }
    }

    /// Makes published mappings durable.
    pub(crate) fn flush_metadata(&self) -> Result<(), LayerError> {
        self.top.flush_metadata()
    }

    /// Leaves the disk in order. No request may follow. Once that is done, does nothing.
    pub(crate) fn close(&self) -> Result<(), LayerError> {
        if self.info().read_only || self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // What could not be done is not done: whoever asks again must not hear that it is.
        self.top.close().inspect_err(|_| self.closed.store(false, Ordering::Release))
    }

    /// Leaves the disk as it is: nobody will open it again. No request may follow.
    pub(crate) fn abandon(&self) {
        self.closed.store(true, Ordering::Release);
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
