//! Where things are: guest-physical addresses and I/O ports of the machine.

use vm_memory::GuestAddress;

/// Smallest guest memory that any boot protocol here can use.
pub const MEMORY_MIN: u64 = 2 << 20;
/// Guest memory grows from 0 up to here, then goes on at [`HIGH_RAM_START`].
pub const LOW_RAM_END: u64 = 0xC000_0000;
/// Guest memory that does not fit below [`LOW_RAM_END`] goes on from here.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// Global descriptor table of the 64-bit entry.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// `hvm_start_info` of the PVH entry, its memory map and module list behind it, one page.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);
/// `boot_params` of the Linux 64-bit entry, one page.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Page tables of the 64-bit entry (PML4, PDPT, four PDs: identity map of the first 4 GiB).
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// Kernel command line.
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// Longest command line, its closing NUL included.
pub const CMDLINE_MAX: u64 = 0x1_0000;
/// End of the RAM that a PC has below 1 MiB.
pub const LEGACY_RAM_END: u64 = 0xA_0000;
/// ACPI tables, RSDP first; reserved up to 1 MiB.
pub const ACPI_TABLES: GuestAddress = GuestAddress(0xE_0000);
/// RAM above the legacy area: kernels load from here on.
pub const KERNEL_START: GuestAddress = GuestAddress(0x10_0000);

/// PCI memory window below 4 GiB.
pub const PCI_MMIO32_START: u64 = 0xC000_0000;
/// Length of the PCI memory window below 4 GiB.
pub const PCI_MMIO32_LEN: u64 = 0x2000_0000;
/// PCI configuration space, memory-mapped (ECAM), one bus.
pub const ECAM_START: u64 = 0xE000_0000;
/// Length of the ECAM range: bus 0 alone.
pub const ECAM_LEN: u64 = 0x10_0000;
/// I/O APIC.
pub const IOAPIC: u64 = 0xFEC0_0000;
/// Local APIC.
pub const LAPIC: u64 = 0xFEE0_0000;
/// Three pages that KVM on Intel needs for real mode.
pub const KVM_TSS: u64 = 0xFFFB_D000;
/// The identity-map page that KVM on Intel needs.
pub const KVM_IDENTITY_MAP: u64 = 0xFFFB_C000;

/// i8042 command port; 0xFE written here asks for a reset.
pub const PORT_I8042: u16 = 0x64;
/// Exit register, 32 bits: the guest's program ended with the low 8 bits as status. Same place
/// as QEMU's `isa-debug-exit`.
pub const PORT_EXIT: u16 = 0xF4;
/// First serial port.
pub const PORT_COM1: u16 = 0x3F8;
/// Interrupt of the first serial port.
pub const IRQ_COM1: u32 = 4;
/// pvpanic event port.
pub const PORT_PVPANIC: u16 = 0x505;
/// ACPI sleep control register; the sleep status register follows it.
pub const PORT_SLEEP_CONTROL: u16 = 0x600;
/// ACPI reset register.
pub const PORT_RESET: u16 = 0x602;
/// What to write to [`PORT_RESET`].
pub const RESET_VALUE: u8 = 1;
/// The `SLP_TYP` value that `\_S5` names: off.
pub const SLEEP_TYPE_S5: u8 = 5;
/// PCI configuration address and data ports; a byte at 0xCF9 is the reset control register.
pub const PORT_PCI: u16 = 0xCF8;
/// Most virtual CPUs of a machine.
pub const CPUS_MAX: usize = 64;
/// Length of the PCI memory window above RAM and above 4 GiB; it starts at a multiple of this.
pub const PCI_MMIO64_LEN: u64 = 16 << 30;
/// Pins of the I/O APIC, which are the first interrupts of the machine.
pub const IOAPIC_PINS: u32 = 24;
