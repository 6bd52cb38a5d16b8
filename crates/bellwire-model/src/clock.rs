//! Points in time, as arguments. Two clocks matter and they are never confused:
//!
//! * **engine time** is steady: it starts at the wall clock or at the newest time in the store, whichever is later, and then
//!   follows the monotonic clock. Everything that is scheduled or ordered uses it, so a jump of the wall clock
//!   neither starts a storm of retries nor postpones one.
//! * **wall time** is what the receiver of a signature compares with its own clock. Only `webhook-timestamp` and a date in `Retry-After`
//!   use it.

use std::fmt;
use std::time::Duration;

/// A point in time: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Timestamp = Timestamp(0);
    /// Later than everything that is scheduled.
    pub const FAR_FUTURE: Timestamp = Timestamp(i64::MAX / 2);

    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Timestamp(millis.saturating_mul(1_000))
    }

    /// From seconds since the Unix epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Timestamp(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Seconds since the Unix epoch, rounded down; what `webhook-timestamp` holds.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The time between `earlier` and this, zero if it is not earlier.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This plus `wait`, saturating.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 2)))
    }

    /// This minus `wait`, saturating.
    #[must_use]
    pub fn minus(self, wait: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 2)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with microseconds and `Z`, as the API writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => write!(f, "{t:.6}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = jiff::Error;

    /// RFC 3339, any offset.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Timestamp(text.parse::<jiff::Timestamp>()?.as_microsecond()))
    }
}

/// What a step of the engine is told about time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Steady time, for order and schedules.
    pub engine: Timestamp,
    /// The wall clock, for signatures and for dates from outside.
    pub wall: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_prints_as_rfc_3339_with_microseconds() {
        assert_eq!(Timestamp::from_micros(1_700_000_000_000_001).to_string(), "2023-11-14T22:13:20.000001Z");
        assert_eq!("2023-11-14T23:13:20+01:00".parse::<Timestamp>().ok(), Some(Timestamp::from_seconds(1_700_000_000)));
    }

    #[test]
    fn extremes_saturate() {
        let far = Timestamp::from_micros(i64::MAX).plus(Duration::MAX);
        assert_eq!(far.as_micros(), i64::MAX);
        assert_eq!(Timestamp::EPOCH.since(Timestamp::FAR_FUTURE), Duration::ZERO);
    }
}
