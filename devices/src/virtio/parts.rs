//! The two parts of a chain as runs of bytes in guest memory.

#![expect(unsafe_code, reason = "data goes straight from and to guest memory")]

use std::sync::Arc;

use memshare::GuestMemory;
use storage::{Buffers, Owner};
use vm_memory::{Bytes, GuestMemoryBackend};

use super::queue::{Chain, RingError, Segment, pieces};

/// Most runs of host memory of a request's data. Segments can overlap, and each of them lie in all
/// regions.
const SLICES_MAX: usize = 4096;

/// A chain, and the memory that its buffers are in.
pub(super) struct Parts<'a> {
    chain: &'a Chain,
    memory: &'a GuestMemory,
    owner: &'a Owner,
}

impl<'a> Parts<'a> {
    /// `owner` keeps `memory` mapped.
    pub(super) fn new(chain: &'a Chain, memory: &'a GuestMemory, owner: &'a Owner) -> Parts<'a> {
        Parts { chain, memory, owner }
    }

    /// Bytes of the device-readable part.
    pub(super) fn readable(&self) -> u64 {
        total(self.chain.readable())
    }

    /// Bytes of the device-writable part.
    pub(super) fn writable(&self) -> u64 {
        total(self.chain.writable())
    }

    /// The error of a chain with a buffer that is not in memory.
    pub(super) fn outside(&self) -> RingError {
        RingError::Address(self.chain.head())
    }

    /// The error of a chain that lacks something.
    pub(super) fn short(&self) -> RingError {
        RingError::Short(self.chain.head())
    }

    /// Fills `to` from the device-readable part, `skip` bytes from its start on. What is beyond
    /// its end stays as it is.
    pub(super) fn read(&self, skip: u64, mut to: &mut [u8]) -> Result<(), RingError> {
        for piece in pieces(self.chain.readable(), skip, to.len() as u64) {
            let (now, later) = to.split_at_mut(piece.len as usize);
            self.memory.read_slice(now, piece.address).map_err(|_| self.outside())?;
            to = later;
        }
        Ok(())
    }

    /// Puts as much of `from` as `max` permits at the start of the device-writable part; returns
    /// how much that is.
    pub(super) fn write(&self, mut from: &[u8], max: u64) -> Result<u64, RingError> {
        let mut copied = 0;
        for piece in pieces(self.chain.writable(), 0, max.min(from.len() as u64)) {
            let (now, later) = from.split_at(piece.len as usize);
            self.memory.write_slice(now, piece.address).map_err(|_| self.outside())?;
            copied += u64::from(piece.len);
            from = later;
        }
        Ok(copied)
    }

    /// Where `len` bytes of the device-readable part are, from `skip` on.
    pub(super) fn data_out(&self, skip: u64, len: u64) -> Result<Buffers, RingError> {
        self.buffers(self.chain.readable(), skip, len)
    }

    /// Where `len` bytes of the device-writable part are, from `skip` on.
    pub(super) fn data_in(&self, skip: u64, len: u64) -> Result<Buffers, RingError> {
        self.buffers(self.chain.writable(), skip, len)
    }

    fn buffers(&self, segments: &[Segment], skip: u64, len: u64) -> Result<Buffers, RingError> {
        if len == 0 {
            return Ok(Buffers::none());
        }
        let mut buffers = Buffers::new(Arc::clone(self.owner));
        let mut count = 0;
        for piece in pieces(segments, skip, len) {
            // More than one where regions of memory lie side by side, as a machine's modules do.
            for slice in self.memory.get_slices(piece.address, piece.len as usize) {
                let slice = slice.map_err(|_| self.outside())?;
                count += 1;
                if count > SLICES_MAX {
                    return Err(RingError::Length(self.chain.head()));
                }
                // SAFETY: the slice is part of the piece, in a mapping that lives as long as
                // `owner`, and nobody makes references into guest memory.
                unsafe { buffers.push(slice.ptr_guard_mut().as_ptr(), slice.len()) };
            }
        }
        Ok(buffers)
    }
}

fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}
