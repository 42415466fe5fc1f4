//! Opening and locking disks, and what a request is checked for.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use cohort_tests::oracles::Qemu;

use super::*;
use crate::{AlignedBuffer, Buffers, DiskRange, testkit};

const WRITABLE: DiskOptions = DiskOptions { engine: EngineChoice::Auto, ..testkit::WRITABLE };
const READ_ONLY: DiskOptions = DiskOptions { read_only: true, ..WRITABLE };

/// A folder with a file of this size in it.
fn image(size: u64) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    File::create(&path).unwrap().set_len(size).unwrap();
    (folder, path)
}

/// The error of opening `path`, which must name it and mostly say what to do.
fn refused(path: &Path, options: &DiskOptions) -> DiskError {
    let error = Disk::open(path, options).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(error.help().is_some(), "{error}");
    error
}

#[test]
fn what_is_no_disk_is_named_for_what_it_is() {
    let (folder, path) = image(4096);
    let missing = refused(&folder.path().join("other"), &WRITABLE);
    assert!(matches!(missing, DiskError::Missing { .. }));
    assert!(matches!(refused(&path.join("below"), &WRITABLE), DiskError::Missing { .. }));
    let directory = refused(folder.path(), &READ_ONLY);
    assert!(matches!(directory, DiskError::NotADisk { kind: "directory", .. }));
    let null = refused(Path::new("/dev/null"), &WRITABLE);
    assert!(matches!(null, DiskError::NotADisk { kind: "character device", .. }));
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert!(matches!(refused(&socket, &WRITABLE), DiskError::NotADisk { kind: "socket", .. }));
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(refused(&pipe, &READ_ONLY), DiskError::NotADisk { kind: "pipe", .. }));
}

#[test]
fn sizes_that_no_guest_could_use_are_refused() {
    let (_folder, path) = image(1000);
    let error = refused(&path, &WRITABLE);
    assert!(matches!(error, DiskError::Size { size: 1000, unit: 512, .. }), "{error:?}");
    assert!(error.help().unwrap().contains("24 bytes"));
    let (_folder, path) = image(0);
    assert!(matches!(refused(&path, &WRITABLE), DiskError::Empty { .. }));
}

#[test]
fn a_file_without_permission_is_refused() {
    let (_folder, path) = image(4096);
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o400);
    fs::set_permissions(&path, permissions).unwrap();
    match Disk::open(&path, &WRITABLE) {
        Err(error) => {
            assert!(matches!(error, DiskError::Permission { wanted: "reading and writing", .. }));
            assert!(error.help().unwrap().contains("read-only"));
        }
        Ok(_) => println!("skipped: this user may open everything"),
    }
    assert!(Disk::open(&path, &READ_ONLY).is_ok());
}

#[test]
fn a_disk_says_what_it_is() {
    let (_folder, path) = image(1 << 20);
    let disk = Disk::open(&path, &WRITABLE).unwrap();
    assert_eq!((disk.size(), disk.read_only()), (Bytes::new(1 << 20), false));
    assert_eq!(disk.logical_block_size(), 512);
    assert_eq!(disk.limits().max_segments, 1);
    let options = DiskOptions { engine: EngineChoice::Positional, ..WRITABLE };
    let scratch = Disk::scratch(Bytes::new(512), &options).unwrap();
    assert_eq!(scratch.engine_name(), "positional");
    assert!(scratch.queue(1).unwrap().ready_fd().is_none());
    assert!(Disk::scratch(Bytes::new(513), &WRITABLE).is_err());
}

#[test]
fn requests_are_checked_before_anything_else() {
    let (_folder, path) = image(1 << 20);
    let ask = |options: &DiskOptions, operation, start, len, bytes| {
        let disk = Disk::open(&path, options).unwrap();
        let buffers = match bytes {
            0 => Buffers::none(),
            bytes => Buffers::whole(&Arc::new(AlignedBuffer::new(bytes))),
        };
        let range = DiskRange::new(start, len).unwrap();
        let request = DiskRequest { operation, range, buffers };
        disk.queue(1).unwrap().submit(0, request).expect("refused at once").unwrap_err()
    };
    use Operation::{Discard, Flush, Read, Write, WriteZeroes};
    let end = 1 << 20;
    let out_of_range = |error| assert!(matches!(error, IoError::OutOfRange { .. }), "{error:?}");
    out_of_range(ask(&WRITABLE, Read, end, 512, 512));
    out_of_range(ask(&WRITABLE, Write, end - 512, 1024, 1024));
    out_of_range(ask(&WRITABLE, Discard, 0, end + 512, 0));
    out_of_range(ask(&WRITABLE, Read, i64::MAX as u64, 0, 0));
    let error = ask(&WRITABLE, Read, 256, 512, 512);
    assert!(matches!(error, IoError::Misaligned { unit: 512, .. }));
    let error = ask(&WRITABLE, Write, 0, 512, 1024);
    assert!(matches!(error, IoError::BufferLength { buffers: 1024, range: 512 }));
    let error = ask(&WRITABLE, Flush, 0, 512, 0);
    assert!(matches!(error, IoError::TooLong { limit: 0, .. }));
    for operation in [Write, Discard, WriteZeroes { unmap: false }] {
        let error = ask(&READ_ONLY, operation, 0, 512, 512);
        assert!(matches!(error, IoError::ReadOnly { .. }), "{error:?}");
    }
}

#[test]
fn a_writer_has_the_disk_for_itself_and_readers_share_it() {
    let (_folder, path) = image(1 << 20);
    let writer = Disk::open(&path, &WRITABLE).unwrap();
    for options in [WRITABLE, READ_ONLY] {
        let error = refused(&path, &options);
        let DiskError::Locked { holder: Some(holder), .. } = &error else { panic!("{error:?}") };
        assert_eq!(holder.pid, std::process::id());
    }
    let queue = writer.queue(4).unwrap();
    drop(writer);
    assert!(matches!(refused(&path, &READ_ONLY), DiskError::Locked { .. }), "still in use");
    drop(queue);
    let _reader = Disk::open(&path, &READ_ONLY).unwrap();
    let _another = Disk::open(&path, &READ_ONLY).unwrap();
    let error = refused(&path, &WRITABLE);
    assert!(error.to_string().contains("lets nobody else write"), "{error}");
}

/// Whether qemu-io, of this version, did this to the image.
fn qemu_io(qemu: &Qemu, arguments: &[&str], path: &Path) -> bool {
    let all = [&["-f", "raw"], arguments, &[path.to_str().unwrap()]].concat();
    let (good, text) = qemu.run("qemu-io", &all);
    assert!(good || text.contains(" lock"), "{text}");
    good
}

#[test]
fn qemu_keeps_out_of_a_disk_that_cohort_uses() {
    let (write, read) = (["-c", "write 0 512"], ["-r", "-c", "read 0 512"]);
    for qemu in Qemu::all() {
        let (_folder, path) = image(1 << 20);
        let disk = Disk::open(&path, &WRITABLE).unwrap();
        assert!(!qemu_io(&qemu, &write, &path));
        // Read-only, qemu-io and qemu-img bear a writer: that is theirs to decide.
        drop(disk);
        assert!(qemu_io(&qemu, &write, &path));

        let disk = Disk::open(&path, &READ_ONLY).unwrap();
        assert!(!qemu_io(&qemu, &write, &path));
        assert!(qemu_io(&qemu, &read, &path));
        qemu.img(&["info", "-f", "raw", path.to_str().unwrap()]);
        drop(disk);
    }
}

/// Ends a process with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn cohort_keeps_out_of_a_disk_that_qemu_uses() {
    use std::io::{BufRead, BufReader, Write};

    let (_folder, path) = image(1 << 20);
    let spawned = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut qemu = match spawned {
        Ok(child) => Ended(child),
        Err(error) => return println!("skipped: qemu-io: {error}"),
    };
    // It answers once it has the image open.
    qemu.0.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
    let mut line = String::new();
    BufReader::new(qemu.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();

    for options in [WRITABLE, READ_ONLY] {
        let error = refused(&path, &options);
        let DiskError::Locked { holder: Some(holder), .. } = &error else { panic!("{error:?}") };
        assert_eq!((holder.pid, &*holder.command), (qemu.0.id(), "qemu-io"));
        assert!(error.help().unwrap().contains(&holder.pid.to_string()));
    }
    drop(qemu);
    assert!(Disk::open(&path, &WRITABLE).is_ok());
}

#[test]
fn direct_disks_want_whole_blocks_or_say_that_they_cannot_be() {
    let direct = DiskOptions { direct: true, ..WRITABLE };
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = folder.path().join("disk");
    File::create(&path).unwrap().set_len(8192).unwrap();
    match Disk::open(&path, &direct) {
        Ok(disk) => {
            let block = disk.logical_block_size();
            assert!(block.is_power_of_two() && block >= 512);
        }
        Err(error) => assert!(matches!(error, DiskError::NoDirect { .. }), "{error:?}"),
    }
    // Payload and tables would share pages.
    let path = folder.path().join("disk.qcow2");
    let small = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path.to_str().unwrap()];
    Qemu::installed().img(&[&small[..], &["1M"]].concat());
    let error = refused(&path, &DiskOptions { format: Some(Format::Qcow2), ..direct });
    assert!(matches!(error, DiskError::SmallClusters { cluster: 512, .. }), "{error:?}");
    // Never direct: a file of the kernel's.
    let error = refused(Path::new("/proc/version"), &DiskOptions { read_only: true, ..direct });
    assert!(matches!(error, DiskError::NoDirect { .. }), "{error:?}");
}

#[test]
fn guests_that_read_leave_access_times_alone() {
    let (_folder, path) = image(4096);
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    File::open(&path).unwrap().set_times(fs::FileTimes::new().set_accessed(long_ago)).unwrap();
    let disk = Disk::open(&path, &READ_ONLY).unwrap();
    testkit::read(&mut disk.queue(1).unwrap(), 0, 4096).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().accessed().unwrap(), long_ago);
}
