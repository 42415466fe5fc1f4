//! `cohort disk` where there is no room: one message that says so, and nothing lost or left behind.

use std::process::Command;

use cohort_tests::cohort::{self, Cohort};
use cohort_tests::disks::Disks;

/// Runs a script of the shell, in which `"$cohort"` is the binary, in a small file system of its own.
fn in_small_file_system(script: &str) -> cohort::Finished {
    let mut command = Command::new("unshare");
    let all =
        format!("cohort=$0; mount -t tmpfs -o size=24M none tmp && cd tmp || exit 99; {script}");
    command.args(["-rm", "sh", "-c", &all]).arg(cohort::binary());
    Cohort::from_command(command).finish()
}

/// Lines of a script that make a disk with 32 MiB of data outside of the small file system.
const DATA: &str = "head -c 33554432 /dev/zero | tr '\\0' x >../new.raw";

#[test]
fn a_merge_that_finds_no_room_goes_on_when_there_is_some() {
    for parent in ["raw", "layer", "qcow2", "vhdx"] {
        for child in ["layer", "qcow2", "vhdx"] {
            let (base, child) = (format!("base.{parent}"), format!("../child.{child}"));
            let finished = in_small_file_system(&format!(
                "{DATA}
                 \"$cohort\" disk create {base} --size 32M || exit 98
                 \"$cohort\" disk convert ../new.raw {child} --parent {base} 2>/dev/null || exit 97
                 \"$cohort\" disk commit {child}; echo commit: $?
                 \"$cohort\" disk compare {child} ../new.raw || exit 96
                 mount -o remount,size=120M . || exit 95
                 \"$cohort\" disk commit {child} --delete || exit 94
                 \"$cohort\" disk compare {base} ../new.raw || exit 93
                 \"$cohort\" disk check --repair {base} # of what was allocated and not used"
            ));
            finished.expect_status(0);
            assert!(finished.stdout.contains("commit: 125"), "{base} {child}");
            finished.expect_message(&[&base, "No space left on device", "help: ", "make room"]);
            assert_eq!(finished.stderr.matches("error: ").count(), 1, "{}", finished.stderr);
        }
    }
}

#[test]
fn a_new_file_that_finds_no_room_is_gone() {
    for format in ["raw", "layer", "qcow2", "vhdx"] {
        let finished = in_small_file_system(&format!(
            "{DATA}
             \"$cohort\" disk convert ../new.raw new.{format}; echo convert: $?; ls -A"
        ));
        assert_eq!(finished.stdout, "convert: 125\n", "{format}");
        let name = format!("new.{format}");
        finished.expect_message(&[&name, "No space left on device", "help: ", "make room"]);
        assert_eq!(finished.stderr.matches("error: ").count(), 1, "{}", finished.stderr);
    }
}

#[test]
fn a_limit_of_file_sizes_is_told_and_leaves_nothing() {
    let disks = Disks::new();
    disks.raw("base.raw", &[(12 << 20, &[7; 65536])]);
    for line in ["convert @base.raw @new.raw", "create @new.vhdx --size 64M --fixed"] {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -f 8192; exec \"$0\" disk \"$@\""]).arg(cohort::binary());
        let words =
            line.split(' ').map(|word| word.replace('@', &format!("{}/", disks.at("").display())));
        let finished = Cohort::from_command(command).args(words).finish();
        finished.expect_status(125);
        finished.expect_message(&["new.", "File too large", "help: ", "ulimit -f"]);
        assert_eq!(disks.names(), ["base.raw"]);
    }
}
