//! What the readers of a pipe endpoint ask for, and what they leave behind: pages of its log, the places of named consumers, and how
//! deliveries that were handed out ended.

use bellwire_model::{
    AfterAttempt, AttemptNumber, Delivery, EndpointKey, FailureClass, Message, Outcome, Sequence, Timestamp,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// A page of an endpoint's log takes at most so many messages.
pub const LOG_MESSAGES_MAX: usize = 1_000;
/// A page looks at most at so many messages, whatever it leaves out.
pub const LOG_LOOKED_MAX: usize = 10_000;
/// How many messages ahead of a reader are counted.
pub const LAG_COUNTED_MAX: u64 = 1_000;

/// Which page of an endpoint's log.
#[derive(Clone, Debug)]
pub struct LogQuery {
    /// Of messages that were accepted after this one.
    pub after: Sequence,
    /// At most so many, and at most [`LOG_MESSAGES_MAX`].
    pub limit: usize,
    /// No further message once there are so many bytes of payload.
    pub bytes_max: usize,
    /// Of one of these types; all if empty.
    pub event_types: Vec<String>,
    /// Sent on this channel.
    pub channel: Option<String>,
}

/// A page of an endpoint's log: what it was or is owed, in the order of acceptance. The same query gives the same page for as long as
/// its messages are kept, and whatever has been accepted since only comes after it.
#[derive(Clone, Debug)]
pub struct LogPage {
    /// With their payloads, if they still have one.
    pub messages: Vec<Message>,
    /// The reader has seen all that is up to here; the next page is after it. Also rises where nothing is shown, so that a reader who
    /// keeps up is never told that it missed what was removed.
    pub through: Sequence,
    /// There is more behind it.
    pub more: bool,
    /// Messages before this one are gone.
    pub floor: Sequence,
}

/// How far a reader is behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lag {
    /// Messages ahead of it; counting ends at [`LAG_COUNTED_MAX`].
    pub events: u64,
    /// The oldest of them.
    pub oldest: Option<Sequence>,
}

/// A named reader of an endpoint, whose place outlives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Consumer {
    /// Of which endpoint.
    pub endpoint: EndpointKey,
    /// Unique within the endpoint.
    pub name: Arc<str>,
    /// It has read every message up to and including this one.
    pub cursor: Sequence,
    /// When it first had a place.
    pub created_at: Timestamp,
    /// When its place was last set.
    pub updated_at: Timestamp,
}

/// How a delivery ended, or goes on, that was handed to a reader.
#[derive(Clone, PartialEq, Debug)]
pub struct Settled {
    /// Which delivery.
    pub delivery: Delivery,
    /// The number that it was handed out with. One that has another by now is left alone.
    pub number: AttemptNumber,
    /// When the reader said so, engine time.
    pub at: Timestamp,
    /// What is told of it in the attempt log.
    pub outcome: Outcome,
    /// What follows.
    pub after: AfterAttempt,
}

/// What is recorded of a delivery that a consumer has read past.
pub fn read_outcome(consumer: &str, at: Timestamp) -> Outcome {
    told(at, Ok(200), format!("read by the consumer {consumer}"))
}

/// What is recorded of a delivery whose reader said so itself, or said nothing until its lease ended.
pub fn told(at: Timestamp, result: Result<u16, FailureClass>, text: String) -> Outcome {
    Outcome {
        started_at: at,
        duration: Duration::ZERO,
        url: None,
        phases: Default::default(),
        result,
        body: Bytes::from(text),
        retry_after: None,
        directive: None,
    }
}
