//! The one place that reads the machine's clocks.

use bellwire_model::{Now, Timestamp};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Engine time: starts at the wall clock, or at the newest time in the store if that is later, and then follows the
/// monotonic clock. A jump of the wall clock moves it at the next start at the earliest, and never back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    base: Timestamp,
}

impl Clock {
    /// `newest` is the time of the newest row in the store.
    pub(crate) fn start(newest: Timestamp) -> Self {
        Clock { started: Instant::now(), base: wall().max(newest) }
    }

    /// Engine time.
    pub(crate) fn engine(&self) -> Timestamp {
        self.base.plus(self.started.elapsed())
    }

    /// Both times.
    pub(crate) fn now(&self) -> Now {
        Now { engine: self.engine(), wall: wall() }
    }

    /// How long until `time`, zero if it has passed.
    pub(crate) fn until(&self, time: Timestamp) -> Duration {
        time.since(self.engine())
    }
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn wall() -> Timestamp {
    Timestamp::EPOCH.plus(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
