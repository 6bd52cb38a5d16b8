//! The one writer: batches, leases and slices of upkeep, each one transaction on its one connection.

use super::cancelling::{self, Cancelling};
use super::checkpoint::{Failure, START_BYTES, keep_log_on_close};
use super::consumer::{self, ReadThrough, Settling};
use super::fault::Fault;
use super::folder::Reserve;
use super::index::{AttemptRecord, MessageRecord, Tail};
use super::key_runs::KeyRuns;
use super::ledger::Meta;
use super::retention::{self, Removal};
use super::task;
use super::waiting_room::{self, Counts};
use super::{Settings, attempt_log, configuration, index, keys, message_log, recovery, source, subscription, tokens};
use crate::{Batch, Change, CommitError, Consumer, Fence, Lease, Settled};
use bellwire_model::{
    AfterAttempt, Attempt, AttemptNumber, Delivery, EndReason, EndpointKey, Partition, Sequence, TaskId, Timestamp,
    Trigger, Waiting,
};
use parking_lot::RwLock;
use rusqlite::{Connection, params};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What a row of each log adds to the write-ahead log beside its payload, roughly.
pub(super) const ROW_BYTES: u64 = 200;
/// What every commit adds: the one row, the growing ends of the trees.
const COMMIT_BYTES: u64 = 24 << 10;
/// So much of what a consumer has read past is recorded in the commit that moves its place.
const READ_AT_ONCE: usize = 1_000;

pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) meta: Meta,
    pub(super) counts: Counts,
    pub(super) tail: Arc<RwLock<Tail>>,
    pub(super) settings: Settings,
    /// Deleted endpoints: what still comes for them has ended already, or is ended by upkeep.
    pub(super) deleted: HashSet<EndpointKey>,
    /// Those of them with rows in the waiting room.
    pub(super) doomed: BTreeSet<EndpointKey>,
    /// What is to be ended as cancelled.
    pub(super) cancelling: VecDeque<Cancelling>,
    /// Endpoints of which something was cancelled since the start, up to which message: an engine may still have it in hand.
    pub(super) cancelled: HashMap<EndpointKey, Sequence>,
    /// How far the farthest consumer of each endpoint has read.
    read: ReadThrough,
    /// Endpoints of which a reader settled something since the start: an engine may still have it in hand.
    pub(super) settled: HashSet<EndpointKey>,
    /// Tasks that are running, and at a start those whose end was not told; the first one's turn is next.
    pub(super) running: VecDeque<TaskId>,
    /// Upkeep's own sequences start no lower.
    pub(super) upkeep_from: Sequence,
    pub(super) removal: Removal,
    pub(super) key_runs: KeyRuns,
    /// The last slice of upkeep filled indexes.
    pub(super) indexed_last: bool,
    leases: Vec<Option<Held>>,
    failure: Failure,
    reserve: Reserve,
    /// The last transaction found the disk full.
    full: bool,
    pub(super) log_bytes: u64,
    // Kept from commit to commit for their memory.
    messages: Vec<MessageRecord>,
    attempts: Vec<AttemptRecord>,
}

/// A partition's newest lease. A fence with no holder is from before the start.
struct Held {
    fence: Fence,
    holder: Option<String>,
    until: Timestamp,
}

impl Writer {
    pub(super) fn open(
        connection: Connection,
        settings: Settings,
        tail: Arc<RwLock<Tail>>,
        failure: Failure,
        reserve: Reserve,
    ) -> Result<Writer, Fault> {
        let meta = Meta::read(&connection)?;
        *tail.write() = Tail::read(&connection, &meta)?;
        let counts = Counts::read(&connection)?;
        let deleted: HashSet<_> = configuration::deleted_endpoints(&connection)?.into_iter().collect();
        let doomed = deleted.iter().copied().filter(|endpoint| counts.has_rows(*endpoint)).collect();
        let cancelling = cancelling::all(&connection)?.into();
        let running = task::running(&connection)?.into();
        let read = consumer::read_through(&connection)?;
        let leases = read_leases(&connection)?;
        let key_runs = KeyRuns::read(&connection)?;
        let upkeep_from = retention::after(meta.newest_of_all());
        Ok(Writer {
            connection,
            meta,
            counts,
            tail,
            settings,
            deleted,
            doomed,
            cancelling,
            cancelled: HashMap::new(),
            read,
            settled: HashSet::new(),
            running,
            upkeep_from,
            removal: Removal::Waiting(EndpointKey(0)),
            key_runs,
            indexed_last: false,
            leases,
            failure,
            reserve,
            full: false,
            // Whatever was left behind; the first checkpoint finds out.
            log_bytes: START_BYTES,
            messages: Vec::new(),
            attempts: Vec::new(),
        })
    }

    /// See [`crate::Store::commit`].
    pub(super) fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        self.check_fences(&batch.fences)?;
        if !batch.accepted.is_empty() && !self.reserve.take_again() {
            return Err(CommitError::Full);
        }
        match self.try_commit(batch) {
            // What was accepted before may go on into the reserve.
            Err(CommitError::Full) if self.reserve.give_up() && batch.accepted.is_empty() => self.try_commit(batch),
            answer => answer,
        }
    }

    fn try_commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        let mut meta = self.meta;
        let (mut messages, mut attempts) = (std::mem::take(&mut self.messages), std::mem::take(&mut self.attempts));
        let (mut deleted, mut cancelling) = (Vec::new(), Vec::new());
        let (mut read, mut settled) = (Vec::new(), Vec::new());
        let written = self.transaction(|writer| {
            let mut step = Step {
                connection: &writer.connection,
                counts: &mut writer.counts,
                before: &writer.deleted,
                cancelled: &writer.cancelled,
                settled_before: &writer.settled,
                read_before: &writer.read,
                upkeep_from: writer.upkeep_from,
                settings: &writer.settings,
                meta: &mut meta,
                messages: &mut messages,
                attempts: &mut attempts,
                deleted: &mut deleted,
                cancelling: &mut cancelling,
                read: &mut read,
                settled: &mut settled,
            };
            step.write(batch)?;
            meta.write(&writer.connection)
        });
        if written.is_ok() {
            self.meta = meta;
            for endpoint in deleted {
                self.deleted.insert(endpoint);
                if self.counts.has_rows(endpoint) {
                    self.doomed.insert(endpoint);
                }
            }
            if !self.deleted.is_empty() {
                self.doom(&messages);
            }
            for one in cancelling {
                if one.read_by.is_none() {
                    let through = self.cancelled.entry(one.endpoint).or_default();
                    *through = one.before.max(*through);
                }
                self.cancelling.push_back(one);
            }
            self.read.extend(read);
            self.settled.extend(settled);
            for change in &batch.changes {
                if let Change::PutTask(task) = change
                    && !self.running.contains(&task.id)
                {
                    self.running.push_back(task.id);
                }
            }
            self.tail.write().publish(&mut messages, &mut attempts, meta.newest);
        }
        messages.clear();
        attempts.clear();
        (self.messages, self.attempts) = (messages, attempts);
        self.log_bytes += batch.accepted.iter().map(|a| ROW_BYTES + a.message.content_bytes() as u64).sum::<u64>()
            + batch
                .attempts
                .iter()
                .map(|a| ROW_BYTES + a.outcome.as_ref().map_or(0, |o| o.body.len() as u64))
                .sum::<u64>();
        written
    }

    /// Messages that were accepted for endpoints already deleted wait for upkeep to end them.
    fn doom(&mut self, messages: &[MessageRecord]) {
        for endpoint in messages.iter().flat_map(|message| &message.fan_out) {
            if self.deleted.contains(endpoint) {
                self.doomed.insert(*endpoint);
            }
        }
    }

    /// Does `work` in one transaction, keeps it and syncs, or leaves everything as it was.
    ///
    /// A failure after which it is not certain that nothing was kept is final: the flag is set for good and the store writes no more.
    pub(super) fn transaction<R>(
        &mut self,
        work: impl FnOnce(&mut Writer) -> Result<R, Fault>,
    ) -> Result<R, CommitError> {
        if let Some(reason) = self.failure.get() {
            return Err(CommitError::Unknown(reason.clone()));
        }
        let done = self.begin_and(work);
        self.log_bytes += COMMIT_BYTES;
        self.full = false;
        match done {
            Ok(result) => {
                self.counts.keep();
                Ok(result)
            }
            Err(fault) => {
                self.counts.undo();
                let mut answer = if fault.is_refused_write() && self.reserve.no_room_beside() {
                    CommitError::Full
                } else {
                    fault.into_commit()
                };
                if !self.connection.is_autocommit()
                    && let Err(error) = self.connection.execute_batch("ROLLBACK")
                {
                    answer = CommitError::Unknown(format!("a rollback failed: {error}"));
                }
                self.full = matches!(answer, CommitError::Full);
                if let CommitError::Unknown(reason) = &answer {
                    let _ = self.failure.set(reason.clone());
                    keep_log_on_close(&self.connection);
                }
                Err(answer)
            }
        }
    }

    fn begin_and<R>(&mut self, work: impl FnOnce(&mut Writer) -> Result<R, Fault>) -> Result<R, Fault> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let result = work(self)?;
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(result)
    }

    /// See [`Reserve::no_room_beside`].
    pub(super) fn no_room(&self) -> bool {
        self.reserve.no_room_beside()
    }

    /// Gives up the space that is kept back, if it is still there.
    pub(super) fn give_up_reserve(&mut self) -> bool {
        self.reserve.give_up()
    }

    /// Whether a checkpoint is worth it. The estimate is put right by [`Writer::log_left`].
    pub(super) fn wants_checkpoint(&self) -> bool {
        self.log_bytes >= START_BYTES || self.full
    }

    /// Whether the log must start over, whatever its size: on a full disk its own space is the space there is.
    pub(super) fn must_start_over(&self) -> bool {
        self.full
    }

    /// What a checkpoint has left in the log.
    pub(super) fn log_left(&mut self, bytes: u64) {
        self.log_bytes = bytes;
    }

    /// See [`crate::Store::lease`]. Only the fences are written: nobody but this process can hold the folder, so a lease means
    /// nothing after its end.
    pub(super) fn lease(
        &mut self,
        holder: &str,
        partitions: &[Partition],
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Vec<Lease>, CommitError> {
        let until = now.plus(ttl);
        let mut got = Vec::with_capacity(partitions.len());
        let mut taken = Vec::new();
        for partition in partitions {
            let fence = match &self.leases[usize::from(partition.0)] {
                Some(held) if held.holder.as_deref() == Some(holder) => held.fence,
                Some(held) if held.holder.is_some() && held.until > now => continue,
                held => {
                    let fence = Fence(held.as_ref().map_or(0, |held| held.fence.0) + 1);
                    taken.push((*partition, fence));
                    fence
                }
            };
            got.push(Lease { partition: *partition, fence, until });
        }
        if !taken.is_empty() {
            self.transaction(|writer| {
                let mut put = writer.connection.prepare_cached("INSERT OR REPLACE INTO lease VALUES (?1, ?2)")?;
                for (partition, fence) in &taken {
                    put.execute(params![partition.0, fence.0 as i64])?;
                }
                Ok(())
            })?;
        } else if let Some(reason) = self.failure.get() {
            return Err(CommitError::Unknown(reason.clone()));
        }
        for lease in &got {
            self.leases[usize::from(lease.partition.0)] =
                Some(Held { fence: lease.fence, holder: Some(holder.to_owned()), until });
        }
        Ok(got)
    }

    fn check_fences(&self, fences: &[(Partition, Fence)]) -> Result<(), CommitError> {
        let lost = fences.iter().find(|(partition, fence)| {
            self.leases[usize::from(partition.0)].as_ref().is_none_or(|held| held.fence != *fence)
        });
        match lost {
            Some((partition, _)) => Err(CommitError::LeaseLost { partition: *partition }),
            None => Ok(()),
        }
    }
}

fn read_leases(connection: &Connection) -> Result<Vec<Option<Held>>, Fault> {
    let mut leases: Vec<Option<Held>> = Partition::all().map(|_| None).collect();
    let mut statement = connection.prepare("SELECT partition, fence FROM lease")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let partition: u8 = row.get(0)?;
        let fence = Fence(row.get::<_, i64>(1)? as u64);
        leases[usize::from(partition)] = Some(Held { fence, holder: None, until: Timestamp::EPOCH });
    }
    Ok(leases)
}

/// A batch on its way into the tables.
struct Step<'a> {
    connection: &'a Connection,
    counts: &'a mut Counts,
    /// Deleted before this batch.
    before: &'a HashSet<EndpointKey>,
    /// Cancelled before this batch, since the start.
    cancelled: &'a HashMap<EndpointKey, Sequence>,
    /// Settled by readers before this batch, since the start.
    settled_before: &'a HashSet<EndpointKey>,
    /// Read before this batch.
    read_before: &'a ReadThrough,
    upkeep_from: Sequence,
    settings: &'a Settings,
    meta: &'a mut Meta,
    messages: &'a mut Vec<MessageRecord>,
    attempts: &'a mut Vec<AttemptRecord>,
    /// Deleted by this batch.
    deleted: &'a mut Vec<EndpointKey>,
    /// Cancelled by this batch.
    cancelling: &'a mut Vec<Cancelling>,
    /// Read by this batch.
    read: &'a mut Vec<(EndpointKey, Sequence)>,
    /// Settled by this batch.
    settled: &'a mut Vec<EndpointKey>,
}

impl Step<'_> {
    fn write(&mut self, batch: &Batch) -> Result<(), Fault> {
        self.accept(batch)?;
        self.record(batch)?;
        for change in &batch.changes {
            self.change(change)?;
        }
        if let Some(watermark) = batch.watermark {
            self.meta.watermark = self.meta.watermark.max(watermark);
        }
        Ok(())
    }

    /// Takes `sequence` as the newest. A batch that goes back would break every reader, so it is refused.
    fn advance(&mut self, sequence: Sequence) -> Result<(), Fault> {
        if sequence <= self.meta.newest {
            return Err(Fault::Batch(format!("{sequence:?} comes after {:?}", self.meta.newest)));
        }
        self.meta.newest = sequence;
        Ok(())
    }

    fn accept(&mut self, batch: &Batch) -> Result<(), Fault> {
        if batch.accepted.is_empty() {
            return Ok(());
        }
        let mut log = message_log::Appender::new(self.connection)?;
        for accepted in &batch.accepted {
            let message = &*accepted.message;
            self.advance(message.sequence())?;
            log.append(accepted)?;
            self.meta.ledger.accepted += 1;
            self.meta.ledger.matched += accepted.fan_out.len() as u64;
            if message.deliver_at.is_some() || !self.before.is_empty() {
                for endpoint in &accepted.fan_out {
                    let gone = self.before.contains(endpoint);
                    // One for a deleted endpoint waits for upkeep to end it.
                    if let Some(due) = message.deliver_at.or(gone.then_some(message.sequence().time())) {
                        let delivery = Delivery { endpoint: *endpoint, message: message.sequence() };
                        self.put(delivery, due, 1, Trigger::Scheduled)?;
                    }
                }
            }
            self.messages.push(MessageRecord::new(accepted));
        }
        Ok(())
    }

    fn record(&mut self, batch: &Batch) -> Result<(), Fault> {
        if batch.attempts.is_empty() {
            return Ok(());
        }
        let mut log = attempt_log::Appender::new(self.connection)?;
        for attempt in &batch.attempts {
            self.advance(attempt.id.sequence())?;
            let after = self.follow(attempt)?;
            log.append(attempt, after)?;
            self.attempts.push(AttemptRecord::new(attempt, after));
        }
        Ok(())
    }

    /// Brings waiting room and ledger in line with what followed an attempt. Answers what is to be recorded as having followed.
    fn follow(&mut self, attempt: &Attempt) -> Result<AfterAttempt, Fault> {
        let delivery = attempt.delivery;
        let gone = self.gone(delivery);
        match attempt.after {
            AfterAttempt::Waiting { due } => {
                let waiting = Waiting { delivery, due, next: attempt.number + 1, trigger: Trigger::Scheduled };
                match gone {
                    None if self.was_cancelled(delivery)? => return Ok(AfterAttempt::Ended(EndReason::Cancelled)),
                    None => {
                        if let Some(ended) = self.ended_by_reader(delivery)? {
                            return Ok(ended);
                        }
                        waiting_room::put(self.connection, self.counts, &waiting)?;
                    }
                    // Ended behind the attempt's back: it stays ended.
                    Some(reason) if !waiting_room::move_to(self.connection, &waiting)? => {
                        return Ok(AfterAttempt::Ended(reason));
                    }
                    Some(_) => {}
                }
            }
            AfterAttempt::Delivered | AfterAttempt::Ended(_) => {
                let waited = waiting_room::remove(self.connection, self.counts, delivery)?;
                if let Some(reason) = gone.filter(|_| !waited) {
                    return Ok(AfterAttempt::Ended(reason));
                }
                // The attempt tells what the receiver said; the delivery has ended and stays so.
                if !waited && self.was_cancelled(delivery)? {
                    return Ok(AfterAttempt::Ended(EndReason::Cancelled));
                }
                if !waited && let Some(ended) = self.ended_by_reader(delivery)? {
                    return Ok(ended);
                }
                self.meta.ledger.count(attempt.after);
            }
        }
        Ok(attempt.after)
    }

    /// Why a delivery may have been ended by upkeep while the engine still had it.
    fn gone(&self, delivery: Delivery) -> Option<EndReason> {
        if !self.before.is_empty() && self.before.contains(&delivery.endpoint)
            || self.deleted.contains(&delivery.endpoint)
        {
            return Some(EndReason::EndpointDeleted);
        }
        (delivery.message < self.meta.floor).then_some(EndReason::Expired)
    }

    /// Whether upkeep has ended the delivery as cancelled while an engine had it. One that has a row was asked for again since.
    fn was_cancelled(&self, delivery: Delivery) -> Result<bool, Fault> {
        if self.cancelled.get(&delivery.endpoint).is_none_or(|before| *before <= delivery.message) {
            return Ok(false);
        }
        Ok(waiting_room::find(self.connection, delivery)?.is_none()
            && cancelling::was_cancelled(self.connection, delivery)?)
    }

    /// How a reader has ended the delivery while an engine had it in flight: its endpoint was push until a moment ago.
    fn ended_by_reader(&self, delivery: Delivery) -> Result<Option<AfterAttempt>, Fault> {
        if !self.settled_before.contains(&delivery.endpoint) {
            return Ok(None);
        }
        consumer::ended_by_reader(self.connection, delivery)
    }

    fn settling(&mut self) -> Settling<'_> {
        Settling { connection: self.connection, counts: self.counts, meta: self.meta, upkeep_from: self.upkeep_from }
    }

    fn settle(&mut self, settled: &Settled) -> Result<(), Fault> {
        if self.settling().settle(settled)? {
            self.settled.push(settled.delivery.endpoint);
        }
        Ok(())
    }

    /// Sets a consumer's place, and ends what it has read past: some at once, the rest in slices.
    fn put_consumer(&mut self, consumer: &Consumer, read: bool) -> Result<(), Fault> {
        let endpoint = consumer.endpoint;
        if self.before.contains(&endpoint) || self.deleted.contains(&endpoint) {
            return Ok(());
        }
        let through = consumer::put(self.connection, consumer, read)?;
        self.read.push((endpoint, through));
        if !read {
            return Ok(());
        }
        self.settled.push(endpoint);
        let (before, at) = (consumer.cursor.next(), consumer.updated_at);
        if self.settling().read_past(endpoint, before, &consumer.name, at, READ_AT_ONCE)? {
            self.cancelling.push(cancelling::put(self.connection, endpoint, before, at, Some(&consumer.name))?);
        }
        Ok(())
    }

    /// Whether a fresh delivery was read before its row came.
    fn was_read(&self, waiting: &Waiting) -> bool {
        let in_this_batch = self.read.iter().rfind(|(endpoint, _)| *endpoint == waiting.delivery.endpoint);
        match in_this_batch {
            Some(read) => consumer::was_read(&HashMap::from([*read]), waiting),
            None => !self.read_before.is_empty() && consumer::was_read(self.read_before, waiting),
        }
    }

    fn put(
        &mut self,
        delivery: Delivery,
        due: Timestamp,
        next: AttemptNumber,
        trigger: Trigger,
    ) -> Result<bool, Fault> {
        waiting_room::put(self.connection, self.counts, &Waiting { delivery, due, next, trigger })
    }

    fn change(&mut self, change: &Change) -> Result<(), Fault> {
        let connection = self.connection;
        let sealer = self.settings.sealer.as_deref();
        match change {
            Change::PutApplication(application) => {
                self.meta.last_key = self.meta.last_key.max(application.key.0);
                configuration::put_application(connection, application)
            }
            Change::DeleteApplication(key) => {
                let endpoints = configuration::delete_application(connection, *key)?;
                self.delete_endpoints(endpoints)
            }
            Change::PutEndpoint(endpoint) => {
                self.meta.last_key = self.meta.last_key.max(endpoint.key.0);
                let gone = self.before.contains(&endpoint.key) || self.deleted.contains(&endpoint.key);
                // Its key is never used again; a late change finds nothing to change.
                if gone { Ok(()) } else { configuration::put_endpoint(connection, sealer, endpoint) }
            }
            Change::SwitchEndpoint { endpoint, enabled } => {
                configuration::switch_endpoint(connection, *endpoint, *enabled)
            }
            Change::DeleteEndpoint(key) => self.delete_endpoints([*key]),
            Change::PutHealth { endpoint, failing_since, disable } => {
                configuration::put_health(connection, *endpoint, *failing_since, *disable)
            }
            Change::PutEventType(event_type) => configuration::put_event_type(connection, event_type),
            Change::DeleteEventType(organisation, name) => {
                configuration::delete_event_type(connection, organisation, name)
            }
            Change::PutSource(source) => {
                self.meta.last_key = self.meta.last_key.max(source.key.0);
                source::put(connection, sealer, source)
            }
            Change::DeleteSource(key) => source::delete(connection, *key),
            Change::KeepRequest(request) => source::keep(connection, request),
            Change::PutSourceCursor(cursor) => source::put_cursor(connection, cursor),
            Change::PutEndedSubscription(ended) => {
                self.meta.last_key = self.meta.last_key.max(ended.key.0);
                subscription::put(connection, sealer, ended)
            }
            Change::DeleteEndedSubscription(key) => subscription::delete(connection, *key),
            Change::Token(change) => tokens::change(connection, change),
            Change::KeepAnswer(answer) => keys::keep_answer(connection, answer),
            Change::Wait { waiting, owed } => self.wait(waiting, *owed),
            Change::PutConsumer { consumer, read } => self.put_consumer(consumer, *read),
            Change::DeleteConsumer { endpoint, name } => {
                let through = consumer::delete(connection, *endpoint, name)?;
                self.read.push((*endpoint, through));
                Ok(())
            }
            Change::Settle(settled) => settled.iter().try_for_each(|settled| self.settle(settled)),
            Change::PutTask(task) => task::put(connection, task),
            Change::CancelTask { task, at } => task::cancel(connection, *task, *at),
            Change::Broadcasted(page) => task::broadcasted(connection, page),
            Change::TaskTold(task) => task::told(connection, *task),
            Change::CancelWaiting { endpoint, before, at } => self.cancel_waiting(*endpoint, *before, *at),
            Change::ExpungePayload(sequence) => message_log::expunge(connection, *sequence),
            Change::ExpungeResponse(id) => attempt_log::expunge(connection, *id),
        }
    }

    /// What is fresh and to these endpoints goes into the waiting room, so that upkeep finds all of it in one place. The logs are read
    /// once, however many endpoints there are.
    fn delete_endpoints(&mut self, endpoints: impl IntoIterator<Item = EndpointKey>) -> Result<(), Fault> {
        let there = |endpoint: &EndpointKey| !self.before.contains(endpoint) && !self.deleted.contains(endpoint);
        let endpoints: BTreeSet<EndpointKey> = endpoints.into_iter().filter(there).collect();
        if endpoints.is_empty() {
            return Ok(());
        }
        for endpoint in &endpoints {
            configuration::delete_endpoint(self.connection, *endpoint)?;
        }
        for left in recovery::unfinished(self.connection, self.meta.watermark, Some(&endpoints))? {
            for endpoint in left.fan_out {
                let delivery = Delivery { endpoint, message: left.message };
                self.put(delivery, left.message.time(), 1, Trigger::Scheduled)?;
            }
        }
        self.deleted.extend(endpoints);
        Ok(())
    }

    fn wait(&mut self, waiting: &Waiting, owed: bool) -> Result<(), Fault> {
        // What has ended behind the engine's back stays ended.
        if self.gone(waiting.delivery).is_some() {
            waiting_room::move_to(self.connection, waiting)?;
            return Ok(());
        }
        if !owed && self.was_cancelled(waiting.delivery)? {
            return Ok(());
        }
        let new = waiting_room::put(self.connection, self.counts, waiting)?;
        if owed {
            index::note_added_delivery(self.connection, waiting.delivery)?;
            // One that waits already is owed already.
            self.meta.ledger.matched += u64::from(new);
        } else if self.was_read(waiting) {
            self.settle(&Settled {
                delivery: waiting.delivery,
                number: waiting.next,
                at: waiting.due,
                outcome: crate::told(waiting.due, Ok(200), "read by a consumer, at once".to_owned()),
                after: AfterAttempt::Delivered,
            })?;
        }
        Ok(())
    }

    /// What is fresh goes into the waiting room, so that upkeep finds all of it in one place.
    fn cancel_waiting(&mut self, endpoint: EndpointKey, before: Sequence, at: Timestamp) -> Result<(), Fault> {
        if self.before.contains(&endpoint) || self.deleted.contains(&endpoint) {
            return Ok(());
        }
        let only = BTreeSet::from([endpoint]);
        for left in recovery::unfinished(self.connection, self.meta.watermark, Some(&only))? {
            if left.message < before {
                let delivery = Delivery { endpoint, message: left.message };
                self.put(delivery, left.message.time(), 1, Trigger::Scheduled)?;
            }
        }
        self.cancelling.push(cancelling::put(self.connection, endpoint, before, at, None)?);
        Ok(())
    }
}
