//! When a container that ended is started again.

use std::time::Duration;

use berth_api::Error;
use berth_api::container::RestartPolicy;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// Having run that long, it counts as healthy.
const RESET: Duration = Duration::from_secs(10);

/// The pause before the next start: 100 ms, doubling to one minute.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    pub(crate) fn next(&mut self, ran: Duration) -> Duration {
        let pause = match self.last {
            Some(last) if ran < RESET => (last * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some(pause);
        pause
    }
}

/// Whether the policy wants a start after an exit with this code.
pub(crate) fn wanted(
    policy: &RestartPolicy,
    exit_code: i64,
    restarts: i64,
    stopped_by_hand: bool,
) -> bool {
    if stopped_by_hand {
        return false;
    }
    match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => {
            exit_code != 0
                && (policy.maximum_retry_count == 0 || restarts < policy.maximum_retry_count)
        }
        _ => false,
    }
}

/// Docker's checks and words.
pub(crate) fn validate(policy: &RestartPolicy) -> Result<(), Error> {
    match policy.name.as_str() {
        "always" | "no" | "unless-stopped" if policy.maximum_retry_count != 0 => {
            let more = if policy.maximum_retry_count < 0 {
                " and cannot be negative"
            } else {
                ""
            };
            Err(Error::invalid(format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'{more}"
            )))
        }
        "on-failure" if policy.maximum_retry_count < 0 => Err(Error::invalid(
            "invalid restart policy: maximum retry count cannot be negative",
        )),
        "" | "no" | "always" | "unless-stopped" | "on-failure" => Ok(()),
        other => Err(Error::invalid(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, count: i64) -> RestartPolicy {
        RestartPolicy {
            name: name.into(),
            maximum_retry_count: count,
        }
    }

    #[test]
    fn doubles_to_a_minute_and_resets() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let pauses: Vec<_> = (0..12).map(|_| backoff.next(short).as_millis()).collect();
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[11], 60_000);
        assert_eq!(backoff.next(Duration::from_secs(10)), FIRST);
    }

    #[test]
    fn policies() {
        assert!(wanted(&policy("always", 0), 0, 9, false));
        assert!(!wanted(&policy("always", 0), 0, 0, true));
        assert!(wanted(&policy("on-failure", 2), 1, 1, false));
        assert!(!wanted(&policy("on-failure", 2), 1, 2, false));
        assert!(!wanted(&policy("on-failure", 0), 0, 0, false));
        assert!(!wanted(&policy("", 0), 1, 0, false));
        for (name, count, valid) in [
            ("no", 0, true),
            ("no", 1, false),
            ("on-failure", 3, true),
            ("on-failure", -1, false),
            ("sometimes", 0, false),
        ] {
            assert_eq!(validate(&policy(name, count)).is_ok(), valid, "{name}");
        }
    }
}
