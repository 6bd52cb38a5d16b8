//! How many messages a second a reader gets: the endpoint's `throttleRate`, for each of its readers on its own.
//!
//! A reader that wants more waits; nobody is refused. Of each there is one number, the time at which its allowance is whole again.

use bellwire_model::{EndpointKey, Timestamp};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// So many readers are told apart at a time.
const READERS_MAX: usize = 16_384;
const SECOND: i64 = 1_000_000;

/// All readers' allowances.
#[derive(Debug, Default)]
pub(super) struct Rates {
    whole_at: Mutex<HashMap<(EndpointKey, Arc<str>), i64>>,
}

impl Rates {
    /// Takes up to `wanted` messages; `Err` says after how long there will be one.
    pub(super) fn take(
        &self,
        reader: (EndpointKey, &Arc<str>),
        rate: Option<NonZeroU16>,
        wanted: usize,
        now: Timestamp,
    ) -> Result<usize, Duration> {
        let Some(rate) = rate else { return Ok(wanted) };
        let (now, interval) = (now.as_micros(), SECOND / i64::from(rate.get()));
        let mut all = self.whole_at.lock();
        if all.len() >= READERS_MAX {
            all.retain(|_, whole_at| *whole_at > now);
        }
        let whole_at = all.entry((reader.0, Arc::clone(reader.1))).or_insert(now);
        *whole_at = (*whole_at).max(now);
        let free = usize::try_from((now + SECOND - *whole_at) / interval).unwrap_or(0);
        if free == 0 && wanted > 0 {
            let wait = *whole_at + interval - now - SECOND;
            return Err(Duration::from_micros(wait.max(1).unsigned_abs()));
        }
        let taken = free.min(wanted);
        *whole_at += interval * i64::try_from(taken).unwrap_or(0);
        Ok(taken)
    }

    /// Puts back what was taken and not used.
    pub(super) fn put_back(&self, reader: (EndpointKey, &Arc<str>), rate: Option<NonZeroU16>, unused: usize) {
        let Some(rate) = rate.filter(|_| unused > 0) else { return };
        if let Some(whole_at) = self.whole_at.lock().get_mut(&(reader.0, Arc::clone(reader.1))) {
            *whole_at -= SECOND / i64::from(rate.get()) * i64::try_from(unused).unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_reader_gets_its_rate() {
        let (rates, name) = (Rates::default(), Arc::<str>::from("greedy"));
        let (reader, rate) = ((EndpointKey(1), &name), NonZeroU16::new(50));
        let (mut now, begin) = (Timestamp::from_seconds(1_000), Timestamp::from_seconds(1_000));
        let mut got = 0;
        while now < begin.plus(Duration::from_secs(60)) {
            match rates.take(reader, rate, 7, now) {
                Ok(taken) => {
                    // Half of it is not there after all.
                    got += taken - taken / 2;
                    rates.put_back(reader, rate, taken / 2);
                }
                Err(wait) => now = now.plus(wait),
            }
        }
        assert!((50 * 60..=50 * 61).contains(&got), "{got}");
        // Another reader has its own, and without a rate there is no limit.
        let other = Arc::<str>::from("other");
        assert_eq!(rates.take((EndpointKey(1), &other), rate, 500, now), Ok(50));
        assert_eq!(rates.take(reader, None, 500, now), Ok(500));
    }
}
