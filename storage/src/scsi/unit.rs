//! A logical unit: a disk and what all its initiators share.

use std::sync::Mutex;

use super::cdb::Blocks;
use super::mode::Mode;
use super::ranges::Ranges;
use super::sense::{self, Fault};
use super::target::UnitOptions;
use crate::reservation::Reservations;
use crate::{Disk, DiskError, DiskQueue};

/// What one command may transfer: what initiators of other systems send at most, and little enough
/// for a transport to keep in memory.
pub(super) const TRANSFER_MAX: u64 = 32 << 20;
/// What COMPARE AND WRITE may compare, which this target reads into memory of its own.
const COMPARE_MAX: u64 = 128 << 10;
/// Blocks that UNMAP may unmap in one descriptor list.
pub(super) const UNMAP_BLOCKS_MAX: u32 = 1 << 20;
/// Descriptors in such a list.
pub(super) const UNMAP_DESCRIPTORS_MAX: u32 = 256;

/// A logical unit.
pub(super) struct Unit {
    pub(super) disk: Disk,
    /// What the names derive from.
    pub(super) identity: String,
    pub(super) names: Names,
    /// Bytes of a logical block.
    pub(super) block: u32,
    /// How many there are.
    pub(super) blocks: u64,
    /// Each change of them is published to [`Access`](super::nexus::Access).
    pub(super) reservations: Mutex<Reservations>,
    pub(super) mode: Mode,
    pub(super) ranges: Ranges,
    /// What makes the engines of a test's own.
    #[cfg(test)]
    pub(super) engine: Option<MakeEngine>,
}

#[cfg(test)]
pub(super) type MakeEngine = Box<dyn Fn() -> Box<dyn crate::engine::Engine> + Send + Sync>;

impl Unit {
    pub(super) fn new(options: UnitOptions) -> Unit {
        let UnitOptions { disk, identity, reservations } = options;
        let block = disk.logical_block_size();
        Unit {
            names: Names::of(&identity),
            block,
            blocks: disk.size().get() / u64::from(block.max(1)),
            reservations: Mutex::new(reservations),
            mode: Mode::default(),
            ranges: Ranges::default(),
            identity,
            #[cfg(test)]
            engine: None,
            disk,
        }
    }

    /// Whether changes of the medium are refused, for good or by an initiator's wish.
    pub(super) fn is_protected(&self) -> bool {
        self.disk.read_only() || self.mode.write_protected()
    }

    /// A thread's way to the disk.
    pub(super) fn queue(&self, depth: u16) -> Result<DiskQueue, DiskError> {
        #[cfg(test)]
        if let Some(make) = &self.engine {
            return Ok(self.disk.queue_on(make(), depth));
        }
        self.disk.queue(depth)
    }

    /// MAXIMUM TRANSFER LENGTH in blocks.
    pub(super) fn transfer_max(&self) -> u64 {
        TRANSFER_MAX / u64::from(self.block)
    }

    /// MAXIMUM COMPARE AND WRITE LENGTH in blocks.
    pub(super) fn compare_max(&self) -> u8 {
        u8::try_from(COMPARE_MAX / u64::from(self.block)).unwrap_or(u8::MAX)
    }

    /// Start and length of blocks in bytes. Their range has been checked.
    pub(super) fn bytes(&self, blocks: Blocks) -> (u64, u64) {
        let block = u64::from(self.block);
        (blocks.lba.saturating_mul(block), blocks.count.saturating_mul(block))
    }

    /// OPTIMAL UNMAP GRANULARITY in blocks, which is also what writes should be aligned to.
    pub(super) fn granularity(&self) -> u32 {
        let bytes = self.disk.limits().discard_alignment.get() / u64::from(self.block);
        u32::try_from(bytes).unwrap_or(1).max(1)
    }

    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT: guests that lay out their file systems by it
    /// write whole pages of the host.
    pub(super) fn physical_exponent(&self) -> u8 {
        let page = self.granularity().min(4096 / self.block.min(4096));
        u8::try_from(page.max(1).ilog2()).unwrap_or(0)
    }

    /// Checks that blocks exist (SBC-3 4.5): `lba` may be the capacity itself with no blocks.
    pub(super) fn check_range(&self, lba: u64, blocks: u64) -> Result<(), Fault> {
        match lba.checked_add(blocks) {
            Some(end) if end <= self.blocks && lba <= self.blocks => Ok(()),
            _ => Err(sense::LBA_OUT_OF_RANGE.into()),
        }
    }
}

/// The number of a logical unit, from the 8 bytes of SAM-5 4.7: single level, peripheral device
/// addressing of bus 0 or flat space addressing.
pub(crate) fn number(lun: u64) -> Option<usize> {
    let [high, low, rest @ ..] = lun.to_be_bytes();
    if rest != [0; 6] {
        return None;
    }
    match high >> 6 {
        0 if high == 0 => Some(usize::from(low)),
        1 => Some(usize::from(high & 0x3f) << 8 | usize::from(low)),
        _ => None,
    }
}

/// The 8 bytes of the unit of this number: peripheral device addressing for the first 256, as all
/// targets know it, then flat space addressing (SAM-5 4.7.7).
pub(crate) fn address(number: usize) -> u64 {
    let flat = if number < 256 { 0 } else { 0x4000 };
    (number as u64 & 0x3fff | flat) << 48
}

/// The names of a logical unit, the same for all initiators wherever it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// A locally assigned NAA identifier (SPC-4 7.8.6.6.4): 60 bits of a digest. The other forms
    /// need a company's number, which cohort has none of.
    pub(super) naa: u64,
    /// Unit serial number.
    pub(super) serial: String,
}

impl Names {
    fn of(identity: &str) -> Names {
        let digest = blake3::derive_key("cohort scsi logical unit identity 1", identity.as_bytes());
        let (number, rest) = digest.split_at(8);
        let number = number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let serial = rest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Names { naa: 0x3 << 60 | number >> 4, serial }
    }
    /// The name of the port of a target with these units.
    pub(super) fn of_port(identities: &[&str]) -> u64 {
        let mut hasher = blake3::Hasher::new_derive_key("cohort scsi target port identity 1");
        for identity in identities {
            hasher.update(&(identity.len() as u64).to_le_bytes());
            hasher.update(identity.as_bytes());
        }
        let digest = hasher.finalize();
        let number = digest.as_bytes().iter().take(8);
        0x3 << 60 | number.fold(0, |sum, byte| sum << 8 | u64::from(*byte)) >> 4
    }
}
