//! Partitions that are not read for now: why, and when each is tried again. The others go on meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// After the first failure; doubled with each further one,
const PAUSE: Duration = Duration::from_millis(250);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// So many reasons are told at a time, and so many partitions to each.
const TOLD_MAX: usize = 5;
const PLACES_MAX: usize = 10;

#[derive(Default)]
pub(super) struct Aside {
    faults: BTreeMap<usize, Fault>,
    /// Why nobody says who leads.
    blind: Option<Fault>,
    /// Something failed that was not told yet.
    has_news: bool,
}

struct Fault {
    why: String,
    pause: Duration,
    /// `None` while it is tried.
    again: Option<Instant>,
}

impl Fault {
    fn after(earlier: Option<&Fault>, why: &str, now: Instant) -> Fault {
        let pause = earlier.map_or(PAUSE, |earlier| (earlier.pause * 2).min(PAUSE_MAX));
        Fault { why: why.to_owned(), pause, again: Some(now + pause) }
    }
}

impl Aside {
    /// These failed. What is usual, such as that a leader changes, is told only if it was not mended by the next time.
    pub(super) fn put(&mut self, places: &[usize], why: &str, is_usual: bool, now: Instant) {
        for place in places {
            let earlier = self.faults.get(place);
            self.has_news |= !is_usual || earlier.is_some();
            let fault = Fault::after(earlier, why, now);
            self.faults.insert(*place, fault);
        }
    }

    /// Nobody says who leads.
    pub(super) fn blinded(&mut self, why: &str, now: Instant) {
        self.has_news = true;
        self.blind = Some(Fault::after(self.blind.as_ref(), why, now));
    }

    pub(super) fn sees(&mut self) {
        self.blind = None;
    }

    /// It is read again.
    pub(super) fn is_mended(&mut self, place: usize) {
        self.faults.remove(&place);
    }

    /// It is tried again, if it is there.
    pub(super) fn tries(&mut self, place: usize) {
        if let Some(fault) = self.faults.get_mut(&place) {
            fault.again = None;
        }
    }

    /// It is not to be tried yet.
    pub(super) fn waits(&self, place: usize, now: Instant) -> bool {
        self.faults.get(&place).is_some_and(|fault| fault.again.is_some_and(|again| again > now))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty() && self.blind.is_none()
    }

    /// When something is to be tried again: nothing, as long as nobody says who leads, before that is.
    pub(super) fn next(&self) -> Option<Instant> {
        match &self.blind {
            Some(fault) => fault.again,
            None => self.faults.values().filter_map(|fault| fault.again).min(),
        }
    }

    /// Everything that is wrong, in words, if some of it was not told yet.
    pub(super) fn news(&mut self) -> Option<String> {
        std::mem::take(&mut self.has_news).then(|| self.text())
    }

    /// Everything that is wrong, in words.
    pub(super) fn text(&self) -> String {
        let mut places: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (place, Fault { why, .. }) in &self.faults {
            places.entry(why).or_default().insert(*place);
        }
        let mut all: Vec<String> = self.blind.iter().map(|fault| fault.why.clone()).collect();
        for (why, places) in &places {
            let mut numbers: Vec<String> = places.iter().take(PLACES_MAX).map(usize::to_string).collect();
            numbers.extend(places.len().checked_sub(PLACES_MAX + 1).map(|more| format!("{} more", more + 1)));
            all.push(match places.len() {
                1 => (*why).to_owned(),
                _ => format!("{why} (partitions {})", numbers.join(", ")),
            });
        }
        let more = all.len().saturating_sub(TOLD_MAX);
        all.truncate(TOLD_MAX);
        if more > 0 {
            all.push(format!("and {more} reasons more"));
        }
        all.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_tried_again_by_itself_and_more_and_more_rarely() {
        let (mut aside, start) = (Aside::default(), Instant::now());
        let mut now = start;
        let mut waited = Vec::new();
        for _ in 0..10 {
            aside.put(&[3], "spoilt", false, now);
            let again = aside.next().expect("is tried again");
            assert!(aside.waits(3, now) && !aside.waits(3, again) && !aside.waits(4, now));
            waited.push((again - now).as_millis());
            now = again;
            aside.tries(3);
            assert_eq!((aside.next(), aside.waits(3, now)), (None, false));
        }
        assert_eq!(waited, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        // Another one begins by itself.
        aside.put(&[3], "spoilt", false, now);
        aside.put(&[4], "spoilt", false, now);
        assert_eq!(aside.next(), Some(now + PAUSE));
        // And nothing is tried before somebody says who leads.
        aside.blinded("nobody answers", now);
        aside.blinded("nobody answers", now);
        assert_eq!(aside.next(), Some(now + 2 * PAUSE));
        aside.sees();
        aside.is_mended(4);
        assert_eq!(aside.next(), Some(now + PAUSE_MAX));
        aside.is_mended(3);
        assert!(aside.is_empty() && aside.next().is_none());
        aside.blinded("nobody answers", now);
        assert!(!aside.is_empty());
    }

    #[test]
    fn what_fails_is_told_each_time_and_what_is_usual_only_when_it_stays() {
        let (mut aside, now) = (Aside::default(), Instant::now());
        assert_eq!(aside.news(), None);
        aside.put(&[1], "t/1 has another leader", true, now);
        assert_eq!(aside.news(), None);
        aside.put(&[1], "t/1 has another leader", true, now);
        assert_eq!(aside.news().as_deref(), Some("t/1 has another leader"));
        assert_eq!(aside.news(), None);
        aside.put(&(2..20).collect::<Vec<_>>(), "broker 7 is gone", false, now);
        assert!(aside.news().is_some());
        aside.blinded("nobody answers", now);
        let told = "nobody answers; broker 7 is gone (partitions 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 8 more); t/1 has another leader";
        assert_eq!(aside.news().as_deref(), Some(told));
        for place in 30..40 {
            aside.put(&[place], &format!("t/{place} is spoilt"), false, now);
        }
        assert_eq!(aside.text(), format!("{told}; t/30 is spoilt; t/31 is spoilt; and 8 reasons more"));
    }
}
