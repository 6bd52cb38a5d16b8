//! Out: records into topics, each acknowledged by all copies of its partition that are up to date.
//!
//! ```text
//! publish ─▶ layout: which partition, who leads it ─▶ the leader's queue ─▶ lead: what has come meanwhile, one request ─▶ answer
//! ```
//!
//! A broker answers one request after the other, so what comes while one is under way goes together in the next. Of connections that
//! end, only what was under way on them hears it.

use super::layout::{Layout, reach_any};
use super::link::Link;
use super::records::{Record, batch};
use super::wire::{Odd, PRODUCE, Reader, code, told};
use crate::Wall;
use crate::publish::{Boxed, Connection, Placed, Publication, PublishError, is_topic};
use crate::server::Server;
use bellwire_egress::{Client, SendError};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use url::Host;

/// What is known of a topic is asked again after this: it may have more partitions.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Of so many topics.
const TOPICS_MAX: usize = 256;
/// So many brokers are spoken to at a time; with more, all are connected to anew.
const LEADERS_MAX: usize = 256;
/// So many wait for one leader.
const WAITING_MAX: usize = 1_024;
/// One request has so many, or so many bytes, or one.
const TOGETHER_MAX: usize = 500;
const TOGETHER_BYTES: usize = 512 << 10;
/// While a partition changes its leader, it is asked so often who that is,
const TRIES: u32 = 6;
/// after this, and longer each time.
const TRY_AFTER: Duration = Duration::from_millis(100);

pub(crate) struct Publisher {
    client: Client,
    server: Server,
    wall: Wall,
    limit: Duration,
    /// Over which is asked who leads.
    asking: tokio::sync::Mutex<Option<Link>>,
    known: Mutex<HashMap<String, (Instant, Arc<Layout>)>>,
    /// By where they are: a broker that moves keeps its number.
    leaders: Mutex<HashMap<Place, Arc<Leader>>>,
}

/// Where a broker is.
type Place = (Host<String>, u16);

/// Where what is for one broker is put. `None` until there is a connection.
type Leader = tokio::sync::Mutex<Option<mpsc::Sender<Job>>>;

/// Until a leader has answered, what is known of a topic may be wrong, and is forgotten with whoever waits no longer: a leader that is
/// gone in silence would be asked again, and again in vain, by those who come next.
struct Doubt<'a> {
    publisher: &'a Publisher,
    topic: &'a str,
    is_settled: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.publisher.forget(self.topic);
        }
    }
}

/// Of partitions, an error's number, 0 for none, and the first offset.
type Outcomes = HashMap<(String, i32), (i16, i64)>;

/// A record on its way to a partition.
struct Job {
    topic: String,
    partition: i32,
    record: Record,
    /// The error's number, 0 for none, and the offset.
    answer: oneshot::Sender<Result<(i16, i64), PublishError>>,
}

impl Publisher {
    /// Nothing is asked yet.
    pub(crate) fn new(client: &Client, server: &Server, wall: Wall, limit: Duration) -> Self {
        let (client, server) = (client.clone(), server.clone());
        let (asking, known, leaders) = (tokio::sync::Mutex::default(), Mutex::default(), Mutex::default());
        Publisher { client, server, wall, limit, asking, known, leaders }
    }

    async fn send(&self, publication: &Publication) -> Result<Placed, PublishError> {
        let Publication { to: topic, key, id, headers, payload, .. } = publication;
        if !is_topic(topic) {
            let text = format!("{topic:?} cannot be the name of a topic");
            return Err(PublishError::Refused { text, forever: true });
        }
        let key = key.as_ref().filter(|key| !key.is_empty()).map(|key| Bytes::copy_from_slice(key.as_bytes()));
        let at = (self.wall)().saturating_mul(1_000);
        let record = Record { key, headers: headers.clone(), value: payload.clone(), at };
        let unconnected = |text: String| PublishError::Unconnected(text);
        let mut doubt = Doubt { publisher: self, topic, is_settled: false };
        let mut moved = unconnected("the connection keeps ending".to_owned());
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(TRY_AFTER * attempt).await;
            }
            let layout = self.layout(topic, attempt > 0).await?;
            let Some((partition, leader)) = place_of(&layout.leaders, record.key.as_deref(), id) else {
                moved = unconnected(format!("the partition of {topic} for this key has no leader"));
                continue;
            };
            let Some(place) = layout.brokers.get(&leader) else {
                moved = unconnected(format!("nobody says where the leader of {topic}/{partition} is"));
                continue;
            };
            let (answer, answered) = oneshot::channel();
            let job = Job { topic: topic.clone(), partition, record: record.clone(), answer };
            match self.leader(place).await {
                Ok(jobs) => {
                    if jobs.send(job).await.is_err() {
                        continue;
                    }
                }
                Err(error @ (PublishError::Unreachable(SendError::Forbidden(_)) | PublishError::Refused { .. })) => {
                    return Err(error);
                }
                // Another one may lead by now.
                Err(error) => {
                    moved = error;
                    continue;
                }
            }
            // Without an answer the connection ended before this was sent.
            let Ok(answered) = answered.await else { continue };
            let (number, offset) = answered?;
            doubt.is_settled = true;
            let text = format!("{topic}/{partition}: {}", told(number));
            match number {
                0 => return Ok(Placed { place: format!("{topic}/{partition} {offset}"), duplicate: false }),
                code::NOT_LEADER_OR_FOLLOWER
                | code::LEADER_NOT_AVAILABLE
                | code::UNKNOWN_TOPIC_OR_PARTITION
                | code::KAFKA_STORAGE_ERROR => {
                    doubt.is_settled = false;
                    moved = unconnected(text);
                }
                code::REQUEST_TIMED_OUT | code::NOT_ENOUGH_REPLICAS_AFTER_APPEND => {
                    return Err(PublishError::Lost(text));
                }
                _ => {
                    return Err(PublishError::Refused { text, forever: is_of_record(number) });
                }
            }
        }
        Err(moved)
    }

    /// Whoever comes next asks anew.
    fn forget(&self, topic: &str) {
        self.known.lock().remove(topic);
    }

    /// What is known of a topic, and not for too long. `anew`: what was known turned out to be wrong.
    async fn layout(&self, topic: &str, anew: bool) -> Result<Arc<Layout>, PublishError> {
        let asked = Instant::now();
        let known = |since: Instant| {
            let known = self.known.lock();
            known.get(topic).filter(|(at, _)| *at >= since).map(|(_, layout)| Arc::clone(layout))
        };
        let oldest = asked.checked_sub(KNOWN_FOR).filter(|_| !anew).unwrap_or(asked);
        if let Some(layout) = known(oldest) {
            return Ok(layout);
        }
        let mut asking = self.asking.lock().await;
        if let Some(layout) = known(oldest) {
            return Ok(layout);
        }
        // Whoever is dropped in the midst of asking leaves no connection behind on which an answer is still to come.
        let answered = match asking.take() {
            Some(mut link) => Layout::ask(&mut link, topic, false).await.map(|layout| (link, layout)),
            None => Err(PublishError::Lost(String::new())),
        };
        let (link, layout) = match answered {
            Err(PublishError::Lost(_)) => {
                let mut link = reach_any(&self.client, &self.server, self.limit).await?;
                let layout = Layout::ask(&mut link, topic, false).await?;
                (link, layout)
            }
            answered => answered?,
        };
        *asking = Some(link);
        let Some(layout) = layout.filter(|layout| !layout.leaders.is_empty()) else {
            let text = format!("there is no topic {topic}; create it with `kafka-topics.sh --create`");
            return Err(PublishError::Refused { text, forever: false });
        };
        let layout = Arc::new(layout);
        let mut known = self.known.lock();
        if known.len() >= TOPICS_MAX {
            known.clear();
        }
        known.insert(topic.to_owned(), (Instant::now(), Arc::clone(&layout)));
        Ok(layout)
    }

    /// Where to put what is for this broker. Who comes while it is being connected to waits for that.
    async fn leader(&self, place: &Place) -> Result<mpsc::Sender<Job>, PublishError> {
        let leader = {
            let mut leaders = self.leaders.lock();
            if leaders.len() >= LEADERS_MAX && !leaders.contains_key(place) {
                leaders.clear();
            }
            Arc::clone(leaders.entry(place.clone()).or_default())
        };
        let mut open = leader.lock().await;
        if let Some(jobs) = open.as_ref().filter(|jobs| !jobs.is_closed()) {
            return Ok(jobs.clone());
        }
        *open = None;
        let link = Link::open(&self.client, &self.server, place, self.limit).await?;
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(lead(link, waiting, self.limit));
        *open = Some(jobs.clone());
        Ok(jobs)
    }
}

impl Connection for Publisher {
    fn publish<'a>(&'a self, publication: &'a Publication) -> Boxed<'a, Result<Placed, PublishError>> {
        Box::pin(self.send(publication))
    }

    fn is_open(&self) -> bool {
        true
    }

    fn heals(&self) -> bool {
        true
    }
}

/// No repetition will change that.
fn is_of_record(number: i16) -> bool {
    matches!(number, code::MESSAGE_TOO_LARGE | code::RECORD_LIST_TOO_LARGE | code::INVALID_RECORD)
}

/// The partition for a key, as Kafka's own clients have it; without one, any that has a leader, the same for every repetition of `id`. And
/// its leader.
fn place_of(leaders: &[Option<i32>], key: Option<&[u8]>, id: &str) -> Option<(i32, i32)> {
    let led: Vec<(i32, i32)> =
        (0..).zip(leaders).filter_map(|(place, leader)| leader.map(|leader| (place, leader))).collect();
    let among = |count: usize, bytes: &[u8]| (murmur2(bytes) & 0x7fff_ffff) as usize % count.max(1);
    match key {
        Some(key) => {
            let place = among(leaders.len(), key);
            leaders.get(place).copied().flatten().zip(i32::try_from(place).ok()).map(|(leader, place)| (place, leader))
        }
        None => led.get(among(led.len(), id.as_bytes())).copied(),
    }
}

/// By which Kafka's own clients choose the partition for a key.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mix = |word: u32| {
        let word = word.wrapping_mul(M);
        (word ^ (word >> 24)).wrapping_mul(M)
    };
    let (words, rest) = bytes.as_chunks();
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    for word in words {
        hash = hash.wrapping_mul(M) ^ mix(u32::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |last, byte| (last << 8) | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Sends what is for one broker, until the connection or the last publisher is gone.
async fn lead(mut link: Link, mut waiting: mpsc::Receiver<Job>, limit: Duration) {
    loop {
        let first = tokio::select! {
            job = waiting.recv() => job,
            // Nothing was asked: this is the connection's end.
            _ = link.answer() => None,
        };
        let Some(first) = first else { return };
        let mut jobs = vec![first];
        let mut bytes = jobs[0].record.size();
        while jobs.len() < TOGETHER_MAX
            && bytes < TOGETHER_BYTES
            && let Ok(next) = waiting.try_recv()
        {
            bytes += next.record.size();
            jobs.push(next);
        }
        // Nobody waits for these any more, and nothing of them was sent.
        jobs.retain(|job| !job.answer.is_closed());
        if !jobs.is_empty() && !together(&mut link, jobs, limit).await {
            return;
        }
    }
}

/// Sends these in one request; alone, what was refused for one among several. Whether the connection is as it was.
async fn together(link: &mut Link, jobs: Vec<Job>, limit: Duration) -> bool {
    let mut rounds = vec![jobs];
    while let Some(jobs) = rounds.pop() {
        let mut of: BTreeMap<(String, i32), Vec<Job>> = BTreeMap::new();
        for job in jobs {
            of.entry((job.topic.clone(), job.partition)).or_default().push(job);
        }
        let late = |_| Err(PublishError::Timeout(limit));
        match tokio::time::timeout(limit, produce(link, &of, limit)).await.unwrap_or_else(late) {
            Ok(mut outcomes) => {
                for (place, jobs) in of {
                    let outcome = outcomes.remove(&place);
                    match outcome {
                        Some((number, _)) if jobs.len() > 1 && is_of_record(number) => {
                            rounds.extend(jobs.into_iter().rev().map(|job| vec![job]));
                        }
                        Some((number, first)) => {
                            for (behind, job) in (0..).zip(jobs) {
                                let _ = job.answer.send(Ok((number, first.saturating_add(behind))));
                            }
                        }
                        None => {
                            for job in jobs {
                                let _ = job.answer.send(Err(link.odd(Odd("it says nothing of a partition"))));
                            }
                        }
                    }
                }
            }
            Err(error) => {
                for job in of.into_values().flatten().chain(rounds.into_iter().flatten()) {
                    let _ = job.answer.send(Err(match &error {
                        PublishError::Timeout(limit) => PublishError::Timeout(*limit),
                        error => PublishError::Lost(error.to_string()),
                    }));
                }
                return false;
            }
        }
    }
    true
}

/// One request. Of each partition, the error's number and the first offset.
async fn produce(
    link: &mut Link,
    of: &BTreeMap<(String, i32), Vec<Job>>,
    limit: Duration,
) -> Result<Outcomes, PublishError> {
    let mut answer = link
        .call(PRODUCE, |request| {
            request.string(None);
            // All copies that are up to date must have it.
            request.i16(-1);
            request.i32(i32::try_from(limit.as_millis()).unwrap_or(i32::MAX));
            request.count(of.len());
            for ((topic, partition), jobs) in of {
                request.string(Some(topic));
                request.count(1);
                request.i32(*partition);
                request.blob(&batch(&jobs.iter().map(|job| &job.record).collect::<Vec<_>>()));
            }
        })
        .await?;
    outcomes(&mut answer, |place| of.contains_key(place)).map_err(|odd| link.odd(odd))
}

/// What an answer says of the partitions that were `asked` for. What it says of others is not kept: it can be a great deal, each with a
/// long name.
fn outcomes(answer: &mut Reader, asked: impl Fn(&(String, i32)) -> bool) -> Result<Outcomes, Odd> {
    let mut outcomes = HashMap::new();
    answer.each(|one| {
        let mut place = (one.string()?.unwrap_or_default(), 0);
        one.each(|one| {
            place.1 = one.i32()?;
            let outcome = (one.i16()?, one.i64()?);
            // When it was appended, and where the log begins.
            one.take(16)?;
            if asked(&place) {
                outcomes.insert(place.clone(), outcome);
            }
            Ok(())
        })
    })?;
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::super::wire::Writer;
    use super::*;

    #[test]
    fn keys_go_where_kafkas_own_clients_put_them() {
        // From the tests of Kafka's own client, org.apache.kafka.common.utils.UtilsTest.
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn of_an_answer_only_what_was_asked_for_is_kept() {
        let mut answer = Writer::default();
        answer.count(2);
        for topic in ["orders", "invented"] {
            answer.string(Some(topic));
            answer.count(3);
            for partition in 0..3 {
                answer.i32(partition);
                answer.i16(0);
                (0..3).for_each(|offset| answer.i64(offset));
            }
        }
        let mut answer = Reader::new(answer.bytes.into(), false);
        let asked = ("orders".to_owned(), 1);
        let kept = outcomes(&mut answer, |place| *place == asked).expect("is read");
        assert_eq!(kept, HashMap::from([(asked, (0, 0))]));
    }

    #[test]
    fn what_has_no_key_goes_to_a_partition_that_is_led_and_what_has_one_waits_for_its_own() {
        let leaders = [Some(1), None, Some(3)];
        for number in 0..50 {
            let id = format!("msg_{number}");
            let place = place_of(&leaders, None, &id).expect("two are led");
            assert!([(0, 1), (2, 3)].contains(&place));
            assert_eq!(place_of(&leaders, None, &id), Some(place));
        }
        assert_eq!(place_of(&[None], None, "a"), None);
        assert_eq!(place_of(&[], Some(b"k"), "a"), None);
        // 479470107 % 3 is 0; 'foobar' is 1357151166, of which the rest is 0 as well.
        assert_eq!(place_of(&leaders, Some(b"abc"), "a"), Some((0, 1)));
        assert_eq!(place_of(&[None, None, Some(3)], Some(b"abc"), "a"), None);
    }
}
