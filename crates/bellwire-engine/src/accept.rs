//! The one place where things become durable: what the doors and the engines hand in, sealed into batches.
//!
//! Shared by all threads behind a mutex that is held for microseconds. The committing thread calls [`Intake::seal`], commits
//! without the lock, and reports with [`Intake::committed`].

use bellwire_model::{ApplicationKey, ContentType, DedupeKey, FanOut, Message, RequestDigest, Sequence, Timestamp};
use bellwire_store::Batch;
use bytes::Bytes;
use std::sync::Arc;

/// Counts batches from 1, within a process.
pub type BatchNumber = u64;
/// Which engine, counted from 0.
pub type ShardIndex = usize;

/// Bounds of the intake.
#[derive(Clone, Copy, Debug)]
pub struct IntakeSettings {
    /// How many engines there are.
    pub shards: usize,
    /// A batch takes at most so many messages; the rest goes into the next.
    pub batch_messages_max: usize,
    /// A batch takes at most so many bytes of payload.
    pub batch_bytes_max: usize,
    /// Messages that wait for a commit beyond this many are refused as busy.
    pub queue_messages_max: usize,
    /// Bytes of payload that wait for a commit beyond this many are refused as busy.
    pub queue_bytes_max: usize,
}

/// A message that a door would like accepted. It becomes a [`Message`] when it gets its sequence.
#[derive(Clone, Debug)]
pub struct Draft {
    /// For which application.
    pub application: ApplicationKey,
    /// To which endpoints ([`crate::fan_out`]).
    pub fan_out: FanOut,
    /// See [`Message`].
    pub event_type: String,
    /// See [`Message`].
    pub event_id: Option<String>,
    /// See [`Message`].
    pub channels: Vec<String>,
    /// See [`Message`].
    pub tags: Vec<String>,
    /// The exact bytes.
    pub payload: Bytes,
    /// See [`Message`].
    pub content_type: ContentType,
    /// See [`Message`].
    pub expires_at: Timestamp,
    /// See [`Message`].
    pub deliver_at: Option<Timestamp>,
    /// Of the request's `Idempotency-Key`, with the digest of its body.
    pub idempotency: Option<(DedupeKey, RequestDigest)>,
    /// Of the event id.
    pub event: Option<DedupeKey>,
}

/// What became of a draft.
#[derive(Clone, Debug)]
pub enum Offer {
    /// It will be durable when batch `batch` is.
    Queued {
        /// With its id.
        message: Arc<Message>,
        /// Wait for this one.
        batch: BatchNumber,
    },
    /// The same request is on its way already, or was committed a moment ago: answer with this message, once `batch` is durable.
    Same {
        /// The message that the first request made.
        message: Sequence,
        /// Wait for this one.
        batch: BatchNumber,
    },
}

/// Why a draft was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// The idempotency key is in use with another body.
    #[error("the idempotency key was used before with another body")]
    KeyReused,
    /// The event id is taken.
    #[error("a message with this event id exists")]
    EventIdTaken,
    /// Too much waits for the disk; try again.
    #[error("too many messages wait to be stored")]
    Busy,
    /// Keys were forgotten since the door looked them up in the store: look again, offer again.
    #[error("look the keys up again")]
    LookAgain,
    /// The process ends; nothing more is accepted.
    #[error("the server is shutting down")]
    Closed,
}

/// A batch on its way to the store.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its number.
    pub number: BatchNumber,
    /// What to commit.
    pub batch: Arc<Batch>,
}

/// What a commit means for one engine; becomes [`crate::Input::Committed`].
#[derive(Clone, Debug, Default)]
pub struct CommittedShard {
    /// See [`crate::Input::Committed`].
    pub through: Sequence,
    /// See [`crate::Input::Committed`].
    pub fresh: Vec<crate::engine::Fresh>,
    /// See [`crate::Input::Committed`].
    pub recorded: Vec<(bellwire_model::Delivery, bellwire_model::AfterAttempt)>,
    /// See [`crate::Input::Committed`].
    pub waits: Vec<bellwire_model::Waiting>,
    /// Endpoints for which a `Recover` was committed, and when its deliveries are due.
    pub recovered: Vec<(bellwire_model::EndpointKey, Timestamp)>,
}

/// See the module.
#[derive(Debug)]
pub struct Intake {}

/// Signatures that the doors and the committing thread use; to be filled.
impl Intake {
    /// Continues after `newest`. `rng` seeds the random part of ids.
    pub fn new(settings: IntakeSettings, newest: Sequence, seed: [u8; 32]) -> Self {
        let _ = (settings, newest, seed);
        Intake {}
    }

    /// The number of the newest batch known durable; a door reads it before it looks keys up in the store, and hands it to [`Intake::offer`].
    pub fn looked(&self) -> BatchNumber {
        0
    }

    /// Takes a draft. `looked` is what [`Intake::looked`] answered before the draft's keys were looked up in the store and not found
    /// (drafts without keys pass anything).
    ///
    /// # Errors
    /// See [`OfferError`]; nothing was taken.
    pub fn offer(&mut self, now: Timestamp, draft: Draft, looked: BatchNumber) -> Result<Offer, OfferError> {
        let _ = (now, draft, looked);
        Err(OfferError::Closed)
    }

    /// Takes changes of configuration, all into the same batch, and answers its number.
    ///
    /// # Errors
    /// `Busy` or `Closed`; nothing was taken.
    pub fn change(&mut self, changes: Vec<bellwire_store::Change>) -> Result<BatchNumber, OfferError> {
        let _ = changes;
        Err(OfferError::Closed)
    }

    /// A sequence for a new application or endpoint, whose id is made from it.
    pub fn sequence(&mut self, now: Timestamp) -> Sequence {
        Sequence::first_at(now)
    }

    /// Takes what engine `shard` decided; never refuses. `watermark` is the engine's after these decisions.
    pub fn record(
        &mut self,
        shard: ShardIndex,
        now: Timestamp,
        decided: impl IntoIterator<Item = crate::engine::Undurable>,
        watermark: Sequence,
    ) {
        let _ = (shard, now, watermark, decided.into_iter().count());
    }

    /// Whether there is something to seal.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Seals what has come in, up to the bounds of a batch; `None` if there is nothing, or a batch is out.
    pub fn seal(&mut self) -> Option<Sealed> {
        None
    }

    /// The sealed batch is durable: what each engine is to be told, by shard.
    pub fn committed(&mut self) -> Vec<CommittedShard> {
        Vec::new()
    }

    /// The sealed batch was not kept. Its messages and changes are refused (their waiters are told by the caller);
    /// what engines decided goes into the next batch, first and in order.
    pub fn failed(&mut self) {}

    /// Refuses everything from the doors from now on.
    pub fn close(&mut self) {}
}
