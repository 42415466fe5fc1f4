//! A root of stock Debian packages for guests that share a disk: what cluster nodes use to reserve,
//! fence and lease it. Unpacked, never installed: no maintainer script runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

use crate::archive::Archive;
use crate::tool;

/// The tools, and of what fence agents are written in the modules that all of them import. Comes
/// with all that these depend on.
const PACKAGES: &[&str] =
    &["sg3-utils", "sanlock", "python3-minimal", "python3-pexpect", "python3-pycurl"];
/// Depends on the interfaces of many clouds, which fencing through a disk does not use.
const ALONE: &str = "fence-agents";
/// What only people or maintainer scripts use.
const UNUSED: &[&str] = &[
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl",
];
/// Debian's Python, which is also the guest's: both are of one release.
const PYTHON: &str = "/usr/bin/python3";
/// Where Python looks for modules, and fence agents for theirs. Compiled ahead, since the guest
/// cannot keep what it compiles.
const MODULES: &str = "for folder in usr/lib/python3.* usr/lib/python3 usr/share/fence; do
    $0 -m compileall -q --invalidation-mode unchecked-hash $folder
done";
/// Bytes that a root is made from: with any of them another, it is another root.
pub(crate) const RECIPE: &[u8] = include_bytes!("debian_packages.rs");

/// Unpacks everything, as this release of Debian has it, into a folder.
pub(crate) fn unpack(release: &str, into: &Path) -> Result<()> {
    eprintln!("fetching the tools of cluster nodes (35 MB)");
    let archive = Archive::open(&[release]).context("the lists of Debian's archive")?;
    archive.unpack(release, PACKAGES, into)?;
    archive.unpack_alone(release, ALONE, into)?;
    for folder in UNUSED.iter().map(|folder| into.join(folder)).filter(|folder| folder.exists()) {
        fs::remove_dir_all(folder)?;
    }
    // Releases differ in what is in these folders, and programs in which of the names they use.
    for folder in ["bin", "sbin", "lib", "lib64"] {
        let link = into.join(folder);
        if !link.exists() {
            symlink(format!("usr/{folder}"), link)?;
        }
    }
    tool::quiet(tool::tool("sh").args(["-ec", MODULES, PYTHON]).current_dir(into))
}
