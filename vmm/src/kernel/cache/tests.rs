use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;

const KERNEL: &[u8] = b"\x7fELF and so on";

fn cache() -> (TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(&dir.path().join("kernels")).unwrap();
    (dir, cache)
}

fn build(cache: &Cache, digest: &Hash) -> File {
    cache.get_or_build(digest, write_kernel).unwrap()
}

fn write_kernel(out: &mut dyn Write) -> Result<u64, PayloadError> {
    out.write_all(KERNEL).map_err(PayloadError::Write)?;
    Ok(KERNEL.len() as u64)
}

fn must_not_build(_: &mut dyn Write) -> Result<u64, PayloadError> {
    panic!("built again");
}

fn read(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn names(cache: &Cache) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(&cache.dir).unwrap().map(name).collect();
    names.sort();
    names
}

/// Changes a cached kernel with a program that its mode does not stop, such as root's.
fn tamper(cache: &Cache, digest: &Hash, with: &[u8]) {
    let path = cache.dir.join(vmlinux_name(digest));
    let before = Identity::of(&File::open(&path).unwrap()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    // Time stamps advance in steps: until there has been one, the change may leave no mark.
    while Identity::of(&File::open(&path).unwrap()).unwrap() == before {
        fs::write(&path, with).unwrap();
    }
    fs::write(&path, with).unwrap();
}

#[test]
fn a_kernel_is_built_once_and_read_only() {
    let (_dir, cache) = cache();
    let digest = blake3::hash(b"image");
    assert!(cache.get(&digest).is_none());
    let built = build(&cache, &digest);
    assert_eq!(read(&built), KERNEL);
    assert!((&built).write(b"x").is_err());
    assert_eq!(built.metadata().unwrap().mode() & 0o777, 0o400);
    let again = cache.get_or_build(&digest, must_not_build).unwrap();
    assert_eq!(again.metadata().unwrap().ino(), built.metadata().unwrap().ino());
    assert_eq!(names(&cache), [record_name(&digest), vmlinux_name(&digest), "lock".to_owned()]);
}

#[test]
fn a_kernel_that_was_changed_is_built_again() {
    let (_dir, cache) = cache();
    let digest = blake3::hash(b"image");
    for changed in [&b"\x7fELF and so oN"[..], b"", b"much longer than what it was before"] {
        build(&cache, &digest);
        tamper(&cache, &digest, changed);
        assert!(cache.get(&digest).is_none());
        assert_eq!(read(&build(&cache, &digest)), KERNEL);
        assert!(cache.get(&digest).is_some());
    }
}

#[test]
fn a_kernel_that_was_touched_but_not_changed_is_trusted_again() {
    let (_dir, cache) = cache();
    let digest = blake3::hash(b"image");
    build(&cache, &digest);
    tamper(&cache, &digest, KERNEL);
    assert!(cache.get(&digest).is_none());
    let again = cache.get_or_build(&digest, must_not_build).unwrap();
    assert_eq!(read(&again), KERNEL);
    assert!(cache.get(&digest).is_some());
}

#[test]
fn a_symbolic_link_in_place_of_a_kernel_is_not_followed() {
    let (dir, cache) = cache();
    let digest = blake3::hash(b"image");
    build(&cache, &digest);
    let path = cache.dir.join(vmlinux_name(&digest));
    fs::rename(&path, dir.path().join("moved")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("moved"), &path).unwrap();
    assert!(cache.get(&digest).is_none());
    assert!(build(&cache, &digest).metadata().unwrap().is_file());
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
}

#[test]
fn damaged_notes_cost_a_build_and_nothing_else() {
    let (_dir, cache) = cache();
    let digest = blake3::hash(b"image");
    for damaged in ["", "{", "{}", "null", "\0\0\0\0"] {
        build(&cache, &digest);
        fs::write(cache.dir.join(record_name(&digest)), damaged).unwrap();
        assert!(cache.get(&digest).is_none());
        assert_eq!(read(&build(&cache, &digest)), KERNEL);
    }
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let (_dir, cache) = cache();
    let digest = blake3::hash(b"image");
    let result = cache.get_or_build(&digest, |out| {
        out.write_all(b"half").unwrap();
        Err(PayloadError::TooLarge { format: "test", stated: 1 })
    });
    assert!(matches!(result, Err(PayloadError::TooLarge { .. })));
    assert_eq!(names(&cache), ["lock"]);
}

#[test]
fn threads_that_start_at_once_build_once() {
    let (_dir, cache) = cache();
    let digest = blake3::hash(b"image");
    let builds = AtomicUsize::new(0);
    let inodes: Vec<u64> = std::thread::scope(|scope| {
        let start = || {
            let built = cache.get_or_build(&digest, |out| {
                builds.fetch_add(1, Ordering::Relaxed);
                write_kernel(out)
            });
            built.unwrap().metadata().unwrap().ino()
        };
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(builds.into_inner(), 1);
    assert!(inodes.iter().all(|inode| *inode == inodes[0]));
}

const CHILD_DIR: &str = "COHORT_TEST_CACHE_DIR";

/// The other process of the test below; not a test by itself.
#[test]
#[ignore = "run by processes_that_start_at_once_build_once"]
fn child() {
    let dir = PathBuf::from(std::env::var_os(CHILD_DIR).expect("run by its parent"));
    let cache = Cache::at(&dir.join("kernels")).unwrap();
    let built = cache.get_or_build(&blake3::hash(b"image"), |out| {
        let mut log = OpenOptions::new().append(true).create(true).open(dir.join("log")).unwrap();
        log.write_all(b"built\n").unwrap();
        write_kernel(out)
    });
    assert_eq!(read(&built.unwrap()), KERNEL);
}

#[test]
fn processes_that_start_at_once_build_once() {
    let dir = tempfile::tempdir().unwrap();
    let start = |_| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "kernel::cache::tests::child", "--ignored"]);
        command.env(CHILD_DIR, dir.path()).stdout(Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(start).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "built\n");
}

#[test]
fn the_oldest_kernels_are_removed_and_stay_usable_where_in_use() {
    let (_dir, cache) = cache();
    let digests: Vec<Hash> = (0..KERNELS_MAX + 3).map(|n| blake3::hash(&n.to_le_bytes())).collect();
    let files: Vec<File> = digests.iter().map(|digest| build(&cache, digest)).collect();
    let kept = digests.iter().filter(|digest| cache.get(digest).is_some()).count();
    assert_eq!(kept, KERNELS_MAX);
    assert!(cache.get(&digests[KERNELS_MAX + 2]).is_some());
    assert!(files.iter().all(|file| read(file) == KERNEL));
    assert_eq!(names(&cache).len(), 2 * KERNELS_MAX + 1);
}

#[test]
fn the_bytes_and_notes_that_are_kept_are_bounded() {
    let (_dir, cache) = cache();
    let large = cache.dir.join("0000.vmlinux");
    File::create(&large).unwrap().set_len(BYTES_MAX).unwrap();
    for n in 0..IMAGES_MAX + 5 {
        fs::write(cache.dir.join(format!("image-{n}-1.json")), "{}").unwrap();
    }
    let digest = blake3::hash(b"image");
    build(&cache, &digest);
    assert!(!large.exists());
    assert!(cache.get(&digest).is_some());
    let images = names(&cache).iter().filter(|name| name.starts_with("image-")).count();
    assert_eq!(images, IMAGES_MAX);
}

#[test]
fn an_image_is_remembered_until_it_changes() {
    let (dir, cache) = cache();
    let path = dir.path().join("vmlinuz");
    fs::write(&path, "image").unwrap();
    let digest = blake3::hash(b"image");
    let file = File::open(&path).unwrap();
    while !Identity::of(&file).unwrap().settled() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let identity = Identity::of(&file).unwrap();
    assert_eq!(cache.digest_of(&identity), None);
    cache.remember(&identity, &digest);
    assert_eq!(cache.digest_of(&identity), Some(digest));
    fs::write(&path, "IMAGE").unwrap();
    let changed = Identity::of(&file).unwrap();
    assert_eq!(cache.digest_of(&changed), None);
    // What changed just now may change again and look the same.
    cache.remember(&changed, &blake3::hash(b"IMAGE"));
    assert_eq!(cache.digest_of(&changed), None);
}

#[test]
fn a_folder_that_others_can_write_to_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(Cache::at(dir.path()).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert!(Cache::at(&dir.path().join("file/below")).is_ok());
}
