//! A message as a filter sees it.

use bellwire_model::Message;
use serde_json::Value;
use std::cell::OnceCell;

/// What a filter may ask about a message. The payload is parsed at most once, and only when a filter asks for it.
#[derive(Debug)]
pub struct Candidate<'m> {
    /// Its event type.
    pub event_type: &'m str,
    /// Its sender's own id for it.
    pub event_id: Option<&'m str>,
    /// Channels it was sent on.
    pub channels: &'m [String],
    /// Its tags.
    pub tags: &'m [String],
    payload: &'m [u8],
    parsed: OnceCell<Value>,
}

impl<'m> Candidate<'m> {
    /// A message that is about to be accepted.
    pub fn new(
        event_type: &'m str,
        event_id: Option<&'m str>,
        channels: &'m [String],
        tags: &'m [String],
        payload: &'m [u8],
    ) -> Self {
        Candidate { event_type, event_id, channels, tags, payload, parsed: OnceCell::new() }
    }

    /// A message that was accepted before; `None` if its payload is gone.
    pub fn of(message: &'m Message) -> Option<Self> {
        let Message { event_type, event_id, channels, tags, payload, .. } = message;
        Some(Self::new(event_type, event_id.as_deref(), channels, tags, payload.as_deref()?))
    }

    /// The payload as JSON. What is no JSON is a string of its text, with U+FFFD for what is no text.
    pub(crate) fn payload(&self) -> &Value {
        self.parsed.get_or_init(|| {
            serde_json::from_slice(self.payload)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(self.payload).into_owned()))
        })
    }
}
