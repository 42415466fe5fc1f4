//! How a guest ended: the one vocabulary of exit statuses, lab tables and `--outcome` files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::mem::{OriginUse, Sizes};

#[cfg(test)]
mod tests;

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Ending {
    /// The guest's program ended and said so with this status.
    Exited {
        /// The status, as an exit status carries it.
        status: u8,
    },
    /// A signal ended the guest's program, or told cohort to stop the guest.
    Signaled {
        /// The signal's number.
        signal: u8,
    },
    /// The guest switched its machine off.
    Poweroff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel reported a panic.
    Panic,
    /// Triple fault, internal error of the virtual CPU: the guest cannot go on.
    Crash,
    /// The guest ran longer than it was given.
    Timeout,
    /// cohort or the host failed; the guest may be blameless.
    VmmError,
}

impl Ending {
    /// The exit status of `cohort run` for a guest that ended this way.
    pub fn exit_status(self) -> u8 {
        match self {
            Ending::Exited { status } => status,
            Ending::Signaled { signal } => 128u8.saturating_add(signal),
            Ending::Poweroff => 0,
            Ending::Reset => 32,
            Ending::Crash => 33,
            Ending::Panic => 34,
            Ending::Timeout => 124,
            Ending::VmmError => 125,
        }
    }

    /// The word that labs and JSON use for this ending.
    pub fn word(self) -> &'static str {
        match self {
            Ending::Exited { .. } => "exited",
            Ending::Signaled { .. } => "signaled",
            Ending::Poweroff => "poweroff",
            Ending::Reset => "reset",
            Ending::Panic => "panic",
            Ending::Crash => "crash",
            Ending::Timeout => "timeout",
            Ending::VmmError => "vmm-error",
        }
    }
}

/// The authoritative account of one guest's run, as `--outcome` writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The guest's name.
    pub name: String,
    /// How it ended.
    #[serde(flatten)]
    pub ending: Ending,
    /// Why, in one sentence, where there is more to say than the ending does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// What to do about it, where cohort knows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub help: Option<String>,
    /// The exit status that tells what kind of failure this is, where it is not that of all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure_status: Option<u8>,
    /// Time from the start of the run to its end, in milliseconds.
    pub wall_ms: u64,
    /// Processor time of the guest's process, user and system, in milliseconds.
    pub cpu_ms: u64,
    /// Host memory held at the end, in KiB.
    pub memory: MemoryUse,
}

impl Outcome {
    /// The outcome of a guest that cohort or the host failed, before or while it ran.
    pub fn vmm_error(name: &str, detail: impl Into<String>, help: Option<String>) -> Outcome {
        Outcome { detail: Some(detail.into()), help, ..Outcome::new(name, Ending::VmmError) }
    }

    /// The exit status of `cohort run` for this outcome.
    pub fn exit_status(&self) -> u8 {
        self.failure_status.unwrap_or(self.ending.exit_status())
    }

    /// An outcome with nothing measured.
    pub fn new(name: &str, ending: Ending) -> Outcome {
        Outcome {
            name: name.into(),
            ending,
            detail: None,
            help: None,
            failure_status: None,
            wall_ms: 0,
            cpu_ms: 0,
            memory: MemoryUse::default(),
        }
    }
}

/// `value` as JSON, a line for each field.
///
/// # Errors
/// When `value` has no form in JSON.
pub fn json_text(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

/// Writes `value` as JSON to `path` so that a reader finds the old file or the whole new one: to
/// a hidden file beside it, which then takes its name. A crash can leave the hidden file behind,
/// under a name that the next write of the same process id reuses.
///
/// # Errors
/// Whatever the file system says.
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let text = json_text(value)?;
    // Something that is no file, a terminal or a pipe, is written to, never replaced.
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return File::options().write(true).open(path)?.write_all(&text);
    }
    // A link is followed: what it names gets the new content, the link stays.
    let path = &match fs::canonicalize(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound || path.is_symlink() => {
            return Err(error);
        }
        Err(_) => path.to_path_buf(),
        Ok(target) => target,
    };
    let beside = beside(path)?;
    let write = || -> io::Result<()> {
        File::create(&beside)?.write_all(&text)?;
        fs::rename(&beside, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// The hidden name beside `path` under which its new content is collected.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(hidden))
}

/// Host memory of a guest's process, in KiB, from the host's own counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Largest resident set (`ru_maxrss`).
    pub peak_rss_kib: u64,
    /// Proportional set size at the end (`smaps`); 0 when the host does not tell.
    pub pss_kib: u64,
    /// Pages at the end that no other process mapped.
    #[serde(default)]
    pub private_kib: u64,
    /// Pages at the end that another process mapped as well.
    #[serde(default)]
    pub shared_kib: u64,
    /// The same by where the pages come from; empty when the host does not tell.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub origins: Vec<OriginUse>,
}

impl MemoryUse {
    /// What a process held by origin when it ended, and the largest resident set that it had.
    pub fn new(peak_rss_kib: u64, origins: Vec<OriginUse>) -> MemoryUse {
        let mut total = Sizes::default();
        for origin in &origins {
            total += origin.sizes;
        }
        let Sizes { pss_kib, private_kib, shared_kib, .. } = total;
        MemoryUse { peak_rss_kib, pss_kib, private_kib, shared_kib, origins }
    }
}
