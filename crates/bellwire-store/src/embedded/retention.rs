//! Upkeep: work behind the logs, one bounded slice at a time, each slice one transaction that a crash leaves whole or undone.
//!
//! In this order: fill the indexes; learn which keys there are, or merge them; end what was owed to deleted endpoints; remove what is past
//! its retention; forget keys and tasks.
//!
//! Retention raises the **floor** first: from then on messages below it are gone for every reader and every commit, however long
//! their removal takes. What waits below it ends as expired, with an attempt row that says so. Then the ranges go,
//! logs and indexes together. Freed pages are used again, so the file stays as large as its busiest time.

use super::attempt_log;
use super::cancelling::{self, Cancelling};
use super::checkpoint;
use super::codec::{self, integer};
use super::consumer::Settling;
use super::fault::Fault;
use super::index::{AttemptRecord, write_attempts_at_once};
use super::key_filter::Place;
use super::ledger::Meta;
use super::message_log::{self, BlobRef};
use super::task;
use super::writer::Writer;
use super::{keys, waiting_room};
use crate::CommitError;
use bellwire_model::{AfterAttempt, Delivery, EndReason, EndpointKey, Sequence, Timestamp};
use rusqlite::{OptionalExtension, params};
use std::collections::BTreeSet;
use std::time::Duration;

/// The floor rises in steps of a 64th of the retention, and at most of this.
const STEP_MAX: Duration = Duration::from_secs(60);
/// Records are indexed after this at the latest.
const INDEXED_AFTER: Duration = Duration::from_secs(60);
/// Tasks that have ended are known for so long.
const TASKS_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// So many bytes of payloads or response bodies go in one slice at most: the pages that they leave are written, too.
const BYTES_MAX: u64 = 16 << 20;
/// Of how many endpoints the waiting room is searched in one slice.
const ENDPOINTS_MAX: usize = 2_000;
/// So many keys are told to the filter in one slice: two or three milliseconds.
const GATHERED: usize = 10_000;
/// The upper half of the sequences of a millisecond is upkeep's; the engine never gives out so many.
const HALF: u64 = 1 << 19;

/// How far the removal below the floor has come. In memory only: after a start it begins again and finds less.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Removal {
    /// End what waits, from this endpoint on.
    Waiting(EndpointKey),
    /// Remove messages and what hangs on them.
    Messages,
    /// Remove attempts.
    Attempts,
    /// Nothing below the floor.
    Done,
}

impl Writer {
    /// See [`crate::Store::upkeep`].
    pub(super) fn upkeep(&mut self, now: Timestamp) -> Result<bool, CommitError> {
        let done = match self.upkeep_slice(now) {
            // Cleaning up is what makes room again: it may use the reserve.
            Err(CommitError::Full) if self.give_up_reserve() => self.upkeep_slice(now),
            answer => answer,
        };
        // What a slice writes is not known from its rows: it touches pages all over the trees.
        if let Ok((log, done)) = checkpoint::extent(&self.connection) {
            self.log_left(log - done);
        }
        done
    }

    fn upkeep_slice(&mut self, now: Timestamp) -> Result<bool, CommitError> {
        let (unindexed, oldest) = {
            let tail = self.tail.read();
            (tail.len(), tail.oldest())
        };
        // What is not indexed is neither removed nor expired, so it must not stay so for long on a quiet server either.
        let stale = oldest.is_some_and(|oldest| oldest.time().plus(INDEXED_AFTER) <= now);
        let crowded = unindexed >= self.settings.slice;
        // Under load there is always something to index: the rest has every other turn, unless indexing falls behind.
        self.indexed_last = (crowded || stale) && (unindexed >= self.settings.slice * 2 || !self.indexed_last);
        if self.indexed_last {
            self.index_slice()?;
            return Ok(true);
        }
        // Under load there are always keys to merge, too, so that what is past its time does not wait for them.
        let keys_left = self.keys_slice(now)?;
        Ok(self.clean_up_slice(now)? || keys_left || crowded)
    }

    /// Goes on with what concerns keys. Answers whether there is more.
    fn keys_slice(&mut self, now: Timestamp) -> Result<bool, CommitError> {
        let wanted = self.tail.write().filter_wants();
        if let Some(place) = wanted {
            // Nothing is merged meanwhile: a key could move from what is still to be gone through to what was.
            let more = self.gather_keys(place).map_err(Fault::into_commit)?;
            return Ok(more || self.key_runs.are_due(now));
        }
        if !self.key_runs.are_due(now) {
            return Ok(false);
        }
        let mut runs = self.key_runs.clone();
        self.transaction(|writer| runs.merge_slice(&writer.connection, now))?;
        self.key_runs = runs;
        Ok(true)
    }

    /// Tells the filter a slice of the keys that the tables hold. Answers whether there are more.
    fn gather_keys(&self, from: Place) -> Result<bool, Fault> {
        let (keys, next) = from.keys(&self.connection, GATHERED)?;
        let more = next.is_some();
        self.tail.write().filter.gather(keys, next);
        Ok(more)
    }

    /// Everything but indexing.
    fn clean_up_slice(&mut self, now: Timestamp) -> Result<bool, CommitError> {
        if let Some(endpoint) = self.doomed.first().copied() {
            self.end_for_deleted(endpoint, now)?;
            return Ok(true);
        }
        let target = self.removal_target(now).map_err(Fault::into_commit)?;
        if target > self.meta.floor {
            let meta = Meta { floor: target, ..self.meta };
            self.transaction(|writer| meta.write(&writer.connection))?;
            self.meta = meta;
            self.removal = Removal::Waiting(EndpointKey(0));
        }
        if self.remove_slice(now)? {
            return Ok(true);
        }
        self.forget_slice(now)
    }

    fn index_slice(&mut self) -> Result<(), CommitError> {
        let slice = self.tail.read().slice(self.settings.slice);
        let meta = Meta { indexed: slice.through, ..self.meta };
        let mut runs = self.key_runs.clone();
        self.transaction(|writer| {
            slice.write(&writer.connection, |message| writer.settings.retention_ends(message))?;
            runs.write(&writer.connection, &slice.messages)?;
            meta.write(&writer.connection)
        })?;
        self.meta = meta;
        self.key_runs = runs;
        self.tail.write().drop_through(meta.indexed);
        Ok(())
    }

    /// Ends a slice of what waits for a deleted endpoint.
    fn end_for_deleted(&mut self, endpoint: EndpointKey, now: Timestamp) -> Result<(), CommitError> {
        let limit = self.settings.slice;
        let waiting = waiting_room::oldest(&self.connection, endpoint, i64::MAX, limit).map_err(Fault::into_commit)?;
        if waiting.is_empty() {
            self.doomed.remove(&endpoint);
            return Ok(());
        }
        self.end(&waiting, EndReason::EndpointDeleted, now)
    }

    /// Ends a slice of what somebody wants not to be sent any more.
    pub(super) fn end_cancelled(&mut self, cancelling: Cancelling, now: Timestamp) -> Result<(), CommitError> {
        let Cancelling { number, endpoint, before, at, read_by } = cancelling;
        if let Some(consumer) = read_by {
            return self.settle_read(number, endpoint, before, &consumer, now);
        }
        let waiting = waiting_room::oldest_until(&self.connection, endpoint, before, at, self.settings.slice);
        let waiting = waiting.map_err(Fault::into_commit)?;
        if waiting.is_empty() {
            self.transaction(|writer| cancelling::end(&writer.connection, number))?;
            self.cancelling.pop_front();
            return Ok(());
        }
        self.end(&waiting, EndReason::Cancelled, now)
    }

    /// Records a slice of what a consumer has read past as delivered.
    fn settle_read(
        &mut self,
        number: i64,
        endpoint: EndpointKey,
        before: Sequence,
        consumer: &str,
        now: Timestamp,
    ) -> Result<(), CommitError> {
        let (mut meta, limit) = (self.meta, self.settings.slice);
        let more = self.transaction(|writer| {
            let mut settling = Settling {
                connection: &writer.connection,
                counts: &mut writer.counts,
                meta: &mut meta,
                upkeep_from: writer.upkeep_from,
            };
            let more = settling.read_past(endpoint, before, consumer, now, limit)?;
            if !more {
                cancelling::end(&writer.connection, number)?;
            }
            meta.write(&writer.connection)?;
            Ok(more)
        })?;
        self.meta = meta;
        self.settled.insert(endpoint);
        if !more {
            self.cancelling.pop_front();
        }
        Ok(())
    }

    /// Ends deliveries that wait, all or none: rows out of the waiting room, rows into the attempt log and its indexes, counts.
    fn end(&mut self, waiting: &[Delivery], reason: EndReason, now: Timestamp) -> Result<(), CommitError> {
        let mut meta = self.meta;
        self.transaction(|writer| {
            let mut records = Vec::with_capacity(waiting.len());
            let mut log = attempt_log::Appender::new(&writer.connection)?;
            for delivery in waiting {
                if !waiting_room::remove(&writer.connection, &mut writer.counts, *delivery)? {
                    continue;
                }
                let application = message_log::find_application(&writer.connection, delivery.message)?;
                let Some(application) = application else { continue };
                meta.upkeep_newest = next_sequence(&meta, writer.upkeep_from, now);
                let row = attempt_log::ended_without_exchange(meta.upkeep_newest, *delivery, application, reason);
                log.append_indexed(&row)?;
                records.push(AttemptRecord::new(&row, row.after));
                meta.ledger.count(AfterAttempt::Ended(reason));
            }
            drop(log);
            write_attempts_at_once(&writer.connection, &records)?;
            meta.write(&writer.connection)
        })?;
        self.meta = meta;
        Ok(())
    }

    /// Where the floor should be. Never above the watermark or what is not indexed yet.
    fn removal_target(&self, now: Timestamp) -> Result<Sequence, Fault> {
        let limit = self.meta.watermark.min(self.meta.indexed.next());
        let oldest = self.connection.prepare_cached("SELECT min(sequence) FROM message")?;
        let oldest = { oldest }.query_one([], |row| row.get::<_, Option<i64>>(0))?.map(codec::sequence);
        let Some(oldest) = oldest else { return Ok(self.meta.floor) };
        let kept = self.settings.messages;
        let step = (kept / 64).clamp(Duration::from_millis(1), STEP_MAX).as_micros() as i64;
        let cutoff = now.minus(kept).as_micros();
        let mut target = Sequence::first_at(Timestamp::from_micros(cutoff - cutoff.rem_euclid(step)));
        if target <= oldest {
            target = self.meta.floor;
        }
        if self.removal == Removal::Done && self.settings.bytes_max.is_some_and(|max| self.bytes_used() > max) {
            let mut nth =
                self.connection.prepare_cached("SELECT sequence FROM message ORDER BY sequence LIMIT 1 OFFSET ?1")?;
            let nth = nth.query_row([self.settings.slice as i64], |row| row.get(0)).optional()?;
            target = target.max(nth.map_or(self.meta.newest, codec::sequence));
        }
        Ok(target.min(limit).max(self.meta.floor))
    }

    /// The pages that hold something.
    fn bytes_used(&self) -> u64 {
        let pragma = |sql| {
            let value =
                self.connection.prepare_cached(sql).and_then(|mut s| s.query_one([], |row| row.get::<_, i64>(0)));
            value.unwrap_or(0)
        };
        let pages = pragma("PRAGMA page_count") - pragma("PRAGMA freelist_count");
        pages.max(0) as u64 * pragma("PRAGMA page_size").max(0) as u64
    }

    /// Removes a slice of what is below the floor. Answers whether there was any.
    fn remove_slice(&mut self, now: Timestamp) -> Result<bool, CommitError> {
        loop {
            let (worked, next) = match self.removal {
                Removal::Waiting(from) => {
                    let (found, next) = self.waiting_below_floor(from).map_err(Fault::into_commit)?;
                    if !found.is_empty() {
                        self.end(&found, EndReason::Expired, now)?;
                    }
                    (!found.is_empty() || next != Removal::Messages, next)
                }
                Removal::Messages => match self.transaction(|writer| writer.remove_messages())? {
                    true => (true, Removal::Messages),
                    false => (false, Removal::Attempts),
                },
                Removal::Attempts => match self.transaction(|writer| writer.remove_attempts())? {
                    true => (true, Removal::Attempts),
                    false => (false, Removal::Done),
                },
                Removal::Done => return Ok(false),
            };
            self.removal = next;
            if worked {
                return Ok(true);
            }
        }
    }

    /// A slice of what waits below the floor, from an endpoint on, and where to go on.
    fn waiting_below_floor(&self, from: EndpointKey) -> Result<(Vec<Delivery>, Removal), Fault> {
        let mut found = Vec::new();
        let endpoints = self.counts.endpoints();
        let rest = &endpoints[endpoints.partition_point(|endpoint| *endpoint < from)..];
        for (searched, endpoint) in rest.iter().enumerate() {
            let left = self.settings.slice.saturating_sub(found.len());
            if left == 0 || searched == ENDPOINTS_MAX {
                return Ok((found, Removal::Waiting(*endpoint)));
            }
            let some = waiting_room::oldest(&self.connection, *endpoint, integer(self.meta.floor), left)?;
            found.extend(some);
            if found.len() == self.settings.slice {
                return Ok((found, Removal::Waiting(*endpoint)));
            }
        }
        Ok((found, Removal::Messages))
    }

    /// Removes the oldest messages below the floor with what hangs on them. Answers whether there were any.
    fn remove_messages(&mut self) -> Result<bool, Fault> {
        let connection = &self.connection;
        let (mut applications, mut endpoints) = (BTreeSet::new(), BTreeSet::new());
        let (mut events, mut through, mut rows_gone, mut bytes_gone) = (Vec::new(), None, 0, 0);
        {
            let mut oldest = connection.prepare_cached(
                "SELECT sequence, application, fan_out, event_key, coalesce(length(payload), 0) FROM message \
                 WHERE sequence < ?1 ORDER BY sequence",
            )?;
            let mut rows = oldest.query([integer(self.meta.floor)])?;
            while let Some(row) = rows.next()? {
                through = Some(row.get::<_, i64>(0)?);
                applications.insert(row.get::<_, u32>(1)?);
                let fan_out = codec::read_fan_out(row.get_ref(2)?.blob_or_empty()?)?;
                rows_gone += 1 + fan_out.len();
                endpoints.extend(fan_out.iter().map(|endpoint| endpoint.0));
                if let Some(key) = row.get::<_, Option<Vec<u8>>>(3)? {
                    events.push((key, codec::sequence(row.get(0)?)));
                }
                bytes_gone += row.get::<_, i64>(4)? as u64;
                if rows_gone >= self.settings.slice || bytes_gone >= BYTES_MAX {
                    break;
                }
            }
        }
        let Some(through) = through else { return Ok(false) };
        {
            let mut added = connection.prepare_cached("SELECT endpoint FROM added_delivery WHERE message <= ?1")?;
            let mut rows = added.query([through])?;
            while let Some(row) = rows.next()? {
                endpoints.insert(row.get(0)?);
            }
        }
        let mut range =
            connection.prepare_cached("DELETE FROM message_by_application WHERE application = ?1 AND message <= ?2")?;
        for application in applications {
            range.execute(params![application, through])?;
        }
        let mut range =
            connection.prepare_cached("DELETE FROM delivery_by_endpoint WHERE endpoint = ?1 AND message <= ?2")?;
        for endpoint in endpoints {
            range.execute(params![endpoint, through])?;
        }
        let mut event = connection.prepare_cached("DELETE FROM event_key WHERE key = ?1 AND message <= ?2")?;
        events.sort_unstable();
        for (key, message) in events {
            event.execute(params![key, through])?;
            self.key_runs.remove(connection, &key, message)?;
        }
        connection.prepare_cached("DELETE FROM added_delivery WHERE message <= ?1")?.execute([through])?;
        connection.prepare_cached("DELETE FROM attempt_by_delivery WHERE message <= ?1")?.execute([through])?;
        connection.prepare_cached("DELETE FROM message WHERE sequence <= ?1")?.execute([through])?;
        Ok(true)
    }

    /// Removes the oldest attempts below the floor. Their messages are older still, so they are gone.
    fn remove_attempts(&mut self) -> Result<bool, Fault> {
        let connection = &self.connection;
        let (mut endpoints, mut through, mut bytes_gone) = (BTreeSet::new(), None, 0);
        {
            let mut oldest = connection.prepare_cached(
                "SELECT sequence, endpoint, coalesce(length(body), 0) FROM attempt \
                 WHERE sequence < ?1 ORDER BY sequence LIMIT ?2",
            )?;
            let mut rows = oldest.query([integer(self.meta.floor), self.settings.slice as i64])?;
            while let Some(row) = rows.next()? {
                through = Some(row.get::<_, i64>(0)?);
                endpoints.insert(row.get::<_, u32>(1)?);
                bytes_gone += row.get::<_, i64>(2)? as u64;
                if bytes_gone >= BYTES_MAX {
                    break;
                }
            }
        }
        let Some(through) = through else { return Ok(false) };
        let mut range =
            connection.prepare_cached("DELETE FROM attempt_by_endpoint WHERE endpoint = ?1 AND attempt <= ?2")?;
        for endpoint in endpoints {
            range.execute(params![endpoint, through])?;
        }
        connection.prepare_cached("DELETE FROM attempt WHERE sequence <= ?1")?.execute([through])?;
        Ok(true)
    }

    /// Removes a slice of payloads, keys and answers whose own time is over. Answers whether there may be more.
    fn forget_slice(&mut self, now: Timestamp) -> Result<bool, CommitError> {
        let limit = self.settings.slice;
        if self.forgettable(now).map_err(Fault::into_commit)? {
            self.transaction(|writer| {
                let connection = &writer.connection;
                let mut expired: Vec<(i64, i64)> = Vec::new();
                {
                    let mut due = connection.prepare_cached(
                        "SELECT expires_at, message, \
                         coalesce((SELECT length(payload) FROM message WHERE sequence = expiring.message), 0) \
                         FROM expiring WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
                    )?;
                    let mut rows = due.query([now.as_micros(), limit as i64])?;
                    let mut bytes_gone = 0;
                    while let Some(row) = rows.next()? {
                        expired.push((row.get(0)?, row.get(1)?));
                        bytes_gone += row.get::<_, i64>(2)? as u64;
                        if bytes_gone >= BYTES_MAX {
                            break;
                        }
                    }
                }
                let mut done =
                    connection.prepare_cached("DELETE FROM expiring WHERE expires_at = ?1 AND message = ?2")?;
                for (expires_at, message) in expired {
                    message_log::expunge(connection, codec::sequence(message))?;
                    done.execute([expires_at, message])?;
                }
                keys::drop_old(connection, now, limit)?;
                keys::drop_answers(connection, now, limit)?;
                task::forget(connection, now.minus(TASKS_KEPT), limit)
            })?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether anything's own time is over; looks and takes no lock.
    fn forgettable(&self, now: Timestamp) -> Result<bool, Fault> {
        let mut statement = self.connection.prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM expiring WHERE expires_at <= ?1) \
             OR EXISTS (SELECT 1 FROM kept_answer INDEXED BY kept_answer_by_end WHERE expires_at <= ?1) \
             OR coalesce((SELECT min(bucket) FROM idempotency_key) < ?2, 0)",
        )?;
        Ok(statement.query_one([now.as_micros(), keys::oldest_bucket(now)], |row| row.get(0))?
            || task::are_forgettable(&self.connection, now.minus(TASKS_KEPT))?)
    }
}

/// The next sequence for an attempt row that upkeep itself makes.
///
/// The engine draws the sequences of its own rows before it commits them, so upkeep must not take one that it may have drawn. It takes
/// from the upper half of a millisecond, and of one that the engine has not itself come so far in.
pub(super) fn next_sequence(meta: &Meta, from: Sequence, now: Timestamp) -> Sequence {
    let base = Sequence::first_at(now).max(first_of(meta.newest));
    let engine_in_upper_half = meta.newest.as_u64() >= first_of(meta.newest).as_u64() + HALF;
    let base = if engine_in_upper_half { base.max(following(meta.newest)) } else { base };
    let next = upper_half(base).max(from).max(meta.upkeep_newest.next());
    if next < upper_half(next) { upper_half(next) } else { next }
}

/// Where upkeep starts after a start of the engine at `newest`, from which the engine goes on, in whichever half that is.
pub(super) fn after(newest: Sequence) -> Sequence {
    upper_half(following(newest))
}

fn first_of(sequence: Sequence) -> Sequence {
    Sequence::first_at(sequence.time())
}

fn following(sequence: Sequence) -> Sequence {
    Sequence::first_at(sequence.time().plus(Duration::from_millis(1)))
}

fn upper_half(sequence: Sequence) -> Sequence {
    Sequence::from_u64(first_of(sequence).as_u64() + HALF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::{Ledger, SequenceSource};

    #[test]
    fn upkeep_never_takes_a_sequence_that_the_engine_may_have_drawn() {
        let now = Timestamp::from_seconds(1_700_000_000);
        let mut meta = Meta {
            newest: Sequence::ZERO,
            upkeep_newest: Sequence::ZERO,
            watermark: Sequence::ZERO,
            indexed: Sequence::ZERO,
            floor: Sequence::ZERO,
            last_key: 0,
            ledger: Ledger::default(),
        };
        let mut given = BTreeSet::new();
        // Three starts at the same instant: each engine goes on after everything that was given out before it.
        for _ in 0..3 {
            let mut engine = SequenceSource::after(meta.newest.max(meta.upkeep_newest));
            let from = after(meta.newest.max(meta.upkeep_newest));
            let drawn: Vec<_> = (0..100).map(|_| engine.next(now)).collect();
            for _ in 0..100 {
                meta.upkeep_newest = next_sequence(&meta, from, now);
                assert!(given.insert(meta.upkeep_newest));
            }
            for sequence in drawn {
                assert!(given.insert(sequence), "{sequence:?} was given out twice");
                meta.newest = sequence;
                meta.upkeep_newest = next_sequence(&meta, from, now);
                assert!(given.insert(meta.upkeep_newest));
            }
        }
    }
}
