//! Labs: several guests described in one file, started together, judged together.
//!
//! ```text
//! LAB.toml ─► tree (values with positions, --set laid over)
//!          ─► schema, guest, disk (every mistake collected) ─► Lab
//!          ─► supervisor (one process per guest and shared disk) ─► report (outcomes, expectations, status)
//!             memory (what the guests hold, watched meanwhile)   ─► memory.csv, memory.json, memory.svg
//! ```
//!
//! [`Lab::read`] reports all mistakes of a file at once and starts nothing; [`supervisor::run`]
//! starts the guests of a lab and stays until the last is gone.

mod disk;
mod echo;
mod expand;
pub mod expectation;
mod fields;
mod files;
mod guest;
mod guest_process;
mod memory;
pub mod mistake;
mod pmem;
mod process;
pub mod report;
pub mod results;
mod schema;
mod sealed;
mod server;
mod share;
mod shared_disk;
pub mod sink;
pub mod supervisor;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::expectation::Expectation;
use self::mistake::{Collector, Mistakes};
pub use self::shared_disk::{SharedDisk, SharedSource};
use self::tree::Origin;
use crate::spec::VmSpec;

/// Largest lab file that is read, in bytes.
pub const FILE_MAX: u64 = 1 << 20;

/// A lab, read and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Lab {
    /// The file it was read from.
    pub path: PathBuf,
    /// Its name; results are kept under it.
    pub name: String,
    /// All guests are stopped when the lab has run this long.
    pub timeout: Option<Duration>,
    /// The guests of others, too, with which these may share pages of files; by default, the lab
    /// shares them among its own guests alone.
    pub share_domain: Option<String>,
    /// The disks that guests share, in the order of the file; names are unique.
    pub shared_disks: Vec<SharedDisk>,
    /// The guests, in the order of the file; names are unique.
    pub guests: Vec<Guest>,
}

/// One guest of a lab.
#[derive(Clone, Debug, PartialEq)]
pub struct Guest {
    /// What the guest is made of.
    pub spec: VmSpec,
    /// How it should end.
    pub expected: Expectation,
    /// Which of its disks are shared ones, and their names.
    pub shared: BTreeMap<usize, String>,
    /// The `[vm.TABLE]` that it comes from.
    pub table: String,
}

/// A lab file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The file cannot be read.
    #[error("cannot read the lab {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is read, and wrong.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}

impl Lab {
    /// Reads and checks the lab file at `path`, each of `sets` (`KEY=VALUE`) laid over it.
    ///
    /// # Errors
    /// When the file cannot be read, or has mistakes: then all of them.
    pub fn read(path: &Path, sets: &[String]) -> Result<Lab, LabError> {
        let source = read_text(path)
            .map_err(|source| LabError::Read { path: path.to_path_buf(), source })?;
        Ok(Lab::parse(path, &source, sets)?)
    }

    /// Checks the text of a lab file that is found at `path`.
    ///
    /// # Errors
    /// All mistakes of the file.
    pub fn parse(path: &Path, source: &str, sets: &[String]) -> Result<Lab, Mistakes> {
        let mut mistakes = Collector::new(path, source);
        let mut root = tree::parse(source, &mut mistakes);
        for argument in sets {
            if let Err(message) = tree::set(&mut root, argument) {
                mistakes.add(&Origin::Set(argument.clone()), "", message, "");
            }
        }
        match schema::read(path, &root, &mut mistakes) {
            Some(lab) if mistakes.is_empty() => Ok(lab),
            _ => Err(mistakes.into_mistakes()),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 1 MiB is no lab file"));
    }
    Ok(text)
}
