//! Second opinions on disk formats that this machine's packages do not give: the other version of
//! QEMU's tools, and files that others made. Fetched once, into the cache.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use cohort_tests::oracles::{FILES, QEMU, Qemu};

use crate::archive::Archive;
use crate::cache::Cache;
use crate::tool;

/// Versions of QEMU's tools that the tests ask, and the Debian releases that have them.
const QEMU_RELEASES: [(u32, &str); 2] = [(7, "bookworm"), (10, "trixie")];

/// Sources of Debian packages with disk files in their tests, and the releases.
const SOURCES: [(&str, &str); 2] = [("qemu", "bookworm"), ("dfvfs", "trixie")];

/// A Python package with disk files in its tests. No release of Debian has it.
const PYTHON_PACKAGE: &str = "dissect.hypervisor==3.10 \
    --hash=sha256:84f63c4a139ef0056027d90aba0c289c385a2ffef3660aa0b4f2fe627eefbe26\n";

/// SHA-256 and name of every file that the tests read.
const DIGESTS: &str = include_str!("oracles.sha256");

/// Where everything is.
pub(crate) struct Oracles {
    qemu: Vec<PathBuf>,
    files: PathBuf,
}

impl Oracles {
    /// Fetches what the cache has not.
    pub(crate) fn fetch(cache: &Cache) -> Result<Oracles> {
        let installed = Qemu::installed().major();
        let mut qemu = Vec::new();
        for (_, release) in QEMU_RELEASES.into_iter().filter(|(major, _)| installed != Some(*major))
        {
            let key = format!("qemu-utils-{release}");
            qemu.push(cache.entry(&key, |into| qemu_utils(release, into))?.join("bin"));
        }
        let key = format!("disk-files-{}", &blake3::hash(DIGESTS.as_bytes()).to_hex()[..16]);
        let files = cache.entry(&key, disk_files)?;
        Ok(Oracles { qemu, files })
    }

    /// Tells a command that runs tests where to find all this.
    pub(crate) fn tell(&self, command: &mut Command) -> Result<()> {
        command.env(QEMU, std::env::join_paths(&self.qemu)?).env(FILES, &self.files);
        Ok(())
    }
}

/// A root with the tools, and scripts that run them with its own libraries.
fn qemu_utils(release: &str, into: &Path) -> Result<()> {
    eprintln!("fetching QEMU's tools of Debian {release}");
    Archive::open(&[release])?.unpack(release, &["qemu-utils"], into)?;
    // Some releases have what is needed early in folders of its own.
    let loader = ["lib64", "usr/lib64"].map(|folder| format!("{folder}/ld-linux-x86-64.so.2"));
    let loader = loader.iter().find(|path| into.join(path).exists());
    let loader = loader.context("a root without a dynamic loader")?;
    let bin = into.join("bin");
    fs::create_dir_all(&bin)?;
    for tool in ["qemu-img", "qemu-io"] {
        let script = bin.join(tool);
        let lib = "lib/x86_64-linux-gnu";
        let lines = format!(
            "#!/bin/sh\n\
             root=${{0%/*}}/..\n\
             exec \"$root/{loader}\" --library-path \"$root/{lib}:$root/usr/{lib}\" \
             \"$root/usr/bin/{tool}\" \"$@\"\n"
        );
        fs::write(&script, lines)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Puts the files of [`DIGESTS`] into a folder.
fn disk_files(into: &Path) -> Result<()> {
    eprintln!("fetching disk files that others made (130 MB)");
    let releases = SOURCES.map(|(_, release)| release);
    let archive = Archive::open(&releases).context("the lists of Debian's archive")?;
    let scratch = tempfile::tempdir_in(into)?;
    for (package, release) in SOURCES {
        extract(&archive.source(release, package)?, scratch.path())?;
    }
    extract(&python_package(scratch.path())?, scratch.path())?;
    for name in DIGESTS.lines().filter_map(|line| line.split_whitespace().nth(1)) {
        let found = tool::output(tool::tool("find").arg(scratch.path()).args(["-name", name]))?;
        let found =
            found.lines().next().with_context(|| format!("no source has {name} any more"))?;
        fs::rename(found, into.join(name))?;
    }
    let list = scratch.path().join("digests");
    fs::write(&list, DIGESTS)?;
    let mut check = tool::tool("sha256sum");
    tool::quiet(check.args(["--check", "--strict", "--quiet"]).arg(list).current_dir(into))
        .context("a file is not the one that the tests know")
}

/// The Python package's source. pip itself holds the digest against what it gets.
fn python_package(folder: &Path) -> Result<PathBuf> {
    let into = folder.join("python");
    let wanted = folder.join("requirements");
    fs::write(&wanted, PYTHON_PACKAGE)?;
    let mut pip = tool::tool("/usr/bin/python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--no-binary", ":all:", "--require-hashes", "-r"])
        .arg(wanted)
        .arg("--dest")
        .arg(&into);
    tool::quiet(&mut pip)?;
    crate::debian::only_entry(&into, "dissect")
}

/// Unpacks the VHDX files of a tar file, as they are after their own decompression.
fn extract(tar: &Path, into: &Path) -> Result<()> {
    let mut command = tool::tool("tar");
    command
        .args(["--no-same-owner", "-xf"])
        .arg(tar)
        .arg("-C")
        .arg(into)
        .args(["--wildcards", "*vhdx*"]);
    tool::quiet(&mut command)?;
    let script = "find . -name '*vhdx.gz' -exec gunzip {} + \
                  && find . -name '*vhdx.bz2' -exec bunzip2 {} + \
                  && find . -name '*vhdx' -exec fallocate --dig-holes {} ';'";
    tool::quiet(tool::tool("sh").args(["-ec", script]).current_dir(into))
}
