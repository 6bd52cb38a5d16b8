//! Queues at both edges: what an endpoint publishes, and what a source takes.
//!
//! [`Publishers::publish`] puts one message into a queue and comes back when the queue has said that it has it; plugins of the kind
//! `queue` call it. [`consume`] takes messages out of a queue, in order, and acknowledges them when its [`Consumer`] has
//! made them durable. A crash at any point leads to a repetition, never to a loss; both ways carry an id by which repetitions are known.
//!
//! A crate of its own because each queue brings a client that not everybody needs to build: they are features, and
//! [`Broker::is_built_in`] says which there are. All of them connect by way of `egress` and its address guard. It knows nothing
//! of messages, endpoints or sources; how the truth is kept is never a queue's business.
#![cfg_attr(
    not(all(feature = "amqp", feature = "kafka", feature = "nats", feature = "redis", feature = "sqs")),
    allow(dead_code, unused_variables, reason = "used only by queues that were left out")
)]

mod server;
mod publish;
mod consume;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "redis")]
mod redis_streams;
#[cfg(feature = "amqp")]
mod amqp;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "sqs")]
mod sqs;
#[cfg(feature = "sqs")]
mod signature_v4;

pub use consume::{Amiss, ConsumeError, Consumer, Start, Subscription, Taken, consume};
pub use publish::{Placed, Publication, PublishError, Publishers, is_subject, is_topic};
pub use server::{Broker, Credentials, Mechanism, Server, ServerFault};

/// The wall clock, in Unix seconds.
pub type Wall = fn() -> i64;

/// Names of what goes with a payload: headers in NATS, AMQP and Kafka, fields in Redis.
pub mod header {
    /// The message's id.
    pub const ID: &str = "webhook-id";
    /// Its event type.
    pub const EVENT_TYPE: &str = "webhook-event-type";
    /// Its content type.
    pub const CONTENT_TYPE: &str = "content-type";
    /// By how many servers like this one the message has been passed on.
    pub const HOPS: &str = "bellwire-hops";
    /// In Redis, where an entry has nothing but fields: the payload.
    pub const PAYLOAD: &str = "payload";
    /// By which JetStream knows what it has already.
    pub const NATS_ID: &str = "Nats-Msg-Id";
    /// Of what was taken from Kafka: the record's key, if that is text.
    pub const KAFKA_KEY: &str = "kafka-key";
}
