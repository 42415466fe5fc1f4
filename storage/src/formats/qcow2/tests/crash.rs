//! Crashes while compressed clusters are replaced: what they leave free may be taken by others, but
//! not before nothing refers to it. (`src/crash` has all that other images do.)

use super::*;
use crate::crash::{Change, Dice, Recorder};
use crate::engine::record::Recording;

const SIZE: usize = 12 * CLUSTER;

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let len = |number: u64| usize::try_from(number).unwrap();
    match change {
        Change::Write { at, bytes: new } => {
            let at = len(*at);
            if bytes.len() < at + new.len() {
                bytes.resize(at + new.len(), 0);
            }
            bytes[at..at + new.len()].copy_from_slice(new);
        }
        Change::Punch { at, len: count } | Change::ZeroRange { at, len: count } => {
            let end = len(at + count).min(bytes.len());
            bytes[len(*at).min(end)..end].fill(0);
        }
        Change::SetLen(new) => bytes.resize(len(*new), 0),
        Change::Sync => {}
    }
}

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
    let [raw, path, torn] = ["raw", "a.qcow2", "torn.qcow2"].map(|name| folder.path().join(name));
    let old = pattern(9, SIZE);
    std::fs::write(&raw, &old).unwrap();
    let convert = ["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&path)];
    qemu_img(&convert);
    let mut durable = std::fs::read(&path).unwrap();
    let recorder = Recorder::default();
    let steps = session(&path, &old, &recorder);
    assert!(Some(&read_by_qemu(&path)) == steps.last().map(|step| &step.model));
    assert_clean(&path);

    let changes = recorder.changes();
    let mut dice = Dice::new(12);
    let (mut pending, mut checked) = (Vec::new(), 0);
    for (time, (_, change)) in changes.iter().enumerate() {
        match change {
            Change::Sync => pending.drain(..).for_each(|change| apply(&mut durable, change)),
            change => pending.push(change),
        }
        for chance in [100, 0, 50] {
            let mut state = durable.clone();
            for change in pending.iter().filter(|_| dice.chance(chance)) {
                apply(&mut state, change);
            }
            std::fs::write(&torn, &state).unwrap();
            let found = layer(&torn, false).check(false).unwrap();
            assert!(found.iter().all(|finding| finding.harmless), "change {time}: {found:?}");
            let now = read(&mut open_to_read(&torn), 0, SIZE);
            // What was flushed is there, or what was asked for since.
            let flushed = steps.iter().rposition(|step| step.flush && step.end <= time + 1);
            let allowed: Vec<&Step> = steps[flushed.unwrap()..]
                .iter()
                .enumerate()
                .filter(|(after, step)| *after == 0 || step.start <= time)
                .map(|(_, step)| step)
                .collect();
            for part in (0..SIZE).step_by(512).map(|at| at..at + 512) {
                let known =
                    allowed.iter().any(|step| step.model[part.clone()] == now[part.clone()]);
                assert!(known, "change {time} of {}, {chance}: {part:?}", changes.len());
            }
            checked += 1;
        }
    }
    assert!(checked > 300, "{checked}");
}
