//! Whether two disks read the same.

use serde::Serialize;

use super::convert::{is_zero, same_places, whole};
use super::io::{DiskIo, PIECE};
use super::map::{MapState, Places};
use super::name::DiskName;
use super::{Progress, ToolError, step};
use crate::units::DiskRange;

/// How two disks compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The first byte that differs; none if all that both have is equal, and what only one has is
    /// zero.
    pub difference: Option<u64>,
    /// Bytes of each.
    pub sizes: (u64, u64),
}

/// Compares the contents of two disks.
pub fn compare(
    first: &DiskName,
    second: &DiskName,
    progress: &dyn Progress,
) -> Result<Compared, ToolError> {
    let mut a = DiskIo::new(&first.path, first.open()?)?;
    let mut b = DiskIo::new(&second.path, second.open()?)?;
    let sizes = (a.size(), b.size());
    let (common, total) = (sizes.0.min(sizes.1), sizes.0.max(sizes.1));
    let (one, other) = (a.disk.clone(), b.disk.clone());
    let (here, there) = (Places::of(&one), Places::of(&other));
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for part in whole(common, PIECE) {
        step(progress, part.start(), total)?;
        left.clear();
        right.clear();
        here.entries(&a, part, &mut left)?;
        there.entries(&b, part, &mut right)?;
        if same_places(&here, &left, &there, &right) || all_zero(&left) && all_zero(&right) {
            continue;
        }
        let (left, right) = (a.read(part)?, b.read(part)?);
        if left != right {
            let at = left.iter().zip(right).position(|(a, b)| a != b).unwrap_or_default();
            return Ok(Compared { difference: Some(part.start() + at as u64), sizes });
        }
    }
    let (longer, places) = if sizes.0 > sizes.1 { (&mut a, here) } else { (&mut b, there) };
    let rest = DiskRange::new(common, total - common);
    for part in rest.into_iter().flat_map(|rest| super::io::parts(rest, PIECE)) {
        step(progress, part.start(), total)?;
        left.clear();
        places.entries(longer, part, &mut left)?;
        if all_zero(&left) {
            continue;
        }
        let bytes = longer.read(part)?;
        if !is_zero(bytes) {
            let at = bytes.iter().position(|byte| *byte != 0).unwrap_or_default();
            return Ok(Compared { difference: Some(part.start() + at as u64), sizes });
        }
    }
    step(progress, total, total)?;
    Ok(Compared { difference: None, sizes })
}

fn all_zero(entries: &[super::MapEntry]) -> bool {
    entries.iter().all(|entry| entry.state == MapState::Zero)
}
