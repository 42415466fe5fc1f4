//! Nodes of a cluster: Debian guests that share a disk, `/dev/sda` to each of them, and do what a
//! test tells them on their serial console.

pub mod scenarios;

use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

use crate::cohort::{Cohort, Running};
use crate::linux;

/// The kernel's command line: `resources/init/node.sh` of the node image is the first program.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off root=/dev/vda ro";
/// Memory of a node, in MiB.
const MEMORY: &str = "192";

/// A guest of QEMU's own emulation, whose disk is a logical unit of an iSCSI target. Commands pass
/// through QEMU to the target as they are. The guest is known there by `initiator`, a name that
/// iSCSI allows (RFC 7143, 4.2.7).
///
/// # Panics
/// Where `COHORT_DEBIAN` does not name the guest's files.
pub fn through_iscsi(url: &str, initiator: &str) -> Cohort {
    let files = linux::files();
    // However the test ends, the guest ends with it.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max"])
        .args(["-m", MEMORY, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-monitor", "none", "-serial", "stdio", "-append", CMDLINE, "-kernel"])
        .arg(files.join("vmlinuz"))
        .arg("-initrd")
        .arg(files.join("initrd"))
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-device", "virtio-blk-pci,drive=root", "-drive"])
        .arg(format!("if=none,id=root,format=raw,read-only=on,file={}", root().display()))
        .args(["-iscsi", &format!("initiator-name={initiator}")])
        .args(["-device", "virtio-scsi-pci", "-device", "scsi-block,drive=shared", "-drive"])
        .arg(format!("if=none,id=shared,format=raw,cache=none,file={url}"));
    Cohort::from_command(qemu)
}

/// A guest of cohort's, whose disk is behind a vhost-user-scsi socket.
///
/// # Panics
/// Where `COHORT_DEBIAN` does not name the guest's files.
pub fn through_socket(socket: &Path) -> Cohort {
    let files = linux::files();
    Cohort::new([
        "run",
        "-i",
        "-m",
        &format!("{MEMORY}M"),
        "--timeout",
        "240s",
        "-a",
        CMDLINE,
        "-k",
    ])
    .arg(files.join("vmlinuz"))
    .arg("--initrd")
    .arg(files.join("initrd"))
    .args(["--disk", &format!("{},ro", root().display())])
    .args(["--disk", &format!("vhost-user={},kind=scsi", socket.display())])
}

fn root() -> std::path::PathBuf {
    let root = linux::files().join("node-root.ext4");
    root.canonicalize().unwrap_or(root)
}

/// A node at work.
pub struct Node {
    /// What a trace calls it.
    pub name: String,
    guest: Running,
    console: ChildStdin,
    commands: usize,
}

/// What came of a command.
#[derive(Debug)]
pub struct Answer {
    /// Exit status.
    pub status: u8,
    /// What it printed, without white space around it.
    pub said: String,
}

impl Node {
    /// Starts a guest that is a node.
    pub fn start(name: &str, guest: Cohort) -> Node {
        let mut guest = guest.start_with(Stdio::piped());
        let console = guest.input();
        Node { name: name.to_owned(), guest, console, commands: 0 }
    }

    /// Starts nodes at the same time, and waits until all can be told something.
    pub fn start_all<const N: usize>(guests: [(&str, Cohort); N]) -> [Node; N] {
        let nodes = guests.map(|(name, guest)| Node::start(name, guest));
        nodes.iter().for_each(|node| node.guest.wait_for("node: ready"));
        nodes
    }

    /// Begins a command, a line for a shell, which others may run beside.
    pub fn tell(&mut self, command: &str) {
        self.commands += 1;
        writeln!(self.console, "{} {command}", self.commands).expect("the guest's console is open");
    }

    /// Waits for the end of what it was last told.
    pub fn answer(&mut self) -> Answer {
        let (begin, end) = (format!("<{}>\n", self.commands), format!(" was {}>\n", self.commands));
        let mut heard = String::new();
        // The line's end may arrive with either of these.
        self.guest.wait_until(&end, |text| {
            heard = text.replace('\r', "");
            heard.contains(&end)
        });
        let (_, said) = heard.split_once(&begin).expect("a command begins before it ends");
        let (said, _) = said.split_once(&end).expect("it was there before");
        let (said, status) = said.rsplit_once('<').expect("a status");
        Answer {
            status: status.parse().unwrap_or_else(|_| panic!("{status:?} is no status")),
            said: said.trim().to_owned(),
        }
    }

    /// Runs a command to its end.
    pub fn run(&mut self, command: &str) -> Answer {
        self.tell(command);
        self.answer()
    }

    /// Runs a command, which must succeed; what it said.
    #[track_caller]
    pub fn succeed(&mut self, command: &str) -> String {
        let Answer { status, said } = self.run(command);
        assert_eq!(status, 0, "{}: {command}: {said}", self.name);
        said
    }

    /// Ends the guest.
    pub fn stop(mut self) {
        self.tell("guest-exit 0");
        drop(self.console);
        self.guest.finish();
    }
}
