//! How many requests a token may make: so many at once, then so many per second.
//!
//! One limit is shared by all shards. Per token there is one number, the time at which its allowance is whole again (the
//! generic cell rate algorithm); a token whose time has passed is as good as new and need not be remembered, which
//! bounds the memory.

use bellwire_model::Timestamp;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// So many tokens are told apart at a time.
const TOKENS_MAX: usize = 100_000;

/// What a token may do. `Clone` shares it.
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// Between two requests at the lasting rate.
    interval_micros: i64,
    /// How far ahead a token's time may be.
    ahead_micros: i64,
    tokens: Arc<Mutex<HashMap<[u8; 32], Allowance>>>,
}

/// A token's place in the limit; whoever remembers the token keeps it, so that a request costs no lock.
pub(crate) type Allowance = Arc<AtomicI64>;

impl RateLimit {
    /// `per_second` requests, of which `burst` may come at once.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let interval_micros = (1_000_000 / i64::from(per_second.get())).max(1);
        let ahead_micros = interval_micros.saturating_mul(i64::from(burst.get()));
        RateLimit { interval_micros, ahead_micros, tokens: Arc::default() }
    }

    /// That of the token with this fingerprint.
    pub(crate) fn allowance(&self, fingerprint: [u8; 32], now: Timestamp) -> Allowance {
        let mut tokens = self.tokens.lock();
        if tokens.len() >= TOKENS_MAX && !tokens.contains_key(&fingerprint) {
            tokens.retain(|_, allowance| allowance.load(Ordering::Relaxed) > now.as_micros());
            if tokens.len() >= TOKENS_MAX {
                tokens.clear();
            }
        }
        tokens.entry(fingerprint).or_default().clone()
    }

    /// Takes one request from the allowance.
    ///
    /// # Errors
    /// How long to wait until there is one.
    pub(crate) fn take(&self, allowance: &Allowance, now: Timestamp) -> Result<(), Duration> {
        let now = now.as_micros();
        let after = |whole_at: i64| whole_at.max(now).saturating_add(self.interval_micros);
        let fits = |whole_at: i64| after(whole_at) <= now.saturating_add(self.ahead_micros);
        let taken = allowance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |whole_at| fits(whole_at).then(|| after(whole_at)));
        taken.map(drop).map_err(|whole_at| {
            let wait = after(whole_at) - now - self.ahead_micros;
            Duration::from_micros(wait.unsigned_abs())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_second: u32, burst: u32) -> RateLimit {
        let number = |n| NonZeroU32::new(n).expect("not zero");
        RateLimit::new(number(per_second), number(burst))
    }

    #[test]
    fn so_many_at_once_then_so_many_per_second() {
        let limit = limit(10, 3);
        let mut now = Timestamp::from_seconds(1_000);
        let allowance = limit.allowance([1; 32], now);
        for _ in 0..3 {
            assert_eq!(limit.take(&allowance, now), Ok(()));
        }
        assert_eq!(limit.take(&allowance, now), Err(Duration::from_millis(100)));
        now = now.plus(Duration::from_millis(99));
        assert_eq!(limit.take(&allowance, now), Err(Duration::from_millis(1)));
        now = now.plus(Duration::from_millis(1));
        assert_eq!(limit.take(&allowance, now), Ok(()));
        assert!(limit.take(&allowance, now).is_err(), "a refused request takes nothing, and one was there");
        // Another token has its own.
        assert_eq!(limit.take(&limit.allowance([2; 32], now), now), Ok(()));
        // In any second, no more than burst and rate together.
        let now = now.plus(Duration::from_secs(100));
        let mut taken = 0;
        for millis in 0..1_000 {
            taken += i32::from(limit.take(&allowance, now.plus(Duration::from_millis(millis))).is_ok());
        }
        assert!((12..=13).contains(&taken), "{taken}");
    }

    #[test]
    fn the_memory_is_bounded() {
        let limit = limit(1, 1);
        let now = Timestamp::from_seconds(1_000);
        let mut fingerprint = [0; 32];
        for n in 0..TOKENS_MAX as u32 + 10 {
            fingerprint[..4].copy_from_slice(&n.to_le_bytes());
            let allowance = limit.allowance(fingerprint, now);
            let _ = limit.take(&allowance, now);
        }
        assert!(limit.tokens.lock().len() <= TOKENS_MAX);
        // Who has waited is forgotten first.
        let busy = limit.allowance([9; 32], now);
        let later = now.plus(Duration::from_secs(10));
        let _ = limit.take(&busy, later);
        for n in 0..TOKENS_MAX as u32 {
            fingerprint[..4].copy_from_slice(&n.to_le_bytes());
            limit.allowance(fingerprint, later);
        }
        assert!(limit.take(&limit.allowance([9; 32], later), later).is_err());
    }
}
