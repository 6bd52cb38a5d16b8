//! The ways by which a source brings messages in, beside requests of others at its URL.
//!
//! Here stands only what the source's owner said, and where such a source has got to ([`SourceCursor`]). Who carries it out is the
//! server (`sources`).

use crate::access::SecretText;
use crate::clock::Timestamp;
use crate::source::SourceKey;
use std::sync::Arc;
use std::time::Duration;

/// How a source's messages come in.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Way {
    /// Others post to its URL.
    #[default]
    Http,
    /// By a schedule.
    Cron(Cron),
    /// Out of a table of the user's database.
    Outbox(Outbox),
    /// Off a queue: the text of a JSON object, which may hold passwords. Sealed at rest.
    Queue(SecretText),
}

impl Way {
    /// Its name on the wire and in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Way::Http => "http",
            Way::Cron(_) => "cron",
            Way::Outbox(_) => "outbox",
            Way::Queue(_) => "queue",
        }
    }

    /// Whether others post to it.
    pub fn is_http(&self) -> bool {
        matches!(self, Way::Http)
    }
}

/// A message at every instant of a schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cron {
    /// Five fields, or six with seconds before them; `L`, `W` and `#` as usual, or a word such as `@daily`.
    pub schedule: String,
    /// In which time zone, by its IANA name.
    pub zone: String,
    /// JSON, with `{{time}}` and `{{previous}}` in its texts; both of them in an object if absent.
    pub payload: Option<String>,
    /// What becomes of instants that passed while nobody was there.
    pub missed: Missed,
    /// Instants before this one do not count: when the schedule was set, or the source enabled.
    pub since: Timestamp,
}

/// What becomes of the instants of a schedule that passed while the server, or its store, was not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missed {
    /// They make no message.
    Skip,
    /// The newest of them makes one.
    One,
    /// Each makes one, the newest so many of them.
    All(u32),
}

/// The rows of a table, each a message.
#[derive(Clone, PartialEq, Debug)]
pub struct Outbox {
    /// Where the table is.
    pub database: Database,
    /// Its name, after its schema and a full stop if it has one.
    pub table: String,
    /// What its columns are called.
    pub columns: OutboxColumns,
    /// What becomes of a row that has been read.
    pub then: Then,
    /// How long after a page that was not full the next one is asked for.
    pub poll: Duration,
    /// For how long after a gap in the ids was seen a row may still turn up in it. For [`Then::Remember`] and PostgreSQL.
    pub settle: Duration,
    /// A channel of PostgreSQL's `NOTIFY` that says that there is something to read.
    pub notify: Option<String>,
}

/// A database of the user.
#[derive(Clone, PartialEq, Debug)]
pub enum Database {
    /// One that the operator has named.
    Named(String),
    /// A connection string, which may hold a password. Sealed at rest.
    Dsn(SecretText),
}

/// What the columns of an outbox are called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboxColumns {
    /// Rises from row to row.
    pub id: String,
    /// The event type.
    pub event_type: String,
    /// The payload.
    pub payload: String,
    /// An array of channels, as JSON or as PostgreSQL has arrays.
    pub channels: Option<String>,
    /// When the row was written: only shown.
    pub created_at: Option<String>,
    /// Where the time goes when a row is marked.
    pub processed_at: String,
}

/// What becomes of a row of an outbox that has been read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// It stays as it is; we remember how far we are.
    Remember,
    /// It gets a time in `processed_at`.
    Mark,
    /// It is deleted.
    Delete,
}

/// How far a source has got that fetches its messages itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceCursor {
    /// Which source.
    pub source: SourceKey,
    /// In the words of its way; at most [`SourceCursor::BYTES_MAX`].
    pub position: Arc<str>,
    /// When it got there.
    pub moved_at: Timestamp,
}

impl SourceCursor {
    /// A position has no more bytes.
    pub const BYTES_MAX: usize = 64 << 10;
}
