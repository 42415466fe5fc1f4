//! Damage that opening a file does not find: that of the map.

use super::MIB;
use super::bat::Payload;
use super::map::Map;
use super::region::Region;
use crate::formats::FormatError;
use crate::layer::Finding;

/// Findings that are reported at most.
const FINDINGS_MAX: usize = 1000;

/// What is wrong with the map, and where the file may end.
pub(super) fn check(map: &mut Map) -> Result<(Vec<Finding>, u64), FormatError> {
    let (mut findings, mut used) = (Vec::new(), Vec::new());
    let geometry = map.geometry;
    // Space that blocks keep although they do not use it.
    let mut kept = Vec::new();
    let mut sound = true;
    for block in 0..geometry.blocks() {
        match map.payload(block) {
            Ok(Payload::Fully(offset)) => used.push(Region { offset, len: geometry.block }),
            Ok(Payload::Partially(offset)) => {
                used.push(Region { offset, len: geometry.block });
                if let Err(error) = map.bitmap_of_partial(block) {
                    report(&mut findings, error)?;
                }
            }
            Ok(Payload::NotPresent | Payload::Zero) => {
                let offset = map.entry(geometry.entry_of(block))? & !(MIB - 1);
                let region = Region { offset, len: geometry.block };
                if offset != 0 && region.end() <= map.space.end() {
                    kept.push(region);
                }
            }
            Err(error) => {
                sound = false;
                report(&mut findings, error)?;
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
                    report(&mut findings, error)?;
                }
            }
        }
    }
    used.sort_unstable_by_key(|region| region.offset);
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
