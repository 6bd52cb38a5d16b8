//! What was accepted and what has arrived: the one place that load and sink share.
//!
//! Every message of a run has a sequence number, and one bit for each delivery that it must lead to. So what is lost
//! and what came twice is known exactly, not by sums. Counters beside the bits are read while the run goes on.

use super::measure::{Histogram, Latency};
use super::payload::{Mark, Run};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Endpoints of which the latencies are told apart: the ones that matter, and those that are in their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Healthy,
    Hanging,
}

pub(crate) struct Ledger {
    pub(crate) run: Run,
    /// How many endpoints each application has. Messages go round the applications by their sequence numbers.
    endpoints: Vec<usize>,
    /// The most endpoints that an application has: as many bits has each message.
    width: usize,
    sequence_next: AtomicU64,
    accepted: AtomicU64,
    delivered: AtomicU64,
    duplicates: AtomicU64,
    /// Deliveries that accepted messages lead to and that have not arrived. Below zero for a moment when a delivery
    /// overtakes the response to its message, and for good when a message was delivered that was not accepted.
    outstanding: AtomicI64,
    /// Latencies of messages that were meant to leave earlier are not recorded: the warm-up.
    latency_from_ns: AtomicU64,
    first_delivery_ns: AtomicU64,
    last_delivery_ns: AtomicU64,
    accepting: Mutex<Accepting>,
    delivering: Mutex<Delivering>,
}

struct Accepting {
    messages: Bits,
    latency: Histogram,
    failures: Failures,
}

struct Delivering {
    deliveries: Bits,
    healthy: Histogram,
    hanging: Histogram,
}

/// Requests that were not answered with a 2xx.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Failures {
    /// Answered with 429, 503 or 507: told to come back later.
    pub(crate) refused: u64,
    /// Answered otherwise, or not at all.
    pub(crate) failed: u64,
    pub(crate) first: Option<String>,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) accepted: u64,
    pub(crate) delivered: u64,
}

impl Ledger {
    /// A ledger for applications with so many endpoints each.
    pub(crate) fn new(run: Run, endpoints: Vec<usize>) -> Ledger {
        Ledger {
            run,
            width: endpoints.iter().copied().max().unwrap_or(1).max(1),
            endpoints,
            sequence_next: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            outstanding: AtomicI64::new(0),
            latency_from_ns: AtomicU64::new(u64::MAX),
            first_delivery_ns: AtomicU64::new(u64::MAX),
            last_delivery_ns: AtomicU64::new(0),
            accepting: Mutex::new(Accepting {
                messages: Bits::default(),
                latency: Histogram::new(),
                failures: Failures::default(),
            }),
            delivering: Mutex::new(Delivering {
                deliveries: Bits::default(),
                healthy: Histogram::new(),
                hanging: Histogram::new(),
            }),
        }
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence_next.fetch_add(1, Relaxed)
    }

    /// The application that a message goes to.
    pub(crate) fn application_of(&self, sequence: u64) -> usize {
        (sequence % self.endpoints.len() as u64) as usize
    }

    /// From now on latencies count.
    pub(crate) fn record_latencies_from(&self, now_ns: u64) {
        self.latency_from_ns.store(now_ns, Relaxed);
    }

    /// A message was answered with a 2xx.
    pub(crate) fn accept(&self, mark: Mark, now_ns: u64) {
        self.accepted.fetch_add(1, Relaxed);
        self.outstanding.fetch_add(self.endpoints[self.application_of(mark.sequence)] as i64, Relaxed);
        let mut accepting = self.accepting.lock();
        accepting.messages.set(mark.sequence as usize);
        if mark.intended_ns >= self.latency_from_ns.load(Relaxed) {
            accepting.latency.record_ns(now_ns.saturating_sub(mark.intended_ns));
        }
    }

    /// A message was answered otherwise, or not at all.
    pub(crate) fn fail(&self, status: Option<u16>, reason: impl FnOnce() -> String) {
        let failures = &mut self.accepting.lock().failures;
        match status {
            Some(429 | 503 | 507) => failures.refused += 1,
            _ => failures.failed += 1,
        }
        failures.first.get_or_insert_with(reason);
    }

    /// The sink got a delivery for the application's endpoint `slot` and answers it with a 2xx.
    pub(crate) fn deliver(&self, mark: Mark, slot: usize, group: Group, now_ns: u64) {
        if mark.run != self.run || mark.sequence >= self.sequence_next.load(Relaxed) || slot >= self.width {
            return;
        }
        let mut delivering = self.delivering.lock();
        if !delivering.deliveries.set(mark.sequence as usize * self.width + slot) {
            self.duplicates.fetch_add(1, Relaxed);
            return;
        }
        if mark.intended_ns >= self.latency_from_ns.load(Relaxed) {
            let histogram = match group {
                Group::Healthy => &mut delivering.healthy,
                Group::Hanging => &mut delivering.hanging,
            };
            histogram.record_ns(now_ns.saturating_sub(mark.intended_ns));
        }
        drop(delivering);
        self.first_delivery_ns.fetch_min(now_ns, Relaxed);
        self.last_delivery_ns.fetch_max(now_ns, Relaxed);
        self.delivered.fetch_add(1, Relaxed);
        self.outstanding.fetch_sub(1, Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts { accepted: self.accepted.load(Relaxed), delivered: self.delivered.load(Relaxed) }
    }

    /// Deliveries that are still to come, by the counters.
    pub(crate) fn outstanding(&self) -> i64 {
        self.outstanding.load(Relaxed)
    }

    /// Deliveries that accepted messages lead to and that have not arrived, by the bits.
    pub(crate) fn missing(&self) -> u64 {
        let messages = self.accepting.lock().messages.clone();
        let delivering = self.delivering.lock();
        let missing_of = |sequence: usize| {
            let endpoints = self.endpoints[self.application_of(sequence as u64)];
            (0..endpoints).filter(|slot| !delivering.deliveries.get(sequence * self.width + slot)).count() as u64
        };
        messages.ones().map(missing_of).sum()
    }

    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates.load(Relaxed)
    }

    pub(crate) fn failures(&self) -> Failures {
        self.accepting.lock().failures.clone()
    }

    /// From a message's intended start to its 2xx.
    pub(crate) fn accept_latency(&self) -> Option<Latency> {
        self.accepting.lock().latency.latency()
    }

    /// From a message's intended start to its arrival.
    pub(crate) fn delivery_latency(&self, group: Group) -> Option<Latency> {
        let delivering = self.delivering.lock();
        match group {
            Group::Healthy => delivering.healthy.latency(),
            Group::Hanging => delivering.hanging.latency(),
        }
    }

    /// Forgets when the first delivery was, so that the next one counts as the first.
    pub(crate) fn forget_first_delivery(&self) {
        self.first_delivery_ns.store(u64::MAX, Relaxed);
    }

    pub(crate) fn first_delivery_ns(&self) -> Option<u64> {
        Some(self.first_delivery_ns.load(Relaxed)).filter(|ns| *ns != u64::MAX)
    }

    pub(crate) fn last_delivery_ns(&self) -> u64 {
        self.last_delivery_ns.load(Relaxed)
    }
}

/// A set of numbers that are small and dense.
#[derive(Clone, Default)]
struct Bits(Vec<u64>);

impl Bits {
    /// Whether it was not yet in the set.
    fn set(&mut self, index: usize) -> bool {
        let (word, bit) = (index / 64, 1 << (index % 64));
        if word >= self.0.len() {
            self.0.resize((word + 1).next_power_of_two(), 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    fn get(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word & 1 << (index % 64) != 0)
    }

    fn ones(&self) -> impl Iterator<Item = usize> {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, word)| **word != 0)
            .flat_map(|(index, word)| (0..64).filter(move |bit| word & 1 << bit != 0).map(move |bit| index * 64 + bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: u64) -> Mark {
        Mark { run: 7, sequence, intended_ns: 1_000 }
    }

    /// Two applications: one with two endpoints, one with a single one.
    fn ledger_with(messages: u64) -> Ledger {
        let ledger = Ledger::new(7, vec![2, 1]);
        for expected in 0..messages {
            assert_eq!(ledger.next_sequence(), expected);
        }
        ledger
    }

    #[test]
    fn what_was_accepted_and_did_not_arrive_is_missing() {
        let ledger = ledger_with(3);
        (0..3).for_each(|sequence| ledger.accept(mark(sequence), 2_000));
        assert_eq!((ledger.missing(), ledger.outstanding()), (5, 5));
        ledger.deliver(mark(0), 1, Group::Healthy, 3_000);
        ledger.deliver(mark(1), 0, Group::Healthy, 3_000);
        assert_eq!((ledger.missing(), ledger.outstanding()), (3, 3));
    }

    #[test]
    fn a_second_arrival_is_a_duplicate_and_not_a_delivery() {
        let ledger = ledger_with(1);
        ledger.accept(mark(0), 2_000);
        (0..3).for_each(|_| ledger.deliver(mark(0), 0, Group::Healthy, 3_000));
        assert_eq!((ledger.counts().delivered, ledger.duplicates(), ledger.missing()), (1, 2, 1));
    }

    #[test]
    fn a_delivery_of_what_was_not_accepted_does_not_hide_a_missing_one() {
        let ledger = ledger_with(2);
        ledger.accept(mark(1), 2_000);
        ledger.deliver(mark(0), 0, Group::Healthy, 3_000);
        assert_eq!((ledger.outstanding(), ledger.missing()), (0, 1));
    }

    #[test]
    fn deliveries_of_other_runs_and_unknown_ones_are_ignored() {
        let ledger = ledger_with(1);
        ledger.deliver(Mark { run: 8, ..mark(0) }, 0, Group::Healthy, 3_000);
        ledger.deliver(mark(1), 0, Group::Healthy, 3_000);
        ledger.deliver(mark(0), 2, Group::Healthy, 3_000);
        assert_eq!((ledger.counts().delivered, ledger.duplicates()), (0, 0));
    }

    #[test]
    fn latencies_of_the_warm_up_do_not_count() {
        let ledger = ledger_with(2);
        ledger.record_latencies_from(1_001);
        ledger.deliver(mark(0), 0, Group::Healthy, 9_000_000);
        assert!(ledger.delivery_latency(Group::Healthy).is_none());
        ledger.deliver(Mark { intended_ns: 1_001, ..mark(1) }, 0, Group::Hanging, 2_001_001);
        assert_eq!(ledger.delivery_latency(Group::Hanging).expect("recorded").max_ms, 2.0);
    }

    #[test]
    fn a_server_that_is_busy_refuses_and_one_that_breaks_fails() {
        let ledger = ledger_with(0);
        ledger.fail(Some(503), || "busy".into());
        ledger.fail(Some(500), || "broken".into());
        ledger.fail(None, || "silent".into());
        let failures = ledger.failures();
        assert_eq!((failures.refused, failures.failed, failures.first.as_deref()), (1, 2, Some("busy")));
    }

    #[test]
    fn bits_list_what_was_set() {
        let mut bits = Bits::default();
        assert!(bits.set(0) && bits.set(63) && bits.set(64) && bits.set(1_000) && !bits.set(64));
        assert_eq!(bits.ones().collect::<Vec<_>>(), [0, 63, 64, 1_000]);
        assert!(bits.get(1_000) && !bits.get(999) && !bits.get(1_000_000));
    }
}
