//! The machine's devices, each in its place.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::bus::{Bus, BusDevice};
use devices::input::ConsoleInput;
use devices::pci::{ConfigPorts, Ecam, PciBus};
use devices::pvpanic::Pvpanic;
use devices::reset::{AcpiRegisters, ExitRegister, I8042};
use devices::serial::Serial;
use devices::virtio::VirtioDevice;
use devices::virtio::console::Console;
use devices::virtio::rng::Rng;
use memshare::{Claim, MemoryHandle, Window};
use storage::Disk;

use super::MachineError;
use super::console::Output;
use super::disk::{self, Opened};
use super::ending::Ending;
use super::irq::Interrupts;
use super::layout;
use super::memory::Slots;
use super::pmem::Files;
use super::share;
use super::vcpu::Buses;
use super::windows::Windows;
use crate::spec::{ConsoleInput as InputChoice, VmSpec};

/// The devices and the buses they sit on.
pub(super) struct Board {
    buses: Buses,
    pci: Arc<Mutex<PciBus>>,
    input: Arc<dyn ConsoleInput>,
    external_backend: bool,
    /// Closed when the machine stops, whoever may still hold them.
    disks: Vec<Disk>,
    /// Those that devices map files in.
    windows: Vec<Arc<Window>>,
    /// Folders that are used in the guest's share domain.
    _claims: Vec<Claim>,
}

/// What devices are connected to.
pub(super) struct Connections<'a> {
    pub(super) output: &'a Output,
    pub(super) ending: &'a Arc<Ending>,
    pub(super) interrupts: &'a Arc<Interrupts>,
    pub(super) memory: &'a MemoryHandle,
    pub(super) windows: &'a Arc<Windows>,
    pub(super) slots: &'a Arc<Slots>,
    /// The PCI memory window above 4 GiB.
    pub(super) mmio64: Range<u64>,
    /// The files in guest memory.
    pub(super) files: &'a Files,
}

impl Board {
    /// The devices that every machine has, and the disks of this one.
    pub(super) fn new(spec: &VmSpec, to: Connections<'_>) -> Result<Board, MachineError> {
        let ports = Arc::new(Bus::new("I/O ports"));
        let mmio = Arc::new(Bus::new("memory"));
        let mmio32_end = layout::PCI_MMIO32_START + layout::PCI_MMIO32_LEN;
        let mmio32 = layout::PCI_MMIO32_START..mmio32_end;
        let pci = PciBus::new(mmio.clone(), mmio32, to.mmio64.clone());
        let pci = Arc::new(Mutex::new(pci));

        let serial_irq = to.interrupts.pin(layout::IRQ_COM1)?;
        let serial = Serial::new(serial_irq, Box::new(to.output.clone()))
            .map_err(|source| MachineError::Host { what: "a serial port", source })?;
        let serial_input = serial.input();
        let ending = to.ending;
        let acpi = AcpiRegisters::new(ending.clone(), layout::SLEEP_TYPE_S5, layout::RESET_VALUE);
        let config = ConfigPorts::new(pci.clone(), ending.clone());
        put(&ports, "serial port", layout::PORT_COM1.into(), Serial::LEN, serial)?;
        put(&ports, "i8042", I8042::BASE, I8042::LEN, I8042::new(ending.clone()))?;
        let exit = ExitRegister::new(ending.clone());
        put(&ports, "exit register", layout::PORT_EXIT.into(), ExitRegister::LEN, exit)?;
        put(&ports, "pvpanic", layout::PORT_PVPANIC.into(), 1, Pvpanic::new(ending.clone()))?;
        let sleep = layout::PORT_SLEEP_CONTROL.into();
        put(&ports, "ACPI registers", sleep, AcpiRegisters::LEN, acpi)?;
        put(&ports, "PCI", layout::PORT_PCI.into(), ConfigPorts::LEN, config)?;
        put(&mmio, "PCI", layout::ECAM_START, layout::ECAM_LEN, Ecam::new(pci.clone()))?;

        let console = Console::new(Box::new(to.output.clone()))
            .map_err(|source| MachineError::Host { what: "a console", source })?;
        let input: Arc<dyn ConsoleInput> = match spec.input {
            InputChoice::Serial => Arc::new(serial_input),
            InputChoice::Hvc => Arc::new(console.input()),
        };
        let buses = Buses { ports, mmio };
        let mut board = Board {
            buses,
            pci,
            input,
            external_backend: false,
            disks: Vec::new(),
            windows: Vec::new(),
            _claims: Vec::new(),
        };
        for (number, disk) in spec.disks.iter().enumerate() {
            match disk::open(number, disk, spec.cpus)? {
                Opened::Block(disk, block) => {
                    board.disks.push(disk);
                    board.add_virtio("disk", block, &to)?;
                }
                Opened::VhostUser(device) => board.add_virtio("disk", device, &to)?,
            }
        }
        for (device, range, refusals) in to.files.devices(to.slots, ending) {
            let len = range.end - range.start;
            put(&board.buses.mmio, "memory of a file", range.start, len, refusals)?;
            board.add_virtio("persistent memory", device, &to)?;
        }
        for share in share::open_all(spec, to.windows)? {
            board.windows.extend(share.window);
            board._claims.extend(share.claim);
            board.add_virtio("share", share.device, &to)?;
        }
        board.add_virtio("console", console, &to)?;
        board.add_virtio("entropy source", Rng::new(), &to)?;
        Ok(board)
    }

    /// Puts a device on the PCI bus.
    fn add_virtio(
        &mut self,
        what: &'static str,
        device: impl VirtioDevice + 'static,
        to: &Connections<'_>,
    ) -> Result<(), MachineError> {
        self.external_backend |= device.info().external_backend;
        lock(&self.pci)
            .add_virtio(Box::new(device), to.memory.clone(), to.interrupts.clone())
            .map_err(|source| MachineError::Pci { what, source })?;
        Ok(())
    }

    /// Whether a device's backend is another process, which sees guest memory by its memfd.
    pub(super) fn external_backend(&self) -> bool {
        self.external_backend
    }

    /// The windows in which devices map files.
    pub(super) fn windows(&self) -> &[Arc<Window>] {
        &self.windows
    }

    /// What virtual CPUs reach.
    pub(super) fn buses(&self) -> Buses {
        self.buses.clone()
    }

    /// Where console input goes.
    pub(super) fn input(&self) -> &dyn ConsoleInput {
        &*self.input
    }

    /// Stops all devices: they finish what the guest asked of them, and end their threads. Then
    /// leaves the disks in order, also what the guest wrote and never flushed.
    pub(super) fn stop(&self) {
        lock(&self.pci).stop_all();
        for disk in &self.disks {
            if let Err(error) = disk.close() {
                tracing::error!("a disk was not closed in order: {:#}", anyhow::Error::from(error));
            }
        }
    }
}

impl Drop for Board {
    /// The memory bus has the PCI bus on it, as configuration space, and devices in windows that
    /// the guest placed; both keep the memory bus, to place windows. Apart, all go, and with them
    /// files and locks.
    fn drop(&mut self) {
        self.buses.mmio.clear();
    }
}

/// Puts a device on a bus.
fn put(
    bus: &Bus,
    what: &'static str,
    base: u64,
    len: u64,
    device: impl BusDevice + 'static,
) -> Result<(), MachineError> {
    bus.insert(base, len, Arc::new(Mutex::new(device)))
        .map_err(|source| MachineError::Device { what, source })
}

fn lock(pci: &Mutex<PciBus>) -> MutexGuard<'_, PciBus> {
    pci.lock().unwrap_or_else(PoisonError::into_inner)
}
