//! Time, from the time-stamp counter, and waiting for it.
#![expect(unsafe_code, reason = "reading the counter and telling the hypervisor of a page")]

use core::arch::x86_64::_rdtsc;
use core::cell::UnsafeCell;

use super::{ports, power, ring0};

/// KVM's signature in CPUID leaf 0x40000000, as EBX, ECX and EDX.
const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
const KVM_FEATURES_LEAF: u32 = 0x4000_0001;
/// Feature bit: kvmclock through the register below.
const KVM_FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
/// CPUID leaf with the ratio of counter to crystal.
const TSC_LEAF: u32 = 0x15;
/// q35's ACPI timer, 24 bits at least, and its frequency.
const PM_TIMER: u16 = 0x608;
const PM_TIMER_HZ: u128 = 3_579_545;
const PM_TIMER_MASK: u32 = 0xFF_FFFF;
/// How long to compare the counter with the ACPI timer: 20 ms.
const CALIBRATION_TICKS: u32 = 71_591;

/// How counts become nanoseconds: shifted by `shift` (left if positive), times `multiplier` / 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    multiplier: u32,
    shift: i8,
}

impl Clock {
    /// Finds out how fast the counter runs. `None` if this machine has no clock known here.
    pub fn calibrate() -> Option<Clock> {
        let [leaves, signature @ ..] = ring0::cpuid(HYPERVISOR_LEAF);
        if signature == KVM_SIGNATURE
            && leaves >= KVM_FEATURES_LEAF
            && ring0::cpuid(KVM_FEATURES_LEAF)[0] & KVM_FEATURE_CLOCKSOURCE2 != 0
            && let Some(clock) = kvmclock()
        {
            return Some(clock);
        }
        if ring0::cpuid(0)[0] >= TSC_LEAF {
            let [denominator, numerator, crystal, _] = ring0::cpuid(TSC_LEAF).map(u64::from);
            if let Some(hertz @ 1..) = (crystal * numerator).checked_div(denominator) {
                return Clock::from_hertz(hertz);
            }
        }
        if power::is_q35() { acpi_timer() } else { None }
    }

    /// A clock of `hertz` counts a second.
    pub fn from_hertz(hertz: u64) -> Option<Clock> {
        let scale = (1_000_000_000u128 << 32).checked_div(u128::from(hertz))?;
        let shift = scale.checked_ilog2()?.saturating_sub(31);
        Some(Clock {
            multiplier: u32::try_from(scale >> shift).ok()?,
            shift: shift.try_into().ok()?,
        })
    }

    /// The length of `counts` in nanoseconds.
    pub fn nanoseconds(self, counts: u64) -> u64 {
        let distance = u32::from(self.shift.unsigned_abs());
        let shifted = if self.shift < 0 {
            u128::from(counts >> distance)
        } else {
            u128::from(counts) << distance
        };
        u64::try_from(shifted.saturating_mul(u128::from(self.multiplier)) >> 32).unwrap_or(u64::MAX)
    }
}

/// The time-stamp counter.
pub fn now() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and CR4.TSD is off.
    unsafe { _rdtsc() }
}

/// KVM's `pvclock_vcpu_time_info` (Linux, `Documentation/virt/kvm/x86/msr.rst`).
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct TimeInfo {
    version: u32,
    pad: u32,
    tsc_timestamp: u64,
    system_time: u64,
    multiplier: u32,
    shift: i8,
    flags: u8,
    pad2: [u8; 2],
}

struct TimePage(UnsafeCell<TimeInfo>);
// SAFETY: read by one processor, through volatile reads.
unsafe impl Sync for TimePage {}

static TIME: TimePage = TimePage(UnsafeCell::new(TimeInfo {
    version: 0,
    pad: 0,
    tsc_timestamp: 0,
    system_time: 0,
    multiplier: 0,
    shift: 0,
    flags: 0,
    pad2: [0; 2],
}));

/// Lets KVM fill its structure once and takes the counter's scale from it.
fn kvmclock() -> Option<Clock> {
    let page = TIME.0.get();
    // SAFETY: CPUID says that the register exists; KVM writes to `TIME` alone.
    unsafe { ring0::write_msr(MSR_KVM_SYSTEM_TIME_NEW, page.expose_provenance() as u64 | 1) };
    // KVM fills it before the guest goes on; other hypervisors that copy the interface may not.
    // SAFETY: `TIME` is valid; it changes behind the compiler's back, hence volatile.
    let info = unsafe { page.read_volatile() };
    // SAFETY: zero switches the updates off.
    unsafe { ring0::write_msr(MSR_KVM_SYSTEM_TIME_NEW, 0) };
    (info.version != 0 && info.multiplier != 0)
        .then_some(Clock { multiplier: info.multiplier, shift: info.shift })
}

/// Compares the counter with q35's ACPI timer.
fn acpi_timer() -> Option<Clock> {
    let ticks = || ports::read32(PM_TIMER) & PM_TIMER_MASK;
    let (start, begin) = (ticks(), now());
    // A timer that firmware did not enable reads as the same number for ever.
    for _ in 0..10_000_000u32 {
        let elapsed = ticks().wrapping_sub(start) & PM_TIMER_MASK;
        if elapsed >= CALIBRATION_TICKS {
            let counts = u128::from(now() - begin) * PM_TIMER_HZ / u128::from(elapsed);
            return Clock::from_hertz(u64::try_from(counts).ok()?);
        }
    }
    None
}
