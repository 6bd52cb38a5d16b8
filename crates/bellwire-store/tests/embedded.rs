//! The embedded back end keeps the promises of the trait, and those of its own.

mod load;

use bellwire_model::{
    ActiveSecret, AfterAttempt, ApplicationKey, DeliveryState, Endpoint, EndpointId, EndpointKey, Sequence, Timestamp,
};
use bellwire_signature::Secret;
use bellwire_store::embedded::{FindingKind, PLAIN};
use bellwire_store::testing::conformance::{self, Harness};
use bellwire_store::testing::faults::{FaultyStore, Injected};
use bellwire_store::{
    Batch, Change, CommitError, EmbeddedStore, MessageQuery, OpenError, Sealer, Settings, Span, Store,
};
use load::Load;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

struct Embedded {
    folder: TempDir,
    settings: Settings,
    store: Option<Arc<EmbeddedStore>>,
}

impl Embedded {
    fn new(slice: usize) -> Self {
        let settings = Settings { slice, reserve_bytes: 0, ..Settings::default() };
        let mut embedded = Embedded { folder: quick_folder(), settings, store: None };
        embedded.reopen();
        embedded
    }
}

/// In memory where that can be had: these checks restart and sync thousands of times and pull no plug.
fn quick_folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder")
}

impl Harness for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        let store = self.store.as_ref().expect("open");
        Arc::clone(store) as Arc<dyn Store>
    }

    fn reopen(&mut self) {
        if let Some(store) = self.store.take() {
            assert_eq!(Arc::strong_count(&store), 1, "somebody kept the store");
        }
        let store = EmbeddedStore::open(self.folder.path(), self.settings.clone()).expect("opens");
        // Whatever the suite has done until here, nothing is found wrong; only that it does not make all the
        // applications and endpoints that it names.
        let mut findings = store.check(false).expect("looked over").findings;
        findings.retain(|finding| finding.kind != FindingKind::Orphan || finding.what.contains("message"));
        assert_eq!(findings, []);
        self.store = Some(Arc::new(store));
    }

    fn messages_kept_for(&self) -> Option<Duration> {
        Some(self.settings.messages)
    }
}

/// Slices of seven records: the checks see the indexes at every stage.
#[test]
fn the_embedded_store_conforms() {
    conformance::conformance(&|| Box::new(Embedded::new(7)));
}

#[test]
fn the_embedded_store_agrees_with_the_model() {
    for seed in 0..6 {
        conformance::random(&|| Box::new(Embedded::new(1 + seed as usize * 5)), seed, 50);
    }
}

fn open(folder: &TempDir, slice: usize) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(folder.path(), Settings { slice, reserve_bytes: 0, ..Settings::default() })
}

fn all(limit: usize) -> MessageQuery {
    MessageQuery {
        span: Span::ALL,
        ascending: true,
        limit,
        event_types: Vec::new(),
        channel: None,
        tag: None,
        source: None,
        with_payload: false,
        status: None,
    }
}

#[test]
fn a_second_process_is_refused_with_the_folders_name() {
    let folder = TempDir::new().expect("a folder");
    let store = open(&folder, 10).expect("opens");
    let error = open(&folder, 10).expect_err("is held");
    assert!(matches!(error, OpenError::Held { .. }));
    assert!(error.to_string().contains(&*folder.path().to_string_lossy()), "{error}");
    drop(store);
    open(&folder, 10).expect("is free again");
}

#[test]
fn folder_and_files_belong_to_one_user() {
    let outer = TempDir::new().expect("a folder");
    let folder = outer.path().join("made/for/it");
    let store = EmbeddedStore::open(&folder, Settings::default()).expect("opens");
    store.commit(&Batch { accepted: vec![Load::new().accepted(&[1])], ..Batch::default() }).expect("commits");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let files: Vec<_> =
        std::fs::read_dir(&folder).expect("a folder").map(|file| file.expect("a file").path()).collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{file:?}");
    }
}

#[test]
fn another_process_reads_beside_the_server() {
    let folder = TempDir::new().expect("a folder");
    assert!(matches!(EmbeddedStore::open_reading(folder.path()), Err(OpenError::Missing { .. })));
    let server = open(&folder, 4).expect("opens");
    let beside = EmbeddedStore::open_reading(folder.path()).expect("opens");
    let mut load = Load::new();
    for n in 0..20 {
        let accepted = load.accepted(&[1]);
        let message = accepted.message.sequence();
        server.commit(&Batch { accepted: vec![accepted], ..Batch::default() }).expect("commits");
        if n % 2 == 0 {
            let attempts = vec![load.attempt(message, 1, 1, AfterAttempt::Delivered)];
            server.commit(&Batch { attempts, ..Batch::default() }).expect("commits");
        }
        if n % 5 == 0 {
            server.upkeep(load.now).expect("upkeep");
        }
        let ledger = beside.ledger().expect("read");
        assert!(ledger.balances());
        assert_eq!((ledger.accepted, ledger.delivered), (n + 1, n / 2 + 1));
        // It has no tail of its own, and lists are exact all the same.
        let listed = beside.messages(ApplicationKey(1), &all(100)).expect("read").items.len();
        assert_eq!(listed as u64, n + 1);
    }
    let refused = beside.commit(&Batch { accepted: vec![load.accepted(&[1])], ..Batch::default() });
    assert!(matches!(refused, Err(CommitError::Busy(_))));
}

#[test]
fn lists_are_exact_while_others_write() {
    const MESSAGES: u64 = 600;
    let folder = TempDir::new().expect("a folder");
    let store = Arc::new(open(&folder, 5).expect("opens"));
    let committed = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, committed) = (Arc::clone(&store), Arc::clone(&committed));
            std::thread::spawn(move || {
                let mut reads = 0;
                while committed.load(Ordering::Acquire) < MESSAGES {
                    let before = committed.load(Ordering::Acquire) as usize;
                    let page = store.messages(ApplicationKey(1), &all(10_000)).expect("read");
                    let sequences: Vec<_> = page.items.iter().map(|m| m.sequence()).collect();
                    assert!(sequences.len() >= before, "{} of {before} messages", sequences.len());
                    assert!(sequences.is_sorted_by(|a, b| a < b), "each once and in order");
                    let deliveries = store.deliveries_of_endpoint(EndpointKey(1), &all(10_000)).expect("read").items;
                    assert!(deliveries.len() >= before);
                    // Each message is postponed in the commit that accepts it and delivered in the next but one: a reader
                    // that mixed two moments would see one fresh again, or delivered before an earlier one.
                    let waiting = deliveries.iter().filter(|d| matches!(d.state, DeliveryState::Waiting(_))).count();
                    assert!(waiting <= 2, "{waiting} wait");
                    assert!(deliveries.iter().all(|d| d.state != DeliveryState::Fresh));
                    assert!(store.ledger().expect("read").balances());
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    let mut load = Load::new();
    let mut postponed = std::collections::VecDeque::new();
    for n in 0..MESSAGES {
        let accepted = load.accepted(&[1]);
        let message = accepted.message.sequence();
        let mut batch = Batch { accepted: vec![accepted], ..Batch::default() };
        batch.attempts.push(load.attempt(message, 1, 1, AfterAttempt::Waiting { due: load.now }));
        postponed.push_back(message);
        if postponed.len() > 2 {
            let message = postponed.pop_front().expect("more than two");
            batch.attempts.push(load.attempt(message, 1, 2, AfterAttempt::Delivered));
        }
        batch.watermark = Some(message);
        store.commit(&batch).expect("commits");
        committed.store(n + 1, Ordering::Release);
        if n % 3 == 0 {
            store.upkeep(load.now).expect("upkeep");
        }
    }
    for reader in readers {
        assert!(reader.join().expect("a reader") > 0);
    }
}

/// Not a cipher: turns every bit over and remembers the place.
struct Flip;

impl Sealer for Flip {
    fn seal(&self, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let place = aad.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        [1, place].into_iter().chain(plain.iter().map(|byte| !byte)).collect()
    }

    fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
        let place = aad.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        match sealed {
            [1, own, rest @ ..] if *own == place => Ok(rest.iter().map(|byte| !byte).collect()),
            [PLAIN, rest @ ..] => Ok(rest.to_vec()),
            _ => Err("it does not belong here".to_owned()),
        }
    }
}

#[test]
fn secrets_are_sealed_before_they_are_written() {
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let folder = TempDir::new().expect("a folder");
    let endpoint = |key| {
        Arc::new(Endpoint {
            secrets: vec![ActiveSecret { secret: Secret::parse(SECRET).expect("a secret"), expires_at: None }],
            access: bellwire_store::testing::access::every_access().swap_remove(key as usize),
            ..Endpoint::new(
                EndpointKey(key),
                ApplicationKey(1),
                EndpointId::from_parts(Sequence::from_u64(u64::from(key)), [3; 12]),
                "",
                Timestamp::EPOCH,
            )
        })
    };
    let put = |store: &EmbeddedStore, key| {
        store
            .commit(&Batch { changes: vec![Change::PutEndpoint(endpoint(key))], ..Batch::default() })
            .expect("commits");
    };
    let sealing = Settings { sealer: Some(Arc::new(Flip)), reserve_bytes: 0, ..Settings::default() };
    {
        let store = EmbeddedStore::open(folder.path(), sealing.clone()).expect("opens");
        put(&store, 1);
    }
    for file in std::fs::read_dir(folder.path()).expect("a folder") {
        let bytes = std::fs::read(file.expect("a file").path()).expect("readable");
        for secret in [SECRET, bellwire_store::testing::access::ACCESS_SECRET] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }
    {
        // Without the main secret it says so, and names the endpoint.
        let store = open(&folder, 10).expect("opens");
        let error = store.recover().expect_err("is sealed").to_string();
        assert!(error.contains(&endpoint(1).id.to_string()), "{error}");
    }
    // What was written in clear before there was a main secret stays readable.
    let other = TempDir::new().expect("a folder");
    put(&open(&other, 10).expect("opens"), 2);
    for (folder, key) in [(&folder, 1), (&other, 2)] {
        let store = EmbeddedStore::open(folder.path(), sealing.clone()).expect("opens");
        assert_eq!(store.recover().expect("recovers").endpoints, [endpoint(key)]);
    }
}

#[test]
fn a_bounded_store_removes_the_oldest_and_uses_its_pages_again() {
    let folder = TempDir::new().expect("a folder");
    let settings = Settings { bytes_max: Some(400 << 10), slice: 50, reserve_bytes: 0, ..Settings::default() };
    let store = EmbeddedStore::open(folder.path(), settings).expect("opens");
    let mut load = Load::new();
    let mut bytes = Vec::new();
    for _ in 0..60 {
        let accepted: Vec<_> = (0..50).map(|_| load.accepted(&[1])).collect();
        let attempts =
            accepted.iter().map(|a| load.attempt(a.message.sequence(), 1, 1, AfterAttempt::Delivered)).collect();
        let watermark = Some(load.sequences.last());
        store.commit(&Batch { accepted, attempts, watermark, ..Batch::default() }).expect("commits");
        while store.upkeep(load.now).expect("upkeep") {}
        let connection = rusqlite::Connection::open(folder.path().join("bellwire.db")).expect("opens");
        let pages: u32 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("a count");
        bytes.push(u64::from(pages) * 4096);
    }
    assert!(bytes[59] < 600 << 10, "{} kB", bytes[59] >> 10);
    let ledger = store.ledger().expect("read");
    assert!(ledger.balances());
    assert_eq!(ledger.accepted, 3_000);
    let kept = store.messages(ApplicationKey(1), &all(10_000)).expect("read").items.len();
    assert!((100..1_500).contains(&kept), "{kept} messages are left");
    assert_eq!(store.count_deliveries(EndpointKey(1), Span::ALL).expect("read").delivered, kept as u64);
}

#[test]
fn faults_come_when_they_are_planned() {
    let folder = TempDir::new().expect("a folder");
    let store = FaultyStore::new(Arc::new(open(&folder, 10).expect("opens")));
    let mut load = Load::new();
    let batch = Batch { accepted: vec![load.accepted(&[1])], ..Batch::default() };
    store.inject(1, Injected::Full);
    store.inject(2, Injected::Busy);
    store.inject(4, Injected::UnknownKept);
    assert!(matches!(store.commit(&batch), Err(CommitError::Full)));
    assert!(matches!(store.commit(&batch), Err(CommitError::Busy(_))));
    assert_eq!(store.ledger().expect("read").accepted, 0);
    store.commit(&batch).expect("the third goes through");
    let batch = Batch { accepted: vec![load.accepted(&[1])], ..Batch::default() };
    for _ in 0..2 {
        assert!(matches!(store.commit(&batch), Err(CommitError::Unknown(_))));
    }
    assert_eq!(store.ledger().expect("read").accepted, 2, "the fourth was kept, and the fifth not asked for");
}
