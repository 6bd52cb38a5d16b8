//! The attempt log: a row per attempt, keyed by its sequence, never updated save to expunge a response.

use super::codec;
use super::fault::Fault;
use super::index::AttemptRecord;
use super::message_log::array;
use bellwire_model::{
    AfterAttempt, ApplicationKey, Attempt, AttemptId, Delivery, EndReason, EndpointKey, Outcome, Phases, Pipe,
    RetryAfter, Sequence, Timestamp, Trigger,
};
use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, Row, params};
use std::sync::Arc;
use std::time::Duration;

/// What an expunged response reads as.
const EXPUNGED: &[u8] = b"EXPUNGED";

/// Writes rows; made once per commit.
pub(super) struct Appender<'c> {
    statement: CachedStatement<'c>,
}

impl<'c> Appender<'c> {
    pub(super) fn new(connection: &'c Connection) -> Result<Self, Fault> {
        let statement = connection.prepare_cached(
            "INSERT INTO attempt (sequence, id_tail, message, endpoint, application, number, manual, after, due, \
             status, started_at, duration_us, url, directive, retry_after_us, retry_at, body, dns_us, connect_us, tls_us, \
             first_byte_us) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
        )?;
        Ok(Appender { statement })
    }

    /// Writes the row of `attempt`, with `after` instead of its own.
    pub(super) fn append(&mut self, attempt: &Attempt, after: AfterAttempt) -> Result<(), Fault> {
        self.insert(attempt, after, Some(&attempt.url))
    }

    /// Writes a row that upkeep puts into the indexes in the same transaction; [`records`] leaves it out.
    pub(super) fn append_indexed(&mut self, attempt: &Attempt) -> Result<(), Fault> {
        self.insert(attempt, attempt.after, None)
    }

    fn insert(&mut self, attempt: &Attempt, after: AfterAttempt, url: Option<&str>) -> Result<(), Fault> {
        let (code, due) = codec::after_code(after);
        let outcome = attempt.outcome.as_ref();
        let phases = outcome.map(|o| o.phases).unwrap_or_default();
        let (retry_after_us, retry_at) = match outcome.and_then(|o| o.retry_after) {
            None => (None, None),
            Some(RetryAfter::Wait(wait)) => (Some(micros(wait)), None),
            Some(RetryAfter::Date(date)) => (None, Some(date.as_micros())),
        };
        self.statement.execute(params![
            codec::integer(attempt.id.sequence()),
            attempt.id.0.tail().as_slice(),
            codec::integer(attempt.delivery.message),
            attempt.delivery.endpoint.0,
            attempt.application.0,
            attempt.number,
            attempt.trigger == Trigger::Manual,
            code,
            due,
            outcome.map(|o| codec::status_code(o.result)),
            outcome.map(|o| o.started_at.as_micros()),
            outcome.map(|o| micros(o.duration)),
            url,
            outcome.and_then(|o| o.directive).map(codec::directive_code),
            retry_after_us,
            retry_at,
            outcome.map(|o| &*o.body),
            phases.dns.map(micros),
            phases.connect.map(micros),
            phases.tls.map(micros),
            phases.first_byte.map(micros),
        ])?;
        Ok(())
    }
}

/// The row that says that a delivery ended without any exchange.
pub(super) fn ended_without_exchange(
    at: Sequence,
    delivery: Delivery,
    application: ApplicationKey,
    reason: EndReason,
) -> Attempt {
    Attempt {
        id: AttemptId::from_parts(at, tail_of(at, delivery)),
        delivery,
        application,
        number: 0,
        trigger: Trigger::Scheduled,
        url: Arc::from(""),
        outcome: None,
        after: AfterAttempt::Ended(reason),
    }
}

/// The store has no randomness of its own, and this row guards nothing: any twelve bytes do, as long as they are the same in
/// every run.
pub(super) fn tail_of(at: Sequence, delivery: Delivery) -> [u8; 12] {
    let mix = |seed: u64| {
        let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    let first = mix(at.as_u64() ^ mix(delivery.message.as_u64()));
    let second = mix(first ^ u64::from(delivery.endpoint.0));
    let mut tail = [0; 12];
    tail[..8].copy_from_slice(&first.to_be_bytes());
    tail[8..].copy_from_slice(&second.to_be_bytes()[..4]);
    tail
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

const COLUMNS: &str = "sequence, id_tail, message, endpoint, application, number, manual, after, due, status, \
                       started_at, duration_us, url, directive, retry_after_us, retry_at, dns_us, connect_us, \
                       tls_us, first_byte_us";

/// The attempt at `sequence`; without its body, the body is empty.
pub(super) fn find(connection: &Connection, at: Sequence, with_body: bool) -> Result<Option<Attempt>, Fault> {
    let mut statement = if with_body {
        connection.prepare_cached(&format!("SELECT {COLUMNS}, body FROM attempt WHERE sequence = ?1"))?
    } else {
        connection.prepare_cached(&format!("SELECT {COLUMNS}, NULL FROM attempt WHERE sequence = ?1"))?
    };
    let mut rows = statement.query([codec::integer(at)])?;
    rows.next()?.map(attempt_from).transpose()
}

fn attempt_from(row: &Row<'_>) -> Result<Attempt, Fault> {
    let outcome = match row.get::<_, Option<i32>>(9)? {
        None => None,
        Some(status) => {
            let wait = row.get::<_, Option<i64>>(14)?.map(|us| RetryAfter::Wait(duration(us)));
            let date = row.get::<_, Option<i64>>(15)?.map(|us| RetryAfter::Date(Timestamp::from_micros(us)));
            Some(Outcome {
                result: codec::status_from(status)?,
                started_at: Timestamp::from_micros(row.get(10)?),
                duration: duration(row.get(11)?),
                url: None,
                phases: Phases {
                    dns: row.get::<_, Option<i64>>(16)?.map(duration),
                    connect: row.get::<_, Option<i64>>(17)?.map(duration),
                    tls: row.get::<_, Option<i64>>(18)?.map(duration),
                    first_byte: row.get::<_, Option<i64>>(19)?.map(duration),
                },
                directive: row.get::<_, Option<i64>>(13)?.and_then(codec::directive_from),
                retry_after: wait.or(date),
                body: Bytes::from(row.get::<_, Option<Vec<u8>>>(20)?.unwrap_or_default()),
            })
        }
    };
    // A row of upkeep's has no URL: of an attempt, it is one of a reader's.
    let no_url = if outcome.is_some() { Pipe::ADDRESS } else { "" };
    let manual: bool = row.get(6)?;
    Ok(Attempt {
        id: AttemptId::from_parts(codec::sequence(row.get(0)?), array(row, 1)?),
        delivery: Delivery { endpoint: EndpointKey(row.get(3)?), message: codec::sequence(row.get(2)?) },
        application: ApplicationKey(row.get(4)?),
        number: row.get(5)?,
        trigger: trigger(manual),
        url: Arc::from(row.get_ref(12)?.as_str_or_null().map_err(rusqlite::Error::from)?.unwrap_or(no_url)),
        outcome,
        after: codec::after_from(row.get(7)?, row.get(8)?)?,
    })
}

/// From how a row says it.
pub(super) fn trigger(manual: bool) -> Trigger {
    if manual { Trigger::Manual } else { Trigger::Scheduled }
}

fn duration(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

/// Replaces the response body of an attempt, if there was a response.
pub(super) fn expunge(connection: &Connection, id: AttemptId) -> Result<(), Fault> {
    connection
        .prepare_cached("UPDATE attempt SET body = ?3 WHERE sequence = ?1 AND id_tail = ?2 AND status IS NOT NULL")?
        .execute(params![codec::integer(id.sequence()), id.0.tail().as_slice(), EXPUNGED])?;
    Ok(())
}

/// Reads the attempts in `(after, until]` as the indexes want them, without those that are there already.
pub(super) fn records(
    connection: &Connection,
    after: Sequence,
    until: Sequence,
    mut take: impl FnMut(AttemptRecord),
) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, message, endpoint, number, manual, after, status FROM attempt \
         WHERE sequence > ?1 AND sequence <= ?2 AND url IS NOT NULL ORDER BY sequence",
    )?;
    let mut rows = statement.query([codec::integer(after), codec::integer(until)])?;
    while let Some(row) = rows.next()? {
        take(AttemptRecord {
            sequence: codec::sequence(row.get(0)?),
            message: codec::sequence(row.get(1)?),
            endpoint: EndpointKey(row.get(2)?),
            number: row.get(3)?,
            manual: row.get(4)?,
            after: row.get(5)?,
            status: row.get(6)?,
        });
    }
    Ok(())
}
