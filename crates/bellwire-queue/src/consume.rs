//! In: messages out of a queue, in order, acknowledged when they are durable elsewhere.
//!
//! ```text
//! connect ─▶ take ─▶ accept ─▶ settle ─▶ take …        a fault anywhere ends it; who begins anew is given what was not settled
//! ```
//!
//! Nothing is taken while something that was taken before is not settled: so the order holds, and memory is bounded by one batch. Who
//! dies between accepting and settling gets the same again, with the same [`Taken::key`]; the one who accepts must
//! know it by that.

use crate::publish::Boxed;
use crate::server::{Broker, Server};
use bellwire_egress::Client;
use bytes::Bytes;
use std::fmt::Display;
use std::time::Duration;

/// So many are taken at a time.
pub(crate) const BATCH_MAX: usize = 256;
/// For so long a queue is asked to wait for the next message.
const WAIT: Duration = Duration::from_secs(5);
/// For a connection, and for each answer.
const LIMIT: Duration = Duration::from_secs(15);

/// What is taken, and as which consumer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscription {
    /// The name of a JetStream stream, or the key of a Redis stream.
    pub stream: String,
    /// The name of the durable consumer (NATS) or of the group (Redis), under which the queue keeps our place.
    pub group: String,
    /// Of NATS: only these subjects.
    pub filter: Option<String>,
    /// Where to begin when the queue does not know the group yet.
    pub start: Start,
}

/// Where a new consumer begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Start {
    /// With the oldest message that is there.
    #[default]
    Oldest,
    /// With the next one that comes.
    New,
}

/// One message of a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Where it stands in the queue; never the same for two messages of one stream.
    pub place: String,
    /// What its sender gave it to be known by: `Nats-Msg-Id`, or the field `webhook-id`.
    pub id: Option<String>,
    /// The subject it was published to (NATS), or the stream.
    pub subject: String,
    /// Its headers or fields, names in small letters.
    pub headers: Vec<(String, String)>,
    /// Its payload.
    pub payload: Bytes,
}

impl Taken {
    /// By which a repetition is known.
    pub fn key(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.place)
    }

    /// The first header of this name, which is in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// Why no more is taken.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError<E: Display> {
    /// The queue could not be reached, or did not give or take what it should.
    #[error("{0}")]
    Queue(String),
    /// What was taken could not be accepted.
    #[error("{0}")]
    NotAccepted(E),
}

/// What goes wrong between us and a queue.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct FeedError(pub(crate) String);

/// One connection that takes from one kind of queue.
pub(crate) trait Feed: Send {
    /// The next messages in the queue's order, at least one unless `wait` passes. What was taken before must be settled.
    fn take(&mut self, most: usize, wait: Duration) -> Boxed<'_, Result<Vec<Taken>, FeedError>>;

    /// The queue need not give the first `count` of what was taken again.
    fn settle(&mut self, count: usize) -> Boxed<'_, Result<(), FeedError>>;
}

/// Takes from `server` and hands to `accept`, in order, until something fails. `accept` answers when all that it was given is durable; it
/// is also called with nothing, when there was nothing for a while. May be dropped at any time: what was not settled comes
/// again.
pub async fn consume<E: Display>(
    client: &Client,
    server: &Server,
    subscription: &Subscription,
    mut accept: impl AsyncFnMut(Vec<Taken>) -> Result<(), E>,
) -> ConsumeError<E> {
    let mut feed = match open(client, server, subscription).await {
        Ok(feed) => feed,
        Err(FeedError(text)) => return ConsumeError::Queue(text),
    };
    loop {
        if let Err(error) = turn(&mut *feed, &mut accept).await {
            return error;
        }
    }
}

/// One batch, from taking to settling.
async fn turn<E: Display>(
    feed: &mut dyn Feed,
    accept: &mut impl AsyncFnMut(Vec<Taken>) -> Result<(), E>,
) -> Result<(), ConsumeError<E>> {
    let silent = |_| ConsumeError::Queue("the queue does not answer".to_owned());
    let failed = |FeedError(text)| ConsumeError::Queue(text);
    let batch =
        tokio::time::timeout(WAIT + LIMIT, feed.take(BATCH_MAX, WAIT)).await.map_err(silent)?.map_err(failed)?;
    let count = batch.len();
    accept(batch).await.map_err(ConsumeError::NotAccepted)?;
    if count > 0 {
        tokio::time::timeout(LIMIT, feed.settle(count)).await.map_err(silent)?.map_err(failed)?;
    }
    Ok(())
}

async fn open(client: &Client, server: &Server, subscription: &Subscription) -> Result<Box<dyn Feed>, FeedError> {
    match server.broker {
        #[cfg(feature = "nats")]
        Broker::Nats => Ok(Box::new(crate::nats::Durable::open(client, server, subscription, LIMIT).await?)),
        #[cfg(feature = "redis")]
        Broker::Redis => Ok(Box::new(crate::redis_streams::Group::open(client, server, subscription, LIMIT).await?)),
        #[cfg(not(all(feature = "nats", feature = "redis")))]
        broker => Err(FeedError(Broker::parse(broker.name()).err().unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue in memory: an anew opened one gives again what was not settled.
    #[derive(Default)]
    struct Memory {
        messages: Vec<Taken>,
        settled: usize,
        taken: usize,
        settling_fails: bool,
    }

    fn message(number: usize) -> Taken {
        Taken {
            place: number.to_string(),
            id: None,
            subject: "s".to_owned(),
            headers: Vec::new(),
            payload: Bytes::new(),
        }
    }

    impl Memory {
        fn of(count: usize) -> Self {
            Memory { messages: (0..count).map(message).collect(), ..Memory::default() }
        }
    }

    impl Feed for Memory {
        fn take(&mut self, most: usize, _: Duration) -> Boxed<'_, Result<Vec<Taken>, FeedError>> {
            assert_eq!(self.taken, self.settled, "nothing is taken before everything is settled");
            let batch: Vec<Taken> = self.messages[self.settled..].iter().take(most).cloned().collect();
            self.taken += batch.len();
            Box::pin(async { Ok(batch) })
        }

        fn settle(&mut self, count: usize) -> Boxed<'_, Result<(), FeedError>> {
            if self.settling_fails {
                return Box::pin(async { Err(FeedError("lost".to_owned())) });
            }
            self.settled += count;
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn what_is_accepted_is_settled_and_nothing_else() {
        let mut feed = Memory::of(BATCH_MAX + 3);
        let mut accepted: Vec<String> = Vec::new();
        let mut accept = async |batch: Vec<Taken>| {
            if !accepted.is_empty() {
                return Err("full");
            }
            accepted.extend(batch.into_iter().map(|taken| taken.key().to_owned()));
            Ok(())
        };
        turn(&mut feed, &mut accept).await.expect("goes through");
        assert_eq!(turn(&mut feed, &mut accept).await.expect_err("is full").to_string(), "full");
        assert_eq!((feed.settled, feed.taken), (BATCH_MAX, BATCH_MAX + 3));
        let expected: Vec<String> = (0..BATCH_MAX).map(|place| place.to_string()).collect();
        assert_eq!(accepted, expected);
    }

    #[tokio::test]
    async fn what_was_accepted_and_not_settled_comes_again_under_the_same_key() {
        let mut accepted = Vec::new();
        let mut accept = async |batch: Vec<Taken>| -> Result<(), String> {
            accepted.extend(batch.into_iter().map(|taken| taken.key().to_owned()));
            Ok(())
        };
        let mut feed = Memory { settling_fails: true, ..Memory::of(3) };
        assert_eq!(turn(&mut feed, &mut accept).await.expect_err("is lost").to_string(), "lost");
        turn(&mut Memory::of(3), &mut accept).await.expect("goes through");
        assert_eq!(accepted, ["0", "1", "2", "0", "1", "2"]);
    }

    #[tokio::test]
    async fn an_empty_queue_is_told_and_nothing_is_settled() {
        let mut told = 0;
        let mut accept = async |batch: Vec<Taken>| -> Result<(), String> {
            told += usize::from(batch.is_empty());
            Ok(())
        };
        let mut feed = Memory { settling_fails: true, ..Memory::of(0) };
        turn(&mut feed, &mut accept).await.expect("goes through");
        assert_eq!(told, 1);
    }

    #[test]
    fn the_senders_id_comes_before_the_place() {
        let mut taken = message(7);
        assert_eq!(taken.key(), "7");
        taken.id = Some("order-1".to_owned());
        assert_eq!(taken.key(), "order-1");
    }
}
