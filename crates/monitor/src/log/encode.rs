//! One entry of Docker's json-file log, byte for byte as Docker writes it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;

use super::Stream;

/// Appends `{"log":…,"stream":…,"attrs":…,"time":…}` and a newline. `attributes`
/// is empty or a JSON object ([`attributes`]). `terminated` says whether the
/// text was ended by a newline, which is then part of it.
pub(super) fn entry(
    out: &mut Vec<u8>,
    text: &[u8],
    terminated: bool,
    stream: Stream,
    attributes: &[u8],
    time: impl Display,
) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, text);
    if terminated {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.push(b'"');
    if !attributes.is_empty() {
        out.extend_from_slice(b",\"attrs\":");
        out.extend_from_slice(attributes);
    }
    out.extend_from_slice(b",\"time\":\"");
    // Writing to a vector cannot fail.
    let _ = write!(out, "{time}");
    out.extend_from_slice(b"\"}\n");
}

/// The `attrs` object of each entry, or nothing when there are none.
pub(super) fn attributes(pairs: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in pairs {
        out.extend_from_slice(if out.is_empty() { b"{\"" } else { b",\"" });
        escape(&mut out, key.as_bytes());
        out.extend_from_slice(b"\":\"");
        escape(&mut out, value.as_bytes());
        out.push(b'"');
    }
    if !out.is_empty() {
        out.push(b'}');
    }
    out
}

/// Appends `bytes` as the inside of a JSON string with the escapes of Docker's
/// json-file driver: control characters as `\u00xx` except newline and return;
/// `<`, `>`, `&` and the two Unicode line separators as `\uxxxx`; each byte
/// that is not part of valid UTF-8 as `\ufffd`.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        escape_text(out, chunk.valid());
        // Go replaces byte by byte, `utf8_chunks` sequence by sequence.
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn escape_text(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut start = 0;
    for (position, &byte) in bytes.iter().enumerate() {
        let (escaped, width): (&[u8], usize) = match byte {
            b'"' => (b"\\\"", 1),
            b'\\' => (b"\\\\", 1),
            b'\n' => (b"\\n", 1),
            b'\r' => (b"\\r", 1),
            b'<' => (b"\\u003c", 1),
            b'>' => (b"\\u003e", 1),
            b'&' => (b"\\u0026", 1),
            0..0x20 => {
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(&bytes[start..position]);
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&digits);
                start = position + 1;
                continue;
            }
            0xe2 if bytes[position..].starts_with("\u{2028}".as_bytes()) => (b"\\u2028", 3),
            0xe2 if bytes[position..].starts_with("\u{2029}".as_bytes()) => (b"\\u2029", 3),
            _ => continue,
        };
        out.extend_from_slice(&bytes[start..position]);
        out.extend_from_slice(escaped);
        start = position + width;
    }
    out.extend_from_slice(&bytes[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    /// Expected values produced by Docker's json-file driver.
    #[test]
    fn escapes_like_docker() {
        let cases: [(&[u8], &str); 9] = [
            (b"plain text ~ \x7f", "plain text ~ \x7f"),
            (b"\"q\" \\ /", "\\\"q\\\" \\\\ /"),
            (b"a\tb\r\x00\x1b[0m", "a\\u0009b\\r\\u0000\\u001b[0m"),
            (b"<a href=x>&amp;", "\\u003ca href=x\\u003e\\u0026amp;"),
            (
                "\u{2028}x\u{2029}\u{202a}".as_bytes(),
                "\\u2028x\\u2029\u{202a}",
            ),
            ("grüße 漢字 🦀".as_bytes(), "grüße 漢字 🦀"),
            (b"\xff\xfe", "\\ufffd\\ufffd"),
            // A cut sequence: one replacement for each byte.
            (b"x\xe6\xbcy", "x\\ufffd\\ufffdy"),
            // A surrogate half is not UTF-8.
            (b"\xed\xa0\x80", "\\ufffd\\ufffd\\ufffd"),
        ];
        for (bytes, text) in cases {
            assert_eq!(escaped(bytes), text, "{bytes:?}");
        }
    }

    #[test]
    fn whole_entry() {
        let mut out = Vec::new();
        entry(&mut out, b"hi", true, Stream::Stdout, b"", "T");
        entry(
            &mut out,
            b"hi",
            false,
            Stream::Stderr,
            b"{\"a\":\"b\"}",
            "T",
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"log\":\"hi\\n\",\"stream\":\"stdout\",\"time\":\"T\"}\n\
             {\"log\":\"hi\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"b\"},\"time\":\"T\"}\n"
        );
        let pairs = [
            ("k<".to_owned(), "v\"".to_owned()),
            ("z".to_owned(), String::new()),
        ];
        assert_eq!(attributes(&pairs.into()), br#"{"k\u003c":"v\"","z":""}"#);
        assert!(attributes(&BTreeMap::new()).is_empty());
    }

    proptest! {
        /// Whatever a container prints, the log has one line of valid JSON
        /// that gives the text back, with U+FFFD for what was not UTF-8.
        #[test]
        fn any_bytes_become_one_line_of_json(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            entry(&mut out, &bytes, false, Stream::Stdout, b"", "T");
            prop_assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 1);
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let mut expected = String::new();
            for chunk in bytes.utf8_chunks() {
                expected.push_str(chunk.valid());
                chunk.invalid().iter().for_each(|_| expected.push('\u{fffd}'));
            }
            prop_assert_eq!(value["log"].as_str().unwrap(), expected);
        }
    }
}
