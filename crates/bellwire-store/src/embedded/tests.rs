//! What only the embedded store can do: a full disk, a failed sync, a reader beside a writer.

use super::folder::Reserve;
use super::opening::write_ahead;
use super::*;
use crate::{Accepted, Span};
use bellwire_model::{MessageId, RequestDigest};
use bytes::Bytes;
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use std::path::Path;

pub(super) fn open(folder: &Path) -> EmbeddedStore {
    EmbeddedStore::open(folder, Settings { reserve_bytes: 1 << 20, ..Settings::default() }).expect("opens")
}

fn batch(sequence: u64) -> Batch {
    let id = MessageId::from_parts(Sequence::from_u64(sequence), [0; 12]);
    let message = Message::new(id, ApplicationKey(1), "a", vec![0; 10_000], Timestamp::FAR_FUTURE);
    let fan_out = [EndpointKey(1)].into_iter().collect();
    let accepted = vec![Accepted { message: Arc::new(message), fan_out, idempotency: None, event: None }];
    Batch { accepted, ..Batch::default() }
}

#[test]
fn a_folder_that_a_later_version_has_changed_is_not_opened() {
    let folder = tempfile::TempDir::new().expect("a folder");
    open(folder.path()).commit(&batch(1)).expect("commits");
    let database = Connection::open(super::folder::database(folder.path())).expect("opens");
    let known = MIGRATIONS.len() as i64;
    let later = "INSERT INTO refinery_schema_history VALUES (1000, 'later', '2027-01-01T00:00:00Z', '0')";
    database.execute_batch(later).expect("a step");
    for refused in [EmbeddedStore::open(folder.path(), Settings::default()), EmbeddedStore::open_reading(folder.path())]
    {
        let error = refused.expect_err("it may keep things elsewhere");
        assert!(matches!(error, OpenError::Newer { found: 1_000, known: 34.., .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("{}", folder.path().display())) && text.contains("step 1000"), "{text}");
    }
    let steps = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("a count");
    assert_eq!(steps("SELECT count(*) FROM refinery_schema_history"), known + 1, "it is as it was");
    database.execute_batch("DELETE FROM refinery_schema_history WHERE version = 1000").expect("gone");
    assert_eq!(open(folder.path()).ledger().expect("read").accepted, 1);
}

/// As a disk would that holds `pages` pages.
fn limit_pages(store: &EmbeddedStore, pages: u32) {
    let writer = store.writer.as_ref().expect("open for writing").lock();
    writer.connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).expect("a limit");
}

#[test]
fn a_full_disk_refuses_commits_and_the_store_goes_on_when_there_is_room() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path());
    limit_pages(&store, 120);
    let mut kept = 0;
    while store.commit(&batch(kept + 1)).is_ok() {
        kept += 1;
        assert!(kept < 1_000);
    }
    for _ in 0..3 {
        assert!(matches!(store.commit(&batch(kept + 1)), Err(CommitError::Full)));
        let ledger = store.ledger().expect("readers go on");
        assert!(ledger.balances());
        assert_eq!(ledger.accepted, kept);
        assert_eq!(store.count_deliveries(EndpointKey(1), Span::ALL).expect("read").pending, kept);
    }
    limit_pages(&store, 1_000_000);
    store.commit(&batch(kept + 1)).expect("the same batch, later");
    assert_eq!(store.ledger().expect("read").accepted, kept + 1);
}

#[test]
fn the_log_s_index_has_its_room_before_it_needs_it() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path());
    let bytes = || std::fs::metadata(folder.path().join("bellwire.db-shm")).map_or(0, |file| file.len());
    assert_eq!(bytes(), 1 << 20);
    for sequence in 1..200 {
        store.commit(&batch(sequence)).expect("commits");
    }
    assert_eq!((bytes(), store.ledger().expect("read").accepted), (1 << 20, 199));
    // A reader of another process finds the same.
    assert_eq!(EmbeddedStore::open_reading(folder.path()).expect("opens").ledger().expect("read").accepted, 199);
}

/// A batch of one message with a payload of so many bytes, delivered at once.
fn delivered(sequence: u64, bytes: usize) -> Batch {
    let mut batch = batch(sequence);
    for accepted in &mut batch.accepted {
        Arc::make_mut(&mut accepted.message).payload = Some(Bytes::from(vec![7; bytes]));
        accepted.fan_out = std::iter::empty().collect();
    }
    batch.watermark = Some(Sequence::from_u64(sequence + 1));
    batch
}

fn messages(store: &EmbeddedStore) -> i64 {
    let writer = store.writer.as_ref().expect("open for writing").lock();
    writer.connection.query_row("SELECT count(*) FROM message", [], |row| row.get(0)).expect("a count")
}

#[test]
fn a_slice_of_retention_is_bounded_in_bytes_too() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path());
    for sequence in 1..=40 {
        store.commit(&delivered(sequence, 1 << 20)).expect("commits");
    }
    let years = Timestamp::EPOCH.plus(Duration::from_secs(100 * 365 * 86_400));
    let mut left = vec![messages(&store)];
    while store.upkeep(years).expect("upkeep") {
        left.push(messages(&store));
    }
    left.dedup();
    assert_eq!(left, [40, 24, 8, 0]);
}

#[test]
fn what_upkeep_writes_counts_towards_the_next_checkpoint() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path());
    let mut many = Batch::default();
    for sequence in 1..=1_900 {
        many.accepted.extend(delivered(sequence, 10).accepted);
    }
    store.commit(&many).expect("commits");
    let quiet = Sequence::from_u64(1).time().plus(Duration::from_secs(3600));
    let mut writer = store.writer.as_ref().expect("open for writing").lock();
    writer.log_left(0);
    while writer.upkeep(quiet).expect("upkeep") {
        let (log, done) = checkpoint::extent(&writer.connection).expect("the log's extent");
        assert!(writer.log_bytes >= log - done, "{} of {log} - {done}", writer.log_bytes);
    }
    assert!(writer.meta.indexed.as_u64() > 0);
}

#[test]
fn slow_lists_leave_readers_for_what_deliveries_wait_for() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path());
    store.commit(&batch(1)).expect("commits");
    let lists: Vec<_> = (0..8).map(|_| store.readers.take_for_list().expect("a reader")).collect();
    std::thread::scope(|threads| {
        let ninth = threads.spawn(|| store.ledger().map(|ledger| ledger.accepted));
        let found = store.lease_due(EndpointKey(1), false, Timestamp::FAR_FUTURE, 10);
        assert!(found.expect("read at once").is_empty());
        assert!(store.message(Sequence::from_u64(1), true).expect("read at once").is_some());
        assert!(!ninth.is_finished(), "one list too many");
        drop(lists);
        assert_eq!(ninth.join().expect("ends").expect("reads"), 1);
    });
}

#[test]
fn a_database_that_cannot_have_a_log_is_known() {
    let memory = Connection::open_in_memory().expect("opens");
    assert_eq!(write_ahead(&memory).expect("a mode"), "memory");
}

#[test]
fn what_is_not_accepted_may_use_the_reserve() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut reserve = Reserve::take(folder.path(), 1 << 20);
    let bytes = || std::fs::metadata(folder.path().join("reserve")).map_or(0, |file| file.len());
    assert!(reserve.take_again());
    assert_eq!(bytes(), 1 << 20);
    assert!(reserve.give_up(), "there was some");
    assert!(!reserve.give_up(), "and now there is none");
    assert_eq!(bytes(), 0);
    assert!(reserve.take_again());
}

#[test]
fn after_an_unknown_outcome_nothing_is_written() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path());
    store.commit(&batch(5)).expect("commits");
    // A batch that breaks the order cannot be kept, and trying again cannot help.
    assert!(matches!(store.commit(&batch(4)), Err(CommitError::Unknown(_))));
    assert!(matches!(store.commit(&batch(6)), Err(CommitError::Unknown(_))));
    assert!(matches!(store.upkeep(Timestamp::EPOCH), Ok(false) | Err(CommitError::Unknown(_))));
    assert!(store.lease("a", &[Partition(1)], Timestamp::EPOCH, Duration::ZERO).is_err());
    assert_eq!(store.ledger().expect("readers go on").accepted, 1);
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.ledger().expect("read").accepted, 1);
    store.commit(&batch(6)).expect("a new process goes on");
}

#[test]
fn a_failed_batch_leaves_no_trace_in_memory() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let store = open(folder.path());
    limit_pages(&store, 60);
    let waiting = |message| Waiting {
        delivery: Delivery { endpoint: EndpointKey(1), message: Sequence::from_u64(message) },
        due: Timestamp::EPOCH,
        next: 1,
        trigger: bellwire_model::Trigger::Scheduled,
    };
    let mut refused = batch(1);
    refused.changes.push(crate::Change::Wait { waiting: waiting(1), owed: false });
    for sequence in 2..100 {
        refused.accepted.extend(batch(sequence).accepted);
    }
    assert!(matches!(store.commit(&refused), Err(CommitError::Full)));
    let writer = Arc::clone(store.writer.as_ref().expect("open for writing"));
    assert!(!writer.lock().counts.has_rows(EndpointKey(1)));
    assert_eq!(store.tail.read().len(), 0);
    limit_pages(&store, 1_000_000);
    store.commit(&refused).expect("the same batch, later");
    assert!(writer.lock().counts.has_rows(EndpointKey(1)));
    assert_eq!(store.ledger().expect("read").pending, 99);
}

/// So many messages from `now` on, each with the key of an event, and every other one with an idempotency key too.
pub(super) fn keyed(now: Timestamp, numbers: std::ops::Range<u64>) -> Batch {
    let first = Sequence::first_at(now).as_u64();
    let accepted = numbers.clone().map(|n| {
        let mut accepted = delivered(first + n - numbers.start, 10).accepted.remove(0);
        let message = accepted.message.sequence();
        accepted.event = Some(some_key(b"event", n));
        let digest = RequestDigest(n.to_le_bytes());
        let key = some_key(b"idempotency", n);
        accepted.idempotency = (n % 2 == 0).then_some(DedupeEntry { key, digest, message });
        accepted
    });
    let accepted: Vec<_> = accepted.collect();
    let watermark = accepted.last().map(|accepted| accepted.message.sequence().next());
    Batch { accepted, watermark, ..Batch::default() }
}

pub(super) fn some_key(kind: &[u8], n: u64) -> DedupeKey {
    let digest = Sha256::new().chain_update(kind).chain_update(n.to_le_bytes()).finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    DedupeKey(key)
}

pub(super) fn assert_all_are_found(store: &EmbeddedStore, numbers: std::ops::Range<u64>, idempotency_keys: bool) {
    for n in numbers {
        let event = store.find_event(some_key(b"event", n)).expect("read").expect("an event's key");
        let found = store.find_key(some_key(b"idempotency", n)).expect("read");
        let expected = (n % 2 == 0 && idempotency_keys).then_some((event.message, RequestDigest(n.to_le_bytes())));
        assert_eq!(found.map(|entry| (entry.message, entry.digest)), expected, "{n}");
    }
}

fn rows(store: &EmbeddedStore, table: &str) -> u64 {
    let writer = store.writer.as_ref().expect("open for writing").lock();
    let count = writer.connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
    count.expect("a count") as u64
}

#[test]
fn every_key_is_found_wherever_it_is_on_its_way() {
    const EACH: u64 = 40;
    let folder = tempfile::TempDir::new().expect("a folder");
    let mut now = Timestamp::from_seconds(1_700_000_000);
    let mut merged_in_between = false;
    // Each start begins a run; nearly each ends before upkeep has come to its end.
    for round in 0..40 {
        let store = open(folder.path());
        store.commit(&keyed(now, round * EACH..(round + 1) * EACH)).expect("commits");
        now = now.plus(Duration::from_secs(61));
        for slice in 0..2 + round % 7 {
            let more = store.upkeep(now).expect("upkeep");
            let (runs, events) = (rows(&store, "key_run"), rows(&store, "event_key"));
            merged_in_between |= slice > 2 && more && runs > 0 && events > 0;
        }
        assert_all_are_found(&store, 0..(round + 1) * EACH, true);
        let beside = EmbeddedStore::open_reading(folder.path()).expect("opens");
        assert_all_are_found(&beside, round * EACH..(round + 1) * EACH, true);
    }
    assert!(merged_in_between, "no round ended in the middle of a merge");

    let store = open(folder.path());
    let all = 40 * EACH;
    let three_hours = Duration::from_secs(3 * 3600);
    let mut slices = 0;
    while store.upkeep(now.plus(three_hours)).expect("upkeep") {
        slices += 1;
        if slices % 32 == 0 {
            assert_all_are_found(&store, 0..all, true);
        }
    }
    assert!(slices > 64, "{slices}");
    let counts = ["key_run", "event_key", "idempotency_key"].map(|table| rows(&store, table));
    assert_eq!(counts, [0, all, all / 2]);
    assert!(matches!(store.tail.read().find_key(some_key(b"event", 0)), Sought::InTables));
    let strangers = (all..all + 1_000).filter(|n| {
        assert_eq!(store.find_event(some_key(b"event", *n)).expect("read"), None);
        !matches!(store.tail.read().find_key(some_key(b"event", *n)), Sought::Nowhere)
    });
    assert!(strangers.count() < 50, "the filter knows who was never there");
    while store.upkeep(now.plus(6 * three_hours)).expect("upkeep") {}
    assert_all_are_found(&store, 0..all, false);
}
