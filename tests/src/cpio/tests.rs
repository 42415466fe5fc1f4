use std::io::Write;
use std::process::{Command, Stdio};

use super::Archive;

#[test]
fn an_archive_lists_its_entries_in_order_and_folders_once() {
    let mut archive = Archive::new();
    archive.file("etc/modules", 0o644, b"virtio\n").unwrap();
    archive.file("etc/deep/er/file", 0o600, b"x").unwrap();
    archive.symlink("bin/sh", "busybox").unwrap();
    archive.directory("etc/deep").unwrap();
    let listing = list(&archive.finish().unwrap());
    assert_eq!(listing, "etc\netc/modules\netc/deep\netc/deep/er\netc/deep/er/file\nbin\nbin/sh\n");
}

#[test]
fn the_same_content_gives_the_same_aligned_bytes() {
    let build = || {
        let mut archive = Archive::new();
        archive.file("init", 0o755, b"#!/bin/sh\n").unwrap();
        archive.finish().unwrap()
    };
    assert_eq!(build(), build());
    assert_eq!(build().len() % 4, 0);
}

/// What the `cpio` tool, an implementation that is not ours, reads.
fn list(archive: &[u8]) -> String {
    let mut tool = Command::new("cpio")
        .args(["-t", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cpio is installed by `cargo xtask setup`");
    tool.stdin.take().unwrap().write_all(archive).unwrap();
    let output = tool.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}
