//! A relay between an initiator and a server: a link that breaks.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Takes connections on the loopback interface, and passes on what comes, in both directions, for
/// as long as the test runs.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// Where connections lead.
    to: Mutex<SocketAddr>,
    /// How many connections are to be cut.
    wanted: u64,
    /// Connections that were cut.
    cut: AtomicU64,
    /// How many bytes a connection that is to be cut passes on, at random.
    bytes: Range<u64>,
    /// State of the numbers that decide how many.
    random: Mutex<u64>,
}

/// Least bytes that the first one passes on.
const FIRST: u64 = 16 << 10;

impl Relay {
    /// A relay to `to` that cuts at least `cuts` connections, each after so many bytes, in the middle of
    /// whatever is on its way.
    pub fn new(to: SocketAddr, cuts: u64, bytes: Range<u64>) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback interface");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            to: Mutex::new(to),
            wanted: cuts,
            cut: AtomicU64::new(0),
            bytes,
            random: Mutex::new(0x5eed),
        });
        let ours = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                ours.pass(stream);
            }
        });
        Relay { address, shared }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads further connections elsewhere.
    pub fn lead(&self, to: SocketAddr) {
        *self.shared.to.lock().expect("no thread panics") = to;
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cut.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Bytes that the next connection passes on.
    fn room(&self) -> Option<u64> {
        // Those that end by themselves do not count.
        if self.cut.load(Ordering::Relaxed) >= self.wanted {
            return None;
        }
        let mut random = self.random.lock().expect("no thread panics");
        // xorshift64
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let room = self.bytes.start + *random % (self.bytes.end - self.bytes.start);
        // The first one is made by somebody who does not try again.
        Some(if self.cut.load(Ordering::Relaxed) == 0 { room.max(FIRST) } else { room })
    }

    fn pass(self: &Arc<Self>, one: TcpStream) {
        let to = *self.to.lock().expect("no thread panics");
        // Where nobody listens, there is no connection here either.
        let Ok(other) = TcpStream::connect(to) else { return };
        for stream in [&one, &other] {
            // What comes goes on at once.
            if stream.set_nodelay(true).is_err() {
                return;
            }
        }
        let room = self.room();
        let left = Arc::new(AtomicI64::new(
            room.map_or(i64::MAX, |room| i64::try_from(room).expect("few bytes")),
        ));
        let pairs = [(&one, &other), (&other, &one)];
        for (from, to) in pairs {
            let (from, to) = (from.try_clone(), to.try_clone());
            let (Ok(from), Ok(to)) = (from, to) else { return };
            let (ours, left) = (Arc::clone(self), Arc::clone(&left));
            thread::spawn(move || ours.copy(&from, &to, &left));
        }
    }

    fn copy(&self, mut from: &TcpStream, mut to: &TcpStream, left: &AtomicI64) {
        let mut bytes = [0; 16 << 10];
        while let Ok(len @ 1..) = from.read(&mut bytes) {
            let count = i64::try_from(len).expect("few bytes");
            let before = left.fetch_sub(count, Ordering::Relaxed);
            let passed = usize::try_from(before.clamp(0, count)).expect("few bytes");
            if to.write_all(&bytes[..passed]).is_err() {
                break;
            }
            if before <= count {
                // The first to find that nothing is left.
                if before > 0 {
                    self.cut.fetch_add(1, Ordering::Relaxed);
                }
                break;
            }
        }
        for stream in [from, to] {
            // It may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
