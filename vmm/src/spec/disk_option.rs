//! `--disk PATH[,ro][,direct=on]…`: one disk on a command line.

use std::path::PathBuf;
use std::str::FromStr;

use storage::Format;

use super::{
    DISK_SERIAL_MAX, DiskSource, DiskSpec, EngineChoice, OptionError, QUEUES_MAX, VhostUserKind,
};
use crate::units::{UnitError, parse_disk_size, parse_size};

#[cfg(test)]
mod tests;

/// A `--disk` value that describes no disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskOptionError {
    /// Nothing before the first comma.
    #[error("the disk has no path (write ./ before a name that starts with a comma)")]
    NoPath,
    /// Not one of the options.
    #[error(
        "unknown disk option {0:?} (known: ro, format, allow-mismatch, map-memory, direct, queues, serial, \
         engine, kind; write a comma inside a path twice)"
    )]
    Unknown(String),
    /// An option's value cannot be used.
    #[error("disk option {option}={value:?}: {expected}")]
    Value {
        /// The option.
        option: &'static str,
        /// What it was given.
        value: String,
        /// What it takes.
        expected: String,
    },
    /// A scratch disk is no file, and has no layers.
    #[error("a scratch disk takes no {0}")]
    NotScratch(&'static str),
    /// The back end decides all that.
    #[error("a vhost-user disk takes no {0} (its back end decides that)")]
    NotVhostUser(&'static str),
    /// What a back end is for cannot be asked of it.
    #[error("a vhost-user disk takes its kind: kind=blk or kind=scsi")]
    NoKind,
    /// Other disks are block devices.
    #[error("only a vhost-user disk takes a kind")]
    Kind,
    /// The size of a scratch disk cannot be used.
    #[error("scratch disk: {0} ({help})", help = .0.help())]
    Scratch(UnitError),
}

impl OptionError for DiskOptionError {
    fn value(&self) -> Option<(&str, &str)> {
        match self {
            DiskOptionError::Value { value, expected, .. } => Some((value, expected)),
            _ => None,
        }
    }
}

impl FromStr for DiskSpec {
    type Err = DiskOptionError;

    fn from_str(text: &str) -> Result<DiskSpec, DiskOptionError> {
        let mut parts = split_commas(text).into_iter();
        let source = parts.next().unwrap_or_default();
        let source = match source.split_once('=') {
            Some(("scratch", size)) => {
                DiskSource::Scratch(parse_disk_size(size).map_err(DiskOptionError::Scratch)?)
            }
            Some(("parent" | "vhost-user", "")) => return Err(DiskOptionError::NoPath),
            Some(("parent", parent)) => DiskSource::Child(PathBuf::from(parent)),
            Some(("vhost-user", socket)) => {
                // The kind comes as an option of its own.
                let kind = VhostUserKind::Blk;
                DiskSource::VhostUser { socket: PathBuf::from(socket), kind }
            }
            _ if source.is_empty() => return Err(DiskOptionError::NoPath),
            _ => DiskSource::Path(PathBuf::from(source)),
        };
        let mut disk = DiskSpec::new(source);
        let mut given = Vec::new();
        let mut kind = None;
        for part in parts {
            let (option, value) = match part.split_once('=') {
                Some((option, value)) => (option, Some(value)),
                None => (part.as_str(), None),
            };
            given.push(match option {
                "ro" => {
                    disk.read_only = switch("ro", value)?;
                    "ro"
                }
                "format" => {
                    disk.format = Some(format(value.unwrap_or_default())?);
                    "format"
                }
                "allow-mismatch" => {
                    disk.allow_mismatch = switch("allow-mismatch", value)?;
                    "allow-mismatch"
                }
                "map-memory" => {
                    disk.map_memory = Some(map_memory(value.unwrap_or_default())?);
                    "map-memory"
                }
                "direct" => {
                    disk.direct = switch("direct", value)?;
                    "direct"
                }
                "queues" => {
                    disk.queues = Some(queues(value.unwrap_or_default())?);
                    "queues"
                }
                "serial" => {
                    disk.serial = Some(serial(value.unwrap_or_default())?);
                    "serial"
                }
                "engine" => {
                    disk.engine = engine(value.unwrap_or_default())?;
                    "engine"
                }
                "kind" => {
                    kind = Some(vhost_user_kind(value.unwrap_or_default())?);
                    "kind"
                }
                _ => return Err(DiskOptionError::Unknown(part)),
            });
        }
        check(&disk, kind, &given)?;
        if let DiskSource::VhostUser { kind: of, .. } = &mut disk.source {
            *of = kind.ok_or(DiskOptionError::NoKind)?;
        }
        Ok(disk)
    }
}

/// Refuses options that say nothing about such a disk.
fn check(
    disk: &DiskSpec,
    kind: Option<VhostUserKind>,
    given: &[&'static str],
) -> Result<(), DiskOptionError> {
    match &disk.source {
        DiskSource::VhostUser { .. } => {
            let foreign = given.iter().find(|option| !matches!(**option, "kind" | "queues"));
            foreign.map_or(Ok(()), |option| Err(DiskOptionError::NotVhostUser(option)))
        }
        _ if kind.is_some() => Err(DiskOptionError::Kind),
        DiskSource::Scratch(_) if disk.format.is_some() => {
            Err(DiskOptionError::NotScratch("format"))
        }
        DiskSource::Scratch(_) if disk.allow_mismatch => {
            Err(DiskOptionError::NotScratch("allow-mismatch"))
        }
        DiskSource::Scratch(_) if disk.map_memory.is_some() => {
            Err(DiskOptionError::NotScratch("map-memory"))
        }
        _ => Ok(()),
    }
}

/// Splits at commas; two commas are one comma of the text, as QEMU has it.
pub(crate) fn split_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

fn switch(option: &'static str, value: Option<&str>) -> Result<bool, DiskOptionError> {
    match value {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(value) => Err(DiskOptionError::Value {
            option,
            value: value.into(),
            expected: "expected on or off".into(),
        }),
    }
}

fn queues(value: &str) -> Result<u16, DiskOptionError> {
    value.parse().ok().filter(|queues| (1..=QUEUES_MAX).contains(queues)).ok_or_else(|| {
        DiskOptionError::Value {
            option: "queues",
            value: value.into(),
            expected: format!("expected a number from 1 to {QUEUES_MAX}"),
        }
    })
}

/// Reads the serial string of a disk.
pub(crate) fn serial(value: &str) -> Result<String, DiskOptionError> {
    let fits = (1..=DISK_SERIAL_MAX).contains(&value.len());
    if fits && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Ok(value.into());
    }
    Err(DiskOptionError::Value {
        option: "serial",
        value: value.into(),
        expected: format!("expected 1 to {DISK_SERIAL_MAX} printable ASCII characters"),
    })
}

/// Reads how much memory maps may take.
fn map_memory(value: &str) -> Result<u64, DiskOptionError> {
    parse_size(value).map_err(|_| DiskOptionError::Value {
        option: "map-memory",
        value: value.into(),
        expected: "expected a size with a unit, as in 64M".into(),
    })
}

/// Reads the name of a format.
pub(crate) fn format(value: &str) -> Result<Format, DiskOptionError> {
    value.parse().map_err(|_| DiskOptionError::Value {
        option: "format",
        value: value.into(),
        expected: "expected raw, layer, qcow2 or vhdx".into(),
    })
}

/// Reads what a vhost-user back end is for.
pub(crate) fn vhost_user_kind(value: &str) -> Result<VhostUserKind, DiskOptionError> {
    match value {
        "blk" => Ok(VhostUserKind::Blk),
        "scsi" => Ok(VhostUserKind::Scsi),
        _ => Err(DiskOptionError::Value {
            option: "kind",
            value: value.into(),
            expected: "expected blk or scsi".into(),
        }),
    }
}

/// Reads the name of an engine.
pub(crate) fn engine(value: &str) -> Result<EngineChoice, DiskOptionError> {
    match value {
        "auto" => Ok(EngineChoice::Auto),
        "io_uring" => Ok(EngineChoice::IoUring),
        "positional" => Ok(EngineChoice::Positional),
        _ => Err(DiskOptionError::Value {
            option: "engine",
            value: value.into(),
            expected: "expected auto, io_uring or positional".into(),
        }),
    }
}
