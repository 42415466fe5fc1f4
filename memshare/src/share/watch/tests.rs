use super::*;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::share::Change;

/// How long an event may take; only a test that fails takes as long.
const LIMIT: Duration = Duration::from_secs(30);

fn watched(path: &std::path::Path) -> (Watch, Receiver<Changed>) {
    let region = SharedRegion::new(File::open(path).unwrap(), path.into(), None).unwrap();
    let (tell, told) = channel();
    let watch = Watch::new(vec![region], move |changed| tell.send(changed.clone()).unwrap());
    (watch.unwrap(), told)
}

fn some_file() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, [1; 10_000]).unwrap();
    (folder, path)
}

#[test]
fn a_file_that_is_written_in_place_is_told_of_once() {
    let (_folder, path) = some_file();
    let (watch, told) = watched(&path);
    let file = File::options().write(true).open(&path).unwrap();
    for at in 0..3 {
        file.write_all_at(b"x", at).unwrap();
    }
    let changed = told.recv_timeout(LIMIT).unwrap();
    assert_eq!((&changed.path, changed.what), (&path, Change::Written));
    assert!(changed.to_string().contains("was written to while guests have it mapped"));
    file.set_len(5).unwrap();
    let changed = told.recv_timeout(LIMIT).unwrap();
    assert_eq!(changed.what, Change::Truncated { from: 10_000, to: 5 });
    drop(watch);
    assert!(told.recv().is_err());
}

#[test]
fn a_file_that_loses_its_name_is_what_it_was() {
    let (folder, path) = some_file();
    let (watch, told) = watched(&path);
    fs::write(folder.path().join("new"), [2; 100]).unwrap();
    fs::rename(folder.path().join("new"), &path).unwrap();
    fs::write(&path, [3; 100]).unwrap();
    fs::remove_file(&path).unwrap();
    drop(watch);
    assert!(told.recv().is_err());
}

#[test]
fn what_happened_before_is_told_at_once() {
    let (_folder, path) = some_file();
    let region = SharedRegion::new(File::open(&path).unwrap(), path.clone(), None).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(1).unwrap();
    let (tell, told) = channel();
    let watch = Watch::new(vec![region], move |changed| tell.send(changed.clone()).unwrap());
    let changed = told.recv_timeout(LIMIT).unwrap();
    assert_eq!(changed.what, Change::Truncated { from: 10_000, to: 1 });
    drop(watch.unwrap());
}

#[test]
fn each_kind_of_change_is_told_once_however_often_it_happens() {
    let (_folder, path) = some_file();
    let (watch, told) = watched(&path);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(20_000).unwrap();
    assert_eq!(told.recv_timeout(LIMIT).unwrap().what, Change::Written);
    file.set_len(5).unwrap();
    let cut = Change::Truncated { from: 10_000, to: 5 };
    assert_eq!(told.recv_timeout(LIMIT).unwrap().what, cut);
    // Each is seen to be looked at before the next: the pause ends when a second watch tells.
    for round in 0..3u64 {
        for len in [30_000 + round, round] {
            let region = SharedRegion::new(File::open(&path).unwrap(), path.clone(), None).unwrap();
            let (tell, seen) = channel();
            let other = Watch::new(vec![region], move |_| tell.send(()).unwrap()).unwrap();
            file.set_len(len).unwrap();
            seen.recv_timeout(LIMIT).unwrap();
            drop(other);
        }
    }
    drop(watch);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), []);
}

#[test]
fn of_many_files_the_right_one_is_told() {
    let files: Vec<_> = (0..20).map(|_| some_file()).collect();
    let regions = files
        .iter()
        .map(|(_, path)| SharedRegion::new(File::open(path).unwrap(), path.clone(), None).unwrap());
    let (tell, told) = channel();
    let watch = Watch::new(regions.collect(), move |changed| tell.send(changed.clone()).unwrap());
    File::options().write(true).open(&files[13].1).unwrap().set_len(9).unwrap();
    let changed = told.recv_timeout(LIMIT).unwrap();
    assert_eq!(changed.path, files[13].1);
    // Permissions, and names of the same file, change nothing of the content.
    fs::hard_link(&files[3].1, files[3].0.path().join("second")).unwrap();
    fs::set_permissions(&files[4].1, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    drop(watch);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), []);
}
