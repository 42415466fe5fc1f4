//! Crashes while a log is replayed, and while the record of the parent or the identity changes.
//! Those of disks in use are `crash/`'s.

use super::*;
use crate::crash::{Change, Files, Walk, samples};

/// In memory, where there is such a place: there are many states to look at.
fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// Calls `look` for many of the states in which a crash could leave the file at `path` while it is
/// opened and `work` is done.
fn after_each_crash(path: &Path, work: impl FnOnce(&VhdxLayer), look: impl Fn()) {
    let (mut files, recorder) = (Files::default(), Recorder::default());
    files.import(path).unwrap();
    let recording = recorder.install();
    let image = image(path);
    drop(recording);
    work(&layer_of(&image));
    drop(image);
    let changes = recorder.changes();
    assert!(changes.len() > 2, "{changes:?}");
    assert_eq!(changes.last().map(|(_, change)| change), Some(&Change::Sync), "durable at the end");
    let walk = Walk { changes: &changes, begin: 0, samples: 5 * samples(), seed: 1 };
    let states = walk.each(files, |_, _| {
        look();
        Ok(())
    });
    println!("{} states of {}", states.unwrap(), path.display());
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
    let look = || {
        let identity = layer_of(&read_only(&path)).identity().unwrap();
        let image = image(&path);
        let layer = layer_of(&image);
        assert!(contents(&layer, &image, &base) == wanted);
        assert_eq!(layer.identity().unwrap(), identity);
    };
    after_each_crash(&path, |_| {}, look);
}

#[test]
fn a_record_of_the_parent_is_the_old_one_or_the_new_one() {
    let folder = folder();
    let (path, wanted) = dirty(folder.path());
    drop(layer_of(&image(&path)));
    let (base, old) = (pattern(5, 3 << 20), layer_of(&read_only(&path)).info().parent.clone());
    let next: Vec<_> =
        ["a", "b", "c"].map(|name| link(Format::Raw, name, Identity::fresh())).to_vec();
    let known: Vec<_> = next.iter().cloned().map(Some).chain([old]).collect();
    let work = |layer: &VhdxLayer| {
        next.iter().for_each(|link| layer.set_parent(link).unwrap());
        layer.close().unwrap();
    };
    after_each_crash(&path, work, || {
        let image = read_only(&path);
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
    let work = |layer: &VhdxLayer| {
        layer.announce_change().unwrap();
        new.set(layer.identity().unwrap()).unwrap();
    };
    after_each_crash(&path, work, || {
        let found = layer_of(&read_only(&path)).identity().unwrap();
        assert!(found == old || Some(&found) == new.get());
    });
    assert_eq!(Some(&layer_of(&read_only(&path)).identity().unwrap()), new.get());
}
