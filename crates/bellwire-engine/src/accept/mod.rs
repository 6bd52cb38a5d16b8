//! The one place where things become durable: what the doors and the engines hand in, sealed into batches.
//!
//! Shared by all threads behind a mutex that is held for microseconds. The committing thread calls [`Intake::seal`], commits
//! without the lock, and reports with [`Intake::committed`] or [`Intake::failed`].
//!
//! **Operational messages** that follow from a record, or from a change, get their place in the very batch that makes it durable.
//!
//! **Order.** Every sequence in a batch is greater than every sequence in the batches before it, and within a batch the attempts come
//! after the messages. A message gets its sequence when it is offered, an attempt when its batch is sealed; so where messages
//! spill over into a further batch, a block of sequences is left free for the attempts of the one before.
//!
//! **A batch that fails** takes the doors' parts with it: their waiters are told, their keys are forgotten. What engines decided is
//! kept and leads the next batch, because an attempt that was made cannot be unmade. It cannot pile up: an engine
//! that is told of [`crate::Input::StoreFailing`] starts nothing beyond a bound of unrecorded outcomes.
//!
//! **Once, seen from the producer.** A door looks its keys up in the store, then offers. Between the two, a batch with the same
//! key may become durable; so keys are remembered for a while after their commit, and a door whose look is older than what
//! has been forgotten is told to look again.
//!
//! **The watermark** of a batch is the least of what the engines answered after the decisions in it, and of the messages that no engine
//! was handed yet. A shard that has settled everything it was ever handed holds nobody back.

mod keys;
mod seal;

use crate::engine::Undurable;
use crate::operational::Operational;
use crate::planted::{Bug, Planted};
use bellwire_model::{
    AfterAttempt, ApplicationKey, Attempt, AttemptId, AttemptNumber, ContentType, DedupeKey, Delivery, DisabledBy,
    EndpointKey, FanOut, Message, MessageId, Outcome, Partition, Received, RequestDigest, Sequence, SequenceSource,
    Timestamp, TraceParent, Trigger, Waiting,
};
use bellwire_store::{Accepted, Batch, Change, DedupeEntry, Fence};
use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;
use seal::Out;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// So many records of engines go into one batch at most; also the block of sequences that is left free for them.
const RECORDS_PER_BATCH_MAX: usize = 1 << 14;
/// So many keys of committed batches are remembered: what comes between a door's look and its offer, many times over.
const KEYS_KEPT: usize = 1 << 14;

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
    pub transformations_params: Option<Box<str>>,
    /// See [`Message`]. A draft that has it, and a key that is known, is the same as the first one, whatever its body.
    pub received: Option<Arc<Received>>,
    /// See [`Message`].
    pub trace: Option<TraceParent>,
    /// A further key by which a received request may be known.
    pub earlier: Option<Earlier>,
    /// See [`Message`].
    pub expires_at: Timestamp,
    /// See [`Message`].
    pub deliver_at: Option<Timestamp>,
    /// Of the request's `Idempotency-Key`, with the digest of its body.
    pub idempotency: Option<(DedupeKey, RequestDigest)>,
    /// Of the event id.
    pub event: Option<DedupeKey>,
}

impl Draft {
    /// One with a payload of JSON, and nothing else set.
    pub fn new(
        application: ApplicationKey,
        fan_out: FanOut,
        event_type: impl Into<String>,
        payload: impl Into<Bytes>,
        expires_at: Timestamp,
    ) -> Self {
        Draft {
            application,
            fan_out,
            event_type: event_type.into(),
            event_id: None,
            channels: Vec::new(),
            tags: Vec::new(),
            payload: payload.into(),
            content_type: ContentType::Json,
            transformations_params: None,
            received: None,
            trace: None,
            earlier: None,
            expires_at,
            deliver_at: None,
            idempotency: None,
            event: None,
        }
    }
}

/// The keys of a received request in the windows beside its own: they are looked at and not taken.
///
/// Keys of received requests are made with the number of their window, so that a key never changes hands and the store knows
/// nothing of windows; whoever has a key looks for it in this window and in the one before, and there from `since` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Earlier {
    /// In the window before.
    pub key: DedupeKey,
    /// A message before this one does not count any more.
    pub since: Sequence,
    /// In the window after, if that is near: the same request may have come a moment later and be quicker.
    pub next: Option<DedupeKey>,
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
    /// The idempotency key is in use with another body: a refusal, once `batch` is durable. If that fails, look again.
    #[error("the idempotency key was used before with another body")]
    KeyReused {
        /// Of the message that has it.
        batch: BatchNumber,
    },
    /// The event id is taken: likewise.
    #[error("a message with this event id exists")]
    EventIdTaken {
        /// Of the message that has it.
        batch: BatchNumber,
    },
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
    /// Messages and changes of doors in it: somebody waits for each. Nobody waits for what engines decided.
    pub awaited: usize,
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
    /// Rows that came into the waiting room, or moved there: backlog, resends, delayed messages. Those that a door asked for are told
    /// to every shard; a shard that has no such lane ignores them.
    pub waits: Vec<bellwire_model::Waiting>,
    /// Endpoints whose disabling by this engine is now durable.
    pub disabled: Vec<(bellwire_model::EndpointKey, bellwire_model::DisabledBy)>,
}

/// See the module.
#[derive(Debug)]
pub struct Intake {
    settings: IntakeSettings,
    source: SequenceSource,
    rng: ChaCha12Rng,
    /// The latest engine time seen; attempts get their sequences from it.
    now: Timestamp,
    closed: bool,
    /// Doors are asked to try again later, so that what engines decided has the store to itself.
    held: bool,
    /// What the doors handed in, by batch; never empty. The first has number `next`.
    open: VecDeque<Open>,
    next: BatchNumber,
    /// What the engines handed in, in order.
    records: VecDeque<Record>,
    out: Option<Out>,
    durable: BatchNumber,
    /// Messages and changes that wait for their commit, sealed ones included.
    queued: usize,
    queued_bytes: usize,
    keys: HashMap<DedupeKey, Remembered>,
    /// The same keys in the order of their batches.
    keys_by_batch: VecDeque<(BatchNumber, DedupeKey)>,
    keys_kept: usize,
    /// Keys of batches up to this one may have been forgotten.
    forgotten_through: BatchNumber,
    shards: Vec<Shard>,
    /// The newest that is durable.
    watermark: Sequence,
    through: Sequence,
    fences: Vec<(Partition, Fence)>,
    spare: Batch,
    planted: Planted,
}

/// What doors put into one batch.
#[derive(Debug, Default)]
struct Open {
    accepted: Vec<Accepted>,
    changes: Vec<Change>,
    bytes: usize,
    /// Where the sequences of its attempts begin, if a later batch is open already.
    attempts_after: Option<Sequence>,
}

/// What an engine handed in.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are attempts; a box for each would cost more")]
enum Record {
    Attempt(Attempt, Told),
    Wait(ShardIndex, Waiting),
    Health(ShardIndex, EndpointKey, Option<Timestamp>, Option<DisabledBy>, Told),
    Watermark(ShardIndex, Sequence),
}

/// The operational message that follows, if one does.
type Told = Option<Box<Operational>>;

#[derive(Clone, Copy, Debug)]
struct Remembered {
    message: Sequence,
    batch: BatchNumber,
    /// `None` for the key of an event id.
    digest: Option<RequestDigest>,
}

#[derive(Clone, Copy, Debug)]
struct Shard {
    /// The newest message that was handed to it.
    handed: Sequence,
    /// Its watermark after the records that have been sealed.
    watermark: Sequence,
}

impl Intake {
    /// Continues after `newest`. `seed` is for the random part of ids.
    pub fn new(settings: IntakeSettings, newest: Sequence, seed: [u8; 32]) -> Self {
        // What recovery finds below `newest` is handed to the shards by the caller; nothing is known to be settled until they answer.
        let shard = Shard { handed: newest, watermark: Sequence::ZERO };
        Intake {
            settings,
            source: SequenceSource::after(newest),
            rng: ChaCha12Rng::from_seed(seed),
            now: newest.time(),
            closed: false,
            held: false,
            open: VecDeque::from([Open::default()]),
            next: 1,
            records: VecDeque::new(),
            out: None,
            durable: 0,
            queued: 0,
            queued_bytes: 0,
            keys: HashMap::new(),
            keys_by_batch: VecDeque::new(),
            keys_kept: KEYS_KEPT,
            forgotten_through: 0,
            shards: vec![shard; settings.shards.max(1)],
            watermark: Sequence::ZERO,
            through: newest,
            fences: Vec::new(),
            spare: Batch::default(),
            planted: Planted::default(),
        }
    }

    /// Remembers so many keys of committed batches instead of the usual number.
    pub fn keep_keys(&mut self, kept: usize) {
        self.keys_kept = kept;
    }

    /// Every batch from now on carries these fences.
    pub fn hold(&mut self, fences: Vec<(Partition, Fence)>) {
        self.fences = fences;
    }

    /// Plants a bug.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: Option<Bug>) {
        self.planted.bug = bug;
    }

    /// The number of the newest batch known durable; a door reads it before it looks keys up in the store, and hands it to [`Intake::offer`].
    pub fn looked(&self) -> BatchNumber {
        self.durable
    }

    /// Answers doors with `Busy`, or takes from them again: while the disk is full, only what engines decided is written.
    pub fn hold_doors(&mut self, held: bool) {
        self.held = held;
    }

    /// Messages and changes of doors that wait for their commit, and how many bytes of payload they hold.
    pub fn queued(&self) -> (usize, usize) {
        (self.queued, self.queued_bytes)
    }

    /// Whether so much waits that who can should wait with more: nine tenths of what may.
    pub fn is_crowded(&self) -> bool {
        let full = |held: usize, most: usize| held.saturating_mul(10) >= most.saturating_mul(9);
        full(self.queued, self.settings.queue_messages_max) || full(self.queued_bytes, self.settings.queue_bytes_max)
    }

    /// Takes a draft. `looked` is what [`Intake::looked`] answered before the draft's keys were looked up in the store and not found
    /// (drafts without keys pass anything).
    ///
    /// # Errors
    /// See [`OfferError`]; nothing was taken.
    pub fn offer(&mut self, now: Timestamp, mut draft: Draft, looked: BatchNumber) -> Result<Offer, OfferError> {
        self.offer_from(now, &mut draft, looked)
    }

    /// As [`Intake::offer`]. A draft that was not queued is as it was and can be offered again; of one that was, nothing is left.
    ///
    /// # Errors
    /// As there.
    pub fn offer_from(&mut self, now: Timestamp, draft: &mut Draft, looked: BatchNumber) -> Result<Offer, OfferError> {
        if self.closed {
            return Err(OfferError::Closed);
        }
        if let Some(same) = self.check_keys(draft, looked)? {
            return Ok(same);
        }
        let bytes = bytes_of(draft);
        let crowded = self.queued > 0 && self.queued_bytes.saturating_add(bytes) > self.settings.queue_bytes_max;
        if self.held || self.queued >= self.settings.queue_messages_max || crowded {
            if let Some(key) =
                draft.event.filter(|_| draft.received.is_some() && self.planted.has(Bug::RefusedLeavesKey))
            {
                let (message, batch) = (self.source.last(), self.last_number());
                self.remember(key, Remembered { message, batch, digest: None });
            }
            return Err(OfferError::Busy);
        }
        self.now = self.now.max(now);
        self.make_room(bytes);
        let (message, batch) = self.take(now, draft, bytes);
        Ok(Offer::Queued { message, batch })
    }

    /// Takes the drafts of a source that fetches its messages itself, and with them the change that says how far it has got: all of
    /// it into one batch, so that it is durable together or not at all. Drafts whose keys are known already make no second message.
    /// Answers how many are new, and the batch. `looked` as for [`Intake::offer`].
    ///
    /// # Errors
    /// See [`OfferError`]; nothing was taken. `Busy` also if the message of a known key is not durable yet.
    pub fn offer_page(
        &mut self,
        now: Timestamp,
        drafts: Vec<Draft>,
        mut changes: Vec<Change>,
        looked: BatchNumber,
    ) -> Result<(usize, BatchNumber), OfferError> {
        let new = self.admit(now, drafts, changes.len(), looked)?;
        if self.planted.has(Bug::CursorApart) {
            self.queued += changes.len();
            self.back().changes.append(&mut changes);
            self.begin_batch();
        }
        let taken = new.len();
        for (mut draft, own) in new {
            self.take(now, &mut draft, own);
        }
        self.queued += changes.len();
        self.back().changes.extend(changes);
        Ok((taken, self.last_number()))
    }

    /// As [`Intake::offer_page`], with the one change that `change` makes of the messages that are new.
    ///
    /// # Errors
    /// As there.
    pub fn offer_together(
        &mut self,
        now: Timestamp,
        drafts: Vec<Draft>,
        looked: BatchNumber,
        change: impl FnOnce(&[Arc<Message>]) -> Change,
    ) -> Result<BatchNumber, OfferError> {
        let new = self.admit(now, drafts, 1, looked)?;
        let messages: Vec<_> = new.into_iter().map(|(mut draft, own)| self.take(now, &mut draft, own).0).collect();
        self.queued += 1;
        self.back().changes.push(change(&messages));
        Ok(self.last_number())
    }

    /// Makes room for drafts and for so many changes, all in one batch; answers the drafts that are new, with their sizes.
    fn admit(
        &mut self,
        now: Timestamp,
        drafts: Vec<Draft>,
        changes: usize,
        looked: BatchNumber,
    ) -> Result<Vec<(Draft, usize)>, OfferError> {
        if self.closed {
            return Err(OfferError::Closed);
        }
        let mut new = Vec::with_capacity(drafts.len());
        let (mut bytes, mut keys) = (0, HashSet::new());
        for draft in drafts {
            let known = match self.check_keys(&draft, looked) {
                Ok(Some(Offer::Same { batch, .. })) | Err(OfferError::EventIdTaken { batch }) => Some(batch),
                Ok(_) => None,
                Err(error) => return Err(error),
            };
            match known {
                Some(batch) if batch > self.durable => return Err(OfferError::Busy),
                Some(_) => continue,
                None if draft.event.is_some_and(|key| !keys.insert(key)) => continue,
                None => {
                    let own = bytes_of(&draft);
                    bytes += own;
                    new.push((draft, own));
                }
            }
        }
        let count = new.len() + changes;
        let crowded = self.queued > 0
            && (self.queued_bytes.saturating_add(bytes) > self.settings.queue_bytes_max
                || self.queued.saturating_add(count) > self.settings.queue_messages_max);
        if self.held || crowded {
            return Err(OfferError::Busy);
        }
        self.now = self.now.max(now);
        self.make_room(bytes);
        Ok(new)
    }

    /// Puts a draft into the newest batch, and leaves an empty one behind.
    fn take(&mut self, now: Timestamp, draft: &mut Draft, bytes: usize) -> (Arc<Message>, BatchNumber) {
        let batch = self.last_number();
        let sequence = self.source.next(now);
        let mut payload = std::mem::take(&mut draft.payload);
        if self.planted.has(Bug::PayloadMixed)
            && let Some(first) = self.open.back().and_then(|open| open.accepted.first())
        {
            payload = first.message.payload.clone().unwrap_or(payload);
        }
        let message = Arc::new(Message {
            id: MessageId::new(sequence, &mut self.rng),
            application: draft.application,
            event_type: std::mem::take(&mut draft.event_type),
            event_id: draft.event_id.take(),
            channels: std::mem::take(&mut draft.channels),
            tags: std::mem::take(&mut draft.tags),
            payload: Some(payload),
            content_type: std::mem::replace(&mut draft.content_type, ContentType::Json),
            transformations_params: draft.transformations_params.take(),
            received: draft.received.take(),
            trace: draft.trace,
            expires_at: draft.expires_at,
            deliver_at: draft.deliver_at,
        });
        let idempotency = draft.idempotency.map(|(key, digest)| DedupeEntry { key, digest, message: sequence });
        if let Some((key, digest)) = draft.idempotency {
            self.remember(key, Remembered { message: sequence, batch, digest: Some(digest) });
        }
        if let Some(key) = draft.event {
            self.remember(key, Remembered { message: sequence, batch, digest: None });
        }
        self.queued += 1;
        self.queued_bytes += bytes;
        let open = self.back();
        open.bytes += bytes;
        let fan_out = std::mem::take(&mut draft.fan_out);
        let accepted = Accepted { message: Arc::clone(&message), fan_out, idempotency, event: draft.event };
        open.accepted.push(accepted);
        (message, batch)
    }

    /// Takes changes of configuration, all into the same batch, and answers its number.
    ///
    /// # Errors
    /// `Busy` or `Closed`; nothing was taken.
    pub fn change(&mut self, changes: Vec<Change>) -> Result<BatchNumber, OfferError> {
        self.change_and_tell(self.now, changes, Vec::new())
    }

    /// As [`Intake::change`], with the operational messages that tell of the changes.
    ///
    /// # Errors
    /// `Busy` or `Closed`; nothing was taken.
    pub fn change_and_tell(
        &mut self,
        now: Timestamp,
        changes: Vec<Change>,
        told: Vec<Operational>,
    ) -> Result<BatchNumber, OfferError> {
        if self.closed {
            return Err(OfferError::Closed);
        }
        if self.held || self.queued >= self.settings.queue_messages_max {
            return Err(OfferError::Busy);
        }
        self.now = self.now.max(now);
        self.queued += changes.len() + told.len();
        for mut told in told {
            let accepted = told_accepted(&mut told, self.source.next(now), None, &mut self.rng);
            let bytes = accepted.message.payload.as_ref().map_or(0, Bytes::len);
            self.queued_bytes += bytes;
            let open = self.back();
            open.bytes += bytes;
            open.accepted.push(accepted);
        }
        self.back().changes.extend(changes);
        Ok(self.last_number())
    }

    /// A sequence for a new application or endpoint, whose id is made from it.
    pub fn sequence(&mut self, now: Timestamp) -> Sequence {
        self.now = self.now.max(now);
        self.source.next(now)
    }

    /// Takes what engine `shard` decided; never refuses. `watermark` is the engine's after these decisions. Call it after
    /// every step that wrote something; after others it does no harm and may move the watermark.
    pub fn record(
        &mut self,
        shard: ShardIndex,
        now: Timestamp,
        decided: impl IntoIterator<Item = Undurable>,
        watermark: Sequence,
    ) {
        self.now = self.now.max(now);
        for undurable in decided {
            let record = match undurable {
                Undurable::Attempt { delivery, application, number, trigger, url, outcome, after } => {
                    Record::Attempt(unsealed(delivery, application, number, trigger, url, outcome, after), None)
                }
                Undurable::Wait(waiting) => Record::Wait(shard, waiting),
                Undurable::Health { endpoint, failing_since, disable } => {
                    Record::Health(shard, endpoint, failing_since, disable, None)
                }
                Undurable::Operational(operational) => {
                    match self.records.back_mut() {
                        Some(Record::Attempt(_, told) | Record::Health(.., told)) => *told = Some(operational),
                        _ => debug_assert!(false, "an operational message that follows from nothing"),
                    }
                    continue;
                }
            };
            self.records.push_back(record);
        }
        match self.records.back_mut() {
            Some(Record::Watermark(last, newest)) if *last == shard => *newest = watermark.max(*newest),
            None => self.raise(shard, watermark),
            Some(_) => self.records.push_back(Record::Watermark(shard, watermark)),
        }
    }

    /// Refuses everything from the doors from now on.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Opens a further batch if the last one is full.
    fn make_room(&mut self, bytes: usize) {
        let (messages_max, bytes_max) = (self.settings.batch_messages_max.max(1), self.settings.batch_bytes_max);
        let open = self.back();
        let full = open.accepted.len() >= messages_max || open.bytes.saturating_add(bytes) > bytes_max;
        if !full || open.accepted.is_empty() {
            return;
        }
        self.begin_batch();
    }

    /// The newest batch takes nothing any more.
    fn begin_batch(&mut self) {
        let after = self.source.last();
        self.back().attempts_after = Some(after);
        self.source = SequenceSource::after(Sequence::from_u64(after.as_u64() + RECORDS_PER_BATCH_MAX as u64));
        self.open.push_back(Open::default());
    }

    fn back(&mut self) -> &mut Open {
        if self.open.is_empty() {
            self.open.push_back(Open::default());
        }
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    fn last_number(&self) -> BatchNumber {
        self.next + self.open.len() as u64 - 1
    }
}

/// What a draft holds in memory.
fn bytes_of(draft: &Draft) -> usize {
    let received = draft.received.as_ref().map_or(0, |received| received.content_bytes());
    draft.payload.len() + draft.transformations_params.as_ref().map_or(0, |params| params.len()) + received
}

/// An operational message in its place.
fn told_accepted(
    told: &mut Operational,
    sequence: Sequence,
    attempt: Option<AttemptId>,
    rng: &mut ChaCha12Rng,
) -> Accepted {
    let message = told.message(MessageId::new(sequence, rng), attempt, sequence.time());
    Accepted { message: Arc::new(message), fan_out: told.fan_out(), idempotency: None, event: None }
}

/// An attempt that gets its id when it is sealed.
fn unsealed(
    delivery: Delivery,
    application: ApplicationKey,
    number: AttemptNumber,
    trigger: Trigger,
    url: Arc<str>,
    outcome: Option<Outcome>,
    after: AfterAttempt,
) -> Attempt {
    let id = AttemptId::from_parts(Sequence::ZERO, [0; 12]);
    Attempt { id, delivery, application, number, trigger, url, outcome, after }
}
