//! What a start needs to know, read from the two logs above the watermark and from the heads of the waiting room.

use super::codec::{self, integer};
use super::configuration;
use super::fault::Fault;
use super::ledger::Meta;
use super::message_log::{self, BlobRef};
use super::sealed::Sealer;
use super::{source, subscription, task, tokens, waiting_room};
use crate::{Recovered, Unfinished};
use bellwire_model::{Delivery, EndpointKey, FanOut, Sequence};
use rusqlite::Connection;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// See [`crate::Store::recover`]; in the transaction that `connection` has open.
pub(super) fn recover(connection: &Connection, sealer: Option<&dyn Sealer>) -> Result<Recovered, Fault> {
    let meta = Meta::read(connection)?;
    let deleted: HashSet<EndpointKey> = configuration::deleted_endpoints(connection)?.into_iter().collect();
    let endpoints = configuration::endpoints(connection, sealer)?;
    let fifo: HashSet<EndpointKey> = endpoints.iter().filter(|e| e.limits.fifo).map(|e| e.key).collect();
    let mut waiting = waiting_room::heads(connection)?;
    // What is deleted is upkeep's, not the engine's.
    waiting.retain(|(endpoint, _)| !deleted.contains(endpoint));
    for (endpoint, head) in waiting.iter_mut().filter(|(endpoint, _)| fifo.contains(endpoint)) {
        if let Some(first) = waiting_room::next_due(connection, *endpoint, true)? {
            *head = first;
        }
    }
    let mut with_payload = Vec::new();
    for left in unfinished(connection, meta.watermark, None)? {
        if let Some(message) = message_log::find(connection, left.message, true)? {
            with_payload.push(Unfinished { message: Arc::new(message), fan_out: left.fan_out });
        }
    }
    Ok(Recovered {
        // What is accepted from now on is younger than every task.
        newest: meta.newest_of_all().max(task::newest(connection)?),
        last_key: meta.last_key,
        applications: configuration::applications(connection)?,
        endpoints,
        event_types: configuration::event_types(connection)?,
        sources: source::all(connection, sealer)?,
        ended_subscriptions: subscription::all(connection, sealer)?,
        tokens: tokens::read(connection)?,
        unfinished: with_payload,
        waiting,
        ledger: meta.ledger,
    })
}

/// A message with those of its fan-out that have neither ended nor are in the waiting room.
pub(super) struct Left {
    pub(super) message: Sequence,
    pub(super) fan_out: FanOut,
}

/// The unfinished messages from `watermark` on, of all endpoints or of those in `only`, in order of acceptance.
///
/// An attempt, whatever followed it, is a sign that its delivery has ended or waits, and is always younger than its message; so
/// both logs are read from the watermark on, and neither's payloads.
pub(super) fn unfinished(
    connection: &Connection,
    watermark: Sequence,
    only: Option<&BTreeSet<EndpointKey>>,
) -> Result<Vec<Left>, Fault> {
    let wanted = |endpoint: EndpointKey| only.is_none_or(|only| only.contains(&endpoint));
    let mut tried: HashSet<Delivery> = HashSet::new();
    let mut attempts =
        connection.prepare_cached("SELECT message, endpoint FROM attempt WHERE sequence >= ?1 AND message >= ?1")?;
    let mut rows = attempts.query([integer(watermark)])?;
    while let Some(row) = rows.next()? {
        let delivery = Delivery { message: codec::sequence(row.get(0)?), endpoint: EndpointKey(row.get(1)?) };
        if wanted(delivery.endpoint) {
            tried.insert(delivery);
        }
    }
    let mut left = Vec::new();
    let mut messages = connection.prepare_cached("SELECT sequence, fan_out FROM message WHERE sequence >= ?1")?;
    let mut rows = messages.query([integer(watermark)])?;
    while let Some(row) = rows.next()? {
        let message = codec::sequence(row.get(0)?);
        let mut fan_out = codec::read_fan_out(row.get_ref(1)?.blob_or_empty()?)?;
        fan_out.retain(|endpoint| wanted(*endpoint) && !tried.contains(&Delivery { endpoint: *endpoint, message }));
        if !fan_out.is_empty() {
            left.push(Left { message, fan_out });
        }
    }
    for message in &mut left {
        let mut unparked = FanOut::new();
        for endpoint in &message.fan_out {
            let delivery = Delivery { endpoint: *endpoint, message: message.message };
            if waiting_room::find(connection, delivery)?.is_none() {
                unparked.push(*endpoint);
            }
        }
        message.fan_out = unparked;
    }
    left.retain(|message| !message.fan_out.is_empty());
    Ok(left)
}
