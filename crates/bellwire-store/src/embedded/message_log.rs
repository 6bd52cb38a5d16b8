//! The message log: a row per message with its payload and its fan-out, keyed by its sequence, never updated save to remove
//! its payload.

use super::codec;
use super::fault::Fault;
use super::index::MessageRecord;
use super::received;
use crate::{Accepted, DedupeEntry};
use bellwire_model::{
    ApplicationKey, ContentType, DedupeKey, FanOut, Ksuid, Message, MessageId, RequestDigest, Sequence, Timestamp,
    TraceParent,
};
use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, Row, params};
use std::sync::Arc;

/// Writes rows; made once per commit.
pub(super) struct Appender<'c> {
    statement: CachedStatement<'c>,
    // Kept from row to row for their memory.
    fan_out: Vec<u8>,
    received: Vec<u8>,
}

impl<'c> Appender<'c> {
    pub(super) fn new(connection: &'c Connection) -> Result<Self, Fault> {
        let statement = connection.prepare_cached(
            "INSERT INTO message (sequence, id_tail, application, event_type, fan_out, expires_at, deliver_at, \
             event_id, channels, tags, content_type, idempotency_key, idempotency_digest, event_key, payload, \
             transformations_params, received, trace) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
        )?;
        Ok(Appender { statement, fan_out: Vec::new(), received: Vec::new() })
    }

    pub(super) fn append(&mut self, accepted: &Accepted) -> Result<(), Fault> {
        let message = &*accepted.message;
        self.fan_out.clear();
        codec::write_fan_out(&accepted.fan_out, &mut self.fan_out);
        self.received.clear();
        if let Some(received) = &message.received {
            received::write(received, &mut self.received);
        }
        let content_type = match &message.content_type {
            ContentType::Json => None,
            ContentType::Other(text) => Some(text),
        };
        self.statement.execute(params![
            codec::integer(message.sequence()),
            id_tail(&message.id),
            message.application.0,
            message.event_type,
            self.fan_out,
            message.expires_at.as_micros(),
            message.deliver_at.map(Timestamp::as_micros),
            message.event_id,
            codec::json_list(&message.channels),
            codec::json_list(&message.tags),
            content_type,
            accepted.idempotency.as_ref().map(|entry| entry.key.0.as_slice()),
            accepted.idempotency.as_ref().map(|entry| entry.digest.0.as_slice()),
            accepted.event.as_ref().map(|key| key.0.as_slice()),
            message.payload.as_deref(),
            message.transformations_params.as_deref(),
            message.received.as_ref().map(|_| self.received.as_slice()),
            message.trace.map(TraceParent::to_bytes),
        ])?;
        Ok(())
    }
}

/// The part of an id that its sequence does not give; of one that was made elsewhere, and was imported, all of it.
fn id_tail(id: &MessageId) -> &[u8] {
    let bytes = id.0.as_bytes();
    if id.0.is_own() { &bytes[8..] } else { bytes }
}

/// The columns of [`message_from`], with the payload.
pub(super) const COLUMNS: &str = "m.sequence, m.id_tail, m.application, m.event_type, m.expires_at, m.deliver_at, \
                                  m.event_id, m.channels, m.tags, m.content_type, m.payload, m.transformations_params, \
                                  m.received, m.trace";
/// How many these are.
pub(super) const COLUMN_COUNT: usize = 14;
/// The same without it.
pub(super) const COLUMNS_WITHOUT_PAYLOAD: &str = "m.sequence, m.id_tail, m.application, m.event_type, m.expires_at, m.deliver_at, \
     m.event_id, m.channels, m.tags, m.content_type, NULL, NULL, m.received, m.trace";

/// Reads a message from the first columns of a row.
pub(super) fn message_from(row: &Row<'_>) -> Result<Message, Fault> {
    let sequence = codec::sequence(row.get(0)?);
    let id = match row.get_ref(1)?.blob_or_empty()?.len() {
        20 => MessageId(Ksuid::from_bytes(array(row, 1)?)),
        _ => MessageId::from_parts(sequence, array(row, 1)?),
    };
    let content_type = match row.get::<_, Option<String>>(9)? {
        None => ContentType::Json,
        Some(text) => ContentType::Other(text),
    };
    Ok(Message {
        id,
        application: ApplicationKey(row.get(2)?),
        event_type: row.get(3)?,
        expires_at: Timestamp::from_micros(row.get(4)?),
        deliver_at: row.get::<_, Option<i64>>(5)?.map(Timestamp::from_micros),
        event_id: row.get(6)?,
        channels: list(row, 7)?,
        tags: list(row, 8)?,
        content_type,
        payload: row.get::<_, Option<Vec<u8>>>(10)?.map(Bytes::from),
        transformations_params: row.get::<_, Option<String>>(11)?.map(String::into_boxed_str),
        received: match row.get_ref(12)?.blob_or_empty()? {
            [] => None,
            bytes => Some(Arc::new(received::read(bytes)?)),
        },
        trace: TraceParent::from_bytes(row.get_ref(13)?.blob_or_empty()?),
    })
}

/// The message at `sequence`.
pub(super) fn find(connection: &Connection, at: Sequence, with_payload: bool) -> Result<Option<Message>, Fault> {
    let mut statement = if with_payload {
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM message m WHERE sequence = ?1"))?
    } else {
        connection.prepare_cached(&format!("SELECT {COLUMNS_WITHOUT_PAYLOAD} FROM message m WHERE sequence = ?1"))?
    };
    let mut rows = statement.query([codec::integer(at)])?;
    rows.next()?.map(message_from).transpose()
}

/// Looks up one message after another with one statement.
pub(super) struct Finder<'c> {
    statement: CachedStatement<'c>,
}

impl<'c> Finder<'c> {
    pub(super) fn new(connection: &'c Connection) -> Result<Self, Fault> {
        let statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM message m WHERE sequence = ?1"))?;
        Ok(Finder { statement })
    }

    /// As [`find`], with its payload.
    pub(super) fn find(&mut self, at: Sequence) -> Result<Option<Message>, Fault> {
        let mut rows = self.statement.query([codec::integer(at)])?;
        rows.next()?.map(message_from).transpose()
    }
}

/// Whom the message at `sequence` was owed to when it was accepted.
pub(super) fn find_fan_out(connection: &Connection, at: Sequence) -> Result<Option<FanOut>, Fault> {
    let mut statement = connection.prepare_cached("SELECT fan_out FROM message WHERE sequence = ?1")?;
    let mut rows = statement.query([codec::integer(at)])?;
    rows.next()?.map(|row| codec::read_fan_out(row.get_ref(0)?.blob_or_empty()?)).transpose()
}

/// The application of the message at `sequence`.
pub(super) fn find_application(connection: &Connection, at: Sequence) -> Result<Option<ApplicationKey>, Fault> {
    let mut statement = connection.prepare_cached("SELECT application FROM message WHERE sequence = ?1")?;
    let mut rows = statement.query([codec::integer(at)])?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?.map(ApplicationKey))
}

/// Removes the payload of the message at `sequence`.
pub(super) fn expunge(connection: &Connection, at: Sequence) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "UPDATE message SET payload = NULL, transformations_params = NULL, received = NULL \
             WHERE sequence = ?1 AND payload IS NOT NULL",
        )?
        .execute([codec::integer(at)])?;
    Ok(())
}

/// Whether the message at `sequence` can still be sent: its payload is there and has not expired.
pub(super) fn is_sendable(connection: &Connection, at: Sequence, now: Timestamp) -> Result<bool, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM message WHERE sequence = ?1 AND expires_at > ?2 AND payload IS NOT NULL)",
    )?;
    Ok(statement.query_one([codec::integer(at), now.as_micros()], |row| row.get(0))?)
}

/// How many bytes of payload the message at `sequence` has; `None` without a payload. Reads none of them.
pub(super) fn payload_bytes(connection: &Connection, at: Sequence) -> Result<Option<u32>, Fault> {
    let mut statement = connection.prepare_cached("SELECT length(payload) FROM message WHERE sequence = ?1")?;
    let mut rows = statement.query([codec::integer(at)])?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?.flatten())
}

/// Reads the messages in `(after, until]` as the indexes want them.
pub(super) fn records(
    connection: &Connection,
    after: Sequence,
    until: Sequence,
    mut take: impl FnMut(MessageRecord),
) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, application, event_type, fan_out, expires_at, channels, tags, idempotency_key, \
         idempotency_digest, event_key, received FROM message WHERE sequence > ?1 AND sequence <= ?2 ORDER BY sequence",
    )?;
    let mut rows = statement.query([codec::integer(after), codec::integer(until)])?;
    while let Some(row) = rows.next()? {
        let at = codec::sequence(row.get(0)?);
        let idempotency = match row.get_ref(7)?.blob_or_empty()? {
            [] => None,
            _ => {
                Some(DedupeEntry { key: DedupeKey(array(row, 7)?), digest: RequestDigest(array(row, 8)?), message: at })
            }
        };
        let event = match row.get_ref(9)?.blob_or_empty()? {
            [] => None,
            _ => Some(DedupeKey(array(row, 9)?)),
        };
        take(MessageRecord {
            sequence: at,
            application: ApplicationKey(row.get(1)?),
            event_type: codec::type_hash(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?),
            marks: codec::marks(&list(row, 5)?, &list(row, 6)?, received::source(row.get_ref(10)?.blob_or_empty()?)),
            fan_out: codec::read_fan_out(row.get_ref(3)?.blob_or_empty()?)?,
            expires_at: Timestamp::from_micros(row.get(4)?),
            idempotency,
            event,
        });
    }
    Ok(())
}

/// A blob of a fixed length.
pub(super) fn array<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N], Fault> {
    let bytes = row.get_ref(column)?.blob_or_empty()?;
    bytes.try_into().map_err(|_| Fault::damaged("a row", format!("{} bytes where {N} should be", bytes.len())))
}

/// A list that is NULL if empty.
fn list(row: &Row<'_>, column: usize) -> Result<Vec<String>, Fault> {
    match row.get::<_, Option<String>>(column)? {
        None => Ok(Vec::new()),
        Some(text) => codec::from_json("a list", &text),
    }
}

/// A blob without a copy.
pub(super) trait BlobRef<'a> {
    /// The bytes; NULL reads as none.
    fn blob_or_empty(self) -> Result<&'a [u8], Fault>;
}

impl<'a> BlobRef<'a> for rusqlite::types::ValueRef<'a> {
    fn blob_or_empty(self) -> Result<&'a [u8], Fault> {
        match self {
            rusqlite::types::ValueRef::Null => Ok(&[]),
            other => other.as_bytes().map_err(|error| Fault::damaged("a row", error.to_string())),
        }
    }
}
