//! Background tasks: work over more rows than one transaction should touch, done in slices, each of them durable.
//!
//! A task is created by [`Change::PutTask`](crate::Change::PutTask) with its bounds fixed: what is accepted later is never
//! part of it. [`Store::advance_task`](crate::Store::advance_task) does one bounded slice and moves the cursor in the same
//! transaction; so a crash between two slices neither skips a message nor touches one twice.

use crate::StatusFilter;
use bellwire_model::{
    ApplicationId, ApplicationKey, EndpointKey, Message, MessageId, OrganisationId, Sequence, TaskId, Timestamp,
};
use std::sync::Arc;

/// A background task as it is kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Task {
    /// Its id; `id.sequence()` is younger than every message that is part of it.
    pub id: TaskId,
    /// Whose it is.
    pub organisation: OrganisationId,
    /// What is to be done.
    pub work: Work,
    /// Messages from this one on.
    pub first: Sequence,
    /// Up to and including this one.
    pub last: Sequence,
    /// Where it stands.
    pub status: TaskStatus,
    /// How far it has come.
    pub progress: Progress,
    /// When it last moved.
    pub updated_at: Timestamp,
}

/// What a task does with the messages between its bounds.
#[derive(Clone, PartialEq, Debug)]
pub enum Work {
    /// Sends each delivery again that ended undelivered.
    Recover(Target),
    /// Sends each message that the endpoint would get now and never was owed.
    Replay(Target),
    /// Sends each delivery again that has ended, however it did, and passes the filter.
    BulkReplay(Target, ReplayFilter),
    /// Removes the payloads of an application's messages.
    PurgeContent(ApplicationKey),
    /// Counts deliveries by application: of these, by rising key, or of all of the organisation that
    /// have any.
    ApplicationStats(Option<Vec<ApplicationKey>>),
    /// Lists what event types the endpoints of each application ask for.
    EventTypes,
    /// Sends a message to each application that was there when the task was created. `None` in lists, and when the task has ended: its payload is
    /// kept no longer than it is needed.
    Broadcast(Option<Arc<Broadcast>>),
}

/// What a [`Work::Broadcast`] sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broadcast {
    /// See [`bellwire_model::Message`].
    pub event_type: String,
    /// An application that has a message with this event id gets no other one.
    pub event_id: Option<String>,
    /// See [`bellwire_model::Message`].
    pub channels: Vec<String>,
    /// The exact bytes, which are JSON.
    pub payload: Arc<str>,
    /// See [`bellwire_model::Message`].
    pub expires_at: Timestamp,
}

/// A page of a [`Work::Broadcast`]: in one batch with the messages that it tells of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broadcasted {
    /// Which task.
    pub task: TaskId,
    /// The application to go on with.
    pub next: ApplicationKey,
    /// The newest application that was looked at.
    pub reached: Sequence,
    /// How many applications were looked at.
    pub scanned: u64,
    /// The messages of this batch.
    pub sent: Vec<BroadcastMessage>,
    /// When.
    pub at: Timestamp,
}

/// A message of a [`Work::Broadcast`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BroadcastMessage {
    /// To whom.
    pub application: ApplicationId,
    /// Which.
    pub message: MessageId,
}

/// The endpoint that a task sends to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The owner of the endpoint and of the messages.
    pub application: ApplicationKey,
    /// To whom.
    pub endpoint: EndpointKey,
}

/// Which deliveries a bulk replay takes; the default takes all that have ended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReplayFilter {
    /// Of one of these types; all if empty.
    pub event_types: Vec<String>,
    /// Sent on this channel.
    pub channel: Option<String>,
    /// Carrying this tag.
    pub tag: Option<String>,
    /// That stand so.
    pub status: Option<StatusFilter>,
    /// Whose last attempt was answered by `n00..=n99`; 0 means no answer at all.
    pub status_class: Option<u16>,
}

/// The kinds of [`Work`], stored as their number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskKind {
    /// [`Work::Recover`]
    Recover,
    /// [`Work::Replay`]
    Replay,
    /// [`Work::BulkReplay`]
    BulkReplay,
    /// [`Work::PurgeContent`]
    PurgeContent,
    /// [`Work::ApplicationStats`]
    ApplicationStats,
    /// [`Work::EventTypes`]
    EventTypes,
    /// [`Work::Broadcast`]
    Broadcast,
}

impl TaskKind {
    /// All, in the order of their numbers.
    pub const ALL: [TaskKind; 7] = [
        TaskKind::Recover,
        TaskKind::Replay,
        TaskKind::BulkReplay,
        TaskKind::PurgeContent,
        TaskKind::ApplicationStats,
        TaskKind::EventTypes,
        TaskKind::Broadcast,
    ];

    /// Its number in tables.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From its number in tables.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Its name in the API, in logs and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            TaskKind::Recover => "endpoint.recover",
            TaskKind::Replay => "endpoint.replay",
            TaskKind::BulkReplay => "endpoint.bulk-replay",
            TaskKind::PurgeContent => "application.purge_content",
            TaskKind::ApplicationStats => "application.stats",
            TaskKind::EventTypes => "event-type.aggregate",
            TaskKind::Broadcast => "message.broadcast",
        }
    }
}

impl Work {
    /// Of which kind it is.
    pub fn kind(&self) -> TaskKind {
        match self {
            Work::Recover(_) => TaskKind::Recover,
            Work::Replay(_) => TaskKind::Replay,
            Work::BulkReplay(..) => TaskKind::BulkReplay,
            Work::PurgeContent(_) => TaskKind::PurgeContent,
            Work::ApplicationStats(_) => TaskKind::ApplicationStats,
            Work::EventTypes => TaskKind::EventTypes,
            Work::Broadcast(_) => TaskKind::Broadcast,
        }
    }

    /// The endpoint that it sends to.
    pub fn target(&self) -> Option<Target> {
        match self {
            Work::Recover(target) | Work::Replay(target) | Work::BulkReplay(target, _) => Some(*target),
            Work::PurgeContent(_) | Work::ApplicationStats(_) | Work::EventTypes | Work::Broadcast(_) => None,
        }
    }

    /// The application that it belongs to, if it is one's own.
    pub fn application(&self) -> Option<ApplicationKey> {
        match self {
            Work::PurgeContent(application) => Some(*application),
            _ => self.target().map(|target| target.application),
        }
    }
}

/// Where a task stands. Stored as its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskStatus {
    /// There are slices to come. Moved on by the committing thread; after a crash by the next process.
    Running,
    /// Every message between its bounds was looked at. Final.
    Finished,
    /// What it found is more than can be kept. Final.
    TooLarge,
    /// Somebody did not want it any more, or its endpoint or application was deleted. What it had done stays done. Final.
    Cancelled,
}

impl TaskStatus {
    /// All, in the order of their numbers.
    pub const ALL: [TaskStatus; 4] =
        [TaskStatus::Running, TaskStatus::Finished, TaskStatus::TooLarge, TaskStatus::Cancelled];

    /// Its number in tables.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From its number in tables.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// How far a task has come.
#[derive(Clone, PartialEq, Debug)]
pub struct Progress {
    /// The message to look at next: all before it are done.
    pub cursor: Sequence,
    /// Of work over applications: the one to go on with; `cursor` is within it.
    pub application: ApplicationKey,
    /// Messages, or for event types and broadcasts applications, that were looked at.
    pub scanned: u64,
    /// Deliveries that were put into the waiting room, payloads that were removed, or messages that were sent.
    pub touched: u64,
    /// What it has found, or made, so far.
    pub found: Found,
}

/// The result of statistics. Bounded: a task that finds more than [`FOUND_BYTES_MAX`] ends as [`TaskStatus::TooLarge`].
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Found {
    /// For tasks that find nothing, and in lists.
    #[default]
    Nothing,
    /// Of [`Work::ApplicationStats`], by rising key.
    Destinations(Vec<ApplicationDestinations>),
    /// Of [`Work::EventTypes`], by rising key.
    EventTypes(Vec<ApplicationEventTypes>),
    /// Of [`Work::Broadcast`], by rising key: the first [`BROADCAST_LISTED_MAX`].
    Messages(Vec<BroadcastMessage>),
}

/// So many messages of a broadcast are listed with its task.
pub const BROADCAST_LISTED_MAX: usize = 5_000;

/// How much a task may find, as JSON in bytes.
pub const FOUND_BYTES_MAX: usize = 4 << 20;

/// How many deliveries an application had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApplicationDestinations {
    /// Its id.
    pub application: ApplicationId,
    /// Its user's id.
    pub uid: Option<String>,
    /// Deliveries of its messages: one for each message and endpoint.
    pub destinations: u64,
}

/// What event types an application's endpoints ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApplicationEventTypes {
    /// Its id.
    pub application: ApplicationId,
    /// Those that some endpoint names, sorted.
    pub event_types: Vec<String>,
    /// Whether some endpoint takes all.
    pub catch_all: bool,
}

impl Task {
    /// A new one.
    pub fn new(id: TaskId, organisation: OrganisationId, mut work: Work, first: Sequence, until: Sequence) -> Self {
        if let Work::ApplicationStats(Some(keys)) = &mut work {
            keys.sort_unstable();
            keys.dedup();
        }
        // What is accepted after the task was created has a later sequence than the task.
        let last = until.min(id.sequence());
        let application = ApplicationKey(0);
        let progress = Progress { cursor: first, application, scanned: 0, touched: 0, found: Found::Nothing };
        let updated_at = id.sequence().time();
        Task { id, organisation, work, first, last, status: TaskStatus::Running, progress, updated_at }
    }

    /// Takes over what a page of a broadcast did.
    pub fn broadcasted(&mut self, page: &Broadcasted) {
        let progress = &mut self.progress;
        progress.application = progress.application.max(page.next);
        progress.cursor = progress.cursor.max(page.reached.min(self.last));
        progress.scanned += page.scanned;
        progress.touched += page.sent.len() as u64;
        let mut all = match std::mem::take(&mut progress.found) {
            Found::Messages(all) => all,
            _ => Vec::new(),
        };
        let room = BROADCAST_LISTED_MAX.saturating_sub(all.len());
        all.extend(page.sent.iter().take(room));
        progress.found = Found::Messages(all);
        self.updated_at = self.updated_at.max(page.at);
    }

    /// How much of its range of messages is done, in whole percent; of a task that was cancelled, how much was.
    pub fn percent(&self) -> u8 {
        let whole = self.last.as_u64().saturating_sub(self.first.as_u64());
        let done = self.progress.cursor.as_u64().saturating_sub(self.first.as_u64());
        match self.status {
            TaskStatus::Finished => 100,
            _ if whole == 0 => 0,
            _ => u8::try_from(u128::from(done.min(whole)) * 99 / u128::from(whole)).unwrap_or(99),
        }
    }
}

/// Which tasks.
#[derive(Clone, Debug)]
pub struct TaskQuery {
    /// Whose.
    pub organisation: OrganisationId,
    /// Of this application only.
    pub application: Option<ApplicationKey>,
    /// Only those that stand so; all if empty.
    pub status: Vec<TaskStatus>,
    /// Of this kind only.
    pub kind: Option<TaskKind>,
    /// Created in this span.
    pub span: crate::Span,
    /// Oldest first instead of newest first.
    pub ascending: bool,
    /// At most so many.
    pub limit: usize,
}

/// Who would get a message now; asked by a [`Work::Replay`] for each message that the endpoint was never owed.
pub trait Matching {
    /// Whether `endpoint` looks at payloads; without it messages come without theirs.
    fn wants_payload(&self, endpoint: EndpointKey) -> bool;

    /// Whether `endpoint` takes `message`.
    fn matches(&self, endpoint: EndpointKey, message: &Message) -> bool;
}

/// What a slice did.
#[derive(Clone, PartialEq, Debug)]
pub struct Advanced {
    /// The task as it stands now, if it was one's.
    pub task: Option<Task>,
    /// The waiting room of this endpoint has changed behind its engine's back: rows came that are due now, or rows went.
    pub look_again: Option<EndpointKey>,
    /// Of a [`Work::Broadcast`]: the applications that come next, by rising key. Nothing was done for them yet: whoever asked sends the message to
    /// some of them, in one batch with [`Change::Broadcasted`](crate::Change::Broadcasted), before he asks again.
    pub to: Vec<ApplicationKey>,
}

/// So many applications of a broadcast are answered at a time, at most.
pub const BROADCAST_PAGE_MAX: usize = 100;
