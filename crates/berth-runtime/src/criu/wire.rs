//! Protocol buffers, as much of them as CRIU's messages need: numbers, texts and
//! nested messages (protobuf.dev, "Encoding"). Written by hand: a library with its
//! generated types would be a tenth of this program.

use crate::error::{Error, Result};

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// A message being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A number, an enumerator or, as 0 or 1, a truth value.
    pub(crate) fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3 | VARINT);
        self.varint(value);
    }

    /// Only when it is true: false is the default of all.
    pub(crate) fn flag(&mut self, field: u64, value: bool) {
        if value {
            self.number(field, 1);
        }
    }

    pub(crate) fn text(&mut self, field: u64, value: &str) {
        self.raw(field, value.as_bytes());
    }

    pub(crate) fn message(&mut self, field: u64, value: &Self) {
        self.raw(field, &value.0);
    }

    fn raw(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | BYTES);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A field's value: those that no message of CRIU has are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(crate) fn number(self) -> u64 {
        match self {
            Value::Number(value) => value,
            Value::Bytes(_) => 0,
        }
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Value::Number(_) => &[],
            Value::Bytes(bytes) => bytes,
        }
    }
}

/// Calls `each` with the number and value of every field of a message.
pub(crate) fn read<'a>(
    mut bytes: &'a [u8],
    mut each: impl FnMut(u64, Value<'a>) -> Result<()>,
) -> Result<()> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            VARINT => Value::Number(varint(&mut bytes)?),
            BYTES => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| malformed())?;
                Value::Bytes(take(&mut bytes, length)?)
            }
            FIXED64 => Value::Bytes(take(&mut bytes, 8)?),
            FIXED32 => Value::Bytes(take(&mut bytes, 4)?),
            _ => return Err(malformed()),
        };
        each(key >> 3, value)?;
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed())
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or_else(malformed)?;
    *bytes = rest;
    Ok(taken)
}

fn malformed() -> Error {
    Error::new("CRIU sent a malformed message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(bytes: &[u8]) -> Result<Vec<(u64, Value<'_>)>> {
        let mut found = Vec::new();
        read(bytes, |field, value| {
            found.push((field, value));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read() {
        let mut inner = Message::default();
        inner.text(1, "pipe:[4711]");
        let mut message = Message::default();
        message.number(1, 300);
        message.flag(2, false);
        message.flag(3, true);
        message.message(27, &inner);
        message.number(63, u64::MAX);
        assert_eq!(&message.bytes()[..3], [0x08, 0xac, 0x02]);
        assert_eq!(
            fields(message.bytes()).unwrap(),
            [
                (1, Value::Number(300)),
                (3, Value::Number(1)),
                (27, Value::Bytes(inner.bytes())),
                (63, Value::Number(u64::MAX)),
            ]
        );
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        for bytes in [&[0x08][..], &[0x0a, 5, 1], &[0x80; 11], &[0x0b], &[0x0d, 1]] {
            assert!(fields(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = fields(&bytes);
        }
    }
}
