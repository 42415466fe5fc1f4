//! Compressed clusters, which cohort reads and never makes.

use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::image::ImageFile;

const CLUSTER: u64 = 64 << 10;
/// Where the descriptor of a compressed cluster of this size has its number of sectors.
const SECTORS: u32 = 54;
const COMPRESSED: u64 = 1 << 62;
/// The header's incompatible feature bit of streams that are not deflate, and their kind.
const FEATURES: u64 = 72;
const OTHER_STREAMS: u64 = 1 << 3;
const KIND: u64 = 104;
const ZSTD: u8 = 1;

/// Makes the first two clusters of a fresh qcow2 image compressed ones, in one cluster of the file.
pub(super) fn add(image: &ImageFile, zstd: bool) -> io::Result<()> {
    let bytes: Vec<u8> = (0_u32..16_384).flat_map(|at| (at / 100).to_be_bytes()).collect();
    let stream = if zstd {
        put(image, FEATURES, number(image, FEATURES)? | OTHER_STREAMS)?;
        image.write_at(&[ZSTD], KIND)?;
        zstd::encode_all(&bytes[..], 0)?
    } else {
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), Default::default());
        deflate.write_all(&bytes)?;
        deflate.finish()?
    };
    // After all that is there, a table of the first clusters, and then the streams.
    let table = image.len()?.next_multiple_of(CLUSTER);
    let data = table + CLUSTER;
    image.set_len(data + CLUSTER)?;
    put(image, number(image, 40)?, table | 1 << 63)?;
    let counts = number(image, number(image, 48)?)?;
    image.write_at(&1_u16.to_be_bytes(), counts + table / CLUSTER * 2)?;
    image.write_at(&2_u16.to_be_bytes(), counts + data / CLUSTER * 2)?;
    for (cluster, at) in [(0, data), (1, data + CLUSTER / 2 + 100)] {
        image.write_at(&stream, at)?;
        let sectors = (at % 512 + stream.len() as u64 - 1) / 512;
        put(image, table + 8 * cluster, COMPRESSED | sectors << SECTORS | at)?;
    }
    Ok(())
}

fn number(image: &ImageFile, at: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    image.file().read_exact_at(&mut bytes, at)?;
    Ok(u64::from_be_bytes(bytes))
}

fn put(image: &ImageFile, at: u64, number: u64) -> io::Result<()> {
    image.write_at(&number.to_be_bytes(), at)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::testkit;

    #[test]
    fn what_is_compressed_is_read_and_counted() {
        for zstd in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.qcow2");
            testkit::create(&path, 1 << 20, None).unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let image = ImageFile::new(file, &path, true);
            add(&image, zstd).unwrap();
            let disk = crate::Disk::open(&path, &testkit::READ_ONLY).unwrap();
            assert_eq!(testkit::top(&disk).check(false).unwrap(), []);
            let read = testkit::read(&mut disk.queue(1).unwrap(), CLUSTER, 4096).unwrap();
            assert_eq!(read[400..408], [0, 0, 0, 1, 0, 0, 0, 1]);
        }
    }
}
