use std::sync::Arc;

use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::virtio::driver::{Driver, Told, memory};
use crate::virtio::vhost_user::backend::borrow;
use crate::virtio::worker::Worker;

/// A disk that has nothing to do, but a descriptor that stays readable until it is polled.
struct Signalled(EventFd);

impl Serve for Signalled {
    const DEVICE: &'static str = "test";

    fn take(&mut self, chain: &Chain, _queue: &mut Queue) -> Result<(), RingError> {
        Err(RingError::Short(chain.head()))
    }

    fn poll(&mut self) {
        let _ = self.0.read();
    }

    fn has_answers(&self) -> bool {
        false
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn return_answers(&mut self, _queue: &mut Queue) -> bool {
        false
    }

    fn drain(&mut self, _wake: &Wake) {}
}

#[test]
fn the_thread_of_a_broken_queue_is_not_kept_awake() {
    let memory = memory().memory().into_inner();
    let mut driver = Driver::new(memory, 0x1_0000, 16, false);
    let told = Arc::new(Told::default());
    let signal = EventFd::new(EFD_NONBLOCK).unwrap();
    let wake = Wake::new().unwrap();
    wake.add_readable(borrow(&signal)).unwrap();
    let service = Signalled(signal.try_clone().unwrap());
    driver.add(&[(0, 16, false)]).unwrap();
    let server = Server::new(driver.started(0), told.clone(), service);
    let worker = Worker::start("test", server, wake, Server::run).unwrap();
    told.await_needs_reset();
    signal.write(1).unwrap();
    for _ in 0..60_000 {
        if is_quiet(&signal) {
            worker.stop();
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("the signal stays, and wakes the thread again and again");
}

fn is_quiet(event: &EventFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let fd = borrow(event);
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 0
}
