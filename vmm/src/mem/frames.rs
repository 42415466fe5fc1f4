//! Which page frames of the host guests share, by number (`Documentation/admin-guide/mm/pagemap.rst`).
//!
//! The host tells the numbers to processes with `CAP_SYS_ADMIN` alone.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memshare::PAGE_SIZE;
use serde::Serialize;

use super::GuestAccount;
use super::smaps::FileId;

/// Page frames that are told by number, for comparison.
const NAMED: usize = 4;
/// Entries of a page map that are read at once, 8 bytes each.
const AT_ONCE: u64 = 64 << 10;

/// The page frames of a part of a guest's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Frames {
    /// How many it has, without the guest's own copies.
    pub count: u64,
    /// How many of them other guests of the account have too.
    pub shared: u64,
    /// The first ones.
    pub first: Vec<Frame>,
}

/// One page frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// Its number.
    pub number: u64,
    /// How often it is mapped on this host (`/proc/kpagecount`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapped: Option<u64>,
}

/// Finds the page frames of what `guests` share.
///
/// # Errors
/// Why there are none to be had, in a sentence. What was found until then stays.
pub(super) fn add(guests: &mut [GuestAccount]) -> Result<(), String> {
    let counts = File::open("/proc/kpagecount").ok();
    // The guests in which each frame was seen; one that is in several places of a guest counts once.
    let mut seen: HashMap<FileId, HashMap<u64, (usize, u32)>> = HashMap::new();
    let mut lists: HashMap<(usize, usize), Vec<u64>> = HashMap::new();
    for (at, guest) in guests.iter().enumerate() {
        let pages = format!("/proc/{}/pagemap", guest.pid);
        let failed = |error: io::Error| format!("{pages} cannot be read: {error}");
        let mut file = None;
        for (number, part) in guest.parts.iter().enumerate() {
            let Some(id) = part.file.filter(|_| part.origin.is_shareable()) else { continue };
            let file = match &mut file {
                Some(file) => &*file,
                none => none.insert(File::open(&pages).map_err(failed)?),
            };
            let mut numbers = Vec::new();
            for (start, end) in &part.ranges {
                frames_of(file, start / PAGE_SIZE, end / PAGE_SIZE, &mut numbers)
                    .map_err(failed)?;
            }
            if numbers.contains(&0) {
                return Err("this host tells the numbers of page frames to root alone".to_owned());
            }
            numbers.sort_unstable();
            numbers.dedup();
            let seen = seen.entry(id).or_default();
            for frame in &numbers {
                let (last, guests) = seen.entry(*frame).or_insert((at, 1));
                if *last != at {
                    (*last, *guests) = (at, guests.saturating_add(1));
                }
            }
            lists.insert((at, number), numbers);
        }
    }
    for ((at, number), list) in lists {
        let part = guests.get_mut(at).and_then(|guest| guest.parts.get_mut(number));
        let Some(part) = part else { continue };
        let seen = part.file.and_then(|id| seen.get(&id));
        let shared = |frame: &&u64| {
            seen.and_then(|seen| seen.get(*frame)).is_some_and(|(_, guests)| *guests > 1)
        };
        let first = list.iter().take(NAMED);
        part.frames = Some(Frames {
            count: list.len() as u64,
            shared: list.iter().filter(shared).count() as u64,
            first: first.map(|number| frame(*number, counts.as_ref())).collect(),
        });
    }
    Ok(())
}

fn frame(number: u64, counts: Option<&File>) -> Frame {
    let mut count = [0; 8];
    let read = counts.zip(number.checked_mul(8)).and_then(|(counts, at)| {
        counts.read_exact_at(&mut count, at).ok()?;
        Some(u64::from_ne_bytes(count))
    });
    Frame { number, mapped: read }
}

/// The frames behind the pages from `start` up to `end` that are a file's; 0 where the host keeps
/// the number to itself.
fn frames_of(pagemap: &File, start: u64, end: u64, into: &mut Vec<u64>) -> io::Result<()> {
    const PRESENT: u64 = 1 << 63;
    const OF_FILE: u64 = 1 << 61;
    const NUMBER: u64 = (1 << 55) - 1;
    let mut at = start;
    let mut bytes = Vec::new();
    while at < end {
        let count = (end - at).min(AT_ONCE);
        bytes.resize(usize::try_from(count.saturating_mul(8)).unwrap_or(8), 0);
        let read = pagemap.read_at(&mut bytes, at.saturating_mul(8))?;
        if read == 0 {
            break;
        }
        for entry in bytes.get(..read).unwrap_or_default().as_chunks::<8>().0 {
            let entry = u64::from_ne_bytes(*entry);
            if entry & PRESENT != 0 && entry & OF_FILE != 0 {
                into.push(entry & NUMBER);
            }
        }
        at = at.saturating_add((read as u64 / 8).max(1));
    }
    Ok(())
}
