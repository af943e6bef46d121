//! Frames of a build session; see [`super`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;

use super::MAX_FRAME;

/// Bytes before the payload: length, kind, channel.
pub const HEADER: usize = 9;
/// Longest payload.
pub const MAX_PAYLOAD: usize = MAX_FRAME - KIND_AND_CHANNEL;

/// What the length counts besides the payload.
const KIND_AND_CHANNEL: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One JSON message, on channel 0.
    Message = 0,
    /// Bytes of a channel.
    Data = 1,
    /// The end of a channel in the sender's direction.
    End = 2,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub channel: u32,
    pub payload: Bytes,
}

/// Why a stream of frames cannot be followed, or a frame cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a frame of {0} bytes is longer than the {MAX_FRAME} that are allowed")]
    TooLong(usize),
    #[error("a frame of {0} bytes is shorter than its own head")]
    TooShort(usize),
    #[error("frames of kind {0} are not known")]
    UnknownKind(u8),
    #[error("a message came on channel {0}")]
    MessageOnChannel(u32),
    #[error("channel 0 is for messages only")]
    NoChannel,
    #[error("the end of channel {0} has a payload")]
    EndWithPayload(u32),
    #[error("a message cannot be read or written: {0}")]
    Json(String),
    #[error("the stream ended within a frame")]
    Truncated,
}

/// What goes before `length` bytes of payload (at most [`MAX_PAYLOAD`]), for
/// those who write both in one go without a copy.
///
/// # Errors
/// [`Error::TooLong`]
pub fn header(kind: Kind, channel: u32, length: usize) -> Result<[u8; HEADER], Error> {
    let whole = length.saturating_add(KIND_AND_CHANNEL);
    let Some(counted) = u32::try_from(whole).ok().filter(|_| whole <= MAX_FRAME) else {
        return Err(Error::TooLong(whole));
    };
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&counted.to_be_bytes());
    header[4] = kind as u8;
    header[5..].copy_from_slice(&channel.to_be_bytes());
    Ok(header)
}

/// A whole frame.
///
/// # Errors
/// [`Error::TooLong`]
pub fn encode(kind: Kind, channel: u32, payload: &[u8]) -> Result<Bytes, Error> {
    let mut frame = BytesMut::with_capacity(HEADER + payload.len());
    frame.put_slice(&header(kind, channel, payload.len())?);
    frame.put_slice(payload);
    Ok(frame.freeze())
}

/// The frame of a [`super::ToEngine`] or [`super::ToClient`].
///
/// # Errors
/// [`Error::TooLong`], [`Error::Json`]
pub fn message<T: Serialize>(message: &T) -> Result<Bytes, Error> {
    let json = serde_json::to_vec(message).map_err(|error| Error::Json(error.to_string()))?;
    encode(Kind::Message, 0, &json)
}

/// Cuts frames out of a stream of bytes. Holds one frame and what was pushed
/// last, so take all frames before the next push.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived.
    ///
    /// # Errors
    /// See [`Error`]; the stream cannot be followed any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        let Some(length) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        // Checked before it is waited for: a hostile length allocates nothing.
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_FRAME {
            return Err(Error::TooLong(length));
        }
        if length < KIND_AND_CHANNEL {
            return Err(Error::TooShort(length));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let mut frame = self.buffer.split_to(length).freeze();
        let kind = match frame.get_u8() {
            0 => Kind::Message,
            1 => Kind::Data,
            2 => Kind::End,
            other => return Err(Error::UnknownKind(other)),
        };
        let channel = frame.get_u32();
        match kind {
            Kind::Message if channel != 0 => Err(Error::MessageOnChannel(channel)),
            Kind::Data | Kind::End if channel == 0 => Err(Error::NoChannel),
            Kind::End if !frame.is_empty() => Err(Error::EndWithPayload(channel)),
            _ => Ok(Some(Frame {
                kind,
                channel,
                payload: frame,
            })),
        }
    }

    /// To be asked at the end of the stream.
    ///
    /// # Errors
    /// [`Error::Truncated`]
    pub fn finish(&self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            Ok(())
        } else {
            Err(Error::Truncated)
        }
    }
}

impl Frame {
    /// The JSON of a [`Kind::Message`].
    ///
    /// # Errors
    /// [`Error::Json`]
    pub fn message<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.payload).map_err(|error| Error::Json(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{ToClient, ToEngine};

    #[test]
    fn frames_survive_any_cut() {
        let refused = ToEngine::Refused {
            channel: 7,
            message: "no".to_owned(),
        };
        let wire = [
            message(&refused).unwrap(),
            encode(Kind::Data, 1, b"bytes").unwrap(),
            encode(Kind::Data, u32::MAX, b"").unwrap(),
            encode(Kind::End, 1, b"").unwrap(),
        ]
        .concat();
        for cut in 0..=wire.len() {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for part in [&wire[..cut], &wire[cut..]] {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            decoder.finish().unwrap();
            let read: ToEngine = frames[0].message().unwrap();
            assert!(matches!(read, ToEngine::Refused { channel: 7, .. }));
            let rest: Vec<_> = frames[1..]
                .iter()
                .map(|frame| (frame.kind, frame.channel, &*frame.payload))
                .collect();
            let want: [(_, _, &[u8]); 3] = [
                (Kind::Data, 1, b"bytes"),
                (Kind::Data, u32::MAX, b""),
                (Kind::End, 1, b""),
            ];
            assert_eq!(rest, want);
        }
    }

    #[test]
    fn the_longest_frame_passes_and_a_longer_one_does_not() {
        let longest = vec![1; MAX_PAYLOAD];
        let mut decoder = Decoder::default();
        decoder.push(&encode(Kind::Data, 3, &longest).unwrap());
        assert_eq!(decoder.next_frame().unwrap().unwrap().payload, longest);
        let longer = vec![1; MAX_PAYLOAD + 1];
        assert_eq!(
            encode(Kind::Data, 3, &longer),
            Err(Error::TooLong(MAX_FRAME + 1))
        );
    }

    #[test]
    fn what_is_no_frame_is_refused_as_soon_as_it_shows() {
        let bad = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            decoder.next_frame().unwrap_err()
        };
        assert_eq!(bad(&[0xff; 4]), Error::TooLong(u32::MAX as usize));
        assert_eq!(bad(&[0, 0, 0, 4]), Error::TooShort(4));
        assert_eq!(bad(&[0, 0, 0, 5, 9, 0, 0, 0, 1]), Error::UnknownKind(9));
        let frame = |kind, channel, payload| bad(&encode(kind, channel, payload).unwrap());
        assert_eq!(frame(Kind::Message, 1, b"{}"), Error::MessageOnChannel(1));
        assert_eq!(frame(Kind::Data, 0, b"x"), Error::NoChannel);
        assert_eq!(frame(Kind::End, 2, b"x"), Error::EndWithPayload(2));
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0]);
        assert_eq!(decoder.next_frame(), Ok(None));
        assert_eq!(decoder.finish(), Err(Error::Truncated));
    }

    #[test]
    fn messages_are_tagged_json() {
        let walk = ToClient::Walk {
            context: "context".to_owned(),
            channel: 1,
        };
        let frame = message(&walk).unwrap();
        assert_eq!(
            &frame[HEADER..],
            br#"{"type":"walk","context":"context","channel":1}"#
        );
        let mut decoder = Decoder::default();
        decoder.push(&encode(Kind::Message, 0, b"{\"type\":\"start\"}").unwrap());
        let frame = decoder.next_frame().unwrap().unwrap();
        assert!(matches!(frame.message::<ToEngine>(), Err(Error::Json(_))));
    }
}
