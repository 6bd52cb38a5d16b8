//! The one row that every commit writes: how far the logs go, and the counters of the ledger.

use super::codec::{integer, sequence};
use super::fault::Fault;
use super::recovery::unfinished;
use bellwire_model::{EndReason, Ledger, Sequence};
use rusqlite::{Connection, Row, params};

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Meta {
    /// The newest sequence that a batch brought.
    pub(super) newest: Sequence,
    /// The newest sequence that upkeep gave to an attempt row of its own.
    pub(super) upkeep_newest: Sequence,
    pub(super) watermark: Sequence,
    /// The indexes hold both logs up to and including it.
    pub(super) indexed: Sequence,
    /// Messages below it are gone for every reader, and are being removed.
    pub(super) floor: Sequence,
    pub(super) last_key: u32,
    /// Without `pending`.
    pub(super) ledger: Ledger,
}

impl Meta {
    /// Reads it; the first thing to do in a transaction, since it fixes what the transaction sees.
    pub(super) fn read(connection: &Connection) -> Result<Meta, Fault> {
        let mut statement = connection.prepare_cached(
            "SELECT newest, upkeep_newest, watermark, indexed, floor, last_key, accepted, matched, delivered, \
             ended_exhausted, ended_aborted, ended_expired, ended_endpoint_deleted, ended_resend_failed, ended_cancelled FROM meta",
        )?;
        Ok(statement.query_one([], from_row)?)
    }

    pub(super) fn write(&self, connection: &Connection) -> Result<(), Fault> {
        let ended = self.ledger.ended.map(|n| n as i64);
        let ended = |reason: EndReason| ended[usize::from(reason.code())];
        connection
            .prepare_cached(
                "UPDATE meta SET newest = ?1, upkeep_newest = ?2, watermark = ?3, indexed = ?4, floor = ?5, \
                 last_key = ?6, accepted = ?7, matched = ?8, delivered = ?9, ended_exhausted = ?10, \
                 ended_aborted = ?11, ended_expired = ?12, ended_endpoint_deleted = ?13, ended_resend_failed = ?14, \
                 ended_cancelled = ?15",
            )?
            .execute(params![
                integer(self.newest),
                integer(self.upkeep_newest),
                integer(self.watermark),
                integer(self.indexed),
                integer(self.floor),
                self.last_key,
                self.ledger.accepted as i64,
                self.ledger.matched as i64,
                self.ledger.delivered as i64,
                ended(EndReason::Exhausted),
                ended(EndReason::Aborted),
                ended(EndReason::Expired),
                ended(EndReason::EndpointDeleted),
                ended(EndReason::ResendFailed),
                ended(EndReason::Cancelled),
            ])?;
        Ok(())
    }

    /// The newest sequence in either log, whoever gave it out.
    pub(super) fn newest_of_all(&self) -> Sequence {
        self.newest.max(self.upkeep_newest)
    }
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Meta> {
    let count = |index: usize| row.get::<_, i64>(index).map(|n| n as u64);
    let mut ledger =
        Ledger { accepted: count(6)?, matched: count(7)?, delivered: count(8)?, pending: 0, ended: Default::default() };
    let columns = [
        EndReason::Exhausted,
        EndReason::Aborted,
        EndReason::Expired,
        EndReason::EndpointDeleted,
        EndReason::ResendFailed,
        EndReason::Cancelled,
    ];
    for (column, reason) in (9..).zip(columns) {
        ledger.ended[usize::from(reason.code())] = count(column)?;
    }
    Ok(Meta {
        newest: sequence(row.get(0)?),
        upkeep_newest: sequence(row.get(1)?),
        watermark: sequence(row.get(2)?),
        indexed: sequence(row.get(3)?),
        floor: sequence(row.get(4)?),
        last_key: row.get(5)?,
        ledger,
    })
}

/// The ledger as of `connection`'s open transaction, with `pending` counted row by row.
pub(super) fn count(connection: &Connection) -> Result<Ledger, Fault> {
    let meta = Meta::read(connection)?;
    let waiting: i64 = connection.query_row("SELECT count(*) FROM waiting", [], |row| row.get(0))?;
    let fresh: usize = unfinished(connection, meta.watermark, None)?.iter().map(|u| u.fan_out.len()).sum();
    Ok(Ledger { pending: waiting as u64 + fresh as u64, ..meta.ledger })
}
