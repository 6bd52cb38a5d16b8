//! What one commit takes.

use crate::{Broadcasted, Consumer, Settled, Task};
use bellwire_model::{
    Application, ApplicationKey, Attempt, AttemptId, DedupeKey, DisabledBy, EndedSubscription, Endpoint, EndpointKey,
    EventType, FanOut, KeptRequest, Message, OrganisationId, Partition, RequestDigest, Sequence, Source, SourceCursor,
    SourceKey, SubscriptionKey, TaskId, Timestamp, TokenChange, Waiting,
};
use bytes::Bytes;
use std::sync::Arc;

/// Proof of holding a partition; a later holder's is greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fence(pub u64);

/// A partition held until a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Which partition.
    pub partition: Partition,
    /// Goes with every batch that touches the partition.
    pub fence: Fence,
    /// When somebody else may take it.
    pub until: Timestamp,
}

/// A message to be kept, with what it is owed to.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The message; shared with the engine and the answer.
    pub message: Arc<Message>,
    /// The endpoints that matched.
    pub fan_out: FanOut,
    /// Makes it unique, with the digest of its request: of the `Idempotency-Key`.
    pub idempotency: Option<DedupeEntry>,
    /// Makes it unique: of the event id within the application. Also how it is found by that id.
    pub event: Option<DedupeKey>,
}

/// A key that leads to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DedupeEntry {
    /// The key.
    pub key: DedupeKey,
    /// Of the request that used it first.
    pub digest: RequestDigest,
    /// The message that it made (ignored in [`Accepted`], where it is the message's own).
    pub message: Sequence,
}

/// The answer to a request that changed configuration, kept under its idempotency key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptAnswer {
    /// The key.
    pub key: DedupeKey,
    /// Of the request's body.
    pub digest: RequestDigest,
    /// The answer's status.
    pub status: u16,
    /// The answer's body.
    pub body: Bytes,
    /// When it may be forgotten.
    pub expires_at: Timestamp,
}

/// A change of configuration, or of something that is not in a log.
#[derive(Clone, Debug)]
pub enum Change {
    /// Creates or replaces.
    PutApplication(Arc<Application>),
    /// Marks as deleted: application, endpoints, sources; its waiting deliveries end as `EndpointDeleted` by upkeep, which first
    /// writes an attempt row (number 0) for each.
    DeleteApplication(ApplicationKey),
    /// Creates, or replaces all but `disabled` and `health`: an edit was made from an older reading of the endpoint, and what an
    /// engine has found out since must not be undone by it.
    PutEndpoint(Arc<Endpoint>),
    /// Its owner enables or disables it, after all that was found out so far ([`Endpoint::switch`]).
    SwitchEndpoint {
        /// Which.
        endpoint: EndpointKey,
        /// Enabled from now on, or disabled.
        enabled: bool,
    },
    /// As for the application.
    DeleteEndpoint(EndpointKey),
    /// Notes what the engine found out about an endpoint, and nothing else of its row.
    PutHealth {
        /// Whose.
        endpoint: EndpointKey,
        /// Since when it only fails; `None` when it works again.
        failing_since: Option<Timestamp>,
        /// Disables it, if given; `None` leaves `disabled` as it is.
        disable: Option<DisabledBy>,
    },
    /// Creates or replaces.
    PutEventType(Arc<EventType>),
    /// Removes the row.
    DeleteEventType(OrganisationId, String),
    /// Creates or replaces.
    PutSource(Arc<Source>),
    /// Removes the row and what was kept of its requests; its messages stay.
    DeleteSource(SourceKey),
    /// Keeps a request of a source that made no message, within [`KeptRequest::COUNT_MAX`] and [`KeptRequest::BYTES_MAX`]: the oldest go.
    KeepRequest(Arc<KeptRequest>),
    /// Sets how far a source has got, in the commit of the messages that it stands for. Nothing, if there is no such source.
    PutSourceCursor(SourceCursor),
    /// Creates or replaces, in the commit of what has ended the subscription. It stays when its source and its application go.
    PutEndedSubscription(Arc<EndedSubscription>),
    /// Removes the row.
    DeleteEndedSubscription(SubscriptionKey),
    /// Changes what is kept about tokens.
    Token(TokenChange),
    /// Keeps an answer under its idempotency key.
    KeepAnswer(KeptAnswer),
    /// Puts a delivery into the waiting room, or moves it there to another time: `deliver_at`, resends, the engine's backlog.
    /// With `owed`, one more delivery is counted as owed (a resend of a delivery that had ended, or to an endpoint that had not matched).
    Wait {
        /// The row.
        waiting: Waiting,
        /// Whether the ledger's `matched` rises.
        owed: bool,
    },
    /// Sets the place of a consumer of a pipe endpoint, or makes the consumer.
    ///
    /// With `read`, it has read up to there: its place only goes forward, and what waits of scheduled deliveries of messages up to there is
    /// recorded as delivered, at once as far as one commit may, the rest slice by slice by
    /// [`Store::advance_task`](crate::Store::advance_task). So is what an engine puts into the waiting room later and was read before.
    /// Without, it is set to wherever it is told, and nothing else happens.
    PutConsumer {
        /// The consumer; kept with the first `created_at` that it had.
        consumer: Consumer,
        /// Whether it has read up to its place.
        read: bool,
    },
    /// Forgets a consumer.
    DeleteConsumer {
        /// Of which endpoint.
        endpoint: EndpointKey,
        /// Which.
        name: Arc<str>,
    },
    /// Records how deliveries ended, or go on, that were handed to readers: each as an attempt, with what follows. One that does not wait
    /// under its number any more is left out, so saying it twice is safe. An engine that still has such a delivery in flight from when
    /// its endpoint was push records its attempt; the delivery stays as the reader left it.
    Settle(Vec<Settled>),
    /// Creates a task. One with its id that is there already stays as it is.
    PutTask(Arc<Task>),
    /// Ends a running task as cancelled; what it has done stays done.
    CancelTask {
        /// Which.
        task: TaskId,
        /// The time of the call.
        at: Timestamp,
    },
    /// How far a broadcast has come; its messages are in the same batch.
    Broadcasted(Broadcasted),
    /// The end of a task has been told to whoever wants to know; [`Store::advance_task`](crate::Store::advance_task) answers it after no start any more.
    TaskTold(TaskId),
    /// Ends what waits for `endpoint` of messages before `before` as `Cancelled`. [`Store::advance_task`](crate::Store::advance_task)
    /// ends them, slice by slice; from this change on none of them is leased, and all of them have a row. What an engine has in flight is
    /// sent once; then its attempt shows what the receiver said, and the delivery stays cancelled. A resend that is asked for after `at`
    /// is not touched.
    CancelWaiting {
        /// Whose.
        endpoint: EndpointKey,
        /// Messages before this one.
        before: Sequence,
        /// The time of the call.
        at: Timestamp,
    },
    /// Removes a message's payload. Its waiting deliveries stay and end as `Expired` when the engine next takes them.
    ExpungePayload(Sequence),
    /// Replaces an attempt's response body by `EXPUNGED`.
    ExpungeResponse(AttemptId),
}

/// Everything that one commit writes. Empty vectors cost nothing.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Rows of the message log, in rising sequence, each greater than all before. A message with `deliver_at` gets a row in the waiting room
    /// for each of its fan-out, due then.
    pub accepted: Vec<Accepted>,
    /// Rows of the attempt log, in rising sequence, each greater than all before (accepted ones included). For each the waiting room follows
    /// `after`: `Waiting` inserts or moves the delivery's row (next number, scheduled); anything else removes it, if there is one.
    pub attempts: Vec<Attempt>,
    /// Changes, in this order, after the above.
    pub changes: Vec<Change>,
    /// The new watermark, if it moves. Never goes back.
    pub watermark: Option<Sequence>,
    /// The fence of every partition that the batch touches; checked before anything is written.
    pub fences: Vec<(Partition, Fence)>,
}

impl Batch {
    /// Whether there is nothing to write. A watermark alone is not worth a commit.
    pub fn is_empty(&self) -> bool {
        self.accepted.is_empty() && self.attempts.is_empty() && self.changes.is_empty()
    }
}
