//! The control queue.

use super::held::{Held, HeldInitiator};
use super::*;

const ABORT_TASK: u32 = 0;
const ABORT_TASK_SET: u32 = 1;
const CLEAR_ACA: u32 = 2;
const CLEAR_TASK_SET: u32 = 3;
const I_T_NEXUS_RESET: u32 = 4;
const LOGICAL_UNIT_RESET: u32 = 5;
const QUERY_TASK: u32 = 6;
const QUERY_TASK_SET: u32 = 7;

const REJECTED: u8 = 11;
const INCORRECT_LUN: u8 = 12;
const TRANSPORT_FAILURE: u8 = 6;

const TMF: u64 = 0x50_0000;
const TMF_RESPONSE: u64 = 0x51_0000;

impl Host {
    fn manage(&mut self, subtype: u32, lun: [u8; 8], tag: u64) -> u8 {
        self.put(TMF, &[&[0; 4], &subtype.to_le_bytes()[..], &lun, &tag.to_le_bytes()].concat());
        self.put(TMF_RESPONSE, &[UNTOUCHED]);
        let used = self.ask(0, &[(TMF, 24, false), (TMF_RESPONSE, 1, true)]);
        assert_eq!(used, 1);
        self.bytes(TMF_RESPONSE, 1)[0]
    }

    /// A command that does not end by itself; where its response goes.
    fn hold(&mut self, held: &Held, (queue, tag): (usize, u64)) -> u64 {
        let at = RESPONSE + 0x1000 * tag;
        let before = lock_len(held);
        self.prepare(UNIT, tag, &cdb10(0x2a, 0, 1), &[1; BLOCK]);
        self.put(at, &[UNTOUCHED; 108]);
        self.send(queue, &[(REQUEST, 51, false), (DATA_OUT, 512, false), (at, 108, true)]);
        while lock_len(held) == before {
            std::thread::yield_now();
        }
        at
    }
}

fn lock_len(held: &Held) -> usize {
    crate::sync::lock(&held.commands).len()
}

fn host() -> (Host, Arc<Held>) {
    let held = Arc::new(Held::default());
    (Host::new(Arc::new(HeldInitiator(Arc::clone(&held)))), held)
}

#[test]
fn an_aborted_command_is_back_before_its_abort() {
    let (mut host, held) = host();
    for round in 0..20 {
        let (first, second) = (host.hold(&held, (2, 1)), host.hold(&held, (3, 2)));
        let (tag, queue, at, other) = match round % 2 {
            0 => (1, 2, first, 3),
            _ => (2, 3, second, 2),
        };
        assert_eq!(host.manage(ABORT_TASK, UNIT, tag), OK);
        let (_, used) = host.drivers[queue].take_used().expect("it is there by now");
        assert_eq!((used, host.bytes(at + 11, 1)[0]), (12, ABORTED));
        // The other one goes on, and ends with all.
        assert_eq!(host.drivers[other].take_used(), None);
        assert_eq!(host.manage(ABORT_TASK, UNIT, 77), OK, "there is no such task");
        let all = [ABORT_TASK_SET, CLEAR_TASK_SET, LOGICAL_UNIT_RESET, I_T_NEXUS_RESET];
        assert_eq!(host.manage(all[round / 2 % 4], UNIT, 0), OK);
        assert!(host.drivers[other].take_used().is_some(), "round {round}");
    }
}

#[test]
fn a_command_is_aborted_that_is_on_its_way_to_the_target() {
    let (mut host, held) = host();
    let entrance = crate::sync::lock(&held.entrance);
    host.prepare(UNIT, 1, &cdb10(0x2a, 0, 1), &[1; BLOCK]);
    let buffers = host.buffers(BLOCK, 0);
    host.send(2, &buffers);
    let await_one = |of: &std::sync::Mutex<usize>| {
        while *crate::sync::lock(of) == 0 {
            std::thread::yield_now();
        }
    };
    await_one(&held.submitted);
    host.put(TMF, &[&[0; 4], &ABORT_TASK.to_le_bytes()[..], &UNIT, &1u64.to_le_bytes()].concat());
    host.send(0, &[(TMF, 24, false), (TMF_RESPONSE, 1, true)]);
    await_one(&held.functions);
    drop(entrance);
    host.drivers[0].await_used();
    assert_eq!(host.bytes(TMF_RESPONSE, 1), [OK]);
    let (_, used) = host.drivers[2].take_used().expect("it is there by now");
    assert_eq!((used, host.bytes(RESPONSE + 11, 1)[0]), (12, ABORTED));
}

#[test]
fn what_is_not_supported_is_rejected() {
    let (mut host, held) = host();
    host.hold(&held, (2, 1));
    for subtype in [CLEAR_ACA, QUERY_TASK, QUERY_TASK_SET, 8, u32::MAX] {
        assert_eq!(host.manage(subtype, UNIT, 1), REJECTED);
    }
    assert_eq!(host.manage(LOGICAL_UNIT_RESET, [1, 1, 0, 0, 0, 0, 0, 0], 1), BAD_TARGET);
    assert_eq!(host.manage(I_T_NEXUS_RESET, [0; 8], 1), BAD_TARGET);
    assert_eq!(host.manage(ABORT_TASK_SET, [1, 0, 0, 1, 0, 0, 0, 0], 1), INCORRECT_LUN);
    assert_eq!(host.drivers[2].take_used(), None);
}

#[test]
fn there_are_no_events_to_ask_for() {
    let mut host = Host::on(&target(), "a");
    for kind in [1u32, 2] {
        for (lun, code) in [(UNIT, OK), ([1, 7, 0, 0, 0, 0, 0, 0], BAD_TARGET)] {
            host.put(TMF, &[&kind.to_le_bytes()[..], &lun, &[0x7e, 0, 0, 0]].concat());
            host.put(TMF_RESPONSE, &[UNTOUCHED; 6]);
            let used = host.ask(0, &[(TMF, 16, false), (TMF_RESPONSE, 5, true)]);
            assert_eq!(used, 5);
            assert_eq!(host.bytes(TMF_RESPONSE, 6), [0, 0, 0, 0, code, UNTOUCHED]);
        }
    }
    // A type that is none.
    host.put(TMF, &[3, 0, 0, 0]);
    assert_eq!(host.ask(0, &[(TMF, 4, false), (TMF_RESPONSE, 1, true)]), 0);
}

#[test]
fn functions_reach_the_target() {
    let target = target();
    let (mut a, mut b) = (Host::on(&target, "a"), Host::on(&target, "b"));
    a.run(&[0x16, 0, 0, 0, 0, 0], &[], 0).good();
    assert_eq!(b.run(&[0; 6], &[], 0).status, CONFLICT);
    assert_eq!(b.manage(LOGICAL_UNIT_RESET, UNIT, 0), OK);
    for host in [&mut a, &mut b] {
        assert_eq!(host.run(&[0; 6], &[], 0).check(), (6, 0x29, 0));
        host.run(&[0; 6], &[], 0).good();
    }
    a.run(&[0x16, 0, 0, 0, 0, 0], &[], 0).good();
    assert_eq!(a.manage(I_T_NEXUS_RESET, UNIT, 0), OK);
    b.run(&[0; 6], &[], 0).good();
    assert_eq!(b.manage(ABORT_TASK_SET, UNIT, 0), OK);
    assert_eq!(b.manage(ABORT_TASK, UNIT, 5), OK);
    let missing = [1, 0, 0, 9, 0, 0, 0, 0];
    assert_eq!(b.manage(CLEAR_TASK_SET, missing, 0), INCORRECT_LUN);
}

#[test]
fn a_target_out_of_reach_is_a_failure_of_the_transport() {
    let held = Arc::new(Held { severed: true, ..Held::default() });
    let mut host = Host::new(Arc::new(HeldInitiator(held)));
    let got = host.run(&cdb10(0x28, 0, 1), &[], BLOCK);
    assert_eq!((got.response, got.status, got.residual), (TRANSPORT_FAILURE, 0, 512));
}

#[test]
fn stopping_answers_commands_and_functions() {
    let (mut host, held) = host();
    host.hold(&held, (2, 1));
    host.hold(&held, (3, 2));
    host.put(TMF, &[&[0; 4], &ABORT_TASK.to_le_bytes()[..], &UNIT, &[1; 8]].concat());
    host.send(0, &[(TMF, 24, false), (TMF_RESPONSE, 1, true)]);
    let states = host.device.stop();
    for state in &states {
        assert_eq!(state.next_available, state.next_used, "taken and answered");
    }
    assert!(host.drivers[2].take_used().is_some() && host.drivers[3].take_used().is_some());
}

#[test]
fn a_function_does_not_wait_for_a_queue_that_is_broken() {
    let (mut host, held) = host();
    host.drivers[3].add(&[(REQUEST, 1, false)]).unwrap();
    host.drivers[3].doorbell.write(1).unwrap();
    host.told.await_needs_reset();
    let at = host.hold(&held, (2, 1));
    assert_eq!(host.manage(ABORT_TASK, UNIT, 1), OK);
    assert_eq!(host.bytes(at + 11, 1), [ABORTED]);
}

#[test]
fn a_pause_does_not_end_the_nexus() {
    let target = target();
    let (mut a, mut b) = (Host::on(&target, "a"), Host::on(&target, "b"));
    a.run(&[0x16, 0, 0, 0, 0, 0], &[], 0).good();
    a.device.pause();
    a.drivers = Host::drivers(&a.memory);
    a.start();
    a.run(&[0; 6], &[], 0).good();
    assert_eq!(b.run(&[0; 6], &[], 0).status, CONFLICT);
    // An end that comes in a pause is one all the same.
    a.device.pause();
    a.device.stop();
    b.run(&[0; 6], &[], 0).good();
}
