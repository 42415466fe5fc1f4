//! What fuzzers call: the bytes of an initiator, taken by a connection from login to its end.
//!
//! The server's side works in the caller's thread, one turn at a time, over a pair of sockets. So
//! an input always does the same, and answers can be looked at in between.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::{EARLY_MAX, End, IMMEDIATE_MAX, OUTPUT_MAX, Session};
use crate::fuzzing::Script;
use crate::iscsi::connection;
use crate::iscsi::digest::Digests;
use crate::iscsi::input::Input;
use crate::iscsi::keys;
use crate::iscsi::limits::ServerLimits;
use crate::iscsi::login::{LOGIN_SEGMENT, Policy};
use crate::iscsi::names::IscsiName;
use crate::iscsi::output::Output;
use crate::iscsi::pdu::{self, Decoded, HEADER_LEN, Header, NO_TAG, opcode};
use crate::iscsi::poller::{Bell, Pace, Poller};
use crate::iscsi::server::Shared;
use crate::scsi::fuzzing::{self as commands, Described};

mod seeds;

pub(crate) use seeds::seeds;

const TARGET: &str = "iqn.2026-01.example:disk";
const INITIATOR: &str = "iqn.2026-01.example:one";
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
const FIRST_COMMAND: u32 = 100;
const STEPS_MAX: usize = 64;
/// Turns without a pause for one step of the initiator's.
const TURNS_MAX: usize = 1000;

/// The bits of the first byte: all bytes are the initiator's, login included; else how to log in.
const WILD: u8 = 0x01;
const HEADER_DIGEST: u8 = 0x02;
const DATA_DIGEST: u8 = 0x04;
const UNSOLICITED: u8 = 0x08;
const NO_IMMEDIATE: u8 = 0x10;
const DISCOVERY: u8 = 0x20;
const SMALL: u8 = 0x40;

/// The upper bits of a step's first byte.
const IMMEDIATE: u8 = 0x10;
const AHEAD: u8 = 0x20;
const CHANGED: u8 = 0x40;
const TURN: u8 = 0x80;

/// Serves what the input says; says how many commands ended with GOOD.
pub(crate) fn run(input: &[u8]) -> Option<usize> {
    let (target, _media) = commands::target(None, false)?;
    let limits = ServerLimits {
        commands: 8,
        // Nothing ends because the host is busy; an initiator that says no more has closed.
        login_time: Duration::from_secs(3600),
        idle_time: Duration::from_secs(3600),
        answer_time: Duration::from_secs(3600),
        ..ServerLimits::default()
    };
    let policy =
        Policy { target: IscsiName::new(TARGET).ok()?, chap: None, limits: limits.in_range() };
    let shared = Arc::new(Shared::new(target, policy, vec![LOCAL]));
    let mut script = Script::new(input);
    let flags = script.byte();
    let mut client = Client::new(flags);
    if flags & WILD != 0 {
        client.is_wild = true;
        client.bytes = script.bytes(usize::MAX).to_vec();
    } else {
        client.log_in(1);
    }
    connect(&shared, &mut client, &mut script)?;
    let good = client.good;
    // Whatever the first one did, the next one is served.
    let mut next = Client::new(0);
    next.log_in(2);
    let steps = [0, 0, 0, 0, 0, 0, 0, 0, 0, 15];
    connect(&shared, &mut next, &mut Script::new(&steps))?;
    assert_eq!(next.answers, 1, "a well-behaved initiator is not answered");
    Some(good)
}

/// One connection, from its first byte to its last.
fn connect(shared: &Arc<Shared>, client: &mut Client, script: &mut Script<'_>) -> Option<()> {
    let (ours, socket) = UnixStream::pair().ok()?;
    ours.set_nonblocking(true).ok()?;
    socket.set_nonblocking(true).ok()?;
    let socket = TcpStream::from(OwnedFd::from(socket));
    let place = shared.registry.connect(Bell::new().ok()?, 4)?;
    let mut poller = Poller::new(&socket, &place.bell).ok()?;
    let mut input = Input::new(LOGIN_SEGMENT);
    let mut output = Output::default();
    client.send(&ours);
    if client.is_wild {
        let _ = ours.shutdown(Shutdown::Write);
    }
    let both = (&mut input, &mut output);
    let Ok(Some((admitted, seat))) =
        connection::log_in(shared, (&socket, LOCAL), &place, &mut poller, both)
    else {
        assert!(client.is_wild, "a login that is in order is refused");
        return Some(());
    };
    input.set_limit(shared.policy.limits.receive_segment);
    let mut session = Session::new(shared, &admitted, &seat, (LOCAL, output)).ok()?;
    client.on = admitted.agreed.digests;
    let mut serve = |client: &mut Client| -> Result<(), End> {
        let mut pace = Pace::new();
        for _ in 0..TURNS_MAX {
            client.send(&ours);
            pace.readable = true;
            let pause = session.turn(&socket, &place, &mut input, &mut pace)?;
            session.check_bounds();
            let came = client.take(&ours);
            if !pause.is_zero() && !came && client.bytes.is_empty() {
                return Ok(());
            }
        }
        panic!("a session that never rests");
    };
    let mut end = serve(client);
    for _ in 0..STEPS_MAX {
        if end.is_err() || script.is_over() {
            break;
        }
        let turn = client.step(script);
        if turn || script.is_over() {
            end = serve(client);
        }
    }
    let _ = session.output().flush(&mut &socket);
    client.take(&ours);
    session.end();
    Some(())
}

impl Session<'_> {
    /// What a client can have the session keep is bounded.
    fn check_bounds(&self) {
        let limits = self.limits();
        let most = usize::from(limits.commands) + IMMEDIATE_MAX as usize;
        assert!(self.tasks.len() <= 2 * most, "{} tasks", self.tasks.len());
        assert!(self.early_bytes <= EARLY_MAX && self.early.len() <= most, "early PDUs");
        assert!(self.used <= limits.session_bytes, "{} bytes of data", self.used);
        let more = limits.command_bytes + (1 << 20);
        assert!(self.output.queued() <= OUTPUT_MAX + more, "{} queued", self.output.queued());
    }
}

/// What the server asked for.
struct Asked {
    task: u32,
    transfer: u32,
    offset: u32,
    len: u32,
}

/// The initiator's side.
struct Client {
    flags: u8,
    on: Digests,
    /// To be sent, and received and not looked at.
    bytes: Vec<u8>,
    received: Vec<u8>,
    cmd_sn: u32,
    next_tag: u32,
    /// The data of commands, by tag.
    data: HashMap<u32, Vec<u8>>,
    asked: Vec<Asked>,
    /// Commands sent and not answered, by tag.
    open: HashMap<u32, u32>,
    /// What was sent is not all known to be PDUs.
    is_wild: bool,
    answers: usize,
    good: usize,
}

impl Client {
    fn new(flags: u8) -> Client {
        Client {
            flags,
            on: Digests::default(),
            bytes: Vec::new(),
            received: Vec::new(),
            cmd_sn: FIRST_COMMAND,
            next_tag: 1,
            data: HashMap::new(),
            asked: Vec::new(),
            open: HashMap::new(),
            is_wild: false,
            answers: 0,
            good: 0,
        }
    }

    /// A login that is in order.
    fn log_in(&mut self, port: u8) {
        let mut text = Vec::new();
        let yes = |flag: u8| self.flags & flag != 0;
        let mut pairs = vec![("InitiatorName", INITIATOR)];
        pairs.push(match yes(DISCOVERY) {
            true => ("SessionType", "Discovery"),
            false => ("TargetName", TARGET),
        });
        pairs.push(("HeaderDigest", if yes(HEADER_DIGEST) { "CRC32C" } else { "None" }));
        pairs.push(("DataDigest", if yes(DATA_DIGEST) { "CRC32C" } else { "None" }));
        pairs.push(("InitialR2T", if yes(UNSOLICITED) { "No" } else { "Yes" }));
        pairs.push(("ImmediateData", if yes(NO_IMMEDIATE) { "No" } else { "Yes" }));
        if yes(SMALL) {
            pairs.push(("MaxRecvDataSegmentLength", "512"));
            pairs.push(("MaxBurstLength", "1024"));
            pairs.push(("MaxOutstandingR2T", "4"));
        }
        pairs.iter().for_each(|(key, value)| keys::push(&mut text, key, value));
        let mut header = Header::new(opcode::LOGIN | 0x40, 0x87);
        header.set(8, &[0x80, 0, 0, 0, 0, port]).set_u32(16, 7).set_u16(20, 1);
        header.set_u32(24, self.cmd_sn);
        pdu::push(&mut self.bytes, &mut header, &text, Digests::default());
    }

    /// Sends as much as there is room for.
    fn send(&mut self, mut socket: &UnixStream) {
        match socket.write(&self.bytes) {
            Ok(count) => drop(self.bytes.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.bytes.clear(),
        }
    }

    /// Takes what the server sent; whether there was anything.
    fn take(&mut self, mut socket: &UnixStream) -> bool {
        let mut part = [0; 4096];
        let before = self.received.len();
        while let Ok(count @ 1..) = socket.read(&mut part) {
            self.received.extend_from_slice(&part[..count]);
        }
        let came = self.received.len() > before;
        if self.is_wild {
            self.received.clear();
        }
        loop {
            let received = std::mem::take(&mut self.received);
            // The answer to the login has no digests.
            let is_login = received.first() == Some(&opcode::LOGIN_RESPONSE);
            let on = if is_login { Digests::default() } else { self.on };
            match pdu::decode(&received, on, (1 << 24) - 1) {
                Ok(Decoded::Whole(pdu, len)) => {
                    let header = pdu.header;
                    self.look(&header);
                    self.received = received[len..].to_vec();
                }
                Ok(Decoded::Partial(_)) => {
                    self.received = received;
                    return came;
                }
                Err(error) => panic!("the server sends what is no PDU: {error}"),
            }
        }
    }

    fn look(&mut self, header: &Header) {
        let ends = match header.opcode() {
            opcode::SCSI_RESPONSE => true,
            opcode::DATA_IN => header.flags() & 1 != 0,
            opcode::R2T => {
                self.asked.push(Asked {
                    task: header.task_tag(),
                    transfer: header.transfer_tag(),
                    offset: header.u32(40),
                    len: header.u32(44),
                });
                false
            }
            _ => false,
        };
        if ends {
            self.answers += 1;
            self.good += usize::from(header.byte(3) == 0);
            let open = self.open.get_mut(&header.task_tag()).filter(|open| **open > 0);
            match open {
                Some(open) => *open -= 1,
                None => assert!(self.is_wild, "an answer to no command"),
            }
        }
    }

    /// Adds what the next step of the script is to what is to be sent; whether the server has its
    /// turn then.
    fn step(&mut self, script: &mut Script<'_>) -> bool {
        let kind = script.byte();
        let mut data = Vec::new();
        let header = match kind & 15 {
            0..=5 => Some(self.command(script, &mut data)),
            6 | 7 => self.data_out(script, &mut data),
            8 => Some(management(script)),
            9 => Some(self.nop(script, &mut data)),
            10 => Some(text(script, &mut data)),
            11 => {
                let mut header = Header::new(opcode::LOGOUT, 0x80 | script.byte() & 3);
                header.set_u32(16, 0x700).set_u16(20, 1);
                Some(header)
            }
            12 => {
                let mut header = Header::new(opcode::SNACK, 0x80 | script.byte() & 15);
                header.set_u32(16, script.byte().into()).set_u32(20, NO_TAG);
                Some(header)
            }
            13 => {
                let mut header = Header::new(0, 0);
                header.set(0, &script.array::<HEADER_LEN>());
                let count = usize::from(script.byte());
                data = script.bytes(count).to_vec();
                Some(header)
            }
            14 => {
                let count = usize::from(script.byte());
                self.bytes.extend_from_slice(script.bytes(count));
                self.is_wild = true;
                None
            }
            _ => None,
        };
        if let Some(header) = header {
            self.push(kind, header, &data, script);
        }
        kind & TURN != 0 || kind & 15 == 15
    }

    /// Numbers a PDU, changes it if that is wanted, and adds it to what is to be sent.
    fn push(&mut self, kind: u8, mut header: Header, data: &[u8], script: &mut Script<'_>) {
        let is_numbered = !matches!(header.opcode(), opcode::DATA_OUT | opcode::SNACK);
        if kind & 15 != 13 {
            if kind & IMMEDIATE != 0 && is_numbered {
                header.set(0, &[header.byte(0) | 0x40]);
            }
            header.set_u32(24, self.cmd_sn.wrapping_add(u32::from(kind & AHEAD != 0)));
        }
        let mut bytes = Vec::new();
        if kind & CHANGED != 0 {
            let [place, value] = script.array();
            header.set(usize::from(place) % HEADER_LEN, &[value]);
            pdu::push(&mut bytes, &mut header, data, self.on);
            let [place, value] = script.array::<2>();
            if let Some(byte) = bytes.get_mut(usize::from(place)).filter(|_| value != 0) {
                // A digest or a length may be wrong now.
                *byte ^= value;
                self.is_wild = true;
            }
        } else {
            pdu::push(&mut bytes, &mut header, data, self.on);
        }
        if header.ahs_len() > 0 {
            self.is_wild = true;
        }
        if is_numbered && !header.is_immediate() && kind & AHEAD == 0 {
            self.cmd_sn = self.cmd_sn.wrapping_add(1);
        }
        if header.opcode() == opcode::SCSI_COMMAND {
            *self.open.entry(header.task_tag()).or_default() += 1;
        }
        self.bytes.extend_from_slice(&bytes);
    }

    fn command(&mut self, script: &mut Script<'_>, data: &mut Vec<u8>) -> Header {
        let [flags, code] = script.array();
        let described = Described::read(code.min(commands::MANAGE - 1), script, &[]);
        let out = described.data_out;
        let mut header = Header::new(opcode::SCSI_COMMAND, flags >> 1 & 7);
        let tag = self.next_tag;
        self.next_tag += 1;
        let expected = if out.is_empty() { described.room } else { out.len() };
        header.set(8, &commands::lun(flags >> 6, flags).to_be_bytes()).set_u32(16, tag);
        header.set_u32(20, u32::try_from(expected).unwrap_or(0)).set(32, &described.cdb[..16]);
        let mut bits = header.flags();
        if flags & 1 == 0 {
            bits |= 0x80;
        }
        if !out.is_empty() {
            bits |= 0x20;
            let now = match flags >> 4 & 3 {
                0 => out.len().min(8192),
                1 => 0,
                2 => out.len() / 2,
                _ => out.len() / 2 / 512 * 512,
            };
            data.extend_from_slice(&out[..now]);
            self.data.insert(tag, out);
        } else if described.room > 0 {
            bits |= 0x40;
        }
        header.set(1, &[bits]);
        header
    }

    /// Data that was asked for, or any.
    fn data_out(&mut self, script: &mut Script<'_>, data: &mut Vec<u8>) -> Option<Header> {
        let how = script.byte();
        let mut header = Header::new(opcode::DATA_OUT, 0x80);
        if how & 0x80 == 0 {
            if self.asked.is_empty() {
                return None;
            }
            let Asked { task, transfer, offset, len } =
                self.asked.swap_remove(usize::from(how) % self.asked.len());
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let all = self.data.get(&task).and_then(|all| all.get(from..)).unwrap_or_default();
            let count = all.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            data.extend_from_slice(&all[..count]);
            header.set_u32(16, task).set_u32(20, transfer).set_u32(40, offset);
            return Some(header);
        }
        let [tag, transfer, number, last] = script.array();
        header.set(1, &[if last & 1 == 0 { 0x80 } else { 0 }]);
        let transfer = if transfer & 0x80 == 0 { u32::from(transfer) } else { NO_TAG };
        header.set_u32(16, tag.into()).set_u32(20, transfer).set_u32(36, number.into());
        header.set_u32(40, u32::from(how & 0x7f) * 256);
        data.resize(usize::from(last) * 16, last);
        Some(header)
    }

    fn nop(&mut self, script: &mut Script<'_>, data: &mut Vec<u8>) -> Header {
        let [how, len] = script.array();
        let mut header = Header::new(opcode::NOP_OUT, 0x80);
        header.set_u32(16, if how & 1 == 0 { 0x600 } else { NO_TAG });
        header.set_u32(20, if how & 2 == 0 { NO_TAG } else { how.into() });
        data.resize(usize::from(len) << (how >> 4), 0x11);
        header
    }
}

fn management(script: &mut Script<'_>) -> Header {
    let [function, tag, number] = script.array();
    let mut header = Header::new(opcode::TASK_MANAGEMENT, 0x80 | function & 15);
    header.set(8, &commands::lun(function >> 4, 9).to_be_bytes()).set_u32(16, 0x800);
    let number = FIRST_COMMAND.wrapping_add(number.into());
    header.set_u32(20, tag.into()).set_u32(32, number);
    header
}

fn text(script: &mut Script<'_>, data: &mut Vec<u8>) -> Header {
    let [how, len] = script.array();
    let mut header = Header::new(opcode::TEXT, how & 0xc0);
    let transfer = if how & 1 == 0 { NO_TAG } else { (how >> 1 & 7).into() };
    header.set_u32(16, 0x500).set_u32(20, transfer);
    if how & 0x20 == 0 {
        keys::push(data, "SendTargets", if how & 0x10 == 0 { "All" } else { "" });
    }
    data.extend_from_slice(script.bytes(len.into()));
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_served() {
        let good: Vec<usize> = seeds().iter().map(|seed| run(seed).unwrap()).collect();
        assert!(good.iter().sum::<usize>() > 30, "{good:?}");
    }
}
