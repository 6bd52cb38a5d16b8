//! Apache Kafka, and what speaks as it does.
//!
//! The protocol is spoken here, over connections from `egress`: also those to brokers that only other brokers have named. What is spoken is
//! small: who leads a partition ([`layout`]), writing to it ([`publisher`]) and reading it ([`feed`], by way of its [`leader`]). Kafka keeps no place for us. How
//! far a source has read is the source's to keep, in the commit of what it read: so each record is a message once.

mod wire;
mod compression;
mod records;
mod scram;
mod link;
mod layout;
mod publisher;
mod position;
mod leader;
mod aside;
mod follow;
mod fetch;
mod unpack;
mod feed;

pub(crate) use feed::Partitions;
pub(crate) use publisher::Publisher;
