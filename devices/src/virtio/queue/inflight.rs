//! The record of a queue's requests in flight, in memory that outlives the process (vhost-user
//! specification, "Inflight I/O tracking", split virtqueues).
//!
//! A process that dies with requests taken and not answered would leave its driver waiting for
//! ever: the available ring does not say which of its entries were answered. The record does.
//! Each step is one store, and their order is the specification's, so that a successor finds out
//! what was answered wherever its predecessor stopped. Whoever keeps the memory can write to it:
//! numbers in it are used as indices only after a check, and lists in it are followed no further
//! than the record is long.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use memshare::GuestMemory;
use vm_memory::GuestAddress;

use super::RingError;
use super::area::Area;

const VERSION: u16 = 1;

/// Offsets in the header. Before them are 64 bits of features, of which there are none yet.
const VERSION_AT: usize = 8;
const ENTRIES_AT: usize = 10;
const LAST_BATCH_HEAD_AT: usize = 12;
const USED_INDEX_AT: usize = 14;
const HEADER_LEN: usize = 16;

/// Offsets in an entry, of which there is one for each descriptor.
const INFLIGHT_AT: usize = 0;
const NEXT_AT: usize = 6;
const COUNTER_AT: usize = 8;
const ENTRY_LEN: usize = 16;

/// Where a record may begin, so that no two queues share a cache line.
const ALIGN: usize = 64;

/// The record of one queue's requests in flight.
pub struct Inflight {
    area: Area,
    entries: u16,
    /// Orders requests: the next one taken gets this.
    counter: u64,
    /// Answered since the last publication.
    batch: Vec<u16>,
    /// Taken by a predecessor and not answered; the next one last.
    again: Vec<u16>,
}

impl Inflight {
    /// Bytes from one queue's record to the next's, for queues of up to `entries` buffers.
    pub const fn stride(entries: u16) -> usize {
        (HEADER_LEN + ENTRY_LEN * entries as usize).next_multiple_of(ALIGN)
    }

    /// The record of queue number `index` in `memory`, where those of all queues begin at
    /// address 0, each for up to `entries` buffers. Memory that is all zero is an empty record.
    /// `None` if it is not all in `memory`.
    pub fn new(memory: &Arc<GuestMemory>, index: u16, entries: u16) -> Option<Inflight> {
        let stride = Inflight::stride(entries);
        let at = u64::try_from(stride.checked_mul(index.into())?).ok()?;
        let area = Area::new(memory, GuestAddress(at), stride, 8)?;
        Some(Inflight { area, entries, counter: 0, batch: Vec::new(), again: Vec::new() })
    }

    /// Finds out what a predecessor left of a queue of `size`, whose used ring has index `used`.
    /// Returns how many requests it took and did not answer.
    pub(super) fn recover(&mut self, used: u16, size: u16) -> Result<u16, RingError> {
        let version = self.area.load(VERSION_AT, Ordering::Acquire);
        let entries = self.area.load(ENTRIES_AT, Ordering::Relaxed);
        match version {
            0 if self.entries >= size => self.begin(used),
            VERSION if entries == self.entries && entries >= size => self.end_batch(used),
            _ => return Err(RingError::Inflight { version, entries }),
        }
        let mut taken: Vec<(u64, u16)> = Vec::new();
        for head in 0..self.entries {
            if self.area.load_byte(entry(head) + INFLIGHT_AT) == 0 {
                continue;
            }
            if head < size {
                taken.push((self.area.load_word(entry(head) + COUNTER_AT), head));
            } else {
                // Of a queue that was larger before the driver set it up anew.
                self.area.store_byte(entry(head) + INFLIGHT_AT, 0);
            }
        }
        taken.sort_unstable();
        self.counter = taken.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        self.again = taken.iter().rev().map(|&(_, head)| head).collect();
        self.batch.clear();
        // No more than there are descriptors.
        Ok(u16::try_from(self.again.len()).unwrap_or(size))
    }

    /// Makes an empty record.
    fn begin(&self, used: u16) {
        for head in 0..self.entries {
            self.area.store_byte(entry(head) + INFLIGHT_AT, 0);
        }
        self.area.store(ENTRIES_AT, self.entries, Ordering::Release);
        self.area.store(USED_INDEX_AT, used, Ordering::Release);
        // Last: from here on the record counts.
        self.area.store(VERSION_AT, VERSION, Ordering::Release);
    }

    /// Ends a publication that the predecessor may have died in.
    fn end_batch(&self, used: u16) {
        let behind = used.wrapping_sub(self.area.load(USED_INDEX_AT, Ordering::Relaxed));
        if behind == 0 {
            return;
        }
        let mut head = self.area.load(LAST_BATCH_HEAD_AT, Ordering::Relaxed);
        for _ in 0..behind.min(self.entries) {
            if head >= self.entries {
                break;
            }
            self.area.store_byte(entry(head) + INFLIGHT_AT, 0);
            head = self.area.load(entry(head) + NEXT_AT, Ordering::Relaxed);
        }
        self.area.store(USED_INDEX_AT, used, Ordering::Release);
    }

    /// The request to take again next.
    #[inline]
    pub(super) fn again(&self) -> Option<u16> {
        self.again.last().copied()
    }

    /// It was taken. It is still in flight, in its old place.
    pub(super) fn taken_again(&mut self) {
        self.again.pop();
    }

    /// The request of `head` was taken.
    pub(super) fn taken(&mut self, head: u16) {
        self.area.store_word(entry(head) + COUNTER_AT, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.area.store_byte(entry(head) + INFLIGHT_AT, 1);
    }

    /// The request of `head` is answered; the driver does not see that yet.
    pub(super) fn used(&mut self, head: u16) {
        let last = self.area.load(LAST_BATCH_HEAD_AT, Ordering::Relaxed);
        self.area.store(entry(head) + NEXT_AT, last, Ordering::Release);
        self.area.store(LAST_BATCH_HEAD_AT, head, Ordering::Release);
        self.batch.push(head);
    }

    /// The driver sees all answers up to used ring index `used`.
    pub(super) fn published(&mut self, used: u16) {
        for head in self.batch.drain(..) {
            self.area.store_byte(entry(head) + INFLIGHT_AT, 0);
        }
        self.area.store(USED_INDEX_AT, used, Ordering::Release);
    }
}

/// Where the entry of the descriptor `head` is.
fn entry(head: u16) -> usize {
    HEADER_LEN + ENTRY_LEN * usize::from(head)
}

impl std::fmt::Debug for Inflight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflight")
            .field("entries", &self.entries)
            .field("again", &self.again.len())
            .finish_non_exhaustive()
    }
}
