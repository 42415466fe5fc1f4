//! Putting a machine together.
//!
//! The order is the point of it: what can be wrong with the description is found before the host
//! is asked for anything that costs; the devices exist before the kernel is placed, because they
//! decide how; and nothing runs before all is in place.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use memshare::{GuestRam, Placement};
use vm_memory::{Bytes, GuestAddressSpace};

use super::board::{Board, Connections};
use super::console::Output;
use super::cpuid::Template;
use super::ending::Ending;
use super::irq::Interrupts;
use super::kvm::Hypervisor;
use super::memory::Slots;
use super::pmem::Files;
use super::vcpu::{Buses, Vcpu};
use super::windows::Windows;
use super::{MachineError, acpi, layout, memory, regs, reset_vector};
use crate::kernel::{Boot, Entry, Kernel, MemoryKind, MemoryRange};
use crate::spec::VmSpec;

/// A machine that is ready to run.
pub(super) struct Machine {
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) board: Board,
    pub(super) output: Output,
    pub(super) ending: Arc<Ending>,
    pub(super) files: Files,
    /// Where memory is for the guest; they go before what is there.
    pub(super) slots: Arc<Slots>,
    /// Dropped last: virtual CPUs and devices use it.
    pub(super) ram: Arc<GuestRam>,
}

impl Machine {
    /// Builds what `spec` describes, its console's output going to `console`, with the sealed
    /// copies that another process made of some of its files.
    pub(super) fn build(
        spec: &VmSpec,
        console: File,
        sealed: BTreeMap<usize, OwnedFd>,
    ) -> Result<Machine, MachineError> {
        memory::check_size(spec.memory)?;
        let started = Instant::now();
        let hypervisor = Hypervisor::open()?;
        let most = hypervisor.cpus_max();
        if !(1..=most).contains(&usize::from(spec.cpus)) {
            return Err(MachineError::Cpus { cpus: spec.cpus, most });
        }
        let cpuid = Template::new(&hypervisor.kvm, spec.cpus, &spec.cpu_mask)?;
        let kernel = Kernel::open(&spec.kernel)?;

        let ram = GuestRam::new(spec.memory, layout::LOW_RAM_END, layout::HIGH_RAM_START)?;
        let ram = Arc::new(ram);
        let mmio64 = pci_window(&ram, cpuid.address_bits())?;
        let slots = Slots::new(hypervisor.vm.clone());
        memory::attach(&slots, &ram)?;

        let ending = Arc::new(Ending::new()?);
        // Before devices are made, whose view of guest memory is that of their start.
        let behind = (mmio64.end, cpuid.address_bits());
        let files = Files::place(spec, sealed, &ram, behind)?;
        let output = Output::new(console, ending.clone())?;
        let interrupts = Arc::new(Interrupts::new(hypervisor.vm.clone()));
        let windows = Arc::new(Windows::new(&slots, &ram, &ending));
        let connections = Connections {
            output: &output,
            ending: &ending,
            interrupts: &interrupts,
            memory: ram.memory(),
            windows: &windows,
            slots: &slots,
            mmio64: mmio64.clone(),
            files: &files,
        };
        let board = Board::new(spec, connections)?;

        let placement =
            if board.external_backend() { Placement::Copy } else { Placement::CopyOnWrite };
        write_acpi(&ram, acpi::Description { cpus: spec.cpus, pci_mmio64_start: mmio64.start })?;
        reset_vector::write(&ram.memory().memory())?;
        let entry = kernel.load(&Boot {
            ram: &ram,
            placement,
            initrd: spec.initrd.as_deref(),
            cmdline: &spec.cmdline,
            memory_map: &memory_map(&ram),
            rsdp: layout::ACPI_TABLES,
        })?;
        let vcpus = vcpus(&hypervisor, &cpuid, &ram, entry, board.buses(), &ending)?;
        tracing::debug!(elapsed = ?started.elapsed(), ?placement, ?entry, "machine built");
        Ok(Machine { vcpus, board, output, ending, files, slots, ram })
    }
}

/// The PCI memory window above RAM and 4 GiB, if the processor's addresses reach that far.
fn pci_window(ram: &GuestRam, address_bits: u8) -> Result<std::ops::Range<u64>, MachineError> {
    let too_large = || MachineError::MemoryTooLarge { memory: ram.size(), bits: address_bits };
    let start = memory::end(ram)
        .max(layout::HIGH_RAM_START)
        .checked_next_multiple_of(layout::PCI_MMIO64_LEN)
        .ok_or_else(too_large)?;
    let end = start.checked_add(layout::PCI_MMIO64_LEN).ok_or_else(too_large)?;
    let limit = 1u64.checked_shl(address_bits.into()).unwrap_or(u64::MAX);
    if end > limit { Err(too_large()) } else { Ok(start..end) }
}

/// What the guest is told about its memory.
fn memory_map(ram: &GuestRam) -> Vec<MemoryRange> {
    let range = |start, end: u64, kind| MemoryRange { start, len: end - start, kind };
    let acpi_start = layout::ACPI_TABLES.0;
    let mut map = vec![
        range(0, layout::LEGACY_RAM_END, MemoryKind::Ram),
        range(acpi_start, layout::KERNEL_START.0, MemoryKind::Reserved),
    ];
    for region in ram.regions() {
        let start = region.start.0.max(layout::KERNEL_START.0);
        let end = region.start.0.saturating_add(region.len);
        if start < end {
            map.push(range(start, end, MemoryKind::Ram));
        }
    }
    let ecam_end = layout::ECAM_START + layout::ECAM_LEN;
    map.push(range(layout::ECAM_START, ecam_end, MemoryKind::Reserved));
    map.sort_by_key(|range| range.start);
    map
}

/// Writes the ACPI tables to their place.
fn write_acpi(ram: &GuestRam, of: acpi::Description) -> Result<(), MachineError> {
    let tables = acpi::tables(of);
    let room = reset_vector::AT.0 - layout::ACPI_TABLES.0;
    if tables.len() as u64 > room {
        return Err(MachineError::AcpiTooLarge(tables.len()));
    }
    ram.memory()
        .memory()
        .write_slice(&tables, layout::ACPI_TABLES)
        .map_err(|source| MachineError::Write { what: "ACPI tables", source })
}

/// Makes the virtual CPUs; the first is ready to start at `entry`.
fn vcpus(
    hypervisor: &Hypervisor,
    cpuid: &Template,
    ram: &GuestRam,
    entry: Entry,
    buses: Buses,
    ending: &Arc<Ending>,
) -> Result<Vec<Vcpu>, MachineError> {
    let mut vcpus = Vec::with_capacity(cpuid.cpus().into());
    for number in 0..cpuid.cpus() {
        let fd = hypervisor
            .vm
            .create_vcpu(number.into())
            .map_err(MachineError::kvm("KVM_CREATE_VCPU"))?;
        cpuid.apply(&fd, number)?;
        regs::set_defaults(&fd)?;
        if number == 0 {
            regs::set_entry(&fd, &ram.memory().memory(), entry)?;
        }
        vcpus.push(Vcpu { number, fd, buses: buses.clone(), ending: ending.clone() });
    }
    Ok(vcpus)
}
