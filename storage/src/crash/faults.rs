//! Sessions in which one call fails that the format makes on its file: each such call in turn, of
//! a disk that is used on afterwards, and that may crash.

use std::collections::{BTreeMap, BTreeSet};

use super::files::Files;
use super::history::{Allowed, Deed, Version, contents};
use super::replay::{found, go_on, qemu_check};
use super::session::{Kind, MEMORY, Session, look};
use super::walk::{samples, seeds, short, wanted};
use super::{Change, Dice};
use crate::disk::{Disk, DiskOptions};
use crate::engine::record::Recording;
use crate::format::Format;
use crate::identity::Identity;
use crate::image::fault::{Fault, Faults, Hit};
use crate::testkit::{self, WRITABLE};

/// Requests before the disk is opened for the session that counts.
const BEFORE: usize = 8;
/// Requests of this session.
const STEPS: usize = 40;
/// Calls of a session that fail at most, each in a session of its own; `COHORT_FAULT_CALLS` asks
/// for others.
const CALLS_MAX: usize = 16;

/// How a session ended.
struct End {
    session: Session,
    faults: Faults,
    /// Whether the disk was flushed, and closed in order.
    flushed: bool,
    closed: bool,
}

/// Makes a disk and uses it, while the planned call fails.
fn run(kind: Kind, seed: u64, plan: Option<(usize, Fault)>) -> Result<End, String> {
    let mut dice = Dice::new(seed);
    let mut session = Session::make(kind, &mut dice, BEFORE);
    session.begin_epoch();
    let faults = Faults::default();
    if let Some((calls, fault)) = plan {
        faults.fail_after(calls, fault);
    }
    let (_recorded, _failing) = (session.recorder.install(), faults.install());
    // Few tables fit into that, so that some are written between flushes.
    let options = DiskOptions { map_memory: Some(16 << 10), ..WRITABLE };
    let open = || Disk::open(&session.path, &options);
    let disk = match open() {
        Err(error) if faults.hit().is_some() => {
            open().map_err(|again| format!("does not open, {again:?}, after {error:?}"))
        }
        result => result.map_err(|error| format!("does not open: {error:?}")),
    }?;
    let mut queue = disk.queue_on(Recording::new(&session.recorder, dice.roll()), 8);
    let mut left = STEPS;
    while left > 0 && !disk.state().chain.is_announced() {
        session.ask(&mut queue, &mut dice, 1);
        left -= 1;
        if !disk.state().chain.is_announced() {
            nothing_changed(&session)?;
        }
    }
    session.ask(&mut queue, &mut dice, left);
    if let (Some((_, error)), None) = (session.errors.first(), faults.hit()) {
        return Err(format!("an error out of nothing: {error:?}"));
    }
    let mut again = |call: &mut dyn FnMut() -> Result<(), String>| {
        let start = session.recorder.len();
        let result = call().or_else(|_| call());
        session.flushed(start, result.is_err());
        result
    };
    let flushed = again(&mut || testkit::flush(&mut queue).map_err(|error| format!("{error:?}")));
    // Reading may need room for maps, and so a sync.
    let seen = look(&mut queue).or_else(|_| look(&mut queue))?;
    drop(queue);
    let closed = again(&mut || disk.close().map_err(|error| format!("{error:?}")));
    compare(&seen, &session.history.settled(), "while it is open")?;
    for stuck in [&flushed, &closed].into_iter().filter_map(|result| result.as_ref().err()) {
        // Its log then says what belongs in places of which nobody knows what they hold.
        if kind.format != Format::Vhdx || !stuck.contains("open the disk again") {
            return Err(format!("it cannot be flushed or closed any more: {stuck}"));
        }
    }
    Ok(End { session, faults, flushed: flushed.is_ok(), closed: closed.is_ok() })
}

/// Nothing may change under the disk's old identity.
fn nothing_changed(session: &Session) -> Result<(), String> {
    let changes = session.recorder.changes().split_off(session.epochs[0].begin);
    let payload = |change: &Change| match change {
        Change::Punch { .. } | Change::ZeroRange { .. } => true,
        Change::Write { bytes, .. } => session.history.events.iter().any(|event| {
            let Deed::Write(version) = event.deed else { return false };
            bytes.starts_with(&contents(event.first, 1, version))
        }),
        _ => false,
    };
    match changes.iter().find(|(_, change)| payload(change)) {
        Some(_) => Err("changed before the change was announced".to_owned()),
        None => Ok(()),
    }
}

fn compare(seen: &[(u64, Version)], allowed: &[Allowed], when: &str) -> Result<(), String> {
    for ((sector, version), allowed) in seen.iter().zip(allowed) {
        if !allowed.contains(version) {
            return Err(format!(
                "{when}, sector {sector} holds version {version}, not one of {allowed:?}"
            ));
        }
    }
    Ok(())
}

/// Looks at the disk as the session left it, and uses it.
fn look_at_end(end: &End, dice: &mut Dice) -> Result<bool, String> {
    let session = &end.session;
    let seen = found(&session.path, &testkit::READ_ONLY, "after the session")?;
    let allowed = match end.flushed && end.closed {
        true => session.history.settled(),
        false => session.history.allowed(usize::MAX),
    };
    compare(&seen.sectors, &allowed, "after the session")?;
    let epoch = &session.epochs[0];
    if seen.identity == epoch.identity && seen.sectors != epoch.before {
        return Err("changed, but the identity is still the old one".to_owned());
    }
    // Before others mend it.
    let checked = end.closed && qemu_check(&session.path)?;
    go_on(session, seen, dice)?;
    Ok(checked)
}

/// Looks at what crashes leave around the call that failed, and later. Says how many states.
fn crash(end: &End, hit: Hit, dice: &mut Dice) -> Result<usize, String> {
    let session = &end.session;
    let changes = session.recorder.changes();
    let answers = session.history.events.iter().map(|event| event.end);
    let later: Vec<usize> =
        answers.filter(|time| (hit.time..=changes.len()).contains(time)).collect();
    let any = later[dice.below(later.len())];
    let times = BTreeSet::from([hit.time, hit.time + 1, later[0], any, changes.len()]);
    let (mut files, mut done, mut states) = (Files::default(), 0, 0);
    for time in times.into_iter().filter(|&time| time <= changes.len()) {
        changes[done..time].iter().for_each(|(path, change)| files.apply(path, change));
        done = time;
        let allowed = session.history.allowed(time);
        let samples = if files.any_pending() { samples() } else { 0 };
        for sample in 0..=samples {
            let crashed = files.crash(sample == 0, dice);
            crashed.store(&BTreeSet::from([session.path.clone()])).unwrap();
            let told = |what: String| {
                let last = changes[..time].iter().rev().take(6);
                let last: Vec<String> = last.map(|(path, change)| short(path, change)).collect();
                format!(
                    "after a crash at change {time} of {}: {what}\n{:#?}\n{hit:?}; last changes, \
                     newest first: {last:#?}",
                    changes.len(),
                    crashed.told
                )
            };
            let seen = found(&session.path, &testkit::READ_ONLY, "for reading").map_err(told)?;
            compare(&seen.sectors, &allowed, "then").map_err(told)?;
            let epoch = &session.epochs[0];
            let same = match &epoch.identity {
                Identity::File(_) => files.clocks(&session.path).1 == epoch.clock,
                identity => seen.identity == *identity,
            };
            if same && seen.sectors != epoch.before {
                return Err(told("changed, but the identity is still the old one".to_owned()));
            }
            go_on(session, seen, dice).map_err(told)?;
            states += 1;
        }
    }
    Ok(states)
}

/// Lets the calls of a session fail, each in its turn, and tells how many those were.
fn survives(kind: Kind, sessions: usize) {
    let (mut calls, mut states, mut checked, mut stuck) = (BTreeMap::new(), 0, 0, 0);
    for seed in seeds(sessions) {
        let count = run(kind, seed, None).unwrap_or_else(|what| panic!("{kind:?}: {what}"));
        let count = count.faults.calls();
        let mut dice = Dice::new(seed + 1);
        let mut numbers: Vec<usize> = (0..count).collect();
        while numbers.len() > wanted("COHORT_FAULT_CALLS", CALLS_MAX) {
            numbers.swap_remove(dice.below(numbers.len()));
        }
        for number in numbers {
            let written = [0, 0, 50, 90, 100][dice.below(5)];
            let fault = Fault { no_space: dice.chance(50), written };
            let mut look = || {
                let end = run(kind, seed, Some((number, fault)))?;
                let Some(hit) = end.faults.hit() else { return Ok(()) };
                *calls.entry(format!("{:?}", hit.call)).or_insert(0) += 1;
                stuck += usize::from(!end.flushed || !end.closed);
                checked += usize::from(look_at_end(&end, &mut dice)?);
                states += crash(&end, hit, &mut dice)?;
                Ok::<_, String>(())
            };
            if let Err(what) = look() {
                panic!("{kind:?}, session {seed}, call {number} of {count}, {fault:?}: {what}");
            }
        }
    }
    let Kind { format, parent, .. } = kind;
    let below = parent.map_or_else(String::new, |parent| format!(" on {parent}"));
    let failed: usize = calls.values().sum();
    println!(
        "{format}{below}: {failed} calls failed {calls:?}, {stuck} disks were to be opened again, \
         {states} crashes, {checked} checked by QEMU"
    );
    assert!(failed > 4 && states > failed);
}

/// A disk that could not be closed is not closed, and can be.
#[test]
fn what_was_not_closed_is_closed_by_the_next_call() {
    for format in [Format::Layer, Format::Qcow2, Format::Vhdx] {
        let folder = tempfile::tempdir_in(MEMORY).unwrap();
        let path = testkit::file_in(folder.path(), "top", format);
        testkit::create(&path, 1 << 20, None).unwrap();
        let faults = Faults::default();
        let failing = faults.install();
        let disk = Disk::open(&path, &WRITABLE).unwrap();
        testkit::write(&mut disk.queue(1).unwrap(), 0, &[7; 512]).unwrap();
        faults.fail_after(0, Fault { no_space: false, written: 0 });
        disk.close().unwrap_err();
        if format != Format::Vhdx {
            disk.close().unwrap();
        }
        drop((disk, failing));
        let disk = Disk::open(&path, &testkit::READ_ONLY).unwrap();
        let found = testkit::read(&mut disk.queue(1).unwrap(), 0, 512).unwrap();
        // What the log of a VHDX does not say was neither flushed nor closed.
        assert!(found == [7; 512] || format == Format::Vhdx, "{format}");
    }
}

#[test]
fn layer_base() {
    survives(Kind::new(Format::Layer, None), 2);
}

#[test]
fn layer_on_raw() {
    survives(Kind::new(Format::Layer, Some(Format::Raw)), 2);
}

#[test]
fn qcow2_base() {
    survives(Kind::new(Format::Qcow2, None), 2);
}

#[test]
fn qcow2_on_raw() {
    survives(Kind::new(Format::Qcow2, Some(Format::Raw)), 2);
}

#[test]
fn vhdx_base() {
    survives(Kind::new(Format::Vhdx, None), 2);
}

#[test]
fn vhdx_on_raw() {
    survives(Kind::new(Format::Vhdx, Some(Format::Raw)), 2);
}

#[test]
fn qcow2_of_many_tables() {
    survives(Kind { crowded: true, ..Kind::new(Format::Qcow2, None) }, 1);
}
