//! What the boot protocols tell the guest: command line and memory map.
#![forbid(unsafe_code)]

/// Boot protocols, by the numbers that `entry.s` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// PVH: the block is an `hvm_start_info` (Xen, `public/arch-x86/hvm/start_info.h`).
    Pvh,
    /// Linux's 64-bit entry: the block is a `boot_params` (`Documentation/arch/x86/boot.rst`).
    Linux,
}

/// Longest command line that is looked at, in bytes.
pub const COMMAND_LINE_MAX: usize = 64 << 10;

/// Memory type of usable RAM, in E820 maps and in PVH's.
const TYPE_RAM: u32 = 1;
const PVH_MAGIC: u32 = 0x336e_c578;

/// What the guest wants to know of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootInfo<'m> {
    /// The command line without its closing NUL.
    pub command_line: &'m [u8],
    /// Where free RAM ends that starts at the guest image's own memory. Guest-physical.
    pub ram_end: u64,
}

/// Why the guest cannot go on with what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// There is no memory at the address of a structure.
    Unreadable {
        /// Which structure.
        what: &'static str,
        /// Where it should be.
        address: u64,
    },
    /// The PVH block does not start with its magic number.
    Magic(u32),
    /// No range of RAM in the map holds the guest's own image.
    NoMemory,
}

impl core::fmt::Display for BootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            BootError::Unreadable { what, address } => {
                write!(f, "boot protocol: no {what} can be at {address:#x}")
            }
            BootError::Magic(found) => {
                write!(f, "boot protocol: hvm_start_info has magic {found:#x}, not {PVH_MAGIC:#x}")
            }
            BootError::NoMemory => {
                f.write_str("boot protocol: the memory map has no RAM where this guest was loaded")
            }
        }
    }
}

/// Reads `len` bytes of guest-physical memory.
pub type ReadMemory<'f, 'm> = &'f dyn Fn(u64, usize) -> Option<&'m [u8]>;

/// Reads the block at `address`; `image_end` is where the guest's image ends in memory.
pub fn read<'m>(
    protocol: Protocol,
    address: u64,
    image_end: u64,
    memory: ReadMemory<'_, 'm>,
) -> Result<BootInfo<'m>, BootError> {
    let get =
        |what, address, len| memory(address, len).ok_or(BootError::Unreadable { what, address });
    let (command_line, map, stride) = match protocol {
        Protocol::Pvh => {
            let info = get("hvm_start_info", address, 56)?;
            if u32_at(info, 0) != PVH_MAGIC {
                return Err(BootError::Magic(u32_at(info, 0)));
            }
            // Version 0 ends before the memory map.
            let entries = if u32_at(info, 4) >= 1 { u32_at(info, 48).min(128) } else { 0 };
            let map = get("memory map", u64_at(info, 40), entries as usize * 24)?;
            (u64_at(info, 24), map, 24)
        }
        Protocol::Linux => {
            let params = get("boot_params", address, 4096)?;
            let entries = usize::from(params.get(0x1e8).copied().unwrap_or(0)).min(128);
            let map = params.get(0x2d0..0x2d0 + entries * 20).unwrap_or_default();
            let low = u64::from(u32_at(params, 0x228));
            (low | u64::from(u32_at(params, 0xc8)) << 32, map, 20)
        }
    };
    let ram_end = map
        .chunks_exact(stride)
        .filter(|entry| u32_at(entry, 16) == TYPE_RAM)
        .map(|entry| (u64_at(entry, 0), u64_at(entry, 0).saturating_add(u64_at(entry, 8))))
        .find(|(start, end)| (*start..*end).contains(&image_end))
        .map(|(_, end)| end)
        .ok_or(BootError::NoMemory)?;
    let command_line = match command_line {
        0 => &[][..],
        address => until_nul(address, memory)
            .ok_or(BootError::Unreadable { what: "command line", address })?,
    };
    Ok(BootInfo { command_line, ram_end })
}

/// The bytes from `address` up to a NUL or [`COMMAND_LINE_MAX`], looking at no page behind.
fn until_nul<'m>(address: u64, memory: ReadMemory<'_, 'm>) -> Option<&'m [u8]> {
    let len = (0..COMMAND_LINE_MAX)
        .find(|at| memory(address + *at as u64, 1).is_none_or(|byte| byte == [0]))
        .unwrap_or(COMMAND_LINE_MAX);
    memory(address, len)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
