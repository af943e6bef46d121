//! Cuts output into lines the way Docker does: at newlines, and in pieces of
//! 16 KiB where a line is longer.

use crate::timestamp::Timestamp;

/// Docker's limit for one entry, in bytes.
const MAX_PIECE: usize = 16 * 1024;

/// A line, or a part of one that is too long or has not ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a [u8],
    /// Whether a newline followed; it is not part of `text`.
    pub(super) terminated: bool,
    /// All pieces of one long line carry the time of the first.
    pub(super) time: Timestamp,
}

/// The state of one output: the beginning of a line whose end has not come.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Shorter than [`MAX_PIECE`].
    begun: Vec<u8>,
    /// When the first piece of the line was given out, if one was.
    first: Option<Timestamp>,
}

impl Lines {
    /// Takes more output and gives out the pieces that are complete.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        now: Timestamp,
        mut out: impl FnMut(Piece<'_>),
    ) {
        while !bytes.is_empty() {
            let room = MAX_PIECE - self.begun.len();
            let window = &bytes[..room.min(bytes.len())];
            let newline = window.iter().position(|&byte| byte == b'\n');
            let (text, terminated) = match newline {
                Some(end) => (&window[..end], true),
                None if window.len() == room => (window, false),
                None => {
                    self.begun.extend_from_slice(window);
                    return;
                }
            };
            bytes = &bytes[text.len() + usize::from(terminated)..];
            let time = self.first.unwrap_or(now);
            if self.begun.is_empty() {
                out(Piece {
                    text,
                    terminated,
                    time,
                });
            } else {
                self.begun.extend_from_slice(text);
                out(Piece {
                    text: &self.begun,
                    terminated,
                    time,
                });
                self.begun = Vec::new();
            }
            self.first = if terminated { None } else { Some(time) };
        }
    }

    /// The output has ended: gives out what is left.
    pub(super) fn finish(&mut self, mut out: impl FnMut(Piece<'_>)) {
        if !self.begun.is_empty() {
            let time = self.first.unwrap_or_else(Timestamp::now);
            out(Piece {
                text: &self.begun,
                terminated: false,
                time,
            });
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut pieces = Vec::new();
        let mut lines = Lines::default();
        let mut take = |piece: Piece<'_>| pieces.push((piece.text.to_vec(), piece.terminated));
        for chunk in chunks {
            lines.feed(chunk, Timestamp::now(), &mut take);
        }
        lines.finish(&mut take);
        pieces
    }

    #[test]
    fn lines_and_an_unfinished_rest() {
        assert_eq!(
            cut(&[b"a\nb", b"c\n\n", b"rest"]),
            [
                (b"a".to_vec(), true),
                (b"bc".to_vec(), true),
                (b"".to_vec(), true),
                (b"rest".to_vec(), false)
            ]
        );
    }

    #[test]
    fn long_line_is_split_as_docker_splits_it() {
        let full = vec![b'x'; MAX_PIECE];
        // Exactly full: the newline comes alone.
        assert_eq!(
            cut(&[&full, b"\n"]),
            [(full.clone(), false), (b"".to_vec(), true)]
        );
        let mut line = full.clone();
        line.extend_from_slice(b"yz\nnext\n");
        assert_eq!(
            cut(&[&line]),
            [
                (full, false),
                (b"yz".to_vec(), true),
                (b"next".to_vec(), true)
            ]
        );
    }

    #[test]
    fn pieces_of_a_line_carry_the_time_of_the_first() {
        let mut lines = Lines::default();
        let mut times = Vec::new();
        let first = Timestamp::now();
        lines.feed(&vec![b'x'; MAX_PIECE], first, |piece| {
            times.push(piece.time)
        });
        while Timestamp::now() == first {}
        let later = Timestamp::now();
        lines.feed(b"y\nz\n", later, |piece| times.push(piece.time));
        assert_eq!(times, [first, first, later]);
    }

    proptest! {
        /// However the output is chopped up, the same pieces come out, and
        /// together they are the output.
        #[test]
        fn independent_of_chunks(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a')], 0..200),
            long in 0usize..40_000,
            cut_at in 0usize..40_000,
        ) {
            let mut bytes = bytes;
            bytes.extend(std::iter::repeat_n(b'l', long));
            bytes.push(b'\n');
            let (left, right) = bytes.split_at(cut_at.min(bytes.len()));
            let pieces = cut(&[left, right]);
            prop_assert_eq!(&pieces, &cut(&[&bytes]));
            let mut joined = Vec::new();
            for (text, terminated) in pieces {
                prop_assert!(text.len() <= MAX_PIECE);
                joined.extend(text);
                if terminated { joined.push(b'\n'); }
            }
            prop_assert_eq!(joined, bytes);
        }
    }
}
