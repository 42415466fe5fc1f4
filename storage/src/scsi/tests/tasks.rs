//! The end of other initiators' tasks: what is on its way to the disk has arrived, or never does.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::engine::gated::{Gate, Gated};

const REGISTER: u8 = 0;
const PREEMPT_AND_ABORT: u8 = 5;
const WRITE_EXCLUSIVE_REGISTRANTS: u8 = 5;

/// A target whose writes wait at a gate.
pub(super) fn gated() -> (Target, Gate) {
    let gate = Gate::default();
    let hand = gate.clone();
    let options = unit(1 << 20, EngineChoice::Positional);
    (Target::with_engine(options, Box::new(move || Gated::new(&hand))), gate)
}

fn submit(rig: &mut Rig, token: u64, cdb: &[u8], data: &[u8]) -> Option<Response> {
    let none = filled(&[]);
    let command = Command { tag: token, ..command(cdb, data, &none) };
    rig.queue.submit(token, &rig.nexus, command)
}

fn polled(rig: &mut Rig) -> Vec<(u64, Response)> {
    let mut done = Vec::new();
    for _ in 0..4 {
        rig.queue.poll(&mut done);
    }
    done
}

fn is_ready(rig: &Rig) -> bool {
    let fd = rig.queue.ready_fd();
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

#[test]
fn preempt_and_abort_waits_for_the_victims_writes() {
    let (target, gate) = gated();
    let [mut holder, mut victim, mut bystander] =
        ["holder", "victim", "bystander"].map(|name| Rig::on(&target, name));
    holder.persistent_out(REGISTER, 0, 0, 1).good();
    victim.persistent_out(REGISTER, 0, 0, 2).good();
    bystander.persistent_out(REGISTER, 0, 0, 3).good();
    holder.persistent_out(1, WRITE_EXCLUSIVE_REGISTRANTS, 1, 0).good();
    gate.shut(true);
    for token in 0..4u32 {
        let cdb = cdb10(0x2a, 0, token, 1);
        assert_eq!(submit(&mut victim, token.into(), &cdb, &[2; 512]), None);
    }
    let write = cdb10(0x2a, 0, 9, 1);
    assert_eq!(submit(&mut bystander, 0, &write, &[3; 512]), None);
    // One that waits for the first is never begun.
    let both = [[2; 512], [4; 512]].concat();
    assert_eq!(submit(&mut victim, 4, &compare_and_write(0, 1), &both), None);
    assert_eq!(gate.waiting(), 5);
    let (cdb, list) = reserve_out(PREEMPT_AND_ABORT, WRITE_EXCLUSIVE_REGISTRANTS, 1, 2);
    assert_eq!(submit(&mut holder, 0, &cdb, &list), None);
    // From here on nothing of the victim's begins.
    let late = cdb10(0x2a, 0, 20, 1);
    let attention = submit(&mut victim, 8, &late, &[2; 512]).unwrap();
    assert_eq!(attention.sense.code(), Some(code(6, 0x2a, 5)));
    let late = submit(&mut victim, 9, &late, &[2; 512]).unwrap();
    assert_eq!(late.status, Status::ReservationConflict);
    assert_eq!((polled(&mut holder), polled(&mut victim)), (vec![], vec![]));
    assert!(!is_ready(&holder));
    gate.shut(false);
    // Its thread has not seen yet that the writes have ended.
    assert_eq!(polled(&mut holder), vec![]);
    let done = polled(&mut victim);
    assert_eq!(done.len(), 5);
    for (_, response) in &done {
        assert_eq!((response.status, response.silent), (Status::TaskAborted, false));
    }
    assert!(is_ready(&holder));
    let done = polled(&mut holder);
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].1.status, Status::Good);
    // The bystander's write is its own affair.
    assert_eq!(polled(&mut bystander)[0].1.status, Status::Good);
    // What the victim had compared with was never exchanged.
    assert_eq!(holder.read(0, 1), [2; 512]);
    assert_eq!(holder.read(20, 1), [0; 512]);
}

#[test]
fn nothing_of_a_fenced_writer_lands_after_the_fence() {
    let target = target(1 << 20);
    let mut holder = Rig::on(&target, "holder");
    holder.persistent_out(REGISTER, 0, 0, 1).good();
    holder.persistent_out(1, WRITE_EXCLUSIVE_REGISTRANTS, 1, 0).good();
    for round in 0..40u8 {
        let mut victim = Rig::on(&target, "victim");
        victim.persistent_out(REGISTER, 0, 0, 2).good();
        let writer = std::thread::spawn(move || {
            let (mut done, mut token, mut fenced) = (Vec::new(), 0, false);
            while !fenced {
                let data = [round | 0x80; 64 * BLOCK];
                let lba = u32::try_from(token % 8 * 64).unwrap();
                let now = submit(&mut victim, token, &cdb10(0x2a, 0, lba, 64), &data);
                done.extend(now.map(|response| (token, response)));
                token += 1;
                victim.queue.poll(&mut done);
                fenced = done.drain(..).any(|(_, response)| response.status != Status::Good);
            }
            victim.queue.drain(&mut done);
        });
        std::thread::sleep(std::time::Duration::from_micros(u64::from(round) * 50));
        holder.persistent_out(PREEMPT_AND_ABORT, WRITE_EXCLUSIVE_REGISTRANTS, 1, 2).good();
        holder.run(&cdb16(0x93, 1, 0, 512), &[], 0).good();
        let before = holder.read(0, 512);
        writer.join().unwrap();
        assert!(before.iter().all(|byte| *byte == 0));
        assert!(holder.read(0, 512) == before);
        let nexus = target.nexus(InitiatorPort::new("victim").unwrap());
        while nexus.0.access[0].take_attention().is_some() {}
    }
}

#[test]
fn two_that_preempt_each_other_do_not_wait_for_good() {
    let (target, gate) = gated();
    let [mut one, mut two] = ["one", "two"].map(|name| Rig::on(&target, name));
    one.persistent_out(REGISTER, 0, 0, 1).good();
    two.persistent_out(REGISTER, 0, 0, 2).good();
    gate.shut(true);
    assert_eq!(submit(&mut one, 0, &cdb10(0x2a, 0, 0, 1), &[1; 512]), None);
    assert_eq!(submit(&mut two, 0, &cdb10(0x2a, 0, 1, 1), &[1; 512]), None);
    for round in 0..3 {
        for (preempts, other, key) in [(true, false, 1), (false, true, 2)] {
            let (rig, victim) = if preempts { (&mut one, &mut two) } else { (&mut two, &mut one) };
            let _ = other;
            let (cdb, list) = reserve_out(PREEMPT_AND_ABORT, 5, key, 3 - key);
            assert_eq!(submit(rig, round * 2 + key, &cdb, &list), None);
            // The victim registers anew, and is heard.
            submit(victim, 90, &[0; 6], &[]).unwrap();
            let (cdb, list) = reserve_out(REGISTER, 0, 0, 3 - key);
            assert_eq!(submit(victim, 91, &cdb, &list).unwrap().status, Status::Good);
        }
    }
    gate.shut(false);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        first.extend(polled(&mut one));
        second.extend(polled(&mut two));
    }
    assert_eq!((first.len(), second.len()), (4, 4));
    assert_eq!(one.queue.in_flight() + two.queue.in_flight(), 0);
}

#[test]
fn tasks_are_aborted_one_by_one_and_all_together() {
    let (target, gate) = gated();
    let [mut one, mut two] = ["one", "two"].map(|name| Rig::on(&target, name));
    gate.shut(true);
    for token in 0..3u32 {
        let cdb = cdb10(0x2a, 0, token, 1);
        assert_eq!(submit(&mut one, token.into(), &cdb, &[1; 512]), None);
    }
    assert_eq!(submit(&mut two, 7, &cdb10(0x2a, 0, 9, 1), &[2; 512]), None);
    let none = target.manage(&one.nexus, 0, TaskManagement::AbortTask(7));
    assert_eq!(none.outcome(), crate::scsi::Outcome::NoSuchTask);
    let none = target.manage(&one.nexus, 5 << 48, TaskManagement::AbortTaskSet);
    assert_eq!(none.outcome(), crate::scsi::Outcome::NoSuchUnit);
    let mut managed = target.manage(&one.nexus, 0, TaskManagement::AbortTask(1));
    assert!(!managed.settled(&one.queue));
    gate.shut(false);
    let done = polled(&mut one);
    assert!(managed.settled(&one.queue));
    for (token, response) in done {
        let expected = if token == 1 { (Status::TaskAborted, true) } else { (Status::Good, false) };
        assert_eq!((response.status, response.silent), expected);
    }
    polled(&mut two);

    gate.shut(true);
    assert_eq!(submit(&mut one, 3, &cdb10(0x2a, 0, 0, 1), &[1; 512]), None);
    assert_eq!(submit(&mut two, 4, &cdb10(0x2a, 0, 9, 1), &[2; 512]), None);
    let mut managed = target.manage(&one.nexus, 0, TaskManagement::ClearTaskSet);
    assert!(!managed.settled(&one.queue));
    // New ones are not concerned.
    assert_eq!(submit(&mut one, 5, &cdb10(0x2a, 0, 0, 1), &[1; 512]), None);
    gate.shut(false);
    let done = polled(&mut one);
    assert_eq!(done[0].1, Response { silent: true, ..Response::of(Status::TaskAborted) });
    assert_eq!(done[1].1.status, Status::Good);
    assert!(!managed.settled(&one.queue));
    assert_eq!(polled(&mut two)[0].1, Response::of(Status::TaskAborted));
    assert!(is_ready(&one) && managed.settled(&one.queue));
}

#[test]
fn a_queue_that_is_dropped_leaves_nothing_behind() {
    let (target, gate) = gated();
    let [mut one, mut two] = ["one", "two"].map(|name| Rig::on(&target, name));
    gate.shut(true);
    assert_eq!(submit(&mut one, 0, &cdb10(0x2a, 0, 0, 1), &[1; 512]), None);
    let both = [0; 1024];
    assert_eq!(submit(&mut two, 0, &compare_and_write(0, 1), &both), None);
    let mut managed = target.manage(&one.nexus, 0, TaskManagement::AbortTaskSet);
    assert!(!managed.settled(&two.queue));
    let _ = polled(&mut two);
    drop(one);
    assert!(is_ready(&two) && managed.settled(&two.queue));
    gate.shut(false);
    assert_eq!(polled(&mut two)[0].1.status, Status::Good);
}

#[test]
fn one_long_command_does_not_keep_others_waiting() {
    let target = Target::new(vec![unit(64 << 20, EngineChoice::Positional)], None).unwrap();
    let mut rig = Rig::on(&target, "a");
    assert_eq!(submit(&mut rig, 0, &cdb16(0x93, 0, 0, 0), &[7; 512]), None);
    for lba in 0..20 {
        assert!(is_ready(&rig));
        // Answered although the other one is far from its end.
        let read = submit(&mut rig, 1, &cdb10(0x28, 0, lba, 0), &[]).unwrap();
        assert_eq!(read.status, Status::Good);
        let mut done = Vec::new();
        rig.queue.poll(&mut done);
        assert!(done.is_empty());
    }
    let mut done = Vec::new();
    rig.queue.drain(&mut done);
    assert_eq!(done, [(0, Response { data_out: 512, wanted: 512, ..Response::GOOD })]);
    assert_eq!(rig.read(131_071, 1), [7; 512]);
}

#[test]
fn errors_of_the_host_become_sense_data() {
    use crate::engine::fault::{Fault, Faulty, Script};
    let faults = [libc::EIO, libc::ENOSPC, libc::EIO].map(Fault::Fail);
    let script = Script::new(faults);
    let hand = script.clone();
    let options = unit(1 << 20, EngineChoice::Positional);
    let target = Target::with_engine(options, Box::new(move || Faulty::new(&hand)));
    let mut rig = Rig::on(&target, "a");
    let got = rig.write(17, &[1; 512]);
    assert_eq!(got.check(3, 0x0c, 0)[3..7], 17u32.to_be_bytes());
    rig.write(17, &[1; 512]).check(7, 0x27, 7);
    let got = rig.run(&cdb10(0x28, 0, 18, 1), &[], 512);
    assert_eq!(got.check(3, 0x11, 0)[3..7], 18u32.to_be_bytes());
    rig.write(17, &[1; 512]).good();
}

#[test]
fn a_port_with_tasks_under_way_is_not_forgotten() {
    let (target, gate) = gated();
    let [mut holder, mut victim] = ["holder", "victim"].map(|name| Rig::on(&target, name));
    holder.persistent_out(REGISTER, 0, 0, 1).good();
    victim.persistent_out(REGISTER, 0, 0, 2).good();
    gate.shut(true);
    assert_eq!(submit(&mut victim, 0, &cdb10(0x2a, 0, 0, 1), &[2; 512]), None);
    // Its connection is gone, its write is not.
    victim.nexus = holder.nexus.clone();
    for number in 0..5000 {
        target.nexus(InitiatorPort::new(&format!("port{number}")).unwrap());
    }
    let (cdb, list) = reserve_out(PREEMPT_AND_ABORT, 1, 1, 2);
    assert_eq!(submit(&mut holder, 0, &cdb, &list), None);
    gate.shut(false);
    assert_eq!(polled(&mut victim)[0].1.status, Status::TaskAborted);
    assert_eq!(polled(&mut holder)[0].1.status, Status::Good);
}
