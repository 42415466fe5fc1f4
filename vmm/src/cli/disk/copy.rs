//! `cohort disk convert` and `cohort disk compare`.

use std::path::PathBuf;

use cohort::units::show_size;
use storage::Format;
use storage::tools::{self, Compared, Convert, DiskName};

use super::{
    Done, FORMATS, Watch, failed, failed_with, format, name, named, print_json, print_shown, tell,
    warn_only_cohort,
};

/// Copies all that a disk reads as to a new file, which needs none of its layers
#[derive(Debug, clap::Args)]
pub(super) struct ConvertArgs {
    /// The disk
    source: PathBuf,
    /// The new file
    target: PathBuf,
    /// The disk's format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    from: Option<Format>,
    /// The new file's format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    to: Option<Format>,
    /// Store only what differs from this disk, as its child
    #[arg(long, value_name = "PATH")]
    parent: Option<PathBuf>,
    /// The parent's format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format, requires = "parent")]
    parent_format: Option<Format>,
    /// Take all of the space now, where the format knows such disks (vhdx)
    #[arg(long)]
    fixed: bool,
    /// Read disks although a parent has changed since its child was made
    #[arg(long)]
    allow_mismatch: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn convert(args: ConvertArgs) -> Done {
    let ConvertArgs { source, target, from, to, parent, parent_format, fixed, .. } = args;
    let (json, allow_mismatch) = (args.json, args.allow_mismatch);
    let source = DiskName { allow_mismatch, ..named(source, from) };
    let parent = parent.map(|path| named(path, parent_format));
    let watch = Watch::start("convert")?;
    let order = Convert { source, target, format: to, parent, fixed };
    let copied = tools::convert(&order, &watch).map_err(|error| failed(error, Some(&watch)))?;
    drop(watch);
    warn_only_cohort(&copied.path, copied.only_cohort_follows);
    if json {
        print_json(&copied)?;
    } else {
        let (size, path) = (show_size(copied.size), name(&copied.path));
        let written = copied.written;
        print_shown(&format!("{path}: {}, {size}, {written} bytes of data\n", copied.format))?;
    }
    Ok(0)
}

/// Compares what two disks read as: status 0 if that is equal, 1 if not
#[derive(Debug, clap::Args)]
pub(super) struct CompareArgs {
    /// One disk
    first: PathBuf,
    /// The other
    second: PathBuf,
    /// The first disk's format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    first_format: Option<Format>,
    /// The second disk's format [default: what the name's extension tells]
    #[arg(long, value_name = FORMATS, value_parser = format)]
    second_format: Option<Format>,
    /// Read disks although a parent has changed since its child was made
    #[arg(long)]
    allow_mismatch: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The status for disks that cannot be compared.
const UNCOMPARED: u8 = 2;

pub(super) fn compare(args: CompareArgs) -> Done {
    let CompareArgs { first, second, first_format, second_format, json, allow_mismatch } = args;
    let first = DiskName { allow_mismatch, ..named(first, first_format) };
    let second = DiskName { allow_mismatch, ..named(second, second_format) };
    let watch = Watch::start("compare")?;
    let compared = tools::compare(&first, &second, &watch)
        .map_err(|error| failed_with(error, Some(&watch), UNCOMPARED))?;
    drop(watch);
    let Compared { difference, sizes } = compared;
    if json {
        print_json(&compared)?;
    } else {
        if sizes.0 != sizes.1 {
            tell(&format!(
                "warning: the disks have {} and {} bytes; what only one has is compared with \
                 zeroes\n",
                sizes.0, sizes.1
            ));
        }
        print_shown(&match difference {
            Some(at) => format!("the disks differ at byte {at}\n"),
            None => "the disks are equal\n".to_owned(),
        })?;
    }
    Ok(u8::from(difference.is_some()))
}
