//! Whether refcounts agree with what is referred to.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::header::Header;
use super::index;
use super::map::{COPIED, Map, Mapping, OFFSET, read_entries};
use super::snapshots::Snapshots;
use crate::formats::FormatError;
use crate::layer::Finding;

/// Clusters of the file that are counted in one pass over the map.
const PASS: u64 = 8 << 20;
/// Clusters of the largest file that is looked through: 2 TiB and more, by their size.
const CLUSTERS_MAX: u64 = 1 << 32;
/// L2 tables that are looked through at most: of that many clusters, images have petabytes.
const TABLES_MAX: usize = 8 << 20;
/// Entries of a snapshot's L1 table that are read at a time.
const L1_PIECE: usize = 1 << 16;
/// Findings that are told one by one.
const TOLD: usize = 100;

#[derive(Default)]
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

    fn count(&mut self, cluster: u64, clusters: u64, times: u16) {
        for cluster in cluster.max(self.first)..cluster.saturating_add(clusters) {
            let Some(count) = self.counts.get_mut(index(cluster - self.first)) else { break };
            *count = count.saturating_add(times);
        }
    }
}

/// How an L2 table is referred to.
#[derive(Clone, Copy, Default)]
struct Table {
    /// By so many L1 tables.
    times: u16,
    /// One of them is the disk's own.
    active: bool,
}

/// Compares, and with `repair` puts counts right, but for clusters that are used twice and counted
/// less, and where something else is in the place of the counts.
pub(super) fn check(map: &mut Map, repair: bool) -> Result<Vec<Finding>, FormatError> {
    if map.image.is_writable() {
        map.flush()?;
    }
    let total = map.refcounts.clusters();
    if total > CLUSTERS_MAX {
        let what = format!("checking a file of {total} clusters");
        return Err(FormatError::Unsupported { what });
    }
    let snapshots = Snapshots::read(&map.image, &map.header, map.refcounts.file_len)?;
    let mut check = Check::default();
    let tables = tables(map, &snapshots, &mut check)?;
    let repair = repair && counts_are_alone(map, &snapshots, &tables)?;
    passes(map, &snapshots, &tables, &mut check, |map, check| compare(map, check, repair))?;
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

/// Counts all references, some clusters at a time; `each` is called with the counts of these.
fn passes(
    map: &mut Map,
    snapshots: &Snapshots,
    tables: &BTreeMap<u64, Table>,
    check: &mut Check,
    mut each: impl FnMut(&mut Map, &mut Check) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let total = map.refcounts.clusters();
    while check.first < total {
        check.counts = vec![0; index((total - check.first).min(PASS))];
        count_own(map, snapshots, check);
        for (&offset, &table) in tables {
            count_table(map, check, offset, table)?;
        }
        each(map, check)?;
        check.first += PASS;
    }
    Ok(())
}

/// Whether nothing else is where counts are put right: that would be damaged by it.
fn counts_are_alone(
    map: &mut Map,
    snapshots: &Snapshots,
    tables: &BTreeMap<u64, Table>,
) -> Result<bool, FormatError> {
    let mut alone = true;
    passes(map, snapshots, tables, &mut Check::default(), |map, check| {
        let (bits, (blocks, (table, clusters))) = (map.header.cluster_bits, map.refcounts.own());
        let own = blocks.map(|offset| offset >> bits);
        for cluster in own.chain((0..u64::from(clusters)).map(|at| (table >> bits) + at)) {
            let count = cluster.checked_sub(check.first).and_then(|at| check.counts.get(index(at)));
            alone &= count.is_none_or(|&count| count == 1);
        }
        Ok(())
    })?;
    Ok(alone)
}

/// Every L2 table: of the disk, and of its internal snapshots.
fn tables(
    map: &mut Map,
    snapshots: &Snapshots,
    check: &mut Check,
) -> Result<BTreeMap<u64, Table>, FormatError> {
    let image = Arc::clone(&map.image);
    let mut tables = BTreeMap::new();
    let active = map.l1().to_vec();
    add_tables(map, &active, true, &mut tables, check)?;
    for &(offset, entries) in &snapshots.l1 {
        for start in (0..entries).step_by(L1_PIECE) {
            let count = (entries - start).min(L1_PIECE as u64);
            let entries = read_entries(&image, offset + start * 8, count)?;
            add_tables(map, &entries, false, &mut tables, check)?;
        }
    }
    Ok(tables)
}

fn add_tables(
    map: &mut Map,
    entries: &[u64],
    active: bool,
    tables: &mut BTreeMap<u64, Table>,
    check: &mut Check,
) -> Result<(), FormatError> {
    let (bits, total) = (map.header.cluster_bits, map.refcounts.clusters());
    for (number, &entry) in entries.iter().enumerate() {
        let offset = entry & OFFSET;
        if offset == 0 {
            continue;
        }
        if !offset.is_multiple_of(map.header.cluster()) || offset >> bits >= total {
            let of = if active { "" } else { " of a snapshot" };
            check.tell(false, false, || format!("L1 entry {number}{of} makes no sense"));
            continue;
        }
        if active {
            check_mark(map, check, entry, offset, || format!("L1 entry {number}"))?;
        }
        let table: &mut Table = tables.entry(offset).or_default();
        table.times = table.times.saturating_add(1);
        table.active |= active;
        if tables.len() > TABLES_MAX {
            let what = format!("checking an image of more than {TABLES_MAX} L2 tables");
            return Err(FormatError::Unsupported { what });
        }
    }
    Ok(())
}

/// Counts references to what is no L2 table and not in one.
fn count_own(map: &Map, snapshots: &Snapshots, check: &mut Check) {
    let Header { cluster_bits, l1_offset, l1_size, snapshots_offset, .. } = map.header;
    let cluster = map.header.cluster();
    check.count(0, 1, 1);
    let (blocks, (table, table_clusters)) = map.refcounts.own();
    blocks.for_each(|offset| check.count(offset >> cluster_bits, 1, 1));
    check.count(table >> cluster_bits, u64::from(table_clusters), 1);
    let own = [(l1_offset, l1_size as u64 * 8), (snapshots_offset, snapshots.len)];
    let theirs = snapshots.l1.iter().map(|&(offset, entries)| (offset, entries * 8));
    for (offset, len) in own.into_iter().chain(theirs) {
        check.count(offset >> cluster_bits, len.div_ceil(cluster), 1);
    }
}

/// Counts an L2 table and every reference in it.
fn count_table(
    map: &mut Map,
    check: &mut Check,
    offset: u64,
    table: Table,
) -> Result<(), FormatError> {
    let (cluster_bits, total) = (map.header.cluster_bits, map.refcounts.clusters());
    let first_pass = check.first == 0;
    check.count(offset >> cluster_bits, 1, table.times);
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
        if first_pass && table.active && !matches!(mapping, Mapping::Compressed { .. }) {
            check_mark(map, check, entry, host, || format!("L2 entry at {place:#x}"))?;
        }
        check.count(host >> cluster_bits, clusters, table.times);
    }
    Ok(())
}

/// Holds the mark that says whether nobody shares a cluster against the cluster's count. Without
/// snapshots nobody does, whatever the count, which is looked at by itself.
fn check_mark(
    map: &mut Map,
    check: &mut Check,
    entry: u64,
    host: u64,
    what: impl Fn() -> String,
) -> Result<(), FormatError> {
    let image = Arc::clone(&map.image);
    let shared = map.header.snapshots != 0
        && map.refcounts.get(&image, host >> map.header.cluster_bits)? > 1;
    match (shared, entry & COPIED != 0) {
        (true, true) => check.tell(false, false, || {
            format!("{} has the mark that nobody shares its cluster, and snapshots do", what())
        }),
        (false, false) => check.tell(true, false, || {
            format!("{} lacks the mark that nobody shares its cluster", what())
        }),
        _ => {}
    }
    Ok(())
}

fn compare(map: &mut Map, check: &mut Check, repair: bool) -> Result<(), FormatError> {
    let (image, bits) = (Arc::clone(&map.image), map.header.cluster_bits);
    for at in 0..check.counts.len() {
        let cluster = check.first + at as u64;
        let (found, counted) = (u64::from(check.counts[at]), map.refcounts.get(&image, cluster)?);
        let place = cluster << bits;
        if counted < found {
            // What one table refers to is its own, and was only not counted.
            let mend = repair && found == 1;
            if mend {
                map.refcounts.set(&image, cluster, found)?;
            }
            check.tell(false, mend, || {
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
