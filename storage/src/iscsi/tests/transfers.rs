//! Data to and from disks, in all the ways that can be agreed on.

use super::*;

#[test]
fn what_is_written_is_read_in_every_way_that_can_be_agreed_on() {
    let server = server();
    let data = pattern(300 * BLOCK, 3);
    let mut seed = 0;
    for (immediate_data, initial_r2t) in
        [(true, true), (true, false), (false, true), (false, false)]
    {
        for digest in ["None", "CRC32C"] {
            let say = |yes: bool| if yes { "Yes" } else { "No" };
            let mut initiator = Initiator::logged_in(
                &server,
                &[
                    ("HeaderDigest", digest),
                    ("DataDigest", digest),
                    ("ImmediateData", say(immediate_data)),
                    ("InitialR2T", say(initial_r2t)),
                    ("FirstBurstLength", "16384"),
                    ("MaxBurstLength", "32768"),
                    ("MaxRecvDataSegmentLength", "4096"),
                    ("MaxOutstandingR2T", "2"),
                ],
            );
            initiator.settle();
            let immediate = if immediate_data { 5000 } else { 0 };
            let unsolicited = if initial_r2t { 0 } else { 16_384 - immediate };
            seed += 1;
            let data: Vec<u8> = data.iter().map(|byte| byte ^ seed).collect();
            let ended = initiator.write(11, &data, immediate, unsolicited);
            assert_eq!((ended.status, ended.flags, ended.residual), (0, 0, 0));
            assert_eq!(initiator.read(11, 300), data);
            // All of a short write may be immediate.
            if immediate_data {
                let short = pattern(2 * BLOCK, seed);
                assert_eq!(initiator.write(1000, &short, short.len(), 0).status, 0);
                assert_eq!(initiator.read(1000, 2), short);
            }
            initiator.log_out();
        }
    }
}

#[test]
fn bursts_and_segments_are_no_longer_than_agreed() {
    let server = server();
    let mut initiator = Initiator::logged_in(
        &server,
        &[
            ("MaxBurstLength", "10000"),
            ("MaxRecvDataSegmentLength", "1500"),
            ("MaxOutstandingR2T", "3"),
        ],
    );
    initiator.settle();
    let data = pattern(100 * BLOCK, 1);
    let header = initiator.command(&write10(0, 100), 0xa1, data.len());
    initiator.send(header, &[]);
    // Three R2Ts come at once, and one more for each that is answered.
    let mut asked = Vec::new();
    for sn in 0..3 {
        let (r2t, _) = initiator.receive().unwrap();
        assert_eq!((r2t.opcode(), r2t.u32(36), r2t.u32(44)), (opcode::R2T, sn, 10_000));
        assert_eq!(r2t.u32(40), sn * 10_000);
        asked.push(r2t);
    }
    let first = asked.remove(0);
    initiator.send_data(header.task_tag(), first.u32(20), &data, 0..10_000);
    let (fourth, _) = initiator.receive().unwrap();
    assert_eq!((fourth.u32(36), fourth.u32(40)), (3, 30_000));
    asked.push(fourth);
    for r2t in asked {
        let start = r2t.u32(40) as usize;
        let end = start + r2t.u32(44) as usize;
        initiator.send_data(header.task_tag(), r2t.u32(20), &data, start..end);
    }
    assert_eq!(initiator.ended_with(header.task_tag(), &data).status, 0);

    let header = initiator.command(&read10(0, 100), 0xc1, data.len());
    initiator.send(header, &[]);
    let (mut at, mut ends) = (0, Vec::new());
    loop {
        let (header, body) = initiator.receive().unwrap();
        assert!(body.len() <= 1500);
        at += body.len();
        if header.flags() & 0x80 != 0 {
            ends.push(at);
        }
        if header.flags() & 1 != 0 {
            break;
        }
    }
    assert_eq!(ends, [10_000, 20_000, 30_000, 40_000, 50_000, 51_200]);
}

#[test]
fn residuals_are_told() {
    let server = server();
    let mut initiator = Initiator::logged_in(&server, &[]);
    initiator.settle();
    for (expected, flags, residual) in [(1024, 0, 0), (2048, 2, 1024), (512, 4, 512), (0, 4, 1024)]
    {
        let ended = initiator.ask(&read10(0, 2), expected);
        assert_eq!((ended.status, ended.flags, ended.residual), (0, flags, residual), "{expected}");
        assert_eq!(ended.data.len(), expected.min(1024));
    }
    let wrong = initiator.ask(&[0xff; 6], 100);
    assert_eq!((wrong.status, wrong.asc(), wrong.data.len()), (2, (5, 0x20), 0));
    // Whatever became of the command, the connection goes on.
    assert_eq!(initiator.ping(b"hello"), b"hello");
}

#[test]
fn more_than_a_command_may_have_is_refused() {
    let limits = ServerLimits { command_bytes: 1 << 20, ..ServerLimits::default() };
    let server = with_limits(limits);
    let mut initiator = Initiator::logged_in(&server, &[]);
    initiator.settle();
    let ended = initiator.ask(&read10(0, 4096), 4096 * BLOCK);
    assert_eq!((ended.status, ended.asc(), ended.data.len()), (2, (5, 0x24), 0));
    let header = initiator.command(&write10(0, 4096), 0xa1, 4096 * BLOCK);
    initiator.send(header, &[]);
    assert_eq!(initiator.ended(header.task_tag()).asc(), (5, 0x24));
    // What is expected does not matter, only what is moved.
    let ended = initiator.ask(&read10(0, 1), 1 << 30);
    assert_eq!((ended.status, ended.data.len(), ended.flags), (0, BLOCK, 2));
}

#[test]
fn commands_beyond_the_memory_wait_their_turn() {
    let limits = ServerLimits {
        command_bytes: 1 << 20,
        session_bytes: 1 << 20,
        commands: 64,
        ..ServerLimits::default()
    };
    let server = with_limits(limits);
    let mut initiator = Initiator::logged_in(&server, &[("ImmediateData", "No")]);
    initiator.settle();
    let data = pattern(1024 * BLOCK, 9);
    let mut tags = Vec::new();
    for at in 0..16 {
        let header = initiator.command(&write10(at * 1024, 1024), 0xa1, data.len());
        initiator.send(header, &[]);
        tags.push(header.task_tag());
    }
    let mut done = 0;
    while done < tags.len() {
        let (header, _) = initiator.receive().unwrap();
        let tag = header.task_tag();
        match header.opcode() {
            opcode::R2T => {
                let at = tags.iter().position(|&other| other == tag).unwrap();
                assert!(at < done + 2, "only two fit at a time, in order");
                let start = header.u32(40) as usize;
                let end = start + header.u32(44) as usize;
                initiator.send_data(tag, header.u32(20), &data, start..end);
            }
            _ => {
                assert_eq!((header.opcode(), header.byte(3)), (opcode::SCSI_RESPONSE, 0));
                done += 1;
            }
        }
    }
    assert_eq!(initiator.read(15 * 1024, 1024), data);
}

#[test]
fn a_client_that_sends_one_byte_at_a_time_is_served() {
    let server = server();
    let mut initiator =
        Initiator::logged_in(&server, &[("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")]);
    initiator.settle();
    let data = pattern(BLOCK, 5);
    let mut header = initiator.command(&write10(3, 1), 0xa1, BLOCK);
    let mut bytes = Vec::new();
    pdu::push(&mut bytes, &mut header, &data, initiator.digests);
    for byte in bytes.chunks(1) {
        initiator.send_bytes(byte);
    }
    assert_eq!(initiator.ended(header.task_tag()).status, 0);
    assert_eq!(initiator.read(3, 1), data);
}

#[test]
fn task_management_is_answered() {
    let server = server();
    let mut initiator = Initiator::logged_in(&server, &[("ImmediateData", "No")]);
    initiator.settle();
    let manage = |initiator: &mut Initiator, function: u8, lun: u64, task: u32| {
        let mut header = initiator.numbered(opcode::TASK_MANAGEMENT | 0x40, 0x80 | function);
        initiator.cmd_sn -= 1;
        header.set(8, &lun.to_be_bytes()).set_u32(20, task);
        initiator.send(header, &[]);
        loop {
            let (answer, _) = initiator.receive().unwrap();
            if answer.opcode() == opcode::TASK_MANAGEMENT_RESPONSE {
                assert_eq!(answer.task_tag(), header.task_tag());
                return answer.byte(2);
            }
        }
    };
    let one = 1 << 48;
    assert_eq!(manage(&mut initiator, 1, 0, 0x1234), 1, "no such task");
    assert_eq!(manage(&mut initiator, 8, 0, 0x1234), 4, "no task is reassigned");
    assert_eq!(manage(&mut initiator, 3, 0, 0), 5, "no ACA");
    assert_eq!(manage(&mut initiator, 5, 99 << 48, 0), 2, "no such unit");
    assert_eq!(manage(&mut initiator, 2, one, 0), 0);

    // A write that waits for its data is ended; data that was on its way is passed by.
    for function in [1, 2, 4, 5, 6] {
        let header = initiator.command(&write10(0, 1), 0xa1, BLOCK);
        initiator.send(header, &[]);
        let (r2t, _) = initiator.receive().unwrap();
        assert_eq!(r2t.opcode(), opcode::R2T);
        assert_eq!(manage(&mut initiator, function, 0, header.task_tag()), 0);
        initiator.send_data(header.task_tag(), r2t.u32(20), &[0xee; BLOCK], 0..BLOCK);
        initiator.settle();
    }
    assert_eq!(initiator.read(0, 1), [0; BLOCK]);

    // A cold reset ends connections, those of others as well.
    let mut other = Initiator::connect(&server);
    other.isid[5] = 2;
    other.log_in(&[]).unwrap();
    assert_eq!(manage(&mut initiator, 7, 0, 0), 0);
    for initiator in [&mut initiator, &mut other] {
        let (header, _) = initiator.receive().unwrap();
        assert_eq!((header.opcode(), header.byte(36)), (opcode::ASYNC, 3));
        initiator.closed();
    }
}
