//! Why a command is refused, and what other ports are told.

/// A sense key with its additional sense code and qualifier (SPC-4 annex F).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenseCode {
    /// SENSE KEY.
    pub key: u8,
    /// ADDITIONAL SENSE CODE.
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub ascq: u8,
}

impl SenseCode {
    /// DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT (SBC-3 4.7.3.6).
    pub const NO_SPACE: SenseCode = SenseCode { key: 7, asc: 0x27, ascq: 7 };
    /// UNIT ATTENTION, RESERVATIONS PREEMPTED.
    pub const RESERVATIONS_PREEMPTED: SenseCode = SenseCode { key: 6, asc: 0x2a, ascq: 3 };
    /// UNIT ATTENTION, RESERVATIONS RELEASED.
    pub const RESERVATIONS_RELEASED: SenseCode = SenseCode { key: 6, asc: 0x2a, ascq: 4 };
    /// UNIT ATTENTION, REGISTRATIONS PREEMPTED.
    pub const REGISTRATIONS_PREEMPTED: SenseCode = SenseCode { key: 6, asc: 0x2a, ascq: 5 };
    /// ILLEGAL REQUEST, PARAMETER LIST LENGTH ERROR.
    pub const LIST_LENGTH: SenseCode = SenseCode { key: 5, asc: 0x1a, ascq: 0 };
    /// ILLEGAL REQUEST, INVALID FIELD IN CDB.
    pub const INVALID_CDB: SenseCode = SenseCode { key: 5, asc: 0x24, ascq: 0 };
    /// ILLEGAL REQUEST, INVALID FIELD IN PARAMETER LIST.
    pub const INVALID_LIST: SenseCode = SenseCode { key: 5, asc: 0x26, ascq: 0 };
    /// ILLEGAL REQUEST, INVALID RELEASE OF PERSISTENT RESERVATION.
    pub const INVALID_RELEASE: SenseCode = SenseCode { key: 5, asc: 0x26, ascq: 4 };
    /// ILLEGAL REQUEST, INSUFFICIENT REGISTRATION RESOURCES.
    pub const NO_ROOM: SenseCode = SenseCode { key: 5, asc: 0x55, ascq: 4 };
}

/// Why a command has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Status RESERVATION CONFLICT, which carries no sense data.
    Conflict,
    /// Status CHECK CONDITION.
    Check {
        /// What it says.
        code: SenseCode,
        /// The byte at fault: of the CDB (true) or of the parameter list (false).
        field: Option<(bool, u16)>,
    },
}

impl Refusal {
    /// A field of the CDB does not have a value that is allowed.
    pub(super) fn cdb(byte: u16) -> Refusal {
        Refusal::Check { code: SenseCode::INVALID_CDB, field: Some((true, byte)) }
    }

    /// A field of the parameter list does not have a value that is allowed.
    pub(super) fn list(byte: u16) -> Refusal {
        Refusal::Check { code: SenseCode::INVALID_LIST, field: Some((false, byte)) }
    }

    /// Neither field is to blame alone.
    pub(super) fn check(code: SenseCode) -> Refusal {
        Refusal::Check { code, field: None }
    }
}
