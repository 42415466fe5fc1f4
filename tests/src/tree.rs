//! Trees of files of known content, for Linux guests to read in every way.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::Command;

/// Bytes that trees are made from: with any of them another, they are other trees.
pub const RECIPE: &[u8] = include_bytes!("tree.rs");

/// Sums of all files in the words of `md5sum`, and that of all of them one after the other.
const SUMS: &str = "find . -type f ! -name sums ! -name whole | sort | xargs md5sum >sums
cut -c 35- sums | xargs cat | md5sum >whole";

/// What a shell of a guest does with a tree that is mounted at /t: checks every byte by reading,
/// every byte by mapping, and runs a program from it.
pub const CHECKS: &str = r#"
cd /t
md5sum -c sums >/tmp/read || { grep -v 'OK$' /tmp/read; exit 3; }
echo "read: $(grep -c 'OK$' /tmp/read) files"
[ "$(cut -c 35- sums | xargs mapped | md5sum)" = "$(cat whole)" ] || exit 4
echo "mapped: $(wc -l <sums) files"
[ "$(/t/bin/busybox echo run)" = run ] || exit 5
"#;

/// Fills a folder with so many files of such sizes, `bin/busybox`, `sums` and `whole`.
///
/// # Errors
/// What the host says.
pub fn make(folder: &Path, files: &[(u32, u64)]) -> io::Result<()> {
    fs::create_dir_all(folder.join("bin"))?;
    fs::copy("/bin/busybox", folder.join("bin/busybox"))?;
    let mut words = Words(0x243f_6a88_85a3_08d3);
    for &(count, size) in files {
        let group = folder.join(format!("of-{size}-bytes"));
        fs::create_dir_all(&group)?;
        for number in 0..count {
            let file = File::create(group.join(number.to_string()))?;
            words.fill(BufWriter::new(file), size)?;
        }
    }
    let status = Command::new("sh").args(["-ec", SUMS]).current_dir(folder).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("no sums")) }
}

/// Words that look random and are the same every time (xorshift64).
struct Words(u64);

impl Words {
    fn fill(&mut self, mut file: impl Write, size: u64) -> io::Result<()> {
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
        file.flush()
    }
}
