//! A check finds each kind of damage and nothing else; a copy made beside a writer is whole.

mod load;

use bellwire_model::{AfterAttempt, EndReason};
use bellwire_store::embedded::{BackupError, FindingKind, backup};
use bellwire_store::{Batch, EmbeddedStore, OpenError, Settings, Store};
use load::Load;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tempfile::TempDir;

fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder")
}

fn open(folder: &Path) -> EmbeddedStore {
    let settings = Settings { slice: 8, reserve_bytes: 0, ..Settings::default() };
    EmbeddedStore::open(folder, settings).expect("opens")
}

/// One round: a message to endpoints 1 and 2. The first takes it, the second fails twice and then ends or waits.
fn round(load: &mut Load, store: &EmbeddedStore, n: u64) {
    let accepted = load.accepted(&[1, 2]);
    let message = accepted.message.sequence();
    let mut batch = Batch { accepted: vec![accepted], ..Batch::default() };
    batch.attempts.push(load.attempt(message, 1, 1, AfterAttempt::Delivered));
    batch.attempts.push(load.attempt(message, 2, 1, AfterAttempt::Waiting { due: load.now }));
    if n.is_multiple_of(2) {
        batch.attempts.push(load.attempt(message, 2, 2, AfterAttempt::Ended(EndReason::Exhausted)));
    }
    batch.watermark = Some(message.next());
    store.commit(&batch).expect("commits");
    store.upkeep(load.now).expect("upkeep");
}

/// A store with a little of everything, closed.
fn some() -> TempDir {
    let folder = folder();
    let store = open(folder.path());
    let mut load = Load::new();
    for n in 0..30 {
        round(&mut load, &store, n);
    }
    // One that nobody has tried yet.
    store.commit(&Batch { accepted: vec![load.accepted(&[1, 2])], ..Batch::default() }).expect("commits");
    drop(store);
    damage(folder.path(), "INSERT INTO deleted_endpoint (key) VALUES (1), (2)");
    folder
}

fn damage(folder: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(folder.join("bellwire.db")).expect("opens");
    connection.execute_batch(sql).expect("done");
}

fn check(folder: &Path) -> bellwire_store::embedded::Report {
    EmbeddedStore::open_reading(folder).expect("opens").check(true).expect("looked over")
}

#[test]
fn each_kind_of_damage_is_found_and_a_sound_store_has_none() {
    let sound = some();
    let report = check(sound.path());
    assert_eq!(report.findings, []);
    assert_eq!((report.messages, report.waiting, report.ledger.pending), (31, 15, 17));
    assert_eq!(report.newest.map(|time| time.as_seconds()), Some(1_800_000_000));

    use FindingKind::{Index, Ledger, Lost, Order, Orphan, Unreadable};
    for (sql, kinds, what) in [
        (
            "DELETE FROM waiting WHERE message = (SELECT min(message) FROM waiting)",
            &[Lost, Ledger][..],
            "to be tried again",
        ),
        (
            "DELETE FROM attempt WHERE endpoint = 1 AND message = (SELECT min(sequence) FROM message); \
             DELETE FROM attempt_by_delivery WHERE endpoint = 1 AND message = (SELECT min(sequence) FROM message)",
            &[Lost, Index, Ledger],
            "never tried",
        ),
        ("UPDATE meta SET delivered = delivered - 1, matched = matched - 1", &[Ledger], "a counter disagrees"),
        ("UPDATE meta SET matched = matched + 1", &[Ledger], "does not come out"),
        ("UPDATE meta SET watermark = newest + 2", &[Lost], "never tried"),
        ("UPDATE meta SET indexed = newest + 1", &[Order], "contradict"),
        ("UPDATE meta SET newest = 1, upkeep_newest = 0", &[Order], "newer than the newest"),
        (
            "UPDATE attempt SET message = sequence + 1000 WHERE sequence = (SELECT max(sequence) FROM attempt)",
            &[Order, Orphan],
            "older than its message",
        ),
        (
            "DELETE FROM message WHERE sequence = (SELECT max(message) FROM waiting)",
            &[Orphan, Index, Ledger],
            "whose message is not there",
        ),
        ("DELETE FROM deleted_endpoint WHERE key = 2", &[Orphan], "never was"),
        (
            "UPDATE message SET fan_out = x'80' WHERE sequence = (SELECT min(sequence) FROM message)",
            &[Unreadable],
            "a fan-out",
        ),
        (
            "INSERT INTO application (key, id, organisation, name, metadata, created_at, updated_at) \
             VALUES (1, x'', 'org_a', 'A', '{}', 0, 0)",
            &[Unreadable],
            "an application",
        ),
        (
            "DELETE FROM message_by_application WHERE message = (SELECT min(sequence) FROM message)",
            &[Index],
            "lacks a message",
        ),
        (
            "DELETE FROM delivery_by_endpoint WHERE message = (SELECT min(sequence) FROM message)",
            &[Index],
            "lacks a message",
        ),
        ("DELETE FROM attempt_by_endpoint WHERE attempt = (SELECT min(sequence) FROM attempt)", &[Index], "lacks one"),
        ("INSERT INTO delivery_by_endpoint VALUES (1, 5, 0, 0)", &[Index], "is not there"),
        ("DROP TABLE waiting", &[Unreadable], "cannot be read"),
    ] {
        let damaged = some();
        damage(damaged.path(), sql);
        let findings = check(damaged.path()).findings;
        for kind in kinds {
            assert!(findings.iter().any(|finding| finding.kind == *kind), "{sql}: no {kind:?} in {findings:#?}");
        }
        assert!(findings.iter().any(|finding| finding.what.contains(what)), "{sql}: {what} is not in {findings:#?}");
    }
}

#[test]
fn damaged_pages_are_found() {
    let folder = some();
    damage(folder.path(), "PRAGMA wal_checkpoint(TRUNCATE)");
    let path = folder.path().join("bellwire.db");
    let mut bytes = std::fs::read(&path).expect("read");
    let page = bytes.len() / 4096 / 2;
    bytes[page * 4096..(page + 1) * 4096].fill(0x5a);
    std::fs::write(&path, bytes).expect("written");
    let findings = check(folder.path()).findings;
    assert!(findings.iter().any(|f| matches!(f.kind, FindingKind::Pages | FindingKind::Unreadable)), "{findings:#?}");
}

/// Every copy holds all that was committed before it was begun, and is sound, although the writer never stops.
#[test]
fn a_copy_made_beside_a_writer_is_whole() {
    let folder = folder();
    let store = open(folder.path());
    let (rounds, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut load = Load::new();
            while !stop.load(Ordering::Acquire) {
                let n = rounds.load(Ordering::Acquire);
                round(&mut load, &store, n);
                rounds.store(n + 1, Ordering::Release);
            }
        });
        let mut committed = 0;
        for _ in 0..10 {
            while rounds.load(Ordering::Acquire) < committed + 20 {
                std::thread::yield_now();
            }
            let before = rounds.load(Ordering::Acquire);
            let target = TempDir::new_in(folder.path()).expect("a folder");
            let mut seen = None;
            backup(folder.path(), target.path(), |progress| seen = Some(progress)).expect("copied");
            committed = rounds.load(Ordering::Acquire);
            let progress = seen.expect("told");
            assert_eq!(progress.pages, progress.pages_total);
            let report = check(target.path());
            let findings: Vec<_> = report.findings.iter().filter(|f| f.kind != FindingKind::Orphan).collect();
            assert_eq!(findings, [] as [&bellwire_store::embedded::Finding; 0]);
            assert!(report.messages >= before && report.messages <= committed + 1, "{before} {report:?} {committed}");
            let files: Vec<_> =
                std::fs::read_dir(target.path()).expect("read").flatten().map(|f| f.file_name()).collect();
            assert_eq!(files, ["bellwire.db"], "one file, and reading it has left none");
            assert!(open(target.path()).recover().is_ok());
        }
        stop.store(true, Ordering::Release);
    });
    drop(store);
}

#[test]
fn a_copy_overwrites_nothing_and_leaves_nothing_half_done() {
    let (source, target) = (some(), folder());
    std::fs::write(target.path().join("mine"), "x").expect("written");
    assert!(matches!(backup(source.path(), target.path(), |_| {}), Err(BackupError::NotEmpty { .. })));
    let missing = backup(target.path(), &target.path().join("new"), |_| {});
    assert!(matches!(missing, Err(BackupError::Open(OpenError::Missing { .. }))));
    assert_eq!(std::fs::read_dir(target.path()).expect("read").count(), 1);
    let made = target.path().join("new");
    backup(source.path(), &made, |_| {}).expect("copied");
    assert!(matches!(backup(source.path(), &made, |_| {}), Err(BackupError::NotEmpty { .. })));
}
