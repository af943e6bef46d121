//! The multiplexed stream of attach, logs and exec: an 8-byte header (stream,
//! three zeros, big-endian length), then the bytes.

use bytes::{Buf, Bytes, BytesMut};

/// Which descriptor of the process the bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    /// An error of the engine itself, as text.
    System = 3,
}

/// Longest frame a client accepts, in bytes: more is a broken peer.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

/// The header for `length` bytes.
pub fn header(stream: Stream, length: u32) -> [u8; 8] {
    let [a, b, c, d] = length.to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

/// Cuts frames out of a byte stream.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived. An unknown stream or an
    /// over-long frame is an error: the stream cannot be followed any more.
    pub fn next_frame(&mut self) -> Result<Option<(Stream, Bytes)>, String> {
        let Some(header) = self.buffer.first_chunk::<8>() else {
            return Ok(None);
        };
        let stream = match header[0] {
            0 => Stream::Stdin,
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            3 => Stream::System,
            other => return Err(format!("Unrecognized input header: {other}")),
        };
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if length > MAX_FRAME {
            return Err(format!(
                "a frame of {length} bytes is longer than {MAX_FRAME}"
            ));
        }
        if self.buffer.len() < 8 + length {
            return Ok(None);
        }
        self.buffer.advance(8);
        Ok(Some((stream, self.buffer.split_to(length).freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut wire = Vec::new();
        for (stream, text) in [
            (Stream::Stdout, "one"),
            (Stream::Stderr, ""),
            (Stream::Stdout, "two"),
        ] {
            wire.extend(header(stream, text.len() as u32));
            wire.extend(text.bytes());
        }
        for cut in 0..wire.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in [&wire[..cut], &wire[cut..]] {
                decoder.push(part);
                while let Some((stream, bytes)) = decoder.next_frame().unwrap() {
                    seen.push((stream, String::from_utf8(bytes.to_vec()).unwrap()));
                }
            }
            let want = [
                (Stream::Stdout, "one"),
                (Stream::Stderr, ""),
                (Stream::Stdout, "two"),
            ];
            assert_eq!(seen, want.map(|(s, t)| (s, t.to_owned())));
        }
    }

    #[test]
    fn broken_streams_are_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[9, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert!(decoder.next_frame().is_err());
        let mut decoder = Decoder::default();
        decoder.push(&header(Stream::Stdout, u32::MAX));
        assert!(decoder.next_frame().is_err());
    }
}
