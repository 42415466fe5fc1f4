//! What fuzzers call: initiators and targets that say anything.
//!
//! An input is a list of PDUs, with their numbers made right unless it says otherwise: hardly a
//! mutated one would get past them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use super::digest::Digests;
use super::pdu::{self, Header, NO_TAG, opcode};
use super::{IscsiName, Server, ServerOptions, keys};
use crate::reservation::Reservations;
use crate::scsi::{Target, UnitOptions};
use crate::{Bytes, Disk, DiskOptions};

pub use super::initiator::fuzz::{iscsi_initiator, iscsi_initiator_seeds};

/// The target's name.
pub(super) const TARGET: &str = "iqn.2026-01.org.example:disk";
/// A kind that says: these bytes, as they are.
const RAW: u8 = 0xff;
/// A bit of a PDU's tag: leave its numbers as they are.
const AS_IT_IS: u8 = 0x80;
/// Bytes of a PDU's description: kind, flags, tag, length of its data, and the header from its 20th
/// byte on.
const DESCRIPTION: usize = 5 + 28;

/// The PDUs that an input describes, as bytes; `number` makes their numbers right.
pub(super) fn stream(mut input: &[u8], mut number: impl FnMut(&mut Header)) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some((head, rest)) = input.split_first_chunk::<DESCRIPTION>() {
        let &[kind, flags, tag, low, high, ref fields @ ..] = head;
        let len = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (data, rest) = rest.split_at(len);
        input = rest;
        if kind == RAW {
            out.extend_from_slice(data);
            continue;
        }
        let mut header = Header::new(kind, flags);
        header.set_u32(16, (tag & !AS_IT_IS).into()).set(20, fields);
        if tag & AS_IT_IS == 0 {
            number(&mut header);
        }
        pdu::push(&mut out, &mut header, data, Digests::default());
    }
    out
}

/// Describes a PDU.
pub(super) fn describe(out: &mut Vec<u8>, header: &Header, data: &[u8]) {
    let [.., tag] = header.task_tag().to_be_bytes();
    let [low, high] = u16::try_from(data.len()).unwrap_or_default().to_le_bytes();
    let kind = header.bytes().first().copied().unwrap_or_default();
    out.extend_from_slice(&[kind, header.flags(), tag, low, high]);
    out.extend_from_slice(header.bytes().get(20..).unwrap_or_default());
    out.extend_from_slice(data);
}

fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let start = || {
        let unit = UnitOptions {
            disk: Disk::scratch(Bytes::new(1 << 20), &DiskOptions::default()).ok()?,
            identity: "a disk".to_owned(),
            reservations: Reservations::default(),
        };
        let target = Target::new(vec![unit], None).ok()?;
        Server::bind(target, ServerOptions::on_loopback(IscsiName::new(TARGET).ok()?)).ok()
    };
    SERVER.get_or_init(start).as_ref()
}

fn login_text() -> Vec<u8> {
    let mut text = Vec::new();
    keys::push(&mut text, "InitiatorName", "iqn.2026-01.org.example:one");
    keys::push(&mut text, "TargetName", TARGET);
    text
}

/// Sends a server what `input` describes, after a login if its first byte is odd. The server must
/// end the connection.
pub fn iscsi_server(input: &[u8]) {
    let (Some((&first, rest)), Some(server)) = (input.split_first(), server()) else { return };
    let Some(address) = server.addresses().first() else { return };
    let Ok(mut socket) = TcpStream::connect(address) else { return };
    let mut bytes = Vec::new();
    if first & 1 != 0 {
        let mut header = Header::new(opcode::LOGIN | 0x40, 0x87);
        header.set(8, &[0x80, 0, 0, 0, 0, first]).set_u32(24, 1);
        pdu::push(&mut bytes, &mut header, &login_text(), Digests::default());
    }
    let mut next = 1u32;
    bytes.extend(stream(rest, |header| {
        header.set_u32(24, next);
        let is_numbered = !header.is_immediate() && header.opcode() != opcode::DATA_OUT;
        next = next.wrapping_add(u32::from(is_numbered));
        if header.opcode() == opcode::SCSI_COMMAND {
            // No more than the disk has.
            let expected = header.u32(20) % (1 << 20);
            header.set_u32(20, expected);
        }
    }));
    let _ = socket.write_all(&bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(Duration::from_secs(20)));
    let mut answers = vec![0; 64 << 10];
    loop {
        match socket.read(&mut answers) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                let waits = [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind());
                assert!(!waits, "the server does not end a connection that is over");
                return;
            }
        }
    }
}

/// Inputs to begin with: a login, and a session with one of each request.
pub fn iscsi_server_seeds() -> Vec<Vec<u8>> {
    let mut login = vec![0];
    describe(&mut login, &Header::new(opcode::LOGIN | 0x40, 0x87), &login_text());
    let mut session = vec![1];
    let mut command = |flags: u8, tag: u32, expected: u32, cdb: &[u8], data: &[u8]| {
        let mut header = Header::new(opcode::SCSI_COMMAND, flags);
        header.set_u32(16, tag).set_u32(20, expected).set(32, cdb);
        describe(&mut session, &header, data);
    };
    command(0x81, 1, 0, &[0; 6], &[]);
    command(0xc1, 2, 255, &[0x12, 0, 0, 0, 255, 0], &[]);
    command(0xc1, 3, 4096, &[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[]);
    command(0xa1, 4, 1024, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0], &[7; 512]);
    command(0x21, 5, 1024, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0], &[]);
    let mut data = Header::new(opcode::DATA_OUT, 0x80);
    data.set_u32(16, 5).set_u32(20, NO_TAG);
    describe(&mut session, &data, &[9; 1024]);
    let mut abort = Header::new(opcode::TASK_MANAGEMENT | 0x40, 0x81);
    abort.set_u32(16, 6).set_u32(20, 4);
    describe(&mut session, &abort, &[]);
    let mut ping = Header::new(opcode::NOP_OUT, 0x80);
    ping.set_u32(16, 7).set_u32(20, NO_TAG);
    describe(&mut session, &ping, b"ping");
    let mut text = Header::new(opcode::TEXT, 0x80);
    text.set_u32(16, 8).set_u32(20, NO_TAG);
    describe(&mut session, &text, b"SendTargets=\0");
    let mut logout = Header::new(opcode::LOGOUT, 0x80);
    logout.set_u32(16, 9);
    describe(&mut session, &logout, &[]);
    vec![login, session]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_say_what_they_should() {
        for seed in iscsi_server_seeds() {
            let mut count = 0;
            let bytes = stream(&seed[1..], |_| count += 1);
            assert!(count > 0 && bytes.len() >= count * 48);
            iscsi_server(&seed);
        }
        iscsi_server(&[1, RAW, 0, 0, 3, 0]);
        for seed in iscsi_initiator_seeds() {
            iscsi_initiator(&seed);
        }
    }
}
