//! Chains of layers to measure: a folder of files that is removed afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use storage::{
    AlignedBuffer, Buffers, Disk, DiskOptions, DiskRange, DiskRequest, EngineChoice, Operation,
};
use tempfile::TempDir;

use crate::bench::BenchError;

/// The smallest run of bytes that belong to one layer before those of the next one begin.
pub(super) const QCOW2_CLUSTER: u64 = 64 << 10;

/// Chains in a folder. Killed by SIGKILL, this process leaves it behind.
pub(super) struct Stacks {
    folder: TempDir,
    size: u64,
}

impl Stacks {
    /// Chains of disks of `size` bytes, in the folder for temporary files.
    pub(super) fn new(size: u64) -> Result<Stacks, BenchError> {
        let folder = std::env::temp_dir();
        let made = tempfile::Builder::new().prefix("cohort-bench-").tempdir_in(&folder);
        let folder = made.map_err(|source| BenchError::File {
            what: "make a folder in",
            path: folder,
            source,
        })?;
        Ok(Stacks { folder, size })
    }

    /// A file in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A chain of `depth` runtime layers, each of which holds its share of the disk in runs of `run`
    /// bytes; the top layer's path.
    pub(super) fn layers(
        &self,
        cohort: &Path,
        depth: u64,
        run: u64,
    ) -> Result<PathBuf, BenchError> {
        let mut parent: Option<PathBuf> = None;
        for place in 0..depth {
            let path = self.path(&format!("{depth}-{run}-{place}.layer"));
            let mut create = Command::new(cohort);
            create.args(["disk", "create"]).arg(&path);
            match &parent {
                Some(parent) => create.arg("--parent").arg(parent),
                None => create.arg("--size").arg(format!("{}B", self.size)),
            };
            done(create)?;
            write(
                &path,
                self.runs(depth, place, run),
                run,
                u8::try_from(1 + place % 255).unwrap_or(1),
            )?;
            parent = Some(path);
        }
        Ok(parent.unwrap_or_default())
    }

    /// A fresh runtime layer without a parent.
    pub(super) fn empty(&self, cohort: &Path, name: &str) -> Result<PathBuf, BenchError> {
        let path = self.path(name);
        let mut create = Command::new(cohort);
        create.args(["disk", "create"]).arg(&path).arg("--size").arg(format!("{}B", self.size));
        done(create)?;
        Ok(path)
    }

    /// A fresh runtime layer on `parent`.
    pub(super) fn child(
        &self,
        cohort: &Path,
        parent: &Path,
        name: &str,
    ) -> Result<PathBuf, BenchError> {
        let path = self.path(name);
        let _ = std::fs::remove_file(&path);
        let mut create = Command::new(cohort);
        create.args(["disk", "create"]).arg(&path).arg("--parent").arg(parent);
        done(create)?;
        Ok(path)
    }

    /// The same chain as qcow2 images.
    pub(super) fn qcow2(&self, depth: u64, run: u64) -> Result<PathBuf, BenchError> {
        let mut parent: Option<PathBuf> = None;
        for place in 0..depth {
            let path = self.path(&format!("{depth}-{place}.qcow2"));
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2"]);
            match &parent {
                Some(parent) => create.args(["-F", "qcow2", "-b"]).arg(parent).arg(&path),
                None => create.arg(&path).arg(self.size.to_string()),
            };
            done(create)?;
            let mut write = Command::new("qemu-io");
            write.args(["-f", "qcow2"]);
            for at in self.runs(depth, place, run) {
                write.arg("-c").arg(format!("write -q -P {} {at} {run}", 1 + place % 255));
            }
            done({
                write.arg(&path);
                write
            })?;
            parent = Some(path);
        }
        Ok(parent.unwrap_or_default())
    }

    /// A fresh qcow2 image on `parent`.
    pub(super) fn qcow2_child(
        &self,
        parent: &Path,
        format: &str,
        name: &str,
    ) -> Result<PathBuf, BenchError> {
        let path = self.path(name);
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-F", format, "-b"]).arg(parent).arg(&path);
        done(create)?;
        Ok(path)
    }

    /// Where the runs are that layer `place` of `depth` holds.
    fn runs(&self, depth: u64, place: u64, run: u64) -> impl Iterator<Item = u64> {
        (0..self.size / run).filter(move |r| r % depth == place).map(move |r| r * run)
    }
}

/// Writes `len` bytes of `byte` to each of these places of the disk at `path`.
pub(super) fn write(
    path: &Path,
    places: impl Iterator<Item = u64>,
    len: u64,
    byte: u8,
) -> Result<(), BenchError> {
    let mut memory = Arc::new(AlignedBuffer::new(usize::try_from(len).unwrap_or_default()));
    if let Some(memory) = Arc::get_mut(&mut memory) {
        memory.bytes().fill(byte);
    }
    visit(path, Operation::Write, places, (&memory, len), || Ok(()))
}

/// Reads 4 KiB at each of these places of the disk at `path`; `done` is called while it is still
/// open.
pub(super) fn read(
    path: &Path,
    places: impl Iterator<Item = u64>,
    done: impl FnOnce() -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    visit(path, Operation::Read, places, (&Arc::new(AlignedBuffer::new(4096)), 4096), done)
}

fn visit(
    path: &Path,
    operation: Operation,
    places: impl Iterator<Item = u64>,
    (memory, len): (&Arc<AlignedBuffer>, u64),
    done: impl FnOnce() -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let failed = |source| failed(path, source);
    let options = DiskOptions { engine: EngineChoice::Positional, ..DiskOptions::default() };
    let disk = Disk::open(path, &options).map_err(|error| failed(Box::new(error)))?;
    let mut queue = disk.queue(1).map_err(|error| failed(Box::new(error)))?;
    let mut ask = |operation, range, buffers| {
        let answer = queue.submit(0, DiskRequest { operation, range, buffers });
        answer.unwrap_or(Ok(())).map_err(|error| failed(Box::new(error)))
    };
    for at in places {
        let range = DiskRange::new(at, len).unwrap_or_default();
        ask(operation, range, Buffers::whole(memory))?;
    }
    ask(Operation::Flush, DiskRange::EMPTY, Buffers::none())?;
    done()
}

/// That a disk cannot be used.
pub(super) fn failed(path: &Path, source: Box<dyn std::error::Error + Send + Sync>) -> BenchError {
    BenchError::File { what: "use", path: path.to_owned(), source: std::io::Error::other(source) }
}

/// Runs a tool to its end.
fn done(mut command: Command) -> Result<(), BenchError> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().map_err(|source| BenchError::Start { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(BenchError::Ended {
        who: command.get_program().to_string_lossy().into_owned(),
        status: output.status,
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
