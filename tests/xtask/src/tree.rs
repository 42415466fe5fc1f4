//! Images of a tree of files for Linux guests to map: 190 MiB of known content, as EROFS and as
//! ext4.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Result;
use cohort_tests::tree;

use crate::stage::make_ext4;
use crate::tool;

/// Bytes that the images are made from, beside [`tree::RECIPE`].
pub(crate) const RECIPE: &[u8] = include_bytes!("tree.rs");
/// How many files there are of which size: around pages and blocks, small ones, large ones.
const FILES: &[(u32, u64)] = &[
    (1, 0),
    (4, 1),
    (4, 4095),
    (4, 4096),
    (4, 4097),
    (1000, 7000),
    (200, 128 << 10),
    (16, (2 << 20) - 3),
    (3, 32 << 20),
    (1, (24 << 20) + 4096),
];
/// Size of the ext4 image.
const EXT4_SIZE: u64 = 256 << 20;

/// Makes `tree.erofs` and `tree.ext4` in a folder: the same files.
pub(crate) fn make(into: &Path) -> Result<()> {
    let folder = into.join("tree");
    tree::make(&folder, FILES)?;
    let ext4 = into.join("tree.ext4");
    File::create(&ext4)?.set_len(EXT4_SIZE)?;
    make_ext4(&folder, &ext4)?;
    // With the ends of files in blocks of their own, all of every file can be mapped.
    tool::quiet(
        tool::tool("mkfs.erofs")
            .args(["-E", "noinline_data", "--all-root", "-T", "0"])
            .args([&into.join("tree.erofs"), &folder]),
    )?;
    Ok(fs::remove_dir_all(&folder)?)
}
