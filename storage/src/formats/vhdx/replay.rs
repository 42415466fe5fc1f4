//! Replay of a log that was left behind (MS-VHDX 2.3.2, 2.3.3).

use super::header::Headers;
use super::log::{Entry, Update};
use super::pages::Overlay;
use super::region::{Region, TABLES};
use super::{PAGE, PAGE_BYTES};
use crate::formats::FormatError;
use crate::image::ImageFile;

/// The largest log that is taken into memory. Windows makes logs of 1 MiB.
const LOG_MAX: u32 = 64 << 20;
/// Most pages that an overlay takes of ranges of zeroes.
const ZERO_PAGES_MAX: u64 = 1 << 16;

/// Replays the log, if it matters. A file that is open for reading only is left as it is: the
/// answer holds what the log says about it.
pub(super) fn replay(image: &ImageFile, headers: &mut Headers) -> Result<Overlay, FormatError> {
    let len = image.len().map_err(FormatError::host("find the size of", 0))?;
    let header = headers.current();
    // Nor is anything written to a log that could not be replayed.
    if header.log_len > LOG_MAX && (image.is_writable() || !header.log.is_nil()) {
        let what = format!("use of a VHDX log of {} bytes", header.log_len);
        return Err(FormatError::Unsupported { what });
    }
    if header.log.is_nil() {
        return Ok(Overlay { len, ..Overlay::default() });
    }
    let log = Region { offset: header.log_offset, len: u64::from(header.log_len) };
    let mut bytes = vec![0; header.log_len as usize];
    image.read_at(&mut bytes, log.offset).map_err(FormatError::host("read", log.offset))?;
    // Twice, so that an entry that goes on at the log's start is in one piece.
    bytes.extend_from_within(..);
    let Some((head, updates)) = active(&bytes, headers) else {
        return Err(FormatError::damaged(log.offset, "the log matters, but no entry is valid"));
    };
    if len < head.flushed_len {
        let what = format!("the file had {} bytes, and has only {len}", head.flushed_len);
        return Err(FormatError::damaged(len, what));
    }
    // What is described may be behind where the file ended when it was last cut.
    let ends = updates.iter().map(|update| update.place().end());
    let new_len = ends.fold(len.max(head.last_len), u64::max);
    if new_len > i64::MAX as u64 {
        return Err(FormatError::damaged(log.offset, "a log entry for an impossible file length"));
    }
    for place in updates.iter().map(Update::place) {
        // Only headers and the log itself may never be in a log.
        if place.offset < TABLES[0] || place.overlaps(log) {
            return Err(FormatError::damaged(log.offset, "a log entry for an impossible place"));
        }
    }
    if image.is_writable() {
        into_file(image, &updates, len, new_len)?;
        headers.update(image, |header| {
            header.file_write = uuid::Uuid::new_v4();
            header.log = uuid::Uuid::nil();
        })?;
        return Ok(Overlay { len: new_len, ..Overlay::default() });
    }
    into_overlay(updates, len, new_len)
}

fn into_file(
    image: &ImageFile,
    updates: &[Update],
    len: u64,
    new_len: u64,
) -> Result<(), FormatError> {
    if new_len > len {
        image.set_len(new_len).map_err(FormatError::host("set the size of", len))?;
    }
    let mut used = len;
    for update in updates {
        match update {
            Update::Page { at, bytes } => {
                used = used.max(at.saturating_add(PAGE));
                image.write_at(&bytes[..], *at).map_err(FormatError::host("write", *at))?;
            }
            Update::Zero { at, len: zeroes } => {
                // What nothing was written to is zero already.
                let end = at.saturating_add(*zeroes).min(used);
                if *at < end {
                    image.punch(*at, end - at).map_err(FormatError::host("zero", *at))?;
                }
            }
        }
    }
    image.sync().map_err(FormatError::host("sync", 0))
}

fn into_overlay(updates: Vec<Update>, len: u64, new_len: u64) -> Result<Overlay, FormatError> {
    let mut overlay = Overlay { len: new_len, added: len..new_len, ..Overlay::default() };
    let mut zeroes = 0;
    for update in updates {
        match update {
            Update::Page { at, bytes } => {
                overlay.pages.insert(at, Some(bytes));
            }
            Update::Zero { at, len } => {
                zeroes += len / PAGE;
                if zeroes > ZERO_PAGES_MAX {
                    let what = "replay of this log into memory (open the disk once for writing)";
                    return Err(FormatError::Unsupported { what: what.to_owned() });
                }
                for page in 0..len / PAGE {
                    overlay.pages.insert(at + page * PAGE, None);
                }
            }
        }
    }
    Ok(overlay)
}

/// The active sequence (2.3.2) of a log, which is there twice: of all runs of valid entries with consecutive numbers whose last
/// entry's tail is in the run, that with the highest number. Its last entry, and what the run from
/// the tail on describes.
fn active(twice: &[u8], headers: &Headers) -> Option<(Entry, Vec<Update>)> {
    let header = headers.current();
    let pages = twice.len() / 2 / PAGE_BYTES;
    let bytes_of = |page: usize, entry: &Entry| &twice[page * PAGE_BYTES..][..entry.len as usize];
    // Valid entries do not lie within each other, so each page is summed once.
    let valid: Vec<Option<Entry>> = (0..pages)
        .map(|page| {
            let first = &twice[page * PAGE_BYTES..][..PAGE_BYTES];
            let entry = Entry::decode(first, header.log, header.log_len)?;
            entry.updates(bytes_of(page, &entry)).map(|_| entry)
        })
        .collect();
    let next = |page: usize, entry: &Entry| (page + entry.len as usize / PAGE_BYTES) % pages;
    // Runs are followed from their first entries only: the one before is missing.
    let mut continued = vec![false; pages];
    for (page, entry) in valid.iter().enumerate() {
        let Some(entry) = entry else { continue };
        let after = next(page, entry);
        let follows =
            valid[after].is_some_and(|it| Some(it.sequence) == entry.sequence.checked_add(1));
        continued[after] |= follows;
    }
    let mut best: Option<(Entry, Vec<usize>)> = None;
    for (page, entry) in valid.iter().enumerate() {
        let Some(first) = entry.filter(|_| !continued[page]) else { continue };
        let (mut run, mut head) = (vec![page], first);
        loop {
            let after = next(*run.last()?, &head);
            match valid[after] {
                Some(entry) if Some(entry.sequence) == head.sequence.checked_add(1) => {
                    run.push(after);
                    head = entry;
                }
                _ => break,
            }
        }
        let tail = run.iter().position(|&page| page * PAGE_BYTES == head.tail as usize);
        let Some(tail) = tail else { continue };
        if best.as_ref().is_none_or(|(other, _)| other.sequence < head.sequence) {
            best = Some((head, run.split_off(tail)));
        }
    }
    let (head, run) = best?;
    let mut updates = Vec::new();
    for page in run {
        let entry = valid[page]?;
        updates.extend(entry.updates(bytes_of(page, &entry))?);
    }
    Some((head, updates))
}
