use super::*;

fn help(error: MachineError) -> String {
    error.help().unwrap_or_default()
}

#[test]
fn a_missing_kvm_is_told_from_a_forbidden_one() {
    let missing = help(MachineError::Open(io::ErrorKind::NotFound.into()));
    assert!(missing.contains("modprobe kvm_intel"), "{missing}");
    let forbidden = help(MachineError::Open(io::ErrorKind::PermissionDenied.into()));
    assert_eq!(forbidden, crate::machine::permission_mend());
    let other = help(MachineError::Open(io::ErrorKind::Other.into()));
    assert!(other.contains("cohort doctor"), "{other}");
}

#[test]
fn errors_whose_remedy_is_known_name_it() {
    assert!(help(MachineError::MemoryTooSmall(1)).contains("-m 64M"));
    assert!(help(MachineError::Capability("KVM_CAP_IRQFD")).contains("kernel"));
    let source = io::Error::from_raw_os_error(libc::EFAULT);
    assert!(help(MachineError::Run { cpu: 0, source }).contains("renaming"));
    let source = io::Error::from_raw_os_error(libc::EINVAL);
    assert!(help(MachineError::Run { cpu: 0, source }).is_empty());
}

/// Messages follow one form: no capital at the start, no full stop at the end, and no cause,
/// which whoever prints them adds.
#[test]
fn messages_have_one_form() {
    let host = || io::Error::from_raw_os_error(libc::ENOMEM);
    for error in [
        MachineError::Open(host()),
        MachineError::Version(11),
        MachineError::Capability("KVM_CAP_IRQFD"),
        MachineError::Kvm { step: "KVM_CREATE_VM", source: host() },
        MachineError::MemoryTooLarge { memory: 1 << 50, bits: 40 },
        MachineError::Cpus { cpus: 65, most: 64 },
        MachineError::Host { what: "an eventfd", source: host() },
        MachineError::Run { cpu: 1, source: host() },
    ] {
        let text = error.to_string();
        assert!(!text.ends_with('.'), "{text}");
        assert!(!text.contains("memory (os error"), "{text}");
    }
}
