//! Disks of another process, over vhost-user; qemu-storage-daemon is that process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use cohort_tests::oracles::Qemu;
use cohort_tests::processes::Signal;
use cohort_tests::{Cohort, kvm_is_there};

const SIZE: u64 = 32 << 20;

/// A daemon that serves one disk.
struct Daemon {
    process: Child,
}

impl Daemon {
    /// Serves the image `disk` on `socket`, once it gets to it.
    fn start(disk: &Path, socket: &Path, more: &str) -> Daemon {
        // It does not take the place of a socket that is there.
        let _ = fs::remove_file(socket);
        let node = format!("driver=file,node-name=disk,filename={}", disk.display());
        let export = format!(
            "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={}{more}",
            socket.display()
        );
        let process = Qemu::installed()
            .command("qemu-storage-daemon")
            .args(["--blockdev", &node, "--export", &export])
            .stdin(Stdio::null())
            .spawn()
            .expect("it was there before");
        Daemon { process }
    }

    /// Ends it without a warning.
    fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// A guest with one disk of a daemon, the image, and the socket. `None` where something is missing.
fn guest(script: &str) -> Option<(Cohort, PathBuf, PathBuf)> {
    if !kvm_is_there() || !Qemu::installed().has("qemu-storage-daemon") {
        return None;
    }
    let guest = Cohort::script(script);
    let disk = guest.image("disk.img", SIZE);
    let socket = guest.folder().join("socket");
    let option = format!("vhost-user={},kind=blk", socket.display());
    Some((guest.args(["--disk", &option]), disk, socket))
}

#[test]
fn a_guest_uses_the_disk_of_a_daemon() {
    for queues in [1, 4] {
        let Some((guest, disk, socket)) = guest(&format!(
            "blk.verify-zeroes 0 32M; blk.write 0 32M seed=5 qd=32 queues={queues}; \
             blk.flush; blk.verify 0 32M seed=5 qd=8; blk.zeroes 8M 8M; blk.discard 24M 4M; \
             blk.verify-zeroes 8M 8M; poweroff"
        )) else {
            return;
        };
        let guest = guest.args(["--cpus", "4"]);
        // The guest comes first.
        let running = guest.start();
        thread::sleep(Duration::from_millis(100));
        let daemon = Daemon::start(&disk, &socket, &format!(",writable=on,num-queues={queues}"));
        let finished = running.finish();
        finished.expect_status(0);
        daemon.kill();
        let bytes = fs::read(&disk).expect("the image");
        assert!(bytes[..4096].iter().any(|byte| *byte != 0), "the guest wrote");
        assert!(bytes[8 << 20..16 << 20].iter().all(|byte| *byte == 0), "and zeroed");
    }
}

#[test]
fn a_guest_may_not_write_what_the_daemon_only_reads() {
    let Some((guest, disk, socket)) =
        guest("blk.verify-zeroes 0 1M; blk.write 0 4K seed=1; exit 9")
    else {
        return;
    };
    let _daemon = Daemon::start(&disk, &socket, "");
    let finished = guest.finish();
    assert_ne!(finished.status(), Some(9), "{}", finished.stderr);
    assert!(fs::read(&disk).expect("the image").iter().all(|byte| *byte == 0));
}

#[test]
fn a_guest_outlives_a_daemon_that_is_killed_between_its_requests() {
    let Some((guest, disk, socket)) = guest(
        "blk.write 0 32M seed=5 qd=32; print written.; sleep 3s; blk.verify 0 32M seed=5 qd=32; \
         blk.write 0 16M seed=6; blk.verify 0 16M seed=6; exit 7",
    ) else {
        return;
    };
    let daemon = Daemon::start(&disk, &socket, ",writable=on");
    let running = guest.start();
    running.wait_for("written.");
    daemon.kill();
    running.wait_for("is gone; the guest waits for another");
    let _daemon = Daemon::start(&disk, &socket, ",writable=on");
    running.finish().expect_status(7).expect_message(&[]);
}

/// qemu-storage-daemon keeps no record of requests in flight.
#[test]
fn requests_that_died_with_their_daemon_break_the_device() {
    let Some((guest, disk, socket)) =
        guest("print begins.; repeat 100000 { blk.write 0 32M seed=5 qd=64 }; exit 7")
    else {
        return;
    };
    let daemon = Daemon::start(&disk, &socket, ",writable=on");
    let running = guest.start();
    running.wait_for("begins.");
    thread::sleep(Duration::from_millis(200));
    daemon.kill();
    running.wait_for("the guest has to reset the device");
    running.signal(Signal::TERM);
    let finished = running.finish();
    assert_ne!(finished.status(), Some(7));
    finished.expect_message(&["VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD"]);
}

#[test]
fn what_is_no_such_back_end_is_a_mistake_of_the_command_line() {
    let Some((guest, disk, socket)) = guest("poweroff") else { return };
    let nowhere = guest.folder().join("nowhere");
    let daemon = Daemon::start(&disk, &socket, "");
    let finished = guest.finish();
    finished.expect_status(0);
    let run = |path: &Path, kind: &str| {
        let option = format!("vhost-user={},kind={kind}", path.display());
        Cohort::script("poweroff").args(["--disk", &option]).finish()
    };
    run(&socket, "scsi").expect_status(2).expect_message(&["is no SCSI host", "try kind=blk"]);
    run(&nowhere, "blk").expect_status(2).expect_message(&["there is no vhost-user socket"]);
    daemon.kill();
    run(&socket, "blk").expect_status(2).expect_message(&["nobody listens"]);
}
