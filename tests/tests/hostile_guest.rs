//! A guest may do anything to its devices: cohort answers as the specification says or stops that
//! guest with outcome `crash`. It never panics, never hangs, and never touches what is not the
//! guest's.

use std::fs;

use cohort_tests::{Cohort, kvm_is_there};

/// Runs a script of attacks with every kind of device there is; the guest goes on or is stopped.
#[track_caller]
fn survives(script: &str) {
    if !kvm_is_there() {
        return;
    }
    for disk in ["disk.img", "disk.img,engine=positional"] {
        let run = Cohort::script(&format!("{script}; print done; exit 0"))
            .args(["--cpus", "2", "--disk", disk, "--disk", "other.img,ro"])
            .args(["--timeout", "60s", "--outcome", "outcome.json"]);
        run.image("disk.img", 1 << 20);
        run.file("other.img", [0xa5; 4096]);
        let finished = run.finish();
        let account = finished.json("outcome.json");
        let outcome = account["outcome"].as_str().unwrap_or_default();
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        assert!(
            matches!(outcome, "crash") || outcome == "exited" && finished.status() == Some(0),
            "{account}; stderr:\n{}",
            finished.stderr
        );
        let image = fs::metadata(finished.folder().join("disk.img")).expect("the image");
        assert_eq!(image.len(), 1 << 20);
        let other = fs::read(finished.folder().join("other.img")).expect("the image");
        assert!(other.iter().all(|byte| *byte == 0xa5), "a read-only disk was written");
    }
}

#[test]
fn garbage_in_every_virtio_register_is_survived() {
    for seed in 1..=4 {
        survives(&format!("virtio.fuzz registers seed={seed} count=2000"));
    }
}

#[test]
fn garbage_in_configuration_space_is_survived() {
    for seed in 1..=4 {
        survives(&format!("virtio.fuzz config seed={seed} count=2000"));
    }
}

#[test]
fn kicks_of_queues_that_do_not_exist_are_survived() {
    survives("virtio.fuzz kick");
}

#[test]
fn endless_chains_of_descriptors_are_survived() {
    survives("virtio.fuzz loop");
}

#[test]
fn rings_and_buffers_outside_memory_are_survived() {
    survives("virtio.fuzz wild");
}

#[test]
fn malformed_indirect_tables_are_survived() {
    survives("virtio.fuzz indirect");
}

#[test]
fn a_disk_works_again_after_each_attack() {
    survives(
        "virtio.fuzz kick; blk.write 0 64k seed=3; virtio.fuzz loop; blk.verify 0 64k seed=3; \
         virtio.fuzz wild; virtio.fuzz indirect; blk.verify 0 64k seed=3",
    );
}
