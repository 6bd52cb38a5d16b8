//! A foreign webhook in, a message made of it, an answer out.
//!
//! ```text
//! receive → verify → (handshake) → dedupe → accept → respond
//! ```
//!
//! The server hands requests at `/in/{token}` and at sources' own paths to [`Receiver`] and implements [`Backend`]. What it
//! promises:
//!
//! * Nothing of a request is believed before it is verified, over its raw bytes; a refusal tells the sender nothing, and the
//!   source's owner everything ([`bellwire_model::KeptRequest`]).
//! * 2xx means durable: request, key and message in one commit. A request that is refused leaves nothing behind by which its
//!   repetition would be taken for a duplicate.
//! * Who sends too much is told so before the body is read. Everything is bounded: bodies, headers that are kept, keys that are
//!   fetched, requests that are kept.
//!
//! Left to others: sockets and slow clients (the server), what a signature is (`signature`), who gets the message (`engine`,
//! `shape`), how it is kept (`store`).

mod receive;
mod incoming;
mod address;
mod limit;
mod verify;
mod keys;
mod handshake;
mod ended;
mod dedupe;
mod kept;
mod respond;
#[cfg(test)]
mod program;

pub use kept::kept_headers;
pub use receive::{Peer, Receiver};
pub use verify::{Fault, check};

use axum::body::Bytes;
use bellwire_engine::{Catalogue, Draft};
use bellwire_model::{Endpoint, KeptRequest, Message, RequestId, Source, SourceKey, SubscriptionKey, Timestamp};
use parking_lot::RwLock;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// A future that a handler can hold across threads.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What became of a draft, once durable.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// It is a new message.
    New(Arc<Message>),
    /// It came before: this is its message, with its payload if that is still kept; or nothing, if the message is gone already.
    Same(Option<Arc<Message>>),
}

/// What an endpoint answers to whoever sent the message.
#[derive(Clone, Debug)]
pub struct EndpointSays {
    /// The status.
    pub status: u16,
    /// Of a plugin.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// Why nothing was accepted. Nothing was kept, and the same request may come again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unaccepted {
    /// Come back in so many seconds: too much waits, the disk is full, or the process ends.
    #[error("{reason}")]
    Later {
        /// For `retry-after`.
        seconds: u16,
        /// For the log.
        reason: &'static str,
    },
    /// The store could not be asked.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// What became of a request, to be counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// A new message.
    Accepted,
    /// It was there before.
    Duplicate,
    /// It was there before, with another body.
    Conflict,
    /// A question, answered.
    Handshake,
    /// Not proven.
    Unverified,
    /// From an address that may not send.
    Forbidden,
    /// More than the source's rate.
    Throttled,
    /// Larger than the source takes.
    TooLarge,
    /// Otherwise not as it must be: its method, its body cut short, too many hops.
    Invalid,
    /// We could not take it.
    Unavailable,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 10] = [
        Outcome::Accepted,
        Outcome::Duplicate,
        Outcome::Conflict,
        Outcome::Handshake,
        Outcome::Unverified,
        Outcome::Forbidden,
        Outcome::Throttled,
        Outcome::TooLarge,
        Outcome::Invalid,
        Outcome::Unavailable,
    ];

    /// For metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::Duplicate => "duplicate",
            Outcome::Conflict => "conflict",
            Outcome::Handshake => "handshake",
            Outcome::Unverified => "unverified",
            Outcome::Forbidden => "forbidden",
            Outcome::Throttled => "throttled",
            Outcome::TooLarge => "too_large",
            Outcome::Invalid => "invalid",
            Outcome::Unavailable => "unavailable",
        }
    }
}

/// What the receiver asks of the program it runs in.
pub trait Backend: Send + Sync + 'static {
    /// Engine time.
    fn now(&self) -> Timestamp;

    /// The wall clock, which senders sign.
    fn wall(&self) -> Timestamp;

    /// Who exists, as the newest commit left it.
    fn catalogue(&self) -> &RwLock<Catalogue>;

    /// Whether so much waits to be stored that a body had better not be read: what to say instead.
    fn crowded(&self) -> Option<Unaccepted>;

    /// Accepts a message: looks its keys up, offers it, waits for the commit. Durable when it answers `Ok`.
    fn accept(&self, draft: Draft) -> Answer<'_, Result<Accepted, Unaccepted>>;

    /// As [`Backend::accept`]; of a new message, what the first of its endpoints answers that means it for whoever waits, within `wait`
    /// after it is durable.
    fn accept_and_wait(
        &self,
        draft: Draft,
        wait: Duration,
    ) -> Answer<'_, Result<(Accepted, Option<EndpointSays>), Unaccepted>>;

    /// Whether messages are traced. If not, nobody's place in a trace is kept.
    fn traces(&self) -> bool;

    /// An id for a request that is to be kept.
    fn request_id(&self) -> RequestId;

    /// Keeps a request that made no message. Nobody waits for it, and it may be lost.
    fn keep(&self, request: KeptRequest);

    /// Fetches from an `https` address, through the address guard and without redirects: the body of a 2xx answer of at most so many
    /// bytes. With a text to post, as JSON; else by GET.
    fn fetch(
        &self,
        url: String,
        post: Option<Zeroizing<String>>,
        bytes_max: usize,
    ) -> Answer<'_, Result<Bytes, String>>;

    /// The same for a certificate of a sender: PEM of that certificate alone, which comes from an authority that this process trusts and is
    /// valid now, as is everything between.
    fn fetch_certificate(&self, url: String, bytes_max: usize) -> Answer<'_, Result<Bytes, String>>;

    /// The sender has agreed to a subscription of a source, as the source was when it asked, for so long. It counts if the sender was asked;
    /// durable when it answers `Ok`. `false` if the source wants that subscription no more.
    fn agreed<'a>(&'a self, source: &'a Source, lease: Duration) -> Answer<'a, Result<bool, Unaccepted>>;

    /// The sender has denied a subscription of a source, with this reason. It counts if there is one, or the sender was asked; durable when it
    /// answers `Ok`.
    fn denied<'a>(&'a self, source: &'a Source, reason: String) -> Answer<'a, Result<(), Unaccepted>>;

    /// The hub knows that a subscription has ended, or says so itself; durable when it answers `Ok`. `false` if it is wanted again.
    fn unsubscribed(&self, ended: SubscriptionKey) -> Answer<'_, Result<bool, Unaccepted>>;

    /// Gives a source that has none yet a secret that its sender brought. Durable and in force when it answers `Ok`.
    fn store_secret(&self, source: SourceKey, secret: Zeroizing<String>) -> Answer<'_, Result<(), Unaccepted>>;

    /// A filter could not say whether its endpoint takes a message, which means no.
    fn filter_failed(&self, endpoint: &Endpoint, why: &str);

    /// For the operator's counters.
    fn count(&self, outcome: Outcome);
}
