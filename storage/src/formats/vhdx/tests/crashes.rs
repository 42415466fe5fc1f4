//! Crashes while a log is replayed, and while the record of the parent or the identity changes.
//! Those of disks in use are `crash/`'s.

use std::os::unix::fs::FileExt;

use super::*;
use crate::crash::Change;

/// In memory, where there is such a place: there are many states to look at.
fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// What `work` does to the file at `path`, which is left as it was.
fn changes_of(path: &Path, work: impl FnOnce(&VhdxLayer)) -> Vec<Change> {
    let before = fs::read(path).unwrap();
    let recorder = Recorder::default();
    let recording = recorder.install();
    let image = image(path);
    drop(recording);
    work(&layer_of(&image));
    fs::write(path, before).unwrap();
    recorder.changes().into_iter().map(|(_, change)| change).collect()
}

fn apply(path: &Path, change: &Change) {
    let file = File::options().write(true).open(path).unwrap();
    match change {
        Change::Write { at, bytes } => file.write_all_at(bytes, *at).unwrap(),
        Change::SetLen(len) => file.set_len(*len).unwrap(),
        Change::Punch { at, len } | Change::ZeroRange { at, len } => {
            file.write_all_at(&vec![0; usize::try_from(*len).unwrap()], *at).unwrap();
        }
        Change::Sync => {}
    }
}

/// Calls `look` for many of the states in which a crash could leave the file: after each change,
/// with what was not synced there as a whole, not at all, without one of the changes, and with one
/// of them half done.
fn after_each_crash(path: &Path, changes: &[Change], look: impl Fn(&Path)) {
    let mut pending: Vec<&Change> = Vec::new();
    let crashed = path.with_file_name("crashed.vhdx");
    for change in changes {
        if *change == Change::Sync {
            pending.drain(..).for_each(|change| apply(path, change));
        } else {
            pending.push(change);
        }
        for fate in 0..2 * pending.len() + 2 {
            fs::copy(path, &crashed).unwrap();
            for (number, change) in pending.iter().enumerate() {
                match change {
                    // None of them, or all but this one.
                    _ if fate == 0 || fate == 2 + 2 * number => {}
                    Change::Write { at, bytes } if fate == 3 + 2 * number => {
                        let half = bytes[..bytes.len() / 2 / 512 * 512].to_vec();
                        apply(&crashed, &Change::Write { at: *at, bytes: half });
                    }
                    change => apply(&crashed, change),
                }
            }
            look(&crashed);
        }
    }
}

/// A differencing disk in which some sectors were written, as the process left it that died.
fn dirty(folder: &Path) -> (PathBuf, Vec<u8>) {
    let base = pattern(5, 3 << 20);
    let path = make_over_raw(folder, &base, MIB);
    let image = image(&path);
    let layer = layer_of(&image);
    let mut wanted = base.clone();
    for at in [0, MIB + 512, 2 * MIB] {
        let write = range(at, 512);
        change(&layer, &image, |steps| layer.resolve_write(write, steps), &[0xc9; 512]);
        layer.flush_metadata().unwrap();
        wanted[usize::try_from(at).unwrap()..][..512].fill(0xc9);
    }
    (path, wanted)
}

#[test]
fn replay_can_be_interrupted() {
    let folder = folder();
    let (path, wanted) = dirty(folder.path());
    // The last entry is in the log only.
    let mut bytes = fs::read(&path).unwrap();
    let bat = &mut bytes[3 << 20..][..4096];
    assert!(bat.iter().any(|&byte| byte != 0));
    bat.fill(0);
    fs::write(&path, bytes).unwrap();
    let base = pattern(5, 3 << 20);
    let changes = changes_of(&path, |_| {});
    assert!(changes.len() > 4, "{changes:?}");
    after_each_crash(&path, &changes, |path| {
        let identity = layer_of(&read_only(path)).identity().unwrap();
        let image = image(path);
        let layer = layer_of(&image);
        assert!(contents(&layer, &image, &base) == wanted);
        assert_eq!(layer.identity().unwrap(), identity);
    });
}

#[test]
fn a_record_of_the_parent_is_the_old_one_or_the_new_one() {
    let folder = folder();
    let (path, wanted) = dirty(folder.path());
    drop(layer_of(&image(&path)));
    let (base, old) = (pattern(5, 3 << 20), layer_of(&read_only(&path)).info().parent.clone());
    let next: Vec<_> =
        ["a", "b", "c"].map(|name| link(Format::Raw, name, Identity::fresh())).to_vec();
    let changes = changes_of(&path, |layer| {
        next.iter().for_each(|link| layer.set_parent(link).unwrap());
        layer.close().unwrap();
    });
    let known: Vec<_> = next.into_iter().map(Some).chain([old]).collect();
    after_each_crash(&path, &changes, |path| {
        let image = read_only(path);
        let layer = layer_of(&image);
        assert!(known.contains(&layer.info().parent), "{:?}", layer.info().parent);
        assert!(contents(&layer, &image, &base) == wanted);
    });
    assert_eq!(layer_of(&read_only(&path)).info().parent, known[2]);
}

#[test]
fn an_identity_is_the_old_one_or_the_new_one() {
    let folder = folder();
    let (path, _) = dirty(folder.path());
    drop(layer_of(&image(&path)));
    let old = layer_of(&read_only(&path)).identity().unwrap();
    let new = std::cell::OnceCell::new();
    let changes = changes_of(&path, |layer| {
        layer.announce_change().unwrap();
        new.set(layer.identity().unwrap()).unwrap();
    });
    assert_eq!(changes.last(), Some(&Change::Sync), "durable when it returns");
    after_each_crash(&path, &changes, |path| {
        let found = layer_of(&read_only(path)).identity().unwrap();
        assert!(found == old || Some(&found) == new.get());
    });
    assert_eq!(Some(&layer_of(&read_only(&path)).identity().unwrap()), new.get());
}
