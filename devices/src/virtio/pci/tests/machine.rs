//! A machine with one virtio device, as its guest sees it.

use std::sync::{Arc, Mutex};

use memshare::MemoryHandle;

use super::*;
use crate::pci::{ConfigPorts, Ecam};
use crate::power::tests::Events;

/// What was done to a [`Probe`].
#[derive(Default)]
pub(in super::super) struct Record {
    pub(in super::super) activation: Option<Activation>,
    pub(in super::super) starts: usize,
    pub(in super::super) config: [u8; 8],
    pub(in super::super) refuse: bool,
}

/// A device with three queues that keeps what it is started with.
pub(in super::super) struct Probe(
    pub(in super::super) DeviceInfo,
    pub(in super::super) Arc<Mutex<Record>>,
);

impl VirtioDevice for Probe {
    fn info(&self) -> &DeviceInfo {
        &self.0
    }
    fn read_config(&self, offset: usize, out: &mut [u8]) {
        for (n, byte) in out.iter_mut().enumerate() {
            *byte = lock(&self.1).config.get(offset + n).copied().unwrap_or(0);
        }
    }
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if let Some(to) = lock(&self.1).config.get_mut(offset..offset + data.len()) {
            to.copy_from_slice(data);
        }
    }
    fn start(&mut self, with: Activation) -> Result<(), ActivateError> {
        let mut record = lock(&self.1);
        if record.refuse {
            return Err(ActivateError::Host {
                what: "start",
                source: std::io::Error::other("refused"),
            });
        }
        record.activation = Some(with);
        record.starts += 1;
        Ok(())
    }
    fn stop(&mut self) -> Vec<QueueState> {
        let activation = lock(&self.1).activation.take();
        activation.iter().flat_map(|with| &with.queues).map(|queue| queue.state()).collect()
    }
}

/// What a [`Probe`] is.
pub(in super::super) fn info() -> DeviceInfo {
    DeviceInfo {
        id: DeviceType::Entropy,
        queue_sizes: vec![256, 64, 2],
        features: DEVICE_FEATURE,
        external_backend: false,
    }
}

pub(in super::super) struct Machine {
    pub(in super::super) mmio: Arc<Bus>,
    pub(in super::super) pci: Arc<Mutex<PciBus>>,
    pub(in super::super) platform: Arc<FakePlatform>,
    pub(in super::super) record: Arc<Mutex<Record>>,
    pub(in super::super) ports: Bus,
    pub(in super::super) memory: MemoryHandle,
    pub(in super::super) window: u64,
}

impl Machine {
    pub(in super::super) fn new() -> Machine {
        let record = Arc::new(Mutex::new(Record::default()));
        Machine::of(Box::new(Probe(info(), record.clone())), record)
    }

    /// With a device that keeps its record there.
    pub(in super::super) fn of(
        device: Box<dyn VirtioDevice>,
        record: Arc<Mutex<Record>>,
    ) -> Machine {
        let mmio = Arc::new(Bus::new("memory"));
        let pci = Arc::new(Mutex::new(PciBus::new(mmio.clone(), MMIO32, MMIO64)));
        let platform = Arc::new(FakePlatform::default());
        let memory = memory();
        let slot = lock(&pci).add_virtio(device, memory.clone(), platform.clone()).unwrap();
        assert_eq!(slot.to_string(), "00:01.0");
        mmio.insert(ECAM, 1 << 20, Arc::new(Mutex::new(Ecam::new(pci.clone())))).unwrap();
        let ports = Bus::new("ports");
        let config = ConfigPorts::new(pci.clone(), Arc::new(Events::default()));
        ports.insert(0xCF8, ConfigPorts::LEN, Arc::new(Mutex::new(config))).unwrap();
        let mut machine = Machine { mmio, pci, platform, record, ports, memory, window: 0 };
        machine.window = machine.bar();
        machine.write(CONFIG + 4, 2u16.to_le_bytes());
        machine
    }

    pub(in super::super) fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut data = [0; N];
        self.mmio.read(address, &mut data);
        data
    }

    pub(in super::super) fn write<const N: usize>(&self, address: u64, data: [u8; N]) {
        self.mmio.write(address, &data);
    }

    pub(in super::super) fn bar(&self) -> u64 {
        u64::from_le_bytes(self.read(CONFIG + 0x10)) & !0xF
    }

    pub(in super::super) fn set_bar(&self, address: u64) {
        self.write(CONFIG + 0x10, address.to_le_bytes());
    }

    pub(in super::super) fn status(&self) -> u8 {
        self.read::<1>(self.window + COMMON + 0x14)[0]
    }

    pub(in super::super) fn set_status(&self, status: u8) -> u8 {
        self.write(self.window + COMMON + 0x14, [status]);
        self.status()
    }

    pub(in super::super) fn accept(&self, features: u64) -> u8 {
        for select in [0u32, 1] {
            self.write(self.window + COMMON + 8, select.to_le_bytes());
            let half = u32::try_from(features >> (32 * select) & 0xFFFF_FFFF).unwrap();
            self.write(self.window + COMMON + 0xC, half.to_le_bytes());
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
    }

    pub(in super::super) fn select(&self, queue: u16) {
        self.write(self.window + COMMON + 0x16, queue.to_le_bytes());
    }

    pub(in super::super) fn set_up_queue(&self, queue: u16, at: u64) {
        self.select(queue);
        for (register, address) in
            [(0x20, at), (0x28, at.wrapping_add(0x2000)), (0x30, at.wrapping_add(0x4000))]
        {
            let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
            self.write(self.window + COMMON + register, [a, b, c, d]);
            self.write(self.window + COMMON + register + 4, [e, f, g, h]);
        }
        self.write(self.window + COMMON + 0x1C, 1u16.to_le_bytes());
    }

    /// From reset to ready, with queues 0 and 2.
    pub(in super::super) fn start(&self) {
        assert_eq!(self.set_status(0), 0);
        assert_eq!(self.accept(FEATURES), ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.set_up_queue(0, 0x1_0000);
        self.set_up_queue(2, 0x2_0000);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Unmasks a vector with a message of its own, and turns MSI-X on.
    pub(in super::super) fn open_vector(&self, vector: u64) {
        let entry = self.window + TABLE + 16 * vector;
        self.write(entry, 0xFEE0_0000u32.to_le_bytes());
        self.write(entry + 8, u32::try_from(vector).unwrap().to_le_bytes());
        self.write(entry + 12, [0; 4]);
        let capability = self.capability(0x11, None).unwrap();
        self.write(CONFIG + capability + 2, 0x8000u16.to_le_bytes());
    }

    /// Where a capability is, by number and virtio's `cfg_type`.
    pub(in super::super) fn capability(&self, id: u8, cfg_type: Option<u8>) -> Option<u64> {
        let mut at = self.read::<1>(CONFIG + 0x34)[0];
        while at != 0 {
            let [number, next, _, kind] = self.read(CONFIG + u64::from(at));
            if number == id && cfg_type.is_none_or(|wanted| wanted == kind) {
                return Some(at.into());
            }
            at = next;
        }
        None
    }

    pub(in super::super) fn transport(&self) -> Arc<dyn Transport> {
        lock(&self.record).activation.as_ref().unwrap().transport.clone()
    }

    pub(in super::super) fn is_started(&self) -> bool {
        lock(&self.record).activation.is_some()
    }
}
