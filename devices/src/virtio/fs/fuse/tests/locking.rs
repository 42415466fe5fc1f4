//! Locks of files, between processes of a guest and between guests.

use std::sync::mpsc::Receiver;

use super::super::messages::{Opcode, ROOT};
use super::client::*;

const READ: u32 = 0;
const WRITE: u32 = 1;
const NONE: u32 = 2;

/// `fuse_lk_in`: a handle, an owner, the first and the last byte.
fn lock(handle: u64, owner: u64, first: u64, last: u64, kind: u32, flock: bool) -> Arguments {
    let with = arguments().u64(handle).u64(owner).u64(first).u64(last).u32(kind).u32(0);
    with.u32(flock.into()).u32(0)
}

const ALL: u64 = i64::MAX.cast_unsigned();

struct Locked {
    client: Client,
    node: u64,
    handle: u64,
}

impl Locked {
    fn new(client: Client) -> Locked {
        let (node, handle) = client.create(ROOT, "a", libc::O_RDWR).unwrap();
        Locked { client, node, handle }
    }

    fn set(&self, owner: u64, first: u64, last: u64, kind: u32) -> Result<(), i32> {
        let with = lock(self.handle, owner, first, last, kind, false);
        self.client.call(Opcode::SetLk, self.node, with).map(drop)
    }

    fn flock(&self, kind: u32) -> Result<(), i32> {
        let with = lock(self.handle, 0, 0, ALL, kind, true);
        self.client.call(Opcode::SetLk, self.node, with).map(drop)
    }

    fn wait(&self, owner: u64, kind: u32, flock: bool) -> (u64, Receiver<Vec<u8>>) {
        let with = lock(self.handle, owner, 0, ALL, kind, flock);
        self.client.start(Opcode::SetLkW, self.node, with)
    }

    /// First byte, last byte and kind of what stands in the way.
    fn get(&self, owner: u64, first: u64, last: u64, kind: u32) -> (u64, u64, u32) {
        let with = lock(self.handle, owner, first, last, kind, false);
        let found = self.client.call(Opcode::GetLk, self.node, with).unwrap();
        (u64_at(&found, 0), u64_at(&found, 8), u32_at(&found, 16))
    }
}

#[test]
fn posix_locks_belong_to_owners() {
    let (folder, client) = share();
    let one = Locked::new(client);
    let two = Locked::new(Client::new(writable(folder.path())));
    assert_eq!(one.set(1, 0, 9, WRITE), Ok(()));
    // An owner does not stand in its own way, whatever handle it uses.
    assert_eq!(one.set(1, 5, 20, READ), Ok(()));
    assert_eq!(one.set(2, 0, 4, READ), Err(libc::EAGAIN));
    assert_eq!(one.set(2, 5, 20, READ), Ok(()));
    assert_eq!(two.set(1, 0, 0, READ), Err(libc::EAGAIN));
    assert_eq!(two.set(1, 21, ALL, WRITE), Ok(()));
    assert_eq!(two.get(1, 0, 3, READ), (0, 4, WRITE));
    assert_eq!(one.get(1, 100, 100, READ), (21, ALL, WRITE));
    assert_eq!(one.get(1, 0, 4, WRITE).2, NONE);
    assert_eq!(one.set(1, 0, 4, NONE), Ok(()));
    assert_eq!(two.set(1, 0, 4, WRITE), Ok(()));
    // Closing ends an owner's locks of the file.
    let flush = arguments().u64(two.handle).u32(0).u32(0).u64(1);
    two.client.call(Opcode::Flush, two.node, flush).unwrap();
    assert_eq!(one.set(1, 0, 0, WRITE), Ok(()));
    assert_eq!(one.set(1, 9, 0, WRITE), Err(libc::EINVAL));
    assert_eq!(one.set(1, 0, 9, 7), Err(libc::EINVAL));
}

#[test]
fn flock_belongs_to_handles() {
    let (folder, client) = share();
    let one = Locked::new(client);
    let two = Locked::new(Client::new(writable(folder.path())));
    assert_eq!(one.flock(WRITE), Ok(()));
    assert_eq!(two.flock(READ), Err(libc::EAGAIN));
    one.client.release(one.handle);
    assert_eq!(two.flock(READ), Ok(()));
}

#[test]
fn waiting_for_a_lock_stops_nobody_else() {
    let (folder, client) = share();
    let one = Locked::new(client);
    let two = Locked::new(Client::new(writable(folder.path())));
    for flock in [false, true] {
        if flock {
            one.flock(WRITE).unwrap();
        } else {
            one.set(1, 0, ALL, WRITE).unwrap();
        }
        let (unique, waiting) = two.wait(1, WRITE, flock);
        // The same thread, meanwhile.
        assert_eq!(two.client.write(two.handle, 0, b"x"), Ok(1));
        assert!(waiting.try_recv().is_err());
        if flock {
            one.flock(NONE).unwrap();
        } else {
            one.set(1, 0, ALL, NONE).unwrap();
        }
        assert_eq!(open_answer(&waiting.recv().unwrap(), unique), Ok(vec![]));
        if flock {
            assert_eq!(one.flock(READ), Err(libc::EAGAIN));
        } else {
            assert_eq!(one.set(1, 3, 3, READ), Err(libc::EAGAIN));
        }
    }
}

#[test]
fn waiting_can_be_interrupted() {
    let (folder, client) = share();
    let one = Locked::new(client);
    let two = Locked::new(Client::new(writable(folder.path())));
    one.set(1, 0, ALL, WRITE).unwrap();
    let interrupt = |unique| {
        let (_, none) = two.client.start(Opcode::Interrupt, 0, arguments().u64(unique));
        assert!(none.recv().unwrap().is_empty());
    };
    for _ in 0..50 {
        let (unique, waiting) = two.wait(1, READ, false);
        interrupt(unique);
        assert_eq!(open_answer(&waiting.recv().unwrap(), unique), Err(libc::EINTR));
    }
    // The interruption may come first.
    let unique = two.client.next();
    interrupt(unique + 2);
    let (late, waiting) = two.wait(1, READ, false);
    assert_eq!(late, unique + 2);
    assert_eq!(open_answer(&waiting.recv().unwrap(), late), Err(libc::EINTR));
    // Others go on waiting; the end of the guest ends it all.
    let (first, one_waits) = two.wait(1, READ, false);
    let (second, other_waits) = two.wait(2, READ, false);
    interrupt(first);
    assert_eq!(open_answer(&one_waits.recv().unwrap(), first), Err(libc::EINTR));
    assert!(other_waits.try_recv().is_err());
    drop(two.client);
    assert_eq!(open_answer(&other_waits.recv().unwrap(), second), Err(libc::EINTR));
}

#[test]
fn those_who_wait_are_bounded() {
    let (folder, client) = share();
    let one = Locked::new(client);
    let mut options = writable(folder.path());
    options.limits.locks = 4;
    let two = Locked::new(Client::new(options));
    one.flock(WRITE).unwrap();
    let waiting: Vec<_> = (0..4).map(|_| two.wait(1, READ, true)).collect();
    let (unique, refused) = two.wait(1, READ, true);
    assert_eq!(open_answer(&refused.recv().unwrap(), unique), Err(libc::ENOLCK));
    one.flock(NONE).unwrap();
    for (unique, waiting) in waiting {
        assert_eq!(open_answer(&waiting.recv().unwrap(), unique), Ok(vec![]));
    }
}

#[test]
fn locks_of_a_share_that_is_read_only_stay_in_the_guest() {
    let (folder, client) = share();
    client.create(ROOT, "a", libc::O_RDWR).unwrap();
    let reader = Client::new(super::super::FsOptions::new(folder.path()));
    let node = reader.lookup(ROOT, "a").unwrap();
    let handle = reader.open(node, libc::O_RDONLY).unwrap();
    for opcode in [Opcode::SetLk, Opcode::SetLkW, Opcode::GetLk] {
        let with = lock(handle, 1, 0, ALL, READ, false);
        assert_eq!(reader.call(opcode, node, with), Err(libc::ENOSYS));
    }
}
