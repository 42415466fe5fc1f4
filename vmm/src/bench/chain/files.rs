//! The same reads straight from the files of a chain: what the host's page cache takes for them,
//! whoever asks. It looks pages up in a tree for each file, and a page that is alone in its part of
//! a file costs more than one among others.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use storage::tools::{self, Unwatched};
use storage::{Disk, DiskOptions};

use super::stack::{QCOW2_CLUSTER, failed};
use crate::bench::BenchError;

const BLOCK: u64 = 4096;
/// Reads between two looks at the clock.
const BATCH: usize = 256;

/// A chain's files, and where the disk's bytes are in them.
pub(super) struct Files {
    files: Vec<File>,
    /// For each cluster of the disk: the file, and the offset in it.
    places: Vec<(usize, u64)>,
}

impl Files {
    /// Those of the disk at `path`, all of which is data.
    pub(super) fn of(path: &Path) -> Result<Files, BenchError> {
        let fail = |error: &dyn std::fmt::Display| failed(path, error.to_string().into());
        let options = DiskOptions { read_only: true, ..DiskOptions::default() };
        let disk = Disk::open(path, &options).map_err(|error| fail(&error))?;
        let map = tools::map(&disk, &Unwatched).map_err(|error| fail(&error))?;
        let files = disk.layer_paths().into_iter().map(File::open).collect::<Result<_, _>>();
        let files = files.map_err(|error| fail(&error))?;
        let mut places = Vec::new();
        for entry in map {
            let place = entry.depth.zip(entry.offset);
            let (layer, offset) = place.ok_or_else(|| fail(&"it is not full"))?;
            let clusters = (0..entry.length / QCOW2_CLUSTER).map(|number| number * QCOW2_CLUSTER);
            places.extend(clusters.map(|within| (layer.into(), offset + within)));
        }
        Ok(Files { files, places })
    }

    /// Reads blocks at random places for so long; how many a second.
    pub(super) fn rate(&self, time: Duration) -> std::io::Result<f64> {
        let (mut block, mut random) = ([0; 4096], 0x9E37_79B9_7F4A_7C15_u64);
        let (mut count, start) = (0.0, Instant::now());
        while start.elapsed() < time {
            for _ in 0..BATCH {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let at = random % (self.places.len() as u64 * QCOW2_CLUSTER) / BLOCK * BLOCK;
                let cluster = usize::try_from(at / QCOW2_CLUSTER).unwrap_or_default();
                if let Some(&(file, offset)) = self.places.get(cluster)
                    && let Some(file) = self.files.get(file)
                {
                    file.read_exact_at(&mut block, offset + at % QCOW2_CLUSTER)?;
                    count += 1.0;
                }
            }
        }
        Ok(count / start.elapsed().as_secs_f64())
    }
}
