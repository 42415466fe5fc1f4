//! What is said of a guest that cannot go on.

#[cfg(test)]
mod tests;

use std::fmt::Write;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
};

use super::ending::End;
use super::kvm::is_kvm_pvm;

/// Set in the first word of an emulation failure's data when the instruction's bytes follow.
const FLAG_INSTRUCTION_BYTES: u64 = 1;
/// Longest instruction of the architecture.
const INSTRUCTION_MAX: usize = 15;
/// Where a processor starts after a reset: where AMD's KVM leaves one that shut down.
const RESET_RIP: u64 = 0xFFF0;

/// The end of a guest whose processor shut down.
pub(super) fn triple_fault(cpu: u8, rip: Option<u64>) -> End {
    let place = rip.filter(|rip| *rip != RESET_RIP).map(|rip| format!(" at {rip:#x}"));
    let detail = format!("triple fault on virtual CPU {cpu}{}", place.unwrap_or_default());
    End::Crash { detail, help: None }
}

/// The end of a guest whose processor KVM gave up on, with `data` as KVM's `internal` exit has
/// it (Linux, `Documentation/virt/kvm/api.rst`, `KVM_EXIT_INTERNAL_ERROR`).
pub(super) fn internal_error(cpu: u8, suberror: u32, data: &[u64], rip: Option<u64>) -> End {
    let what = match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "KVM cannot emulate an instruction",
        KVM_INTERNAL_ERROR_SIMUL_EX => "simultaneous exceptions",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an event could not be delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "unexpected exit from the guest",
        _ => "unknown reason",
    };
    let mut detail = format!("internal error of virtual CPU {cpu}: {what} (suberror {suberror})");
    // Writing to a string does not fail.
    if let Some(rip) = rip {
        let _ = write!(detail, " at {rip:#x}");
    }
    let bytes = (suberror == KVM_INTERNAL_ERROR_EMULATION).then(|| instruction(data)).flatten();
    if let Some(bytes) = bytes {
        detail.push_str(", instruction bytes");
        for byte in bytes {
            let _ = write!(detail, " {byte:02x}");
        }
    }
    End::Crash { detail, help: is_kvm_pvm().then(kvm_pvm_help) }
}

/// The bytes of the instruction that could not be emulated, if KVM fetched any.
fn instruction(data: &[u64]) -> Option<Vec<u8>> {
    let (flags, rest) = data.split_first()?;
    if flags & FLAG_INSTRUCTION_BYTES == 0 {
        return None;
    }
    let mut bytes = rest.iter().flat_map(|word| word.to_le_bytes());
    let len = usize::from(bytes.next()?).min(INSTRUCTION_MAX);
    let bytes: Vec<u8> = bytes.take(len).collect();
    (!bytes.is_empty()).then_some(bytes)
}

fn kvm_pvm_help() -> String {
    "/dev/kvm here is kvm-pvm, a software KVM that lacks instructions which stock kernels use; \
     the built-in guest runs on it, and `cargo xtask nested -- run …` runs others in a nested \
     machine that has hardware KVM"
        .into()
}
