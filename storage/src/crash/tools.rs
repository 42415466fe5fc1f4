//! Crashes while tools work: `create` (and so `snapshot`), `convert`, `commit`, `relink`.
//!
//! A new file is there as a whole or not at all, and it is there when the tool says so. A file that
//! is changed never loses what was in it.

use std::cell::Cell;
use std::path::Path;

use super::Change;
use super::history::ZERO;
use super::pair::{Count, Pair, Sectors, named, new, read};
use super::replay::qemu_check;
use super::walk::{State, seeds};
use crate::chain::ChainError;
use crate::disk::{Disk, DiskOptions};
use crate::error::DiskError;
use crate::format::Format;
use crate::identity::Identity;
use crate::testkit::{self, READ_ONLY};
use crate::tools::{self, Commit, Convert, Progress, Relink, Relinked, ToolError, Unwatched};

/// The formats that can be children.
const CHILDREN: [Format; 3] = [Format::Layer, Format::Qcow2, Format::Vhdx];

/// Whether a new disk that a crash left is right: as a whole or not at all, and there at the end.
fn whole(path: &Path, wanted: &Sectors, last: bool) -> Result<bool, String> {
    if !path.exists() {
        return if last { Err("it is not there in the end".to_owned()) } else { Ok(false) };
    }
    match read(path, &READ_ONLY)? == *wanted {
        true => Ok(true),
        false => Err("it holds something else".to_owned()),
    }
}

/// A child tells its parent by the times of its file if that has nothing better. Those must be as
/// durable as the child.
fn times_are_durable(state: &State<'_>, parent: &Path) -> Result<(), String> {
    let (now, durable) = state.clocks(parent);
    match now == durable || Format::of_name(parent) != Format::Raw {
        true => Ok(()),
        false => Err(format!("a crash changes the times of {}", parent.display())),
    }
}

/// Looks at crashes while a disk is made beside the pair. On the child, that is a snapshot.
fn creates(pair: &Pair, format: Format, onto: Option<&Path>) -> Result<Count, String> {
    let name = if onto == Some(&*pair.child) { "snapshot" } else { "new" };
    let path = testkit::file_in(pair.folder.path(), name, format);
    let wanted = match onto {
        None => pair.below.iter().map(|&(sector, _)| (sector, ZERO)).collect(),
        Some(path) => read(path, &READ_ONLY).unwrap(),
    };
    let work = || drop(tools::create(&new(&path, onto), &Unwatched).unwrap());
    let mut count = Count::default();
    count.states = pair.crash(3, work, |state, last| {
        if whole(&path, &wanted, last)? {
            count.complete += 1;
            onto.map_or(Ok(()), |onto| times_are_durable(state, onto))?;
            count.checked += usize::from(qemu_check(&path)?);
        }
        Ok(())
    })?;
    assert!(count.complete > 0 && count.complete < count.states);
    Ok(count)
}

#[test]
fn a_new_disk_is_whole_or_not_there() {
    for format in Format::ALL {
        let pair = Pair::new(Format::Raw, Format::Qcow2, 1);
        println!("create {format}: {}", creates(&pair, format, None).unwrap());
    }
    for format in CHILDREN {
        for below in Format::ALL {
            let pair = Pair::new(below, Format::Qcow2, 1);
            for onto in [&pair.parent, &pair.child] {
                println!(
                    "create {format} on {below}: {}",
                    creates(&pair, format, Some(onto)).unwrap()
                );
            }
        }
    }
}

#[test]
fn a_copy_is_whole_or_not_there() {
    for format in Format::ALL {
        for seed in seeds(2) {
            let pair = Pair::new(Format::Layer, Format::Vhdx, seed);
            // The second time, only what differs from the parent.
            let parent = (format != Format::Raw && seed % 2 == 1).then(|| named(&pair.parent));
            let path = testkit::file_in(pair.folder.path(), "copy", format);
            let (source, target) = (named(&pair.child), path.clone());
            let order = Convert { source, target, format: None, parent, fixed: false };
            let work = || drop(tools::convert(&order, &Unwatched).unwrap());
            let mut count = Count::default();
            let states = pair.crash(seed, work, |_, last| {
                if whole(&path, &pair.above, last)? {
                    count.complete += 1;
                    count.checked += usize::from(qemu_check(&path)?);
                }
                Ok(())
            });
            count.states = states.unwrap();
            println!("convert to {format}: {count}");
            assert!(count.complete > 0 && count.complete < count.states);
        }
    }
}

/// Stops work after some steps.
struct Stop(Cell<usize>);

impl Progress for Stop {
    fn advance(&self, _done: u64, _total: u64) {
        self.0.set(self.0.get().saturating_sub(1));
    }

    fn cancelled(&self) -> bool {
        self.0.get() == 0
    }
}

/// The child's file as a crash left it, on a parent that a crash left: what was in the child is
/// there, and nobody is told that the parent is what it was.
fn committed(pair: &Pair, state: &State<'_>, last: bool, stopped: bool) -> Result<(), String> {
    let parent = read(&pair.parent, &READ_ONLY)?;
    let sectors = parent.iter().zip(&pair.below).zip(&pair.above);
    for ((now, below), above) in sectors {
        if now != below && now != above {
            return Err(format!("sector {} of the parent holds {}", now.0, now.1));
        }
    }
    let renewed = match &pair.identity {
        Identity::File(_) => state.clocks(&pair.parent).1 != pair.clock,
        identity => testkit::identity(&pair.parent) != *identity,
    };
    if !renewed && parent != pair.below {
        return Err("the parent has changed, and its identity has not".to_owned());
    }
    if last && !stopped && parent != pair.above {
        return Err("it is not in the parent in the end".to_owned());
    }
    if last {
        times_are_durable(state, &pair.parent)?;
    }
    if !pair.child.exists() {
        return match parent == pair.above {
            true => Ok(()),
            false => Err("the child is gone, and what it held, too".to_owned()),
        };
    }
    // The parent's file was put here by this test, which a raw one's times tell.
    let may_differ = !last || Format::of_name(&pair.parent) == Format::Raw;
    match Disk::open(&pair.child, &READ_ONLY) {
        Ok(_) => {}
        Err(DiskError::Chain(ChainError::Mismatch { .. })) if may_differ => {}
        Err(error) => return Err(format!("the child does not open: {error:?}")),
    }
    let insisting = DiskOptions { allow_mismatch: true, ..READ_ONLY };
    match read(&pair.child, &insisting)? == pair.above {
        true => Ok(()),
        false => Err("the child holds something else".to_owned()),
    }
}

/// The way out after a crash: insist on the parent, and merge again.
fn merge_again(pair: &Pair) -> Result<(), String> {
    let (child, parent) = (pair.child.clone(), named(&pair.parent));
    let order = Relink { child, format: None, parent, force: true };
    tools::relink(&order, &Unwatched).map_err(|error| format!("relink: {error:?}"))?;
    let (child, folders) = (named(&pair.child), Vec::new());
    let order = Commit { child, force: false, folders, delete: false };
    tools::commit(&order, &Unwatched).map_err(|error| format!("once more: {error:?}"))?;
    for path in [&pair.parent, &pair.child] {
        if read(path, &READ_ONLY)? != pair.above {
            return Err(format!("merged once more, {} holds something else", path.display()));
        }
    }
    Ok(())
}

/// Looks at crashes while the child is merged. With `steps`, that is stopped on the way.
fn commits(pair: &Pair, delete: bool, steps: Option<usize>) -> Result<Count, String> {
    let (child, folders) = (named(&pair.child), Vec::new());
    let order = Commit { child, force: false, folders, delete };
    let progress = Stop(Cell::new(steps.unwrap_or(usize::MAX)));
    let work = || match tools::commit(&order, &progress) {
        Err(ToolError::Interrupted) if steps.is_some() => {}
        result => drop(result.unwrap()),
    };
    let mut count = Count::default();
    count.states = pair.crash(9, work, |state, last| {
        committed(pair, state, last, steps.is_some())?;
        count.complete += usize::from(last);
        if state.number % 5 == 3 {
            for path in [&pair.parent, &pair.child] {
                count.checked += usize::from(path.exists() && qemu_check(path)?);
            }
        }
        if state.number % 7 == 4 && pair.child.exists() { merge_again(pair) } else { Ok(()) }
    })?;
    Ok(count)
}

fn all_commits(parent: Format) {
    for child in CHILDREN {
        for seed in seeds(1) {
            let pair = || Pair::new(parent, child, seed);
            let count = commits(&pair(), false, None).unwrap();
            println!("commit {child} to {parent}: {count}");
            let count = commits(&pair(), true, None).unwrap();
            println!("commit {child} to {parent}, the child removed: {count}");
            let count = commits(&pair(), false, Some(4)).unwrap();
            println!("commit {child} to {parent}, stopped: {count}");
        }
    }
}

#[test]
fn merging_into_raw_loses_nothing() {
    all_commits(Format::Raw);
}

#[test]
fn merging_into_layer_loses_nothing() {
    all_commits(Format::Layer);
}

#[test]
fn merging_into_qcow2_loses_nothing() {
    all_commits(Format::Qcow2);
}

#[test]
fn merging_into_vhdx_loses_nothing() {
    all_commits(Format::Vhdx);
}

/// Looks at crashes while the child gets a copy of its parent as its parent.
fn relinks(pair: &Pair) -> Result<Count, String> {
    let below = Format::of_name(&pair.parent);
    let moved = testkit::file_in(pair.folder.path(), "a-name-that-is-longer", below);
    std::fs::copy(&pair.parent, &moved).unwrap();
    let link = || {
        let disk = Disk::open(&pair.child, &READ_ONLY);
        let disk = disk.map_err(|error| format!("does not open: {error:?}"))?;
        Ok::<_, String>(testkit::top(&disk).info().parent.clone())
    };
    let (old, identity) = (link().unwrap(), testkit::identity(&pair.child));
    // A copy of a raw parent has other times.
    let force = below == Format::Raw;
    let order = Relink { child: pair.child.clone(), format: None, parent: named(&moved), force };
    let work = || {
        let wanted = if force { Relinked::ByForce } else { Relinked::ByIdentity };
        assert_eq!(tools::relink(&order, &Unwatched).unwrap(), wanted);
    };
    let mut count = Count::default();
    count.states = pair.crash(7, work, |state, last| {
        let now = link()?;
        let is_new = now.as_ref().and_then(|link| link.absolute.as_deref()) == Some(&*moved);
        if !is_new && (last || now != old) {
            return Err(format!("its parent is {now:?}"));
        }
        count.complete += usize::from(is_new);
        if testkit::identity(&pair.child) != identity {
            return Err("the child has another identity".to_owned());
        }
        if read(&pair.child, &READ_ONLY)? != pair.above {
            return Err("the child holds something else".to_owned());
        }
        if state.number % 5 == 1 {
            count.checked += usize::from(qemu_check(&pair.child)?);
        }
        Ok(())
    })?;
    assert!(count.complete > 0 && count.complete < count.states);
    Ok(count)
}

#[test]
fn a_child_has_its_old_parent_or_its_new_one() {
    for format in CHILDREN {
        for below in Format::ALL {
            let pair = Pair::new(below, format, 5);
            println!("relink {format} to {below}: {}", relinks(&pair).unwrap());
        }
    }
}

/// Tools that do not sync: this must be seen.
#[test]
fn what_is_not_synced_is_missed() {
    for format in CHILDREN {
        let lossy = |lost| Pair { lost, ..Pair::new(Format::Layer, format, 2) };
        let nameless = |change: &Change| *change == Change::SyncFolder;
        creates(&lossy(nameless), format, None).unwrap_err();
        creates(&lossy(Change::is_sync), format, None).unwrap_err();
        commits(&lossy(Change::is_sync), true, None).unwrap_err();
        commits(&lossy(Change::is_sync), false, None).unwrap_err();
        relinks(&lossy(Change::is_sync)).unwrap_err();
    }
    let timeless = |change: &Change| matches!(change, Change::Renew | Change::SyncAll);
    let pair = Pair { lost: timeless, ..Pair::new(Format::Raw, Format::Layer, 2) };
    let found = commits(&pair, false, None).unwrap_err();
    assert!(found.contains("its identity has not"), "{found}");
}
