//! At most so many starts in any second, burst included.
//!
//! Starts are counted in slices of 10 ms. Any window of one second lies within 101 neighbouring slices, so as long as those
//! hold no more than the rate, no window does. It costs 200 bytes whatever the rate, and a burst of the whole rate may go at once.

use bellwire_model::Timestamp;

const SLICE_MICROS: i64 = 10_000;
const SLICES: usize = 101;

#[derive(Debug)]
pub(crate) struct Throttle {
    pub(crate) rate: u32,
    counts: [u16; SLICES],
    sum: u32,
    /// The slice that `counts` ends with.
    newest: i64,
}

impl Throttle {
    pub(crate) fn new(rate: u16) -> Box<Self> {
        Box::new(Throttle { rate: u32::from(rate), counts: [0; SLICES], sum: 0, newest: 0 })
    }

    /// When the next start is allowed; not after `now` if it is now.
    pub(crate) fn next_at(&mut self, now: Timestamp) -> Timestamp {
        self.advance(now);
        let mut left = self.sum;
        if left < self.rate {
            return now;
        }
        let oldest = self.newest - (SLICES as i64 - 1);
        for slice in oldest..=self.newest {
            left -= u32::from(self.counts[place(slice)]);
            if left < self.rate {
                return Timestamp::from_micros((slice + SLICES as i64) * SLICE_MICROS);
            }
        }
        now.plus(std::time::Duration::from_secs(1))
    }

    /// Counts a start.
    pub(crate) fn start(&mut self, now: Timestamp) {
        self.advance(now);
        let count = &mut self.counts[place(self.newest)];
        *count = count.saturating_add(1);
        self.sum += 1;
    }

    /// Takes the window for used up: what an engine before this one may have started is not known.
    pub(crate) fn exhaust(&mut self, now: Timestamp) {
        self.advance(now);
        let used = u16::try_from(self.rate).unwrap_or(u16::MAX);
        let count = &mut self.counts[place(self.newest)];
        self.sum = self.sum - u32::from(*count) + u32::from(used);
        *count = used;
    }

    fn advance(&mut self, now: Timestamp) {
        let slice = now.as_micros().div_euclid(SLICE_MICROS);
        let gone = slice.saturating_sub(self.newest);
        if gone <= 0 {
            return;
        }
        if gone >= SLICES as i64 {
            self.counts = [0; SLICES];
            self.sum = 0;
        } else {
            for slice in self.newest + 1..=slice {
                self.sum -= u32::from(std::mem::take(&mut self.counts[place(slice)]));
            }
        }
        self.newest = slice;
    }
}

fn place(slice: i64) -> usize {
    slice.rem_euclid(SLICES as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[test]
    fn a_burst_of_the_rate_goes_at_once_and_the_next_a_second_later() {
        let mut throttle = Throttle::new(3);
        let at = |ms: i64| Timestamp::from_millis(1_700_000_000_000 + ms);
        for _ in 0..3 {
            assert_eq!(throttle.next_at(at(5)), at(5));
            throttle.start(at(5));
        }
        assert_eq!(throttle.next_at(at(5)), at(1_010));
        assert_eq!(throttle.next_at(at(1_009)), at(1_010));
        assert_eq!(throttle.next_at(at(1_010)), at(1_010));
    }

    #[test]
    fn no_window_of_a_second_ever_holds_more_than_the_rate() {
        let mut throttle = Throttle::new(7);
        let mut starts = VecDeque::new();
        let mut now = 1_700_000_000_000_000;
        for step in 0..20_000_u64 {
            now += (step.wrapping_mul(2_654_435_769) >> 7) as i64 % 90_000;
            let time = Timestamp::from_micros(now);
            if throttle.next_at(time) <= time {
                throttle.start(time);
                starts.push_back(now);
            }
            while starts.front().is_some_and(|s| *s <= now - 1_000_000) {
                starts.pop_front();
            }
            assert!(starts.len() <= 7);
        }
    }

    #[test]
    fn what_it_promises_it_keeps() {
        let mut throttle = Throttle::new(5);
        let mut now = Timestamp::from_millis(1_700_000_000_000);
        for _ in 0..1_000 {
            let next = throttle.next_at(now);
            assert!(next.since(now) <= std::time::Duration::from_millis(1_010));
            now = next.max(now);
            assert_eq!(throttle.next_at(now), now);
            throttle.start(now);
        }
    }
}
