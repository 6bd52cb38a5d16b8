//! How many attempts a shard has under way when what they wait for is the shard itself.
//!
//! An attempt in flight costs memory: its connection's buffers, its message. Where endpoints take their time, many at once are what
//! makes a shard fast. Where they answer faster than the shard can write and read, many at once only wait for each other. The two are told
//! apart by what an attempt took beyond its exchange: from the decision to make it until it was begun, and from its end until it was seen.
//!
//! Only *young* attempts count, those not yet known to be slow ([`crate::pace::SLOW_AFTER`]): an endpoint that hangs takes nobody's place here for
//! longer than that.

use bellwire_model::Timestamp;
use std::time::Duration;

/// An attempt that took longer than this beyond its exchange, and longer than half of it, waited for us.
const WAITED_MAX: Duration = Duration::from_millis(10);
/// The bound does not rise for so long after such an attempt.
const CALM_AFTER: Duration = Duration::from_millis(20);
/// While something waits for it, the bound rises by a quarter so often.
const RISES_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Strain {
    /// Young attempts that may be in flight.
    limit: usize,
    /// It never falls below this, however busy the shard is.
    least: usize,
    most: usize,
    /// When it was last cut: one wave of late attempts cuts once.
    cut_at: Timestamp,
    /// It may not rise before this.
    rises_at: Timestamp,
    /// Something could start if it were higher.
    wanted: bool,
}

impl Strain {
    pub(crate) fn new(least: usize, most: usize) -> Self {
        let most = most.max(1);
        let least = least.clamp(1, most);
        Strain { limit: least, least, most, cut_at: Timestamp::EPOCH, rises_at: Timestamp::EPOCH, wanted: false }
    }

    /// Young attempts that may be in flight now.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Something waits for nothing but a higher bound.
    pub(crate) fn want(&mut self) {
        self.wanted = self.limit < self.most;
    }

    /// When the bound can rise for what waits for it.
    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        self.wanted.then_some(self.rises_at)
    }

    /// A step begins: what waited for a higher bound may get it.
    pub(crate) fn step(&mut self, now: Timestamp) {
        if std::mem::take(&mut self.wanted) {
            if now < self.rises_at {
                // Asked again before the step ends.
                return;
            }
            self.limit = (self.limit + (self.limit / 4).max(1)).min(self.most);
            self.rises_at = now.plus(RISES_EVERY);
        }
    }

    /// Learns from an attempt that was decided on at `started` (engine time), was seen to have ended `now`, and was on the wire for `exchange`.
    pub(crate) fn ended(&mut self, started: Timestamp, now: Timestamp, exchange: Duration) {
        let waited = now.since(started).saturating_sub(exchange);
        if waited <= WAITED_MAX || waited <= exchange / 2 {
            return;
        }
        self.rises_at = now.plus(CALM_AFTER);
        if started >= self.cut_at {
            self.limit = (self.limit / 4 * 3).max(self.least);
            self.cut_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + ms)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// How far it rises within `span` when more is wanted all the time, from `from` on.
    fn rise(strain: &mut Strain, from: i64, span: i64) -> usize {
        for now in from..from + span {
            strain.step(at(now));
            strain.want();
        }
        strain.limit()
    }

    #[test]
    fn slow_endpoints_get_all_there_is_within_a_tenth_of_a_second() {
        let mut strain = Strain::new(256, 4_096);
        strain.ended(at(0), at(200), ms(195));
        assert_eq!(rise(&mut strain, 200, 100), 4_096);
        assert_eq!(strain.wake_at(), None, "there is no more");
    }

    #[test]
    fn a_shard_that_waits_for_itself_takes_no_more() {
        let mut strain = Strain::new(256, 4_096);
        assert!(rise(&mut strain, 0, 20) > 400);
        let mut now = 20;
        while now < 2_000 {
            strain.ended(at(now - 60), at(now), ms(20));
            rise(&mut strain, now, 10);
            now += 10;
        }
        assert_eq!(strain.limit(), 256);
        assert_eq!(strain.wake_at(), Some(at(2_010)), "twenty milliseconds after the last that waited");
    }

    #[test]
    fn one_wave_cuts_once() {
        let mut strain = Strain::new(1, 1_024);
        let before = rise(&mut strain, 0, 200);
        for _ in 0..100 {
            strain.ended(at(100), at(200), ms(1));
        }
        assert_eq!(strain.limit(), before / 4 * 3);
    }

    #[test]
    fn nothing_rises_that_nobody_wants() {
        let mut strain = Strain::new(8, 64);
        for now in 0..1_000 {
            strain.step(at(now));
        }
        assert_eq!((strain.limit(), strain.wake_at()), (8, None));
    }
}
