//! The newest keys, in sorted runs that are appended one after the other, and merged into their tables when there are many of them.
//!
//! Keys come in no order. Written one slice at a time into a tree of millions, each would change a page of its own; of a run's, a page
//! holds a hundred, and of a merge's every page of the tree takes what falls to it at once.
//!
//! A merge goes by portions of the keys, each a slice of upkeep, and only then removes the runs, so a crash anywhere leaves every key where
//! it is looked for. What a merge did before a crash is done again, and changes nothing.

use super::codec::{self, integer};
use super::fault::Fault;
use super::index::MessageRecord;
use super::keys;
use super::message_log::{BlobRef, array};
use crate::DedupeEntry;
use bellwire_model::{DedupeKey, RequestDigest, Sequence, Timestamp};
use rusqlite::{Connection, params};
use std::time::Duration;

/// With so many keys a run is complete.
const RUN_KEYS: usize = 16_384;
/// So many runs are merged at once. A key that is looked for in the tables is looked for in each of them.
const RUNS_MAX: usize = 32;
/// A run is merged after this in any case: its idempotency keys must go when their time is over.
const RUN_AGE_MAX: Duration = Duration::from_secs(3 * 3600);
/// About so many keys are merged in one slice,
const SLICE_KEYS: usize = 2_048;
/// and so many removed.
const DROP_KEYS: usize = 8_192;
/// So many portions without a key are gone over in one slice.
const PORTIONS_LOOKED_MAX: usize = 16;

/// A key in a run.
#[derive(Clone, Copy)]
pub(super) struct RunKey {
    pub(super) key: DedupeKey,
    /// Of an idempotency key.
    pub(super) digest: Option<RequestDigest>,
    pub(super) message: Sequence,
}

/// Which runs there are.
#[derive(Clone, Default)]
pub(super) struct KeyRuns {
    /// Oldest first.
    runs: Vec<Run>,
    merging: Option<Merging>,
}

#[derive(Clone, Copy)]
struct Run {
    first: Sequence,
    /// How many keys it has, or more.
    keys: usize,
}

/// How far a merge has come.
#[derive(Clone, Copy)]
struct Merging {
    /// It takes so many runs, the oldest,
    runs: usize,
    /// in so many portions,
    portions: usize,
    /// of which it has merged so many, or removed from the oldest run, once all were merged.
    done: usize,
    removing: bool,
}

impl KeyRuns {
    pub(super) fn read(connection: &Connection) -> Result<KeyRuns, Fault> {
        let mut statement = connection.prepare(&format!("{RUNS} SELECT run FROM runs WHERE run NOT NULL"))?;
        let mut rows = statement.query([])?;
        let mut runs = Vec::new();
        while let Some(row) = rows.next()? {
            // Nothing is added to a run after a start: how full it is is not known.
            runs.push(Run { first: codec::sequence(row.get(0)?), keys: RUN_KEYS });
        }
        runs.reverse();
        Ok(KeyRuns { runs, merging: None })
    }

    /// Writes the keys of a slice of messages, the oldest first.
    pub(super) fn write(&mut self, connection: &Connection, messages: &[MessageRecord]) -> Result<(), Fault> {
        let mut found: Vec<RunKey> = Vec::new();
        for record in messages {
            let message = record.sequence;
            found.extend(record.idempotency.map(|entry| RunKey {
                key: entry.key,
                digest: Some(entry.digest),
                message,
            }));
            found.extend(record.event.map(|key| RunKey { key, digest: None, message }));
        }
        let Some(first) = found.first().map(|key| key.message) else { return Ok(()) };
        let run = self.run_for(first);
        run.keys += found.len();
        let run = integer(run.first);
        found.sort_unstable_by_key(|key| (key.key, key.message));
        let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO key_run VALUES (?1, ?2, ?3, ?4)")?;
        for RunKey { key, digest, message } in found {
            let digest = digest.as_ref().map(|digest| digest.0.as_slice());
            insert.execute(params![run, key.0.as_slice(), digest, integer(message)])?;
        }
        Ok(())
    }

    /// The newest run, or a new one that starts with `message`.
    fn run_for(&mut self, message: Sequence) -> &mut Run {
        let merging = self.merging.map_or(0, |merging| merging.runs);
        let open = self.runs.len() > merging
            && self
                .runs
                .last()
                .is_some_and(|run| run.keys < RUN_KEYS && message.time() < run.first.time().plus(RUN_AGE_MAX));
        if !open {
            self.runs.push(Run { first: message, keys: 0 });
        }
        let last = self.runs.len() - 1;
        &mut self.runs[last]
    }

    /// Removes the key of an event from the run of its message, if it is in one.
    pub(super) fn remove(&self, connection: &Connection, key: &[u8], message: Sequence) -> Result<(), Fault> {
        let after = self.runs.partition_point(|run| run.first <= message);
        let Some(run) = after.checked_sub(1).map(|at| self.runs[at]) else { return Ok(()) };
        connection
            .prepare_cached("DELETE FROM key_run WHERE run = ?1 AND key = ?2 AND message = ?3")?
            .execute(params![integer(run.first), key, integer(message)])?;
        Ok(())
    }

    /// Whether there is something to merge.
    pub(super) fn are_due(&self, now: Timestamp) -> bool {
        let old = || self.runs.first().is_some_and(|run| run.first.time().plus(RUN_AGE_MAX) <= now);
        self.merging.is_some() || self.runs.len() > RUNS_MAX || old()
    }

    /// Does a slice of what is due.
    pub(super) fn merge_slice(&mut self, connection: &Connection, now: Timestamp) -> Result<(), Fault> {
        let merging = self.merging.unwrap_or_else(|| {
            let keys: usize = self.runs.iter().map(|run| run.keys).sum();
            let portions = keys.div_ceil(SLICE_KEYS).next_power_of_two().min(256);
            Merging { runs: self.runs.len(), portions, done: 0, removing: false }
        });
        let merging = match merging.removing {
            false => self.merge_portion(connection, merging, now)?,
            true => self.remove_portion(connection, merging)?,
        };
        self.merging = Some(merging).filter(|merging| merging.runs > 0);
        Ok(())
    }

    /// Merges the next portion that has a key.
    fn merge_portion(&self, connection: &Connection, mut merging: Merging, now: Timestamp) -> Result<Merging, Fault> {
        // Retention may have left few.
        for _ in 0..PORTIONS_LOOKED_MAX {
            let mut found = Vec::new();
            for run in &self.runs[..merging.runs] {
                keys_of(connection, *run, merging.done, merging.portions, &mut found)?;
            }
            merging.done += 1;
            if merging.done == merging.portions {
                merging = Merging { done: 0, removing: true, ..merging };
            }
            if !found.is_empty() {
                keys::merge(connection, found, now)?;
                break;
            }
            if merging.removing {
                break;
            }
        }
        Ok(merging)
    }

    /// Removes the next portion of the oldest run, all of which is merged.
    fn remove_portion(&mut self, connection: &Connection, merging: Merging) -> Result<Merging, Fault> {
        let Some(run) = self.runs.first().copied() else { return Ok(Merging { runs: 0, ..merging }) };
        let portions = run.keys.div_ceil(DROP_KEYS).next_power_of_two().min(256);
        let (from, until) = bounds(merging.done, portions);
        connection
            .prepare_cached("DELETE FROM key_run WHERE run = ?1 AND key >= ?2 AND key < ?3")?
            .execute(params![integer(run.first), from.as_slice(), until.as_slice()])?;
        let done = merging.done + 1;
        if done < portions {
            return Ok(Merging { done, ..merging });
        }
        self.runs.remove(0);
        Ok(Merging { runs: merging.runs - 1, done: 0, ..merging })
    }
}

/// The keys of a run in a portion.
fn keys_of(
    connection: &Connection,
    run: Run,
    portion: usize,
    portions: usize,
    into: &mut Vec<RunKey>,
) -> Result<(), Fault> {
    let (from, until) = bounds(portion, portions);
    let mut statement = connection
        .prepare_cached("SELECT key, digest, message FROM key_run WHERE run = ?1 AND key >= ?2 AND key < ?3")?;
    let mut rows = statement.query(params![integer(run.first), from.as_slice(), until.as_slice()])?;
    while let Some(row) = rows.next()? {
        into.push(RunKey {
            key: DedupeKey(array(row, 0)?),
            digest: digest(row, 1)?,
            message: codec::sequence(row.get(2)?),
        });
    }
    Ok(())
}

/// From which key, and up to but not including which, a portion goes; `portions` is a power of two up to 256.
fn bounds(portion: usize, portions: usize) -> ([u8; 1], Vec<u8>) {
    let width = 256 / portions;
    let from = [u8::try_from(portion * width).unwrap_or(u8::MAX)];
    // Longer than any key.
    let until = u8::try_from((portion + 1) * width).map_or_else(|_| vec![u8::MAX; 17], |first| vec![first]);
    (from, until)
}

fn digest(row: &rusqlite::Row<'_>, column: usize) -> Result<Option<RequestDigest>, Fault> {
    match row.get_ref(column)?.blob_or_empty()? {
        [] => Ok(None),
        _ => Ok(Some(RequestDigest(array(row, column)?))),
    }
}

/// Newest first; ends with a NULL.
const RUNS: &str = "WITH RECURSIVE runs(run) AS (SELECT max(run) FROM key_run UNION ALL \
                    SELECT (SELECT max(run) FROM key_run WHERE run < runs.run) FROM runs WHERE run NOT NULL)";

/// The message made under `key`, if a run has it.
pub(super) fn find(connection: &Connection, key: DedupeKey) -> Result<Option<DedupeEntry>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "{RUNS} SELECT k.digest, k.message FROM runs JOIN key_run k ON k.run = runs.run AND k.key = ?1 LIMIT 1"
    ))?;
    let mut rows = statement.query([key.0.as_slice()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let digest = digest(row, 0)?.unwrap_or(keys::NO_DIGEST);
    Ok(Some(DedupeEntry { key, digest, message: codec::sequence(row.get(1)?) }))
}
