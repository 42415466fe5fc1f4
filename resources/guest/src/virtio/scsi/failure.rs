//! What a device answers to a command that it did not do (virtio 1.3, 5.6.6.1; SAM-5, 5.3;
//! SPC-4, 4.5).
#![forbid(unsafe_code)]

use core::fmt;

/// Status: there is sense data.
pub const CHECK_CONDITION: u8 = 0x02;
/// Status: later, please.
pub const BUSY: u8 = 0x08;
/// Status: another initiator has reserved the logical unit.
pub const RESERVATION_CONFLICT: u8 = 0x18;
/// Status: the logical unit has no room for another command.
pub const TASK_SET_FULL: u8 = 0x28;
/// Status: another initiator aborted the command.
pub const TASK_ABORTED: u8 = 0x40;

/// Sense key: not a command, or not with these parameters.
pub const ILLEGAL_REQUEST: u8 = 0x5;
/// Sense key: something happened of which the initiator must know; the command was not done.
pub const UNIT_ATTENTION: u8 = 0x6;
/// Sense key: what was compared differs.
pub const MISCOMPARE: u8 = 0xE;

/// Response of the virtio device: the status is the answer.
pub const RESPONSE_OK: u8 = 0;
const RESPONSE_ABORTED: u8 = 2;
const RESPONSE_RESET: u8 = 4;
const RESPONSE_TRANSPORT_FAILURE: u8 = 6;

/// What sense data says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
}

impl Sense {
    /// Reads sense data of fixed or of descriptor format. `None` if it is neither, or too short.
    pub fn read(bytes: &[u8]) -> Option<Sense> {
        let at = |index: usize| bytes.get(index).copied();
        let (key, asc, ascq) = match at(0)? & 0x7F {
            0x70 | 0x71 => (2, 12, 13),
            0x72 | 0x73 => (1, 2, 3),
            _ => return None,
        };
        let (asc, ascq) = (at(asc).unwrap_or(0), at(ascq).unwrap_or(0));
        Some(Sense { key: at(key)? & 0xF, asc, ascq })
    }

    fn key_name(self) -> &'static str {
        match self.key {
            0x0 => "NO SENSE",
            0x1 => "RECOVERED ERROR",
            0x2 => "NOT READY",
            0x3 => "MEDIUM ERROR",
            0x4 => "HARDWARE ERROR",
            ILLEGAL_REQUEST => "ILLEGAL REQUEST",
            UNIT_ATTENTION => "UNIT ATTENTION",
            0x7 => "DATA PROTECT",
            0xB => "ABORTED COMMAND",
            MISCOMPARE => "MISCOMPARE",
            _ => "another sense key",
        }
    }
}

/// A command that was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The command's name.
    pub command: &'static str,
    /// Its first logical block, if it has one.
    pub lba: Option<u64>,
    /// The virtio device's response.
    pub response: u8,
    /// The SCSI status, if the response says that there is one.
    pub status: u8,
    /// What the sense data says.
    pub sense: Option<Sense>,
    /// How many bytes were not transferred.
    pub residual: u32,
}

impl Failure {
    /// The command met another initiator's reservation.
    pub fn is_conflict(self) -> bool {
        self.response == RESPONSE_OK && self.status == RESERVATION_CONFLICT
    }

    /// Somebody aborted the command: by PREEMPT AND ABORT, or by a reset.
    pub fn is_aborted(self) -> bool {
        match self.response {
            RESPONSE_OK => self.status == TASK_ABORTED,
            response => matches!(response, RESPONSE_ABORTED | RESPONSE_RESET),
        }
    }

    /// The device found something else where COMPARE AND WRITE compared.
    pub fn is_miscompare(self) -> bool {
        self.has_key(MISCOMPARE)
    }

    /// The way to the device was interrupted: whether the command was done, nobody knows.
    pub fn is_lost(self) -> bool {
        self.response == RESPONSE_TRANSPORT_FAILURE
    }

    /// The device has something to tell before it takes commands.
    pub fn is_attention(self) -> bool {
        self.has_key(UNIT_ATTENTION)
    }

    /// The device does not know the command, or not with these parameters.
    pub fn is_illegal(self) -> bool {
        self.has_key(ILLEGAL_REQUEST)
    }

    /// The logical unit has too much to do.
    pub fn is_busy(self) -> bool {
        self.response == RESPONSE_OK && matches!(self.status, BUSY | TASK_SET_FULL)
    }

    fn has_key(self, key: u8) -> bool {
        self.response == RESPONSE_OK
            && self.status == CHECK_CONDITION
            && self.sense.is_some_and(|sense| sense.key == key)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { command, lba, response, status, sense, residual } = self;
        f.write_str(command)?;
        if let Some(lba) = lba {
            write!(f, " at LBA {lba}")?;
        }
        if *response != RESPONSE_OK {
            let meaning = response_name(*response);
            return write!(f, " failed: response {response} ({meaning}), residual {residual}");
        }
        write!(f, " failed: status {status:02x}h ({})", status_name(*status))?;
        if let Some(sense) = sense {
            let Sense { key, asc, ascq } = sense;
            write!(f, ", sense {key:x}h/{asc:02x}h/{ascq:02x}h ({})", sense.key_name())?;
        }
        write!(f, ", residual {residual}")
    }
}

fn status_name(status: u8) -> &'static str {
    match status {
        0x00 => "GOOD",
        CHECK_CONDITION => "CHECK CONDITION",
        0x04 => "CONDITION MET",
        BUSY => "BUSY",
        RESERVATION_CONFLICT => "RESERVATION CONFLICT",
        TASK_SET_FULL => "TASK SET FULL",
        0x30 => "ACA ACTIVE",
        TASK_ABORTED => "TASK ABORTED",
        _ => "not a status",
    }
}

/// What a response of a request queue or of the control queue means (virtio 1.3, 5.6.6.1 and
/// 5.6.6.2).
pub fn response_name(response: u8) -> &'static str {
    match response {
        RESPONSE_OK => "complete",
        1 => "overrun",
        RESPONSE_ABORTED => "aborted",
        3 => "bad target",
        RESPONSE_RESET => "reset",
        5 => "busy",
        RESPONSE_TRANSPORT_FAILURE => "transport failure",
        7 => "target failure",
        8 => "nexus failure",
        9 => "failure",
        10 => "function succeeded",
        11 => "function rejected",
        12 => "incorrect LUN",
        _ => "not a response",
    }
}

#[cfg(test)]
mod tests;
