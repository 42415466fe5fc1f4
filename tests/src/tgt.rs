//! tgt, an iSCSI target that others made: the second opinion on initiators.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::oracles;

/// The number of its control socket, which is in a folder of its own.
const CONTROL: &str = "1";
/// The variable with the path of that socket.
const SOCKET: &str = "TGT_IPC_SOCKET";

/// A target with a disk as its logical unit 1, until dropped.
#[derive(Debug)]
pub struct Tgt {
    daemon: Child,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Tgt {
    /// Starts one on the loopback interface. With an account, initiators must prove that they are
    /// this user and know the secret. `None` where tgt is not installed.
    ///
    /// # Panics
    /// Where `cargo xtask test` lacks it, or where it does not do what it is told.
    pub fn start(target: &str, size: u64, account: Option<(&str, &str)>) -> Option<Tgt> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("disk");
        let disk = std::fs::File::create(&file).and_then(|disk| disk.set_len(size));
        disk.expect("a file for the disk");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        let daemon = Command::new("tgtd")
            .args(["-f", "-C", CONTROL, "--iscsi", &format!("portal={address}")])
            .env(SOCKET, folder.path().join("control"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let daemon = match daemon {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                oracles::skip("tgt");
                return None;
            }
            daemon => daemon.expect("tgtd runs"),
        };
        let tgt = Tgt { daemon, folder, address };
        let deadline = Instant::now() + Duration::from_secs(20);
        let new = ["--op", "new", "--mode", "target", "--tid", "1", "-T", target];
        while !tgt.admin(&new).status.success() {
            assert!(Instant::now() < deadline, "tgtd answers: {:?}", tgt.admin(&new));
            std::thread::sleep(Duration::from_millis(20));
        }
        let file = file.to_str().expect("a path of plain letters");
        let unit = ["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", file];
        tgt.must(&unit);
        if let Some((user, password)) = account {
            let account = ["--mode", "account", "--user", user];
            tgt.must(&[&["--op", "new", "--password", password], &account[..]].concat());
            tgt.must(&[&["--op", "bind", "--tid", "1"], &account[..]].concat());
        }
        tgt.must(&["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"]);
        Some(tgt)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn admin(&self, arguments: &[&str]) -> Output {
        Command::new("tgtadm")
            .args(["-C", CONTROL, "--lld", "iscsi"])
            .args(arguments)
            .env(SOCKET, self.folder.path().join("control"))
            .output()
            .expect("tgtadm runs")
    }

    fn must(&self, arguments: &[&str]) {
        let output = self.admin(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        // It does not end by itself while it has targets.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
