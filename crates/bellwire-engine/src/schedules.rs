//! Retry schedules of event types. An endpoint's own goes before them, and the server's comes after.

use bellwire_model::{OrganisationId, RetrySchedule};
use std::collections::HashMap;
use std::time::Duration;

/// Those that have one; as a rule none.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    of: HashMap<OrganisationId, HashMap<String, RetrySchedule>>,
    /// The longest wait of any.
    longest: Duration,
}

impl Schedules {
    pub(crate) fn put(&mut self, organisation: OrganisationId, event_type: String, schedule: Option<RetrySchedule>) {
        let own = self.of.entry(organisation.clone()).or_default();
        match schedule {
            Some(schedule) => drop(own.insert(event_type, schedule)),
            None => drop(own.remove(&event_type)),
        }
        if own.is_empty() {
            self.of.remove(&organisation);
        }
        let all = self.of.values().flat_map(HashMap::values);
        self.longest = all.map(RetrySchedule::longest_wait).max().unwrap_or_default();
    }

    /// The schedule of an event type, if it has one.
    pub(crate) fn of(&self, organisation: &OrganisationId, event_type: &str) -> Option<&RetrySchedule> {
        self.of.get(organisation)?.get(event_type)
    }

    /// The longest that a delivery waits under any of them.
    pub(crate) fn longest(&self) -> Duration {
        self.longest
    }
}
