//! Damage that opening a file does not find: that of the map, and of what a file has twice.

use uuid::Uuid;

use super::bat::Payload;
use super::header::Headers;
use super::journal::Journal;
use super::map::Map;
use super::pages::Source;
use super::region::{self, Region};
use super::{MIB, PAGE_BYTES};
use crate::formats::FormatError;
use crate::image::ImageFile;
use crate::layer::Finding;

/// Findings that are reported at most.
const FINDINGS_MAX: usize = 1000;

/// Tables with more entries than this are not searched for space that is free.
const SEARCH_MAX: u64 = 1 << 16;
/// Free places that are looked for at most.
const GAPS_MAX: usize = 256;

/// Where blocks are.
struct Survey {
    /// Those in use, by offset.
    used: Vec<Region>,
    /// Space that blocks keep although they do not use it.
    kept: Vec<Region>,
    /// Blocks that keep space which is not in the file.
    lost: Vec<u64>,
    /// Whether every entry says where its block is.
    sound: bool,
}

/// What is wrong with the map, and where the file may end.
pub(super) fn check(map: &mut Map) -> Result<(Vec<Finding>, u64), FormatError> {
    let mut findings = Vec::new();
    let Survey { used, kept, sound, .. } = survey(map, &mut findings)?;
    for pair in used.windows(2).filter(|pair| pair[0].overlaps(pair[1])) {
        let what = format!("blocks overlap at file offset {:#x}", pair[1].offset);
        push(&mut findings, Finding { what, harmless: false, repaired: false });
    }
    let ends = used.iter().chain(&kept).map(|region| region.end());
    let end = ends.fold(map.regions.end, u64::max);
    let file_end = map.space.end();
    if !sound || end >= file_end {
        return Ok((findings, file_end));
    }
    let what = format!("the last {} bytes of the file are of no use", file_end - end);
    push(&mut findings, Finding { what, harmless: true, repaired: false });
    Ok((findings, end))
}

/// What a file has twice and is damaged in one of its places.
pub(super) struct Copies {
    /// Where.
    header: Option<u64>,
    /// Where, and what belongs there.
    table: Option<(u64, Vec<u8>)>,
}

impl Copies {
    pub(super) fn look(map: &Map) -> Result<Copies, FormatError> {
        let source = Source { image: &map.image, overlay: map.pages.overlay() };
        let header = Headers::damaged(&map.image)?;
        Ok(Copies { header, table: region::damaged_table(&source)? })
    }

    pub(super) fn are_sound(&self) -> bool {
        self.header.is_none() && self.table.is_none()
    }

    pub(super) fn findings(&self, repaired: bool) -> impl Iterator<Item = Finding> {
        let header = self.header.map(|at| ("header", at));
        let table = self.table.as_ref().map(|(at, _)| ("region table", *at));
        header.into_iter().chain(table).map(move |(name, at)| {
            let what = format!("of both copies of the {name}, that at {at:#x} is damaged");
            Finding { what, harmless: true, repaired }
        })
    }

    /// Makes them alike again.
    pub(super) fn mend(
        &self,
        image: &ImageFile,
        headers: &mut Headers,
        journal: &mut Journal,
    ) -> Result<(), FormatError> {
        // Writes both of the headers.
        headers.update(image, |header| header.file_write = Uuid::new_v4())?;
        let Some((at, table)) = &self.table else { return Ok(()) };
        let (pages, _) = table.as_chunks::<PAGE_BYTES>();
        let places = (*at..).step_by(PAGE_BYTES);
        let pages: Vec<_> = places.zip(pages.iter().map(|page| Box::new(*page))).collect();
        journal.write(image, headers, &pages)
    }
}

/// Places for payload blocks behind all regions that the file refers to nowhere: what earlier
/// sessions gave up. Finds some, and none in a file that is damaged.
pub(super) fn gaps(map: &mut Map) -> Result<Vec<u64>, FormatError> {
    let (mut findings, mut gaps) = (Vec::new(), Vec::new());
    if map.geometry.entries() > SEARCH_MAX {
        return Ok(gaps);
    }
    let Survey { mut used, kept, lost, sound } = survey(map, &mut findings)?;
    // Such space will be others', and no two entries may lead to the same.
    lost.into_iter().try_for_each(|block| map.forget_place(block))?;
    if !sound || !findings.is_empty() {
        return Ok(gaps);
    }
    let end = map.space.end();
    used.extend(kept);
    used.push(Region { offset: end, len: 0 });
    used.sort_unstable_by_key(|region| region.offset);
    let (mut at, block) = (map.regions.end, map.geometry.block);
    for region in used {
        while gaps.len() < GAPS_MAX && region.offset.saturating_sub(at) >= block {
            gaps.push(at);
            at += block;
        }
        at = at.max(region.end());
    }
    Ok(gaps)
}

/// Looks at every entry.
fn survey(map: &mut Map, findings: &mut Vec<Finding>) -> Result<Survey, FormatError> {
    let (mut used, mut kept, mut lost, mut sound) = (Vec::new(), Vec::new(), Vec::new(), true);
    let geometry = map.geometry;
    for block in 0..geometry.blocks() {
        match map.payload(block) {
            Ok(Payload::Fully(offset)) => used.push(Region { offset, len: geometry.block }),
            Ok(Payload::Partially(offset)) => {
                used.push(Region { offset, len: geometry.block });
                if let Err(error) = map.bitmap_of_partial(block) {
                    report(findings, error)?;
                }
            }
            Ok(Payload::NotPresent | Payload::Zero) => {
                let offset = map.entry(geometry.entry_of(block))? & !(MIB - 1);
                let region = Region { offset, len: geometry.block };
                if offset != 0 && region.end() <= map.space.end() {
                    kept.push(region);
                } else if offset != 0 {
                    lost.push(block);
                }
            }
            Err(error) => {
                sound = false;
                report(findings, error)?;
            }
        }
    }
    if geometry.differencing {
        for chunk in 0..geometry.blocks().div_ceil(geometry.chunk_ratio()) {
            match map.bitmap(chunk * geometry.chunk_ratio()) {
                Ok(Some(bitmap)) => used.push(Region { offset: bitmap.0, len: MIB }),
                Ok(None) => {}
                Err(error) => {
                    sound = false;
                    report(findings, error)?;
                }
            }
        }
    }
    used.sort_unstable_by_key(|region| region.offset);
    Ok(Survey { used, kept, lost, sound })
}

/// Takes note of damage. What the host says is an error.
fn report(findings: &mut Vec<Finding>, error: FormatError) -> Result<(), FormatError> {
    if !matches!(error, FormatError::Damaged { .. }) {
        return Err(error);
    }
    push(findings, Finding { what: error.to_string(), harmless: false, repaired: false });
    Ok(())
}

fn push(findings: &mut Vec<Finding>, finding: Finding) {
    if findings.len() < FINDINGS_MAX {
        findings.push(finding);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn findings_are_bounded() {
        let mut findings = Vec::new();
        for number in 0..2 * super::FINDINGS_MAX {
            let what = number.to_string();
            super::push(&mut findings, super::Finding { what, harmless: true, repaired: false });
        }
        assert_eq!(findings.len(), super::FINDINGS_MAX);
    }
}
