//! The embedded back end: SQLite in the data folder.
//!
//! One connection writes (a batch, a lease, a slice of upkeep: each one transaction, synced before it answers), one moves the
//! write-ahead log into the database from a thread of its own, and a few read. The files here are the parts of the layout that
//! [the crate](crate) describes.
//!
//! What it promises beyond [`Store`](crate::Store): only one process holds a data folder; a full disk refuses commits and disturbs no
//! reader, and the store goes on by itself when there is room again; after a sync has failed, nothing is ever written again.

mod opening;
mod folder;
mod writer;
mod message_log;
mod attempt_log;
mod waiting_room;
mod keys;
mod key_runs;
mod key_filter;
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
mod subscription;
mod way;
mod received;
mod consumer;
mod retention;
mod cancelling;
mod task;
mod reading;
mod readers;
mod merge;
mod passes;
mod checkpoint;
mod codec;
mod fault;

pub use backup::{BackupError, Progress, backup};
pub use check::{Finding, FindingKind, Report};
pub use opening::{OpenError, Settings};
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
use checkpoint::Checkpointer;
use fault::Fault;
use folder::{Folder, IndexRoom};
use index::{AttemptRecord, MessageRecord, Sought, Tail};
use parking_lot::{Mutex, RwLock};
use readers::{Reader, Readers};
use reading::Snapshot;
use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use writer::Writer;

/// The schema's steps. Who does not know all that a folder has been through, opens it no more: [`OpenError::Newer`].
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
    ("V20__retry_schedules_of_event_types", include_str!("schema/V20__retry_schedules_of_event_types.sql")),
    ("V25__ends_of_tasks_that_were_not_told", include_str!("schema/V25__ends_of_tasks_that_were_not_told.sql")),
    ("V26__broadcasts", include_str!("schema/V26__broadcasts.sql")),
    ("V33__runs_of_keys", include_str!("schema/V33__runs_of_keys.sql")),
    ("V34__ended_subscriptions", include_str!("schema/V34__ended_subscriptions.sql")),
    ("V35__received_headers_by_number", include_str!("schema/V35__received_headers_by_number.sql")),
];

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
        if self.writer.is_some() {
            return match self.tail.read().find_key(key) {
                Sought::Found(entry) => Ok(Some(entry)),
                Sought::Nowhere => Ok(None),
                // What has left the tail in between is in the tables by now.
                Sought::InTables => self.read(|reader| keys::find(reader, key)),
            };
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
        match self.tail.read().find_key(key) {
            Sought::Found(entry) => Ok(Some(entry)),
            Sought::Nowhere => Ok(None),
            Sought::InTables => self.read(|reader| keys::find_event(reader, key)),
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
        bytes_max: usize,
    ) -> Result<Vec<(Waiting, Message)>, ReadError> {
        self.read(|reader| {
            let transaction = reader.unchecked_transaction()?;
            waiting_room::lease_beside(&transaction, endpoint, in_order, until, beside, limit, bytes_max)
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

#[cfg(test)]
mod tests;
