//! SETUPMAPPING and REMOVEMAPPING against a window of this process' memory.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex};

use memshare::SharedRegion;

use super::super::messages::{Opcode, ROOT};
use super::super::{DaxWindow, FsOptions};
use super::client::*;

/// Offset, length, offset in the file, and whether it may be written.
type Piece = (u64, u64, u64, bool);

/// Notes what is mapped.
#[derive(Default)]
pub(super) struct Noted {
    maps: Mutex<Vec<(Piece, Arc<SharedRegion>)>>,
    unmaps: Mutex<Vec<(u64, u64)>>,
}

const LEN: u64 = 1 << 20;

impl DaxWindow for Noted {
    fn len(&self) -> u64 {
        LEN
    }

    fn map(
        &self,
        moffset: u64,
        len: u64,
        file: &Arc<SharedRegion>,
        foffset: u64,
        write: bool,
    ) -> io::Result<()> {
        if moffset == LEN - 4096 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.maps.lock().unwrap().push(((moffset, len, foffset, write), Arc::clone(file)));
        Ok(())
    }

    fn unmap(&self, moffset: u64, len: u64) -> io::Result<()> {
        self.unmaps.lock().unwrap().push((moffset, len));
        Ok(())
    }
}

fn with_window(options: FsOptions) -> (Arc<Noted>, Client) {
    let window = Arc::new(Noted::default());
    let client = Client::new(FsOptions { window: Some(Arc::clone(&window) as _), ..options });
    window.unmaps.lock().unwrap().clear();
    (window, client)
}

fn map(client: &Client, node: u64, moffset: u64, len: u64, foffset: u64, flags: u64) -> Answer {
    let with = arguments().u64(u64::MAX).u64(foffset).u64(len).u64(flags).u64(moffset);
    client.call(Opcode::SetupMapping, node, with)
}

#[test]
fn files_are_mapped_and_opened_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), vec![1; 10_000]).unwrap();
    let (window, client) = with_window(writable(folder.path()));
    let node = client.lookup(ROOT, "a").unwrap();
    assert_eq!(map(&client, node, 4096, 8192, 0, 2), Ok(vec![]));
    assert_eq!(map(&client, node, 0, 4096, 8192, 2), Ok(vec![]));
    assert_eq!(map(&client, node, 65536, 4096, 4096, 3), Ok(vec![]));
    let maps = window.maps.lock().unwrap();
    let pieces: Vec<Piece> = maps.iter().map(|(piece, _)| *piece).collect();
    let wanted = [(4096, 8192, 0, false), (0, 4096, 8192, false), (65536, 4096, 4096, true)];
    assert_eq!(pieces, wanted);
    assert!(Arc::ptr_eq(&maps[0].1, &maps[1].1));
    assert_eq!(maps[0].1.path(), fs::canonicalize(folder.path().join("a")).unwrap());
    assert_eq!(maps[2].1.len(), 10_000);
    let with = arguments().u32(2).u64(0).u64(4096).u64(65536).u64(4096);
    client.call(Opcode::RemoveMapping, node, with).unwrap();
    assert_eq!(*window.unmaps.lock().unwrap(), [(0, 4096), (65536, 4096)]);
    client.call(Opcode::Destroy, ROOT, arguments()).unwrap();
    assert_eq!(window.unmaps.lock().unwrap().last(), Some(&(0, LEN)));
}

#[test]
fn ranges_and_rights_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "a").unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let (window, client) = with_window(FsOptions::new(folder.path()));
    let (node, sub) = (client.lookup(ROOT, "a").unwrap(), client.lookup(ROOT, "sub").unwrap());
    for (moffset, len, foffset, flags) in [
        (1, 4096, 0, 2),
        (0, 1, 0, 2),
        (0, 0, 0, 2),
        (0, 4096, 7, 2),
        (0, LEN + 4096, 0, 2),
        (LEN, 4096, 0, 2),
        (u64::MAX - 4095, 4096, 0, 2),
        (0, 4096, u64::MAX - 4095, 2),
        (0, 4096, 1 << 63, 2),
        (0, 4096, 0, 4),
    ] {
        assert_eq!(map(&client, node, moffset, len, foffset, flags), Err(libc::EINVAL));
    }
    assert_eq!(map(&client, node, 0, 4096, 0, 1), Err(libc::EROFS));
    assert_eq!(map(&client, sub, 0, 4096, 0, 2), Err(libc::EISDIR));
    assert_eq!(map(&client, 99, 0, 4096, 0, 2), Err(libc::ESTALE));
    assert_eq!(map(&client, node, LEN - 4096, 4096, 0, 2), Err(libc::ENOSPC));
    let remove = |with| client.call(Opcode::RemoveMapping, node, with);
    // None is removed when one cannot be.
    let with = arguments().u32(2).u64(0).u64(4096).u64(LEN).u64(4096);
    assert_eq!(remove(with), Err(libc::EINVAL));
    assert_eq!(remove(arguments().u32(2).u64(0).u64(4096)), Err(libc::EINVAL));
    assert_eq!(remove(arguments().u32(u32::MAX)), Err(libc::EINVAL));
    assert!(window.maps.lock().unwrap().is_empty() && window.unmaps.lock().unwrap().is_empty());
    let without = Client::new(FsOptions::new(folder.path()));
    assert_eq!(map(&without, node, 0, 4096, 0, 2), Err(libc::ENOSYS));
}

#[test]
fn mapped_files_are_bounded_and_files_are_marked() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = FsOptions::new(folder.path());
    options.limits.mapped = 2;
    let (window, client) = with_window(options);
    let out = client.init();
    assert_eq!((u32_at(&out, 12) & (1 << 26) != 0, u32_at(&out, 32)), (true, 2));
    assert_eq!(u32_at(&out, 28) >> 16, 12);
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        fs::write(folder.path().join(name), name).unwrap();
        nodes.push(client.lookup(ROOT, name).unwrap());
    }
    assert_eq!(u32_at(&client.attributes(nodes[0]).unwrap(), 84), 2);
    assert_eq!(u32_at(&client.attributes(ROOT).unwrap(), 84), 0);
    assert!(map(&client, nodes[0], 0, 4096, 0, 2).is_ok());
    assert!(map(&client, nodes[1], 0, 4096, 0, 2).is_ok());
    assert_eq!(map(&client, nodes[2], 0, 4096, 0, 2), Err(libc::ENFILE));
    window.maps.lock().unwrap().clear();
    assert!(map(&client, nodes[2], 0, 4096, 0, 2).is_ok());
}
