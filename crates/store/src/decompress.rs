//! Streams found compressed or plain, told apart by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

use crate::error::{Error, Result};

/// What the first bytes of a stream say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

/// No stream may make us hold more than this: `zstd --long=27` and `xz -9`
/// still pass, larger windows (which their tools refuse by default) do not.
const ZSTD_WINDOW_LOG: u32 = 27;
const XZ_MEMORY: u64 = 128 << 20;

/// `LZMA_CONCATENATED`: several .xz streams in a row are one.
const XZ_CONCATENATED: u32 = 0x08;

const BUFFER: usize = 128 << 10;

impl Compression {
    fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one of the sixteen kinds of skippable frame (RFC 8878).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            _ => Self::None,
        }
    }
}

/// Looks at the beginning of `input`; the stream returned is still whole.
pub(crate) fn detect<R: Read>(mut input: R) -> Result<(Compression, impl Read + use<R>)> {
    // A pipe may hand out a byte at a time: read until enough is known.
    let mut start = [0; 6];
    let mut have = 0;
    while have < start.len() {
        match input.read(&mut start[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::stream("the archive")(e)),
        }
    }
    let whole = io::Cursor::new(start).take(have as u64).chain(input);
    Ok((Compression::detect(&start[..have]), whole))
}

/// The plain stream in a compressed one.
pub(crate) fn decode<'a>(
    compression: Compression,
    input: impl Read + 'a,
) -> Result<Box<dyn Read + 'a>> {
    let input = BufReader::with_capacity(BUFFER, input);
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd(input).map_err(Error::stream("the archive"))?),
        Compression::Xz => Box::new(xz(input).map_err(Error::stream("the archive"))?),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
    })
}

/// Both at once.
pub(crate) fn decompress<'a>(input: impl Read + 'a) -> Result<(Compression, Box<dyn Read + 'a>)> {
    let (compression, whole) = detect(input)?;
    Ok((compression, decode(compression, whole)?))
}

/// The plain stream in `input`: what is compressed (gzip, zstd, xz, bzip2, told
/// by the first bytes) is decompressed, all else is passed on as it is. Memory
/// is bounded; how long the stream becomes is not.
///
/// # Errors
/// Those of reading the first bytes. What is damaged further on is an error of
/// the reader.
pub fn inflate<'a>(input: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let (_, plain) = decompress(input)?;
    Ok(plain)
}

fn zstd<R: BufRead>(input: R) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

fn xz<R: BufRead>(input: R) -> io::Result<impl Read> {
    let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, XZ_CONCATENATED)?;
    Ok(liblzma::bufread::XzDecoder::new_stream(input, stream))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Gives one byte per read, as a slow pipe does.
    struct Drip<'a>(&'a [u8]);
    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.len().min(buffer.len()).min(1);
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    pub(crate) fn compress(kind: Compression, data: &[u8]) -> Vec<u8> {
        match kind {
            Compression::None => data.to_vec(),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::stream::encode_all(data, 1).unwrap(),
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Bzip2 => {
                let mut encoder =
                    bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    #[test]
    fn every_kind_in_several_members_is_read_whole() {
        let data: Vec<u8> = (0..300_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        let (first, second) = data.split_at(data.len() / 3);
        for kind in [
            Compression::None,
            Compression::Gzip,
            Compression::Zstd,
            Compression::Xz,
            Compression::Bzip2,
        ] {
            let packed = [compress(kind, first), compress(kind, second)].concat();
            let (found, mut plain) = decompress(Drip(&packed)).unwrap();
            assert_eq!(found, kind);
            let mut out = Vec::new();
            plain.read_to_end(&mut out).unwrap();
            assert!(out == data, "{kind:?}");
        }
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        let data = vec![7u8; 200_000];
        for kind in [
            Compression::Gzip,
            Compression::Zstd,
            Compression::Xz,
            Compression::Bzip2,
        ] {
            let packed = compress(kind, &data);
            for keep in [packed.len() - 1, packed.len() / 2, 8] {
                let (_, mut plain) = decompress(&packed[..keep]).unwrap();
                assert!(
                    plain.read_to_end(&mut Vec::new()).is_err(),
                    "{kind:?} cut to {keep}"
                );
            }
        }
    }

    #[test]
    fn short_and_empty_streams_are_plain() {
        for data in [&b""[..], b"B", b"BZ", b"\x1f"] {
            let (kind, mut plain) = decompress(data).unwrap();
            let mut out = Vec::new();
            plain.read_to_end(&mut out).unwrap();
            assert_eq!((kind, &out[..]), (Compression::None, data));
        }
    }
}
