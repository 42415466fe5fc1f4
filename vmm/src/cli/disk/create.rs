//! `cohort disk create` and `cohort disk snapshot`.

use std::path::PathBuf;

use cohort::units::show_size;
use storage::Format;
use storage::tools::{self, Create, Created};

use super::{
    Done, FORMATS, Failure, Watch, failed, format, name, named, print_json, print_shown, size,
    tell, warn_only_cohort,
};

/// Makes a disk, empty or on top of a parent; never overwrites a file
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The new file
    path: PathBuf,
    /// Its format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    format: Option<Format>,
    /// Its size, with a unit, as in 10G [default: the parent's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<u64>,
    /// The disk that the new one reads as at first
    #[arg(long, value_name = "PATH")]
    parent: Option<PathBuf>,
    /// The parent's format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format, requires = "parent")]
    parent_format: Option<Format>,
    /// Take all of the space now, where the format knows such disks (vhdx)
    #[arg(long)]
    fixed: bool,
    #[command(flatten)]
    care: Care,
}

/// Freezes a disk as the parent of a new one, which takes all further changes
#[derive(Debug, clap::Args)]
pub(super) struct SnapshotArgs {
    /// The disk to freeze
    path: PathBuf,
    /// The new file, a child of it
    new: PathBuf,
    /// The format of the disk to freeze [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    parent_format: Option<Format>,
    /// The new file's format [default: what the name's extension tells, else layer]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    format: Option<Format>,
    #[command(flatten)]
    care: Care,
}

#[derive(Debug, clap::Args)]
struct Care {
    /// Take the parent's write permissions away
    #[arg(long)]
    protect: bool,
    /// Record a digest of all that the parent reads as: after it was moved or copied, `cohort disk
    /// check --digest` can tell that its contents are the same
    #[arg(long)]
    digest: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: Args) -> Done {
    let Args { path, format, size, parent, parent_format, fixed, care } = args;
    let Care { protect, digest, json } = care;
    let refuse = |option: &str| {
        let what = anyhow::anyhow!("{option} is about a parent, and there is none");
        Err(Failure::usage(what).help("add --parent PATH".to_owned()))
    };
    match parent {
        None if protect => return refuse("--protect"),
        None if digest => return refuse("--digest"),
        _ => {}
    }
    let parent = parent.map(|path| named(path, parent_format));
    make(&Create { path, format, size, parent, fixed, protect, digest }, json)
}

pub(super) fn snapshot(args: SnapshotArgs) -> Done {
    let SnapshotArgs { path, new, parent_format, format, care } = args;
    let Care { protect, digest, json } = care;
    let untold = format.is_none() && Format::of_name(&new) == Format::Raw;
    let format = if untold { Some(Format::Layer) } else { format };
    let parent = Some(named(path, parent_format));
    let order = Create { path: new, format, size: None, parent, fixed: false, protect, digest };
    let done = make(&order, json)?;
    if untold {
        tell(&format!(
            "warning: the name of {} says raw, but it is a layer: give it one that ends in .layer, or \
             say format=layer (--format layer) whenever it is used\n",
            name(&order.path)
        ));
    }
    Ok(done)
}

fn make(order: &Create, json: bool) -> Done {
    let watch = Watch::start("digest")?;
    let created = tools::create(order, &watch).map_err(|error| failed(error, Some(&watch)))?;
    drop(watch);
    warn_only_cohort(&created.path, created.only_cohort_follows);
    if json {
        print_json(&created)?
    } else {
        print_shown(&sentence(order, &created))?
    }
    Ok(0)
}

fn sentence(order: &Create, created: &Created) -> String {
    let Created { path, format, size, .. } = created;
    let parent = order
        .parent
        .as_ref()
        .map_or_else(String::new, |parent| format!(", a child of {}", name(&parent.path)));
    format!("{}: {format}, {}{parent}\n", name(path), show_size(*size))
}
