//! The host's KVM: opened, examined, asked for a virtual machine.

use std::io;
use std::path::Path;
use std::sync::Arc;

use kvm_ioctls::{Cap, Kvm, VmFd};

use super::MachineError;
use super::layout;

/// The version of the KVM interface that every kernel since 2007 speaks.
const API_VERSION: i32 = 12;

/// What the machine cannot do without, by the names KVM's documentation uses.
const NEEDED: [(Cap, &str); 8] = [
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
