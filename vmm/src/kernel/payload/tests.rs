use std::process::{Command, Stdio};

use liblzma::stream::{Check, LzmaOptions};
use liblzma::write::XzEncoder;

use super::*;
use crate::kernel::fixtures::{gzip, with_size};

/// More than one LZ4 block, compressible, but not to nothing.
fn kernel() -> Vec<u8> {
    let word = |at: u32| (at.wrapping_mul(2_654_435_761) >> 20) * (at % 7 / 5);
    let words = (0..(LZ4_BLOCK as u32 / 4 + 5000)).flat_map(|at| word(at).to_le_bytes());
    ELFMAG.iter().copied().chain(words).collect()
}

fn lz4(data: &[u8]) -> Vec<u8> {
    let mut out = LZ4_MAGIC.to_le_bytes().to_vec();
    for block in data.chunks(LZ4_BLOCK) {
        let block = lz4_flex::block::compress(block);
        out.extend((block.len() as u32).to_le_bytes());
        out.extend(block);
    }
    out
}

fn encode(data: &[u8], stream: Stream) -> Vec<u8> {
    let mut encoder = XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn payloads(data: &[u8]) -> Vec<(Format, Vec<u8>)> {
    let xz = encode(data, Stream::new_easy_encoder(0, Check::Crc32).unwrap());
    let options = LzmaOptions::new_preset(0).unwrap();
    let lzma = encode(data, Stream::new_lzma_encoder(&options).unwrap());
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    zstd.write_all(data).unwrap();
    let zstd = zstd.finish().unwrap();
    let sized = |payload| with_size(payload, data.len());
    vec![
        (Format::Gzip, gzip(data)),
        (Format::Xz, sized(xz)),
        (Format::Lz4, sized(lz4(data))),
        (Format::Zstd, sized(zstd)),
        (Format::Lzma, sized(lzma)),
    ]
}

fn unpack(format: Format, payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let mut out = Vec::new();
    decompress(format, payload, &mut out).map(|_| out)
}

#[test]
fn every_format_comes_back_whole() {
    let data = kernel();
    for (format, payload) in payloads(&data) {
        assert_eq!(Format::of(&payload), Some(format));
        assert!(unpack(format, &payload).unwrap() == data, "{format:?}");
    }
}

/// The commands of Linux's `scripts/Makefile.lib`, where the host has them.
#[test]
fn what_the_tools_of_a_kernel_build_write_is_understood() {
    let data = kernel();
    let tools = [
        (Format::Gzip, "gzip", "-n -9"),
        (Format::Xz, "xz", "--check=crc32 --x86 --lzma2=dict=32MiB,preset=1"),
        (Format::Lz4, "lz4", "-l -9 - -"),
        (Format::Zstd, "zstd", "-12 --ultra --long=27"),
        (Format::Lzma, "xz", "--format=lzma -1"),
    ];
    for (format, tool, options) in tools {
        let mut command = Command::new(tool);
        command.args(options.split(' ')).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = command.stderr(Stdio::null()).spawn() else { continue };
        let mut stdin = child.stdin.take().unwrap();
        let input = data.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
        let mut payload = child.wait_with_output().unwrap().stdout;
        writer.join().unwrap();
        if format != Format::Gzip {
            payload = with_size(payload, data.len());
        }
        assert_eq!(Format::of(&payload), Some(format));
        assert!(unpack(format, &payload).unwrap() == data, "{tool} {options}");
    }
}

#[test]
fn truncated_payloads_are_noticed() {
    let data = kernel();
    for (format, payload) in payloads(&data) {
        for keep in [0, 3, 4, 9, payload.len() / 2, payload.len() - 20] {
            // The size word is right, what is before it is cut short.
            let cut = with_size(payload[..keep].to_vec(), data.len());
            assert!(unpack(format, &cut).is_err(), "{format:?} {keep}");
        }
        assert!(unpack(format, &[]).is_err());
    }
}

#[test]
fn flipped_bits_are_noticed_where_the_format_has_a_checksum() {
    let data = kernel();
    for (format, mut payload) in payloads(&data) {
        if !format.has_checksum() {
            continue;
        }
        let middle = payload.len() / 2;
        payload[middle] ^= 0x10;
        let error = unpack(format, &payload).unwrap_err();
        assert!(matches!(error, PayloadError::Damaged { .. }), "{format:?}: {error}");
    }
}

#[test]
fn a_payload_that_grows_beyond_its_stated_size_is_stopped() {
    let zeroes = vec![0; 64 << 20];
    for (format, mut payload) in payloads(&zeroes) {
        let word = payload.len() - 4;
        payload[word..].copy_from_slice(&1000u32.to_le_bytes());
        let mut out = Vec::new();
        let error = decompress(format, &payload, &mut out).unwrap_err();
        assert!(matches!(error, PayloadError::Size { stated: 1000, actual: None, .. }), "{error}");
        assert!(out.len() <= 1000);
        payload[word..].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = unpack(format, &payload).unwrap_err();
        assert!(matches!(error, PayloadError::TooLarge { .. }));
    }
}

#[test]
fn a_payload_short_of_its_stated_size_is_refused() {
    let payload = with_size(lz4(b"short"), 6);
    let error = unpack(Format::Lz4, &payload).unwrap_err();
    let message = "its lz4 payload decompresses to 5 bytes, but should have 6";
    assert_eq!(error.to_string(), message);
}

#[test]
fn what_the_host_cannot_use_is_left_to_the_kernel() {
    assert_eq!(Format::of(b"BZh91AY"), None);
    assert_eq!(Format::of(b"\x89LZO"), None);
    assert_eq!(Format::of(b""), None);
}
