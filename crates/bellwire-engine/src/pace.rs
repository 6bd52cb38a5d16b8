//! How many attempts may be in flight to one endpoint, and whether any may: adaptive concurrency and the breaker.

use bellwire_model::{Outcome, Timestamp};
use std::time::Duration;

/// What a lane begins with: enough that a healthy new endpoint is fast at once, too little to hurt one that is not.
const CONCURRENCY_FIRST: usize = 8;
/// The limit does not rise while attempts take longer than four times the fastest and this: more at once would only wait, at
/// the endpoint or here, and each holds a connection.
const CROWDED_MICROS: u64 = 5_000;
/// How fast an endpoint once was counts half after this.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// An attempt that takes longer than this makes its lane a slow one.
pub(crate) const SLOW_AFTER: Duration = Duration::from_secs(1);
/// So many outages in a row make a lane a slow one, long before the breaker opens.
const FAILURES_SLOW: u32 = 3;

/// What the breaker did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    Opened,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Pace {
    limit: usize,
    limit_max: usize,
    /// Successes since the limit last rose.
    credit: usize,
    /// Doubles per round trip until the first overload.
    slow_start: bool,
    /// When the limit was last cut: one wave of overloads cuts once.
    cut_at: Timestamp,
    /// Outages in a row.
    failures: u32,
    /// The breaker is open until then, and half open from then on: one attempt at a time.
    open_until: Option<Timestamp>,
    wait: Duration,
    /// A moving average of how long attempts take.
    duration_micros: u64,
    /// How long the fastest of late took; it doubles about once a minute, so that an endpoint that became slower is not held to
    /// its past.
    fastest_micros: u64,
    /// When an attempt ended last.
    ended_at: Timestamp,
    /// An outcome was seen.
    pub(crate) proven: bool,
}

/// The engine's settings that matter here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BreakerSettings {
    pub(crate) failures: u32,
    pub(crate) wait: Duration,
    pub(crate) wait_max: Duration,
}

impl Pace {
    pub(crate) fn new(limit_max: usize) -> Self {
        let limit_max = limit_max.max(1);
        Pace {
            limit: CONCURRENCY_FIRST.min(limit_max),
            limit_max,
            credit: 0,
            slow_start: true,
            cut_at: Timestamp::EPOCH,
            failures: 0,
            open_until: None,
            wait: Duration::ZERO,
            duration_micros: 0,
            fastest_micros: u64::MAX,
            ended_at: Timestamp::EPOCH,
            proven: false,
        }
    }

    /// It was failing when we last knew it: it has to prove itself before it gets a share of its own.
    pub(crate) fn distrust(&mut self) {
        self.failures = FAILURES_SLOW;
        self.limit = 1;
    }

    /// Attempts that may be in flight now.
    pub(crate) fn limit(&self) -> usize {
        if self.open_until.is_some() { 1 } else { self.limit }
    }

    /// Nothing may start before this time.
    pub(crate) fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.open_until.filter(|until| *until > now)
    }

    /// Somebody wants to know whether it works again: an open breaker lets one attempt through at once.
    pub(crate) fn probe(&mut self, now: Timestamp) {
        self.open_until = self.open_until.map(|until| until.min(now));
    }

    /// The breaker is open or half open.
    pub(crate) fn tripped(&self) -> bool {
        self.open_until.is_some()
    }

    /// Its attempts fail or take long.
    pub(crate) fn slow(&self) -> bool {
        self.tripped() || self.failures >= FAILURES_SLOW || self.duration_micros > SLOW_AFTER.as_micros() as u64
    }

    /// Learns from an attempt that began at `started` (engine time) and ended `now`. `full`: as many were in flight as the limit
    /// allows; otherwise success says nothing about whether more would be.
    pub(crate) fn ended(
        &mut self,
        outcome: &Outcome,
        started: Timestamp,
        now: Timestamp,
        full: bool,
        breaker: BreakerSettings,
    ) -> Option<Turn> {
        self.proven = true;
        let took = u64::try_from(now.since(started).as_micros()).unwrap_or(u64::MAX);
        self.duration_micros = if self.duration_micros == 0 { took } else { (self.duration_micros / 8 * 7) + took / 8 };
        let idle_micros = now.since(self.ended_at).min(FORGOTTEN_AFTER).as_micros() as u64;
        let aged = self.fastest_micros.saturating_mul(idle_micros) / FORGOTTEN_AFTER.as_micros() as u64;
        self.fastest_micros = took.min(self.fastest_micros.saturating_add(aged));
        self.ended_at = now;
        if outcome.is_overload() {
            self.slow_start = false;
            if started >= self.cut_at {
                self.limit = (self.limit / 2).max(1);
                self.cut_at = now;
                self.credit = 0;
            }
        }
        if outcome.is_outage() {
            return self.outage(started, now, breaker);
        }
        self.failures = 0;
        let crowded = took > self.fastest_micros.saturating_mul(4).saturating_add(CROWDED_MICROS);
        if outcome.is_success() && full && !crowded {
            self.grow();
        }
        self.open_until.take().map(|_| {
            self.limit = 1;
            self.slow_start = true;
            self.wait = Duration::ZERO;
            Turn::Closed
        })
    }

    fn grow(&mut self) {
        self.credit += 1;
        if self.slow_start || self.credit >= self.limit {
            self.limit = (self.limit + 1).min(self.limit_max);
            self.credit = 0;
        }
    }

    fn outage(&mut self, started: Timestamp, now: Timestamp, breaker: BreakerSettings) -> Option<Turn> {
        self.failures = self.failures.saturating_add(1);
        match self.open_until {
            None if self.failures >= breaker.failures => {
                self.wait = breaker.wait;
                self.open_until = Some(now.plus(self.wait));
                Some(Turn::Opened)
            }
            // What began before the breaker opened says nothing new.
            Some(until) if started >= until => {
                self.wait = (self.wait * 2).min(breaker.wait_max);
                self.open_until = Some(now.plus(self.wait));
                None
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::FailureClass;

    const BREAKER: BreakerSettings =
        BreakerSettings { failures: 10, wait: Duration::from_secs(1), wait_max: Duration::from_secs(60) };

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + ms)
    }

    fn outcome(result: Result<u16, FailureClass>) -> Outcome {
        Outcome {
            started_at: at(0),
            duration: Duration::ZERO,
            result,
            body: bytes::Bytes::new(),
            retry_after: None,
            directive: None,
            url: None,
            phases: Default::default(),
        }
    }

    #[test]
    fn a_healthy_endpoint_reaches_the_limit_within_a_few_round_trips() {
        let mut pace = Pace::new(64);
        for _ in 0..56 {
            pace.ended(&outcome(Ok(200)), at(0), at(1), true, BREAKER);
        }
        assert_eq!(pace.limit(), 64);
    }

    #[test]
    fn the_limit_rises_only_where_more_would_be_done_at_once() {
        let mut pace = Pace::new(64);
        for _ in 0..100 {
            pace.ended(&outcome(Ok(200)), at(0), at(1), false, BREAKER);
        }
        assert_eq!(pace.limit(), 8, "the limit was never reached");
        for _ in 0..8 {
            pace.ended(&outcome(Ok(200)), at(0), at(50), true, BREAKER);
        }
        assert_eq!(pace.limit(), 8, "attempts take fifty times as long as they could");
        for n in 0..300 {
            let begun = n * 1_000;
            pace.ended(&outcome(Ok(200)), at(begun), at(begun + 50), true, BREAKER);
        }
        assert_eq!(pace.limit(), 64, "by now that is how long they take");
    }

    #[test]
    fn a_wave_of_overloads_halves_once() {
        let mut pace = Pace::new(64);
        for _ in 0..8 {
            pace.ended(&outcome(Ok(429)), at(0), at(10), true, BREAKER);
        }
        assert_eq!(pace.limit(), 4);
        pace.ended(&outcome(Ok(429)), at(11), at(20), true, BREAKER);
        assert_eq!(pace.limit(), 2);
        for _ in 0..2 {
            pace.ended(&outcome(Ok(200)), at(21), at(22), true, BREAKER);
        }
        assert_eq!(pace.limit(), 3, "additive after the first overload");
    }

    #[test]
    fn the_breaker_opens_probes_doubles_and_closes() {
        let mut pace = Pace::new(64);
        for n in 1..=10 {
            let turn = pace.ended(&outcome(Err(FailureClass::Connect)), at(0), at(1), true, BREAKER);
            assert_eq!(turn, (n == 10).then_some(Turn::Opened));
        }
        assert_eq!(pace.open_until(at(1)), Some(at(1_001)));
        pace.ended(&outcome(Ok(500)), at(0), at(500), true, BREAKER);
        assert_eq!(pace.open_until(at(500)), Some(at(1_001)), "an attempt from before does not count");
        assert_eq!(pace.open_until(at(1_001)), None);
        assert_eq!(pace.limit(), 1, "half open: one probe");
        pace.ended(&outcome(Ok(500)), at(1_001), at(1_002), true, BREAKER);
        assert_eq!(pace.open_until(at(1_002)), Some(at(3_002)));
        assert_eq!(pace.ended(&outcome(Ok(204)), at(3_002), at(3_003), true, BREAKER), Some(Turn::Closed));
        assert_eq!(pace.limit(), 1);
        pace.ended(&outcome(Ok(204)), at(3_003), at(3_004), true, BREAKER);
        assert_eq!(pace.limit(), 2, "slow start");
    }
}
