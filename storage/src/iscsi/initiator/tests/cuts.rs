//! Connections that break anywhere.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use super::*;

/// Bytes that may still pass, for ever.
const ALL: i64 = i64::MAX / 2;

struct Shared {
    /// Bytes of the connection that may still pass.
    budget: AtomicI64,
    cuts: AtomicU64,
    refuses: AtomicBool,
    stops: AtomicBool,
    random: Mutex<Option<Random>>,
    open: Mutex<Vec<TcpStream>>,
}

/// Passes bytes on between initiators and a server.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Relay {
    pub(super) fn to(server: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            budget: AtomicI64::new(ALL),
            cuts: AtomicU64::new(0),
            refuses: AtomicBool::new(false),
            stops: AtomicBool::new(false),
            random: Mutex::new(None),
            open: Mutex::new(Vec::new()),
        });
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if own.stops.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                if own.refuses.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                let budget = match &mut *own.random.lock().unwrap() {
                    Some(random) => random.below(1_200_000).cast_signed(),
                    None => ALL,
                };
                own.budget.store(budget, Ordering::SeqCst);
                let copies = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                *own.open.lock().unwrap() = copies.into();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let own = Arc::clone(&own);
                    thread::spawn(move || own.pass(from, to));
                }
            }
        });
        Relay { address, shared }
    }

    /// Breaks the connection now.
    pub(super) fn cut(&self) {
        for socket in self.shared.open.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Whether new connections come to nothing.
    pub(super) fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let left = self.budget.fetch_sub(i64::try_from(count).unwrap(), Ordering::SeqCst);
            let pass = usize::try_from(left.max(0)).unwrap().min(count);
            if to.write_all(&bytes[..pass]).is_err() {
                break;
            }
            if pass < count {
                if left >= 0 {
                    self.cuts.fetch_add(1, Ordering::SeqCst);
                }
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// Numbers that are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What a block may hold: what was acknowledged last, or what was written since without an answer.
#[derive(Clone, Default)]
struct Block {
    known: u8,
    perhaps: Vec<u8>,
}

impl Block {
    fn check(&self, bytes: &[u8], at: usize) {
        let value = bytes[0];
        assert!(bytes.iter().all(|&byte| byte == value), "a torn block at {at}");
        assert!(
            value == self.known || self.perhaps.contains(&value),
            "block {at} holds {value}, not {} or {:?}",
            self.known,
            self.perhaps,
        );
    }
}

const SLOTS: usize = 16;
const SLOT: usize = 128;

enum Work {
    Write(usize, usize, u8),
    Read(usize, usize, Arc<AlignedBuffer>),
}

#[test]
fn what_was_acknowledged_is_there_wherever_the_connection_breaks() {
    let server = server();
    let relay = Relay::to(server.addresses()[0]);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut rig = Rig::at(relay.address, options());
    rig.settle();
    *relay.shared.random.lock().unwrap() = Some(Random(77));
    relay.cut();
    let mut disk = vec![Block::default(); SLOTS * SLOT];
    let (mut failed, mut written, mut value) = (0, 0, 0u8);
    while relay.shared.cuts.load(Ordering::SeqCst) < 60 {
        let mut work = Vec::new();
        for slot in 0..SLOTS {
            if random.below(2) == 0 {
                continue;
            }
            let len = usize::try_from(1 + random.below(SLOT as u64)).unwrap();
            let at = slot * SLOT + usize::try_from(random.below((SLOT - len + 1) as u64)).unwrap();
            let (lba, blocks) = (u32::try_from(at).unwrap(), u16::try_from(len).unwrap());
            let command = if random.below(3) > 0 {
                value = value.wrapping_add(1);
                work.push(Work::Write(at, len, value));
                asked(&cdb10(0x2a, lba, blocks), &vec![value; len * BLOCK], 0).command
            } else {
                let read = asked(&cdb10(0x28, lba, blocks), &[], len * BLOCK);
                work.push(Work::Read(at, len, read.data_in));
                read.command
            };
            assert_eq!(rig.queue.submit(work.len() as u64 - 1, command), None);
        }
        let mut done = Vec::new();
        rig.queue.drain(&mut done);
        assert_eq!(done.len(), work.len(), "each is answered once");
        done.sort_by_key(|&(token, _)| token);
        for (work, (_, answer)) in work.into_iter().zip(done) {
            let status = match answer {
                ServiceResponse::Complete(response) => Some(response.status),
                ServiceResponse::DeliveryFailure => None,
                ServiceResponse::Managed(_) => panic!("no function was asked for"),
            };
            match (work, status) {
                (Work::Write(at, len, value), Some(Status::Good)) => {
                    written += 1;
                    disk[at..at + len].fill(Block { known: value, perhaps: Vec::new() });
                }
                (Work::Write(at, len, value), None) => {
                    failed += 1;
                    disk[at..at + len].iter_mut().for_each(|block| block.perhaps.push(value));
                }
                (Work::Read(at, len, memory), Some(Status::Good)) => {
                    let bytes = bytes_of(memory);
                    for (offset, bytes) in bytes.chunks(BLOCK).enumerate().take(len) {
                        disk[at + offset].check(bytes, at + offset);
                    }
                }
                // A unit attention: the command was not carried out.
                (_, Some(status)) => assert_eq!(status, Status::CheckCondition),
                (Work::Read(..), None) => {}
            }
        }
    }
    *relay.shared.random.lock().unwrap() = None;
    relay.cut();
    rig.settle();
    for slot in 0..SLOTS {
        let bytes = rig.read(u32::try_from(slot * SLOT).unwrap(), SLOT * BLOCK);
        for (offset, bytes) in bytes.chunks(BLOCK).enumerate() {
            disk[slot * SLOT + offset].check(bytes, slot * SLOT + offset);
        }
    }
    assert!(failed > 10 && written > 50, "{failed} writes failed, {written} did not");
}
