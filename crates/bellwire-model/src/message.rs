//! A message: one occurrence, accepted for one application, with its exact payload and the endpoints that it is owed to.

use crate::application::ApplicationKey;
use crate::clock::Timestamp;
use crate::endpoint::EndpointKey;
use crate::id::{MessageId, Sequence};
use crate::source::Received;
use crate::trace::TraceParent;
use bytes::Bytes;
use smallvec::SmallVec;
use std::sync::Arc;

/// A message as it is kept. Shared as `Arc<Message>` from the door to the wire; never copied.
#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    /// Its id; `id.sequence()` is its place in the message log.
    pub id: MessageId,
    /// The application it was accepted for.
    pub application: ApplicationKey,
    /// Its event type.
    pub event_type: String,
    /// The user's own id for it, unique within the application while the message is kept.
    pub event_id: Option<String>,
    /// Channels it was sent on.
    pub channels: Vec<String>,
    /// Tags to find it by.
    pub tags: Vec<String>,
    /// Byte for byte what was accepted, and what is signed and sent. `None` once expired or expunged.
    pub payload: Option<Bytes>,
    /// The payload's media type.
    pub content_type: ContentType,
    /// What the sender gave for scripts to read: the text of a JSON object. Goes when the payload goes.
    pub transformations_params: Option<Box<str>>,
    /// The request that it was made of, if it came in at a source. Goes when the payload goes.
    pub received: Option<Arc<Received>>,
    /// The sender's place in a trace, if it gave one and traces are kept; else the trace begins with the message's id.
    pub trace: Option<TraceParent>,
    /// When the payload is removed and unfinished deliveries end as expired.
    pub expires_at: Timestamp,
    /// Not before this time, if the sender asked for a delay.
    pub deliver_at: Option<Timestamp>,
}

impl Message {
    /// One with a payload of JSON, and nothing else set.
    pub fn new(
        id: MessageId,
        application: ApplicationKey,
        event_type: impl Into<String>,
        payload: impl Into<Bytes>,
        expires_at: Timestamp,
    ) -> Self {
        Message {
            id,
            application,
            event_type: event_type.into(),
            event_id: None,
            channels: Vec::new(),
            tags: Vec::new(),
            payload: Some(payload.into()),
            content_type: ContentType::Json,
            transformations_params: None,
            received: None,
            trace: None,
            expires_at,
            deliver_at: None,
        }
    }

    /// What it holds in memory that grows with what was sent: the payload, and what can be read beside it.
    pub fn content_bytes(&self) -> usize {
        let params = self.transformations_params.as_ref().map_or(0, |text| text.len());
        let received = self.received.as_ref().map_or(0, |received| received.content_bytes());
        self.payload.as_ref().map_or(0, Bytes::len) + params + received
    }

    /// Its place in the message log.
    pub fn sequence(&self) -> Sequence {
        self.id.sequence()
    }
}

/// A payload's media type.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ContentType {
    /// `application/json`.
    #[default]
    Json,
    /// What the sender asked for with a raw payload.
    Other(String),
}

impl ContentType {
    /// The header's value.
    pub fn as_str(&self) -> &str {
        match self {
            ContentType::Json => "application/json",
            ContentType::Other(text) => text,
        }
    }
}

/// The endpoints that matched when a message was accepted, in rising order.
pub type FanOut = SmallVec<[EndpointKey; 4]>;

/// What makes a create unique: a 128-bit digest over its scope (organisation or application, method, path) and the
/// user's key. Collisions are as likely as two equal random UUIDs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DedupeKey(pub [u8; 16]);

/// A digest of a request's body, to refuse a key that is used again with another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestDigest(pub [u8; 8]);
