//! An iSCSI initiator that does one command at a time, for what libiscsi's tools cannot ask: no
//! negotiation but for the defaults of RFC 7143, no digests, data within the first burst.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::cohort::PATIENCE;

/// Bytes of a basic header segment (RFC 7143 section 11.2).
const HEADER: usize = 48;

/// Statuses of commands (SAM-5 5.3.1).
pub const GOOD: u8 = 0;
/// See [`GOOD`].
pub const CHECK_CONDITION: u8 = 2;
/// See [`GOOD`].
pub const RESERVATION_CONFLICT: u8 = 0x18;

/// A session with one logical unit.
pub struct Initiator {
    socket: TcpStream,
    lun: u8,
    command: u32,
    status: u32,
}

impl Initiator {
    /// Logs in to what `url` names, as the initiator port number `port`, and waits for the unit to be
    /// ready.
    pub fn log_in(url: &str, port: u8) -> Initiator {
        let rest = url.strip_prefix("iscsi://").expect("an iSCSI URL");
        let parts: Vec<&str> = rest.split('/').collect();
        let [address, target, lun] = parts[..] else { panic!("{url} names no logical unit") };
        let socket = TcpStream::connect(address).expect("a server at its address");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let lun = lun.parse().expect("a number");
        let mut initiator = Initiator { socket, lun, command: 1, status: 0 };
        let keys = format!(
            "InitiatorName=iqn.2026-11.cohort.tests:{port}\0TargetName={target}\0SessionType=Normal\0"
        );
        let mut header = [0; HEADER];
        // Immediate, login; to the full feature phase at once.
        (header[0], header[1]) = (0x43, 0x87);
        header[8..14].copy_from_slice(&[0x80, 0, 0, 0, 0, port]);
        initiator.send(header, keys.as_bytes());
        let (header, _) = initiator.receive();
        assert_eq!((header[0], header[1] & 0x83, &header[36..38]), (0x23, 0x83, &[0, 0][..]));
        while initiator.ask([0; 16], &[], 0).0 == CHECK_CONDITION {}
        initiator
    }

    /// Carries out a command; its status, and the data that came.
    pub fn ask(&mut self, cdb: [u8; 16], out: &[u8], expected: u32) -> (u8, Vec<u8>) {
        let mut header = [0; HEADER];
        let direction = match (out.is_empty(), expected) {
            (false, _) => 0x20,
            (true, 0) => 0,
            (true, _) => 0x40,
        };
        (header[0], header[1], header[9]) = (0x01, 0x81 | direction, self.lun);
        let len = if out.is_empty() { expected } else { u32::try_from(out.len()).expect("little") };
        header[20..24].copy_from_slice(&len.to_be_bytes());
        header[32..48].copy_from_slice(&cdb);
        self.send(header, out);
        self.command += 1;
        let mut data = Vec::new();
        loop {
            let (header, bytes) = self.receive();
            match header[0] & 0x3f {
                // Data-In, which may carry the status.
                0x25 => data.extend(bytes),
                0x21 => return (header[3], data),
                other => panic!("an answer of opcode {other:#x}"),
            }
            if header[1] & 1 != 0 {
                return (header[3], data);
            }
        }
    }

    /// PERSISTENT RESERVE OUT with this service action, type and keys; its status.
    pub fn reserve_out(&mut self, action: u8, kind: u8, keys: (u64, u64), aptpl: bool) -> u8 {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5f, action, kind, 24);
        let mut list = [keys.0.to_be_bytes(), keys.1.to_be_bytes(), [0; 8]].concat();
        list[20] = u8::from(aptpl);
        self.ask(cdb, &list, 0).0
    }

    /// The keys of all registrants.
    pub fn keys(&mut self) -> Vec<u64> {
        let mut cdb = [0; 16];
        (cdb[0], cdb[7]) = (0x5e, 1);
        let (status, data) = self.ask(cdb, &[], 256);
        assert_eq!(status, GOOD);
        let keys = data.get(8..).unwrap_or_default().as_chunks().0.iter();
        keys.map(|key| u64::from_be_bytes(*key)).collect()
    }

    /// Writes a block of these bytes; the command's status.
    pub fn write(&mut self, block: u8, byte: u8) -> u8 {
        let mut cdb = [0; 16];
        (cdb[0], cdb[5], cdb[8]) = (0x2a, block, 1);
        self.ask(cdb, &[byte; 512], 0).0
    }

    fn send(&mut self, mut header: [u8; HEADER], data: &[u8]) {
        let len = u32::try_from(data.len()).expect("little").to_be_bytes();
        header[5..8].copy_from_slice(&len[1..]);
        header[16..20].copy_from_slice(&self.command.to_be_bytes());
        header[24..28].copy_from_slice(&self.command.to_be_bytes());
        header[28..32].copy_from_slice(&self.status.to_be_bytes());
        let mut bytes = [&header[..], data].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.socket.write_all(&bytes).expect("the server takes what is sent");
    }

    fn receive(&mut self) -> ([u8; HEADER], Vec<u8>) {
        let mut header = [0; HEADER];
        self.socket.read_exact(&mut header).expect("an answer");
        let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut data = vec![0; len.next_multiple_of(4)];
        self.socket.read_exact(&mut data).expect("the rest of an answer");
        data.truncate(len);
        // Data-In counts as a status only where it has one.
        if header[0] & 0x3f != 0x25 || header[1] & 1 != 0 {
            let status = header[24..28].first_chunk().copied().unwrap_or_default();
            self.status = u32::from_be_bytes(status).wrapping_add(1);
        }
        (header, data)
    }
}
