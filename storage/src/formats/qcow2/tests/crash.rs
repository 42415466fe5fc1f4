//! Crashes while compressed clusters are replaced: what they leave free may be taken by others, but
//! not before nothing refers to it. (`src/crash` has all that other images do.)

use super::*;
use crate::crash::{Dice, Files, Recorder, Walk, qemu_check, samples};
use crate::engine::record::Recording;

const SIZE: usize = 12 * CLUSTER;

/// A request, and what the disk holds after it.
struct Step {
    /// How many changes the file had seen when it was submitted, and when it was answered.
    start: usize,
    end: usize,
    flush: bool,
    model: Vec<u8>,
}

/// Writes over a compressed image, flushing now and then.
fn session(path: &Path, old: &[u8], recorder: &Recorder) -> Vec<Step> {
    let mut model = old.to_vec();
    let mut steps = vec![Step { start: 0, end: 0, flush: true, model: model.clone() }];
    let mut dice = Dice::new(11);
    let installed = recorder.install();
    let disk = Disk::open(path, &DiskOptions::default()).unwrap();
    let mut queue = disk.queue_on(Recording::new(recorder, 13), 4);
    drop((disk, installed));
    for step in 0..60 {
        let at = dice.below(SIZE / 512 - 150) * 512;
        let len = (1 + dice.below(150)) * 512;
        let part = at..at + len;
        let (start, kind) = (recorder.len(), dice.below(6));
        match kind {
            0 => {
                let zeroes = Operation::WriteZeroes { unmap: true };
                ask(&mut queue, zeroes, at as u64, len as u64, Buffers::none()).unwrap();
                model[part].fill(0);
            }
            1 | 2 => ask(&mut queue, Operation::Flush, 0, 0, Buffers::none()).unwrap(),
            _ => {
                write(&mut queue, at as u64, &vec![100 + step; len]);
                model[part].fill(100 + step);
            }
        }
        let flush = matches!(kind, 1 | 2);
        steps.push(Step { start, end: recorder.len(), flush, model: model.clone() });
    }
    drop(queue);
    steps
}

#[test]
fn what_compressed_clusters_leave_free() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| folder());
    let [raw, path] = ["raw", "a.qcow2"].map(|name| folder.path().join(name));
    let old = pattern(9, SIZE);
    std::fs::write(&raw, &old).unwrap();
    let convert = ["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&path)];
    qemu_img(&convert);
    let (mut files, recorder) = (Files::default(), Recorder::default());
    files.import(&path).unwrap();
    let steps = session(&path, &old, &recorder);
    assert!(Some(&read_by_qemu(&path)) == steps.last().map(|step| &step.model));
    assert_clean(&path);

    let changes = recorder.changes();
    let walk = Walk { changes: &changes, begin: 0, samples: samples(), seed: 12 };
    let mut checked = 0;
    let states = walk.each(files, |state, _| {
        let found = layer(&path, false).check(false).unwrap();
        assert!(found.iter().all(|finding| finding.harmless), "{found:?}");
        let now = read(&mut open_to_read(&path), 0, SIZE);
        // What was flushed is there, or what was asked for since.
        let flushed = steps.iter().rposition(|step| step.flush && step.end <= state.time);
        let allowed: Vec<&Step> = steps[flushed.unwrap()..]
            .iter()
            .enumerate()
            .filter(|(after, step)| *after == 0 || step.start < state.time)
            .map(|(_, step)| step)
            .collect();
        let sectors = (0..SIZE).step_by(512).map(|at| at..at + 512);
        for part in sectors {
            if !allowed.iter().any(|step| step.model[part.clone()] == now[part.clone()]) {
                return Err(format!("{part:?} holds something else"));
            }
        }
        if state.number % 29 == 0 {
            checked += usize::from(qemu_check(&path)?);
        }
        Ok(())
    });
    let states = states.unwrap_or_else(|what| panic!("{what}"));
    println!("qcow2 of compressed clusters: {states} states, {checked} checked by QEMU");
    assert!(states > 300 && checked > 0, "{states}");
}
