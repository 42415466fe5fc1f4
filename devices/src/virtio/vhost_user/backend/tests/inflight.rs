use std::os::fd::AsRawFd;

use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;

use super::front_end::{FrontEnd, Hold, Server, disk};

#[test]
fn a_server_that_died_is_followed_by_one_that_answers() {
    let hold = Hold::new();
    let taken = hold.taken.clone();
    let server = Server::of(Box::new(hold), tempfile::tempdir().unwrap());
    let mut front = FrontEnd::new(&server, 1, 128);
    let asked = VhostUserInflight::new(0, 0, 1, 128);
    let (records, file) = front.connection.get_inflight_fd(&asked).unwrap();
    front.connection.set_inflight_fd(&records, file.as_raw_fd()).unwrap();
    let heads: Vec<u16> = (0..10).map(|sector| front.send_read(0, sector)).collect();
    front.start(0, 0);
    assert_eq!(*taken.lock().unwrap(), heads);
    drop(server);

    let folder = tempfile::tempdir().unwrap();
    let device = disk(&folder, 1);
    let server = Server::of(device, folder);
    front.reconnect(&server);
    front.connection.set_inflight_fd(&records, file.as_raw_fd()).unwrap();
    // What QEMU knows of a queue whose server is gone: its used index.
    front.start(0, 0);
    let mut answered: Vec<u16> = heads.iter().map(|_| front.drivers[0].await_used().0).collect();
    answered.sort_unstable();
    let mut wanted = heads;
    wanted.sort_unstable();
    assert_eq!(answered, wanted);
    assert_eq!(front.read(0, 0), (0, 0));
    assert_eq!(front.stop(0), 11, "each once");
}

#[test]
fn records_that_do_not_fit_are_refused() {
    let server = Server::new(2);
    let mut front = FrontEnd::new(&server, 2, 16);
    let (records, file) =
        front.connection.get_inflight_fd(&VhostUserInflight::new(0, 0, 2, 16)).unwrap();
    let mut set = |change: fn(&mut VhostUserInflight)| {
        let mut records = records;
        change(&mut records);
        front.connection.set_inflight_fd(&records, file.as_raw_fd()).is_ok()
    };
    assert!(set(|_| ()));
    assert!(!set(|records| records.num_queues = 3), "more queues than there are");
    assert!(!set(|records| records.queue_size = 2000), "more than a queue can have");
    assert!(!set(|records| records.mmap_size -= 1), "too small");
    assert!(!set(|records| records.mmap_offset = 4096), "beyond the file");
    assert!(!set(|records| records.mmap_offset = u64::MAX - 3), "beyond everything");
    // Queues larger than their records do not start.
    let (records, file) =
        front.connection.get_inflight_fd(&VhostUserInflight::new(0, 0, 2, 8)).unwrap();
    front.connection.set_inflight_fd(&records, file.as_raw_fd()).unwrap();
    let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| front.start(0, 0)));
    assert!(started.is_err());
    assert_eq!(server.back_end.status().queues_started, 0);
}
