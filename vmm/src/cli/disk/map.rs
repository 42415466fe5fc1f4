//! `cohort disk map`.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::json;
use storage::tools::{self, MapEntry, MapState};
use storage::{Disk, DiskOptions, Format};

use super::{Done, FORMATS, Watch, failed, format, in_line, print_json, print_shown};

/// Shows where the bytes of a disk are: in which layer, at which offset of its file
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// Its format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    format: Option<Format>,
    /// Read it although a parent has changed since its child was made
    #[arg(long)]
    allow_mismatch: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> Done {
    let watch = Watch::start("map")?;
    let options = DiskOptions {
        read_only: true,
        format: args.format,
        allow_mismatch: args.allow_mismatch,
        ..DiskOptions::default()
    };
    let disk = Disk::open(&args.path, &options).map_err(|error| failed(error.into(), None))?;
    let entries = tools::map(&disk, &watch).map_err(|error| failed(error, Some(&watch)))?;
    drop(watch);
    let files = disk.layer_paths();
    let file = |entry: &MapEntry| {
        let path = files.get(usize::from(entry.depth?))?;
        Some(path.display().to_string())
    };
    if args.json {
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| {
                json!({
                    "start": entry.start,
                    "length": entry.length,
                    "state": entry.state,
                    "data": entry.state != MapState::Zero,
                    "depth": entry.depth,
                    "file": file(entry),
                    "offset": entry.offset,
                })
            })
            .collect();
        print_json(&entries)?;
        return Ok(0);
    }
    let mut text =
        format!("{:>18}{:>18}  {:<11}{:>18}  layer\n", "start", "length", "state", "offset");
    for entry in &entries {
        let state = match entry.state {
            MapState::Data => "data",
            MapState::Compressed => "compressed",
            MapState::Zero => "zero",
        };
        let offset = entry.offset.map_or_else(|| "-".to_owned(), |offset| format!("{offset:#x}"));
        let file = file(entry).map_or_else(|| "-".to_owned(), in_line);
        let (start, length) = (format!("{:#x}", entry.start), format!("{:#x}", entry.length));
        let _ = writeln!(text, "{start:>18}{length:>18}  {state:<11}{offset:>18}  {file}");
    }
    print_shown(&text)?;
    Ok(0)
}
