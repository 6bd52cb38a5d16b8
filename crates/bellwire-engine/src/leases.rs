//! Who has which delivery of a pipe endpoint in hand: given out for a while, taken back when the while is over.
//!
//! Kept in memory only. What is durable is what followed: acknowledged, put off, given up. So after a restart nobody has anything,
//! what was out is given out again, and an old receipt opens nothing.
//!
//! A receipt is used in two steps, because the store is written in between: [`Leases::begin`] takes the delivery out of everybody's
//! reach, [`Leases::finish`] lets it go when what followed is durable, and [`Leases::give_back`] undoes the first when it could not be
//! written.

use bellwire_model::{AttemptNumber, Sequence, Timestamp};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// So many receipts that were used are remembered, so that using one twice is no mistake.
const USED_KEPT: usize = 4_096;

/// Opens one delivery, once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Receipt {
    /// Of which message.
    pub message: Sequence,
    /// Which lease of it.
    pub lease: u64,
}

/// Who has deliveries in hand: one connection, or one request, of a reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder(pub u64);

/// What a receipt is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// The delivery was taken well.
    Acknowledge,
    /// It was not.
    Refuse,
    /// Nobody said anything until the lease ended, or its holder was gone.
    End,
}

/// Why a receipt opens nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReceiptError {
    /// It was used for the same before.
    #[error("this receipt was used before")]
    Used,
    /// Its lease has ended, and the delivery is somebody else's or waits for somebody.
    #[error("the lease has ended, or there never was one")]
    Ended,
}

/// The leases of one endpoint.
#[derive(Clone, Debug)]
pub struct Leases {
    held: HashMap<Sequence, Held>,
    ends: BTreeSet<(Timestamp, Sequence)>,
    last: u64,
    used: HashMap<u64, Use>,
    used_in_order: VecDeque<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    lease: u64,
    holder: Holder,
    until: Timestamp,
    number: AttemptNumber,
    key: Option<u64>,
    /// What follows is being written.
    busy: bool,
}

impl Leases {
    /// None yet. `first` is random, so that a receipt of before a restart opens nothing.
    pub fn new(first: u64) -> Self {
        Leases {
            held: HashMap::new(),
            ends: BTreeSet::new(),
            last: first,
            used: HashMap::new(),
            used_in_order: VecDeque::new(),
        }
    }

    /// The messages that somebody has.
    pub fn messages(&self) -> HashSet<Sequence> {
        self.held.keys().copied().collect()
    }

    /// The ordering keys of what somebody has: nothing else with such a key may be given out.
    pub fn keys(&self) -> HashSet<u64> {
        self.held.values().filter_map(|held| held.key).collect()
    }

    /// The receipt of who has a message now.
    pub fn receipt(&self, message: Sequence) -> Option<Receipt> {
        let held = self.held.get(&message)?;
        Some(Receipt { message, lease: held.lease })
    }

    /// How many deliveries are out.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Gives a delivery to `holder` until `until`; `None` if somebody has it.
    pub fn give(
        &mut self,
        message: Sequence,
        number: AttemptNumber,
        key: Option<u64>,
        holder: Holder,
        until: Timestamp,
    ) -> Option<Receipt> {
        if self.held.contains_key(&message) {
            return None;
        }
        self.last = self.last.wrapping_add(1);
        self.held.insert(message, Held { lease: self.last, holder, until, number, key, busy: false });
        self.ends.insert((until, message));
        Some(Receipt { message, lease: self.last })
    }

    /// Begins to use a receipt. Answers the number of the attempt that it belongs to.
    ///
    /// # Errors
    /// [`ReceiptError`]; nothing is changed.
    pub fn begin(&mut self, receipt: Receipt, what: Use, now: Timestamp) -> Result<AttemptNumber, ReceiptError> {
        if self.used.get(&receipt.lease) == Some(&what) {
            return Err(ReceiptError::Used);
        }
        let held = self.held.get_mut(&receipt.message).filter(|held| held.lease == receipt.lease);
        let held = held.filter(|held| !held.busy && held.until > now).ok_or(ReceiptError::Ended)?;
        held.busy = true;
        self.ends.remove(&(held.until, receipt.message));
        Ok(held.number)
    }

    /// What followed is durable.
    pub fn finish(&mut self, receipt: Receipt, what: Use) {
        if self.held.get(&receipt.message).is_some_and(|held| held.lease == receipt.lease) {
            self.held.remove(&receipt.message);
        }
        if what != Use::End && self.used.insert(receipt.lease, what).is_none() {
            self.used_in_order.push_back(receipt.lease);
        }
        while self.used_in_order.len() > USED_KEPT {
            let oldest = self.used_in_order.pop_front();
            oldest.map(|oldest| self.used.remove(&oldest));
        }
    }

    /// What should have followed could not be written: everything is as before [`Leases::begin`].
    pub fn give_back(&mut self, receipt: Receipt) {
        let held = self.held.get_mut(&receipt.message).filter(|held| held.lease == receipt.lease && held.busy);
        if let Some(held) = held {
            held.busy = false;
            self.ends.insert((held.until, receipt.message));
        }
    }

    /// Makes a lease last until `until`.
    ///
    /// # Errors
    /// [`ReceiptError`]; nothing is changed.
    pub fn extend(&mut self, receipt: Receipt, now: Timestamp, until: Timestamp) -> Result<(), ReceiptError> {
        let held = self.held.get_mut(&receipt.message).filter(|held| held.lease == receipt.lease);
        let held = held.filter(|held| !held.busy && held.until > now).ok_or(ReceiptError::Ended)?;
        self.ends.remove(&(held.until, receipt.message));
        held.until = until;
        self.ends.insert((until, receipt.message));
        Ok(())
    }

    /// Begins to use the receipts of leases that have ended, at most `limit`: to be finished, or given back, as all others.
    pub fn begin_ended(&mut self, now: Timestamp, limit: usize) -> Vec<(Receipt, AttemptNumber)> {
        let mut ended = Vec::new();
        while let Some((until, message)) = self.ends.first().copied()
            && until <= now
            && ended.len() < limit
        {
            self.ends.pop_first();
            if let Some(held) = self.held.get_mut(&message) {
                held.busy = true;
                ended.push((Receipt { message, lease: held.lease }, held.number));
            }
        }
        ended
    }

    /// Begins to use the receipts of what `holder` has, in the order in which it was given: to be finished, or given back, as all others. What
    /// it has said something of is not among them, nor are leases that have ended.
    pub fn begin_held_by(&mut self, holder: Holder, now: Timestamp) -> Vec<(Receipt, AttemptNumber)> {
        let of_holder = self.held.iter().filter(|(_, held)| held.holder == holder);
        let mut receipts: Vec<_> =
            of_holder.map(|(message, held)| Receipt { message: *message, lease: held.lease }).collect();
        // Their numbers rise, and may go round.
        receipts.sort_by_key(|receipt| receipt.lease.wrapping_sub(self.last).wrapping_sub(1));
        let begin = |receipt| Some((receipt, self.begin(receipt, Use::End, now).ok()?));
        receipts.into_iter().filter_map(begin).collect()
    }

    /// When the next lease ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_seconds(1_000);

    const READER: Holder = Holder(1);

    fn later(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn message(n: u64) -> Sequence {
        Sequence::from_u64(n)
    }

    #[test]
    fn a_delivery_has_one_holder_at_a_time() {
        let mut leases = Leases::new(7);
        let receipt = leases.give(message(1), 1, Some(5), READER, later(30)).expect("free");
        assert_eq!(leases.give(message(1), 1, None, READER, later(30)), None);
        assert_eq!((leases.messages(), leases.keys()), (HashSet::from([message(1)]), HashSet::from([5])));
        assert_eq!(leases.begin(receipt, Use::Acknowledge, NOW), Ok(1));
        // While what follows is written nobody gets it, whatever the clock says.
        assert_eq!(leases.give(message(1), 2, None, READER, later(60)), None);
        assert_eq!(leases.begin(receipt, Use::Acknowledge, NOW), Err(ReceiptError::Ended));
        assert!(leases.begin_ended(later(100), 10).is_empty());
        leases.finish(receipt, Use::Acknowledge);
        assert!(leases.is_empty());
        assert_eq!(leases.begin(receipt, Use::Acknowledge, NOW), Err(ReceiptError::Used));
        assert_eq!(leases.begin(receipt, Use::Refuse, NOW), Err(ReceiptError::Ended), "it was acknowledged");
        assert_eq!(leases.extend(receipt, NOW, later(9)), Err(ReceiptError::Ended));
    }

    #[test]
    fn what_ends_is_taken_back_once_and_its_receipt_opens_nothing() {
        let mut leases = Leases::new(7);
        let first = leases.give(message(1), 3, None, READER, later(30)).expect("free");
        let second = leases.give(message(2), 1, None, READER, later(40)).expect("free");
        assert_eq!(leases.next_end(), Some(later(30)));
        leases.extend(second, later(29), later(90)).expect("in time");
        assert!(leases.begin_ended(later(29), 10).is_empty());
        assert_eq!(leases.begin(first, Use::Acknowledge, later(30)), Err(ReceiptError::Ended));
        assert_eq!(leases.extend(first, later(30), later(99)), Err(ReceiptError::Ended));
        assert_eq!(leases.begin_ended(later(30), 10), [(first, 3)]);
        assert!(leases.begin_ended(later(30), 10).is_empty());
        // The store was busy: it ends later.
        leases.give_back(first);
        assert_eq!(leases.begin_ended(later(31), 10), [(first, 3)]);
        leases.finish(first, Use::End);
        assert_eq!(leases.begin(first, Use::Acknowledge, later(31)), Err(ReceiptError::Ended));
        let again = leases.give(message(1), 4, None, READER, later(90)).expect("free again");
        assert_ne!(again.lease, first.lease);
        assert_eq!((leases.len(), leases.next_end()), (2, Some(later(90))));
    }

    #[test]
    fn what_a_holder_has_is_found_in_the_order_in_which_it_was_given() {
        let mut leases = Leases::new(u64::MAX - 3);
        let given = [9, 2, 7, 4, 1].map(|n| leases.give(message(n), 1, None, READER, later(30)).expect("free"));
        leases.give(message(3), 1, None, Holder(2), later(30)).expect("free");
        leases.give(message(5), 1, None, READER, later(1)).expect("free");
        leases.begin(given[1], Use::Acknowledge, NOW).expect("in time");
        let rest = [given[0], given[2], given[3], given[4]].map(|receipt| (receipt, 1));
        assert_eq!(leases.begin_held_by(READER, later(1)), rest, "one is being acknowledged, and one has ended");
        assert_eq!(leases.begin_held_by(READER, later(1)), []);
    }

    #[test]
    fn a_receipt_of_before_a_restart_opens_nothing() {
        let old = Leases::new(1).give(message(1), 1, None, READER, later(30)).expect("free");
        let mut leases = Leases::new(1 << 60);
        leases.give(message(1), 1, None, READER, later(30)).expect("free");
        assert_eq!(leases.begin(old, Use::Acknowledge, NOW), Err(ReceiptError::Ended));
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut leases = Leases::new(0);
        for n in 0..USED_KEPT as u64 + 10 {
            let receipt = leases.give(message(n), 1, None, READER, later(30)).expect("free");
            leases.begin(receipt, Use::Acknowledge, NOW).expect("in time");
            leases.finish(receipt, Use::Acknowledge);
        }
        assert_eq!((leases.used.len(), leases.used_in_order.len()), (USED_KEPT, USED_KEPT));
        assert!(leases.ends.is_empty());
    }
}
