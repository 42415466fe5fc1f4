//! MSI-X: a table of messages, a mask each, and bits for interrupts that wait behind a mask
//! (PCI 3.0, 6.8.2).

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::limited::warn_limited;
use crate::platform::{MsiMessage, MsiVector};
use crate::sync::lock;

/// Capability number of MSI-X.
pub const CAPABILITY: u8 = 0x11;
/// Bytes of a table entry.
pub const ENTRY_LEN: usize = 16;
/// Message control, bit 15: messages are sent at all.
pub const ENABLE: u16 = 1 << 15;
/// Message control, bit 14: every vector is masked.
pub const FUNCTION_MASK: u16 = 1 << 14;

/// Vector control: this vector is masked.
const MASKED: u32 = 1;

/// The vectors of a function. Threads signal them while virtual CPUs program them.
pub struct Msix {
    /// Message control, [`ENABLE`] and [`FUNCTION_MASK`] of it.
    control: AtomicU16,
    entries: Box<[Mutex<Entry>]>,
}

struct Entry {
    /// Address low, address high, data, vector control.
    words: [u32; 4],
    /// An interrupt waits for the vector to be unmasked.
    pending: bool,
    /// What the vector was last told to send; `None` while it is masked.
    routed: Option<MsiMessage>,
    /// Events that raise the interrupt without us while it is not masked, and whether they do.
    direct: Vec<(Arc<EventFd>, bool)>,
    vector: Arc<dyn MsiVector>,
}

impl Msix {
    /// A table over `vectors`, all masked and MSI-X off, as after a reset.
    pub fn new(vectors: Vec<Arc<dyn MsiVector>>) -> Msix {
        let entry = |vector| {
            let words = [0, 0, 0, MASKED];
            Mutex::new(Entry { words, pending: false, routed: None, direct: Vec::new(), vector })
        };
        Msix { control: AtomicU16::new(0), entries: vectors.into_iter().map(entry).collect() }
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether messages are sent at all.
    pub fn enabled(&self) -> bool {
        self.control.load(Ordering::Relaxed) & ENABLE != 0
    }

    /// The body of the capability (after number and next pointer) and its writable bits, for a
    /// table and pending bits at these offsets of base address register `bar`.
    pub fn capability(&self, bar: u8, table: u32, pending_bits: u32) -> ([u8; 10], [u8; 10]) {
        let last = u16::try_from(self.len().saturating_sub(1)).unwrap_or(0x7FF) & 0x7FF;
        let mut body = [0; 10];
        body[..2].copy_from_slice(&last.to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..].copy_from_slice(&(pending_bits | u32::from(bar)).to_le_bytes());
        let mut writable = [0; 10];
        writable[..2].copy_from_slice(&(ENABLE | FUNCTION_MASK).to_le_bytes());
        (body, writable)
    }

    /// Takes the guest's value of message control.
    pub fn set_control(&self, control: u16) {
        let control = control & (ENABLE | FUNCTION_MASK);
        if self.control.swap(control, Ordering::Relaxed) != control {
            for entry in &self.entries {
                self.update(&mut lock(entry));
            }
        }
    }

    /// Reads the table; beyond its end there is nothing but zeroes.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((index, within)) = split(offset, ENTRY_LEN) else { return };
        let Some(entry) = self.entries.get(index) else { return };
        let mut bytes = [0; ENTRY_LEN];
        for (to, word) in bytes.chunks_exact_mut(4).zip(lock(entry).words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        copy_from(&bytes, within, data);
    }

    /// Writes the table: aligned doublewords and quadwords, as the specification has it. Other
    /// accesses, and those beyond the end, do nothing.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let Some((index, within)) = split(offset, ENTRY_LEN) else { return };
        let Some(entry) = self.entries.get(index) else { return };
        if !matches!(data.len(), 4 | 8) || !within.is_multiple_of(data.len()) {
            return;
        }
        let mut entry = lock(entry);
        for (word, bytes) in entry.words[within / 4..].iter_mut().zip(data.chunks_exact(4)) {
            *word = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
        }
        entry.words[3] &= MASKED;
        self.update(&mut entry);
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = 0;
            let first = offset.saturating_add(n).saturating_mul(8);
            for (bit, entry) in self.entries.iter().skip(first).take(8).enumerate() {
                *byte |= u8::from(lock(entry).pending) << bit;
            }
        }
    }

    /// Raises the interrupt of vector `index`, or keeps it pending while it is masked. Vectors
    /// that do not exist are ignored.
    pub fn signal(&self, index: u16) {
        let Some(entry) = self.entries.get(usize::from(index)) else { return };
        let mut entry = lock(entry);
        if entry.routed.is_none() {
            entry.pending = true;
        } else {
            entry.raise();
        }
    }

    /// Has the hypervisor take signals of `event` for vector `index`, as [`Msix::signal`] would,
    /// whenever the vector is not masked. Vectors that do not exist are ignored.
    pub fn attach(&self, index: u16, event: &Arc<EventFd>) {
        let Some(entry) = self.entries.get(usize::from(index)) else { return };
        let mut entry = lock(entry);
        entry.direct.push((Arc::clone(event), false));
        if entry.routed.is_some() {
            entry.attach();
        }
    }

    /// Undoes [`Msix::attach`].
    pub fn detach(&self, index: u16, event: &Arc<EventFd>) {
        let Some(entry) = self.entries.get(usize::from(index)) else { return };
        let mut entry = lock(entry);
        let Some(at) = entry.direct.iter().position(|(other, _)| Arc::ptr_eq(other, event)) else {
            return;
        };
        let (event, attached) = entry.direct.swap_remove(at);
        if attached {
            entry.release(&event);
        }
    }

    /// Forgets interrupts that are pending, as a reset of the device does.
    pub fn clear_pending(&self) {
        for entry in &self.entries {
            lock(entry).pending = false;
        }
    }

    /// Brings the vector in line with its entry and with message control.
    fn update(&self, entry: &mut Entry) {
        // Every change of the control word takes each entry's lock after it, so an entry whose
        // lock is held here is at worst brought in line once more.
        let open = self.control.load(Ordering::Relaxed) == ENABLE && entry.words[3] & MASKED == 0;
        let [low, high, data, _] = entry.words;
        let message =
            open.then_some(MsiMessage { address: u64::from(high) << 32 | u64::from(low), data });
        if message.is_none() {
            entry.detach();
        }
        if message != entry.routed {
            match entry.vector.route(message) {
                Ok(()) => entry.routed = message,
                Err(error) => {
                    entry.detach();
                    entry.routed = None;
                    warn_limited!(%error, ?message, "cannot route an interrupt");
                }
            }
        }
        if entry.routed.is_some() {
            entry.attach();
            if std::mem::take(&mut entry.pending) {
                entry.raise();
            }
        }
    }
}

impl Entry {
    fn raise(&self) {
        if let Err(error) = self.vector.signal() {
            warn_limited!(%error, "cannot raise an interrupt");
        }
    }

    /// Hands events to the hypervisor. Those that it does not take stay with their owners, who
    /// call [`Msix::signal`].
    fn attach(&mut self) {
        for (event, attached) in self.direct.iter_mut().filter(|(_, attached)| !attached) {
            match self.vector.attach(event) {
                Ok(()) => *attached = true,
                Err(error) => warn_limited!(%error, "cannot attach an event to an interrupt"),
            }
        }
    }

    /// Takes all events back from the hypervisor.
    fn detach(&mut self) {
        let mut direct = std::mem::take(&mut self.direct);
        for (event, attached) in &mut direct {
            if std::mem::take(attached) {
                self.release(event);
            }
        }
        self.direct = direct;
    }

    fn release(&self, event: &EventFd) {
        if let Err(error) = self.vector.detach(event) {
            warn_limited!(%error, "cannot detach an event from an interrupt");
        }
    }
}

/// Which item of `len` bytes an offset is in, and where in it.
fn split(offset: u64, len: usize) -> Option<(usize, usize)> {
    let offset = usize::try_from(offset).ok()?;
    Some((offset / len, offset % len))
}

/// Copies `from`, beginning at `start`, over the start of `to`.
fn copy_from(from: &[u8], start: usize, to: &mut [u8]) {
    for (to, from) in to.iter_mut().zip(from.iter().skip(start)) {
        *to = *from;
    }
}

impl fmt::Debug for Msix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msix")
            .field("control", &self.control)
            .field("vectors", &self.len())
            .finish_non_exhaustive()
    }
}
