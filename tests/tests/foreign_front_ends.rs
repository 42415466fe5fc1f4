//! Guests of QEMU use the disks of `cohort shared-disk serve` through its vhost-user sockets.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use cohort_guest::pattern::Pattern;
use cohort_tests::oracles::Qemu;
use cohort_tests::qemu::{self, Kind, Machine, Server};
use cohort_tests::{Cohort, kvm_is_there};

const MIB: usize = 1 << 20;
/// Size of the disk.
const SIZE: u64 = 32 << 20;

/// A folder with a disk and sockets. `None` where QEMU is not there.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Option<Place> {
        let place = qemu::is_there().then(|| Place(tempfile::tempdir().expect("a folder")))?;
        let disk = fs::File::create(place.disk()).expect("a disk");
        disk.set_len(SIZE).expect("room for a disk");
        Some(place)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn disk(&self) -> PathBuf {
        self.0.path().join("disk.raw")
    }

    fn serve(&self, scsi: &[&str], blk: &[&str]) -> Server {
        Server::start(self.path(), &self.disk().display().to_string(), scsi, blk)
    }

    /// What the disk has at an offset.
    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let disk = fs::File::open(self.disk()).expect("the disk");
        disk.read_exact_at(&mut bytes, offset).expect("the disk is so large");
        bytes
    }

    #[track_caller]
    fn has_pattern(&self, offset: u64, len: usize, seed: u64) {
        let mut wanted = vec![0; len];
        Pattern { seed }.fill(offset / 512, &mut wanted);
        assert!(self.bytes(offset, len) == wanted, "the pattern {seed} is not at {offset}");
    }

    #[track_caller]
    fn has_zeroes(&self, offset: u64, len: usize) {
        assert!(self.bytes(offset, len).iter().all(|byte| *byte == 0), "no zeroes at {offset}");
    }
}

/// The front ends, and what they are called in scripts.
const KINDS: [(Kind, &str); 2] = [(Kind::Scsi, "scsi"), (Kind::Blk, "blk")];

/// A device's options for so many queues of so many buffers.
fn queues(kind: Kind, count: u16, size: u16) -> String {
    match kind {
        Kind::Scsi => format!(",num_queues={count},virtqueue_size={size}"),
        Kind::Blk => format!(",num-queues={count},queue-size={size}"),
    }
}

/// Whether a front end comes back when its connection ends. vhost-user-scsi does since QEMU 9.0;
/// before, it does not even start with `reconnect`.
fn reconnects(kind: Kind) -> bool {
    kind == Kind::Blk || Qemu::installed().major().is_some_and(|major| major >= 9)
}

#[test]
fn a_guest_of_qemu_finds_a_scsi_host_with_every_command() {
    let Some(place) = Place::new() else { return };
    let server = place.serve(&["a"], &[]);
    let machine = Machine::script(
        "scsi.id; scsi.write 512 8M seed=7 qd=85 queues=2; scsi.flush; \
         scsi.verify 512 8M seed=7 qd=20 queues=2; scsi.unmap 2M 1M; \
         scsi.verify-zeroes 2M 1M qd=4; scsi.write 16M 4k seed=1; scsi.unmap 16M 4k; \
         scsi.caw 16M repeat=50; scsi.counter 16M expect=50; \
         scsi.pr register key=0xa1; scsi.pr reserve key=0xa1 type=we; scsi.pr keys; \
         scsi.pr reservation; scsi.pr clear key=0xa1; scsi.reset; exit 3",
    );
    let two = queues(Kind::Scsi, 2, 256);
    let end = machine.front_end(Kind::Scsi, &server.sockets[0], "", &two).finish();
    end.expect(3);
    for said in ["scsi.id: disk 0: 33554432 bytes, LUN 0, block 512", "keys 0xa1", "50 increments"]
    {
        assert!(end.said().contains(said), "{said}\n{}", end.said());
    }
    server.stop();
    place.has_zeroes(0, 512);
    place.has_pattern(512, 2 * MIB - 512, 7);
    place.has_zeroes(2 << 20, MIB);
    place.has_pattern(3 << 20, 5 * MIB + 512, 7);
    assert_eq!(place.bytes(16 << 20, 8), 50u64.to_le_bytes());
}

#[test]
fn a_guest_of_qemu_finds_a_block_device_with_every_request() {
    let Some(place) = Place::new() else { return };
    let server = place.serve(&[], &["a"]);
    let machine = Machine::script(
        "blk.id; blk.write 512 8M seed=7 qd=85 queues=2; blk.flush; \
         blk.verify 512 8M seed=7 qd=20 queues=2; blk.zeroes 2M 1M; blk.discard 4M 1M; \
         blk.verify-zeroes 2M 1M qd=4; exit 3",
    );
    let two = queues(Kind::Blk, 2, 256);
    let end = machine.front_end(Kind::Blk, &server.sockets[0], "", &two).finish();
    end.expect(3);
    let id = "blk.id: disk 0: 33554432 bytes, serial \"cohort-lun-0\"";
    assert!(end.said().contains(id), "{}", end.said());
    server.stop();
    place.has_zeroes(0, 512);
    place.has_pattern(512, 2 * MIB - 512, 7);
    place.has_zeroes(2 << 20, MIB);
    place.has_pattern(3 << 20, MIB, 7);
    place.has_pattern(5 << 20, 3 * MIB + 512, 7);
}

/// Rings from the smallest that QEMU lets a guest use to the largest, without what they may lack.
#[test]
fn queues_of_many_shapes_are_served() {
    let Some(place) = Place::new() else { return };
    let server = place.serve(&["s"], &["b"]);
    let shapes = [(1, 256, ""), (8, 1024, ""), (4, 64, ",indirect_desc=off,event_idx=off")];
    for ((kind, name), socket) in KINDS.iter().zip(&server.sockets) {
        for (seed, (count, size, without)) in shapes.iter().enumerate() {
            // A request has three descriptors, and there is at most one table for each.
            let depth = (size / 3).min(85);
            let script = format!(
                "{name}.write 0 16M seed={seed} qd={depth} queues={count}; \
                 {name}.verify 0 16M seed={seed} qd={depth} queues={count}; exit 3"
            );
            let machine = Machine::script(&script);
            let device = queues(*kind, *count, *size) + without;
            machine.front_end(*kind, socket, "", &device).finish().expect(3);
        }
    }
    server.stop();
}

#[test]
fn a_driver_that_cannot_flush_has_every_write_made_durable() {
    let Some(place) = Place::new() else { return };
    let server = place.serve(&[], &["a"]);
    for options in [",config-wce=off", ",discard=off,write-zeroes=off"] {
        let script = "blk.write 0 4M seed=5 qd=16; blk.verify 0 4M seed=5; exit 3";
        let machine = Machine::script(script);
        machine.front_end(Kind::Blk, &server.sockets[0], "", options).finish().expect(3);
    }
    let machine = Machine::script("blk.discard 0 1M; exit 3");
    let end = machine.front_end(Kind::Blk, &server.sockets[0], "", ",discard=off").finish();
    assert_eq!(end.status(), Some(cohort_guest::status::DEVICE_MISSING.into()), "{}", end.said());
    server.stop();
}

/// The counters of COMPARE AND WRITE are what it is for: with another kind of write they would
/// lose increments.
#[test]
fn guests_of_qemu_and_of_cohort_share_a_disk() {
    if !kvm_is_there() {
        return;
    }
    let Some(place) = Place::new() else { return };
    let server = place.serve(&["a", "b", "c"], &["d"]);
    let [a, b, c, d] = &server.sockets[..] else { panic!("{:?}", server.sockets) };
    let script = |key: u8| {
        format!(
            "scsi.pr register key={key}; scsi.caw 0 repeat=300; scsi.caw 512; \
             scsi.wait-counter 512 value=3; scsi.counter 0 expect=900; \
             scsi.pr register old={key} key=0; exit 3"
        )
    };
    let two = queues(Kind::Scsi, 2, 256);
    let guests = [a, b].map(|socket| {
        let key = if socket == a { 1 } else { 2 };
        Machine::script(&script(key)).front_end(Kind::Scsi, socket, "", &two).start()
    });
    let option = format!("vhost-user={},kind=scsi", c.display());
    let own = Cohort::script(&script(3)).args(["--disk", &option]).start();
    for guest in guests {
        guest.finish().expect(3);
    }
    own.finish().expect_status(3);
    assert_eq!(place.bytes(0, 8), 900u64.to_le_bytes());

    // One keeps all others out, be their sockets of the one kind or of the other.
    let reserve = "scsi.pr register key=1; scsi.pr reserve key=1 type=ea; scsi.write 1M 4k seed=1; \
                   print reserved.; scsi.wait-counter 0 value=901; exit 3";
    let holder = Machine::script(reserve).front_end(Kind::Scsi, a, "", &two).start();
    holder.wait_for("reserved.");
    let scsi = Machine::script("expect-conflict { scsi.write 1M 4k seed=2 }; exit 3");
    scsi.front_end(Kind::Scsi, b, "", &two).finish().expect(3);
    let blk = Machine::script("blk.write 1M 4k seed=2; exit 3");
    let end = blk.front_end(Kind::Blk, d, "", "").finish();
    assert_eq!(end.status(), Some(cohort_guest::status::IO_ERROR.into()), "{}", end.said());
    let last = Machine::script(
        "scsi.pr register-ignore key=9; scsi.pr preempt key=9 victim=1 type=we-ro; scsi.caw 0; \
         scsi.pr clear key=9; exit 3",
    );
    last.front_end(Kind::Scsi, b, "", &two).finish().expect(3);
    // Its registration has gone, and its reads are let through again.
    holder.finish().expect(3);
    place.has_pattern(1 << 20, 4096, 1);
    server.stop();
}

#[test]
fn a_hostile_guest_of_qemu_harms_nobody_else() {
    let Some(place) = Place::new() else { return };
    let server = place.serve(&["s", "other"], &["b"]);
    // Registers are QEMU's own, which refuses some of what is written to them by ending itself.
    let attacks = [
        ("registers seed=1 count=1000", true),
        ("registers seed=2 count=1000", true),
        ("config seed=3 count=500", false),
        ("kick", false),
        ("loop", false),
        ("wild", false),
        ("indirect", false),
        ("headers seed=4 count=500", false),
    ];
    let sockets = [&server.sockets[0], &server.sockets[2]];
    for ((kind, name), socket) in KINDS.iter().zip(sockets) {
        for (attack, may_end) in attacks {
            let on = if attack.starts_with("registers")
                || attack.starts_with("config")
                || attack == "kick"
            {
                ""
            } else {
                match kind {
                    Kind::Scsi => " on=scsi",
                    Kind::Blk => "",
                }
            };
            let script = format!(
                "virtio.fuzz {attack}{on}; print survived.; {name}.write 0 1M seed=4 qd=8; \
                 {name}.verify 0 1M seed=4; exit 5"
            );
            let machine = Machine::script(&script);
            // QEMU ends a connection when a queue does not start.
            let reconnect = if reconnects(*kind) { ",reconnect=1" } else { "" };
            let machine = machine.front_end(*kind, socket, reconnect, &queues(*kind, 2, 256));
            let end = machine.finish();
            let may_end = may_end || attack == "wild" && !reconnects(*kind);
            if !may_end || end.said().contains("survived.") {
                end.expect(5);
            }
        }
    }
    let other = Machine::script("scsi.write 8M 1M seed=6; scsi.verify 8M 1M seed=6; exit 3");
    other.front_end(Kind::Scsi, &server.sockets[1], "", "").finish().expect(3);
    server.stop();
}

#[test]
fn a_killed_qemu_leaves_its_place_to_the_next() {
    let Some(place) = Place::new() else { return };
    let server = place.serve(&["s"], &["b"]);
    for ((kind, name), socket) in KINDS.iter().zip(&server.sockets) {
        for _ in 0..3 {
            let script =
                format!("print begins.; repeat 100000 {{ {name}.write 0 8M seed=1 qd=64 }}");
            let machine = Machine::script(&script);
            let guest = machine.front_end(*kind, socket, "", &queues(*kind, 2, 256)).start();
            guest.wait_for("begins.");
            thread::sleep(Duration::from_millis(100));
            guest.kill();
        }
        let script = format!("{name}.write 0 8M seed=2; {name}.verify 0 8M seed=2; exit 3");
        Machine::script(&script).front_end(*kind, socket, "", "").finish().expect(3);
    }
    server.stop();
}

/// QEMU keeps the record of requests in flight, so that not one of them is lost.
#[test]
fn guests_of_qemu_outlive_a_server_that_is_killed() {
    let Some(place) = Place::new() else { return };
    // The host's ring of a killed process keeps the disk locked for a moment longer than it lives.
    let disk = format!("{},engine=positional", place.disk().display());
    let serve = || Server::start(place.path(), &disk, &["s"], &["b"]);
    let mut server = serve();
    for ((kind, name), at) in KINDS.iter().zip(0..) {
        if !reconnects(*kind) {
            println!("skipped: this QEMU's vhost-user-scsi does not reconnect");
            continue;
        }
        let script = format!(
            "print begins.; repeat 40 {{ {name}.write 0 16M seed=5 qd=64 queues=2 }}; \
             {name}.verify 0 16M seed=5 qd=64; exit 3"
        );
        let machine = Machine::script(&script);
        let two = queues(*kind, 2, 256);
        let guest = machine.front_end(*kind, &server.sockets[at], ",reconnect=1", &two).start();
        guest.wait_for("begins.");
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(200));
            server.kill();
            server = serve();
            server.wait_for_guests(1);
        }
        guest.finish().expect(3);
        place.has_pattern(0, 16 * MIB, 5);
    }
    server.stop();
}

/// Without a unit attention: to the guest, nothing has happened.
#[test]
fn memory_is_added_while_queues_are_at_work() {
    let Some(place) = Place::new() else { return };
    let server = place.serve(&["s"], &["b"]);
    for ((kind, name), socket) in KINDS.iter().zip(&server.sockets) {
        let report = if *kind == Kind::Scsi { "attention=report" } else { "" };
        let script = format!(
            "print begins.; repeat 30 {{ {name}.write 0 8M seed=5 qd=64 queues=2 {report}; \
             {name}.verify 0 8M seed=5 qd=64 queues=2 {report} }}; print ends.; exit 3"
        );
        let machine = Machine::script(&script).monitor();
        let guest = machine.front_end(*kind, socket, "", &queues(*kind, 2, 256)).start();
        guest.wait_for("begins.");
        for module in ["one", "two"] {
            thread::sleep(Duration::from_millis(100));
            let memory = "object_add memory-backend-memfd,share=on,size=128M";
            guest.order(&format!("{memory},id=m-{module}"));
            guest.order(&format!("device_add pc-dimm,id={module},memdev=m-{module}"));
        }
        let modules = guest.order("info memory-devices");
        assert!(modules.contains("\"one\"") && modules.contains("\"two\""), "{modules}");
        guest.finish().expect(3);
    }
    server.stop();
}

#[test]
fn a_guest_that_is_stopped_goes_on_where_it_was() {
    let Some(place) = Place::new() else { return };
    let server = place.serve(&["s"], &["b"]);
    for ((kind, name), socket) in KINDS.iter().zip(&server.sockets) {
        let script = format!(
            "print begins.; repeat 30 {{ {name}.write 0 8M seed=5 qd=64 queues=2; \
             {name}.verify 0 8M seed=5 qd=64 queues=2 }}; exit 3"
        );
        let machine = Machine::script(&script).monitor();
        let guest = machine.front_end(*kind, socket, "", &queues(*kind, 2, 256)).start();
        guest.wait_for("begins.");
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(20));
            guest.order("stop");
            guest.order("cont");
        }
        guest.finish().expect(3);
    }
    server.stop();
}

/// Data goes from the guest's memory to the disk by the host, and not through the server's.
#[test]
fn data_is_not_copied() {
    let Some(place) = Place::new() else { return };
    if !has("strace") {
        return;
    }
    for ((kind, name), (scsi, blk)) in KINDS.iter().zip([(&["a"][..], &[][..]), (&[], &["a"])]) {
        let disk = format!("{},engine=positional", place.disk().display());
        let server = Server::start(place.path(), &disk, scsi, blk);
        let trace = place.path().join("trace");
        let calls = "trace=read,readv,pread64,preadv,preadv2,write,writev,pwrite64,pwritev,\
                     pwritev2,recvfrom,recvmsg,sendto,sendmsg";
        let mut strace = Command::new("strace")
            .args(["-f", "-qq", "-s", "1", "-e", calls, "-o"])
            .arg(&trace)
            .args(["-p", &server.server.pid().to_string()])
            .spawn()
            .expect("it was there before");
        wait_until_traced(server.server.pid());
        let script =
            format!("{name}.write 0 8M seed=5 qd=16; {name}.verify 0 8M seed=5 qd=16; exit 3");
        let machine = Machine::script(&script);
        machine.front_end(*kind, &server.sockets[0], "", "").finish().expect(3);
        server.stop();
        strace.wait().expect("a child to wait for");
        let trace = fs::read_to_string(trace).expect("a trace");
        let (disk, others): (Vec<_>, Vec<_>) = trace
            .lines()
            .filter_map(call)
            .partition(|call| call.name.starts_with("preadv") || call.name.starts_with("pwritev"));
        for direction in ["preadv", "pwritev"] {
            let calls = disk.iter().filter(|call| call.name.starts_with(direction));
            let bytes: u64 = calls.map(|call| call.bytes).sum();
            assert!(bytes >= 8 << 20, "{direction}: {bytes} bytes");
        }
        let most = others.iter().max_by_key(|call| call.bytes).expect("other calls");
        assert!(most.bytes < 16 << 10, "{most:?}");
        let bytes: u64 = others.iter().map(|call| call.bytes).sum();
        assert!(bytes < 1 << 20, "{bytes} bytes");
    }
}

/// A system call, and what it returned.
#[derive(Debug)]
struct Call<'a> {
    name: &'a str,
    bytes: u64,
}

/// A line of a trace, unless it is of a failure or of half a call.
fn call(line: &str) -> Option<Call<'_>> {
    let (_, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let rest = rest.strip_prefix("<... ").unwrap_or(rest);
    let name = rest.split(|letter: char| !letter.is_alphanumeric()).next()?;
    let (_, bytes) = rest.rsplit_once("= ")?;
    Some(Call { name, bytes: bytes.trim().parse().ok()? })
}

fn wait_until_traced(pid: u32) {
    let traced = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
        status
            .lines()
            .any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    };
    while !traced() {
        thread::sleep(Duration::from_millis(10));
    }
}

fn has(tool: &str) -> bool {
    let there = Command::new(tool).arg("-V").stdout(Stdio::null()).status().is_ok();
    if !there {
        println!("skipped: {tool} is not installed");
    }
    there
}
