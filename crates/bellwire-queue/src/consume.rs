//! In: messages out of a queue, in order, acknowledged when they are durable elsewhere.
//!
//! ```text
//! connect ─▶ ready ─▶ take ─▶ accept ─▶ settle ─▶ ready …      a fault anywhere ends it; who begins anew is given what was not settled
//! ```
//!
//! Most queues keep our place themselves. Of one that does not (Kafka), the place comes with each batch, is kept in the same commit, and
//! is given back when it is opened anew.
//!
//! Nothing is taken while something that was taken before is not settled, and nothing before its [`Consumer`] is ready for it: so the
//! order holds, and memory is bounded by one batch. Who dies between accepting and settling gets the same again, with the
//! same [`Taken::key`]; the one who accepts must know it by that.

use crate::Wall;
use crate::publish::{Boxed, PublishError};
use crate::server::{Broker, Server};
use bellwire_egress::Client;
use bytes::Bytes;
use std::fmt::Display;
use std::time::Duration;

/// So many are taken at a time, at most,
pub(crate) const BATCH_MAX: usize = 256;
/// and so many as long as nothing is known of their size,
const BATCH_FIRST: usize = 16;
/// later so many as have about so many bytes, if they are like those before.
const BATCH_BYTES: usize = 4 << 20;
/// For so long a queue is asked to wait for the next message.
const WAIT: Duration = Duration::from_secs(5);
/// For a connection, and for each answer.
const LIMIT: Duration = Duration::from_secs(15);

/// What is taken, and as which consumer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscription {
    /// The name of a JetStream stream or of an AMQP queue, the key of a Redis stream, or a topic of Kafka. Of SQS, the server's URL says which queue.
    pub stream: String,
    /// The name of the durable consumer (NATS) or of the group (Redis), under which the queue keeps our place. SQS, AMQP and
    /// Kafka have none.
    pub group: String,
    /// Of NATS: only these subjects.
    pub filter: Option<String>,
    /// Where to begin when the queue does not know the group yet.
    pub start: Start,
    /// Of Redis: the field of an entry that holds the payload.
    pub payload_field: String,
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
    /// Where it stands in the queue, for people; never the same for two messages of one stream.
    pub place: String,
    /// What tells its stream from an earlier one of the same name, if one that is made anew gives the same places again.
    pub stream: Option<String>,
    /// When the queue got it, in Unix milliseconds by the queue's clock, if the queue says so.
    pub published: Option<i64>,
    /// The subject (NATS) or routing key (AMQP) it was published with, or the stream or topic.
    pub subject: String,
    /// Its headers or fields, names in small letters.
    pub headers: Vec<(String, String)>,
    /// Its payload. Empty if an entry of Redis does not have its field.
    pub payload: Bytes,
    /// This is no message: the queue has lost what stood here before it was taken. In words.
    pub gone: Option<String>,
}

impl Taken {
    /// By which a repetition is known: what its sender gave it under the name `header`, which is in small letters; without one, where it
    /// stands.
    pub fn key(&self, header: Option<&str>) -> String {
        match (header.and_then(|name| self.header(name)).filter(|id| !id.is_empty()), &self.stream) {
            (Some(id), _) => id.to_owned(),
            (None, Some(stream)) => format!("{} {stream}", self.place),
            (None, None) => self.place.clone(),
        }
    }

    /// The first header of this name, which is in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// Who makes what is taken durable.
#[expect(async_fn_in_trait, reason = "who implements it waits on one thread")]
pub trait Consumer {
    /// Why something could not be accepted.
    type Error: Display;

    /// Comes back when there is room for a batch; none is taken before.
    async fn ready(&mut self);

    /// Comes back when all of these are durable; they are in the queue's order. Also called with nothing, when there was nothing for a
    /// while. With `more`, there may be more at once. A `position` is to be kept in the same commit, and given to [`consume`] the next time.
    ///
    /// # Errors
    /// Not all are. They come again.
    async fn accept(&mut self, batch: Vec<Taken>, more: bool, position: Option<String>) -> Result<(), Self::Error>;

    /// Told before each [`Consumer::accept`]: whether parts of the queue cannot be read while the others go on.
    fn amiss(&mut self, amiss: Amiss);
}

/// Parts of a queue that cannot be read, while the others are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Amiss {
    /// What is wrong, if some of it failed, or failed again, since the last time.
    pub news: Option<String>,
    /// Something is wrong still.
    pub is_still: bool,
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

impl From<PublishError> for FeedError {
    fn from(error: PublishError) -> Self {
        FeedError(error.to_string())
    }
}

/// One connection that takes from one kind of queue.
pub(crate) trait Feed: Send {
    /// The next messages in the queue's order, at least one unless `wait` passes, at most `most`. What was taken before must be settled.
    fn take(&mut self, most: usize, wait: Duration) -> Boxed<'_, Result<Vec<Taken>, FeedError>>;

    /// The queue need not give the first `count` of what was taken again.
    fn settle(&mut self, count: usize) -> Boxed<'_, Result<(), FeedError>>;

    /// How far all that was taken goes, if the queue does not keep that, and if it is farther than was said last.
    fn position(&mut self) -> Option<String> {
        None
    }

    /// What of the queue cannot be read, if that does not hold up the rest.
    fn amiss(&mut self) -> Amiss {
        Amiss::default()
    }
}

/// Takes from `server` and hands to `consumer`, in order, until something fails. May be dropped at any time: what was not settled
/// comes again. `position` is what was last kept of the source, if anything was.
pub async fn consume<C: Consumer>(
    client: &Client,
    wall: Wall,
    server: &Server,
    (subscription, position): (&Subscription, Option<&str>),
    consumer: &mut C,
) -> ConsumeError<C::Error> {
    let opening = tokio::time::timeout(2 * LIMIT, open(client, wall, server, subscription, position));
    let mut feed = match opening.await {
        Ok(Ok(feed)) => feed,
        Ok(Err(FeedError(text))) => return ConsumeError::Queue(text),
        Err(_) => return ConsumeError::Queue(format!("no connection to {server} within {:?}", 2 * LIMIT)),
    };
    let mut most = BATCH_FIRST;
    loop {
        match turn(&mut *feed, consumer, most).await {
            Ok(next) => most = next,
            Err(error) => return error,
        }
    }
}

/// One batch of at most so many, from taking to settling. Answers how many the next one is to have.
async fn turn<C: Consumer>(
    feed: &mut dyn Feed,
    consumer: &mut C,
    most: usize,
) -> Result<usize, ConsumeError<C::Error>> {
    let silent = |_| ConsumeError::Queue("the queue does not answer".to_owned());
    let failed = |FeedError(text)| ConsumeError::Queue(text);
    consumer.ready().await;
    let batch = tokio::time::timeout(WAIT + LIMIT, feed.take(most, WAIT)).await.map_err(silent)?.map_err(failed)?;
    let (count, next) = (batch.len(), most_after(&batch, most));
    consumer.amiss(feed.amiss());
    consumer.accept(batch, count >= most, feed.position()).await.map_err(ConsumeError::NotAccepted)?;
    if count > 0 {
        tokio::time::timeout(LIMIT, feed.settle(count)).await.map_err(silent)?.map_err(failed)?;
    }
    Ok(next)
}

/// As many as have [`BATCH_BYTES`], if they are as large as those of this batch on average; no more than twice as many as now.
fn most_after(batch: &[Taken], most: usize) -> usize {
    let size = |taken: &Taken| {
        taken.payload.len() + taken.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    };
    let bytes: usize = batch.iter().map(size).sum();
    match batch.len() {
        0 => most,
        count => (BATCH_BYTES / (bytes / count).max(1)).clamp(1, BATCH_MAX.min(2 * most)),
    }
}

async fn open(
    client: &Client,
    wall: Wall,
    server: &Server,
    subscription: &Subscription,
    position: Option<&str>,
) -> Result<Box<dyn Feed>, FeedError> {
    match server.broker {
        #[cfg(feature = "nats")]
        Broker::Nats => Ok(Box::new(crate::nats::Durable::open(client, server, subscription, LIMIT).await?)),
        #[cfg(feature = "redis")]
        Broker::Redis => Ok(Box::new(crate::redis_streams::Group::open(client, server, subscription, LIMIT).await?)),
        #[cfg(feature = "sqs")]
        Broker::Sqs => Ok(Box::new(crate::sqs::Polling::new(client, server, wall, LIMIT)?)),
        #[cfg(feature = "amqp")]
        Broker::Amqp => Ok(Box::new(crate::amqp::Subscriber::open(client, server, subscription, LIMIT).await?)),
        #[cfg(feature = "kafka")]
        Broker::Kafka => {
            let opened = crate::kafka::Partitions::open(client, server, subscription, position, LIMIT);
            Ok(Box::new(opened.await?))
        }
        #[cfg(not(all(feature = "amqp", feature = "kafka", feature = "nats", feature = "redis", feature = "sqs")))]
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
            stream: None,
            published: None,
            subject: "s".to_owned(),
            headers: Vec::new(),
            payload: Bytes::new(),
            gone: None,
        }
    }

    /// Accepts so many batches.
    struct Kept {
        keys: Vec<String>,
        batches_max: usize,
        told: Vec<bool>,
    }

    impl Kept {
        fn of(batches_max: usize) -> Self {
            Kept { keys: Vec::new(), batches_max, told: Vec::new() }
        }
    }

    impl Consumer for Kept {
        type Error = &'static str;

        async fn ready(&mut self) {}

        async fn accept(&mut self, batch: Vec<Taken>, more: bool, _: Option<String>) -> Result<(), &'static str> {
            if self.told.len() == self.batches_max {
                return Err("full");
            }
            self.told.push(more);
            self.keys.extend(batch.into_iter().map(|taken| taken.key(None)));
            Ok(())
        }

        fn amiss(&mut self, _: Amiss) {}
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
        let mut kept = Kept::of(1);
        turn(&mut feed, &mut kept, BATCH_MAX).await.expect("goes through");
        assert_eq!(turn(&mut feed, &mut kept, BATCH_MAX).await.expect_err("is full").to_string(), "full");
        assert_eq!((feed.settled, feed.taken), (BATCH_MAX, BATCH_MAX + 3));
        let expected: Vec<String> = (0..BATCH_MAX).map(|place| place.to_string()).collect();
        assert_eq!((kept.keys, kept.told), (expected, vec![true]));
    }

    #[tokio::test]
    async fn what_was_accepted_and_not_settled_comes_again_under_the_same_key() {
        let mut kept = Kept::of(9);
        let mut feed = Memory { settling_fails: true, ..Memory::of(3) };
        assert_eq!(turn(&mut feed, &mut kept, 9).await.expect_err("is lost").to_string(), "lost");
        turn(&mut Memory::of(3), &mut kept, 9).await.expect("goes through");
        assert_eq!(kept.keys, ["0", "1", "2", "0", "1", "2"]);
    }

    #[tokio::test]
    async fn an_empty_queue_is_told_and_nothing_is_settled() {
        let mut kept = Kept::of(9);
        let mut feed = Memory { settling_fails: true, ..Memory::of(0) };
        turn(&mut feed, &mut kept, 9).await.expect("goes through");
        assert_eq!(kept.told, [false]);
    }

    #[tokio::test]
    async fn nothing_is_taken_before_there_is_room() {
        struct NoRoom;
        impl Consumer for NoRoom {
            type Error = String;
            async fn ready(&mut self) {
                std::future::pending().await
            }
            async fn accept(&mut self, _: Vec<Taken>, _: bool, _: Option<String>) -> Result<(), String> {
                Err("it was not ready".to_owned())
            }
            fn amiss(&mut self, _: Amiss) {}
        }
        let mut feed = Memory::of(3);
        let waiting = tokio::time::timeout(Duration::from_millis(20), turn(&mut feed, &mut NoRoom, 9)).await;
        assert!(waiting.is_err() && feed.taken == 0);
    }

    #[test]
    fn a_batch_has_as_many_as_memory_is_for() {
        let sized = |bytes: usize| Taken { payload: vec![0; bytes].into(), ..message(1) };
        for (batch, most, next) in [
            (vec![], 16, 16),
            (vec![message(1)], 16, 32),
            (vec![message(1)], 200, BATCH_MAX),
            (vec![sized(BATCH_BYTES / 8); 2], 16, 8),
            (vec![sized(BATCH_BYTES / 2), sized(0)], 16, 4),
            (vec![sized(3 * BATCH_BYTES)], 16, 1),
        ] {
            assert_eq!(most_after(&batch, most), next);
        }
    }

    #[test]
    fn a_message_is_known_by_what_its_sender_says_or_by_its_place() {
        let mut taken = message(7);
        assert_eq!(taken.key(None), "7");
        taken.stream = Some("5".to_owned());
        taken.headers = vec![("a".to_owned(), String::new()), ("b".to_owned(), "order-1".to_owned())];
        for (header, key) in [(None, "7 5"), (Some("a"), "7 5"), (Some("b"), "order-1"), (Some("c"), "7 5")] {
            assert_eq!(taken.key(header), key);
        }
    }
}
