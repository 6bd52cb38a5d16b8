//! What a great many keys cost: bytes of memory and of the disk for each, and pages for a look-up. Counted, not timed: what ten million
//! take in time, `examples/keys.rs` prints.

use super::super::EmbeddedStore;
use super::super::index::MessageRecord;
use super::super::tests::{assert_all_are_found, keyed, open, some_key};
use super::*;
use crate::Store;
use bellwire_model::{ApplicationKey, FanOut};

const KEYS: u64 = 300_000;
/// What a key may take in memory, and what it may take on the disk.
const BYTES_EACH: u64 = 64;
/// Runs that are written while others are merged come on top of the most that are merged at once.
const RUNS_MAX: u64 = 34;

fn event(n: u64) -> DedupeKey {
    some_key(b"event", n)
}

/// Writes keys as indexing does, ten thousand at a time, and tells the filter as a commit does. The upkeep that is due in between is done.
fn fill(store: &EmbeddedStore, numbers: std::ops::Range<u64>, now: Timestamp) {
    let writer = store.writer.as_ref().expect("open for writing");
    let first = Sequence::first_at(now).as_u64();
    let all: Vec<u64> = numbers.collect();
    for slice in all.chunks(10_000) {
        let record = |n: &u64| MessageRecord {
            sequence: Sequence::from_u64(first + n),
            application: ApplicationKey(1),
            event_type: 0,
            marks: 0,
            fan_out: FanOut::default(),
            expires_at: Timestamp::FAR_FUTURE,
            idempotency: None,
            event: Some(event(*n)),
        };
        let records: Vec<_> = slice.iter().map(record).collect();
        {
            let mut writer = writer.lock();
            let mut runs = writer.key_runs.clone();
            writer.connection.execute_batch("BEGIN IMMEDIATE").expect("begins");
            runs.write(&writer.connection, &records).expect("writes");
            writer.connection.execute_batch("COMMIT").expect("commits");
            writer.key_runs = runs;
        }
        slice.iter().for_each(|n| store.tail.write().filter.insert(event(*n)));
        while store.upkeep(now).expect("upkeep") {
            assert_memory(store, n_of(slice));
        }
        assert_memory(store, n_of(slice));
    }
}

/// How many keys there are with this slice.
fn n_of(slice: &[u64]) -> u64 {
    slice.last().map_or(0, |last| last + 1)
}

/// The filter's least size counts for nothing; from there on it is held to the bound at every moment, also while it is made anew.
fn assert_memory(store: &EmbeddedStore, keys: u64) {
    let bytes = store.tail.read().filter.bytes() as u64;
    assert!(bytes <= keys * BYTES_EACH || bytes <= 1 << 20, "{bytes} bytes of memory for {keys} keys");
}

fn one<T: rusqlite::types::FromSql>(store: &EmbeddedStore, sql: &str) -> T {
    let writer = store.writer.as_ref().expect("open for writing").lock();
    writer.connection.query_one(sql, [], |row| row.get(0)).expect("a number")
}

fn bytes_on_disk(store: &EmbeddedStore) -> u64 {
    let sql = "SELECT sum(pgsize) FROM dbstat WHERE name IN ('key_run', 'event_key')";
    one::<i64>(store, sql).unsigned_abs()
}

/// A look-up over a connection that has no page in memory, and how many it reads.
fn look_up(store: &EmbeddedStore, key: DedupeKey) -> (Option<DedupeEntry>, u64) {
    store.readers.take().expect("a reader").execute_batch("PRAGMA shrink_memory").expect("forgets");
    let before = bytes_read();
    let found = store.find_event(key).expect("reads");
    (found, (bytes_read() - before) / 4096)
}

/// What this thread has read so far.
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").expect("a count");
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("a line");
    line.parse().expect("a number")
}

/// The most pages that one of a thousand look-ups reads, of keys that are there.
fn pages_of_a_look_up(store: &EmbeddedStore, keys: u64) -> u64 {
    let look_up = |n: u64| {
        let (found, pages) = look_up(store, event(n));
        assert!(found.is_some_and(|entry| entry.key == event(n)), "{n} is there");
        pages
    };
    (0..1_000).map(|n| look_up(n * (keys / 1_000))).max().unwrap_or(0)
}

/// How many of a thousand look-ups of keys that nobody brought read anything at all.
fn strangers_looked_for(store: &EmbeddedStore) -> usize {
    let strangers = (0..1_000).map(|n| look_up(store, some_key(b"stranger", n)));
    strangers.filter(|(found, pages)| found.is_some() || *pages > 0).count()
}

#[test]
fn many_keys_take_few_bytes_each_and_a_look_up_reads_few_pages() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let now = Timestamp::from_seconds(1_700_000_000);
    let store = open(folder.path());
    assert_eq!(one::<i64>(&store, "PRAGMA page_size"), 4096);

    // The newest ones lie in runs, and each of them may have to be asked.
    fill(&store, 0..KEYS, now);
    let runs = one::<i64>(&store, "SELECT count(DISTINCT run) FROM key_run").unsigned_abs();
    assert!(runs > 10 && runs <= RUNS_MAX, "{runs} runs");
    let pages = pages_of_a_look_up(&store, KEYS);
    assert!((3..=5 * runs).contains(&pages), "{pages} pages in {runs} runs");
    assert!(bytes_on_disk(&store) <= KEYS * BYTES_EACH, "{} bytes on the disk", bytes_on_disk(&store));
    assert!(strangers_looked_for(&store) < 30, "the filter knows who was never there");

    // Merged, they are one tree.
    while store.upkeep(now.plus(Duration::from_secs(3 * 3600))).expect("upkeep") {
        assert_memory(&store, KEYS);
    }
    assert_eq!(one::<i64>(&store, "SELECT count(*) FROM key_run"), 0);
    let pages = pages_of_a_look_up(&store, KEYS);
    assert!((3..=6).contains(&pages), "{pages} pages");
    assert!(bytes_on_disk(&store) <= KEYS * BYTES_EACH, "{} bytes on the disk", bytes_on_disk(&store));

    // After a start they are gone through, and the same holds. That there may be so many is known from how many messages were accepted.
    one::<i64>(&store, &format!("UPDATE meta SET accepted = {KEYS} RETURNING accepted"));
    drop(store);
    let store = open(folder.path());
    while store.upkeep(now).expect("upkeep") {
        assert_memory(&store, KEYS);
    }
    assert!(strangers_looked_for(&store) < 30, "the filter knows who was never there");
    assert!(pages_of_a_look_up(&store, KEYS) <= 6);
}

#[test]
fn what_is_not_in_the_tables_yet_is_known_after_the_filter_was_made_anew() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path());
    let now = Timestamp::from_seconds(1_700_000_000);
    while store.upkeep(now).expect("upkeep") {}
    // As many as the filter has room for at first, and then some that only the logs have and memory.
    fill(&store, 1_000..263_000, now);
    let before = store.tail.read().filter.bytes();
    let later = now.plus(Duration::from_secs(1));
    store.commit(&keyed(later, 0..1_000)).expect("commits");
    while store.upkeep(later).expect("upkeep") {}
    assert!(store.tail.read().filter.bytes() > before, "it was made anew");
    assert_eq!(store.tail.read().len(), 1_000, "none of them is in the tables");
    while store.upkeep(later.plus(Duration::from_secs(61))).expect("upkeep") {}
    assert_eq!(store.tail.read().len(), 0);
    assert_all_are_found(&store, 0..1_000, true);
}
