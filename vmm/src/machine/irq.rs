//! Interrupts and doorbells: [`devices::platform::Platform`] on KVM.
//!
//! KVM emulates the local APICs and the I/O APIC. A device raises a message-signalled interrupt
//! by writing an eventfd (irqfd) that stands for an interrupt number (GSI), which KVM's routing
//! table turns into the message that the guest programmed. GSIs 0 to 23 are the I/O APIC's pins.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use devices::platform::{MsiMessage, MsiVector, Platform};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi, kvm_irq_routing_msi__bindgen_ty_1,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::MachineError;
use super::layout::IOAPIC_PINS;

/// Most GSIs that KVM routes (`KVM_MAX_IRQ_ROUTES`).
const GSI_MAX: u32 = 4096;

/// The machine's interrupts.
pub(super) struct Interrupts {
    vm: Arc<VmFd>,
    routes: Arc<Mutex<Routes>>,
}

/// The message of every vector that has one, and the first GSI that is free.
struct Routes {
    messages: BTreeMap<u32, MsiMessage>,
    next: u32,
}

impl Interrupts {
    pub(super) fn new(vm: Arc<VmFd>) -> Interrupts {
        let routes = Routes { messages: BTreeMap::new(), next: IOAPIC_PINS };
        Interrupts { vm, routes: Arc::new(Mutex::new(routes)) }
    }

    /// An eventfd that pulses a pin of the I/O APIC, edge-triggered.
    pub(super) fn pin(&self, pin: u32) -> Result<EventFd, MachineError> {
        let fd = EventFd::new(EFD_NONBLOCK)
            .map_err(|source| MachineError::Host { what: "an eventfd", source })?;
        self.vm.register_irqfd(&fd, pin).map_err(MachineError::kvm("KVM_IRQFD"))?;
        Ok(fd)
    }
}

impl Platform for Interrupts {
    fn msi_vectors(&self, count: u16) -> io::Result<Vec<Arc<dyn MsiVector>>> {
        let mut routes = lock(&self.routes);
        let first = routes.next;
        let end = first.checked_add(count.into()).filter(|end| *end <= GSI_MAX);
        routes.next =
            end.ok_or_else(|| io::Error::other("KVM routes no more than 4096 interrupts"))?;
        let vector = |gsi| -> Arc<dyn MsiVector> {
            Arc::new(Vector {
                vm: self.vm.clone(),
                routes: self.routes.clone(),
                gsi,
                fd: OnceLock::new(),
            })
        };
        Ok((first..routes.next).map(vector).collect())
    }

    fn attach_doorbell(&self, address: u64, doorbell: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        Ok(self.vm.register_ioevent(doorbell, &address, NoDatamatch)?)
    }

    fn detach_doorbell(&self, address: u64, doorbell: &EventFd) -> io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        Ok(self.vm.unregister_ioevent(doorbell, &address, NoDatamatch)?)
    }
}

/// One message-signalled interrupt. It lives as long as the machine.
struct Vector {
    vm: Arc<VmFd>,
    routes: Arc<Mutex<Routes>>,
    gsi: u32,
    /// Made when the guest first unmasks the vector: most never are.
    fd: OnceLock<EventFd>,
}

impl std::fmt::Debug for Vector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vector").field("gsi", &self.gsi).finish_non_exhaustive()
    }
}

impl MsiVector for Vector {
    fn route(&self, message: Option<MsiMessage>) -> io::Result<()> {
        // A masked vector is never signalled, so its route can stay until it has another: drivers
        // mask and unmask often, and KVM waits out every virtual CPU when the table changes.
        let Some(message) = message else { return Ok(()) };
        let mut routes = lock(&self.routes);
        let before = routes.messages.insert(self.gsi, message);
        if before != Some(message)
            && let Err(error) = routes.publish(&self.vm)
        {
            match before {
                Some(before) => routes.messages.insert(self.gsi, before),
                None => routes.messages.remove(&self.gsi),
            };
            return Err(error);
        }
        if self.fd.get().is_none() {
            let fd = EventFd::new(EFD_NONBLOCK)?;
            self.vm.register_irqfd(&fd, self.gsi)?;
            // The lock on the routes is held: nobody else got here first.
            let _ = self.fd.set(fd);
        }
        Ok(())
    }

    fn signal(&self) -> io::Result<()> {
        // No eventfd: never unmasked, so nobody waits for it.
        self.fd.get().map_or(Ok(()), |fd| fd.write(1))
    }

    fn attach(&self, event: &EventFd) -> io::Result<()> {
        Ok(self.vm.register_irqfd(event, self.gsi)?)
    }

    fn detach(&self, event: &EventFd) -> io::Result<()> {
        Ok(self.vm.unregister_irqfd(event, self.gsi)?)
    }
}

impl Routes {
    /// Hands the whole table to KVM: that is the only way to change it.
    ///
    /// The pins go to the I/O APIC alone. The two 8259 controllers that KVM emulates next to it
    /// get nothing, because a hardware-reduced ACPI machine has none.
    fn publish(&self, vm: &VmFd) -> io::Result<()> {
        let entries: Vec<_> = (0..IOAPIC_PINS)
            .map(pin_entry)
            .chain(self.messages.iter().map(|(gsi, message)| msi_entry(*gsi, *message)))
            .collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
        Ok(vm.set_gsi_routing(&table)?)
    }
}

fn pin_entry(pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi: pin,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip { irqchip: KVM_IRQCHIP_IOAPIC, pin },
        },
        ..Default::default()
    }
}

fn msi_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let [a0, a1, a2, a3, a4, a5, a6, a7] = message.address.to_le_bytes();
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            msi: kvm_irq_routing_msi {
                address_lo: u32::from_le_bytes([a0, a1, a2, a3]),
                address_hi: u32::from_le_bytes([a4, a5, a6, a7]),
                data: message.data,
                __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1::default(),
            },
        },
        ..Default::default()
    }
}

fn lock(routes: &Mutex<Routes>) -> MutexGuard<'_, Routes> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}
