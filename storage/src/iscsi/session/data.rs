//! Data to and from the initiator, and answers to SCSI commands (RFC 7143 sections 11.3, 11.4,
//! 11.7, 11.8).

use super::command::{R2t, Task};
use super::{End, Session};
use crate::AlignedBuffer;
use crate::iscsi::output::Batch;
use crate::iscsi::pdu::{self, Header, Pdu, Reason, opcode};
use crate::scsi::{Response, Status};

const FINAL: u8 = 0x80;
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;
const HAS_STATUS: u8 = 0x01;
/// The same of the data read, where a command also writes.
const READ_OVERFLOW: u8 = 0x10;
const READ_UNDERFLOW: u8 = 0x08;

/// Sense of what is found out here: key, additional code and qualifier. ILLEGAL REQUEST, and
/// ABORTED COMMAND (RFC 7143 section 11.4.7.2).
const INVALID_FIELD_IN_CDB: (u8, u8, u8) = (0x05, 0x24, 0x00);
const PROTOCOL_SERVICE_CRC_ERROR: (u8, u8, u8) = (0x0b, 0x47, 0x05);

/// By how much what was transferred differs from what the initiator expected (RFC 7143
/// section 11.4.5): a flag and the bytes.
fn residual(expected: u32, moved: u64, wanted: u64) -> (u8, u32) {
    let expected = u64::from(expected);
    let bytes = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    if wanted > expected {
        (OVERFLOW, bytes(wanted - expected))
    } else if moved < expected {
        (UNDERFLOW, bytes(expected - moved))
    } else {
        (0, 0)
    }
}

impl Session<'_> {
    /// Asks for the data that is missing, as many times as was agreed on.
    pub(super) fn ask(&mut self, tag: u32) {
        let (most, burst) = (self.agreed.outstanding_r2t, self.agreed.max_burst);
        loop {
            let transfer = self.new_transfer_tag();
            let Some(task) = self.tasks.get_mut(&tag) else { return };
            let left = task.expected_out.saturating_sub(task.asked);
            if left == 0 || u32::try_from(task.r2ts.len()).is_ok_and(|count| count >= most) {
                return;
            }
            let (start, len) = (task.asked, left.min(burst));
            task.asked += len;
            task.r2ts.push_back(R2t { tag: transfer, start, len, received: 0, next_data_sn: 0 });
            let mut header = Header::new(opcode::R2T, FINAL);
            header
                .set(8, &task.lun.to_be_bytes())
                .set_u32(16, tag)
                .set_u32(20, transfer)
                .set_u32(36, task.next_r2t_sn)
                .set_u32(40, start)
                .set_u32(44, len);
            task.next_r2t_sn = task.next_r2t_sn.wrapping_add(1);
            self.number(&mut header, false);
            let on = self.digests();
            self.output.push(&mut header, &[], on);
        }
    }

    /// A tag that no transfer of late had.
    pub(super) fn new_transfer_tag(&mut self) -> u32 {
        self.next_transfer = self.next_transfer.wrapping_add(1);
        if self.next_transfer == pdu::NO_TAG {
            self.next_transfer = 0;
        }
        self.next_transfer
    }

    /// Takes data. That of tasks and transfers that are over is passed by: it was on its way when
    /// they ended.
    pub(super) fn data_out(&mut self, pdu: &Pdu<'_>) -> Result<(), End> {
        let header = &pdu.header;
        let (tag, transfer) = (header.task_tag(), header.transfer_tag());
        let (data_sn, offset) = (header.u32(36), header.u32(40));
        let last = header.flags() & FINAL != 0;
        let len = u32::try_from(pdu.data.len()).unwrap_or(u32::MAX);
        let first_burst = self.agreed.first_burst;
        let Some(task) = self.tasks.get_mut(&tag).filter(|task| !task.is_submitted()) else {
            return Ok(());
        };
        let expected = if transfer == pdu::NO_TAG {
            if !task.unsolicited {
                return Err(self.offence(header, Reason::Protocol, "data that nobody asked for"));
            }
            let most = task.expected_out.min(first_burst);
            (task.next_data_sn, task.received, most.saturating_sub(task.received))
        } else {
            let Some(r2t) = task.r2ts.front().filter(|r2t| r2t.tag == transfer) else {
                if task.r2ts.iter().any(|r2t| r2t.tag == transfer) {
                    return Err(self.offence(header, Reason::Protocol, "data out of order"));
                }
                return Ok(());
            };
            (r2t.next_data_sn, r2t.start + r2t.received, r2t.len - r2t.received)
        };
        let (next_sn, next_offset, room) = expected;
        if task.spoiled || data_sn != next_sn {
            // A PDU was lost on the way (RFC 7143 section 7.9).
            self.lose_data(header);
            return Ok(());
        }
        if offset != next_offset || len > room {
            return Err(self.offence(header, Reason::Protocol, "data that does not follow"));
        }
        if transfer != pdu::NO_TAG && last != (len == room) {
            return Err(self.offence(
                header,
                Reason::Protocol,
                "data that ends where it should not",
            ));
        }
        if task.take(offset, pdu.data) {
            self.early_data += pdu.data.len();
        }
        task.received += len;
        if transfer == pdu::NO_TAG {
            task.next_data_sn = task.next_data_sn.wrapping_add(1);
            task.asked = task.received;
            task.unsolicited = !last;
        } else if last {
            task.r2ts.pop_front();
        } else if let Some(r2t) = task.r2ts.front_mut() {
            r2t.received += len;
            r2t.next_data_sn = r2t.next_data_sn.wrapping_add(1);
        }
        if !self.bound_early(tag) && last {
            self.advance(tag);
        }
        Ok(())
    }

    /// Data of a command was lost: at level 0 it is not sent again, so the command fails, once
    /// nothing of it is on its way any more (RFC 7143 section 7.8, case b).
    pub(super) fn lose_data(&mut self, header: &Header) {
        let tag = header.task_tag();
        let Some(task) = self.tasks.get_mut(&tag).filter(|task| !task.is_submitted()) else {
            return;
        };
        task.spoiled = true;
        if header.flags() & FINAL == 0 {
            return;
        }
        match header.transfer_tag() {
            pdu::NO_TAG => task.unsolicited = false,
            transfer => task.r2ts.retain(|r2t| r2t.tag != transfer),
        }
        self.give_up(tag);
    }

    /// Fails a command whose data was lost, if no more can come.
    pub(super) fn give_up(&mut self, tag: u32) {
        let waits = |task: &Task| task.unsolicited || !task.r2ts.is_empty();
        if self.tasks.get(&tag).is_none_or(waits) {
            return;
        }
        if let Some(task) = self.forget(tag) {
            self.release(task.cost);
            if task.full {
                return self.respond_full(tag, &task);
            }
            self.respond_check(tag, &task, PROTOCOL_SERVICE_CRC_ERROR);
        }
    }

    /// Answers a command: with data if there is any, and the status in the last PDU of it where
    /// that says all.
    pub(super) fn answer(
        &mut self,
        tag: u32,
        task: &Task,
        response: &Response,
        memory: Option<AlignedBuffer>,
    ) {
        let room = memory.is_some();
        let most = self.limits().command_bytes as u64;
        if room && u64::from(task.expected_in) > most && response.wanted > most {
            // What the initiator expects is more than this server moves at a time, so the data
            // is not all there; half of it must not look like the whole.
            self.release(task.cost);
            return self.respond_check(tag, task, INVALID_FIELD_IN_CDB);
        }
        let bidirectional = task.expected_out > 0 && task.expected_in > 0;
        let data = if room { response.data_in.min(u64::from(task.expected_in)) } else { 0 };
        let (flag, count) = if task.expected_out > 0 {
            residual(
                task.expected_out,
                response.data_out,
                if bidirectional { 0 } else { response.wanted },
            )
        } else {
            residual(task.expected_in, data, response.wanted)
        };
        let collapse = data > 0 && response.status == Status::Good && !bidirectional;
        let mut data_pdus = 0;
        match memory.filter(|_| data > 0) {
            Some(memory) => {
                // Only what is kept until it is sent is charged on.
                let mut batch = Batch::with_data(memory, task.cost);
                let status = collapse.then_some((response.status, flag, count));
                data_pdus = self.data_in(tag, data, status, &mut batch);
                self.output.push_batch(batch);
            }
            None => self.release(task.cost),
        }
        if collapse {
            return;
        }
        let mut header = Header::new(opcode::SCSI_RESPONSE, FINAL | flag);
        header.set(3, &[response.status as u8]).set_u32(16, tag).set_u32(44, count);
        if bidirectional {
            let (flag, count) = residual(task.expected_in, data, data);
            let flag = match flag {
                OVERFLOW => READ_OVERFLOW,
                UNDERFLOW => READ_UNDERFLOW,
                _ => 0,
            };
            header.set(1, &[header.flags() | flag]).set_u32(40, count);
        }
        header.set_u32(36, data_pdus + task.next_r2t_sn);
        let sense = response.sense.bytes();
        self.respond(header, sense);
    }

    /// Appends the Data-In PDUs of so many bytes, the last with the status if there is one; says
    /// how many they are.
    fn data_in(
        &mut self,
        tag: u32,
        len: u64,
        status: Option<(Status, u8, u32)>,
        batch: &mut Batch,
    ) -> u32 {
        let len = usize::try_from(len).unwrap_or_default();
        let burst = usize::try_from(self.agreed.max_burst).unwrap_or(usize::MAX);
        let segment = usize::try_from(self.agreed.send_segment).unwrap_or(usize::MAX);
        let (mut at, mut data_sn) = (0, 0u32);
        while at < len {
            let burst_end = (at / burst + 1).saturating_mul(burst).min(len);
            let end = at.saturating_add(segment).min(burst_end);
            let mut header = Header::new(opcode::DATA_IN, if end == burst_end { FINAL } else { 0 });
            header
                .set_u32(16, tag)
                .set_u32(20, pdu::NO_TAG)
                .set_u32(36, data_sn)
                .set_u32(40, u32::try_from(at).unwrap_or_default());
            let status = status.filter(|_| end == len);
            self.number(&mut header, status.is_some());
            match status {
                Some((status, flag, count)) => {
                    header.set(1, &[FINAL | HAS_STATUS | flag]).set(3, &[status as u8]);
                    header.set_u32(44, count);
                }
                // Only an answer has a number.
                None => _ = header.set_u32(24, 0),
            }
            batch.push_data(&mut header, at..end, self.digests());
            data_sn += 1;
            at = end;
        }
        data_sn
    }

    fn respond(&mut self, header: Header, sense: &[u8]) {
        if sense.is_empty() {
            return self.send(header, &[]);
        }
        let len = u16::try_from(sense.len()).unwrap_or_default();
        self.send(header, &[&len.to_be_bytes(), sense].concat());
    }

    /// Answers a command that asks for more memory than one may have.
    pub(super) fn refuse(&mut self, tag: u32) {
        if let Some(task) = self.forget(tag) {
            self.respond_check(tag, &task, INVALID_FIELD_IN_CDB);
        }
    }

    /// CHECK CONDITION for a reason found here, not at the disk.
    fn respond_check(&mut self, tag: u32, task: &Task, (key, asc, ascq): (u8, u8, u8)) {
        // Fixed format (SPC-4 4.5.3).
        let sense = [0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0];
        let expected = if task.expected_out > 0 { task.expected_out } else { task.expected_in };
        let mut header = Header::new(opcode::SCSI_RESPONSE, FINAL | UNDERFLOW);
        header.set(3, &[Status::CheckCondition as u8]).set_u32(16, tag).set_u32(44, expected);
        self.respond(header, &sense);
    }

    /// Has the initiator send a command again later (SAM-5 5.3.1).
    fn respond_full(&mut self, tag: u32, task: &Task) {
        let mut header = Header::new(opcode::SCSI_RESPONSE, FINAL | UNDERFLOW);
        header.set(3, &[Status::TaskSetFull as u8]).set_u32(16, tag);
        header.set_u32(44, task.expected_out);
        self.respond(header, &[]);
    }

    /// Answers a command that failed here, not at the disk (section 11.4.3: target failure).
    pub(super) fn respond_failure(&mut self, tag: u32) {
        let mut header = Header::new(opcode::SCSI_RESPONSE, FINAL);
        header.set(2, &[1]).set_u32(16, tag);
        self.respond(header, &[]);
    }
}

impl Task {
    /// Puts data where it belongs: in the memory, or aside while there is none, and says so.
    fn take(&mut self, offset: u32, data: &[u8]) -> bool {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match &mut self.memory {
            Some(memory) => {
                let end = start.saturating_add(data.len());
                if let Some(place) = memory.bytes().get_mut(start..end) {
                    place.copy_from_slice(data);
                }
                false
            }
            // Data follows what came before, as was checked.
            None => {
                self.early.extend_from_slice(data);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residuals_tell_over_and_under() {
        assert_eq!(residual(512, 512, 512), (0, 0));
        assert_eq!(residual(512, 36, 36), (UNDERFLOW, 476));
        assert_eq!(residual(512, 512, 4096), (OVERFLOW, 3584));
        assert_eq!(residual(0, 0, 512), (OVERFLOW, 512));
        assert_eq!(residual(512, 0, 0), (UNDERFLOW, 512));
    }
}
