//! The built-in guest in QEMU: its drivers against devices that are not ours.

mod machine;
mod scsi;

use cohort_guest::pattern::{Checksum, Pattern};
use cohort_guest::status;
use machine::Accelerator::{self, Kvm, Tcg};
use machine::{End, Machine};

const MIB: usize = 1 << 20;

/// Runs a script on a machine without disks.
fn run(script: &str) -> Option<End> {
    Some(Machine::new(Tcg)?.run(script))
}

fn pattern(seed: u64, first: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Pattern { seed }.fill(first, &mut bytes);
    bytes
}

#[test]
fn a_script_prints_and_ends_with_its_status() {
    let script = "print \"a; b\"; repeat 2 { print again }; exit 7; print never";
    let Some(end) = run(script) else { return };
    assert_eq!(end.status, Some(7));
    assert!(end.serial.ends_with("a; b\nagain\nagain\n"), "{}", end.serial);
}

#[test]
fn the_end_of_a_script_is_exit_0() {
    let Some(end) = run("print done") else { return };
    assert_eq!(end.status, Some(0));
}

#[test]
fn a_script_error_is_found_before_anything_runs() {
    let Some(end) = run("print one; sleep 5") else { return };
    assert_eq!(end.status, Some(status::SCRIPT_ERROR.into()));
    let expected = "script error: command 2, column 18: DURATION is \"5\", must be a duration";
    assert!(end.serial.contains(expected), "{}", end.serial);
    assert!(!end.serial.contains("one"), "{}", end.serial);
}

#[test]
fn a_missing_device_has_its_status() {
    let Some(end) = run("blk.flush disk=3") else { return };
    assert_eq!(end.status, Some(status::DEVICE_MISSING.into()));
    assert!(end.serial.contains("no virtio-blk device 3"), "{}", end.serial);
}

#[test]
fn exceptions_are_reported() {
    let Some(end) = run("fault") else { return };
    assert_eq!(end.status, Some(status::EXCEPTION.into()));
    assert!(end.serial.contains("exception 14 at rip 0x10"), "{}", end.serial);
    assert!(end.serial.contains("cr2 0x400000000000, CPL 3"), "{}", end.serial);
}

#[test]
fn power_off_and_reset_end_the_machine() {
    for script in ["poweroff", "reset", "triple-fault"] {
        let Some(end) = run(script) else { return };
        assert_eq!(end.status, None, "{script}: {}", end.serial);
    }
}

#[test]
fn a_panic_is_reported_through_pvpanic() {
    let Some(machine) = Machine::new(Tcg) else { return };
    // QEMU then ends with status 1, which stands for 0 at the exit register.
    let machine = machine.with(&["-device", "pvpanic", "-action", "panic=exit-failure"]);
    assert_eq!(machine.run("panic; exit 9").status, Some(0));
}

#[test]
fn sleeping_wakes_up() {
    for accelerator in [Tcg, Kvm] {
        let Some(machine) = Machine::new(accelerator) else { continue };
        let end = machine.run("sleep 0.3s; sleep 20ms; print awake; exit 3");
        assert!(end.serial.contains("awake"), "{}", end.serial);
        assert_eq!(end.status, Some(3));
    }
}

#[test]
fn sixteen_mebibytes_and_four_processors_will_do() {
    let Some(machine) = Machine::new(Tcg) else { return };
    let machine = machine.memory("16M").with(&["-smp", "4"]).disk(&vec![0; MIB]);
    let end = machine.run("blk.write 0 1M seed=3 qd=16; blk.verify 0 1M seed=3; memory.touch 4M");
    assert_eq!(end.status, Some(0), "{}", end.serial);
}

/// The driver's every request type, checked from outside.
fn disk_contents_agree(accelerator: Accelerator) {
    let Some(machine) = Machine::new(accelerator) else { return };
    let mut second = vec![0; 4 * MIB];
    second[MIB..2 * MIB].copy_from_slice(&pattern(8, 2048, MIB));
    let machine = machine.disk(&vec![0xAA; 4 * MIB]).disk(&second);
    let end = machine.run(
        "blk.id disk=1; blk.write 512 1049088 seed=7 qd=20 queues=2; blk.zeroes 2M 64k; \
         blk.discard 3M 1M; blk.flush; blk.verify 512 1049088 seed=7 qd=3; \
         blk.verify-zeroes 2M 64k qd=3; \
         blk.verify 1M 1M seed=8 disk=1 qd=32 queues=2; blk.sum 1M 1M disk=1",
    );
    assert_eq!(end.status, Some(0), "{}", end.serial);
    let id = "blk.id: disk 1: 4194304 bytes, serial \"disk-1\"";
    assert!(end.serial.contains(id), "{}", end.serial);
    let mut sum = Checksum::default();
    sum.add_bytes(2048, &second[MIB..2 * MIB]);
    let sum = format!("blk.sum: disk 1: {:016x}", sum.value());
    assert!(end.serial.contains(&sum), "{sum}: {}", end.serial);

    let first = machine.contents(0);
    assert_eq!(first[..512], [0xAA; 512]);
    assert!(first[512..512 + 1_049_088] == pattern(7, 1, 1_049_088));
    assert!(first[512 + 1_049_088..2 * MIB].iter().all(|byte| *byte == 0xAA));
    assert!(first[2 * MIB..2 * MIB + 65536].iter().all(|byte| *byte == 0));
    assert!(first[2 * MIB + 65536..3 * MIB].iter().all(|byte| *byte == 0xAA));
    assert!(machine.contents(1) == second);
}

#[test]
fn disk_contents_agree_under_tcg() {
    disk_contents_agree(Tcg);
}

#[test]
fn disk_contents_agree_under_kvm() {
    disk_contents_agree(Kvm);
}

#[test]
fn a_changed_byte_is_found() {
    let Some(machine) = Machine::new(Tcg) else { return };
    let mut contents = pattern(5, 0, MIB);
    contents[777_777] ^= 0x40;
    let end = machine.disk(&contents).run("blk.verify 0 512k seed=5; blk.verify 512k 512k seed=5");
    assert_eq!(end.status, Some(status::VERIFY_MISMATCH.into()));
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes[777_776..777_784].try_into().expect("8"));
    let expected = format!(
        "blk.verify: verify mismatch: disk 0, byte offset 777776 (0xbde30): expected {:#018x}, found {:#018x}",
        word(&pattern(5, 0, MIB)),
        word(&contents),
    );
    assert!(end.serial.contains(&expected), "{expected}\n{}", end.serial);
}

#[test]
fn zeroes_are_verified_to_the_last_byte() {
    let Some(machine) = Machine::new(Tcg) else { return };
    let mut contents = vec![0; MIB];
    contents[MIB - 1] = 0x80;
    let script = "blk.verify-zeroes 0 1048064; blk.verify-zeroes 512k 512k";
    let end = machine.disk(&contents).run(script);
    assert_eq!(end.status, Some(status::VERIFY_MISMATCH.into()));
    let expected = "blk.verify-zeroes: verify mismatch: disk 0, byte offset 1048568 (0xffff8): \
                    expected 0x0000000000000000, found 0x8000000000000000";
    assert!(end.serial.contains(expected), "{}", end.serial);
}

#[test]
fn an_error_of_the_device_has_its_status() {
    let Some(machine) = Machine::new(Tcg) else { return };
    let end = machine.disk(&vec![0; MIB]).run("blk.write 1M 4k");
    assert_eq!(end.status, Some(status::IO_ERROR.into()), "{}", end.serial);
    let expected = "blk.write: write at sector 2048 failed: status 1 (I/O error)";
    assert!(end.serial.contains(expected), "{}", end.serial);
}

#[test]
fn benchmarks_print_one_line_of_figures() {
    for accelerator in [Tcg, Kvm] {
        let Some(machine) = Machine::new(accelerator) else { continue };
        let machine = machine.disk(&vec![0; 4 * MIB]);
        let end = machine.run(
            "bench.randread 4k qd=32 secs=0.1; bench.randwrite 512 qd=4 queues=2 secs=0.1 seed=9",
        );
        assert_eq!(end.status, Some(0), "{}", end.serial);
        for start in [
            "bench.randread: disk=0 size=4096 qd=32 queues=1 operations=",
            "bench.randwrite: disk=0 size=512 qd=4 queues=2 operations=",
        ] {
            let line = end.serial.lines().find_map(|line| line.split(start).nth(1));
            let figures = line.unwrap_or_else(|| panic!("{start}: {}", end.serial));
            let (operations, rest) = figures.split_once(" nanoseconds=").expect("a time");
            let (nanoseconds, iops) = rest.split_once(" iops=").expect("a rate");
            let [operations, nanoseconds, iops] =
                [operations, nanoseconds, iops].map(|n| n.trim().parse::<u64>().expect("a number"));
            assert!(operations > 0 && nanoseconds >= 100_000_000);
            assert_eq!(iops, operations * 1_000_000_000 / nanoseconds);
        }
    }
}

#[test]
fn random_numbers_and_the_virtio_console_work() {
    let Some(machine) = Machine::new(Tcg) else { return };
    let log = machine.file("console");
    let machine = machine
        .with(&["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"])
        .with(&["-device", "virtconsole,chardev=c", "-chardev"]);
    let machine = machine.with(&[&format!("file,id=c,path={}", log.display())]);
    let end = machine.run("rng.read 10000; rng.read 8; console.print \"hello; there\"");
    assert_eq!(end.status, Some(0), "{}", end.serial);
    let bytes = |line: &str| line.split("rng.read: 8 bytes: ").nth(1).map(str::len);
    assert_eq!(end.serial.lines().find_map(bytes), Some(16), "{}", end.serial);
    assert_eq!(std::fs::read_to_string(log).expect("the console's file"), "hello; there\n");
}

#[test]
fn devices_above_4_gib_are_reached() {
    let Some(machine) = Machine::new(Tcg) else { return };
    // A device that takes more room than there is below 4 GiB makes firmware go above.
    let machine = machine.with(&["-object", "memory-backend-ram,id=large,size=4G", "-device"]);
    let machine = machine.with(&["ivshmem-plain,memdev=large"]).disk(&pattern(1, 0, MIB));
    let end = machine.run("blk.verify 0 1M seed=1; pci.list");
    assert_eq!(end.status, Some(0), "{}", end.serial);
    let bases = end
        .serial
        .lines()
        .filter_map(|line| line.split_once("1af4:1042 bar ")?.1.split_once(" 0x"));
    let high = |base: &str| u64::from_str_radix(base, 16).is_ok_and(|base| base >= 1 << 32);
    assert!(bases.map(|(_, base)| base).any(high), "{}", end.serial);
}

#[test]
fn persistent_memory_is_read_written_and_flushed() {
    let Some(machine) = Machine::new(Tcg) else { return };
    let backing = machine.file("pmem");
    let bytes = pattern(6, 0, 4 * MIB);
    std::fs::write(&backing, &bytes).expect("a file");
    let object =
        format!("memory-backend-file,id=p,share=on,size=4M,mem-path={}", backing.display());
    let machine = machine.with(&["-m", "256M,maxmem=4G", "-object", &object]);
    let machine = machine.with(&["-device", "virtio-pmem-pci,memdev=p"]);
    let end = machine.run("pmem.sum; pmem.write 1M 64k seed=9; pmem.flush; pmem.read 1M 512");
    assert_eq!(end.status, Some(0), "{}", end.serial);
    let mut sum = Checksum::default();
    sum.add_bytes(0, &bytes);
    let expected = format!("pmem.sum: pmem 0: {:016x}", sum.value());
    assert!(end.serial.contains(&expected), "{expected}: {}", end.serial);
    let mut written = bytes;
    written[MIB..MIB + 65536].copy_from_slice(&pattern(9, (MIB / 512) as u64, 65536));
    assert!(std::fs::read(backing).expect("the file") == written);
}

/// All that `virtio.fuzz` does, to a disk, a console and an entropy source, and then I/O.
fn hostile_scripts_go_on(accelerator: Accelerator) {
    let Some(machine) = Machine::new(accelerator) else { return };
    let machine = machine.with(&["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    let machine = machine.disk(&vec![0; MIB]);
    let end = machine.run(
        "virtio.fuzz registers seed=1 count=500; virtio.fuzz config seed=2 count=300; \
         virtio.fuzz kick; virtio.fuzz loop; virtio.fuzz wild; virtio.fuzz indirect; \
         virtio.fuzz headers count=300; \
         blk.write 0 1M seed=4 qd=8 queues=2; blk.verify 0 1M seed=4; rng.read 16; exit 5",
    );
    assert_eq!(end.status, Some(5), "{}", end.serial);
    assert_eq!(end.serial.matches("still answers").count(), 3 * 3 + 4, "{}", end.serial);
    assert!(machine.contents(0) == pattern(4, 0, MIB));
}

#[test]
fn hostile_scripts_go_on_under_tcg() {
    hostile_scripts_go_on(Tcg);
}

#[test]
fn hostile_scripts_go_on_under_kvm() {
    hostile_scripts_go_on(Kvm);
}
