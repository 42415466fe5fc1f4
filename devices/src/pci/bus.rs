//! The PCI bus: slots, and the memory their windows get.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use memshare::MemoryHandle;

use super::PciFunction;
use super::bar::Windows;
use super::host_bridge::HostBridge;
use crate::bus::Bus;
use crate::platform::Platform;
use crate::sync::lock;
use crate::virtio::VirtioDevice;
use crate::virtio::pci::VirtioPci;

/// Device numbers on a bus.
const SLOTS: usize = 32;

/// Where a function is: bus 0, this device number, function 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub u8);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00:{:02x}.0", self.0)
    }
}

/// Why a device cannot be put on a [`PciBus`].
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// All slots are taken.
    #[error("the PCI bus has no slot left: all {} are taken", SLOTS)]
    Full,
    /// The memory for register windows is used up.
    #[error("the PCI memory windows have no {len:#x} bytes left")]
    NoMemory {
        /// Bytes that the device needs.
        len: u64,
    },
    /// The device has more queues than its register window has room for.
    #[error("a virtio device has {queues} queues, more than {max}")]
    Queues {
        /// Queues of the device.
        queues: usize,
        /// Most queues of a device.
        max: usize,
    },
    /// A queue's size is not one that the specification allows.
    #[error("a virtio queue has room for {size} buffers, which is no power of two up to 32768")]
    QueueSize {
        /// Size of the queue.
        size: u16,
    },
    /// The memory that the device shares with its driver cannot be made the guest's.
    #[error("cannot show the guest the memory of {name} at {at:#x}")]
    Window {
        /// Which memory.
        name: String,
        /// At which guest-physical address.
        at: u64,
        /// Why not.
        source: std::io::Error,
    },
    /// The hypervisor cannot provide interrupt vectors.
    #[error("cannot reserve {vectors} interrupt vectors")]
    Vectors {
        /// How many the device needs.
        vectors: u16,
        /// Why not.
        source: std::io::Error,
    },
}

impl PciError {
    /// What to do about it, where cohort knows.
    pub fn help(&self) -> Option<String> {
        match self {
            PciError::Full => Some("give the guest fewer devices".to_owned()),
            PciError::Queues { .. } => Some("give the device fewer queues".to_owned()),
            PciError::NoMemory { .. } => Some(
                "give the guest fewer shares, or smaller windows for them, with dax=SIZE or dax=off"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Bus 0: a host bridge and up to 31 functions.
pub struct PciBus {
    windows: Windows,
    functions: [Option<Arc<Mutex<dyn PciFunction>>>; SLOTS],
    /// What of the windows is not given out yet.
    free: [Range<u64>; 2],
}

impl PciBus {
    /// A bus with a host bridge, whose functions put their windows on `mmio`: at first one after
    /// the other in `mmio32`, then `mmio64`, later wherever in the two the guest moves them.
    pub fn new(mmio: Arc<Bus>, mmio32: Range<u64>, mmio64: Range<u64>) -> PciBus {
        let mut functions = [const { None }; SLOTS];
        let bridge: Arc<Mutex<dyn PciFunction>> = Arc::new(Mutex::new(HostBridge::new()));
        functions[0] = Some(bridge);
        PciBus {
            free: [mmio32.clone(), mmio64.clone()],
            windows: Windows { bus: mmio, low: mmio32, high: mmio64 },
            functions,
        }
    }

    /// Puts a virtio device in the first free slot and assigns addresses to its window. The
    /// window answers when the guest sets the memory bit of the command register.
    pub fn add_virtio(
        &mut self,
        device: Box<dyn VirtioDevice>,
        memory: MemoryHandle,
        platform: Arc<dyn Platform>,
    ) -> Result<Slot, PciError> {
        let at = self.functions.iter().position(Option::is_none).ok_or(PciError::Full)?;
        let number = u8::try_from(at).map_err(|_| PciError::Full)?;
        let base = self.allocate(VirtioPci::WINDOW_LEN, false)?;
        let memory_base = match VirtioPci::memory_len(&*device) {
            Some(len) => self.allocate(len, true)?,
            None => 0,
        };
        let windows = self.windows.clone();
        let function = VirtioPci::new(device, memory, platform, windows, base, memory_base)?;
        self.functions[at] = Some(function);
        Ok(Slot(number))
    }

    /// Stops every device: nothing is in flight afterwards. They do not start again.
    pub fn stop_all(&self) {
        for function in self.functions.iter().flatten() {
            lock(function).stop();
        }
    }

    /// The function at the given place, if there is one.
    pub(super) fn function(
        &self,
        bus: u8,
        device: u8,
        function: u8,
    ) -> Option<Arc<Mutex<dyn PciFunction>>> {
        if bus != 0 || function != 0 {
            return None;
        }
        self.functions.get(usize::from(device))?.clone()
    }

    /// Gives out addresses. Windows of devices' registers go below 4 GiB as long as there is room,
    /// memory does not: there is little.
    fn allocate(&mut self, len: u64, memory: bool) -> Result<u64, PciError> {
        for free in self.free.iter_mut().skip(usize::from(memory)) {
            let start = free.start.checked_next_multiple_of(len);
            let end = start.and_then(|start| start.checked_add(len));
            if let (Some(start), Some(end)) = (start, end)
                && end <= free.end
            {
                free.start = end;
                return Ok(start);
            }
        }
        Err(PciError::NoMemory { len })
    }
}

impl fmt::Debug for PciBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciBus")
            .field("windows", &self.windows)
            .field("functions", &self.functions.iter().flatten().count())
            .finish_non_exhaustive()
    }
}

/// Reads configuration space of a function of `bus`: all ones where there is none. An access that
/// crosses a doubleword is two.
pub(super) fn read_config(bus: &Mutex<PciBus>, place: Place, data: &mut [u8]) {
    data.fill(0xFF);
    let Some(function) = place.function(bus) else { return };
    let mut function = lock(&function);
    let (first, rest) = data.split_at_mut(place.in_doubleword(data.len()));
    function.read_config(place.register, first);
    if !rest.is_empty() {
        function.read_config(place.register + first.len(), rest);
    }
}

/// Writes configuration space; otherwise as [`read_config`].
pub(super) fn write_config(bus: &Mutex<PciBus>, place: Place, data: &[u8]) {
    let Some(function) = place.function(bus) else { return };
    let mut function = lock(&function);
    let (first, rest) = data.split_at(place.in_doubleword(data.len()));
    function.write_config(place.register, first);
    if !rest.is_empty() {
        function.write_config(place.register + first.len(), rest);
    }
}

/// A byte of somebody's configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bus: u8,
    pub(super) device: u8,
    pub(super) function: u8,
    pub(super) register: usize,
}

impl Place {
    /// The function is taken out of the bus's lock: it may be busy for a while (a reset waits
    /// for requests), and others are to be reached meanwhile through the other of [`super::Ecam`]
    /// and [`super::ConfigPorts`]. (A view that waits for a function serves nobody else.)
    fn function(self, bus: &Mutex<PciBus>) -> Option<Arc<Mutex<dyn PciFunction>>> {
        lock(bus).function(self.bus, self.device, self.function)
    }

    fn in_doubleword(self, len: usize) -> usize {
        len.min(4 - self.register % 4)
    }
}
