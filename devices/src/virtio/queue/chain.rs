//! Descriptor chains: the buffers of one request.

use memshare::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::area::Area;
use super::{DESCRIPTOR_LEN, RingError};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Most descriptors of a chain whose table is indirect. (Others are bounded by the queue's size.)
const MAX_INDIRECT: usize = 1024;

/// A run of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub address: GuestAddress,
    /// Bytes, at least one.
    pub len: u32,
}

/// The buffers of one request: a device-readable part, then a device-writable one. A device
/// keeps one of these and takes every chain into it, which saves allocations.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    segments: Vec<Segment>,
    readable: usize,
}

impl Chain {
    /// The descriptor that the chain began with, by which it is returned.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The device-readable part.
    pub fn readable(&self) -> &[Segment] {
        self.segments.get(..self.readable).unwrap_or_default()
    }

    /// The device-writable part.
    pub fn writable(&self) -> &[Segment] {
        self.segments.get(self.readable..).unwrap_or_default()
    }

    /// Takes the chain of `head` from the table of a queue of `size`.
    pub(super) fn walk(
        &mut self,
        head: u16,
        table: &Area,
        size: u16,
        memory: &GuestMemory,
    ) -> Result<(), RingError> {
        self.head = head;
        self.segments.clear();
        self.readable = 0;
        let indirect = self.walk_table(head, size.into(), |offset| table.descriptor(offset))?;
        let Some(indirect) = indirect else { return Ok(()) };

        let invalid = RingError::Indirect(head);
        let len = indirect.len as usize;
        let count = len / DESCRIPTOR_LEN;
        if count == 0 || count * DESCRIPTOR_LEN != len || count > MAX_INDIRECT {
            return Err(invalid);
        }
        let start = GuestAddress(indirect.address);
        // The table may reach from one region of memory into the next.
        if !memory.check_range(start, len) {
            return Err(invalid);
        }
        // Within memory, so it cannot fail; an empty descriptor would end the chain.
        let nested = self.walk_table(0, count, |offset| {
            let address = GuestAddress(indirect.address.wrapping_add(offset as u64));
            let words: [u64; 2] = memory.read_obj(address).unwrap_or_default();
            words.map(u64::from_le)
        })?;
        if nested.is_some() { Err(invalid) } else { Ok(()) }
    }

    /// Takes the chain that begins with `next` in a table of `count` descriptors, which `load`
    /// reads by their offset. Returns the indirect descriptor that it ended with, if it did.
    fn walk_table(
        &mut self,
        mut next: u16,
        count: usize,
        load: impl Fn(usize) -> [u64; 2],
    ) -> Result<Option<Descriptor>, RingError> {
        for _ in 0..count {
            if usize::from(next) >= count {
                return Err(RingError::Descriptor(next));
            }
            let descriptor = Descriptor::new(load(DESCRIPTOR_LEN * usize::from(next)));
            let last = descriptor.flags & NEXT == 0;
            if descriptor.flags & INDIRECT != 0 {
                return if last {
                    Ok(Some(descriptor))
                } else {
                    Err(RingError::Indirect(self.head))
                };
            }
            self.take(descriptor)?;
            if last {
                return Ok(None);
            }
            next = descriptor.next;
        }
        Err(RingError::Length(self.head))
    }

    /// Appends one buffer; empty ones are left out.
    fn take(&mut self, descriptor: Descriptor) -> Result<(), RingError> {
        let writable = descriptor.flags & WRITE != 0;
        if !writable && self.segments.len() > self.readable {
            return Err(RingError::Order(self.head));
        }
        if descriptor.len > 0 {
            let address = GuestAddress(descriptor.address);
            self.segments.push(Segment { address, len: descriptor.len });
            self.readable += usize::from(!writable);
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    #[expect(clippy::cast_possible_truncation, reason = "each field is cut out of the word")]
    fn new([address, rest]: [u64; 2]) -> Descriptor {
        let (len, flags, next) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16);
        Descriptor { address, len, flags, next }
    }
}

/// The parts of `segments` that make up `len` bytes, after leaving out the first `skip`.
pub fn pieces(segments: &[Segment], skip: u64, len: u64) -> impl Iterator<Item = Segment> {
    let (mut skip, mut left) = (skip, len);
    segments.iter().filter_map(move |segment| {
        let skipped = skip.min(u64::from(segment.len));
        skip -= skipped;
        let taken = (u64::from(segment.len) - skipped).min(left);
        left -= taken;
        let address = GuestAddress(segment.address.0.wrapping_add(skipped));
        let len = u32::try_from(taken).ok()?;
        (len > 0).then_some(Segment { address, len })
    })
}
