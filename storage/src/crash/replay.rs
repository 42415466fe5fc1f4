//! Every state in which a crash could have left a recorded disk, or many of them, and what must
//! hold in each (`walk.rs` says which states).

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use cohort_tests::oracles::Qemu;

use super::files::Files;
use super::history::{Allowed, Version};
use super::session::{Session, look, touch};
use super::walk::{State, Walk};
use super::{Dice, Recorder};
use crate::disk::{Disk, DiskOptions};
use crate::format::Format;
use crate::identity::Identity;
use crate::testkit::{self, READ_ONLY, WRITABLE};

/// How many states were looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) states: usize,
    /// Of these, those after a crash while another one was recovered from.
    pub(super) second: usize,
    /// How many a program of others has looked at, too.
    pub(super) checked: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.states += other.states;
        self.second += other.second;
        self.checked += other.checked;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally { states, second, checked } = self;
        write!(f, "{states} states, {second} after a second crash, {checked} checked by QEMU")
    }
}

/// Looks at every prefix of what was recorded, and for each at `samples` other states that the same
/// crash could have left. The error says what does not hold where.
pub(super) fn replay(session: &Session, samples: usize, seed: u64) -> Result<Tally, String> {
    let changes = session.recorder.changes();
    let mut tally = Tally::default();
    let mut allowed = (usize::MAX, Vec::new());
    let walk = Walk { changes: &changes, begin: session.begin(), samples, seed };
    let others = changes[walk.begin..].iter().find(|(path, _)| *path != session.path);
    assert_eq!(others, None, "another file was changed");
    let states = walk.each(Files::default(), |state, dice| {
        if allowed.0 != state.time {
            allowed = (state.time, session.history.allowed(state.time));
        }
        let readable = seen(session, state, &allowed.1)?;
        if state.number % 101 == 57 {
            tally.second += second_crash(session, state, &readable, dice)?;
        } else {
            go_on(session, readable, dice)?;
            let foreign = state.number % 97 == 13 && qemu_check(&session.path)?;
            tally.checked += usize::from(foreign);
        }
        Ok(())
    })?;
    tally.states = states + tally.second;
    Ok(tally)
}

/// What a disk holds, and under which identity.
pub(super) struct Seen {
    pub(super) sectors: Vec<(u64, Version)>,
    pub(super) identity: Identity,
}

/// What the disk at `path` holds when it is opened like this.
pub(super) fn found(path: &Path, options: &DiskOptions, how: &str) -> Result<Seen, String> {
    let disk = open(path, options, how)?;
    let sectors = look(&mut disk.queue(1).unwrap())?;
    let identity = testkit::top(&disk).identity().map_err(|error| format!("{error:?}"))?;
    Ok(Seen { sectors, identity })
}

fn open(path: &Path, options: &DiskOptions, how: &str) -> Result<Disk, String> {
    Disk::open(path, options).map_err(|error| format!("does not open {how}: {error:?}"))
}

/// What the disk holds, which must be allowed, and what it was if its identity is an old one.
fn seen(session: &Session, state: &State<'_>, allowed: &[Allowed]) -> Result<Seen, String> {
    let seen = found(&session.path, &READ_ONLY, "for reading")?;
    for (&(sector, version), allowed) in seen.sectors.iter().zip(allowed) {
        if !allowed.contains(&version) {
            return Err(format!("sector {sector} holds version {version}, not one of {allowed:?}"));
        }
    }
    for epoch in session.epochs.iter().filter(|epoch| epoch.begin <= state.time) {
        let same = match &epoch.identity {
            // The file was put here by this test; what its times would be is reckoned.
            Identity::File(_) => state.clocks(&session.path).1 == epoch.clock,
            identity => seen.identity == *identity,
        };
        let mut pairs = seen.sectors.iter().zip(&epoch.before);
        if same && let Some((now, before)) = pairs.find(|(now, before)| now != before) {
            return Err(format!(
                "sector {} was {} and is {}, but the identity is still {}",
                now.0, before.1, now.1, epoch.identity
            ));
        }
    }
    Ok(seen)
}

/// Opens the disk as it is now for writing, and writes more.
pub(super) fn go_on(session: &Session, readable: Seen, dice: &mut Dice) -> Result<(), String> {
    let disk = open(&session.path, &WRITABLE, "for writing")?;
    let findings = testkit::top(&disk).check(false).map_err(|error| format!("{error:?}"))?;
    if let Some(harm) = findings.iter().find(|finding| !finding.harmless) {
        return Err(format!("the check finds {harm:?}"));
    }
    let mut queue = disk.queue(1).unwrap();
    drop(disk);
    let mut expected = look(&mut queue)?;
    if expected != readable.sectors {
        return Err("opened for writing, it holds something else than for reading".to_owned());
    }
    touch(&mut queue, session.unit, dice, &mut expected)?;
    if dice.chance(50) {
        testkit::flush(&mut queue).map_err(|error| format!("flush: {error:?}"))?;
    }
    drop(queue);
    let found = found(&session.path, &READ_ONLY, "after more writes")?;
    if let Some((now, then)) = found.sectors.iter().zip(&expected).find(|(now, then)| now != then) {
        return Err(format!("after more writes, sector {} holds {}, not {}", now.0, now.1, then.1));
    }
    if found.identity == readable.identity {
        return Err(format!("more was written, but the identity is still {}", found.identity));
    }
    Ok(())
}

/// Lets the recovery from a crash, and what is written then, crash in turn. Says how many states
/// that gave.
fn second_crash(
    session: &Session,
    state: &State<'_>,
    readable: &Seen,
    dice: &mut Dice,
) -> Result<usize, String> {
    let recorder = Recorder::default();
    let mut expected = readable.sectors.clone();
    {
        let _installed = recorder.install();
        let mut queue = open(&session.path, &WRITABLE, "for writing")?.queue(1).unwrap();
        touch(&mut queue, session.unit, dice, &mut expected)?;
    }
    let changes = recorder.changes();
    let walk = Walk { changes: &changes, begin: 0, samples: 2, seed: dice.roll() };
    let number = walk.each(state.crashed.settled(), |second, _| {
        let now = found(&session.path, &READ_ONLY, "after a second crash")?;
        let closed = second.time == changes.len() && !matches!(now.identity, Identity::File(_));
        for ((now, old), new) in now.sectors.iter().zip(&readable.sectors).zip(&expected) {
            if now != new && (now != old || closed) {
                return Err(format!(
                    "sector {} holds {}, not {} or {}",
                    now.0, now.1, old.1, new.1
                ));
            }
        }
        let renewed = match &now.identity {
            Identity::File(_) => second.clocks(&session.path).1 > 0,
            identity => *identity != readable.identity,
        };
        match renewed || now.sectors == readable.sectors {
            true => Ok(()),
            false => Err(format!("changed, but the identity is still {}", now.identity)),
        }
    });
    number.map_err(|what| format!("after a crash, another one: {what}"))
}

/// States that QEMU has looked at.
static STATES: AtomicUsize = AtomicUsize::new(0);

/// Lets QEMU look at the structure, where it knows the format and every layer of the chain; says
/// whether it does.
pub(crate) fn qemu_check(path: &Path) -> Result<bool, String> {
    let format = Format::of_name(path);
    if !matches!(format, Format::Qcow2 | Format::Vhdx) {
        return Ok(false);
    }
    // There are many states: each version sees its share of them.
    let all = Qemu::all();
    let qemu = &all[STATES.fetch_add(1, Ordering::Relaxed) % all.len()];
    let check = |more: &[&str]| {
        let mut command = qemu.command("qemu-img");
        let output = command.args(["check", "-f", format.name()]).args(more).arg(path).output();
        output.map_err(|error| format!("qemu-img: {error}"))
    };
    let mut output = check(&[])?;
    if says(&output.stderr, "contains a log that needs to be replayed") {
        output = check(&["-r", "all"])?;
    }
    // 3: clusters are lost, no content is.
    match output.status.code() {
        Some(0 | 3) => Ok(true),
        // A chain whose layers it does not know, or a format that it cannot check.
        Some(1 | 63) if REFUSALS.iter().any(|part| says(&output.stderr, part)) => Ok(false),
        _ => Err(format!("qemu-img check: {output:?}")),
    }
}

/// How QEMU says that it does not know such disks.
const REFUSALS: [&str; 3] = ["not support", "Unsupported qcow2 feature", "Unknown driver"];

fn says(message: &[u8], part: &str) -> bool {
    String::from_utf8_lossy(message).contains(part)
}
