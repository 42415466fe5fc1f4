use cohort::mem::frames::{Frame, Frames};
use cohort::mem::registry::LabRun;
use cohort::mem::smaps::FileId;
use cohort::mem::{Guest, Origin, Process};

use super::*;

fn group(lab: Option<&str>, guests: Vec<GuestAccount>) -> Group {
    let account = Account { held_kib: 2048, unshared_kib: 4096, guests, ..Account::default() };
    Group { lab: lab.map(str::to_owned), supervisor: lab.map(|_| 7), account }
}

/// An account of this process, with other parts in place of its own.
fn guest(name: &str, parts: Vec<Part>) -> GuestAccount {
    let lab = Some(LabRun { name: "pair".into(), supervisor: 7 });
    let process = Process::current().unwrap();
    let guest = Guest { name: name.into(), lab, process, given: Default::default() };
    GuestAccount { parts, ..GuestAccount::read(&guest).unwrap() }
}

fn part(origin: Origin, path: Option<&str>, rss_kib: u64, with: &[&str]) -> Part {
    let file = path.map(|_| FileId { major: 1, minor: 1, inode: 1 });
    let sizes = Sizes { rss_kib, pss_kib: rss_kib / 2, ..Sizes::default() };
    let with = with.iter().map(|name| (*name).to_owned()).collect();
    Part { path: path.map(str::to_owned), file, sizes, with, ..Part::new(origin) }
}

fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(|line| line.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect())
        .collect()
}

#[test]
fn nobody_is_said_to_run_when_nobody_does() {
    assert_eq!(of(&[], false), "no guest runs\n");
    assert_eq!(of(&[group(Some("pair"), Vec::new())], true), "no guest runs\n");
}

#[test]
fn every_file_that_can_be_shared_has_a_line_and_the_rest_one_for_each_kind() {
    let parts = vec![
        part(Origin::Kernel, Some("/boot/vmlinuz"), 184, &["b"]),
        part(Origin::Pmem, Some("/srv/a.erofs"), 3000, &["b", "c", "d", "e", "f"]),
        part(Origin::Pmem, Some("/srv/b.erofs"), 0, &["b"]),
        Part { files: Some(12), ..part(Origin::Share, None, 4, &[]) },
        part(Origin::Program, Some("/usr/bin/cohort"), 1000, &["b"]),
        part(Origin::Program, Some("/lib/libc.so.6"), 24, &["b"]),
    ];
    let text = of(&[group(Some("pair"), vec![guest("a", parts)])], true);
    let rows = rows(&text);
    let row = |what: &str| {
        let found = rows.iter().find(|row| row.iter().take(2).any(|cell| *cell == what));
        found.unwrap_or_else(|| panic!("no {what} in:\n{text}")).clone()
    };
    assert_eq!(row("kernel"), ["a", "kernel", "vmlinuz", "184 KiB", "92 KiB", "-", "-", "b"]);
    assert_eq!(row("pmem")[1..3], ["a.erofs", "2.9 MiB"]);
    assert_eq!(row("pmem").last(), Some(&"b, c, d and 2 more"));
    assert!(!text.contains("b.erofs"), "nothing of it is in memory:\n{text}");
    assert_eq!(row("share")[1..3], ["12 more files", "4 KiB"]);
    assert_eq!(row("program"), ["program", "1.0 MiB", "512 KiB", "-", "-"]);
    assert!(text.ends_with(
        "lab pair (process 7): 1 guest holds 2.0 MiB; without sharing it would be 4.0 MiB\n"
    ));
}

#[test]
fn page_frames_are_shown_by_number_where_they_are_known() {
    let mut kernel = part(Origin::Kernel, Some("/boot/vmlinuz"), 8, &["b"]);
    let first =
        vec![Frame { number: 0x29c, mapped: Some(3) }, Frame { number: 0x29d, mapped: None }];
    kernel.frames = Some(Frames { count: 2, shared: 1, first });
    let text = of(&[group(None, vec![guest("a", vec![kernel])])], true);
    assert!(text.contains("1 of 2 shared: 0x29c (3 times), 0x29d"), "{text}");
    assert!(text.contains("guests without a lab: "), "{text}");
}

#[test]
fn guests_have_a_line_each() {
    let parts = || {
        vec![part(Origin::Kernel, Some("/k"), 8, &["b"]), part(Origin::Program, None, 8, &["z"])]
    };
    let groups = [
        group(Some("pair"), vec![guest("a", parts()), guest("b", Vec::new())]),
        group(None, vec![guest("guest", Vec::new())]),
    ];
    let text = of(&groups, false);
    assert_eq!(text.matches("process").count(), 3, "two heads and a lab:\n{text}");
    let rows = rows(&text);
    let a = rows.iter().find(|row| row.first() == Some(&"a")).unwrap();
    assert_eq!((a.len(), a.last()), (8, Some(&"b")));
}

#[test]
fn guests_that_share_nothing_save_nothing() {
    assert_eq!(
        held_line(3, 2048, 2048),
        "3 guests hold 2.0 MiB, and map no file that guests could share"
    );
}
