//! Wall-clock time as Docker writes it: RFC 3339, UTC, nanoseconds with the
//! trailing zeros left out.

use std::fmt;

/// Seconds and nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    seconds: i64,
    nanoseconds: u32,
}

impl Timestamp {
    /// The time by the system's clock.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        // The kernel keeps nanoseconds below 10⁹.
        Self {
            seconds: now.tv_sec,
            nanoseconds: u32::try_from(now.tv_nsec).unwrap_or(0),
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_date(self.seconds.div_euclid(86_400));
        let second = self.seconds.rem_euclid(86_400);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60
        )?;
        if self.nanoseconds != 0 {
            let mut fraction = self.nanoseconds;
            let mut width = 9;
            while fraction.is_multiple_of(10) {
                fraction /= 10;
                width -= 1;
            }
            write!(f, ".{fraction:0width$}")?;
        }
        f.write_str("Z")
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic
/// Gregorian calendar. The year is taken to begin in March, so that the leap
/// day is its last; 146,097 days are the 400 years after which dates repeat.
fn civil_date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // 0 = March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_like_rfc3339nano() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_827_696, 789_000_000, "2000-02-29T12:34:56.789Z"),
            (1_735_689_599, 1, "2024-12-31T23:59:59.000000001Z"),
            (1_735_689_600, 120_000, "2025-01-01T00:00:00.00012Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
            (-1, 500_000_000, "1969-12-31T23:59:59.5Z"),
        ];
        for (seconds, nanoseconds, text) in cases {
            assert_eq!(
                Timestamp {
                    seconds,
                    nanoseconds
                }
                .to_string(),
                text
            );
        }
    }

    #[test]
    fn days_follow_each_other_for_a_whole_cycle() {
        let mut previous = civil_date(-719_468);
        assert_eq!(previous, (0, 3, 1));
        for day in -719_467..=(-719_468 + 146_097) {
            let date = civil_date(day);
            let (y, m, d) = previous;
            assert!(
                date == (y, m, d + 1) || date == (y, m + 1, 1) || date == (y + 1, 1, 1),
                "{previous:?} then {date:?}"
            );
            previous = date;
        }
        assert_eq!(previous, (400, 3, 1));
    }
}
