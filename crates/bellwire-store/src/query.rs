//! What can be asked, and what is answered.

use bellwire_model::{
    ApiToken, Application, AttemptNumber, Cutoff, DeliveryState, EndedSubscription, Endpoint, EndpointKey, EventType,
    FanOut, Ledger, Logout, Message, Sequence, Source, SourceId, Timestamp, TokenChange,
};
use std::sync::Arc;

/// Part of a log, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first.
    pub first: Sequence,
    /// The last.
    pub last: Sequence,
}

impl Span {
    /// All of it.
    pub const ALL: Span = Span { first: Sequence::ZERO, last: Sequence::MAX };
}

/// A page and whether there is more after it in the direction of reading.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// At most the limit.
    pub items: Vec<T>,
    /// No further items in the direction of reading.
    pub done: bool,
}

/// Which messages.
#[derive(Clone, Debug)]
pub struct MessageQuery {
    /// Accepted in this span.
    pub span: Span,
    /// Oldest first instead of newest first.
    pub ascending: bool,
    /// At most so many.
    pub limit: usize,
    /// Of one of these types; all if empty.
    pub event_types: Vec<String>,
    /// Sent on this channel.
    pub channel: Option<String>,
    /// Carrying this tag.
    pub tag: Option<String>,
    /// That came in at this source.
    pub source: Option<SourceId>,
    /// With payloads.
    pub with_payload: bool,
    /// For deliveries of an endpoint: only those that stand so.
    pub status: Option<StatusFilter>,
}

/// How an attempt or a delivery went, as Svix's clients ask for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatusFilter {
    /// 0: the attempt succeeded, the delivery was delivered.
    Success,
    /// 1: the delivery was never tried.
    Pending,
    /// 2: the attempt failed; the delivery ended undelivered.
    Fail,
    /// 3: the delivery was tried and waits for its next attempt.
    Sending,
    /// 4: the delivery ended on somebody's word: aborted, expired, endpoint deleted; of attempts: the rows that say so, without an
    /// exchange.
    Canceled,
    /// 2 for clients that do not know of 4: [`StatusFilter::Fail`] or [`StatusFilter::Canceled`].
    FailOrCanceled,
}

/// Which attempts, beside where they belong.
#[derive(Clone, Debug, Default)]
pub struct AttemptFilter {
    /// Only successes or only failures.
    pub status: Option<StatusFilter>,
    /// Status codes `n00..=n99`; 0 means no status at all.
    pub status_class: Option<u16>,
    /// Of messages of one of these types; all if empty.
    pub event_types: Vec<String>,
    /// Of messages on this channel.
    pub channel: Option<String>,
    /// Of messages with this tag.
    pub tag: Option<String>,
    /// To this endpoint.
    pub endpoint: Option<EndpointKey>,
}

/// Which attempts.
#[derive(Clone, Debug)]
pub struct AttemptQuery {
    /// Recorded in this span of the attempt log.
    pub span: Span,
    /// Oldest first instead of newest first.
    pub ascending: bool,
    /// At most so many.
    pub limit: usize,
    /// Beside where they belong.
    pub filter: AttemptFilter,
    /// With response bodies.
    pub with_body: bool,
}

/// A delivery, seen from its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeliveryOfMessage {
    /// To which endpoint.
    pub endpoint: EndpointKey,
    /// Where it stands.
    pub state: DeliveryState,
    /// The number of its last attempt; 0 before the first.
    pub attempts: AttemptNumber,
}

/// A delivery, seen from its endpoint.
#[derive(Clone, Debug)]
pub struct DeliveryOfEndpoint {
    /// Of which message.
    pub message: Message,
    /// Where it stands.
    pub state: DeliveryState,
    /// The number of its last attempt; 0 before the first.
    pub attempts: AttemptNumber,
}

/// What heads an endpoint's queue in the waiting room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitingHead {
    /// When it is due.
    pub due: Timestamp,
}

/// A message above the watermark with what has neither ended nor is in the waiting room.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// The message, with its payload.
    pub message: Arc<Message>,
    /// To whom it is still owed, never tried or tried without a record.
    pub fan_out: FanOut,
}

/// What a start needs.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The newest sequence in either log or of a task; engine time starts no earlier than it.
    pub newest: Sequence,
    /// The greatest key ever given to an application, an endpoint, a source or an ended subscription.
    pub last_key: u32,
    /// All that are not deleted.
    pub applications: Vec<Arc<Application>>,
    /// All that are not deleted.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// All, archived ones included.
    pub event_types: Vec<Arc<EventType>>,
    /// All that are not deleted.
    pub sources: Vec<Arc<Source>>,
    /// All whose hubs do not know it yet.
    pub ended_subscriptions: Vec<Arc<EndedSubscription>>,
    /// What is kept about tokens.
    pub tokens: RecoveredTokens,
    /// In order of acceptance.
    pub unfinished: Vec<Unfinished>,
    /// For each endpoint with rows in the waiting room, its head.
    pub waiting: Vec<(EndpointKey, WaitingHead)>,
    /// The counters, `pending` not filled.
    pub ledger: Ledger,
}

/// What is kept about tokens, in no particular order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveredTokens {
    /// Registered ones.
    pub registered: Vec<Arc<ApiToken>>,
    /// Unregistered ones that were taken back one by one,
    pub logouts: Vec<Logout>,
    /// and all at once.
    pub cutoffs: Vec<Cutoff>,
}

impl RecoveredTokens {
    /// What a change makes of it; for stores that keep it in memory, and for tests of the others.
    pub fn apply(&mut self, change: &TokenChange) {
        match change {
            TokenChange::Put(token) => {
                let before = self.registered.iter().find(|t| t.id == token.id).and_then(|t| t.last_used_at);
                let last_used_at = before.max(token.last_used_at);
                self.registered.retain(|t| t.id != token.id);
                self.registered.push(Arc::new(ApiToken { last_used_at, ..ApiToken::clone(token) }));
            }
            TokenChange::Used(uses) => {
                for (id, at) in uses {
                    if let Some(token) = self.registered.iter_mut().find(|t| t.id == *id) {
                        Arc::make_mut(token).last_used_at = Some(*at);
                    }
                }
            }
            TokenChange::Logout(logout) => {
                self.logouts.retain(|l| l.fingerprint != logout.fingerprint);
                self.logouts.push(*logout);
            }
            TokenChange::Cut(cutoff) => {
                self.cutoffs.retain(|c| !cutoff.covers(c));
                self.cutoffs.push(cutoff.clone());
            }
            TokenChange::ForgetToken(id) => self.registered.retain(|t| t.id != *id),
            TokenChange::ForgetLogout(fingerprint) => self.logouts.retain(|l| l.fingerprint != *fingerprint),
            TokenChange::ForgetCutoff(cutoff) => self.cutoffs.retain(|c| c != cutoff),
        }
    }

    /// The same in a fixed order, to be compared.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.registered.sort_by_key(|token| token.id);
        self.logouts.sort();
        self.cutoffs.sort();
        self
    }

    /// As the changes that lead to it.
    pub fn into_changes(self) -> impl Iterator<Item = TokenChange> {
        let registered = self.registered.into_iter().map(TokenChange::Put);
        let logouts = self.logouts.into_iter().map(TokenChange::Logout);
        registered.chain(logouts).chain(self.cutoffs.into_iter().map(TokenChange::Cut))
    }
}
