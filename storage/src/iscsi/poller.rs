//! What a connection's thread sleeps on, and how others wake it.

use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

/// What a connection's thread is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The server stops.
    Stop = 1,
    /// The same initiator port logged in anew.
    Reinstated = 2,
    /// The target was reset, connections and all.
    Reset = 4,
}

/// Wakes a connection's thread with an order. It goes on ringing: orders are not taken back.
#[derive(Debug)]
pub(super) struct Bell {
    event: OwnedFd,
    orders: AtomicU8,
}

impl Bell {
    pub(super) fn new() -> rustix::io::Result<Bell> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Bell { event, orders: AtomicU8::new(0) })
    }

    pub(super) fn ring(&self, order: Order) {
        self.orders.fetch_or(order as u8, Ordering::SeqCst);
        // Fails only when the counter is full: then it is readable already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// The first order there is.
    pub(super) fn order(&self) -> Option<Order> {
        let orders = self.orders.load(Ordering::SeqCst);
        let all = [Order::Stop, Order::Reinstated, Order::Reset];
        all.into_iter().find(|&order| orders & order as u8 != 0)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// What is worth a look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready {
    /// There is something to read, an end or error included.
    pub(super) readable: bool,
}

/// How it goes with the socket.
pub(super) struct Pace {
    /// There may be something to read.
    pub(super) readable: bool,
    /// When the initiator last took something, or everything.
    pub(super) sent_at: Instant,
}

impl Pace {
    /// Bytes may have come behind the last request of login.
    pub(super) fn new() -> Pace {
        Pace { readable: true, sent_at: Instant::now() }
    }
}

/// One epoll over socket, bell and, once there is one, the queue of commands.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    /// What the socket is asked for.
    asked: EventFlags,
}

const SOCKET: u64 = 0;
const OTHERS: u64 = 1;

impl Poller {
    pub(super) fn new(socket: &TcpStream, bell: &Bell) -> rustix::io::Result<Poller> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, socket, EventData::new_u64(SOCKET), EventFlags::IN)?;
        epoll::add(&epoll, bell, EventData::new_u64(OTHERS), EventFlags::IN)?;
        Ok(Poller { epoll, asked: EventFlags::IN })
    }

    /// Also wakes for this descriptor.
    pub(super) fn add(&self, fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(OTHERS), EventFlags::IN)
    }

    /// Sleeps until there is something to do, or for so long. The socket counts when it can be
    /// read from or written to, as is asked.
    pub(super) fn wait(
        &mut self,
        socket: &TcpStream,
        (read, write): (bool, bool),
        timeout: Duration,
    ) -> rustix::io::Result<Ready> {
        let mut asked = EventFlags::empty();
        asked.set(EventFlags::IN, read);
        asked.set(EventFlags::OUT, write);
        if asked != self.asked {
            epoll::modify(&self.epoll, socket, EventData::new_u64(SOCKET), asked)?;
            self.asked = asked;
        }
        let timeout = Timespec::try_from(timeout).ok();
        let mut room = [const { MaybeUninit::<Event>::uninit() }; 4];
        let events = match epoll::wait(&self.epoll, &mut room, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(Ready::default()),
            Err(error) => return Err(error),
        };
        let broken = EventFlags::IN | EventFlags::ERR | EventFlags::HUP;
        let readable = |event: &Event| {
            let (data, flags) = (event.data, event.flags);
            data.u64() == SOCKET && flags.intersects(broken)
        };
        Ok(Ready { readable: events.iter().any(readable) })
    }
}
