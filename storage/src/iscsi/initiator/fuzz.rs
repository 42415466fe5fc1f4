//! A target that says anything, for fuzzers.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};

use super::dial::Established;
use super::options::SessionLimits;
use super::port::{Letter, Port, RemoteQueue};
use super::session::Session;
use super::status::Known;
use crate::iscsi::fuzz::{describe, stream};
use crate::iscsi::negotiation::Agreed;
use crate::iscsi::pdu::{Header, NO_TAG, opcode};
use crate::scsi::{Command, CommandQueue};
use crate::{AlignedBuffer, Buffers};

/// The number of the target's first answer.
const FIRST: u32 = 1;

/// Both ends of a connection.
fn pair() -> Option<(TcpStream, TcpStream)> {
    static LISTENER: OnceLock<Option<TcpListener>> = OnceLock::new();
    let listener = LISTENER.get_or_init(|| TcpListener::bind("127.0.0.1:0").ok()).as_ref()?;
    let ours = TcpStream::connect(listener.local_addr().ok()?).ok()?;
    let (theirs, _) = listener.accept().ok()?;
    ours.set_nonblocking(true).ok()?;
    Some((ours, theirs))
}

/// Has a session with commands under way take what `input` describes. Each command must be
/// answered, and nobody use its memory then.
pub fn iscsi_initiator(input: &[u8]) {
    let (Some((&first, rest)), Some((ours, mut theirs))) = (input.split_first(), pair()) else {
        return;
    };
    let Ok(peer) = ours.peer_addr() else { return };
    let Ok(port) = Port::new(Known::new(peer)) else { return };
    let port = Arc::new(port);
    let Ok(mut queue) = RemoteQueue::new(Arc::clone(&port), 8) else { return };
    let mut agreed = Agreed { initial_r2t: first & 1 != 0, ..Agreed::default() };
    agreed.immediate_data = first & 2 != 0;
    agreed.max_burst = 4096;
    agreed.first_burst = 1024;
    let mut session = Session::new(
        Established { socket: ours, peer, agreed, cmd_sn: 1, exp_stat_sn: FIRST, max_cmd_sn: 100 },
        &SessionLimits::default(),
        0,
    );
    let mut memory = Vec::new();
    for (code, data_out, data_in) in [(0x28, 0, 2048), (0x2a, 20_000, 0), (0x53, 512, 512)] {
        let (from, to) =
            (Arc::new(AlignedBuffer::new(data_out)), Arc::new(AlignedBuffer::new(data_in)));
        let mut cdb = [0; 32];
        cdb[0] = code;
        let (data_out, data_in) = (Buffers::whole(&from), Buffers::whole(&to));
        let command = Command { lun: 0, cdb, cdb_len: 16, tag: 0, data_out, data_in };
        assert_eq!(queue.submit(0, command), None, "it is answered later");
        memory.extend([from, to]);
    }
    let mut done = Vec::new();
    queue.poll(&mut done);
    let mut letters = Vec::new();
    port.take(&mut letters);
    for letter in letters {
        if let Letter::Command(request) = letter {
            session.start(request);
        }
    }
    let mut next = FIRST;
    let bytes = stream(rest, |header| {
        let is_answer = match header.opcode() {
            opcode::DATA_IN => header.flags() & 1 != 0,
            opcode::R2T => false,
            opcode::NOP_IN => header.task_tag() != NO_TAG,
            _ => true,
        };
        header.set_u32(24, next).set_u32(28, 1).set_u32(32, 100);
        next = next.wrapping_add(u32::from(is_answer));
    });
    // Fewer than a socket takes at once.
    let _ = theirs.write_all(bytes.get(..64 << 10).unwrap_or(&bytes));
    let _ = theirs.shutdown(Shutdown::Write);
    while session.receive().is_ok() {
        session.produce();
        if session.flush().is_err() {
            break;
        }
    }
    let (again, _) = session.dissolve(true);
    assert!(again.is_empty(), "nobody waits for any");
    queue.drain(&mut done);
    assert_eq!(done.len(), 3, "one answer for each");
    for mut memory in memory {
        assert!(Arc::get_mut(&mut memory).is_some(), "nobody uses it any more");
    }
}

/// Inputs to begin with: what a target that keeps to the rules sends.
pub fn iscsi_initiator_seeds() -> Vec<Vec<u8>> {
    let mut seed = vec![2];
    let mut data = Header::new(opcode::DATA_IN, 0);
    data.set_u32(16, 1).set_u32(20, NO_TAG);
    describe(&mut seed, &data, &[5; 1024]);
    let mut data = Header::new(opcode::DATA_IN, 0x81);
    data.set_u32(16, 1).set_u32(20, NO_TAG).set_u32(36, 1).set_u32(40, 1024);
    describe(&mut seed, &data, &[5; 1024]);
    let mut r2t = Header::new(opcode::R2T, 0x80);
    r2t.set_u32(16, 2).set_u32(20, 1).set_u32(40, 1024).set_u32(44, 4096);
    describe(&mut seed, &r2t, &[]);
    let mut response = Header::new(opcode::SCSI_RESPONSE, 0x80);
    response.set_u32(16, 2).set(3, &[2]);
    describe(&mut seed, &response, &[0, 2, 0x70, 0]);
    let mut ping = Header::new(opcode::NOP_IN, 0x80);
    ping.set_u32(16, NO_TAG).set_u32(20, 3);
    describe(&mut seed, &ping, b"ping");
    let mut leave = Header::new(opcode::ASYNC, 0x80);
    leave.set_u32(16, NO_TAG).set(36, &[1]).set_u16(42, 1);
    describe(&mut seed, &leave, &[]);
    vec![seed]
}
