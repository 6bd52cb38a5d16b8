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
/// A success delivers. `webhook-delivery: abort-message` ends. A manual attempt is made once. Otherwise the schedule
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
