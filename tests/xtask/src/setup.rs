//! `cargo xtask setup`: the Debian packages that tests and nested runs need.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::tool;

/// What is needed, and for what.
const PACKAGES: &[(&str, &str)] = &[
    ("busybox-static", "user space of the machines that tests boot"),
    ("bzip2", "disk files that others made"),
    ("ca-certificates", "cargo's downloads"),
    ("cpio", "the second opinion on initial RAM file systems"),
    ("debian-archive-keyring", "packages of other releases"),
    ("e2fsprogs", "ext4 images"),
    ("erofs-utils", "images that guests map"),
    ("fio", "the yardstick of block benchmarks"),
    ("gcc", "linker, and the C parts of compression crates"),
    ("kmod", "order of kernel modules"),
    ("libc6-dev", "linking"),
    ("libiscsi-bin", "the initiator that judges shared disks"),
    ("libcunit1", "the same"),
    ("lz4", "the second opinion on kernel payloads"),
    ("python3-libvhdi", "the second opinion on VHDX chains"),
    ("python3-pip", "disk files that others made"),
    ("qemu-block-extra", "guests that reach shared disks through iSCSI"),
    ("qemu-system-x86", "the nested way's outer machine, comparisons"),
    ("qemu-utils", "the second opinion on disk images and their locks"),
    ("tgt", "the target that judges the initiator of shared disks"),
    ("util-linux", "setpriv, which ends an outer machine with its task"),
    ("xz-utils", "kernel modules, the second opinion on kernel payloads"),
    ("zstd", "the second opinion on kernel payloads"),
];

/// What is built from QEMU's source depends on one another by exact version, and is installed
/// together.
const QEMU: &[&str] = &["qemu-block-extra", "qemu-system-x86", "qemu-utils"];

/// How long another package manager may hold its locks.
const LOCK_WAIT: Duration = Duration::from_secs(600);

/// Installs what is missing when run by root; otherwise fails with the command that does.
pub(crate) fn run() -> Result<()> {
    let installed = Installed::query()?;
    let missing: Vec<&str> =
        PACKAGES.iter().map(|(name, _)| *name).filter(|name| !installed.has(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let plan = Plan::new(&missing, &installed)?;
    if fs::metadata("/proc/self")?.uid() != 0 {
        bail!("packages are missing; install them with:\n  {}", plan.for_user());
    }
    eprintln!("installing {}", missing.join(" "));
    plan.carry_out()
}

/// The packages that are installed, with versions.
struct Installed(Vec<(String, String)>);

impl Installed {
    fn query() -> Result<Installed> {
        let listing = tool::output(tool::tool("dpkg-query").args([
            "-W",
            "-f",
            "${db:Status-Status} ${Package} ${Version}\n",
        ]))
        .context("the tests need Debian's packages, and dpkg-query does not answer")?;
        Ok(Installed::parse(&listing))
    }

    fn parse(listing: &str) -> Installed {
        let package = |line: &str| {
            let mut words = line.split(' ');
            match (words.next()?, words.next()?, words.next()?) {
                ("installed", name, version) => Some((name.to_owned(), version.to_owned())),
                _ => None,
            }
        };
        Installed(listing.lines().filter_map(package).collect())
    }

    fn has(&self, package: &str) -> bool {
        self.version(package).is_some()
    }

    fn version(&self, package: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == package).map(|(_, version)| version.as_str())
    }
}

/// How the missing packages get installed.
struct Plan {
    packages: Vec<String>,
    /// The release to install from and its archive, where that is not the default: a qemu-utils
    /// from the backports takes the other packages of [`QEMU`] from there too. Otherwise apt would
    /// have to remove it.
    release: Option<(String, String)>,
}

impl Plan {
    fn new(missing: &[&str], installed: &Installed) -> Result<Plan> {
        let mut packages: Vec<String> = missing.iter().map(|name| (*name).to_owned()).collect();
        let backported = installed.version("qemu-utils").is_some_and(|v| v.contains("~bpo"));
        if !missing.iter().any(|name| QEMU.contains(name)) {
            return Ok(Plan { packages, release: None });
        }
        if backported {
            return Ok(Plan { packages, release: Some(backports()?) });
        }
        let others = QEMU.iter().filter(|name| !missing.contains(name));
        packages.extend(others.map(|name| (*name).to_owned()));
        Ok(Plan { packages, release: None })
    }

    fn for_user(&self) -> String {
        let install = format!("sudo apt-get update && sudo {}", tool::line(&self.install()));
        match &self.release {
            None => install,
            Some((release, archive)) => format!(
                "echo 'deb {archive} {release} main' \
                 | sudo tee /etc/apt/sources.list.d/{release}.list && {install}"
            ),
        }
    }

    fn carry_out(&self) -> Result<()> {
        let mut sources = Vec::new();
        let list = tempfile::Builder::new().suffix(".list").tempfile()?;
        if let Some((release, archive)) = &self.release {
            // The machine's own list stays in force beside the added line.
            let own = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
            fs::write(list.path(), format!("{own}\ndeb {archive} {release} main\n"))?;
            sources = vec![
                "-o".to_owned(),
                format!("Dir::Etc::sourcelist={}", list.path().display()),
                "-o".to_owned(),
                "Dir::Etc::sourceparts=/etc/apt/sources.list.d".to_owned(),
            ];
        }
        patiently(|| {
            let mut update = tool::tool("apt-get");
            update.args(["update", "-qq"]).args(&sources);
            update
        })?;
        patiently(|| {
            let mut install = self.install();
            install.arg("-qq").args(&sources);
            install
        })
    }

    fn install(&self) -> Command {
        let mut command = tool::tool("apt-get");
        command
            .args(["install", "-y", "--no-install-recommends", "--no-remove"])
            .env("DEBIAN_FRONTEND", "noninteractive");
        if let Some((release, _)) = &self.release {
            command.args(["-t", release]);
        }
        command.args(&self.packages);
        command
    }
}

/// The backports' release name, and the archive to fetch it from.
fn backports() -> Result<(String, String)> {
    let (codename, archive) = release_and_archive()?;
    Ok((format!("{codename}-backports"), archive))
}

/// The name of the release that this machine runs, and the archive that it uses.
pub(crate) fn release_and_archive() -> Result<(String, String)> {
    let os = fs::read_to_string("/etc/os-release").context("/etc/os-release cannot be read")?;
    let codename = os
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no VERSION_CODENAME")?;
    let targets = tool::output(tool::tool("apt-get").args([
        "indextargets",
        "--format",
        "$(CODENAME) $(REPO_URI)",
    ]))?;
    let archive = archive_of(&targets, codename)
        .with_context(|| format!("apt has no source for {codename}"))?;
    Ok((codename.to_owned(), archive.to_owned()))
}

/// The archive of a release, from lines of release and archive.
fn archive_of<'a>(targets: &'a str, codename: &str) -> Option<&'a str> {
    targets
        .lines()
        .find_map(|line| line.split_once(' ').filter(|(name, _)| *name == codename))
        .map(|(_, uri)| uri)
}

/// Runs an apt command, again and again while another package manager holds the locks.
fn patiently(command: impl Fn() -> Command) -> Result<()> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match tool::quiet(&mut command()) {
            Err(error)
                if error.to_string().contains("Could not get lock")
                    && Instant::now() < deadline =>
            {
                eprintln!("apt is in use by another program; waiting");
                std::thread::sleep(Duration::from_secs(5));
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Installed, Plan, archive_of};

    #[test]
    fn packages_that_were_removed_do_not_count_as_installed() {
        let installed = Installed::parse(
            "installed cpio 2.13\nconfig-files fio 3.33-3\nnot-installed kmod \ninstalled xz-utils 5\n",
        );
        assert!(installed.has("cpio") && installed.has("xz-utils"));
        assert!(!installed.has("fio") && !installed.has("kmod"));
    }

    #[test]
    fn the_rest_of_qemu_is_named_beside_what_is_missing_so_that_it_stays() {
        let installed = Installed::parse("installed qemu-utils 1:7.2+dfsg-7\n");
        let plan = Plan::new(&["qemu-system-x86", "fio"], &installed).unwrap();
        assert_eq!(plan.packages, ["qemu-system-x86", "fio", "qemu-block-extra", "qemu-utils"]);
        assert!(plan.release.is_none());
        let command = plan.for_user();
        assert!(command.contains("--no-remove") && command.contains("sudo apt-get install"));
    }

    #[test]
    fn a_release_is_fetched_from_the_archive_that_serves_it_now() {
        let targets = "trixie mirror:/a/\nbookworm-updates mirror:/b/\nbookworm mirror:/c/\n";
        assert_eq!(archive_of(targets, "bookworm"), Some("mirror:/c/"));
        assert_eq!(archive_of(targets, "sid"), None);
    }
}
