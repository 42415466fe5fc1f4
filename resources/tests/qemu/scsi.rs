//! The virtio-scsi driver against QEMU's device and disks.

use std::path::Path;

use cohort_guest::pattern::Checksum;
use cohort_guest::status;

use crate::machine::Accelerator::{self, Kvm, Tcg};
use crate::machine::Machine;
use crate::{MIB, pattern};

/// A virtio-scsi device of two request queues. Disks that follow are on the last one.
fn adapter(machine: Machine, name: &str) -> Machine {
    let device = format!("virtio-scsi-pci,disable-legacy=on,num_queues=2,id={name}");
    machine.with(&["-device", &device])
}

/// A disk of QEMU's on bus `name`.
fn disk(machine: Machine, path: &Path, bus: &str, lun: u16, more: &str) -> Machine {
    let drive = format!(
        "file={},if=none,id=scsi-{bus}-{lun},format=raw,discard=unmap,detect-zeroes=off",
        path.display()
    );
    let device = format!(
        "scsi-hd,drive=scsi-{bus}-{lun},bus={bus}.0,scsi-id=0,lun={lun},serial=s-{bus}-{lun}{more}"
    );
    machine.with(&["-drive", &drive, "-device", &device])
}

/// A machine with one disk of `len` zeroes.
fn one(accelerator: Accelerator, len: usize, more: &str) -> Option<Machine> {
    let machine = adapter(Machine::new(accelerator)?, "one");
    let path = machine.file("one.raw");
    std::fs::write(&path, vec![0; len]).expect("an image written");
    Some(disk(machine, &path, "one", 0, more))
}

/// Every command that QEMU's disks know, checked from outside.
fn contents_agree(accelerator: Accelerator) {
    let Some(machine) = Machine::new(accelerator) else { return };
    let paths = ["a", "b", "c"].map(|name| machine.file(name));
    let [a, b, c] = &paths;
    std::fs::write(a, vec![0xAA; 4 * MIB]).expect("an image written");
    std::fs::write(b, pattern(8, 0, 2 * MIB)).expect("an image written");
    std::fs::write(c, vec![0; 8 * MIB]).expect("an image written");
    let machine = adapter(machine, "one");
    // Against the order of their numbers, which is the order that counts.
    let machine = disk(machine, b, "one", 260, ",wwn=0x5001020304050607");
    let machine = disk(machine, a, "one", 0, "");
    let machine = adapter(machine, "two");
    let four_k = ",logical_block_size=4096,physical_block_size=4096";
    let machine = disk(machine, c, "two", 3, four_k);
    let end = machine.run(
        "scsi.id; scsi.id disk=1; scsi.id disk=2; \
         scsi.write 512 1049088 seed=7 qd=20 queues=2; scsi.unmap 2M 64k; scsi.flush; \
         scsi.verify 512 1049088 seed=7 qd=85; scsi.verify-zeroes 2M 64k qd=3; \
         scsi.verify 1M 1M seed=8 disk=1 qd=32 queues=2; scsi.sum 1M 1M disk=1; scsi.reset; \
         scsi.write 4k 1M seed=9 disk=2 qd=5; scsi.verify 4k 1M seed=9 disk=2; \
         scsi.write 0 512 seed=3 disk=1; scsi.counter 0 disk=2 expect=0; \
         scsi.wait-counter 0 value=0 disk=2; scsi.unmap 8k 4k disk=2",
    );
    assert_eq!(end.status, Some(0), "{}", end.serial);
    let mut sum = Checksum::default();
    sum.add_bytes(2048, &pattern(8, 2048, MIB));
    for line in [
        "scsi.id: disk 0: 4194304 bytes, LUN 0, block 512, serial \"s-one-0\", NAA \"\"",
        "scsi.id: disk 1: 2097152 bytes, LUN 260, block 512, serial \"s-one-260\", \
         NAA \"5001020304050607\"",
        "scsi.id: disk 2: 8388608 bytes, LUN 3, block 4096, serial \"s-two-3\", NAA \"\"",
        &format!("scsi.sum: disk 1: {:016x}", sum.value()),
        "scsi.counter: disk 2: 0",
    ] {
        assert!(end.serial.contains(line), "{line}\n{}", end.serial);
    }

    let read = |path| std::fs::read(path).expect("an image read");
    let first = read(a);
    assert_eq!(first[..512], [0xAA; 512]);
    assert!(first[512..512 + 1_049_088] == pattern(7, 1, 1_049_088));
    assert!(first[512 + 1_049_088..2 * MIB].iter().all(|byte| *byte == 0xAA));
    assert!(first[2 * MIB..2 * MIB + 65536].iter().all(|byte| *byte == 0));
    assert!(first[2 * MIB + 65536..].iter().all(|byte| *byte == 0xAA));
    let second = read(b);
    assert!(second[..512] == pattern(3, 0, 512) && second[512..] == pattern(8, 1, 2 * MIB - 512));
    let mut third = pattern(9, 8, MIB);
    third[4096..8192].fill(0);
    assert!(read(c)[4096..4096 + MIB] == third);
}

#[test]
fn contents_agree_under_tcg() {
    contents_agree(Tcg);
}

#[test]
fn contents_agree_under_kvm() {
    contents_agree(Kvm);
}

/// Runs a script that must end with `status` and the line.
fn ends(script: &str, more: &str, status: u8, line: &str) {
    let Some(machine) = one(Tcg, MIB, more) else { return };
    let end = machine.run(script);
    assert_eq!(end.status, Some(status.into()), "{script}: {}", end.serial);
    assert!(end.serial.contains(line), "{script}: {line}\n{}", end.serial);
}

#[test]
fn failures_are_one_clear_line() {
    ends(
        "scsi.write 1M 4k",
        "",
        status::IO_ERROR,
        "scsi.write: WRITE(16) at LBA 2048 failed: status 02h (CHECK CONDITION), \
         sense 5h/21h/00h (ILLEGAL REQUEST), residual",
    );
    // QEMU's disks have neither.
    ends("scsi.caw 0", "", status::IO_ERROR, "scsi.caw: COMPARE AND WRITE at LBA 0 failed: ");
    ends(
        "expect-conflict { scsi.pr reserve key=1 type=we }",
        "",
        status::VERIFY_MISMATCH,
        "expect-conflict: no RESERVATION CONFLICT, but scsi.pr: PERSISTENT RESERVE OUT (RESERVE) \
         failed: status 02h (CHECK CONDITION), sense 5h/20h/00h (ILLEGAL REQUEST)",
    );
    ends(
        "expect-conflict { scsi.write 0 4k }",
        "",
        status::VERIFY_MISMATCH,
        "expect-conflict: no RESERVATION CONFLICT, but scsi.write succeeded",
    );
}

#[test]
fn counters_and_patterns_are_what_they_are() {
    ends(
        "scsi.counter 4k expect=1",
        "",
        status::VERIFY_MISMATCH,
        "scsi.counter: the counter is 0, not 1",
    );
    ends(
        "scsi.wait-counter 4k value=3 timeout=20ms",
        "",
        status::VERIFY_MISMATCH,
        "scsi.wait-counter: the counter is 0, not 3",
    );
    ends(
        "scsi.write 0 64k seed=2; scsi.verify 0 64k seed=3",
        "",
        status::VERIFY_MISMATCH,
        "scsi.verify: verify mismatch: disk 0, byte offset 0 (0x0)",
    );
}

#[test]
fn what_is_not_there_is_missing() {
    ends(
        "scsi.flush disk=1",
        "",
        status::DEVICE_MISSING,
        "scsi.flush: this machine has no SCSI logical unit 1 (they count from 0; it has 1)",
    );
    ends(
        "scsi.write 512 4k",
        ",logical_block_size=4096,physical_block_size=4096",
        status::DEVICE_MISSING,
        "scsi.write: this device has no logical blocks as small",
    );
    let Some(machine) = Machine::new(Tcg) else { return };
    let end = machine.run("scsi.flush");
    assert_eq!(end.status, Some(status::DEVICE_MISSING.into()), "{}", end.serial);
    assert!(end.serial.contains("no virtio-scsi device 0"), "{}", end.serial);
}

#[test]
fn an_attention_fails_a_command_only_if_it_is_asked_for() {
    // The reset tells who sent it, too, with the next command.
    ends("scsi.id; scsi.reset; scsi.flush; exit 4", "", 4, "scsi.id: disk 0");
    ends(
        "scsi.id; scsi.reset; scsi.flush attention=report",
        "",
        status::IO_ERROR,
        "scsi.flush: SYNCHRONIZE CACHE(10) failed: status 02h (CHECK CONDITION), sense 6h/29h/",
    );
}

#[test]
fn benchmarks_run_on_both_kinds_of_disk() {
    for accelerator in [Tcg, Kvm] {
        let Some(machine) = one(accelerator, 4 * MIB, "") else { continue };
        let end = machine.run(
            "bench.randread 4k qd=32 secs=0.1 on=scsi; \
             bench.randwrite 512 qd=4 queues=2 secs=0.1 seed=9 on=scsi",
        );
        assert_eq!(end.status, Some(0), "{}", end.serial);
        for start in [
            "bench.randread: on=scsi disk=0 size=4096 qd=32 queues=1 operations=",
            "bench.randwrite: on=scsi disk=0 size=512 qd=4 queues=2 operations=",
        ] {
            let line = end.serial.lines().find_map(|line| line.split(start).nth(1));
            let figures = line.unwrap_or_else(|| panic!("{start}: {}", end.serial));
            let operations = figures.split(' ').next().map(str::parse::<u64>);
            assert!(matches!(operations, Some(Ok(1..))), "{figures}");
        }
    }
}

/// All that `virtio.fuzz` does, and then I/O.
fn hostile_scripts_go_on(accelerator: Accelerator) {
    let Some(machine) = one(accelerator, MIB, "") else { return };
    let end = machine.run(
        "virtio.fuzz registers seed=1 count=500; virtio.fuzz config seed=2 count=300; \
         virtio.fuzz kick; virtio.fuzz loop on=scsi; virtio.fuzz wild on=scsi; \
         virtio.fuzz indirect on=scsi; virtio.fuzz headers on=scsi count=500 seed=3; \
         scsi.write 0 1M seed=4 qd=8 queues=2; scsi.verify 0 1M seed=4; exit 5",
    );
    assert_eq!(end.status, Some(5), "{}", end.serial);
    assert_eq!(end.serial.matches("still answers").count(), 3 + 4, "{}", end.serial);
    let contents = std::fs::read(machine.file("one.raw")).expect("an image read");
    assert!(contents == pattern(4, 0, MIB));
}

#[test]
fn hostile_scripts_go_on_under_tcg() {
    hostile_scripts_go_on(Tcg);
}

#[test]
fn hostile_scripts_go_on_under_kvm() {
    hostile_scripts_go_on(Kvm);
}
