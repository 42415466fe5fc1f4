//! Reservations as initiators meet them. What they are in themselves is tested where they live.

use super::*;
use crate::reservation::Store;

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const WRITE_EXCLUSIVE: u8 = 1;
const EXCLUSIVE: u8 = 3;
const EXCLUSIVE_REGISTRANTS: u8 = 6;

fn keys(rig: &mut Rig) -> Vec<u8> {
    rig.run(&[0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[], 256).good()
}

#[test]
fn the_gate_is_before_the_data_path() {
    let target = target(1 << 20);
    let [mut holder, mut other] = ["a", "b"].map(|name| Rig::on(&target, name));
    holder.persistent_out(REGISTER, 0, 0, 1).good();
    holder.persistent_out(RESERVE, WRITE_EXCLUSIVE, 1, 0).good();
    holder.write(0, &[1; 512]).good();
    assert_eq!(other.read(0, 1), [1; 512]);
    other.write(0, &[2; 512]).conflict();
    other.run(&compare_and_write(0, 1), &[1; 1024], 0).conflict();
    other.run(&cdb10(0x42, 0, 0, 0), &[], 0).conflict();
    other.run(&cdb16(0x93, 1, 0, 1), &[], 0).conflict();
    holder.persistent_out(RELEASE, WRITE_EXCLUSIVE, 1, 0).good();
    holder.persistent_out(RESERVE, EXCLUSIVE, 1, 0).good();
    other.run(&cdb10(0x28, 0, 0, 1), &[], 512).conflict();
    // What is always allowed.
    other.run(&[0x12, 0, 0, 0, 96, 0], &[], 96).good();
    other.run(&[0; 6], &[], 0).good();
    assert_eq!(keys(&mut other)[8..], 1u64.to_be_bytes());
    // Who comes later meets it as well.
    let mut late = Rig::on(&target, "c");
    late.run(&cdb10(0x28, 0, 0, 1), &[], 512).conflict();
    assert_eq!(holder.read(0, 1), [1; 512]);
    let status = &target.status().units[0];
    assert_eq!((status.holders.as_slice(), status.kind), (&["a".to_owned()][..], Some(3)));
    assert_eq!(status.registrations[0].key, 1);
}

#[test]
fn who_loses_a_registration_is_told_why() {
    let target = target(1 << 20);
    let [mut one, mut two, mut three] = ["a", "b", "c"].map(|name| Rig::on(&target, name));
    for (rig, key) in [(&mut one, 1), (&mut two, 2), (&mut three, 3)] {
        rig.persistent_out(REGISTER, 0, 0, key).good();
    }
    one.persistent_out(RESERVE, EXCLUSIVE_REGISTRANTS, 1, 0).good();
    three.persistent_out(PREEMPT, EXCLUSIVE_REGISTRANTS, 3, 2).good();
    two.write(0, &[1; 512]).check(6, 0x2a, 5);
    two.write(0, &[1; 512]).conflict();
    three.write(0, &[3; 512]).good();
    one.persistent_out(CLEAR, 0, 1, 0).good();
    three.write(0, &[3; 512]).check(6, 0x2a, 3);
    two.write(0, &[1; 512]).good();
}

#[test]
fn legacy_reservations_end_with_resets_and_nexuses() {
    let target = target(1 << 20);
    let [mut one, mut two] = ["a", "b"].map(|name| Rig::on(&target, name));
    for end in 0..4 {
        one.run(&[0x16, 0, 0, 0, 0, 0], &[], 0).good();
        one.write(0, &[1; 512]).good();
        two.run(&[0x16, 0, 0, 0, 0, 0], &[], 0).conflict();
        two.run(&[0; 6], &[], 0).conflict();
        two.run(&[0x17, 0, 0, 0, 0, 0], &[], 0).good();
        two.run(&cdb10(0x28, 0, 0, 1), &[], 512).conflict();
        match end {
            0 => drop(one.run(&cdb10(0x57, 0, 0, 0), &[], 0).good()),
            1 => {
                assert!(target.nexus_lost(&one.nexus).settled(&one.queue));
                one.run(&[0; 6], &[], 0).check(6, 0x29, 0);
            }
            2 => {
                let mut managed = target.manage(&two.nexus, 0, TaskManagement::LogicalUnitReset);
                assert!(managed.settled(&two.queue));
                one.run(&[0; 6], &[], 0).check(6, 0x29, 0);
                two.run(&[0; 6], &[], 0).check(6, 0x29, 0);
            }
            _ => {
                let _ = target.manage(&one.nexus, 9, TaskManagement::TargetReset);
                one.run(&[0; 6], &[], 0).check(6, 0x29, 0);
                two.run(&[0; 6], &[], 0).check(6, 0x29, 0);
            }
        }
        two.write(0, &[2; 512]).good();
    }
    one.run(&[0x16, 0x10, 0, 0, 0, 0], &[], 0).check(5, 0x24, 0);
    one.run(&cdb10(0x56, 0x02, 0, 0), &[], 0).check(5, 0x24, 0);
}

#[test]
fn what_is_to_outlast_a_loss_of_power_is_saved_before_it_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let start = || {
        let store = Store::open(&path).unwrap();
        let mut unit = unit(1 << 20, EngineChoice::Auto);
        unit.reservations = store.load("a disk").unwrap_or_default();
        Target::new(vec![unit], Some(store)).unwrap()
    };
    let register = |rig: &mut Rig, key: u64, durable: bool| {
        let (cdb, mut list) = reserve_out(REGISTER, 0, 0, key);
        list[20] = u8::from(durable);
        rig.run(&cdb, &list, 0).good();
    };
    let target = start();
    let mut rig = Rig::on(&target, "a");
    register(&mut rig, 7, true);
    rig.persistent_out(RESERVE, WRITE_EXCLUSIVE, 7, 0).good();
    rig.persistent_out(RESERVE, EXCLUSIVE, 7, 0).conflict();
    let key = keys(&mut rig)[8..].to_vec();
    drop((rig, target));
    let target = wait_for(start);
    let mut rig = Rig::on(&target, "b");
    assert_eq!(keys(&mut rig)[8..], key);
    rig.write(0, &[1; 512]).conflict();
    let mut holder = Rig::on(&target, "a");
    holder.write(0, &[1; 512]).good();
    target.clear_reservations(0).unwrap();
    holder.write(0, &[1; 512]).check(6, 0x2a, 3);
    rig.write(0, &[1; 512]).good();
    register(&mut rig, 9, false);
    drop((rig, holder, target));
    let target = wait_for(start);
    assert!(target.status().units[0].registrations.is_empty());
    assert!(target.clear_reservations(1).is_err());
}

/// The last one to drop a target may be its own thread, a moment later.
fn wait_for(start: impl Fn() -> Target) -> Target {
    std::thread::sleep(std::time::Duration::from_millis(100));
    start()
}

#[test]
fn without_a_file_nothing_is_promised() {
    let mut rig = Rig::new(1 << 20);
    let (cdb, mut list) = reserve_out(REGISTER, 0, 0, 5);
    list[20] = 1;
    rig.run(&cdb, &list, 0).check(5, 0x26, 0);
    let data = rig.run(&[0x5e, 2, 0, 0, 0, 0, 0, 0, 8, 0], &[], 8).good();
    assert_eq!(data[2] & 1, 0);
    assert_eq!(keys(&mut rig)[4..], [0; 4]);
    // A list that is shorter than the CDB says.
    rig.run(&cdb, &list[..20], 0).check(5, 0x0e, 3);
}
