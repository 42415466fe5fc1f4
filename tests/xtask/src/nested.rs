//! `cargo xtask nested`: runs cohort in the outer machine as if it ran here.

use std::fs;
use std::io::{stderr, stdout};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::debian::Kernel;
use crate::outer::{self, Answer, Errand};
use crate::stage::Stage;
use crate::tool::quote;
use crate::{guest_files, workspace};

/// Where the binary is in the outer machine.
pub(crate) const COHORT: &str = "/usr/bin/cohort";
/// A folder beside a lab that is larger than this is not meant to be carried along.
const LAB_FOLDER_MAX: u64 = 4 << 30;

/// Runs cohort with these arguments in the outer machine and returns its exit status. Paths mean
/// what they mean here: the working directory has the same name there, and files that arguments
/// name (a lab with all of its folder) are at the same place.
pub(crate) fn run(arguments: &[String], limit: Duration) -> Result<u8> {
    let binary = workspace::release_binary()?;
    let cache = Cache::open()?;
    let kernel = Kernel::fetch(&cache)?;
    let here = std::env::current_dir()?;

    let files = guest_files::prepare(&cache, &kernel)?;
    let errand = || -> Result<Errand> {
        let mut stage = Stage::new(&cache)?;
        stage.program(&binary, Path::new(COHORT))?;
        stage.folder(&here)?;
        for argument in arguments {
            for file in named_files(argument) {
                carry(&mut stage, &here.join(file))?;
            }
        }
        if arguments.first().is_some_and(|command| command == "bench") {
            carry_peer(&mut stage)?;
        }
        files.stage_beside_labs(&mut stage, &workspace::root().join("resources/labs"))?;
        let words: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
        let command = format!(
            "export HOME=/ PATH=/usr/bin:/bin\ncd {} && exec cohort {}\n",
            quote(&here.to_string_lossy()),
            words.join(" ")
        );
        Ok(Errand { stage, command, limit })
    };
    let run = || outer::run(&cache, &kernel, errand()?, stdout(), stderr());
    if let Answer::Status(status) = run()? {
        return Ok(status);
    }
    eprintln!("the outer machine's emulation failed; starting it once more");
    match run()? {
        Answer::Status(status) => Ok(status),
        Answer::Died(report) => bail!("the outer machine ended without an answer; {report}"),
    }
}

/// The host files that an argument names: whole, before a comma (`--disk F,ro`) or after an
/// equals sign (`--initrd=F`, `--set key=F`).
fn named_files(argument: &str) -> Vec<PathBuf> {
    let value = argument.split_once('=').map(|(_, value)| value);
    let mut files: Vec<PathBuf> = [Some(argument), value]
        .into_iter()
        .flatten()
        .flat_map(|text| [text, text.split(',').next().unwrap_or(text)])
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect();
    files.dedup();
    files
}

/// Carries QEMU, with its libraries and its firmware, for benchmarks to compare with. Without it
/// they measure cohort alone, and say so.
fn carry_peer(stage: &mut Stage) -> Result<()> {
    let program = Path::new("/usr/bin/qemu-system-x86_64");
    if !program.is_file() {
        return Ok(());
    }
    stage.program(program, program)?;
    for folder in ["/usr/share/qemu", "/usr/share/seabios"] {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {folder}"))? {
            let file = entry?.path();
            if file.is_file() && file.extension().is_some_and(|extension| extension == "bin") {
                stage.file(&file, &file)?;
            }
        }
    }
    Ok(())
}

/// Carries a file, and for a lab everything that its folder holds, since a lab names its files
/// relative to itself.
fn carry(stage: &mut Stage, file: &Path) -> Result<()> {
    let name = file.file_name().context("a file without a name")?;
    let folder = file.parent().context("a file without a folder")?.canonicalize()?;
    let file = folder.join(name);
    stage.file(&file, &file)?;
    if file.extension().is_some_and(|extension| extension == "toml") {
        carry_folder(stage, &folder)?;
    }
    Ok(())
}

/// Carries all that a folder holds to the same place.
pub(crate) fn carry_folder(stage: &mut Stage, folder: &Path) -> Result<()> {
    let mut files = Vec::new();
    let size = walk(folder, &mut files)?;
    if size > LAB_FOLDER_MAX {
        bail!(
            "{} holds {} MiB, too much to carry into the outer machine; \
             put the lab into a folder with its own files only",
            folder.display(),
            size >> 20
        );
    }
    files.iter().try_for_each(|file| stage.file(file, file))
}

/// Collects the files below a folder and returns how many bytes of the host's disk they take.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            size += walk(&entry.path(), files)?;
        } else if kind.is_file() {
            // What is on the disk: a sparse image of any length is small.
            size += entry.metadata()?.blocks() * 512;
            files.push(entry.path());
        }
    }
    Ok(size)
}
