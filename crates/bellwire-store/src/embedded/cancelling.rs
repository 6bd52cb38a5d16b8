//! What waits and is to be ended: the rows that say so, until the writer's slices have done it.

use super::codec::{self, integer};
use super::fault::Fault;
use bellwire_model::{Delivery, EndReason, EndpointKey, Sequence, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

/// What waits and is to be ended: what somebody wants not to be sent any more ([`crate::Change::CancelWaiting`]), or what a consumer has
/// read past ([`crate::Change::PutConsumer`]).
#[derive(Clone, Debug)]
pub(super) struct Cancelling {
    pub(super) number: i64,
    pub(super) endpoint: EndpointKey,
    pub(super) before: Sequence,
    pub(super) at: Timestamp,
    /// It is delivered, to this consumer, and not cancelled.
    pub(super) read_by: Option<String>,
}

/// All that is not done.
pub(super) fn all(connection: &Connection) -> Result<Vec<Cancelling>, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT number, endpoint, before, at, read_by FROM cancelling ORDER BY number")?;
    let rows = statement.query_map([], |row| {
        Ok(Cancelling {
            number: row.get(0)?,
            endpoint: EndpointKey(row.get(1)?),
            before: codec::sequence(row.get(2)?),
            at: Timestamp::from_micros(row.get(3)?),
            read_by: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn put(
    connection: &Connection,
    endpoint: EndpointKey,
    before: Sequence,
    at: Timestamp,
    read_by: Option<&str>,
) -> Result<Cancelling, Fault> {
    connection
        .prepare_cached("INSERT INTO cancelling (endpoint, before, at, read_by) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![endpoint.0, integer(before), at.as_micros(), read_by])?;
    let read_by = read_by.map(str::to_owned);
    Ok(Cancelling { number: connection.last_insert_rowid(), endpoint, before, at, read_by })
}

pub(super) fn end(connection: &Connection, number: i64) -> Result<(), Fault> {
    connection.prepare_cached("DELETE FROM cancelling WHERE number = ?1")?.execute([number])?;
    Ok(())
}

/// Whether the delivery's last row says that it was cancelled. Such rows are in the indexes from the start.
pub(super) fn was_cancelled(connection: &Connection, delivery: Delivery) -> Result<bool, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT after FROM attempt_by_delivery WHERE message = ?1 AND endpoint = ?2 ORDER BY attempt DESC LIMIT 1",
    )?;
    let after: Option<u8> = statement
        .query_row([integer(delivery.message), i64::from(delivery.endpoint.0)], |row| row.get(0))
        .optional()?;
    Ok(after == Some(codec::ENDED + EndReason::Cancelled.code()))
}
