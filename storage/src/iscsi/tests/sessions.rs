//! Sessions: numbers, pings, ends, many at a time.

use super::*;

#[test]
fn pings_are_echoed() {
    let server = server();
    let mut initiator = Initiator::logged_in(&server, &[("MaxRecvDataSegmentLength", "1024")]);
    assert_eq!(initiator.ping(b""), b"");
    assert_eq!(initiator.ping(&pattern(1000, 1)), pattern(1000, 1));
    // No longer than the initiator takes.
    assert_eq!(initiator.ping(&pattern(3000, 1)), pattern(1024, 1));
    // Without a tag there is no answer; an immediate one has no number.
    let mut header = Header::new(opcode::NOP_OUT | 0x40, 0x80);
    header.set_u32(16, NO_TAG).set_u32(20, NO_TAG).set_u32(24, initiator.cmd_sn);
    initiator.send(header, &[]);
    header.set_u32(16, 0x77);
    initiator.send(header, b"x");
    let (answer, data) = initiator.receive().unwrap();
    assert_eq!((answer.task_tag(), &data[..]), (0x77, &b"x"[..]));
    initiator.log_out();
}

#[test]
fn what_was_not_taken_for_want_of_room_is_taken_later() {
    let server = server();
    let mut initiator = Initiator::logged_in(&server, &[("MaxRecvDataSegmentLength", "65536")]);
    let mut socket = initiator.socket.try_clone().unwrap();
    let sender = std::thread::spawn({
        let number = initiator.cmd_sn;
        move || {
            for tag in 0..400 {
                let mut ping = Header::new(opcode::NOP_OUT | 0x40, 0x80);
                ping.set_u32(16, tag).set_u32(20, NO_TAG).set_u32(24, number);
                let mut bytes = Vec::new();
                pdu::push(&mut bytes, &mut ping, &[3; 65_536], Digests::default());
                socket.write_all(&bytes).unwrap();
            }
        }
    });
    // Until buffers are full on the way.
    std::thread::sleep(Duration::from_millis(300));
    for tag in 0..400 {
        let (header, data) = initiator.receive().unwrap();
        assert_eq!((header.task_tag(), data.len()), (tag, 65_536));
    }
    sender.join().unwrap();
    initiator.log_out();
}

#[test]
fn a_silent_initiator_is_asked_and_then_dropped() {
    let limits = ServerLimits {
        idle_time: Duration::from_millis(200),
        answer_time: Duration::from_millis(400),
        ..ServerLimits::default()
    };
    let server = with_limits(limits);
    let mut initiator = Initiator::logged_in(&server, &[]);
    for _ in 0..3 {
        let (ping, _) = initiator.receive().unwrap();
        assert_eq!((ping.opcode(), ping.task_tag()), (opcode::NOP_IN, NO_TAG));
        assert_ne!(ping.u32(20), NO_TAG);
        let mut pong = Header::new(opcode::NOP_OUT | 0x40, 0x80);
        pong.set_u32(16, NO_TAG).set_u32(20, ping.u32(20)).set_u32(24, initiator.cmd_sn);
        initiator.send(pong, &[]);
    }
    assert_eq!(server.sessions().len(), 1);
    let (ping, _) = initiator.receive().unwrap();
    assert_eq!(ping.opcode(), opcode::NOP_IN);
    initiator.closed();
    wait_until("the session is gone", || server.sessions().is_empty());
}

#[test]
fn numbers_outside_the_window_are_passed_by_and_gaps_are_waited_for() {
    let limits = ServerLimits { commands: 4, ..ServerLimits::default() };
    let server = with_limits(limits);
    let mut initiator = Initiator::logged_in(&server, &[]);
    initiator.settle();
    let next = initiator.cmd_sn;
    let send = |initiator: &mut Initiator, number: u32, name: &[u8]| {
        let mut header = Header::new(opcode::NOP_OUT, 0x80);
        header.set_u32(16, number).set_u32(20, NO_TAG).set_u32(24, number);
        initiator.send(header, name);
    };
    for wrong in [next - 1, next + 4, next + 100, next.wrapping_add(1 << 31)] {
        send(&mut initiator, wrong, b"wrong");
    }
    // The last of the window comes first, and its turn last; one that comes twice counts once.
    for number in [next + 3, next + 1, next + 1, next + 2, next] {
        send(&mut initiator, number, &number.to_be_bytes());
    }
    for number in next..next + 4 {
        let (header, data) = initiator.receive().unwrap();
        assert_eq!((header.task_tag(), &data[..]), (number, &number.to_be_bytes()[..]));
    }
    initiator.cmd_sn = next + 4;
    assert_eq!(initiator.ping(b"on"), b"on");

    // A write may come before its turn, with unsolicited data behind it.
    let mut other = Initiator::connect(&server);
    other.isid[5] = 9;
    other.log_in(&[("InitialR2T", "No")]).unwrap();
    other.settle();
    let data = pattern(2 * BLOCK, 1);
    let mut late = other.numbered(opcode::NOP_OUT, 0x80);
    late.set_u32(20, NO_TAG);
    let write = other.command(&write10(5, 2), 0x21, data.len());
    other.send(write, &data[..BLOCK]);
    other.send_data(write.task_tag(), NO_TAG, &data, BLOCK..2 * BLOCK);
    other.send(late, b"late");
    assert_eq!(other.receive().unwrap().1, b"late");
    assert_eq!(other.ended(write.task_tag()).status, 0);
    assert_eq!(other.read(5, 2), data);
}

#[test]
fn the_window_closes_over_commands_that_wait_for_data() {
    let limits = ServerLimits { commands: 2, ..ServerLimits::default() };
    let server = with_limits(limits);
    let mut initiator = Initiator::logged_in(&server, &[]);
    initiator.settle();
    let mut waiting = Vec::new();
    for lba in 0..2 {
        let header = initiator.command(&write10(lba, 1), 0xa1, BLOCK);
        initiator.send(header, &[]);
        let (r2t, _) = initiator.receive().unwrap();
        waiting.push(r2t);
    }
    let ignored = initiator.command(&read10(0, 1), 0xc1, BLOCK);
    initiator.send(ignored, &[]);
    assert_eq!(initiator.max_cmd_sn, ignored.cmd_sn() - 1, "the window is closed");
    for r2t in waiting {
        let tag = r2t.task_tag();
        initiator.send_data(tag, r2t.u32(20), &[7; BLOCK], 0..BLOCK);
        assert_eq!(initiator.ended(tag).status, 0);
    }
    initiator.cmd_sn -= 1;
    assert_eq!(initiator.read(0, 1), [7; BLOCK]);
}

#[test]
fn the_same_port_ends_its_old_session() {
    let server = server();
    let mut old = Initiator::logged_in(&server, &[]);
    old.settle();
    let mut other = Initiator::connect(&server);
    other.isid[5] = 2;
    other.log_in(&[]).unwrap();
    // In the middle of a write.
    let header = old.command(&write10(0, 2), 0xa1, 2 * BLOCK);
    old.send(header, &[0xee; BLOCK]);
    old.receive().unwrap();
    let mut new = Initiator::logged_in(&server, &[]);
    old.closed();
    assert_eq!(server.sessions().len(), 2);
    // The nexus was lost, which is told.
    let told = new.ask(&[0; 6], 0);
    assert_eq!((told.status, told.asc()), (2, (6, 0x29)));
    new.settle();
    assert_eq!(new.read(0, 2), vec![0; 2 * BLOCK]);
    other.settle();
    other.log_out();
    new.log_out();
    wait_until("both are gone", || server.sessions().is_empty());
}

#[test]
fn many_sessions_at_a_time() {
    let server = server();
    std::thread::scope(|scope| {
        for number in 0..12u8 {
            let server = &server;
            scope.spawn(move || {
                let mut initiator = Initiator::connect(server);
                initiator.isid[5] = number;
                initiator.log_in(&[("DataDigest", "CRC32C,None")]).unwrap();
                initiator.settle();
                let data = pattern(64 * BLOCK, number);
                for round in 0..20 {
                    let lba = u32::from(number) * 2048 + round * 64;
                    assert_eq!(initiator.write(lba, &data, 4096, 0).status, 0);
                    assert_eq!(initiator.read(lba, 64), data);
                }
                initiator.log_out();
            });
        }
    });
    wait_until("all are gone", || server.sessions().is_empty());
}

#[test]
fn sessions_tell_of_themselves() {
    let server = server();
    let mut initiator =
        Initiator::logged_in(&server, &[("HeaderDigest", "CRC32C"), ("InitiatorAlias", "one")]);
    initiator.settle();
    initiator.ping(b"x");
    let sessions = server.sessions();
    let [session] = &sessions[..] else { panic!("{sessions:?}") };
    assert_eq!(session.initiator, INITIATOR);
    assert_eq!(session.isid, "800000000001");
    assert_eq!(session.alias.as_deref(), Some("one"));
    assert_eq!(session.digests, (true, false));
    assert!(session.sent > 0 && session.received > 0 && !session.discovery);
    assert!(serde_json::to_string(session).unwrap().contains(INITIATOR));
}

#[test]
fn a_server_that_stops_says_so_and_leaves_nothing() {
    let server = server();
    let mut initiator = Initiator::logged_in(&server, &[]);
    initiator.settle();
    let idle = Initiator::connect(&server);
    let header = initiator.command(&write10(0, 1), 0xa1, BLOCK);
    initiator.send(header, &pattern(BLOCK, 1));
    assert_eq!(initiator.ended(header.task_tag()).status, 0);
    let address = server.addresses()[0];
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| server.stop());
        let (header, _) = initiator.receive().unwrap();
        assert_eq!((header.opcode(), header.byte(36)), (opcode::ASYNC, 3));
        initiator.closed();
        drop(idle);
    });
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(server.sessions().is_empty());
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}
