//! Out: one message into a queue, and the queue's word for it.

use crate::Wall;
use crate::server::{Broker, Server};
use bellwire_egress::{Client, SendError};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// So many connections are held, each to another server or as somebody else. With more, the one that was used longest ago goes.
const CONNECTIONS_MAX: usize = 64;
/// A connection that was not used for so long goes when the next one is opened.
const IDLE: Duration = Duration::from_secs(300);

/// Names of Kafka's topics are no longer.
const TOPIC_MAX: usize = 249;

/// One message for a queue.
#[derive(Clone, Debug)]
pub struct Publication {
    /// A NATS subject, the key of a Redis stream, the group in a FIFO queue of SQS, the routing key of AMQP, or a topic of Kafka.
    pub to: String,
    /// Of AMQP: what brings it to queues; the one without a name brings it to the queue that the routing key names.
    pub exchange: String,
    /// Of Kafka: what has the same key goes to the same partition; anywhere, if absent or empty.
    pub key: Option<String>,
    /// By which a repetition of the same publication is known.
    pub id: String,
    /// What goes with the payload; names as in [`crate::header`].
    pub headers: Vec<(&'static str, String)>,
    /// The payload.
    pub payload: Bytes,
    /// Of Redis: about how many entries the stream keeps; all if absent.
    pub length_max: Option<u64>,
    /// Of Redis: for how long a repetition is known. JetStream's streams have a window of their own for that.
    pub dedupe: Option<Duration>,
}

/// The queue has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Where, as the queue calls it: `EVENTS 17`, `1526919030474-55`.
    pub place: String,
    /// It was there before.
    pub duplicate: bool,
}

/// Why the queue does not have it, or why that is not known.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No connection; nothing was published.
    #[error("{}", .0.customer_text())]
    Unreachable(#[source] SendError),
    /// The connection did not come to its beginning; nothing was published.
    #[error("{0}")]
    Unconnected(String),
    /// The queue does not want us, or not this.
    #[error("{text}")]
    Refused {
        /// What it said.
        text: String,
        /// No repetition will change that.
        forever: bool,
    },
    /// The connection ended, or the queue did not answer; it may have it.
    #[error("{0}")]
    Lost(String),
    /// It did not answer in time; it may have it.
    #[error("no answer from the queue within {0:?}")]
    Timeout(Duration),
}

impl PublishError {
    /// A connection of which this was heard is of no more use.
    fn is_of_connection(&self) -> bool {
        !matches!(self, PublishError::Refused { .. })
    }
}

/// Whether NATS lets something be published there: words between single full stops, without wildcards.
pub fn is_subject(text: &str) -> bool {
    text.split('.').all(|word| {
        !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control() || c == '*' || c == '>')
    })
}

/// Whether Kafka can have a topic of this name.
pub fn is_topic(text: &str) -> bool {
    let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=TOPIC_MAX).contains(&text.len()) && text.chars().all(usual) && !matches!(text, "." | "..")
}

pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An open connection to one kind of queue.
pub(crate) trait Connection: Send + Sync {
    /// Publishes, and waits for the queue's word, for as long as the caller wants.
    fn publish<'a>(&'a self, publication: &'a Publication) -> Boxed<'a, Result<Placed, PublishError>>;

    /// It is not known to be of no more use.
    fn is_open(&self) -> bool;

    /// It has connections of its own, and replaces those that end; so it is of use after any error.
    fn heals(&self) -> bool {
        false
    }
}

/// Publishes, over connections that are kept for the next time. One for each thread: its connections belong to the
/// runtime on which they were opened.
pub struct Publishers {
    client: Client,
    wall: Wall,
    slots: Mutex<HashMap<Server, Arc<Slot>>>,
}

/// The one connection to a server.
struct Slot {
    used: Mutex<Instant>,
    open: tokio::sync::Mutex<Option<Arc<dyn Connection>>>,
}

impl Publishers {
    /// Connects by way of `client`, which must belong to this thread's runtime.
    pub fn new(client: Client, wall: Wall) -> Self {
        Publishers { client, wall, slots: Mutex::default() }
    }

    /// Publishes to `server`, and comes back when the queue has it, within `limit`.
    ///
    /// # Errors
    /// [`PublishError`]; after [`PublishError::Lost`] and [`PublishError::Timeout`] it may be there all the same.
    pub async fn publish(
        &self,
        server: &Server,
        publication: &Publication,
        limit: Duration,
    ) -> Result<Placed, PublishError> {
        let slot = self.slot(server);
        let mut used = None;
        let publishing = async {
            let connection = slot.connection((&self.client, self.wall), server, limit).await?;
            used = Some(Arc::clone(&connection));
            connection.publish(publication).await
        };
        let placed = match tokio::time::timeout(limit, publishing).await {
            Ok(placed) => placed,
            Err(_) => Err(PublishError::Timeout(limit)),
        };
        if let (Err(error), Some(used)) = (&placed, used)
            && error.is_of_connection()
            && !used.heals()
        {
            slot.discard(&used).await;
        }
        placed
    }

    fn slot(&self, server: &Server) -> Arc<Slot> {
        let now = Instant::now();
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(server) {
            *slot.used.lock() = now;
            return Arc::clone(slot);
        }
        slots.retain(|_, slot| now.duration_since(*slot.used.lock()) < IDLE || Arc::strong_count(slot) > 1);
        if slots.len() >= CONNECTIONS_MAX {
            let oldest = slots.iter().min_by_key(|(_, slot)| *slot.used.lock()).map(|(server, _)| server.clone());
            oldest.and_then(|server| slots.remove(&server));
        }
        let slot = Arc::new(Slot { used: Mutex::new(now), open: tokio::sync::Mutex::new(None) });
        slots.insert(server.clone(), Arc::clone(&slot));
        slot
    }
}

impl Slot {
    /// The connection, opened if there is none. Who comes meanwhile waits for it.
    async fn connection(
        &self,
        way: (&Client, Wall),
        server: &Server,
        limit: Duration,
    ) -> Result<Arc<dyn Connection>, PublishError> {
        let mut open = self.open.lock().await;
        if let Some(connection) = open.as_ref().filter(|connection| connection.is_open()) {
            return Ok(Arc::clone(connection));
        }
        *open = None;
        let connection = connect(way, server, limit).await?;
        *open = Some(Arc::clone(&connection));
        Ok(connection)
    }

    async fn discard(&self, connection: &Arc<dyn Connection>) {
        let mut open = self.open.lock().await;
        if open.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            *open = None;
        }
    }
}

async fn connect(
    (client, wall): (&Client, Wall),
    server: &Server,
    limit: Duration,
) -> Result<Arc<dyn Connection>, PublishError> {
    match server.broker {
        #[cfg(feature = "nats")]
        Broker::Nats => Ok(Arc::new(crate::nats::Publisher::open(client, server, limit).await?)),
        #[cfg(feature = "redis")]
        Broker::Redis => Ok(Arc::new(crate::redis_streams::Publisher::open(client, server, limit).await?)),
        #[cfg(feature = "sqs")]
        Broker::Sqs => Ok(Arc::new(crate::sqs::Publisher::new(client, server, wall, limit)?)),
        #[cfg(feature = "amqp")]
        Broker::Amqp => Ok(Arc::new(crate::amqp::Publisher::open(client, server, wall, limit).await?)),
        #[cfg(feature = "kafka")]
        Broker::Kafka => Ok(Arc::new(crate::kafka::Publisher::new(client, server, wall, limit))),
        #[cfg(not(all(feature = "amqp", feature = "kafka", feature = "nats", feature = "redis", feature = "sqs")))]
        broker => {
            let text = Broker::parse(broker.name()).err().unwrap_or_default();
            Err(PublishError::Refused { text, forever: false })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TOPIC_MAX, is_subject, is_topic};

    #[test]
    fn a_topic_has_the_letters_that_kafka_allows() {
        for (text, expected) in [
            ("orders", true),
            ("Orders.v1_a-b", true),
            ("", false),
            ("..", false),
            ("a b", false),
            ("a/b", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(is_topic(text), expected, "{text:?}");
        }
        assert!(is_topic(&"x".repeat(TOPIC_MAX)) && !is_topic(&"x".repeat(TOPIC_MAX + 1)));
    }

    #[test]
    fn a_subject_is_words_between_dots() {
        for (text, expected) in [
            ("events", true),
            ("events.invoice.paid", true),
            ("", false),
            ("events..paid", false),
            ("events.", false),
            ("events.*", false),
            ("events.>", false),
            ("events paid", false),
            ("events\r\nPUB x", false),
        ] {
            assert_eq!(is_subject(text), expected, "{text:?}");
        }
    }
}
