//! `cohort disk relink`.

use std::path::PathBuf;

use serde_json::json;
use storage::Format;
use storage::tools::{self, Relink, Relinked};

use super::{Done, FORMATS, Watch, failed, format, in_line, named, print_json, print_shown};

/// Records where a layer's parent is now, if it is still the same one
///
/// It is if it has the identity that the layer records; or, where the layer records a digest, if
/// it reads as that says; or if it reads as the recorded parent, should that be there unchanged.
/// The layer's own contents and identity stay as they are.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The layer
    child: PathBuf,
    /// Its format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    format: Option<Format>,
    /// Its parent
    #[arg(long, value_name = "PATH")]
    parent: PathBuf,
    /// The parent's format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    parent_format: Option<Format>,
    /// Take this parent although nothing tells that its contents are right
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: Args) -> Done {
    let Args { child, format, parent, parent_format, force, json } = args;
    let watch = Watch::start("compare")?;
    let order = Relink { child, format, parent: named(parent, parent_format), force };
    let how = tools::relink(&order, &watch).map_err(|error| failed(error, Some(&watch)))?;
    drop(watch);
    let (child, parent) = (order.child.to_string_lossy(), order.parent.path.to_string_lossy());
    if json {
        print_json(&json!({ "child": child, "parent": parent, "verified": how }))?;
    } else {
        let why = match how {
            Relinked::ByIdentity => "its identity is the recorded one",
            Relinked::ByDigest => "its contents are those of the recorded digest",
            Relinked::ByContents => "it reads as the recorded one, which is still there",
            Relinked::ByForce => "not verified, as --force says",
        };
        let (child, parent) = (in_line(child), in_line(parent));
        print_shown(&format!("{child}: its parent is {parent} ({why})\n"))?;
    }
    Ok(0)
}
