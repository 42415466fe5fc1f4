mod peer;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::thread;

use memshare::{GuestRam, MemoryHandle};
use proptest::prelude::*;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};

use super::back_channel::BackChannel;
use super::*;
use crate::virtio::driver::{Driver, Told, activation};
use peer::{Character, Peer};

const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    .union(VhostUserProtocolFeatures::BACKEND_REQ);
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const MQ_AND_WCE: u64 = 1 << 11 | 1 << 12;
const PATIENCE: Duration = Duration::from_secs(30);
const RINGS: u64 = 0x1_0000;

fn disk(sectors: u64, queues: u16) -> Vec<u8> {
    let mut config = vec![0; 0x60];
    config[..8].copy_from_slice(&sectors.to_le_bytes());
    config[0x14..0x18].copy_from_slice(&512u32.to_le_bytes());
    config[0x20] = 1;
    config[0x22..0x24].copy_from_slice(&queues.to_le_bytes());
    config
}

fn character() -> Character {
    Character {
        features: VERSION_1 | MQ_AND_WCE | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(),
        protocol: PROTOCOL,
        queues: 4,
        config: disk(2048, 4),
        holds: false,
    }
}

pub(super) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}: not in a minute");
}

/// A front end, a driver of its first queue, and a place for sockets.
struct Setup {
    device: FrontEnd,
    driver: Driver,
    told: Arc<Told>,
    memory: MemoryHandle,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Setup {
    fn new(character: &Character) -> (Setup, Peer) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let peer = Peer::start(&path, character.clone());
        let device = FrontEnd::connect(&path, Kind::Block, Some(2), PATIENCE).unwrap();
        let ram = GuestRam::new(16 << 20, 8 << 20, 1 << 32).unwrap();
        let memory = ram.memory().clone();
        let driver = Driver::new(memory.memory().into_inner(), RINGS, 16, false);
        let told = Arc::default();
        (Setup { device, driver, told, memory, path, _folder: folder }, peer)
    }

    fn start(&mut self) {
        let with = activation(&self.memory, VERSION_1 | MQ_AND_WCE, &[&self.driver], &self.told);
        self.device.start(with).unwrap();
    }

    /// Makes a request of this length, whose answer is the same length.
    fn request(&mut self, len: u32) {
        let before = self.driver.position();
        self.driver.add(&[(0x10_0000, len, true)]).unwrap();
        self.driver.notify_since(before);
    }

    fn answers(&mut self, count: usize) -> Vec<u32> {
        let mut answers: Vec<u32> = (0..count).map(|_| self.driver.await_used().1).collect();
        answers.sort_unstable();
        answers
    }

    fn needs_reset(&self) -> bool {
        self.told.needs_reset.load(Ordering::SeqCst) > 0
    }

    fn config<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.device.read_config(at, &mut bytes);
        bytes
    }
}

#[test]
fn a_back_end_answers_the_driver() {
    let (mut setup, _peer) = Setup::new(&character());
    assert!(setup.device.info().external_backend);
    assert_eq!(setup.device.info().queue_sizes.len(), 2);
    assert_eq!(setup.device.info().features, MQ_AND_WCE);
    assert_eq!(setup.device.ring_features(), VERSION_1);
    assert_eq!(setup.config(0x22), 2u16.to_le_bytes(), "two queues of four are used");
    // Buffers that are there before the device starts are taken, too.
    setup.request(100);
    for round in 1..=3 {
        setup.start();
        setup.request(200);
        assert_eq!(setup.answers(2), [100, 200]);
        eventually("an interrupt", || setup.told.used() >= round);
        let states = setup.device.stop();
        assert_eq!(states.len(), 1);
        assert_eq!((states[0].next_available, states[0].next_used), (2, 2));
        assert_eq!(setup.device.stop(), [], "it is stopped");
        // A driver that resets the device begins with empty rings.
        setup.driver = Driver::new(setup.memory.memory().into_inner(), RINGS, 16, false);
        setup.request(100);
    }
}

#[test]
fn the_next_back_end_answers_what_the_last_one_took() {
    let holds = Character { holds: true, ..character() };
    let (mut setup, peer) = Setup::new(&holds);
    setup.start();
    (1..=3).for_each(|len| setup.request(len));
    peer.await_taken(3);
    peer.kill();
    // Nobody takes these.
    setup.request(4);
    let again = Peer::start(&setup.path, holds);
    again.await_taken(4);
    again.kill();
    let _last = Peer::start(&setup.path, character());
    setup.request(5);
    assert_eq!(setup.answers(5), [1, 2, 3, 4, 5]);
    assert!(!setup.needs_reset());
    assert_eq!(setup.device.stop()[0].next_used, 5);
}

#[test]
fn requests_that_nobody_recorded_need_a_reset() {
    let protocol = PROTOCOL.difference(VhostUserProtocolFeatures::INFLIGHT_SHMFD);
    let plain = Character { protocol, ..character() };
    let holds = Character { holds: true, ..plain.clone() };
    let (mut setup, mut peer) = Setup::new(&plain);
    setup.start();
    for len in 1..=3 {
        setup.request(len);
        assert_eq!(setup.answers(1), [len]);
        peer.kill();
        peer = Peer::start(&setup.path, if len == 3 { holds.clone() } else { plain.clone() });
        // Before the loss is noticed, a request may be one that was taken.
        eventually("the next one serves", || lock(&peer.state).accepted != 0);
    }
    assert!(!setup.needs_reset(), "there were none");
    setup.request(4);
    peer.await_taken(1);
    peer.kill();
    setup.told.await_needs_reset();
    let _last = Peer::start(&setup.path, plain);
    assert_eq!(setup.device.stop()[0].next_used, 3);
    setup.driver = Driver::new(setup.memory.memory().into_inner(), RINGS, 16, false);
    setup.start();
    setup.request(5);
    assert_eq!(setup.answers(1), [5], "after the reset");
}

#[test]
fn buffers_for_events_are_no_requests() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let features = VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let protocol = VhostUserProtocolFeatures::MQ;
    let holds = Character { features, protocol, queues: 3, config: vec![], holds: true };
    let peer = Peer::start(&path, holds.clone());
    let mut device = FrontEnd::connect(&path, Kind::Scsi, None, PATIENCE).unwrap();
    let ram = GuestRam::new(16 << 20, 8 << 20, 1 << 32).unwrap();
    let memory = ram.memory().clone();
    let driver = |at| Driver::new(memory.memory().into_inner(), at, 16, false);
    let (control, mut events) = (driver(RINGS), driver(2 * RINGS));
    events.add(&[(0x10_0000, 16, true)]).unwrap();
    let told: Arc<Told> = Arc::default();
    device.start(activation(&memory, VERSION_1, &[&control, &events], &told)).unwrap();
    peer.await_taken(1);
    peer.kill();
    // The next one has them, too.
    let next = Peer::start(&path, holds);
    next.await_taken(1);
    assert_eq!(told.needs_reset.load(Ordering::SeqCst), 0);
}

#[test]
fn a_driver_that_starts_while_the_back_end_is_away_is_served_later() {
    let (mut setup, peer) = Setup::new(&character());
    peer.kill();
    setup.start();
    setup.request(7);
    assert_eq!(setup.device.stop()[0].next_used, 0, "stops all the same");
    setup.driver = Driver::new(setup.memory.memory().into_inner(), RINGS, 16, false);
    setup.start();
    setup.request(8);
    let _peer = Peer::start(&setup.path, character());
    assert_eq!(setup.answers(1), [8]);
}

#[test]
fn a_back_end_that_does_not_fit_is_not_taken_for_the_last_one() {
    let (mut setup, mut peer) = Setup::new(&character());
    setup.start();
    setup.device.write_config(0x20, &[0]);
    assert_eq!(peer.config()[0x20], 0);
    setup.request(1);
    assert_eq!(setup.answers(1), [1]);
    let fewer = character().features & !(1 << 11);
    let record = PROTOCOL.difference(VhostUserProtocolFeatures::INFLIGHT_SHMFD);
    for other in [
        Character { config: disk(2047, 4), ..character() },
        Character { config: [&disk(2048, 4)[..0x14], &[0; 0x4C]].concat(), ..character() },
        Character { features: fewer, ..character() },
        Character { queues: 1, ..character() },
        Character { protocol: record, ..character() },
    ] {
        peer.kill();
        peer = Peer::start(&setup.path, other);
        // Long enough for several attempts; none may get anywhere.
        thread::sleep(Duration::from_millis(50));
        assert_eq!(lock(&peer.state).accepted, 0);
    }
    peer.kill();
    let peer = Peer::start(&setup.path, Character { config: disk(4096, 4), ..character() });
    setup.request(2);
    assert_eq!(setup.answers(1), [2]);
    assert_eq!(setup.config(0), 4096u64.to_le_bytes(), "it may have grown");
    assert_eq!(peer.config()[0x20], 0, "the driver's choice lives on");
    setup.device.stop();
    assert_eq!((peer.config()[0x20], setup.config(0x20)), (1, [1]), "until a reset");
}

#[test]
fn a_change_of_configuration_reaches_the_driver() {
    let (mut setup, peer) = Setup::new(&character());
    // The crate that the peer is made of cannot tell of changes.
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let channel = BackChannel::new(ours).unwrap();
    lock(&setup.device.link).as_mut().unwrap().back_channel = Some(channel);
    setup.start();
    setup.request(1);
    assert_eq!(setup.answers(1), [1]);
    let mut change = |config| {
        peer.set_config(config);
        let message = [2u32, 1, 0].into_iter().flat_map(u32::to_ne_bytes);
        theirs.write_all(&message.collect::<Vec<_>>()).unwrap();
    };
    change(disk(9999, 4));
    eventually("the new size", || setup.config(0) == 9999u64.to_le_bytes());
    // A smaller one is not told.
    change(disk(1, 4));
    change(disk(10_000, 4));
    eventually("the new size", || setup.config(0) == 10_000u64.to_le_bytes());
    assert_eq!(setup.config(0x22), 2u16.to_le_bytes());
}

#[test]
fn a_scsi_host_needs_no_configuration_of_its_back_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let connect = |kind, queues| FrontEnd::connect(&path, kind, queues, PATIENCE);
    let scsi = VERSION_1 | 0b110 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let without = PROTOCOL.difference(VhostUserProtocolFeatures::CONFIG);
    for protocol in [without, VhostUserProtocolFeatures::MQ] {
        let peer = Character { features: scsi, protocol, queues: 6, config: vec![], holds: false };
        let peer = Peer::start(&path, peer);
        let device = connect(Kind::Scsi, None).unwrap();
        assert_eq!((device.info().queue_sizes.len(), device.request_queues()), (6, 4));
        let mut config = [0xFF; 40];
        device.read_config(0, &mut config);
        let word = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
        assert_eq!([word(0), word(20), word(24), word(32), word(36)], [4, 96, 32, 16383, 0]);
        drop(device);
        let error = connect(Kind::Block, None).unwrap_err();
        assert!(matches!(error, FrontEndError::Lacks { .. }), "{error}");
        peer.kill();
    }
    // What the back end says counts.
    let mut config = config::scsi_default();
    (config[0], config[4]) = (3, 17);
    config.resize(0x60, 0);
    let peer = Character { features: scsi, protocol: PROTOCOL, queues: 255, config, holds: false };
    let _peer = Peer::start(&path, peer);
    let device = connect(Kind::Scsi, Some(8)).unwrap();
    assert_eq!(device.request_queues(), 3);
    let mut seg_max = [0];
    device.read_config(4, &mut seg_max);
    assert_eq!(seg_max, [17]);
    drop(device);
    let error = connect(Kind::Block, None).unwrap_err();
    assert!(matches!(error, FrontEndError::WrongKind { .. }), "{error}");
}

#[test]
fn errors_tell_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let connect = |kind| FrontEnd::connect(&path, kind, None, Duration::ZERO).unwrap_err();
    let error = connect(Kind::Block);
    assert!(matches!(error, FrontEndError::NoSocket(_)) && error.is_mistake(), "{error}");
    drop(UnixListener::bind(&path).unwrap());
    let error = connect(Kind::Block);
    assert!(matches!(error, FrontEndError::NobodyListens(_)) && error.is_mistake(), "{error}");
    let peer = Peer::start(&path, character());
    let error = connect(Kind::Scsi);
    assert!(matches!(error, FrontEndError::WrongKind { .. }), "{error}");
    assert_eq!(error.help().unwrap(), "try kind=blk, or another socket");
    peer.kill();
    let legacy = Character { features: 0, ..character() };
    let peer = Peer::start(&path, legacy);
    let error = connect(Kind::Block);
    assert!(matches!(error, FrontEndError::Lacks { .. }), "{error}");
    peer.kill();
    std::fs::remove_file(&path).unwrap();
    // One that accepts nobody, as if it served another.
    let _silent = UnixListener::bind(&path).unwrap();
    let error = connect(Kind::Block);
    assert!(matches!(error, FrontEndError::NoAnswer { .. }), "{error}");
}

#[test]
fn a_late_back_end_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let there = path.clone();
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        Peer::start(&there, character())
    });
    let device = FrontEnd::connect(&path, Kind::Block, None, PATIENCE).unwrap();
    assert_eq!(device.request_queues(), 4);
    drop(late.join().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Replies that claim to be the right ones, with any contents, and any bytes.
    #[test]
    fn a_hostile_back_end_gets_nowhere(
        replies in proptest::collection::vec((1u32..45, 0u32..16, 0u32..80,
            proptest::collection::vec(any::<u8>(), 0..80)), 0..8),
        scsi: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let hostile = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            for (request, flags, size, body) in replies {
                let words = [request, flags, size].into_iter().flat_map(u32::to_ne_bytes);
                let message: Vec<u8> = words.chain(body).collect();
                let _ = socket.write_all(&message);
            }
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let _ = socket.read_to_end(&mut Vec::new());
        });
        let kind = if scsi { Kind::Scsi } else { Kind::Block };
        let _ = FrontEnd::connect(&path, kind, None, Duration::ZERO);
        hostile.join().unwrap();
    }
}
