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
            let loaded = ["kvm_intel", "kvm_amd", "kvm_pvm"].into_iter().any(module);
            Check::missing("kvm", format!("there is no {DEVICE}"), missing_mend(cpu, loaded))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let found = format!("{DEVICE} may not be opened by this user");
            Check::missing("kvm", found, permission_mend())
        }
        Err(error) => Check::missing("kvm", format!("{DEVICE} cannot be opened: {error}"), ""),
    }
}

/// What makes `/dev/kvm` appear: the node where the kernel has the device, else the module.
fn missing_mend(cpu: Virtualisation, loaded: bool) -> &'static str {
    match cpu {
        _ if loaded => {
            "sudo mknod -m 666 /dev/kvm c 10 232 (a container: start it with --device /dev/kvm)"
        }
        Virtualisation::Intel => "sudo modprobe kvm_intel",
        Virtualisation::Amd => "sudo modprobe kvm_amd",
        Virtualisation::None => {
            "switch on virtualisation in the firmware, or nesting in the host of this machine"
        }
    }
}

fn module(name: &str) -> bool {
    Path::new("/sys/module").join(name).exists()
}

fn kind(cpu: Virtualisation) -> Check {
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
        let found = match cpu {
            Virtualisation::Intel => "this CPU has Intel VT-x, but kvm_intel is not loaded",
            Virtualisation::Amd => "this CPU has AMD-V, but kvm_amd is not loaded",
            Virtualisation::None => "this CPU shows none, and no KVM module is loaded",
        };
        Check::limited(name, found, missing_mend(cpu, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_the_device_appear_depends_on_what_there_is() {
        assert_eq!(missing_mend(Virtualisation::Intel, false), "sudo modprobe kvm_intel");
        for cpu in [Virtualisation::Amd, Virtualisation::None] {
            assert!(missing_mend(cpu, true).contains("mknod"));
            assert!(!missing_mend(cpu, false).contains("mknod"));
        }
    }

    #[test]
    fn flags_are_whole_words() {
        assert_eq!(Virtualisation::of("flags\t\t: fpu vmx sse\n"), Virtualisation::Intel);
        assert_eq!(Virtualisation::of("flags\t\t: fpu svm\n"), Virtualisation::Amd);
        assert_eq!(Virtualisation::of("flags : svm_lock\nother: svm\n"), Virtualisation::None);
    }
}
