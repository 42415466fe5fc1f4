//! Which of the guest's memory is still free to load into.

use std::ops::Range;

use thiserror::Error;

use crate::machine::layout;

/// A range of guest-physical memory and what it is for, as the guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is for.
    pub kind: MemoryKind,
}

/// What a range of memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// The guest may use it as it likes.
    Ram,
    /// Hands off: firmware, device or configuration space.
    Reserved,
    /// ACPI tables, free once the guest has read them.
    Acpi,
}

impl MemoryKind {
    /// The type's number, the same in e820 tables and in PVH memory maps.
    pub(super) fn number(self) -> u32 {
        match self {
            MemoryKind::Ram => 1,
            MemoryKind::Reserved => 2,
            MemoryKind::Acpi => 3,
        }
    }
}

/// A part of the kernel that has no place in the guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{what} needs the guest memory from {start:#x} to {end:#x}, but what is there to use ends at \
     {free_end:#x}"
)]
pub struct Misfit {
    /// Which part, such as `segment 2`.
    pub what: String,
    /// Its first address.
    pub start: u64,
    /// The first address behind it.
    pub end: u64,
    /// Where the memory that it could use ends.
    pub free_end: u64,
}

impl Misfit {
    /// How much memory to give the guest.
    pub fn help(&self) -> Option<String> {
        advise_memory(self.end)
    }
}

/// The `-m` that gives a guest RAM up to `end` and some room to work in.
pub(super) fn advise_memory(end: u64) -> Option<String> {
    const STEP: u64 = 64 << 20;
    let bytes = end.checked_add(STEP / 2)?.checked_next_multiple_of(STEP)?;
    (bytes <= layout::LOW_RAM_END)
        .then(|| format!("give the guest more memory, at least `-m {}M`", bytes >> 20))
}

/// The RAM above 1 MiB that nothing has been loaded into.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// Sorted, disjoint, not touching each other, none empty.
    free: Vec<Range<u64>>,
    used_end: u64,
}

impl Room {
    /// All RAM of a memory map above 1 MiB.
    pub(super) fn new(map: &[MemoryRange]) -> Room {
        let mut ram: Vec<Range<u64>> = map
            .iter()
            .filter(|range| range.kind == MemoryKind::Ram)
            .map(|r| r.start.max(layout::KERNEL_START.0)..r.start.saturating_add(r.len))
            .filter(|range| !range.is_empty())
            .collect();
        ram.sort_by_key(|range| range.start);
        let mut free: Vec<Range<u64>> = Vec::with_capacity(ram.len());
        for range in ram {
            match free.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => free.push(range),
            }
        }
        Room { free, used_end: layout::KERNEL_START.0 }
    }

    /// Claims a range for `what`. An empty range needs no place.
    pub(super) fn take(&mut self, what: String, range: Range<u64>) -> Result<(), Misfit> {
        if range.is_empty() {
            return Ok(());
        }
        let inside = |free: &Range<u64>| free.start <= range.start && range.end <= free.end;
        let Some(at) = self.free.iter().position(inside) else {
            let below = self.free.iter().take_while(|free| free.start <= range.start);
            let free_end = below.last().map_or(layout::KERNEL_START.0, |free| free.end);
            return Err(Misfit { what, start: range.start, end: range.end, free_end });
        };
        self.used_end = self.used_end.max(range.end);
        let whole = self.free[at].clone();
        let rest = [whole.start..range.start, range.end..whole.end];
        self.free.splice(at..=at, rest.into_iter().filter(|range| !range.is_empty()));
        Ok(())
    }

    /// The highest address, a multiple of `align` (a power of two), from which `len` bytes are
    /// free and end at or below `end`.
    pub(super) fn highest(&self, len: u64, align: u64, end: u64) -> Option<u64> {
        self.free.iter().rev().find_map(|free| {
            let start = free.end.min(end).checked_sub(len)? & !(align - 1);
            (start >= free.start).then_some(start)
        })
    }

    /// Where the highest claimed range ends, or 1 MiB.
    pub(super) fn used_end(&self) -> u64 {
        self.used_end
    }

    /// Length of the longest free range at or below `end`.
    pub(super) fn longest(&self, end: u64) -> u64 {
        let clipped = self.free.iter().map(|free| free.end.min(end).saturating_sub(free.start));
        clipped.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
