//! What the guest's processors say of themselves.
//!
//! A guest sees what KVM supports on this host, as one package of as many single-threaded cores
//! as it has virtual CPUs, and a hypervisor that is KVM.

#[cfg(test)]
mod tests;

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

use super::MachineError;
use super::features::Feature;

/// More entries than any KVM answers today (`KVM_MAX_CPUID_ENTRIES` of 2021 and later).
const ENTRIES_MAX: usize = 256;

/// Leaves, as Intel SDM volume 2 (CPUID), AMD APM volume 3 (appendix E) and, from `0x4000_0000`
/// on, Linux's `Documentation/virt/kvm/x86/cpuid.rst` define them.
mod leaf {
    pub(super) const HIGHEST: u32 = 0;
    pub(super) const FEATURES: u32 = 1;
    pub(super) const CACHES: u32 = 4;
    pub(super) const TOPOLOGY: u32 = 0xB;
    pub(super) const TOPOLOGY_V2: u32 = 0x1F;
    pub(super) const HYPERVISOR: u32 = 0x4000_0000;
    pub(super) const HYPERVISOR_TIMING: u32 = 0x4000_0010;
    pub(super) const AMD_FEATURES: u32 = 0x8000_0001;
    pub(super) const SIZES: u32 = 0x8000_0008;
    pub(super) const AMD_CACHES: u32 = 0x8000_001D;
    pub(super) const AMD_TOPOLOGY: u32 = 0x8000_001E;
}

/// Bits of [`leaf::FEATURES`].
const ECX_X2APIC: u32 = 1 << 21;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
/// Bit of [`leaf::AMD_FEATURES`]: the package has several cores.
const ECX_CMP_LEGACY: u32 = 1 << 1;

/// Level types of the topology leaves.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// What every processor of the machine answers, but for its own identity.
#[derive(Clone, Debug)]
pub(super) struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    cpus: u8,
}

impl Template {
    /// What KVM supports here, without the features in `mask`.
    pub(super) fn new(kvm: &Kvm, cpus: u8, mask: &[String]) -> Result<Template, MachineError> {
        let features = resolve(mask)?;
        let supported = kvm
            .get_supported_cpuid(ENTRIES_MAX)
            .map_err(MachineError::kvm("KVM_GET_SUPPORTED_CPUID"))?;
        let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        Ok(Template::shape(supported.as_slice().to_vec(), cpus, deadline, &features))
    }

    fn shape(
        mut entries: Vec<kvm_cpuid_entry2>,
        cpus: u8,
        deadline: bool,
        mask: &[Feature],
    ) -> Template {
        let amd = is_amd(&entries);
        let topology = entries.iter().any(|entry| entry.function == leaf::TOPOLOGY);
        // The topology leaves are written anew, one entry for each level.
        let written = [leaf::TOPOLOGY, leaf::TOPOLOGY_V2, leaf::HYPERVISOR_TIMING];
        entries.retain(|entry| !written.contains(&entry.function));
        let shared_by_all = u32::from(cpus) - 1;
        for entry in &mut entries {
            match entry.function {
                leaf::HIGHEST => {
                    if topology {
                        entry.eax = entry.eax.max(leaf::TOPOLOGY);
                    }
                    // A higher leaf than the last one there is answers as that one does.
                    if entry.eax >= leaf::TOPOLOGY_V2 && amd {
                        entry.eax = entry.eax.min(leaf::TOPOLOGY_V2 - 1);
                    }
                }
                leaf::FEATURES => {
                    entry.ebx = (entry.ebx & 0xFF00_FFFF) | u32::from(cpus) << 16;
                    entry.ecx |= ECX_HYPERVISOR | ECX_X2APIC;
                    set_bit(&mut entry.ecx, ECX_TSC_DEADLINE, deadline);
                    set_bit(&mut entry.edx, EDX_HTT, cpus > 1);
                }
                leaf::CACHES if entry.eax & 0x1F != 0 => {
                    let cores = u32::from(cpus).next_power_of_two() - 1;
                    let sharing = if cache_level(entry) >= 3 { cores } else { 0 };
                    entry.eax = (entry.eax & 0x3FFF) | cores.min(0x3F) << 26 | sharing << 14;
                }
                leaf::AMD_FEATURES if amd => {
                    set_bit(&mut entry.ecx, ECX_CMP_LEGACY, cpus > 1);
                }
                leaf::SIZES if amd => {
                    entry.ecx = (entry.ecx & !0xF0FF) | shared_by_all | core_bits(cpus) << 12;
                }
                leaf::AMD_CACHES if entry.eax & 0x1F != 0 => {
                    let sharing = if cache_level(entry) >= 3 { shared_by_all } else { 0 };
                    entry.eax = (entry.eax & !0x03FF_C000) | sharing << 14;
                }
                leaf::HYPERVISOR => entry.eax = leaf::HYPERVISOR_TIMING,
                _ => {}
            }
        }
        let highest = entries.iter().find(|entry| entry.function == leaf::HIGHEST);
        let highest = highest.map_or(0, |entry| entry.eax);
        for function in [leaf::TOPOLOGY, leaf::TOPOLOGY_V2] {
            if topology && function <= highest {
                entries.extend(topology_levels(function, cpus));
            }
        }
        for feature in mask {
            feature.hide_in(&mut entries);
        }
        Template { entries, cpus }
    }

    /// Bits of a guest-physical address, 36 when the host does not say.
    pub(super) fn address_bits(&self) -> u8 {
        let sizes = self.entries.iter().find(|entry| entry.function == leaf::SIZES);
        sizes.map_or(36, |entry| entry.eax.to_le_bytes()[0])
    }

    /// Tells a processor who it is.
    pub(super) fn apply(&self, vcpu: &VcpuFd, cpu: u8) -> Result<(), MachineError> {
        let mut entries = self.for_cpu(cpu);
        if let Ok(khz) = vcpu.get_tsc_khz() {
            entries.push(kvm_cpuid_entry2 {
                function: leaf::HYPERVISOR_TIMING,
                eax: khz,
                // KVM's local APIC timer counts nanoseconds.
                ebx: 1_000_000,
                ..Default::default()
            });
        }
        let too_many = |_| MachineError::Kvm {
            step: "KVM_SET_CPUID2",
            source: std::io::ErrorKind::InvalidInput.into(),
        };
        let cpuid = CpuId::from_entries(&entries).map_err(too_many)?;
        vcpu.set_cpuid2(&cpuid).map_err(MachineError::kvm("KVM_SET_CPUID2"))
    }

    /// The entries of one processor. Its APIC identifier is its number.
    fn for_cpu(&self, cpu: u8) -> Vec<kvm_cpuid_entry2> {
        let mut entries = self.entries.clone();
        let id = u32::from(cpu);
        for entry in &mut entries {
            match entry.function {
                leaf::FEATURES => entry.ebx = (entry.ebx & 0x00FF_FFFF) | id << 24,
                leaf::TOPOLOGY | leaf::TOPOLOGY_V2 => entry.edx = id,
                leaf::AMD_TOPOLOGY => {
                    // One thread a core, one node.
                    (entry.eax, entry.ebx, entry.ecx) = (id, id, 0);
                }
                _ => {}
            }
        }
        entries
    }

    /// How many processors the machine has.
    pub(super) fn cpus(&self) -> u8 {
        self.cpus
    }
}

/// The features of these names, or an error that lists the names that are none.
fn resolve(mask: &[String]) -> Result<Vec<Feature>, MachineError> {
    let (known, unknown): (Vec<_>, Vec<_>) =
        mask.iter().map(|name| (name, Feature::named(name))).partition(|(_, f)| f.is_some());
    if unknown.is_empty() {
        Ok(known.into_iter().filter_map(|(_, feature)| feature).collect())
    } else {
        let names = unknown.into_iter().map(|(name, _)| format!("`{name}`"));
        Err(MachineError::UnknownFeatures(names.collect()))
    }
}

/// The levels of a topology leaf: one thread to a core, all cores in one package, the end.
fn topology_levels(function: u32, cpus: u8) -> [kvm_cpuid_entry2; 3] {
    let level = |index, shift, count: u32, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        ..Default::default()
    };
    [
        level(0, 0, 1, LEVEL_THREAD),
        level(1, core_bits(cpus), cpus.into(), LEVEL_CORE),
        level(2, 0, 0, 0),
    ]
}

/// Bits of an APIC identifier that tell cores apart.
fn core_bits(cpus: u8) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

fn cache_level(entry: &kvm_cpuid_entry2) -> u32 {
    (entry.eax >> 5) & 7
}

/// Whether the vendor is AMD, or Hygon, which follows AMD.
fn is_amd(entries: &[kvm_cpuid_entry2]) -> bool {
    let vendor = entries.iter().find(|entry| entry.function == leaf::HIGHEST).map(|entry| {
        let mut name = [0; 12];
        for (bytes, word) in name.chunks_exact_mut(4).zip([entry.ebx, entry.edx, entry.ecx]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        name
    });
    matches!(vendor.as_ref(), Some(b"AuthenticAMD" | b"HygonGenuine"))
}

fn set_bit(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}
