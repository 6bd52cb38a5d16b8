//! The embedded back end: SQLite in the data folder.
//!
//! One connection writes (a batch, a lease, a slice of upkeep: each one transaction, synced before it answers), one moves the
//! write-ahead log into the database from a thread of its own, and a few read. The files here are the parts of the layout that
//! [the crate](crate) describes.
//!
//! What it promises beyond [`Store`](crate::Store): only one process holds a data folder; a full disk refuses commits and disturbs no
//! reader, and the store goes on by itself when there is room again; after a sync has failed, nothing is ever written again.

mod folder;
mod writer;
mod message_log;
mod attempt_log;
mod waiting_room;
mod keys;
mod sealed;
mod configuration;
mod shape;
mod access;
mod kind;
mod index;
mod ledger;
mod check;
mod backup;
mod recovery;
mod tokens;
mod source;
mod way;
mod received;
mod consumer;
mod retention;
mod task;
mod reading;
mod checkpoint;
mod codec;
mod fault;

pub use backup::{BackupError, Progress, backup};
pub use check::{Finding, FindingKind, Report};
pub use sealed::{PLAIN, Sealer};

use crate::{
    Advanced, AttemptQuery, Batch, CommitError, Consumer, DedupeEntry, DeliveryOfEndpoint, DeliveryOfMessage,
    KeptAnswer, Lag, Lease, LogPage, LogQuery, Matching, MessageQuery, Page, ReadError, Recovered, Span, Store, Task,
    TaskQuery, WaitingHead,
};
use bellwire_model::{
    ApplicationKey, Attempt, AttemptId, DedupeKey, Delivery, EndpointId, EndpointKey, KeptRequest, Ledger, Message,
    Partition, Sequence, SourceCursor, SourceKey, TaskId, Timestamp, Waiting,
};
use checkpoint::{Checkpointer, Failure};
use fault::Fault;
use folder::{Folder, IndexRoom, Reserve};
use index::{AttemptRecord, MessageRecord, Tail};
use parking_lot::{Mutex, RwLock};
use reading::{Reader, Readers, Snapshot};
use refinery_core::{Migration, Runner};
use rusqlite::{Connection, OpenFlags};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fmt, io};
use writer::Writer;

/// The WAL-reset race that could lose commits was fixed in this version.
const SQLITE_MIN: i32 = 3_051_003;

/// The schema's steps. Each only adds or only removes what no supported version uses, so that two versions can run side by side.
const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__two_logs_and_a_waiting_room", include_str!("schema/V1__two_logs_and_a_waiting_room.sql")),
    ("V2__shape_access_and_settings", include_str!("schema/V2__shape_access_and_settings.sql")),
    ("V3__tasks", include_str!("schema/V3__tasks.sql")),
    ("V4__tokens", include_str!("schema/V4__tokens.sql")),
    ("V5__attempt_phases", include_str!("schema/V5__attempt_phases.sql")),
    ("V7__transformations", include_str!("schema/V7__transformations.sql")),
    ("V8__ids_of_deleted_endpoints", include_str!("schema/V8__ids_of_deleted_endpoints.sql")),
    ("V9__kinds_of_endpoints", include_str!("schema/V9__kinds_of_endpoints.sql")),
    ("V10__sources", include_str!("schema/V10__sources.sql")),
    ("V11__pipes", include_str!("schema/V11__pipes.sql")),
    ("V13__traces", include_str!("schema/V13__traces.sql")),
    ("V15__source_cursors", include_str!("schema/V15__source_cursors.sql")),
];

/// What the operator can choose.
#[derive(Clone)]
pub struct Settings {
    /// How long messages and their attempts are kept.
    pub messages: Duration,
    /// From how many bytes on the oldest messages are removed before their time; never if absent.
    pub bytes_max: Option<u64>,
    /// How much space is kept back for a full disk, at most; of a small disk less.
    pub reserve_bytes: u64,
    /// How many records one slice of upkeep takes.
    pub slice: usize,
    /// Seals the secrets of endpoints; without it they are written in clear.
    pub sealer: Option<Arc<dyn Sealer>>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            messages: Duration::from_secs(90 * 24 * 3600),
            bytes_max: None,
            reserve_bytes: 32 << 20,
            slice: 2_000,
            sealer: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("messages", &self.messages)
            .field("bytes_max", &self.bytes_max)
            .field("reserve_bytes", &self.reserve_bytes)
            .field("slice", &self.slice)
            .field("sealer", &self.sealer.is_some())
            .finish()
    }
}

impl Settings {
    /// When a message goes as a whole. An hour of grace: what expires about then needs no exception of its own.
    fn retention_ends(&self, message: Sequence) -> Timestamp {
        let grace = Duration::from_secs(3600).min(self.messages / 24);
        message.time().plus(self.messages - grace)
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data folder {} is in use by another process", folder.display())]
    Held {
        /// Which folder.
        folder: PathBuf,
    },
    /// The folder or a file in it could not be made or locked.
    #[error("the folder cannot be made, read or locked")]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A folder that is to be read holds no store.
    #[error("the folder {} holds no store", folder.display())]
    Missing {
        /// Which folder.
        folder: PathBuf,
    },
    /// The linked SQLite can lose commits.
    #[error("SQLite {found} has a defect that can lose commits; 3.51.3 or later is needed")]
    OldSqlite {
        /// Its version.
        found: &'static str,
    },
    /// The file system cannot hold a write-ahead log.
    #[error("the file system of {} cannot hold a write-ahead log: SQLite chose the journal mode {mode}", folder.display())]
    NoLog {
        /// Which folder.
        folder: PathBuf,
        /// What SQLite chose instead.
        mode: String,
    },
    /// The schema could not be brought up to date.
    #[error("the schema of {} could not be brought up to date", folder.display())]
    Schema {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: Box<refinery_core::Error>,
    },
    /// SQLite refused.
    #[error("the database in {} could not be opened", folder.display())]
    Database {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// What it holds could not be read.
    #[error("the database in {} could not be read", folder.display())]
    Read {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// No thread for the checkpoints.
    #[error("the checkpoint thread could not be started")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A store in a data folder.
pub struct EmbeddedStore {
    // Dropped in this order: the checkpointer lets go of the writer, the writer closes, and only then is the folder free.
    checkpointer: Option<Checkpointer>,
    writer: Option<Arc<Mutex<Writer>>>,
    readers: Readers,
    tail: Arc<RwLock<Tail>>,
    owed_from: usize,
    /// Whether the writer has tasks; it may be busy when somebody asks.
    has_tasks: AtomicBool,
    settings: Settings,
    path: PathBuf,
    _index_room: Option<IndexRoom>,
    _folder: Option<Folder>,
}

impl EmbeddedStore {
    /// Opens the store in the folder `path`, which is made if it is not there, and holds it against any other process.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Held`] names the folder that another process has.
    pub fn open(path: &Path, settings: Settings) -> Result<Self, OpenError> {
        check_version()?;
        let folder = Folder::hold(path)?;
        let path = folder.path().to_owned();
        let mut connection = open_writer(&path)?;
        migrate(&mut connection, &path)?;
        let index_room = IndexRoom::take(&path);
        let reserve = Reserve::take(&path, settings.reserve_bytes);
        let failure: Failure = Arc::new(OnceLock::new());
        let tail = Arc::new(RwLock::new(Tail::default()));
        let writer = Writer::open(connection, settings.clone(), Arc::clone(&tail), Arc::clone(&failure), reserve)
            .map_err(|fault| OpenError::Read { folder: path.clone(), source: fault.into() })?;
        let has_tasks = AtomicBool::new(writer.has_tasks());
        let writer = Arc::new(Mutex::new(writer));
        let second = open_writer(&path)?;
        let checkpointer = Checkpointer::start(second, Arc::clone(&writer), failure)?;
        Ok(EmbeddedStore {
            checkpointer: Some(checkpointer),
            writer: Some(writer),
            readers: Readers::open(&path)?,
            tail,
            owed_from: settings.slice.saturating_mul(2),
            has_tasks,
            settings,
            path,
            _index_room: Some(index_room),
            _folder: Some(folder),
        })
    }

    /// Opens the store in the folder `path` to read only, also while another process holds it. Every commit is refused as busy.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open_reading(path: &Path) -> Result<Self, OpenError> {
        check_version()?;
        let there = folder::database(path).try_exists();
        if !there.map_err(|source| OpenError::Folder { folder: path.to_owned(), source })? {
            return Err(OpenError::Missing { folder: path.to_owned() });
        }
        Ok(EmbeddedStore {
            checkpointer: None,
            writer: None,
            readers: Readers::open(path)?,
            tail: Arc::default(),
            owed_from: usize::MAX,
            has_tasks: AtomicBool::new(false),
            settings: Settings::default(),
            path: path.to_owned(),
            _index_room: None,
            _folder: None,
        })
    }

    /// As [`EmbeddedStore::open_reading`], with what opens the secrets of endpoints.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open_reading_with(path: &Path, settings: Settings) -> Result<Self, OpenError> {
        Ok(EmbeddedStore { settings, ..Self::open_reading(path)? })
    }

    /// Looks everything over, in one consistent reading, and changes nothing. With `pages`, SQLite reads every page as well. The secrets of
    /// endpoints are opened if there is a [`Settings::sealer`].
    ///
    /// # Errors
    /// [`ReadError`] if it cannot even be looked at; what is wrong with what is there is in the report.
    pub fn check(&self, pages: bool) -> Result<Report, ReadError> {
        let sealer = self.settings.sealer.as_deref();
        self.read(|reader| check::check(&*reader.unchecked_transaction()?, sealer, pages))
    }

    fn write<R>(&self, work: impl FnOnce(&mut Writer) -> Result<R, CommitError>) -> Result<R, CommitError> {
        let Some(writer) = &self.writer else {
            return Err(CommitError::Busy("the store is open for reading only".to_owned()));
        };
        let mut writer = writer.lock();
        let answer = work(&mut writer);
        let wanted = writer.wants_checkpoint();
        self.has_tasks.store(writer.has_tasks(), Ordering::Relaxed);
        drop(writer);
        if let Some(checkpointer) = self.checkpointer.as_ref().filter(|_| wanted) {
            checkpointer.wake();
        }
        answer
    }

    fn read<R>(&self, work: impl FnOnce(&Reader<'_>) -> Result<R, Fault>) -> Result<R, ReadError> {
        let reader = self.readers.take()?;
        Ok(work(&reader)?)
    }

    /// Reads in one transaction, with what is wanted of the tail.
    fn snapshot<R>(
        &self,
        message_wanted: impl Fn(&MessageRecord) -> bool,
        attempt_wanted: impl Fn(&AttemptRecord) -> bool,
        work: impl FnOnce(&Snapshot<'_>) -> Result<R, Fault>,
    ) -> Result<R, ReadError> {
        let reader = self.readers.take_for_list()?;
        let snapshot = Snapshot::new(&reader, &self.tail, message_wanted, attempt_wanted)?;
        Ok(work(&snapshot)?)
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("path", &self.path)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Store for EmbeddedStore {
    fn lease(
        &self,
        holder: &str,
        partitions: &[Partition],
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Vec<Lease>, CommitError> {
        self.write(|writer| writer.lease(holder, partitions, now, ttl))
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        self.write(|writer| writer.commit(batch))
    }

    fn recover(&self) -> Result<Recovered, ReadError> {
        let sealer = self.settings.sealer.as_deref();
        self.read(|reader| recovery::recover(&*reader.unchecked_transaction()?, sealer))
    }

    fn lease_due(
        &self,
        endpoint: EndpointKey,
        fifo: bool,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Waiting, Message)>, ReadError> {
        self.read(|reader| waiting_room::lease_due(reader, endpoint, fifo, until, limit))
    }

    fn next_due(&self, endpoint: EndpointKey, fifo: bool) -> Result<Option<WaitingHead>, ReadError> {
        self.read(|reader| waiting_room::next_due(reader, endpoint, fifo))
    }

    fn oldest_waiting(&self) -> Result<Option<Sequence>, ReadError> {
        self.read(|reader| waiting_room::oldest_of_all(reader))
    }

    fn message(&self, sequence: Sequence, with_payload: bool) -> Result<Option<Message>, ReadError> {
        self.read(|reader| reading::message(reader, sequence, with_payload))
    }

    fn find_key(&self, key: DedupeKey) -> Result<Option<DedupeEntry>, ReadError> {
        // The tail first: what leaves it in between is in the tables by then.
        if let Some(entry) = self.tail.read().find_key(key) {
            return Ok(Some(entry));
        }
        if self.writer.is_some() {
            return self.read(|reader| keys::find(reader, key));
        }
        // Beside a server, the tail is in the log.
        let has_key = move |record: &MessageRecord| keys::entries(record).any(|(own, _)| own == key);
        let reader = self.readers.take()?;
        let transaction = reader.unchecked_transaction().map_err(Fault::from)?;
        let (_, view) = self.tail.read().view(&transaction, has_key, |_| false)?;
        let in_tail = view.messages.iter().flat_map(keys::entries).find(|(own, _)| *own == key);
        Ok(match in_tail {
            Some((_, entry)) => Some(entry),
            None => keys::find(&transaction, key)?,
        })
    }

    fn find_event(&self, key: DedupeKey) -> Result<Option<DedupeEntry>, ReadError> {
        if self.writer.is_none() {
            return self.find_key(key);
        }
        // The tail first, as for every key.
        match self.tail.read().find_key(key) {
            Some(entry) => Ok(Some(entry)),
            None => self.read(|reader| keys::find_event(reader, key)),
        }
    }

    fn find_answer(&self, key: DedupeKey, now: Timestamp) -> Result<Option<KeptAnswer>, ReadError> {
        self.read(|reader| keys::find_answer(reader, key, now))
    }

    fn kept_requests(
        &self,
        source: SourceKey,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Page<KeptRequest>, ReadError> {
        self.read(|reader| source::kept(reader, source, before, limit))
    }

    fn source_cursor(&self, source: SourceKey) -> Result<Option<SourceCursor>, ReadError> {
        self.read(|reader| source::cursor(reader, source))
    }

    fn messages(&self, application: ApplicationKey, query: &MessageQuery) -> Result<Page<Message>, ReadError> {
        self.snapshot(
            |message| message.application == application,
            |_| false,
            |snapshot| snapshot.messages(application, query),
        )
    }

    fn attempt(&self, id: AttemptId) -> Result<Option<Attempt>, ReadError> {
        self.read(|reader| reading::attempt(reader, id))
    }

    fn deleted_endpoint(&self, endpoint: EndpointKey) -> Result<Option<EndpointId>, ReadError> {
        self.read(|reader| configuration::deleted_endpoint_id(reader, endpoint))
    }

    fn attempts_of_message(&self, message: Sequence, query: &AttemptQuery) -> Result<Page<Attempt>, ReadError> {
        self.snapshot(
            |_| false,
            |attempt| attempt.message == message,
            |snapshot| snapshot.attempts_of_message(message, query),
        )
    }

    fn attempts_of_endpoint(&self, endpoint: EndpointKey, query: &AttemptQuery) -> Result<Page<Attempt>, ReadError> {
        self.snapshot(
            |_| false,
            |attempt| attempt.endpoint == endpoint,
            |snapshot| snapshot.attempts_of_endpoint(endpoint, query),
        )
    }

    fn deliveries_of_message(&self, message: Sequence) -> Result<Vec<DeliveryOfMessage>, ReadError> {
        self.snapshot(
            |_| false,
            |attempt| attempt.message == message,
            |snapshot| snapshot.deliveries_of_message(message),
        )
    }

    fn deliveries_of_endpoint(
        &self,
        endpoint: EndpointKey,
        query: &MessageQuery,
    ) -> Result<Page<DeliveryOfEndpoint>, ReadError> {
        self.snapshot(
            |message| message.fan_out.contains(&endpoint),
            |attempt| attempt.endpoint == endpoint,
            |snapshot| snapshot.deliveries_of_endpoint(endpoint, query),
        )
    }

    fn delivery(&self, delivery: Delivery) -> Result<Option<DeliveryOfMessage>, ReadError> {
        self.snapshot(|_| false, |attempt| attempt.delivery() == delivery, |snapshot| snapshot.delivery(delivery))
    }

    fn count_deliveries(&self, endpoint: EndpointKey, span: Span) -> Result<Ledger, ReadError> {
        self.snapshot(
            |message| message.fan_out.contains(&endpoint),
            |attempt| attempt.endpoint == endpoint,
            |snapshot| snapshot.count_deliveries(endpoint, span),
        )
    }

    fn log(&self, endpoint: EndpointKey, query: &LogQuery) -> Result<LogPage, ReadError> {
        let after = query.after;
        self.snapshot(
            |message| message.sequence > after && message.fan_out.contains(&endpoint),
            |_| false,
            |snapshot| snapshot.log(endpoint, query),
        )
    }

    fn lag(&self, endpoint: EndpointKey, after: Sequence) -> Result<Lag, ReadError> {
        self.snapshot(
            |message| message.sequence > after && message.fan_out.contains(&endpoint),
            |_| false,
            |snapshot| snapshot.lag(endpoint, after),
        )
    }

    fn lease_beside(
        &self,
        endpoint: EndpointKey,
        in_order: bool,
        until: Timestamp,
        beside: &HashSet<Sequence>,
        limit: usize,
    ) -> Result<Vec<(Waiting, Message)>, ReadError> {
        self.read(|reader| {
            let transaction = reader.unchecked_transaction()?;
            waiting_room::lease_beside(&transaction, endpoint, in_order, until, beside, limit)
        })
    }

    fn consumer(&self, endpoint: EndpointKey, name: &str) -> Result<Option<Consumer>, ReadError> {
        self.read(|reader| consumer::find(reader, endpoint, name))
    }

    fn consumers(&self, endpoint: EndpointKey) -> Result<Vec<Consumer>, ReadError> {
        self.read(|reader| consumer::list(reader, endpoint))
    }

    fn ledger(&self) -> Result<Ledger, ReadError> {
        let reader = self.readers.take_for_list()?;
        Ok(ledger::count(&*reader.unchecked_transaction().map_err(Fault::from)?)?)
    }

    fn upkeep(&self, now: Timestamp) -> Result<bool, CommitError> {
        self.write(|writer| writer.upkeep(now))
    }

    fn upkeep_owed(&self) -> bool {
        self.tail.read().len() >= self.owed_from
    }

    fn has_tasks(&self) -> bool {
        self.has_tasks.load(Ordering::Relaxed)
    }

    fn advance_task(&self, now: Timestamp, matching: &dyn Matching) -> Result<Option<Advanced>, CommitError> {
        self.write(|writer| writer.advance_task(now, matching))
    }

    fn task(&self, id: TaskId) -> Result<Option<Task>, ReadError> {
        self.read(|reader| task::find(reader, id, true))
    }

    fn tasks(&self, query: &TaskQuery) -> Result<Page<Task>, ReadError> {
        self.read(|reader| task::list(reader, query))
    }

    fn bytes_on_disk(&self) -> Option<u64> {
        folder::bytes(&self.path)
    }
}

fn check_version() -> Result<(), OpenError> {
    if rusqlite::version_number() < SQLITE_MIN {
        return Err(OpenError::OldSqlite { found: rusqlite::version() });
    }
    Ok(())
}

/// A connection that may write: every commit is synced, and no checkpoint falls into a commit.
fn open_writer(folder: &Path) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Database { folder: folder.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(folder::database(folder), flags).map_err(failed)?;
    let mode = write_ahead(&connection).map_err(failed)?;
    // Where it cannot have one, SQLite goes on without, and everything that is promised here rests on it.
    if mode != "wal" {
        return Err(OpenError::NoLog { folder: folder.to_owned(), mode });
    }
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Turns the write-ahead log on. Answers the mode that the database is in.
fn write_ahead(connection: &Connection) -> rusqlite::Result<String> {
    connection.busy_timeout(Duration::from_millis(250))?;
    let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
    connection.query_row("PRAGMA journal_size_limit = 67108864", [], |_| Ok(()))?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -8192; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;",
    )?;
    Ok(mode)
}

fn open_reader(folder: &Path) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Database { folder: folder.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(folder::database(folder), flags).map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    connection
        .execute_batch(
            "PRAGMA cache_size = -2048; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA query_only = ON;",
        )
        .map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn migrate(connection: &mut Connection, folder: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::Schema { folder: folder.to_owned(), source: Box::new(source) };
    let steps: Result<Vec<_>, _> = MIGRATIONS.iter().map(|(name, sql)| Migration::unapplied(name, sql)).collect();
    // A step that we do not know was made by a later version, which promises that we can still run.
    let runner = Runner::new(&steps.map_err(failed)?).set_abort_missing(false).set_grouped(true);
    runner.run(connection).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Accepted, Span};
    use bellwire_model::{ContentType, MessageId};
    use bytes::Bytes;

    fn open(folder: &Path) -> EmbeddedStore {
        EmbeddedStore::open(folder, Settings { reserve_bytes: 1 << 20, ..Settings::default() }).expect("opens")
    }

    fn batch(sequence: u64) -> Batch {
        let message = Message {
            id: MessageId::from_parts(Sequence::from_u64(sequence), [0; 12]),
            application: ApplicationKey(1),
            event_type: "a".to_owned(),
            event_id: None,
            channels: Vec::new(),
            tags: Vec::new(),
            payload: Some(Bytes::from(vec![0; 10_000])),
            content_type: ContentType::Json,
            transformations_params: None,
            received: None,
            trace: None,
            expires_at: Timestamp::FAR_FUTURE,
            deliver_at: None,
        };
        let fan_out = [EndpointKey(1)].into_iter().collect();
        let accepted = vec![Accepted { message: Arc::new(message), fan_out, idempotency: None, event: None }];
        Batch { accepted, ..Batch::default() }
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
}
