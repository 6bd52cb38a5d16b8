//! A store that fails on purpose: the n-th write answers as told, everything else goes through.

use crate::{
    Advanced, AttemptQuery, Batch, CommitError, Consumer, DedupeEntry, DeliveryOfEndpoint, DeliveryOfMessage,
    KeptAnswer, Lag, Lease, LogPage, LogQuery, Matching, MessageQuery, Page, ReadError, Recovered, Span, Store, Task,
    TaskQuery, WaitingHead,
};
use bellwire_model::{
    ApplicationKey, Attempt, AttemptId, DedupeKey, Delivery, EndpointId, EndpointKey, KeptRequest, Ledger, Message,
    Partition, Sequence, SourceCursor, SourceKey, TaskId, Timestamp, Waiting,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// What a commit is to meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Injected {
    /// The disk is full; nothing is kept.
    Full,
    /// Busy; nothing is kept.
    Busy,
    /// Unknown, and the batch was kept.
    UnknownKept,
    /// Unknown, and the batch was lost. From then on, as after the other, every commit answers unknown.
    UnknownLost,
}

/// Wraps a store and fails as planned.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    commits: u64,
    faults: BTreeMap<u64, Injected>,
    failed: bool,
}

impl FaultyStore {
    /// Wraps `inner`; nothing is planned yet.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        FaultyStore { inner, plan: Mutex::default() }
    }

    /// Lets the `n`-th commit from now on, counted from 1, meet `fault`.
    pub fn inject(&self, n: u64, fault: Injected) {
        let mut plan = self.plan.lock();
        let at = plan.commits + n;
        plan.faults.insert(at, fault);
    }

    /// How many commits were asked for.
    pub fn commits(&self) -> u64 {
        self.plan.lock().commits
    }
}

impl Store for FaultyStore {
    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        let fault = {
            let mut plan = self.plan.lock();
            plan.commits += 1;
            if plan.failed {
                return Err(CommitError::Unknown("an earlier commit failed on purpose".to_owned()));
            }
            let at = plan.commits;
            let fault = plan.faults.remove(&at);
            plan.failed = matches!(fault, Some(Injected::UnknownKept | Injected::UnknownLost));
            fault
        };
        match fault {
            None => self.inner.commit(batch),
            Some(Injected::Full) => Err(CommitError::Full),
            Some(Injected::Busy) => Err(CommitError::Busy("on purpose".to_owned())),
            Some(Injected::UnknownLost) => Err(CommitError::Unknown("on purpose".to_owned())),
            Some(Injected::UnknownKept) => {
                self.inner.commit(batch)?;
                Err(CommitError::Unknown("on purpose".to_owned()))
            }
        }
    }

    fn lease(
        &self,
        holder: &str,
        partitions: &[Partition],
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Vec<Lease>, CommitError> {
        self.inner.lease(holder, partitions, now, ttl)
    }

    fn recover(&self) -> Result<Recovered, ReadError> {
        self.inner.recover()
    }

    fn lease_due(
        &self,
        endpoint: EndpointKey,
        fifo: bool,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Waiting, Message)>, ReadError> {
        self.inner.lease_due(endpoint, fifo, until, limit)
    }

    fn next_due(&self, endpoint: EndpointKey, fifo: bool) -> Result<Option<WaitingHead>, ReadError> {
        self.inner.next_due(endpoint, fifo)
    }

    fn oldest_waiting(&self) -> Result<Option<Sequence>, ReadError> {
        self.inner.oldest_waiting()
    }

    fn message(&self, sequence: Sequence, with_payload: bool) -> Result<Option<Message>, ReadError> {
        self.inner.message(sequence, with_payload)
    }

    fn find_key(&self, key: DedupeKey) -> Result<Option<DedupeEntry>, ReadError> {
        self.inner.find_key(key)
    }

    fn find_answer(&self, key: DedupeKey, now: Timestamp) -> Result<Option<KeptAnswer>, ReadError> {
        self.inner.find_answer(key, now)
    }

    fn kept_requests(
        &self,
        source: SourceKey,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Page<KeptRequest>, ReadError> {
        self.inner.kept_requests(source, before, limit)
    }

    fn source_cursor(&self, source: SourceKey) -> Result<Option<SourceCursor>, ReadError> {
        self.inner.source_cursor(source)
    }

    fn messages(&self, application: ApplicationKey, query: &MessageQuery) -> Result<Page<Message>, ReadError> {
        self.inner.messages(application, query)
    }

    fn attempt(&self, id: AttemptId) -> Result<Option<Attempt>, ReadError> {
        self.inner.attempt(id)
    }

    fn deleted_endpoint(&self, endpoint: EndpointKey) -> Result<Option<EndpointId>, ReadError> {
        self.inner.deleted_endpoint(endpoint)
    }

    fn attempts_of_message(&self, message: Sequence, query: &AttemptQuery) -> Result<Page<Attempt>, ReadError> {
        self.inner.attempts_of_message(message, query)
    }

    fn attempts_of_endpoint(&self, endpoint: EndpointKey, query: &AttemptQuery) -> Result<Page<Attempt>, ReadError> {
        self.inner.attempts_of_endpoint(endpoint, query)
    }

    fn deliveries_of_message(&self, message: Sequence) -> Result<Vec<DeliveryOfMessage>, ReadError> {
        self.inner.deliveries_of_message(message)
    }

    fn deliveries_of_endpoint(
        &self,
        endpoint: EndpointKey,
        query: &MessageQuery,
    ) -> Result<Page<DeliveryOfEndpoint>, ReadError> {
        self.inner.deliveries_of_endpoint(endpoint, query)
    }

    fn delivery(&self, delivery: Delivery) -> Result<Option<DeliveryOfMessage>, ReadError> {
        self.inner.delivery(delivery)
    }

    fn count_deliveries(&self, endpoint: EndpointKey, span: Span) -> Result<Ledger, ReadError> {
        self.inner.count_deliveries(endpoint, span)
    }

    fn log(&self, endpoint: EndpointKey, query: &LogQuery) -> Result<LogPage, ReadError> {
        self.inner.log(endpoint, query)
    }

    fn lag(&self, endpoint: EndpointKey, after: Sequence) -> Result<Lag, ReadError> {
        self.inner.lag(endpoint, after)
    }

    fn lease_beside(
        &self,
        endpoint: EndpointKey,
        in_order: bool,
        until: Timestamp,
        beside: &HashSet<Sequence>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Waiting, Message)>, ReadError> {
        self.inner.lease_beside(endpoint, in_order, until, beside, limit, bytes_max)
    }

    fn consumer(&self, endpoint: EndpointKey, name: &str) -> Result<Option<Consumer>, ReadError> {
        self.inner.consumer(endpoint, name)
    }

    fn consumers(&self, endpoint: EndpointKey) -> Result<Vec<Consumer>, ReadError> {
        self.inner.consumers(endpoint)
    }

    fn ledger(&self) -> Result<Ledger, ReadError> {
        self.inner.ledger()
    }

    fn upkeep(&self, now: Timestamp) -> Result<bool, CommitError> {
        self.inner.upkeep(now)
    }

    fn upkeep_owed(&self) -> bool {
        self.inner.upkeep_owed()
    }

    fn has_tasks(&self) -> bool {
        self.inner.has_tasks()
    }

    fn advance_task(&self, now: Timestamp, matching: &dyn Matching) -> Result<Option<Advanced>, CommitError> {
        self.inner.advance_task(now, matching)
    }

    fn task(&self, id: TaskId) -> Result<Option<Task>, ReadError> {
        self.inner.task(id)
    }

    fn tasks(&self, query: &TaskQuery) -> Result<Page<Task>, ReadError> {
        self.inner.tasks(query)
    }

    fn bytes_on_disk(&self) -> Option<u64> {
        self.inner.bytes_on_disk()
    }
}
