//! The file: who may open it, what it keeps, and what a crash leaves.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::crash::{Files, Walk, samples};
use crate::image::fault::{Fault, Faults};
use crate::reservation::InitiatorPort;

/// In memory, where there is such a place: there are many states to look at.
fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// Reservations with this many registrations, which a loss of power leaves or does not.
fn reservations(count: u8, aptpl: bool) -> Reservations {
    let mut reservations = Reservations::default();
    for number in 1..=count {
        let port = InitiatorPort::new(&format!("port{number}")).unwrap();
        let mut list = [0; 24];
        (list[15], list[20]) = (number, aptpl.into());
        let _ = reservations.out(&port, &[0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list).unwrap();
    }
    reservations
}

fn count(store: &Store, identity: &str) -> usize {
    store.load(identity).map_or(0, |found| found.registrations().len())
}

#[test]
fn what_is_saved_is_loaded() {
    let folder = folder();
    let path = folder.path().join("state");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.path(), path);
    assert_eq!(store.load("a"), None);
    for round in 1..6 {
        store.save(0, "a", &reservations(round, true)).unwrap();
        store.save(1, "b", &reservations(2 * round, true)).unwrap();
        assert_eq!((count(&store, "a"), count(&store, "b")), (round.into(), (2 * round).into()));
    }
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.load("a"), Some(reservations(5, true).after_power_loss()));
    assert_eq!(store.load("b").unwrap().generation(), 0);
    store.save(0, "a", &reservations(5, false)).unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!((store.load("a"), count(&store, "b")), (None, 10));
}

#[test]
fn what_does_not_change_is_not_written() {
    let folder = folder();
    let path = folder.path().join("state");
    let recorder = Recorder::default();
    let _installed = recorder.install();
    let store = Store::open(&path).unwrap();
    let before = recorder.len();
    store.save(0, "a", &reservations(3, false)).unwrap();
    assert_eq!(recorder.len(), before);
    store.save(0, "a", &reservations(3, true)).unwrap();
    store.save(0, "a", &reservations(3, true)).unwrap();
    assert_eq!(recorder.len(), before + 2);
}

/// What the kernel did not take may be in the other slot all the same.
#[test]
fn after_a_write_that_failed_the_same_slot_is_written() {
    let folder = folder();
    let path = two_slots(folder.path());
    let whole = fs::read(&path).unwrap();
    let store = Store::open(&path).unwrap();
    store.state.lock().unwrap().uncertain = true;
    store.save(0, "a", &reservations(2, true)).unwrap();
    let at = usize::try_from(SLOTS[1]).unwrap();
    let now = fs::read(&path).unwrap();
    assert!(now[..32] != whole[..32] && now[at..] == whole[at..]);
    assert!(!store.state.lock().unwrap().uncertain);
}

/// Ways in which a slot's write or its sync fails: the calls before that do not, and how.
fn failures() -> Vec<(usize, Fault)> {
    let fault = |no_space, written| Fault { no_space, written };
    vec![
        (0, fault(true, 0)),
        (0, fault(false, 0)),
        (0, fault(true, 60)),
        (0, fault(false, 100)),
        (1, fault(false, 0)),
    ]
}

/// Who starts anew after a save that failed finds what there was before.
#[test]
fn a_save_that_failed_is_taken_back() {
    for (calls, fault) in failures() {
        let folder = folder();
        let path = folder.path().join("state");
        let (faults, recorder) = (Faults::default(), Recorder::default());
        let installed = (faults.install(), recorder.install());
        let store = Store::open(&path).unwrap();
        store.save(0, "a", &reservations(1, true)).unwrap();
        faults.fail_after(calls, fault);
        // Long enough to be torn.
        let error = store.save(0, "a", &reservations(250, true)).unwrap_err();
        assert!(matches!(error, StoreError::Host { .. }), "{error}");
        assert!(faults.hit().is_some());
        assert_eq!(count(&store, "a"), 1);
        let failed = recorder.len();
        store.save(1, "b", &reservations(2, true)).unwrap();
        drop((store, installed));
        // From the moment at which the failure is told, no crash brings it back.
        let changes = recorder.changes();
        let walk = Walk { changes: &changes, begin: failed, samples: 20, seed: 7 };
        let states = walk.each(Files::default(), |_, _| {
            let store = Store::open(&path).map_err(|error| error.to_string())?;
            match (count(&store, "a"), count(&store, "b")) {
                (1, 0 | 2) => Ok(()),
                found => Err(format!("{calls} {fault:?}: {found:?}")),
            }
        });
        let states = states.unwrap_or_else(|what| panic!("{what}"));
        assert!(states >= 3, "{states}");
    }
}

/// Where nothing can be written any more, the file has the old or the new, and once it can, what
/// initiators were told.
#[test]
fn what_cannot_be_taken_back_is_later() {
    for (calls, fault) in failures() {
        let folder = folder();
        let path = folder.path().join("state");
        let faults = Faults::default();
        let installed = faults.install();
        let store = Store::open(&path).unwrap();
        store.save(0, "a", &reservations(1, true)).unwrap();
        faults.fail_from(calls, fault);
        for _ in 0..3 {
            store.save(0, "a", &reservations(250, true)).unwrap_err();
            store.settle();
            assert_eq!(count(&store, "a"), 1);
        }
        let copy = folder.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        drop(installed);
        let found = count(&Store::open(&copy).unwrap(), "a");
        assert!([1, 250].contains(&found), "{found}");
        faults.heal();
        store.settle();
        assert!(!store.state.lock().unwrap().uncertain);
        drop(store);
        assert_eq!(count(&Store::open(&path).unwrap(), "a"), 1);
    }
}

#[test]
fn a_second_server_is_refused() {
    let folder = folder();
    let path = folder.path().join("state");
    let store = Store::open(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let told = format!("{error} {}", error.help().unwrap());
    assert!(told.contains(&format!("process {}", std::process::id())), "{told}");
    drop(store);
    Store::open(&path).unwrap();
}

#[test]
fn only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let path = folder.path().join("state");
    drop(Store::open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn files_of_others_are_left_alone() {
    let folder = folder();
    let path = folder.path().join("state");
    for bytes in [b"".as_slice(), &[0; 100], b"QFI\xfb", &[0x5a; 9000]] {
        fs::write(&path, bytes).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.help().is_some());
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    let error = Store::open(Path::new("/dev/null")).unwrap_err();
    assert!(matches!(error, StoreError::NotAFile { .. }), "{error}");
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Host { action: "open", .. }), "{error}");
    let error = Store::open(&folder.path().join("none/state")).unwrap_err();
    assert!(matches!(error, StoreError::Host { action: "make", .. }), "{error}");
}

/// A file whose slots hold 1 and 2 registrations of disk "a"; the second is the newer one.
fn two_slots(folder: &Path) -> PathBuf {
    let path = folder.join("state");
    let store = Store::open(&path).unwrap();
    for number in [1, 2] {
        store.save(0, "a", &reservations(number, true)).unwrap();
    }
    path
}

#[test]
fn of_a_torn_slot_the_other_one_counts() {
    let folder = folder();
    let path = two_slots(folder.path());
    let whole = fs::read(&path).unwrap();
    let at = usize::try_from(SLOTS[1]).unwrap();
    for place in [at, at + 9, at + 17, at + 25, at + 40, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(count(&Store::open(&path).unwrap(), "a"), 1, "{place}");
    }
    for len in at + 1..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(count(&Store::open(&path).unwrap(), "a"), 1, "{len}");
    }
    // A change goes to the slot that is torn.
    let store = Store::open(&path).unwrap();
    store.save(0, "a", &reservations(5, true)).unwrap();
    assert!(fs::read(&path).unwrap()[..100] == whole[..100]);
    drop(store);
    assert_eq!(count(&Store::open(&path).unwrap(), "a"), 5);
}

#[test]
fn where_no_slot_is_left_it_is_refused() {
    let folder = folder();
    let path = two_slots(folder.path());
    let mut bytes = fs::read(&path).unwrap();
    for at in SLOTS {
        bytes[usize::try_from(at).unwrap() + 40] ^= 1;
    }
    fs::write(&path, &bytes).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { what: "the checksum is wrong", .. }), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let folder = folder();
    let store = Store::open(&folder.path().join("state")).unwrap();
    store.save(0, "a", &reservations(1, true)).unwrap();
    let error = store.save(1, &"x".repeat(5000), &reservations(1, true)).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    store.save(1, "b", &reservations(2, true)).unwrap();
    assert_eq!((count(&store, "a"), count(&store, "b")), (1, 2));
}

/// Each crash leaves what was saved last, or what was being saved.
#[test]
fn a_crash_leaves_the_old_or_the_new() {
    let folder = folder();
    let path = folder.path().join("state");
    let recorder = Recorder::default();
    let installed = recorder.install();
    let store = Store::open(&path).unwrap();
    // How many changes there had been when each was begun and when it was durable.
    let mut saved = vec![(0, recorder.len(), [0, 0])];
    let mut held = [0, 0];
    for (step, number) in [3, 40, 1, 90, 0, 60, 7, 25].into_iter().enumerate() {
        let (lun, identity) = [(0, "a"), (1, "b")][step % 2];
        let begun = recorder.len();
        store.save(lun, identity, &reservations(number, true)).unwrap();
        held[step % 2] = number.into();
        saved.push((begun, recorder.len(), held));
    }
    drop((store, installed));
    let changes = recorder.changes();
    let walk = Walk { changes: &changes, begin: 0, samples: 20 * samples(), seed: 3 };
    let states = walk.each(Files::default(), |state, _| {
        // Where it was not made to the end, it is made now.
        let store = Store::open(&path).map_err(|error| error.to_string())?;
        let found = [count(&store, "a"), count(&store, "b")];
        let durable = saved.iter().rposition(|(_, end, _)| *end <= state.time).unwrap_or_default();
        let allowed = saved[durable..]
            .iter()
            .filter(|(begun, end, _)| *end == saved[durable].1 || *begun < state.time);
        match allowed.clone().any(|(_, _, held)| *held == found) {
            true => Ok(()),
            false => Err(format!("{found:?}, not one of {:?}", allowed.collect::<Vec<_>>())),
        }
    });
    let states = states.unwrap_or_else(|what| panic!("{what}"));
    println!("{states} states");
    assert!(states > 200, "{states}");
}
