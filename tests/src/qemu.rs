//! Guests of QEMU's own emulation whose disks are behind vhost-user sockets of cohort.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cohort::{Cohort, Finished, PATIENCE, Running, binary};
use crate::oracles;

/// Memory of a guest. A back end takes only what cannot be truncated, so that it is a memfd.
const MEMORY: &str = "memory-backend-memfd,id=ram,share=on,size=64M";

/// Whether QEMU's machines are there.
///
/// # Panics
/// Where `cargo xtask test` lacks them.
pub fn is_there() -> bool {
    oracles::Qemu::installed().has("qemu-system-x86_64")
}

/// A machine of QEMU's, being put together.
pub struct Machine {
    qemu: Cohort,
    devices: usize,
}

/// What a front end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// vhost-user-scsi, with all disks behind it.
    Scsi,
    /// vhost-user-blk, with one.
    Blk,
}

impl Machine {
    /// A machine that runs the built-in guest with a script.
    pub fn script(script: &str) -> Machine {
        let mut machine = Machine::new();
        let kernel = machine.qemu.file("guest.elf", resources::BUILTIN_GUEST);
        machine.qemu = machine.qemu.arg("-kernel").arg(kernel).args(["-append", script]);
        machine
    }

    fn new() -> Machine {
        // However the test ends, the machine ends with it.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max"])
            .args(["-M", "q35,memory-backend=ram", "-object"])
            .arg(MEMORY)
            // With one processor QEMU drops the barriers that a driver and another process need:
            // a locked instruction is an ordinary one then.
            .args(["-smp", "2", "-no-reboot", "-display", "none"])
            .args(["-m", "64M,slots=2,maxmem=1G"])
            .args(["-nodefaults", "-no-user-config", "-serial", "stdio"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
        Machine { qemu: Cohort::from_command(qemu), devices: 0 }
    }

    /// More arguments for QEMU.
    pub fn args<const N: usize>(mut self, arguments: [&str; N]) -> Machine {
        self.qemu = self.qemu.args(arguments);
        self
    }

    /// A front end for the back end on `socket`. `chardev` and `device` are options of QEMU's for
    /// its connection and for the device, each after a comma.
    pub fn front_end(self, kind: Kind, socket: &Path, chardev: &str, device: &str) -> Machine {
        let number = self.devices;
        let model = match kind {
            Kind::Scsi => "vhost-user-scsi-pci",
            Kind::Blk => "vhost-user-blk-pci",
        };
        let chardev = format!("socket,id=c{number},path={}{chardev}", socket.display());
        let device = format!("{model},chardev=c{number},disable-legacy=on{device}");
        let mut machine = self.args(["-chardev", &chardev, "-device", &device]);
        machine.devices += 1;
        machine
    }

    /// A monitor for [`Guest::order`].
    pub fn monitor(self) -> Machine {
        let path = self.qemu.folder().join("monitor");
        let option = format!("unix:{},server=on,wait=off", path.display());
        self.args(["-monitor", &option])
    }

    /// Starts it.
    pub fn start(self) -> Guest {
        Guest { qemu: self.qemu.start() }
    }

    /// Runs it to its end.
    pub fn finish(self) -> End {
        self.start().finish()
    }
}

/// A machine at work.
pub struct Guest {
    /// QEMU.
    pub qemu: Running,
}

impl Guest {
    /// Where its monitor listens.
    fn monitor(&self) -> PathBuf {
        self.qemu.folder().join("monitor")
    }

    /// Has QEMU carry out a command of its monitor; what it said.
    pub fn order(&self, command: &str) -> String {
        use std::io::{Read, Write};
        let mut monitor = std::os::unix::net::UnixStream::connect(self.monitor())
            .expect("a machine with a monitor");
        let mut said = String::new();
        let mut hear = |monitor: &mut std::os::unix::net::UnixStream, prompts: usize| {
            let mut byte = [0];
            while said.matches("(qemu) ").count() < prompts {
                monitor.read_exact(&mut byte).expect("a monitor that is open");
                said.push(byte[0].into());
            }
        };
        hear(&mut monitor, 1);
        writeln!(monitor, "{command}").expect("a monitor that is open");
        hear(&mut monitor, 2);
        said
    }

    /// Waits until the guest, or QEMU, has said this.
    pub fn wait_for(&self, text: &str) {
        self.qemu.wait_for(text);
    }

    /// Ends it without a warning.
    pub fn kill(self) {
        self.qemu.signal(crate::processes::Signal::KILL);
        self.qemu.finish();
    }

    /// Waits for its end.
    pub fn finish(self) -> End {
        End(self.qemu.finish())
    }
}

/// How a machine ended.
pub struct End(pub Finished);

impl End {
    /// The status that the guest gave the exit register, which makes 2 N + 1 of a status N.
    pub fn status(&self) -> Option<i32> {
        self.0.status().filter(|status| status % 2 == 1).map(|status| status / 2)
    }

    /// What the guest said.
    pub fn said(&self) -> &str {
        &self.0.stdout
    }

    /// Checks the guest's status, showing everything if it is another.
    #[track_caller]
    pub fn expect(&self, status: i32) -> &End {
        let (said, errors) = (&self.0.stdout, &self.0.stderr);
        assert_eq!(self.status(), Some(status), "said:\n{said}\nQEMU:\n{errors}");
        self
    }
}

/// A server of shared disks whose guests come over sockets.
pub struct Server {
    /// The process.
    pub server: Running,
    /// Where its sockets are, in the order of the arguments; those for SCSI first.
    pub sockets: Vec<PathBuf>,
    control: PathBuf,
}

impl Server {
    /// Starts `cohort shared-disk serve DISK` with sockets of these names in `folder`, and waits
    /// until it is ready.
    pub fn start(folder: &Path, disk: &str, scsi: &[&str], blk: &[&str]) -> Server {
        // However the test ends, the server ends with it.
        let mut cohort = Command::new("setpriv");
        cohort.args(["--pdeathsig", "KILL"]).arg(binary()).args(["shared-disk", "serve", disk]);
        let cohort = Cohort::from_command(cohort);
        let at = |name: &&str| folder.join(name);
        // Where what is left of a killed server is in nobody's way.
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let server = SERVERS.fetch_add(1, Ordering::Relaxed);
        let control = folder.join(format!("control-{server}"));
        let mut cohort = cohort.arg("--control").arg(&control);
        for (option, names) in [("--vhost-user-scsi", scsi), ("--vhost-user-blk", blk)] {
            for socket in names.iter().map(at) {
                cohort = cohort.arg(option).arg(socket);
            }
        }
        let server = cohort.start_with(Stdio::null());
        server.wait_for("control: ");
        Server { server, sockets: scsi.iter().chain(blk).map(at).collect(), control }
    }

    /// Waits until so many guests are connected.
    pub fn wait_for_guests(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = Cohort::new(["shared-disk", "status", "--json"]).arg(&self.control);
            let finished = status.finish();
            finished.expect_status(0);
            if finished.stdout.matches("\"connected\": true").count() >= count
                || finished.stdout.matches("\"connected\":true").count() >= count
            {
                return;
            }
            assert!(Instant::now() < deadline, "no guest came: {}", finished.stdout);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it without a warning.
    pub fn kill(self) {
        self.server.signal(crate::processes::Signal::KILL);
        self.server.finish();
    }

    /// Stops it; what it said, in which there is no panic.
    pub fn stop(self) -> Finished {
        self.server.signal(crate::processes::Signal::TERM);
        let finished = self.server.finish();
        finished.expect_status(128 + 15).expect_message(&[]);
        finished
    }
}
