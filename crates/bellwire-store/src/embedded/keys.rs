//! What makes a create unique. Idempotency keys live in buckets of time that are dropped whole; event ids live as long as
//! their message; kept answers until they expire. The newest keys of both kinds are in [runs](key_runs).

use super::codec;
use super::codec::integer;
use super::fault::Fault;
use super::index::MessageRecord;
use super::key_runs::{self, RunKey};
use super::message_log::array;
use crate::{DedupeEntry, KeptAnswer};
use bellwire_model::{DedupeKey, RequestDigest, Sequence, Timestamp};
use bytes::Bytes;
use rusqlite::{Connection, params};
use std::time::Duration;

/// How long an idempotency key is known, at least.
const KNOWN_FOR: Duration = Duration::from_secs(12 * 3600);
/// The time that one bucket covers. A look-up asks each live bucket, so few are better.
const BUCKET_SECONDS: i64 = 3 * 3600;
/// What an event id has in place of a digest.
pub(super) const NO_DIGEST: RequestDigest = RequestDigest([0; 8]);

fn bucket(message: Sequence) -> i64 {
    message.time().as_seconds().div_euclid(BUCKET_SECONDS)
}

/// The oldest bucket that somebody may still ask for.
pub(super) fn oldest_bucket(now: Timestamp) -> i64 {
    now.minus(KNOWN_FOR).as_seconds().div_euclid(BUCKET_SECONDS)
}

/// The keys of a message. An event id has no digest of its own: it reads as zeros.
pub(super) fn entries(record: &MessageRecord) -> impl Iterator<Item = (DedupeKey, DedupeEntry)> {
    let message = record.sequence;
    let event = record.event.map(|key| DedupeEntry { key, digest: NO_DIGEST, message });
    record.idempotency.into_iter().chain(event).map(|entry| (entry.key, entry))
}

/// Merges keys into their tables. Of two that are the same, the one of the older message counts. Idempotency keys that nobody may ask
/// for any more at `now` are left out.
pub(super) fn merge(connection: &Connection, mut keys: Vec<RunKey>, now: Timestamp) -> Result<(), Fault> {
    keys.sort_unstable_by_key(|key| (key.key, key.message));
    let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO event_key VALUES (?1, ?2)")?;
    for RunKey { key, message, .. } in keys.iter().filter(|key| key.digest.is_none()) {
        insert.execute(params![key.0.as_slice(), integer(*message)])?;
    }
    let live = oldest_bucket(now);
    let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO idempotency_key VALUES (?1, ?2, ?3, ?4)")?;
    let mut idempotency: Vec<_> = keys.iter().filter_map(|key| Some((bucket(key.message), key, key.digest?))).collect();
    idempotency.retain(|(bucket, ..)| *bucket >= live);
    // Within a bucket they are sorted already.
    idempotency.sort_by_key(|(bucket, ..)| *bucket);
    for (bucket, RunKey { key, message, .. }, digest) in idempotency {
        insert.execute(params![bucket, key.0.as_slice(), digest.0.as_slice(), integer(*message)])?;
    }
    Ok(())
}

/// The message made under `key`, of those that the indexes hold. Runs first: what leaves them is in the tables by then.
pub(super) fn find(connection: &Connection, key: DedupeKey) -> Result<Option<DedupeEntry>, Fault> {
    if let Some(entry) = key_runs::find(connection, key)? {
        return Ok(Some(entry));
    }
    // Newest bucket first; there are five or six.
    let mut buckets = connection.prepare_cached(
        "WITH RECURSIVE live(bucket) AS (SELECT max(bucket) FROM idempotency_key UNION ALL \
         SELECT (SELECT max(bucket) FROM idempotency_key WHERE bucket < live.bucket) FROM live WHERE bucket NOT NULL) \
         SELECT k.digest, k.message FROM live JOIN idempotency_key k ON k.bucket = live.bucket AND k.key = ?1 LIMIT 1",
    )?;
    let mut rows = buckets.query([key.0.as_slice()])?;
    if let Some(row) = rows.next()? {
        let digest = RequestDigest(array(row, 0)?);
        return Ok(Some(DedupeEntry { key, digest, message: codec::sequence(row.get(1)?) }));
    }
    drop(rows);
    find_merged_event(connection, key)
}

/// The same, of event ids and received requests alone.
pub(super) fn find_event(connection: &Connection, key: DedupeKey) -> Result<Option<DedupeEntry>, Fault> {
    match key_runs::find(connection, key)? {
        Some(entry) => Ok(Some(entry)),
        None => find_merged_event(connection, key),
    }
}

fn find_merged_event(connection: &Connection, key: DedupeKey) -> Result<Option<DedupeEntry>, Fault> {
    let mut events = connection.prepare_cached("SELECT message FROM event_key WHERE key = ?1")?;
    let mut rows = events.query([key.0.as_slice()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(DedupeEntry { key, digest: NO_DIGEST, message: codec::sequence(row.get(0)?) }))
}

/// Drops up to about `limit` keys of buckets that nobody may ask for any more. Answers how many there were.
pub(super) fn drop_old(connection: &Connection, now: Timestamp, limit: usize) -> Result<usize, Fault> {
    let oldest_live = oldest_bucket(now);
    let oldest: Option<i64> =
        connection.prepare_cached("SELECT min(bucket) FROM idempotency_key")?.query_one([], |row| row.get(0))?;
    let Some(oldest) = oldest.filter(|oldest| *oldest < oldest_live) else { return Ok(0) };
    // A range from the bucket's start; the last one of the bucket has no key at the offset and takes the rest.
    let dropped = connection
        .prepare_cached(
            "DELETE FROM idempotency_key WHERE bucket = ?1 AND key < coalesce((SELECT key FROM idempotency_key \
             WHERE bucket = ?1 ORDER BY key LIMIT 1 OFFSET ?2), x'ffffffffffffffffffffffffffffffffff')",
        )?
        .execute(params![oldest, limit as i64])?;
    Ok(dropped)
}

pub(super) fn keep_answer(connection: &Connection, answer: &KeptAnswer) -> Result<(), Fault> {
    connection.prepare_cached("INSERT OR REPLACE INTO kept_answer VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        answer.key.0.as_slice(),
        answer.digest.0.as_slice(),
        answer.status,
        &*answer.body,
        answer.expires_at.as_micros()
    ])?;
    Ok(())
}

pub(super) fn find_answer(
    connection: &Connection,
    key: DedupeKey,
    now: Timestamp,
) -> Result<Option<KeptAnswer>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT digest, status, body, expires_at FROM kept_answer WHERE key = ?1 AND expires_at > ?2",
    )?;
    let mut rows = statement.query(params![key.0.as_slice(), now.as_micros()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(KeptAnswer {
        key,
        digest: RequestDigest(array(row, 0)?),
        status: row.get(1)?,
        body: Bytes::from(row.get::<_, Vec<u8>>(2)?),
        expires_at: Timestamp::from_micros(row.get(3)?),
    }))
}

/// Drops up to `limit` answers that have expired. Answers how many.
pub(super) fn drop_answers(connection: &Connection, now: Timestamp, limit: usize) -> Result<usize, Fault> {
    let dropped = connection
        .prepare_cached(
            "DELETE FROM kept_answer WHERE key IN (SELECT key FROM kept_answer INDEXED BY kept_answer_by_end \
             WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
        )?
        .execute(params![now.as_micros(), limit as i64])?;
    Ok(dropped)
}

#[cfg(test)]
mod tests;
