//! Deliveries of a pipe with an ordering key that wait behind another one of their key. What is known of them need not be looked at again,
//! so a key of which thousands wait holds no other key up.
//!
//! The first of a key is never among them. When it is gone, whatever became of it, those behind it are looked at again.

use bellwire_model::Sequence;
use std::collections::{BTreeSet, HashMap, HashSet};

/// So many are remembered. What waits beyond that is looked at each time.
const MAX: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Where the key stands by which they are told apart.
    pointer: Option<String>,
    by_key: HashMap<u64, BTreeSet<Sequence>>,
    count: usize,
}

impl Behind {
    /// Forgets all that was told apart by another key.
    pub(super) fn by(&mut self, pointer: Option<&str>) {
        if self.pointer.as_deref() != pointer {
            *self = Behind { pointer: pointer.map(str::to_owned), ..Behind::default() };
        }
    }

    /// All of them.
    pub(super) fn messages(&self) -> impl Iterator<Item = Sequence> {
        self.by_key.values().flatten().copied()
    }

    /// `message` waits behind another one of its key. Answers whether that was news.
    pub(super) fn note(&mut self, key: u64, message: Sequence) -> bool {
        let is_new = self.count < MAX && self.by_key.entry(key).or_default().insert(message);
        self.count += usize::from(is_new);
        is_new
    }

    /// Whether one of this key that was accepted before `message` is known to wait.
    pub(super) fn has_older(&self, key: u64, message: Sequence) -> bool {
        self.by_key.get(&key).and_then(BTreeSet::first).is_some_and(|first| *first < message)
    }

    /// Forgets those of a key: they are to be looked at again.
    pub(super) fn release(&mut self, key: u64) {
        self.count -= self.by_key.remove(&key).map_or(0, |of_key| of_key.len());
    }

    /// Forgets those that nothing stands before any more: all that was accepted before `looked_to` was looked at, and only of the keys `before`
    /// there was something. Answers whether there were any.
    pub(super) fn release_but(&mut self, before: &HashSet<u64>, looked_to: Sequence) -> bool {
        let known = self.by_key.len();
        let is_behind = |of_key: &BTreeSet<Sequence>| of_key.first().is_none_or(|first| *first >= looked_to);
        self.by_key.retain(|key, of_key| before.contains(key) || is_behind(of_key));
        self.count = self.by_key.values().map(BTreeSet::len).sum();
        self.by_key.len() < known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: usize) -> Sequence {
        Sequence::from_u64(n as u64)
    }

    #[test]
    fn what_is_behind_is_known_until_nothing_stands_before_it() {
        let mut behind = Behind::default();
        assert!(behind.note(1, message(5)) && behind.note(1, message(4)) && behind.note(2, message(7)));
        assert!(!behind.note(1, message(5)), "that is known");
        assert!(
            behind.has_older(1, message(9)) && !behind.has_older(1, message(4)) && !behind.has_older(3, message(9))
        );
        assert!(!behind.release_but(&HashSet::from([1, 2, 3]), Sequence::MAX));
        assert!(!behind.release_but(&HashSet::new(), message(4)), "what stands before them was not looked at");
        assert!(behind.release_but(&HashSet::from([2]), Sequence::MAX));
        assert_eq!(behind.messages().collect::<Vec<_>>(), [message(7)]);
        behind.by(None);
        assert_eq!(behind.messages().count(), 1);
        behind.by(Some("/other"));
        assert_eq!((behind.messages().count(), behind.count), (0, 0));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut behind = Behind::default();
        let noted = (0..MAX + 10).filter(|n| behind.note(*n as u64 % 7, message(*n))).count();
        assert_eq!((noted, behind.messages().count()), (MAX, MAX));
        behind.release(3);
        assert!(behind.note(3, message(1)));
    }
}
