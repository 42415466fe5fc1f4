use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use super::*;

fn guest(name: &str) -> Guest {
    let process = Process::current().unwrap();
    let lab = Some(LabRun { name: "pair".into(), supervisor: 1 });
    Guest { name: name.into(), lab, process, given: Given { memory: 4096, ..Given::default() } }
}

#[test]
fn an_entry_is_there_as_long_as_it_is_held_and_the_folder_as_long_as_it_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::at(&dir.path().join("cohort"));
    assert!(registry.guests().unwrap().is_empty());
    let entry = registry.enter(&guest("a")).unwrap();
    let mode = fs::metadata(registry.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    assert_eq!(registry.guests().unwrap(), [guest("a")]);
    drop(entry);
    assert!(registry.guests().unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn entries_of_processes_that_have_ended_are_swept_and_strange_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::at(&dir.path().join("cohort"));
    let entry = registry.enter(&guest("a")).unwrap();
    let own = Process::current().unwrap();
    // The number is in use again, by this process.
    let reused = Guest { process: Process { started: own.started - 1, ..own }, ..guest("before") };
    std::mem::forget(registry.enter(&reused).unwrap());
    // A guest that was killed.
    let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
    let process = Process::with_pid(child.id()).unwrap().unwrap();
    std::mem::forget(registry.enter(&Guest { process, ..guest("killed") }).unwrap());
    assert_eq!(registry.guests().unwrap().len(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    // And one that was killed while it wrote its entry.
    fs::write(registry.path().join(format!(".{}", name(process))), "{").unwrap();
    for strange in ["notes.txt", "-.guest", "1-x.guest", "99999999999-1.guest"] {
        fs::write(registry.path().join(strange), "mine").unwrap();
    }
    assert_eq!(registry.guests().unwrap(), [guest("a")]);
    assert_eq!(fs::read_dir(registry.path()).unwrap().count(), 1 + 4);
    drop(entry);
    // What is not ours keeps the folder.
    assert_eq!(fs::read_dir(registry.path()).unwrap().count(), 4);
}

#[test]
fn damaged_entries_are_no_guests() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::at(&dir.path().join("cohort"));
    let entry = registry.enter(&guest("a")).unwrap();
    let path = registry.path().join(name(Process::current().unwrap()));
    let whole = fs::read(&path).unwrap();
    // One that is about another process than its name says is damaged too.
    let other =
        serde_json::to_vec(&Guest { process: Process { pid: 1, started: 1 }, ..guest("b") });
    for text in [&b""[..], b"{}", b"[1]", b"\xff", &whole[..whole.len() - 1], &other.unwrap()] {
        fs::write(&path, text).unwrap();
        assert!(registry.guests().unwrap().is_empty());
    }
    for special in ["a link", "a folder"] {
        fs::remove_file(&path).unwrap();
        match special {
            "a link" => symlink("/dev/zero", &path).unwrap(),
            _ => fs::create_dir(&path).unwrap(),
        }
        assert!(registry.guests().unwrap().is_empty(), "{special}");
    }
    drop(entry);
}

#[test]
fn a_folder_that_others_can_use_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cohort");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let registry = Registry::at(&path);
    for error in [registry.enter(&guest("a")).unwrap_err(), registry.guests().unwrap_err()] {
        assert!(matches!(error, RegistryError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("is writable for other users"), "{error}");
        assert!(error.help().unwrap().contains("XDG_RUNTIME_DIR"));
    }
    // Whoever put a link there would decide where entries go.
    fs::remove_dir(&path).unwrap();
    symlink(dir.path(), &path).unwrap();
    let error = registry.enter(&guest("a")).unwrap_err();
    assert!(error.to_string().contains("is no folder"), "{error}");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    assert!(registry.guests().unwrap_err().to_string().contains("is no folder"));
}

#[test]
fn a_folder_of_another_user_is_not_trusted() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give a folder away");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cohort");
    fs::create_dir(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
    let error = Registry::at(&path).guests().unwrap_err();
    assert!(error.to_string().contains("belongs to another user (12345)"), "{error}");
}

#[test]
fn entries_are_in_the_users_own_folder() {
    let dir = tempfile::tempdir().unwrap();
    let own = rustix::process::geteuid().as_raw();
    let of = |path: &Path, user| folder_of(Some(path.to_owned()), user);
    assert_eq!(of(dir.path(), own), dir.path().join("cohort"));
    let other = std::env::temp_dir().join(format!("cohort-guests-{own}"));
    assert_eq!(of(&dir.path().join("none"), own), other);
    assert_eq!(of(Path::new("relative"), own), other);
    assert_eq!(folder_of(None, own), other);
    // What `su` leaves in the environment.
    let of_another = std::env::temp_dir().join(format!("cohort-guests-{}", own + 1));
    assert_eq!(of(dir.path(), own + 1), of_another);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none/cohort");
    let registry = Registry::at(&path);
    let error = registry.enter(&guest("a")).unwrap_err();
    assert!(error.to_string().contains("none/cohort"), "{error}");
    // That there is nothing to be seen is no error.
    assert!(registry.guests().unwrap().is_empty());
}

#[test]
fn many_come_and_go_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::at(&dir.path().join("cohort"));
    let own = Process::current().unwrap();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let registry = &registry;
            scope.spawn(move || {
                for _ in 0..100 {
                    // Entries of their own, and nobody who sweeps: the process is this one.
                    let process = Process { started: own.started + number, ..own };
                    match registry.enter(&Guest { process, ..guest("a") }) {
                        Ok(entry) => drop(entry),
                        // Others removed the folder each time that it was made.
                        Err(RegistryError::Io { source, .. }) => {
                            assert_eq!(source.kind(), io::ErrorKind::NotFound);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_full_folder_costs_no_guest_its_life() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::at(&dir.path().join("cohort"));
    let entry = registry.enter(&guest("a")).unwrap();
    for number in 0..2000 {
        let dead = Process { pid: u32::MAX - 1, started: number };
        fs::write(registry.path().join(name(dead)), "{}").unwrap();
    }
    assert_eq!(registry.guests().unwrap(), [guest("a")]);
    assert_eq!(fs::read_dir(registry.path()).unwrap().count(), 1);
    drop(entry);
}
