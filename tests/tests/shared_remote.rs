//! `cohort shared-disk connect`: a disk of another host, over a link that breaks and from a server
//! that is killed. A guest's reads and writes are sent again when an answer was lost, COMPARE AND
//! WRITE is not.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use cohort_tests::cohort::PATIENCE;
use cohort_tests::processes::Signal;
use cohort_tests::relay::Relay;
use cohort_tests::shared::{self, Shared};
use cohort_tests::{Running, kvm_is_there};

/// Where a server is, and its target's name.
fn place(server: &Running) -> (SocketAddr, String) {
    let urls = shared::urls(server);
    let rest = urls[0].strip_prefix("iscsi://").expect("an iSCSI URL");
    let parts: Vec<&str> = rest.split('/').collect();
    (parts[0].parse().expect("an address"), parts[1].to_owned())
}

/// Presents what a server behind `relay` has.
fn connect(disk: &Shared, relay: &Relay, target: &str) -> Running {
    let url = format!("iscsi://{}/{target}/0", relay.address());
    disk.start(
        "connect",
        &format!("connect {url} --vhost-user-scsi @a.sock --vhost-user-scsi @b.sock"),
    )
}

/// Waits until something is so, while `guests` must not end.
fn wait(what: &str, guests: &[Running], connect: &Running, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        let ended = guests.iter().find(|guest| guest.console().contains(" failed:"));
        assert!(
            Instant::now() < deadline && ended.is_none(),
            "{what}; {:#?}\n{}",
            guests.iter().map(last).collect::<Vec<_>>(),
            connect.console()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// The last that a guest said.
fn last(guest: &Running) -> String {
    let said = guest.console();
    let from = said.lines().count().saturating_sub(4);
    said.lines().skip(from).collect::<Vec<_>>().join("\n")
}

/// A guest that writes and verifies what is its own, and counts, until it is stopped.
fn worker(from: u64, share: u64) -> String {
    let mut script = "print began.; repeat 1000000 { ".to_owned();
    for seed in 1..=3 {
        script += &format!(
            "scsi.write {from}M 1M seed={seed} qd=4; scsi.caw 0 as={share}; \
             scsi.verify {from}M 1M seed={seed} qd=4; print round.; "
        );
    }
    script + "}"
}

/// How often a guest was told that an increment was done.
fn increments(said: &str) -> u64 {
    said.lines().filter(|line| line.contains("caw: 1 increments")).count() as u64
}

/// Stops the guests, none of which may have found a mistake; how many increments each was told of.
fn end(guests: Vec<Running>) -> Vec<u64> {
    let stop = |guest: Running| {
        guest.signal(Signal::TERM);
        let finished = guest.finish();
        assert_eq!(finished.status(), Some(143), "{}", finished.stderr);
        increments(&finished.stderr)
    };
    guests.into_iter().map(stop).collect()
}

/// Checks the counter at 0: what each guest was told, and one more where it was stopped in between.
fn check(disk: &Shared, told: &[u64]) {
    for (told, share) in told.iter().zip(1..) {
        let done = disk.counter(0, share);
        assert!((*told..=told + 1).contains(&done), "{told} were told, {done} done");
    }
    let all: u64 = (1..=told.len()).map(|share| disk.counter(0, share)).sum();
    assert_eq!(disk.counter(0, 0), all);
}

#[test]
fn a_link_that_breaks_fifty_times_loses_and_doubles_nothing() {
    if !kvm_is_there() {
        return;
    }
    const CUTS: u64 = 50;
    let disk = Shared::new(8 << 20);
    let server = disk.serve("--iscsi 127.0.0.1:0");
    let (address, target) = place(&server);
    let relay = Relay::new(address, CUTS, 700..4 << 20);
    let connect = connect(&disk, &relay, &target);
    let guests: Vec<Running> = [("a", 1), ("b", 2)]
        .into_iter()
        .map(|(name, share)| {
            disk.guest("scsi", &format!("{name}.sock"), &worker(share, share)).start()
        })
        .collect();
    wait("cuts", &guests, &connect, || relay.cuts() >= CUTS);
    // They go on over what is whole now.
    let before: Vec<u64> = guests.iter().map(|guest| increments(&guest.console())).collect();
    wait("work", &guests, &connect, || {
        guests.iter().zip(&before).all(|(guest, before)| increments(&guest.console()) > before + 1)
    });
    let told = end(guests);
    let remotes = disk.status("connect");
    for remote in remotes["remotes"].as_array().expect("a list") {
        assert!(remote["reconnects"].as_u64().is_some_and(|count| count > 0), "{remotes}");
    }
    shared::stop(connect);
    shared::stop(server);
    check(&disk, &told);
}

#[test]
fn a_server_that_is_killed_and_back_is_found_again() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(8 << 20);
    let mut server = disk.serve("--iscsi 127.0.0.1:0");
    let (address, target) = place(&server);
    let relay = Relay::new(address, 0, 0..1);
    let connect = connect(&disk, &relay, &target);
    let reserve = "scsi.pr register aptpl key=0xa1; scsi.pr reserve key=0xa1 type=we-ar; exit 0";
    disk.guest("scsi", "b.sock", reserve).finish().expect_status(0);
    let script = format!("scsi.pr register aptpl key=0xa2; {}", worker(1, 1));
    let guests = vec![disk.guest("scsi", "a.sock", &script).start()];
    for _ in 0..5 {
        let before = increments(&guests[0].console());
        wait("work", &guests, &connect, || increments(&guests[0].console()) > before + 1);
        shared::kill(server);
        server = disk.serve("--iscsi 127.0.0.1:0");
        relay.lead(place(&server).0);
    }
    let before = increments(&guests[0].console());
    wait("work", &guests, &connect, || increments(&guests[0].console()) > before + 1);
    let told = end(guests);
    let again =
        "scsi.pr keys; scsi.pr release key=0xa1 type=we-ar; scsi.verify-zeroes 7M 64K; exit 0";
    let finished = disk.guest("scsi", "b.sock", again).finish();
    finished.expect_status(0);
    assert!(finished.stderr.contains("0xa1") && finished.stderr.contains("0xa2"));
    shared::stop(connect);
    shared::stop(server);
    check(&disk, &told);
}

#[test]
fn a_command_whose_answer_is_lost_fails_unless_it_may_be_done_twice() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(8 << 20);
    let server = disk.serve("--iscsi 127.0.0.1:0");
    let (address, target) = place(&server);
    let relay = Relay::new(address, 1_000_000, 700..20_000);
    let connect = connect(&disk, &relay, &target);
    // Without a share of its own the guest cannot know what became of its increment.
    let finished = disk.guest("scsi", "a.sock", "repeat 1000000 { scsi.caw 0 }").finish();
    finished.expect_status(122);
    let all = &finished.stderr;
    assert!(all.contains("COMPARE AND WRITE") && all.contains("transport failure"), "{all}");
    shared::stop(connect);
    shared::stop(server);
    let told = increments(&finished.stderr);
    assert!((told..=told + 1).contains(&disk.counter(0, 0)), "{told}");
}
