//! Nothing outside the folder is reached, by no name, link, mount or race.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::super::messages::{Opcode, ROOT};
use super::client::*;

/// A folder with `share` in it, and a secret beside that.
fn beside() -> (tempfile::TempDir, Client) {
    let around = tempfile::tempdir().unwrap();
    fs::create_dir_all(around.path().join("share/sub")).unwrap();
    fs::create_dir(around.path().join("outside")).unwrap();
    fs::write(around.path().join("outside/secret"), "secret").unwrap();
    let client = Client::new(writable(&around.path().join("share")));
    (around, client)
}

#[test]
fn names_are_single_components() {
    let (around, client) = beside();
    let sub = client.lookup(ROOT, "sub").unwrap();
    for name in ["..", ".", "", "../outside", "sub/..", "/", "/etc", "sub/"] {
        for node in [ROOT, sub] {
            let text = || arguments().text(name);
            let head = |numbers: usize| arguments().bytes(&vec![0; numbers * 4]).text(name);
            assert_eq!(client.lookup(node, name), Err(libc::EINVAL), "{name}");
            assert_eq!(client.create(node, name, libc::O_RDWR), Err(libc::EINVAL));
            assert_eq!(client.make_folder(node, name), Err(libc::EINVAL));
            assert_eq!(client.call(Opcode::MkNod, node, head(4)), Err(libc::EINVAL));
            assert_eq!(client.call(Opcode::Unlink, node, text()), Err(libc::EINVAL));
            assert_eq!(client.call(Opcode::RmDir, node, text()), Err(libc::EINVAL));
            assert_eq!(client.call(Opcode::SymLink, node, text().text("x")), Err(libc::EINVAL));
            let link = arguments().u64(sub).text(name);
            assert_eq!(client.call(Opcode::Link, node, link), Err(libc::EINVAL));
            assert_eq!(client.rename((node, name), (sub, "x"), 0), Err(libc::EINVAL));
            assert_eq!(client.rename((ROOT, "sub"), (node, name), 0), Err(libc::EINVAL));
        }
    }
    assert_eq!(host_names(&around.path().join("share")), ["sub"]);
    assert_eq!(host_names(around.path()), ["outside", "share"]);
}

#[test]
fn links_are_not_followed() {
    let (around, client) = beside();
    symlink(around.path().join("outside"), around.path().join("share/folder")).unwrap();
    symlink("../outside/secret", around.path().join("share/file")).unwrap();
    symlink("/proc/self/root", around.path().join("share/magic")).unwrap();
    for name in ["folder", "file", "magic"] {
        let node = client.lookup(ROOT, name).unwrap();
        assert_eq!(client.open(node, libc::O_RDONLY), Err(libc::ELOOP));
        assert_eq!(client.create(ROOT, name, libc::O_RDONLY), Err(libc::ELOOP));
        assert_eq!(client.lookup(node, "secret"), Err(libc::ENOTDIR));
        assert_eq!(client.create(node, "x", libc::O_RDWR), Err(libc::ENOTDIR));
        assert_eq!(client.names(node, false), Err(libc::ENOTDIR));
        assert_eq!(client.set(node, 1 << 3, 0, 0, 0), Err(libc::ELOOP));
        assert_eq!(client.set(node, 1, 0, 0o777, 0), Err(libc::EOPNOTSUPP));
    }
    assert_eq!(fs::read(around.path().join("outside/secret")).unwrap(), b"secret");
    assert_eq!(host_names(&around.path().join("outside")), ["secret"]);
}

#[test]
fn the_folder_above_is_not_told() {
    let (around, client) = beside();
    let handle = u64_at(&client.call(Opcode::OpenDir, ROOT, arguments()).unwrap(), 0);
    let with = arguments().u64(handle).u64(0).u32(4096).u32(0).u64(0).u64(0);
    let entries = client.call(Opcode::ReadDir, ROOT, with).unwrap();
    let above = std::os::unix::fs::MetadataExt::ino(&fs::metadata(around.path()).unwrap());
    let mut rest = &entries[..];
    while !rest.is_empty() {
        assert_ne!(u64_at(rest, 0), above);
        rest = &rest[(24 + u32_at(rest, 16) as usize).next_multiple_of(8)..];
    }
}

/// Swaps a folder for a link to the outside, and back, until told to stop.
fn swap(share: &Path, outside: &Path, stop: &AtomicBool) {
    let (real, link, name) = (share.join("real"), share.join("link"), share.join("name"));
    fs::create_dir(&real).unwrap();
    fs::write(real.join("secret"), "public").unwrap();
    symlink(outside, &link).unwrap();
    while !stop.load(Ordering::Relaxed) {
        fs::rename(&real, &name).unwrap();
        fs::rename(&name, &real).unwrap();
        fs::rename(&link, &name).unwrap();
        fs::rename(&name, &link).unwrap();
    }
}

#[test]
fn links_put_in_a_folders_place_meanwhile_lead_nowhere() {
    let (around, client) = beside();
    let (share, outside) = (around.path().join("share"), around.path().join("outside"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| swap(&share, &outside, &stop));
        let mut seen = 0;
        for _ in 0..200_000 {
            if seen > 50 {
                break;
            }
            let Ok(folder) = client.lookup(ROOT, "name") else { continue };
            if let Ok(file) = client.lookup(folder, "secret") {
                let handle = client.open(file, libc::O_RDWR).unwrap();
                assert_eq!(client.read(handle, 0, 9), Ok(b"public".to_vec()));
                client.release(handle);
                client.forget(file, 1);
                seen += 1;
            }
            let _ =
                client.create(folder, "new", libc::O_RDWR).map(|(_, open)| client.release(open));
            client.forget(folder, 1);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(host_names(&outside), ["secret"]);
}

#[test]
fn a_folder_moved_away_does_not_lead_upwards() {
    let (around, client) = beside();
    let sub = client.lookup(ROOT, "sub").unwrap();
    fs::rename(around.path().join("share/sub"), around.path().join("outside/sub")).unwrap();
    assert_eq!(client.lookup(sub, ".."), Err(libc::EINVAL));
    assert_eq!(client.lookup(sub, "secret"), Err(libc::ENOENT));
}
