//! Guests that share a disk, over every way there is: what they agree on by COMPARE AND WRITE and by
//! persistent reservations.

use cohort_tests::iscsi::initiator::{GOOD, Initiator};
use cohort_tests::processes::Signal;
use cohort_tests::shared::{self, Shared};
use cohort_tests::{Cohort, kvm_is_there};

/// The guest's script where all begin to count together.
fn count(times: u32, share: u32) -> String {
    format!(
        "scsi.caw 4096; scsi.wait-counter 4096 value=4; scsi.caw 0 repeat={times}; \
         scsi.caw 512 repeat={times} as={share}; exit 0"
    )
}

#[test]
fn no_increment_of_four_guests_is_lost_whichever_way_they_come() {
    const TIMES: u32 = 100;
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(1 << 20);
    let server =
        disk.serve("--iscsi 127.0.0.1:0 --vhost-user-scsi @a.sock --vhost-user-scsi @b.sock");
    let url = shared::urls(&server).remove(0);
    let connect = disk.start("connect", &format!("connect {url} --vhost-user-scsi @c.sock"));
    let lab = Cohort::new(["lab", "run", "trial.toml", "--results", "results"]);
    let text = format!(
        "schema = 1\n[shared-disk.counters]\nurl = \"{url}\"\n[vm.d]\n\
         disks = [{{ shared = \"counters\" }}]\nscript = \"{}\"\n",
        count(TIMES, 4)
    );
    lab.file("trial.toml", text);
    let lab = lab.start();
    let guests = [("a", 1), ("b", 2), ("c", 3)].map(|(name, share)| {
        disk.guest("scsi", &format!("{name}.sock"), &count(TIMES, share)).start()
    });
    for guest in guests {
        guest.finish().expect_status(0);
    }
    lab.finish().expect_status(0);
    shared::stop(connect);
    shared::stop(server);
    let all = u64::from(4 * TIMES);
    assert_eq!((disk.counter(0, 0), disk.counter(512, 0)), (all, all));
    assert_eq!([1, 2, 3, 4].map(|share| disk.counter(512, share)), [u64::from(TIMES); 4]);
}

/// Types of reservations (SPC-4 table 172), who may read and who may write while another holds one:
/// the registered, and the others.
const TYPES: [(u8, [bool; 2], [bool; 2]); 6] = [
    (1, [true, true], [false, false]),
    (3, [false, false], [false, false]),
    (5, [true, true], [true, false]),
    (6, [true, false], [true, false]),
    (7, [true, true], [true, false]),
    (8, [true, false], [true, false]),
];

/// Service actions of PERSISTENT RESERVE OUT.
const REGISTER_AND_IGNORE: u8 = 6;
const RESERVE: u8 = 1;
const CLEAR: u8 = 3;

/// The guest's key, and that of the initiator beside it.
const GUEST: u64 = 0xa1;
const OTHER: u64 = 0xb2;

/// For each type and each that a guest can be, whether it may read and write; the guest's initiator
/// is `one`, `other` is another.
fn for_each_case(one: &mut Initiator, other: &mut Initiator, mut is: impl FnMut(&str, bool, bool)) {
    for (kind, read, write) in TYPES {
        for (role, may_read, may_write) in [
            ("holder", true, true),
            ("registered", read[0], write[0]),
            ("neither", read[1], write[1]),
        ] {
            for initiator in [&mut *one, &mut *other] {
                // To hear of what became of the last case.
                while initiator.ask([0; 16], &[], 0).0 != GOOD {}
            }
            if role != "neither" {
                assert_eq!(one.reserve_out(REGISTER_AND_IGNORE, 0, (0, GUEST), false), GOOD);
            }
            assert_eq!(other.reserve_out(REGISTER_AND_IGNORE, 0, (0, OTHER), false), GOOD);
            let holds = match role {
                "holder" => one.reserve_out(RESERVE, kind, (GUEST, 0), false),
                _ => other.reserve_out(RESERVE, kind, (OTHER, 0), false),
            };
            assert_eq!(holds, GOOD);
            is(&format!("type {kind}, {role}"), may_read, may_write);
            assert_eq!(other.reserve_out(CLEAR, 0, (OTHER, 0), false), GOOD);
        }
    }
}

/// The initiator that comes over iSCSI as number 0 of the tests, and over a socket by the same name.
const NAME: &str = "initiator=iqn.2026-11.cohort.tests:0";

#[test]
fn each_type_of_reservation_lets_scsi_guests_do_what_the_standard_says() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(1 << 20);
    let server = disk.serve(&format!("--iscsi 127.0.0.1:0 --vhost-user-scsi @a.sock,{NAME}"));
    let url = shared::urls(&server).remove(0);
    let (mut one, mut other) = (Initiator::log_in(&url, 0), Initiator::log_in(&url, 1));
    for_each_case(&mut one, &mut other, |case, may_read, may_write| {
        let may = |may: bool, what: &str| match may {
            true => format!("{what}; "),
            false => format!("expect-conflict {{ {what} }}; "),
        };
        let script = may(may_read, "scsi.sum 0 4K") + &may(may_write, "scsi.write 0 4K") + "exit 0";
        let finished = disk.guest("scsi", "a.sock", &script).finish();
        assert_eq!(finished.status(), Some(0), "{case}: {}", finished.stderr);
    });
    shared::stop(server);
}

#[test]
fn each_type_of_reservation_fails_requests_of_block_guests_that_may_not() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(1 << 20);
    let server = disk.serve(&format!("--iscsi 127.0.0.1:0 --vhost-user-blk @a.sock,{NAME}"));
    let url = shared::urls(&server).remove(0);
    let (mut one, mut other) = (Initiator::log_in(&url, 0), Initiator::log_in(&url, 1));
    for_each_case(&mut one, &mut other, |case, may_read, may_write| {
        // The first that may not be ends the guest.
        let scripts = match (may_read, may_write) {
            (true, _) => vec![("blk.sum 0 4K; print read.; blk.write 0 4K", may_write)],
            (false, _) => vec![("blk.sum 0 4K", false), ("blk.write 0 4K", may_write)],
        };
        for (script, may) in scripts {
            let finished = disk.guest("blk", "a.sock", script).finish();
            let (expected, said) = (if may { 0 } else { 122 }, &finished.stderr);
            assert_eq!(finished.status(), Some(expected), "{case}, {script}: {said}");
            assert!(!may_read || said.contains("read."), "{case}, {script}: {said}");
            assert!(may || said.contains("I/O error"), "{case}, {script}: {said}");
        }
    });
    shared::stop(server);
}

const TWO: &str = "--iscsi 127.0.0.1:0 --vhost-user-scsi @a.sock --vhost-user-scsi @b.sock";

#[test]
fn who_is_preempted_writes_no_more() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(8 << 20);
    let server = disk.serve(TWO);
    let writer = "scsi.pr register key=0xa1; scsi.pr reserve key=0xa1 type=we-ro; scsi.caw 0; \
                  scsi.write-until-conflict 1M 1M seed=5 qd=8; expect-conflict { scsi.caw 0 }; exit 0";
    let writer = disk.guest("scsi", "a.sock", writer).start();
    // Whoever is registered may write, and so may see that the other has begun.
    let fence = "scsi.pr register key=0xb2; scsi.wait-counter 0 value=1; sleep 50ms; \
                 scsi.pr preempt-abort key=0xb2 victim=0xa1 type=we-ro; scsi.write 1M 1M seed=6; \
                 scsi.verify 1M 1M seed=6; sleep 200ms; scsi.verify 1M 1M seed=6; scsi.pr keys; exit 0";
    let finished = disk.guest("scsi", "b.sock", fence).finish();
    finished.expect_status(0);
    assert!(finished.stderr.contains("keys 0xb2\n"), "{}", finished.stderr);
    let finished = writer.finish();
    finished.expect_status(0);
    assert!(finished.stderr.contains("writes acknowledged"), "{}", finished.stderr);
    disk.guest("scsi", "b.sock", "scsi.verify 1M 1M seed=6; exit 0").finish().expect_status(0);
    shared::stop(server);
}

#[test]
fn others_hear_of_what_becomes_of_their_registrations() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(1 << 20);
    let server = disk.serve(TWO);
    let told =
        "scsi.pr register key=0xa1; scsi.caw 0; scsi.wait-counter 0 value=2 attention=report";
    let told = disk.guest("scsi", "a.sock", told).start();
    let clears = "scsi.wait-counter 0 value=1; scsi.pr register key=0xb2; scsi.pr clear key=0xb2; \
                  scsi.caw 0; exit 0";
    disk.guest("scsi", "b.sock", clears).finish().expect_status(0);
    let finished = told.finish();
    finished.expect_status(122);
    // RESERVATIONS PREEMPTED, which CLEAR also is (SPC-4 5.13.11.2.6).
    assert!(finished.stderr.contains("6h/2ah/03h"), "{}", finished.stderr);
    shared::stop(server);
}

#[test]
fn a_reservation_for_as_long_as_the_guest_is_there_ends_with_it() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(1 << 20);
    let server = disk.serve(TWO);
    let holder = "scsi.reserve; scsi.write 0 4K; print reserved.; hang";
    let holder = disk.guest("scsi", "a.sock", holder).start();
    holder.wait_for("reserved.");
    let write = "scsi.write 4K 4K; exit 0";
    disk.guest("scsi", "b.sock", write).finish().expect_status(117);
    holder.signal(Signal::KILL);
    holder.finish();
    disk.guest("scsi", "b.sock", write).finish().expect_status(0);
    shared::stop(server);
}

#[test]
fn a_guest_that_is_killed_is_who_it_was_when_it_comes_again_from_wherever() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(4 << 20);
    let server = disk.serve(TWO);
    let beside = "print began.; repeat 1000000 { scsi.write 2M 1M seed=1; scsi.verify 2M 1M seed=1; \
                  print round. }";
    let beside = "scsi.pr register key=0xb2; ".to_owned() + beside;
    let beside = disk.guest("scsi", "b.sock", &beside).start();
    beside.wait_for("began.");
    for run in 0..5 {
        // Its socket takes the next one at once.
        let script = "scsi.pr register-ignore key=0xa1; scsi.pr reserve key=0xa1 type=we-ar; \
                      print reserved.; repeat 1000000 { scsi.write 0 1M qd=32 }";
        let guest = disk.guest("scsi", "a.sock", script).start();
        guest.wait_for("reserved.");
        std::thread::sleep(std::time::Duration::from_millis(10 * run));
        guest.signal(Signal::KILL);
        guest.finish();
    }
    let before = beside.console().len();
    let deadline = std::time::Instant::now() + cohort_tests::cohort::PATIENCE;
    while beside.console().len() == before {
        assert!(std::time::Instant::now() < deadline, "the other does not go on");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    beside.signal(Signal::TERM);
    beside.finish().expect_status(143);
    // On this host, and on another.
    let holds = "scsi.pr keys; scsi.pr reservation; scsi.write 0 4K; exit 0";
    let url = shared::urls(&server).remove(0);
    let words = format!(
        "connect {url} --vhost-user-scsi @far.sock,initiator=a \
                         --vhost-user-scsi @stranger.sock"
    );
    let connect = disk.start("connect", &words);
    for socket in ["a.sock", "far.sock"] {
        let finished = disk.guest("scsi", socket, holds).finish();
        finished.expect_status(0);
        assert!(
            finished.stderr.contains("keys 0xb2 0xa1") || finished.stderr.contains("keys 0xa1")
        );
    }
    disk.guest("scsi", "stranger.sock", holds).finish().expect_status(117);
    let finished = disk.guest("scsi", "far.sock", "scsi.pr clear key=0xa1; exit 0").finish();
    finished.expect_status(0);
    disk.guest("scsi", "stranger.sock", holds).finish().expect_status(0);
    shared::stop(connect);
    shared::stop(server);
}
