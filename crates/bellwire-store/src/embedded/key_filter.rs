//! Which keys are in no table: nearly every message brings keys that nobody has brought before, and looking for each of those in trees that
//! do not fit into memory would cost more than everything else that is done for it.
//!
//! A Bloom filter in blocks of one cache line. It forgets nothing, so what it says is there may be gone; what it says is not there is not.
//! After a start, and when it has grown too full, it is made anew from the tables, a slice at a time, while the old one, or none, answers.

use bellwire_model::DedupeKey;

/// Bits of a block.
const BLOCK_BITS: u32 = 512;
/// With so many keys a block is full: then about one key in a hundred that is not there seems to be.
const BLOCK_KEYS: usize = 48;
/// How many bits a key sets.
const PROBES: u32 = 6;
/// The least number of blocks: 128 kB.
const BLOCKS_MIN: usize = 1 << 11;
/// The greatest: 32 MB, for 25 million keys. With more of them it is wrong more often.
const BLOCKS_MAX: usize = 1 << 19;

/// What is known of the keys; nothing, if nobody has begun to gather them.
#[derive(Default)]
pub(super) struct KeyFilter {
    /// Knows every key.
    complete: Option<Bits>,
    /// Knows every key that has come since it was begun, and those of the tables that were gone through.
    gathering: Option<Bits>,
}

impl KeyFilter {
    /// One that is to be told what the tables hold: about so many keys, or fewer.
    pub(super) fn gathering(keys: u64) -> KeyFilter {
        let blocks = usize::try_from(keys).unwrap_or(usize::MAX).div_ceil(BLOCK_KEYS);
        KeyFilter { complete: None, gathering: Some(Bits::new(blocks)) }
    }

    /// Whether the key may be in the tables.
    pub(super) fn may_hold(&self, key: DedupeKey) -> bool {
        self.complete.as_ref().is_none_or(|bits| bits.has(key))
    }

    pub(super) fn insert(&mut self, key: DedupeKey) {
        for bits in [&mut self.complete, &mut self.gathering].into_iter().flatten() {
            bits.insert(key);
        }
    }

    /// Whether it waits for what the tables hold.
    pub(super) fn is_gathering(&self) -> bool {
        self.gathering.is_some()
    }

    /// Begins anew if it has become too full; the tables are to be gone through from their start. Answers whether it did.
    pub(super) fn renew_if_full(&mut self) -> bool {
        let full = self.complete.as_ref().filter(|bits| self.gathering.is_none() && bits.is_full());
        let Some(blocks) = full.map(|bits| bits.blocks.len()) else { return false };
        self.gathering = Some(Bits::new(blocks.saturating_mul(4)));
        true
    }

    /// The tables were gone through: from now on it is asked.
    pub(super) fn gathered(&mut self) {
        if let Some(mut bits) = self.gathering.take() {
            bits.shrink();
            bits.at_first = bits.keys;
            self.complete = Some(bits);
        }
    }
}

struct Bits {
    /// A power of two of them.
    blocks: Vec<[u64; 8]>,
    /// How often something was inserted.
    keys: usize,
    /// The same, when it was complete.
    at_first: usize,
}

impl Bits {
    fn new(blocks: usize) -> Bits {
        let blocks = blocks.clamp(BLOCKS_MIN, BLOCKS_MAX).next_power_of_two();
        Bits { blocks: vec![[0; 8]; blocks], keys: 0, at_first: 0 }
    }

    /// The key's block, and where in it its bits are. A key is a digest already: one half of it chooses, the other sets.
    fn place(&self, key: DedupeKey) -> (usize, impl Iterator<Item = (usize, u64)> + use<>) {
        let [which, bits] = [0, 8].map(|at| {
            let mut half = [0; 8];
            half.copy_from_slice(&key.0[at..at + 8]);
            u64::from_le_bytes(half)
        });
        let block = which as usize & (self.blocks.len() - 1);
        let probes = (0..PROBES).map(move |probe| {
            let bit = (bits >> (probe * BLOCK_BITS.ilog2())) as u32 % BLOCK_BITS;
            ((bit / 64) as usize, 1 << (bit % 64))
        });
        (block, probes)
    }

    fn has(&self, key: DedupeKey) -> bool {
        let (block, mut probes) = self.place(key);
        let block = &self.blocks[block];
        probes.all(|(word, bit)| block[word] & bit != 0)
    }

    fn insert(&mut self, key: DedupeKey) {
        let (block, probes) = self.place(key);
        let block = &mut self.blocks[block];
        for (word, bit) in probes {
            block[word] |= bit;
        }
        self.keys += 1;
    }

    /// Too full, and has been for so long that going through the tables is worth it again.
    fn is_full(&self) -> bool {
        let capacity = self.blocks.len() * BLOCK_KEYS;
        self.keys > capacity && self.keys - self.at_first > capacity / 2
    }

    /// Gives back what it does not need: at least half of it stays free. The upper half of the blocks is laid over the lower one,
    /// which is where its keys are looked for among half as many.
    fn shrink(&mut self) {
        while self.blocks.len() > BLOCKS_MIN && self.keys <= self.blocks.len() / 4 * BLOCK_KEYS {
            let upper = self.blocks.split_off(self.blocks.len() / 2);
            for (lower, upper) in self.blocks.iter_mut().zip(upper) {
                for (word, more) in lower.iter_mut().zip(upper) {
                    *word |= more;
                }
            }
        }
        self.blocks.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn key(n: u64) -> DedupeKey {
        let digest = Sha256::digest(n.to_le_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        DedupeKey(key)
    }

    #[test]
    fn what_came_in_is_never_denied_and_what_did_not_nearly_always() {
        let mut filter = KeyFilter::gathering(0);
        assert!(filter.may_hold(key(1)), "nothing is known yet");
        filter.gathered();
        assert!(!filter.may_hold(key(1)), "the tables were empty");
        let capacity = (BLOCKS_MIN * BLOCK_KEYS) as u64;
        (0..capacity).for_each(|n| filter.insert(key(n)));
        assert!((0..capacity).all(|n| filter.may_hold(key(n))));
        let wrong = (capacity..capacity + 100_000).filter(|n| filter.may_hold(key(*n))).count();
        assert!((1..2_500).contains(&wrong), "{wrong} of 100,000 are said to be there");
    }

    #[test]
    fn it_is_made_anew_when_it_is_full_and_forgets_nothing_meanwhile() {
        let mut filter = KeyFilter::gathering(0);
        filter.gathered();
        let capacity = (BLOCKS_MIN * BLOCK_KEYS) as u64;
        (0..capacity).for_each(|n| filter.insert(key(n)));
        assert!(!filter.renew_if_full());
        filter.insert(key(capacity));
        assert!(filter.renew_if_full() && filter.is_gathering());
        assert!(!filter.renew_if_full(), "it has begun already");
        // One comes in meanwhile, then what the tables still hold is gone through: a part of what there was.
        filter.insert(key(capacity + 1));
        (0..1_000).for_each(|n| filter.insert(key(n)));
        assert!((0..capacity + 2).all(|n| filter.may_hold(key(n))), "the old one answers");
        filter.gathered();
        assert!((0..1_000).all(|n| filter.may_hold(key(n))) && filter.may_hold(key(capacity + 1)));
        assert!((1_000..capacity).filter(|n| filter.may_hold(key(*n))).count() < 1_000, "the rest is forgotten");
        let blocks = filter.complete.as_ref().map(|bits| bits.blocks.len());
        assert_eq!(blocks, Some(BLOCKS_MIN), "room for more than there is was given back");
    }

    #[test]
    fn it_keeps_its_bound_however_many_there_are() {
        assert_eq!(Bits::new(usize::MAX).blocks.len(), BLOCKS_MAX);
        let mut bits = Bits::new(0);
        bits.keys = BLOCKS_MIN * BLOCK_KEYS * 3;
        bits.at_first = bits.keys - 1;
        assert!(!bits.is_full(), "as full a moment ago: going through the tables again would not help");
    }
}
