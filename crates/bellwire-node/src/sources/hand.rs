//! What carries a source's messages in: the same intake as for everybody, a page at a time, with the source's own place in the commit.

use super::state::States;
use crate::clock::wall;
use crate::doors::Doors;
use anyhow::Context;
use bellwire_api::backend::{AcceptError, Backend};
use bellwire_egress::Client;
use bellwire_engine::{Draft, fan_out};
use bellwire_model::{
    ContentType, DedupeKey, EventType, EventTypeFrom, KeptHeaders, KeptRequest, Received, RequestId, RequestOutcome,
    Source, SourceCursor, SourceId, Timestamp,
};
use bellwire_plugin::sql::{Named, tls::Tls};
use bellwire_receiver::Outcome;
use bellwire_shape::{Candidate, judge};
use bellwire_store::Change;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// As for any message without a time of its own.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long to wait when too much waits for a commit.
const BUSY_WAIT: Duration = Duration::from_millis(100);
/// One page has no more messages.
pub(super) const PAGE_MAX: usize = 500;

/// A message that a source has fetched.
#[derive(Clone, Debug)]
pub(crate) struct Brought {
    /// Tells it from the source's others: what has the key of an earlier one makes no second message, as long as that one is kept.
    pub(crate) key: String,
    /// The event type, as far as it is told ([`EventType::name_from`]).
    pub(crate) event_type: Option<String>,
    pub(crate) channels: Vec<String>,
    pub(crate) payload: Bytes,
    pub(crate) content_type: ContentType,
    /// In the place of a request's path: where it was found.
    pub(crate) place: String,
    /// In the place of a request's headers, names in small letters.
    pub(crate) headers: KeptHeaders,
    /// By how many servers like this one it has been passed on.
    pub(crate) hops: u8,
}

/// What a source has fetched and cannot be a message. It is kept like a refused request.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) brought: Brought,
    pub(crate) outcome: Outcome,
    /// The status that a request would have been answered with.
    pub(crate) status: u16,
    /// Why, for the person who owns the source.
    pub(crate) reason: String,
}

/// A source's hand in the program.
pub(crate) struct Hand {
    doors: Arc<Doors>,
    /// The shard's own.
    client: Client,
    source: Arc<Source>,
}

impl Hand {
    pub(super) fn new(doors: Arc<Doors>, client: Client, source: Arc<Source>) -> Self {
        Hand { doors, client, source }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    pub(super) fn states(&self) -> &States {
        &self.doors.core.sources
    }

    /// Engine time.
    pub(super) fn now(&self) -> Timestamp {
        self.doors.core.clock.engine()
    }

    /// The wall clock.
    pub(super) fn wall(&self) -> Timestamp {
        wall()
    }

    /// What reaches out, by way of the address guard.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Databases that the operator has named.
    pub(super) fn named(&self) -> &Named {
        self.doors.plugins.databases()
    }

    /// TLS to databases.
    pub(super) fn tls(&self) -> Tls {
        self.doors.plugins.tls()
    }

    /// The largest payload that is taken.
    pub(super) fn payload_bytes_max(&self) -> usize {
        self.doors.payload_bytes_max
    }

    /// It has looked, and everything was as it should be. See [`bellwire_api::backend::SourceState`].
    pub(super) fn ran(&self, next: Option<Timestamp>, lag: Option<Duration>) {
        self.states().ran(self.source.key, self.now(), next, lag);
    }

    /// It has looked, and some of it was as it should be: it still counts as failing.
    pub(super) fn ran_in_part(&self, next: Option<Timestamp>, lag: Option<Duration>) {
        self.states().ran_in_part(self.source.key, self.now(), next, lag);
    }

    /// Some of it cannot be read, and is tried again; the rest goes on.
    pub(super) fn failed_in_part(&self, text: String) {
        let (source, way) = (&self.source, self.source.way.name());
        tracing::warn!(source.id = %source.id, way, error = text, "a part of a source failed; it is tried again, and the rest goes on");
        self.states().failed(source.key, way, self.now(), text);
    }

    /// Held by whoever changes configuration, and by whoever moves a position that the end of a source depends on.
    pub(super) async fn configuration(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.doors.core.configuration.lock().await
    }

    /// Whether the source is still as it was when this began.
    pub(super) fn is_current(&self) -> bool {
        self.doors.core.catalogue.read().sources().get(self.source.key) == Some(&self.source)
    }

    /// Moves to `position` without any message; durable when it answers. The caller holds [`Hand::configuration`].
    ///
    /// # Errors
    /// Nothing can be stored now, or the server stops.
    pub(super) async fn move_to(&self, position: String) -> anyhow::Result<()> {
        let cursor = SourceCursor { source: self.source.key, position: position.into(), moved_at: self.now() };
        let moved = self.doors.change(vec![Change::PutSourceCursor(cursor)]).await;
        moved.context("where it has got to could not be stored")
    }

    /// Whether so much waits for a commit, or the store is in such a state, that nothing more should be fetched.
    pub(super) fn is_crowded(&self) -> bool {
        self.doors.core.crowded().is_some()
    }

    /// How far it has got, in its own words.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) async fn position(&self) -> anyhow::Result<Option<Arc<str>>> {
        let (store, key) = (Arc::clone(&self.doors.core.store), self.source.key);
        let read = tokio::task::spawn_blocking(move || store.source_cursor(key)).await?;
        Ok(read.context("the store cannot be read")?.map(|cursor| cursor.position))
    }

    /// Makes messages of a page, in this order, and with `position` moves there in the very commit of the messages. When it answers, all
    /// of that is durable; how many of them are new. If too much waits it waits, too. At most [`PAGE_MAX`].
    ///
    /// # Errors
    /// The store failed, or the server stops. Nothing was kept, or all of it: the same page may be brought again.
    pub(super) async fn bring(&self, page: Vec<Brought>, position: Option<String>) -> anyhow::Result<usize> {
        self.bring_and_refuse(page, Vec::new(), position).await
    }

    /// As [`Hand::bring`], and keeps what is refused in the same commit: of very many, the newest.
    ///
    /// # Errors
    /// As of [`Hand::bring`]. What is refused may be kept twice if the same page is brought again.
    pub(super) async fn bring_and_refuse(
        &self,
        page: Vec<Brought>,
        refused: Vec<Refused>,
        position: Option<String>,
    ) -> anyhow::Result<usize> {
        let drafts = page
            .into_iter()
            .map(|brought| draft(&self.doors, &self.source, brought))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let change = position.map(|position| {
            let moved_at = self.now();
            Change::PutSourceCursor(SourceCursor { source: self.source.key, position: position.into(), moved_at })
        });
        let outcomes: Vec<Outcome> = refused.iter().map(|refused| refused.outcome).collect();
        if let Some(Refused { reason, brought, .. }) = refused.last() {
            let (count, place) = (refused.len(), brought.place.as_str());
            tracing::info!(source.id = %self.source.id, count, place, reason, "messages of a queue were refused");
        }
        let newest = refused.into_iter().rev().take(KeptRequest::COUNT_MAX).rev();
        let kept = newest.map(|refused| Change::KeepRequest(Arc::new(self.kept(refused))));
        let changes: Vec<_> = kept.chain(change).collect();
        let taken = loop {
            match self.doors.accept_page(drafts.clone(), changes.clone()).await {
                Ok(taken) => break taken,
                Err(AcceptError::Busy | AcceptError::Full) => tokio::time::sleep(BUSY_WAIT).await,
                Err(error) => return Err(error).context("its messages could not be stored"),
            }
        };
        outcomes.into_iter().for_each(|outcome| self.doors.core.metrics.received(outcome));
        if taken > 0 {
            self.states().brought(self.source.key, self.source.way.name(), self.now(), taken);
        }
        Ok(taken)
    }

    fn kept(&self, refused: Refused) -> KeptRequest {
        let Refused { brought: Brought { key, place, headers, hops, payload, .. }, status, reason, .. } = refused;
        let mut tail = [0; 12];
        self.doors.random(&mut tail);
        KeptRequest {
            id: RequestId::from_parts(self.doors.sequence(), tail),
            source: self.source.key,
            outcome: RequestOutcome::Refused { reason },
            status,
            received: Arc::new(received(&self.source, key, place, headers, hops)),
            body: Bytes::copy_from_slice(&payload[..payload.len().min(KeptRequest::BODY_MAX)]),
        }
    }
}

/// The message that becomes of what a source has brought, and to whom it goes.
///
/// # Errors
/// The application of the source is gone.
pub(super) fn draft(doors: &Doors, source: &Source, brought: Brought) -> anyhow::Result<Draft> {
    let Brought { key, event_type, channels, payload, content_type, place, headers, hops } = brought;
    let event_type = match &source.event_type {
        EventTypeFrom::Fixed(name) => name.clone(),
        EventTypeFrom::Recipe | EventTypeFrom::Place(_) => {
            EventType::name_from(event_type.as_deref(), source.way.name())
        }
    };
    let candidate = Candidate::new(&event_type, None, &channels, &[], &payload).typed(&content_type);
    let fan_out = {
        let catalogue = doors.core.catalogue.read();
        let application = catalogue.application(source.application).context("its application is gone")?;
        fan_out(application, |endpoint| judge(endpoint, &candidate).is_match(|why| doors.filter_failed(endpoint, why)))
    };
    drop(candidate);
    let received = received(source, key.clone(), place, headers, hops);
    let expires_at = doors.core.clock.engine().plus(KEPT_FOR);
    Ok(Draft {
        channels,
        content_type,
        received: Some(Arc::new(received)),
        event: Some(dedupe_key(source.id, &key)),
        ..Draft::new(source.application, fan_out, event_type, payload, expires_at)
    })
}

/// What is kept in the place of a request.
fn received(source: &Source, key: String, place: String, headers: KeptHeaders, hops: u8) -> Received {
    Received {
        source: source.id,
        method: source.way.name().to_ascii_uppercase(),
        path: place,
        query: None,
        headers,
        remote: None,
        hops,
        dedupe: Some(key),
    }
}

/// The source's id is of fixed length, so none of the two can run into the other.
fn dedupe_key(source: SourceId, key: &str) -> DedupeKey {
    let mut hash = Sha256::new();
    hash.update(b"bellwire brought");
    hash.update(source.0.as_bytes());
    hash.update(key.as_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    DedupeKey(short)
}
