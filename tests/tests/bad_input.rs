//! Each kind of bad input has one clear message: what is wrong, where, and what to do.

use std::process::Command;

use cohort_tests::{Cohort, Finished, cohort, kvm_is_there};

/// cohort's own failures have this status.
const HOST_FAILURE: i32 = 125;
/// Mistakes in arguments have this status.
const USAGE: i32 = 2;

/// Checks the status and that the message is an error with all of these parts.
#[track_caller]
fn refused(finished: &Finished, status: i32, parts: &[&str]) {
    finished.expect_status(status).expect_message(&["error: "]).expect_message(parts);
}

#[test]
fn without_dev_kvm_the_message_says_so_and_what_to_do() {
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", "mount -t tmpfs none /dev && exec \"$0\" \"$@\""]);
    command.arg(cohort::binary()).args(["run", "--script", "exit 0"]);
    let finished = Cohort::from_command(command).finish();
    refused(&finished, HOST_FAILURE, &["/dev/kvm", "help: "]);
}

#[test]
fn without_permission_for_dev_kvm_the_message_says_so_and_what_to_do() {
    if !kvm_is_there() {
        return;
    }
    // An empty file in its place that nobody may open, not even root, whose powers are dropped.
    let mut command = Command::new("unshare");
    command.args([
        "-rm",
        "sh",
        "-c",
        "touch kvm && chmod 0 kvm && mount --bind kvm /dev/kvm && \
         exec setpriv --bounding-set=-all --inh-caps=-all \"$0\" \"$@\"",
    ]);
    command.arg(cohort::binary()).args(["run", "--script", "exit 0"]);
    let finished = Cohort::from_command(command).finish();
    refused(&finished, HOST_FAILURE, &["/dev/kvm", "ermission", "help: "]);
}

#[test]
fn a_kernel_that_is_missing_is_named() {
    let finished = Cohort::new(["run", "-k", "no-such-kernel"]).finish();
    refused(&finished, HOST_FAILURE, &["no-such-kernel"]);
}

#[test]
fn a_file_that_is_no_kernel_is_refused() {
    let run = Cohort::new(["run", "-k", "notes.txt"]);
    run.file("notes.txt", "milk, bread\n".repeat(1000));
    refused(&run.finish(), HOST_FAILURE, &["notes.txt", "is no kernel", "vmlinux"]);
}

#[test]
fn a_truncated_elf_is_refused() {
    let run = Cohort::new(["run", "-k", "vmlinux"]);
    // One segment of a page, of which the file has a few bytes.
    let mut elf = elf(0x20_0000, 0x1000);
    elf.truncate(130);
    run.file("vmlinux", elf);
    refused(&run.finish(), HOST_FAILURE, &["vmlinux", "130 bytes", "incomplete"]);
}

#[test]
fn segments_outside_memory_are_refused() {
    let run = Cohort::new(["run", "-m", "64M", "-k", "vmlinux"]);
    run.file("vmlinux", elf(0x1_0000_0000, 0x1000));
    refused(&run.finish(), HOST_FAILURE, &["vmlinux", "memory", "0x100000000"]);
    let run = Cohort::new(["run", "-m", "64M", "-k", "vmlinux"]);
    run.file("vmlinux", elf(u64::MAX - 0x10, 0x1000));
    refused(&run.finish(), HOST_FAILURE, &["vmlinux"]);
}

#[test]
fn a_corrupt_payload_is_refused() {
    let run = Cohort::new(["run", "-k", "vmlinuz"]);
    run.file(
        "vmlinuz",
        bzimage(b"\x1f\x8b\x08\0\0\0\0\0\x02\x03 this is no deflate stream at all"),
    );
    refused(&run.finish(), HOST_FAILURE, &["vmlinuz", "decompress"]);
}

#[test]
fn an_initrd_larger_than_memory_is_refused() {
    let run = Cohort::new(["run", "-m", "64M", "-k", "vmlinux", "--initrd", "initrd"]);
    run.file("vmlinux", elf(0x20_0000, 0x1000));
    run.image("initrd", 128 << 20);
    refused(&run.finish(), HOST_FAILURE, &["initrd", "memory"]);
}

#[test]
fn memory_without_a_unit_is_refused() {
    let finished = Cohort::new(["run", "-m", "256"]).finish();
    refused(&finished, USAGE, &["256", "256M"]);
}

#[test]
fn too_little_memory_is_refused() {
    let finished = Cohort::new(["run", "-m", "64K"]).finish();
    refused(&finished, USAGE, &["64K", "2M"]);
}

#[test]
fn processors_out_of_range_are_refused() {
    for cpus in ["0", "65", "-1", "two"] {
        let finished = Cohort::new(["run", &format!("--cpus={cpus}")]).finish();
        refused(&finished, USAGE, &[cpus, "--cpus"]);
    }
}

#[test]
fn a_missing_disk_is_named() {
    let finished = Cohort::new(["run", "--disk", "no-such-disk.img"]).finish();
    refused(&finished, HOST_FAILURE, &["no-such-disk.img"]);
}

#[test]
fn a_disk_that_is_no_multiple_of_512_is_refused() {
    let run = Cohort::new(["run", "--disk", "odd.img"]);
    run.image("odd.img", 1000);
    refused(&run.finish(), HOST_FAILURE, &["odd.img", "512"]);
}

#[test]
fn an_unknown_disk_option_is_named_with_those_that_exist() {
    let run = Cohort::new(["run", "--disk", "a.img,colour=red"]);
    run.image("a.img", 4096);
    refused(&run.finish(), USAGE, &["colour", "direct"]);
}

#[test]
fn mistakes_of_a_lab_are_named_by_file_line_and_key() {
    for (text, parts) in [
        ("schema = 1\n[vm.a]\nmemroy = \"64M\"\n", ["trial.toml:3", "vm.a.memroy", "unknown key"]),
        ("schema = 1\n[vm.a]\nmemory = \"64\"\n", ["trial.toml:3", "vm.a.memory", "64M"]),
        ("schema = 1\n[vm.a]\nkernel = \"gone\"\n", ["trial.toml:3", "vm.a.kernel", "gone"]),
        ("schema = 1\n[vm.a]\n[vm.a]\n", ["trial.toml:3", "a", "duplicate"]),
        ("schema = 1\n[vm.a]\ncpus = 0\n", ["trial.toml:3", "vm.a.cpus", "64"]),
        ("schema = 7\n[vm.a]\n", ["trial.toml:1", "schema", "1"]),
    ] {
        for command in ["validate", "run"] {
            let run = Cohort::new(["lab", command, "trial.toml"]);
            run.file("trial.toml", text);
            let finished = run.finish();
            refused(&finished, USAGE, &parts);
        }
    }
}

#[test]
fn guests_of_one_name_are_refused() {
    let run = Cohort::new(["lab", "validate", "trial.toml"]);
    run.file("trial.toml", "schema = 1\n[vm.a-0]\n[vm.a]\ncount = 2\n");
    refused(&run.finish(), USAGE, &["trial.toml:3", "a-0"]);
}

#[test]
fn a_lab_that_is_missing_is_named() {
    let finished = Cohort::new(["lab", "run", "no-such-lab.toml"]).finish();
    refused(&finished, USAGE, &["no-such-lab.toml"]);
}

#[test]
fn every_mistake_of_a_lab_is_reported_at_once() {
    let run = Cohort::new(["lab", "validate", "trial.toml"]);
    run.file("trial.toml", "schema = 1\n[vm.a]\nmemroy = \"64M\"\ncpus = 99\nkernel = \"gone\"\n");
    refused(&run.finish(), USAGE, &["trial.toml:3", "trial.toml:4", "trial.toml:5"]);
}

#[test]
fn a_correct_lab_is_valid() {
    let quickstart = cohort::example_lab("quickstart.toml");
    Cohort::new(["lab", "validate"]).arg(quickstart).finish().expect_status(0);
}

/// An ELF kernel with one segment of `len` bytes for `address`, and the 64-bit entry there.
fn elf(address: u64, len: u64) -> Vec<u8> {
    let mut elf = Vec::new();
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, 62] {
        elf.extend_from_slice(&half.to_le_bytes()); // executable, x86-64
    }
    elf.extend_from_slice(&1_u32.to_le_bytes());
    for long in [address, 64, 0] {
        elf.extend_from_slice(&long.to_le_bytes()); // entry, program headers, section headers
    }
    elf.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes()); // sizes and counts of headers
    }
    for word in [1_u32, 5] {
        elf.extend_from_slice(&word.to_le_bytes()); // load; readable, executable
    }
    for long in [0x1000, address, address, len, len, 0x1000] {
        elf.extend_from_slice(&long.to_le_bytes()); // offset, addresses, sizes, alignment
    }
    elf.resize(0x1000, 0);
    elf.resize(0x1000 + usize::try_from(len).expect("a small segment"), 0xf4);
    elf
}

/// A bzImage with this payload (`Documentation/arch/x86/boot.rst`).
fn bzimage(payload: &[u8]) -> Vec<u8> {
    // Two sectors of setup, one of code, then the payload.
    let mut image = vec![0; 0x600];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let len = u32::try_from(payload.len()).expect("a small payload");
    put(0x1f1, &[1]); // one setup sector
    put(0x1fe, &0xaa55_u16.to_le_bytes());
    put(0x200, &[0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x211, &[1]); // loaded high
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // highest initrd address
    put(0x230, &0x20_0000_u32.to_le_bytes()); // alignment
    put(0x234, &[1, 21]);
    put(0x236, &1_u16.to_le_bytes()); // has a 64-bit entry
    put(0x238, &2047_u32.to_le_bytes());
    put(0x248, &0x200_u32.to_le_bytes()); // payload offset and length
    put(0x24c, &len.to_le_bytes());
    put(0x258, &0x100_0000_u64.to_le_bytes()); // preferred address
    put(0x260, &0x100_0000_u32.to_le_bytes()); // memory needed
    image.extend_from_slice(payload);
    image
}
