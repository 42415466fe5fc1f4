//! Fields of command descriptor blocks.

use super::sense::Fault;

/// A CDB, zeroes after its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cdb(pub(super) [u8; 32]);

/// The blocks that a command is about, and its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) lba: u64,
    pub(super) count: u64,
    /// The byte of the CDB where the count starts, for field pointers.
    pub(super) count_at: u16,
    /// FUA
    pub(super) durable: bool,
}

impl Cdb {
    pub(super) fn opcode(&self) -> u8 {
        self.0[0]
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }

    /// A big-endian number of `N` bytes.
    pub(super) fn number<const N: usize>(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..at + N).unwrap_or_default();
        bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    /// SERVICE ACTION, of commands that have one.
    pub(super) fn action(&self) -> u8 {
        self.byte(1) & 0x1f
    }

    /// Bytes of a CDB with this operation code (SPC-4 4.2.5.1); `None` where the group does not
    /// tell.
    pub(super) fn length(&self) -> Option<u8> {
        match self.opcode() >> 5 {
            0 => Some(6),
            1 | 2 => Some(10),
            4 => Some(16),
            5 => Some(12),
            _ => None,
        }
    }

    /// The CONTROL byte must not ask for NACA (SAM-5 5.2), which INQUIRY says is not there.
    pub(super) fn check_control(&self, length: u8) -> Result<(), Fault> {
        let at = length.saturating_sub(1);
        match self.byte(usize::from(at)) & 0x04 {
            0 => Ok(()),
            _ => Err(Fault::cdb(u16::from(at), Some(2))),
        }
    }

    /// LBA and number of blocks, where the CDB's length says they are.
    pub(super) fn blocks(&self) -> Blocks {
        let durable = self.byte(1) & 0x08 != 0;
        let (lba, count, count_at, durable) = match self.length() {
            Some(6) => {
                // READ(6) and WRITE(6): 21 bits, no flags, and no way to ask for nothing.
                let count = match self.number::<1>(4) {
                    0 => 256,
                    count => count,
                };
                (self.number::<3>(1) & 0x1f_ffff, count, 4, false)
            }
            Some(10) => (self.number::<4>(2), self.number::<2>(7), 7, durable),
            Some(12) => (self.number::<4>(2), self.number::<4>(6), 6, durable),
            _ => (self.number::<8>(2), self.number::<4>(10), 10, durable),
        };
        Blocks { lba, count, count_at, durable }
    }

    /// The blocks of a command that may ask for protection information, which no disk here has
    /// (SBC-3 4.22): RDPROTECT, WRPROTECT, VRPROTECT, ORPROTECT.
    pub(super) fn unprotected_blocks(&self) -> Result<Blocks, Fault> {
        if self.length() != Some(6) && self.byte(1) & 0xe0 != 0 {
            return Err(Fault::cdb(1, Some(7)));
        }
        Ok(self.blocks())
    }

    /// BYTCHK (SBC-3 5.33).
    pub(super) fn byte_check(&self) -> u8 {
        self.byte(1) >> 1 & 3
    }
}
