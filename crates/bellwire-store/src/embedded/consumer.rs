//! Named readers of pipe endpoints, and how what was handed to readers ended.
//!
//! What a reader says of a delivery counts only while the delivery waits. So a second word, a word that comes late, or one about a
//! delivery that was cancelled meanwhile changes nothing, and the ledger comes out whatever races.

use super::codec::{self, integer};
use super::fault::Fault;
use super::index::AttemptRecord;
use super::ledger::Meta;
use super::retention::next_sequence;
use super::waiting_room::{self, Counts};
use super::{attempt_log, message_log};
use crate::{Consumer, Settled};
use bellwire_model::{
    AfterAttempt, Attempt, AttemptId, Delivery, EndpointKey, Pipe, Sequence, Timestamp, Trigger, Waiting,
};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashMap;
use std::sync::Arc;

/// How far the farthest consumer of each endpoint has read.
pub(super) type ReadThrough = HashMap<EndpointKey, Sequence>;

/// Writes down how deliveries ended that wait; what it needs of the writer.
pub(super) struct Settling<'a> {
    pub(super) connection: &'a Connection,
    pub(super) counts: &'a mut Counts,
    pub(super) meta: &'a mut Meta,
    pub(super) upkeep_from: Sequence,
}

impl Settling<'_> {
    /// Records what a reader said; nothing if the delivery no longer waits under that number. The rows are in the indexes at once, as
    /// upkeep's own are. Answers whether it counted.
    pub(super) fn settle(&mut self, settled: &Settled) -> Result<bool, Fault> {
        let delivery = settled.delivery;
        let waiting = waiting_room::find(self.connection, delivery)?;
        let Some(waiting) = waiting.filter(|waiting| waiting.next == settled.number) else { return Ok(false) };
        let Some(application) = message_log::find_application(self.connection, delivery.message)? else {
            return Ok(false);
        };
        let at = next_sequence(self.meta, self.upkeep_from, settled.at);
        self.meta.upkeep_newest = at;
        let attempt = Attempt {
            id: AttemptId::from_parts(at, attempt_log::tail_of(at, delivery)),
            delivery,
            application,
            number: settled.number,
            trigger: waiting.trigger,
            url: Pipe::ADDRESS.into(),
            outcome: Some(settled.outcome.clone()),
            after: settled.after,
        };
        attempt_log::Appender::new(self.connection)?.append_indexed(&attempt)?;
        super::index::write_attempts_at_once(self.connection, &[AttemptRecord::new(&attempt, attempt.after)])?;
        match settled.after {
            AfterAttempt::Waiting { due } => {
                let next = settled.number.saturating_add(1);
                waiting_room::move_to(self.connection, &Waiting { due, next, ..waiting })?;
            }
            after => {
                waiting_room::remove(self.connection, self.counts, delivery)?;
                self.meta.ledger.count(after);
            }
        }
        Ok(true)
    }

    /// Records as delivered a slice of what waits of `endpoint` before `before` and that nobody asked for by hand. Answers whether
    /// there may be more.
    pub(super) fn read_past(
        &mut self,
        endpoint: EndpointKey,
        before: Sequence,
        consumer: &str,
        at: Timestamp,
        limit: usize,
    ) -> Result<bool, Fault> {
        let rows = waiting_room::oldest_scheduled(self.connection, endpoint, before, limit)?;
        for waiting in &rows {
            self.settle(&Settled {
                delivery: waiting.delivery,
                number: waiting.next,
                at,
                outcome: crate::read_outcome(consumer, at),
                after: AfterAttempt::Delivered,
            })?;
        }
        Ok(rows.len() >= limit)
    }
}

/// Sets a consumer's place, or only moves it forward. Answers how far the farthest consumer of the endpoint has read.
pub(super) fn put(connection: &Connection, consumer: &Consumer, forward: bool) -> Result<Sequence, Fault> {
    connection
        .prepare_cached(
            "INSERT INTO consumer (endpoint, name, cursor, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT (endpoint, name) DO UPDATE SET \
             cursor = CASE WHEN ?6 THEN max(cursor, ?3) ELSE ?3 END, updated_at = ?5",
        )?
        .execute(params![
            consumer.endpoint.0,
            &*consumer.name,
            integer(consumer.cursor),
            consumer.created_at.as_micros(),
            consumer.updated_at.as_micros(),
            forward,
        ])?;
    farthest(connection, consumer.endpoint)
}

pub(super) fn delete(connection: &Connection, endpoint: EndpointKey, name: &str) -> Result<Sequence, Fault> {
    connection
        .prepare_cached("DELETE FROM consumer WHERE endpoint = ?1 AND name = ?2")?
        .execute(params![endpoint.0, name])?;
    farthest(connection, endpoint)
}

pub(super) fn delete_all(connection: &Connection, endpoint: EndpointKey) -> Result<(), Fault> {
    connection.prepare_cached("DELETE FROM consumer WHERE endpoint = ?1")?.execute([endpoint.0])?;
    Ok(())
}

fn farthest(connection: &Connection, endpoint: EndpointKey) -> Result<Sequence, Fault> {
    let mut statement = connection.prepare_cached("SELECT max(cursor) FROM consumer WHERE endpoint = ?1")?;
    let found: Option<i64> = statement.query_one([endpoint.0], |row| row.get(0))?;
    Ok(found.map_or(Sequence::ZERO, codec::sequence))
}

/// How far each endpoint has been read, at a start.
pub(super) fn read_through(connection: &Connection) -> Result<ReadThrough, Fault> {
    let mut statement = connection.prepare("SELECT endpoint, max(cursor) FROM consumer GROUP BY endpoint")?;
    let rows = statement.query_map([], |row| Ok((EndpointKey(row.get(0)?), codec::sequence(row.get(1)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// See [`crate::Store::consumers`].
pub(super) fn list(connection: &Connection, endpoint: EndpointKey) -> Result<Vec<Consumer>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT endpoint, name, cursor, created_at, updated_at FROM consumer WHERE endpoint = ?1 ORDER BY name",
    )?;
    let rows = statement.query_map([endpoint.0], consumer_from)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// See [`crate::Store::consumer`].
pub(super) fn find(connection: &Connection, endpoint: EndpointKey, name: &str) -> Result<Option<Consumer>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT endpoint, name, cursor, created_at, updated_at FROM consumer WHERE endpoint = ?1 AND name = ?2",
    )?;
    Ok(statement.query_row(params![endpoint.0, name], consumer_from).optional()?)
}

fn consumer_from(row: &Row<'_>) -> rusqlite::Result<Consumer> {
    Ok(Consumer {
        endpoint: EndpointKey(row.get(0)?),
        name: Arc::from(row.get_ref(1)?.as_str()?),
        cursor: codec::sequence(row.get(2)?),
        created_at: Timestamp::from_micros(row.get(3)?),
        updated_at: Timestamp::from_micros(row.get(4)?),
    })
}

/// How a delivery without a row ended, if it did: of a delivery that an engine had in flight while a reader took it, the reader's word
/// stands. What readers say is in the indexes from the start.
pub(super) fn ended_by_reader(connection: &Connection, delivery: Delivery) -> Result<Option<AfterAttempt>, Fault> {
    if waiting_room::find(connection, delivery)?.is_some() {
        return Ok(None);
    }
    let mut statement = connection.prepare_cached(
        "SELECT after FROM attempt_by_delivery WHERE message = ?1 AND endpoint = ?2 ORDER BY attempt DESC LIMIT 1",
    )?;
    let after: Option<u8> = statement
        .query_row([integer(delivery.message), i64::from(delivery.endpoint.0)], |row| row.get(0))
        .optional()?;
    Ok(match after {
        None | Some(codec::WAITING) => None,
        Some(codec::DELIVERED) => Some(AfterAttempt::Delivered),
        Some(code) => Some(AfterAttempt::Ended(codec::reason_from(code)?)),
    })
}

/// Whether a row that an engine puts into the waiting room belongs to a fresh delivery that was read before it got there.
pub(super) fn was_read(read: &ReadThrough, waiting: &Waiting) -> bool {
    waiting.next == 1
        && waiting.trigger == Trigger::Scheduled
        && read.get(&waiting.delivery.endpoint).is_some_and(|through| waiting.delivery.message <= *through)
}
