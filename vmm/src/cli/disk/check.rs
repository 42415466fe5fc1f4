//! `cohort disk check`.

use std::fmt::Write;
use std::path::PathBuf;

use storage::Format;
use storage::tools::{self, Checked, Linkage};

use super::{Done, FORMATS, Watch, failed_with, format, in_line, name, print_json, print_shown};

/// Looks for damage in every layer of a disk, and whether the layers fit together
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// Its format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    format: Option<Format>,
    /// Mend what can be mended without loss, in this layer alone, and only if all layers fit
    /// together
    ///
    /// In all formats, metadata that a crash left behind: a vhdx log that is to be replayed, space
    /// at the file's end that is of no use, and one of two headers or region tables; qcow2 clusters
    /// that are counted and not used, or used once and not counted; the seal, the witness and the
    /// spare header of a layer. Contents are never changed.
    #[arg(long)]
    repair: bool,
    /// Where a parent has another identity than its child records: if the child records a digest,
    /// and the parent still reads as that says, record the new identity
    #[arg(long)]
    digest: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The status for a disk that cannot be checked.
const UNCHECKED: u8 = 1;

pub(super) fn main(args: &Args) -> Done {
    let watch = Watch::start("digest")?;
    let checked = tools::check(&args.path, args.format, args.repair, args.digest, &watch);
    let checked = checked.map_err(|error| failed_with(error, Some(&watch), UNCHECKED))?;
    drop(watch);
    if args.json {
        print_json(&checked)?
    } else {
        print_shown(&show(&checked))?
    }
    Ok(checked.status())
}

fn show(checked: &Checked) -> String {
    let mut text = String::new();
    for layer in &checked.layers {
        let path = name(&layer.path);
        for finding in &layer.findings {
            let weight = match (finding.repaired, finding.harmless) {
                (true, _) => "mended",
                (false, true) => "harmless",
                (false, false) => "damage",
            };
            let _ = writeln!(text, "{path}: {weight}: {}", finding.what);
        }
        if layer.renewed {
            let _ = writeln!(
                text,
                "{path}: its parent reads as the recorded digest says: its new identity is recorded"
            );
        }
        if let Linkage::Broken { message, help, .. } = &layer.linkage {
            let _ = writeln!(text, "{path}: {}", in_line(message));
            if let Some(help) = help {
                let _ = writeln!(text, "  help: {}", in_line(help));
            }
        } else if layer.findings.is_empty() && !layer.renewed {
            let _ = writeln!(text, "{path}: nothing wrong");
        }
    }
    if checked.not_mended {
        text.push_str("nothing is mended while the layers do not fit together\n");
    }
    text
}
