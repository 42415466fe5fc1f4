//! The host's KVM: opened, examined, asked for a virtual machine.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use kvm_ioctls::{Cap, Kvm, VmFd};

use super::MachineError;
use super::layout;

/// The version of the KVM interface that every kernel since 2007 speaks.
const API_VERSION: i32 = 12;

/// What the machine cannot do without, by the names KVM's documentation uses.
pub const NEEDED: [(Cap, &str); 8] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::IoeventfdNoLength, "KVM_CAP_IOEVENTFD_NO_LENGTH"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
];

/// Whether `/dev/kvm` is kvm-pvm, which emulates what guests do at CPL 0 and lacks instructions
/// that stock Linux kernels use there.
pub fn is_kvm_pvm() -> bool {
    Path::new("/sys/module/kvm_pvm").exists()
}

/// What lets this user open `/dev/kvm`, which is there: a command, and what to do after it.
pub fn permission_mend() -> String {
    let device = fs::metadata("/dev/kvm");
    let (mode, group) = device.map_or((0, 0), |device| (device.mode(), device.gid()));
    mend(mode, group, &fs::read_to_string("/etc/group").unwrap_or_default())
}

/// Joining the device's group helps if the group may open it; root's is no group to join.
fn mend(mode: u32, group: u32, groups: &str) -> String {
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(group)).then_some(name)
    });
    match name {
        Some(name) if group != 0 && mode & 0o060 == 0o060 => {
            format!("sudo usermod -aG {name} $USER (then log in again)")
        }
        _ => "sudo chown $USER /dev/kvm (until the next boot)".into(),
    }
}

/// A virtual machine with interrupt controllers, and neither memory nor processors.
pub(super) struct Hypervisor {
    pub(super) kvm: Kvm,
    pub(super) vm: Arc<VmFd>,
}

impl Hypervisor {
    pub(super) fn open() -> Result<Hypervisor, MachineError> {
        let kvm = Kvm::new().map_err(|error| MachineError::Open(error.into()))?;
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(MachineError::Version(version));
        }
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(MachineError::Capability(name));
        }
        let vm = create_vm(&kvm)?;
        // Intel processors without unrestricted guest mode need these; others ignore them.
        vm.set_tss_address(KVM_TSS).map_err(MachineError::kvm("KVM_SET_TSS_ADDR"))?;
        vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
            .map_err(MachineError::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.create_irq_chip().map_err(MachineError::kvm("KVM_CREATE_IRQCHIP"))?;
        Ok(Hypervisor { kvm, vm: Arc::new(vm) })
    }

    /// Most virtual CPUs a machine of ours can have on this host.
    pub(super) fn cpus_max(&self) -> usize {
        self.kvm.get_max_vcpus().min(layout::CPUS_MAX)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an address below 4 GiB")]
const KVM_TSS: usize = layout::KVM_TSS as usize;

/// Creates the virtual machine; a signal that comes in between is no reason not to.
fn create_vm(kvm: &Kvm) -> Result<VmFd, MachineError> {
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => {
                let source = io::Error::from(error);
                return Err(MachineError::Kvm { step: "KVM_CREATE_VM", source });
            }
            Ok(vm) => return Ok(vm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mend;

    #[test]
    fn joining_a_group_is_proposed_where_that_helps() {
        let groups = "root:x:0:\nvideo:x:44:\nvirt:x:108:someone\n";
        let join = "sudo usermod -aG virt $USER (then log in again)";
        assert_eq!(mend(0o020_660, 108, groups), join);
        for (mode, group) in [(0o020_600, 108), (0o020_660, 0), (0o020_660, 109)] {
            assert!(mend(mode, group, groups).starts_with("sudo chown $USER /dev/kvm"));
        }
    }
}
