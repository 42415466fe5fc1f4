//! What a guest can make the server hold is bounded.

use std::fs;
use std::path::Path;
use std::thread;

use super::super::messages::{Opcode, ROOT};
use super::super::{FsOptions, Limits};
use super::client::*;

fn limited(folder: &Path, change: impl FnOnce(&mut Limits)) -> Client {
    let mut options = writable(folder);
    change(&mut options.limits);
    Client::new(options)
}

fn fill(folder: &Path, count: usize) {
    for number in 0..count {
        fs::write(folder.join(number.to_string()), number.to_string()).unwrap();
    }
}

#[test]
fn descriptors_are_closed_and_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 200);
    let client = limited(folder.path(), |limits| limits.descriptors = 20);
    let mut nodes = Vec::new();
    for number in 0..200 {
        match client.lookup(ROOT, &number.to_string()) {
            Ok(node) => nodes.push(node),
            // Where files cannot be opened by handle, the bound is one of files.
            Err(error) => {
                assert_eq!((error, nodes.len()), (libc::ENFILE, 20));
                client.forget(nodes[0], 1);
                assert!(client.lookup(ROOT, "199").is_ok());
                return;
            }
        }
    }
    assert_eq!(client.server.inodes.counts(), (201, 20));
    for _ in 0..2 {
        for (number, node) in nodes.iter().enumerate() {
            let handle = client.open(*node, libc::O_RDONLY).unwrap();
            assert_eq!(client.read(handle, 0, 9), Ok(number.to_string().into_bytes()));
            client.release(handle);
        }
    }
    assert!(client.server.inodes.counts().1 <= 20);
    // A number that the host gives to a new file is not the old file.
    for (number, node) in nodes.iter().enumerate() {
        let path = folder.path().join(number.to_string());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "new").unwrap();
        let new = client.lookup(ROOT, &number.to_string()).unwrap();
        assert_ne!(new, *node);
        client.forget(new, 1);
    }
    for node in nodes {
        client.forget(node, 1);
        assert_eq!(client.attributes(node), Err(libc::ESTALE));
    }
    assert_eq!(client.server.inodes.counts(), (1, 0));
}

#[test]
fn threads_may_use_and_forget_the_same_files() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 24);
    // Fewer descriptors than files, where that works.
    let few = rustix::process::geteuid().is_root();
    let client = limited(folder.path(), |limits| {
        if few {
            limits.descriptors = 4;
        }
    });
    thread::scope(|scope| {
        for start in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..2000 {
                    let number = ((start + round) % 24).to_string();
                    let node = client.lookup(ROOT, &number).unwrap();
                    let handle = client.open(node, libc::O_RDONLY).unwrap();
                    assert_eq!(client.read(handle, 0, 9), Ok(number.into_bytes()));
                    assert!(client.attributes(node).is_ok());
                    client.release(handle);
                    client.forget(node, 1);
                }
            });
        }
    });
    assert_eq!(client.server.inodes.counts(), (1, 0));
    assert_eq!(client.server.handles.len(), 0);
}

#[test]
fn files_are_known_until_they_are_forgotten_as_often_as_told() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 3);
    let client = limited(folder.path(), |limits| limits.inodes = 3);
    let node = client.lookup(ROOT, "0").unwrap();
    assert_eq!(client.lookup(ROOT, "0"), Ok(node));
    let other = client.lookup(ROOT, "1").unwrap();
    assert_eq!(client.lookup(ROOT, "2"), Err(libc::ENFILE));
    client.forget(node, 1);
    assert!(client.attributes(node).is_ok());
    let with = arguments().u32(2).u32(0).u64(node).u64(1).u64(other).u64(9);
    let (_, answer) = client.start(Opcode::BatchForget, ROOT, with);
    assert!(answer.recv().unwrap().is_empty());
    assert_eq!(client.attributes(node), Err(libc::ESTALE));
    assert!(client.lookup(ROOT, "2").is_ok());
    client.forget(ROOT, u64::MAX);
    assert!(client.attributes(ROOT).is_ok());
}

#[test]
fn names_read_with_their_files_count_too() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 100);
    let client = limited(folder.path(), |limits| limits.inodes = 10);
    // Each is forgotten only after its answer; beyond the bound there are names alone.
    let mut wanted = host_names(folder.path());
    wanted.sort();
    assert_eq!(client.names(ROOT, true).unwrap(), wanted);
    assert_eq!(client.server.inodes.counts().0, 1);
}

#[test]
fn open_files_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 1);
    let client = limited(folder.path(), |limits| limits.handles = 2);
    let node = client.lookup(ROOT, "0").unwrap();
    let handle = client.open(node, libc::O_RDONLY).unwrap();
    let folder_handle = u64_at(&client.call(Opcode::OpenDir, ROOT, arguments()).unwrap(), 0);
    assert_eq!(client.open(node, libc::O_RDONLY), Err(libc::ENFILE));
    let known = client.server.inodes.counts().0;
    assert_eq!(client.create(ROOT, "new", libc::O_RDWR), Err(libc::ENFILE));
    assert_eq!(client.server.inodes.counts().0, known);
    // A file is no folder.
    let release = |handle| arguments().u64(handle).u32(0).u32(0).u64(0);
    assert_eq!(client.call(Opcode::ReleaseDir, ROOT, release(handle)), Err(libc::EBADF));
    assert_eq!(client.call(Opcode::Release, ROOT, release(folder_handle)), Err(libc::EBADF));
    client.release(handle);
    assert!(client.open(node, libc::O_RDONLY).is_ok());
    client.init();
    assert_eq!(client.server.handles.len(), 0);
}

#[test]
fn owners_of_locks_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 1);
    let client = limited(folder.path(), |limits| limits.locks = 3);
    let node = client.lookup(ROOT, "0").unwrap();
    let handle = client.open(node, libc::O_RDWR).unwrap();
    let take = |owner: u64, kind: u32| {
        let with = arguments().u64(handle).u64(owner).u64(owner).u64(owner).u32(kind).u32(0);
        client.call(Opcode::SetLk, node, with.u32(0).u32(0)).map(drop)
    };
    for owner in 0..3 {
        assert_eq!(take(owner, 1), Ok(()));
    }
    assert_eq!(take(3, 1), Err(libc::ENOLCK));
    let flush = arguments().u64(handle).u32(0).u32(0).u64(1);
    client.call(Opcode::Flush, node, flush).unwrap();
    assert_eq!(take(3, 1), Ok(()));
    assert_eq!(client.server.locks.len(), 3);
    client.call(Opcode::Destroy, ROOT, arguments()).unwrap();
    assert_eq!(client.server.locks.len(), 0);
}

#[test]
fn what_cannot_be_shared_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), 1);
    let limits = Limits::of_process();
    assert_eq!(limits.divided(2).handles, limits.handles / 2);
    for name in ["0", "none"] {
        let path = folder.path().join(name);
        let error = super::super::Server::new(FsOptions::new(&path)).err().unwrap();
        assert_eq!(error.to_string(), format!("cannot share the folder {}", path.display()));
    }
}
