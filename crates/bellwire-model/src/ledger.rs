//! The sum that must always come out: what is owed = delivered + pending + ended.

use crate::delivery::{AfterAttempt, EndReason};

/// Counts since the store was made. Retention removes rows, never counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    /// Messages accepted.
    pub accepted: u64,
    /// Deliveries owed: for each message the endpoints that matched, plus one for each resend of a delivery that had ended.
    pub matched: u64,
    /// Deliveries that an endpoint took.
    pub delivered: u64,
    /// Deliveries neither delivered nor ended; counted from the logs and the waiting room, not by subtraction.
    pub pending: u64,
    /// Deliveries that ended otherwise, by [`EndReason::code`].
    pub ended: [u64; EndReason::ALL.len()],
}

impl Ledger {
    /// Whether the sum comes out.
    pub fn balances(&self) -> bool {
        self.matched == self.delivered + self.pending + self.ended.iter().sum::<u64>()
    }

    /// Counts what followed an attempt; `Waiting` changes nothing.
    pub fn count(&mut self, after: AfterAttempt) {
        match after {
            AfterAttempt::Delivered => self.delivered += 1,
            AfterAttempt::Ended(reason) => self.ended[usize::from(reason.code())] += 1,
            AfterAttempt::Waiting { .. } => {}
        }
    }
}
