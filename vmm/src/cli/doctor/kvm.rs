//! `/dev/kvm`: there, permitted, of the right version, able to do what the machine needs.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use cohort::machine::{NEEDED, permission_mend};
use kvm_ioctls::Kvm;

use super::Check;

const DEVICE: &str = "/dev/kvm";
/// The only version there has been since 2007.
const API_VERSION: i32 = 12;

/// Mends a KVM that is too old, or none.
const HOST_KERNEL: &str = "run a host kernel of version 5.10 or later with its own KVM modules";

pub(super) fn checks() -> Vec<Check> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = Virtualisation::of(&cpuinfo);
    let mut checks = vec![device(cpu)];
    if let Ok(kvm) = Kvm::new() {
        let version = kvm.get_api_version();
        checks.push(if version == API_VERSION {
            Check::ok("kvm api", format!("version {version}"))
        } else {
            Check::missing("kvm api", format!("version {version}, not {API_VERSION}"), HOST_KERNEL)
        });
        let lacking: Vec<&str> = NEEDED
            .iter()
            .filter(|(cap, _)| !kvm.check_extension(*cap))
            .map(|(_, name)| *name)
            .collect();
        checks.push(if lacking.is_empty() {
            Check::ok("kvm abilities", format!("all {} that cohort needs", NEEDED.len()))
        } else {
            let found = format!("lacking: {}", lacking.join(", "));
            Check::missing("kvm abilities", found, HOST_KERNEL)
        });
        checks.push(Check::ok(
            "virtual cpus",
            format!("up to {} in a guest", kvm.get_max_vcpus().min(64)),
        ));
    }
    checks.push(kind(cpu));
    checks
}

/// The virtualisation that a CPU has in hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Virtualisation {
    Intel,
    Amd,
    None,
}

impl Virtualisation {
    /// Reads the flags of `/proc/cpuinfo`.
    fn of(cpuinfo: &str) -> Virtualisation {
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has = |flag| flags.split_whitespace().any(|word| word == flag);
        if has("vmx") {
            Virtualisation::Intel
        } else if has("svm") {
            Virtualisation::Amd
        } else {
            Virtualisation::None
        }
    }
}

fn device(cpu: Virtualisation) -> Check {
    match File::options().read(true).write(true).open(DEVICE) {
        Ok(_) => Check::ok("kvm", format!("{DEVICE} can be opened")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mend = match cpu {
                Virtualisation::Intel => "sudo modprobe kvm_intel",
                Virtualisation::Amd => "sudo modprobe kvm_amd",
                Virtualisation::None => {
                    "switch on virtualisation in the firmware, or nesting in the host of this machine"
                }
            };
            Check::missing("kvm", format!("there is no {DEVICE}"), mend)
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let found = format!("{DEVICE} may not be opened by this user");
            Check::missing("kvm", found, permission_mend())
        }
        Err(error) => Check::missing("kvm", format!("{DEVICE} cannot be opened: {error}"), ""),
    }
}

fn kind(cpu: Virtualisation) -> Check {
    let module = |name: &str| Path::new("/sys/module").join(name).exists();
    let name = "virtualisation";
    if module("kvm_pvm") && cpu == Virtualisation::None {
        // The one line that users of this module need.
        Check::limited(
            name,
            "kvm-pvm, in software: the built-in guest runs at full speed, a Linux guest does not \
             reach its user space",
            "cargo xtask nested -- lab run LAB.toml (a machine with hardware KVM, emulated)",
        )
    } else if module("kvm_intel") {
        Check::ok(name, "hardware, Intel VT-x (kvm_intel)")
    } else if module("kvm_amd") {
        Check::ok(name, "hardware, AMD-V (kvm_amd)")
    } else {
        Check::limited(name, format!("unknown: no kvm module is loaded, CPU {cpu:?}"), "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_whole_words() {
        assert_eq!(Virtualisation::of("flags\t\t: fpu vmx sse\n"), Virtualisation::Intel);
        assert_eq!(Virtualisation::of("flags\t\t: fpu svm\n"), Virtualisation::Amd);
        assert_eq!(Virtualisation::of("flags : svm_lock\nother: svm\n"), Virtualisation::None);
    }
}
