//! The folder in which a lab leaves what it found: `NAME.console` and `NAME.json` for each guest,
//! `lab.json` for all, and `memory.csv`, `memory.json` and `memory.svg` for what they held.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

#[cfg(test)]
mod tests;

/// Largest `lab.json` of an earlier run that is looked into.
const REPORT_MAX: u64 = 16 << 20;

/// A results folder, held by this process alone until it is dropped.
#[derive(Debug)]
pub struct Results {
    dir: PathBuf,
    /// The folder itself carries the lock, so no lock file is ever left behind.
    _lock: File,
}

/// A results folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// Neither `XDG_STATE_HOME` nor `HOME` is set.
    #[error("there is no home folder to keep results in")]
    NoHome,
    /// Another lab uses the folder now.
    #[error("the lab is already running: its results folder {} is in use", .0.display())]
    Busy(PathBuf),
    /// The file system says no.
    #[error("cannot prepare the results folder {}", path.display())]
    Io {
        /// The folder, or the file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ResultsError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            ResultsError::NoHome => Some("name a folder with --results DIR".into()),
            ResultsError::Busy(_) => Some(
                "wait for the other run, or keep this one's results elsewhere with --results DIR"
                    .into(),
            ),
            ResultsError::Io { .. } => Some("name another folder with --results DIR".into()),
        }
    }
}

/// The folder for results of the lab `name` when none is asked for:
/// `$XDG_STATE_HOME/cohort/labs/NAME`, or under `~/.local/state`.
///
/// # Errors
/// When the environment names no home.
pub fn default_dir(name: &str) -> Result<PathBuf, ResultsError> {
    let set = |key: &str| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .ok_or(ResultsError::NoHome)?;
    Ok(state.join("cohort/labs").join(name))
}

impl Results {
    /// Makes the folder if need be, takes it for this process, and removes what an earlier run
    /// left in it; files that no lab wrote stay.
    ///
    /// # Errors
    /// When another process has it, or the file system refuses.
    pub fn open(dir: &Path) -> Result<Results, ResultsError> {
        let io = |source| ResultsError::Io { path: dir.to_path_buf(), source };
        fs::create_dir_all(dir).map_err(io)?;
        let lock = File::open(dir).map_err(io)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            if error == rustix::io::Errno::WOULDBLOCK {
                ResultsError::Busy(dir.to_path_buf())
            } else {
                io(error.into())
            }
        })?;
        let results = Results { dir: dir.to_path_buf(), _lock: lock };
        results.clear().map_err(io)?;
        Ok(results)
    }

    /// The console file of the guest `name`.
    pub fn console(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.console"))
    }

    /// The outcome file of the guest `name`.
    pub fn outcome(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    /// The report on the whole lab.
    pub fn report(&self) -> PathBuf {
        self.dir.join("lab.json")
    }

    /// The guests' memory over time (`csv`), by origin (`json`) and as a picture (`svg`).
    pub(super) fn memory(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("memory.{extension}"))
    }

    /// Removes the files of the run that the folder's `lab.json` tells of.
    fn clear(&self) -> io::Result<()> {
        let mut text = Vec::new();
        match File::open(self.report()) {
            Ok(file) => file.take(REPORT_MAX).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let report: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let guests = report["guests"].as_array().map(Vec::as_slice).unwrap_or_default();
        // A name that is a path would lead out of the folder; no lab wrote it.
        let names = guests.iter().filter_map(|guest| guest["name"].as_str());
        for name in names.filter(|name| !name.contains('/')) {
            for path in [self.console(name), self.outcome(name)] {
                remove(&path)?;
            }
        }
        for extension in ["csv", "json", "svg"] {
            remove(&self.memory(extension))?;
        }
        remove(&self.report())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
