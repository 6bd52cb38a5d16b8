//! Every delivery that is in the engine's hands, from being taken up until what became of it is durable.
//!
//! A row leaves the waiting room only when its outcome is committed. Until then a lease may bring it again, so whoever reads a lease asks
//! here first. It also says which fresh messages are not settled yet.

use crate::lane::LaneIndex;
use bellwire_model::{AttemptNumber, Delivery, MessageId};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Where a delivery in hand is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// In its lane's queue.
    Queued,
    /// An exchange is on.
    Flying,
    /// On its way to the waiting room without an attempt; out of memory once that is durable.
    Parking,
    /// Its attempt is on its way to the log; the delivery goes on later.
    Returning,
    /// Its last attempt, or its end, is on its way to the log.
    Ending,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) lane: LaneIndex,
    pub(crate) phase: Phase,
    /// The waiting room has, or will have, a row for it.
    pub(crate) row: bool,
    /// Its lane became FIFO while it was out: nothing starts before it is back.
    pub(crate) barrier: bool,
    /// Its place among the fresh messages that are not settled; `None` when it has ended or has a row.
    pub(crate) fresh: Option<u64>,
    /// Its message's.
    pub(crate) id: MessageId,
    /// Of its last attempt.
    pub(crate) number: AttemptNumber,
}

/// A table that nobody iterates where order could matter.
pub(crate) type Table<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;
/// Likewise.
pub(crate) type Set<K> = HashSet<K, BuildHasherDefault<Mix>>;
/// Who is in hand.
pub(crate) type HeldTable = Table<Delivery, Held>;

/// Hashes the small integers that keys and sequences are. We give them out ourselves, so nobody can choose them to collide.
#[derive(Default)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(29) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}
