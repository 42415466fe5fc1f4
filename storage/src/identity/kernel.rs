//! Asks the kernel for the state of a block device, by way of sysfs.
//!
//! Whatever it does not say, or is not known to count, makes the state one of which nothing can
//! tell whether it changes: rather an alarm too many than a change that nobody notices.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use uuid::Uuid;

use super::{DeviceCounts, DeviceState, Fingerprint, LoopWindow, Untold};
use crate::engine::sys;
use crate::units::SECTOR;

/// Where the kernel shows its devices.
const SYS: &str = "/sys";

/// Most devices that one may be and rest on: records of them must fit the formats.
const DEVICES_MAX: usize = 24;

/// Times that writes under way are waited for, and how long. Of a process that was killed, some may
/// end after it.
const PATIENCE: (u32, Duration) = (10, Duration::from_millis(10));

/// Fields of `stat` (Documentation/block/stat.rst).
const STAT_READ: usize = 2;
const STAT_WRITTEN: usize = 6;
const STAT_DISCARDED: usize = 13;

/// The state of the open block device with this number (`st_rdev`).
pub(super) fn state(device: &File, number: u64) -> io::Result<DeviceState> {
    state_in(Path::new(SYS), device, number)
}

pub(super) fn state_in(sys: &Path, device: &File, number: u64) -> io::Result<DeviceState> {
    let mut walk = Walk { sys: sys.to_owned(), nodes: Vec::new(), files: Vec::new(), untold: None };
    device.sync_data()?;
    let known = Node::find(sys, &text(number));
    walk.add(&text(number), known, Some(device))?;
    // Counted only now: writing back what one device holds writes to those below it.
    let mut devices = Vec::new();
    for node in &walk.nodes {
        match node.counts() {
            Ok(counts) => devices.push(counts),
            Err(why) => {
                walk.untold.get_or_insert(why);
            }
        }
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let boot = boot.ok().and_then(|text| text.trim().parse().ok());
    if boot.is_none() {
        walk.untold.get_or_insert("the kernel does not tell one run from another".to_owned());
    }
    let mut files = Vec::new();
    for file in &walk.files {
        match file.fingerprint() {
            Ok(found) => files.push(found),
            Err(why) => {
                walk.untold.get_or_insert(why);
            }
        }
    }
    let boot = boot.unwrap_or_else(Uuid::nil);
    Ok(DeviceState { boot, devices, files, untold: walk.untold.map(Untold::new) })
}

/// The numbers of the devices that share bytes with this one: of a disk, it and its partitions; of a
/// partition, it and its disk.
pub(crate) fn sharing(number: u64) -> Vec<String> {
    match Node::find(Path::new(SYS), &text(number)) {
        Some(node) => node.sharing().map(|(number, _)| number).collect(),
        None => vec![text(number)],
    }
}

/// What the kernel has made of the device and claims it for: mapped devices and arrays.
pub(crate) fn holders(number: u64) -> Vec<OsString> {
    let node = Node::find(Path::new(SYS), &text(number));
    node.map_or_else(Vec::new, |node| {
        let folders = node.sharing().map(|(_, folder)| folder.join("holders"));
        folders.flat_map(|folder| names(&folder)).collect()
    })
}

/// A device's number as sysfs has it.
pub(crate) fn text(number: u64) -> String {
    format!("{}:{}", libc::major(number), libc::minor(number))
}

/// A device in sysfs.
struct Node {
    number: String,
    /// Its folder.
    folder: PathBuf,
    /// Its disk's, which is the same if it is no partition.
    disk: PathBuf,
    /// What a loop device shows of its file.
    window: Option<LoopWindow>,
}

impl Node {
    fn find(sys: &Path, number: &str) -> Option<Node> {
        let folder = fs::canonicalize(sys.join("dev/block").join(number)).ok()?;
        let disk = match folder.join("partition").exists() {
            true => folder.parent()?.to_owned(),
            false => folder.clone(),
        };
        Some(Node { number: number.to_owned(), folder, disk, window: None })
    }

    fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Number and folder of its disk and of that one's partitions.
    fn on_disk(&self) -> impl Iterator<Item = (String, PathBuf)> {
        let folders = names(&self.disk).into_iter().map(|name| self.disk.join(name));
        let partitions = folders.filter(|folder| folder.join("partition").exists());
        let all = std::iter::once(self.disk.clone()).chain(partitions);
        all.filter_map(|folder| Some((line(&folder.join("dev"))?, folder)))
    }

    /// The same of those that share bytes with it.
    fn sharing(&self) -> impl Iterator<Item = (String, PathBuf)> {
        let apart = |folder: &PathBuf| *folder != self.folder && *folder != self.disk;
        let is_part = self.folder != self.disk;
        self.on_disk().filter(move |(_, folder)| !(is_part && apart(folder)))
    }

    /// Writes back what the page caches of the disk and of its partitions hold: each node has its
    /// own, and nothing of them is counted before.
    fn sync(&self) -> io::Result<()> {
        for (number, folder) in self.on_disk() {
            match open(&number, &folder) {
                Some(device) => device.sync_data()?,
                // Not ours to open, or not in this /dev. This call asks for no permission.
                None => sys::sync_all(),
            }
        }
        Ok(())
    }

    /// What the kernel has counted, or why that tells nothing.
    fn counts(&self) -> Result<DeviceCounts, String> {
        let (name, disk) = (self.name(), &self.disk);
        let disk_name = disk.file_name().unwrap_or_default().to_string_lossy();
        let is = |setting: &str, value: &str| line(&disk.join(setting)).as_deref() == Some(value);
        if !is("queue/iostats", "1") {
            return Err(format!("the kernel is not set to count what is written to {disk_name}"));
        }
        if is("queue/dax", "1") {
            return Err(format!("{disk_name} is memory that can be written without the kernel"));
        }
        // The kernel itself counts for drivers that have request queues. Others must do so, and some
        // (zram, brd) leave out discards or count nothing at all.
        let counted = ["dm-", "md", "nvme"].iter().any(|kind| disk_name.starts_with(kind));
        let stat = || -> Option<Vec<u64>> {
            let line = line(&disk.join("stat"))?;
            line.split_whitespace().map(|field| field.parse().ok()).collect()
        };
        self.wait_for_writes()?;
        let stat = stat().filter(|stat| stat.len() > STAT_DISCARDED);
        let stat = stat.ok_or_else(|| format!("the kernel shows no counts of {disk_name}"))?;
        // Older kernels count nothing for disks of several paths, not even what they read themselves
        // to find partitions.
        let silent = disk_name.starts_with("nvme") && stat[STAT_READ] == 0;
        if !disk.join("mq").is_dir() && (!counted || silent) {
            return Err(format!("the driver of {disk_name} may not count all that is written"));
        }
        let number = |path: PathBuf| -> Option<u64> { line(&path)?.parse().ok() };
        let told = || {
            let sequence = number(disk.join("diskseq"))?;
            Some((sequence, number(self.folder.join("size"))?.checked_mul(SECTOR)?))
        };
        let (sequence, size) = told().ok_or_else(|| {
            format!(
                "the kernel does not tell one medium of {disk_name} from another (Linux 5.15 does)"
            )
        })?;
        Ok(DeviceCounts {
            name,
            number: self.number.clone(),
            size,
            start: number(self.folder.join("start")),
            sequence,
            written: stat[STAT_WRITTEN],
            discarded: stat[STAT_DISCARDED],
            window: self.window,
        })
    }

    /// What is under way is counted at its end only.
    fn wait_for_writes(&self) -> Result<(), String> {
        for _ in 0..PATIENCE.0 {
            let under_way = line(&self.disk.join("inflight"));
            if under_way.as_deref().and_then(|line| line.split_whitespace().nth(1)) == Some("0") {
                return Ok(());
            }
            thread::sleep(PATIENCE.1);
        }
        Err(format!("writes to the disk of {} are under way", self.name()))
    }
}

/// A file behind a loop device.
struct Behind {
    name: String,
    path: PathBuf,
    status: sys::LoopStatus,
}

impl Behind {
    /// The file's, by a path that may be another's by now, or that of another mount namespace.
    fn fingerprint(&self) -> Result<Fingerprint, String> {
        let facts = fs::metadata(&self.path).ok();
        let facts =
            facts.filter(|it| (it.dev(), it.ino()) == (self.status.device, self.status.inode));
        facts.map(|facts| Fingerprint::of(&facts)).ok_or_else(|| {
            format!("the file behind {} is not to be found at {}", self.name, self.path.display())
        })
    }
}

/// The way down from a device to what it rests on.
struct Walk {
    sys: PathBuf,
    nodes: Vec<Node>,
    files: Vec<Behind>,
    untold: Option<String>,
}

impl Walk {
    /// Adds a device and what it rests on, and writes back what the page cache holds for them.
    fn add(&mut self, number: &str, node: Option<Node>, device: Option<&File>) -> io::Result<()> {
        if self.nodes.iter().any(|node| node.number == number) {
            return Ok(());
        }
        let Some(mut node) = node.filter(|_| self.nodes.len() < DEVICES_MAX) else {
            let (number, sys) = (number.to_owned(), self.sys.display());
            self.untold.get_or_insert(format!("{sys} does not tell enough of device {number}"));
            return Ok(());
        };
        node.sync()?;
        let mut below: Vec<String> = names(&node.disk.join("slaves"))
            .iter()
            .filter_map(|name| line(&node.disk.join("slaves").join(name).join("dev")))
            .collect();
        let file = line(&node.disk.join("loop/backing_file")).map(PathBuf::from);
        if let Some(path) = file {
            let opened = if device.is_none() { open(&node.number, &node.folder) } else { None };
            let status = device.or(opened.as_ref()).map(sys::loop_status).transpose();
            match status.ok().flatten() {
                Some(status) => {
                    node.window = Some(LoopWindow { offset: status.offset, limit: status.limit });
                    match special(&path, status) {
                        Some(number) => below.push(text(number)),
                        None => self.files.push(Behind { name: node.name(), path, status }),
                    }
                }
                None => {
                    let name = node.name();
                    self.untold.get_or_insert(format!("{name} does not say what is behind it"));
                }
            }
        }
        self.nodes.push(node);
        for number in below {
            let node = Node::find(&self.sys, &number);
            self.add(&number, node, None)?;
        }
        Ok(())
    }
}

/// The number of the device behind a loop device, if it is one.
fn special(path: &Path, status: sys::LoopStatus) -> Option<u64> {
    let facts = fs::metadata(path).ok().filter(|facts| facts.file_type().is_block_device())?;
    (facts.ino() == status.inode && facts.dev() == status.device).then_some(facts.rdev())
}

/// Opens a device by the name that the kernel gives it, if it is there.
fn open(number: &str, folder: &Path) -> Option<File> {
    let facts = fs::read_to_string(folder.join("uevent")).ok()?;
    let name = facts.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    let path = Path::new("/dev").join(name);
    let is_it = |facts: io::Result<fs::Metadata>| {
        facts.is_ok_and(|it| it.file_type().is_block_device() && text(it.rdev()) == number)
    };
    if !is_it(fs::metadata(&path)) {
        return None;
    }
    File::open(path).ok().filter(|device| is_it(device.metadata()))
}

/// The first line of a file of sysfs.
fn line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next()?.trim().to_owned())
}

/// The names in a folder of sysfs, in order.
fn names(folder: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    names
}
