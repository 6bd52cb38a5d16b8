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
    /// `webhook-delivery: disable` disable at once; failing for the whole of `window` does too (`None`: never).
    #[must_use]
    pub fn step(self, outcome: &Outcome, now: Timestamp, window: Option<Duration>) -> HealthStep {
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
