//! In: all partitions of a topic, each in its order. How far each was read is told to whoever keeps it ([`Feed::position`]).
//!
//! ```text
//! look: who leads ─▶ begin: where to go on there ─▶ fetch ─▶ unpack ─▶ hand out        whatever fails is put aside, and begins again later
//! ```
//!
//! The first two are in [`follow`](super::follow), then come [`fetch`](super::fetch) and [`unpack`](super::unpack); handing out is here.
//! Of each leader one answer is under way; a batch of what came is unpacked when all before it was handed out. What is amiss with a partition, or
//! with who leads it, is told ([`Feed::amiss`]), and holds up no other one: looking and beginning go on beside the reading. When nothing can
//! be read at all, this is given up.

use super::aside::Aside;
use super::follow::{Looked, bounded, look};
use super::layout::{Layout, UNSAID};
use super::leader::{Begun, EARLIEST, LATEST, Leading, Way};
use super::link::Link;
use super::position::Position;
use super::records::{Batch, Found};
use super::wire::Odd;
use crate::consume::{Amiss, Feed, FeedError, Start, Subscription, Taken};
use crate::header;
use crate::publish::Boxed;
use crate::server::Server;
use bellwire_egress::Client;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Takes from a topic.
pub(crate) struct Partitions {
    pub(super) way: Arc<Way>,
    pub(super) layout: Layout,
    /// Over which is asked who leads; not while it is asked.
    pub(super) asking: Option<Link>,
    pub(super) looking: Option<Boxed<'static, Looked>>,
    pub(super) looked: Instant,
    pub(super) position: Position,
    /// As it was told last.
    pub(super) told: Option<Position>,
    /// Not yet told since this was opened.
    pub(super) is_fresh: bool,
    pub(super) leading: Vec<Leading>,
    pub(super) beginning: FuturesUnordered<Boxed<'static, Begun>>,
    /// Partitions of which it is being found out where to go on.
    pub(super) begun: BTreeSet<usize>,
    pub(super) aside: Aside,
    /// What came, not unpacked.
    pub(super) fetched: VecDeque<(usize, Batch)>,
    /// What is unpacked.
    pub(super) ready: VecDeque<Ready>,
}

/// What can be handed out.
pub(super) struct Ready {
    pub(super) place: usize,
    /// The offset to go on with behind it.
    pub(super) after: i64,
    /// Of the leader under whom the record before that was written.
    pub(super) epoch: Option<i32>,
    pub(super) what: What,
}

pub(super) enum What {
    Record(Found),
    /// What was at this offset is gone, because of that.
    Gone(i64, String),
}

impl Partitions {
    /// Takes up where `position` says, or where the subscription does if that is of no topic, or of another one.
    pub(crate) async fn open(
        client: &Client,
        server: &Server,
        subscription: &Subscription,
        position: Option<&str>,
        limit: Duration,
    ) -> Result<Self, FeedError> {
        let (client, server, topic) = (client.clone(), server.clone(), subscription.stream.clone());
        let way = Arc::new(Way { client, server, topic, limit });
        let position = position.and_then(|text| serde_json::from_str(text).ok());
        Self::open_at(way, subscription.start, position).await
    }

    pub(super) async fn open_at(way: Arc<Way>, start: Start, told: Option<Position>) -> Result<Self, FeedError> {
        let (asking, layout) = look(Arc::clone(&way), None).await?;
        let topic = &way.topic;
        let layout = layout.ok_or_else(|| FeedError(format!("there is no topic {topic}")))?;
        let count = bounded(topic, &layout)?;
        let carried = told.clone().and_then(|position| position.carried(topic, &layout));
        let from = match (&carried, start) {
            (None, Start::New) => LATEST,
            _ => EARLIEST,
        };
        let position = carried.unwrap_or_else(|| Position::begin(topic, &layout));
        let mut opened = Partitions {
            way,
            layout,
            asking: Some(asking),
            looking: None,
            looked: Instant::now(),
            position,
            told,
            is_fresh: true,
            leading: Vec::new(),
            beginning: FuturesUnordered::new(),
            begun: BTreeSet::new(),
            aside: Aside::default(),
            fetched: VecDeque::new(),
            ready: VecDeque::new(),
        };
        opened.begin(0..count, from, false);
        if from == LATEST {
            while let Some(begun) = opened.beginning.next().await {
                opened.take_up(begun);
            }
            if !opened.aside.is_empty() {
                // Where they end now could not be said later.
                return Err(FeedError(opened.aside.text()));
            }
        }
        Ok(opened)
    }
}

impl Feed for Partitions {
    fn take(&mut self, most: usize, wait: Duration) -> Boxed<'_, Result<Vec<Taken>, FeedError>> {
        Box::pin(async move {
            if std::mem::take(&mut self.is_fresh) && self.told.as_ref() != Some(&self.position) {
                // From now on, what comes is ours, whoever dies.
                return Ok(Vec::new());
            }
            let deadline = Instant::now() + wait;
            while self.ready.is_empty() && Instant::now() < deadline {
                match self.fetched.pop_front() {
                    Some((place, batch)) => self.unpack(place, batch).await,
                    None => self.fetch(wait, deadline).await?,
                }
            }
            let mut all = Vec::new();
            while all.len() < most
                && let Some(ready) = self.ready.pop_front()
            {
                let Ready { place, after, epoch, .. } = ready;
                match taken(&self.way.topic, self.layout.id.as_deref(), ready) {
                    Ok(taken) => {
                        all.push(taken);
                        self.position.go_on(place, after, epoch);
                    }
                    Err(odd) => self.put_aside(place, after - 1, &odd),
                }
            }
            Ok(all)
        })
    }

    /// Nothing is told to Kafka.
    fn settle(&mut self, _: usize) -> Boxed<'_, Result<(), FeedError>> {
        Box::pin(async { Ok(()) })
    }

    fn position(&mut self) -> Option<String> {
        if self.told.as_ref() == Some(&self.position) {
            return None;
        }
        self.told = Some(self.position.clone());
        serde_json::to_string(&self.position).ok()
    }

    fn amiss(&mut self) -> Amiss {
        Amiss { news: self.aside.news(), is_still: !self.aside.is_empty() }
    }
}

fn taken(topic: &str, id: Option<&str>, Ready { place, after, epoch, what }: Ready) -> Result<Taken, Odd> {
    let id = id.unwrap_or_default();
    let taken = Taken {
        place: String::new(),
        stream: None,
        published: None,
        subject: topic.to_owned(),
        headers: Vec::new(),
        payload: Bytes::new(),
        gone: None,
    };
    Ok(match what {
        What::Record(found) => {
            let key = found.key.as_deref().and_then(|key| str::from_utf8(key).ok());
            let key = key.map(|key| (header::KAFKA_KEY.to_owned(), key.to_owned()));
            Taken {
                place: format!("{topic}/{place} {}", found.offset),
                // A partition that has lost its end gives the same offsets again, under another leader.
                stream: Some(format!("{id} {}", epoch.unwrap_or(UNSAID))),
                published: Some(found.at).filter(|at| *at >= 0),
                headers: key.into_iter().chain(found.headers()?).collect(),
                payload: found.value.unwrap_or_default(),
                ..taken
            }
        }
        What::Gone(offset, why) => Taken {
            place: format!("{topic}/{place} {offset}"),
            stream: Some(format!("{id} gone {after}")),
            gone: Some(why),
            ..taken
        },
    })
}
