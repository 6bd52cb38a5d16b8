//! Which ids of a table have been read: all up to the highest, but for gaps in which a row may still turn up. Pure.
//!
//! A sequence gives its numbers out in order, and transactions commit in any: while a later id is visible already, a lower one may still be
//! on its way. So what lies between the ids that were seen is remembered as a gap and looked at again, until it is certain that nothing
//! comes any more: every transaction that had begun to write when the gap was first seen has ended (the horizon of the database's
//! snapshots has passed it), and a settling time has gone by as well, for a statement that had taken its number and not yet begun to write.

use bellwire_model::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// So many gaps are remembered. While there are more, nothing new is read: nothing is lost, and it cannot grow without bound.
pub(super) const GAPS_MAX: usize = 500;

/// See the module.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Gaps {
    /// The highest id that was read; `None` before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    top: Option<i64>,
    /// Below it, rising.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gaps: Vec<Gap>,
}

/// Ids that were not there, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Gap {
    pub(super) low: i64,
    pub(super) high: i64,
    /// The transaction that would have begun next when it was first seen.
    horizon: i64,
    /// When that was, in microseconds.
    seen: i64,
}

/// What a snapshot of the database tells about its transactions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    /// The oldest one that has not ended.
    pub(super) xmin: i64,
    /// The one that would begin next.
    pub(super) xmax: i64,
}

impl Gaps {
    pub(super) fn is_empty(&self) -> bool {
        self.top.is_none()
    }

    pub(super) fn top(&self) -> Option<i64> {
        self.top
    }

    pub(super) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Where commits come in the order of ids: up to this one, without gaps.
    pub(super) fn up_to(top: i64) -> Self {
        Gaps { top: Some(top), gaps: Vec::new() }
    }

    /// After reading `ids` in `snapshot`: all that were in the gaps, if `whole`, and the first above the top. At `now`.
    pub(super) fn after(&self, ids: &[i64], whole: bool, snapshot: Snapshot, now: Timestamp, settle: Duration) -> Self {
        let mut next = self.clone();
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        for id in ids {
            match next.top {
                Some(top) if id <= top => next.fill(id),
                top => {
                    let low = top.map_or(i64::MIN, |top| top.saturating_add(1));
                    if low < id {
                        let (horizon, seen) = (snapshot.xmax, now.as_micros());
                        next.gaps.push(Gap { low, high: id - 1, horizon, seen });
                    }
                    next.top = Some(id);
                }
            }
        }
        if whole {
            let open = |gap: &Gap| snapshot.xmin < gap.horizon || now.since(Timestamp::from_micros(gap.seen)) < settle;
            next.gaps.retain(open);
        }
        next
    }

    fn fill(&mut self, id: i64) {
        let Some(at) = self.gaps.iter().position(|gap| (gap.low..=gap.high).contains(&id)) else { return };
        let gap = self.gaps[at];
        let parts = [Gap { high: id.saturating_sub(1), ..gap }, Gap { low: id.saturating_add(1), ..gap }];
        let left = parts.into_iter().filter(|part| part.low <= part.high && !(part.low..=part.high).contains(&id));
        self.gaps.splice(at..=at, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use std::collections::{BTreeMap, BTreeSet};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_seconds(second)
    }

    fn ranges(gaps: &Gaps) -> Vec<(i64, i64)> {
        gaps.gaps().iter().map(|gap| (gap.low, gap.high)).collect()
    }

    #[test]
    fn a_row_that_commits_late_is_found_in_its_gap() {
        const SETTLE: Duration = Duration::from_secs(10);
        let read = |gaps: &Gaps, ids: &[i64], xmin, xmax, second| {
            gaps.after(ids, true, Snapshot { xmin, xmax }, at(second), SETTLE)
        };
        let gaps = read(&Gaps::default(), &[3, 4, 7], 100, 105, 0);
        assert_eq!((gaps.top(), ranges(&gaps)), (Some(7), vec![(i64::MIN, 2), (5, 6)]));
        // Time alone does not close a gap, and the horizon alone does not either.
        assert_eq!(ranges(&read(&gaps, &[], 104, 110, 99)), ranges(&gaps));
        assert_eq!(ranges(&read(&gaps, &[], 105, 110, 9)), ranges(&gaps));
        let found = read(&gaps, &[6, 9], 104, 110, 5);
        assert_eq!((found.top(), ranges(&found)), (Some(9), vec![(i64::MIN, 2), (5, 5), (8, 8)]));
        // The old gaps close, the younger one stays for its own time.
        assert_eq!(ranges(&read(&found, &[], 105, 120, 12)), [(8, 8)]);
        assert_eq!(ranges(&read(&found, &[], 120, 120, 15)), []);
        // Where not all of the gaps was looked at, none closes.
        let partly = found.after(&[], false, Snapshot { xmin: 120, xmax: 120 }, at(99), SETTLE);
        assert_eq!(ranges(&partly), ranges(&found));
    }

    #[test]
    fn the_ends_of_a_gap_can_be_filled() {
        let snapshot = Snapshot { xmin: 0, xmax: 1 };
        let gaps = Gaps::up_to(0).after(&[5], true, snapshot, at(0), Duration::ZERO);
        assert_eq!(ranges(&gaps), [(1, 4)]);
        let ends = gaps.after(&[1, 4], true, snapshot, at(0), Duration::ZERO);
        assert_eq!(ranges(&ends), [(2, 3)]);
        assert_eq!(ranges(&ends.after(&[2, 3], true, snapshot, at(0), Duration::ZERO)), []);
    }

    /// Writers that take ids in order and commit, or give up, in any order; a reader that looks now and then.
    #[test]
    fn whatever_the_order_of_commits_every_row_is_read_once() {
        for seed in 0..200 {
            let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(seed);
            let (mut next_id, mut next_transaction) = (1_i64, 1_i64);
            let mut open: BTreeMap<i64, i64> = BTreeMap::new();
            let (mut committed, mut read) = (BTreeSet::new(), BTreeSet::new());
            let mut gaps = Gaps::default();
            for step in 0..400 {
                match rng.random_range(0..4) {
                    0 if step < 300 => {
                        open.insert(next_transaction, next_id);
                        (next_id, next_transaction) = (next_id + 1, next_transaction + 1);
                    }
                    1 | 2 if !open.is_empty() => {
                        let which = *open.keys().nth(rng.random_range(0..open.len())).expect("there");
                        let id = open.remove(&which).expect("there");
                        if rng.random_bool(0.8) {
                            committed.insert(id);
                        }
                    }
                    _ => {
                        let snapshot = Snapshot {
                            xmin: open.keys().next().copied().unwrap_or(next_transaction),
                            xmax: next_transaction,
                        };
                        let in_gap = |id: &i64| gaps.gaps().iter().any(|gap| (gap.low..=gap.high).contains(id));
                        let late = committed.iter().filter(|id| in_gap(id)).copied();
                        let new =
                            committed.iter().filter(|id| gaps.top().is_none_or(|top| **id > top)).take(3).copied();
                        let ids: Vec<i64> = late.chain(new).collect();
                        for id in &ids {
                            assert!(read.insert(*id), "seed {seed}: {id} was read twice");
                        }
                        gaps = gaps.after(&ids, true, snapshot, at(step), Duration::ZERO);
                    }
                }
            }
            open.clear();
            for _ in 0..300 {
                let in_gap = |id: &i64| gaps.gaps().iter().any(|gap| (gap.low..=gap.high).contains(id));
                let wanted = |id: &&i64| in_gap(id) || gaps.top().is_none_or(|top| **id > top);
                let ids: Vec<i64> = committed.iter().filter(wanted).take(3).copied().collect();
                read.extend(ids.iter().copied());
                let snapshot = Snapshot { xmin: next_transaction, xmax: next_transaction };
                gaps = gaps.after(&ids, false, snapshot, at(1_000), Duration::ZERO);
            }
            assert_eq!(read, committed, "seed {seed}");
        }
    }
}
