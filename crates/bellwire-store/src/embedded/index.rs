//! The indexes, filled in sorted slices a moment behind the logs, and the tail: what they lack, in memory.
//!
//! The truth is the logs. The tail is a copy of their newest part, `(indexed, newest]`, small enough to walk through. A commit
//! publishes its records to the tail after it is durable and before it answers; a slice takes its records off the tail
//! after it is durable. A reader brings the two together with its own transaction in [`Tail::view`].

use super::codec::{self, integer};
use super::fault::Fault;
use super::key_filter::{KeyFilter, Place};
use super::ledger::Meta;
use super::{attempt_log, keys, message_log};
use crate::DedupeEntry;
use bellwire_model::{
    AfterAttempt, ApplicationKey, Attempt, DedupeKey, Delivery, EndpointKey, FanOut, Sequence, Timestamp, Trigger,
};
use rusqlite::{Connection, params};
use std::collections::{HashMap, VecDeque};

/// What the indexes want of a message.
#[derive(Clone, Debug)]
pub(super) struct MessageRecord {
    pub(super) sequence: Sequence,
    pub(super) application: ApplicationKey,
    pub(super) event_type: u32,
    pub(super) marks: u64,
    pub(super) fan_out: FanOut,
    pub(super) expires_at: Timestamp,
    pub(super) idempotency: Option<DedupeEntry>,
    pub(super) event: Option<DedupeKey>,
}

impl MessageRecord {
    pub(super) fn new(accepted: &crate::Accepted) -> Self {
        let message = &*accepted.message;
        let sequence = message.sequence();
        MessageRecord {
            sequence,
            application: message.application,
            event_type: codec::type_hash(&message.event_type),
            marks: codec::marks(
                &message.channels,
                &message.tags,
                message.received.as_ref().map(|received| received.source),
            ),
            fan_out: accepted.fan_out.clone(),
            expires_at: message.expires_at,
            idempotency: accepted.idempotency.map(|entry| DedupeEntry { message: sequence, ..entry }),
            event: accepted.event,
        }
    }
}

/// What the indexes want of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptRecord {
    pub(super) sequence: Sequence,
    pub(super) message: Sequence,
    pub(super) endpoint: EndpointKey,
    pub(super) number: u32,
    pub(super) manual: bool,
    pub(super) after: u8,
    pub(super) status: Option<i32>,
}

impl AttemptRecord {
    pub(super) fn new(attempt: &Attempt, after: AfterAttempt) -> Self {
        AttemptRecord {
            sequence: attempt.id.sequence(),
            message: attempt.delivery.message,
            endpoint: attempt.delivery.endpoint,
            number: attempt.number,
            manual: attempt.trigger == Trigger::Manual,
            after: codec::after_code(after).0,
            status: attempt.outcome.as_ref().map(|outcome| codec::status_code(outcome.result)),
        }
    }

    pub(super) fn delivery(&self) -> Delivery {
        Delivery { endpoint: self.endpoint, message: self.message }
    }
}

/// The newest part of both logs, each in rising sequence.
#[derive(Default)]
pub(super) struct Tail {
    messages: VecDeque<MessageRecord>,
    attempts: VecDeque<AttemptRecord>,
    keys: HashMap<DedupeKey, DedupeEntry>,
    /// Knows its own keys and, once it has gone through them, those of the tables.
    pub(super) filter: KeyFilter,
    /// Holds everything up to and including it.
    newest: Sequence,
}

/// Where a key is.
pub(super) enum Sought {
    /// In the tail.
    Found(DedupeEntry),
    /// Perhaps in the tables.
    InTables,
    /// In neither.
    Nowhere,
}

/// The part of the tail that a query asked for, exactly as its transaction sees it.
#[derive(Default)]
pub(super) struct View {
    pub(super) messages: Vec<MessageRecord>,
    pub(super) attempts: Vec<AttemptRecord>,
}

impl Tail {
    /// Reads what the indexes lack from the logs, at a start.
    pub(super) fn read(connection: &Connection, meta: &Meta) -> Result<Tail, Fault> {
        // A message has two keys at most; how many of all that were ever accepted are still there is not known.
        let filter = KeyFilter::gathering(meta.ledger.accepted.saturating_mul(2));
        let mut tail = Tail { newest: meta.indexed, filter, ..Tail::default() };
        let (mut messages, mut attempts) = (Vec::new(), Vec::new());
        message_log::records(connection, meta.indexed, meta.newest, |record| messages.push(record))?;
        attempt_log::records(connection, meta.indexed, meta.newest, |record| attempts.push(record))?;
        tail.publish(&mut messages, &mut attempts, meta.newest);
        Ok(tail)
    }

    /// From where on the filter is to be told which keys the tables hold. Of the tail's own keys it is told here.
    pub(super) fn filter_wants(&mut self) -> Option<Place> {
        self.filter.wants(self.keys.keys().copied())
    }

    /// How many records the indexes lack.
    pub(super) fn len(&self) -> usize {
        self.messages.len() + self.attempts.len()
    }

    /// Appends what a commit has made durable; it is complete up to `newest` from now on.
    pub(super) fn publish(
        &mut self,
        messages: &mut Vec<MessageRecord>,
        attempts: &mut Vec<AttemptRecord>,
        newest: Sequence,
    ) {
        for record in &*messages {
            for (key, entry) in keys::entries(record) {
                // The first one counts.
                self.keys.entry(key).or_insert(entry);
                self.filter.insert(key);
            }
        }
        self.messages.extend(messages.drain(..));
        self.attempts.extend(attempts.drain(..));
        self.newest = self.newest.max(newest);
    }

    /// Drops what a slice has indexed, up to and including `indexed`.
    pub(super) fn drop_through(&mut self, indexed: Sequence) {
        while let Some(record) = self.messages.pop_front_if(|record| record.sequence <= indexed) {
            for (key, entry) in keys::entries(&record) {
                if self.keys.get(&key).is_some_and(|kept| kept.message == entry.message) {
                    self.keys.remove(&key);
                }
            }
        }
        while self.attempts.pop_front_if(|record| record.sequence <= indexed).is_some() {}
    }

    /// The oldest record of either log.
    pub(super) fn oldest(&self) -> Option<Sequence> {
        let message = self.messages.front().map(|record| record.sequence);
        let attempt = self.attempts.front().map(|record| record.sequence);
        message.into_iter().chain(attempt).min()
    }

    pub(super) fn find_key(&self, key: DedupeKey) -> Sought {
        match self.keys.get(&key) {
            Some(entry) => Sought::Found(*entry),
            None if self.filter.may_hold(key) => Sought::InTables,
            None => Sought::Nowhere,
        }
    }

    /// The oldest records, about `count` of both logs together and never part of a message, with the sequence up to which they reach.
    pub(super) fn slice(&self, count: usize) -> Slice {
        let (mut messages, mut attempts) = (0, 0);
        let mut through = Sequence::ZERO;
        while messages + attempts < count {
            let message = self.messages.get(messages).map(|record| record.sequence);
            let attempt = self.attempts.get(attempts).map(|record| record.sequence);
            through = match (message, attempt) {
                (Some(message), Some(attempt)) if message < attempt => {
                    messages += 1;
                    message
                }
                (_, Some(attempt)) => {
                    attempts += 1;
                    attempt
                }
                (Some(message), None) => {
                    messages += 1;
                    message
                }
                (None, None) => break,
            };
        }
        Slice {
            messages: self.messages.iter().take(messages).cloned().collect(),
            attempts: self.attempts.iter().take(attempts).copied().collect(),
            through,
        }
    }

    /// What of the tail belongs to the transaction that `connection` has open and has not yet read from, and the transaction's
    /// [`Meta`].
    ///
    /// The caller holds the tail's lock, so that nothing is published or dropped meanwhile; the first read fixes what the transaction
    /// sees. A slice that is durable but not yet dropped is left out by `indexed`; a commit that is durable but not yet
    /// published is read from the logs. So the view and the transaction agree to the row.
    pub(super) fn view(
        &self,
        connection: &Connection,
        message_wanted: impl Fn(&MessageRecord) -> bool,
        attempt_wanted: impl Fn(&AttemptRecord) -> bool,
    ) -> Result<(Meta, View), Fault> {
        let meta = Meta::read(connection)?;
        let mut view = View::default();
        let first = self.messages.partition_point(|record| record.sequence <= meta.indexed);
        view.messages.extend(self.messages.range(first..).filter(|record| message_wanted(record)).cloned());
        let first = self.attempts.partition_point(|record| record.sequence <= meta.indexed);
        view.attempts.extend(self.attempts.range(first..).filter(|record| attempt_wanted(record)).copied());
        let held = self.newest.max(meta.indexed);
        if held < meta.newest {
            message_log::records(connection, held, meta.newest, |record| {
                if message_wanted(&record) {
                    view.messages.push(record);
                }
            })?;
            attempt_log::records(connection, held, meta.newest, |record| {
                if attempt_wanted(&record) {
                    view.attempts.push(record);
                }
            })?;
        }
        Ok((meta, view))
    }
}

/// Records on their way into the indexes; their keys go into [`KeyRuns`](super::key_runs::KeyRuns).
#[derive(Default)]
pub(super) struct Slice {
    pub(super) messages: Vec<MessageRecord>,
    pub(super) attempts: Vec<AttemptRecord>,
    /// They are all there is up to and including it.
    pub(super) through: Sequence,
}

impl Slice {
    /// Writes it, each table in the order of its key. `retention_ends` tells when a message goes as a whole.
    pub(super) fn write(
        &self,
        connection: &Connection,
        retention_ends: impl Fn(Sequence) -> Timestamp,
    ) -> Result<(), Fault> {
        self.write_messages(connection)?;
        self.write_deliveries(connection)?;
        self.write_attempts(connection)?;
        let mut expiring = connection.prepare_cached("INSERT OR IGNORE INTO expiring VALUES (?1, ?2)")?;
        for record in &self.messages {
            if record.expires_at < retention_ends(record.sequence) {
                expiring.execute([record.expires_at.as_micros(), integer(record.sequence)])?;
            }
        }
        Ok(())
    }

    fn write_messages(&self, connection: &Connection) -> Result<(), Fault> {
        let mut rows: Vec<_> = self.messages.iter().collect();
        rows.sort_unstable_by_key(|record| (record.application, record.sequence));
        let mut insert = connection.prepare_cached("INSERT INTO message_by_application VALUES (?1, ?2, ?3, ?4)")?;
        for record in rows {
            insert.execute(params![
                record.application.0,
                integer(record.sequence),
                record.event_type,
                record.marks as i64
            ])?;
        }
        Ok(())
    }

    fn write_deliveries(&self, connection: &Connection) -> Result<(), Fault> {
        let mut rows: Vec<_> = Vec::with_capacity(self.messages.len());
        for record in &self.messages {
            rows.extend(record.fan_out.iter().map(|endpoint| (*endpoint, record.sequence, record)));
        }
        rows.sort_unstable_by_key(|(endpoint, message, _)| (*endpoint, *message));
        let mut insert =
            connection.prepare_cached("INSERT OR IGNORE INTO delivery_by_endpoint VALUES (?1, ?2, ?3, ?4)")?;
        for (endpoint, message, record) in rows {
            insert.execute(params![endpoint.0, integer(message), record.event_type, record.marks as i64])?;
        }
        Ok(())
    }

    fn write_attempts(&self, connection: &Connection) -> Result<(), Fault> {
        let mut rows: Vec<_> = self.attempts.iter().collect();
        rows.sort_unstable_by_key(|record| (record.message, record.endpoint, record.sequence));
        write_attempts_by_delivery(connection, &rows)?;
        rows.sort_unstable_by_key(|record| (record.endpoint, record.sequence));
        write_attempts_by_endpoint(connection, &rows)
    }
}

/// Writes attempts that upkeep itself has made: they go to the log and to the indexes in one transaction and never through the tail,
/// so their sequences need not be the newest.
pub(super) fn write_attempts_at_once(connection: &Connection, attempts: &[AttemptRecord]) -> Result<(), Fault> {
    let rows: Vec<_> = attempts.iter().collect();
    write_attempts_by_delivery(connection, &rows)?;
    write_attempts_by_endpoint(connection, &rows)
}

fn write_attempts_by_delivery(connection: &Connection, rows: &[&AttemptRecord]) -> Result<(), Fault> {
    let mut insert = connection.prepare_cached("INSERT INTO attempt_by_delivery VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for record in rows {
        insert.execute(params![
            integer(record.message),
            record.endpoint.0,
            integer(record.sequence),
            record.number,
            record.after,
            record.status,
        ])?;
        if record.manual {
            note_added_delivery(connection, record.delivery())?;
        }
    }
    Ok(())
}

fn write_attempts_by_endpoint(connection: &Connection, rows: &[&AttemptRecord]) -> Result<(), Fault> {
    let mut insert = connection.prepare_cached("INSERT INTO attempt_by_endpoint VALUES (?1, ?2, ?3, ?4)")?;
    for record in rows {
        insert.execute(params![record.endpoint.0, integer(record.sequence), integer(record.message), record.status])?;
    }
    Ok(())
}

/// Makes a delivery known that was added on somebody's word, to an endpoint that had not matched. Nothing if it had.
pub(super) fn note_added_delivery(connection: &Connection, delivery: Delivery) -> Result<(), Fault> {
    let mut found: Vec<MessageRecord> = Vec::new();
    let before = Sequence::from_u64(delivery.message.as_u64().saturating_sub(1));
    message_log::records(connection, before, delivery.message, |record| found.push(record))?;
    let Some(record) = found.pop() else { return Ok(()) };
    if record.fan_out.contains(&delivery.endpoint) {
        return Ok(());
    }
    let (endpoint, message) = (delivery.endpoint.0, integer(delivery.message));
    connection
        .prepare_cached("INSERT OR IGNORE INTO added_delivery VALUES (?1, ?2)")?
        .execute(params![message, endpoint])?;
    connection
        .prepare_cached("INSERT OR IGNORE INTO delivery_by_endpoint VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![endpoint, message, record.event_type, record.marks as i64])?;
    Ok(())
}
