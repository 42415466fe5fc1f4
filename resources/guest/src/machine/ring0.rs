//! The few things that only CPL 0 may do, by way of an invalid opcode (`traps.s`).
#![expect(unsafe_code, reason = "a trapping instruction and its register convention")]

use core::arch::asm;

/// Tells a call from an invalid opcode that is an accident.
const MAGIC: u64 = 0x636F_686F_7274_0000;

/// Functions, by the numbers that `traps.s` knows.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Function {
    Halt = 0,
    WaitForInterrupt = 1,
    WriteMsr = 2,
    Cpuid = 3,
}

fn call(function: Function, first: u64, second: u64) -> [u32; 4] {
    let (a, b, c, d): (u64, u64, u64, u64);
    // SAFETY: the handler changes the registers named here and memory only as the function says.
    unsafe {
        asm!(
            "xchg rbx, {b}", "ud2", "xchg rbx, {b}",
            b = inout(reg) 0u64 => b,
            inout("rax") MAGIC + function as u64 => a,
            in("rdi") first, inout("rsi") second => c,
            out("rdx") d,
        );
    }
    #[expect(clippy::cast_possible_truncation, reason = "CPUID answers with 32 bits")]
    let answer = [a, b, c, d].map(|register| register as u32);
    answer
}

/// Halts this processor with interrupts off, for ever.
pub fn halt() -> ! {
    loop {
        call(Function::Halt, 0, 0);
    }
}

/// Halts this processor until an interrupt.
pub fn wait_for_interrupt() {
    call(Function::WaitForInterrupt, 0, 0);
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists (else the guest dies of an exception), and what the value makes the
/// processor or hypervisor do to memory is accounted for.
pub unsafe fn write_msr(register: u32, value: u64) {
    call(Function::WriteMsr, u64::from(register), value);
}

/// CPUID as the hypervisor answers it: a KVM that runs CPL 3 natively lets that see the host's
/// leaves. Returns EAX, EBX, ECX and EDX.
pub fn cpuid(leaf: u32) -> [u32; 4] {
    call(Function::Cpuid, u64::from(leaf), 0)
}
