//! Whether someone uses a parent on a block device so that it may change while its child is open.
//!
//! The locks of `lock.rs` are advisory, and a file system that is mounted takes none. But it claims
//! its device for itself, as do swap space, arrays, and volume managers; the kernel tells by refusing
//! `O_EXCL`. The claim is only asked for and given back at once: to keep it would keep other children
//! out as well, and who mounts the parent later is found out when the child is opened next.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::ChainError;
use crate::identity::kernel;

/// Times that a claim that nothing explains is looked at again, and how long to wait in between:
/// others ask for it in passing too, cohort among them.
const PATIENCE: (u32, Duration) = (10, Duration::from_millis(20));

/// Refuses the parent at `parent` if it is a device that someone may be writing to.
pub(crate) fn refuse(file: &File, parent: &Path, child: &Path) -> Result<(), ChainError> {
    let Some(how) = writer(file) else { return Ok(()) };
    Err(ChainError::ParentClaimed { parent: parent.to_owned(), child: child.to_owned(), how })
}

/// Who may be writing to it.
fn writer(file: &File) -> Option<String> {
    let facts = file.metadata().ok().filter(|facts| facts.file_type().is_block_device())?;
    let numbers = kernel::sharing(facts.rdev());
    for attempt in 0..=PATIENCE.0 {
        if attempt > 0 {
            thread::sleep(PATIENCE.1);
        }
        if !is_claimed(file) {
            return None;
        }
        let mounts = mounts(&numbers);
        if let Some(mount) = mounts.iter().find(|mount| mount.writable) {
            return Some(format!("it, or another part of its disk, is mounted at {}", mount.place));
        }
        if let Some(holder) = kernel::holders(facts.rdev()).first() {
            return Some(format!("it is part of {}", holder.display()));
        }
        // Whoever mounted it for reading has its claim, and does no harm.
        if !mounts.is_empty() {
            return None;
        }
    }
    Some("the kernel or another program has claimed it, as for a mount or swap space".to_owned())
}

/// Whether it is claimed, or its disk, or a part of it.
fn is_claimed(file: &File) -> bool {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let claim = File::options().read(true).custom_flags(libc::O_EXCL).open(path);
    claim.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}

/// A file system on one of the devices.
struct Mount {
    place: String,
    /// The file system may be written to, if not at this place.
    writable: bool,
}

/// The file systems that this process sees on devices with these numbers.
fn mounts(numbers: &[String]) -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(|line| mount(line, numbers)).collect()
}

/// Reads a line of `mountinfo` (proc_pid_mountinfo(5)). Places stay escaped as they are there.
fn mount(line: &str, numbers: &[String]) -> Option<Mount> {
    let (place, system) = line.split_once(" - ")?;
    let place: Vec<&str> = place.split(' ').collect();
    let [_kind, source, options, ..] = system.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    // Those of several devices (btrfs) have a number of their own, and name one of the devices.
    let of_source = || {
        let facts = fs::metadata(source).ok().filter(|it| it.file_type().is_block_device())?;
        Some(kernel::text(facts.rdev()))
    };
    let known = |number: &str| numbers.iter().any(|known| known == number);
    (known(place.get(2)?) || of_source().is_some_and(|number| known(&number))).then(|| Mount {
        place: place.get(4).copied().unwrap_or_default().to_owned(),
        writable: options.split(',').next() != Some("ro"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_whether_the_file_system_may_be_written_to() {
        let numbers = ["8:1".to_owned()];
        let of = |line| mount(line, &numbers).map(|mount| (mount.place, mount.writable));
        let place = "/mnt/a\\040b".to_owned();
        assert_eq!(
            of("42 27 8:1 / /mnt/a\\040b ro,relatime shared:1 - ext4 /dev/x rw,quota"),
            Some((place.clone(), true))
        );
        assert_eq!(of("42 27 8:1 / /mnt/a\\040b rw - ext4 /dev/x ro"), Some((place, false)));
        assert_eq!(of("42 27 8:2 / /mnt/b rw - ext4 /dev/x rw"), None);
        assert_eq!(of("42 27 8:1"), None);
    }
}
