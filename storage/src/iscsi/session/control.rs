//! What keeps a session in order: pings, text, logout, rejections, the server's farewell.

use std::time::{Duration, Instant};

use super::{End, Scsi, Session};
use crate::iscsi::keys::{self, Gathered};
use crate::iscsi::login::PORTAL_GROUP;
use crate::iscsi::negotiation::is_answer;
use crate::iscsi::pdu::{self, Header, Pdu, Reason, opcode};
use crate::iscsi::poller::Order;

/// Most bytes of text in one exchange.
const TEXT_MAX: usize = 16 << 10;

/// Whether the initiator is there.
#[derive(Debug)]
pub(super) struct Ping {
    /// When a PDU of its came last.
    heard: bool,
    heard_at: Instant,
    asked_at: Option<Instant>,
}

impl Ping {
    pub(super) fn new() -> Ping {
        Ping { heard: false, heard_at: Instant::now(), asked_at: None }
    }

    /// It sent something.
    pub(super) fn heard(&mut self) {
        self.heard = true;
    }
}

/// An exchange of text.
#[derive(Debug)]
pub(super) struct Text {
    gathered: Gathered,
    /// What did not fit into the last answer.
    pending: Vec<u8>,
    /// The tag of the exchange, while it goes on.
    transfer: Option<u32>,
}

impl Default for Text {
    fn default() -> Text {
        Text { gathered: Gathered::new(TEXT_MAX), pending: Vec::new(), transfer: None }
    }
}

impl Session<'_> {
    /// Asks a silent initiator whether it is there. Says how long nothing is to be done about it.
    pub(super) fn ping_due(&mut self, now: Instant) -> Result<Duration, End> {
        let (idle, patience) = (self.limits().idle_time, self.limits().answer_time);
        if std::mem::take(&mut self.ping.heard) {
            self.ping.heard_at = now;
            self.ping.asked_at = None;
        }
        let since = |then: Instant| now.saturating_duration_since(then);
        if let Some(asked_at) = self.ping.asked_at {
            if !self.output.is_empty() {
                // It has not got the question yet.
                self.ping.asked_at = Some(now);
                return Ok(patience);
            }
            let left = patience.saturating_sub(since(asked_at));
            return if left.is_zero() { Err(End::Silent) } else { Ok(left) };
        }
        let left = idle.saturating_sub(since(self.ping.heard_at));
        if !left.is_zero() {
            return Ok(left);
        }
        self.ping.asked_at = Some(now);
        let mut header = Header::new(opcode::NOP_IN, 0x80);
        header.set_u32(16, pdu::NO_TAG).set_u32(20, self.new_transfer_tag());
        self.number(&mut header, false);
        let on = self.digests();
        self.output.push(&mut header, &[], on);
        Ok(Duration::ZERO)
    }

    /// Answers a ping. One without a tag is the answer to ours, or wants none.
    pub(super) fn nop_out(&mut self, header: &Header, data: &[u8]) {
        if header.task_tag() == pdu::NO_TAG {
            return;
        }
        let most = usize::try_from(self.agreed.send_segment).unwrap_or(usize::MAX);
        let mut answer = Header::new(opcode::NOP_IN, 0x80);
        answer.set(8, &header.lun().to_be_bytes()).set_u32(16, header.task_tag());
        answer.set_u32(20, pdu::NO_TAG);
        self.send(answer, data.get(..most).unwrap_or(data));
    }

    /// Takes text (RFC 7143 section 11.10): what targets there are is all that can be asked.
    pub(super) fn text_request(&mut self, request: &Pdu<'_>) -> Result<(), End> {
        let header = &request.header;
        let (is_last, goes_on) = (header.flags() & 0x80 != 0, header.flags() & 0x40 != 0);
        if is_last && goes_on {
            return Err(self.offence(header, Reason::Protocol, "text that ends and goes on"));
        }
        if header.transfer_tag() == pdu::NO_TAG {
            // A new exchange ends one that was left.
            self.text = Text::default();
        } else if self.text.transfer != Some(header.transfer_tag()) {
            return Err(self.offence(header, Reason::Protocol, "text of no exchange"));
        }
        if self.text.pending.is_empty() {
            if let Err(error) = self.text.gathered.add(request.data) {
                return Err(self.offence(header, Reason::Protocol, &error.to_string()));
            }
            if goes_on {
                self.text_response(header, 0, &[]);
                return Ok(());
            }
            let text = self.text.gathered.take();
            let pairs = match keys::pairs(&text) {
                Ok(pairs) => pairs,
                Err(error) => {
                    return Err(self.offence(header, Reason::Protocol, &error.to_string()));
                }
            };
            self.text.pending = self.text_answer(&pairs);
        }
        let most = usize::try_from(self.agreed.send_segment).unwrap_or(usize::MAX);
        let part = self.text.pending.len().min(most);
        let rest = self.text.pending.split_off(part);
        let text = std::mem::replace(&mut self.text.pending, rest);
        let flags = match (self.text.pending.is_empty(), is_last) {
            (false, _) => 0x40,
            (true, true) => 0x80,
            (true, false) => 0,
        };
        self.text_response(header, flags, &text);
        Ok(())
    }

    fn text_response(&mut self, request: &Header, flags: u8, text: &[u8]) {
        let goes_on = flags & 0x80 == 0;
        let transfer = match self.text.transfer {
            _ if !goes_on => None,
            Some(transfer) => Some(transfer),
            None => Some(self.new_transfer_tag()),
        };
        self.text.transfer = transfer;
        let mut answer = Header::new(opcode::TEXT_RESPONSE, flags);
        answer.set(8, &request.lun().to_be_bytes()).set_u32(16, request.task_tag());
        answer.set_u32(20, transfer.unwrap_or(pdu::NO_TAG));
        self.send(answer, text);
    }

    fn text_answer(&mut self, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        let target = self.shared.policy.target.as_str();
        for &(key, value) in pairs {
            match key {
                "SendTargets" => {
                    // All is for discovery only (RFC 7143 appendix C).
                    let named = value.is_empty() || value.eq_ignore_ascii_case(target);
                    match value {
                        "All" if !self.discovery => keys::push(&mut out, key, "Reject"),
                        "All" => self.push_target(&mut out),
                        _ if named => self.push_target(&mut out),
                        _ => {}
                    }
                }
                "MaxRecvDataSegmentLength" => {
                    let length = keys::number(value).filter(|n| (512..1 << 24).contains(n));
                    match length {
                        Some(length) => self.agreed.send_segment = length,
                        None => keys::push(&mut out, key, "Reject"),
                    }
                }
                _ if is_answer(value) => {}
                _ => keys::push(&mut out, key, "NotUnderstood"),
            }
        }
        out
    }

    /// The target and where to reach it.
    fn push_target(&self, out: &mut Vec<u8>) {
        keys::push(out, "TargetName", self.shared.policy.target.as_str());
        let mut named = Vec::new();
        for &address in &self.shared.addresses {
            // "All addresses" is none that an initiator could go to: the one it came to is.
            let address = match address.ip().is_unspecified() {
                true => self.local,
                false => address,
            };
            if !named.contains(&address) {
                keys::push(out, "TargetAddress", &format!("{address},{PORTAL_GROUP}"));
                named.push(address);
            }
        }
    }

    pub(super) fn logout(&mut self, header: &Header) -> Result<(), End> {
        let reason = header.flags() & 0x7f;
        let response = match reason {
            0 => 0,
            1 if header.u16(20) == self.connection => 0,
            1 => 1,
            _ => 2,
        };
        let mut answer = Header::new(opcode::LOGOUT_RESPONSE, 0x80);
        answer.set(2, &[response]).set_u32(16, header.task_tag()).set_u16(40, 2);
        self.send(answer, &[]);
        if response == 0 { Err(End::Logout) } else { Ok(()) }
    }

    /// Says that a PDU is not taken (RFC 7143 section 11.17).
    pub(super) fn reject(&mut self, rejected: &Header, reason: Reason) {
        let mut header = Header::new(opcode::REJECT, 0x80);
        header.set(2, &[reason as u8]).set_u32(16, pdu::NO_TAG);
        self.send(header, rejected.bytes());
    }

    /// The same, and it ends the session.
    pub(super) fn offence(&mut self, rejected: &Header, reason: Reason, why: &str) -> End {
        self.reject(rejected, reason);
        End::Protocol(why.to_owned())
    }

    /// Tells the initiator that the session ends for no fault of its own: commands at a disk are
    /// carried out and answered, and an asynchronous message says the rest (RFC 7143
    /// section 11.9: event 3, all connections of the session are dropped).
    pub(super) fn take_leave(&mut self, order: Order) {
        self.waiting.clear();
        if let Some(Scsi { queue, .. }) = &mut self.scsi {
            let mut done = std::mem::take(&mut self.done);
            if order == Order::Stop || !self.functions.is_empty() {
                queue.drain(&mut done);
            }
            for (token, response) in done {
                self.finish(token, &response);
            }
            self.settle();
        }
        let mut header = Header::new(opcode::ASYNC, 0x80);
        header.set_u32(16, pdu::NO_TAG).set(36, &[3]).set_u16(40, 2);
        self.send(header, &[]);
    }
}
