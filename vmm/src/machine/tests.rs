//! Whole machines that run a few instructions on the host's KVM. Skipped, and said so, where
//! there is none.

mod guest;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use guest::Program;

use super::*;
use crate::outcome::{Ending, Outcome};
use crate::spec::{ConsoleInput, DiskSource, DiskSpec, KernelSource, VmSpec};

/// A guest that runs `program`, small and with one processor.
fn spec(program: &tempfile::NamedTempFile) -> VmSpec {
    VmSpec {
        name: "test".into(),
        kernel: KernelSource::Path(program.path().into()),
        initrd: None,
        cmdline: String::new(),
        memory: 4 << 20,
        cpus: 1,
        cpu_mask: Vec::new(),
        disks: Vec::new(),
        pmem: Vec::new(),
        shares: Vec::new(),
        share_domain: None,
        input: ConsoleInput::Serial,
        timeout: Some(Duration::from_secs(60)),
    }
}

/// False where no guest can run.
fn kvm() -> bool {
    let present = Path::new("/dev/kvm").exists();
    if !present {
        eprintln!("skipped: there is no /dev/kvm");
    }
    present
}

/// Runs a guest whose console output is returned along with its outcome.
fn run_with(spec: &VmSpec, control: Control) -> (Outcome, Vec<u8>) {
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let output = File::from(OwnedFd::from(writer));
    let collector = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    let outcome = run(spec, Console { output, input: None }, control);
    (outcome, collector.join().expect("reader").expect("read"))
}

fn outcome_of(program: Program) -> Outcome {
    let file = program.into_file();
    run_with(&spec(&file), Control::default()).0
}

#[test]
fn a_guest_ends_with_the_status_it_writes() {
    if !kvm() {
        return;
    }
    for status in [0, 7, 255] {
        let outcome = outcome_of(Program::new().exit(status));
        assert_eq!(outcome.ending, Ending::Exited { status }, "{outcome:?}");
        assert!(outcome.memory.pss_kib > 0 && outcome.memory.peak_rss_kib > 0);
    }
}

#[test]
fn the_64_bit_entry_works_too() {
    if !kvm() {
        return;
    }
    let outcome = outcome_of(Program::new().long_mode().exit(9));
    assert_eq!(outcome.ending, Ending::Exited { status: 9 }, "{outcome:?}");
}

#[test]
fn what_the_guest_prints_arrives() {
    if !kvm() {
        return;
    }
    let file = Program::new().print("hello\nno newline").exit(0).into_file();
    let (outcome, printed) = run_with(&spec(&file), Control::default());
    assert_eq!(outcome.ending, Ending::Exited { status: 0 }, "{outcome:?}");
    assert_eq!(printed, b"hello\nno newline");
}

#[test]
fn every_power_event_has_its_outcome() {
    if !kvm() {
        return;
    }
    for (port, value, ending) in [
        (layout::PORT_SLEEP_CONTROL, layout::SLEEP_TYPE_S5 << 2 | 1 << 5, Ending::Poweroff),
        (layout::PORT_RESET, layout::RESET_VALUE, Ending::Reset),
        (layout::PORT_I8042, 0xFE, Ending::Reset),
        (layout::PORT_PVPANIC, 1, Ending::Panic),
    ] {
        let outcome = outcome_of(Program::new().out(port, value).exit(99));
        assert_eq!(outcome.ending, ending, "{outcome:?}");
    }
}

#[test]
fn a_triple_fault_is_a_crash() {
    if !kvm() {
        return;
    }
    let outcome = outcome_of(Program::new().triple_fault());
    assert_eq!(outcome.ending, Ending::Crash, "{outcome:?}");
    assert!(outcome.detail.is_some_and(|detail| detail.starts_with("triple fault")));
}

#[test]
fn other_processors_wait_until_they_are_started() {
    if !kvm() {
        return;
    }
    // mov al, 5; out PORT_EXIT, al; jmp to itself
    let real = [0xB0, 5, 0xE6, 0xF4, 0xEB, 0xFE, 0x90, 0x90];
    let file = Program::new().start_second_processor(real).into_file();
    let spec = VmSpec { cpus: 2, ..spec(&file) };
    let (outcome, _) = run_with(&spec, Control::default());
    assert_eq!(outcome.ending, Ending::Exited { status: 5 }, "{outcome:?}");

    let file = Program::new().exit(3).into_file();
    let spec = VmSpec { cpus: 64, ..self::spec(&file) };
    let (outcome, _) = run_with(&spec, Control::default());
    assert_eq!(outcome.ending, Ending::Exited { status: 3 }, "{outcome:?}");
}

/// Where Linux goes to restart a machine without EFI.
#[test]
fn going_on_in_the_firmware_is_a_reset() {
    if !kvm() {
        return;
    }
    // ljmp F000:FFF0
    let real = [0xEA, 0xF0, 0xFF, 0x00, 0xF0, 0x90, 0x90, 0x90];
    let file = Program::new().start_second_processor(real).into_file();
    let spec = VmSpec { cpus: 2, ..spec(&file) };
    let (outcome, _) = run_with(&spec, Control::default());
    assert_eq!(outcome.ending, Ending::Reset, "{outcome:?}");
}

#[test]
fn a_guest_that_does_not_end_is_stopped() {
    if !kvm() {
        return;
    }
    for program in [Program::new().halt(), Program::new().spin()] {
        let file = program.into_file();
        let spec = VmSpec { timeout: Some(Duration::from_millis(50)), ..spec(&file) };
        let (outcome, _) = run_with(&spec, Control::default());
        assert_eq!(outcome.ending, Ending::Timeout, "{outcome:?}");
        assert!(outcome.wall_ms >= 50);
    }
}

#[test]
fn a_signal_stops_the_guest() {
    if !kvm() {
        return;
    }
    let file = Program::new().spin().into_file();
    let signals = Some(guest::pending_signal(libc::SIGUSR2));
    let (outcome, _) = run_with(&spec(&file), Control { signals, ..Control::default() });
    assert_eq!(outcome.ending, Ending::Signaled { signal: 12 }, "{outcome:?}");
}

#[test]
fn mistakes_are_told_before_anything_runs() {
    if !kvm() {
        return;
    }
    let file = Program::new().exit(0).into_file();
    let good = spec(&file);
    for (spec, detail) in [
        (VmSpec { memory: 1 << 20, ..good.clone() }, "1048576 bytes of guest memory are too few"),
        (VmSpec { memory: (4 << 20) + 1, ..good.clone() }, "4194305 bytes of guest memory"),
        (VmSpec { memory: 1 << 60, ..good.clone() }, ""),
        (VmSpec { cpus: 0, ..good.clone() }, "0 virtual CPUs"),
        (VmSpec { cpus: 65, ..good.clone() }, "65 virtual CPUs"),
        (VmSpec { cpu_mask: vec!["nonsense".into()], ..good.clone() }, "unknown CPU features"),
        (VmSpec { kernel: KernelSource::Path("/nowhere".into()), ..good.clone() }, ""),
        (VmSpec { initrd: Some("/nowhere".into()), ..good.clone() }, ""),
    ] {
        let (outcome, _) = run_with(&spec, Control::default());
        assert_eq!(outcome.ending, Ending::VmmError, "{outcome:?}");
        let said = outcome.detail.unwrap_or_default();
        assert!(!said.is_empty() && said.starts_with(detail), "{said}");
    }
}

/// Everything a guest had open is closed when its run is over: another may have the disk then.
#[test]
fn nothing_of_a_guest_is_left_open() {
    if !kvm() {
        return;
    }
    let image = tempfile::NamedTempFile::new().expect("temporary file");
    image.as_file().set_len(1 << 20).expect("room");
    let disk = DiskSpec::new(DiskSource::Path(image.path().into()));
    let file = Program::new().exit(1).into_file();
    let good = VmSpec { disks: vec![disk], ..spec(&file) };
    // After a run, also one in which the guest placed the windows of its devices, and after a
    // failure once the disk was open.
    let bad = VmSpec { initrd: Some("/nowhere".into()), ..good.clone() };
    let used = VmSpec {
        kernel: KernelSource::Builtin,
        cmdline: "blk.write 0 4K seed=1; exit 1".into(),
        memory: 64 << 20,
        ..good.clone()
    };
    for (spec, ending) in [
        (&used, Ending::Exited { status: 1 }),
        (&good, Ending::Exited { status: 1 }),
        (&bad, Ending::VmmError),
        (&good, Ending::Exited { status: 1 }),
    ] {
        let (outcome, _) = run_with(spec, Control::default());
        assert_eq!(outcome.ending, ending, "{outcome:?}");
    }
    let twice = VmSpec { disks: vec![good.disks[0].clone(), good.disks[0].clone()], ..good };
    let (outcome, _) = run_with(&twice, Control::default());
    assert_eq!(outcome.ending, Ending::VmmError);
    assert!(outcome.detail.is_some_and(|detail| detail.starts_with("disk 1: ")));
}
