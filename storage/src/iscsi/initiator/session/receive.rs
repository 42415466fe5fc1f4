//! What comes from the target (RFC 7143 sections 11.4, 11.7, 11.9, 11.17, 11.19).

use std::time::{Duration, Instant};

use super::{Direct, End, Session, protocol};
use crate::Buffers;
use crate::iscsi::initiator::wire;
use crate::iscsi::input::{Filled, Input};
use crate::iscsi::pdu::{self, Header, NO_TAG, Pdu, opcode};
use crate::scsi::{Response, Sense, ServiceResponse, Status};

/// Reads from the socket before others have their turn.
const READS_MAX: usize = 16;
/// Bytes of answers to the target's questions that it did not take.
const OWED_MAX: u64 = 1 << 20;

const FINAL: u8 = 0x80;
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;
const HAS_STATUS: u8 = 0x01;

/// How much of `expected` bytes a command has to do with, by flags and count of a response.
fn wanted(expected: u32, flags: u8, count: u32) -> Result<u64, End> {
    match flags & (OVERFLOW | UNDERFLOW) {
        0 => Ok(expected.into()),
        OVERFLOW => Ok(u64::from(expected) + u64::from(count)),
        UNDERFLOW if count <= expected => Ok(u64::from(expected - count)),
        _ => protocol("it says that less than nothing was moved"),
    }
}

impl Session {
    /// Takes what the socket has, a fair share of it.
    pub(in super::super) fn receive(&mut self) -> Result<(), End> {
        let mut input = std::mem::replace(&mut self.input, Input::new(0));
        let result = self.receive_from(&mut input);
        self.input = input;
        result
    }

    fn receive_from(&mut self, input: &mut Input) -> Result<(), End> {
        for _ in 0..READS_MAX {
            let all = match &mut self.direct {
                Some(Direct { room, .. }) if !room.is_empty() && input.is_empty() => {
                    let spare = input.spare();
                    let size = room.len().saturating_add(spare.len() as u64);
                    match wire::read(&self.socket, room, spare)? {
                        None => return Ok(()),
                        Some(0) => return Err(End::Closed),
                        Some(count) => {
                            let here = usize::try_from(room.len()).unwrap_or(usize::MAX).min(count);
                            room.advance(here as u64);
                            input.filled(count, here);
                            (count as u64) < size
                        }
                    }
                }
                _ => match input.fill(&mut &self.socket)? {
                    Filled::Some { all } => all,
                    Filled::Nothing => return Ok(()),
                    Filled::Closed => return Err(End::Closed),
                },
            };
            self.take(input)?;
            if all {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes the PDUs there are.
    fn take(&mut self, input: &mut Input) -> Result<(), End> {
        let on = self.digests();
        loop {
            if let Some(direct) = &mut self.direct {
                let left = usize::try_from(direct.room.len()).unwrap_or(usize::MAX);
                direct.room.copy_from(input.take(left));
                if !direct.room.is_empty() {
                    return Ok(());
                }
                direct.padding -= input.take(direct.padding).len();
                if direct.padding > 0 {
                    return Ok(());
                }
                let header = direct.header;
                self.direct = None;
                self.data_came(&header)?;
                continue;
            }
            let Some((header, start)) = input.head(on)? else { return Ok(()) };
            // Without a digest to check first, data goes where it belongs as it comes.
            if header.opcode() == opcode::DATA_IN && !on.data {
                let room = self.data_in(&header)?;
                input.consume(start);
                let padding = pdu::padding(usize::try_from(header.data_len()).unwrap_or_default());
                self.direct = Some(Direct { header, room, padding });
                continue;
            }
            let Some((pdu, len)) = input.first(on)? else { return Ok(()) };
            self.handle(&pdu)?;
            input.consume(len);
        }
    }

    /// Takes the numbers that every PDU has (RFC 7143 section 4.2.2); `is_answer` says that it has
    /// one of its own.
    fn number(&mut self, header: &Header, is_answer: bool) -> Result<(), End> {
        self.heard_at = Instant::now();
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = (header.u32(24), header.u32(28), header.u32(32));
        if is_answer {
            if stat_sn != self.exp_stat_sn {
                return protocol("its answers are not numbered in order");
            }
            self.exp_stat_sn = stat_sn.wrapping_add(1);
        }
        let is_later = |number: u32, than: u32| number.wrapping_sub(than) < 1 << 31;
        if is_later(max_cmd_sn, exp_cmd_sn.wrapping_sub(1)) && is_later(max_cmd_sn, self.max_cmd_sn)
        {
            self.max_cmd_sn = max_cmd_sn;
        }
        Ok(())
    }

    fn handle(&mut self, pdu: &Pdu<'_>) -> Result<(), End> {
        let header = &pdu.header;
        match header.opcode() {
            opcode::DATA_IN => {
                let mut room = self.data_in(header)?;
                room.copy_from(pdu.data);
                drop(room);
                self.data_came(header)
            }
            opcode::SCSI_RESPONSE => {
                self.number(header, true)?;
                self.scsi_response(header, pdu.data)
            }
            opcode::R2T => {
                self.number(header, false)?;
                self.ready_to_transfer(header)
            }
            opcode::TASK_MANAGEMENT_RESPONSE => {
                self.number(header, true)?;
                self.managed(header)
            }
            opcode::NOP_IN => self.nop_in(header, pdu.data),
            opcode::ASYNC => {
                self.number(header, true)?;
                self.asynchronous(header)
            }
            opcode::REJECT => {
                self.number(header, true)?;
                self.rejected(header, pdu.data)
            }
            other => Err(End::Protocol(format!("it sends what nobody asked for ({other:#04x})"))),
        }
    }

    /// Data begins to come: where it belongs.
    fn data_in(&mut self, header: &Header) -> Result<Buffers, End> {
        self.number(header, header.flags() & HAS_STATUS != 0)?;
        let Some(task) = self.tasks.get_mut(&header.task_tag()) else {
            return protocol("it sends data of a command that is not there");
        };
        if task.expected_out == 0 && header.u32(36) != task.next_data_sn {
            return protocol("it sends data that is not numbered in order");
        }
        let len = header.data_len();
        if header.u32(40) != task.received || len > task.expected_in - task.received {
            return protocol("it sends data that does not follow, or was not asked for");
        }
        Ok(task.room.split_to(len.into()))
    }

    /// Data is all there.
    fn data_came(&mut self, header: &Header) -> Result<(), End> {
        let tag = header.task_tag();
        if let Some(task) = self.tasks.get_mut(&tag) {
            task.received += header.data_len();
            task.next_data_sn = task.next_data_sn.wrapping_add(1);
        }
        if header.flags() & HAS_STATUS != 0 {
            return self.complete(header, &[]);
        }
        Ok(())
    }

    fn scsi_response(&mut self, header: &Header, data: &[u8]) -> Result<(), End> {
        const COMPLETED: u8 = 0;
        if header.byte(2) != COMPLETED {
            if !self.tasks.contains_key(&header.task_tag()) {
                return protocol("it answers a command that is not there");
            }
            self.end(header.task_tag(), ServiceResponse::DeliveryFailure);
            return Ok(());
        }
        let sense = match data.split_first_chunk::<2>() {
            Some((len, rest)) => rest.get(..u16::from_be_bytes(*len).into()),
            None => Some(&[][..]),
        };
        let Some(sense) = sense else { return protocol("it sends sense data that is cut") };
        self.complete(header, sense)
    }

    /// A command is carried out, or not, for the reason that it is told.
    fn complete(&mut self, header: &Header, sense: &[u8]) -> Result<(), End> {
        let tag = header.task_tag();
        let Some(task) = self.tasks.get(&tag) else {
            return protocol("it answers a command that is not there");
        };
        let Some(status) = Status::of_code(header.byte(3)) else {
            return protocol("it answers with a status that there is not");
        };
        let (flags, count) = (header.flags(), header.u32(44));
        let (expected_in, expected_out) = (task.expected_in, task.expected_out);
        let mut response = Response::of(status);
        response.data_in = task.received.into();
        let good = matches!(status, Status::Good | Status::ConditionMet);
        if expected_out > 0 {
            response.wanted = wanted(expected_out, flags, count)?;
            response.data_out = response.wanted.min(expected_out.into());
        } else {
            response.wanted = wanted(expected_in, flags, count)?;
            // Half of the data must not look like the whole.
            if good && response.data_in != response.wanted.min(expected_in.into()) {
                return protocol("it answers before all data came");
            }
            response.wanted = response.wanted.max(response.data_in);
        }
        response.sense = Sense::received(sense);
        self.is_useful = true;
        self.end(tag, ServiceResponse::Complete(response));
        Ok(())
    }

    /// An answer to our question, or a question.
    fn nop_in(&mut self, header: &Header, data: &[u8]) -> Result<(), End> {
        let is_answer = header.task_tag() != NO_TAG;
        self.number(header, is_answer)?;
        if is_answer {
            if self.ping.take_if(|(tag, _)| *tag == header.task_tag()).is_none() {
                return protocol("it answers what was not asked");
            }
            return Ok(());
        }
        if header.transfer_tag() == NO_TAG {
            return Ok(());
        }
        let mut answer = Header::new(opcode::NOP_OUT | 0x40, FINAL);
        answer.set(8, &header.lun().to_be_bytes()).set_u32(16, NO_TAG);
        answer.set_u32(20, header.transfer_tag());
        answer.set_u32(24, self.cmd_sn).set_u32(28, self.exp_stat_sn);
        let most = usize::try_from(self.agreed.send_segment).unwrap_or(usize::MAX);
        let before = self.output.put();
        let on = self.digests();
        self.output.push(&mut answer, &[], data.get(..most).unwrap_or(data), on);
        let (bytes, end) = self.owed;
        let open = if self.output.sent() >= end { 0 } else { bytes };
        self.owed = (open + self.output.put() - before, self.output.put());
        if self.owed.0 > OWED_MAX {
            return protocol("it asks whether we are there, and does not take the answers");
        }
        Ok(())
    }

    fn asynchronous(&mut self, header: &Header) -> Result<(), End> {
        const LOGOUT: u8 = 1;
        const DROPPED: u8 = 2;
        const ALL_DROPPED: u8 = 3;
        const NEGOTIATE: u8 = 4;
        match header.byte(36) {
            LOGOUT | NEGOTIATE => {
                // What is under way may end until then.
                let patience = Duration::from_secs(header.u16(42).into());
                let patience = patience.clamp(Duration::from_millis(10), self.limits.answer_time);
                self.leave_by.get_or_insert(Instant::now() + patience);
                Ok(())
            }
            DROPPED | ALL_DROPPED => Err(End::Asked),
            // Events of the unit come as unit attentions as well; vendors' mean nothing here.
            _ => Ok(()),
        }
    }

    fn rejected(&mut self, header: &Header, rejected: &[u8]) -> Result<(), End> {
        const DATA_DIGEST: u8 = 0x02;
        let reason = header.byte(2);
        let code = rejected.first().map(|code| code & 0x3f);
        match code {
            // The command fails, and says so.
            Some(opcode::DATA_OUT) if reason == DATA_DIGEST => Ok(()),
            // Whoever says so is there.
            Some(opcode::NOP_OUT) if self.ping.take().is_some() => Ok(()),
            _ => Err(End::Protocol(format!(
                "it rejects what was sent (opcode {:#04x}, reason {reason:#04x})",
                code.unwrap_or(0xff)
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residuals_are_understood() {
        assert_eq!(wanted(512, 0, 7).ok(), Some(512));
        assert_eq!(wanted(512, UNDERFLOW, 512).ok(), Some(0));
        assert_eq!(wanted(512, OVERFLOW, u32::MAX).ok(), Some(512 + u64::from(u32::MAX)));
        assert!(
            wanted(512, UNDERFLOW, 513).is_err() && wanted(1, UNDERFLOW | OVERFLOW, 1).is_err()
        );
    }
}
