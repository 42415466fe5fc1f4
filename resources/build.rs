//! Compiles the built-in guest: `guest/src` twice through `rustc` itself, its library and then
//! the kernel image on top. Not through cargo, because the image is for no operating system
//! whatever cargo's profile and target are, and because `core` for it comes with every toolchain
//! that can build Linux programs.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The target whose `core` the guest links. It stays away from all that is Linux's.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error=the built-in guest was not built: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let guest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("guest");
    let out = PathBuf::from(variable("OUT_DIR")?);
    for input in ["src", "link.ld"] {
        println!("cargo::rerun-if-changed={}", guest.join(input).display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    let library = out.join("libcohort_guest.rlib");
    rustc(&guest.join("src/lib.rs"), "cohort_guest", "rlib", &library, |_| {})?;

    rustc(&guest.join("src/main.rs"), "guest", "bin", &out.join("guest.elf"), |command| {
        let mut external = OsString::from("cohort_guest=");
        external.push(&library);
        command.arg("--extern").arg(external);
        // One pass over everything: calls across the two crates and `core` are inlined, and what
        // is not used goes.
        command.args(["-C", "lto=fat"]);
        let mut script = OsString::from("link-arg=-Wl,-T,");
        script.push(guest.join("link.ld"));
        command.arg("-C").arg(script);
        for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
            command.arg("-C").arg(format!("link-arg={argument}"));
        }
        for argument in ["max-page-size=4096", "noexecstack"] {
            command.arg("-C").arg(format!("link-arg=-Wl,-z,{argument}"));
        }
    })
}

/// Runs the compiler on one crate of the guest. The same code comes out in every cargo profile.
fn rustc(
    source: &Path,
    name: &str,
    kind: &str,
    output: &Path,
    more: impl FnOnce(&mut Command),
) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(variable("RUSTC")?);
    command.arg(source).arg("-o").arg(output);
    command.args(["--edition", "2024", "--crate-name", name, "--crate-type", kind]);
    command.args(["--target", TARGET]);
    for option in [
        "panic=abort",
        "opt-level=3",
        "codegen-units=1",
        "relocation-model=static",
        "strip=debuginfo",
    ] {
        command.args(["-C", option]);
    }
    more(&mut command);
    let run = command
        .output()
        .map_err(|error| format!("{:?} cannot be started: {error}", command.get_program()))?;
    let messages = String::from_utf8_lossy(&run.stderr);
    if !run.status.success() {
        eprintln!("{command:?}\n{messages}");
        let source = source.display();
        return Err(format!("rustc failed on {source} for {TARGET} (its messages follow)").into());
    }
    for line in messages.lines() {
        println!("cargo::warning={line}");
    }
    Ok(())
}

fn variable(name: &str) -> Result<OsString, String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}
