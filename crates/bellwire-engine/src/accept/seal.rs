//! Batches: what came in is sealed, and its commit makes it durable or gives it back.

use super::{
    BatchNumber, CommittedShard, Intake, Open, RECORDS_PER_BATCH_MAX, Record, Sealed, ShardIndex, Told, told_accepted,
};
use crate::operational::Operational;
use crate::planted::Bug;
use bellwire_model::{ApplicationKey, AttemptId, Delivery, Sequence, SequenceSource, Timestamp, Trigger, Waiting};
use bellwire_store::{Accepted, Batch, Change};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Out {
    number: BatchNumber,
    batch: Arc<Batch>,
    /// Of messages and changes of doors, to be given back to the bounds.
    count: usize,
    bytes: usize,
    decided: Decided,
}

/// Which parts of a batch come from engines, beside its attempts.
#[derive(Debug, Default)]
struct Decided {
    /// The first of the batch's changes: from which shard each comes, and what is told of it.
    changes: Vec<(ShardIndex, Told)>,
    /// What is told of the batch's attempts, by their place.
    attempts: Vec<(usize, Box<Operational>)>,
}

impl Intake {
    /// Whether there is something to seal.
    pub fn is_empty(&self) -> bool {
        let open = &self.open[0];
        open.accepted.is_empty() && open.changes.is_empty() && self.records.is_empty()
    }

    /// Seals what has come in, up to the bounds of a batch; `None` if there is nothing, or a batch is out.
    pub fn seal(&mut self) -> Option<Sealed> {
        if self.out.is_some() || self.is_empty() {
            return None;
        }
        let number = self.next;
        let open = self.open.pop_front()?;
        self.next += 1;
        if self.open.is_empty() {
            self.open.push_back(Open::default());
        }
        let count = open.accepted.len() + open.changes.len();
        let bytes = open.bytes;
        let mut batch = std::mem::take(&mut self.spare);
        let emptied = std::mem::replace(&mut batch.accepted, open.accepted);
        // A spill-over batch is rare; usually the emptied vectors serve the next batch.
        let next = &mut self.open[0];
        if next.accepted.capacity() == 0 {
            next.accepted = emptied;
        }
        let decided = self.seal_records(&mut batch, open.attempts_after);
        batch.changes.extend(open.changes);
        batch.fences.clone_from(&self.fences);
        let watermark = self.watermark_of(&batch);
        batch.watermark = (watermark > self.watermark).then_some(watermark);
        let batch = Arc::new(batch);
        self.out = Some(Out { number, batch: Arc::clone(&batch), count, bytes, decided });
        Some(Sealed { number, batch, awaited: count })
    }

    /// The sealed batch is durable: what each engine is to be told, by shard. Tell the engines before the doors that wait for this batch,
    /// and before the engines are told of the batch's changes of configuration.
    pub fn committed(&mut self) -> Vec<CommittedShard> {
        let mut shards: Vec<CommittedShard> = Vec::new();
        shards.resize_with(self.shards.len(), CommittedShard::default);
        let Some(out) = self.out.take() else { return shards };
        self.durable = out.number;
        self.give_back(&out);
        self.forget_old_keys();
        let batch = &*out.batch;
        self.watermark = batch.watermark.unwrap_or(self.watermark);
        let newest = batch.attempts.last().map(|a| a.id.sequence());
        self.through = newest.or(batch.accepted.last().map(|a| a.message.sequence())).unwrap_or(self.through);
        for accepted in &batch.accepted {
            let shard = self.shard_of(accepted.message.application);
            self.shards[shard].handed = accepted.message.sequence();
            hand_over(accepted, &mut shards[shard]);
        }
        for attempt in &batch.attempts {
            shards[self.shard_of(attempt.application)].recorded.push((attempt.delivery, attempt.after));
        }
        for (change, (shard, _)) in batch.changes.iter().zip(&out.decided.changes) {
            match change {
                Change::Wait { waiting, .. } => shards[*shard].waits.push(*waiting),
                Change::PutHealth { endpoint, disable: Some(by), .. } => shards[*shard].disabled.push((*endpoint, *by)),
                _ => {}
            }
        }
        for change in &batch.changes[out.decided.changes.len()..] {
            if let Change::Wait { waiting, .. } = change {
                shards.iter_mut().for_each(|s| s.waits.push(*waiting));
            }
        }
        shards.iter_mut().for_each(|s| s.through = self.through);
        self.recycle(out.batch);
        shards
    }

    /// The sealed batch was not kept. Its messages and changes are refused (their waiters are told by the caller);
    /// what engines decided goes into the next batch, first and in order.
    pub fn failed(&mut self) {
        let Some(out) = self.out.take() else { return };
        self.give_back(&out);
        let first = self.keys_by_batch.partition_point(|(batch, _)| *batch < out.number);
        let end = self.keys_by_batch.partition_point(|(batch, _)| *batch <= out.number);
        for (_, key) in self.keys_by_batch.drain(first..end) {
            self.keys.remove(&key);
        }
        if self.planted.has(Bug::RecordsDropped) {
            return;
        }
        let Decided { changes: mut told_of_changes, attempts: mut told_of_attempts } = out.decided;
        if self.planted.has(Bug::OperationalLost) {
            told_of_attempts.clear();
        }
        let decided = &out.batch.changes[..told_of_changes.len()];
        for change in decided.iter().rev() {
            let Some((shard, told)) = told_of_changes.pop() else { break };
            match change {
                Change::Wait { waiting, .. } => self.records.push_front(Record::Wait(shard, *waiting)),
                Change::PutHealth { endpoint, failing_since, disable } => {
                    self.records.push_front(Record::Health(shard, *endpoint, *failing_since, *disable, told));
                }
                _ => {}
            }
        }
        for (place, attempt) in out.batch.attempts.iter().enumerate().rev() {
            let told = told_of_attempts.pop_if(|(of, _)| *of == place).map(|(_, told)| told);
            self.records.push_front(Record::Attempt(attempt.clone(), told));
        }
        self.recycle(out.batch);
    }

    /// Moves records into `batch`, and the operational messages that follow from them.
    fn seal_records(&mut self, batch: &mut Batch, after: Option<Sequence>) -> Decided {
        let mut decided = Decided::default();
        let mut waits: HashMap<Delivery, usize> = HashMap::new();
        let mut overtaken = Vec::new();
        // Each takes a sequence, and so does what is told of it.
        let mut room = RECORDS_PER_BATCH_MAX;
        while room >= 2 {
            let Some(record) = self.records.pop_front() else { break };
            room -= 1;
            match record {
                Record::Attempt(attempt, told) => {
                    if !waits.is_empty()
                        && let Some(at) = waits.remove(&attempt.delivery)
                    {
                        overtaken.push(at);
                    }
                    room -= usize::from(told.is_some());
                    decided.attempts.extend(told.map(|told| (batch.attempts.len(), told)));
                    batch.attempts.push(attempt);
                }
                Record::Wait(shard, waiting) => {
                    waits.insert(waiting.delivery, batch.changes.len());
                    batch.changes.push(Change::Wait { waiting, owed: false });
                    decided.changes.push((shard, None));
                }
                Record::Health(shard, endpoint, failing_since, disable, told) => {
                    room -= usize::from(told.is_some());
                    batch.changes.push(Change::PutHealth { endpoint, failing_since, disable });
                    decided.changes.push((shard, told));
                }
                Record::Watermark(shard, watermark) => self.raise(shard, watermark),
            }
        }
        while let Some(Record::Watermark(shard, watermark)) = self.records.front() {
            let (shard, watermark) = (*shard, *watermark);
            self.raise(shard, watermark);
            self.records.pop_front();
        }
        // Changes are written after attempts, so a wait whose attempt is in the same batch would bring back what has ended.
        if !overtaken.is_empty() && !self.planted.has(Bug::WaitOutlivesAttempt) {
            let mut stays = vec![true; decided.changes.len()];
            overtaken.into_iter().for_each(|at| stays[at] = false);
            let mut stay = stays.iter();
            batch.changes.retain(|_| *stay.next().unwrap_or(&true));
            let mut stay = stays.iter();
            decided.changes.retain(|_| *stay.next().unwrap_or(&true));
        }
        self.number(batch, &mut decided, after);
        decided
    }

    /// Gives sequences and ids: first to the operational messages, whose place is before the attempts, then to these.
    fn number(&mut self, batch: &mut Batch, decided: &mut Decided, after: Option<Sequence>) {
        let now = self.now;
        let mut own = after.map(SequenceSource::after);
        let mut next = || match &mut own {
            // The block that was left free begins right after the batch's messages: time must not lead out of it.
            Some(source) => source.next(Timestamp::EPOCH),
            None => self.source.next(now),
        };
        let told_of_changes: Vec<_> =
            decided.changes.iter().filter(|(_, told)| told.is_some()).map(|_| next()).collect();
        let told_of_attempts: Vec<_> = decided.attempts.iter().map(|_| next()).collect();
        for attempt in &mut batch.attempts {
            attempt.id = AttemptId::new(next(), &mut self.rng);
        }
        let of_changes = decided.changes.iter_mut().filter_map(|(_, told)| told.as_mut());
        for (told, sequence) in of_changes.zip(told_of_changes) {
            batch.accepted.push(told_accepted(told, sequence, None, &mut self.rng));
        }
        for ((place, told), sequence) in decided.attempts.iter_mut().zip(told_of_attempts) {
            let attempt = Some(batch.attempts[*place].id);
            batch.accepted.push(told_accepted(told, sequence, attempt, &mut self.rng));
        }
    }

    pub(super) fn raise(&mut self, shard: ShardIndex, watermark: Sequence) {
        if let Some(shard) = self.shards.get_mut(shard) {
            shard.watermark = shard.watermark.max(watermark);
        }
    }

    fn watermark_of(&self, batch: &Batch) -> Sequence {
        let queued = self.open.iter().find_map(|open| open.accepted.first());
        let unhanded = batch.accepted.first().or(queued).map(|a| a.message.sequence());
        let everything = self.source.last().next();
        let unhanded = if self.planted.has(Bug::WatermarkAhead) { everything } else { unhanded.unwrap_or(everything) };
        let held = self.shards.iter().filter(|s| s.watermark <= s.handed).map(|s| s.watermark);
        held.fold(unhanded, Sequence::min)
    }

    fn shard_of(&self, application: ApplicationKey) -> ShardIndex {
        application.partition().shard(self.shards.len())
    }

    fn give_back(&mut self, out: &Out) {
        self.queued -= out.count;
        self.queued_bytes -= out.bytes;
    }

    /// Keeps the vectors if the committing thread has let go of the batch.
    fn recycle(&mut self, batch: Arc<Batch>) {
        if let Ok(mut batch) = Arc::try_unwrap(batch) {
            batch.accepted.clear();
            batch.attempts.clear();
            batch.changes.clear();
            batch.watermark = None;
            self.spare = batch;
        }
    }
}

fn hand_over(accepted: &Accepted, shard: &mut CommittedShard) {
    let message = &accepted.message;
    match message.deliver_at {
        // The store made the rows.
        Some(due) => shard.waits.extend(accepted.fan_out.iter().map(|endpoint| Waiting {
            delivery: Delivery { endpoint: *endpoint, message: message.sequence() },
            due,
            next: 1,
            trigger: Trigger::Scheduled,
        })),
        None if accepted.fan_out.is_empty() => {}
        None => {
            shard.fresh.push(crate::engine::Fresh { message: Arc::clone(message), fan_out: accepted.fan_out.clone() })
        }
    }
}
