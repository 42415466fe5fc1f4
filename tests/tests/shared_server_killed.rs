//! A server of a shared disk that is killed, and started again at once with the same arguments: its
//! guests go on, and what they were told was done is done.
//!
//! A command that was carried out, and whose answer the server did not get to give, is carried out
//! again by its successor. Reads and writes come to the same. COMPARE AND WRITE finds what it wrote
//! itself, and the guest hears of a miscompare: a counter may have one increment more, for each guest
//! and kill, than was counted; never one less. A guest that counts its own share in the same step
//! sees that it was done, and loses and gains none.

use std::fs;
use std::thread;
use std::time::Duration;

use cohort_tests::processes::Signal;
use cohort_tests::shared::{self, Shared};
use cohort_tests::{Running, kvm_is_there};

const KILLS: u64 = 10;
const SOCKETS: &str =
    "--vhost-user-scsi @a.sock --vhost-user-scsi @b.sock --vhost-user-blk @c.sock";

/// Starts a guest on a socket, its console in a file, where no warning of its process is.
fn start(disk: &Shared, kind: &str, name: &str, script: &str) -> Running {
    let console = disk.at(&format!("{name}.console"));
    disk.guest(kind, &format!("{name}.sock"), script).arg("--console").arg(console).start()
}

/// What a guest has said.
fn console(disk: &Shared, name: &str) -> String {
    // There is none before its process has begun.
    let bytes = fs::read(disk.at(&format!("{name}.console"))).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Kills the server of `disk`, again and again, while `guests` are at work, each time after they have
/// come further.
fn kill_again_and_again(disk: &Shared, mut server: Running, guests: &[&str]) -> Running {
    let said = || guests.iter().map(|guest| console(disk, guest).len()).collect::<Vec<_>>();
    for kill in 0..KILLS {
        let before = said();
        let deadline = std::time::Instant::now() + cohort_tests::cohort::PATIENCE;
        while said().iter().zip(&before).any(|(now, before)| now <= before) {
            assert!(
                std::time::Instant::now() < deadline,
                "a guest does not go on after {kill} kills"
            );
            thread::sleep(Duration::from_millis(1));
        }
        // Somewhere in what they do next.
        thread::sleep(Duration::from_millis(kill * 3));
        shared::kill(server);
        server = disk.serve(SOCKETS);
    }
    server
}

/// A guest that writes and verifies part after part of what is its own, seeds changing, until it is
/// told to stop by the counter at 0 of disk `stop`.
fn writer(prefix: &str, from: u64) -> String {
    let mut script = "print began.; repeat 1000000 { ".to_owned();
    for seed in 1..=4 {
        script += &format!(
            "{prefix}.write {from}M 2M seed={seed} qd=16; {prefix}.verify {from}M 2M seed={seed} qd=16; \
             print round.; "
        );
    }
    script + "}"
}

#[test]
fn no_acknowledged_write_is_lost_and_none_comes_too_late() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(16 << 20);
    let server = disk.serve(SOCKETS);
    let guests: Vec<Running> = [("scsi", "a"), ("scsi", "b"), ("blk", "c")]
        .into_iter()
        .zip([0, 4, 8])
        .map(|((kind, name), from)| start(&disk, kind, name, &writer(kind, from)))
        .collect();
    let server = kill_again_and_again(&disk, server, &["a", "b", "c"]);
    for guest in guests {
        guest.signal(Signal::TERM);
        let finished = guest.finish();
        finished.expect_message(&["the guest waits for another"]);
        finished.expect_status(143);
    }
    shared::stop(server);
}

#[test]
fn increments_are_never_lost_and_done_once_where_guests_can_tell() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(1 << 20);
    let server = disk.serve(SOCKETS);
    // Each counts at 0, and at 512 with a share of its own, until it is stopped.
    let shares = [("a", 1), ("b", 2)];
    let guests: Vec<Running> = shares
        .into_iter()
        .map(|(name, share)| {
            let script = format!("repeat 1000000 {{ scsi.caw 0; scsi.caw 512 as={share} }}");
            start(&disk, "scsi", name, &script)
        })
        .collect();
    let server = kill_again_and_again(&disk, server, &["a", "b"]);
    let (mut plain, mut told) = (0, 0);
    let count = |said: &str, what: &str| said.matches(what).count() as u64;
    let stopped = shares.len() as u64;
    for (guest, (name, share)) in guests.into_iter().zip(shares) {
        guest.signal(Signal::TERM);
        guest.finish().expect_status(143);
        let said = console(&disk, name);
        plain += count(&said, "caw: 1 increments, ");
        let own = count(&said, &format!("caw: 1 increments as {share}, "));
        // One may have been under way when the guest was stopped.
        let done = disk.counter(512, share);
        assert!((own..=own + 1).contains(&done), "{own} were told, {done} done");
        told += done;
    }
    shared::stop(server);
    assert_eq!(disk.counter(512, 0), told);
    let done = disk.counter(0, 0);
    assert!((plain..=plain + stopped * (KILLS + 1)).contains(&done), "{plain} told, {done} done");
}

#[test]
fn reservations_are_back_where_guests_asked_for_that_and_gone_where_not() {
    if !kvm_is_there() {
        return;
    }
    for (aptpl, conflict, failed) in [("aptpl", 117, 122), ("", 0, 0)] {
        let disk = Shared::new(1 << 20);
        let server = disk.serve(SOCKETS);
        let run = |kind: &str, name: &str, script: &str, status: i32| {
            let finished = disk.guest(kind, &format!("{name}.sock"), script).finish();
            finished.expect_status(status);
            finished.stderr
        };
        let reserve = format!(
            "scsi.pr register {aptpl} key=0xa1; scsi.pr reserve key=0xa1 type=we; scsi.write 0 4K"
        );
        run("scsi", "a", &reserve, 0);
        run("scsi", "b", "scsi.write 4K 4K", 117);
        shared::kill(server);
        let server = disk.serve(SOCKETS);
        run("scsi", "b", "scsi.write 8K 4K", conflict);
        run("blk", "c", "blk.write 12K 4K", failed);
        let said = run("scsi", "a", "scsi.pr keys; scsi.pr reservation; scsi.write 16K 4K", 0);
        if aptpl.is_empty() {
            assert!(said.contains("no reservation"), "{said}");
        } else {
            assert!(said.contains("keys 0xa1") && said.contains("pr: key 0xa1 type we"), "{said}");
            run("scsi", "a", "scsi.pr release key=0xa1 type=we", 0);
            run("blk", "c", "blk.write 12K 4K", 0);
        }
        shared::stop(server);
        let bytes = disk.bytes();
        let written = [0, 4, 8, 16].map(|at| bytes[at << 10..][..4 << 10].iter().any(|b| *b != 0));
        assert_eq!(written, [true, false, conflict == 0, true]);
    }
}
