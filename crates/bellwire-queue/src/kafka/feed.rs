//! In: all partitions of a topic, each in its order. How far each was read is told to whoever keeps it ([`Feed::position`]).
//!
//! Of each leader one answer is under way; a batch of what came is unpacked when all before it was handed out. When anything is amiss this
//! is given up, so that the next one asks anew who leads. Partitions that nobody leads hold up the others for no longer than it takes to find
//! that out; half a minute later it is an error, so that it is seen.

use super::layout::{Layout, reach_any};
use super::link::Link;
use super::records::{Batch, Committed, Found, batches};
use super::wire::{FETCH, LIST_OFFSETS, Odd, Reader, code, told};
use crate::consume::{Feed, FeedError, Start, Subscription, Taken};
use crate::header;
use crate::publish::{Boxed, PublishError};
use crate::server::Server;
use bellwire_egress::Client;
use bytes::Bytes;
use futures_util::future::{join_all, select_all};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// A source reads so many partitions.
const PARTITIONS_MAX: usize = 1_024;
/// An answer has about so much, of one partition and of all; one batch comes whole, whatever its size.
const PARTITION_BYTES: i32 = 1 << 20;
const FETCH_BYTES: i32 = 4 << 20;
/// After this it is asked again who leads, and whether there are more partitions.
const LOOK_AFTER: Duration = Duration::from_secs(30);
/// What transactions have not committed is not read.
const COMMITTED_ONLY: i8 = 1;
/// Instead of times: the first offset there is, and the one behind the last that may be read.
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// How far a topic was read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Position {
    cluster: Option<String>,
    topic: String,
    /// The topic's own.
    id: Option<String>,
    /// For each partition the offset to go on with; none if its beginning is not known yet.
    next: Vec<Option<i64>>,
}

impl Position {
    /// Where to go on in a topic as it is now, if this is of it at all. A topic that was made anew is new from its beginning.
    fn carried(self, topic: &str, layout: &Layout) -> Option<Vec<Option<i64>>> {
        if self.topic != topic || (self.cluster.is_some() && layout.cluster.is_some() && self.cluster != layout.cluster)
        {
            return None;
        }
        let anew = self.id.is_some() && layout.id.is_some() && self.id != layout.id;
        let mut next = if anew { Vec::new() } else { self.next };
        // A broker that has just begun may not know of all partitions yet; topics do not lose any.
        next.resize(layout.leaders.len().max(next.len()), None);
        Some(next)
    }
}

/// What every opening needs.
#[derive(Clone)]
struct Way {
    client: Client,
    server: Server,
    topic: String,
    start: Start,
    limit: Duration,
}

/// Takes from a topic.
pub(crate) struct Partitions {
    way: Way,
    layout: Layout,
    /// Over which is asked who leads.
    asking: Link,
    looked: Instant,
    position: Position,
    /// As it was told last.
    told: Option<Position>,
    /// Not yet told since this was opened.
    is_fresh: bool,
    leading: Vec<Leading>,
    /// Why some partitions are not read.
    aside: Option<String>,
    /// What came, not unpacked.
    fetched: VecDeque<(usize, Batch)>,
    /// What is unpacked.
    ready: VecDeque<Ready>,
}

/// What can be handed out.
struct Ready {
    place: usize,
    /// The offset to go on with behind it.
    after: i64,
    what: What,
}

enum What {
    /// By the leader of this time.
    Record(i32, Found),
    /// What was at this offset is gone, because of that.
    Gone(i64, String),
}

/// A broker that leads some of the partitions.
struct Leading {
    link: Link,
    partitions: Vec<usize>,
    /// Since when an answer is awaited.
    asked: Option<Instant>,
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
        let Subscription { stream: topic, start, .. } = subscription;
        let (client, server) = (client.clone(), server.clone());
        let way = Way { client, server, topic: topic.clone(), start: *start, limit };
        let position = position.and_then(|text| serde_json::from_str(text).ok());
        Self::open_at(way, position).await
    }

    async fn open_at(way: Way, told: Option<Position>) -> Result<Self, FeedError> {
        let Way { client, server, topic, limit, .. } = &way;
        let mut asking = reach_any(client, server, *limit).await?;
        let layout = Layout::ask(&mut asking, topic, true).await?;
        let layout = layout.ok_or_else(|| FeedError(format!("there is no topic {topic}")))?;
        let count = layout.leaders.len();
        if count > PARTITIONS_MAX {
            return Err(FeedError(format!("{topic} has {count} partitions, and at most {PARTITIONS_MAX} are read")));
        }
        let carried = told.clone().and_then(|position| position.carried(topic, &layout));
        let from = match (&carried, way.start) {
            (None, Start::New) => LATEST,
            _ => EARLIEST,
        };
        let next = carried.unwrap_or_else(|| vec![None; count]);
        let (cluster, id) = (layout.cluster.clone(), layout.id.clone());
        let position = Position { cluster, topic: topic.clone(), id, next };
        let (leading, aside) = connect(&way, &layout).await?;
        let (looked, is_fresh) = (Instant::now(), true);
        let (fetched, ready) = (VecDeque::new(), VecDeque::new());
        let mut opened =
            Partitions { way, layout, asking, looked, position, told, is_fresh, leading, aside, fetched, ready };
        opened.begin(from).await?;
        Ok(opened)
    }

    /// Finds the beginning of partitions of which it is not known.
    async fn begin(&mut self, from: i64) -> Result<(), FeedError> {
        if from == LATEST
            && let Some(why) = &self.aside
        {
            // Where they end now could not be said later.
            return Err(FeedError(why.clone()));
        }
        for leading in &mut self.leading {
            let unknown = |place: &&usize| self.position.next.get(**place).is_some_and(Option::is_none);
            let unknown: Vec<usize> = leading.partitions.iter().filter(unknown).copied().collect();
            for (place, offset) in offsets(&mut leading.link, &self.way, &unknown, from).await? {
                if let Some(next) = self.position.next.get_mut(place) {
                    *next = Some(offset);
                }
            }
        }
        Ok(())
    }

    /// Asks who leads now. Begins anew if that has changed.
    async fn look(&mut self) -> Result<(), FeedError> {
        let asked = Layout::ask(&mut self.asking, &self.way.topic, true).await;
        let layout = match asked {
            Ok(layout) => layout,
            Err(_) => {
                // Brokers end connections on which nothing was said for long.
                self.asking = reach_any(&self.way.client, &self.way.server, self.way.limit).await?;
                Layout::ask(&mut self.asking, &self.way.topic, true).await?
            }
        };
        let layout = layout.ok_or_else(|| FeedError(format!("there is no topic {} any more", self.way.topic)))?;
        if layout.leaders != self.layout.leaders || layout.id != self.layout.id {
            *self = Self::open_at(self.way.clone(), Some(self.position.clone())).await?;
        } else if let Some(why) = self.aside.take() {
            return Err(FeedError(why));
        }
        self.looked = Instant::now();
        Ok(())
    }

    /// Asks everybody who is not being asked, and takes in the first answer that comes, until `deadline`.
    async fn fetch(&mut self, wait: Duration, deadline: Instant) -> Result<(), FeedError> {
        for leading in &mut self.leading {
            if leading.asked.is_none() {
                leading.partitions.rotate_left(1);
                let from: Vec<(usize, i64)> = leading
                    .partitions
                    .iter()
                    .filter_map(|place| Some((*place, (*self.position.next.get(*place)?)?)))
                    .collect();
                ask(&mut leading.link, &self.way.topic, &from, wait).await?;
                leading.asked = Some(Instant::now());
            }
            let patience = wait + self.way.limit;
            if leading.asked.is_some_and(|asked| asked.elapsed() > patience) {
                return Err(FeedError(format!("a broker does not answer within {patience:?}")));
            }
        }
        if self.leading.is_empty() {
            tokio::time::sleep_until(deadline).await;
            return Ok(());
        }
        let answers = self.leading.iter_mut().map(|leading| Box::pin(leading.link.answer()));
        let Ok((answer, from, _)) = tokio::time::timeout_at(deadline, select_all(answers)).await else {
            return Ok(());
        };
        let answer = answer?;
        // Who has answered is looked at last the next time.
        self.leading[from].asked = None;
        self.leading[from..].rotate_left(1);
        self.take_in(answer, self.leading.len() - 1).await
    }

    /// The batches of an answer of the leader at `from`.
    async fn take_in(&mut self, mut answer: Reader, from: usize) -> Result<(), FeedError> {
        let topic = self.way.topic.clone();
        let (number, parts) = fetched(&mut answer).map_err(|odd| self.leading[from].link.odd(odd))?;
        if number != 0 {
            return Err(FeedError(format!("{topic} cannot be read: {}", told(number))));
        }
        for Part { place, number, aborted, records } in parts {
            let Some(next) = self.position.next.get(place).copied().flatten() else { continue };
            match number {
                0 => {}
                code::OFFSET_OUT_OF_RANGE => {
                    self.out_of_range(place, next, from).await?;
                    continue;
                }
                number => return Err(FeedError(format!("{topic}/{place} cannot be read: {}", told(number)))),
            }
            let (mut committed, has_some, mut seen) = (Committed::new(aborted), !records.is_empty(), next);
            for batch in batches(records).map_err(|error| unreadable(&topic, place, next, &error))? {
                let takes = committed.takes(&batch);
                // The first may begin before what was asked for.
                if batch.end > seen {
                    seen = batch.end;
                    self.fetched.push_back((place, if takes { batch } else { batch.without_records() }));
                }
            }
            if has_some && seen == next {
                // A broker gives the first batch whole, whatever its size. Asked again it would say the same.
                let odd = Odd("no batch of what came is whole and behind what was read");
                return Err(unreadable(&topic, place, next, &odd));
            }
        }
        Ok(())
    }

    /// What was to be read is not there: because Kafka has removed it before it was read, or because it has lost it. It is gone, whoever stops;
    /// that it is gone is handed out in its place.
    async fn out_of_range(&mut self, place: usize, next: i64, from: usize) -> Result<(), FeedError> {
        let (link, topic) = (&mut self.leading[from].link, &self.way.topic);
        let begins = offsets(link, &self.way, &[place], EARLIEST).await?;
        let ends = offsets(link, &self.way, &[place], LATEST).await?;
        let ([(_, earliest), ..], [(_, latest), ..]) = (&begins[..], &ends[..]) else {
            return Err(link.odd(Odd("it says no offset")).into());
        };
        let (earliest, latest) = (*earliest, *latest);
        let (on, why) = if next < earliest {
            let why = format!("records {next} to {} were removed by Kafka before they were taken", earliest - 1);
            (earliest, why)
        } else if next > latest {
            (latest, format!("Kafka has lost records: what was taken ends at {next}, and what it has ends at {latest}"))
        } else {
            // Found again meanwhile, or not yet to be read.
            return Err(FeedError(format!(
                "{topic}/{place} cannot be read at {next}: {}",
                told(code::OFFSET_OUT_OF_RANGE)
            )));
        };
        let why = format!("{topic}/{place}: {why}");
        self.ready.push_back(Ready { place, after: on, what: What::Gone(next, why) });
        Ok(())
    }

    /// Unpacks a batch.
    async fn unpack(&mut self, place: usize, batch: Batch) -> Result<(), FeedError> {
        let (topic, end, epoch) = (&self.way.topic, batch.end, batch.leader_epoch);
        let Some(next) = self.position.next.get_mut(place) else { return Ok(()) };
        let from = next.unwrap_or_default();
        let records = match batch.is_compressed() {
            // It takes a while, and nobody else on this thread shall wait for it.
            true => tokio::task::spawn_blocking(move || batch.records()).await,
            false => Ok(batch.records()),
        };
        let records = records.map_err(|error| FeedError(error.to_string()))?;
        let records = records.map_err(|error| unreadable(topic, place, from, &error))?;
        let mut all: Vec<Found> = records.into_iter().filter(|found| found.offset >= from).collect();
        // Cleaning may leave nothing of a batch, and it does not leave its end.
        let Some(last) = all.pop() else {
            *next = Some(end);
            return Ok(());
        };
        let ready = |(found, after)| Ready { place, after, what: What::Record(epoch, found) };
        let before = all.into_iter().map(|found| (found.offset + 1, found)).map(|(after, found)| (found, after));
        self.ready.extend(before.chain([(last, end)]).map(ready));
        Ok(())
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
            while self.ready.is_empty() {
                if let Some((place, batch)) = self.fetched.pop_front() {
                    self.unpack(place, batch).await?;
                } else if self.looked.elapsed() > LOOK_AFTER {
                    self.look().await?;
                } else if Instant::now() < deadline {
                    self.fetch(wait, deadline).await?;
                } else {
                    break;
                }
            }
            let mut all = Vec::new();
            for ready in self.ready.drain(..most.min(self.ready.len())) {
                let (place, after) = (ready.place, ready.after);
                let from = self.position.next.get_mut(place);
                let taken = taken(&self.way.topic, self.layout.id.as_deref(), ready);
                all.push(taken.map_err(|odd| unreadable(&self.way.topic, place, after - 1, &odd))?);
                from.into_iter().for_each(|next| *next = Some(after));
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
}

fn unreadable(topic: &str, place: usize, from: i64, error: &dyn std::error::Error) -> FeedError {
    FeedError(format!("a batch of {topic}/{place}, at {from} or behind it, cannot be read: {error}"))
}

/// Connections to everybody who leads, and why some partitions are not read.
async fn connect(way: &Way, layout: &Layout) -> Result<(Vec<Leading>, Option<String>), FeedError> {
    let Way { client, server, topic, limit, .. } = way;
    let mut ids: Vec<i32> = layout.leaders.iter().flatten().copied().collect();
    ids.sort_unstable();
    ids.dedup();
    let mut aside =
        layout.leaders.iter().position(Option::is_none).map(|place| format!("{topic}/{place} has no leader"));
    let opening = ids.into_iter().map(async |id| {
        let missing = || PublishError::Unconnected(format!("nobody says where broker {id} is"));
        let place = layout.brokers.get(&id).ok_or_else(missing)?;
        Link::open(client, server, place, *limit).await.map(|link| (id, link))
    });
    let mut leading = Vec::new();
    for opened in join_all(opening).await {
        match opened {
            Ok((id, link)) => {
                let own = |(place, leader): (usize, &Option<i32>)| (*leader == Some(id)).then_some(place);
                let partitions = layout.leaders.iter().enumerate().filter_map(own).collect();
                leading.push(Leading { link, partitions, asked: None });
            }
            Err(error) => aside = Some(error.to_string()),
        }
    }
    match (leading.is_empty(), aside) {
        (true, Some(why)) => Err(FeedError(why)),
        (_, aside) => Ok((leading, aside)),
    }
}

/// Where partitions begin or end.
async fn offsets(link: &mut Link, way: &Way, places: &[usize], time: i64) -> Result<Vec<(usize, i64)>, FeedError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let asking = link.call(LIST_OFFSETS, |request| {
        request.i32(-1);
        request.i8(COMMITTED_ONLY);
        request.count(1);
        request.string(Some(&way.topic));
        request.count(places.len());
        for place in places {
            request.i32(number(*place));
            request.i64(time);
        }
    });
    let late = |_| Err(PublishError::Timeout(way.limit));
    let mut answer = tokio::time::timeout(way.limit, asking).await.unwrap_or_else(late)?;
    let all = listed(&mut answer).map_err(|odd| link.odd(odd))?;
    all.into_iter()
        .map(|(place, error, offset)| match error {
            0 if offset >= 0 => Ok((place, offset)),
            error => Err(FeedError(format!("{}/{place} does not say where it begins: {}", way.topic, told(error)))),
        })
        .collect()
}

fn listed(answer: &mut Reader) -> Result<Vec<(usize, i16, i64)>, Odd> {
    answer.i32()?;
    let topics = answer.each(|one| {
        one.string()?;
        one.each(|one| {
            let (place, error, _, offset) = (one.i32()?, one.i16()?, one.i64()?, one.i64()?);
            Ok((usize::try_from(place).map_err(|_| Odd("a partition has no number"))?, error, offset))
        })
    })?;
    Ok(topics.into_iter().flatten().collect())
}

async fn ask(link: &mut Link, topic: &str, from: &[(usize, i64)], wait: Duration) -> Result<(), PublishError> {
    link.ask(FETCH, |request| {
        request.i32(-1);
        request.i32(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX));
        request.i32(1);
        request.i32(FETCH_BYTES);
        request.i8(COMMITTED_ONLY);
        // No session: all is said each time.
        request.i32(0);
        request.i32(-1);
        request.count(1);
        request.string(Some(topic));
        request.count(from.len());
        for (place, offset) in from {
            request.i32(number(*place));
            request.i32(-1);
            request.i64(*offset);
            request.i64(-1);
            request.i32(PARTITION_BYTES);
        }
        request.count(0);
    })
    .await
}

/// What an answer has of one partition.
struct Part {
    place: usize,
    number: i16,
    /// First offsets and producers of transactions that came to nothing.
    aborted: Vec<(i64, i64)>,
    records: Bytes,
}

fn fetched(answer: &mut Reader) -> Result<(i16, Vec<Part>), Odd> {
    answer.i32()?;
    let number = answer.i16()?;
    answer.i32()?;
    let topics = answer.each(|one| {
        one.string()?;
        one.each(|one| {
            let place = usize::try_from(one.i32()?).map_err(|_| Odd("a partition has no number"))?;
            let number = one.i16()?;
            // Where it ends, what of it may be read, and where it begins.
            one.take(24)?;
            let aborted = one.each(|one| {
                let (producer, first) = (one.i64()?, one.i64()?);
                Ok((first, producer))
            })?;
            Ok(Part { place, number, aborted, records: one.blob()?.unwrap_or_default() })
        })
    })?;
    Ok((number, topics.into_iter().flatten().collect()))
}

fn number(place: usize) -> i32 {
    i32::try_from(place).unwrap_or(i32::MAX)
}

fn taken(topic: &str, id: Option<&str>, Ready { place, after, what }: Ready) -> Result<Taken, Odd> {
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
        What::Record(epoch, found) => {
            let key = found.key.as_deref().and_then(|key| str::from_utf8(key).ok());
            let key = key.map(|key| (header::KAFKA_KEY.to_owned(), key.to_owned()));
            Taken {
                place: format!("{topic}/{place} {}", found.offset),
                // A partition that has lost its end gives the same offsets again, under another leader.
                stream: Some(format!("{id} {epoch}")),
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
mod tests {
    use super::*;

    #[test]
    fn a_position_is_carried_on_in_the_same_topic_only() {
        let position = |cluster: &str, id: Option<&str>| Position {
            cluster: Some(cluster.to_owned()),
            topic: "orders".to_owned(),
            id: id.map(str::to_owned),
            next: vec![Some(7), None],
        };
        let layout = Layout {
            cluster: Some("c".to_owned()),
            id: Some("i".to_owned()),
            leaders: vec![Some(1); 3],
            ..Layout::default()
        };
        let four = |cluster| Position { next: vec![Some(7), None, Some(9), Some(3)], ..position(cluster, Some("i")) };
        for (position, topic, expected) in [
            (position("c", Some("i")), "orders", Some(vec![Some(7), None, None])),
            (position("c", None), "orders", Some(vec![Some(7), None, None])),
            // Asked was who does not know of all partitions yet.
            (four("c"), "orders", Some(vec![Some(7), None, Some(9), Some(3)])),
            // Made anew: all of it is new.
            (position("c", Some("j")), "orders", Some(vec![None; 3])),
            (position("d", Some("i")), "orders", None),
            (position("c", Some("i")), "payments", None),
        ] {
            assert_eq!(position.clone().carried(topic, &layout), expected, "{position:?} {topic}");
            let text = serde_json::to_string(&position).expect("is written");
            assert_eq!(serde_json::from_str::<Position>(&text).expect("is read"), position);
        }
        // What another kind of queue has left behind is none.
        assert!(serde_json::from_str::<Position>(r#"{"last":"events 7"}"#).is_err());
    }
}
