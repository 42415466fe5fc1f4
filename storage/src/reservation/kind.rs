//! Types of a persistent reservation (SPC-4 6.15.3.4).

use std::fmt;

/// The type of a persistent reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Others do not write.
    WriteExclusive,
    /// Others neither write nor read.
    ExclusiveAccess,
    /// Ports that are not registered do not write.
    WriteExclusiveRegistrantsOnly,
    /// Ports that are not registered neither write nor read.
    ExclusiveAccessRegistrantsOnly,
    /// The same, and every registered port is a holder.
    WriteExclusiveAllRegistrants,
    /// The same, and every registered port is a holder.
    ExclusiveAccessAllRegistrants,
}

use Kind::*;

impl Kind {
    /// Every type there is.
    pub const ALL: [Kind; 6] = [
        WriteExclusive,
        ExclusiveAccess,
        WriteExclusiveRegistrantsOnly,
        ExclusiveAccessRegistrantsOnly,
        WriteExclusiveAllRegistrants,
        ExclusiveAccessAllRegistrants,
    ];

    /// The code of the TYPE field.
    pub fn code(self) -> u8 {
        match self {
            WriteExclusive => 1,
            ExclusiveAccess => 3,
            WriteExclusiveRegistrantsOnly => 5,
            ExclusiveAccessRegistrantsOnly => 6,
            WriteExclusiveAllRegistrants => 7,
            ExclusiveAccessAllRegistrants => 8,
        }
    }

    /// The type that a code stands for; the others are obsolete or reserved.
    pub fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Its bit in the type mask of REPORT CAPABILITIES (SPC-4 table 209), by byte and number.
    pub(super) fn mask(self) -> (usize, u8) {
        match self.code() {
            8 => (1, 0),
            code => (0, code),
        }
    }

    /// Whether those it keeps out do not read either.
    pub fn is_exclusive_access(self) -> bool {
        matches!(
            self,
            ExclusiveAccess | ExclusiveAccessRegistrantsOnly | ExclusiveAccessAllRegistrants
        )
    }

    /// Whether every registered port may read and write.
    pub fn is_for_registrants(self) -> bool {
        !matches!(self, WriteExclusive | ExclusiveAccess)
    }

    /// Whether every registered port is a holder.
    pub fn is_all_registrants(self) -> bool {
        matches!(self, WriteExclusiveAllRegistrants | ExclusiveAccessAllRegistrants)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WriteExclusive => "write exclusive",
            ExclusiveAccess => "exclusive access",
            WriteExclusiveRegistrantsOnly => "write exclusive, registrants only",
            ExclusiveAccessRegistrantsOnly => "exclusive access, registrants only",
            WriteExclusiveAllRegistrants => "write exclusive, all registrants",
            ExclusiveAccessAllRegistrants => "exclusive access, all registrants",
        })
    }
}
