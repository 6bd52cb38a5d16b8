//! How the sources are doing that fetch their messages themselves: for the API, and for who watches.

use crate::observe::SourceMetrics;
use bellwire_api::backend::SourceState;
use bellwire_model::{SourceKey, Timestamp};
use bellwire_store::Change;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::watch;

/// Shared by all shards. Holds nothing of sources that do not run.
pub(crate) struct States {
    changes: watch::Sender<()>,
    states: Mutex<HashMap<SourceKey, SourceState>>,
    metrics: SourceMetrics,
}

impl States {
    pub(crate) fn new(metrics: SourceMetrics) -> Self {
        States { changes: watch::channel(()).0, states: Mutex::default(), metrics }
    }

    /// Told whenever sources may have come, changed or gone.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The catalogue has followed these changes.
    pub(crate) fn applied(&self, changes: &[Change]) {
        let concern = |change: &Change| {
            matches!(
                change,
                Change::PutSource(_)
                    | Change::DeleteSource(_)
                    | Change::DeleteApplication(_)
                    | Change::PutEndedSubscription(_)
                    | Change::DeleteEndedSubscription(_)
            )
        };
        if changes.iter().any(concern) {
            self.changes.send_replace(());
        }
    }

    /// How a source is doing; `None` if it does not run.
    pub(crate) fn get(&self, source: SourceKey) -> Option<SourceState> {
        self.states.lock().get(&source).cloned()
    }

    pub(super) fn starts(&self, source: SourceKey, way: &'static str) {
        self.states.lock().insert(source, SourceState { way, ..SourceState::default() });
        self.refresh();
    }

    pub(super) fn stops(&self, source: SourceKey) {
        self.states.lock().remove(&source);
        self.refresh();
    }

    pub(super) fn last_run(&self, source: SourceKey) -> Option<Timestamp> {
        self.states.lock().get(&source).and_then(|state| state.last_run)
    }

    /// It has looked, and everything was as it should be.
    pub(super) fn ran(&self, source: SourceKey, at: Timestamp, next: Option<Timestamp>, lag: Option<Duration>) {
        let recovered = self.change(source, |state| {
            let recovered = state.failures > 0;
            (state.last_run, state.next, state.lag, state.failures) = (Some(at), next, lag, 0);
            recovered
        });
        if recovered == Some(true) {
            self.refresh();
        }
    }

    /// It has looked, and what is amiss with some of it was told by [`States::failed`].
    pub(super) fn ran_in_part(&self, source: SourceKey, at: Timestamp, next: Option<Timestamp>, lag: Option<Duration>) {
        self.change(source, |state| (state.last_run, state.next, state.lag) = (Some(at), next, lag));
    }

    /// So many messages of it are durable.
    pub(super) fn brought(&self, source: SourceKey, way: &'static str, at: Timestamp, count: usize) {
        self.change(source, |state| {
            state.last_message = Some(at);
            state.messages += count as u64;
        });
        self.metrics.brought(way, count);
    }

    pub(super) fn failed(&self, source: SourceKey, way: &'static str, at: Timestamp, why: String) {
        self.change(source, |state| {
            state.last_error = Some((at, why));
            state.failures = state.failures.saturating_add(1);
        });
        self.metrics.failed(way);
        self.refresh();
    }

    fn change<T>(&self, source: SourceKey, change: impl FnOnce(&mut SourceState) -> T) -> Option<T> {
        self.states.lock().get_mut(&source).map(change)
    }

    fn refresh(&self) {
        let failing = self.states.lock().values().filter(|state| state.failures > 0).count();
        self.metrics.failing(failing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;

    #[test]
    fn a_source_of_which_a_part_fails_runs_and_counts_as_failing_until_all_of_it_is_well() {
        let states = States::new(Metrics::new().sources());
        let (source, at) = (SourceKey(7), Timestamp::from_seconds);
        let told = || {
            let state = states.get(source).expect("it runs");
            (state.last_run, state.failures, state.last_error.map(|(_, why)| why))
        };
        states.starts(source, "queue");
        states.failed(source, "queue", at(1), "a partition".to_owned());
        states.ran_in_part(source, at(2), None, None);
        assert_eq!(told(), (Some(at(2)), 1, Some("a partition".to_owned())));
        states.ran(source, at(3), None, None);
        assert_eq!(told(), (Some(at(3)), 0, Some("a partition".to_owned())));
    }
}
