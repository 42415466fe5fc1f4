//! What Debian guests boot from: the packaged kernel, an initrd of busybox and the kernel's own
//! modules, and a root file system.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cohort_tests::cpio::Archive;

use crate::cache::Cache;
use crate::debian::Kernel;
use crate::stage::{Stage, make_ext4};
use crate::{debian_packages, setup, tool, tree, workspace};

/// The drivers of cohort's devices, and those of Linux for what is behind them.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "sg",
    "virtio-rng",
    "virtio_console",
    "virtio_pmem",
    "nd_pmem",
    "virtiofs",
    "erofs",
    "pvpanic-mmio",
];
/// Images of the tree that guests map.
const TREES: [&str; 2] = ["tree.erofs", "tree.ext4"];
const BUSYBOX: &str = "/bin/busybox";
const FIO: &str = "/usr/bin/fio";
/// Size of the root file system's image.
const ROOT_SIZE: u64 = 64 << 20;
/// Size of the image with the packages of cluster nodes, which fill half of it.
const NODE_SIZE: u64 = 192 << 20;
/// Programs of cluster nodes, in `resources/init/node`.
const NODE_PROGRAMS: &[&str] = &["count-up", "try-both", "write-on"];
/// The folder, beside the labs, in which the outer machine has these files.
const BESIDE_LABS: &str = "made-by-xtask-nested";

/// Prepared files, in the cache.
pub(crate) struct GuestFiles {
    /// The packaged bzImage.
    kernel: PathBuf,
    /// Busybox, modules, and `resources/init/initrd-init.sh` as `/init`.
    initrd: PathBuf,
    /// An ext4 image with busybox and the lab's checks as `/sbin/init`.
    root: PathBuf,
    /// An ext4 image with busybox, fio and `fio-verify.sh` as `/sbin/init`.
    fio_root: PathBuf,
    /// An ext4 image with Debian's packages for nodes that share a disk, and `node.sh` as
    /// `/sbin/init`.
    node_root: PathBuf,
    /// A folder with `tree.erofs` and `tree.ext4`, for guests to map.
    trees: PathBuf,
}

/// Makes what is not there yet.
pub(crate) fn prepare(cache: &Cache, kernel: &Kernel) -> Result<GuestFiles> {
    let init = workspace::root().join("resources/init");
    let busybox = fs::read(BUSYBOX).context(BUSYBOX)?;
    let initrd_init = fs::read(init.join("initrd.sh"))?;
    let root_init = fs::read(init.join("debian-checks.sh"))?;

    let guest_exit = program(cache, &init.join("guest-exit.rs"))?;
    let guest_exit_bytes = fs::read(&guest_exit)?;

    let mapped = fs::read(program(cache, &init.join("mapped.rs"))?)?;
    let locked = fs::read(program(cache, &init.join("locked.rs"))?)?;
    let modules = MODULES.join(" ");
    let initrd_parts = [
        kernel.key.as_bytes(),
        modules.as_bytes(),
        &busybox,
        &initrd_init,
        &guest_exit_bytes,
        &mapped,
        &locked,
    ];
    let initrd_key = key("initrd", &initrd_parts);
    let initrd = cache.entry(&initrd_key, |into| {
        let mut archive = Archive::new();
        archive.file("init", 0o755, &initrd_init)?;
        archive.file("bin/busybox", 0o755, &busybox)?;
        archive.file("bin/guest-exit", 0o755, &guest_exit_bytes)?;
        archive.file("bin/mapped", 0o755, &mapped)?;
        archive.file("bin/locked", 0o755, &locked)?;
        let mut order = String::new();
        for module in kernel.modules(MODULES)? {
            archive.file(&format!("modules/{}", module.file_name), 0o644, &module.content)?;
            order.push_str(&module.file_name);
            order.push('\n');
        }
        archive.file("modules/order", 0o644, order.as_bytes())?;
        Ok(fs::write(into.join("initrd"), archive.finish()?)?)
    })?;

    let root_key = key("root", &[&busybox, &root_init, &guest_exit_bytes]);
    let root = cache.entry(&root_key, |into| {
        let tree = into.join("tree");
        user_space(&tree, &guest_exit, &init.join("debian-checks.sh"))?;
        let image = into.join("root.ext4");
        File::create(&image)?.set_len(ROOT_SIZE)?;
        make_ext4(&tree, &image)?;
        Ok(fs::remove_dir_all(&tree)?)
    })?;

    let fio_init = fs::read(init.join("fio-verify.sh"))?;
    let fio_key = key("fio-root", &[&busybox, &fio_init, &guest_exit_bytes, &fs::read(FIO)?]);
    let fio_root = cache.entry(&fio_key, |into| {
        let mut stage = Stage::new(cache)?;
        user_space(stage.tree(), &guest_exit, &init.join("fio-verify.sh"))?;
        for folder in ["/data", "/run"] {
            stage.folder(Path::new(folder))?;
        }
        stage.program(Path::new(FIO), Path::new("/bin/fio"))?;
        stage.image(into).map(drop)
    })?;
    Ok(GuestFiles {
        node_root: node_root(cache, &busybox, &guest_exit)?,
        trees: cache.entry(
            &key("trees", &[tree::RECIPE, cohort_tests::tree::RECIPE, &busybox]),
            tree::make,
        )?,
        kernel: kernel.image.clone(),
        initrd: initrd.join("initrd"),
        root: root.join("root.ext4"),
        fio_root: fio_root.join("disk.ext4"),
    })
}

impl GuestFiles {
    /// Puts the files where `resources/labs/debian.toml` looks for them, a root image for each of
    /// its guests.
    pub(crate) fn stage_beside_labs(&self, stage: &mut Stage, labs: &Path) -> Result<()> {
        let folder = labs.join(BESIDE_LABS);
        stage.file(&self.kernel, &folder.join("vmlinuz"))?;
        stage.file(&self.initrd, &folder.join("initrd"))?;
        stage.file(&self.root, &folder.join("root-0.ext4"))?;
        stage.file(&self.root, &folder.join("root-1.ext4"))
    }

    /// Puts the files into a folder, under the names by which tests know them.
    pub(crate) fn stage_in(&self, stage: &mut Stage, folder: &Path) -> Result<()> {
        stage.file(&self.kernel, &folder.join("vmlinuz"))?;
        stage.file(&self.initrd, &folder.join("initrd"))?;
        stage.file(&self.fio_root, &folder.join("fio-root.ext4"))?;
        stage.file(&self.node_root, &folder.join("node-root.ext4"))?;
        for image in TREES {
            stage.file(&self.trees.join(image), &folder.join(image))?;
        }
        Ok(())
    }

    /// A folder of this machine with the files under the same names.
    pub(crate) fn folder(&self, cache: &Cache) -> Result<PathBuf> {
        let [erofs, ext4] = TREES.map(|image| (self.trees.join(image), image));
        let files = [
            (&self.kernel, "vmlinuz"),
            (&self.initrd, "initrd"),
            (&self.fio_root, "fio-root.ext4"),
            (&self.node_root, "node-root.ext4"),
            (&erofs.0, erofs.1),
            (&ext4.0, ext4.1),
        ];
        let paths: Vec<&[u8]> =
            files.iter().map(|(file, _)| file.as_os_str().as_encoded_bytes()).collect();
        cache.entry(&key("guests", &paths), |into| {
            files.iter().try_for_each(|(file, name)| Ok(symlink(file, into.join(name))?))
        })
    }
}

/// Makes the image of a node that shares a disk with others.
fn node_root(cache: &Cache, busybox: &[u8], guest_exit: &Path) -> Result<PathBuf> {
    let (release, _) = setup::release_and_archive()?;
    let packages_key = key("node-packages", &[release.as_bytes(), debian_packages::RECIPE]);
    let packages = cache.entry(&packages_key, |into| debian_packages::unpack(&release, into))?;

    let init = workspace::root().join("resources/init");
    let programs: Vec<PathBuf> =
        NODE_PROGRAMS.iter().map(|name| init.join("node").join(name)).collect();
    let mut inputs = vec![packages_key.into_bytes(), busybox.to_vec(), fs::read(guest_exit)?];
    for file in programs.iter().chain([&init.join("node.sh")]) {
        inputs.push(fs::read(file).with_context(|| file.display().to_string())?);
    }
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let folder = cache.entry(&key("node-root", &inputs), |into| {
        let tree = into.join("tree");
        tool::quiet(tool::tool("cp").args(["-a", "--"]).args([&packages, &tree]))?;
        user_space(&tree, guest_exit, &init.join("node.sh"))?;
        for (program, name) in programs.iter().zip(NODE_PROGRAMS) {
            executable(program, &tree.join("bin").join(name))?;
        }
        fs::create_dir(tree.join("run"))?;
        // Programs look up who they are.
        fs::write(tree.join("etc/passwd"), "root::0:0:root:/:/bin/sh\n")?;
        fs::write(tree.join("etc/group"), "root::0:\n")?;
        let image = into.join("root.ext4");
        File::create(&image)?.set_len(NODE_SIZE)?;
        make_ext4(&tree, &image)?;
        Ok(fs::remove_dir_all(&tree)?)
    })?;
    Ok(folder.join("root.ext4"))
}

/// Makes a root file system of busybox with this `/sbin/init` in a folder.
fn user_space(tree: &Path, guest_exit: &Path, init: &Path) -> Result<()> {
    for folder in ["bin", "sbin", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    fs::copy(BUSYBOX, tree.join("bin/busybox"))?;
    fs::copy(guest_exit, tree.join("bin/guest-exit"))?;
    for applet in tool::output(tool::tool(BUSYBOX).arg("--list"))?.lines() {
        let link = tree.join("bin").join(applet);
        if !link.exists() {
            symlink("busybox", link)?;
        }
    }
    executable(init, &tree.join("sbin/init"))
}

/// Copies a script to where it is run.
fn executable(script: &Path, to: &Path) -> Result<()> {
    fs::copy(script, to)?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

/// Compiles a program for Linux guests that needs no library.
fn program(cache: &Cache, source: &Path) -> Result<PathBuf> {
    let name = source.file_stem().context("a program without a name")?;
    let common = fs::read(source.with_file_name("system.rs"))?;
    let inputs = [fs::read(source)?, common];
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let folder = cache.entry(&key(&name.to_string_lossy(), &inputs), |into| {
        let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
        tool::quiet(
            tool::tool(&compiler)
                .args([
                    "--edition=2024",
                    "-Dwarnings",
                    "-Wunsafe-code",
                    "-Cpanic=abort",
                    "-Copt-level=s",
                ])
                .args(["-Crelocation-model=static", "-Cstrip=symbols", "-Clink-arg=-static"])
                .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-no-pie"])
                .arg("-o")
                .args([&into.join(name), source]),
        )
    })?;
    Ok(folder.join(name))
}

/// A cache key: a word and the digest of everything that the thing is made from.
fn key(word: &str, inputs: &[&[u8]]) -> String {
    let mut digest = blake3::Hasher::new();
    for input in inputs {
        digest.update(blake3::hash(input).as_bytes());
    }
    format!("{word}-{}", &digest.finalize().to_hex()[..16])
}
