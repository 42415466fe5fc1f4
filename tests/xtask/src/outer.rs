//! The outer machine: QEMU's TCG emulates AMD-V, so a Debian kernel that it boots offers a
//! `/dev/kvm` on which unmodified guests run, on any host.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cohort_tests::cpio::Archive;

use crate::cache::Cache;
use crate::debian::{Kernel, Module};
use crate::stage::Stage;
use crate::tool;

/// What the outer machine needs: its own disk and ports, and KVM on emulated AMD-V.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_console", "virtio-rng", "kvm-amd"];
const INIT: &str = include_str!("outer/init.sh");
const BUSYBOX: &str = "/bin/busybox";
/// Lines of the outer machine's console that a failure shows.
const CONSOLE_TAIL: usize = 40;

/// What one boot of the outer machine does.
pub(crate) struct Errand {
    /// The tree to work in.
    pub(crate) stage: Stage,
    /// What a shell runs there.
    pub(crate) command: String,
    /// When to give up.
    pub(crate) limit: Duration,
}

/// What came of an errand.
pub(crate) enum Answer {
    /// The command ended with this status.
    Status(u8),
    /// The machine ended before its command did; this is what it and the emulator said.
    ///
    /// That is rarely the command's doing: TCG now and then returns to the outer kernel from a
    /// guest with registers that are not its own, and the kernel panics in `svm_vcpu_run`.
    Died(String),
}

/// Runs an errand. Standard output and error of its command go, as they come, to the two
/// writers.
pub(crate) fn run(
    cache: &Cache,
    kernel: &Kernel,
    mut errand: Errand,
    output: impl Write + Send + 'static,
    errors: impl Write + Send + 'static,
) -> Result<Answer> {
    let scratch = cache.scratch()?;
    let here = scratch.path();
    errand.stage.text(Path::new("/command"), &errand.command)?;
    errand.stage.file(Path::new(BUSYBOX), Path::new("/bin/busybox"))?;
    errand.stage.link(Path::new("/bin/sh"), "busybox")?;
    let disk = errand.stage.image(here)?;
    let initrd = here.join("initrd");
    fs::write(&initrd, initial_files(&kernel.modules(MODULES)?)?)?;
    let ports =
        [Port::new(here, "stdout")?, Port::new(here, "stderr")?, Port::new(here, "status")?];
    let console = here.join("console");

    let mut command = machine(&kernel.image, &initrd, &disk, &console, &ports);
    let said = File::create(here.join("emulator"))?;
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
    let mut emulator = Emulator(command.spawn().context("qemu-system-x86_64 did not start")?);

    let [output_port, errors_port, status_port] = ports;
    let output = output_port.forward(output);
    let errors = errors_port.forward(errors);
    let status = status_port.collect();
    let ended = emulator.wait(errand.limit);
    for connected in [output.finish(), errors.finish()] {
        connected?;
    }
    let status = status.finish()?;
    let report = || {
        let last = tail(&fs::read(&console).unwrap_or_default(), CONSOLE_TAIL);
        let said = fs::read_to_string(here.join("emulator")).unwrap_or_default();
        format!("its console ended with:\n{last}\n{said}")
    };
    match ended? {
        Ended::OutOfTime => {
            bail!("the outer machine took more than {} s; {}", errand.limit.as_secs(), report())
        }
        Ended::Itself => Ok(match String::from_utf8_lossy(&status).trim().parse() {
            Ok(status) => Answer::Status(status),
            Err(_) => Answer::Died(report()),
        }),
    }
}

/// The initial RAM file system: busybox, the modules and their order, and the init script.
fn initial_files(modules: &[Module]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("bin/busybox", 0o755, &fs::read(BUSYBOX).context(BUSYBOX)?)?;
    let mut order = String::new();
    for module in modules {
        archive.file(&format!("modules/{}", module.file_name), 0o644, &module.content)?;
        order.push_str(&module.file_name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes())?;
    Ok(archive.finish()?)
}

fn machine(kernel: &Path, initrd: &Path, disk: &Path, console: &Path, ports: &[Port]) -> Command {
    // However this task ends, the emulator ends with it.
    let mut command = tool::tool("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(["-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt"]);
    command.args(["-smp", "2", "-m", "3072", "-display", "none", "-monitor", "none"]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
    command.args(["-append", "console=ttyS0 panic=-1 quiet mitigations=off"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    command.arg("-serial").arg(format!("file:{}", console.display()));
    command.arg("-drive").arg(format!(
        "file={},if=none,id=disk,format=raw,cache=unsafe,discard=unmap",
        disk.display()
    ));
    command.args(["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"]);
    command.args(["-device", "virtio-serial-pci,max_ports=8"]);
    for (number, port) in ports.iter().enumerate() {
        let id = port.name;
        command.arg("-chardev").arg(format!("socket,id={id},path={}", port.path.display()));
        let nr = number + 1;
        command.arg("-device").arg(format!("virtserialport,chardev={id},name={id},nr={nr}"));
    }
    command
}

/// One stream out of the machine: a socket that the emulator connects to.
struct Port {
    name: &'static str,
    path: PathBuf,
    listener: UnixListener,
}

impl Port {
    fn new(folder: &Path, name: &'static str) -> Result<Port> {
        let path = folder.join(name);
        let listener = UnixListener::bind(&path).with_context(|| path.display().to_string())?;
        Ok(Port { name, path, listener })
    }

    /// Copies what arrives, as it arrives.
    fn forward(self, mut to: impl Write + Send + 'static) -> Reader<()> {
        self.read(move |mut stream| {
            let mut buffer = [0; 4096];
            loop {
                let count = stream.read(&mut buffer)?;
                if count == 0 {
                    return Ok(());
                }
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
        })
    }

    /// Keeps what arrives.
    fn collect(self) -> Reader<Vec<u8>> {
        self.read(|mut stream| {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).map(|_| bytes)
        })
    }

    fn read<T: Send + 'static>(
        self,
        how: impl FnOnce(UnixStream) -> io::Result<T> + Send + 'static,
    ) -> Reader<T> {
        let path = self.path.clone();
        Reader { path, thread: thread::spawn(move || how(self.listener.accept()?.0)) }
    }
}

/// A port being read in a thread of its own.
struct Reader<T> {
    path: PathBuf,
    thread: JoinHandle<io::Result<T>>,
}

impl<T> Reader<T> {
    /// What was read. To be called after the emulator's end, which closes the stream.
    fn finish(self) -> Result<T> {
        // An emulator that never connected would leave the thread in accept; this ends that.
        drop(UnixStream::connect(&self.path));
        match self.thread.join() {
            Ok(read) => read.context("the outer machine's output could not be passed on"),
            Err(_) => bail!("the reader of {} panicked", self.path.display()),
        }
    }
}

/// The emulator's process, killed when dropped.
struct Emulator(Child);

enum Ended {
    Itself,
    OutOfTime,
}

impl Emulator {
    fn wait(&mut self, limit: Duration) -> Result<Ended> {
        let deadline = Instant::now() + limit;
        while self.0.try_wait()?.is_none() {
            if Instant::now() > deadline {
                self.0.kill()?;
                self.0.wait()?;
                return Ok(Ended::OutOfTime);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Ended::Itself)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both fail only if the process has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The last lines of a console.
fn tail(console: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(console);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
