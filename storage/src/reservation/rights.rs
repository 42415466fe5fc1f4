//! What a port may do, in one byte, so that the data path can look it up without a lock.

use super::Demand;

/// What a port may do with a logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u8);

/// The persistent reservation lets it read.
const READ: u8 = 1;
/// The persistent reservation lets it write.
const WRITE: u8 = 2;
/// No other port holds an SPC-2 reservation.
const NOT_RESERVED: u8 = 4;
/// No port at all does, this one included.
const NOT_LEGACY: u8 = 8;

impl Rights {
    /// While nobody has reserved anything.
    pub const ALL: Rights = Rights(READ | WRITE | NOT_RESERVED | NOT_LEGACY);

    /// `legacy` is whether this port holds the SPC-2 reservation, if there is one.
    pub(super) fn new(read: bool, write: bool, legacy: Option<bool>) -> Rights {
        let bit = |allowed: bool, bit: u8| if allowed { bit } else { 0 };
        Rights(
            bit(read, READ)
                | bit(write, WRITE)
                | bit(legacy != Some(false), NOT_RESERVED)
                | bit(legacy.is_none(), NOT_LEGACY),
        )
    }

    /// Whether a command that needs this goes on. If not, its status is RESERVATION CONFLICT.
    pub fn allows(self, demand: Demand) -> bool {
        let needed = match demand {
            Demand::Nothing | Demand::Reserve | Demand::Release => 0,
            Demand::Query => NOT_RESERVED,
            Demand::Read => NOT_RESERVED | READ,
            Demand::Write | Demand::Control => NOT_RESERVED | WRITE,
            Demand::PersistentIn | Demand::PersistentOut => NOT_LEGACY,
        };
        self.0 & needed == needed
    }

    /// As a number, to keep it in an atomic one.
    pub fn to_bits(self) -> u8 {
        self.0
    }

    /// What [`Rights::to_bits`] gave.
    pub fn from_bits(bits: u8) -> Rights {
        Rights(bits & Rights::ALL.0)
    }
}
