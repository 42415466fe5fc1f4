//! Where an answer's fixed part goes.

use std::iter::once;

use memshare::GuestMemory;
use vm_memory::{Bytes, GuestMemoryBackend};

use crate::virtio::queue::{Chain, RingError, Segment, pieces};

/// The first bytes of a chain's device-writable part.
#[derive(Debug)]
pub(super) struct Space {
    head: u16,
    first: Segment,
    /// What drivers rarely make use of: more segments.
    more: Vec<Segment>,
}

impl Space {
    /// The first `len` bytes, at least one.
    pub(super) fn new(chain: &Chain, len: u64, memory: &GuestMemory) -> Result<Space, RingError> {
        let head = chain.head();
        let mut segments = pieces(chain.writable(), 0, len);
        let first = segments.next().ok_or(RingError::Short(head))?;
        let space = Space { head, first, more: segments.collect() };
        let (mut found, mut inside) = (0, true);
        for segment in space.segments() {
            found += u64::from(segment.len);
            inside &= memory.check_range(segment.address, segment.len as usize);
        }
        match inside {
            _ if found < len => Err(RingError::Short(head)),
            false => Err(RingError::Address(head)),
            true => Ok(space),
        }
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        once(&self.first).chain(&self.more)
    }

    /// The descriptor that the request began with.
    pub(super) fn head(&self) -> u16 {
        self.head
    }

    /// Writes as much of `bytes` as there is room for.
    pub(super) fn write(&self, mut bytes: &[u8], memory: &GuestMemory) {
        for segment in self.segments() {
            let (now, later) = bytes.split_at(bytes.len().min(segment.len as usize));
            // Was found to be in memory.
            let _ = memory.write_slice(now, segment.address);
            bytes = later;
        }
    }
}
