//! When an attempt is due, and what an outcome means for its delivery.

use crate::attempt::{AttemptNumber, Directive, Outcome, RetryAfter, Trigger};
use crate::clock::Now;
use crate::delivery::{AfterAttempt, EndReason};
use rand::{Rng, RngCore};
use std::str::FromStr;
use std::time::Duration;

/// The longest wait that a `Retry-After` can ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest wait of a schedule.
const WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// The most retries of a schedule.
const RETRIES_MAX: usize = 64;
/// Jitter adds up to this share of the wait.
const JITTER: f64 = 0.2;

/// The waits between attempts; when used up, the delivery is exhausted. Empty: one attempt, no retry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetrySchedule(Vec<Duration>);

/// Why a text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// One of the waits is not a number.
    #[error("expected seconds separated by commas such as 5,300,1800, found {0:?}")]
    NotSeconds(String),
    /// One of the waits is too long.
    #[error("a wait is at most 604800 seconds (7 days), found {0}")]
    TooLong(u64),
    /// There are too many.
    #[error("at most 64 retries, found {0}")]
    TooMany(usize),
}

impl RetrySchedule {
    /// Takes the waits after checking their bounds.
    pub fn new(waits: Vec<Duration>) -> Result<Self, ScheduleError> {
        if waits.len() > RETRIES_MAX {
            return Err(ScheduleError::TooMany(waits.len()));
        }
        if let Some(long) = waits.iter().find(|w| **w > WAIT_MAX) {
            return Err(ScheduleError::TooLong(long.as_secs()));
        }
        Ok(RetrySchedule(waits))
    }

    /// The waits.
    pub fn waits(&self) -> &[Duration] {
        &self.0
    }

    /// The longest time that a delivery waits for its next attempt under this schedule, jitter included.
    pub fn longest_wait(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default().mul_f64(1.0 + JITTER)
    }
}

impl Default for RetrySchedule {
    /// Immediately, then after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h, as Svix has it.
    fn default() -> Self {
        RetrySchedule([5, 300, 1_800, 7_200, 18_000, 36_000, 36_000].map(Duration::from_secs).to_vec())
    }
}

impl FromStr for RetrySchedule {
    type Err = ScheduleError;

    /// Seconds, fractions allowed, separated by commas; brackets around them are ignored.
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let inner = text.trim().trim_start_matches('[').trim_end_matches(']').trim();
        if inner.is_empty() {
            return Ok(RetrySchedule(Vec::new()));
        }
        let wait = |part: &str| match part.trim().parse::<f64>() {
            Ok(seconds) if seconds > WAIT_MAX.as_secs_f64() => Err(ScheduleError::TooLong(seconds as u64)),
            Ok(seconds) if seconds >= 0.0 => Ok(Duration::from_secs_f64(seconds)),
            _ => Err(ScheduleError::NotSeconds(part.trim().to_owned())),
        };
        RetrySchedule::new(inner.split(',').map(wait).collect::<Result<_, _>>()?)
    }
}

/// What follows attempt `number` (from 1) of a delivery, given how it went.
///
/// A success delivers. What the endpoint's script cancelled ends. `webhook-delivery: abort-message` ends. A manual attempt is made once. Otherwise the schedule
/// decides: wait `number` of it, or exhausted when it is used up. A `Retry-After` can lengthen the wait, never shorten it, up to
/// [`RETRY_AFTER_MAX`]; jitter, drawn from `rng`, only adds. A 410 or `disable` keeps the delivery waiting by the schedule:
/// the endpoint is disabled, and whether it is ever enabled again is its owner's decision.
pub fn after_attempt(
    outcome: &Outcome,
    number: AttemptNumber,
    trigger: Trigger,
    schedule: &RetrySchedule,
    now: Now,
    rng: &mut dyn RngCore,
) -> AfterAttempt {
    if outcome.is_success() {
        return AfterAttempt::Delivered;
    }
    if outcome.is_cancelled() {
        return AfterAttempt::Ended(EndReason::Cancelled);
    }
    if outcome.directive == Some(Directive::AbortMessage) {
        return AfterAttempt::Ended(EndReason::Aborted);
    }
    if trigger == Trigger::Manual {
        return AfterAttempt::Ended(EndReason::ResendFailed);
    }
    let Some(wait) = usize::try_from(number).ok().and_then(|n| schedule.0.get(n.checked_sub(1)?)) else {
        return AfterAttempt::Ended(EndReason::Exhausted);
    };
    let asked = match outcome.retry_after {
        Some(RetryAfter::Wait(wait)) => wait,
        Some(RetryAfter::Date(date)) => date.since(now.wall),
        None => Duration::ZERO,
    };
    let wait = (*wait).max(asked.min(RETRY_AFTER_MAX));
    let jitter = wait.mul_f64(rng.random_range(0.0..=JITTER));
    AfterAttempt::Waiting { due: now.engine.plus(wait + jitter) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::FailureClass;
    use crate::clock::Timestamp;
    use bytes::Bytes;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn now() -> Now {
        // The wall clock is an hour behind: only dates from outside are compared with it.
        Now { engine: Timestamp::from_seconds(1_800_000_000), wall: Timestamp::from_seconds(1_799_996_400) }
    }

    fn outcome(result: Result<u16, FailureClass>) -> Outcome {
        Outcome {
            started_at: now().wall,
            duration: Duration::ZERO,
            result,
            body: Bytes::new(),
            retry_after: None,
            directive: None,
            url: None,
            phases: Default::default(),
        }
    }

    fn after(outcome: &Outcome, number: AttemptNumber, trigger: Trigger) -> AfterAttempt {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        after_attempt(outcome, number, trigger, &RetrySchedule::default(), now(), &mut rng)
    }

    fn wait(after: AfterAttempt) -> Duration {
        match after {
            AfterAttempt::Waiting { due } => due.since(now().engine),
            other => panic!("expected a wait, found {other:?}"),
        }
    }

    #[test]
    fn what_follows_an_attempt() {
        use AfterAttempt::{Delivered, Ended};
        use Trigger::{Manual, Scheduled};
        let check = |outcome: &Outcome, number, trigger, expected| {
            assert_eq!(after(outcome, number, trigger), expected, "{outcome:?} {number} {trigger:?}");
        };
        let abort = |result| Outcome { directive: Some(Directive::AbortMessage), ..outcome(result) };
        check(&outcome(Ok(200)), 1, Scheduled, Delivered);
        check(&outcome(Ok(299)), 8, Scheduled, Delivered);
        check(&outcome(Ok(204)), 3, Manual, Delivered);
        check(&abort(Ok(200)), 1, Scheduled, Delivered);
        check(&abort(Ok(400)), 1, Scheduled, Ended(EndReason::Aborted));
        check(&abort(Ok(400)), 1, Manual, Ended(EndReason::Aborted));
        check(&outcome(Ok(500)), 1, Manual, Ended(EndReason::ResendFailed));
        check(&outcome(Err(FailureClass::Timeout)), 9, Manual, Ended(EndReason::ResendFailed));
        check(&outcome(Err(FailureClass::Cancelled)), 1, Scheduled, Ended(EndReason::Cancelled));
        check(&outcome(Err(FailureClass::Cancelled)), 3, Manual, Ended(EndReason::Cancelled));
        check(&outcome(Err(FailureClass::Transformation)), 1, Manual, Ended(EndReason::ResendFailed));
        check(&outcome(Ok(302)), 8, Scheduled, Ended(EndReason::Exhausted));
        check(&outcome(Err(FailureClass::Dns)), 9, Scheduled, Ended(EndReason::Exhausted));
        check(&outcome(Ok(500)), 0, Scheduled, Ended(EndReason::Exhausted));
        check(&outcome(Ok(500)), AttemptNumber::MAX, Scheduled, Ended(EndReason::Exhausted));
    }

    #[test]
    fn a_410_waits_by_the_schedule() {
        assert!(wait(after(&outcome(Ok(410)), 2, Trigger::Scheduled)) >= Duration::from_secs(300));
    }

    #[test]
    fn retry_after_lengthens_and_never_shortens_and_has_a_bound() {
        let check = |retry_after, least: u64| {
            let asked = Outcome { retry_after: Some(retry_after), ..outcome(Ok(429)) };
            let found = wait(after(&asked, 1, Trigger::Scheduled)).as_secs_f64();
            assert!(found >= least as f64 && found <= least as f64 * 1.2, "{retry_after:?} gave {found}");
        };
        check(RetryAfter::Wait(Duration::ZERO), 5);
        check(RetryAfter::Wait(Duration::from_secs(60)), 60);
        check(RetryAfter::Wait(Duration::MAX), 24 * 3_600);
        check(RetryAfter::Date(now().wall.plus(Duration::from_secs(90))), 90);
        check(RetryAfter::Date(Timestamp::EPOCH), 5);
        check(RetryAfter::Date(Timestamp::FAR_FUTURE), 24 * 3_600);
    }

    #[test]
    fn schedules_are_read_or_refused() {
        let check = |text: &str, expected: &[f64]| {
            let schedule: RetrySchedule = text.parse().expect(text);
            let waits: Vec<_> = schedule.waits().iter().map(Duration::as_secs_f64).collect();
            assert_eq!(waits, expected, "{text}");
        };
        check("", &[]);
        check("[]", &[]);
        check("5,300,1800", &[5.0, 300.0, 1_800.0]);
        check(" [ 0.5 , 604800 ] ", &[0.5, 604_800.0]);
        for text in ["-1", "x", "5,,5", "nan", "604801", "inf"] {
            assert!(text.parse::<RetrySchedule>().is_err(), "{text}");
        }
        let many = vec!["1"; RETRIES_MAX + 1].join(",");
        assert_eq!(many.parse::<RetrySchedule>(), Err(ScheduleError::TooMany(65)));
    }

    proptest! {
        #[test]
        fn a_wait_is_never_shorter_than_its_schedule_nor_longer_than_jitter_allows(
            waits in proptest::collection::vec(0_u64..604_800, 0..12),
            number in 0_u32..20,
            asked in proptest::option::of(0_u64..1_000_000),
            seed: u64,
        ) {
            let schedule = RetrySchedule::new(waits.iter().copied().map(Duration::from_secs).collect()).expect("valid");
            let retry_after = asked.map(|s| RetryAfter::Wait(Duration::from_secs(s)));
            let failed = Outcome { retry_after, ..outcome(Ok(503)) };
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let after = after_attempt(&failed, number, Trigger::Scheduled, &schedule, now(), &mut rng);
            let own = (number as usize).checked_sub(1).and_then(|n| waits.get(n));
            match (after, own) {
                (AfterAttempt::Waiting { due }, Some(own)) => {
                    let least = Duration::from_secs(*own.max(&asked.unwrap_or(0).min(86_400)));
                    let found = due.since(now().engine);
                    prop_assert!(found >= least && found <= least.mul_f64(1.2) + Duration::from_micros(1));
                    prop_assert!(found <= schedule.longest_wait().max(RETRY_AFTER_MAX.mul_f64(1.2)));
                }
                (AfterAttempt::Ended(EndReason::Exhausted), None) => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
