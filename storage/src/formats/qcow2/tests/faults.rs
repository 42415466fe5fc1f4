//! Flushes that fail on the way, and what is written by the next one.

use std::collections::BTreeSet;

use super::*;
use crate::crash::{Files, Recorder, Walk};
use crate::formats::qcow2::map::COPIED;
use crate::image::fault::{Fault, Faults};

const FAULT: Fault = Fault { no_space: false, written: 100 };

/// An image whose calls are recorded, and may fail.
struct Subject {
    _folder: tempfile::TempDir,
    path: PathBuf,
    before: Vec<u8>,
    layer: Qcow2Layer,
    recorder: Recorder,
    faults: Faults,
}

impl Subject {
    /// Of so many clusters, with these options of QEMU's.
    fn new(options: &str, clusters: u64) -> Subject {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("a.qcow2");
        qemu_img(&["create", "-f", "qcow2", "-o", options, text(&path), "64M"]);
        let grown = layer(&path, true);
        let map = &mut grown.state().map;
        while map.refcounts.clusters() < clusters {
            map.refcounts.allocate(&grown.image).unwrap();
        }
        map.flush().unwrap();
        let before = std::fs::read(&path).unwrap();
        let (recorder, faults) = (Recorder::default(), Faults::default());
        let (_recorded, _failing) = (recorder.install(), faults.install());
        let layer = layer(&path, true);
        Subject { _folder: folder, path, before, layer, recorder, faults }
    }

    /// Writes a payload to a guest cluster, as requests do.
    fn put(&self, cluster: u64) {
        let map = &mut self.layer.state().map;
        map.ensure_table(cluster).unwrap();
        let (host, _) = map.refcounts.allocate(&self.layer.image).unwrap();
        let at = host << map.header.cluster_bits;
        self.layer.image.write_at(&self.payload(cluster), at).unwrap();
        map.publish(cluster, at | COPIED).unwrap();
    }

    fn payload(&self, cluster: u64) -> Vec<u8> {
        vec![u8::try_from(1 + cluster % 251).unwrap(); self.layer.info.granularity as usize]
    }

    fn flush(&self) -> Result<(), FormatError> {
        self.layer.state().map.flush()
    }

    /// Whatever a crash leaves, counts are not too low, and a cluster that is mapped holds its
    /// payload.
    fn survives(&self, samples: usize, clusters: &BTreeSet<u64>, told: &str) {
        let changes = self.recorder.changes();
        let now = std::fs::read(&self.path).unwrap();
        std::fs::write(&self.path, &self.before).unwrap();
        let mut files = Files::default();
        files.import(&self.path).unwrap();
        let walk = Walk { changes: &changes, begin: 0, samples, seed: 3 };
        let looked = walk.each(files, |_, _| {
            let layer = Qcow2Layer::open(layer_file(&self.path, false));
            let layer = layer.map_err(|error| format!("does not open: {error}"))?;
            let found = layer.check(false).map_err(|error| format!("{error:?}"))?;
            if let Some(harm) = found.iter().find(|finding| !finding.harmless) {
                return Err(format!("the check finds {harm:?}"));
            }
            for &cluster in clusters {
                let Mapping::Data { host } = layer.state().map.mapping(cluster).unwrap() else {
                    continue;
                };
                let mut bytes = vec![0; layer.info.granularity as usize];
                layer.image.read_at(&mut bytes, host).unwrap();
                if bytes != self.payload(cluster) {
                    return Err(format!("cluster {cluster} is mapped before its payload is there"));
                }
            }
            Ok(())
        });
        looked.unwrap_or_else(|what| panic!("{told}: {what}"));
        std::fs::write(&self.path, now).unwrap();
    }
}

/// The file may refer to a new table although the flush that wrote so has failed: the next one must
/// not put entries into it before what they lead to is durable.
#[test]
fn a_table_is_new_until_the_file_may_refer_to_it() {
    let calls = {
        let subject = Subject::new("cluster_size=4k", 0);
        subject.put(0);
        let before = subject.faults.calls();
        subject.flush().unwrap();
        subject.faults.calls() - before
    };
    assert!(calls >= 5, "{calls}");
    for call in 0..calls {
        let subject = Subject::new("cluster_size=4k", 0);
        subject.put(0);
        subject.faults.fail_after(call, FAULT);
        subject.flush().unwrap_err();
        (1..9).for_each(|cluster| subject.put(cluster));
        subject.flush().unwrap();
        subject.survives(6, &(0..9).collect(), &format!("call {call}"));
    }
}

/// A table of counts that moves on before the file is known to name its last place keeps that: the
/// file may name it.
#[test]
fn a_refcount_table_keeps_every_place_that_the_file_may_name() {
    const CROWDED: &str = "cluster_size=512,refcount_bits=64";
    // The first table counts 4096 clusters.
    let prepared = || {
        let subject = Subject::new(CROWDED, 4096 - 40);
        (0..40).for_each(|cluster| subject.put(cluster));
        assert!(!subject.layer.state().map.refcounts.is_in_place());
        subject
    };
    let calls = {
        let subject = prepared();
        let before = subject.faults.calls();
        subject.flush().unwrap();
        subject.faults.calls() - before
    };
    for call in calls.saturating_sub(5)..calls {
        let subject = prepared();
        subject.faults.fail_after(call, FAULT);
        subject.flush().unwrap_err();
        {
            let map = &mut subject.layer.state().map;
            let (_, place) = map.refcounts.own();
            while map.refcounts.own().1 == place {
                map.refcounts.allocate(&subject.layer.image).unwrap();
            }
        }
        // A place that was given back would be overwritten now.
        (40..46).for_each(|cluster| subject.put(cluster));
        subject.survives(1, &(0..46).collect(), &format!("call {call} of {calls}"));
        subject.flush().unwrap();
        let found = layer(&subject.path, false).check(false).unwrap();
        assert!(found.iter().all(|finding| finding.harmless), "{found:?}");
    }
}

/// Where the clusters of a table that moves cannot be counted, it stays where it is.
#[test]
fn a_refcount_table_that_cannot_be_counted_does_not_move() {
    let mut stayed = 0;
    for call in 0..12 {
        let subject = Subject::new("cluster_size=512,refcount_bits=64", 4096 - 2);
        subject.faults.fail_after(call, Fault { no_space: true, written: 0 });
        {
            let map = &mut subject.layer.state().map;
            let taken = (0..8).map(|_| map.refcounts.allocate_table(&subject.layer.image));
            stayed += taken.filter(Result::is_err).count();
        }
        subject.flush().or_else(|_| subject.flush()).unwrap();
        let found = layer(&subject.path, false).check(false).unwrap();
        assert!(found.iter().all(|finding| finding.harmless), "call {call}: {found:?}");
    }
    assert!(stayed > 3, "{stayed}");
}
