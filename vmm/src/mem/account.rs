//! What one guest's process holds, by origin and file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::frames::Frames;
use super::origin::{Classifier, Given, Origin};
use super::registry::{Guest, LabRun};
use super::smaps::{self, FileId, Mapping, Sizes};
use super::{MemError, Process};

#[cfg(test)]
mod tests;

/// Most files of one origin that are told apart; the smallest beyond that are one part together.
/// A shared folder can have thousands of files mapped.
pub const FILES_MAX: usize = 128;

/// What a guest's process holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuestAccount {
    /// The guest's name.
    pub name: String,
    /// The lab that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lab: Option<LabRun>,
    /// Its process.
    pub pid: u32,
    /// RAM that the guest sees.
    pub ram_kib: u64,
    /// All of it together.
    #[serde(flatten)]
    pub total: Sizes,
    /// Its parts, which together are the total, in the order of [`Origin`], large ones first.
    pub parts: Vec<Part>,
}

/// What a guest's process holds of one file, or of one kind of memory without a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// Where it comes from.
    pub origin: Origin,
    /// The file's path; none for memory without a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileId>,
    /// Files that it stands for, where they are too many to be told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<usize>,
    /// How much.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// The other guests of the account that map the same file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
    /// Its page frames, where they were asked for and the host tells them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<Frames>,
    /// Addresses at which the process has it, for whoever looks further.
    #[serde(skip)]
    pub ranges: Vec<(u64, u64)>,
}

/// What a guest's process holds of one origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginUse {
    /// Where it comes from.
    pub origin: Origin,
    /// How much.
    #[serde(flatten)]
    pub sizes: Sizes,
}

impl Part {
    /// A part of which nothing is known yet.
    pub fn new(origin: Origin) -> Part {
        Part {
            origin,
            path: None,
            file: None,
            files: None,
            sizes: Sizes::default(),
            with: Vec::new(),
            frames: None,
            ranges: Vec::new(),
        }
    }
}

impl OriginUse {
    /// What it takes of the host's memory, every page that guests share counted once among all
    /// who map it. The guest's RAM counts in full although a disk server may map it too.
    pub fn held_kib(&self) -> u64 {
        match self.origin {
            Origin::Memory => self.sizes.rss_kib,
            _ => self.sizes.pss_kib,
        }
    }

    /// What it would take if guests shared nothing that cohort makes them share: every page once
    /// for each guest that has it.
    pub fn unshared_kib(&self) -> u64 {
        if self.origin.is_shareable() { self.sizes.rss_kib } else { self.held_kib() }
    }
}

impl GuestAccount {
    /// What the guest holds now.
    ///
    /// # Errors
    /// The guest has ended, or the host does not let its memory be seen.
    pub fn read(guest: &Guest) -> Result<GuestAccount, MemError> {
        let Process { pid, .. } = guest.process;
        let failed = |source| MemError::of(&guest.name, pid, source);
        let mappings = smaps::of_process(pid).map_err(failed)?;
        let program = FileId::at(Path::new(&format!("/proc/{pid}/exe")));
        // Asked last: so long, the number has not been another process's.
        if mappings.is_empty() || !guest.process.runs() {
            return Err(MemError::Gone { name: guest.name.clone(), pid });
        }
        Ok(GuestAccount {
            name: guest.name.clone(),
            lab: guest.lab.clone(),
            pid,
            ram_kib: guest.given.memory >> 10,
            total: smaps::total(&mappings),
            parts: parts(&guest.given, program, &mappings),
        })
    }

    /// Its parts summed up by origin, in the order of [`Origin`].
    pub fn origins(&self) -> Vec<OriginUse> {
        origins(&self.parts)
    }

    /// What it takes of the host's memory, see [`OriginUse::held_kib`].
    pub fn held_kib(&self) -> u64 {
        self.origins().iter().map(OriginUse::held_kib).sum()
    }

    /// What it would take without sharing, see [`OriginUse::unshared_kib`].
    pub fn unshared_kib(&self) -> u64 {
        self.origins().iter().map(OriginUse::unshared_kib).sum()
    }
}

/// What the calling process, which runs a guest that was `given` these things, holds by origin.
/// Empty if the host does not tell.
pub fn of_self(given: &Given) -> Vec<OriginUse> {
    let mappings = smaps::of_process(std::process::id()).unwrap_or_default();
    let program = FileId::at(Path::new("/proc/self/exe"));
    origins(&parts(given, program, &mappings))
}

fn origins(parts: &[Part]) -> Vec<OriginUse> {
    let mut sums: BTreeMap<Origin, Sizes> = BTreeMap::new();
    for part in parts {
        *sums.entry(part.origin).or_default() += part.sizes;
    }
    sums.into_iter().map(|(origin, sizes)| OriginUse { origin, sizes }).collect()
}

/// Sorts the mappings of a process into parts.
pub(super) fn parts(given: &Given, program: Option<FileId>, mappings: &[Mapping]) -> Vec<Part> {
    let classifier = Classifier::new(given, program, mappings);
    let mut places: HashMap<(Origin, Option<FileId>), usize> = HashMap::new();
    let mut parts: Vec<Part> = Vec::new();
    for mapping in mappings {
        let origin = classifier.origin(mapping);
        // The memfd of guest RAM is no file that anybody else could know.
        let file = mapping.file.filter(|_| origin != Origin::Memory);
        let place = *places.entry((origin, file)).or_insert_with(|| {
            let path = file.map(|_| classifier.name(mapping));
            parts.push(Part { path, file, ..Part::new(origin) });
            parts.len() - 1
        });
        if let Some(part) = parts.get_mut(place) {
            part.sizes += mapping.sizes;
            part.ranges.push((mapping.start, mapping.end));
        }
    }
    let order = |part: &Part| (part.origin, std::cmp::Reverse(part.sizes.rss_kib));
    parts.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.path.cmp(&b.path)));
    bound(parts)
}

/// Puts what is more than [`FILES_MAX`] files of an origin together.
fn bound(parts: Vec<Part>) -> Vec<Part> {
    let mut kept: Vec<Part> = Vec::with_capacity(parts.len().min(1024));
    let mut of_origin = 0;
    for part in parts {
        match kept.last_mut() {
            Some(last) if last.origin == part.origin && of_origin > FILES_MAX => {
                last.sizes += part.sizes;
                last.files = last.files.map(|files| files + 1);
            }
            Some(last) if last.origin == part.origin && of_origin == FILES_MAX => {
                let rest = Part { path: None, file: None, files: Some(1), ..part };
                kept.push(rest);
                of_origin += 1;
            }
            last => {
                of_origin = if last.is_some_and(|last| last.origin == part.origin) {
                    of_origin + 1
                } else {
                    1
                };
                kept.push(part);
            }
        }
    }
    kept
}
