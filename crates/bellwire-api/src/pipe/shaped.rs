//! What the readers of a pipe get in place of what was accepted: what the endpoint's script and format make of it.
//!
//! It is made again for each read, so what is in force when something is read is what counts. One read lets scripts work for a while and
//! hold some bytes, and then gives what is ready: whoever reads on gets the rest.

use crate::Api;
use crate::backend::{Shaped, Unshaped};
use bellwire_model::{Endpoint, FailureClass, Kind, Message, Timestamp};
use std::time::Duration;
use tokio::time::Instant;

/// For the scripts of one read. The first message of a read has its script's own deadline, whatever that is.
const TIME_MAX: Duration = Duration::from_secs(1);
/// Of what they make.
const BYTES_MAX: usize = 4 << 20;

/// A message, ready to be given.
pub(super) struct Given {
    pub(super) message: Message,
    /// What the endpoint's script wants beside it.
    pub(super) headers: Vec<(String, String)>,
    /// Why there is nothing of it to give. The payload that was accepted is not given instead: a script may be there to keep it back.
    pub(super) fault: Option<String>,
    /// It is not what was accepted.
    pub(super) is_shaped: bool,
}

/// What becomes of one message.
pub(super) enum Made {
    Given(Given),
    /// The endpoint's script does not want it.
    Cancelled(String),
    Failed(Message, FailureClass, String),
}

/// What one read may still cost.
pub(super) struct Allowance {
    ends: Instant,
    bytes: usize,
}

impl Allowance {
    pub(super) fn new() -> Self {
        Allowance { ends: Instant::now() + TIME_MAX, bytes: 0 }
    }

    pub(super) fn is_spent(&self) -> bool {
        self.bytes >= BYTES_MAX || Instant::now() >= self.ends
    }
}

impl Given {
    pub(super) fn accepted(message: Message) -> Self {
        Given { message, headers: Vec::new(), fault: None, is_shaped: false }
    }

    /// In place of a message that could not be made.
    pub(super) fn failed(message: Message, fault: String) -> Self {
        Given { fault: Some(fault), is_shaped: true, ..Given::accepted(message) }
    }
}

/// Whether readers of this endpoint get something else than what was accepted. Those who look into the log of one that is pushed to, or of
/// a plugin, do not: its shape is for what is sent, or run.
pub(super) fn is_shaping(endpoint: &Endpoint) -> bool {
    matches!(endpoint.kind, Kind::Pipe(_)) && endpoint.shape.changes_what_is_sent()
}

/// What readers of this endpoint get of this message.
pub(super) async fn make(
    api: &Api,
    endpoint: &Endpoint,
    message: Message,
    now: Timestamp,
    allowance: &mut Allowance,
) -> Made {
    let is_gone = message.payload.is_none() || message.expires_at <= now;
    if is_gone || !is_shaping(endpoint) {
        return Made::Given(Given::accepted(message));
    }
    match api.backend().shape(endpoint, &message, &api.settings().scripts).await {
        Ok(None) => Made::Given(Given::accepted(message)),
        Ok(Some(Shaped { message, headers })) => {
            allowance.bytes += message.content_bytes();
            Made::Given(Given { message, headers, fault: None, is_shaped: true })
        }
        Err(Unshaped { class: FailureClass::Cancelled, text }) => Made::Cancelled(text),
        Err(Unshaped { class, text }) => Made::Failed(message, class, text),
    }
}
