//! Endpoints as the world has them: quick, slow, hanging, flapping, busy, gone, broken, and some that lose answers.

use bellwire_model::{Directive, FailureClass, Outcome, RetryAfter, Timestamp};
use bytes::Bytes;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// The deadline of an exchange.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    Healthy,
    Slow,
    /// Slow, but not so slow that it counts as slow.
    Laggard,
    Hanging,
    Flapping,
    Busy,
    Gone,
    Broken,
    Aborting,
    LosesAnswers,
    /// Gathers what comes, and takes it in one exchange. See [`crate::world`].
    Summing,
}

impl Class {
    pub(crate) fn random(rng: &mut ChaCha8Rng) -> Class {
        match rng.random_range(0..14) {
            0..=4 => Class::Healthy,
            5 => Class::Slow,
            6 | 7 => Class::Hanging,
            8 => Class::Flapping,
            9 => Class::Busy,
            10 => Class::Gone,
            11 => Class::Broken,
            12 => Class::Aborting,
            _ => Class::LosesAnswers,
        }
    }

    /// What an exchange that begins at `now` comes to, and whether the receiver has taken the message.
    pub(crate) fn exchange(self, now: Timestamp, rng: &mut ChaCha8Rng) -> (Duration, Outcome, bool) {
        let quick = Duration::from_micros(rng.random_range(500..15_000));
        let chance = rng.random_range(0..100);
        let answer = |took: Duration, result| {
            let outcome = Outcome {
                started_at: now,
                duration: took,
                result,
                body: Bytes::new(),
                retry_after: None,
                directive: None,
                url: None,
                phases: Default::default(),
            };
            (took, outcome, result.is_ok_and(|status: u16| status < 300))
        };
        match self {
            Class::Healthy => answer(quick, Ok(200)),
            Class::Slow => answer(Duration::from_millis(rng.random_range(200..3_000)), Ok(202)),
            Class::Laggard => answer(Duration::from_millis(rng.random_range(300..900)), Ok(200)),
            Class::Hanging => answer(DEADLINE, Err(FailureClass::Timeout)),
            Class::Flapping if now.as_seconds() / 4 % 2 == 0 => answer(quick, Ok(200)),
            Class::Flapping if chance < 50 => answer(quick, Ok(503)),
            Class::Flapping => answer(quick, Err(FailureClass::Connect)),
            Class::Busy if chance < 50 => {
                let (took, mut outcome, taken) = answer(quick, Ok(429));
                outcome.retry_after = Some(RetryAfter::Wait(Duration::from_secs(rng.random_range(1..60))));
                (took, outcome, taken)
            }
            Class::Summing if chance < 20 => answer(quick, Ok(503)),
            Class::Gone if chance < 20 => answer(quick, Ok(410)),
            Class::Broken if chance < 60 => answer(quick, Ok(500)),
            Class::Aborting if chance < 30 => {
                let (took, mut outcome, taken) = answer(quick, Ok(400));
                outcome.directive = Some(Directive::AbortMessage);
                (took, outcome, taken)
            }
            Class::LosesAnswers if chance < 40 => {
                let (took, outcome, _) = answer(quick, Err(FailureClass::ResponseLost));
                (took, outcome, true)
            }
            _ => answer(quick, Ok(204)),
        }
    }
}
