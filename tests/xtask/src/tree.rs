//! A tree of files for Linux guests to read through mappings: 200 MiB of known content, as EROFS
//! and as ext4.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;

use crate::stage::make_ext4;
use crate::tool;

/// Bytes that the tree is made from: with any of them another, it is another tree.
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
/// Sums of all files, in the words of `md5sum`.
const SUMS: &str = "find . -type f ! -name sums -print0 | sort -z | xargs -0 md5sum >sums";

/// Makes `tree.erofs` and `tree.ext4` in a folder: the same files, `bin/busybox`, and `sums`.
pub(crate) fn make(into: &Path) -> Result<()> {
    let tree = into.join("tree");
    fs::create_dir_all(tree.join("bin"))?;
    fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
    let mut words = Words(0x243f_6a88_85a3_08d3);
    for (group, &(count, size)) in FILES.iter().enumerate() {
        let folder = tree.join(format!("of-{size}-bytes"));
        fs::create_dir_all(&folder)?;
        for number in 0..count {
            let file = BufWriter::new(File::create(folder.join(format!("{group}.{number}")))?);
            words.fill(file, size)?;
        }
    }
    tool::quiet(tool::tool("sh").args(["-ec", SUMS]).current_dir(&tree))?;

    let ext4 = into.join("tree.ext4");
    File::create(&ext4)?.set_len(EXT4_SIZE)?;
    make_ext4(&tree, &ext4)?;
    // With the ends of files in blocks of their own, all of every file can be mapped.
    tool::quiet(
        tool::tool("mkfs.erofs")
            .args(["-E", "noinline_data", "--all-root", "-T", "0"])
            .args([&into.join("tree.erofs"), &tree]),
    )?;
    Ok(fs::remove_dir_all(&tree)?)
}

/// Words that look random and are the same every time (xorshift64).
struct Words(u64);

impl Words {
    fn fill(&mut self, mut file: impl Write, size: u64) -> Result<()> {
        let mut left = size;
        while left > 0 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let bytes = self.0.to_le_bytes();
            let now = usize::try_from(left).unwrap_or(bytes.len()).min(bytes.len());
            file.write_all(&bytes[..now])?;
            left -= now as u64;
        }
        Ok(file.flush()?)
    }
}
