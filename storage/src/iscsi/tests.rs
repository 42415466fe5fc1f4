//! Sessions over the loopback interface with a small initiator of our own, which can do wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::digest::Digests;
use super::keys;
use super::pdu::{self, Decoded, Header, NO_TAG, opcode};
use super::{IscsiName, Server, ServerLimits, ServerOptions};
use crate::reservation::Reservations;
use crate::scsi::{Target, UnitOptions};
use crate::testkit::WRITABLE;
use crate::{Bytes, Disk};

mod faults;
mod login;
mod memory;
mod sessions;
mod transfers;

pub(super) const TARGET: &str = "iqn.2026-01.org.example:disk";
pub(super) const INITIATOR: &str = "iqn.2026-01.org.example:one";
pub(super) const BLOCK: usize = 512;

/// A target with two scratch disks.
pub(super) fn target() -> Target {
    let unit = |lun: u32| UnitOptions {
        disk: Disk::scratch(Bytes::new(16 << 20), &WRITABLE).unwrap(),
        identity: format!("test disk {lun}"),
        reservations: Reservations::default(),
    };
    Target::new(vec![unit(0), unit(1)], None).unwrap()
}

pub(super) fn options() -> ServerOptions {
    ServerOptions::on_loopback(IscsiName::new(TARGET).unwrap())
}

pub(super) fn server() -> Server {
    serve(options())
}

fn serve(options: ServerOptions) -> Server {
    Server::bind(target(), options).unwrap()
}

fn with_limits(limits: ServerLimits) -> Server {
    serve(ServerOptions { limits, ..options() })
}

/// An initiator with one connection.
struct Initiator {
    socket: TcpStream,
    received: Vec<u8>,
    digests: Digests,
    isid: [u8; 6],
    cmd_sn: u32,
    exp_stat_sn: u32,
    /// Up to which number commands may be sent.
    max_cmd_sn: u32,
    next_tag: u32,
    first_burst: usize,
    segment: usize,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    status: u8,
    data: Vec<u8>,
    sense: Vec<u8>,
    /// Overflow and underflow.
    flags: u8,
    residual: u32,
}

impl Ended {
    fn asc(&self) -> (u8, u8) {
        match self.sense.get(2..14) {
            Some(sense) => (sense[0] & 15, sense[10]),
            None => (0, 0),
        }
    }
}

impl Initiator {
    fn connect(server: &Server) -> Initiator {
        Initiator::connect_to(server.addresses()[0])
    }

    fn connect_to(address: SocketAddr) -> Initiator {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Initiator {
            socket,
            received: Vec::new(),
            digests: Digests::default(),
            isid: [0x80, 0, 0, 0, 0, 1],
            cmd_sn: 100,
            exp_stat_sn: 0,
            max_cmd_sn: 100,
            next_tag: 1,
            first_burst: 65_536,
            segment: 8192,
        }
    }

    /// Logged in with the usual keys and these.
    fn logged_in(server: &Server, more: &[(&str, &str)]) -> Initiator {
        let mut initiator = Initiator::connect(server);
        initiator.log_in(more).unwrap();
        initiator
    }

    /// Logs in without security; says what was answered, or the failure's status.
    fn log_in(&mut self, more: &[(&str, &str)]) -> Result<Vec<(String, String)>, u16> {
        let names = [("InitiatorName", INITIATOR), ("TargetName", TARGET)];
        let pairs: Vec<_> = names.into_iter().chain(more.iter().copied()).collect();
        let (header, text) = self.login_step(1, Some(3), &pairs);
        let status = header.u16(36);
        if status != 0 {
            return Err(status);
        }
        assert_eq!(header.flags(), 0x87, "in the full feature phase");
        assert_ne!(header.u16(14), 0, "a session has a number");
        let answers = texts(&text);
        for (key, value) in &answers {
            match (key.as_str(), value.as_str()) {
                ("HeaderDigest", kind) => self.digests.header = kind == "CRC32C",
                ("DataDigest", kind) => self.digests.data = kind == "CRC32C",
                ("FirstBurstLength", length) => self.first_burst = length.parse().unwrap(),
                ("MaxRecvDataSegmentLength", length) => self.segment = length.parse().unwrap(),
                _ => {}
            }
        }
        Ok(answers)
    }

    /// One request of login and its answer.
    fn login_step(
        &mut self,
        stage: u8,
        next: Option<u8>,
        pairs: &[(&str, &str)],
    ) -> (Header, Vec<u8>) {
        let mut text = Vec::new();
        pairs.iter().for_each(|&(key, value)| keys::push(&mut text, key, value));
        let header = self.login_header((stage << 2) | next.map_or(0, |next| 0x80 | next));
        self.send(header, &text);
        self.receive().expect("an answer to the login")
    }

    fn login_header(&self, flags: u8) -> Header {
        let mut header = Header::new(opcode::LOGIN | 0x40, flags);
        header.set(8, &self.isid).set_u32(16, 7).set_u16(20, 1).set_u32(24, self.cmd_sn);
        header
    }

    fn send(&mut self, mut header: Header, data: &[u8]) {
        let mut bytes = Vec::new();
        pdu::push(&mut bytes, &mut header, data, self.digests);
        self.send_bytes(&bytes);
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        // The server may have closed the connection, which the next answer shows.
        let _ = self.socket.write_all(bytes);
    }

    /// The next PDU; none once the connection is closed.
    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            match pdu::decode(&self.received, self.digests, 1 << 24).unwrap() {
                Decoded::Whole(pdu, len) => {
                    let (header, data) = (pdu.header, pdu.data.to_vec());
                    self.received.drain(..len);
                    self.note(&header);
                    return Some((header, data));
                }
                Decoded::Partial(_) => {
                    let mut bytes = vec![0; 1 << 16];
                    match self.socket.read(&mut bytes) {
                        Ok(0) => return None,
                        Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                        Err(error) => panic!("no answer: {error}"),
                    }
                }
            }
        }
    }

    /// Checks and keeps the numbers of a PDU.
    fn note(&mut self, header: &Header) {
        let (kind, stat_sn) = (header.opcode(), header.u32(24));
        let is_answer = match kind {
            opcode::DATA_IN => header.flags() & 1 != 0,
            opcode::R2T => false,
            opcode::NOP_IN => header.task_tag() != NO_TAG,
            _ => true,
        };
        if is_answer {
            assert!([0, stat_sn].contains(&self.exp_stat_sn), "answers are numbered in order");
            self.exp_stat_sn = stat_sn.wrapping_add(1);
        }
        let most = header.u32(32);
        assert!(most.wrapping_sub(self.max_cmd_sn) < 1 << 31, "the window never shrinks");
        self.max_cmd_sn = most;
    }

    fn tag(&mut self) -> u32 {
        self.next_tag += 1;
        self.next_tag
    }

    /// The header of the next numbered request.
    fn numbered(&mut self, kind: u8, flags: u8) -> Header {
        let mut header = Header::new(kind, flags);
        let tag = self.tag();
        header.set_u32(16, tag).set_u32(24, self.cmd_sn).set_u32(28, self.exp_stat_sn);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        header
    }

    /// The header of a command to unit 0.
    fn command(&mut self, cdb: &[u8], flags: u8, expected: usize) -> Header {
        let mut header = self.numbered(opcode::SCSI_COMMAND, flags);
        header.set_u32(20, u32::try_from(expected).unwrap()).set(32, cdb);
        header
    }

    /// A command that reads.
    fn ask(&mut self, cdb: &[u8], expected: usize) -> Ended {
        let header = self.command(cdb, 0xc1, expected);
        self.send(header, &[]);
        self.ended(header.task_tag())
    }

    /// Has unit attentions reported, which new ports have.
    fn settle(&mut self) {
        while self.ask(&[0; 6], 0).status != 0 {}
    }

    /// Waits for the end of a command that needs no data any more.
    fn ended(&mut self, tag: u32) -> Ended {
        self.ended_with(tag, &[])
    }

    /// Waits for the end of a command, and gives the data it is asked for.
    fn ended_with(&mut self, tag: u32, source: &[u8]) -> Ended {
        let mut data = Vec::new();
        let mut data_sn = 0;
        loop {
            let (header, body) = self.receive().expect("an answer to the command");
            assert_eq!(header.task_tag(), tag, "{header:?}");
            match header.opcode() {
                opcode::R2T => {
                    let (start, len) = (header.u32(40) as usize, header.u32(44) as usize);
                    self.send_data(tag, header.u32(20), source, start..start + len);
                }
                opcode::DATA_IN => {
                    assert_eq!(header.u32(36), data_sn, "data is numbered in order");
                    assert_eq!(header.u32(40) as usize, data.len(), "data comes in order");
                    data_sn += 1;
                    data.extend_from_slice(&body);
                    if header.flags() & 1 != 0 {
                        return Ended {
                            status: header.byte(3),
                            data,
                            sense: Vec::new(),
                            flags: header.flags() & 6,
                            residual: header.u32(44),
                        };
                    }
                }
                opcode::SCSI_RESPONSE => {
                    assert_eq!(header.byte(2), 0, "carried out at the target");
                    return Ended {
                        status: header.byte(3),
                        data,
                        sense: body.get(2..).unwrap_or_default().to_vec(),
                        flags: header.flags() & 6,
                        residual: header.u32(44),
                    };
                }
                other => panic!("opcode {other:#x} instead of an answer"),
            }
        }
    }

    /// Sends a sequence of Data-Out PDUs.
    fn send_data(&mut self, tag: u32, transfer: u32, source: &[u8], range: std::ops::Range<usize>) {
        let mut at = range.start;
        let mut data_sn = 0;
        while at < range.end {
            let end = (at + self.segment).min(range.end);
            let flags = if end == range.end { 0x80 } else { 0 };
            let header = data_out(tag, transfer, flags, data_sn, at);
            self.send(header, &source[at..end]);
            data_sn += 1;
            at = end;
        }
    }

    fn read(&mut self, lba: u32, blocks: u16) -> Vec<u8> {
        let ended = self.ask(&read10(lba, blocks), usize::from(blocks) * BLOCK);
        assert_eq!((ended.status, ended.flags), (0, 0), "{:x?}", ended.sense);
        ended.data
    }

    /// Writes, with so many bytes of immediate data, and so many more unsolicited.
    fn write(&mut self, lba: u32, bytes: &[u8], immediate: usize, unsolicited: usize) -> Ended {
        let blocks = u16::try_from(bytes.len() / BLOCK).unwrap();
        let last = if unsolicited == 0 { 0x80 } else { 0 };
        let header = self.command(&write10(lba, blocks), 0x21 | last, bytes.len());
        self.send(header, &bytes[..immediate]);
        let tag = header.task_tag();
        if unsolicited > 0 {
            self.send_data(tag, NO_TAG, bytes, immediate..immediate + unsolicited);
        }
        self.ended_with(tag, bytes)
    }

    /// Expects a Reject for this reason, and that the connection is closed.
    fn rejected(&mut self, reason: u8) {
        let (header, _) = self.receive().expect("a Reject");
        assert_eq!((header.opcode(), header.byte(2)), (opcode::REJECT, reason));
        self.closed();
    }

    /// Expects that the connection is closed.
    fn closed(&mut self) {
        let more = self.receive();
        assert!(more.is_none(), "{more:?}");
    }

    /// A ping and its answer.
    fn ping(&mut self, data: &[u8]) -> Vec<u8> {
        let mut header = self.numbered(opcode::NOP_OUT, 0x80);
        header.set_u32(20, NO_TAG);
        self.send(header, data);
        let (answer, data) = self.receive().expect("an answer to the ping");
        assert_eq!((answer.opcode(), answer.task_tag()), (opcode::NOP_IN, header.task_tag()));
        data
    }

    fn log_out(&mut self) {
        let header = self.numbered(opcode::LOGOUT, 0x80);
        self.send(header, &[]);
        let (header, _) = self.receive().expect("an answer to the logout");
        assert_eq!((header.opcode(), header.byte(2)), (opcode::LOGOUT_RESPONSE, 0));
        self.closed();
    }
}

fn data_out(tag: u32, transfer: u32, flags: u8, data_sn: u32, offset: usize) -> Header {
    let mut header = Header::new(opcode::DATA_OUT, flags);
    let offset = u32::try_from(offset).unwrap();
    header.set_u32(16, tag).set_u32(20, transfer).set_u32(36, data_sn).set_u32(40, offset);
    header
}

fn read10(lba: u32, blocks: u16) -> [u8; 10] {
    cdb10(0x28, lba, blocks)
}

fn write10(lba: u32, blocks: u16) -> [u8; 10] {
    cdb10(0x2a, lba, blocks)
}

fn cdb10(code: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = code;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn texts(text: &[u8]) -> Vec<(String, String)> {
    let pairs = keys::pairs(text).unwrap();
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Bytes that differ from place to place.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at / 7 + at / 512) % 251).unwrap().wrapping_add(seed);
    (0..len).map(byte).collect()
}

/// Waits until something is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
