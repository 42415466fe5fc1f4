//! `cohort disk info`.

use std::fmt::Write;
use std::path::PathBuf;

use storage::tools::{self, LayerEntry, Linkage};
use storage::{Format, Identity, Overridden, ParentLink};

use super::{Done, FORMATS, both_sizes, failed, format, in_line, name, print_json, print_shown};

/// Shows what a disk is and whether it fits its parent, also while a guest uses it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// Its format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    format: Option<Format>,
    /// Show every layer below it too
    #[arg(long)]
    chain: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &Args) -> Done {
    let mut info = tools::info(&args.path, args.format).map_err(|error| failed(error, None))?;
    if !args.chain {
        info.layers.truncate(1);
    }
    if args.json {
        print_json(&info)?;
    } else {
        let texts: Vec<String> = info.layers.iter().map(show).collect();
        print_shown(&texts.join("\n"))?;
    }
    Ok(0)
}

fn show(layer: &LayerEntry) -> String {
    let mut text = format!("{}\n", name(&layer.path));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<14}{}", in_line(value));
    };
    line("format", layer.format.name());
    line("size", &both_sizes(layer.size));
    let file = format!("{} of {} bytes", layer.allocated, layer.file_size);
    line("on disk", &file);
    if layer.protected {
        line("protected", "nobody has the permission to write to it");
    }
    line("sector", &layer.sector.to_string());
    line("granularity", &layer.granularity.to_string());
    line("identity", &layer.identity.to_string());
    let Some(link) = &layer.parent else { return text };
    line("parent", &place(link));
    match &link.identity {
        Some(identity) => line("  identity", &identity.to_string()),
        None => line("  identity", "not recorded"),
    }
    if let Some(digest) = &link.digest {
        line("  digest", &digest.to_string());
    }
    if let Some(found) = &link.overridden {
        line("  overridden", &format!("was opened with --allow-mismatch on {found}"));
    }
    for Overridden { child, parent, recorded, found } in &link.overridden_below {
        let recorded = recorded.as_ref().map_or_else(|| "nothing".to_owned(), Identity::to_string);
        let (child, parent) = (child.display(), parent.display());
        let text = format!(
            "was opened with --allow-mismatch while {child} recorded {recorded} of {parent}, which \
             had {found}"
        );
        line("  overridden", &text);
    }
    line("link", layer.linkage.word());
    if let Linkage::Broken { message, help, .. } = &layer.linkage {
        line("", message);
        if let Some(help) = help {
            line("", &format!("help: {help}"));
        }
    }
    if layer.only_cohort_follows {
        line("note", "only cohort follows this link");
    }
    text
}

fn place(link: &ParentLink) -> String {
    let path = link.relative.as_ref().or(link.absolute.as_ref());
    let path = path.map_or_else(|| "no path".to_owned(), |path| path.display().to_string());
    format!("{path} ({})", link.format)
}
