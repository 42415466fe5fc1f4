//! A block device as the kernel knows it.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Fingerprint;

/// What the running kernel says of a block device. Whoever writes to the device changes this, by
/// whichever node, through a partition, by a mounted file system, or in the file behind a loop
/// device. So does much that leaves the contents alone, a restart of the host above all: false
/// alarms, which a digest can dispel.
///
/// Nothing has to be renewed before cohort itself writes to a device. If only the process dies, what it
/// wrote is in the page cache or on its way, and is counted before anyone compares; if the host does,
/// the next run of the kernel is another one.
///
/// A loop device over a file that has not changed could be taken for the same after a restart, and is
/// not: a crash may leave a file with older times than contents. A device that was attached anew could,
/// as well; but then the file itself had better be the parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceState {
    /// Which run of the kernel says so. Its counts begin anew with the next, and what happened in
    /// between nobody knows.
    pub boot: Uuid,
    /// The device, and all that it rests on.
    pub devices: Vec<DeviceCounts>,
    /// The files behind the loop devices among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Fingerprint>,
    /// Why the kernel cannot say whether the device has changed, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untold: Option<Untold>,
}

/// One device. The counts are of its whole disk: the kernel counts what is written by way of the
/// disk's own node there only, though it may be in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceCounts {
    /// What the kernel calls it.
    pub name: String,
    /// Its major and minor number, as `7:0`.
    pub number: String,
    /// Bytes.
    pub size: u64,
    /// Where on the disk a partition begins, in sectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// The number that the kernel gave the medium, or what stands for it, when that came
    /// (`diskseq`); it gives no number twice.
    pub sequence: u64,
    /// Sectors that were written so far.
    pub written: u64,
    /// Sectors that were discarded so far.
    pub discarded: u64,
    /// The part of its file that a loop device shows, which can be changed while it is attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<LoopWindow>,
}

/// The part of a file that a loop device shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LoopWindow {
    /// Where it begins.
    pub offset: u64,
    /// Bytes that it has at most; 0: all.
    pub limit: u64,
}

/// That the kernel cannot say whether a device has changed. No two of these are equal, so that an
/// identity with one of them holds against none, not even against itself later on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Untold {
    /// Why not.
    pub why: String,
    /// Tells it from all others.
    pub asked: Uuid,
}

impl Untold {
    pub(super) fn new(why: String) -> Untold {
        Untold { why, asked: Uuid::new_v4() }
    }
}

impl DeviceState {
    /// What has happened since it was `recorded`; `None` if nothing has.
    pub(super) fn since(&self, recorded: &DeviceState) -> Option<String> {
        if let Some(Untold { why, .. }) = &recorded.untold {
            return Some(format!("when that was recorded, nothing told whether it changes: {why}"));
        }
        if self.boot != recorded.boot {
            return Some(
                "the host was restarted, or is another one, and nothing tells what was written \
                 meanwhile"
                    .to_owned(),
            );
        }
        let numbers = |state: &DeviceState| -> Vec<String> {
            state.devices.iter().map(|device| device.number.clone()).collect()
        };
        if numbers(self) != numbers(recorded) || self.files.len() != recorded.files.len() {
            return Some("it is another device, or rests on others than it did".to_owned());
        }
        let devices = self.devices.iter().zip(&recorded.devices);
        let files = self.files.iter().zip(&recorded.files);
        let changed = files.filter(|(now, then)| now != then);
        let changed = changed.map(|(now, _)| {
            format!("file {:x}:{} behind it was changed or replaced", now.device, now.inode)
        });
        let mut what: Vec<String> = devices.filter_map(|(now, then)| now.since(then)).collect();
        if what.is_empty() {
            // What is written to a loop device goes to its file as well.
            what.extend(changed);
        }
        (!what.is_empty()).then(|| what.join("; "))
    }
}

impl DeviceCounts {
    fn since(&self, recorded: &DeviceCounts) -> Option<String> {
        let name = match self.start {
            Some(_) => format!("the disk of {}", self.name),
            None => self.name.clone(),
        };
        let more = |now: u64, then: u64| now.saturating_sub(then);
        Some(if self == recorded {
            return None;
        } else if self.sequence != recorded.sequence {
            format!("{name} was attached anew, or has another medium")
        } else if self.written != recorded.written || self.discarded != recorded.discarded {
            let written = more(self.written, recorded.written);
            let discarded = more(self.discarded, recorded.discarded);
            match (written, discarded) {
                (_, 0) => format!("{written} sectors of {name} were written"),
                (0, _) => format!("{discarded} sectors of {name} were discarded"),
                _ => format!("{written} sectors of {name} were written, and {discarded} discarded"),
            }
        } else {
            format!("{} shows another part of what is behind it", self.name)
        })
    }
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeviceState { boot, devices, files, untold } = self;
        if let Some(Untold { why, asked }) = untold {
            return write!(f, "{{{asked}}}, which nothing else has ({why})");
        }
        for (place, device) in devices.iter().enumerate() {
            write!(f, "{}{device}", if place == 0 { "" } else { " on " })?;
        }
        for file in files {
            write!(f, " on {file}")?;
        }
        write!(f, ", in run {boot} of the host")
    }
}

impl fmt::Display for DeviceCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeviceCounts { name, number, size, sequence, written, discarded, .. } = self;
        write!(f, "device {name} ({number}, sequence {sequence}) of {size} bytes")?;
        let disk = if self.start.is_some() { "with its disk " } else { "" };
        write!(f, ", {disk}{written} sectors written, {discarded} discarded")
    }
}
