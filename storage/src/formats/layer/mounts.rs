//! File systems that are mounted in a way on which the format cannot rely
//! (`docs/layer-format.md`, "What is asked of the file system").

use std::os::unix::fs::MetadataExt;

use super::geometry::BLOCK;
use crate::engine::sys;
use crate::formats::FormatError;
use crate::image::ImageFile;

/// Refuses memory that is given out in huge pages: with its first byte, all of such a page counts
/// as written, and would hide the parent. No witness tells, because a hole that is punched into the
/// page breaks it up. What tells is the size that such a file system gives for its blocks.
pub(super) fn refuse_huge_pages(image: &ImageFile) -> Result<(), FormatError> {
    let host = FormatError::host("examine", 0);
    let facts = image.file().metadata().and_then(|facts| {
        sys::is_in_memory(image.file()).map(|in_memory| (in_memory, facts.blksize()))
    });
    let (in_memory, unit) = facts.map_err(host)?;
    if !in_memory || unit <= BLOCK {
        return Ok(());
    }
    let what = format!(
        "a layer with a parent in memory that is given out in pages of {unit} bytes (use another \
         folder, or mount it with `huge=never`)"
    );
    Err(FormatError::Unsupported { what })
}

/// Warns if the file system that `image` is on may count blocks as written that are not, after a
/// loss of power.
pub(super) fn warn_if_unsound(image: &ImageFile) {
    let (Ok(facts), Ok(mounts)) =
        (image.file().metadata(), std::fs::read_to_string("/proc/self/mountinfo"))
    else {
        return;
    };
    let device = (libc::major(facts.dev()), libc::minor(facts.dev()));
    if let Some(option) = unsound(&mounts, device) {
        tracing::warn!(
            path = %image.path().display(),
            "the file system is mounted with {option}: after a loss of power, blocks that were \
             being written for the first time may hold old bytes of other files, and not the \
             parent's"
        );
    }
}

/// The option in a list of mounts (proc_pid_mountinfo(5)) that makes a device's file system
/// unsound.
fn unsound(mounts: &str, (major, minor): (u32, u32)) -> Option<&str> {
    let device = format!("{major}:{minor}");
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        if mount.split(' ').nth(2)? != device {
            return None;
        }
        let mut fields = file_system.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let bad: &[&str] = match kind {
            "ext2" | "ext3" | "ext4" => &["nodelalloc", "data=writeback"],
            _ => &[],
        };
        options.split(',').find(|option| bad.contains(option))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_tell_lies_are_found() {
        let mounts = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
                      65 44 7:0 / /a\\040b rw shared:1 - ext4 /dev/loop0 rw,nodelalloc,quota\n\
                      66 44 7:1 /x /c rw,relatime - ext4 /dev/loop1 rw,data=writeback\n\
                      67 44 7:2 / /d rw - xfs /dev/loop2 rw,nodelalloc\n\
                      nonsense";
        assert_eq!(unsound(mounts, (254, 0)), None);
        assert_eq!(unsound(mounts, (7, 0)), Some("nodelalloc"));
        assert_eq!(unsound(mounts, (7, 1)), Some("data=writeback"));
        assert_eq!(unsound(mounts, (7, 2)), None);
        assert_eq!(unsound(mounts, (1, 1)), None);
    }
}
