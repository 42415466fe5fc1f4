//! Checks on the files that a lab names, before anything starts.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::fields::Field;
use super::mistake::Collector;

/// Whether `path` is a file that can be read; if not, that is reported about `field`.
pub(super) fn check_file(path: &Path, field: &Field<'_>, mistakes: &mut Collector<'_>) -> bool {
    let problem = match fs::metadata(path) {
        Err(error) => Some((explain(&error), help(&error))),
        Ok(found) if !found.is_file() => Some(("is not a file".into(), "")),
        Ok(_) => match File::open(path) {
            Err(error) => Some((explain(&error), help(&error))),
            Ok(_) => None,
        },
    };
    report(path, problem, field, mistakes)
}

/// Whether `path` is a file that can be read, with something in it.
pub(super) fn check_content(path: &Path, field: &Field<'_>, mistakes: &mut Collector<'_>) -> bool {
    if !check_file(path, field, mistakes) {
        return false;
    }
    let empty = fs::metadata(path).is_ok_and(|found| found.len() == 0);
    let problem = empty.then(|| ("is empty, so there is nothing to share".to_owned(), ""));
    report(path, problem, field, mistakes)
}

/// Whether `path` is a folder that can be read.
pub(super) fn check_folder(path: &Path, field: &Field<'_>, mistakes: &mut Collector<'_>) -> bool {
    let problem = match fs::metadata(path) {
        Err(error) => Some((explain(&error), help(&error))),
        Ok(found) if !found.is_dir() => Some(("is not a folder".into(), "")),
        Ok(_) => match fs::read_dir(path) {
            Err(error) => Some((explain(&error), help(&error))),
            Ok(_) => None,
        },
    };
    report(path, problem, field, mistakes)
}

/// Whether `path` can hold a disk: a file, of whole sectors if it is a raw one, or a block device.
pub(super) fn check_disk(
    path: &Path,
    raw: bool,
    field: &Field<'_>,
    mistakes: &mut Collector<'_>,
) -> bool {
    let problem = match fs::metadata(path) {
        Err(error) => Some((explain(&error), help(&error))),
        Ok(found) if found.file_type().is_block_device() => None,
        Ok(found) if !found.is_file() => Some(("is neither a file nor a block device".into(), "")),
        Ok(found) if found.len() == 0 => {
            Some(("is empty".into(), "give it a size, as in: truncate -s 64M FILE"))
        }
        Ok(found) if raw && !found.len().is_multiple_of(512) => Some((
            format!("has {} bytes, which is not a multiple of 512", found.len()),
            "a raw disk has whole sectors: truncate -s %512 FILE rounds it up",
        )),
        Ok(_) => match File::open(path) {
            Err(error) => Some((explain(&error), help(&error))),
            Ok(_) => None,
        },
    };
    report(path, problem, field, mistakes)
}

fn report(
    path: &Path,
    problem: Option<(String, &str)>,
    field: &Field<'_>,
    mistakes: &mut Collector<'_>,
) -> bool {
    let Some((problem, help)) = problem else { return true };
    field.wrong(mistakes, format!("{} {problem}", path.display()), help);
    false
}

fn explain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".into(),
        std::io::ErrorKind::PermissionDenied => "may not be read".into(),
        _ => format!("cannot be opened: {error}"),
    }
}

fn help(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "relative paths start at the lab file's folder",
        _ => "",
    }
}
