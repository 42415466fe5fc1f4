//! Those who come to a server of shared disks and are not its guests, and what is told to those who
//! call it wrongly.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use cohort_tests::cohort::PATIENCE;
use cohort_tests::processes::Signal;
use cohort_tests::shared::{self, Shared};
use cohort_tests::{Cohort, Finished, Running, kvm_is_there};

const SOCKETS: &str = "--vhost-user-scsi @a.sock --vhost-user-blk @b.sock";

/// A guest at work on `a.sock` until it is stopped.
fn busy(disk: &Shared) -> Running {
    let script = "print began.; repeat 1000000 { scsi.write 0 1M seed=1 qd=16; \
                  scsi.verify 0 1M seed=1; print round. }";
    let guest = disk.guest("scsi", "a.sock", script).start();
    guest.wait_for("round.");
    guest
}

/// Waits until a guest does more than it has.
fn goes_on(guest: &Running) {
    let before = guest.console().len();
    let deadline = Instant::now() + PATIENCE;
    while guest.console().len() == before {
        assert!(Instant::now() < deadline, "the guest does not go on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// KiB of memory that a process has of its own.
fn memory(process: &Running) -> u64 {
    let path = format!("/proc/{}/status", process.pid());
    let status = fs::read_to_string(path).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_second_guest_on_a_socket_is_turned_away_and_the_first_goes_on() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(4 << 20);
    let server = disk.serve(SOCKETS);
    let guest = busy(&disk);
    let second = disk.guest("scsi", "a.sock", "exit 0").finish();
    assert_ne!(second.status(), Some(0));
    second.expect_message(&["a.sock", "error: "]);
    // Operators look, and act, meanwhile.
    for _ in 0..20 {
        let status = disk.status("serve");
        assert_eq!(status["sockets"][0]["connected"], true, "{status}");
        assert_eq!(status["sockets"][0]["pid"], guest.pid(), "{status}");
        let clear = disk.command("shared-disk clear --lun 0 @serve.control").finish();
        clear.expect_status(0);
    }
    goes_on(&guest);
    guest.signal(Signal::TERM);
    guest.finish().expect_status(143);
    disk.guest("scsi", "a.sock", "exit 0").finish().expect_status(0);
    shared::stop(server);
}

#[test]
fn garbage_on_its_sockets_costs_a_server_nothing() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(4 << 20);
    let server = disk.serve(SOCKETS);
    let guest = busy(&disk);
    let mut random = 0x5eed_u64;
    let mut garbage = |len: usize| -> Vec<u8> {
        let byte = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_le_bytes()[3]
        };
        std::iter::repeat_with(byte).take(len).collect()
    };
    let mut send = |count: usize| {
        for round in 0..count {
            for name in ["a.sock", "b.sock", "serve.control"] {
                let Ok(mut stream) = UnixStream::connect(disk.at(name)) else { continue };
                let mut bytes = garbage(round * 7 % 6000);
                if round % 3 == 0 && bytes.len() > 12 {
                    // A message that there is, of this version, with a size that is too large.
                    bytes[..12].copy_from_slice(&[5, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0]);
                }
                // It may hang up at any time.
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let _ = stream.read(&mut [0; 64]);
            }
        }
    };
    send(100);
    let before = memory(&server);
    send(400);
    let after = memory(&server);
    assert!(after < before + (16 << 10), "{before} KiB before, {after} KiB after");
    goes_on(&guest);
    guest.signal(Signal::TERM);
    guest.finish().expect_status(143);
    disk.guest("blk", "b.sock", "blk.write 2M 4K; exit 0").finish().expect_status(0);
    server.signal(Signal::TERM);
    let finished = server.finish();
    finished.expect_status(143).expect_message(&[]);
    // What strangers bring about does not fill a disk.
    assert!(finished.stderr.lines().count() < 1000, "{}", finished.stderr);
}

/// Checks that a command fails as a mistake of its arguments, with one error that says all this.
#[track_caller]
fn refused(finished: &Finished, parts: &[&str]) {
    finished.expect_status(2).expect_message(&["error: "]).expect_message(parts);
    assert_eq!(finished.stderr.matches("error: ").count(), 1, "{}", finished.stderr);
}

#[test]
fn sockets_that_cannot_be_served_are_told_and_nothing_is_left() {
    let disk = Shared::new(1 << 20);
    let serve =
        |words: &str| disk.command(&format!("shared-disk serve @disk.raw {words}")).finish();
    let long = format!("@{}.sock", "x".repeat(120));
    refused(&serve(&format!("--vhost-user-scsi {long}")), &["too long", "107"]);
    refused(&serve("--vhost-user-scsi @none/a.sock"), &["none/a.sock"]);
    refused(&serve("--vhost-user-scsi @disk.raw"), &["disk.raw"]);
    assert_eq!(disk.bytes().len(), 1 << 20);
    refused(
        &serve("--vhost-user-scsi @a.sock --vhost-user-blk @b.sock,initiator=a"),
        &["same initiator", "a.sock", "b.sock", "help: ", "initiator=NAME"],
    );
    refused(&serve("--vhost-user-scsi @a.sock,lun=0"), &["takes no lun"]);
    refused(&serve("--vhost-user-blk @a.sock,lun=1"), &["a.sock"]);
    refused(&serve("--vhost-user-blk @a.sock,read-only"), &["read-only", "known"]);
    refused(&serve(""), &["--iscsi"]);
    assert!(!disk.at("a.sock").exists(), "a socket is left");
    // What another server listens on is its own.
    let server = disk.serve("--vhost-user-scsi @a.sock");
    let other = disk.command("shared-disk serve scratch=1M --vhost-user-scsi @a.sock").finish();
    refused(&other, &["a.sock"]);
    let words = "shared-disk serve scratch=1M --vhost-user-scsi @b.sock --control @serve.control";
    refused(&disk.command(words).finish(), &["serve.control", "help: "]);
    assert!(disk.at("a.sock").exists() && disk.at("serve.control").exists());
    disk.status("serve");
    shared::stop(server);
}

#[test]
fn targets_that_cannot_be_presented_are_told_and_nothing_is_left() {
    let disk = Shared::new(1 << 20);
    let secrets = |name: &str, text: &str| {
        let path = disk.at(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its owner's");
    };
    secrets("right", "iqn.a:sixteen letters!\n");
    secrets("wrong", "iqn.a:sixteen letters?\n");
    let server = disk.serve("--iscsi 127.0.0.1:0 --chap @right");
    let url = shared::urls(&server).remove(0);
    let (host, _) = url.rsplit_once("/iqn.").expect("a name");
    let connect = |words: &str| {
        disk.command(&format!("shared-disk connect {words} --vhost-user-scsi @a.sock")).finish()
    };
    refused(&connect("http://host/iqn.a/0"), &["iscsi://"]);
    refused(&connect(&format!("{url}/x")), &["iscsi://"]);
    refused(&connect(&url), &["cannot use", "name or secret is wrong", "help: "]);
    refused(&connect(&format!("{url} --chap @wrong")), &["cannot use"]);
    refused(&connect(&format!("{url} --chap @none")), &["none"]);
    refused(&connect(&format!("{host}/iqn.2026-11.cohort:other/0 --chap @right")), &["cannot use"]);
    refused(
        &connect("iscsi://127.0.0.1:1/iqn.2026-11.cohort:disk/0"),
        &["cannot use", "127.0.0.1"],
    );
    refused(&connect(&format!("{url} --chap @right --vhost-user-scsi @a/b.sock")), &["a/b.sock"]);
    assert!(!disk.at("a.sock").exists(), "a socket is left");
    server.signal(Signal::TERM);
    server.finish().expect_status(143);
}

#[test]
fn sockets_that_a_guest_cannot_use_are_told() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(1 << 20);
    let server = disk.serve(SOCKETS);
    refused(&disk.guest("blk", "a.sock", "exit 0").finish(), &["a.sock", "help: ", "kind=scsi"]);
    refused(&disk.guest("scsi", "b.sock", "exit 0").finish(), &["b.sock", "help: ", "kind=blk"]);
    refused(&disk.guest("scsi", "none.sock", "exit 0").finish(), &["none.sock", "help: "]);
    let run = |option: &str| {
        let option = format!("vhost-user={},{option}", disk.at("a.sock").display());
        Cohort::script("exit 0").args(["--disk", &option]).finish()
    };
    refused(&run("kind=nvme"), &["kind"]);
    refused(&run("kind=scsi,ro"), &["ro"]);
    // Nobody who talks vhost-user.
    let listener = UnixListener::bind(disk.at("dumb.sock")).expect("a socket");
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let finished = disk.guest("scsi", "dumb.sock", "exit 0").finish();
    assert_ne!(finished.status(), Some(0));
    finished.expect_message(&["error: ", "dumb.sock"]);
    shared::stop(server);
}
