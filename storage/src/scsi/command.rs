//! What a transport hands over and gets back.

use super::sense::Sense;
use crate::Buffers;

/// One command. Its memory is kept until it is answered.
#[derive(Debug)]
pub struct Command {
    /// The logical unit, as 8 bytes of SAM-5 4.7, big-endian.
    pub lun: u64,
    /// The command descriptor block, zeroes after its end.
    pub cdb: [u8; 32],
    /// How many bytes of it the transport got.
    pub cdb_len: u8,
    /// The initiator's name for it, for [`TaskManagement::AbortTask`](super::TaskManagement).
    pub tag: u64,
    /// The bytes that the initiator sends.
    pub data_out: Buffers,
    /// Room for the bytes that it expects.
    pub data_in: Buffers,
}

/// How a command ended (SAM-5 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// As it should.
    Good = 0x00,
    /// There is sense data.
    CheckCondition = 0x02,
    /// As it should, and the condition that was asked for holds.
    ConditionMet = 0x04,
    /// To be tried again.
    Busy = 0x08,
    /// Refused, as another initiator holds a reservation.
    ReservationConflict = 0x18,
    /// The queue has no place for it.
    TaskSetFull = 0x28,
    /// The unit waits for a sense condition to be cleared.
    AcaActive = 0x30,
    /// Another initiator aborted it.
    TaskAborted = 0x40,
}

impl Status {
    /// The status of this code; `None` for those that SAM-5 does not have (any more).
    pub(crate) fn of_code(code: u8) -> Option<Status> {
        const ALL: [Status; 8] = [
            Status::Good,
            Status::CheckCondition,
            Status::ConditionMet,
            Status::Busy,
            Status::ReservationConflict,
            Status::TaskSetFull,
            Status::AcaActive,
            Status::TaskAborted,
        ];
        ALL.into_iter().find(|&status| status as u8 == code)
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// How it ended.
    pub status: Status,
    /// Why, with CHECK CONDITION; none otherwise.
    pub sense: Sense,
    /// Bytes of [`Command::data_in`] that were filled, from its start. The others are untouched
    /// with status GOOD.
    pub data_in: u64,
    /// Bytes of [`Command::data_out`] that were used.
    pub data_out: u64,
    /// Bytes that the command itself transfers, whatever room there is: more than the initiator
    /// expects is a residual overflow, less an underflow.
    pub wanted: u64,
    /// The initiator itself aborted this command, hence expects no answer to it (SAM-5 7.2): the
    /// transport frees what it keeps for it and sends nothing.
    pub silent: bool,
}

impl Response {
    /// GOOD, without data.
    pub(crate) const GOOD: Response = Response::of(Status::Good);

    /// A status without data.
    pub(crate) const fn of(status: Status) -> Response {
        Response { status, sense: Sense::NONE, data_in: 0, data_out: 0, wanted: 0, silent: false }
    }

    /// Nothing, as the initiator itself aborted the command.
    pub(crate) fn silent() -> Response {
        Response { silent: true, ..Response::GOOD }
    }

    /// CHECK CONDITION.
    pub(super) fn check(sense: Sense) -> Response {
        Response { sense, ..Response::of(Status::CheckCondition) }
    }
}
