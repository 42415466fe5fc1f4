//! What fuzzers call: the messages of a driver, against a folder that each input finds the same,
//! and a window of this process' memory.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};

use memshare::{Access, SharedRegion, Window, WindowRange};
use storage::{AlignedBuffer, Buffers};

use super::messages::{IN_HEADER, OUT_HEADER, Opcode, ROOT};
use super::{Caching, DaxWindow, FsOptions, Request, Server};

/// Bytes of the window.
const WINDOW: u64 = 1 << 20;
/// Messages of an input at most.
const MESSAGES_MAX: usize = 48;
/// Bytes of a message's arguments at most.
const ARGUMENTS_MAX: usize = 600;
/// Bytes that one message allocates or copies at most: the host's memory is not what is tried.
const BYTES: u64 = (1 << 20) - 1;

struct Memory(Arc<Window>);

impl Memory {
    fn range(&self, moffset: u64, len: u64) -> WindowRange {
        self.0.range(moffset, len).expect("the server has checked the range")
    }
}

impl DaxWindow for Memory {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn map(
        &self,
        moffset: u64,
        len: u64,
        file: &Arc<SharedRegion>,
        foffset: u64,
        write: bool,
    ) -> io::Result<()> {
        let access = if write { Access::Write } else { Access::Read };
        let range = self.range(moffset, len);
        self.0.map(range, file, foffset, access).map_err(io::Error::other)
    }

    fn unmap(&self, moffset: u64, len: u64) -> io::Result<()> {
        self.0.unmap(self.range(moffset, len)).map_err(io::Error::other)
    }
}

/// A folder of this process, in memory where the host has such.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
        parent.join(format!("cohort-fuzz-{}", std::process::id()))
    })
}

/// Puts into the folder what every input finds there.
fn furnish(folder: &Path) -> io::Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder.join("share/d"))?;
    fs::write(folder.join("secret"), "secret")?;
    fs::write(folder.join("share/a"), vec![7; 9000])?;
    fs::write(folder.join("share/d/b"), "b")?;
    symlink("../secret", folder.join("share/l"))
}

/// Has the server do what a driver says: for each message the operation, the node, the bytes of
/// arguments (two bytes), and these.
pub fn fuse(input: &[u8]) {
    let folder = folder();
    furnish(folder).expect("the folder cannot be made");
    run(folder, input);
    let outside = fs::read(folder.join("secret")).expect("something outside is gone");
    assert_eq!(outside, b"secret", "something outside was changed");
    let names = fs::read_dir(folder).expect("the folder is gone").count();
    assert_eq!(names, 2, "something was made outside");
    let _ = fs::remove_dir_all(folder);
}

fn run(folder: &Path, mut input: &[u8]) {
    let window = Window::reserve("fuzzed", WINDOW, 4096).expect("there is no address space");
    let options = FsOptions {
        writable: true,
        caching: Caching::Never,
        window: Some(Arc::new(Memory(window))),
        ..FsOptions::new(folder.join("share"))
    };
    let server = Server::new(options).expect("the folder cannot be served");
    let init = [7u32, 38, 0, u32::MAX, u32::MAX].map(u32::to_ne_bytes).concat();
    let mut answers = vec![send(&server, Opcode::Init as u32, ROOT, &init)];
    for _ in 0..MESSAGES_MAX {
        let Some(([opcode, node, low, high], rest)) = input.split_first_chunk() else { break };
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(ARGUMENTS_MAX);
        let (arguments, rest) = rest.split_at(len.min(rest.len()));
        input = rest;
        let arguments = tame(u32::from(*opcode), arguments);
        answers.push(send(&server, (*opcode).into(), (*node).into(), &arguments));
    }
    // What waits ends with the server.
    drop(server);
    for (opcode, answer) in answers {
        let written = answer.recv().expect("a request was not answered");
        let silent = Opcode::new(opcode).is_some_and(Opcode::is_silent);
        assert_eq!(written < OUT_HEADER, silent, "operation {opcode}: {written} bytes");
        assert!(answer.recv().is_err(), "a request was answered twice");
    }
}

/// Makes lengths small where the host would take that much memory.
fn tame(opcode: u32, arguments: &[u8]) -> Vec<u8> {
    let mut arguments = arguments.to_vec();
    let lengths: &[usize] = match Opcode::new(opcode) {
        Some(Opcode::FAllocate) => &[8, 16],
        Some(Opcode::CopyFileRange) => &[40],
        _ => &[],
    };
    for at in lengths {
        if let Some(bytes) = arguments.get_mut(*at..at + 8).and_then(|b| b.first_chunk_mut()) {
            *bytes = (u64::from_ne_bytes(*bytes) & BYTES).to_ne_bytes();
        }
    }
    arguments
}

type Answer = (u32, std::sync::mpsc::Receiver<u32>);

fn send(server: &Server, opcode: u32, node: u64, arguments: &[u8]) -> Answer {
    let bytes = message(opcode, node, arguments);
    let mut input = AlignedBuffer::new(bytes.len());
    input.bytes().copy_from_slice(&bytes);
    let output = Arc::new(AlignedBuffer::new(4096));
    let request =
        Request { input: Buffers::whole(&Arc::new(input)), output: Buffers::whole(&output) };
    let (sender, receiver) = channel();
    server.handle(request, move |written: u32| {
        let _ = sender.send(written);
    });
    (opcode, receiver)
}

fn message(opcode: u32, node: u64, arguments: &[u8]) -> Vec<u8> {
    let len = u32::try_from(IN_HEADER + arguments.len()).unwrap_or(u32::MAX);
    let mut bytes = [len, opcode].map(u32::to_ne_bytes).concat();
    bytes.extend([1, node].map(u64::to_ne_bytes).concat());
    bytes.extend([0u8; 16]);
    bytes.extend(arguments);
    bytes
}

/// Inputs to begin with: what drivers do.
pub fn fuse_seeds() -> Vec<Vec<u8>> {
    let step = |opcode: Opcode, node: u8, arguments: &[u8]| {
        let number = u8::try_from(opcode as u32).unwrap_or_default();
        let len = u16::try_from(arguments.len()).unwrap_or_default().to_le_bytes();
        [&[number, node, len[0], len[1]], arguments].concat()
    };
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let with = |numbers: &[u64], text: &[u8]| -> Vec<u8> {
        let head: Vec<u8> = words(numbers);
        [head.as_slice(), text].concat()
    };
    // Nodes are numbered in the order in which they are met, from 2 on; handles from 1 on.
    let lookup = |name: &[u8]| step(Opcode::Lookup, 1, name);
    let open = |node| step(Opcode::Open, node, &with(&[2], b""));
    let file = [lookup(b"a\0"), open(2)].concat();
    let lock = |opcode, owner, kind| {
        step(opcode, 2, &with(&[1, owner, 0, i64::MAX.cast_unsigned(), kind, 0], b""))
    };
    vec![
        [
            file.clone(),
            step(Opcode::Read, 2, &with(&[1, 4090, 100, 0, 0], b"")),
            step(Opcode::Write, 2, &with(&[1, 5, 4, 0, 0], b"data")),
            step(Opcode::LSeek, 2, &with(&[1, 0, 3], b"")),
            step(Opcode::FAllocate, 2, &with(&[1, 0, 4096, 3], b"")),
            step(Opcode::FSync, 2, &with(&[1, 0], b"")),
            step(Opcode::CopyFileRange, 2, &with(&[1, 0, 2, 1, 5000, 9, 0], b"")),
            step(Opcode::SetAttr, 2, &with(&[0x1ff, 1, 100, 0, 1, 2, 3, 0, 0, 0, 0], b"")),
            step(Opcode::GetAttr, 2, &with(&[1, 1], b"")),
            step(Opcode::Release, 2, &with(&[1, 0, 0], b"")),
            step(Opcode::Forget, 2, &with(&[1], b"")),
        ]
        .concat(),
        [
            file.clone(),
            step(Opcode::SetupMapping, 2, &with(&[u64::MAX, 0, 8192, 2, 4096], b"")),
            step(Opcode::SetupMapping, 2, &with(&[u64::MAX, 4096, 4096, 3, 8192], b"")),
            step(
                Opcode::RemoveMapping,
                2,
                &[&2u32.to_ne_bytes()[..], &with(&[4096, 4096, 8192, 4096], b"")].concat(),
            ),
            step(Opcode::SetAttr, 2, &with(&[8, 0, 10], &[0; 64])),
            step(Opcode::Destroy, 1, b""),
        ]
        .concat(),
        [
            file.clone(),
            lock(Opcode::SetLk, 1, 1),
            lock(Opcode::SetLkW, 2, 0),
            lock(Opcode::GetLk, 2, 1),
            step(Opcode::Interrupt, 0, &with(&[1], b"")),
            step(Opcode::Flush, 2, &with(&[1, 0, 1], b"")),
        ]
        .concat(),
        [
            step(Opcode::OpenDir, 1, &with(&[0], b"")),
            step(Opcode::ReadDirPlus, 1, &with(&[1, 0, 4000, 0, 0], b"")),
            step(Opcode::ReadDir, 1, &with(&[1, 0, 4000, 0, 0], b"")),
            step(Opcode::FSyncDir, 1, &with(&[1, 0], b"")),
            step(Opcode::ReleaseDir, 1, &with(&[1, 0, 0], b"")),
            step(Opcode::BatchForget, 1, &with(&[2, 2, 1, 3, 1], b"")),
            step(Opcode::StatFs, 1, b""),
            step(Opcode::SyncFs, 1, &with(&[0], b"")),
        ]
        .concat(),
        [
            step(Opcode::Create, 1, &with(&[0x1b6_0000_0002, 0], b"new\0")),
            step(Opcode::MkDir, 1, &with(&[0o755], b"sub\0")),
            step(Opcode::MkNod, 3, &with(&[0o10_644, 0], b"fifo\0")),
            step(Opcode::SymLink, 1, b"link\0../secret\0"),
            step(Opcode::ReadLink, 5, b""),
            step(Opcode::Link, 3, &with(&[2], b"hard\0")),
            step(Opcode::Rename, 1, &with(&[3], b"new\0moved\0")),
            step(Opcode::Rename2, 3, &with(&[1, 2], b"moved\0d\0")),
            step(Opcode::Unlink, 3, b"hard\0"),
            step(Opcode::RmDir, 1, b"sub\0"),
            step(Opcode::TmpFile, 1, &with(&[0x1b6_0000_0002, 0], b"/\0")),
            step(Opcode::Access, 2, &with(&[7], b"")),
        ]
        .concat(),
        [
            file,
            step(Opcode::SetXattr, 2, &with(&[1], b"user.x\0v")),
            step(Opcode::GetXattr, 2, &with(&[9], b"user.x\0")),
            step(Opcode::ListXattr, 2, &with(&[99], b"")),
            step(Opcode::RemoveXattr, 2, b"user.x\0"),
        ]
        .concat(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fuzzer_begins_with_works() {
        for seed in fuse_seeds() {
            fuse(&seed);
            for cut in (0..seed.len()).step_by(7) {
                fuse(&seed[..cut]);
            }
        }
    }
}
