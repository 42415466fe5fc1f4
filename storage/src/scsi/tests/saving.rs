//! Reservations that cannot be saved: what was not answered with GOOD has not happened, for anyone.

use super::*;
use crate::image::fault::{Fault, Faults};
use crate::reservation::Store;

const REGISTER: u8 = 0;
const WRITE_EXCLUSIVE: u8 = 1;
const REGISTRANTS_ONLY: u8 = 5;

/// A target that saves, three initiators, of which "a" and "b" are registered with their number,
/// and "a" holds a reservation that lets registered ones write.
struct Stage {
    faults: Faults,
    path: std::path::PathBuf,
    target: Target,
    rigs: [Rig; 3],
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let faults = Faults::default();
        let installed = faults.install();
        let store = Store::open(&path).unwrap();
        drop(installed);
        let target = Target::new(vec![unit(1 << 20, EngineChoice::Auto)], Some(store)).unwrap();
        let mut rigs = ["a", "b", "c"].map(|name| Rig::on(&target, name));
        durable(&mut rigs[0], REGISTER, 0, 0, 1).good();
        durable(&mut rigs[1], REGISTER, 0, 0, 2).good();
        durable(&mut rigs[0], 1, REGISTRANTS_ONLY, 1, 0).good();
        Stage { faults, path, target, rigs, _folder: folder }
    }

    /// All that initiators can tell: keys, reservation, and what each may do.
    #[track_caller]
    fn seen(&mut self) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        for rig in &mut self.rigs {
            for action in [0, 1, 3] {
                seen.push(rig.run(&[0x5e, action, 0, 0, 0, 0, 0, 1, 0, 0], &[], 256).good());
            }
            // A unit attention would be told here.
            let status = rig.run(&cdb10(0x2a, 0, 0, 1), &[1; BLOCK], 0).response.status;
            seen.push(vec![status as u8]);
        }
        seen
    }

    /// What a server finds that starts anew, this one being killed.
    fn kept(&self) -> Reservations {
        let copy = self.path.with_extension("copy");
        std::fs::copy(&self.path, &copy).unwrap();
        Store::open(&copy).unwrap().load("a disk").unwrap_or_default()
    }
}

/// PERSISTENT RESERVE OUT with APTPL.
fn durable(rig: &mut Rig, action: u8, kind: u8, key: u64, new: u64) -> Got {
    let (cdb, mut list) = reserve_out(action, kind, key, new);
    list[20] = 1;
    rig.run(&cdb, &list, 0)
}

/// Who sends what: action, type, key, service action key.
const CHANGES: [(usize, [u8; 2], u64, u64); 9] = [
    (2, [REGISTER, 0], 0, 3),
    (2, [6, 0], 0, 3),
    (0, [REGISTER, 0], 1, 9),
    (0, [REGISTER, 0], 1, 0),
    (1, [REGISTER, 0], 2, 0),
    (0, [2, REGISTRANTS_ONLY], 1, 0),
    (1, [3, 0], 2, 0),
    (1, [4, WRITE_EXCLUSIVE], 2, 1),
    (1, [5, WRITE_EXCLUSIVE], 2, 1),
];

#[test]
fn what_cannot_be_saved_has_not_happened_for_anyone() {
    for (who, [action, kind], key, new) in CHANGES {
        for (calls, no_space, written) in
            [(0, true, 0), (0, true, 50), (0, false, 100), (1, false, 0)]
        {
            let fault = Fault { no_space, written };
            let mut stage = Stage::new();
            let (seen, kept) = (stage.seen(), stage.kept());
            let status = format!("{:?}", stage.target.status().units[0].registrations);
            stage.faults.fail_after(calls, fault);
            durable(&mut stage.rigs[who], action, kind, key, new).check(4, 0x44, 0);
            assert!(stage.faults.hit().is_some());
            assert_eq!(stage.seen(), seen, "{action} {fault:?}");
            assert_eq!(format!("{:?}", stage.target.status().units[0].registrations), status);
            assert_eq!(stage.kept(), kept, "{action} {fault:?}");
            // The host has recovered: the same command is carried out.
            durable(&mut stage.rigs[who], action, kind, key, new).good();
            assert_ne!(stage.kept(), kept);
        }
    }
}

/// A file system that is read-only, or a disk that is gone: nothing that outlasts a loss of power
/// can be changed, and everything else goes on.
#[test]
fn where_nothing_can_be_saved_the_rest_goes_on() {
    let mut stage = Stage::new();
    let seen = stage.seen();
    stage.faults.fail_from(0, Fault { no_space: false, written: 0 });
    for (who, [action, kind], key, new) in CHANGES {
        durable(&mut stage.rigs[who], action, kind, key, new).check(4, 0x44, 0);
        // It also asks for less to be kept.
        if action == REGISTER {
            stage.rigs[who].persistent_out(action, kind, key, new).check(4, 0x44, 0);
        }
    }
    assert!(stage.target.clear_reservations(0).is_err());
    assert_eq!(stage.seen(), seen);
    // Refused for what they are, and not for the file.
    durable(&mut stage.rigs[2], 1, WRITE_EXCLUSIVE, 3, 0).conflict();
    durable(&mut stage.rigs[0], 1, REGISTRANTS_ONLY, 1, 0).good();
    let mut late = Rig::on(&stage.target, "d");
    late.run(&cdb10(0x2a, 0, 0, 1), &[1; BLOCK], 0).conflict();
    stage.faults.heal();
    stage.target.clear_reservations(0).unwrap();
    assert_eq!(stage.kept().registrations().len(), 0);
    late.write(0, &[1; BLOCK]).good();
}

#[test]
fn an_attention_comes_once_it_is_saved_and_not_before() {
    let mut stage = Stage::new();
    stage.faults.fail_after(1, Fault { no_space: false, written: 0 });
    durable(&mut stage.rigs[1], 3, 0, 2, 0).check(4, 0x44, 0);
    stage.rigs[0].write(0, &[1; BLOCK]).good();
    durable(&mut stage.rigs[1], 3, 0, 2, 0).good();
    stage.rigs[0].write(0, &[1; BLOCK]).check(6, 0x2a, 3);
}

#[test]
fn what_does_not_fit_into_the_file_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state")).unwrap();
    let mut unit = unit(1 << 20, EngineChoice::Auto);
    unit.identity = "x".repeat(5000);
    let target = Target::new(vec![unit], Some(store)).unwrap();
    let mut rig = Rig::on(&target, "a");
    durable(&mut rig, REGISTER, 0, 0, 1).check(5, 0x55, 4);
    rig.persistent_out(REGISTER, 0, 0, 1).good();
}
