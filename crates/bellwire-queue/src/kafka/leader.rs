//! A broker that leads partitions: where they begin, what of them is gone, and what comes next in them.
//!
//! [`begin`] opens a connection and finds out where to go on. A log may have lost its end since it was read, when a copy was made the leader that
//! had not all of it. Then there are other records now at offsets that were taken before. That is known by the epoch of the leader under which
//! the last record was written (KIP-320): who leads now says where that epoch ended.

use super::link::Link;
use super::wire::{FETCH, LIST_OFFSETS, OFFSET_FOR_LEADER_EPOCH, Odd, Reader, code, told};
use crate::publish::PublishError;
use crate::server::Server;
use bellwire_egress::Client;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use url::Host;

/// An answer has about so much, of one partition and of all; one batch comes whole, whatever its size.
const PARTITION_BYTES: i32 = 1 << 20;
const FETCH_BYTES: i32 = 4 << 20;
/// What transactions have not committed is not read.
const COMMITTED_ONLY: i8 = 1;
/// Instead of times: the first offset there is, and the one behind the last that may be read.
pub(super) const EARLIEST: i64 = -2;
pub(super) const LATEST: i64 = -1;

/// What every connection of a source needs.
pub(super) struct Way {
    pub(super) client: Client,
    pub(super) server: Server,
    pub(super) topic: String,
    /// For a connection, and for each answer.
    pub(super) limit: Duration,
}

/// A connection to a broker, and the partitions that are read by way of it.
pub(super) struct Leading {
    pub(super) link: Link,
    /// The broker's number.
    pub(super) id: i32,
    pub(super) partitions: Vec<Led>,
    /// An answer is awaited.
    pub(super) is_asked: bool,
}

/// A partition, and since which epoch it is led by this broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Led {
    pub(super) place: usize,
    pub(super) epoch: i32,
}

/// A partition that is to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) led: Led,
    /// The offset to go on with, if it is known,
    pub(super) next: Option<i64>,
    /// and the epoch of the record before it.
    pub(super) epoch: Option<i32>,
    /// A broker has said that it has nothing there.
    pub(super) is_out: bool,
}

/// Where to go on in a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Beginning {
    At(i64),
    /// Not where it was; why, where instead, and the epoch of the record before that, if it is known.
    Gone {
        after: i64,
        epoch: Option<i32>,
        why: String,
    },
}

/// Partitions that were to be read from now on.
pub(super) struct Begun {
    pub(super) id: i32,
    pub(super) partitions: Vec<Led>,
    pub(super) outcome: Result<(Link, Beginnings), String>,
}

/// Of each partition, where to go on, or why it cannot be read.
type Beginnings = Vec<(usize, Result<Beginning, String>)>;

/// Connects to who leads these. `from`: where partitions begin of which nothing was read.
pub(super) async fn begin(
    way: Arc<Way>,
    (id, place): (i32, (Host<String>, u16)),
    standings: Vec<Standing>,
    from: i64,
) -> Begun {
    let partitions = standings.iter().map(|standing| standing.led).collect();
    let beginning = async {
        let mut link = Link::open(&way.client, &way.server, &place, way.limit).await?;
        let beginnings = beginnings(&mut link, &way.topic, &standings, from).await?;
        Ok::<_, PublishError>((link, beginnings))
    };
    let outcome = match tokio::time::timeout(way.limit, beginning).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("{}:{} does not answer within {:?}", place.0, place.1, way.limit)),
    };
    Begun { id, partitions, outcome }
}

async fn beginnings(
    link: &mut Link,
    topic: &str,
    standings: &[Standing],
    from: i64,
) -> Result<Beginnings, PublishError> {
    let of = |which: &dyn Fn(&Standing) -> bool| -> Vec<usize> {
        standings.iter().filter(|standing| which(standing)).map(|standing| standing.led.place).collect()
    };
    let unknown = of(&|standing| standing.next.is_none());
    let out = of(&|standing| standing.is_out);
    let first = offsets(link, topic, &unknown, from).await?;
    let ends = ends(link, topic, standings).await?;
    let earliest = offsets(link, topic, &out, EARLIEST).await?;
    let latest = offsets(link, topic, &out, LATEST).await?;
    let all = standings.iter().map(|standing| {
        let place = standing.led.place;
        let listed = |offsets: &HashMap<usize, (i16, i64)>| match offsets.get(&place) {
            Some((0, offset)) if *offset >= 0 => Ok(*offset),
            Some((error, _)) => Err(format!("{topic}/{place} does not say where it begins: {}", told(*error))),
            None => Err(format!("{topic}/{place} does not say where it begins")),
        };
        let beginning = || match (standing.next, ends.get(&place)) {
            (None, _) => listed(&first).map(Beginning::At),
            (Some(_), Some((error, ..))) if code::is_of_leader(*error) => {
                Err(format!("{topic}/{place} cannot be read: {}", told(*error)))
            }
            (Some(next), Some((0, epoch, end))) if (0..next).contains(end) => {
                let why = format!(
                    "{topic}/{place}: Kafka has lost records: of what was taken, it does not have {end} to {} any more; what it has there now is taken",
                    next - 1
                );
                Ok(Beginning::Gone { after: *end, epoch: Some(*epoch), why })
            }
            (Some(next), _) if standing.is_out => {
                out_of_range(topic, place, next, (listed(&earliest)?, listed(&latest)?))
            }
            (Some(next), _) => Ok(Beginning::At(next)),
        };
        (place, beginning())
    });
    Ok(all.collect())
}

/// What was to be read is not there: because Kafka has removed it before it was read, or because it has lost it. It is gone, whoever stops;
/// that it is gone is handed out in its place.
fn out_of_range(topic: &str, place: usize, next: i64, (earliest, latest): (i64, i64)) -> Result<Beginning, String> {
    let (after, why) = if next < earliest {
        (earliest, format!("records {next} to {} were removed by Kafka before they were taken", earliest - 1))
    } else if next > latest {
        (latest, format!("Kafka has lost records: what was taken ends at {next}, and what it has ends at {latest}"))
    } else {
        // Found again meanwhile, or not yet to be read.
        return Err(format!("{topic}/{place} cannot be read at {next}: {}", told(code::OFFSET_OUT_OF_RANGE)));
    };
    Ok(Beginning::Gone { after, epoch: None, why: format!("{topic}/{place}: {why}") })
}

/// Of partitions, an error or 0, and where they begin or end.
async fn offsets(
    link: &mut Link,
    topic: &str,
    places: &[usize],
    time: i64,
) -> Result<HashMap<usize, (i16, i64)>, PublishError> {
    if places.is_empty() {
        return Ok(HashMap::new());
    }
    let asking = link.call(LIST_OFFSETS, |request| {
        request.i32(-1);
        request.i8(COMMITTED_ONLY);
        request.count(1);
        request.string(Some(topic));
        request.count(places.len());
        for place in places {
            request.i32(number(*place));
            request.i64(time);
        }
    });
    let mut answer = asking.await?;
    let listed = of_partitions(&mut answer, |one| {
        let (place, error, _, offset) = (one.i32()?, one.i16()?, one.i64()?, one.i64()?);
        Ok((place, (error, offset)))
    });
    listed.map_err(|odd| link.odd(odd))
}

/// Of partitions of which it is known under which epoch the last record was written that was taken: an error or 0, the epoch that the leader
/// has in its place, and where that one ended. Nothing, if the broker is too old to be asked.
async fn ends(
    link: &mut Link,
    topic: &str,
    standings: &[Standing],
) -> Result<HashMap<usize, (i16, i32, i64)>, PublishError> {
    let known: Vec<(Led, i32)> =
        standings.iter().filter_map(|standing| Some((standing.led, standing.epoch?))).collect();
    if known.is_empty() || !link.knows(OFFSET_FOR_LEADER_EPOCH) {
        return Ok(HashMap::new());
    }
    let asking = link.call(OFFSET_FOR_LEADER_EPOCH, |request| {
        request.i32(-1);
        request.count(1);
        request.string(Some(topic));
        request.count(known.len());
        for (Led { place, epoch }, last) in &known {
            request.i32(number(*place));
            request.i32(*epoch);
            request.i32(*last);
        }
    });
    let mut answer = asking.await?;
    let ended = of_partitions(&mut answer, |one| {
        let (error, place, epoch, end) = (one.i16()?, one.i32()?, one.i32()?, one.i64()?);
        Ok((place, (error, epoch, end)))
    });
    ended.map_err(|odd| link.odd(odd))
}

impl Leading {
    /// Asks for what comes next in the partitions of which `next` says where that is.
    pub(super) async fn ask(
        &mut self,
        topic: &str,
        next: impl Fn(usize) -> Option<i64>,
        wait: Duration,
    ) -> Result<(), PublishError> {
        // Each is the first at times: the others have what is left of an answer.
        if !self.partitions.is_empty() {
            self.partitions.rotate_left(1);
        }
        let from: Vec<(Led, i64)> = self.partitions.iter().filter_map(|led| Some((*led, next(led.place)?))).collect();
        self.is_asked = true;
        let asking = self.link.ask(FETCH, |request| {
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
            for (Led { place, epoch }, offset) in &from {
                request.i32(number(*place));
                request.i32(*epoch);
                request.i64(*offset);
                request.i64(-1);
                request.i32(PARTITION_BYTES);
            }
            request.count(0);
        });
        asking.await
    }

    pub(super) fn places(&self) -> Vec<usize> {
        self.partitions.iter().map(|led| led.place).collect()
    }

    pub(super) fn reads(&self, place: usize) -> bool {
        self.partitions.iter().any(|led| led.place == place)
    }
}

/// What an answer has of one partition.
pub(super) struct Part {
    pub(super) place: usize,
    pub(super) number: i16,
    /// First offsets and producers of transactions that came to nothing.
    pub(super) aborted: Vec<(i64, i64)>,
    pub(super) records: Bytes,
}

/// What was fetched: an error of all of it or 0, and the partitions.
pub(super) fn fetched(answer: &mut Reader) -> Result<(i16, Vec<Part>), Odd> {
    answer.i32()?;
    let number = answer.i16()?;
    answer.i32()?;
    let topics = answer.each(|one| {
        one.string()?;
        one.each(|one| {
            let place = place(one.i32()?)?;
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

/// What an answer says of each partition.
fn of_partitions<T>(
    answer: &mut Reader,
    one: impl Fn(&mut Reader) -> Result<(i32, T), Odd>,
) -> Result<HashMap<usize, T>, Odd> {
    answer.i32()?;
    let topics = answer.each(|topic| {
        topic.string()?;
        topic.each(|partition| {
            let (number, said) = one(partition)?;
            Ok((place(number)?, said))
        })
    })?;
    Ok(topics.into_iter().flatten().collect())
}

fn place(number: i32) -> Result<usize, Odd> {
    usize::try_from(number).map_err(|_| Odd("a partition has no number"))
}

fn number(place: usize) -> i32 {
    i32::try_from(place).unwrap_or(i32::MAX)
}
