//! How long each phase of a start took, for whoever asks where the time goes.

use std::time::Instant;

/// A phase's name and its length in microseconds.
pub type Step = (String, u64);

/// Measures one phase after another. Each costs a reading of the clock.
#[derive(Debug)]
pub struct Clock {
    last: Instant,
    steps: Vec<Step>,
}

impl Clock {
    /// The first phase begins now.
    pub fn start() -> Self {
        Self {
            last: Instant::now(),
            steps: Vec::with_capacity(16),
        }
    }

    /// The phase `name` ends now, and the next begins.
    pub fn mark(&mut self, name: &str) {
        let now = Instant::now();
        self.push(name, now.duration_since(self.last));
        self.last = now;
    }

    /// A phase measured elsewhere, which lies within the present one: that one
    /// goes on with what is left of it.
    pub fn extend(&mut self, steps: Vec<Step>) {
        let within: u64 = steps.iter().map(|(_, micros)| micros).sum();
        let now = Instant::now();
        let end = self.last + std::time::Duration::from_micros(within);
        self.last = end.min(now);
        self.steps.extend(steps);
    }

    fn push(&mut self, name: &str, length: std::time::Duration) {
        let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        self.steps.push((name.to_owned(), micros));
    }

    /// All phases, in the order in which they ended.
    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

/// For the way from the container's first process to its parent.
pub(crate) fn encode(steps: &[Step]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(steps.len() * 24);
    for (name, micros) in steps {
        bytes.extend_from_slice(&micros.to_ne_bytes());
        bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        bytes.extend(name.bytes().take(usize::from(u8::MAX)));
    }
    bytes
}

pub(crate) fn decode(mut bytes: &[u8]) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    while !bytes.is_empty() {
        let (micros, rest) = bytes.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let name = String::from_utf8_lossy(name).into_owned();
        steps.push((name, u64::from_ne_bytes(*micros)));
        bytes = rest;
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let steps = vec![("mounts".to_owned(), 7), (String::new(), u64::MAX)];
        assert_eq!(decode(&encode(&steps)), Some(steps));
        assert_eq!(decode(b""), Some(Vec::new()));
        assert_eq!(decode(b"12345678\x05abc"), None);
        assert_eq!(decode(b"123"), None);
    }

    #[test]
    fn phases_measured_elsewhere_are_not_counted_twice() {
        let mut clock = Clock::start();
        std::thread::sleep(std::time::Duration::from_millis(20));
        clock.extend(vec![("inner".to_owned(), 15_000)]);
        clock.mark("rest");
        let steps = clock.into_steps();
        let whole: u64 = steps.iter().map(|(_, micros)| micros).sum();
        assert_eq!(steps[0].1, 15_000);
        assert!(steps[1].1 >= 5_000 && whole >= 20_000, "{steps:?}");
    }
}
