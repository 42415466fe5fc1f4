//! Second opinions on disk formats: QEMU's tools in more than one version, libvhdi, and files that
//! others made. `cargo xtask test` has all of them; a plain `cargo test` what is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable with the folders of QEMU's tools in other versions than the installed one.
pub const QEMU: &str = "COHORT_QEMU";
/// The variable with the folder of files that others made.
pub const FILES: &str = "COHORT_DISK_FILES";

/// Debian's Python, for which its libraries are made.
const PYTHON: &str = "/usr/bin/python3";

/// Prints the bytes of a VHDX as libvhdi reads them. Each argument names a file; each but the last
/// is a child of the next one.
const READ_VHDX: &str = "\
import pyvhdi, shutil, sys
files = []
for name in sys.argv[1:]:
    file = pyvhdi.file()
    file.open(name)
    if files: files[-1].set_parent(file)
    files.append(file)
left = files[0].get_media_size()
while left:
    part = files[0].read(min(left, 1 << 20))
    if not part: sys.exit('a read of nothing, %d bytes before the end' % left)
    sys.stdout.buffer.write(part)
    left -= len(part)
";

/// Whether `cargo xtask test` runs this. Then what is missing is a failure.
fn complete() -> bool {
    std::env::var_os(QEMU).is_some()
}

/// Says that a second opinion is not at hand.
///
/// # Panics
/// Where `cargo xtask test` should have it.
pub(crate) fn skip(package: &str) {
    assert!(!complete(), "`cargo xtask setup` installs {package}");
    println!("skipped: {package} is not installed");
}

/// QEMU's tools in one version.
#[derive(Clone, Debug)]
pub struct Qemu {
    folder: Option<PathBuf>,
}

impl Qemu {
    /// The installed version.
    pub fn installed() -> Qemu {
        Qemu { folder: None }
    }

    /// Every version at hand.
    pub fn all() -> Vec<Qemu> {
        let others = std::env::var_os(QEMU).unwrap_or_default();
        let others = std::env::split_paths(&others).filter(|path| path.is_absolute());
        let others = others.map(|folder| Qemu { folder: Some(folder) });
        std::iter::once(Qemu::installed()).chain(others).collect()
    }

    /// A command that runs one of the tools.
    pub fn command(&self, tool: &str) -> Command {
        match &self.folder {
            Some(folder) => Command::new(folder.join(tool)),
            None => Command::new(tool),
        }
    }

    /// Whether one of the tools is there.
    ///
    /// # Panics
    /// Where `cargo xtask test` lacks it.
    pub fn has(&self, tool: &str) -> bool {
        let runs = self.command(tool).arg("--version").output();
        let there = runs.is_ok_and(|output| output.status.success());
        assert!(there || !complete(), "`cargo xtask setup` installs {tool}");
        if !there {
            println!("skipped: {tool} is not installed");
        }
        there
    }

    /// Runs one of the tools: whether it succeeded, and all that it said.
    ///
    /// # Panics
    /// Where it is not installed.
    pub fn run(&self, tool: &str, arguments: &[&str]) -> (bool, String) {
        let output = self.command(tool).args(arguments).output();
        let output = output.unwrap_or_else(|error| {
            panic!("{tool} ({self:?}): {error}; `cargo xtask setup` installs it")
        });
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs `qemu-img`, which must succeed; what it said.
    ///
    /// # Panics
    /// Where it fails.
    #[track_caller]
    pub fn img(&self, arguments: &[&str]) -> String {
        let (good, text) = self.run("qemu-img", arguments);
        assert!(good, "qemu-img {arguments:?} ({self:?}): {text}");
        text
    }

    /// The first number of the version; `None` where it does not run.
    pub fn major(&self) -> Option<u32> {
        let said = self.command("qemu-img").arg("--version").output().ok()?.stdout;
        let said = String::from_utf8_lossy(&said);
        said.strip_prefix("qemu-img version ")?.split('.').next()?.parse().ok()
    }
}

/// The bytes of a VHDX as libvhdi reads them, with its parents, nearest first. `None` where libvhdi
/// is not installed; else what it read, or said.
///
/// # Panics
/// Where `cargo xtask test` lacks it.
pub fn read_by_libvhdi(chain: &[&Path]) -> Option<Result<Vec<u8>, String>> {
    let run = |script| Command::new(PYTHON).args(["-c", script]).args(chain).output();
    if !run("import pyvhdi").is_ok_and(|output| output.status.success()) {
        skip("python3-libvhdi");
        return None;
    }
    let output = run(READ_VHDX).expect("it ran before");
    Some(match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    })
}

/// The folder of files that others made, which belong to the cache and are not to be changed.
/// `None` where `cargo xtask test` has not told it.
pub fn disk_files() -> Option<PathBuf> {
    let folder = std::env::var_os(FILES).map(PathBuf::from);
    if folder.is_none() {
        assert!(!complete(), "`cargo xtask test` names them in {FILES}");
        println!("skipped: `cargo xtask test` fetches the files that others made");
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::{Qemu, complete};

    #[test]
    fn both_versions_of_qemus_tools_are_asked() {
        let majors: Vec<_> = Qemu::all().iter().map(Qemu::major).collect();
        for major in [7, 10] {
            assert!(!complete() || majors.contains(&Some(major)), "{majors:?}");
        }
    }
}
