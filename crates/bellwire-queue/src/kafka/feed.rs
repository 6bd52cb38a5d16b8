//! In: all partitions of a topic, each in its order. How far each was read is told to whoever keeps it ([`Feed::position`]).
//!
//! ```text
//! look: who leads ─▶ begin: where to go on there ─▶ fetch ─▶ unpack ─▶ hand out        whatever fails is put aside, and begins again later
//! ```
//!
//! Of each leader one answer is under way; a batch of what came is unpacked when all before it was handed out. What is amiss with a partition, or
//! with who leads it, is told ([`Feed::amiss`]), and holds up no other one: looking and beginning go on beside the reading. When nothing can
//! be read at all, this is given up.

use super::aside::Aside;
use super::follow::{Looked, bounded, look};
use super::layout::{Layout, UNSAID};
use super::leader::{Begun, EARLIEST, LATEST, Leading, Part, Way, fetched};
use super::link::Link;
use super::position::Position;
use super::records::{Batch, Committed, Found, batches};
use super::wire::{Odd, Reader, code, told};
use crate::consume::{Amiss, Feed, FeedError, Start, Subscription, Taken};
use crate::header;
use crate::publish::{Boxed, PublishError};
use crate::server::Server;
use bellwire_egress::Client;
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After this it is asked again who leads, and whether there are more partitions.
const LOOK_AFTER: Duration = Duration::from_secs(30);

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

/// What is waited for.
enum Event {
    Looked(Looked),
    Begun(Begun),
    Answered(usize, Result<Reader, PublishError>),
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

    /// Asks everybody who is not being asked, and takes in what comes first, until `deadline`.
    async fn fetch(&mut self, wait: Duration, deadline: Instant) -> Result<(), FeedError> {
        self.ask(wait).await;
        let overdue = self.overdue(wait + self.way.limit);
        let next_look = (self.looked + LOOK_AFTER).min(self.aside.next().unwrap_or(deadline));
        if self.looking.is_none() && next_look <= Instant::now() {
            self.looking = Some(Box::pin(look(Arc::clone(&self.way), self.asking.take())));
        }
        if self.leading.is_empty() && self.beginning.is_empty() {
            return Err(FeedError(self.aside.text()));
        }
        let until = if self.looking.is_some() { deadline } else { next_look.min(deadline) };
        let event = match overdue {
            Some(event) => Some(event),
            None => self.wait(until).await,
        };
        match event {
            None => {}
            Some(Event::Begun(begun)) => self.take_up(begun),
            Some(Event::Looked(looked)) => self.follow(looked).await?,
            Some(Event::Answered(from, answer)) => {
                let mut leading = self.leading.swap_remove(from);
                leading.is_asked = false;
                let parts = answer.and_then(|mut answer| fetched(&mut answer).map_err(|odd| leading.link.odd(odd)));
                match parts {
                    Ok((0, parts)) => self.take_in(leading, parts),
                    Ok((number, _)) => {
                        let why = format!("{} cannot be read: {}", self.way.topic, told(number));
                        self.aside.put(&leading.places(), &why, false, Instant::now());
                    }
                    Err(error) => self.aside.put(&leading.places(), &error.to_string(), false, Instant::now()),
                }
            }
        }
        Ok(())
    }

    /// What comes first.
    async fn wait(&mut self, until: Instant) -> Option<Event> {
        let answer = async |(from, leading): (usize, &mut Leading)| Event::Answered(from, leading.link.answer().await);
        let mut answers: FuturesUnordered<_> = self.leading.iter_mut().enumerate().map(answer).collect();
        let looking = async {
            match &mut self.looking {
                Some(looking) => looking.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What is rare comes first: answers may come without end.
            biased;
            Some(begun) = self.beginning.next() => Some(Event::Begun(begun)),
            looked = looking => Some(Event::Looked(looked)),
            Some(event) = answers.next() => Some(event),
            () = tokio::time::sleep_until(until) => None,
        }
    }

    /// Asks everybody who is not being asked.
    async fn ask(&mut self, wait: Duration) {
        let (position, now) = (&self.position, Instant::now());
        let mut still = Vec::with_capacity(self.leading.len());
        for mut leading in self.leading.drain(..).filter(|leading| !leading.partitions.is_empty()) {
            let asked = match leading.is_asked {
                false => leading.ask(&self.way.topic, |place| position.next(place), wait).await,
                true => Ok(()),
            };
            match asked {
                Ok(()) => still.push(leading),
                Err(error) => self.aside.put(&leading.places(), &error.to_string(), false, now),
            }
        }
        self.leading = still;
    }

    /// Gives up who does not answer. What came while nobody looked, because there was no room for more, is an answer, or a part of one.
    fn overdue(&mut self, patience: Duration) -> Option<Event> {
        let is_late = |leading: &Leading| leading.link.silent_for().is_some_and(|silent| silent > patience);
        while let Some(from) = self.leading.iter().position(is_late) {
            if let Some(answer) = self.leading[from].link.answer().now_or_never() {
                return Some(Event::Answered(from, answer));
            }
            if !is_late(&self.leading[from]) {
                continue;
            }
            let silent = self.leading.swap_remove(from);
            let why = format!("{} does not answer within {patience:?}", silent.link.name());
            self.aside.put(&silent.places(), &why, false, Instant::now());
        }
        None
    }

    /// The batches of an answer of this leader. One that was asked by itself, and answers as it should, is from then on asked together with
    /// what else is read there.
    fn take_in(&mut self, mut leading: Leading, parts: Vec<Part>) {
        let (topic, now) = (self.way.topic.clone(), Instant::now());
        for Part { place, number, aborted, records } in parts {
            let Some(next) = self.position.next(place).filter(|_| leading.reads(place)) else { continue };
            let failed = match number {
                0 => self.keep(place, next, aborted, records).err(),
                code::OFFSET_OUT_OF_RANGE => {
                    leading.partitions.retain(|led| led.place != place);
                    self.begin([place], EARLIEST, true);
                    None
                }
                number => Some(format!("{topic}/{place} cannot be read: {}", told(number))),
            };
            if let Some(why) = failed {
                leading.partitions.retain(|led| led.place != place);
                self.aside.put(&[place], &why, code::is_of_leader(number), now);
            }
        }
        match self.leading.iter_mut().find(|other| other.id == leading.id) {
            Some(other) => other.partitions.append(&mut leading.partitions),
            None => self.leading.push(leading),
        }
    }

    /// What came of a partition.
    fn keep(&mut self, place: usize, next: i64, aborted: Vec<(i64, i64)>, records: Bytes) -> Result<(), String> {
        let (mut committed, has_some, mut seen) = (Committed::new(aborted), !records.is_empty(), next);
        let (batches, fault) = batches(records);
        for batch in batches {
            let takes = committed.takes(&batch);
            // The first may begin before what was asked for.
            if batch.end > seen {
                seen = batch.end;
                self.fetched.push_back((place, if takes { batch } else { batch.without_records() }));
            }
        }
        match fault {
            _ if seen > next => Ok(()),
            Some(error) => Err(unreadable(&self.way.topic, place, next, &error)),
            // A broker gives the first batch whole, whatever its size. Asked again it would say the same.
            None if has_some => {
                let odd = Odd("no batch of what came is whole and behind what was read");
                Err(unreadable(&self.way.topic, place, next, &odd))
            }
            None => {
                self.aside.is_mended(place);
                Ok(())
            }
        }
    }

    /// Unpacks a batch.
    async fn unpack(&mut self, place: usize, batch: Batch) {
        let (end, epoch) = (batch.end, Some(batch.leader_epoch));
        let from = self.position.next(place).unwrap_or_default();
        let records = match batch.is_compressed() {
            // It takes a while, and nobody else on this thread shall wait for it.
            true => match tokio::task::spawn_blocking(move || batch.records()).await {
                Ok(records) => records.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            },
            false => batch.records().map_err(|error| error.to_string()),
        };
        let records = match records {
            Ok(records) => records,
            Err(error) => return self.put_aside(place, from, &error),
        };
        self.aside.is_mended(place);
        let mut all: Vec<Found> = records.into_iter().filter(|found| found.offset >= from).collect();
        // Cleaning may leave nothing of a batch, and it does not leave its end.
        let Some(last) = all.pop() else {
            self.position.go_on(place, end.max(from), epoch);
            return;
        };
        let ready = |(found, after)| Ready { place, after, epoch, what: What::Record(found) };
        let before = all.into_iter().map(|found| (found.offset + 1, found)).map(|(after, found)| (found, after));
        self.ready.extend(before.chain([(last, end)]).map(ready));
    }

    /// What is at `from` cannot be read; nor is anything behind it, for now.
    fn put_aside(&mut self, place: usize, from: i64, error: &dyn std::fmt::Display) {
        let why = unreadable(&self.way.topic, place, from, error);
        self.leading.iter_mut().for_each(|leading| leading.partitions.retain(|led| led.place != place));
        self.fetched.retain(|(other, _)| *other != place);
        self.ready.retain(|ready| ready.place != place);
        self.aside.put(&[place], &why, false, Instant::now());
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

fn unreadable(topic: &str, place: usize, from: i64, error: &dyn std::fmt::Display) -> String {
    format!("a batch of {topic}/{place}, at {from} or behind it, cannot be read: {error}")
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

#[cfg(test)]
#[path = "../../tests/it/broker.rs"]
#[allow(clippy::unwrap_used, dead_code, reason = "shared with the tests of the whole")]
mod broker;

#[cfg(test)]
mod tests {
    use super::super::records::{Record, batch};
    use super::*;
    use crate::server::{Broker, Credentials};
    use bellwire_egress::{Egress, Guard, Settings};
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn an_answer_that_came_while_nobody_looked_is_one() {
        let (go_on, may_go_on) = channel::<()>();
        let may_go_on = parking_lot::Mutex::new(may_go_on);
        let record = Record { key: None, headers: Vec::new(), value: "{}".into(), at: 1 };
        let records = batch(&[&record]);
        let broker = broker::Broker::start(move |api, port| match api {
            broker::METADATA => broker::metadata(1, port),
            broker::LIST_OFFSETS => broker::begins(),
            broker::FETCH => may_go_on.lock().recv().ok().and_then(|()| broker::fetched(&records)),
            _ => None,
        });
        let guard = Guard { allowed_networks: vec!["127.0.0.0/8".parse().expect("a network")], ..Guard::default() };
        let egress = Egress::new(Settings { guard, ..Settings::default() }).expect("settings");
        let url = format!("kafka://127.0.0.1:{}", broker.port);
        let server = Server::parse(Broker::Kafka, &url, Credentials::default()).expect("a server");
        let (stream, group, start) = ("events".to_owned(), String::new(), Start::Oldest);
        let subscription = Subscription { stream, group, filter: None, start, payload_field: String::new() };
        let client = egress.client().expect("a client");
        let patient = Duration::from_secs(20);
        let mut feed = Partitions::open(&client, &server, &subscription, None, patient).await.expect("opens");
        assert!(feed.take(1, patient).await.expect("tells its position").is_empty());
        while !feed.leading.iter().any(|leading| leading.is_asked) {
            assert!(feed.take(1, Duration::from_millis(1)).await.expect("waits").is_empty());
        }
        // As if there were no room for longer than a broker has for its answer; it came long ago.
        go_on.send(()).expect("it is asked");
        feed.way = Arc::new(Way { client, server, topic: "events".to_owned(), limit: Duration::ZERO });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let taken = feed.take(1, Duration::from_millis(1)).await.expect("is an answer");
        assert_eq!((taken.len(), feed.aside.text()), (1, String::new()));
    }
}
