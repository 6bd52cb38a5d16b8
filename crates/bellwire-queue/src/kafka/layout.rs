//! Who leads the partitions of a topic, and where they are: what brokers say of each other.

use super::link::Link;
use super::wire::{METADATA, METADATA_WITH_IDS, Odd, Reader, code, told};
use crate::publish::PublishError;
use crate::server::Server;
use bellwire_egress::Client;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;
use url::Host;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Layout {
    /// The cluster's name for itself.
    pub(super) cluster: Option<String>,
    /// The topic's id; a topic that is made anew has another one. Old brokers have none.
    pub(super) id: Option<String>,
    pub(super) brokers: HashMap<i32, (Host<String>, u16)>,
    /// Of each partition, by its number.
    pub(super) leaders: Vec<Option<i32>>,
    /// How often each was given a leader, as far as brokers say; else [`UNSAID`].
    pub(super) epochs: Vec<i32>,
}

/// Instead of an epoch.
pub(super) const UNSAID: i32 = -1;

/// A connection to the first of the servers in the URL that can be had. Each has its part of `limit`, and one part is left for what is asked
/// then: a server that is silent does not hide the others.
pub(super) async fn reach_any(client: &Client, server: &Server, limit: Duration) -> Result<Link, PublishError> {
    let each = match u32::try_from(server.places().count()) {
        Ok(count @ 2..) => limit / (count + 1),
        _ => limit,
    };
    let mut first = None;
    for place in server.places() {
        match Link::open(client, server, &place, each).await {
            Ok(link) => return Ok(link),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| PublishError::Unconnected("the URL names nobody".to_owned())))
}

impl Layout {
    /// Asks for one topic; `None` if there is none of that name. Nobody makes it because we ask. `with_ids`: if the broker knows them.
    pub(super) async fn ask(link: &mut Link, topic: &str, with_ids: bool) -> Result<Option<Layout>, PublishError> {
        let with_ids = with_ids && link.knows(METADATA_WITH_IDS);
        let api = if with_ids { METADATA_WITH_IDS } else { METADATA };
        let answer = link.call(api, |request| {
            request.count(1);
            if with_ids {
                // The topic is meant by its name.
                request.i64(0);
                request.i64(0);
            }
            request.string(Some(topic));
            request.tags();
            request.i8(0);
            if with_ids {
                // What we may do is not asked.
                request.i8(0);
                request.i8(0);
            }
            request.tags();
        });
        let (number, layout) = Layout::read(&mut answer.await?, with_ids).map_err(|odd| link.odd(odd))?;
        match number {
            0 => Ok(Some(layout)),
            code::UNKNOWN_TOPIC_OR_PARTITION => Ok(None),
            code::LEADER_NOT_AVAILABLE => {
                Err(PublishError::Unconnected(format!("the topic {topic} is not ready: {}", told(number))))
            }
            number => {
                let forever = number == code::INVALID_TOPIC;
                Err(PublishError::Refused { text: format!("the topic {topic}: {}", told(number)), forever })
            }
        }
    }

    fn read(answer: &mut Reader, with_ids: bool) -> Result<(i16, Layout), Odd> {
        answer.i32()?;
        let brokers = answer.each(|one| {
            let (id, host, port) = (one.i32()?, one.string()?.unwrap_or_default(), one.i32()?);
            one.string()?;
            one.tags()?;
            let port = u16::try_from(port).map_err(|_| Odd("a port is none"))?;
            Ok((id, (host_of(&host)?, port)))
        })?;
        let cluster = answer.string()?;
        answer.i32()?;
        let topics = answer.each(|one| {
            let number = one.i16()?;
            one.string()?;
            let id = if with_ids { Some(one.uuid()?) } else { None };
            one.i8()?;
            let partitions = one.each(|one| Self::partition(one, with_ids))?;
            if with_ids {
                one.i32()?;
            }
            one.tags()?;
            Ok((number, id, partitions))
        })?;
        let [(number, id, partitions)] = topics.try_into().map_err(|_| Odd("it is not about the topic"))?;
        let id = id.filter(|id| id.iter().any(|byte| *byte != 0)).map(|id| {
            id.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        });
        let (mut leaders, mut epochs) = (vec![None; partitions.len()], vec![UNSAID; partitions.len()]);
        for (place, leader, epoch) in partitions {
            let place = usize::try_from(place).ok().filter(|place| *place < leaders.len());
            let place = place.ok_or(Odd("partitions are missing"))?;
            leaders[place] = Some(leader).filter(|leader| *leader >= 0);
            epochs[place] = epoch;
        }
        Ok((number, Layout { cluster, id, brokers: brokers.into_iter().collect(), leaders, epochs }))
    }

    /// Since which epoch the partition has its leader.
    pub(super) fn epoch(&self, place: usize) -> i32 {
        self.epochs.get(place).copied().unwrap_or(UNSAID)
    }

    /// What is known of the same topic after this: a broker that hears late of what has changed does not undo what others have said.
    pub(super) fn after(mut self, earlier: &Layout) -> Layout {
        for (place, (leader, epoch)) in self.leaders.iter_mut().zip(&mut self.epochs).enumerate() {
            let known = earlier.epoch(place);
            if *epoch != UNSAID && *epoch < known {
                *leader = earlier.leaders.get(place).copied().flatten();
                *epoch = known;
            }
        }
        for leader in self.leaders.iter().flatten() {
            if let (false, Some(place)) = (self.brokers.contains_key(leader), earlier.brokers.get(leader)) {
                self.brokers.insert(*leader, place.clone());
            }
        }
        self
    }

    /// Its number, who leads it, and since which epoch.
    fn partition(one: &mut Reader, with_ids: bool) -> Result<(i32, i32, i32), Odd> {
        one.i16()?;
        let (place, leader) = (one.i32()?, one.i32()?);
        let epoch = if with_ids { one.i32()? } else { UNSAID };
        one.each(Reader::i32)?;
        one.each(Reader::i32)?;
        if with_ids {
            one.each(Reader::i32)?;
        }
        one.tags()?;
        Ok((place, leader, epoch))
    }
}

/// Brokers name themselves as their operators wrote it: IPv6 without brackets.
fn host_of(text: &str) -> Result<Host<String>, Odd> {
    match text.parse() {
        Ok(IpAddr::V4(ip)) => Ok(Host::Ipv4(ip)),
        Ok(IpAddr::V6(ip)) => Ok(Host::Ipv6(ip)),
        Err(_) => Host::parse(text).map_err(|_| Odd("a broker has no host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_where_they_say() {
        for (text, host) in [("::1", "[::1]"), ("10.0.0.1", "10.0.0.1"), ("Kafka-1.internal", "kafka-1.internal")] {
            assert_eq!(host_of(text).expect("a host").to_string(), host);
        }
        assert!(host_of("").is_err() && host_of("a b").is_err());
    }

    #[test]
    fn who_hears_late_undoes_nothing() {
        let broker = |port| (host_of("k").expect("a host"), port);
        let layout = |leaders: &[Option<i32>], epochs: &[i32], ports: &[(i32, u16)]| Layout {
            leaders: leaders.to_vec(),
            epochs: epochs.to_vec(),
            brokers: ports.iter().map(|(id, port)| (*id, broker(*port))).collect(),
            ..Layout::default()
        };
        let earlier = layout(&[Some(1), Some(2), Some(1), None], &[5, 5, 5, 5], &[(1, 10), (2, 20), (3, 29)]);
        let later = layout(&[Some(2), Some(3), Some(3), Some(3), Some(3)], &[6, 4, UNSAID, 5, 0], &[(3, 30)]);
        let expected =
            layout(&[Some(2), Some(2), Some(3), Some(3), Some(3)], &[6, 5, UNSAID, 5, 0], &[(2, 20), (3, 30)]);
        assert_eq!(later.after(&earlier), expected);
    }
}
