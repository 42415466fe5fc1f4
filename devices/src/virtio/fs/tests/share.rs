//! A driver, the device, the server and a folder.

use super::super::fuse::{FsOptions, Server};
use super::*;

const LEN: u64 = 4 << 20;
const INIT: u32 = 26;
const LOOKUP: u32 = 1;
const OPEN: u32 = 14;
const READ: u32 = 15;
const SETUP_MAPPING: u32 = 48;
const REMOVE_MAPPING: u32 = 49;
const CREATE: u32 = 35;
const ROOT: u64 = 1;
const HEADER: usize = 40;
const OUT_HEADER: usize = 16;
const AT: u64 = 0x10_0000;
const ANSWER: u64 = 0x20_0000;

struct Share {
    device: Fs,
    driver: Driver,
    idle: Driver,
    handle: MemoryHandle,
    memory: Arc<GuestMemory>,
    window: Arc<Window>,
    folder: tempfile::TempDir,
    told: Arc<Told>,
    unique: u64,
}

impl Share {
    fn new(writable: bool) -> Share {
        let folder = tempfile::tempdir().unwrap();
        let window = Window::reserve("share", LEN, 2 << 20).unwrap();
        let options = FsOptions {
            writable,
            window: Some(Arc::new(Dax::new(window.clone()))),
            ..FsOptions::new(folder.path())
        };
        let server = Server::new(options).unwrap();
        let placer = Arc::new(Nowhere);
        let shared = SharedMemory { id: 0, window: window.clone(), writable, placer };
        let device = Fs::new("tag".parse().unwrap(), server, 1, Some(shared));
        let handle = crate::virtio::driver::memory();
        let memory = handle.memory().into_inner();
        let (idle, driver) = drivers(&memory);
        let (told, unique) = (Arc::default(), 0);
        let mut share =
            Share { device, driver, idle, handle, memory, window, folder, told, unique };
        share.start();
        share
    }

    fn start(&mut self) {
        (self.idle, self.driver) = drivers(&self.memory);
        let with = activation(&self.handle, 0, &[&self.idle, &self.driver], &self.told);
        self.device.start(with).unwrap();
        let mut init: Vec<u8> = [7u32, 38, 0, u32::MAX, u32::MAX].iter().flat_map(le).collect();
        init.resize(64, 0);
        self.ask(INIT, 0, &init).unwrap();
    }

    /// Sends a request; its answer, or the error's number.
    fn ask(&mut self, opcode: u32, node: u64, arguments: &[u8]) -> Result<Vec<u8>, i32> {
        self.unique += 2;
        let len = HEADER + arguments.len();
        let mut message: Vec<u8> =
            [u32::try_from(len).unwrap(), opcode].iter().flat_map(le).collect();
        message.extend(self.unique.to_le_bytes());
        message.extend(node.to_le_bytes());
        message.resize(HEADER, 0);
        message.extend(arguments);
        self.memory.write_slice(&message, GuestAddress(AT)).unwrap();
        let old = self.driver.position();
        // In pieces, as drivers send them.
        let first = u32::try_from(HEADER).unwrap();
        let mut buffers = vec![(AT, first, false)];
        if let Ok(rest @ 1..) = u32::try_from(arguments.len()) {
            buffers.push((AT + u64::from(first), rest, false));
        }
        buffers.extend([(ANSWER, 16, true), (ANSWER + 0x1000, 0x8000, true)]);
        self.driver.add(&buffers).unwrap();
        self.driver.notify_since(old);
        let (_, written) = self.driver.await_used();
        let head: [u8; OUT_HEADER] = self.memory.read_obj(GuestAddress(ANSWER)).unwrap();
        assert_eq!(head[..4], written.to_le_bytes());
        assert_eq!(head[8..], self.unique.to_le_bytes());
        let error = i32::from_le_bytes(head[4..8].try_into().unwrap());
        let mut body = vec![0; written as usize - OUT_HEADER];
        self.memory.read_slice(&mut body, GuestAddress(ANSWER + 0x1000)).unwrap();
        if error == 0 { Ok(body) } else { Err(-error) }
    }

    fn lookup(&mut self, name: &str) -> Result<u64, i32> {
        let entry = self.ask(LOOKUP, ROOT, format!("{name}\0").as_bytes())?;
        Ok(u64::from_le_bytes(entry[..8].try_into().unwrap()))
    }

    fn map(&mut self, node: u64, from: u64, len: u64, write: bool, to: u64) -> Result<(), i32> {
        let flags = 2 | u64::from(write);
        let arguments: Vec<u8> = [0, from, len, flags, to].iter().flat_map(le64).collect();
        self.ask(SETUP_MAPPING, node, &arguments).map(drop)
    }

    /// What a virtual CPU would read.
    fn in_window(&self, at: u64, len: usize) -> Vec<u8> {
        let memory = memshare::GuestRam::new(4096, 4096, 1 << 32).unwrap();
        memory.add_window(GuestAddress(1 << 33), &self.window).unwrap();
        let mut bytes = vec![0; len];
        let snapshot = memory.memory().memory();
        snapshot.read_slice(&mut bytes, GuestAddress((1 << 33) + at)).unwrap();
        memory.remove_window(GuestAddress(1 << 33));
        bytes
    }
}

fn drivers(memory: &Arc<GuestMemory>) -> (Driver, Driver) {
    let driver = |at| Driver::new(memory.clone(), at, 64, true);
    (driver(RINGS), driver(RINGS + 0x1_0000))
}

fn le(number: &u32) -> [u8; 4] {
    number.to_le_bytes()
}

fn le64(number: &u64) -> [u8; 8] {
    number.to_le_bytes()
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn a_file_is_read_by_copy_and_by_window() {
    let mut share = Share::new(false);
    let content = content(10_000);
    std::fs::write(share.folder.path().join("file"), &content).unwrap();
    assert_eq!(share.lookup("gone"), Err(libc::ENOENT));
    let node = share.lookup("file").unwrap();
    let handle = share.ask(OPEN, node, &[0; 8]).unwrap();
    let mut read = handle[..8].to_vec();
    read.extend(le64(&5000));
    read.extend(le(&0x8000));
    read.resize(40, 0);
    assert_eq!(share.ask(READ, node, &read).unwrap(), content[5000..]);
    share.map(node, 4096, 2 << 20, false, 2 << 20).unwrap();
    assert_eq!(share.in_window(2 << 20, 10_000 - 4096), content[4096..]);
    assert_eq!(share.in_window(0, 100), [0; 100], "nothing is mapped there");
    assert_eq!(share.map(node, 0, 4096, true, 0), Err(libc::EROFS));
    assert_eq!(share.map(node, 0, 4096, false, LEN), Err(libc::EINVAL));
    let remove: Vec<u8> =
        le(&1).into_iter().chain([0; 0]).chain([2 << 20, 2 << 20].iter().flat_map(le64)).collect();
    share.ask(REMOVE_MAPPING, 0, &remove).unwrap();
    assert_eq!(share.in_window(2 << 20, 100), [0; 100]);
}

#[test]
fn a_read_only_share_is_not_changed() {
    let mut share = Share::new(false);
    let mut create = vec![0; 16];
    create.extend(b"new\0");
    assert_eq!(share.ask(CREATE, ROOT, &create), Err(libc::EROFS));
    assert_eq!(std::fs::read_dir(share.folder.path()).unwrap().count(), 0);
}

#[test]
fn what_is_written_to_the_window_is_in_the_file_and_files_may_grow() {
    let mut share = Share::new(true);
    let path = share.folder.path().join("file");
    std::fs::write(&path, content(100)).unwrap();
    let node = share.lookup("file").unwrap();
    share.map(node, 0, 2 << 20, true, 0).unwrap();
    std::fs::write(&path, content(9000)).unwrap();
    assert_eq!(share.in_window(0, 9000), content(9000));
}

#[test]
fn a_device_starts_again_with_an_empty_window() {
    let mut share = Share::new(false);
    std::fs::write(share.folder.path().join("file"), content(5000)).unwrap();
    let node = share.lookup("file").unwrap();
    share.map(node, 0, 4096, false, 0).unwrap();
    assert_eq!(share.window.record(0).len(), 1);
    share.device.stop();
    assert!(share.window.record(0).is_empty());
    share.start();
    let node = share.lookup("file").unwrap();
    share.map(node, 0, 4096, false, 0).unwrap();
    assert_eq!(share.in_window(0, 4096), content(4096));
}
