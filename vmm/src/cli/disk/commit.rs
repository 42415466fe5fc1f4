//! `cohort disk commit`.

use std::path::PathBuf;

use storage::Format;
use storage::tools::{self, Commit};

use super::{Done, FORMATS, Watch, failed, format, name, named, print_json, print_shown};

/// Merges a layer into its parent, which then reads as the layer does
///
/// The layer's file stays and is linked to the parent as it is now, unless --delete is given.
/// Refused if other layers in the folders of parent and child, and in those named by --children,
/// rest on the parent: they would not open any more. Children in other folders are not known of.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The layer
    child: PathBuf,
    /// Its format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    format: Option<Format>,
    /// Look for other layers that rest on the parent in this folder too; can be given several times
    #[arg(long, value_name = "FOLDER")]
    children: Vec<PathBuf>,
    /// Change the parent although other layers rest on it: they will not open any more
    #[arg(long)]
    force: bool,
    /// Remove the layer's file afterwards
    #[arg(long)]
    delete: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: Args) -> Done {
    let Args { child, format, children, force, delete, json } = args;
    let watch = Watch::start("commit")?;
    let order = Commit { child: named(child, format), force, folders: children, delete };
    let done = tools::commit(&order, &watch).map_err(|error| failed(error, Some(&watch)))?;
    drop(watch);
    if json {
        print_json(&done)?;
    } else {
        let (child, parent) = (name(&done.child), name(&done.parent));
        let file = if done.deleted { "was removed" } else { "stays, linked to it as it is now" };
        let written = done.written;
        let searched: Vec<_> = done.searched.iter().map(|it| name(it)).collect();
        let others = match &searched[..] {
            [] => "other children were not looked for, as --force says".to_owned(),
            searched => format!("no other child of it is in {}", searched.join(", ")),
        };
        print_shown(&format!(
            "{parent}: has {written} bytes of {child}, which {file}; {others}\n"
        ))?;
    }
    Ok(0)
}
