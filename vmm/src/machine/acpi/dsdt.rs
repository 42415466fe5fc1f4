//! The DSDT: devices that cannot be discovered, and the ranges that PCI may use.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::{Description, OEM_ID, OEM_REVISION, OEM_TABLE_ID, below_4g};
use crate::machine::layout;

/// Bytes of a table's header.
const HEADER_LEN: u32 = 36;
/// `_STA` of a device that is there and works.
const PRESENT: u8 = 0xF;

/// The table.
pub(super) fn table(of: Description) -> Sdt {
    let mut aml = Vec::new();
    soft_off().to_aml_bytes(&mut aml);
    pci(of.pci_mmio64_start, &mut aml);
    ecam(&mut aml);
    serial(&mut aml);
    pvpanic(&mut aml);
    // Revision 2: integers have 64 bits.
    let mut table = Sdt::new(*b"DSDT", HEADER_LEN, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&aml);
    table
}

/// Adds a device on the system bus.
fn device(name: &str, objects: Vec<&dyn Aml>, aml: &mut Vec<u8>) {
    let device = Device::new(Path::new(name), objects);
    Scope::new(Path::new("_SB_"), vec![&device]).to_aml_bytes(aml);
}

/// `\_S5`: the sleep type that means off.
fn soft_off() -> Name {
    let kind = layout::SLEEP_TYPE_S5;
    Name::new(Path::new("_S5_"), &Package::new(vec![&kind, &kind, &0u8, &0u8]))
}

/// The PCI host bridge with its one bus and its windows. Devices interrupt by messages alone, so
/// there is no `_PRT`.
fn pci(mmio64_start: u64, aml: &mut Vec<u8>) {
    let mmio32 = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        const { below_4g(layout::PCI_MMIO32_START) },
        const { below_4g(layout::PCI_MMIO32_START + layout::PCI_MMIO32_LEN - 1) },
        None,
    );
    let mmio64 = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        mmio64_start,
        mmio64_start.saturating_add(layout::PCI_MMIO64_LEN - 1),
        None,
    );
    let bus = AddressSpace::new_bus_number(0u16, 0u16);
    let config = IO::new(layout::PORT_PCI, layout::PORT_PCI, 1, 8);
    let ports_below = AddressSpace::new_io(0u16, layout::PORT_PCI - 1, None);
    let ports_above = AddressSpace::new_io(layout::PORT_PCI + 8, u16::MAX, None);
    let resources =
        ResourceTemplate::new(vec![&bus, &config, &ports_below, &ports_above, &mmio32, &mmio64]);
    device(
        "PCI0",
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_SEG"), &0u8),
            &Name::new(Path::new("_BBN"), &0u8),
            // Memory accesses are cache-coherent.
            &Name::new(Path::new("_CCA"), &1u8),
            &Name::new(Path::new("_CRS"), &resources),
        ],
        aml,
    );
}

/// Keeps PCI configuration space from being used for anything else (PCI Firmware 3.3, 4.1.2).
fn ecam(aml: &mut Vec<u8>) {
    let range = Memory32Fixed::new(
        true,
        const { below_4g(layout::ECAM_START) },
        const { below_4g(layout::ECAM_LEN) },
    );
    device(
        "ECAM",
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&range])),
        ],
        aml,
    );
}

/// The first serial port.
fn serial(aml: &mut Vec<u8>) {
    let interrupt = Interrupt::new(true, true, false, false, layout::IRQ_COM1);
    let ports = IO::new(layout::PORT_COM1, layout::PORT_COM1, 1, 8);
    device(
        "COM1",
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_DDN"), &"COM1"),
            &Name::new(Path::new("_STA"), &PRESENT),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&interrupt, &ports])),
        ],
        aml,
    );
}

/// The panic notifier (QEMU, `docs/specs/pvpanic.rst`).
fn pvpanic(aml: &mut Vec<u8>) {
    let port = IO::new(layout::PORT_PVPANIC, layout::PORT_PVPANIC, 1, 1);
    device(
        "PEVT",
        vec![
            &Name::new(Path::new("_HID"), &"QEMU0001"),
            &Name::new(Path::new("_STA"), &PRESENT),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&port])),
        ],
        aml,
    );
}
