//! What the records of a batch are compressed by. What was compressed takes no more memory than [`INFLATED_MAX`] when it is not.

use super::wire::{Odd, Reader};
use bytes::Bytes;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use std::io::Read;

/// What is compressed may have so many bytes when it is not.
const INFLATED_MAX: usize = 64 << 20;

/// Why it cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Packed {
    #[error(transparent)]
    Odd(#[from] Odd),
    #[error("it is compressed in a way that is not known here (number {0})")]
    Unknown(i16),
    #[error("it cannot be unpacked ({0}): {1}")]
    Spoilt(&'static str, String),
    #[error("unpacked it has more than {INFLATED_MAX} bytes")]
    TooLarge,
}

/// What is compressed in this way, 0 for not at all, as it was before.
pub(super) fn unpacked(compression: i16, packed: &Bytes) -> Result<Bytes, Packed> {
    match compression {
        0 => Ok(packed.clone()),
        1 => inflate("gzip", flate2::bufread::MultiGzDecoder::new(&packed[..])),
        2 => snappy(packed),
        3 => inflate("lz4", lz4_flex::frame::FrameDecoder::new(&packed[..])),
        4 => zstd(packed),
        other => Err(Packed::Unknown(other)),
    }
}

fn inflate(name: &'static str, decoder: impl Read) -> Result<Bytes, Packed> {
    let mut inflated = Vec::new();
    let read = decoder.take(INFLATED_MAX as u64 + 1).read_to_end(&mut inflated);
    read.map_err(|error| Packed::Spoilt(name, error.to_string()))?;
    if inflated.len() > INFLATED_MAX {
        return Err(Packed::TooLarge);
    }
    Ok(inflated.into())
}

/// One frame after the other: who packs a batch may end one whenever there was nothing more for a while.
fn zstd(packed: &Bytes) -> Result<Bytes, Packed> {
    let fault = |error: &dyn std::error::Error| Packed::Spoilt("zstd", error.to_string());
    let (mut frames, mut inflated) = (&packed[..], Vec::new());
    let mut decoder = FrameDecoder::new();
    loop {
        let room = (INFLATED_MAX + 1 - inflated.len()) as u64;
        let frame = StreamingDecoder::new_with_decoder(&mut frames, &mut decoder).map_err(|error| fault(&error))?;
        frame.take(room).read_to_end(&mut inflated).map_err(|error| fault(&error))?;
        if inflated.len() > INFLATED_MAX {
            return Err(Packed::TooLarge);
        }
        if frames.is_empty() {
            return Ok(inflated.into());
        }
    }
}

/// Java's clients put blocks into a frame of their own, others have one block.
fn snappy(packed: &Bytes) -> Result<Bytes, Packed> {
    let mut inflated = Vec::new();
    let Some(framed) = packed.strip_prefix(b"\x82SNAPPY\0") else {
        return unpack_snappy(packed, &mut inflated).map(|()| inflated.into());
    };
    let mut blocks = Reader::new(packed.slice_ref(framed), false);
    // A version, and the oldest that can read it.
    blocks.take(8)?;
    while !blocks.is_empty() {
        let block = blocks.blob()?.unwrap_or_default();
        unpack_snappy(&block, &mut inflated)?;
    }
    Ok(inflated.into())
}

fn unpack_snappy(block: &[u8], into: &mut Vec<u8>) -> Result<(), Packed> {
    let fault = |error: snap::Error| Packed::Spoilt("snappy", error.to_string());
    let (before, length) = (into.len(), snap::raw::decompress_len(block).map_err(fault)?);
    if before.saturating_add(length) > INFLATED_MAX {
        return Err(Packed::TooLarge);
    }
    into.resize(before + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut into[before..]).map(|_| ()).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_compression_is_unpacked_and_an_unknown_one_is_an_error() {
        let plain: Vec<u8> = (0..200).map(|n| n % 7).collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut gzip, &plain).expect("is written");
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        std::io::Write::write_all(&mut lz4, &plain).expect("is written");
        let raw = snap::raw::Encoder::new().compress_vec(&plain).expect("is packed");
        let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
        for half in [&plain[..20], &plain[20..]] {
            let block = snap::raw::Encoder::new().compress_vec(half).expect("is packed");
            framed.extend(u32::try_from(block.len()).expect("is short").to_be_bytes());
            framed.extend(block);
        }
        let (first, second) = plain.split_at(plain.len() / 3);
        let frame =
            |plain: &[u8]| ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest);
        let frames = [frame(first), frame(second)].concat();
        for (number, bytes) in [
            (1, gzip.finish().expect("is done")),
            (2, raw),
            (2, framed),
            (3, lz4.finish().expect("is done")),
            (4, frame(&plain)),
            (4, frames),
        ] {
            let bytes = Bytes::from(bytes);
            assert_eq!(unpacked(number, &bytes).expect("is unpacked"), plain, "{number}");
            unpacked(number, &bytes.slice(..bytes.len() / 2)).expect_err("is half of it");
        }
        let unknown = unpacked(5, &plain.into()).expect_err("is unknown");
        assert!(unknown.to_string().contains("not known here (number 5)"));
    }

    #[test]
    fn what_unpacks_to_more_than_memory_is_for_is_refused() {
        let zeros = vec![0; INFLATED_MAX + 1];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &zeros).expect("is written");
        let snappy = snap::raw::Encoder::new().compress_vec(&zeros).expect("is packed");
        for (number, bytes) in [(1, gzip.finish().expect("is done")), (2, snappy)] {
            assert!(matches!(unpacked(number, &bytes.into()), Err(Packed::TooLarge)), "{number}");
        }
    }
}
