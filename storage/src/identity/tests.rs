//! Parents on block devices, by loop devices where they can be made.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DeviceState, Fingerprint, Identity, kernel};
use crate::chain::ChainError;
use crate::disk::{Disk, DiskOptions};
use crate::error::DiskError;
use crate::format::Format;
use crate::link::ParentLink;
use crate::testkit::{self, Loop, Mount, Partition};
use crate::tools::{
    self, Commit, Create, DiskName, Linkage, Relink, Relinked, ToolError, Unwatched,
};

const LEN: u64 = 8 << 20;

/// A child of a device, in a folder of its own.
struct Child {
    path: PathBuf,
    parent: PathBuf,
    _folder: tempfile::TempDir,
}

impl Child {
    fn of(parent: &Path) -> Child {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("child.layer");
        create(&path, parent).unwrap();
        let child = Child { path, parent: parent.to_owned(), _folder: folder };
        child.opens();
        child
    }

    fn open(&self) -> Result<(), DiskError> {
        Disk::open(&self.path, &testkit::WRITABLE).map(drop)
    }

    fn opens(&self) {
        // Neither opening it nor looking at it is a change, however often.
        self.open().unwrap();
        let layers = tools::info(&self.path, None).unwrap().layers;
        assert!(matches!(layers[0].linkage, Linkage::Ok), "{:?}", layers[0]);
        self.open().unwrap();
    }

    /// That the change is noticed, and told in these words; then takes the parent as it is now.
    #[track_caller]
    fn tells(&self, what: &str) {
        let error = self.open().unwrap_err();
        assert!(matches!(error, DiskError::Chain(ChainError::Mismatch { .. })), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        let help = error.help().unwrap();
        for way in ["relink", "--allow-mismatch"] {
            assert!(help.contains(way), "{help}");
        }
        let insist = DiskOptions { allow_mismatch: true, ..testkit::WRITABLE };
        drop(Disk::open(&self.path, &insist).unwrap());
        let how = self.relink(true).unwrap();
        assert!(matches!(how, Relinked::ByForce | Relinked::ByDigest), "{how:?}");
        self.opens();
    }

    fn relink(&self, force: bool) -> Result<Relinked, ToolError> {
        let parent = name(&self.parent);
        let order = Relink { child: self.path.clone(), format: None, parent, force };
        tools::relink(&order, &Unwatched)
    }
}

fn name(path: &Path) -> DiskName {
    DiskName { path: path.to_owned(), format: Some(Format::Raw), allow_mismatch: false }
}

fn create(path: &Path, parent: &Path) -> Result<tools::Created, ToolError> {
    let order = Create {
        path: path.to_owned(),
        format: None,
        size: None,
        parent: Some(name(parent)),
        fixed: false,
        protect: false,
        digest: true,
    };
    tools::create(&order, &Unwatched)
}

fn device(path: &Path) -> DeviceState {
    match Identity::of(&File::open(path).unwrap()).unwrap() {
        Identity::Device(device) => device,
        other => panic!("{other}"),
    }
}

fn write(path: &Path, at: u64) -> File {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[7; 4096], at).unwrap();
    file
}

fn runs(command: &str, args: &[&str], device: &Path) -> bool {
    let output = Command::new(command).args(args).arg(device).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn what_is_written_to_a_device_is_noticed() {
    let Some(device) = Loop::new(LEN, 512) else { return };
    let child = Child::of(&device.0);
    write(&device.0, 0);
    child.tells("8 sectors of loop");
    // Still in the page cache, where the kernel has not counted it yet.
    let _open = write(&device.0, 8192);
    child.tells("8 sectors of loop");
    if runs("blkdiscard", &["--offset=0", "--length=4096"], &device.0) {
        child.tells("were discarded");
    }
}

#[test]
fn another_node_of_the_device_makes_no_difference() {
    let Some(device) = Loop::new(LEN, 512) else { return };
    let child = Child::of(&device.0);
    let folder = tempfile::tempdir().unwrap();
    let node = folder.path().join("node");
    let number = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(&device.0).unwrap());
    let (major, minor) = (libc::major(number).to_string(), libc::minor(number).to_string());
    let args = [node.to_str().unwrap(), "b", &major, &minor];
    let _ = Command::new("mknod").args(args).output();
    match File::options().write(true).open(&node) {
        Err(error) => return println!("skipped: no devices outside of /dev: {error}"),
        Ok(file) => file.write_all_at(&[1; 512], 0).unwrap(),
    }
    child.tells("sectors of loop");
    // The times of a node tell nothing of the device.
    File::open(&device.0).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    child.opens();
}

#[test]
fn a_change_of_the_file_behind_a_loop_device_is_noticed() {
    let Some(device) = Loop::new(LEN, 512) else { return };
    let child = Child::of(&device.0);
    write(device.file(), 4096);
    child.tells("behind it was changed or replaced");
    // Without its name, the file might be written to, and nobody would know.
    fs::remove_file(device.file()).unwrap();
    let error = child.open().unwrap_err();
    assert!(matches!(error, DiskError::Chain(ChainError::Untold { .. })), "{error}");
    assert!(error.to_string().contains("is not to be found at"), "{error}");
    assert!(error.help().unwrap().contains("copy"));
    // Not even a digest can tell what will be there later.
    let checked = tools::check(&child.path, None, false, true, &Unwatched).unwrap();
    assert_eq!((checked.layers[0].renewed, checked.status()), (false, 40));
    let insist = DiskOptions { allow_mismatch: true, ..testkit::WRITABLE };
    drop(Disk::open(&child.path, &insist).unwrap());
}

#[test]
fn a_partition_changes_with_its_disk_and_a_disk_with_its_partitions() {
    let Some(device) = Loop::new(LEN, 512) else { return };
    let Some(part) = Partition::new(&device.0, 1 << 20) else { return };
    let part = &part.0;
    let (disk, child) = (Child::of(&device.0), Child::of(part));
    let _open = write(&device.0, 1 << 20);
    child.tells("8 sectors of the disk of loop");
    disk.tells("8 sectors of loop");
    let _open = write(part, 4096);
    disk.tells("8 sectors of loop");
    child.tells("8 sectors of the disk of loop");
    write(device.file(), 0);
    child.tells("behind it was changed or replaced");
    // Whoever mounts the one has the other.
    let Some(mount) = Mount::new(part) else { return };
    for child in [child, disk] {
        let error = child.open().unwrap_err();
        assert!(matches!(error, DiskError::Chain(ChainError::ParentClaimed { .. })), "{error}");
        assert!(error.to_string().contains(mount.path().to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_parent_that_is_mounted_is_in_use_unless_nobody_can_write_to_it() {
    let Some(device) = Loop::new(LEN, 512) else { return };
    let Some(mount) = Mount::new(&device.0) else { return };
    mount.freeze();
    let child = Child::of(&device.0);
    let thaw = || {
        let mut mount_again = Command::new("mount");
        mount_again.args(["-o", "remount,rw"]).arg(mount.path()).status().unwrap().success()
    };
    assert!(thaw());
    let refused = |error: &DiskError| match error {
        DiskError::Chain(error @ ChainError::ParentClaimed { .. }) => {
            assert_eq!(error.status(), 45);
            assert!(error.to_string().contains(mount.path().to_str().unwrap()), "{error}");
            assert!(error.help().contains("unmount"));
        }
        error => panic!("{error}"),
    };
    refused(&child.open().unwrap_err());
    match create(&child.path.with_file_name("other.layer"), &device.0) {
        Err(ToolError::Disk(error)) => refused(&error),
        other => panic!("{other:?}"),
    }
    fs::write(mount.path().join("file"), [3; 100]).unwrap();
    drop(mount);
    child.tells("were written");
}

#[test]
fn a_loop_device_over_another_changes_with_it() {
    let Some(below) = Loop::new(LEN, 512) else { return };
    let above = Loop::over(&below.0).unwrap();
    let above = &above.0;
    let state = device(above);
    assert_eq!((state.devices.len(), state.files.len()), (2, 1), "{state:?}");
    let child = Child::of(above);
    let _open = write(&below.0, 0);
    child.tells("8 sectors of loop");
    write(above, 0);
    child.tells("8 sectors of loop");
}

#[test]
fn a_digest_dispels_false_alarms() {
    let Some(device) = Loop::new(LEN, 512) else { return };
    let child = Child::of(&device.0);
    let contents = fs::read(&device.0).unwrap();
    fs::write(&device.0, &contents).unwrap();
    let help = child.open().unwrap_err().help().unwrap();
    for way in ["check --digest", "or a restart of the host"] {
        assert!(help.contains(way), "{help}");
    }
    let checked = tools::check(&child.path, None, false, true, &Unwatched).unwrap();
    assert!(checked.layers[0].renewed);
    child.opens();
    fs::write(&device.0, &contents).unwrap();
    assert_eq!(child.relink(false).unwrap(), Relinked::ByDigest);
    child.opens();
    write(&device.0, 0);
    assert!(!tools::check(&child.path, None, false, true, &Unwatched).unwrap().layers[0].renewed);
    assert!(matches!(child.relink(false), Err(ToolError::Unverified { .. })));
    child.tells("sectors of loop");
}

#[test]
fn cohorts_own_changes_are_others_to_other_children() {
    let Some(device) = Loop::new(LEN, 512) else { return };
    let (child, other) = (Child::of(&device.0), Child::of(&device.0));
    let mut queue = Disk::open(&child.path, &testkit::WRITABLE).unwrap().queue(1).unwrap();
    testkit::write(&mut queue, 512, &[9; 1024]).unwrap();
    testkit::flush(&mut queue).unwrap();
    drop(queue);
    let name = DiskName { path: child.path.clone(), format: None, allow_mismatch: false };
    let order = Commit { child: name, force: false, folders: Vec::new(), delete: false };
    tools::commit(&order, &Unwatched).unwrap();
    child.opens();
    other.tells("sectors of loop");
    // As a disk of its own.
    let mut queue = Disk::open(&device.0, &testkit::WRITABLE).unwrap().queue(1).unwrap();
    testkit::write(&mut queue, 0, &[5; 512]).unwrap();
    drop(queue);
    child.tells("sectors of loop");
}

/// What earlier versions recorded, and what this one cannot know, hold against nothing.
#[test]
fn records_that_do_not_tell_are_mismatches() {
    let Some(loop_) = Loop::new(LEN, 512) else { return };
    let child = Child::of(&loop_.0);
    let now = device(&loop_.0);
    let old = Identity::File(Fingerprint::of(&fs::metadata(&loop_.0).unwrap()));
    let rebooted = DeviceState { boot: uuid::Uuid::new_v4(), ..now.clone() };
    let lost = File::open(&loop_.0).unwrap();
    let nowhere = tempfile::tempdir().unwrap();
    let number = std::os::unix::fs::MetadataExt::rdev(&lost.metadata().unwrap());
    let untold = || kernel::state_in(nowhere.path(), &lost, number).unwrap();
    assert_ne!(untold(), untold());
    let mut resized = now.clone();
    resized.devices[0].size /= 2;
    // (Attached anew for real, the device might be another test's.)
    let mut attached = now.clone();
    attached.devices[0].sequence -= 1;
    for (recorded, what) in [
        (old, "by the times of its node"),
        (Identity::Device(rebooted), "the host was restarted"),
        (Identity::Device(untold()), "nothing told whether it changes"),
        (Identity::Device(resized), "shows another part"),
        (Identity::Device(attached), "was attached anew"),
    ] {
        let disk = Disk::open(&child.path, &testkit::WRITABLE).unwrap();
        let top = testkit::top(&disk);
        let link = top.info().parent.clone().unwrap();
        let link = ParentLink { identity: Some(recorded), ..link };
        assert_eq!(ParentLink::from_json(&link.to_json().unwrap()).unwrap(), link);
        top.set_parent(&link).unwrap();
        drop(disk);
        child.tells(what);
    }
    assert!(Identity::Device(untold()).untold().unwrap().contains("does not tell enough"));
}
