//! Debian's stock cloud kernel: fetched as a package, unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::tool;

/// The package that depends on the current cloud kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel package.
pub(crate) struct Kernel {
    /// The packaged bzImage.
    pub(crate) image: PathBuf,
    /// The folder of its modules, `modules.dep` and `kernel/` within.
    modules: PathBuf,
    /// Its key in the cache: package and version.
    pub(crate) key: String,
}

/// A kernel module, ready to be inserted.
pub(crate) struct Module {
    /// File name without folder, `virtio_blk.ko`.
    pub(crate) file_name: String,
    /// Content, decompressed.
    pub(crate) content: Vec<u8>,
}

impl Kernel {
    /// The current kernel package of the Debian release that this machine runs; without package
    /// lists and network, the latest one fetched before.
    pub(crate) fn fetch(cache: &Cache) -> Result<Kernel> {
        match current_package() {
            Ok((package, version)) => {
                let key = format!("{package}_{}", version.replace([':', '/'], "_"));
                let folder = cache.entry(&key, |into| unpack(&package, &version, into))?;
                Kernel::in_folder(&folder, key)
            }
            Err(error) => match cache.keys("linux-image-")?.pop() {
                Some(key) => Kernel::in_folder(&cache.entry(&key, |_| bail!("vanished"))?, key),
                None => Err(error),
            },
        }
    }

    fn in_folder(folder: &Path, key: String) -> Result<Kernel> {
        let image = only_entry(&folder.join("boot"), "vmlinuz-")?;
        let modules = only_entry(&modules_folder(folder), "")?;
        Ok(Kernel { image, modules, key })
    }

    /// The named modules and all that they depend on, each after what it depends on.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let dependencies = fs::read_to_string(self.modules.join("modules.dep"))?;
        insertion_order(&dependencies, names)?.into_iter().map(|path| self.module(path)).collect()
    }

    fn module(&self, path: &str) -> Result<Module> {
        let file = self.modules.join(path);
        let name = path.rsplit('/').next().unwrap_or(path);
        let content = match name.rsplit_once('.') {
            Some((_, "ko")) => fs::read(&file)?,
            Some((_, "xz")) => decompressed("xz", &file)?,
            Some((_, "zst")) => decompressed("zstd", &file)?,
            _ => bail!("{}: a module packed in an unknown way", file.display()),
        };
        let plain = name.trim_end_matches(".xz").trim_end_matches(".zst");
        Ok(Module { file_name: plain.to_owned(), content })
    }
}

/// The paths of modules to insert, in order, from the text of `modules.dep`. Each line there
/// names all that a module needs, nearest first.
fn insertion_order<'a>(dependencies: &'a str, names: &[&str]) -> Result<Vec<&'a str>> {
    let mut order: Vec<&str> = Vec::new();
    for name in names {
        let (module, needs) = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| module_name(path) == name.replace('-', "_"))
            .with_context(|| format!("the kernel package has no module {name}"))?;
        for path in needs.split_whitespace().rev().chain([module]) {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

/// The name that the kernel calls the module in this file.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// Package and version that the meta package depends on.
fn current_package() -> Result<(String, String)> {
    let show = || {
        tool::output(tool::tool("apt-cache").args(["show", "--no-all-versions", META_PACKAGE]))
            .and_then(|record| {
                dependency(&record).with_context(|| format!("apt knows no {META_PACKAGE}"))
            })
    };
    show().or_else(|_| {
        // A fresh machine has no package lists yet.
        tool::quiet(tool::tool("apt-get").args(["update", "-qq"]))?;
        show()
    })
}

/// The versioned dependency in a package record: `Depends: linux-image-6.1.0-1 (= 6.1.2-1)`.
fn dependency(record: &str) -> Option<(String, String)> {
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let (package, version) = depends.split(',').next()?.trim().split_once(" (= ")?;
    Some((package.to_owned(), version.strip_suffix(')')?.to_owned()))
}

fn unpack(package: &str, version: &str, into: &Path) -> Result<()> {
    eprintln!("fetching {package} {version}");
    // The folder is root's own, so apt need not try to write there as its own user.
    tool::quiet(
        tool::tool("apt-get")
            .args(["download", "-qq", "-o", "APT::Sandbox::User=root"])
            .arg(format!("{package}={version}"))
            .current_dir(into),
    )?;
    let archive = only_entry(into, "linux-image-")?;
    tool::quiet(tool::tool("dpkg").arg("-x").arg(&archive).arg(into))?;
    fs::remove_file(&archive)?;
    let release = only_entry(&modules_folder(into), "")?;
    let release = release.file_name().map(|name| name.to_string_lossy().into_owned());
    tool::quiet(tool::tool("depmod").arg("-b").arg(base(into)).args(release))
}

/// The folder that depmod calls the base: the one in which `lib/modules` is.
fn base(folder: &Path) -> PathBuf {
    if folder.join("lib/modules").is_dir() { folder.to_path_buf() } else { folder.join("usr") }
}

fn modules_folder(folder: &Path) -> PathBuf {
    base(folder).join("lib/modules")
}

/// The one entry of a folder whose name starts so.
pub(crate) fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut found = None;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix)
            && found.replace(entry.path()).is_some()
        {
            bail!("{} has several entries {prefix}*", folder.display());
        }
    }
    found.with_context(|| format!("{} has no entry {prefix}*", folder.display()))
}

fn decompressed(program: &str, file: &Path) -> Result<Vec<u8>> {
    let output = tool::tool(program).arg("-dc").arg(file).output()?;
    if !output.status.success() {
        bail!("{program} cannot decompress {}", file.display());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::{dependency, insertion_order};

    const DEPENDENCIES: &str = "\
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
";

    #[test]
    fn a_module_comes_after_all_that_it_needs_and_none_twice() {
        let order = insertion_order(DEPENDENCIES, &["virtio_blk", "virtio-rng"]).unwrap();
        let names: Vec<_> = order.iter().map(|path| path.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["virtio_ring.ko", "virtio.ko", "virtio_blk.ko", "virtio-rng.ko.xz"]);
    }

    #[test]
    fn a_module_that_the_package_lacks_is_named() {
        let error = insertion_order(DEPENDENCIES, &["9p"]).unwrap_err();
        assert!(error.to_string().contains("9p"));
    }

    #[test]
    fn the_real_kernel_package_is_read_from_the_meta_package() {
        let record = "Package: linux-image-cloud-amd64\nVersion: 6.1.2-1\n\
                      Depends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.2-1)\n";
        let (package, version) = dependency(record).unwrap();
        assert_eq!((&*package, &*version), ("linux-image-6.1.0-9-cloud-amd64", "6.1.2-1"));
    }
}
