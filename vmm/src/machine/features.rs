//! CPU features by the names that `/proc/cpuinfo` gives them, so that a guest can be denied them.

use kvm_bindings::kvm_cpuid_entry2;

/// A register that CPUID answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// One register full of feature bits.
struct Word {
    leaf: u32,
    subleaf: u32,
    register: Register,
    /// Names, each with its bit.
    bits: &'static [(&'static str, u8)],
}

/// Feature bits as Intel SDM volume 2 (CPUID) and AMD APM volume 3 (appendix E) number them.
/// What KVM never offers to guests is left out, and so is what the machine itself cannot do
/// without (`apic`, `msr`, `lm` and the like).
const WORDS: [Word; 10] = [
    Word {
        leaf: 1,
        subleaf: 0,
        register: Register::Ecx,
        bits: &[
            ("pni", 0),
            ("pclmulqdq", 1),
            ("dtes64", 2),
            ("monitor", 3),
            ("vmx", 5),
            ("ssse3", 9),
            ("fma", 12),
            ("cx16", 13),
            ("pcid", 17),
            ("sse4_1", 19),
            ("sse4_2", 20),
            ("x2apic", 21),
            ("movbe", 22),
            ("popcnt", 23),
            ("tsc_deadline_timer", 24),
            ("aes", 25),
            ("xsave", 26),
            ("avx", 28),
            ("f16c", 29),
            ("rdrand", 30),
            ("hypervisor", 31),
        ],
    },
    Word {
        leaf: 1,
        subleaf: 0,
        register: Register::Edx,
        bits: &[
            ("vme", 1),
            ("de", 2),
            ("mce", 7),
            ("mtrr", 12),
            ("mca", 14),
            ("pat", 16),
            ("pse36", 17),
            ("clflush", 19),
            ("mmx", 23),
            ("ss", 27),
            ("ht", 28),
        ],
    },
    Word {
        leaf: 7,
        subleaf: 0,
        register: Register::Ebx,
        bits: &[
            ("fsgsbase", 0),
            ("tsc_adjust", 1),
            ("bmi1", 3),
            ("hle", 4),
            ("avx2", 5),
            ("smep", 7),
            ("bmi2", 8),
            ("erms", 9),
            ("invpcid", 10),
            ("rtm", 11),
            ("mpx", 14),
            ("avx512f", 16),
            ("avx512dq", 17),
            ("rdseed", 18),
            ("adx", 19),
            ("smap", 20),
            ("avx512ifma", 21),
            ("clflushopt", 23),
            ("clwb", 24),
            ("avx512pf", 26),
            ("avx512er", 27),
            ("avx512cd", 28),
            ("sha_ni", 29),
            ("avx512bw", 30),
            ("avx512vl", 31),
        ],
    },
    Word {
        leaf: 7,
        subleaf: 0,
        register: Register::Ecx,
        bits: &[
            ("avx512vbmi", 1),
            ("umip", 2),
            ("pku", 3),
            ("waitpkg", 5),
            ("avx512_vbmi2", 6),
            ("shstk", 7),
            ("gfni", 8),
            ("vaes", 9),
            ("vpclmulqdq", 10),
            ("avx512_vnni", 11),
            ("avx512_bitalg", 12),
            ("avx512_vpopcntdq", 14),
            ("la57", 16),
            ("rdpid", 22),
            ("bus_lock_detect", 24),
            ("cldemote", 25),
            ("movdiri", 27),
            ("movdir64b", 28),
            ("sgx_lc", 30),
        ],
    },
    Word {
        leaf: 7,
        subleaf: 0,
        register: Register::Edx,
        bits: &[
            ("avx512_4vnniw", 2),
            ("avx512_4fmaps", 3),
            ("fsrm", 4),
            ("avx512_vp2intersect", 8),
            ("md_clear", 10),
            ("serialize", 14),
            ("tsxldtrk", 16),
            ("ibt", 20),
            ("amx_bf16", 22),
            ("avx512_fp16", 23),
            ("amx_tile", 24),
            ("amx_int8", 25),
            ("flush_l1d", 28),
            ("arch_capabilities", 29),
        ],
    },
    Word {
        leaf: 7,
        subleaf: 1,
        register: Register::Eax,
        bits: &[
            ("avx_vnni", 4),
            ("avx512_bf16", 5),
            ("cmpccxadd", 7),
            ("fzrm", 10),
            ("fsrs", 11),
            ("fsrc", 12),
            ("amx_fp16", 21),
            ("avx_ifma", 23),
        ],
    },
    Word {
        leaf: 0xD,
        subleaf: 1,
        register: Register::Eax,
        bits: &[("xsaveopt", 0), ("xsavec", 1), ("xgetbv1", 2), ("xsaves", 3), ("xfd", 4)],
    },
    Word {
        leaf: 0x8000_0001,
        subleaf: 0,
        register: Register::Ecx,
        bits: &[
            ("lahf_lm", 0),
            ("cmp_legacy", 1),
            ("svm", 2),
            ("cr8_legacy", 4),
            ("abm", 5),
            ("sse4a", 6),
            ("misalignsse", 7),
            ("3dnowprefetch", 8),
            ("osvw", 9),
            ("xop", 11),
            ("fma4", 16),
            ("tbm", 21),
            ("topoext", 22),
            ("perfctr_core", 23),
        ],
    },
    Word {
        leaf: 0x8000_0001,
        subleaf: 0,
        register: Register::Edx,
        bits: &[("mmxext", 22), ("fxsr_opt", 25), ("pdpe1gb", 26), ("rdtscp", 27)],
    },
    Word {
        leaf: 0x8000_0008,
        subleaf: 0,
        register: Register::Ebx,
        bits: &[
            ("clzero", 0),
            ("xsaveerptr", 2),
            ("wbnoinvd", 9),
            ("ibpb", 12),
            ("ibrs", 14),
            ("stibp", 15),
            ("virt_ssbd", 25),
        ],
    },
];

/// A feature that can be hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Feature {
    leaf: u32,
    subleaf: u32,
    register: Register,
    bit: u8,
}

impl Feature {
    /// The feature of this name.
    pub(super) fn named(name: &str) -> Option<Feature> {
        WORDS.iter().find_map(|word| {
            let (_, bit) = word.bits.iter().find(|(known, _)| *known == name)?;
            let Word { leaf, subleaf, register, .. } = *word;
            Some(Feature { leaf, subleaf, register, bit: *bit })
        })
    }

    /// Clears the feature's bit.
    pub(super) fn hide_in(self, entries: &mut [kvm_cpuid_entry2]) {
        let of_leaf = |entry: &&mut kvm_cpuid_entry2| {
            entry.function == self.leaf && entry.index == self.subleaf
        };
        for entry in entries.iter_mut().filter(of_leaf) {
            let register = match self.register {
                Register::Eax => &mut entry.eax,
                Register::Ebx => &mut entry.ebx,
                Register::Ecx => &mut entry.ecx,
                Register::Edx => &mut entry.edx,
            };
            *register &= !(1 << self.bit);
        }
    }
}

/// Which features can be hidden, for whoever named another.
pub(crate) fn help() -> String {
    format!(
        "features have the names that /proc/cpuinfo gives them; these can be hidden: {}",
        names().collect::<Vec<_>>().join(" ")
    )
}

/// The names of all features that can be hidden.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    WORDS.iter().flat_map(|word| word.bits.iter().map(|(name, _)| *name))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_bits_are_unique() {
        let mut names = HashSet::new();
        for word in &WORDS {
            let mut bits = HashSet::new();
            for (name, bit) in word.bits {
                assert!(names.insert(*name), "{name} twice");
                assert!(*bit < 32 && bits.insert(*bit), "{name} on a taken bit");
            }
        }
    }

    #[test]
    fn only_the_named_bit_goes() {
        let mut entries = [
            kvm_cpuid_entry2 { function: 7, ebx: !0, ecx: !0, ..Default::default() },
            kvm_cpuid_entry2 { function: 7, index: 1, ebx: !0, ..Default::default() },
            kvm_cpuid_entry2 { function: 1, ebx: !0, ..Default::default() },
        ];
        let before = entries;
        Feature::named("avx2").expect("known").hide_in(&mut entries);
        assert_eq!(entries[0].ebx, !(1 << 5));
        assert_eq!(entries[0].ecx, before[0].ecx);
        assert_eq!(entries[1..], before[1..]);
    }

    #[test]
    fn nonsense_is_no_feature() {
        assert_eq!(Feature::named("avx9000"), None);
        assert_eq!(Feature::named(""), None);
        assert_eq!(Feature::named("AVX"), None);
    }
}
