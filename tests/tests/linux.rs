//! Debian's stock kernel, unmodified, in machines of many shapes. These tests need hardware KVM
//! (kvm-pvm cannot run Linux) and the guest's files: `cargo xtask test` runs them in its outer
//! machine.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use cohort_tests::{Cohort, Finished, cohort, linux};

/// Runs a script in a Linux guest and checks that it succeeded and printed these texts.
#[track_caller]
fn succeeds(run: Cohort, printed: &[&str]) -> Finished {
    let finished = run.finish();
    finished.expect_status(0).expect_message(printed);
    finished
}

#[track_caller]
fn ends(run: Cohort, status: i32, outcome: &str) {
    let finished = run.finish();
    finished.expect_status(status);
    let account = finished.json("outcome.json");
    assert_eq!(account["outcome"], outcome, "{account}");
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn the_status_of_a_command_in_linux_is_the_exit_status() {
    ends(linux::guest("exit 7"), 7, "exited");
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn linux_powers_off_through_acpi() {
    ends(linux::guest("poweroff -f"), 0, "poweroff");
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn linux_reboots_into_outcome_reset_in_every_way() {
    for way in ["", "reboot=a", "reboot=k", "reboot=p"] {
        let cmdline = format!("console=ttyS0 quiet {way}");
        ends(linux::guest_with(&cmdline, "reboot -f"), 32, "reset");
    }
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn a_kernel_panic_is_reported_through_pvpanic() {
    ends(linux::guest("echo c > /proc/sysrq-trigger; sleep 100"), 34, "panic");
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn a_reboot_by_triple_fault_is_a_crash() {
    ends(linux::guest_with("console=ttyS0 quiet reboot=t", "reboot -f"), 33, "crash");
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn every_processor_comes_up() {
    for cpus in ["1", "2", "4"] {
        let script = "test \"$(nproc)\" = \"$EXPECTED\" && grep -c ^processor /proc/cpuinfo";
        let script = script.replace("$EXPECTED", cpus);
        succeeds(linux::guest(&script).args(["--cpus", cpus]), &[]);
    }
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn the_guest_has_the_clocks_and_the_interrupt_controller_it_should() {
    let script = "set -e
        grep -qw x2apic /proc/cpuinfo
        grep -qw tsc_deadline_timer /proc/cpuinfo
        grep -qw kvm-clock /sys/devices/system/clocksource/clocksource0/available_clocksource
        dmesg | grep -q 'x2apic enabled'
        dmesg | grep -q 'Hypervisor detected: KVM'
        dmesg | grep -q 'MMCONFIG'";
    succeeds(linux::guest(script), &[]);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn masked_features_are_hidden_from_the_guest() {
    let script = "grep -qw x2apic /proc/cpuinfo && ! grep -qw rdrand /proc/cpuinfo && \
                  ! grep -qw aes /proc/cpuinfo";
    succeeds(linux::guest(script).args(["--cpu-mask", "aes,rdrand"]), &[]);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn memory_above_the_hole_is_there() {
    // 64 MiB fewer than asked for would be a lost region; the kernel keeps some to itself.
    let script = "test $(awk '/MemTotal/ {print $2}' /proc/meminfo) -gt 400000";
    succeeds(linux::guest(script).args(["-m", "448M"]), &[]);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn a_disk_keeps_what_linux_writes() {
    let script = "set -e
        dd if=/dev/urandom of=/dev/vda bs=64k count=64 conv=fsync 2>/dev/null
        written=$(head -c 4194304 /dev/vda | md5sum)
        echo 3 > /proc/sys/vm/drop_caches
        test \"$(head -c 4194304 /dev/vda | md5sum)\" = \"$written\"
        echo \"sum $written\"";
    let run = linux::guest(script).args(["--disk", "disk.img", "--cpus", "2"]);
    run.image("disk.img", 8 << 20);
    let finished = succeeds(run, &["sum "]);
    // The host's own tool finds the same bytes.
    let head = format!("head -c 4194304 {}/disk.img | md5sum", finished.folder().display());
    let sum = std::process::Command::new("sh").args(["-c", &head]).output().expect("a shell");
    let sum = String::from_utf8_lossy(&sum.stdout);
    finished.expect_message(&[&format!("sum {}", sum.trim())]);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn each_processor_has_a_queue_of_its_own() {
    let script = "ls /sys/block/vda/mq | wc -l | grep -qx 4";
    let run = linux::guest(script).args(["--disk", "scratch=16M", "--cpus", "4"]);
    succeeds(run, &[]);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn discard_write_zeroes_serial_and_read_only_reach_linux() {
    let script = "set -e
        test \"$(cat /sys/block/vda/serial)\" = ABC-1
        test \"$(cat /sys/block/vda/ro)\" = 0
        test \"$(cat /sys/block/vdb/ro)\" = 1
        test \"$(cat /sys/block/vda/queue/write_zeroes_max_bytes)\" != 0
        test \"$(cat /sys/block/vda/queue/discard_max_bytes)\" != 0
        dd if=/dev/urandom of=/dev/vda bs=1M count=4 conv=fsync 2>/dev/null
        blkdiscard /dev/vda";
    let run = linux::guest(script);
    let run = run.args(["--disk", "disk.img,serial=ABC-1", "--disk", "other.img,ro"]);
    run.image("disk.img", 4 << 20);
    run.image("other.img", 1 << 20);
    let finished = succeeds(run, &[]);
    let image = fs::read(finished.folder().join("disk.img")).expect("the image");
    assert!(image.iter().all(|byte| *byte == 0), "discarded blocks are not zero");
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn virtio_rng_feeds_the_kernel() {
    let script = "set -e
        grep -q virtio_rng /sys/class/misc/hw_random/rng_current
        dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c | grep -qx 256";
    succeeds(linux::guest(script), &[]);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn input_reaches_the_serial_port() {
    speaks(linux::guest("echo ready; read line </dev/ttyS0; echo \"heard $line\""), "-i");
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn the_virtio_console_works_both_ways() {
    let cmdline = "console=hvc0 quiet panic=-1";
    let script = "exec >/dev/hvc0; echo ready; read line </dev/hvc0; echo \"heard $line\"";
    speaks(linux::guest_with(cmdline, script), "-i=hvc");
}

/// Types a line at a guest that repeats it.
#[track_caller]
fn speaks(run: Cohort, option: &str) {
    let mut run = run.arg(option).start_with(Stdio::piped());
    let mut input = run.input();
    // A line typed before the guest reads waits in its terminal.
    run.wait_for("ready");
    input.write_all(b"knock knock\n").expect("cohort reads");
    run.wait_for("heard knock knock");
    drop(input);
    run.finish().expect_status(0);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn the_decompressed_kernel_boots_as_an_elf_file_too() {
    // The kernel that cohort itself decompressed is in its cache, by now at the latest.
    let cached = linux::guest("true");
    let cache = cached.folder().join("cache");
    fs::create_dir(&cache).expect("a folder");
    let finished = succeeds(cached.env("XDG_CACHE_HOME", &cache), &[]);
    let elf = newest_elf(&finished.folder().join("cache")).expect("a kernel in the cache");
    succeeds(linux::guest_of(&elf, linux::CMDLINE, "uname -r"), &["cloud-amd64"]);
}

/// An ELF file somewhere below a folder.
fn newest_elf(folder: &std::path::Path) -> Option<std::path::PathBuf> {
    fs::read_dir(folder).ok()?.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return newest_elf(&path);
        }
        let start = fs::read(&path).ok()?;
        start.starts_with(b"\x7fELF").then_some(path)
    })
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn the_debian_lab_succeeds() {
    let run = Cohort::new(["lab", "run", "-v", "--results", "results"]);
    let finished = run.arg(cohort::example_lab("debian.toml")).finish();
    finished.expect_status(0).expect_message(&["node-0", "node-1", "every check passed"]);
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn fio_finds_what_it_wrote_through_a_chain() {
    // Linux has its root on the chain: a raw base, which must not change, and two layers on it.
    let base = linux::files().join("fio-root.ext4");
    let run = Cohort::new(["run", "-k"])
        .arg(linux::files().join("vmlinuz"))
        .arg("--initrd")
        .arg(linux::files().join("initrd"))
        .args(["-a", &format!("{} root=/dev/vda rw", linux::CMDLINE), "--cpus", "2"])
        .args(["--disk", "top.layer", "--timeout", "95s"]);
    let mut parent = base.clone();
    for name in ["middle.layer", "top.layer"] {
        let layer = run.folder().join(name);
        let create = Cohort::new(["disk", "create"]).arg(&layer).arg("--parent").arg(&parent);
        create.finish().expect_status(0);
        parent = layer;
    }
    let before = fs::metadata(&base).expect("the base").modified().expect("a time");
    let finished = succeeds(run, &["fio ended with 0"]);
    assert_eq!(fs::metadata(&base).expect("the base").modified().expect("a time"), before);
    let top = finished.folder().join("top.layer");
    Cohort::new(["disk", "check"]).arg(top).finish().expect_status(0);
}
