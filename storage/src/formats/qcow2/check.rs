//! Whether refcounts agree with what is referred to.

use super::header::Header;
use super::index;
use super::map::{COPIED, Map, Mapping};
use crate::formats::FormatError;
use crate::layer::Finding;

/// Clusters of the file that are counted in one pass over the map.
const PASS: u64 = 8 << 20;
/// Clusters of the largest file that is looked through: 2 TiB and more, by their size.
const CLUSTERS_MAX: u64 = 1 << 32;
/// Findings that are told one by one.
const TOLD: usize = 100;

struct Check {
    findings: Vec<Finding>,
    more: u64,
    /// The pass: its first cluster, and how often each is referred to.
    first: u64,
    counts: Vec<u16>,
}

impl Check {
    fn tell(&mut self, harmless: bool, repaired: bool, what: impl FnOnce() -> String) {
        if self.findings.len() < TOLD {
            self.findings.push(Finding { what: what(), harmless, repaired });
        } else {
            self.more += 1;
            // What is not told must not look harmless.
            self.findings[TOLD - 1].harmless &= harmless;
            self.findings[TOLD - 1].repaired &= repaired;
        }
    }

    fn count(&mut self, cluster: u64, clusters: u64) {
        for cluster in cluster.max(self.first)..cluster.saturating_add(clusters) {
            let Some(count) = self.counts.get_mut(index(cluster - self.first)) else { break };
            *count = count.saturating_add(1);
        }
    }
}

/// Compares, and with `repair` lowers counts that are too high.
pub(super) fn check(map: &mut Map, repair: bool) -> Result<Vec<Finding>, FormatError> {
    if map.header.snapshots != 0 {
        let what = "checking an image with internal snapshots".to_owned();
        return Err(FormatError::Unsupported { what });
    }
    if map.image.is_writable() {
        map.flush()?;
    }
    let total = map.refcounts.clusters();
    if total > CLUSTERS_MAX {
        let what = format!("checking a file of {total} clusters");
        return Err(FormatError::Unsupported { what });
    }
    let mut check = Check { findings: Vec::new(), more: 0, first: 0, counts: Vec::new() };
    while check.first < total {
        check.counts = vec![0; index((total - check.first).min(PASS))];
        count_all(map, &mut check)?;
        compare(map, &mut check, repair)?;
        check.first += PASS;
    }
    if repair {
        map.flush()?;
    }
    if check.more > 0 {
        let what = format!("and {} more like these", check.more);
        let last = check.findings[TOLD - 1].clone();
        check.findings.push(Finding { what, ..last });
    }
    Ok(check.findings)
}

/// Counts every reference into the pass.
fn count_all(map: &mut Map, check: &mut Check) -> Result<(), FormatError> {
    let Header { cluster_bits, l1_offset, l1_size, .. } = map.header;
    let cluster = map.header.cluster();
    let total = map.refcounts.clusters();
    check.count(0, 1);
    check.count(l1_offset >> cluster_bits, (l1_size as u64 * 8).div_ceil(cluster));
    let (blocks, (table, table_clusters)) = map.refcounts.own();
    blocks.for_each(|offset| check.count(offset >> cluster_bits, 1));
    check.count(table >> cluster_bits, u64::from(table_clusters));
    let first_pass = check.first == 0;
    let mut tables = 0;
    for number in 0..map.l1().len() {
        let offset = match map.l2_offset(number) {
            Ok(0) => continue,
            Ok(offset) if offset >> cluster_bits < total => offset,
            _ => {
                if first_pass {
                    check.tell(false, false, || format!("L1 entry {number} makes no sense"));
                }
                continue;
            }
        };
        tables += 1;
        if tables > total {
            // The file has not that many clusters: some table is referred to twice, and more often
            // than it is worth reading.
            check.tell(false, false, || "more L2 tables than clusters".to_owned());
            break;
        }
        check.count(offset >> cluster_bits, 1);
        for (at, entry) in map.read_table(offset)?.into_iter().enumerate() {
            if entry == 0 {
                continue;
            }
            let place = offset + at as u64 * 8;
            let mapping = match map.decode(entry) {
                Ok(mapping) => mapping,
                Err(error) => {
                    if first_pass {
                        check.tell(false, false, || format!("L2 entry at {place:#x}: {error}"));
                    }
                    continue;
                }
            };
            let (host, clusters) = match mapping {
                Mapping::Unallocated | Mapping::Zero { host: None } => continue,
                Mapping::Zero { host: Some(host) } | Mapping::Data { host } => (host, 1),
                Mapping::Compressed { at, len } => {
                    (at, ((at + len - 1) >> cluster_bits) + 1 - (at >> cluster_bits))
                }
            };
            if host >> cluster_bits >= total && first_pass {
                check.tell(false, false, || {
                    format!("L2 entry at {place:#x} is beyond the end of the file")
                });
            }
            let alone = !matches!(mapping, Mapping::Compressed { .. });
            if alone && first_pass && entry & COPIED == 0 {
                check.tell(true, false, || {
                    format!("L2 entry at {place:#x} lacks the mark that nobody shares its cluster")
                });
            }
            check.count(host >> cluster_bits, clusters);
        }
    }
    Ok(())
}

fn compare(map: &mut Map, check: &mut Check, repair: bool) -> Result<(), FormatError> {
    let (image, bits) = (std::sync::Arc::clone(&map.image), map.header.cluster_bits);
    for at in 0..check.counts.len() {
        let cluster = check.first + at as u64;
        let (found, counted) = (u64::from(check.counts[at]), map.refcounts.get(&image, cluster)?);
        let place = cluster << bits;
        if counted < found {
            check.tell(false, false, || {
                format!("the cluster at {place:#x} is used {found} times and counted {counted}")
            });
        } else if counted > found && !map.header.has_bitmaps() {
            if repair {
                map.refcounts.set(&image, cluster, found)?;
            }
            check.tell(true, repair, || {
                format!("the cluster at {place:#x} is counted {counted} times and used {found}")
            });
        }
        // Blocks in memory stay few.
        if repair && at % (1 << 16) == 0 {
            map.make_room()?;
        }
    }
    Ok(())
}
