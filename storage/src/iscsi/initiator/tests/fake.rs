//! Targets that do wrong.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use proptest::prelude::*;

use super::*;
use crate::iscsi::digest::Digests;
use crate::iscsi::keys;
use crate::iscsi::pdu::{self, Decoded, Header, NO_TAG, opcode};
use crate::testkit::cases;

/// A target's end of a connection.
struct Peer {
    socket: TcpStream,
    received: Vec<u8>,
    stat_sn: u32,
}

impl Peer {
    fn send(&mut self, mut header: Header, data: &[u8]) {
        let mut bytes = Vec::new();
        pdu::push(&mut bytes, &mut header, data, Digests::default());
        let _ = self.socket.write_all(&bytes);
    }

    /// A header with the target's numbers.
    fn header(&mut self, kind: u8, flags: u8, task: u32, is_answer: bool) -> Header {
        let mut header = Header::new(kind, flags);
        header.set_u32(16, task).set_u32(24, self.stat_sn).set_u32(28, 1).set_u32(32, 1000);
        self.stat_sn += u32::from(is_answer);
        header
    }

    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Decoded::Whole(pdu, len) =
                pdu::decode(&self.received, Digests::default(), 1 << 24).unwrap()
            {
                let found = (pdu.header, pdu.data.to_vec());
                self.received.drain(..len);
                // A target closes the connection then.
                return Some(found).filter(|(header, _)| header.opcode() != opcode::LOGOUT);
            }
            let mut bytes = vec![0; 1 << 16];
            let count = self.socket.read(&mut bytes).ok().filter(|&count| count > 0)?;
            self.received.extend_from_slice(&bytes[..count]);
        }
    }

    /// Lets the initiator in.
    fn let_in(&mut self) -> Option<()> {
        for stage in [0, 1] {
            let (request, _) = self.receive()?;
            assert_eq!((request.opcode(), (request.flags() >> 2) & 3), (opcode::LOGIN, stage));
            let mut text = Vec::new();
            if stage == 0 {
                keys::push(&mut text, "AuthMethod", "None");
            }
            let flags = if stage == 0 { 0x81 } else { 0x87 };
            let mut header = self.header(opcode::LOGIN_RESPONSE, flags, 0, true);
            header.set(8, &request.bytes()[8..14]).set_u16(14, 1);
            self.send(header, &text);
        }
        Some(())
    }

    /// The next SCSI command.
    fn command(&mut self) -> Option<Header> {
        loop {
            let (header, _) = self.receive()?;
            if header.opcode() == opcode::SCSI_COMMAND {
                return Some(header);
            }
        }
    }
}

/// A target that serves each connection so, until the test is over.
fn fake(mut serve: impl FnMut(usize, &mut Peer) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, socket) in listener.incoming().enumerate() {
            let Ok(socket) = socket else { return };
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            serve(number, &mut Peer { socket, received: Vec::new(), stat_sn: 500 });
        }
    });
    address
}

fn hasty() -> SessionOptions {
    let mut options = options();
    options.limits.idle_time = Duration::from_millis(100);
    options.limits.answer_time = Duration::from_millis(200);
    options
}

#[test]
fn a_command_is_aborted_with_its_tag_and_ends_silently() {
    let address = fake(|_, peer| {
        peer.let_in();
        let Some(command) = peer.command() else { return };
        while let Some((header, _)) = peer.receive() {
            if header.opcode() == opcode::TASK_MANAGEMENT {
                assert_eq!((header.flags(), header.u32(20)), (0x81, command.task_tag()));
                assert_eq!((header.lun(), header.u32(32)), (1 << 48, command.cmd_sn()));
                let answer =
                    peer.header(opcode::TASK_MANAGEMENT_RESPONSE, 0x80, header.task_tag(), true);
                peer.send(answer, &[]);
            }
        }
    });
    let mut rig = Rig::at(address, options());
    let command = asked(&cdb10(0x28, 0, 1), &[], BLOCK).command;
    assert_eq!(rig.queue.submit(1, command), None);
    let mut done = Vec::new();
    rig.queue.poll(&mut done);
    rig.queue.manage(2, 0, TaskManagement::AbortTask(77));
    rig.queue.drain(&mut done);
    let silent = ServiceResponse::Complete(Response::silent());
    assert_eq!(done, [(1, silent), (2, ServiceResponse::Managed(Outcome::Complete))]);
}

#[test]
fn a_queue_whose_commands_are_never_answered_can_be_dropped() {
    let address = fake(|_, peer| {
        peer.let_in();
        while peer.receive().is_some() {}
    });
    let rig = Rig::at(address, hasty());
    let Rig { mut queue, remote } = rig;
    let write = asked(&cdb10(0x2a, 0, 4096), &pattern(4096 * BLOCK, 1), 0);
    let read = asked(&cdb10(0x28, 0, 8), &[], 8 * BLOCK);
    assert_eq!(queue.submit(1, write.command), None);
    assert_eq!(queue.submit(2, read.command), None);
    queue.poll(&mut Vec::new());
    drop(queue);
    bytes_of(read.data_in);
    bytes_of(write._data_out);
    drop(remote);
}

#[test]
fn a_silent_target_is_noticed_and_only_what_may_be_is_sent_again() {
    let address = fake(|number, peer| {
        peer.let_in();
        while let Some((header, _)) = peer.receive() {
            assert!(number == 0 || header.byte(32) != 0x2a, "a write is sent again");
            if number > 0 && header.opcode() == opcode::SCSI_COMMAND {
                let answer = peer.header(opcode::SCSI_RESPONSE, 0x82, header.task_tag(), true);
                let mut answer = answer;
                answer.set_u32(44, header.u32(20));
                peer.send(answer, &[]);
            }
        }
    });
    let mut rig = Rig::at(address, hasty());
    let write = asked(&cdb10(0x2a, 0, 1), &pattern(BLOCK, 1), 0);
    let read = asked(&cdb10(0x28, 0, 1), &[], BLOCK);
    assert_eq!(rig.queue.submit(1, write.command), None);
    assert_eq!(rig.queue.submit(2, read.command), None);
    let mut done = Vec::new();
    rig.queue.drain(&mut done);
    done.sort_by_key(|&(token, _)| token);
    assert_eq!(done[0], (1, ServiceResponse::DeliveryFailure));
    assert_eq!(done[1], (2, ServiceResponse::Complete(Response::GOOD)));
    assert!(rig.remote.status().reconnects >= 1);
}

#[test]
fn a_target_that_moved_is_followed_once() {
    let server = server();
    let redirect = |to: SocketAddr| {
        fake(move |_, peer| {
            let Some((request, _)) = peer.receive() else { return };
            let mut text = Vec::new();
            keys::push(&mut text, "TargetAddress", &format!("{to},1"));
            let mut header = peer.header(opcode::LOGIN_RESPONSE, 0, request.task_tag(), true);
            header.set_u16(36, 0x0101);
            peer.send(header, &text);
        })
    };
    let once = redirect(server.addresses()[0]);
    Rig::at(once, options()).settle();
    let error = connect(redirect(once), options()).unwrap_err();
    assert!(matches!(error, ConnectError::Redirected { .. }), "{error}");
}

/// Does wrong.
type Offence = fn(&mut Peer, &Header);

/// What a target may do wrong, to a read or write of 64 KiB.
fn offences() -> Vec<(&'static str, Offence)> {
    fn data(peer: &mut Peer, task: u32, (number, offset): (u32, u32), data: &[u8]) {
        let mut header = peer.header(opcode::DATA_IN, 0, task, false);
        header.set_u32(20, NO_TAG).set_u32(36, number).set_u32(40, offset);
        peer.send(header, data);
    }
    fn r2t(peer: &mut Peer, task: u32, (number, offset, len): (u32, u32, u32)) {
        let mut header = peer.header(opcode::R2T, 0x80, task, false);
        header.set_u32(20, 9).set_u32(36, number).set_u32(40, offset).set_u32(44, len);
        peer.send(header, &[]);
    }
    fn end(peer: &mut Peer, task: u32, flags: u8, status: u8, count: u32) {
        let mut header = peer.header(opcode::SCSI_RESPONSE, 0x80 | flags, task, true);
        header.set(3, &[status]).set_u32(44, count);
        peer.send(header, &[]);
    }
    vec![
        ("data of no command", |peer, _| data(peer, 0xdead, (0, 0), &[1; 512])),
        ("data beyond the end", |peer, it| data(peer, it.task_tag(), (0, 65_536), &[1; 512])),
        ("data that does not follow", |peer, it| data(peer, it.task_tag(), (0, 512), &[1; 512])),
        ("data out of order", |peer, it| data(peer, it.task_tag(), (1, 0), &[1; 512])),
        ("data without end", |peer, it| {
            for number in 0..1000 {
                data(peer, it.task_tag(), (number, number * 4096), &[1; 4096]);
            }
        }),
        ("a PDU that is too long", |peer, _| {
            let mut header = Header::new(opcode::DATA_IN, 0);
            header.set_data_len((1 << 24) - 1);
            let _ = peer.socket.write_all(header.bytes());
        }),
        ("R2T of no command", |peer, _| r2t(peer, 0xdead, (0, 0, 512))),
        ("R2T beyond the end", |peer, it| r2t(peer, it.task_tag(), (0, 0, 1 << 30))),
        ("R2T of nothing", |peer, it| r2t(peer, it.task_tag(), (0, 0, 0))),
        ("R2T out of order", |peer, it| r2t(peer, it.task_tag(), (3, 0, 512))),
        ("an answer of no command", |peer, _| end(peer, 0xdead, 0, 0, 0)),
        ("a good end without data", |peer, it| end(peer, it.task_tag(), 0, 0, 0)),
        ("less than nothing", |peer, it| end(peer, it.task_tag(), 2, 0, u32::MAX)),
        ("no status", |peer, it| end(peer, it.task_tag(), 0, 0x77, 0)),
        ("numbers out of order", |peer, it| {
            peer.stat_sn += 7;
            end(peer, it.task_tag(), 2, 0, 65_536);
        }),
        ("a function nobody asked for", |peer, _| {
            let header = peer.header(opcode::TASK_MANAGEMENT_RESPONSE, 0x80, 3, true);
            peer.send(header, &[]);
        }),
        ("an answer nobody asked for", |peer, _| {
            let header = peer.header(opcode::NOP_IN, 0x80, 3, true);
            peer.send(header, &[]);
        }),
        ("a rejection", |peer, it| {
            let mut header = peer.header(opcode::REJECT, 0x80, NO_TAG, true);
            header.set(2, &[4]);
            peer.send(header, it.bytes());
        }),
        ("the login's answer", |peer, _| {
            let header = peer.header(opcode::LOGIN_RESPONSE, 0x87, 0, true);
            peer.send(header, &[]);
        }),
    ]
}

#[test]
fn each_offence_ends_the_session_and_no_command_is_lost() {
    for (what, offence) in offences() {
        let address = fake(move |number, peer| {
            peer.let_in();
            while let Some(command) = peer.command() {
                if number == 0 {
                    offence(peer, &command);
                } else {
                    let mut header =
                        peer.header(opcode::SCSI_RESPONSE, 0x82, command.task_tag(), true);
                    header.set(3, &[8]).set_u32(44, command.u32(20));
                    peer.send(header, &[]);
                }
            }
        });
        let mut rig = Rig::at(address, options());
        let read = cdb10(0x28, 0, 128);
        let (answer, _) = rig.try_run(&read, &[], 128 * BLOCK);
        let busy = matches!(&answer, ServiceResponse::Complete(it) if it.status == Status::Busy);
        assert!(busy, "{what}: {answer:?}");
        assert_eq!(rig.remote.status().reconnects, 1, "{what}");
    }
}

#[test]
fn questions_are_answered() {
    let (send, received) = std::sync::mpsc::channel();
    let address = fake(move |_, peer| {
        peer.let_in();
        let mut header = peer.header(opcode::NOP_IN, 0x80, NO_TAG, false);
        header.set_u32(20, 0x1234);
        peer.send(header, b"are you there?");
        while let Some((header, data)) = peer.receive() {
            if header.opcode() == opcode::NOP_OUT {
                let _ = send.send((header.task_tag(), header.transfer_tag(), data));
            }
        }
    });
    let rig = Rig::at(address, options());
    let answer = received.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(answer, (NO_TAG, 0x1234, b"are you there?".to_vec()));
    assert!(rig.remote.status().connected);
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn garbage_costs_a_session_at_most(
        headers in proptest::collection::vec(
            (
                prop_oneof![Just(0x20u8), Just(0x21), Just(0x22), Just(0x25), Just(0x31), Just(0x32), any::<u8>()],
                any::<u8>(),
                prop_oneof![Just(1u32), Just(2), Just(3), any::<u32>()],
                any::<[u8; 24]>(),
                0usize..600,
            ),
            1..12,
        ),
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let address = fake(move |number, peer| {
            peer.let_in();
            if number == 0 {
                peer.command();
                for &(kind, flags, task, rest, len) in &headers {
                    let is_answer = kind != 0x25 || flags & 1 != 0;
                    let mut header = peer.header(kind, flags, task, is_answer);
                    header.set_u32(20, task);
                    header.set(36, &rest[..12]);
                    peer.send(header, &rest.repeat(25)[..len]);
                }
                let _ = peer.socket.write_all(&tail);
                return;
            }
            while let Some(command) = peer.command() {
                let mut header = peer.header(opcode::SCSI_RESPONSE, 0x82, command.task_tag(), true);
                header.set(3, &[8]).set_u32(44, command.u32(20));
                peer.send(header, &[]);
            }
        });
        let mut rig = Rig::at(address, options());
        let commands = [
            asked(&cdb10(0x28, 0, 16), &[], 16 * BLOCK),
            asked(&cdb10(0x2a, 0, 600), &pattern(600 * BLOCK, 1), 0),
            asked(&cdb10(0x28, 0, 1), &[], BLOCK),
        ];
        let mut memory = Vec::new();
        for (token, asked) in (0..).zip(commands) {
            prop_assert_eq!(rig.queue.submit(token, asked.command), None);
            memory.push(asked.data_in);
        }
        let mut done = Vec::new();
        rig.queue.drain(&mut done);
        prop_assert_eq!(done.len(), 3);
        memory.into_iter().for_each(|memory| drop(bytes_of(memory)));
    }
}
