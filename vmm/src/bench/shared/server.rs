//! Servers of the measured file.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use storage::iscsi::IscsiUrl;
use tempfile::TempDir;

use crate::bench::BenchError;
use crate::bench::child::{Invocation, Running};
use crate::bench::contender::{listed, on_path};

/// How long a server may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(20);
/// The name of tgt's target.
const TGT_NAME: &str = "iqn.2026-11.cohort.bench:tgt";
/// How often tgt is asked whether it is there.
const TGT_PAUSE: Duration = Duration::from_millis(20);

/// A server, ended when this is dropped.
pub(super) struct Server {
    // Ended before its folder goes.
    _process: Running,
    folder: TempDir,
    kind: &'static str,
    url: Option<IscsiUrl>,
    shell_line: String,
}

impl Server {
    /// cohort's, for one guest by a vhost-user socket of this kind.
    pub(super) fn for_guest(
        cohort: &Path,
        file: &Path,
        kind: &'static str,
    ) -> Result<Server, BenchError> {
        let folder = folder()?;
        let invocation = serve(cohort, file, folder.path())
            .arg(format!("--vhost-user-{kind}"))
            .arg(folder.path().join("guest.sock"));
        let shell_line = invocation.shell_line();
        let mut process = invocation.start()?;
        process.printed("control:", START_LIMIT)?;
        Ok(Server { _process: process, folder, kind, url: None, shell_line })
    }

    /// What `cohort run --disk` takes for it.
    pub(super) fn disk_option(&self) -> OsString {
        let mut option = OsString::from("vhost-user=");
        option.push(listed(&self.folder.path().join("guest.sock")));
        option.push(format!(",kind={}", self.kind));
        option
    }

    /// cohort's, for initiators.
    pub(super) fn iscsi(cohort: &Path, file: &Path) -> Result<Server, BenchError> {
        let (folder, port) = (folder()?, free_port()?);
        let name = "iqn.2026-11.cohort.bench:cohort";
        let invocation = serve(cohort, file, folder.path())
            .arg("--iscsi")
            .arg(format!("127.0.0.1:{port}"))
            .arg("--iqn")
            .arg(name);
        let shell_line = invocation.shell_line();
        let mut process = invocation.start()?;
        process.printed("control:", START_LIMIT)?;
        let url = Some(url(port, name, 0)?);
        Ok(Server { _process: process, folder, kind: "", url, shell_line })
    }

    /// tgt's, with the file as its LUN 1.
    pub(super) fn tgt(tgtd: &Path, file: &Path) -> Result<Server, BenchError> {
        let (folder, port) = (folder()?, free_port()?);
        // tgt takes the place of its control socket from there alone.
        let mut socket = OsString::from("TGT_IPC_SOCKET=");
        socket.push(folder.path().join("control"));
        let program = |who, name: &Path| {
            Invocation::new(who, "/usr/bin/env").arg(&socket).arg(name).words("-C 1")
        };
        let portal = format!("portal=127.0.0.1:{port}");
        let invocation = program("tgt", tgtd).words("-f --iscsi").arg(portal);
        let shell_line = invocation.shell_line();
        let process = invocation.start()?;
        let tgtadm = tgtd.with_file_name("tgtadm");
        let admin = |words: &str, file: Option<&Path>| {
            let command = program("tgtadm", &tgtadm).words("--lld iscsi").words(words);
            let command = match file {
                Some(file) => command.arg("-b").arg(file),
                None => command,
            };
            command.run(START_LIMIT)
        };
        let deadline = Instant::now() + START_LIMIT;
        let target = format!("--op new --mode target --tid 1 -T {TGT_NAME}");
        // It takes a moment until it listens.
        loop {
            let done = admin(&target, None)?;
            if done.status.success() {
                break;
            }
            if Instant::now() > deadline {
                done.with_status(&[0])?;
            }
            std::thread::sleep(TGT_PAUSE);
        }
        let unit = "--op new --mode logicalunit --tid 1 --lun 1";
        admin(unit, Some(file))?.with_status(&[0])?;
        admin("--op bind --mode target --tid 1 -I ALL", None)?.with_status(&[0])?;
        let url = Some(url(port, TGT_NAME, 1)?);
        Ok(Server { _process: process, folder, kind: "", url, shell_line })
    }

    /// Where the file is.
    pub(super) fn url(&self) -> Option<&IscsiUrl> {
        self.url.as_ref()
    }

    /// The command line.
    pub(super) fn shell_line(&self) -> String {
        self.shell_line.clone()
    }
}

/// tgt's program, if it is installed.
pub(super) fn tgt_program() -> Option<PathBuf> {
    // Not everyone has the folder of administrators' programs on their path.
    on_path("tgtd").or_else(|| Some(PathBuf::from("/usr/sbin/tgtd")).filter(|path| path.exists()))
}

/// `cohort shared-disk serve` of the file, its own files in `folder`.
fn serve(cohort: &Path, file: &Path, folder: &Path) -> Invocation {
    Invocation::new("server", cohort)
        .words("shared-disk serve")
        .arg(listed(file))
        .arg("--state")
        .arg(folder.join("reservations"))
        .arg("--control")
        .arg(folder.join("control"))
}

fn folder() -> Result<TempDir, BenchError> {
    tempfile::tempdir().map_err(|source| BenchError::File {
        what: "make a file in",
        path: std::env::temp_dir(),
        source,
    })
}

/// A port of the loopback interface that nobody listens on.
fn free_port() -> Result<u16, BenchError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(BenchError::scsi)?;
    Ok(listener.local_addr().map_err(BenchError::scsi)?.port())
}

fn url(port: u16, name: &str, lun: u16) -> Result<IscsiUrl, BenchError> {
    format!("iscsi://127.0.0.1:{port}/{name}/{lun}").parse().map_err(BenchError::scsi)
}
