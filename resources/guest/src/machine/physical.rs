//! Guest-physical memory, which the page tables map to the same addresses.
#![expect(unsafe_code, reason = "memory is reached by its address")]

use core::arch::asm;

/// An address that no page table here ever maps.
const UNMAPPED: u64 = 1 << 46;

/// What the page tables of `entry.s` map from the start.
pub const MAPPED: u64 = 1 << 32;

/// `len` bytes of memory at `address`, or `None` where nothing is mapped.
///
/// # Safety
/// The caller runs on the page tables of `entry.s`, and nothing writes this memory from now on.
pub unsafe fn bytes(address: u64, len: usize) -> Option<&'static [u8]> {
    let end = address.checked_add(len as u64)?;
    if len == 0 {
        return Some(&[]);
    }
    if address == 0 || end > MAPPED {
        return None;
    }
    let start = core::ptr::with_exposed_provenance(usize::try_from(address).ok()?);
    // SAFETY: mapped, not null, and constant by the caller's promise.
    Some(unsafe { core::slice::from_raw_parts(start, len) })
}

/// Reads where nothing is mapped: a page fault.
pub fn fault() {
    // SAFETY: the read has no effect but its exception, which ends the guest.
    let _ = unsafe { Registers::new(UNMAPPED, 1) }.read8(0);
}

/// The lower and the upper 32 bits.
pub fn halves(value: u64) -> [u32; 2] {
    #[expect(clippy::cast_possible_truncation, reason = "cutting is the purpose")]
    [value as u32, (value >> 32) as u32]
}

/// Device registers in memory. Each access is one `mov`, which every hypervisor can emulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    base: u64,
    len: u64,
}

macro_rules! accessors {
    ($read:ident, $write:ident, $type:ty, $class:ident, $template:literal) => {
        #[doc = concat!("Reads a `", stringify!($type), "` at `offset`; all ones outside.")]
        pub fn $read(self, offset: u64) -> $type {
            let Some(address) = self.address(offset, size_of::<$type>() as u64) else {
                return <$type>::MAX;
            };
            let value;
            // SAFETY: inside the range that `new` was promised.
            unsafe {
                asm!(concat!("mov {value", $template, "}, [{address}]"),
                    value = out($class) value, address = in(reg) address, options(nostack))
            };
            value
        }

        #[doc = concat!("Writes a `", stringify!($type), "` at `offset`; nothing outside.")]
        pub fn $write(self, offset: u64, value: $type) {
            if let Some(address) = self.address(offset, size_of::<$type>() as u64) {
                // SAFETY: inside the range that `new` was promised.
                unsafe {
                    asm!(concat!("mov [{address}], {value", $template, "}"),
                        value = in($class) value, address = in(reg) address, options(nostack))
                }
            }
        }
    };
}

impl Registers {
    /// The registers at `base`.
    ///
    /// # Safety
    /// The page tables map the range, and what a write to it makes a device do to memory is
    /// accounted for by whoever writes.
    pub unsafe fn new(base: u64, len: u64) -> Registers {
        Registers { base, len }
    }

    /// Length of the range in bytes.
    #[expect(clippy::len_without_is_empty, reason = "never asked")]
    pub fn len(self) -> u64 {
        self.len
    }

    accessors!(read8, write8, u8, reg_byte, "");
    accessors!(read16, write16, u16, reg, ":x");
    accessors!(read32, write32, u32, reg, ":e");
    accessors!(read64, write64, u64, reg, ":r");

    /// Writes 64 bits at `offset` as two times 32, the lower ones first.
    pub fn write64_halves(self, offset: u64, value: u64) {
        let [low, high] = halves(value);
        self.write32(offset, low);
        self.write32(offset.saturating_add(4), high);
    }

    fn address(self, offset: u64, len: u64) -> Option<u64> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| self.base.checked_add(offset))?
    }
}
