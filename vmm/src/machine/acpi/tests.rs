use super::*;

fn image(cpus: u8) -> Vec<u8> {
    tables(Description { cpus, pci_mmio64_start: 16 << 30 })
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

/// The table at a guest-physical address, its length and checksum verified.
fn table(image: &[u8], address: u64) -> &[u8] {
    let start = usize::try_from(address - layout::ACPI_TABLES.0).expect("in the image");
    let len = usize::try_from(half(image, start + 4)).expect("small");
    let table = &image[start..start + len];
    assert_eq!(sum(table), 0, "checksum of {:?}", std::str::from_utf8(&table[..4]));
    table
}

/// Follows the tables from the RSDP, as a guest does.
fn walk(image: &[u8]) -> Vec<&[u8]> {
    assert_eq!(&image[..8], b"RSD PTR ");
    assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
    let xsdt = table(image, word(image, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let entries = xsdt[36..].chunks_exact(8).map(|entry| word(entry, 0));
    let mut found: Vec<_> = entries.map(|address| table(image, address)).collect();
    let dsdt = table(image, word(found[0], 140));
    found.push(dsdt);
    found
}

#[test]
fn tables_are_linked_and_their_checksums_right() {
    for cpus in [1, 2, 64] {
        let image = image(cpus);
        let names: Vec<_> = walk(&image).iter().map(|t| t[..4].to_vec()).collect();
        assert_eq!(names, [b"FACP", b"APIC", b"MCFG", b"DSDT"].map(|name| name.to_vec()));
        let room = layout::KERNEL_START.0 - layout::ACPI_TABLES.0;
        assert!((image.len() as u64) < room / 2, "{} bytes", image.len());
    }
}

#[test]
fn the_fadt_is_hardware_reduced_and_can_reset_and_switch_off() {
    let image = image(1);
    let fadt = walk(&image)[0];
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    let flags = half(fadt, 112);
    assert_eq!(flags & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10);
    // Generic addresses: system I/O, eight bits, the port.
    for (at, port) in [(116, 0x602), (244, 0x600), (256, 0x601)] {
        assert_eq!(fadt[at..at + 4], [1, 8, 0, 1]);
        assert_eq!(word(fadt, at + 4), port);
    }
    assert_eq!(fadt[128], layout::RESET_VALUE);
    assert_eq!(half(fadt, 40), 0, "the 32-bit DSDT address gives way to the 64-bit one");
}

#[test]
fn every_processor_is_in_the_madt() {
    let image = image(64);
    let madt = walk(&image)[1];
    assert_eq!(half(madt, 36), 0xFEE0_0000);
    let (mut local, mut io, mut at) = (Vec::new(), 0, 44);
    while at < madt.len() {
        match madt[at] {
            0 => {
                assert_eq!(half(madt, at + 4), 1, "enabled");
                local.push((madt[at + 2], madt[at + 3]));
            }
            1 => {
                assert_eq!((half(madt, at + 4), half(madt, at + 8)), (0xFEC0_0000, 0));
                io += 1;
            }
            other => panic!("structure {other}"),
        }
        at += usize::from(madt[at + 1]);
    }
    assert_eq!(local, (0..64).map(|cpu| (cpu, cpu)).collect::<Vec<_>>());
    assert_eq!(io, 1);
}

#[test]
fn the_mcfg_names_one_bus() {
    let image = image(1);
    let mcfg = walk(&image)[2];
    assert_eq!(mcfg.len(), 60);
    assert_eq!(word(mcfg, 44), layout::ECAM_START);
    assert_eq!(mcfg[52..56], [0, 0, 0, 0]);
}

#[test]
fn the_dsdt_has_the_devices() {
    let image = image(1);
    let dsdt = walk(&image)[3];
    for name in [&b"_S5_"[..], b"PCI0", b"ECAM", b"COM1", b"PEVT", b"QEMU0001"] {
        assert!(dsdt.windows(name.len()).any(|w| w == name), "{:?}", std::str::from_utf8(name));
    }
}

/// With `COHORT_ACPI_DUMP=DIR`, leaves the tables there for `iasl -d`.
#[test]
fn tables_can_be_dumped() {
    let Some(dir) = std::env::var_os("COHORT_ACPI_DUMP").map(std::path::PathBuf::from) else {
        return;
    };
    let image = image(2);
    for table in walk(&image) {
        let name = std::str::from_utf8(&table[..4]).expect("ASCII").to_lowercase();
        std::fs::write(dir.join(format!("{name}.aml")), table).expect("written");
    }
}
