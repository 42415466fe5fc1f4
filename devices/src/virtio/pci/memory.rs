//! The window of a device's shared memory: a 64-bit prefetchable base address register.
//!
//! It is where the base address register says from the start, whether or not the guest has turned
//! on the function's memory: devices know guest memory as it was when they started, and those that
//! start first would otherwise not reach it. What a guest writes to find out the
//! size changes nothing while memory is off.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use crate::bus::BusDevice;
use crate::limited::warn_limited;
use crate::pci::PciError;
use crate::pci::bar::{Bar, Windows};
use crate::virtio::shared_memory::SharedMemory;

/// The base address register of the memory; the one behind it is its upper half.
pub(super) const BAR: u8 = 2;
/// Most bytes that the window may have: half of all addresses.
const LEN_MAX: u64 = 1 << 63;

/// Bytes that the register decodes: a power of two.
pub(super) fn bar_len(memory: &SharedMemory) -> u64 {
    memory.window.len().checked_next_power_of_two().unwrap_or(LEN_MAX)
}

/// Shared memory, and where it is.
#[derive(Debug)]
pub(super) struct MemoryBar {
    memory: SharedMemory,
    /// Keeps other windows from where this one is.
    bar: Bar,
    behind: Arc<Mutex<Behind>>,
}

impl MemoryBar {
    /// Puts the memory at `base`.
    pub(super) fn new(
        memory: SharedMemory,
        windows: Windows,
        base: u64,
    ) -> Result<MemoryBar, PciError> {
        let bar = Bar::new(windows, bar_len(&memory));
        let behind = Arc::new(Mutex::new(Behind(memory.clone())));
        let mut this = MemoryBar { memory, bar, behind };
        match this.place(Some(base)) {
            Ok(()) => Ok(this),
            Err(source) => {
                Err(PciError::Window { name: this.memory.window.name().into(), at: base, source })
            }
        }
    }

    /// Moves the memory to where the guest wants it: to `base`, or nowhere if it cannot be there.
    pub(super) fn follow(&mut self, base: u64, decoding: bool) {
        let passing = !decoding && (self.is_question(base) || !self.bar.is_reachable(base));
        if passing || !self.bar.would_move(Some(base)) {
            return;
        }
        if let Err(error) = self.place(Some(base)) {
            warn_limited!(%error, base, "a guest moved shared memory to where it cannot be");
        }
    }

    /// Whether `base` may be there to find out the size: the lower register is all ones then, and
    /// the upper one may still be what it was.
    fn is_question(&self, base: u64) -> bool {
        const LOWER: u64 = 0xFFFF_FFFF;
        let ones = !(bar_len(&self.memory) - 1) & LOWER;
        ones != 0 && base & LOWER == ones
    }

    /// Takes the memory from where it is, and puts it to `base`.
    fn place(&mut self, base: Option<u64>) -> std::io::Result<()> {
        if self.bar.at().is_some() {
            self.memory.placer.place(&self.memory, None)?;
        }
        let behind: Arc<Mutex<dyn BusDevice>> = self.behind.clone();
        self.bar.place(base, &behind);
        let Some(at) = self.bar.at() else { return Ok(()) };
        let placed = self.memory.placer.place(&self.memory, Some(at));
        if placed.is_err() {
            self.bar.place(None, &behind);
        }
        placed
    }
}

/// What accesses reach that the hypervisor does not answer by itself: those beyond the end of the
/// memory, and writes to memory that is not writable.
#[derive(Debug)]
struct Behind(SharedMemory);

impl Behind {
    fn missed(&self, offset: u64, write: bool) {
        if offset < self.0.window.len() {
            self.0.placer.missed(&self.0, offset, write);
        }
    }
}

impl BusDevice for Behind {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.missed(offset, false);
    }

    fn write(&mut self, offset: u64, _: &[u8]) {
        self.missed(offset, true);
    }
}
