//! cohort and its peers: which are installed, and how each is told to run the same machine.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::BenchError;
use super::child::Invocation;
use super::scratch::Scratch;

/// The kernel of a machine, in `cohort run`'s words: the built-in guest.
pub const BUILTIN: &str = "builtin";

/// A machine to be run by whoever is measured.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Kernel file; [`BUILTIN`] for cohort's own.
    pub kernel: &'a Path,
    /// Initial RAM disk.
    pub initrd: Option<&'a Path>,
    /// Kernel command line or script.
    pub cmdline: &'a str,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u8,
}

impl<'a> Machine<'a> {
    /// One processor, 128 MiB of memory, `kernel` and nothing else.
    pub fn with_kernel(kernel: &'a Path) -> Machine<'a> {
        Machine { kernel, initrd: None, cmdline: "", memory_mib: 128, cpus: 1 }
    }
}

/// How to find the programs that are measured.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// cohort; this very program by default.
    pub cohort: Option<PathBuf>,
    /// QEMU; `qemu-system-x86_64` on `PATH` by default.
    pub qemu: Option<PathBuf>,
    /// QEMU's folder of firmware, where its own default is wrong.
    pub qemu_data: Option<PathBuf>,
    /// QEMU's processor model.
    pub qemu_cpu: Option<String>,
}

/// The programs that were found.
#[derive(Debug)]
pub struct Contenders {
    cohort: PathBuf,
    qemu: Option<Qemu>,
    firecracker: Option<PathBuf>,
    cloud_hypervisor: Option<PathBuf>,
    fio: Option<PathBuf>,
}

/// Finds cohort and its peers.
///
/// # Errors
/// This program's own file has no name that can be started.
pub fn find(programs: &Programs) -> Result<Contenders, BenchError> {
    let cohort = match &programs.cohort {
        Some(path) => path.clone(),
        None => env::current_exe()
            .map_err(|source| BenchError::Proc { path: "/proc/self/exe".into(), source })?,
    };
    let qemu = programs.qemu.clone().or_else(|| on_path("qemu-system-x86_64"));
    Ok(Contenders {
        cohort,
        qemu: qemu.map(|program| Qemu {
            program,
            data: programs.qemu_data.clone(),
            cpu: programs.qemu_cpu.clone().unwrap_or_else(|| default_cpu().to_owned()),
        }),
        firecracker: on_path("firecracker"),
        cloud_hypervisor: on_path("cloud-hypervisor"),
        fio: on_path("fio"),
    })
}

impl Contenders {
    /// cohort's own program.
    pub fn program(&self) -> &Path {
        &self.cohort
    }

    /// QEMU, if it is installed.
    pub fn qemu(&self) -> Option<&Qemu> {
        self.qemu.as_ref()
    }

    /// fio, if it is installed.
    pub fn fio(&self) -> Option<&Path> {
        self.fio.as_deref()
    }

    /// What to say when QEMU is not installed.
    pub fn without_qemu(&self) -> Option<String> {
        let missing = "QEMU is not installed, so there is nothing to compare with: `cargo xtask \
                       setup`, or `apt-get install qemu-system-x86 qemu-utils`, installs it";
        self.qemu.is_none().then(|| missing.to_owned())
    }

    /// What to say when fio is not installed.
    pub fn without_fio(&self) -> Option<String> {
        let missing = "fio is not installed, so the host's own rate is unknown: `cargo xtask \
                       setup`, or `apt-get install fio`, installs it";
        self.fio.is_none().then(|| missing.to_owned())
    }

    /// `cohort run` of `machine`. It prints its console on standard output or standard error.
    pub fn cohort(&self, who: &str, machine: &Machine<'_>) -> Invocation {
        let mut invocation = Invocation::new(who, &self.cohort)
            .words("run --kernel")
            .arg(machine.kernel)
            .arg("--memory")
            .arg(format!("{}M", machine.memory_mib))
            .arg("--cpus")
            .arg(machine.cpus.to_string());
        if let Some(initrd) = machine.initrd {
            invocation = invocation.arg("--initrd").arg(initrd);
        }
        if !machine.cmdline.is_empty() {
            let option = if machine.kernel == BUILTIN { "--script" } else { "--cmdline" };
            invocation = invocation.arg(option).arg(machine.cmdline);
        }
        invocation
    }

    /// Firecracker with `machine`, if it is installed; its configuration goes into `config`.
    ///
    /// # Errors
    /// No room for the configuration.
    pub fn firecracker(
        &self,
        machine: &Machine<'_>,
        config: &Scratch,
    ) -> Result<Option<Invocation>, BenchError> {
        let Some(program) = &self.firecracker else { return Ok(None) };
        let json = serde_json::json!({
            "boot-source": {
                "kernel_image_path": machine.kernel,
                "initrd_path": machine.initrd,
                "boot_args": machine.cmdline,
            },
            "drives": [],
            "machine-config": { "vcpu_count": machine.cpus, "mem_size_mib": machine.memory_mib },
        });
        config.write(0, json.to_string().as_bytes())?;
        let invocation = Invocation::new("firecracker", program)
            .words("--no-api --config-file")
            .arg(config.path());
        Ok(Some(invocation))
    }

    /// Cloud Hypervisor with `machine`, if it is installed.
    pub fn cloud_hypervisor(&self, machine: &Machine<'_>) -> Option<Invocation> {
        let program = self.cloud_hypervisor.as_ref()?;
        let mut invocation = Invocation::new("cloud-hypervisor", program)
            .words("--serial tty --console off --cpus")
            .arg(format!("boot={}", machine.cpus))
            .arg("--memory")
            .arg(format!("size={}M", machine.memory_mib))
            .arg("--kernel")
            .arg(machine.kernel);
        if let Some(initrd) = machine.initrd {
            invocation = invocation.arg("--initramfs").arg(initrd);
        }
        if !machine.cmdline.is_empty() {
            invocation = invocation.arg("--cmdline").arg(machine.cmdline);
        }
        Some(invocation)
    }
}

/// QEMU as it is installed here.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    data: Option<PathBuf>,
    cpu: String,
}

impl Qemu {
    /// The exit status that QEMU makes of a guest's write of `status` to the exit register.
    pub fn exit_status(status: u8) -> i32 {
        i32::from(status) * 2 + 1
    }

    /// `machine` on QEMU's machine type `kind` (`microvm`, `q35`), console on standard output, with
    /// the exit register at port 0xF4, and nothing that this needs not.
    pub fn run(&self, who: &str, kind: &str, machine: &Machine<'_>) -> Invocation {
        let mut invocation = Invocation::new(who, &self.program);
        if let Some(data) = &self.data {
            invocation = invocation.arg("-L").arg(data);
        }
        invocation = invocation
            .words("-enable-kvm -nodefaults -no-user-config -display none -no-reboot")
            .words("-serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 -M")
            .arg(kind)
            .arg("-cpu")
            .arg(&self.cpu)
            .arg("-m")
            .arg(format!("{}M", machine.memory_mib))
            .arg("-smp")
            .arg(machine.cpus.to_string())
            .arg("-kernel")
            .arg(machine.kernel)
            .arg("-append")
            .arg(machine.cmdline);
        if let Some(initrd) = machine.initrd {
            invocation = invocation.arg("-initrd").arg(initrd);
        }
        invocation
    }
}

/// `path` as a value in an option list: for cohort and QEMU alike, a comma that is part of it is
/// written twice.
pub(super) fn listed(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes().split(|byte| *byte == b',');
    OsString::from_vec(bytes.collect::<Vec<_>>().join(b",,".as_slice()))
}

/// QEMU's processor model that works here: plain `host` fails on kvm-pvm, a software KVM.
fn default_cpu() -> &'static str {
    if Path::new("/sys/module/kvm_pvm").exists() { "EPYC" } else { "host" }
}

/// The program called `name` in the folders of `PATH`.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed() -> Contenders {
        let qemu = Qemu { program: "/q".into(), data: None, cpu: "host".to_owned() };
        Contenders {
            cohort: "/c".into(),
            qemu: Some(qemu),
            firecracker: Some("/f".into()),
            cloud_hypervisor: Some("/h".into()),
            fio: None,
        }
    }

    #[test]
    fn everybody_is_told_of_the_same_machine() {
        let contenders = installed();
        let machine = Machine {
            initrd: Some(Path::new("/i")),
            cmdline: "quiet",
            cpus: 2,
            ..Machine::with_kernel(Path::new("/k"))
        };
        let config = Scratch::in_ram().expect("memory has room");
        let qemu = contenders.qemu().map(|qemu| qemu.run("QEMU", "microvm", &machine));
        let firecracker = contenders.firecracker(&machine, &config).expect("memory has room");
        let lines = [
            contenders.cohort("cohort", &machine).shell_line(),
            qemu.expect("installed").shell_line(),
            contenders.cloud_hypervisor(&machine).expect("installed").shell_line(),
        ];
        for line in &lines {
            assert!(["/k", "/i", "quiet", "128M"].iter().all(|word| line.contains(word)), "{line}");
        }
        assert!(firecracker.is_some());
        let json = std::fs::read_to_string(config.path()).expect("the configuration");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["boot-source"]["initrd_path"], "/i");
        assert_eq!(json["machine-config"]["mem_size_mib"], 128);
    }

    #[test]
    fn the_built_in_guest_gets_a_script() {
        let machine = Machine { cmdline: "exit 0", ..Machine::with_kernel(Path::new(BUILTIN)) };
        let line = installed().cohort("cohort", &machine).shell_line();
        assert!(line.ends_with("--script 'exit 0'"), "{line}");
    }

    #[test]
    fn what_is_missing_comes_with_the_command_that_installs_it() {
        let none = Contenders { qemu: None, ..installed() };
        let notes = [none.without_qemu(), none.without_fio()];
        assert!(notes.iter().flatten().all(|note| note.contains("cargo xtask setup")));
        assert_eq!(notes.iter().flatten().count(), 2);
        assert_eq!(installed().without_qemu(), None);
    }

    #[test]
    fn commas_in_paths_are_doubled_in_lists() {
        assert_eq!(listed(Path::new("/a,b,/c")), "/a,,b,,/c");
        assert_eq!(listed(Path::new("/plain")), "/plain");
    }
}
