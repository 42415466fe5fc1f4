//! What a guest writes is on the host's file, no more and no less; and a disk has one writer.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cohort_guest::pattern::{Checksum, Pattern};
use cohort_tests::processes::Signal;
use cohort_tests::{Cohort, kvm_is_there};

/// `cohort run` of a script with one disk of this size, `disk.img`, and these options of it.
fn with_disk(script: &str, size: u64, options: &str) -> Cohort {
    let run = Cohort::script(script).args(["--disk", &format!("disk.img{options}")]);
    run.image("disk.img", size);
    run
}

/// Whether a range of an image holds a pattern.
fn holds(image: &[u8], range: std::ops::Range<usize>, seed: u64) -> bool {
    let mut expected = vec![0; range.len()];
    Pattern { seed }.fill((range.start / 512) as u64, &mut expected);
    image[range] == expected
}

#[test]
fn what_the_guest_writes_is_in_the_file_and_nothing_else_changes() {
    if !kvm_is_there() {
        return;
    }
    for options in ["", ",direct=on", ",engine=positional", ",engine=positional,direct=on"] {
        let script = "blk.write 1M 3M seed=7; blk.write 64k 512 seed=8; blk.flush; exit 0";
        let finished = with_disk(script, 8 << 20, options).finish();
        finished.expect_status(0);
        let image = fs::read(finished.folder().join("disk.img")).expect("the image");
        assert_eq!(image.len(), 8 << 20);
        assert!(holds(&image, 1 << 20..4 << 20, 7), "options {options:?}");
        assert!(holds(&image, 64 << 10..(64 << 10) + 512, 8), "options {options:?}");
        let zero = |range: std::ops::Range<usize>| image[range].iter().all(|byte| *byte == 0);
        assert!(zero(0..64 << 10) && zero((64 << 10) + 512..1 << 20) && zero(4 << 20..8 << 20));
    }
}

#[test]
fn the_guest_reads_what_is_in_the_file() {
    if !kvm_is_there() {
        return;
    }
    let mut content = vec![0; 4 << 20];
    Pattern { seed: 42 }.fill(0, &mut content);
    let mut sum = Checksum::default();
    sum.add_bytes(0, &content);
    for options in ["", ",ro", ",direct=on", ",engine=positional"] {
        let script = "blk.verify 0 4M seed=42; blk.sum 0 4M; exit 0";
        let run = with_disk(script, 0, options);
        run.file("disk.img", &content);
        let finished = run.finish();
        finished.expect_status(0).expect_message(&[&format!("{:016x}", sum.value())]);
    }
}

#[test]
fn a_difference_is_found_and_told() {
    if !kvm_is_there() {
        return;
    }
    let mut content = vec![0; 1 << 20];
    Pattern { seed: 1 }.fill(0, &mut content);
    content[777_777] ^= 1;
    let run = with_disk("blk.verify 0 1M seed=1; exit 0", 0, "");
    run.file("disk.img", &content);
    let finished = run.finish();
    finished.expect_status(123).expect_message(&["777776"]);
}

#[test]
fn several_disks_and_queues_do_not_mix() {
    if !kvm_is_there() {
        return;
    }
    let script = "repeat 4 { blk.write 0 1M seed=1 disk=0 qd=32 queues=4; \
                  blk.write 0 1M seed=2 disk=1 qd=32 queues=4; \
                  blk.verify 0 1M seed=1 disk=0 qd=32 queues=4; \
                  blk.verify 0 1M seed=2 disk=1 qd=32 queues=4 }; exit 0";
    let run = Cohort::script(script).args(["--cpus", "4"]);
    let run = run.args(["--disk", "a.img", "--disk", "b.img"]);
    for name in ["a.img", "b.img"] {
        run.image(name, 1 << 20);
    }
    let finished = run.finish();
    finished.expect_status(0);
    for (name, seed) in [("a.img", 1), ("b.img", 2)] {
        let image = fs::read(finished.folder().join(name)).expect("the image");
        assert!(holds(&image, 0..1 << 20, seed), "{name}");
    }
}

#[test]
fn a_read_only_disk_is_never_written() {
    if !kvm_is_there() {
        return;
    }
    let run = with_disk("blk.write 0 512 seed=1; exit 0", 1 << 20, ",ro");
    let finished = run.finish();
    assert_ne!(finished.status(), Some(0), "the write should have failed");
    let image = fs::read(finished.folder().join("disk.img")).expect("the image");
    assert!(image.iter().all(|byte| *byte == 0));
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeroes_and_discard_gives_space_back() {
    if !kvm_is_there() {
        return;
    }
    let script = "blk.write 0 8M seed=1; blk.flush; blk.discard 0 4M; blk.zeroes 4M 1M; exit 0";
    let finished = with_disk(script, 8 << 20, "").finish();
    finished.expect_status(0);
    let path = finished.folder().join("disk.img");
    let image = fs::read(&path).expect("the image");
    assert!(image[..5 << 20].iter().all(|byte| *byte == 0));
    assert!(holds(&image, 5 << 20..8 << 20, 1));
    let held = fs::metadata(&path).expect("the image").blocks() * 512;
    assert!(held <= 5 << 20, "{held} bytes are held after 4 MiB were discarded");
}

#[test]
fn requests_beyond_the_end_fail_and_grow_nothing() {
    if !kvm_is_there() {
        return;
    }
    let finished = with_disk("blk.write 1023k 2k seed=1; exit 0", 1 << 20, "").finish();
    assert_ne!(finished.status(), Some(0), "the write should have failed");
    let image = fs::read(finished.folder().join("disk.img")).expect("the image");
    assert_eq!(image.len(), 1 << 20);
}

#[test]
fn the_guest_sees_the_serial_and_the_size() {
    if !kvm_is_there() {
        return;
    }
    let finished = with_disk("blk.id; exit 0", 3 << 20, ",serial=WD-1234").finish();
    finished.expect_status(0).expect_message(&["3145728 bytes", "\"WD-1234\""]);
}

#[test]
fn a_scratch_disk_works_and_leaves_nothing() {
    if !kvm_is_there() {
        return;
    }
    let script = "blk.write 0 16M seed=5; blk.verify 0 16M seed=5; exit 0";
    // finish() checks that the folder for temporary files is empty.
    Cohort::script(script).args(["--disk", "scratch=16M"]).finish().expect_status(0);
}

#[test]
fn a_disk_in_use_is_refused_to_another_guest_and_to_qemus_tools() {
    if !kvm_is_there() {
        return;
    }
    let first = with_disk("print running; hang", 1 << 20, "").start();
    first.wait_for("running");
    let image = first.folder().join("disk.img");

    let second = Cohort::script("exit 0").arg("--disk").arg(&image).finish();
    second.expect_status(125).expect_message(&["disk.img", "lock"]);

    let qemu_io = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write 0 512"])
        .arg(&image)
        .output()
        .expect("qemu-io is installed by `cargo xtask setup`");
    let said = String::from_utf8_lossy(&qemu_io.stderr);
    assert!(said.contains("lock"), "qemu-io was not refused: {said}");

    first.signal(Signal::TERM);
    first.finish().expect_status(143);
}

#[test]
fn a_disk_that_qemu_has_open_is_refused_and_free_afterwards() {
    if !kvm_is_there() {
        return;
    }
    let run = with_disk("exit 0", 1 << 20, "");
    let holder = Holder::open(&run.folder().join("disk.img"));
    let image = run.folder().join("disk.img");
    let refused = Cohort::script("exit 0").arg("--disk").arg(&image).finish();
    refused.expect_status(125).expect_message(&["disk.img", "lock"]);
    drop(holder);
    run.finish().expect_status(0);
}

#[test]
fn readers_share_a_disk() {
    if !kvm_is_there() {
        return;
    }
    let first = with_disk("print running; hang", 1 << 20, ",ro").start();
    first.wait_for("running");
    let image = format!("{},ro", first.folder().join("disk.img").display());
    Cohort::script("blk.sum 0 1M; exit 0").args(["--disk", &image]).finish().expect_status(0);
    first.signal(Signal::TERM);
    first.finish().expect_status(143);
}

/// qemu-io with an image open for writing, until dropped.
struct Holder(std::process::Child);

impl Holder {
    fn open(image: &Path) -> Holder {
        let mut tool = Command::new("qemu-io")
            .args(["-f", "raw"])
            .arg(image)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-io is installed by `cargo xtask setup`");
        // It answers commands once the image is open.
        let mut input = tool.stdin.take().expect("piped");
        input.write_all(b"length\n").expect("qemu-io listens");
        tool.stdin = Some(input);
        let mut answer = String::new();
        let mut output = BufReader::new(tool.stdout.as_mut().expect("piped"));
        while !answer.contains("MiB") {
            assert_ne!(output.read_line(&mut answer).expect("an answer"), 0, "{answer}");
        }
        Holder(tool)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The process is the test's own, and has ended if this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
