//! What works with a target that keeps to the rules.

use super::cuts::Relay;
use super::*;

#[test]
fn what_is_written_is_read_in_every_way_that_can_be_agreed_on() {
    let small = ServerLimits { outstanding_r2t: 1, receive_segment: 8192, ..Default::default() };
    let mut seed = 0;
    for server_limits in [ServerLimits::default(), small] {
        let server =
            Server::bind(target(), ServerOptions { limits: server_limits, ..server_options() });
        let server = server.unwrap();
        for (immediate_data, initial_r2t, digest) in
            [(true, true, false), (true, false, true), (false, true, true), (false, false, false)]
        {
            for (segment, burst) in [(8192, 16_384), (256 << 10, 1 << 20)] {
                let mut options = options();
                (options.header_digest, options.data_digest) = (digest, digest);
                options.limits.immediate_data = immediate_data;
                options.limits.initial_r2t = initial_r2t;
                options.limits.receive_segment = segment;
                (options.limits.max_burst, options.limits.first_burst) = (burst, burst / 2);
                let mut rig = Rig::new(&server, options);
                rig.settle();
                for blocks in [1, 3, 16, 33, 127, 600, 4000] {
                    seed += 1;
                    let data = pattern(blocks * BLOCK, seed);
                    rig.write(100, &data);
                    assert!(rig.read(100, data.len()) == data, "{blocks} blocks");
                }
            }
        }
    }
}

#[test]
fn many_commands_at_a_time_from_many_queues() {
    let limits = ServerLimits { commands: 4, ..ServerLimits::default() };
    let server = Server::bind(target(), ServerOptions { limits, ..server_options() }).unwrap();
    let mut rig = Rig::new(&server, options());
    rig.settle();
    let remote = &rig.remote;
    thread::scope(|scope| {
        for number in 0..3u8 {
            scope.spawn(move || {
                let mut queue = remote.queue(32).unwrap();
                let lba = |slot: u8| u32::from(number) * 4096 + u32::from(slot) * 64;
                for round in 0..10 {
                    let data = |slot: u8| pattern(64 * BLOCK, number ^ slot ^ round);
                    let mut done = Vec::new();
                    for slot in 0..32 {
                        let command = asked(&cdb10(0x2a, lba(slot), 64), &data(slot), 0).command;
                        assert_eq!(queue.submit(slot.into(), command), None);
                    }
                    let one_more = asked(&[0; 6], &[], 0).command;
                    let full = Response::of(Status::TaskSetFull);
                    assert_eq!(queue.submit(99, one_more), Some(ServiceResponse::Complete(full)));
                    queue.drain(&mut done);
                    assert_eq!(done.len(), 32);
                    let reads: Vec<_> = (0..32)
                        .map(|slot| asked(&cdb10(0x28, lba(slot), 64), &[], 64 * BLOCK))
                        .collect();
                    let mut memory = Vec::new();
                    for (slot, Asked { command, data_in, .. }) in (0..).zip(reads) {
                        assert_eq!(queue.submit(slot, command), None);
                        memory.push(data_in);
                    }
                    queue.drain(&mut done);
                    assert_eq!((done.len(), queue.in_flight()), (64, 0));
                    for (slot, memory) in (0..).zip(memory) {
                        assert!(bytes_of(memory) == data(slot), "queue {number}, slot {slot}");
                    }
                }
            });
        }
    });
    let status = rig.remote.status();
    assert!(status.connected && status.reconnects == 0 && status.commands >= 3 * 640);
    assert!(status.received > 30 << 20 && status.sent > 30 << 20, "{status:?}");
}

#[test]
fn residuals_and_sense_arrive() {
    let server = server();
    let mut rig = Rig::new(&server, options());
    // The unit attention of a new port.
    let (response, _) = rig.run(&[0; 6], &[], 0);
    assert_eq!(response.status, Status::CheckCondition);
    assert_eq!(response.sense.code().map(|code| (code.key, code.asc)), Some((6, 0x29)));
    // INQUIRY with more room than data, and less.
    let (response, data) = rig.run(&[0x12, 0, 0, 0xff, 0xff, 0], &[], 4096);
    let len = usize::try_from(response.data_in).unwrap();
    assert_eq!((response.status, response.wanted), (Status::Good, response.data_in));
    assert!(len >= 36 && data[len..].iter().all(|&byte| byte == UNTOUCHED));
    let (response, _) = rig.run(&cdb10(0x28, 0, 8), &[], BLOCK);
    assert_eq!((response.data_in, response.wanted), (512, 4096));
    // Beyond the end.
    let (response, _) = rig.run(&cdb10(0x28, u32::MAX, 1), &[], BLOCK);
    assert_eq!(response.sense.code().map(|code| (code.key, code.asc)), Some((5, 0x21)));
    // COMPARE AND WRITE that finds something else.
    let mut compare = [0; 16];
    (compare[0], compare[13]) = (0x89, 1);
    let (response, _) = rig.run(&compare, &pattern(2 * BLOCK, 9), 0);
    assert_eq!(response.sense.code().map(|code| code.key), Some(0xe));
}

#[test]
fn one_unit_is_shown() {
    let server = server();
    let mut rig = Rig::new(&server, options());
    rig.settle();
    // It is unit 1 over there.
    rig.write(0, &pattern(BLOCK, 1));
    let mut direct = Rig {
        remote: RemoteTarget::connect(
            &format!("iscsi://{}/{TARGET}/0", server.addresses()[0]).parse().unwrap(),
            SessionOptions { isid: [0x80, 0, 0, 0, 0, 2], ..options() },
        )
        .unwrap(),
        queue: rig.remote.queue(1).unwrap(),
    };
    direct.queue = direct.remote.queue(1).unwrap();
    direct.settle();
    assert_eq!(direct.read(0, BLOCK), [0; BLOCK]);
    let (response, luns) = rig.run(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[], 256);
    assert_eq!(
        (response.data_in, &luns[..16]),
        (16, &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..])
    );
    let mut other = asked(&[0x12, 0, 0, 0, 255, 0], &[], 255);
    other.command.lun = 1 << 48;
    let Some(ServiceResponse::Complete(response)) = rig.queue.submit(1, other.command) else {
        panic!("answered here");
    };
    assert_eq!((response.status, bytes_of(other.data_in)[0]), (Status::Good, 0x7f));
    let mut other = asked(&[0; 6], &[], 0);
    other.command.lun = 1 << 48;
    let Some(ServiceResponse::Complete(response)) = rig.queue.submit(1, other.command) else {
        panic!("answered here");
    };
    assert_eq!(response.sense.code().map(|code| code.asc), Some(0x25));
    rig.queue.manage(3, 1 << 48, TaskManagement::LogicalUnitReset);
    let mut done = Vec::new();
    rig.queue.drain(&mut done);
    assert_eq!(done, [(3, ServiceResponse::Managed(Outcome::NoSuchUnit))]);
}

#[test]
fn reservations_stay_when_the_connection_does_not() {
    const WRITE_EXCLUSIVE: u8 = 1;
    let server = server();
    let relay = Relay::to(server.addresses()[0]);
    let mut rig = Rig::at(relay.address, options());
    rig.settle();
    let (cdb, parameters) = reserve_out(0, 0, 0, 0xabc);
    assert_eq!(rig.run(&cdb, &parameters, 0).0.status, Status::Good);
    let (cdb, parameters) = reserve_out(1, WRITE_EXCLUSIVE, 0xabc, 0);
    assert_eq!(rig.run(&cdb, &parameters, 0).0.status, Status::Good);
    let mut other = Rig::new(&server, SessionOptions { isid: [0x80, 0, 0, 0, 0, 2], ..options() });
    other.settle();
    for round in 1..=3 {
        relay.cut();
        wait_until("a new session", || rig.remote.status().reconnects >= round);
        rig.settle();
        let (_, keys) = rig.run(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0], &[], 64);
        assert_eq!(keys[4..16], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0x0a, 0xbc], "one key, ours");
        rig.write(8, &pattern(BLOCK, 4));
        let (response, _) = other.run(&cdb10(0x2a, 8, 1), &pattern(BLOCK, 5), 0);
        assert_eq!(response.status, Status::ReservationConflict);
        assert_eq!(rig.read(8, BLOCK), pattern(BLOCK, 4));
    }
    assert_eq!(server.sessions().len(), 2, "the lost sessions are gone");
}

#[test]
fn a_lost_nexus_is_a_new_session_of_the_same_port() {
    let server = server();
    let mut rig = Rig::new(&server, options());
    rig.settle();
    // RESERVE(6), which lasts as long as the nexus.
    assert_eq!(rig.run(&[0x16, 0, 0, 0, 0, 0], &[], 0).0.status, Status::Good);
    let mut other = Rig::new(&server, SessionOptions { isid: [0x80, 0, 0, 0, 0, 2], ..options() });
    let mut conflicts = || {
        let (response, _) = other.run(&cdb10(0x28, 0, 1), &[], BLOCK);
        response.status == Status::ReservationConflict
    };
    wait_until("a conflict", &mut conflicts);
    rig.remote.nexus_lost();
    wait_until("no conflict", || !conflicts());
    wait_until("a new session", || rig.remote.status().reconnects == 1);
    rig.settle();
}

#[test]
fn functions_are_answered() {
    let server = server();
    let mut rig = Rig::new(&server, options());
    rig.settle();
    let done = |outcome| ServiceResponse::Managed(outcome);
    assert_eq!(rig.manage(TaskManagement::AbortTask(123)), done(Outcome::NoSuchTask));
    for what in [
        TaskManagement::AbortTaskSet,
        TaskManagement::ClearTaskSet,
        TaskManagement::LogicalUnitReset,
        TaskManagement::TargetReset,
    ] {
        let command = asked(&cdb10(0x2a, 0, 64), &pattern(64 * BLOCK, 1), 0).command;
        assert_eq!(rig.queue.submit(1, command), None);
        assert_eq!(rig.manage(what), done(Outcome::Complete), "{what:?}");
        assert_eq!(rig.queue.in_flight(), 0, "the command is answered, carried out or not");
    }
    // Resets are told.
    let (response, _) = rig.run(&[0; 6], &[], 0);
    assert_eq!(response.sense.code().map(|code| (code.key, code.asc)), Some((6, 0x29)));
}

#[test]
fn both_sides_prove_who_they_are_or_there_is_no_session() {
    let secrets = format!("joe:secret-of-joe\n{TARGET}:secret-of-target");
    let chap = Some(ChapSecrets::of_test(&secrets, TARGET));
    let server = Server::bind(target(), ServerOptions { chap, ..server_options() }).unwrap();
    let with = |text: &str| {
        let chap = Some(Credentials::of_test(text, TARGET));
        connect(server.addresses()[0], SessionOptions { chap, ..options() })
    };
    with("joe:secret-of-joe").unwrap();
    with(&secrets).unwrap();
    for wrong in ["joe:secret-of-jim", "jim:secret-of-joe"] {
        let error = with(wrong).unwrap_err();
        assert!(matches!(error, ConnectError::Refused { status: 0x0201, .. }), "{error}");
        assert!(error.is_final() && error.help().is_some());
    }
    let error = with(&format!("joe:secret-of-joe\n{TARGET}:secret-of-nobody")).unwrap_err();
    assert!(matches!(error, ConnectError::Impostor), "{error}");
    let error = connect(server.addresses()[0], options()).unwrap_err();
    assert!(error.is_final(), "{error}");

    // Who has secrets takes no target that wants none.
    let open = Server::bind(target(), server_options()).unwrap();
    let chap = Some(Credentials::of_test("joe:secret-of-joe", TARGET));
    let error = connect(open.addresses()[0], SessionOptions { chap, ..options() }).unwrap_err();
    assert!(error.is_final(), "{error}");
}

#[test]
fn a_server_that_is_gone_fails_commands_in_time_and_one_that_is_back_serves_them() {
    let first = server();
    let relay = Relay::to(first.addresses()[0]);
    let patience = Duration::from_millis(300);
    let mut rig = Rig::at(relay.address, SessionOptions { lost_patience: patience, ..options() });
    rig.settle();
    relay.refuse(true);
    relay.cut();
    wait_until("the loss is noticed", || !rig.remote.status().connected);
    let (answer, _) = rig.try_run(&cdb10(0x2a, 0, 1), &pattern(BLOCK, 1), 0);
    assert_eq!(answer, ServiceResponse::DeliveryFailure);
    assert!(rig.remote.status().last_error.is_some());
    relay.refuse(false);
    wait_until("a new session", || rig.remote.status().connected);
    rig.settle();
    assert_eq!(rig.read(0, BLOCK), [0; BLOCK], "what failed before it was sent was not done");
}

#[test]
fn a_target_that_is_dropped_fails_the_commands_of_its_queues() {
    let server = server();
    let mut rig = Rig::new(&server, options());
    rig.settle();
    let Rig { mut queue, remote } = rig;
    drop(remote);
    wait_until("it logged out", || server.sessions().is_empty());
    assert_eq!(queue.submit(1, asked(&[0; 6], &[], 0).command), None);
    let mut done = Vec::new();
    queue.drain(&mut done);
    assert_eq!(done, [(1, ServiceResponse::DeliveryFailure)]);
}
