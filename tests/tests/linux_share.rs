//! Folders that unmodified Debian guests share with the host. These tests need hardware KVM and the
//! guests' files, like those of `linux.rs`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cohort_tests::cohort::Finished;
use cohort_tests::tree::{self, CHECKS};
use cohort_tests::{Cohort, linux};

/// How many files there are of which size: around pages and the 2 MiB that a guest maps at once.
const FILES: &[(u32, u64)] = &[
    (1, 0),
    (4, 1),
    (4, 4095),
    (4, 4096),
    (4, 4097),
    (200, 7000),
    (4, (2 << 20) - 3),
    (1, 9 << 20),
];

/// Runs a command on the host, in a folder.
fn sh(folder: &Path, command: &str) {
    let status = Command::new("sh").args(["-ec", command]).current_dir(folder).status();
    assert!(status.expect("a shell").success(), "{command}");
}

/// A guest that has `folder` as `share`, mounted at /t.
fn guest(folder: &Path, options: &str, mount: &str, script: &str) -> Cohort {
    let script = format!("mkdir /t\nmount -t virtiofs {mount} share /t || exit 1\n{script}");
    let mut share: OsString = folder.into();
    share.push(format!(":share{options}"));
    linux::guest(&script).arg("--share").arg(share)
}

/// A fresh folder that belongs to a test.
fn folder(of: &tempfile::TempDir) -> PathBuf {
    of.path().join("share")
}

fn every_byte_is_right(options: &str, mount: &str, printed: &[&str]) -> Finished {
    let home = tempfile::tempdir().expect("a folder");
    let folder = folder(&home);
    tree::make(&folder, FILES).expect("a tree");
    let before = fs::metadata(folder.join("sums")).expect("sums");
    let script = format!(
        "{CHECKS}
        touch new 2>/dev/null && {{ echo 'it was written'; exit 6; }}
        rm sums 2>/dev/null && {{ echo 'it was removed'; exit 7; }}
        grep ' /t ' /proc/mounts
        exit 0"
    );
    let finished = guest(&folder, options, mount, &script).finish();
    finished.expect_status(0).expect_message(&["read: 223", "mapped: 223"]).expect_message(printed);
    let after = fs::metadata(folder.join("sums")).expect("sums");
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    finished
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn a_tree_is_read_mapped_and_run_through_the_window() {
    every_byte_is_right("", "-o dax=always", &["dax=always"]);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn a_tree_is_read_mapped_and_run_without_a_window() {
    every_byte_is_right(",dax=off", "", &[]);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn a_window_smaller_than_the_files_takes_turns() {
    every_byte_is_right(",dax=4M", "-o dax=always", &["dax=always"]);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn what_a_guest_changes_is_changed_on_the_host() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = folder(&home);
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("old"), "from the host").expect("a file");
    fs::write(folder.join("gone"), "").expect("a file");
    let script = "set -e
        cd /t
        [ \"$(cat old)\" = 'from the host' ]
        mkdir -p a/b
        echo first >a/b/file
        echo second >>a/b/file
        mv a/b/file a/renamed
        mv old a/old
        rm gone
        ln a/renamed link
        ln -s a/renamed symlink
        chmod 640 a/renamed
        dd if=/dev/urandom of=data bs=4097 count=700 conv=fsync 2>/dev/null
        md5sum <data >sum
        truncate -s 100 a/old
        rmdir a/b
        cat symlink";
    let finished = guest(&folder, ",rw", "-o dax=always", script).finish();
    finished.expect_status(0).expect_message(&["first", "second"]);
    sh(&folder, "[ ! -e old ] && [ ! -e gone ] && [ ! -e a/b ]");
    sh(&folder, "[ \"$(cat link)\" = \"$(printf 'first\\nsecond')\" ]");
    sh(
        &folder,
        "[ \"$(readlink symlink)\" = a/renamed ] && [ \"$(md5sum <data)\" = \"$(cat sum)\" ]",
    );
    let renamed = fs::metadata(folder.join("a/renamed")).expect("a file");
    assert_eq!((renamed.mode() & 0o7777, renamed.nlink()), (0o640, 2));
    assert_eq!(fs::metadata(folder.join("a/old")).expect("a file").len(), 100);
    assert_eq!(fs::metadata(folder.join("data")).expect("a file").len(), 4097 * 700);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn two_guests_see_each_others_changes_and_exclude_each_other_by_locks() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = folder(&home);
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("counter"), "0\n").expect("a file");
    // Each answers the other's file, then both count up under one lock.
    let script = |own: &str, other: &str| {
        format!(
            "cd /t
            for round in 1 2 3 4 5; do
                echo \"{own} $round\" >.{own}.new && mv .{own}.new {own}.$round || exit 2
                waited=0
                until [ \"$(cat {other}.$round 2>/dev/null)\" = \"{other} $round\" ]; do
                    waited=$((waited + 1))
                    [ $waited -lt 600 ] || {{ echo \"no {other}.$round\"; exit 3; }}
                    usleep 100000
                done
            done
            for round in 1 2 3 4 5 6 7 8 9 10; do
                locked counter 'n=$(cat counter); echo $((n + 1)) >counter' || exit 4
            done
            echo \"{own} is done\""
        )
    };
    let start =
        |own, other| guest(&folder, ",rw,cache=never,dax=off", "", &script(own, other)).start();
    let (one, two) = (start("one", "two"), start("two", "one"));
    one.finish().expect_status(0).expect_message(&["one is done"]);
    two.finish().expect_status(0).expect_message(&["two is done"]);
    let counted = fs::read_to_string(folder.join("counter")).expect("a file");
    assert_eq!(counted, "20\n");
}
