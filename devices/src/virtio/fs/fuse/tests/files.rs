//! What can be done with files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::super::messages::{Opcode, ROOT};
use super::super::{Caching, FsOptions, Ids, Xattrs};
use super::client::*;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn init_agrees_on_what_both_can() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::new(FsOptions::new(folder.path()));
    let out = client.init();
    assert_eq!(out.len(), 64);
    assert_eq!((u32_at(&out, 0), u32_at(&out, 4)), (7, 38));
    let flags = u32_at(&out, 12);
    for (bit, on) in [(0, true), (1, false), (5, true), (12, true), (13, true), (14, true)]
        .into_iter()
        .chain([(16, false), (18, true), (22, true), (26, false), (27, false), (28, false)])
    {
        assert_eq!(flags & (1 << bit) != 0, on, "bit {bit}");
    }
    assert_eq!(u32_at(&out, 20), 1 << 20);
    // Nothing that the guest does not know.
    let with = arguments().u32(7).u32(31).u32(0).u32(1 << 13);
    let out = client.call(Opcode::Init, ROOT, with).unwrap();
    assert_eq!((u32_at(&out, 12), u32_at(&out, 32)), (1 << 13, 0));
    // Versions.
    let with = |major: u32, minor| arguments().u32(major).u32(minor).u32(0).u32(0);
    assert_eq!(client.call(Opcode::Init, ROOT, with(7, 12)), Err(libc::EPROTO));
    assert_eq!(client.call(Opcode::Init, ROOT, with(6, 99)), Err(libc::EPROTO));
    assert_eq!(u32_at(&client.call(Opcode::Init, ROOT, with(8, 0)).unwrap(), 0), 7);
    // After DESTROY, INIT comes first.
    client.call(Opcode::Destroy, ROOT, arguments()).unwrap();
    assert_eq!(client.attributes(ROOT), Err(libc::EPROTO));
}

#[test]
fn a_file_is_made_written_read_cut_and_removed() {
    let (folder, client) = share();
    let (node, handle) = client.create(ROOT, "a", libc::O_RDWR).unwrap();
    assert_eq!(client.write(handle, 3, b"hello"), Ok(5));
    assert_eq!(client.read(handle, 0, 100), Ok(b"\0\0\0hello".to_vec()));
    assert_eq!(client.read(handle, 4, 2), Ok(b"el".to_vec()));
    assert_eq!(client.read(handle, 8, 2), Ok(vec![]));
    assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"\0\0\0hello");
    let attr = client.attributes(node).unwrap();
    let host = fs::metadata(folder.path().join("a")).unwrap();
    assert_eq!((u64_at(&attr, 0), u64_at(&attr, 8)), (host.ino(), 8));
    assert_eq!((u32_at(&attr, 60), u32_at(&attr, 64)), (host.mode(), 1));
    // The guest has applied its umask: this process' is not applied again.
    assert_eq!(host.mode(), 0o100644);
    let attr = client.set(node, 1 << 3, 4, 0, 0).unwrap();
    assert_eq!(u64_at(&attr, 8), 4);
    let sync = |flags| arguments().u64(handle).u32(flags).u32(0);
    client.call(Opcode::FSync, node, sync(0)).unwrap();
    client.call(Opcode::FSync, node, sync(1)).unwrap();
    client.call(Opcode::SyncFs, ROOT, arguments().u64(0)).unwrap();
    client.call(Opcode::Unlink, ROOT, arguments().text("a")).unwrap();
    assert_eq!(client.lookup(ROOT, "a"), Err(libc::ENOENT));
    // It lives as long as somebody has it open.
    assert_eq!(client.read(handle, 3, 9), Ok(b"h".to_vec()));
    assert_eq!(u32_at(&client.attributes(node).unwrap(), 64), 0);
    client.release(handle);
    assert_eq!(client.read(handle, 0, 1), Err(libc::EBADF));
}

#[test]
fn files_that_exist_are_created_only_once() {
    let (folder, client) = share();
    fs::write(folder.path().join("a"), "old").unwrap();
    assert_eq!(client.create(ROOT, "a", libc::O_RDWR | libc::O_EXCL), Err(libc::EEXIST));
    let (_, handle) = client.create(ROOT, "a", libc::O_RDWR).unwrap();
    assert_eq!(client.read(handle, 0, 9), Ok(b"old".to_vec()));
    let (_, handle) = client.create(ROOT, "a", libc::O_RDWR | libc::O_TRUNC).unwrap();
    assert_eq!(client.read(handle, 0, 9), Ok(vec![]));
}

#[test]
fn appending_is_done_by_the_host_except_for_pages_written_back() {
    let (folder, client) = share();
    let (_, handle) = client.create(ROOT, "a", libc::O_RDWR | libc::O_APPEND).unwrap();
    client.write_with(handle, 0, b"12", 0, libc::O_APPEND).unwrap();
    client.write_with(handle, 0, b"34", 0, libc::O_APPEND).unwrap();
    client.write_with(handle, 1, b"x", 1, libc::O_APPEND).unwrap();
    assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"1x34");
}

#[test]
fn attributes_are_set() {
    let (folder, client) = share();
    let (node, _) = client.create(ROOT, "a", libc::O_RDWR).unwrap();
    let attr = client.set(node, 1 | (1 << 4) | (1 << 5), 0, 0o4711, 0).unwrap();
    assert_eq!(u32_at(&attr, 60), 0o104711);
    assert_eq!((u64_at(&attr, 24), u64_at(&attr, 32)), (1000, 2000));
    assert_eq!((u32_at(&attr, 48), u32_at(&attr, 52)), (5, 6));
    if is_root() {
        let attr = client.set(node, 1 | 2 | 4, 0, 0o4711, 77).unwrap();
        assert_eq!((u32_at(&attr, 60), u32_at(&attr, 68), u32_at(&attr, 72)), (0o104711, 77, 77));
        // A new owner costs it its set-user bit.
        let attr = client.set(node, 2, 0, 0, 78).unwrap();
        assert_eq!(u32_at(&attr, 60), 0o100711);
    }
    let link = fs::metadata(folder.path()).unwrap().ino();
    assert_eq!(u64_at(&client.attributes(ROOT).unwrap(), 0), link);
}

#[test]
fn links_folders_and_special_files_are_made() {
    let (folder, client) = share();
    let with = arguments().text("link").text("/etc/passwd");
    let link = u64_at(&client.call(Opcode::SymLink, ROOT, with).unwrap(), 0);
    assert_eq!(client.call(Opcode::ReadLink, link, arguments()), Ok(b"/etc/passwd".to_vec()));
    // A link has names and times like others.
    client.set(link, 1 << 5, 0, 0, 0).unwrap();
    let with = arguments().u64(link).text("link2");
    assert_eq!(u64_at(&client.call(Opcode::Link, ROOT, with).unwrap(), 0), link);
    let sub = client.make_folder(ROOT, "sub").unwrap();
    let (file, _) = client.create(sub, "file", libc::O_RDWR).unwrap();
    let with = arguments().u64(file).text("hard");
    let answer = client.call(Opcode::Link, ROOT, with).unwrap();
    assert_eq!((u64_at(&answer, 0), u32_at(&answer, 40 + 64)), (file, 2));
    let node = |mode: u32, number: u32, name| {
        let with = arguments().u32(mode).u32(number).u32(0).u32(0).text(name);
        client.call(Opcode::MkNod, ROOT, with).map(|entry| u64_at(&entry, 0))
    };
    let fifo = node(0o010644, 0, "fifo").unwrap();
    assert_eq!(client.open(fifo, libc::O_RDWR), Err(libc::ENXIO));
    assert_eq!(client.open(link, libc::O_RDONLY), Err(libc::ELOOP));
    assert_eq!(client.open(sub, libc::O_RDONLY), Err(libc::EISDIR));
    assert!(node(0o100600, 0, "regular").is_ok());
    assert_eq!(node(0o020644, 0x103, "null"), Err(libc::EPERM));
    assert_eq!(node(0o060644, 0x103, "disk"), Err(libc::EPERM));
    let wanted = ["fifo", "hard", "link", "link2", "regular", "sub"];
    assert_eq!(client.names(ROOT, false).unwrap(), wanted);
    assert_eq!(client.names(ROOT, true).unwrap(), wanted);
    assert_eq!(host_names(folder.path()), wanted);
    assert_eq!(client.call(Opcode::RmDir, ROOT, arguments().text("sub")), Err(libc::ENOTEMPTY));
    client.call(Opcode::Unlink, sub, arguments().text("file")).unwrap();
    client.call(Opcode::RmDir, ROOT, arguments().text("sub")).unwrap();
}

#[test]
fn files_are_renamed() {
    let (folder, client) = share();
    let sub = client.make_folder(ROOT, "sub").unwrap();
    fs::write(folder.path().join("a"), "a").unwrap();
    fs::write(folder.path().join("b"), "b").unwrap();
    client.rename((ROOT, "a"), (sub, "c"), 0).unwrap();
    assert_eq!(client.rename((ROOT, "b"), (sub, "c"), 1), Err(libc::EEXIST));
    client.rename((ROOT, "b"), (sub, "c"), 2).unwrap();
    assert_eq!(fs::read(folder.path().join("b")).unwrap(), b"a");
    let with = arguments().u64(ROOT).text("c").text("b");
    client.call(Opcode::Rename, sub, with).unwrap();
    assert_eq!(fs::read(folder.path().join("b")).unwrap(), b"b");
    assert_eq!(client.rename((ROOT, "b"), (sub, "c"), 4), Err(libc::EINVAL));
    assert_eq!(client.rename((ROOT, "sub"), (sub, "c"), 0), Err(libc::EINVAL));
}

#[test]
fn holes_copies_and_files_without_names() {
    let (_folder, client) = share();
    let (_, from) = client.create(ROOT, "from", libc::O_RDWR).unwrap();
    let (_, to) = client.create(ROOT, "to", libc::O_RDWR).unwrap();
    client.write(from, 1 << 20, b"data").unwrap();
    let seek = |offset, whence: i32| {
        let with = arguments().u64(from).u64(offset).u32(whence.cast_unsigned()).u32(0);
        client.call(Opcode::LSeek, ROOT, with).map(|out| u64_at(&out, 0))
    };
    assert_eq!(seek(0, libc::SEEK_DATA), Ok(1 << 20));
    assert_eq!(seek(0, libc::SEEK_HOLE), Ok(0));
    assert_eq!(seek(2 << 20, libc::SEEK_DATA), Err(libc::ENXIO));
    let with = arguments().u64(from).u64(1 << 20).u64(0).u64(to).u64(2).u64(4).u64(0);
    assert_eq!(u32_at(&client.call(Opcode::CopyFileRange, ROOT, with).unwrap(), 0), 4);
    assert_eq!(client.read(to, 0, 9), Ok(b"\0\0data".to_vec()));
    let allocate = |mode: u32, offset, len| {
        let with = arguments().u64(to).u64(offset).u64(len).u32(mode).u32(0);
        client.call(Opcode::FAllocate, ROOT, with)
    };
    allocate(0, 0, 100).unwrap();
    assert_eq!(client.read(to, 0, 200).unwrap().len(), 100);
    allocate(3, 0, 4).unwrap();
    assert_eq!(client.read(to, 0, 6), Ok(b"\0\0\0\0ta".to_vec()));
    assert_eq!(allocate(0x100, 0, 4), Err(libc::EOPNOTSUPP));
    let with = arguments().u32(libc::O_RDWR.cast_unsigned()).u32(0o600).u32(0).u32(0).text("/");
    let answer = client.call(Opcode::TmpFile, ROOT, with).unwrap();
    let handle = u64_at(&answer, 128);
    assert_eq!(client.write(handle, 0, b"x"), Ok(1));
    assert_eq!(client.names(ROOT, true).unwrap(), ["from", "to"]);
}

#[test]
fn attributes_of_users_are_shown_others_are_not() {
    let (folder, client) = share();
    let (node, _) = client.create(ROOT, "a", libc::O_RDWR).unwrap();
    let set = |client: &Client, name, value: &str| {
        let size = u32::try_from(value.len()).unwrap();
        let with = arguments().u32(size).u32(0).text(name).bytes(value.as_bytes());
        client.call(Opcode::SetXattr, node, with)
    };
    let get = |client: &Client, name, room| {
        client.call(Opcode::GetXattr, node, arguments().u32(room).u32(0).text(name))
    };
    match set(&client, "user.x", "value") {
        // A file system without.
        Err(libc::EOPNOTSUPP) => return,
        result => assert_eq!(result, Ok(vec![])),
    }
    assert_eq!(get(&client, "user.x", 0).map(|out| u32_at(&out, 0)), Ok(5));
    assert_eq!(get(&client, "user.x", 4), Err(libc::ERANGE));
    assert_eq!(get(&client, "user.x", 5), Ok(b"value".to_vec()));
    assert_eq!(get(&client, "user.y", 5), Err(libc::ENODATA));
    for name in ["security.capability", "trusted.x", "system.posix_acl_access"] {
        assert_eq!(get(&client, name, 5), Err(libc::EOPNOTSUPP));
        assert_eq!(set(&client, name, "1"), Err(libc::EOPNOTSUPP));
    }
    let list =
        |client: &Client, node| client.call(Opcode::ListXattr, node, arguments().u32(1000).u32(0));
    if is_root() {
        let all = FsOptions { xattrs: Xattrs::All, ..writable(folder.path()) };
        let all = Client::new(all);
        let same = all.lookup(ROOT, "a").unwrap();
        assert_eq!(same, node);
        set(&all, "trusted.x", "1").unwrap();
        assert_eq!(list(&all, same).unwrap().iter().filter(|byte| **byte == 0).count(), 2);
    }
    assert_eq!(list(&client, node), Ok(b"user.x\0".to_vec()));
    client.call(Opcode::RemoveXattr, node, arguments().text("user.x")).unwrap();
    assert_eq!(get(&client, "user.x", 5), Err(libc::ENODATA));
}

#[test]
fn a_share_that_is_read_only_answers_every_change_with_erofs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "a").unwrap();
    let client = Client::new(FsOptions::new(folder.path()));
    let node = client.lookup(ROOT, "a").unwrap();
    for opcode in Opcode::ALL.iter().filter(|opcode| opcode.changes()) {
        let answer = client.call(*opcode, node, arguments().bytes(&[0; 200]));
        assert_eq!(answer, Err(libc::EROFS), "{opcode:?}");
    }
    for flags in [libc::O_RDWR, libc::O_WRONLY, libc::O_TRUNC] {
        assert_eq!(client.open(node, flags), Err(libc::EROFS));
    }
    let handle = client.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(client.read(handle, 0, 9), Ok(b"a".to_vec()));
    assert_eq!(client.call(Opcode::Access, node, arguments().u32(2).u32(0)), Err(libc::EROFS));
    assert_eq!(client.call(Opcode::Access, node, arguments().u32(4).u32(0)), Ok(vec![]));
    let statfs = client.call(Opcode::StatFs, ROOT, arguments()).unwrap();
    assert_eq!((statfs.len(), u32_at(&statfs, 44)), (80, 255));
}

#[test]
fn what_users_of_the_guest_make_is_theirs() {
    if !is_root() {
        return;
    }
    let (folder, mut client) = share();
    // The guest's kernel has checked: the user may write there by a group that is not told.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o770)).unwrap();
    client.who = 1234;
    client.create(ROOT, "file", libc::O_RDWR).unwrap();
    client.make_folder(ROOT, "folder").unwrap();
    for name in ["file", "folder"] {
        let made = fs::metadata(folder.path().join(name)).unwrap();
        assert_eq!((made.uid(), made.gid()), (1234, 1234));
    }
    assert!(rustix::process::geteuid().is_root());
    assert!(client.create(ROOT, "file2", libc::O_RDWR).is_ok());
    // The set-group bit of a folder decides.
    client.who = 0;
    let shared = client.make_folder(ROOT, "shared").unwrap();
    client.set(shared, 1 | 4, 0, 0o2777, 99).unwrap();
    client.who = 1234;
    client.create(shared, "file", libc::O_RDWR).unwrap();
    let made = fs::metadata(folder.path().join("shared/file")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1234, 99));
    // Numbers of a range.
    let range = super::super::IdRange { guest: 0, host: 100_000, count: 2000 };
    let mut options = writable(folder.path());
    options.ids = Ids::Range(range);
    let mut mapped = Client::new(options);
    mapped.who = 5;
    let (node, _) = mapped.create(ROOT, "mapped", libc::O_RDWR).unwrap();
    assert_eq!(u32_at(&mapped.attributes(node).unwrap(), 68), 5);
    assert_eq!(fs::metadata(folder.path().join("mapped")).unwrap().uid(), 100_005);
    mapped.who = 3000;
    assert_eq!(mapped.make_folder(ROOT, "none"), Err(libc::EOVERFLOW));
    // Where numbers are squashed, all is this process'.
    let squash = Client::new(FsOptions { ids: Ids::Squash, ..writable(folder.path()) });
    let node = squash.lookup(ROOT, "file").unwrap();
    assert_eq!(u32_at(&squash.attributes(node).unwrap(), 68), 65534);
    let (node, _) = squash.create(ROOT, "mine", libc::O_RDWR).unwrap();
    assert_eq!(u32_at(&squash.attributes(node).unwrap(), 68), 0);
    assert_eq!(squash.set(node, 2, 0, 0, 5), Err(libc::EPERM));
}

#[test]
fn a_guest_may_rely_on_names_for_as_long_as_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    symlink("x", folder.path().join("a")).unwrap();
    for (caching, seconds) in
        [(Caching::Never, 0), (Caching::Auto, 1), (Caching::Always, 24 * 60 * 60)]
    {
        let client = Client::new(FsOptions { caching, ..FsOptions::new(folder.path()) });
        let entry = client.call(Opcode::Lookup, ROOT, arguments().text("a")).unwrap();
        assert_eq!((u64_at(&entry, 16), u64_at(&entry, 24)), (seconds, seconds));
        assert_eq!(entry.len(), 128);
    }
}
