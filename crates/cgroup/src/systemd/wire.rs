//! The D-Bus wire format (D-Bus specification, "Type System" and "Message
//! Format"), as far as systemd's manager is spoken to.

use super::Failure;

/// Largest message that is read: what systemd answers is far smaller, and the
/// sender is not to choose how much memory is taken.
pub(super) const MAX_MESSAGE: usize = 1 << 20;

/// Bytes before the array of header fields.
pub(super) const FIXED_HEADER: usize = 16;

/// A value with its type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// Signature of the elements, which all have it.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(super) fn signature(&self) -> String {
        match self {
            Self::Byte(_) => "y".into(),
            Self::Bool(_) => "b".into(),
            Self::I16(_) => "n".into(),
            Self::U16(_) => "q".into(),
            Self::I32(_) => "i".into(),
            Self::U32(_) => "u".into(),
            Self::I64(_) => "x".into(),
            Self::U64(_) => "t".into(),
            Self::F64(_) => "d".into(),
            Self::Text(_) => "s".into(),
            Self::Path(_) => "o".into(),
            Self::Signature(_) => "g".into(),
            Self::Array(of, _) => format!("a{of}"),
            Self::Struct(fields) => {
                let fields: String = fields.iter().map(Self::signature).collect();
                format!("({fields})")
            }
            Self::Variant(_) => "v".into(),
        }
    }
}

/// A method call, all in the byte order of this machine.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// The bus itself, or systemd; none on a connection without a bus.
    pub(super) destination: Option<&'a str>,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) body: &'a [Value],
}

impl Call<'_> {
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        let mut signature = String::new();
        for value in self.body {
            signature += &value.signature();
            body.put(value);
        }
        let mut fields = vec![
            field(1, Value::Path(self.path.into())),
            field(2, Value::Text(self.interface.into())),
            field(3, Value::Text(self.member.into())),
        ];
        if let Some(destination) = self.destination {
            fields.push(field(6, Value::Text(destination.into())));
        }
        if !signature.is_empty() {
            fields.push(field(8, Value::Signature(signature)));
        }
        let order = if cfg!(target_endian = "big") {
            b'B'
        } else {
            b'l'
        };
        // Method call, no flags, version 1.
        let mut message = Writer(vec![order, 1, 0, 1]);
        message.put(&Value::U32(body.0.len() as u32));
        message.put(&Value::U32(serial));
        message.put(&Value::Array("(yv)".into(), fields));
        message.align(8);
        message.0.extend(body.0);
        message.0
    }
}

fn field(code: u8, value: Value) -> Value {
    Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))])
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N);
        self.0.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.number((text.len() as u32).to_ne_bytes());
        self.0.extend(text.bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(signature.len() as u8);
        self.0.extend(signature.bytes());
        self.0.push(0);
    }

    fn put(&mut self, value: &Value) {
        match value {
            Value::Byte(number) => self.0.push(*number),
            Value::Bool(on) => self.number(u32::from(*on).to_ne_bytes()),
            Value::I16(number) => self.number(number.to_ne_bytes()),
            Value::U16(number) => self.number(number.to_ne_bytes()),
            Value::I32(number) => self.number(number.to_ne_bytes()),
            Value::U32(number) => self.number(number.to_ne_bytes()),
            Value::I64(number) => self.number(number.to_ne_bytes()),
            Value::U64(number) => self.number(number.to_ne_bytes()),
            Value::F64(number) => self.number(number.to_ne_bytes()),
            Value::Text(text) | Value::Path(text) => self.text(text),
            Value::Signature(signature) => self.signature(signature),
            Value::Array(of, values) => {
                self.number([0; 4]);
                let length_at = self.0.len() - 4;
                self.align(alignment(of));
                let start = self.0.len();
                values.iter().for_each(|value| self.put(value));
                let length = (self.0.len() - start) as u32;
                self.0[length_at..length_at + 4].copy_from_slice(&length.to_ne_bytes());
            }
            Value::Struct(fields) => {
                self.align(8);
                fields.iter().for_each(|value| self.put(value));
            }
            Value::Variant(value) => {
                self.signature(&value.signature());
                self.put(value);
            }
        }
    }
}

/// What came from the bus.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Incoming {
    /// 2 = answer, 3 = error, 4 = signal.
    pub(super) kind: u8,
    pub(super) reply_to: u32,
    pub(super) sender: String,
    pub(super) member: String,
    pub(super) error: String,
    pub(super) signature: String,
    pub(super) body: Vec<u8>,
    big: bool,
}

fn malformed() -> Failure {
    Failure::Transport("the bus sent a malformed message".into())
}

/// Length of the whole message whose first [`FIXED_HEADER`] bytes are these.
pub(super) fn length(header: &[u8]) -> Result<usize, Failure> {
    let mut reader = Reader::new(header, is_big(header)?);
    reader.take(4)?;
    let body = reader.u32()? as usize;
    reader.u32()?;
    let fields = reader.u32()? as usize;
    if body > MAX_MESSAGE || fields > MAX_MESSAGE {
        return Err(Failure::Transport(
            "the bus sent a message of more than a megabyte".into(),
        ));
    }
    Ok((FIXED_HEADER + fields).next_multiple_of(8) + body)
}

fn is_big(header: &[u8]) -> Result<bool, Failure> {
    match header.first() {
        Some(b'l') => Ok(false),
        Some(b'B') => Ok(true),
        _ => Err(malformed()),
    }
}

/// A message of exactly the length that [`length`] says.
pub(super) fn decode(bytes: &[u8]) -> Result<Incoming, Failure> {
    let big = is_big(bytes)?;
    let mut reader = Reader::new(bytes, big);
    reader.take(1)?;
    let mut message = Incoming {
        kind: reader.byte()?,
        big,
        ..Incoming::default()
    };
    reader.take(2)?;
    let body = reader.u32()? as usize;
    reader.u32()?;
    let end = reader.u32()? as usize + FIXED_HEADER;
    while reader.at < end {
        reader.align(8)?;
        let code = reader.byte()?;
        let signature = reader.signature()?;
        match (code, signature.as_str()) {
            (3, "s") => message.member = reader.text()?,
            (4, "s") => message.error = reader.text()?,
            (5, "u") => message.reply_to = reader.u32()?,
            (7, "s") => message.sender = reader.text()?,
            (8, "g") => message.signature = reader.signature()?,
            // Path, interface, destination, number of descriptors, later ones.
            (_, "s" | "o") => drop(reader.text()?),
            (_, "u") => drop(reader.u32()?),
            (_, "g") => drop(reader.signature()?),
            _ => return Err(malformed()),
        }
    }
    reader.align(8)?;
    message.body = reader.take(body)?.to_vec();
    Ok(message)
}

impl Incoming {
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader::new(&self.body, self.big)
    }
}

#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], big: bool) -> Self {
        Self { bytes, at: 0, big }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Failure> {
        let end = self.at.checked_add(count).ok_or_else(malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<(), Failure> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn byte(&mut self) -> Result<u8, Failure> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Failure> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().map_err(|_| malformed())?;
        Ok(if self.big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    /// A string or an object path.
    pub(super) fn text(&mut self) -> Result<String, Failure> {
        let length = self.u32()? as usize;
        self.string(length)
    }

    pub(super) fn signature(&mut self) -> Result<String, Failure> {
        let length = usize::from(self.byte()?);
        self.string(length)
    }

    fn string(&mut self, length: usize) -> Result<String, Failure> {
        let bytes = self.take(length)?.to_vec();
        self.take(1)?;
        String::from_utf8(bytes).map_err(|_| malformed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &Value) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.put(value);
        writer.0
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn values_are_aligned_as_specified() {
        let pair = Value::Struct(vec![
            Value::Text("a".into()),
            Value::Variant(Box::new(Value::U64(7))),
        ]);
        assert_eq!(pair.signature(), "(sv)");
        let bytes = written(&Value::Array(pair.signature(), vec![pair]));
        let expected: &[u8] = &[
            16 + 8,
            0,
            0,
            0, // length, without the padding that follows
            0,
            0,
            0,
            0, // to the struct's alignment
            1,
            0,
            0,
            0,
            b'a',
            0, // the text
            1,
            b't',
            0, // the variant's signature
            0,
            0,
            0,
            0,
            0,
            0,
            0, // to the number's alignment
            7,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        assert_eq!(bytes, expected);
        let empty = Value::Array("(ss)".into(), Vec::new());
        assert_eq!(written(&empty), [0; 8]);
    }

    #[test]
    fn a_call_reads_back() {
        let body = [Value::Text("x.scope".into()), Value::Bool(true)];
        let call = Call {
            destination: Some("org.freedesktop.systemd1"),
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "Do",
            body: &body,
        };
        let bytes = call.encode(9);
        assert_eq!(length(&bytes).unwrap(), bytes.len());
        let message = decode(&bytes).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (1, "Do"));
        assert_eq!(message.signature, "sb");
        let mut reader = message.reader();
        assert_eq!(reader.text().unwrap(), "x.scope");
        assert_eq!(reader.u32().unwrap(), 1);
        assert!(reader.u32().is_err());
    }

    #[test]
    fn the_other_byte_order_is_read() {
        let mut bytes = vec![b'B', 2, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 8];
        bytes.extend([5, 1, b'u', 0, 0, 0, 0, 3]);
        bytes.extend([0, 0, 0, 5]);
        assert_eq!(length(&bytes).unwrap(), bytes.len());
        let message = decode(&bytes).unwrap();
        assert_eq!((message.kind, message.reply_to), (2, 3));
        assert_eq!(message.reader().u32().unwrap(), 5);
    }

    #[test]
    fn a_hostile_length_is_refused() {
        let mut header = vec![b'l', 2, 0, 1];
        header.extend(u32::MAX.to_le_bytes());
        header.extend([1, 0, 0, 0]);
        header.extend(u32::MAX.to_le_bytes());
        assert!(length(&header).is_err());
        assert!(length(b"x").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            let mut bytes = bytes;
            for order in [b'l', b'B'] {
                if let Some(first) = bytes.first_mut() {
                    *first = order;
                }
                let _ = length(&bytes);
                if let Ok(message) = decode(&bytes) {
                    let mut reader = message.reader();
                    while reader.text().is_ok() {}
                }
            }
        }
    }
}
