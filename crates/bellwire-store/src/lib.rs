//! Keeps it all. One trait that speaks in the verbs of the flow; each method is one transaction and states its promise.
//!
//! The layout behind it is two logs and a waiting room:
//!
//! * the **message log**, a row per message with its payload and its fan-out, in the order of acceptance, never updated;
//! * the **attempt log**, a row per attempt, in the order of recording, never updated;
//! * the **waiting room**, a row only for a delivery that must wait: a retry, the backlog of a full lane, a paused endpoint;
//! * the **watermark**: every delivery of a message below it has ended or is in the waiting room. Recovery reads both logs
//!   from there on. Both logs draw from one [`SequenceSource`](bellwire_model::SequenceSource), so one number serves both;
//! * **indexes**, filled in sorted slices a moment behind the logs; a list query merges them with the newest tail, so a list is
//!   exact at all times.
//!
//! Who calls it: one thread calls [`Store::commit`]; any number call the reading verbs. All methods block; an
//! asynchronous caller moves them to a thread where that is allowed.

mod batch;
mod query;
mod pipe;
mod task;
pub mod embedded;
pub mod testing;

pub use batch::{Accepted, Batch, Change, DedupeEntry, Fence, KeptAnswer, Lease};
pub use query::{
    AttemptFilter, AttemptQuery, DeliveryOfEndpoint, DeliveryOfMessage, MessageQuery, Page, Recovered, RecoveredTokens,
    Span, StatusFilter, Unfinished, WaitingHead,
};

pub use pipe::{
    Consumer, LAG_COUNTED_MAX, LOG_LOOKED_MAX, LOG_MESSAGES_MAX, Lag, LogPage, LogQuery, Settled, read_outcome, told,
};

pub use task::{
    Advanced, ApplicationDestinations, ApplicationEventTypes, BROADCAST_LISTED_MAX, BROADCAST_PAGE_MAX, Broadcast,
    BroadcastMessage, Broadcasted, FOUND_BYTES_MAX, Found, Matching, Progress, ReplayFilter, Target, Task, TaskKind,
    TaskQuery, TaskStatus, Work,
};

pub use embedded::{EmbeddedStore, OpenError, Sealer, Settings};

use bellwire_model::{
    ApplicationKey, Attempt, AttemptId, DedupeKey, Delivery, EndpointId, EndpointKey, KeptRequest, Ledger, Message,
    Partition, Sequence, SourceCursor, SourceKey, TaskId, Timestamp, Waiting,
};
use std::collections::HashSet;
use std::time::Duration;

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// There is no room. Nothing of the batch was kept; the same batch may be committed again later.
    #[error("the disk is full")]
    Full,
    /// Another node holds a partition of the batch, by a newer fence. Nothing of the batch was kept.
    #[error("partition {partition} is held by another node", partition = partition.0)]
    LeaseLost {
        /// The first partition that was found lost.
        partition: Partition,
    },
    /// Nothing was kept, and trying again later may help (a lock, a connection that could not be made).
    #[error("the store is busy: {0}")]
    Busy(String),
    /// Whether the batch was kept is not known, or a sync failed. The process must end; recovery finds out.
    #[error("the outcome of a commit is unknown: {0}")]
    Unknown(String),
}

/// Why a reading verb failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What is stored could not be read.
    #[error("the store could not be read: {0}")]
    Failed(String),
    /// What is stored cannot be understood: damaged, or written by a newer version.
    #[error("the store holds {what} that cannot be understood: {detail}")]
    Damaged {
        /// Which kind of row.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}

/// Keeps messages, attempts, what waits, and the configuration of applications.
pub trait Store: Send + Sync {
    /// Takes the given partitions for `holder` until `now + ttl`, also from a holder whose lease has ended. Answers the leases
    /// that it got, each with a fence greater than any before it for that partition. A lease of one's own is renewed with its fence.
    fn lease(
        &self,
        holder: &str,
        partitions: &[Partition],
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Vec<Lease>, CommitError>;

    /// Writes everything in `batch` in one transaction and returns when it is on stable storage. All or nothing.
    /// Only one thread may call it at a time.
    ///
    /// Committing the same batch again after an error other than `Unknown` is safe. On `Unknown` the caller must end.
    fn commit(&self, batch: &Batch) -> Result<(), CommitError>;

    /// Everything that a start needs: configuration, the newest sequence, unfinished deliveries above the watermark, and what
    /// waits per endpoint. Reads no payload except of unfinished messages. Called before the first commit.
    fn recover(&self) -> Result<Recovered, ReadError>;

    /// The waiting deliveries of `endpoint` that are due at `until` or before, in order of their due time, or for a
    /// FIFO endpoint in order of acceptance whatever their due time, at most `limit`, with their messages. Changes nothing:
    /// a row leaves the waiting room when its outcome is recorded. What is being cancelled is not leased; what stands behind many such rows
    /// may come only when slices of tasks have ended those. Nothing is leased of an endpoint that is deleted: upkeep ends what waits for it.
    fn lease_due(
        &self,
        endpoint: EndpointKey,
        fifo: bool,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Waiting, Message)>, ReadError>;

    /// The earliest due time in the waiting room of `endpoint` (for a FIFO endpoint that of its oldest message).
    fn next_due(&self, endpoint: EndpointKey, fifo: bool) -> Result<Option<WaitingHead>, ReadError>;

    /// The oldest message of which some delivery is in the waiting room; for the operator who watches its age.
    fn oldest_waiting(&self) -> Result<Option<Sequence>, ReadError>;

    /// The message at `sequence`, with or without its payload.
    fn message(&self, sequence: Sequence, with_payload: bool) -> Result<Option<Message>, ReadError>;

    /// The message that was made under `key`, and the digest of the request that made it.
    fn find_key(&self, key: DedupeKey) -> Result<Option<DedupeEntry>, ReadError>;

    /// As [`Store::find_key`], for a key that is of no idempotency key, but of an event id or a received request: it need not be
    /// looked for among those.
    fn find_event(&self, key: DedupeKey) -> Result<Option<DedupeEntry>, ReadError> {
        self.find_key(key)
    }

    /// The answer that was kept for a request other than a message's under an idempotency key, if it has not expired at `now`.
    fn find_answer(&self, key: DedupeKey, now: Timestamp) -> Result<Option<KeptAnswer>, ReadError>;

    /// The requests of `source` that made no message and are kept, newest first, at most `limit`, of those older than `before`.
    fn kept_requests(
        &self,
        source: SourceKey,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Page<KeptRequest>, ReadError>;

    /// How far `source` has got.
    fn source_cursor(&self, source: SourceKey) -> Result<Option<SourceCursor>, ReadError>;

    /// Messages of an application, newest first (or oldest first, by the query).
    fn messages(&self, application: ApplicationKey, query: &MessageQuery) -> Result<Page<Message>, ReadError>;

    /// One attempt.
    fn attempt(&self, id: AttemptId) -> Result<Option<Attempt>, ReadError>;

    /// The public id of an endpoint that was deleted, as long as that is known.
    fn deleted_endpoint(&self, endpoint: EndpointKey) -> Result<Option<EndpointId>, ReadError>;

    /// Attempts of a message, newest first, of all endpoints or of one.
    fn attempts_of_message(&self, message: Sequence, query: &AttemptQuery) -> Result<Page<Attempt>, ReadError>;

    /// Attempts to an endpoint, newest first.
    fn attempts_of_endpoint(&self, endpoint: EndpointKey, query: &AttemptQuery) -> Result<Page<Attempt>, ReadError>;

    /// The deliveries of a message and where each stands, by rising endpoint key.
    fn deliveries_of_message(&self, message: Sequence) -> Result<Vec<DeliveryOfMessage>, ReadError>;

    /// The messages that were or are to be sent to an endpoint and where each delivery stands, newest message first.
    fn deliveries_of_endpoint(
        &self,
        endpoint: EndpointKey,
        query: &MessageQuery,
    ) -> Result<Page<DeliveryOfEndpoint>, ReadError>;

    /// Where one delivery stands and the number of its last attempt; `None` if there is no such delivery.
    fn delivery(&self, delivery: Delivery) -> Result<Option<DeliveryOfMessage>, ReadError>;

    /// How many deliveries of `endpoint`, of messages accepted in `span`, stand where.
    fn count_deliveries(&self, endpoint: EndpointKey, span: Span) -> Result<Ledger, ReadError>;

    /// A page of the log of `endpoint`, oldest first: every message that it was or is owed, whatever became of the delivery. However long
    /// the log is, a page costs what is in it.
    fn log(&self, endpoint: EndpointKey, query: &LogQuery) -> Result<LogPage, ReadError>;

    /// How much of the log of `endpoint` is after `after`.
    fn lag(&self, endpoint: EndpointKey, after: Sequence) -> Result<Lag, ReadError>;

    /// As [`Store::lease_due`], without the deliveries of the messages `beside`, which somebody has already. `in_order`: in order of
    /// acceptance, and also what is not due yet; otherwise in order of the due time. No further one once there are `bytes_max` of payload.
    /// Changes nothing.
    fn lease_beside(
        &self,
        endpoint: EndpointKey,
        in_order: bool,
        until: Timestamp,
        beside: &HashSet<Sequence>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Waiting, Message)>, ReadError>;

    /// A consumer of `endpoint`.
    fn consumer(&self, endpoint: EndpointKey, name: &str) -> Result<Option<Consumer>, ReadError>;

    /// The consumers of `endpoint`, by name.
    fn consumers(&self, endpoint: EndpointKey) -> Result<Vec<Consumer>, ReadError>;

    /// The ledger, in one consistent reading of a store that may be written at the same time; `pending` is counted row by row.
    fn ledger(&self) -> Result<Ledger, ReadError>;

    /// Work behind the logs, a bounded slice of it: fills indexes, removes what is past its retention, and whatever else a back end
    /// owes. Answers whether there is more. Called by the committing thread between commits when it is idle, and at
    /// the latest when [`Store::upkeep_owed`] says so.
    fn upkeep(&self, now: Timestamp) -> Result<bool, CommitError>;

    /// Whether so much upkeep is owed that the next commit should wait for a slice of it.
    fn upkeep_owed(&self) -> bool;

    /// Whether [`Store::advance_task`] has something to do. Costs next to nothing.
    fn has_tasks(&self) -> bool;

    /// Does one bounded slice of what goes on in the background: of a [`Change::CancelWaiting`], or of the running tasks, each in its
    /// turn; `None` if there is none. One transaction: what the slice touched and how far the task has come are durable together.
    /// Called by the one thread that commits, between commits.
    ///
    /// A delivery that a task puts into the waiting room is manual, due at `now`, and counted as owed once more; one that waits
    /// already, or that an engine still has, is left alone, and so is one without its payload. A task whose endpoint or application
    /// is gone ends as cancelled. The end of a task, however it came, is answered once, and after each start again until
    /// [`Change::TaskTold`].
    fn advance_task(&self, now: Timestamp, matching: &dyn Matching) -> Result<Option<Advanced>, CommitError>;

    /// One task, with what it found.
    fn task(&self, id: TaskId) -> Result<Option<Task>, ReadError>;

    /// Tasks of an organisation, without what they found, newest first (or oldest first, by the query).
    fn tasks(&self, query: &TaskQuery) -> Result<Page<Task>, ReadError>;

    /// How many bytes the store takes on disk, if it knows.
    fn bytes_on_disk(&self) -> Option<u64>;
}
