//! Sense data: why a command was not carried out (SPC-4 4.5).

use crate::IoError;
use crate::reservation::SenseCode;

/// A sense key and what qualifies it.
pub(super) const fn code(key: u8, asc: u8, ascq: u8) -> SenseCode {
    SenseCode { key, asc, ascq }
}

/// Sense keys (SPC-4 table 48).
pub(super) mod key {
    pub(in crate::scsi) const MEDIUM_ERROR: u8 = 0x3;
    pub(in crate::scsi) const HARDWARE_ERROR: u8 = 0x4;
    pub(in crate::scsi) const ILLEGAL_REQUEST: u8 = 0x5;
    pub(in crate::scsi) const UNIT_ATTENTION: u8 = 0x6;
    pub(in crate::scsi) const DATA_PROTECT: u8 = 0x7;
    pub(in crate::scsi) const MISCOMPARE: u8 = 0xe;
}

pub(super) const NO_SENSE: SenseCode = code(0, 0, 0);
pub(super) const INVALID_OPCODE: SenseCode = code(key::ILLEGAL_REQUEST, 0x20, 0x00);
pub(super) const LBA_OUT_OF_RANGE: SenseCode = code(key::ILLEGAL_REQUEST, 0x21, 0x00);
pub(super) const INVALID_FIELD_IN_CDB: SenseCode = code(key::ILLEGAL_REQUEST, 0x24, 0x00);
pub(super) const NO_SUCH_UNIT: SenseCode = code(key::ILLEGAL_REQUEST, 0x25, 0x00);
pub(super) const INVALID_FIELD_IN_LIST: SenseCode = code(key::ILLEGAL_REQUEST, 0x26, 0x00);
/// INVALID FIELD IN COMMAND INFORMATION UNIT: the data that came is not what the CDB says.
pub(super) const SHORT_DATA: SenseCode = code(key::ILLEGAL_REQUEST, 0x0e, 0x03);
pub(super) const LIST_LENGTH: SenseCode = code(key::ILLEGAL_REQUEST, 0x1a, 0x00);
pub(super) const SAVING_NOT_SUPPORTED: SenseCode = code(key::ILLEGAL_REQUEST, 0x39, 0x00);
pub(super) const WRITE_PROTECTED: SenseCode = code(key::DATA_PROTECT, 0x27, 0x00);
pub(super) const NO_SPACE: SenseCode = SenseCode::NO_SPACE;
pub(super) const READ_ERROR: SenseCode = code(key::MEDIUM_ERROR, 0x11, 0x00);
pub(super) const WRITE_ERROR: SenseCode = code(key::MEDIUM_ERROR, 0x0c, 0x00);
pub(super) const INTERNAL_FAILURE: SenseCode = code(key::HARDWARE_ERROR, 0x44, 0x00);
pub(super) const MISCOMPARE: SenseCode = code(key::MISCOMPARE, 0x1d, 0x00);
/// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED: for resets and the loss of a nexus as well, for
/// which SAM-5 6.2 has more specific codes and allows this one. Clients (those of libiscsi, hence
/// QEMU and libvirt) take no other for granted when they log in.
pub(super) const POWER_ON: SenseCode = code(key::UNIT_ATTENTION, 0x29, 0x00);
pub(super) const MODE_CHANGED: SenseCode = code(key::UNIT_ATTENTION, 0x2a, 0x01);

/// What sense data points at (SPC-4 4.5.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// In the CDB; otherwise in the parameter list.
    pub(super) in_cdb: bool,
    /// The byte.
    pub(super) byte: u16,
    /// The leftmost bit at fault.
    pub(super) bit: Option<u8>,
}

/// Why a command ends with CHECK CONDITION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: SenseCode,
    /// The field at fault.
    pub(super) field: Option<Field>,
    /// INFORMATION: the LBA of an error, the offset of a difference.
    pub(super) information: Option<u64>,
}

impl From<SenseCode> for Fault {
    fn from(code: SenseCode) -> Fault {
        Fault { code, field: None, information: None }
    }
}

impl Fault {
    /// A field of the CDB has a value that is not supported.
    pub(super) const fn cdb(byte: u16, bit: Option<u8>) -> Fault {
        let field = Some(Field { in_cdb: true, byte, bit });
        Fault { code: INVALID_FIELD_IN_CDB, field, information: None }
    }

    /// A field of the parameter list has a value that is not supported.
    pub(super) const fn list(byte: u16, bit: Option<u8>) -> Fault {
        let field = Some(Field { in_cdb: false, byte, bit });
        Fault { code: INVALID_FIELD_IN_LIST, field, information: None }
    }

    /// The same with INFORMATION.
    pub(super) const fn with_information(mut self, information: u64) -> Fault {
        self.information = Some(information);
        self
    }

    /// What a disk's error is to an initiator: it has been logged with its cause.
    pub(super) fn of_io(error: &IoError, write: bool, lba: u64) -> Fault {
        let code = match error {
            error if error.is_no_space() => NO_SPACE,
            IoError::ReadOnly { .. } => WRITE_PROTECTED,
            IoError::OutOfRange { .. } => LBA_OUT_OF_RANGE,
            IoError::Misaligned { .. } | IoError::BufferLength { .. } | IoError::TooLong { .. } => {
                INTERNAL_FAILURE
            }
            _ if write => WRITE_ERROR,
            _ => READ_ERROR,
        };
        Fault::from(code).with_information(lba)
    }

    /// The bytes, in fixed or descriptor format (D_SENSE in the control mode page).
    pub(super) fn encode(&self, descriptors: bool) -> Sense {
        if descriptors { self.in_descriptors() } else { self.fixed() }
    }

    /// Fixed format (SPC-4 4.5.3).
    fn fixed(&self) -> Sense {
        let mut bytes = [0; 18];
        bytes[0] = 0x70;
        bytes[2] = self.code.key;
        if let Some(information) = self.information
            && let Ok(information) = u32::try_from(information)
        {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[7] = 10;
        bytes[12] = self.code.asc;
        bytes[13] = self.code.ascq;
        if let Some(field) = self.field {
            bytes[15..18].copy_from_slice(&field.encode());
        }
        Sense(Some(bytes.into()))
    }

    /// Descriptor format (SPC-4 4.5.2).
    fn in_descriptors(&self) -> Sense {
        let mut bytes = [0; 28];
        bytes[..4].copy_from_slice(&[0x72, self.code.key, self.code.asc, self.code.ascq]);
        let mut len = 8;
        if let Some(information) = self.information {
            bytes[len..len + 4].copy_from_slice(&[0x00, 10, 0x80, 0]);
            bytes[len + 4..len + 12].copy_from_slice(&information.to_be_bytes());
            len += 12;
        }
        if let Some(field) = self.field {
            bytes[len..len + 4].copy_from_slice(&[0x02, 6, 0, 0]);
            bytes[len + 4..len + 7].copy_from_slice(&field.encode());
            len += 8;
        }
        bytes[7] = u8::try_from(len - 8).unwrap_or_default();
        Sense(Some(bytes[..len].into()))
    }
}

impl Field {
    /// The field pointer's three bytes, valid (SKSV).
    fn encode(self) -> [u8; 3] {
        let [high, low] = self.byte.to_be_bytes();
        let bit = self.bit.map_or(0, |bit| 0x08 | bit & 7);
        [0x80 | u8::from(self.in_cdb) << 6 | bit, high, low]
    }
}

/// The longest sense data that is passed on: as much as guests have room for, unless they ask for
/// more. The target here makes 28 bytes at most: header, information, field pointer.
const SENSE_MAX: usize = 96;

/// Sense data as an initiator gets it. Most answers have none, and are small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sense(Option<Box<[u8]>>);

impl Sense {
    /// None.
    pub const NONE: Sense = Sense(None);

    /// What another target sent, cut to what can be passed on.
    pub(crate) fn received(from: &[u8]) -> Sense {
        let from = from.get(..SENSE_MAX).unwrap_or(from);
        Sense((!from.is_empty()).then(|| from.into()))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Key, additional sense code and its qualifier, in either format.
    pub fn code(&self) -> Option<SenseCode> {
        match *self.bytes() {
            [0x72, key, asc, ascq, ..] => Some(SenseCode { key, asc, ascq }),
            [_, _, key, _, _, _, _, _, _, _, _, _, asc, ascq, ..] => {
                Some(SenseCode { key: key & 0xf, asc, ascq })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let fault = Fault::cdb(2, Some(7)).with_information(0x1234);
        let fixed = fault.encode(false);
        assert_eq!(fixed.bytes().len(), 18);
        assert_eq!(fixed.bytes()[0], 0xf0);
        assert_eq!(fixed.bytes()[3..7], [0, 0, 0x12, 0x34]);
        assert_eq!(fixed.bytes()[15..18], [0xcf, 0, 2]);
        let descriptors = fault.encode(true);
        assert_eq!(descriptors.bytes()[0], 0x72);
        assert_eq!(descriptors.bytes().len(), 8 + usize::from(descriptors.bytes()[7]));
        assert_eq!(descriptors.bytes()[8..20], [0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34]);
        assert_eq!(descriptors.bytes()[20..27], [2, 6, 0, 0, 0xcf, 0, 2]);
        assert_eq!(fixed.code(), descriptors.code());
    }

    #[test]
    fn information_that_does_not_fit_is_left_out() {
        let fault = Fault::from(READ_ERROR).with_information(1 << 32);
        assert_eq!(fault.encode(false).bytes()[0], 0x70);
    }
}
