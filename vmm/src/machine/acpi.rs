//! ACPI tables: what the guest's kernel learns about the machine (ACPI 6.5).
//!
//! The machine is hardware-reduced: no fixed power management registers, no SCI, no legacy timers.
//! A guest switches itself off through the sleep control register and resets itself through the
//! reset register.

mod dsdt;
#[cfg(test)]
mod tests;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use super::layout;

const OEM_ID: [u8; 6] = *b"COHORT";
const OEM_TABLE_ID: [u8; 8] = *b"COHORTVM";
const OEM_REVISION: u32 = 1;
/// The RSDP's place: the start of the tables. It takes less than this.
const RSDP_ROOM: usize = 64;
/// Tables start at multiples of this.
const ALIGNMENT: usize = 16;

/// `IAPC_BOOT_ARCH` (ACPI 6.5, 5.2.9.3): no VGA, no CMOS clock; and by the bits that are not set,
/// no i8042 to probe for (its reset command works all the same).
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;

/// What the tables tell of a machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Description {
    /// Processors; their APIC identifiers count from 0.
    pub(super) cpus: u8,
    /// Where the PCI memory window above 4 GiB starts.
    pub(super) pci_mmio64_start: u64,
}

/// All tables as they are to lie from [`layout::ACPI_TABLES`] on, RSDP first.
pub(super) fn tables(of: Description) -> Vec<u8> {
    let mut image = Image { bytes: vec![0; RSDP_ROOM] };
    let dsdt = image.add(&dsdt::table(of));
    let entries = [image.add(&fadt(dsdt)), image.add(&madt(of.cpus)), image.add(&mcfg())];
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for entry in entries {
        xsdt.add_entry(entry);
    }
    let xsdt = image.add(&xsdt);
    let rsdp = bytes_of(&Rsdp::new(OEM_ID, xsdt));
    image.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    image.bytes
}

/// Tables one behind the other.
struct Image {
    bytes: Vec<u8>,
}

impl Image {
    /// Adds a table and returns its guest-physical address.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let at = layout::ACPI_TABLES.0 + self.bytes.len() as u64;
        self.bytes.extend(bytes_of(table));
        at
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A constant of the layout as tables hold addresses below 4 GiB.
#[expect(clippy::cast_possible_truncation, reason = "asserted")]
const fn below_4g(address: u64) -> u32 {
    assert!(address <= u32::MAX as u64);
    address as u32
}

/// Fixed description table: how to switch off and how to reset.
fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let register =
        |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into());
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // No power and no sleep button among the fixed registers, which there are none of.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = register(layout::PORT_RESET);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.sleep_control_reg = register(layout::PORT_SLEEP_CONTROL);
    fadt.sleep_status_reg = register(layout::PORT_SLEEP_CONTROL + 1);
    fadt.finalize()
}

/// Interrupt controllers: a local APIC for each processor, and one I/O APIC.
fn madt(cpus: u8) -> MADT {
    let local = LocalInterruptController::Address(const { below_4g(layout::LAPIC) });
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, local);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, const { below_4g(layout::IOAPIC) }, 0));
    madt
}

/// Where PCI configuration space is.
fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM_START, 0, 0, 0);
    mcfg
}
