//! Drivers for virtio devices on PCI (virtio 1.2): modern transport, split queues, polling.
#![forbid(unsafe_code)]

pub mod blk;
pub mod console;
pub mod fuzz;
pub mod layout;
pub mod pmem;
pub mod queue;
pub mod requests;
pub mod rng;
pub mod scsi;
pub mod transport;

use core::fmt;

use crate::status;

/// Types of devices (virtio 1.3, chapter 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Disk.
    Block,
    /// Console.
    Console,
    /// Entropy source.
    Rng,
    /// SCSI host.
    Scsi,
    /// Persistent memory.
    Pmem,
}

impl Kind {
    /// The number of the type.
    pub fn id(self) -> u16 {
        match self {
            Kind::Block => 2,
            Kind::Console => 3,
            Kind::Rng => 4,
            Kind::Scsi => 8,
            Kind::Pmem => 27,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Block => "virtio-blk",
            Kind::Console => "virtio-console",
            Kind::Rng => "virtio-rng",
            Kind::Scsi => "virtio-scsi",
            Kind::Pmem => "virtio-pmem",
        }
    }
}

/// What went wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The machine has no such device.
    Missing {
        /// What kind.
        kind: Kind,
        /// Which one of them, counted from 0.
        index: u64,
    },
    /// No virtio-scsi device has such a logical unit.
    MissingUnit {
        /// Which one of them, counted from 0.
        index: u64,
        /// How many there are.
        units: u64,
    },
    /// The device has none of something that the script asks for.
    Lacks(&'static str),
    /// A structure of the device's cannot be reached.
    Unreachable(&'static str),
    /// The device does not accept the features that the driver chose.
    Features,
    /// Too little guest memory.
    Memory,
    /// The device did not do what it must within the time it is given.
    Silent(&'static str),
    /// The device asks for a reset.
    NeedsReset,
    /// The used ring names a request that the device does not have.
    Used {
        /// The identifier in the ring.
        id: u32,
    },
    /// A request failed.
    Request {
        /// What was asked for.
        operation: &'static str,
        /// Where, in sectors.
        sector: u64,
        /// The status byte.
        status: u8,
    },
    /// A SCSI command was not done.
    Scsi(scsi::failure::Failure),
    /// A counter is not what the script expects.
    Counter {
        /// What it should be.
        expected: u64,
        /// What it is.
        value: u64,
    },
    /// A flush of persistent memory failed, with this answer.
    Flush(u32),
    /// What persistent memory holds is not what should be there.
    MemoryMismatch {
        /// Which device.
        pmem: u64,
        /// Where, in bytes.
        offset: u64,
        /// The 64 bits there, as they should be.
        expected: u64,
        /// The 64 bits there, as they are.
        found: u64,
    },
    /// What was read is not what should be there.
    Mismatch {
        /// Which disk.
        disk: u64,
        /// Where, in bytes.
        offset: u64,
        /// The 64 bits there, as they should be.
        expected: u64,
        /// The 64 bits there, as they are.
        found: u64,
    },
}

impl DeviceError {
    /// The device answered a request, if only with an error: it is there for the next one.
    pub fn is_answer(self) -> bool {
        matches!(self, DeviceError::Request { .. } | DeviceError::Scsi(_))
    }

    /// The status that the guest ends with.
    pub fn status(self) -> u8 {
        match self {
            DeviceError::Missing { .. }
            | DeviceError::MissingUnit { .. }
            | DeviceError::Lacks(_) => status::DEVICE_MISSING,
            DeviceError::Scsi(failure) if failure.is_conflict() => status::RESERVATION_CONFLICT,
            DeviceError::Mismatch { .. }
            | DeviceError::MemoryMismatch { .. }
            | DeviceError::Counter { .. } => status::VERIFY_MISMATCH,
            DeviceError::Memory => status::GUEST_DEFECT,
            _ => status::IO_ERROR,
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceError::Missing { kind, index } => {
                write!(f, "this machine has no {} device {index} (they count from 0)", kind.name())
            }
            DeviceError::MissingUnit { index, units } => write!(
                f,
                "this machine has no SCSI logical unit {index} (they count from 0; it has {units})"
            ),
            DeviceError::Lacks(what) => write!(f, "this device has no {what}"),
            DeviceError::Unreachable(what) => {
                write!(f, "the device's {what} is missing or cannot be reached")
            }
            DeviceError::Features => f.write_str("the device refuses the driver's features"),
            DeviceError::Memory => f.write_str("guest memory is too small for this command"),
            DeviceError::Silent(what) => write!(f, "the device did not answer: {what}"),
            DeviceError::NeedsReset => f.write_str("the device failed and asks for a reset"),
            DeviceError::Used { id } => {
                write!(f, "the device completed request {id}, which it does not have")
            }
            DeviceError::Request { operation, sector, status } => {
                let meaning = match status {
                    1 => "I/O error",
                    2 => "not supported",
                    _ => "not a status",
                };
                write!(f, "{operation} at sector {sector} failed: status {status} ({meaning})")
            }
            DeviceError::Scsi(failure) => write!(f, "{failure}"),
            DeviceError::Counter { expected, value } => {
                write!(f, "the counter is {value}, not {expected}")
            }
            DeviceError::Flush(answer) => write!(f, "the flush failed: answer {answer:#x}"),
            DeviceError::MemoryMismatch { pmem, offset, expected, found } => write!(
                f,
                "mismatch: pmem {pmem}, byte offset {offset} ({offset:#x}): \
                 expected {expected:#018x}, found {found:#018x}"
            ),
            DeviceError::Mismatch { disk, offset, expected, found } => write!(
                f,
                "verify mismatch: disk {disk}, byte offset {offset} ({offset:#x}): \
                 expected {expected:#018x}, found {found:#018x}"
            ),
        }
    }
}
