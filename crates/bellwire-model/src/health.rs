//! Since when an endpoint only fails, and when that is long enough to disable it.

use crate::attempt::{Directive, Outcome};
use crate::clock::Timestamp;
use crate::endpoint::DisabledBy;
use std::time::Duration;

/// A failure that is younger than this is not written down: an endpoint that flaps must not cost a write per attempt,
/// and losing a minute of a window of days in a crash harms nobody.
const WRITTEN_AFTER: Duration = Duration::from_secs(60);

/// Since when every attempt to an endpoint has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// The first failure after the last success; `None` while it works.
    pub failing_since: Option<Timestamp>,
    /// Whether the store knows of `failing_since`.
    pub written: bool,
}

/// What an outcome does to the health.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthStep {
    /// The health from now on.
    pub health: Health,
    /// The store must be told.
    pub write: bool,
    /// The endpoint must be disabled.
    pub disable: Option<DisabledBy>,
}

impl Health {
    /// What follows from `outcome` at engine time `now`: a success clears, a failure starts or continues the window. 410 and
    /// `webhook-delivery: disable` disable at once; what was cancelled says nothing; failing for the whole of `window` does too (`None`: never).
    #[must_use]
    pub fn step(self, outcome: &Outcome, now: Timestamp, window: Option<Duration>) -> HealthStep {
        if outcome.is_cancelled() {
            return HealthStep { health: self, write: false, disable: None };
        }
        let gone = outcome.result == Ok(410) || outcome.directive == Some(Directive::Disable);
        if outcome.is_success() && !gone {
            return HealthStep { health: Health::default(), write: self.written, disable: None };
        }
        let since = self.failing_since.unwrap_or(now);
        let age = now.since(since);
        let disable =
            if gone { Some(DisabledBy::Receiver) } else { window.filter(|w| age >= *w).map(|_| DisabledBy::Failures) };
        let written = self.written || disable.is_some() || age >= WRITTEN_AFTER;
        HealthStep { health: Health { failing_since: Some(since), written }, write: written && !self.written, disable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    const WINDOW: Option<Duration> = Some(Duration::from_secs(3_600));

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_800_000_000 + seconds)
    }

    fn answer(status: u16) -> Outcome {
        Outcome {
            started_at: at(0),
            duration: Duration::ZERO,
            result: Ok(status),
            body: Bytes::new(),
            retry_after: None,
            directive: None,
            url: None,
            phases: Default::default(),
        }
    }

    fn failing(since: i64, written: bool) -> Health {
        Health { failing_since: Some(at(since)), written }
    }

    #[test]
    fn what_an_outcome_does_to_the_health() {
        let check = |health: Health, status, now, expected: (Health, bool, Option<DisabledBy>)| {
            let step = health.step(&answer(status), at(now), WINDOW);
            assert_eq!((step.health, step.write, step.disable), expected, "{health:?} {status} {now}");
        };
        let works = Health::default();
        check(works, 200, 0, (works, false, None));
        check(works, 500, 0, (failing(0, false), false, None));
        check(failing(0, false), 500, 59, (failing(0, false), false, None));
        check(failing(0, false), 500, 60, (failing(0, true), true, None));
        check(failing(0, true), 500, 61, (failing(0, true), false, None));
        check(failing(0, false), 200, 59, (works, false, None));
        check(failing(0, true), 200, 61, (works, true, None));
        check(failing(0, true), 500, 3_599, (failing(0, true), false, None));
        check(failing(0, true), 500, 3_600, (failing(0, true), false, Some(DisabledBy::Failures)));
        check(works, 410, 0, (failing(0, true), true, Some(DisabledBy::Receiver)));
    }

    #[test]
    fn disable_is_obeyed_with_any_status_and_failures_never_disable_without_a_window() {
        let asked = Outcome { directive: Some(Directive::Disable), ..answer(200) };
        assert_eq!(Health::default().step(&asked, at(0), None).disable, Some(DisabledBy::Receiver));
        assert_eq!(failing(0, true).step(&answer(500), at(1_000_000_000), None).disable, None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_the_store_needs(outcomes in proptest::collection::vec((any::<bool>(), 0_i64..200), 0..60)) {
            let (mut health, mut stored, mut now) = (Health::default(), None, 0);
            for (success, wait) in outcomes {
                now += wait;
                let step = health.step(&answer(if success { 200 } else { 500 }), at(now), WINDOW);
                health = step.health;
                if step.write || step.disable.is_some() {
                    stored = health.failing_since;
                }
                // A restart may forget a young failure; it never believes an old one that is over.
                prop_assert!(stored.is_none() || stored == health.failing_since);
                prop_assert_eq!(health.written, stored.is_some());
            }
        }
    }
}
