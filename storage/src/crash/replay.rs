//! Every state in which a crash could have left a recorded disk, or many of them, and what must
//! hold in each.
//!
//! What a file saw before its last sync is there. Of what came after, any part may be: each write
//! whole, torn between sectors, or not at all; each in any order, that is, with the bytes of any of
//! the writes that overlap (`fate.rs`).

use std::sync::atomic::{AtomicUsize, Ordering};

use cohort_tests::oracles::Qemu;

use super::fate::Fate;
use super::file::FileState;
use super::history::{Allowed, Version};
use super::session::{Session, look, touch};
use super::{Change, Dice};
use crate::disk::{Disk, DiskOptions};
use crate::format::Format;
use crate::testkit::{self, READ_ONLY, WRITABLE};

/// How many states were looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) states: usize,
    /// Of these, how many a program of others has looked at, too.
    pub(super) checked: usize,
}

/// Looks at every prefix of what was recorded, and for each at `samples` other states that the same
/// crash could have left. The error says what does not hold where.
pub(super) fn replay(session: &Session, samples: usize, seed: u64) -> Result<Tally, String> {
    let changes = session.recorder.changes();
    let (mut durable, mut pending) = (FileState::default(), Vec::<&Change>::new());
    let (mut dice, mut tally) = (Dice::new(seed), Tally::default());
    for time in 0..=changes.len() {
        if let Some((path, change)) = time.checked_sub(1).and_then(|last| changes.get(last)) {
            if *path != session.path {
                assert!(time <= session.begin, "{} was changed", path.display());
                continue;
            }
            if *change == Change::Sync {
                pending.drain(..).for_each(|change| durable.apply(change));
            } else {
                pending.push(change);
            }
        }
        if time < session.begin {
            continue;
        }
        let allowed = session.history.allowed(time);
        let mut fates = vec![Fate::All];
        if !pending.is_empty() {
            fates.extend((0..samples).map(|_| Fate::any(&mut dice, pending.len())));
        }
        for fate in fates {
            let mut state = durable.clone();
            let allocate = dice.chance(40);
            let atomic = Format::of_name(&session.path) == Format::Layer;
            match atomic {
                true => fate.befall_blocks(&mut state, &pending, allocate, &mut dice),
                false => fate.befall(&mut state, &pending, allocate, &mut dice),
            }
            state.store(&session.path).unwrap();
            let foreign = tally.states % 97 == 13;
            let checked = verify(session, &allowed, &mut dice, foreign).map_err(|what| {
                let last = changes[..time].iter().rev().take(6).map(|(_, change)| short(change));
                let last: Vec<String> = last.collect();
                format!(
                    "change {} of {} to {}, {fate:?} of {} pending, allocated {allocate}: {what}\n\
                     last changes, newest first: {last:#?}",
                    time - session.begin,
                    changes.len() - session.begin,
                    session.path.display(),
                    pending.len()
                )
            })?;
            tally.states += 1;
            tally.checked += usize::from(checked);
        }
    }
    Ok(tally)
}

fn short(change: &Change) -> String {
    match change {
        Change::Write { at, bytes } => format!("write {at:#x} +{:#x}", bytes.len()),
        other => format!("{other:x?}"),
    }
}

/// Looks at the disk as it is now, first for reading, then for writing, then after more writes;
/// says whether QEMU looked at it, too.
fn verify(
    session: &Session,
    allowed: &[Allowed],
    dice: &mut Dice,
    foreign: bool,
) -> Result<bool, String> {
    let readable = seen(session, &READ_ONLY, allowed, "for reading")?;
    let disk = open(session, &WRITABLE, "for writing")?;
    let findings = testkit::top(&disk).check(false).map_err(|error| format!("{error:?}"))?;
    if let Some(harm) = findings.iter().find(|finding| !finding.harmless) {
        return Err(format!("the check finds {harm:?}"));
    }
    let mut queue = disk.queue(1).unwrap();
    drop(disk);
    let mut expected = look(&mut queue)?;
    if expected != readable {
        return Err("opened for writing, it holds something else than for reading".to_owned());
    }
    let written = touch(&mut queue, dice);
    for (sector, version) in &mut expected {
        let last = written.iter().rev().find(|(other, _)| other == sector);
        *version = last.map_or(*version, |(_, version)| *version);
    }
    if dice.chance(50) {
        testkit::flush(&mut queue).map_err(|error| format!("flush: {error:?}"))?;
    }
    drop(queue);
    let disk = open(session, &READ_ONLY, "after more writes")?;
    let found = look(&mut disk.queue(1).unwrap())?;
    if let Some((now, then)) = found.iter().zip(&expected).find(|(now, then)| now != then) {
        return Err(format!("after more writes, sector {} holds {}, not {}", now.0, now.1, then.1));
    }
    drop(disk);
    if foreign { qemu_check(session) } else { Ok(false) }
}

fn open(session: &Session, options: &DiskOptions, how: &str) -> Result<Disk, String> {
    Disk::open(&session.path, options).map_err(|error| format!("does not open {how}: {error:?}"))
}

/// What the disk holds, which must be allowed, and under a new identity if it is not the old.
fn seen(
    session: &Session,
    options: &DiskOptions,
    allowed: &[Allowed],
    how: &str,
) -> Result<Vec<(u64, Version)>, String> {
    let disk = open(session, options, how)?;
    let seen = look(&mut disk.queue(1).unwrap())?;
    for (&(sector, version), allowed) in seen.iter().zip(allowed) {
        if !allowed.contains(&version) {
            return Err(format!("sector {sector} holds version {version}, not one of {allowed:?}"));
        }
    }
    let changed = seen.iter().zip(&session.before).find(|(now, before)| now != before);
    if let Some((now, before)) = changed {
        let identity = testkit::top(&disk).identity().map_err(|error| format!("{error:?}"))?;
        if identity == session.identity {
            return Err(format!(
                "sector {} was {} and is {}, but the identity is still {identity}",
                now.0, before.1, now.1
            ));
        }
    }
    Ok(seen)
}

/// States that QEMU has looked at.
static STATES: AtomicUsize = AtomicUsize::new(0);

/// Lets QEMU look at the structure, where it knows the format and every layer of the chain.
fn qemu_check(session: &Session) -> Result<bool, String> {
    let format = Format::of_name(&session.path);
    if !matches!(format, Format::Qcow2 | Format::Vhdx) {
        return Ok(false);
    }
    // There are many states: each version sees its share of them.
    let all = Qemu::all();
    let qemu = &all[STATES.fetch_add(1, Ordering::Relaxed) % all.len()];
    let mut command = qemu.command("qemu-img");
    let output = command.args(["check", "-f", format.name()]).arg(&session.path).output();
    let output = output.map_err(|error| format!("qemu-img: {error}"))?;
    // 3: clusters are lost, no content is.
    match output.status.code() {
        Some(0 | 3) => Ok(true),
        // A chain whose layers it does not know, or a format that it cannot check.
        Some(1 | 63) if refuses(&output.stderr) => Ok(false),
        _ => Err(format!("qemu-img check: {output:?}")),
    }
}

fn refuses(message: &[u8]) -> bool {
    let message = String::from_utf8_lossy(message);
    ["not support", "Unknown driver"].iter().any(|part| message.contains(part))
}
