//! The keys that detach a client from a terminal.

/// Watches the client's bytes for the detach sequence. Bytes that might be its
/// beginning are held back until it is known that they are not.
#[derive(Debug)]
pub(crate) struct Escape {
    keys: Vec<u8>,
    held: usize,
}

impl Escape {
    /// No keys: nothing is ever found or held back.
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, held: 0 }
    }

    /// Appends to `pass` what may go on to the container. True when the
    /// sequence is complete; what follows it is dropped.
    pub(crate) fn filter(&mut self, input: &[u8], pass: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            pass.extend_from_slice(input);
            return false;
        }
        for &byte in input {
            // What is held is always the first `held` keys, so a mismatch gives
            // up bytes from its front until the rest fits the keys again.
            loop {
                if self.keys[self.held] == byte {
                    self.held += 1;
                    break;
                }
                if self.held == 0 {
                    pass.push(byte);
                    break;
                }
                let shorter = (0..self.held)
                    .rev()
                    .find(|&length| self.keys[..self.held].ends_with(&self.keys[..length]))
                    .unwrap_or(0);
                pass.extend_from_slice(&self.keys[..self.held - shorter]);
                self.held = shorter;
            }
            if self.held == self.keys.len() {
                self.held = 0;
                return true;
            }
        }
        false
    }

    /// What is still held back when the input ends.
    pub(crate) fn rest(&mut self) -> &[u8] {
        &self.keys[..std::mem::take(&mut self.held)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(keys: &[u8], parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut escape = Escape::new(keys.to_vec());
        let mut pass = Vec::new();
        for part in parts {
            if escape.filter(part, &mut pass) {
                return (pass, true);
            }
        }
        pass.extend_from_slice(escape.rest());
        (pass, false)
    }

    #[test]
    fn found_across_reads_and_replayed_when_incomplete() {
        assert_eq!(
            run(&[16, 17], &[b"ab\x10", b"\x11cd"]),
            (b"ab".into(), true)
        );
        assert_eq!(
            run(&[16, 17], &[b"\x10", b"x\x10"]),
            (b"\x10x\x10".into(), false)
        );
        assert_eq!(run(b"aab", &[b"aaaab"]), (b"aa".into(), true));
        assert_eq!(run(b"", &[b"\x10\x11"]), (b"\x10\x11".into(), false));
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost_or_reordered(input: Vec<u8>, cut: usize) {
            let input: Vec<u8> = input.iter().map(|byte| byte % 3).collect();
            let keys = [0, 1, 0, 2];
            let (a, b) = input.split_at(cut % (input.len() + 1));
            let (pass, found) = run(&keys, &[a, b]);
            let at = input.windows(4).position(|window| window == keys);
            assert_eq!(found, at.is_some());
            assert_eq!(pass, input[..at.unwrap_or(input.len())]);
        }
    }
}
