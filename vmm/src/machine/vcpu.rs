//! Virtual CPUs: one thread each, which runs the guest and serves its accesses to devices.
#![expect(unsafe_code, reason = "reads the parts of kvm_run that kvm-ioctls leaves out")]

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use devices::bus::Bus;
use devices::power::PowerEvent;
use kvm_bindings::{
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::MachineError;
use super::crash;
use super::ending::{End, Ending};
use super::kick::{self, Kickable};

/// Stack of a virtual CPU's thread: emulation of a device access is never deep. Only what is
/// used of it costs memory.
const STACK: usize = 256 << 10;

/// What a virtual CPU can reach besides memory.
#[derive(Clone)]
pub(super) struct Buses {
    pub(super) ports: Arc<Bus>,
    pub(super) mmio: Arc<Bus>,
}

/// A virtual CPU that is ready to run.
pub(super) struct Vcpu {
    pub(super) number: u8,
    pub(super) fd: VcpuFd,
    pub(super) buses: Buses,
    pub(super) ending: Arc<Ending>,
}

/// What to do after an exit.
enum Next {
    Resume,
    Leave(End),
}

impl Vcpu {
    /// Runs until the guest ends.
    fn run(mut self) {
        let _kickable = Kickable::new(&mut self.fd);
        while !self.ending.stopping() {
            if let Next::Leave(end) = self.step() {
                self.ending.report(end);
            }
        }
    }

    /// Runs the guest to its next exit, and serves that.
    fn step(&mut self) -> Next {
        // KVM's page, as it was mapped: `run` lends out parts of it.
        let shared: *const kvm_run = self.fd.get_kvm_run();
        let Buses { ports, mmio } = &self.buses;
        let cpu = self.number;
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                // SAFETY: the exit is an I/O exit, and the page is mapped as long as `self.fd`.
                let width = unsafe { io_width(shared) };
                for item in data.chunks(width) {
                    ports.write(port.into(), item);
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                // SAFETY: as above.
                let width = unsafe { io_width(shared) };
                for item in data.chunks_mut(width) {
                    ports.read(port.into(), item);
                }
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                mmio.read(address, data);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                mmio.write(address, data);
            }
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::Shutdown) => return Next::Leave(crash::triple_fault(cpu, self.rip())),
            Ok(VcpuExit::InternalError) => {
                // SAFETY: the exit is an internal error, and the page is mapped.
                let internal = unsafe { (*shared).__bindgen_anon_1.internal };
                let words = usize::try_from(internal.ndata).unwrap_or(0).min(internal.data.len());
                let data = &internal.data[..words];
                let end = crash::internal_error(cpu, internal.suberror, data, self.rip());
                return Next::Leave(end);
            }
            Ok(VcpuExit::SystemEvent(kind, _)) => {
                let event = match kind {
                    KVM_SYSTEM_EVENT_SHUTDOWN => PowerEvent::PowerOff,
                    KVM_SYSTEM_EVENT_RESET => PowerEvent::Reset,
                    KVM_SYSTEM_EVENT_CRASH => PowerEvent::Panicked,
                    other => return self.unexpected(format!("system event {other}")),
                };
                return Next::Leave(End::Power(event));
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return self.unexpected(format!("failed entry, hardware reason {reason:#x}"));
            }
            Ok(other) => {
                let exit = format!("exit {other:?}");
                return self.unexpected(exit);
            }
            // Kicked, or a signal meant for others; or started before its start-up interrupt.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.fd.set_kvm_immediate_exit(0);
            }
            Err(error) => {
                let source = io::Error::from(error);
                return Next::Leave(End::Failure(MachineError::Run { cpu, source }));
            }
        }
        Next::Resume
    }

    fn unexpected(&self, exit: String) -> Next {
        Next::Leave(End::Failure(MachineError::UnexpectedExit { cpu: self.number, exit }))
    }

    /// Where the guest is.
    fn rip(&self) -> Option<u64> {
        self.fd.get_regs().ok().map(|regs| regs.rip)
    }
}

/// Bytes of one access of an I/O exit, which can be of several (`rep outsb`).
///
/// # Safety
/// `shared` is mapped, and the last exit was an I/O exit.
unsafe fn io_width(shared: *const kvm_run) -> usize {
    // SAFETY: the caller's promise.
    let io = unsafe { (*shared).__bindgen_anon_1.io };
    usize::from(io.size).max(1)
}

/// The running virtual CPUs.
pub(super) struct Vcpus {
    threads: Vec<JoinHandle<()>>,
    ending: Arc<Ending>,
}

impl Vcpus {
    /// Starts one thread for each. A thread that the host refuses is reported as the guest's end.
    pub(super) fn start(vcpus: Vec<Vcpu>, ending: &Arc<Ending>) -> Result<Vcpus, MachineError> {
        let host = |what| move |source| MachineError::Host { what, source };
        kick::prepare().map_err(host("a signal handler"))?;
        let mut running =
            Vcpus { threads: Vec::with_capacity(vcpus.len()), ending: ending.clone() };
        for vcpu in vcpus {
            let thread = Builder::new().name(format!("vcpu{}", vcpu.number)).stack_size(STACK);
            match thread.spawn(move || vcpu.run()) {
                Ok(thread) => running.threads.push(thread),
                Err(source) => {
                    let error = MachineError::Host { what: "a thread for a virtual CPU", source };
                    running.ending.report(End::Failure(error));
                    break;
                }
            }
        }
        Ok(running)
    }

    /// Waits until no virtual CPU runs any longer. The end has been reported before.
    pub(super) fn join(self) {
        debug_assert!(self.ending.stopping(), "nothing would end them");
        for thread in &self.threads {
            if let Err(error) = kick::kick(thread) {
                tracing::debug!(%error, "a virtual CPU has ended already");
            }
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("the thread of a virtual CPU panicked");
            }
        }
    }
}
