use proptest::prelude::*;

use super::*;

fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, index, ..Default::default() }
}

/// A processor as KVM might describe it, every bit set that is to be shaped.
fn supported(vendor: &[u8; 12]) -> Vec<kvm_cpuid_entry2> {
    let word = |at: usize| u32::from_le_bytes(vendor[at..at + 4].try_into().expect("four bytes"));
    vec![
        kvm_cpuid_entry2 { eax: 0x20, ebx: word(0), edx: word(4), ecx: word(8), ..entry(0, 0) },
        kvm_cpuid_entry2 { ebx: 0xFFFF_0800, ecx: 0, edx: !0, ..entry(1, 0) },
        kvm_cpuid_entry2 { eax: 0xFFFF_C000 | 1 | 1 << 5, ..entry(4, 0) },
        kvm_cpuid_entry2 { eax: 0xFFFF_C000 | 3 | 3 << 5, ..entry(4, 3) },
        kvm_cpuid_entry2 { ecx: 0x1234, ..entry(0xB, 0) },
        kvm_cpuid_entry2 { eax: 0x4000_0001, ..entry(0x4000_0000, 0) },
        kvm_cpuid_entry2 { ecx: !0, ..entry(0x8000_0001, 0) },
        kvm_cpuid_entry2 { eax: 0x3030, ecx: 0xFFFF, ..entry(0x8000_0008, 0) },
        kvm_cpuid_entry2 { eax: !0x1C0 | 3 << 5, ..entry(0x8000_001D, 3) },
        entry(0x8000_001E, 0),
    ]
}

fn template(vendor: &[u8; 12], cpus: u8) -> Template {
    Template::shape(supported(vendor), cpus, true, &[])
}

fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    *entries.iter().find(|e| e.function == function && e.index == index).expect("an entry")
}

proptest! {
    /// What Linux computes from the topology leaves must be what the machine has.
    #[test]
    fn topology_agrees_in_every_leaf(cpus in 1u8..=64, cpu in 0u8..64) {
        let cpu = cpu % cpus;
        let entries = template(b"AuthenticAMD", cpus).for_cpu(cpu);
        let features = find(&entries, 1, 0);
        prop_assert_eq!(features.ebx >> 24, u32::from(cpu));
        prop_assert_eq!((features.ebx >> 16) & 0xFF, u32::from(cpus));
        prop_assert_eq!(features.edx & EDX_HTT != 0, cpus > 1);
        let core = find(&entries, 0xB, 1);
        prop_assert_eq!(core.edx, u32::from(cpu));
        prop_assert_eq!(core.ebx, u32::from(cpus));
        // All processors are in package 0, and no two share a core.
        prop_assert_eq!(u32::from(cpu) >> core.eax, 0);
        prop_assert_eq!(find(&entries, 0xB, 0).eax, 0);
        let sizes = find(&entries, 0x8000_0008, 0);
        prop_assert_eq!((sizes.ecx & 0xFF) + 1, u32::from(cpus));
        prop_assert_eq!((sizes.ecx >> 12) & 0xF, core.eax);
        prop_assert_eq!(find(&entries, 0x8000_001E, 0).eax, u32::from(cpu));
        prop_assert_eq!((find(&entries, 0x8000_001D, 3).eax >> 14) & 0xFFF, u32::from(cpus) - 1);
        let private = find(&entries, 4, 0);
        prop_assert_eq!((private.eax >> 14) & 0xFFF, 0);
        let shared = find(&entries, 4, 3);
        prop_assert!((shared.eax >> 14) & 0xFFF >= u32::from(cpus) - 1);
    }
}

#[test]
fn the_hypervisor_shows_itself() {
    let entries = template(b"GenuineIntel", 1).for_cpu(0);
    let features = find(&entries, 1, 0);
    let wanted = ECX_HYPERVISOR | ECX_X2APIC | ECX_TSC_DEADLINE;
    assert_eq!(features.ecx & wanted, wanted);
    assert_eq!(find(&entries, 0x4000_0000, 0).eax, 0x4000_0010);
}

#[test]
fn intel_has_the_second_topology_leaf_and_amd_does_not() {
    let intel = template(b"GenuineIntel", 4).for_cpu(3);
    assert_eq!(find(&intel, 0x1F, 1).ebx, 4);
    assert_eq!(find(&intel, 0x8000_0008, 0).ecx, 0xFFFF, "not Intel's to say");
    let amd = template(b"AuthenticAMD", 4).for_cpu(3);
    assert!(amd.iter().all(|entry| entry.function != 0x1F));
    assert!(find(&amd, 0, 0).eax < 0x1F);
}

#[test]
fn a_mask_hides_and_unknown_names_are_listed() {
    let mask = ["x2apic".to_owned(), "ht".to_owned()];
    let features = resolve(&mask).expect("known");
    let entries = Template::shape(supported(b"GenuineIntel"), 4, true, &features).for_cpu(0);
    assert_eq!(find(&entries, 1, 0).ecx & ECX_X2APIC, 0);
    assert_eq!(find(&entries, 1, 0).edx & EDX_HTT, 0);

    let mask = ["avx2", "avx9000", "sse17"].map(str::to_owned);
    let error = resolve(&mask).expect_err("two are unknown");
    assert_eq!(error.to_string(), "unknown CPU features to hide: `avx9000`, `sse17`");
    assert!(error.help().is_some_and(|help| help.contains("avx512f")));
}

#[test]
fn address_bits_come_from_the_host() {
    assert_eq!(template(b"AuthenticAMD", 1).address_bits(), 0x30);
    let bare = Template::shape(vec![entry(0, 0)], 1, false, &[]);
    assert_eq!(bare.address_bits(), 36);
}
