//! Commands and their data on the way to the target (RFC 7143 sections 11.3, 11.7, 11.8).

use super::{End, Request, Session, Task, Transfer, protocol};
use crate::Buffers;
use crate::iscsi::pdu::{Header, NO_TAG, opcode};
use crate::scsi::Command;

/// Bytes to be sent beyond which no more are made ready.
const AHEAD_MAX: u64 = 1 << 20;
/// Most bytes of data in a PDU that is sent, whatever the target takes: others have their turn.
const SEGMENT_MAX: u32 = 256 << 10;

const FINAL: u8 = 0x80;
const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const SIMPLE: u8 = 0x01;

/// Bytes of a buffer, which are fewer than 2^32, as was checked.
fn length(data: &Buffers) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

/// The additional header segments of a command: the rest of a long CDB, and how much is to be read
/// by a command that writes as well (RFC 7143 section 11.2.2).
fn additional(command: &Command, read_len: Option<u32>) -> Vec<u8> {
    const VARIABLE: u8 = 0x7f;
    let mut out = Vec::new();
    let [code, .., last] = command.cdb;
    // Others have 16 bytes at most, whatever room for them the guest has (SPC-4 4.2.5.1).
    let long = usize::from(command.cdb_len).min(32).min(8 + usize::from(command.cdb[7]));
    if code == VARIABLE && long > 16 {
        let rest = command.cdb.get(16..long).unwrap_or(std::slice::from_ref(&last));
        let len = u16::try_from(1 + rest.len()).unwrap_or_default();
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&[1, 0]);
        out.extend_from_slice(rest);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    if let Some(len) = read_len {
        out.extend_from_slice(&[0, 5, 2, 0]);
        out.extend_from_slice(&len.to_be_bytes());
    }
    out
}

impl Session {
    /// Most bytes of data in a PDU that is sent.
    fn segment(&self) -> u32 {
        self.agreed.send_segment.min(SEGMENT_MAX)
    }

    /// Whether there is data that could be made ready to be sent.
    pub(in super::super) fn has_more(&self) -> bool {
        !self.transfers.is_empty() && self.output.queued() < AHEAD_MAX
    }

    /// Whether a command may be sent now.
    pub(in super::super) fn takes_command(&self) -> bool {
        let room = self.max_cmd_sn.wrapping_sub(self.cmd_sn) < 1 << 31;
        room && self.output.queued() < AHEAD_MAX && self.leave_by.is_none()
    }

    /// Sends a command, and the data that goes with it unasked.
    pub(in super::super) fn start(&mut self, request: Request) {
        let command = &request.command;
        let (expected_out, expected_in) = (length(&command.data_out), length(&command.data_in));
        let (mut data, room) = (command.data_out.duplicate(), command.data_in.duplicate());
        let first_burst = expected_out.min(self.agreed.first_burst);
        let immediate = match self.agreed.immediate_data {
            true => first_burst.min(self.segment()),
            false => 0,
        };
        let unsolicited = if self.agreed.initial_r2t { 0 } else { first_burst - immediate };
        let tag = self.new_tag();
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.wrapping_add(1);
        let mut flags = SIMPLE;
        flags |= if unsolicited == 0 { FINAL } else { 0 };
        flags |= if expected_out > 0 { WRITE } else { 0 };
        flags |= if expected_in > 0 { READ } else { 0 };
        let mut header = Header::new(opcode::SCSI_COMMAND, flags);
        let expected = if expected_out > 0 { expected_out } else { expected_in };
        header.set(8, &self.lun.to_be_bytes()).set_u32(16, tag).set_u32(20, expected);
        header.set_u32(24, cmd_sn).set_u32(28, self.exp_stat_sn);
        let given = usize::from(command.cdb_len).min(16);
        header.set(32, command.cdb.get(..given).unwrap_or_default());
        let both = expected_out > 0 && expected_in > 0;
        let ahs = additional(command, both.then_some(expected_in));
        let place = self.output.put();
        let on = self.digests();
        self.output.push_memory(&mut header, &ahs, data.split_to(immediate.into()), on);
        let data_end = if immediate > 0 { self.output.put() } else { 0 };
        if unsolicited > 0 {
            self.transfers.push_back(Transfer {
                task: tag,
                tag: NO_TAG,
                offset: immediate,
                left: unsolicited,
                data_sn: 0,
            });
        }
        let task = Task {
            room,
            data,
            expected_in,
            expected_out,
            received: 0,
            next_data_sn: 0,
            granted: immediate + unsolicited,
            r2ts: 0,
            next_r2t_sn: 0,
            cmd_sn,
            place,
            data_end,
            is_given_up: false,
            request,
        };
        self.tasks.insert(tag, task);
    }

    /// The target asks for data.
    pub(super) fn ready_to_transfer(&mut self, header: &Header) -> Result<(), End> {
        let (most, burst) = (self.agreed.outstanding_r2t, self.agreed.max_burst);
        let (tag, transfer) = (header.task_tag(), header.transfer_tag());
        let (number, offset, len) = (header.u32(36), header.u32(40), header.u32(44));
        let Some(task) = self.tasks.get_mut(&tag) else {
            return protocol("it asks for data of a command that is not there");
        };
        if transfer == NO_TAG {
            return protocol("it asks for data without a tag");
        }
        // Of commands that also read, numbers of data count as well.
        if task.expected_in == 0 && number != task.next_r2t_sn {
            return protocol("it asks for data out of order");
        }
        if task.r2ts >= most {
            return protocol("it asks for data more often than was agreed on");
        }
        if len == 0 || len > burst || offset != task.granted || len > task.expected_out - offset {
            return protocol("it asks for data that is not there, or not its turn");
        }
        task.granted += len;
        task.r2ts += 1;
        task.next_r2t_sn = task.next_r2t_sn.wrapping_add(1);
        self.transfers.push_back(Transfer {
            task: tag,
            tag: transfer,
            offset,
            left: len,
            data_sn: 0,
        });
        Ok(())
    }

    /// Makes data ready to be sent, as much as is sensible at a time.
    pub(in super::super) fn produce(&mut self) {
        let (segment, on) = (self.segment(), self.digests());
        while self.output.queued() < AHEAD_MAX {
            let Some(mut transfer) = self.transfers.pop_front() else { return };
            let Some(task) = self.tasks.get_mut(&transfer.task) else { continue };
            let len = transfer.left.min(segment);
            let is_last = len == transfer.left;
            let mut header = Header::new(opcode::DATA_OUT, if is_last { FINAL } else { 0 });
            let is_asked_for = transfer.tag != NO_TAG;
            if is_asked_for {
                header.set(8, &self.lun.to_be_bytes());
            }
            header.set_u32(16, transfer.task).set_u32(20, transfer.tag);
            header.set_u32(28, self.exp_stat_sn);
            header.set_u32(36, transfer.data_sn).set_u32(40, transfer.offset);
            self.output.push_memory(&mut header, &[], task.data.split_to(len.into()), on);
            task.data_end = self.output.put();
            if is_last {
                task.r2ts -= u32::from(is_asked_for);
                continue;
            }
            transfer.offset += len;
            transfer.left -= len;
            transfer.data_sn += 1;
            // A command's data is sent in order, so it stays the first.
            self.transfers.push_front(transfer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::pdu;

    #[test]
    fn additional_segments_are_those_that_a_target_takes_apart() {
        let mut cdb = [7; 32];
        cdb[0] = 0x2a;
        let mut command = Command {
            lun: 0,
            cdb,
            cdb_len: 32,
            tag: 0,
            data_out: Buffers::none(),
            data_in: Buffers::none(),
        };
        assert!(additional(&command, None).is_empty());
        (command.cdb[0], command.cdb[7]) = (0x7f, 0x18);
        let ahs = additional(&command, Some(512));
        let found = pdu::additional(&ahs).unwrap();
        assert_eq!((found.cdb, found.read_len), (&command.cdb[16..], Some(512)));
    }
}
