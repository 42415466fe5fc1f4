//! More of guest-physical memory in the page tables: devices above 4 GiB, and their memory.
#![expect(unsafe_code, reason = "page tables are memory that the processor reads")]

use core::ptr;

use super::memory::{Dma, Pool};
use super::physical::{self, Registers};

const ENTRIES: u64 = 512;
const LARGE_PAGE: u64 = 2 << 20;
/// Present, writable, for CPL 3, accessed.
const TABLE: u64 = 0x27;
/// The same and dirty, a 2 MiB page, not cached.
const DEVICE_PAGE: u64 = 0xF7;
/// The same, cached.
const MEMORY_PAGE: u64 = 0xE7;
const PRESENT: u64 = 1;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
/// What four levels of tables can map, in the lower half of the address space.
const LIMIT: u64 = 1 << 47;

/// The page tables, which `entry.s` set up for the first 4 GiB.
#[derive(Debug)]
pub struct PageTables {
    root: u64,
}

impl PageTables {
    /// The tables whose top level is at `root`.
    ///
    /// # Safety
    /// They are in use, and all their levels are mapped at their own addresses.
    pub unsafe fn new(root: u64) -> PageTables {
        PageTables { root }
    }

    /// Maps a device's memory at its own address. `None` if it is beyond what page tables can
    /// map, or memory for tables ran out.
    pub fn map(&mut self, base: u64, len: u64, pool: &mut Pool) -> Option<Registers> {
        self.map_pages(base, len, DEVICE_PAGE, pool)?;
        // SAFETY: mapped now; what drivers write to their devices is their business.
        Some(unsafe { Registers::new(base, len) })
    }

    /// The same for memory that a device offers. It has to be aligned to a large page and, as it
    /// is the guest's from the start below that, above 4 GiB.
    pub fn map_memory(&mut self, base: u64, len: u64, pool: &mut Pool) -> Option<Dma> {
        if !base.is_multiple_of(LARGE_PAGE) || base < physical::MAPPED {
            return None;
        }
        self.map_pages(base, len, MEMORY_PAGE, pool)?;
        // SAFETY: mapped now, and nobody else knows of it.
        Some(unsafe { Dma::new(base, len) })
    }

    fn map_pages(&mut self, base: u64, len: u64, flags: u64, pool: &mut Pool) -> Option<()> {
        let end = base.checked_add(len).filter(|end| *end <= LIMIT)?;
        let mut page = (base & !(LARGE_PAGE - 1)).max(physical::MAPPED);
        while page < end {
            self.map_page(page, flags, pool)?;
            page += LARGE_PAGE;
        }
        Some(())
    }

    fn map_page(&mut self, page: u64, flags: u64, pool: &mut Pool) -> Option<()> {
        let directories = Self::next(self.root, page >> 39, pool)?;
        let directory = Self::next(directories, page >> 30, pool)?;
        Self::entry(directory, page >> 21, |_| Some(page | flags)).map(|_| ())
    }

    /// The table that an entry of `table` points to; a new one if it points nowhere.
    fn next(table: u64, index: u64, pool: &mut Pool) -> Option<u64> {
        let entry = Self::entry(table, index, |old| {
            if old & PRESENT != 0 {
                return Some(old);
            }
            Some(pool.take_zeroed(ENTRIES * 8, ENTRIES * 8)?.address() | TABLE)
        })?;
        Some(entry & ADDRESS)
    }

    fn entry(table: u64, index: u64, new: impl FnOnce(u64) -> Option<u64>) -> Option<u64> {
        let address = table + index % ENTRIES * 8;
        let place: *mut u64 = ptr::with_exposed_provenance_mut(usize::try_from(address).ok()?);
        // SAFETY: an entry of our tables. Only absent entries change, so no stale translation of
        // the processor can stand in the way.
        unsafe {
            let entry = new(place.read_volatile())?;
            place.write_volatile(entry);
            Some(entry)
        }
    }
}
