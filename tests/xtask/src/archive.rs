//! Packages of Debian releases other than the one that this machine runs: fetched with lists of
//! their own, unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{debian, setup, tool};

/// apt with lists, state and cache of its own, in a temporary folder.
pub(crate) struct Archive {
    folder: tempfile::TempDir,
}

impl Archive {
    /// Fetches the lists of these releases, from the archive that this machine uses.
    pub(crate) fn open(releases: &[&str]) -> Result<Archive> {
        let folder = tempfile::tempdir()?;
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.path().join(part))?;
        }
        // No package counts as installed: what one needs comes with it, down to the C library.
        fs::write(folder.path().join("status"), "")?;
        let (_, uri) = setup::release_and_archive()?;
        let keys = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        let lines = releases.iter().flat_map(|release| {
            ["deb", "deb-src"].map(|kind| format!("{kind} {keys} {uri} {release} main\n"))
        });
        fs::write(folder.path().join("sources.list"), lines.collect::<String>())?;
        let archive = Archive { folder };
        tool::quiet(archive.apt().arg("update"))?;
        Ok(archive)
    }

    /// Unpacks packages and all that they need into a folder: a root to run their programs in.
    pub(crate) fn unpack(&self, release: &str, packages: &[&str], into: &Path) -> Result<()> {
        let options = ["-y", "--no-install-recommends", "--download-only", "-t", release];
        tool::quiet(self.apt().arg("install").args(options).args(packages))?;
        unpack_fetched(&self.folder.path().join("archives"), into)
    }

    /// Unpacks a package alone, without what it needs.
    pub(crate) fn unpack_alone(&self, release: &str, package: &str, into: &Path) -> Result<()> {
        let fetched = self.folder.path().join("alone");
        fs::create_dir_all(&fetched)?;
        let mut apt = self.apt();
        apt.arg("download").arg(format!("{package}/{release}"));
        tool::quiet(apt.current_dir(&fetched))?;
        unpack_fetched(&fetched, into)
    }

    /// The authors' own tar file of a package's source.
    pub(crate) fn source(&self, release: &str, package: &str) -> Result<PathBuf> {
        let into = self.folder.path().join(format!("{package}-source"));
        fs::create_dir(&into)?;
        let mut apt = self.apt();
        apt.args(["source", "--download-only", "--tar-only"]).arg(format!("{package}/{release}"));
        tool::quiet(apt.current_dir(&into))?;
        debian::only_entry(&into, package).context("the source of a package")
    }

    fn apt(&self) -> Command {
        let mut command = tool::tool("apt-get");
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        for (key, value) in [
            ("Dir::State::lists", path("lists")),
            ("Dir::State::status", path("status")),
            ("Dir::Cache", path("")),
            ("Dir::Etc::sourcelist", path("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("APT::Sandbox::User", "root".to_owned()),
            // Lists that cannot be fetched are an error at once, not a package unknown later.
            ("APT::Update::Error-Mode", "any".to_owned()),
            // Nothing here is shared with another package manager.
            ("Debug::NoLocking", "true".to_owned()),
        ] {
            command.args(["-o", &format!("{key}={value}")]);
        }
        command.arg("-qq");
        command
    }
}

/// Unpacks the packages that a folder holds, and deletes them.
fn unpack_fetched(fetched: &Path, into: &Path) -> Result<()> {
    for entry in fs::read_dir(fetched)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            tool::quiet(tool::tool("dpkg").arg("-x").arg(&path).arg(into))?;
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
