//! Linux guests: Debian's stock kernel with an initrd that runs one command.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Cohort, cpio};

/// The variable with the folder of files that guests boot from. `cargo xtask test` makes and names
/// it, on this machine and in its outer machine; `cargo xtask setup` makes it and prints the name.
pub const FILES: &str = "COHORT_DEBIAN";

/// The folder with `vmlinuz` and `initrd`.
///
/// # Panics
/// Where [`FILES`] does not name it.
pub fn files() -> PathBuf {
    std::env::var_os(FILES)
        .expect("COHORT_DEBIAN names a folder with vmlinuz and initrd; see `cargo xtask test`")
        .into()
}

/// Whether [`files`] are there. Where they are not the test is to return at once: this has printed
/// why.
pub fn files_are_there() -> bool {
    let there = std::env::var_os(FILES).is_some();
    if !there {
        println!("skipped: `cargo xtask test` makes the guests' files and names them in {FILES}");
    }
    there
}

/// The kernel command line that serves most tests.
pub const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off";

/// A guest that hangs ends after this, ahead of the test's own patience.
const LIMIT: &str = "80s";

/// A Linux guest that runs a shell script and ends with its status.
pub fn guest(script: &str) -> Cohort {
    guest_with(CMDLINE, script)
}

/// The same, with this kernel command line.
pub fn guest_with(cmdline: &str, script: &str) -> Cohort {
    guest_of(&files().join("vmlinuz"), cmdline, script)
}

/// The same, with another image of the kernel.
pub fn guest_of(kernel: &Path, cmdline: &str, script: &str) -> Cohort {
    booted(kernel, cmdline, LIMIT, script)
}

/// The same, which may take longer than others.
pub fn guest_within(limit: &str, script: &str) -> Cohort {
    booted(&files().join("vmlinuz"), CMDLINE, limit, script)
}

fn booted(kernel: &Path, cmdline: &str, limit: &str, script: &str) -> Cohort {
    let run = Cohort::new(["run", "-k"]).arg(kernel);
    let initrd = run.folder().join("initrd");
    write_initrd(&files().join("initrd"), script, &initrd);
    let cmdline = format!("{cmdline} -- sh /script");
    run.arg("--initrd").arg(initrd).args([
        "-a",
        &cmdline,
        "--timeout",
        limit,
        "--outcome",
        "outcome.json",
    ])
}

/// Linux unpacks archives that follow one another: the prepared one, then the script.
fn write_initrd(prepared: &Path, script: &str, into: &Path) {
    let mut archive = cpio::Archive::new();
    archive.file("script", 0o755, script.as_bytes()).expect("a short script");
    let mut initrd = fs::read(prepared).expect("the prepared initrd");
    initrd.extend(archive.finish().expect("an archive in memory"));
    fs::write(into, initrd).expect("an initrd in the test's folder");
}
