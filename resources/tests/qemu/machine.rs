//! A QEMU q35 that runs the built-in guest.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// What runs the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// QEMU's own emulator.
    Tcg,
    /// This host's KVM.
    Kvm,
}

/// How long any machine here may take: firmware under a KVM that emulates it needs seconds, and
/// other tests run beside this one.
const PATIENCE: Duration = Duration::from_secs(120);

/// One machine to be.
#[derive(Debug)]
pub(crate) struct Machine {
    accelerator: Accelerator,
    memory: &'static str,
    arguments: Vec<String>,
    disks: u32,
    folder: TempDir,
}

/// How a machine ended.
#[derive(Debug)]
pub(crate) struct End {
    /// What it printed on the serial port.
    pub(crate) serial: String,
    /// The status that the guest gave the exit register, if it did.
    pub(crate) status: Option<i32>,
}

impl Machine {
    /// A machine of 64 MiB with an exit register. `None`, and the reason printed, where it cannot
    /// run.
    pub(crate) fn new(accelerator: Accelerator) -> Option<Machine> {
        let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
        if let Err(error) = qemu {
            println!("skipped: qemu-system-x86_64 cannot be started: {error}");
            return None;
        }
        if accelerator == Accelerator::Kvm {
            let kvm = File::options().read(true).write(true).open("/dev/kvm");
            if let Err(error) = kvm {
                println!("skipped: /dev/kvm cannot be opened: {error}");
                return None;
            }
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("guest.elf"), resources::BUILTIN_GUEST)
            .expect("the guest written");
        Some(Machine { accelerator, memory: "64M", arguments: Vec::new(), disks: 0, folder })
    }

    /// Another memory size.
    pub(crate) fn memory(mut self, size: &'static str) -> Machine {
        self.memory = size;
        self
    }

    /// More arguments for QEMU.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Machine {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// A virtio-blk disk of two queues with these contents. Later disks have higher numbers.
    pub(crate) fn disk(mut self, contents: &[u8]) -> Machine {
        let number = self.disks;
        self.disks += 1;
        let path = self.image(number);
        std::fs::write(&path, contents).expect("an image written");
        let path = path.display();
        self.with(&[
            "-drive",
            &format!("file={path},if=none,id=disk{number},format=raw,discard=unmap"),
            "-device",
            &format!(
                "virtio-blk-pci,disable-legacy=on,num-queues=2,drive=disk{number},serial=disk-{number}"
            ),
        ])
    }

    /// Where disk `number` is kept.
    fn image(&self, number: u32) -> PathBuf {
        self.folder.path().join(format!("disk{number}.raw"))
    }

    /// What disk `number` holds now.
    pub(crate) fn contents(&self, number: u32) -> Vec<u8> {
        std::fs::read(self.image(number)).expect("an image read")
    }

    /// A file in the machine's own folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a script to the machine's end.
    pub(crate) fn run(&self, script: &str) -> End {
        let accelerator: &[&str] = match self.accelerator {
            Accelerator::Tcg => &["-accel", "tcg"],
            Accelerator::Kvm => &["-enable-kvm", "-cpu", "EPYC"],
        };
        let serial = self.folder.path().join("serial");
        let messages = File::create(self.folder.path().join("messages")).expect("a file");
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-M", "q35", "-display", "none", "-no-reboot", "-nodefaults"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
            .args(accelerator)
            .args(["-m", self.memory, "-append", script, "-kernel"])
            .arg(self.folder.path().join("guest.elf"))
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(messages)
            .spawn()
            .expect("QEMU started");
        let start = Instant::now();
        let status = loop {
            if let Some(status) = qemu.try_wait().expect("a child to wait for") {
                break status;
            }
            if start.elapsed() > PATIENCE {
                qemu.kill().expect("QEMU killed");
                qemu.wait().expect("QEMU gone");
                panic!("the machine did not end; it printed:\n{}", read(&serial));
            }
            thread::sleep(Duration::from_millis(10));
        };
        // isa-debug-exit makes status N of the guest 2 N + 1 of QEMU.
        let code = status.code().unwrap_or_else(|| panic!("QEMU ended with {status}"));
        let status = (code % 2 == 1).then_some(code / 2);
        End { serial: read(&serial), status }
    }
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    let file = File::open(path);
    file.expect("the serial file").read_to_end(&mut bytes).expect("the serial file read");
    // Firmware prints there too.
    String::from_utf8_lossy(&bytes).into_owned()
}
