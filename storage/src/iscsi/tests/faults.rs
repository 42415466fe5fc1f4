//! Initiators that do wrong: each session ends as it should, and the server goes on.

use std::net::Shutdown;

use proptest::prelude::*;

use super::*;
use crate::testkit::cases;

/// The server still serves.
fn is_well(server: &Server) {
    let mut initiator = Initiator::connect(server);
    initiator.isid = [0x80, 0, 0, 0, 9, 9];
    initiator.log_in(&[]).unwrap();
    initiator.settle();
    assert_eq!(initiator.read(0, 1).len(), BLOCK);
    initiator.log_out();
}

#[test]
fn wrong_digests_end_the_session() {
    let server = server();
    let both = [("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")];
    for (at, reason) in [(20, None), (48, None), (55, Some(2))] {
        let mut initiator = Initiator::logged_in(&server, &both);
        let mut header = initiator.numbered(opcode::NOP_OUT, 0x80);
        header.set_u32(20, NO_TAG);
        let mut bytes = Vec::new();
        pdu::push(&mut bytes, &mut header, b"ping!", initiator.digests);
        bytes[at] ^= 1;
        initiator.send_bytes(&bytes);
        match reason {
            Some(reason) => initiator.rejected(reason),
            None => initiator.closed(),
        }
    }
    is_well(&server);
}

#[test]
fn malformed_pdus_of_each_kind() {
    let server = server();
    let keys = [("InitialR2T", "Yes"), ("ImmediateData", "No"), ("FirstBurstLength", "4096")];
    let start = || {
        let mut initiator = Initiator::logged_in(&server, &keys);
        initiator.settle();
        initiator
    };
    let no_data = Vec::new();
    type Change = fn(&mut Header);
    // Those that end the session, by the reason of the Reject.
    let wrong: [(&str, u8, u8, usize, Change, u8); 12] = [
        ("immediate data that is not agreed on", opcode::SCSI_COMMAND, 0xa1, 512, |_| {}, 4),
        ("data of a command that reads", opcode::SCSI_COMMAND, 0xc1, 512, |_| {}, 4),
        ("unsolicited data that is not agreed on", opcode::SCSI_COMMAND, 0x21, 0, |_| {}, 4),
        ("a command that does not end", opcode::SCSI_COMMAND, 0x41, 0, |_| {}, 4),
        ("no tag", opcode::SCSI_COMMAND, 0x81, 0, |h| _ = h.set_u32(16, NO_TAG), 4),
        ("login", opcode::LOGIN | 0x40, 0x87, 0, |_| {}, 4),
        ("text that ends and goes on", opcode::TEXT, 0xc0, 0, |h| _ = h.set_u32(20, NO_TAG), 4),
        ("text of no exchange", opcode::TEXT, 0x80, 0, |h| _ = h.set_u32(20, 77), 4),
        ("text that is none", opcode::TEXT, 0x80, 9, |h| _ = h.set_u32(20, NO_TAG), 4),
        ("additional headers", opcode::SCSI_COMMAND, 0x81, 0, |h| _ = h.set(4, &[1]), 9),
        ("more data than declared", opcode::NOP_OUT, 0x80, 262_145, |_| {}, 4),
        ("more data than declared", opcode::SCSI_COMMAND, 0xa1, 300_000, |_| {}, 4),
    ];
    for (what, kind, flags, data, change, reason) in wrong {
        let mut initiator = start();
        let mut header = initiator.numbered(kind, flags);
        header.set(32, &write10(0, 1)).set_u32(20, 512);
        change(&mut header);
        header.set_data_len(data);
        initiator.send_bytes(header.bytes());
        initiator.send_bytes(&vec![b'x'; header.ahs_len() + data.next_multiple_of(4)]);
        let (answer, body) = initiator.receive().expect(what);
        assert_eq!((answer.opcode(), answer.byte(2)), (opcode::REJECT, reason), "{what}");
        assert_eq!(body, header.bytes(), "{what}");
        initiator.closed();
    }
    // Those after which it goes on.
    let mut initiator = start();
    for kind in [opcode::SNACK, 0x1c, 0x3f, opcode::R2T, opcode::LOGIN_RESPONSE] {
        let mut header = Header::new(kind, 0x80);
        header.set_u32(16, 5).set_u32(24, initiator.cmd_sn);
        initiator.send(header, &no_data);
        let (answer, body) = initiator.receive().unwrap();
        let reason = if kind == opcode::SNACK { 3 } else { 5 };
        assert_eq!((answer.opcode(), answer.byte(2)), (opcode::REJECT, reason));
        assert_eq!(body, header.bytes());
    }
    for function in [0, 9, 0x7f] {
        let header = initiator.numbered(opcode::TASK_MANAGEMENT, 0x80 | function);
        initiator.send(header, &no_data);
        let (answer, _) = initiator.receive().unwrap();
        assert_eq!((answer.opcode(), answer.byte(2)), (opcode::TASK_MANAGEMENT_RESPONSE, 5));
    }
    let header = initiator.numbered(opcode::LOGOUT, 0x80 | 2);
    initiator.send(header, &no_data);
    assert_eq!(initiator.receive().unwrap().0.byte(2), 2, "nothing to recover");
    // Data of no task is passed by.
    initiator.send(data_out(0x9999, 0x77, 0x80, 0, 0), &[1; 100]);
    assert_eq!(initiator.ping(b"on"), b"on");
    is_well(&server);
}

#[test]
fn data_that_does_not_follow_ends_the_session() {
    let server = server();
    let keys = [("ImmediateData", "No"), ("MaxBurstLength", "2048"), ("MaxOutstandingR2T", "2")];
    // Flags, number, offset and bytes of the data for the first or second R2T.
    for (r2t, flags, data_sn, offset, len) in [
        (0, 0x80, 0, 512, 2048),  // offset
        (0, 0x80, 0, 0, 4096),    // more than asked for
        (0, 0x80, 0, 0, 512),     // ends too early
        (0, 0x00, 0, 0, 2048),    // does not end
        (1, 0x80, 0, 2048, 2048), // the second first
        (9, 0x80, 0, 0, 512),     // unsolicited
    ] {
        let mut initiator = Initiator::logged_in(&server, &keys);
        initiator.settle();
        let header = initiator.command(&write10(0, 8), 0xa1, 4096);
        initiator.send(header, &[]);
        let asked = [initiator.receive().unwrap().0, initiator.receive().unwrap().0];
        let transfer = asked.get(r2t).map_or(NO_TAG, |r2t: &Header| r2t.u32(20));
        let data = vec![0xee; len];
        initiator.send(data_out(header.task_tag(), transfer, flags, data_sn, offset), &data);
        initiator.rejected(4);
    }
    let mut initiator = Initiator::logged_in(&server, &[]);
    initiator.settle();
    assert_eq!(initiator.read(0, 8), vec![0; 4096], "nothing was written");
}

#[test]
fn data_that_is_lost_ends_its_command_only() {
    let server = server();
    let keys = [("InitialR2T", "No"), ("ImmediateData", "No"), ("DataDigest", "CRC32C")];
    let mut initiator = Initiator::logged_in(&server, &keys);
    initiator.settle();
    let failed = |initiator: &mut Initiator, tag: u32| {
        let ended = initiator.ended(tag);
        assert_eq!((ended.status, ended.asc()), (2, (0x0b, 0x47)));
        assert_eq!(initiator.ping(b"on"), b"on");
    };
    // A number is left out, unsolicited and solicited.
    for flags in [0x21, 0xa1] {
        let header = initiator.command(&write10(0, 2), flags, 1024);
        initiator.send(header, &[]);
        let tag = header.task_tag();
        let transfer = match flags {
            0x21 => NO_TAG,
            _ => initiator.receive().unwrap().0.u32(20),
        };
        initiator.send(data_out(tag, transfer, 0, 0, 0), &[0xee; 512]);
        initiator.send(data_out(tag, transfer, 0x80, 2, 512), &[0xee; 512]);
        failed(&mut initiator, tag);
    }
    // A digest is wrong.
    let header = initiator.command(&write10(0, 2), 0x21, 1024);
    initiator.send(header, &[]);
    let mut bytes = Vec::new();
    let mut data = data_out(header.task_tag(), NO_TAG, 0, 0, 0);
    pdu::push(&mut bytes, &mut data, &[0xee; 512], initiator.digests);
    bytes[100] ^= 4;
    initiator.send_bytes(&bytes);
    let (answer, _) = initiator.receive().unwrap();
    assert_eq!((answer.opcode(), answer.byte(2)), (opcode::REJECT, 2));
    initiator.send(data_out(header.task_tag(), NO_TAG, 0x80, 1, 512), &[0xee; 512]);
    failed(&mut initiator, header.task_tag());
    assert_eq!(initiator.read(0, 2), vec![0; 1024], "nothing was written");
}

#[test]
fn more_unsolicited_data_than_agreed_ends_the_session() {
    let server = server();
    let keys = [("InitialR2T", "No"), ("FirstBurstLength", "1024")];
    let mut initiator = Initiator::logged_in(&server, &keys);
    let header = initiator.command(&write10(0, 4), 0x21, 2048);
    initiator.send(header, &[1; 512]);
    initiator.send(data_out(header.task_tag(), NO_TAG, 0, 0, 512), &[1; 512]);
    initiator.send(data_out(header.task_tag(), NO_TAG, 0x80, 1, 1024), &[1; 512]);
    initiator.rejected(4);
    let mut initiator = Initiator::logged_in(&server, &keys);
    let header = initiator.command(&write10(0, 4), 0xa1, 2048);
    initiator.send(header, &[1; 1536]);
    initiator.rejected(4);
}

#[test]
fn a_tag_that_is_in_use_ends_the_session() {
    let server = server();
    let mut initiator = Initiator::logged_in(&server, &[]);
    initiator.settle();
    let mut header = initiator.command(&write10(0, 1), 0xa1, BLOCK);
    initiator.send(header, &[]);
    initiator.receive().unwrap();
    header.set_u32(24, initiator.cmd_sn);
    initiator.send(header, &[]);
    initiator.rejected(4);
}

#[test]
fn immediate_commands_are_bounded() {
    let server = server();
    let mut initiator = Initiator::logged_in(&server, &[]);
    initiator.settle();
    let mut rejected = 0;
    for lba in 0..20 {
        let mut header = initiator.command(&write10(lba, 1), 0xa1, BLOCK);
        initiator.cmd_sn -= 1;
        header.set(0, &[opcode::SCSI_COMMAND | 0x40]);
        initiator.send(header, &[]);
        let (answer, _) = initiator.receive().unwrap();
        match answer.opcode() {
            opcode::R2T => {}
            kind => {
                assert_eq!((kind, answer.byte(2)), (opcode::REJECT, 6));
                rejected += 1;
            }
        }
    }
    assert_eq!(rejected, 12);
}

#[test]
fn an_abrupt_end_in_the_middle_of_a_write_writes_nothing() {
    let server = server();
    for _ in 0..10 {
        let mut initiator = Initiator::logged_in(&server, &[]);
        initiator.settle();
        let header = initiator.command(&write10(0, 64), 0xa1, 64 * BLOCK);
        initiator.send(header, &[0xee; 8192]);
        let (r2t, _) = initiator.receive().unwrap();
        let mut bytes = Vec::new();
        let mut data = data_out(header.task_tag(), r2t.u32(20), 0, 0, 8192);
        pdu::push(&mut bytes, &mut data, &[0xee; 4096], Digests::default());
        initiator.send_bytes(&bytes[..2000]);
        drop(initiator);
    }
    let mut initiator = Initiator::logged_in(&server, &[]);
    initiator.settle();
    assert_eq!(initiator.read(0, 64), vec![0; 64 * BLOCK]);
    drop(initiator);
    wait_until("all sessions are gone", || server.sessions().is_empty());
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_memory_stays_bounded() {
    let limits = ServerLimits {
        answer_time: Duration::from_millis(500),
        session_bytes: 4 << 20,
        command_bytes: 1 << 20,
        ..ServerLimits::default()
    };
    let server = with_limits(limits);
    let mut initiator = Initiator::logged_in(&server, &[]);
    initiator.settle();
    // Far more than socket buffers and the server's memory hold.
    initiator.socket.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    for _ in 0..100 {
        let header = initiator.command(&read10(0, 2048), 0xc1, 2048 * BLOCK);
        let mut ping = Header::new(opcode::NOP_OUT | 0x40, 0x80);
        ping.set_u32(16, header.task_tag()).set_u32(20, NO_TAG).set_u32(24, initiator.cmd_sn);
        initiator.send(header, &[]);
        let mut bytes = Vec::new();
        pdu::push(&mut bytes, &mut ping, &[1; 8192], Digests::default());
        if initiator.socket.write_all(&bytes).is_err() {
            break;
        }
    }
    wait_until("the session is gone", || server.sessions().is_empty());
    is_well(&server);
}

#[test]
fn half_closed_connections_end() {
    let server = server();
    let mut initiator = Initiator::logged_in(&server, &[]);
    initiator.socket.shutdown(Shutdown::Write).unwrap();
    initiator.closed();
    wait_until("the session is gone", || server.sessions().is_empty());
}

#[test]
fn random_bytes_never_end_the_server() {
    let server = server();
    let config = cases(200);
    proptest!(config, |(
        bytes in proptest::collection::vec(any::<u8>(), 1..400),
        opcodes in proptest::collection::vec(0u8..0x80, 1..6),
        logged_in in any::<bool>(),
        plausible in any::<bool>(),
    )| {
        let mut initiator = Initiator::connect(&server);
        if logged_in {
            initiator.log_in(&[]).unwrap();
        }
        if plausible {
            // Headers of all kinds with random fields, no longer than they say.
            for (at, opcode) in opcodes.iter().enumerate() {
                let mut header = Header::new(*opcode, 0x80);
                header.set(1, bytes.get(at..at + 1).unwrap_or(&[0x80]));
                header.set(8, &bytes[..bytes.len().min(40)]);
                header.set_u32(24, initiator.cmd_sn);
                initiator.cmd_sn += 1;
                initiator.send(header, &bytes[..bytes.len().min(at * 50)]);
            }
        } else {
            initiator.send_bytes(&bytes);
        }
        drop(initiator);
    });
    wait_until("all sessions are gone", || server.sessions().is_empty());
    is_well(&server);
}
