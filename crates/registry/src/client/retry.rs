//! When a request is worth repeating, and after how long.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::time::Instant;

use super::Error;

/// Who asks for more patience than this is told so, and not asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
const TOTAL: Duration = Duration::from_secs(180);
/// Seconds for a number that is too large to be one.
const FOREVER: u64 = u32::MAX as u64;
/// As Docker's `max-download-attempts`.
pub(super) const ATTEMPTS: u32 = 5;

/// The tries of one request.
#[derive(Debug)]
pub(super) struct Retry {
    left: u32,
    made: u32,
    until: Instant,
}

impl Retry {
    pub(super) fn new(attempts: u32) -> Self {
        Self {
            left: attempts,
            made: 0,
            until: Instant::now() + TOTAL,
        }
    }

    /// Waits until the next try is due.
    ///
    /// # Errors
    /// `error` if there is to be none.
    pub(super) async fn wait(
        &mut self,
        asked: Option<Duration>,
        error: Error,
    ) -> Result<(), Error> {
        self.left = self.left.saturating_sub(1);
        let wait = asked.unwrap_or_else(|| backoff(self.made, random()));
        self.made += 1;
        if self.left == 0 || wait > LONGEST_WAIT || Instant::now() + wait > self.until {
            return Err(error);
        }
        tracing::debug!(%error, ?wait, "the registry is asked again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Something was achieved: all tries are there again.
    pub(super) fn refill(&mut self) {
        *self = Self::new(ATTEMPTS);
    }
}

pub(super) fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Seconds or a date (RFC 9110 §10.2.3).
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(text, SystemTime::now())
}

fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(FOREVER)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Doubles each time; between half and all of it, so that those who were
/// refused together do not come back together.
fn backoff(made: u32, random: u8) -> Duration {
    let whole = FIRST_WAIT
        .saturating_mul(1u32.checked_shl(made).unwrap_or(u32::MAX))
        .min(LONGEST_BACKOFF);
    whole / 2 + whole / 2 * u32::from(random) / u32::from(u8::MAX)
}

fn random() -> u8 {
    let mut byte = [0u8];
    let random = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    random.map_or(128, |_| byte[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unavailable() -> Error {
        Error::Unavailable("toomanyrequests: slow down".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn waits_as_long_as_it_was_asked_to() {
        let mut retry = Retry::new(3);
        let begin = Instant::now();
        retry
            .wait(Some(Duration::from_secs(30)), unavailable())
            .await
            .unwrap();
        assert_eq!(begin.elapsed(), Duration::from_secs(30));
        retry
            .wait(Some(Duration::from_secs(7)), unavailable())
            .await
            .unwrap();
        assert_eq!(begin.elapsed(), Duration::from_secs(37));
        retry.wait(None, unavailable()).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_wait_for_what_is_too_long() {
        let begin = Instant::now();
        let error = Retry::new(5)
            .wait(Some(Duration::from_secs(3600)), unavailable())
            .await;
        assert!(error.unwrap_err().to_string().contains("toomanyrequests"));
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn all_tries_together_are_bounded() {
        let begin = Instant::now();
        let mut retry = Retry::new(u32::MAX);
        while retry.wait(None, unavailable()).await.is_ok() {}
        assert!(begin.elapsed() <= TOTAL);
    }

    #[test]
    fn dates_and_seconds() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let read = |text| parse_retry_after(text, now);
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(
            read("Sun, 06 Nov 1994 08:49:47 GMT"),
            Some(Duration::from_secs(10))
        );
        assert_eq!(read("Sun, 06 Nov 1994 08:49:07 GMT"), Some(Duration::ZERO));
        assert_eq!(
            read("99999999999999999999999"),
            Some(Duration::from_secs(u64::from(u32::MAX)))
        );
        assert_eq!(read("-1"), None);
        assert_eq!(read(""), None);
    }

    proptest! {
        #[test]
        fn any_header(text in "\\PC{0,60}") {
            parse_retry_after(&text, SystemTime::now());
        }

        #[test]
        fn any_seconds(seconds: u32) {
            let read = parse_retry_after(&seconds.to_string(), SystemTime::now());
            prop_assert_eq!(read, Some(Duration::from_secs(u64::from(seconds))));
        }

        #[test]
        fn backoff_stays_in_its_bounds(made: u32, random: u8) {
            let wait = backoff(made, random);
            prop_assert!(wait >= FIRST_WAIT / 2 && wait <= LONGEST_BACKOFF);
        }
    }
}
