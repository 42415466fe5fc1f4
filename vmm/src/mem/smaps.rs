//! `/proc/PID/smaps` and `/proc/PID/smaps_rollup`: mappings and their sizes.
//!
//! Fields that one kernel lacks and another has count as 0, unknown ones are passed over.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(super) mod tests;

/// Sizes of mapped memory, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Resident: pages of it that are in memory and that the process has touched.
    pub rss_kib: u64,
    /// Proportional: of a page that n processes map, an n-th.
    pub pss_kib: u64,
    /// Of the resident pages, those that no other process maps.
    pub private_kib: u64,
    /// Of the resident pages, those that another process maps as well.
    pub shared_kib: u64,
    /// Of the resident pages of a file, copies that this process has made by writing.
    #[serde(default)]
    pub copied_kib: u64,
    /// Not resident, but in swap.
    #[serde(default)]
    pub swap_kib: u64,
}

impl AddAssign for Sizes {
    fn add_assign(&mut self, other: Sizes) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.rss_kib, other.rss_kib);
        add(&mut self.pss_kib, other.pss_kib);
        add(&mut self.private_kib, other.private_kib);
        add(&mut self.shared_kib, other.shared_kib);
        add(&mut self.copied_kib, other.copied_kib);
        add(&mut self.swap_kib, other.swap_kib);
    }
}

/// A file as memory maps name it. File systems with several volumes (btrfs) say another device
/// here than `stat` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// Major number of the file system's device.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// The file's inode number.
    pub inode: u64,
}

/// One mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Whether code in it can be executed.
    pub executable: bool,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// What file is mapped, if any.
    pub file: Option<FileId>,
    /// Path of the file, or the kernel's name for the memory; may be empty.
    pub name: String,
    /// How much of it is in memory.
    pub sizes: Sizes,
}

/// The mappings of a process, in ascending order; none of one that has ended.
///
/// # Errors
/// Whatever the host answers.
pub fn of_process(pid: u32) -> io::Result<Vec<Mapping>> {
    read(BufReader::with_capacity(64 << 10, File::open(format!("/proc/{pid}/smaps"))?))
}

/// The sizes of all mappings of a process together, at less cost: the kernel walks the pages, but
/// formats no list. None of a process that has ended.
///
/// # Errors
/// Whatever the host answers.
pub fn rollup(pid: u32) -> io::Result<Option<Sizes>> {
    match File::open(format!("/proc/{pid}/smaps_rollup")) {
        Ok(file) => {
            // In one piece: every read is a walk.
            let mapping = read(BufReader::with_capacity(4096, file))?.pop();
            Ok(mapping.map(|mapping| mapping.sizes))
        }
        // Before Linux 4.14.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mappings = of_process(pid)?;
            Ok((!mappings.is_empty()).then(|| total(&mappings)))
        }
        Err(error) => Err(error),
    }
}

/// The sizes of `mappings` together.
pub fn total<'a>(mappings: impl IntoIterator<Item = &'a Mapping>) -> Sizes {
    let mut sum = Sizes::default();
    for mapping in mappings {
        sum += mapping.sizes;
    }
    sum
}

/// Reads the text of an `smaps` file, or of a `smaps_rollup` file, which has one mapping.
///
/// # Errors
/// Whatever reading answers.
pub fn read(mut from: impl BufRead) -> io::Result<Vec<Mapping>> {
    let mut mappings = Vec::new();
    let mut line = Vec::with_capacity(256);
    loop {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Ok(mappings);
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        // Names of fields begin with a capital letter, addresses are written in small ones.
        if text.first().is_some_and(u8::is_ascii_uppercase) {
            if let Some(mapping) = mappings.last_mut() {
                field(text, mapping);
            }
        } else {
            mappings.extend(head(&String::from_utf8_lossy(text)));
        }
    }
}

/// The first line of a mapping: `start-end rwxp offset major:minor inode   name`.
fn head(line: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let (permissions, rest) = rest.split_once(' ')?;
    let (offset, rest) = rest.split_once(' ')?;
    let (device, rest) = rest.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    // Only a newline is written otherwise in a name (\012); blanks at its end are its own.
    let (inode, name) = rest.split_once(' ').unwrap_or((rest, ""));
    let inode = inode.parse().ok()?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let small = |text: &str| u32::from_str_radix(text, 16).ok();
    let file = FileId { major: small(major)?, minor: small(minor)?, inode };
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        executable: permissions.contains('x'),
        offset: hex(offset)?,
        file: (inode != 0).then_some(file),
        name: name.trim_start_matches(' ').to_owned(),
        sizes: Sizes::default(),
    })
}

/// A line `Name:   123 kB` of a mapping.
fn field(line: &[u8], mapping: &mut Mapping) {
    let Some((name, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':'))
    else {
        return;
    };
    let sizes = &mut mapping.sizes;
    let place = match name {
        "Rss" => &mut sizes.rss_kib,
        "Pss" => &mut sizes.pss_kib,
        "Private_Clean" | "Private_Dirty" => &mut sizes.private_kib,
        "Shared_Clean" | "Shared_Dirty" => &mut sizes.shared_kib,
        // Of memory that is no file's, every page is anonymous.
        "Anonymous" if mapping.file.is_some() => &mut sizes.copied_kib,
        "Swap" => &mut sizes.swap_kib,
        _ => return,
    };
    let value = value.trim().strip_suffix("kB").and_then(|value| value.trim().parse().ok());
    *place = place.saturating_add(value.unwrap_or(0));
}
