//! The waiting room: a row only for a delivery that must wait.
//!
//! The writer remembers for each endpoint how many rows it has, so that a delivery that succeeds at once costs no look at the table.
//! The count may be a lower bound ("at least") after a start; when it falls to zero the table is asked again.

use super::attempt_log::trigger;
use super::codec::{self, integer};
use super::fault::Fault;
use super::message_log;
use crate::WaitingHead;
use bellwire_model::{Delivery, EndpointKey, Message, Sequence, Timestamp, Trigger, Waiting};
use rusqlite::{Connection, Row, params};
use std::collections::{HashMap, HashSet};

/// Rows that are being cancelled and that a lease passes over, at most. What is behind more of them waits for the slices that end them; the
/// engine looks again after each.
const PASSED_OVER_MAX: usize = 4_096;
/// How many rows are counted for an endpoint at a start.
const COUNTED_MAX: u32 = 1_000;

#[derive(Clone, Copy, Debug)]
struct Count {
    rows: u32,
    exact: bool,
}

/// How many rows each endpoint has. Changes are made as a transaction goes and undone if it fails.
#[derive(Default)]
pub(super) struct Counts {
    endpoints: HashMap<EndpointKey, Count>,
    undo: Vec<(EndpointKey, Option<Count>)>,
}

impl Counts {
    /// Reads them, at a start.
    pub(super) fn read(connection: &Connection) -> Result<Counts, Fault> {
        let mut counts = Counts::default();
        for (endpoint, _) in heads(connection)? {
            let count = count(connection, endpoint)?;
            counts.endpoints.insert(endpoint, count);
        }
        Ok(counts)
    }

    pub(super) fn has_rows(&self, endpoint: EndpointKey) -> bool {
        self.endpoints.contains_key(&endpoint)
    }

    /// The transaction was kept.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// The transaction was rolled back.
    pub(super) fn undo(&mut self) {
        for (endpoint, before) in self.undo.drain(..).rev() {
            match before {
                Some(count) => self.endpoints.insert(endpoint, count),
                None => self.endpoints.remove(&endpoint),
            };
        }
    }

    fn set(&mut self, endpoint: EndpointKey, count: Count) {
        let before = match count.rows {
            0 => self.endpoints.remove(&endpoint),
            _ => self.endpoints.insert(endpoint, count),
        };
        self.undo.push((endpoint, before));
    }

    fn added(&mut self, endpoint: EndpointKey, rows: u32) {
        let count = self.endpoints.get(&endpoint).copied().unwrap_or(Count { rows: 0, exact: true });
        if rows > 0 {
            self.set(endpoint, Count { rows: count.rows.saturating_add(rows), ..count });
        }
    }

    fn removed(&mut self, connection: &Connection, endpoint: EndpointKey, rows: u32) -> Result<(), Fault> {
        let Some(before) = self.endpoints.get(&endpoint).copied() else { return Ok(()) };
        let left = Count { rows: before.rows.saturating_sub(rows), ..before };
        let left = if left.rows == 0 && !left.exact { count(connection, endpoint)? } else { left };
        self.set(endpoint, left);
        Ok(())
    }
}

fn count(connection: &Connection, endpoint: EndpointKey) -> Result<Count, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT count(*) FROM (SELECT 1 FROM waiting WHERE endpoint = ?1 LIMIT ?2)")?;
    let rows: u32 = statement.query_one([endpoint.0, COUNTED_MAX], |row| row.get(0))?;
    Ok(Count { rows, exact: rows < COUNTED_MAX })
}

/// Puts a delivery in, or moves it to another time. Answers whether it is new there.
pub(super) fn put(connection: &Connection, counts: &mut Counts, waiting: &Waiting) -> Result<bool, Fault> {
    if counts.has_rows(waiting.delivery.endpoint) && move_to(connection, waiting)? {
        return Ok(false);
    }
    add(connection, counts, waiting)?;
    Ok(true)
}

/// Puts a delivery in that is known not to be there.
pub(super) fn add(connection: &Connection, counts: &mut Counts, waiting: &Waiting) -> Result<(), Fault> {
    connection
        .prepare_cached("INSERT INTO waiting (endpoint, message, due, next, manual) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            waiting.delivery.endpoint.0,
            integer(waiting.delivery.message),
            waiting.due.as_micros(),
            waiting.next,
            waiting.trigger == Trigger::Manual,
        ])?;
    counts.added(waiting.delivery.endpoint, 1);
    Ok(())
}

/// Moves a delivery to another time; `false` if it is not there.
pub(super) fn move_to(connection: &Connection, waiting: &Waiting) -> Result<bool, Fault> {
    let moved = connection
        .prepare_cached("UPDATE waiting SET due = ?3, next = ?4, manual = ?5 WHERE endpoint = ?1 AND message = ?2")?
        .execute(params![
            waiting.delivery.endpoint.0,
            integer(waiting.delivery.message),
            waiting.due.as_micros(),
            waiting.next,
            waiting.trigger == Trigger::Manual,
        ])?;
    Ok(moved > 0)
}

/// Takes a delivery out; `false` if it is not there. Free for an endpoint of which nothing waits.
pub(super) fn remove(connection: &Connection, counts: &mut Counts, delivery: Delivery) -> Result<bool, Fault> {
    if !counts.has_rows(delivery.endpoint) {
        return Ok(false);
    }
    let removed = connection
        .prepare_cached("DELETE FROM waiting WHERE endpoint = ?1 AND message = ?2")?
        .execute([i64::from(delivery.endpoint.0), integer(delivery.message)])?;
    if removed > 0 {
        counts.removed(connection, delivery.endpoint, 1)?;
    }
    Ok(removed > 0)
}

/// The row of a delivery.
pub(super) fn find(connection: &Connection, delivery: Delivery) -> Result<Option<Waiting>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT endpoint, message, due, next, manual FROM waiting WHERE endpoint = ?1 AND message = ?2",
    )?;
    let mut rows = statement.query([i64::from(delivery.endpoint.0), integer(delivery.message)])?;
    Ok(rows.next()?.map(waiting_from).transpose()?)
}

/// Reads a row whose first columns are those of the table, in order.
fn waiting_from(row: &Row<'_>) -> rusqlite::Result<Waiting> {
    let endpoint = EndpointKey(row.get(0)?);
    let message = codec::sequence(row.get(1)?);
    let manual: bool = row.get(4)?;
    Ok(Waiting {
        delivery: Delivery { endpoint, message },
        due: Timestamp::from_micros(row.get(2)?),
        next: row.get(3)?,
        trigger: trigger(manual),
    })
}

/// See [`crate::Store::lease_due`].
pub(super) fn lease_due(
    connection: &Connection,
    endpoint: EndpointKey,
    fifo: bool,
    until: Timestamp,
    limit: usize,
) -> Result<Vec<(Waiting, Message)>, Fault> {
    let columns = message_log::COLUMNS;
    // Both orders are the order of an index: the statement stops after `limit` rows, however many wait. The message's row is
    // looked up by its key; what retention has taken or is taking is left to upkeep.
    let mut statement = if fifo {
        connection.prepare_cached(&format!(
            "SELECT {columns}, w.endpoint, w.message, w.due, w.next, w.manual FROM waiting w \
             CROSS JOIN message m ON m.sequence = w.message \
             WHERE w.endpoint = ?1 AND w.message >= (SELECT floor FROM meta) ORDER BY w.message LIMIT ?3"
        ))?
    } else {
        connection.prepare_cached(&format!(
            "SELECT {columns}, w.endpoint, w.message, w.due, w.next, w.manual FROM waiting w \
             INDEXED BY waiting_by_due CROSS JOIN message m ON m.sequence = w.message \
             WHERE w.endpoint = ?1 AND w.due <= ?2 AND w.message >= (SELECT floor FROM meta) \
             ORDER BY w.due, w.message LIMIT ?3"
        ))?
    };
    let doomed = Doomed::of(connection, endpoint)?;
    let read = i64::try_from(doomed.look_at(limit)).unwrap_or(i64::MAX);
    if fifo {
        statement.raw_bind_parameter(1, endpoint.0)?;
        statement.raw_bind_parameter(3, read)?;
    } else {
        statement.raw_bind_parameter(1, endpoint.0)?;
        statement.raw_bind_parameter(2, until.as_micros())?;
        statement.raw_bind_parameter(3, read)?;
    }
    let mut rows = statement.raw_query();
    let mut leased = Vec::new();
    while leased.len() < limit
        && let Some(row) = rows.next()?
    {
        let manual: bool = row.get(message_log::COLUMN_COUNT + 4)?;
        let waiting = Waiting {
            delivery: Delivery {
                endpoint: EndpointKey(row.get(message_log::COLUMN_COUNT)?),
                message: codec::sequence(row.get(message_log::COLUMN_COUNT + 1)?),
            },
            due: Timestamp::from_micros(row.get(message_log::COLUMN_COUNT + 2)?),
            next: row.get(message_log::COLUMN_COUNT + 3)?,
            trigger: trigger(manual),
        };
        if !doomed.takes(&waiting) {
            leased.push((waiting, message_log::message_from(row)?));
        }
    }
    Ok(if is_deleted(connection, endpoint)? { Vec::new() } else { leased })
}

/// Whether what waits for `endpoint` is upkeep's to end. Asked after its rows were read, in a reading of its own: what was there before a deletion
/// may be leased, what came with it or after it may not.
fn is_deleted(connection: &Connection, endpoint: EndpointKey) -> Result<bool, Fault> {
    let mut statement = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM deleted_endpoint WHERE key = ?1)")?;
    Ok(statement.query_one([endpoint.0], |row| row.get(0))?)
}

/// See [`crate::Store::next_due`].
pub(super) fn next_due(
    connection: &Connection,
    endpoint: EndpointKey,
    fifo: bool,
) -> Result<Option<WaitingHead>, Fault> {
    let mut statement = if fifo {
        connection.prepare_cached(
            "SELECT endpoint, message, due, next, manual FROM waiting \
             WHERE endpoint = ?1 AND message >= (SELECT floor FROM meta) ORDER BY message LIMIT ?2",
        )?
    } else {
        connection.prepare_cached(
            "SELECT endpoint, message, due, next, manual FROM waiting INDEXED BY waiting_by_due \
             WHERE endpoint = ?1 AND message >= (SELECT floor FROM meta) ORDER BY due, message LIMIT ?2",
        )?
    };
    let doomed = Doomed::of(connection, endpoint)?;
    let read = i64::try_from(doomed.look_at(1)).unwrap_or(i64::MAX);
    let mut rows = statement.query([i64::from(endpoint.0), read])?;
    while let Some(row) = rows.next()? {
        let waiting = waiting_from(row)?;
        if !doomed.takes(&waiting) {
            return Ok((!is_deleted(connection, endpoint)?).then_some(WaitingHead { due: waiting.due }));
        }
    }
    Ok(None)
}

/// What of an endpoint is being cancelled: [`crate::Change::CancelWaiting`] whose slices are not done. Nearly always nothing.
struct Doomed(Vec<(Sequence, Timestamp)>);

impl Doomed {
    fn of(connection: &Connection, endpoint: EndpointKey) -> Result<Self, Fault> {
        let mut statement =
            connection.prepare_cached("SELECT before, at FROM cancelling WHERE endpoint = ?1 AND read_by IS NULL")?;
        let rows = statement
            .query_map([endpoint.0], |row| Ok((codec::sequence(row.get(0)?), Timestamp::from_micros(row.get(1)?))))?;
        Ok(Doomed(rows.collect::<Result<_, _>>()?))
    }

    /// How many rows are read for `limit` of them.
    fn look_at(&self, limit: usize) -> usize {
        if self.0.is_empty() { limit } else { limit.saturating_add(PASSED_OVER_MAX) }
    }

    /// Whether the row is one of those; as [`oldest_until`] has it.
    fn takes(&self, row: &Waiting) -> bool {
        let means = |(before, at): &(Sequence, Timestamp)| {
            row.delivery.message < *before && (row.trigger == Trigger::Scheduled || row.due <= *at)
        };
        self.0.iter().any(means)
    }
}

/// For each endpoint with rows, its earliest. Jumps from endpoint to endpoint; never counts.
pub(super) fn heads(connection: &Connection) -> Result<Vec<(EndpointKey, WaitingHead)>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT endpoint, due FROM waiting INDEXED BY waiting_by_due WHERE endpoint > ?1 \
         ORDER BY endpoint, due LIMIT 1",
    )?;
    let mut heads = Vec::new();
    let mut last = -1i64;
    loop {
        let mut rows = statement.query([last])?;
        let Some(row) = rows.next()? else { return Ok(heads) };
        last = row.get(0)?;
        heads.push((EndpointKey(row.get(0)?), WaitingHead { due: Timestamp::from_micros(row.get(1)?) }));
    }
}

/// The oldest message of all: the first of each endpoint, by one look at the index for each.
pub(super) fn oldest_of_all(connection: &Connection) -> Result<Option<Sequence>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT endpoint, message FROM waiting WHERE endpoint > ?1 ORDER BY endpoint, message LIMIT 1",
    )?;
    let (mut oldest, mut last) = (None, -1i64);
    loop {
        let mut rows = statement.query([last])?;
        let Some(row) = rows.next()? else { return Ok(oldest) };
        last = row.get(0)?;
        let message = codec::sequence(row.get(1)?);
        oldest = Some(oldest.map_or(message, |o: Sequence| o.min(message)));
    }
}

/// At most `limit` deliveries of `endpoint` with a message below `below`, in order of acceptance.
pub(super) fn oldest(
    connection: &Connection,
    endpoint: EndpointKey,
    below: i64,
    limit: usize,
) -> Result<Vec<Delivery>, Fault> {
    let mut statement = connection
        .prepare_cached("SELECT message FROM waiting WHERE endpoint = ?1 AND message < ?2 ORDER BY message LIMIT ?3")?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map([i64::from(endpoint.0), below, limit], |row| row.get(0))?;
    rows.map(|message| Ok(Delivery { endpoint, message: codec::sequence(message?) })).collect()
}

/// The oldest rows of `endpoint` with a message before `before` that nobody asked for by hand, at most `limit`.
pub(super) fn oldest_scheduled(
    connection: &Connection,
    endpoint: EndpointKey,
    before: Sequence,
    limit: usize,
) -> Result<Vec<Waiting>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT endpoint, message, due, next, manual FROM waiting \
         WHERE endpoint = ?1 AND message < ?2 AND NOT manual ORDER BY message LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map([i64::from(endpoint.0), integer(before), limit], waiting_from)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// See [`crate::Store::lease_beside`].
pub(super) fn lease_beside(
    connection: &Connection,
    endpoint: EndpointKey,
    in_order: bool,
    until: Timestamp,
    beside: &HashSet<Sequence>,
    limit: usize,
    bytes_max: usize,
) -> Result<Vec<(Waiting, Message)>, Fault> {
    // Index rows that are passed over cost next to nothing; a message is looked up only for what is taken.
    let mut statement = connection.prepare_cached(if in_order {
        "SELECT endpoint, message, due, next, manual FROM waiting \
         WHERE endpoint = ?1 AND message >= (SELECT floor FROM meta) AND ?2 IS NOT NULL ORDER BY message"
    } else {
        "SELECT endpoint, message, due, next, manual FROM waiting INDEXED BY waiting_by_due \
         WHERE endpoint = ?1 AND due <= ?2 AND message >= (SELECT floor FROM meta) ORDER BY due, message"
    })?;
    let doomed = Doomed::of(connection, endpoint)?;
    let mut rows = statement.query([i64::from(endpoint.0), until.as_micros()])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while found.len() < limit
        && bytes < bytes_max
        && let Some(row) = rows.next()?
    {
        let waiting = waiting_from(row)?;
        if beside.contains(&waiting.delivery.message) || doomed.takes(&waiting) {
            continue;
        }
        if let Some(message) = message_log::find(connection, waiting.delivery.message, true)? {
            bytes += message.content_bytes();
            found.push((waiting, message));
        }
    }
    Ok(if is_deleted(connection, endpoint)? { Vec::new() } else { found })
}

/// As [`oldest`], without what somebody asked for after `at`.
pub(super) fn oldest_until(
    connection: &Connection,
    endpoint: EndpointKey,
    below: Sequence,
    at: Timestamp,
    limit: usize,
) -> Result<Vec<Delivery>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT message FROM waiting WHERE endpoint = ?1 AND message < ?2 AND NOT (manual AND due > ?3) \
         ORDER BY message LIMIT ?4",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map([i64::from(endpoint.0), integer(below), at.as_micros(), limit], |row| row.get(0))?;
    rows.map(|message| Ok(Delivery { endpoint, message: codec::sequence(message?) })).collect()
}

impl Counts {
    /// The endpoints with rows, in rising order.
    pub(super) fn endpoints(&self) -> Vec<EndpointKey> {
        let mut endpoints: Vec<_> = self.endpoints.keys().copied().collect();
        endpoints.sort_unstable();
        endpoints
    }
}
