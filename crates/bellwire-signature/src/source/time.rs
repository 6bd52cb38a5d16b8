//! The time at which a request was signed.

use super::{field::Field, recipe::TimeUnit, refusal::Refusal};

/// More digits than any time has.
const DIGITS_MAX: usize = 17;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Time {
    pub(crate) field: Field,
    pub(crate) unit: TimeUnit,
    pub(crate) tolerance_seconds: u64,
}

impl Time {
    /// The time in Unix seconds, if it is near enough to now.
    pub(crate) fn check(&self, text: &str, now_seconds: i64) -> Result<i64, Refusal> {
        let seconds = self.seconds(text)?;
        let by_seconds = now_seconds.abs_diff(seconds);
        if by_seconds <= self.tolerance_seconds {
            Ok(seconds)
        } else if seconds < now_seconds {
            Err(Refusal::TooOld { by_seconds })
        } else {
            Err(Refusal::TooNew { by_seconds })
        }
    }

    fn seconds(&self, text: &str) -> Result<i64, Refusal> {
        let number = || {
            let is_number = !text.is_empty() && text.len() <= DIGITS_MAX && text.bytes().all(|b| b.is_ascii_digit());
            let number = if is_number { text.parse::<i64>().ok() } else { None };
            number.ok_or_else(|| self.field.malformed("a whole number in decimal digits"))
        };
        match self.unit {
            TimeUnit::S => number(),
            TimeUnit::Ms => number().map(|ms| ms.div_euclid(1000)),
            TimeUnit::Iso8601 => text
                .parse::<jiff::Timestamp>()
                .map(jiff::Timestamp::as_second)
                .map_err(|_| self.field.malformed("a date and time such as 2026-01-31T09:30:00Z")),
        }
    }
    /// The same time as the sender would write it.
    pub(crate) fn text(&self, seconds: i64) -> String {
        match self.unit {
            TimeUnit::S => seconds.to_string(),
            TimeUnit::Ms => seconds.saturating_mul(1000).to_string(),
            TimeUnit::Iso8601 => {
                jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| time.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_strictly_and_may_be_off_by_the_tolerance() {
        let now = 1_700_000_000;
        let check = |unit, text: &str| Time { field: Field::Method, unit, tolerance_seconds: 300 }.check(text, now);
        assert_eq!(check(TimeUnit::S, "1700000300"), Ok(now + 300));
        assert_eq!(check(TimeUnit::S, "1699999699"), Err(Refusal::TooOld { by_seconds: 301 }));
        assert_eq!(check(TimeUnit::S, "1700000301"), Err(Refusal::TooNew { by_seconds: 301 }));
        assert_eq!(check(TimeUnit::Ms, "1700000000999"), Ok(now));
        assert_eq!(check(TimeUnit::Iso8601, "2023-11-14T22:13:20Z"), Ok(now));
        assert_eq!(check(TimeUnit::Iso8601, "2023-11-14T23:13:20.123456789+01:00"), Ok(now));
        for text in ["", "hello", "1700000000.0", "+1700000000", "-1", " 1700000000", "1700000000a", "١٦", "9e9"] {
            assert!(matches!(check(TimeUnit::S, text), Err(Refusal::Malformed { .. })), "{text}");
        }
        for text in ["", "1700000000", "2023-11-14", "2023-11-14T22:13:20"] {
            assert!(matches!(check(TimeUnit::Iso8601, text), Err(Refusal::Malformed { .. })), "{text}");
        }
        assert!(check(TimeUnit::S, &"9".repeat(30)).is_err());
    }

    #[test]
    fn what_is_written_is_read_again() {
        for unit in [TimeUnit::S, TimeUnit::Ms, TimeUnit::Iso8601] {
            let time = Time { field: Field::Method, unit, tolerance_seconds: 0 };
            assert_eq!(time.check(&time.text(1_700_000_000), 1_700_000_000), Ok(1_700_000_000));
        }
    }
}
