mod front_end;
mod hostile;
mod inflight;
mod sockets;

use std::sync::atomic::Ordering;

use vhost::vhost_user::VhostUserFrontend;
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_CONFIG_WCE;

use front_end::{FrontEnd, Server, config_byte, eventually, set_config_byte};

#[test]
fn a_disk_is_read_and_written_through_every_queue() {
    for (queues, size) in [(1, 4), (1, 256), (4, 128), (4, 1024)] {
        let server = Server::new(queues);
        let mut front = FrontEnd::new(&server, queues, size);
        front.start_all();
        for round in 0..3 {
            for queue in 0..usize::from(queues) {
                let byte = u8::try_from(16 * round + queue + 1).unwrap();
                assert_eq!(front.write(queue, round, byte), 0);
                assert_eq!(front.read(queue, round), (0, byte));
            }
        }
        assert_eq!(server.back_end.status().queues_started, usize::from(queues));
    }
}

#[test]
fn a_queue_goes_on_where_it_was_left() {
    let server = Server::new(2);
    let mut front = FrontEnd::new(&server, 2, 16);
    front.start_all();
    for round in 0..20 {
        assert_eq!(front.write(0, round, 7), 0);
    }
    assert_eq!(front.stop(0), 20);
    assert_eq!(server.back_end.status().queues_started, 1);
    let waiting = front.send_read(0, 3);
    assert_eq!(front.read(1, 3), (0, 7), "the other queue works on");
    assert_eq!(front.drivers[0].take_used(), None, "stopped");
    front.start(0, 20);
    assert_eq!(front.drivers[0].await_used().0, waiting);
    assert_eq!(front.read(0, 3), (0, 7));
    assert_eq!(front.stop(0), 22);
}

#[test]
fn memory_may_change_while_queues_are_at_work() {
    let server = Server::new(1);
    let mut front = FrontEnd::new(&server, 1, 16);
    front.start_all();
    assert_eq!(front.write(0, 0, 1), 0);
    front.set_memory().unwrap();
    assert_eq!(front.read(0, 0), (0, 1));
    front.add_and_remove_memory();
    assert_eq!(front.read(0, 0), (0, 1));
}

#[test]
fn a_queue_rests_while_its_memory_is_moved() {
    let server = Server::new(1);
    let mut front = FrontEnd::new(&server, 1, 16);
    front.start_all();
    assert_eq!(front.write(0, 0, 1), 0);
    let region = front.region();
    front.connection.remove_mem_region(&region).unwrap();
    assert_eq!(server.back_end.status().queues_started, 0);
    let waiting = front.send_read(0, 0);
    front.connection.add_mem_region(&region).unwrap();
    assert_eq!(front.drivers[0].await_used().0, waiting);
    assert_eq!(server.back_end.status().queues_started, 1);
}

#[test]
fn a_disabled_queue_rests() {
    let server = Server::new(1);
    let mut front = FrontEnd::new(&server, 1, 16);
    front.start_all();
    front.enable(0, false);
    let waiting = front.send_read(0, 0);
    assert_eq!(server.back_end.status().queues_started, 0);
    assert_eq!(front.drivers[0].take_used(), None);
    front.enable(0, true);
    assert_eq!(front.drivers[0].await_used().0, waiting);
}

#[test]
fn notifications_reach_the_eventfd_that_is_set() {
    let server = Server::new(1);
    let mut front = FrontEnd::new(&server, 1, 16);
    front.start_all();
    let old = front.replace_call(0);
    let _ = old.read();
    let _ = front.calls[0].read();
    front.drivers[0].want_interrupt();
    front.read(0, 0);
    eventually(|| front.calls[0].read().is_ok());
    assert!(old.read().is_err(), "the old one is not signalled");
}

#[test]
fn what_the_driver_configured_outlives_a_change_of_queues() {
    const WRITEBACK: u32 = 32;
    let server = Server::new(2);
    let mut front = FrontEnd::new(&server, 2, 16);
    assert_ne!(front.features & 1 << VIRTIO_BLK_F_CONFIG_WCE, 0);
    front.start(0, 0);
    assert_eq!(config_byte(&mut front, WRITEBACK), 1);
    set_config_byte(&mut front, WRITEBACK, 0);
    front.start(1, 0);
    assert_eq!(config_byte(&mut front, WRITEBACK), 0);
    front.reset();
    assert_eq!(config_byte(&mut front, WRITEBACK), 1);
}

#[test]
fn whoever_holds_a_reservation_learns_of_a_reset_and_of_an_end() {
    let server = Server::new(1);
    let mut front = FrontEnd::new(&server, 1, 16);
    front.start_all();
    assert_eq!(server.lost.load(Ordering::SeqCst), 0);
    front.reset();
    assert_eq!(server.lost.load(Ordering::SeqCst), 1);
    assert_eq!(server.back_end.status().queues_started, 0);
    drop(front);
    eventually(|| server.lost.load(Ordering::SeqCst) == 2);
}
