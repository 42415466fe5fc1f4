//! Tables of a damaged image that are in one place: a change of one would be one of the other.

use super::map::{Map, OFFSET};
use crate::formats::FormatError;

/// Refuses an image in which that is so. Images with internal snapshots are not changed at all, so
/// the disk's own tables are all that matter.
pub(super) fn require_apart(map: &Map) -> Result<(), FormatError> {
    let (bits, cluster) = (map.header.cluster_bits, map.header.cluster());
    let (blocks, (table, table_clusters)) = map.refcounts.own();
    let l1_clusters = (map.header.l1_size as u64 * 8).div_ceil(cluster);
    let mut places = vec![
        (0, 1, "the header"),
        (map.header.l1_offset >> bits, l1_clusters, "the L1 table"),
        (table >> bits, table_clusters.into(), "the refcount table"),
    ];
    places.extend(blocks.map(|offset| (offset >> bits, 1, "a refcount block")));
    let l2 = map.l1().iter().map(|entry| entry & OFFSET).filter(|&offset| offset != 0);
    places.extend(l2.map(|offset| (offset >> bits, 1, "an L2 table")));
    places.retain(|&(_, clusters, _)| clusters > 0);
    places.sort_unstable();
    for pair in places.windows(2) {
        let [(first, clusters, one), (second, _, other)] = *pair else { continue };
        if second - first < clusters {
            let what = format!("{one} and {other} are both here");
            return Err(FormatError::damaged(second << bits, what));
        }
    }
    Ok(())
}
