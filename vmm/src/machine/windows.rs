//! Windows of devices as part of guest memory: for virtual CPUs by memory slots, for devices by the
//! handle on guest memory that they start with.
#![expect(unsafe_code, reason = "a memory slot takes a host address")]

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, Once, PoisonError};

use devices::virtio::{SharedMemory, WindowPlacer};
use memshare::GuestRam;
use vm_memory::GuestAddress;

use super::MachineError;
use super::ending::{End, Ending};
use super::memory::{Owner, SlotMemory, Slots};

/// Where the windows of a machine's devices are.
pub(super) struct Windows {
    slots: Arc<Slots>,
    ram: Arc<GuestRam>,
    ending: Arc<Ending>,
    /// By where the window is in this process.
    placed: Mutex<HashMap<usize, Placed>>,
}

#[derive(Clone, Copy)]
struct Placed {
    slot: u32,
    at: GuestAddress,
}

impl Windows {
    /// No window is anywhere.
    pub(super) fn new(slots: &Arc<Slots>, ram: &Arc<GuestRam>, ending: &Arc<Ending>) -> Windows {
        Windows {
            slots: Arc::clone(slots),
            ram: Arc::clone(ram),
            ending: Arc::clone(ending),
            placed: Mutex::default(),
        }
    }

    fn add(&self, memory: &SharedMemory, at: GuestAddress) -> io::Result<Placed> {
        let window = &memory.window;
        self.ram.add_window(at, window).map_err(io::Error::other)?;
        let owner: Owner = window.clone();
        let shown = SlotMemory {
            start: at.0,
            len: window.len(),
            host: window.host(),
            read_only: !memory.writable,
        };
        // SAFETY: the window's own address space, to which no Rust references exist; it stays
        // mapped for as long as the window, and more, since it was added to guest memory.
        let slot = unsafe { self.slots.add(shown, Some(owner)) };
        if slot.is_err() {
            self.ram.remove_window(at);
        }
        Ok(Placed { slot: slot?, at })
    }
}

impl WindowPlacer for Windows {
    fn place(&self, memory: &SharedMemory, at: Option<u64>) -> io::Result<()> {
        let key = memory.window.host() as usize;
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = placed.get(&key) {
            // On an error it is still there, and known to be.
            self.slots.remove(before.slot)?;
            self.ram.remove_window(before.at);
            placed.remove(&key);
        }
        if let Some(at) = at {
            placed.insert(key, self.add(memory, GuestAddress(at))?);
        }
        Ok(())
    }

    fn missed(&self, memory: &SharedMemory, offset: u64, write: bool) {
        let window = &memory.window;
        if write && !memory.writable {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                tracing::warn!(
                    "{}: the guest writes at byte {offset:#x} of memory that it may only read; \
                     such writes are refused",
                    window.name()
                );
            });
            return;
        }
        let address = usize::try_from(offset).ok().map(|offset| window.host() as usize + offset);
        if let Some(lost) = address.and_then(|address| window.lookup(address)) {
            self.ending.report(End::Failure(MachineError::LostFilePage(lost.into())));
        }
    }
}
