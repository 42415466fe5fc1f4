//! What fuzzers call: the bytes of a target, taken by an initiator with commands under way.
//!
//! The initiator's side works in the caller's thread, one turn at a time, over a pair of sockets.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::{Agent, Link};
use crate::fuzzing::Script;
use crate::iscsi::digest::Digests;
use crate::iscsi::initiator::dial::{self, Ended, Established};
use crate::iscsi::initiator::options::{Credentials, SessionOptions};
use crate::iscsi::initiator::port::{Letter, Port, RemoteQueue};
use crate::iscsi::initiator::session::Session;
use crate::iscsi::initiator::status::Known;
use crate::iscsi::initiator::url::IscsiUrl;
use crate::iscsi::names::IscsiName;
use crate::iscsi::negotiation::Agreed;
use crate::iscsi::pdu::{self, Decoded, HEADER_LEN, Header, NO_TAG, opcode};
use crate::iscsi::secrets::ChapSecrets;
use crate::scsi::fuzzing::management;

mod guest;
mod seeds;

use guest::Guest;
pub(crate) use seeds::seeds;

const INITIATOR: &str = "iqn.2026-01.example:one";
const URL: &str = "iscsi://127.0.0.1:1/iqn.2026-01.example:disk/0";
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
const STEPS_MAX: usize = 64;
const TURNS_MAX: usize = 1000;

/// The bits of the first byte: all bytes are the target's part of a login, perhaps with proof; else
/// what was agreed on.
const LOGIN: u8 = 0x01;
const HEADER_DIGEST: u8 = 0x02;
const DATA_DIGEST: u8 = 0x04;
const UNSOLICITED: u8 = 0x08;
const NO_IMMEDIATE: u8 = 0x10;
const SMALL: u8 = 0x20;
const PROOF: u8 = 0x40;

/// The upper bits of a step's first byte.
const HALVES: u8 = 0x10;
const MISNUMBERED: u8 = 0x20;
const CHANGED: u8 = 0x40;
const NO_TURN: u8 = 0x80;

/// Takes what the input says; says how many commands were completed.
pub(crate) fn run(input: &[u8]) -> Option<usize> {
    let mut script = Script::new(input);
    let flags = script.byte();
    let mut options = SessionOptions::new(IscsiName::new(INITIATOR).ok()?, [0x80, 0, 0, 0, 0, 1]);
    options.header_digest = flags & HEADER_DIGEST != 0;
    options.data_digest = flags & DATA_DIGEST != 0;
    options.limits.idle_time = Duration::from_secs(3600);
    options.limits.answer_time = Duration::from_secs(3600);
    if flags & LOGIN != 0 {
        return log_in(flags, options, &mut script);
    }
    let mut agreed = Agreed {
        initial_r2t: flags & UNSOLICITED == 0,
        immediate_data: flags & NO_IMMEDIATE == 0,
        outstanding_r2t: 4,
        ..Agreed::default()
    };
    agreed.digests = Digests { header: options.header_digest, data: options.data_digest };
    if flags & SMALL != 0 {
        (agreed.send_segment, agreed.first_burst, agreed.max_burst) = (512, 1024, 1024);
    }
    let mut rig = Rig::new(options, agreed)?;
    for token in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        rig.step(token as u64, &mut script)?;
    }
    Some(rig.end())
}

/// A login with all bytes of the target's there at once.
fn log_in(flags: u8, mut options: SessionOptions, script: &mut Script<'_>) -> Option<usize> {
    let url: IscsiUrl = URL.parse().ok()?;
    if flags & PROOF != 0 {
        let secrets = "joe:0123456789ab\niqn.2026-01.example:disk:ba9876543210";
        options.chap = Credentials::of(&ChapSecrets::parse(secrets, url.target()).ok()?);
    }
    let (mut target, socket) = UnixStream::pair().ok()?;
    target.write_all(script.bytes(usize::MAX)).ok()?;
    target.shutdown(Shutdown::Write).ok()?;
    let socket = TcpStream::from(OwnedFd::from(socket));
    let Ok(Ended::Begun(begun)) = dial::log_in_on(socket, PEER, &url, &options) else {
        return Some(0);
    };
    let agreed = begun.agreed;
    assert!(agreed.send_segment >= 512 && agreed.max_burst >= 512, "{agreed:?}");
    assert!(agreed.first_burst <= agreed.max_burst && agreed.outstanding_r2t > 0, "{agreed:?}");
    Some(1)
}

/// A command as the target has it.
struct Pending {
    tag: u32,
    expected: u32,
    /// Bytes of data that it was sent, and in how many PDUs.
    moved: u32,
    pdus: u32,
}

/// Both ends of the connection.
struct Rig {
    agent: Agent,
    guest: Guest,
    letters: Vec<Letter>,
    target: UnixStream,
    agreed: Agreed,
    /// To be sent to the initiator, and received and not looked at.
    bytes: Vec<u8>,
    received: Vec<u8>,
    is_last: bool,
    stat_sn: u32,
    cmd_sn: u32,
    commands: Vec<Pending>,
    functions: Vec<u32>,
    /// What all bytes that commands write are, by tag.
    fills: HashMap<u32, u8>,
}

fn pair() -> Option<(UnixStream, TcpStream)> {
    let (target, socket) = UnixStream::pair().ok()?;
    target.set_nonblocking(true).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((target, TcpStream::from(OwnedFd::from(socket))))
}

fn established(socket: TcpStream, agreed: &Agreed) -> Established {
    let agreed = agreed.clone();
    Established { socket, peer: PEER, agreed, cmd_sn: 1, exp_stat_sn: 1, max_cmd_sn: 32 }
}

impl Rig {
    fn new(options: SessionOptions, agreed: Agreed) -> Option<Rig> {
        let (target, socket) = pair()?;
        let port = Arc::new(Port::new(Known::new(PEER)).ok()?);
        let guest = Guest::new(RemoteQueue::new(Arc::clone(&port), 16).ok()?);
        let url = URL.parse().ok()?;
        Some(Rig {
            agent: Agent::new(url, options, port, established(socket, &agreed)),
            guest,
            letters: Vec::new(),
            target,
            agreed,
            bytes: Vec::new(),
            received: Vec::new(),
            is_last: false,
            stat_sn: 1,
            cmd_sn: 1,
            commands: Vec::new(),
            functions: Vec::new(),
            fills: HashMap::new(),
        })
    }

    /// Both ends work until there is nothing left to do.
    fn turn(&mut self) {
        for _ in 0..TURNS_MAX {
            self.guest.poll();
            if matches!(self.agent.link, Link::Down(_)) {
                // Nothing of this connection is of use any more.
                self.bytes.clear();
                return;
            }
            match self.target.write(&self.bytes) {
                Ok(count) => drop(self.bytes.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.bytes.clear(),
            }
            if self.is_last && self.bytes.is_empty() {
                let _ = self.target.shutdown(Shutdown::Write);
            }
            let Some(pause) = self.agent.turn(&mut self.letters) else { return };
            let came = self.take();
            if !pause.is_zero() && !came && self.bytes.is_empty() {
                return self.guest.poll();
            }
        }
        panic!("a session that never rests");
    }

    /// Takes what the initiator sent; whether there was anything.
    fn take(&mut self) -> bool {
        let mut part = [0; 4096];
        let before = self.received.len();
        while let Ok(count @ 1..) = self.target.read(&mut part) {
            self.received.extend_from_slice(&part[..count]);
        }
        let came = self.received.len() > before;
        let received = std::mem::take(&mut self.received);
        let mut at = 0;
        loop {
            match pdu::decode(&received[at..], self.agreed.digests, (1 << 24) - 1) {
                Ok(Decoded::Whole(pdu, len)) => {
                    self.look(&pdu.header, pdu.data);
                    at += len;
                }
                Ok(Decoded::Partial(_)) => break,
                Err(error) => panic!("the initiator sends what is no PDU: {error}"),
            }
        }
        self.received = received[at..].to_vec();
        came
    }

    fn look(&mut self, header: &Header, data: &[u8]) {
        let tag = header.task_tag();
        match header.opcode() {
            opcode::SCSI_COMMAND => {
                // The last byte of the CDB says what the data is.
                let fill = header.byte(47);
                assert!(data.iter().all(|&byte| byte == fill), "data of something else");
                self.cmd_sn = header.cmd_sn().wrapping_add(1);
                self.fills.insert(tag, fill);
                let moved = u32::try_from(data.len()).unwrap_or(u32::MAX);
                let expected = header.u32(20);
                self.commands.push(Pending { tag, expected, moved, pdus: 0 });
            }
            opcode::DATA_OUT => {
                let fill = self.fills.get(&tag).copied();
                assert!(data.iter().all(|&byte| Some(byte) == fill), "data of something else");
            }
            opcode::TASK_MANAGEMENT => self.functions.push(tag),
            _ => {}
        }
    }

    fn step(&mut self, token: u64, script: &mut Script<'_>) -> Option<()> {
        let kind = script.byte();
        match kind & 15 {
            0 | 1 => self.guest.submit(token, script, false),
            2 | 3 => self.guest.submit(token, script, true),
            4 => {
                let [what, tag] = script.array();
                self.guest.manage(token, management(what, tag.into()));
            }
            13 => {
                let count = usize::from(script.byte());
                self.push(script.bytes(count), true);
            }
            14 => self.happen(script.byte())?,
            15 => {}
            _ => self.answer(kind, script),
        }
        if kind & NO_TURN == 0 {
            self.turn();
        }
        Some(())
    }

    /// What else happens to sessions.
    fn happen(&mut self, what: u8) -> Option<()> {
        match what & 3 {
            0 => drop(self.target.shutdown(Shutdown::Write)),
            1 => {
                // It would wait for a farewell.
                let _ = self.target.shutdown(Shutdown::Both);
                // Not by a letter, after which it would dial at once.
                self.agent.lose_nexus();
            }
            2 => {
                self.guest.forget();
            }
            _ => {}
        }
        if what & 4 != 0 && matches!(self.agent.link, Link::Down(_)) {
            let (target, socket) = pair()?;
            let begun = established(socket, &self.agreed);
            let session = Session::new(begun, &self.agent.options.limits, 0);
            self.agent.link = Link::Up(Box::new(session));
            (self.target, self.stat_sn, self.is_last) = (target, 1, false);
            (self.bytes, self.received) = (Vec::new(), Vec::new());
            self.commands.clear();
            self.functions.clear();
        }
        Some(())
    }

    /// A PDU of the target's.
    fn answer(&mut self, kind: u8, script: &mut Script<'_>) {
        let [which, a, b, c] = script.array();
        let at = usize::from(which & 0x3f) % self.commands.len().max(1);
        let mut data = Vec::new();
        let known = self.commands.get_mut(at);
        let tag = known.as_ref().map_or(u32::from(which), |known| known.tag);
        let mut is_over = false;
        let mut header = match kind & 15 {
            5 => {
                let mut header = Header::new(opcode::DATA_IN, c & 0x87);
                let left =
                    known.as_ref().map_or(0, |known| known.expected.saturating_sub(known.moved));
                // All that is left, or so much.
                let len = if b & 1 == 0 { left } else { u32::from(a) * 4 };
                data.resize(usize::try_from(len.min(1 << 16)).unwrap_or(0), a);
                if let Some(known) = known {
                    header.set_u32(36, known.pdus).set_u32(40, known.moved);
                    known.pdus += 1;
                    known.moved = known.moved.saturating_add(len.min(1 << 16));
                }
                header.set(3, &[b & 0xfe]);
                is_over = c & 1 != 0;
                header
            }
            6 => {
                let mut header = Header::new(opcode::SCSI_RESPONSE, 0x80 | c & 6);
                header.set(2, &[a >> 7, a & 0x7e]).set_u32(44, b.into());
                if a & 1 != 0 {
                    data = [&[0, b][..], &vec![0x70; b.into()]].concat();
                }
                if c & 6 == 2 && c & 8 != 0 {
                    let left = known.map_or(0, |known| known.expected.saturating_sub(known.moved));
                    header.set_u32(44, left);
                }
                is_over = true;
                header
            }
            7 => {
                let mut header = Header::new(opcode::R2T, 0x80);
                let left =
                    known.as_ref().map_or(0, |known| known.expected.saturating_sub(known.moved));
                let len = if b & 1 == 0 { left.min(1024) } else { u32::from(b) * 8 };
                header.set_u32(20, a.into()).set_u32(44, len);
                if let Some(known) = known {
                    header.set_u32(36, known.pdus).set_u32(40, known.moved);
                    known.pdus += 1;
                    known.moved = known.moved.saturating_add(len);
                }
                header
            }
            8 => {
                let mut header = Header::new(opcode::TASK_MANAGEMENT_RESPONSE, 0x80);
                header.set(2, &[a]);
                header
            }
            9 => {
                data.resize(usize::from(b) << (c & 7), c);
                let mut header = Header::new(opcode::NOP_IN, 0x80);
                header.set_u32(20, if a & 1 == 0 { a.into() } else { NO_TAG });
                header
            }
            10 => {
                let mut header = Header::new(opcode::ASYNC, 0x80);
                header.set(36, &[a & 7]).set_u16(42, b.into());
                header
            }
            11 => {
                let mut header = Header::new(opcode::REJECT, 0x80);
                header.set(2, &[a]);
                data = vec![b; HEADER_LEN];
                header
            }
            _ => {
                let mut header = Header::new(0, 0);
                header.set(0, &script.array::<HEADER_LEN>());
                header
            }
        };
        let tag = match kind & 15 {
            8 if !self.functions.is_empty() => self.functions.remove(0),
            9..=11 => NO_TAG,
            _ => tag,
        };
        if kind & 15 != 12 {
            header.set_u32(16, tag);
        }
        if is_over && at < self.commands.len() {
            self.commands.remove(at);
        }
        let has_number = matches!(kind & 15, 6 | 8 | 10 | 11) || kind & 15 == 5 && is_over;
        let stat_sn = self.stat_sn.wrapping_add(u32::from(kind & MISNUMBERED != 0));
        self.stat_sn = self.stat_sn.wrapping_add(has_number.into());
        header.set_u32(24, stat_sn).set_u32(28, self.cmd_sn);
        header.set_u32(32, self.cmd_sn.wrapping_add(32));
        let mut bytes = Vec::new();
        if kind & CHANGED != 0 {
            let [place, value, later, change] = script.array();
            header.set(usize::from(place) % HEADER_LEN, &[value]);
            pdu::push(&mut bytes, &mut header, &data, self.agreed.digests);
            if let Some(byte) = bytes.get_mut(usize::from(later)) {
                *byte ^= change;
            }
        } else {
            pdu::push(&mut bytes, &mut header, &data, self.agreed.digests);
        }
        if kind & HALVES != 0 && kind & NO_TURN == 0 {
            let later = bytes.split_off(usize::from(which).min(bytes.len()));
            self.push(&bytes, kind & CHANGED != 0);
            self.turn();
            bytes = later;
        }
        self.push(&bytes, kind & CHANGED != 0);
    }

    /// Has bytes sent, which perhaps are not what they seem. After what may ask for the end of the
    /// session nothing more comes: the initiator would wait for it.
    fn push(&mut self, bytes: &[u8], is_wild: bool) {
        let asks = |byte: &u8| byte & 0x3f == opcode::ASYNC;
        self.is_last |= bytes.first().is_some_and(asks) || is_wild && bytes.iter().any(asks);
        self.bytes.extend_from_slice(bytes);
    }

    /// The end of all; says how many commands were completed.
    fn end(self) -> usize {
        let Rig { agent, letters, mut guest, .. } = self;
        guest.poll();
        agent.port.close();
        drop((agent, letters));
        guest.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_taken() {
        let completed: Vec<usize> = seeds().iter().map(|seed| run(seed).unwrap()).collect();
        assert!(completed.iter().sum::<usize>() > 20, "{completed:?}");
    }
}
