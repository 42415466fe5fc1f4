//! Builds messages, and takes answers apart.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};

use storage::{AlignedBuffer, Buffers};
use tempfile::TempDir;

use super::super::messages::{Opcode, ROOT};
use super::super::{Caching, FsOptions, Request, Server};

/// Room for answers.
pub(super) const ROOM: usize = 64 << 10;

/// The numbers of errors.
pub(super) type Answer = Result<Vec<u8>, i32>;

/// Arguments, field by field.
#[derive(Clone, Default)]
pub(super) struct Arguments(pub(super) Vec<u8>);

impl Arguments {
    pub(super) fn u32(mut self, value: u32) -> Arguments {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Arguments {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Arguments {
        self.0.extend(bytes);
        self
    }

    pub(super) fn text(self, text: &str) -> Arguments {
        self.bytes(text.as_bytes()).bytes(&[0])
    }
}

pub(super) fn arguments() -> Arguments {
    Arguments::default()
}

/// The number at a place of an answer.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// A message.
pub(super) fn message(opcode: u32, unique: u64, node: u64, who: u32, arguments: &[u8]) -> Vec<u8> {
    let len = u32::try_from(40 + arguments.len()).unwrap();
    super::client::arguments()
        .u32(len)
        .u32(opcode)
        .u64(unique)
        .u64(node)
        .u32(who)
        .u32(who)
        .u32(1)
        .u32(0)
        .bytes(arguments)
        .0
}

/// Sends a message. What comes back, later perhaps, is the answer as bytes.
pub(super) fn send(server: &Server, message: &[u8], room: usize) -> Receiver<Vec<u8>> {
    let mut input = AlignedBuffer::new(message.len());
    input.bytes().copy_from_slice(message);
    let input = Arc::new(input);
    let mut output = Arc::new(AlignedBuffer::new(room));
    let request = Request { input: Buffers::whole(&input), output: Buffers::whole(&output) };
    let (sender, receiver) = channel();
    server.handle(request, move |written: u32| {
        // The request is gone by now, but for what a waiting one keeps of it.
        let written = usize::try_from(written).unwrap();
        let bytes = Arc::get_mut(&mut output).map(|output| output.bytes()[..written].to_vec());
        let _ = sender.send(bytes.unwrap_or_default());
    });
    receiver
}

/// An answer without its header, which is checked.
pub(super) fn open_answer(bytes: &[u8], unique: u64) -> Answer {
    assert_eq!(u32_at(bytes, 0) as usize, bytes.len());
    assert_eq!(u64_at(bytes, 8), unique);
    match u32_at(bytes, 4).cast_signed() {
        0 => Ok(bytes[16..].to_vec()),
        error => {
            assert_eq!(bytes.len(), 16);
            Err(-error)
        }
    }
}

/// A guest.
pub(super) struct Client {
    pub(super) server: Arc<Server>,
    unique: AtomicU64,
    /// As whom it asks.
    pub(super) who: u32,
}

/// A share that may be changed, and where nothing is remembered.
pub(super) fn writable(folder: &Path) -> FsOptions {
    FsOptions { writable: true, caching: Caching::Never, ..FsOptions::new(folder) }
}

/// A folder and a client that may change it.
pub(super) fn share() -> (TempDir, Client) {
    let folder = TempDir::new().unwrap();
    let client = Client::new(writable(folder.path()));
    (folder, client)
}

impl Client {
    pub(super) fn new(options: FsOptions) -> Client {
        let server = Arc::new(Server::new(options).unwrap());
        let client =
            Client { server, unique: AtomicU64::new(1), who: rustix::process::geteuid().as_raw() };
        client.init();
        client
    }

    pub(super) fn init(&self) -> Vec<u8> {
        let all = arguments().u32(7).u32(38).u32(1 << 17).u32(u32::MAX).u32(u32::MAX);
        self.call(Opcode::Init, ROOT, all.bytes(&[0; 44])).unwrap()
    }

    pub(super) fn next(&self) -> u64 {
        self.unique.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn start(
        &self,
        opcode: Opcode,
        node: u64,
        arguments: Arguments,
    ) -> (u64, Receiver<Vec<u8>>) {
        let unique = self.next();
        let message = message(opcode as u32, unique, node, self.who, &arguments.0);
        (unique, send(&self.server, &message, ROOM))
    }

    pub(super) fn call(&self, opcode: Opcode, node: u64, arguments: Arguments) -> Answer {
        let (unique, answer) = self.start(opcode, node, arguments);
        open_answer(&answer.recv().unwrap(), unique)
    }

    pub(super) fn lookup(&self, folder: u64, name: &str) -> Result<u64, i32> {
        self.call(Opcode::Lookup, folder, arguments().text(name)).map(|entry| u64_at(&entry, 0))
    }

    /// The node of a path below the share's folder.
    pub(super) fn walk(&self, path: &str) -> Result<u64, i32> {
        path.split('/').try_fold(ROOT, |folder, name| self.lookup(folder, name))
    }

    pub(super) fn forget(&self, node: u64, count: u64) {
        let (_, answer) = self.start(Opcode::Forget, node, arguments().u64(count));
        assert!(answer.recv().unwrap().is_empty());
    }

    /// Node and handle.
    pub(super) fn create(&self, folder: u64, name: &str, flags: i32) -> Result<(u64, u64), i32> {
        let flags = flags.cast_unsigned();
        let with = arguments().u32(flags).u32(0o100644).u32(0o022).u32(0).text(name);
        let answer = self.call(Opcode::Create, folder, with)?;
        Ok((u64_at(&answer, 0), u64_at(&answer, 128)))
    }

    pub(super) fn open(&self, node: u64, flags: i32) -> Result<u64, i32> {
        let with = arguments().u32(flags.cast_unsigned()).u32(0);
        self.call(Opcode::Open, node, with).map(|open| u64_at(&open, 0))
    }

    pub(super) fn release(&self, handle: u64) {
        let with = arguments().u64(handle).u32(0).u32(0).u64(0);
        self.call(Opcode::Release, ROOT, with).unwrap();
    }

    pub(super) fn read(&self, handle: u64, offset: u64, size: u32) -> Answer {
        let with = arguments().u64(handle).u64(offset).u32(size).u32(0).u64(0).u32(0).u32(0);
        self.call(Opcode::Read, ROOT, with)
    }

    pub(super) fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        self.write_with(handle, offset, data, 0, 0)
    }

    pub(super) fn write_with(
        &self,
        handle: u64,
        offset: u64,
        data: &[u8],
        write_flags: u32,
        flags: i32,
    ) -> Result<u32, i32> {
        let size = u32::try_from(data.len()).unwrap();
        let with = arguments().u64(handle).u64(offset).u32(size).u32(write_flags);
        let with = with.u64(0).u32(flags.cast_unsigned()).u32(0).bytes(data);
        self.call(Opcode::Write, ROOT, with).map(|out| u32_at(&out, 0))
    }

    /// `fuse_attr`.
    pub(super) fn attributes(&self, node: u64) -> Answer {
        let with = arguments().u32(0).u32(0).u64(0);
        self.call(Opcode::GetAttr, node, with).map(|out| out[16..].to_vec())
    }

    /// SETATTR: `which`, and size, mode, user and group.
    pub(super) fn set(&self, node: u64, which: u32, size: u64, mode: u32, who: u32) -> Answer {
        let with = arguments().u32(which).u32(0).u64(0).u64(size).u64(0);
        let with = with.u64(1000).u64(2000).u64(0).u32(5).u32(6).u32(0);
        let with = with.u32(mode).u32(0).u32(who).u32(who).u32(0);
        self.call(Opcode::SetAttr, node, with).map(|out| out[16..].to_vec())
    }

    pub(super) fn rename(&self, from: (u64, &str), to: (u64, &str), flags: u32) -> Result<(), i32> {
        let with = arguments().u64(to.0).u32(flags).u32(0).text(from.1).text(to.1);
        self.call(Opcode::Rename2, from.0, with).map(drop)
    }

    pub(super) fn make_folder(&self, folder: u64, name: &str) -> Result<u64, i32> {
        let with = arguments().u32(0o755).u32(0).text(name);
        self.call(Opcode::MkDir, folder, with).map(|entry| u64_at(&entry, 0))
    }

    /// Names, in order, by reading a folder with little room; "." and ".." are left out.
    pub(super) fn names(&self, folder: u64, plus: bool) -> Result<Vec<String>, i32> {
        let handle = u64_at(&self.call(Opcode::OpenDir, folder, arguments().u32(0).u32(0))?, 0);
        let (opcode, head) = if plus { (Opcode::ReadDirPlus, 128) } else { (Opcode::ReadDir, 0) };
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let with = arguments().u64(handle).u64(offset).u32(600).u32(0).u64(0).u32(0).u32(0);
            let entries = self.call(opcode, folder, with)?;
            let mut rest = &entries[..];
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                let entry = &rest[head..];
                offset = u64_at(entry, 8);
                let len = u32_at(entry, 16) as usize;
                let name = String::from_utf8(entry[24..24 + len].to_vec()).unwrap();
                if plus && u64_at(rest, 0) != 0 {
                    self.forget(u64_at(rest, 0), 1);
                }
                if name != "." && name != ".." {
                    names.push(name);
                }
                rest = &rest[(head + 24 + len).next_multiple_of(8)..];
            }
        }
        let with = arguments().u64(handle).u32(0).u32(0).u64(0);
        self.call(Opcode::ReleaseDir, folder, with)?;
        names.sort();
        Ok(names)
    }
}

/// What is in a folder of the host.
pub(super) fn host_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
