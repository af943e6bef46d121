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

/// Cuts frames out of a stream of bytes. The bytes of a [`Kind::Data`] come as
/// they arrive, as several frames if need be, so that a long one is not held.
/// Take all frames before the next bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// The rest of a frame of data: channel, bytes.
    data: Option<(u32, usize)>,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What the next bytes are added to, for those who push without a copy.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole frame, or part of one of data, if it has arrived.
    ///
    /// # Errors
    /// See [`Error`]; the stream cannot be followed any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        if let Some((channel, left)) = self.data.take() {
            return Ok(self.data_frame(channel, left));
        }
        let Some(length) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        // Checked before it is waited for: a hostile length allocates nothing.
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_FRAME {
            return Err(Error::TooLong(length));
        }
        let Some(left) = length.checked_sub(KIND_AND_CHANNEL) else {
            return Err(Error::TooShort(length));
        };
        let Some(head) = self.buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [_, _, _, _, kind, channel @ ..] = *head;
        let channel = u32::from_be_bytes(channel);
        let kind = match kind {
            0 if channel != 0 => return Err(Error::MessageOnChannel(channel)),
            0 => Kind::Message,
            1 | 2 if channel == 0 => return Err(Error::NoChannel),
            1 => Kind::Data,
            2 if left > 0 => return Err(Error::EndWithPayload(channel)),
            2 => Kind::End,
            other => return Err(Error::UnknownKind(other)),
        };
        if kind == Kind::Data && left > 0 {
            self.buffer.advance(HEADER);
            return Ok(self.data_frame(channel, left));
        }
        if self.buffer.len() < HEADER + left {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some(Frame {
            kind,
            channel,
            payload: self.buffer.split_to(left).freeze(),
        }))
    }

    /// What is there of data of which so many bytes are left.
    fn data_frame(&mut self, channel: u32, left: usize) -> Option<Frame> {
        let now = left.min(self.buffer.len());
        self.data = (left > now).then_some((channel, left - now));
        (now > 0).then(|| Frame {
            kind: Kind::Data,
            channel,
            payload: self.buffer.split_to(now).freeze(),
        })
    }

    /// To be asked at the end of the stream.
    ///
    /// # Errors
    /// [`Error::Truncated`]
    pub fn finish(&self) -> Result<(), Error> {
        if self.buffer.is_empty() && self.data.is_none() {
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
            let (ends, data): (Vec<_>, Vec<_>) = (frames[1..].iter())
                .map(|frame| (frame.kind, frame.channel, &*frame.payload))
                .partition(|(kind, ..)| *kind == Kind::End);
            assert_eq!(ends, [(Kind::End, 1, &b""[..])]);
            let (one, other): (Vec<_>, Vec<_>) =
                data.into_iter().partition(|(_, channel, _)| *channel == 1);
            let bytes: Vec<_> = one.iter().map(|(_, _, bytes)| *bytes).collect();
            assert_eq!(bytes.concat(), b"bytes");
            assert_eq!(other, [(Kind::Data, u32::MAX, &b""[..])]);
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
        let data = encode(Kind::Data, 1, b"ab").unwrap();
        for cut in [2, HEADER, HEADER + 1] {
            let mut decoder = Decoder::default();
            decoder.push(&data[..cut]);
            while decoder.next_frame().unwrap().is_some() {}
            assert_eq!(decoder.finish(), Err(Error::Truncated));
        }
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
