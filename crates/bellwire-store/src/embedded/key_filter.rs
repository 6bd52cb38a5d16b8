//! Which keys are in no table: nearly every message brings keys that nobody has brought before, and looking for each of those in trees that
//! do not fit into memory would cost more than everything else that is done for it.
//!
//! A Bloom filter in blocks of one cache line. It forgets nothing, so what it says is there may be gone; what it says is not there is not.
//! After a start, and when it has grown too full, it is made anew from the tables, a slice at a time, while the old one, or none, answers.

use super::fault::Fault;
use super::message_log::array;
use bellwire_model::DedupeKey;
use rusqlite::{Connection, params};

/// Bits of a block.
const BLOCK_BITS: u32 = 512;
/// With so many keys a block is full: then about one key in five hundred that is not there seems to be.
const BLOCK_KEYS: usize = 32;
/// How many bits a key sets.
const PROBES: u32 = 6;
/// The least number of blocks: 512 kB, of which memory is taken as keys come.
const BLOCKS_MIN: usize = 1 << 13;
/// The greatest: 32 MB, for 17 million keys. With more of them it is wrong more often.
const BLOCKS_MAX: usize = 1 << 19;

/// What is known of the keys; nothing, if nobody has begun to gather them.
#[derive(Default)]
pub(super) struct KeyFilter {
    /// Knows every key.
    complete: Option<Bits>,
    gathering: Option<Gathering>,
}

/// Knows every key that has come since it was begun, and those of the tables up to its place.
struct Gathering {
    bits: Bits,
    place: Place,
}

/// Where going through all keys has come to.
#[derive(Clone, Default)]
pub(super) struct Place {
    table: usize,
    /// The run, or the bucket.
    group: i64,
    key: Vec<u8>,
}

impl KeyFilter {
    /// One that is to be told what the tables hold: about so many keys, or fewer.
    pub(super) fn gathering(keys: u64) -> KeyFilter {
        let blocks = usize::try_from(keys).unwrap_or(usize::MAX).div_ceil(BLOCK_KEYS);
        KeyFilter { complete: None, gathering: Some(Gathering::new(blocks)) }
    }

    /// Whether the key may be in the tables.
    pub(super) fn may_hold(&self, key: DedupeKey) -> bool {
        self.complete.as_ref().is_none_or(|bits| bits.has(key))
    }

    pub(super) fn insert(&mut self, key: DedupeKey) {
        let gathering = self.gathering.as_mut().map(|gathering| &mut gathering.bits);
        for bits in [self.complete.as_mut(), gathering].into_iter().flatten() {
            bits.insert(key);
        }
    }

    /// From where on it is to be told which keys the tables hold; from their start if it has become too full. Nothing if it knows.
    /// `tail` are the keys that are not in the tables yet: they may get there behind the place that it has come to.
    pub(super) fn wants(&mut self, tail: impl IntoIterator<Item = DedupeKey>) -> Option<Place> {
        let full = self.complete.as_ref().filter(|bits| self.gathering.is_none() && bits.is_full());
        if let Some(blocks) = full.map(|bits| bits.blocks.len()) {
            let gathering = self.gathering.insert(Gathering::new(blocks.saturating_mul(4)));
            tail.into_iter().for_each(|key| gathering.bits.insert(key));
        }
        self.gathering.as_ref().map(|gathering| gathering.place.clone())
    }

    /// What it takes in memory.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let bits = self.complete.iter().chain(self.gathering.as_ref().map(|gathering| &gathering.bits));
        bits.map(|bits| bits.blocks.capacity() * size_of::<[u64; 8]>()).sum()
    }

    /// Is told what it wanted: these keys, up to the place `next`. Without one that was all, and from now on it is asked.
    pub(super) fn gather(&mut self, keys: Vec<DedupeKey>, next: Option<Place>) {
        let Some(gathering) = &mut self.gathering else { return };
        keys.into_iter().for_each(|key| gathering.bits.insert(key));
        match next {
            Some(place) => gathering.place = place,
            None => self.complete = self.gathering.take().map(Gathering::complete),
        }
    }
}

impl Gathering {
    fn new(blocks: usize) -> Gathering {
        Gathering { bits: Bits::new(blocks), place: Place::default() }
    }

    fn complete(self) -> Bits {
        let mut bits = self.bits;
        bits.shrink();
        bits.at_first = bits.keys;
        bits
    }
}

impl Place {
    /// The next `limit` keys of all tables, and the place behind them; none at the end.
    pub(super) fn keys(
        mut self,
        connection: &Connection,
        limit: usize,
    ) -> Result<(Vec<DedupeKey>, Option<Place>), Fault> {
        // Each in the order of its key.
        const TABLES: [&str; 3] = [
            "SELECT run, key FROM key_run WHERE (run, key) > (?1, ?2) ORDER BY run, key LIMIT ?3",
            "SELECT 0, key FROM event_key WHERE ?1 = 0 AND key > ?2 ORDER BY key LIMIT ?3",
            "SELECT bucket, key FROM idempotency_key WHERE (bucket, key) > (?1, ?2) ORDER BY bucket, key LIMIT ?3",
        ];
        let mut keys = Vec::with_capacity(limit);
        for (table, sql) in TABLES.iter().enumerate().skip(self.table) {
            if table > self.table {
                self = Place { table, ..Place::default() };
            }
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query(params![self.group, self.key, (limit - keys.len()) as i64])?;
            while let Some(row) = rows.next()? {
                keys.push(DedupeKey(array(row, 1)?));
                self.group = row.get(0)?;
            }
            if keys.len() == limit {
                self.key = keys.last().map_or_else(Vec::new, |key| key.0.to_vec());
                return Ok((keys, Some(self)));
            }
        }
        Ok((keys, None))
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
    use crate::EmbeddedStore;
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
        filter.gather(Vec::new(), None);
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
        filter.gather(Vec::new(), None);
        let capacity = (BLOCKS_MIN * BLOCK_KEYS) as u64;
        (0..capacity).for_each(|n| filter.insert(key(n)));
        assert!(filter.wants([]).is_none());
        filter.insert(key(capacity));
        // Of the tail, whose keys may never be in what is gone through, there is one.
        assert!(filter.wants([key(capacity)]).is_some_and(|place| place.table == 0));
        // One comes in meanwhile, then what the tables still hold is gone through: a part of what there was.
        filter.insert(key(capacity + 1));
        filter.gather((0..500).map(key).collect(), Some(Place { table: 1, ..Place::default() }));
        assert!(filter.wants([]).is_some_and(|place| place.table == 1), "it goes on where it was");
        assert!((0..capacity + 2).all(|n| filter.may_hold(key(n))), "the old one answers");
        filter.gather((500..1_000).map(key).collect(), None);
        assert!((0..1_000).all(|n| filter.may_hold(key(n))) && filter.may_hold(key(capacity + 1)));
        assert!(filter.may_hold(key(capacity)), "it is in the tail");
        assert!((1_000..capacity).filter(|n| filter.may_hold(key(*n))).count() < 1_000, "the rest is forgotten");
        let blocks = filter.complete.as_ref().map(|bits| bits.blocks.len());
        assert_eq!(blocks, Some(BLOCKS_MIN), "room for more than there is was given back");
    }

    #[test]
    fn all_tables_are_gone_through_however_they_are_cut() {
        let folder = tempfile::TempDir::new().expect("a folder");
        drop(EmbeddedStore::open(folder.path(), Default::default()).expect("opens"));
        let connection = Connection::open(super::super::folder::database(folder.path())).expect("opens");
        let mut all = Vec::new();
        for (table, count) in [
            ("key_run VALUES (11, ?1, NULL, 11)", 3),
            ("key_run VALUES (12, ?1, NULL, 12)", 4),
            ("event_key VALUES (?1, 1)", 5),
            ("idempotency_key VALUES (7, ?1, x'0011223344556677', 1)", 2),
            ("idempotency_key VALUES (8, ?1, x'0011223344556677', 1)", 6),
        ] {
            for _ in 0..count {
                let key = key(all.len() as u64);
                connection.execute(&format!("INSERT INTO {table}"), [key.0.as_slice()]).expect("a key");
                all.push(key);
            }
        }
        all.sort_unstable();
        for limit in 1..=all.len() + 1 {
            let (mut found, mut place) = (Vec::new(), Some(Place::default()));
            while let Some(from) = place {
                let (keys, next) = from.keys(&connection, limit).expect("read");
                assert!(keys.len() <= limit && found.len() <= all.len(), "{limit} at a time");
                found.extend(keys);
                place = next;
            }
            found.sort_unstable();
            assert_eq!(found, all, "{limit} at a time");
        }
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
