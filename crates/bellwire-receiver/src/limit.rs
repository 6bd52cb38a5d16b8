//! How many requests a source takes in a second, and how many of those that made no message are written down.

use bellwire_model::{SourceKey, Timestamp};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

/// Requests of one source that are kept in a second; the rest is only counted, so that forging requests is no way to make us write.
const KEPT_PER_SECOND: u32 = 5;
/// Of all sources together.
const KEPT_PER_SECOND_OF_ALL: u32 = 100;

/// A bucket that fills with `rate` tokens a second and holds as many: the time at which it would be full again.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at: i64,
}

impl Bucket {
    /// Takes a token, or says how long until there is one.
    fn take(&mut self, rate: u32, now: Timestamp) -> Result<(), Duration> {
        const SECOND: i64 = 1_000_000;
        // A token is so many microseconds; of a rate beyond a million, none.
        let token = SECOND / i64::from(rate);
        let now = now.as_micros();
        let full_at = self.full_at.max(now) + token;
        let beyond = full_at - now - SECOND.max(token);
        if beyond > 0 {
            return Err(Duration::from_micros(beyond.unsigned_abs()));
        }
        self.full_at = full_at;
        Ok(())
    }
}

/// The buckets of all sources.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    requests: Mutex<HashMap<SourceKey, Bucket>>,
    kept: Mutex<(Bucket, HashMap<SourceKey, Bucket>)>,
}

impl Limits {
    /// Lets a request of a source through, or says how long it has to wait.
    pub(crate) fn pass(&self, source: SourceKey, rate: NonZeroU32, now: Timestamp) -> Result<(), Duration> {
        self.requests.lock().entry(source).or_default().take(rate.get(), now)
    }

    /// Whether a request that made no message is to be kept.
    pub(crate) fn may_keep(&self, source: SourceKey, now: Timestamp) -> bool {
        let (all, each) = &mut *self.kept.lock();
        each.entry(source).or_default().take(KEPT_PER_SECOND, now).is_ok()
            && all.take(KEPT_PER_SECOND_OF_ALL, now).is_ok()
    }

    /// Forgets the sources that are gone.
    pub(crate) fn forget(&self, exists: impl Fn(SourceKey) -> bool) {
        self.requests.lock().retain(|key, _| exists(*key));
        self.kept.lock().1.retain(|key, _| exists(*key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lets_the_rate_through_and_the_next_one_again() {
        let limits = Limits::default();
        let (source, rate) = (SourceKey(1), NonZeroU32::new(10).expect("a rate"));
        let at = |millis: i64| Timestamp::from_millis(1_800_000_000_000 + millis);
        let pass = |millis| limits.pass(source, rate, at(millis));
        assert_eq!((0..20).filter(|_| pass(0).is_ok()).count(), 10);
        assert_eq!(pass(0), Err(Duration::from_millis(100)));
        assert!(pass(99).is_err() && pass(100).is_ok() && pass(100).is_err());
        assert_eq!((0..200).filter(|n| pass(100 + n * 10).is_ok()).count(), 19, "ten a second, for two seconds");
        assert!(limits.pass(SourceKey(2), rate, at(100)).is_ok(), "another source has its own");
        assert_eq!((0..20).filter(|_| limits.pass(SourceKey(3), NonZeroU32::MIN, at(0)).is_ok()).count(), 1);
    }

    #[test]
    fn few_refusals_are_kept() {
        let limits = Limits::default();
        let now = Timestamp::from_seconds(1_800_000_000);
        assert_eq!((0..1_000).filter(|_| limits.may_keep(SourceKey(1), now)).count(), 5);
        let many = (2..1_000).filter(|key| limits.may_keep(SourceKey(*key), now)).count();
        assert_eq!(many, 95);
        limits.forget(|key| key == SourceKey(1));
        assert!(!limits.may_keep(SourceKey(1), now));
    }
}
