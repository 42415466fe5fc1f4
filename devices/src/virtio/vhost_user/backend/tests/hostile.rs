use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserBackendReqHandlerMut;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserInflight, VhostUserMemoryRegion, VhostUserSingleMemoryRegion,
    VhostUserVringAddrFlags,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::fds::sealed_memfd;
use super::super::handler::protocol_features;
use super::super::session::Session;
use super::super::signals::Signals;
use super::front_end::{FrontEnd, Server, disk};

#[test]
fn memory_that_could_go_away_is_refused() {
    let server = Server::new(1);
    let mut front = FrontEnd::new(&server, 1, 16);
    let set = |change: &dyn Fn(&mut vhost::VhostUserMemoryRegionInfo)| {
        let mut region = front.region();
        change(&mut region);
        front.connection.set_mem_table(&[region]).is_ok()
    };
    assert!(set(&|_| ()));
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 30).unwrap();
    assert!(!set(&|region| region.mmap_handle = file.as_raw_fd()), "may be truncated");
    let small = sealed_memfd("small", 4096).unwrap();
    assert!(!set(&|region| region.mmap_handle = small.as_raw_fd()), "beyond the file");
    assert!(!set(&|region| region.mmap_offset = 1), "misaligned");
    assert!(!set(&|region| region.memory_size = 1 << 62), "huge");
    let region = front.region();
    assert!(front.connection.set_mem_table(&[region, region]).is_err(), "overlap");
    // Refused, and the memory of before is still there.
    front.start_all();
    assert_eq!(front.write(0, 0, 1), 0);
}

#[test]
fn only_eventfds_are_signalled_and_waited_for() {
    let server = Server::new(1);
    let mut front = FrontEnd::new(&server, 1, 16);
    let mut session = session();
    let wrong = || tempfile::tempfile().unwrap();
    assert!(session.set_vring_call(0, Some(wrong())).is_err());
    assert!(session.set_vring_err(0, Some(wrong())).is_err());
    assert!(session.set_vring_kick(0, Some(wrong())).is_err());
    assert!(session.set_vring_kick(0, None).is_err(), "polling");
    // One that blocks when it is full does not any more.
    let blocking = EventFd::new(0).unwrap();
    blocking.write(u64::MAX - 1).unwrap();
    front.calls[0] = blocking;
    front.start_all();
    assert_eq!(front.write(0, 0, 1), 0);
}

#[test]
fn a_front_end_that_blocks_its_device_can_be_ended() {
    let server = Server::new(1);
    let mut front = FrontEnd::new(&server, 1, 16);
    front.start_all();
    let call = &front.calls[0];
    let _ = call.read();
    call.write(u64::MAX - 1).unwrap();
    let fd = super::super::fds::borrow(call);
    let flags = rustix::fs::fcntl_getfl(fd).unwrap();
    rustix::fs::fcntl_setfl(fd, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    front.drivers[0].want_interrupt();
    let head = front.send_read(0, 0);
    assert_eq!(front.drivers[0].await_used().0, head);
    drop(server);
}

#[test]
fn nonsense_ends_the_connection_and_nothing_else() {
    let server = Server::new(1);
    for seed in 0..200u32 {
        let mut socket = std::os::unix::net::UnixStream::connect(server.back_end.path()).unwrap();
        let mut message = Vec::new();
        for word in [seed % 50, 1 | (seed % 2) << 3, seed % 64] {
            message.extend(word.to_ne_bytes());
        }
        message
            .extend(vec![u8::try_from(seed % 256).unwrap(); usize::try_from(seed % 64).unwrap()]);
        // It may be turned away, or cut off meanwhile.
        let _ = std::io::Write::write_all(&mut socket, &message);
    }
    let connected = || {
        let socket = std::os::unix::net::UnixStream::connect(server.back_end.path()).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        std::io::Read::read(&mut &socket, &mut [0]).is_err()
    };
    super::front_end::eventually(connected);
    super::front_end::eventually(|| !server.back_end.status().connected);
    let mut front = FrontEnd::new(&server, 1, 16);
    front.start_all();
    assert_eq!(front.write(0, 0, 1), 0);
}

#[test]
fn who_is_cut_off_hears_of_it_though_nobody_comes_next() {
    let server = Server::new(1);
    let mut socket = std::os::unix::net::UnixStream::connect(server.back_end.path()).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(100))).unwrap();
    // A message that would be too long.
    let words = [5, 1, u32::MAX];
    let message: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    std::io::Write::write_all(&mut socket, &message).unwrap();
    let read = std::io::Read::read(&mut socket, &mut [0]);
    let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    assert!(matches!(read, Ok(0)) || read.as_ref().is_err_and(reset), "{read:?}");
}

fn session() -> Session {
    let folder = tempfile::tempdir().unwrap();
    let device = Arc::new(Mutex::new(disk(&folder, 2)));
    Session::new(device, Arc::new(Signals::new(2)), Box::new(|| ()), Box::new(|_| ()))
}

/// The same with its queues at work, in the memory that `whole` describes.
fn started() -> Session {
    let mut session = session();
    session.set_features(session.offered).unwrap();
    session.set_protocol_features(protocol_features().bits()).unwrap();
    session.set_mem_table(&[whole()], vec![file(3)], None).unwrap();
    for queue in 0..2u8 {
        let at = (1 << 20) + (u64::from(queue) << 16);
        let (number, flags) = (u32::from(queue), VhostUserVringAddrFlags::empty());
        session.set_vring_num(number, 64).unwrap();
        session.set_vring_addr(number, flags, at, at + 0x8000, at + 0x4000, 0).unwrap();
        session.set_vring_kick(queue, Some(file(2))).unwrap();
        session.set_vring_enable(number, true).unwrap();
    }
    assert!(session.rings.iter().all(|ring| ring.running));
    session
}

fn whole() -> VhostUserMemoryRegion {
    VhostUserMemoryRegion::new(0, 1 << 20, 1 << 20, 0)
}

/// A number that is likely to matter.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..8,
        (0u64..64).prop_map(|n| n << 12),
        (0u32..64).prop_map(|n| 1 << n),
        (0u64..4).prop_map(|n| u64::MAX - n),
        any::<u64>(),
    ]
}

fn low(number: u64) -> u32 {
    u32::try_from(number & 0xFFFF_FFFF).unwrap()
}

fn lowest(number: u64) -> u16 {
    u16::try_from(number & 0xFFFF).unwrap()
}

fn file(kind: u64) -> File {
    match kind % 4 {
        0 => File::open("/dev/null").unwrap(),
        1 => tempfile::tempfile().unwrap(),
        2 => {
            use std::os::fd::AsFd;
            let event = EventFd::new(EFD_NONBLOCK).unwrap();
            super::super::fds::borrow(&event).as_fd().try_clone_to_owned().unwrap().into()
        }
        _ => sealed_memfd("region", 1 << 20).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any messages in any order, with any numbers and descriptors: each is done or refused, and
    /// what was not understood leaves a device that can be stopped.
    #[test]
    fn any_sequence_of_messages_is_survived(
        messages in proptest::collection::vec(
            (0u8..22, number(), number(), number(), number(), any::<u64>()), 1..60),
    ) {
        let mut session = started();
        for (code, a, b, c, d, kind) in messages {
            let queue = if kind % 8 == 0 { low(a) } else { low(a % 2) };
            let index = u8::try_from(queue & 0xFF).unwrap();
            let region = VhostUserMemoryRegion::new(b, c, d, a);
            let single = VhostUserSingleMemoryRegion::new(b, c, d, a);
            let records = VhostUserInflight::new(b, c, lowest(a), lowest(d));
            let flags = VhostUserConfigFlags::empty();
            match code {
                0 => drop(session.set_features(b)),
                1 => drop(session.set_features(session.offered)),
                2 => drop(session.set_protocol_features(b)),
                3 => drop(session.set_protocol_features(
                    protocol_features().bits())),
                4 => drop(session.set_mem_table(&[region], vec![file(kind)], None)),
                5 => drop(session.set_mem_table(&[whole()], vec![file(3)], None)),
                6 => drop(session.set_vring_num(queue, low(b))),
                7 => drop(session.set_vring_num(queue, 1 << (b % 11))),
                8 => drop(session.set_vring_addr(
                    queue, VhostUserVringAddrFlags::empty(), b, c, d, 0)),
                9 => drop(session.set_vring_addr(
                    queue, VhostUserVringAddrFlags::empty(),
                    (1 << 20) + (b % 64) * 4096, (1 << 20) + (c % 64) * 4096,
                    (1 << 20) + (d % 64) * 4096, 0)),
                10 => drop(session.set_vring_base(queue, low(b))),
                11 => drop(session.get_vring_base(queue)),
                12 => drop(session.set_vring_kick(index, Some(file(kind)))),
                13 => drop(session.set_vring_call(index, Some(file(kind)))),
                14 => drop(session.set_vring_err(index, Some(file(2)))),
                15 => drop(session.set_vring_enable(queue, kind % 4 != 0)),
                16 => drop(session.get_config(low(b), low(c), flags)),
                17 => drop(session.set_config(low(b), &[1; 3], flags)),
                18 => drop(session.get_inflight_fd(&records)),
                19 => drop(session.set_inflight_fd(&records, file(kind))),
                20 => drop(session.add_mem_region(&single, file(kind), None)),
                _ => drop(session.reset_device()),
            }
        }
        let running = session.rings.iter().filter(|ring| ring.running).count();
        session.halt();
        prop_assert!(running <= 2);
    }
}
