//! Memory that all sessions share: who hoards it does not keep others from theirs for ever.

use super::*;

const LONG: usize = 2 << 20;

/// 8 connections with 512 KiB of their own, and 4 MiB for all.
fn limits() -> ServerLimits {
    ServerLimits {
        connections: 8,
        server_bytes: 8 << 20,
        session_bytes: 4 << 20,
        command_bytes: LONG,
        answer_time: Duration::from_millis(500),
        ..ServerLimits::default()
    }
}

fn enter(server: &Server, number: u8) -> Initiator {
    let mut initiator = Initiator::connect(server);
    initiator.isid = [0x80, 0, 0, 0, 7, number];
    initiator.log_in(&[]).unwrap();
    initiator.settle();
    initiator
}

fn blocks(bytes: usize) -> u16 {
    u16::try_from(bytes / BLOCK).unwrap()
}

/// Begins a write and sends no data beyond what comes with it.
fn hold_back(initiator: &mut Initiator, len: usize, immediate: usize) -> u32 {
    let header = initiator.command(&write10(0, blocks(len)), 0xa1, len);
    initiator.send(header, &vec![7; immediate]);
    header.task_tag()
}

/// Three sessions that ask for all there is, and send nothing.
fn hoarders(server: &Server) -> Vec<Initiator> {
    (0..3)
        .map(|number| {
            let mut hoarder = enter(server, number);
            (0..2).for_each(|_| _ = hold_back(&mut hoarder, LONG, 0));
            hoarder
        })
        .collect()
}

#[test]
fn what_is_ones_own_is_there_whatever_others_hold() {
    let limits = ServerLimits { answer_time: Duration::from_secs(60), ..limits() };
    let server = with_limits(limits);
    let hoarders = hoarders(&server);
    let mut other = enter(&server, 9);
    for round in 0..20 {
        let bytes = pattern(128 << 10, round);
        assert_eq!(other.write(64, &bytes, 0, 0).status, 0);
        assert_eq!(other.read(64, 256), bytes);
    }
    assert_eq!(server.sessions().len(), 4, "nobody was sent away for that");
    drop(hoarders);
}

#[test]
fn who_holds_back_data_makes_way_for_those_that_wait() {
    let server = with_limits(limits());
    let hoarders = hoarders(&server);
    let mut other = enter(&server, 9);
    let bytes = pattern(LONG, 3);
    assert_eq!(other.write(0, &bytes, 0, 0).status, 0);
    assert_eq!(other.read(0, blocks(LONG)), bytes);
    drop(hoarders);
    other.log_out();
}

/// Slow ones that go on have their turn, and so has everyone after them.
#[test]
fn sessions_that_want_more_than_there_is_all_come_through() {
    let server = with_limits(ServerLimits { answer_time: Duration::from_secs(20), ..limits() });
    std::thread::scope(|scope| {
        for number in 0..8 {
            let mut initiator = enter(&server, number);
            scope.spawn(move || {
                let bytes = pattern(LONG, number);
                for _ in 0..3 {
                    let tags = [(); 2].map(|()| hold_back(&mut initiator, LONG, 8192));
                    // Data that was asked for, in whatever order the answers come.
                    let mut open = tags.len();
                    while open > 0 {
                        let (header, _) = initiator.receive().expect("an answer");
                        let tag = header.task_tag();
                        match header.opcode() {
                            opcode::R2T => {
                                let (start, len) =
                                    (header.u32(40) as usize, header.u32(44) as usize);
                                let range = start..start + len;
                                initiator.send_data(tag, header.u32(20), &bytes, range);
                            }
                            opcode::SCSI_RESPONSE => {
                                assert_eq!(header.byte(3), 0);
                                open -= 1;
                            }
                            other => panic!("opcode {other:#x}"),
                        }
                    }
                    let ended = initiator.ask(&read10(0, blocks(LONG)), LONG);
                    assert_eq!((ended.status, ended.data.len()), (0, LONG));
                }
                initiator.log_out();
            });
        }
    });
    wait_until("all sessions are gone", || server.sessions().is_empty());
}

/// Data that nobody asked for is kept only as far as there is room for it.
#[test]
fn early_data_that_finds_no_room_is_sent_again_later() {
    let limits = ServerLimits { answer_time: Duration::from_secs(60), ..limits() };
    let server = with_limits(limits);
    let hoarders = hoarders(&server);
    let mut other = enter(&server, 9);
    // Waits for its memory, and with it all behind it.
    hold_back(&mut other, LONG, 0);
    let tags: Vec<u32> = (0..40).map(|_| hold_back(&mut other, 64 << 10, 64 << 10)).collect();
    // 256 KiB of it are kept.
    for tag in &tags[4..] {
        let (header, _) = other.receive().expect("an answer");
        assert_eq!((header.opcode(), header.task_tag()), (opcode::SCSI_RESPONSE, *tag));
        assert_eq!((header.byte(2), header.byte(3)), (0, 0x28), "TASK SET FULL");
    }
    drop(hoarders);
    // There is room now: the long one is asked for its data, the others are carried out.
    let mut good = 0;
    while good < 4 {
        let (header, _) = other.receive().expect("an answer");
        if header.opcode() == opcode::SCSI_RESPONSE {
            assert_eq!((header.task_tag(), header.byte(3)), (tags[good], 0));
            good += 1;
        }
    }
    assert_eq!(other.read(0, 128), vec![7; 64 << 10]);
}
