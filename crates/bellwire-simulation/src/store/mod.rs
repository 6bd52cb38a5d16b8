//! A store in memory: as simple as it can be, so that it can be believed, and quick. What a commit wrote is durable; a
//! crash before the commit is a commit that was never made. Passes the conformance suite.

mod state;

pub(crate) use state::State;

use bellwire_model::{
    ApplicationKey, Attempt, AttemptId, AttemptNumber, DedupeKey, Delivery, DeliveryState, EndReason, Endpoint,
    EndpointId, EndpointKey, FanOut, KeptRequest, Ledger, Message, Partition, Sequence, SourceCursor, SourceKey,
    TaskId, Timestamp, Waiting,
};
use bellwire_store::{
    Advanced, AttemptQuery, Batch, CommitError, Consumer, DedupeEntry, DeliveryOfEndpoint, DeliveryOfMessage, Fence,
    Found, KeptAnswer, LAG_COUNTED_MAX, LOG_LOOKED_MAX, LOG_MESSAGES_MAX, Lag, Lease, LogPage, LogQuery, Matching,
    MessageQuery, Page, ReadError, Recovered, Span, StatusFilter, Store, Task, TaskQuery, Unfinished, WaitingHead,
    Work,
};
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Mistakes of a store, for the simulator to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreBug {
    /// A row stays in the waiting room when its delivery ends.
    RowStays,
    /// A retry takes its row away instead of moving it.
    RetryLosesRow,
    /// Recovery begins one message above the watermark.
    RecoverySkips,
    /// A lease of a FIFO endpoint comes in order of due times.
    FifoByDue,
    /// Keys of messages are not kept.
    KeysLost,
    /// An edit writes what it read of an endpoint's state over what was found out since.
    EditUndoesDisable,
    /// A slice of a task leaves its cursor on the last message that it touched.
    CursorStays,
    /// A slice of a task moves its cursor one message too far.
    CursorSkips,
    /// A page of a log leads past a message that it does not have.
    LogSkips,
    /// What is being cancelled is leased until a slice has ended it.
    CancelledLeased,
}

impl StoreBug {
    /// All of them.
    pub const ALL: [StoreBug; 10] = [
        StoreBug::RowStays,
        StoreBug::RetryLosesRow,
        StoreBug::RecoverySkips,
        StoreBug::FifoByDue,
        StoreBug::KeysLost,
        StoreBug::EditUndoesDisable,
        StoreBug::CursorStays,
        StoreBug::CursorSkips,
        StoreBug::LogSkips,
        StoreBug::CancelledLeased,
    ];
}

/// Rows that are ended at a time.
pub(crate) const SLICE: usize = 8;
/// Messages that a slice of a task looks at.
pub(crate) const TASK_SLICE: usize = 5;

/// The store.
#[derive(Debug, Default)]
pub struct SimStore {
    state: Mutex<State>,
    bug: Option<StoreBug>,
}

impl SimStore {
    /// Empty, with a bug if one is given.
    pub fn new(bug: Option<StoreBug>) -> Self {
        SimStore { state: Mutex::default(), bug }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn has(&self, bug: StoreBug) -> bool {
        self.bug == Some(bug)
    }

    /// Where a delivery stands.
    pub fn stands(&self, delivery: Delivery) -> DeliveryState {
        self.state().stands(delivery)
    }

    /// Deliveries that have neither ended nor a row, found without the watermark.
    pub fn unfinished_by_full_scan(&self) -> Vec<Delivery> {
        self.state().fresh(Sequence::ZERO)
    }

    /// All rows of the waiting room.
    pub fn rows(&self) -> Vec<Waiting> {
        self.state().waiting.values().copied().collect()
    }

    /// The deliveries of an endpoint, of messages in `span`, with where each stands.
    pub fn deliveries(&self, endpoint: EndpointKey, span: Span) -> Vec<(Delivery, DeliveryState)> {
        let state = self.state();
        state.deliveries_of(endpoint, span).into_iter().map(|delivery| (delivery, state.stands(delivery))).collect()
    }

    /// All messages with their fan-out.
    pub fn all_messages(&self) -> Vec<(Arc<Message>, FanOut)> {
        self.state().messages.values().cloned().collect()
    }

    /// An endpoint.
    pub fn endpoint(&self, key: EndpointKey) -> Option<Arc<Endpoint>> {
        self.state().endpoints.get(&key).cloned()
    }

    /// The newest watermark and the newest sequence.
    pub fn progress(&self) -> (Sequence, Sequence) {
        let state = self.state();
        (state.watermark, state.newest)
    }
}

pub(crate) fn carries(message: &Message, event_types: &[String], channel: Option<&str>, tag: Option<&str>) -> bool {
    (event_types.is_empty() || event_types.contains(&message.event_type))
        && channel.is_none_or(|channel| message.channels.iter().any(|c| c == channel))
        && tag.is_none_or(|tag| message.tags.iter().any(|t| t == tag))
}

pub(crate) fn stands_as(status: StatusFilter, state: DeliveryState, attempts: AttemptNumber) -> bool {
    let cancelled = match state {
        DeliveryState::Ended(reason) => !matches!(reason, EndReason::Exhausted | EndReason::ResendFailed),
        _ => false,
    };
    match (status, state) {
        (StatusFilter::Success, DeliveryState::Delivered) => true,
        (StatusFilter::Pending, DeliveryState::Fresh | DeliveryState::Waiting(_)) => attempts == 0,
        (StatusFilter::Sending, DeliveryState::Fresh | DeliveryState::Waiting(_)) => attempts > 0,
        (StatusFilter::Fail, DeliveryState::Ended(_)) => !cancelled,
        (StatusFilter::Canceled, DeliveryState::Ended(_)) => cancelled,
        (StatusFilter::FailOrCanceled, DeliveryState::Ended(_)) => true,
        _ => false,
    }
}

fn page<T, U>(
    found: impl DoubleEndedIterator<Item = T>,
    ascending: bool,
    limit: usize,
    make: impl Fn(T) -> U,
) -> Page<U> {
    let mut items: Vec<U> = Vec::new();
    let mut rest: Box<dyn Iterator<Item = T>> = if ascending { Box::new(found) } else { Box::new(found.rev()) };
    for item in rest.by_ref().take(limit) {
        items.push(make(item));
    }
    let done = rest.next().is_none();
    Page { items, done }
}

fn without_payload(message: &Message, with_payload: bool) -> Message {
    let payload = message.payload.clone().filter(|_| with_payload);
    Message { payload, ..message.clone() }
}

impl Store for SimStore {
    fn lease(
        &self,
        holder: &str,
        partitions: &[Partition],
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Vec<Lease>, CommitError> {
        let mut state = self.state();
        let mut got = Vec::new();
        for partition in partitions {
            let held = state.leases.get(&partition.0);
            let fence = match held {
                Some((own, fence, _)) if own == holder => *fence,
                Some((_, _, until)) if *until > now => continue,
                other => Fence(other.map_or(0, |(_, fence, _)| fence.0) + 1),
            };
            let until = now.plus(ttl);
            state.leases.insert(partition.0, (holder.to_owned(), fence, until));
            got.push(Lease { partition: *partition, fence, until });
        }
        Ok(got)
    }

    fn commit(&self, batch: &Batch) -> Result<(), CommitError> {
        let mut state = self.state();
        for (partition, fence) in &batch.fences {
            if state.leases.get(&partition.0).is_some_and(|(_, held, _)| held > fence) {
                return Err(CommitError::LeaseLost { partition: *partition });
            }
        }
        for accepted in &batch.accepted {
            state.accept(accepted, !self.has(StoreBug::KeysLost));
        }
        for attempt in &batch.attempts {
            state.record(attempt, self.bug);
        }
        batch.changes.iter().for_each(|change| state.change(change, self.bug));
        state.watermark = state.watermark.max(batch.watermark.unwrap_or_default());
        Ok(())
    }

    fn recover(&self) -> Result<Recovered, ReadError> {
        let mut state = self.state();
        state.take_up_tasks();
        let mut from = state.watermark;
        if self.has(StoreBug::RecoverySkips) {
            from = from.next();
        }
        let mut unfinished: Vec<Unfinished> = Vec::new();
        for delivery in state.fresh(from).into_iter().filter(|d| !state.deleted.contains(&d.endpoint)) {
            match unfinished.last_mut().filter(|u| u.message.sequence() == delivery.message) {
                Some(last) => last.fan_out.push(delivery.endpoint),
                None => unfinished.push(Unfinished {
                    message: Arc::clone(&state.messages[&delivery.message].0),
                    fan_out: [delivery.endpoint].into_iter().collect(),
                }),
            }
        }
        let mut waiting: Vec<(EndpointKey, WaitingHead)> = Vec::new();
        for (endpoint, due, _) in &state.by_due {
            if !state.deleted.contains(endpoint) && waiting.last().is_none_or(|(last, _)| last != endpoint) {
                waiting.push((*endpoint, WaitingHead { due: *due }));
            }
        }
        Ok(Recovered {
            newest: state
                .newest
                .max(state.upkeep_newest)
                .max(state.tasks.keys().next_back().copied().unwrap_or_default()),
            last_key: state.last_key,
            applications: state.applications.values().cloned().collect(),
            endpoints: state.endpoints.values().cloned().collect(),
            event_types: state.event_types.values().cloned().collect(),
            sources: state.sources.values().cloned().collect(),
            ended_subscriptions: state.ended_subscriptions.values().cloned().collect(),
            tokens: state.tokens.clone(),
            unfinished,
            waiting,
            ledger: state.ledger,
        })
    }

    fn lease_due(
        &self,
        endpoint: EndpointKey,
        fifo: bool,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Waiting, Message)>, ReadError> {
        let state = self.state();
        let with_message = |waiting: Waiting| {
            let (message, _) = state.messages.get(&waiting.delivery.message)?;
            Some((waiting, Message::clone(message)))
        };
        let first = Delivery { endpoint, message: Sequence::ZERO };
        let last = Delivery { endpoint, message: Sequence::MAX };
        if state.deleted.contains(&endpoint) {
            return Ok(Vec::new());
        }
        let leased = |row: &Waiting| self.has(StoreBug::CancelledLeased) || !state.is_cancelling(row);
        if fifo && !self.has(StoreBug::FifoByDue) {
            let rows = state.waiting.range(first..=last).map(|(_, waiting)| *waiting).filter(leased);
            return Ok(rows.filter_map(with_message).take(limit).collect());
        }
        let until = if fifo { Timestamp::FAR_FUTURE } else { until };
        let from = (endpoint, Timestamp::from_micros(i64::MIN), Sequence::ZERO);
        let due = state.by_due.range(from..=(endpoint, until, Sequence::MAX));
        let rows = due.filter_map(|(_, _, message)| state.waiting.get(&Delivery { endpoint, message: *message }));
        Ok(rows.copied().filter(leased).filter_map(with_message).take(limit).collect())
    }

    fn next_due(&self, endpoint: EndpointKey, fifo: bool) -> Result<Option<WaitingHead>, ReadError> {
        let state = self.state();
        if state.deleted.contains(&endpoint) {
            return Ok(None);
        }
        let leased = |row: &&Waiting| self.has(StoreBug::CancelledLeased) || !state.is_cancelling(row);
        let first = Delivery { endpoint, message: Sequence::ZERO };
        let last = Delivery { endpoint, message: Sequence::MAX };
        let head = if fifo {
            state.waiting.range(first..=last).map(|(_, waiting)| waiting).find(leased)
        } else {
            let from = (endpoint, Timestamp::from_micros(i64::MIN), Sequence::ZERO);
            let due = state.by_due.range(from..=(endpoint, Timestamp::FAR_FUTURE, Sequence::MAX));
            due.filter_map(|(_, _, message)| state.waiting.get(&Delivery { endpoint, message: *message })).find(leased)
        };
        Ok(head.map(|row| WaitingHead { due: row.due }))
    }

    fn oldest_waiting(&self) -> Result<Option<Sequence>, ReadError> {
        Ok(self.state().waiting.keys().map(|delivery| delivery.message).min())
    }

    fn message(&self, sequence: Sequence, with_payload: bool) -> Result<Option<Message>, ReadError> {
        let state = self.state();
        Ok(state.messages.get(&sequence).map(|(message, _)| without_payload(message, with_payload)))
    }

    fn find_key(&self, key: DedupeKey) -> Result<Option<DedupeEntry>, ReadError> {
        Ok(self.state().keys.get(&key).copied())
    }

    fn find_answer(&self, key: DedupeKey, now: Timestamp) -> Result<Option<KeptAnswer>, ReadError> {
        Ok(self.state().answers.get(&key).filter(|answer| answer.expires_at > now).cloned())
    }

    fn kept_requests(
        &self,
        source: SourceKey,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Page<KeptRequest>, ReadError> {
        let state = self.state();
        let before = before.unwrap_or(Sequence::MAX);
        let kept = state.requests.get(&source).into_iter().flatten().filter(|r| r.id.sequence() < before);
        let mut items: Vec<_> = kept.rev().take(limit + 1).cloned().collect();
        let done = items.len() <= limit;
        items.truncate(limit);
        Ok(Page { items, done })
    }

    fn source_cursor(&self, source: SourceKey) -> Result<Option<SourceCursor>, ReadError> {
        Ok(self.state().cursors.get(&source).cloned())
    }

    fn messages(&self, application: ApplicationKey, query: &MessageQuery) -> Result<Page<Message>, ReadError> {
        let state = self.state();
        let range = state.messages.range(query.span.first..=query.span.last.max(query.span.first));
        let passes = |message: &&Arc<Message>| {
            message.application == application
                && carries(message, &query.event_types, query.channel.as_deref(), query.tag.as_deref())
                && query.source.is_none_or(|source| message.received.as_ref().is_some_and(|r| r.source == source))
        };
        let found = range.map(|(_, (message, _))| message).filter(passes);
        Ok(page(found, query.ascending, query.limit, |m| without_payload(m, query.with_payload)))
    }

    fn attempt(&self, id: AttemptId) -> Result<Option<Attempt>, ReadError> {
        Ok(self.state().attempts.get(&id.sequence()).filter(|attempt| attempt.id == id).cloned())
    }

    fn deleted_endpoint(&self, _: EndpointKey) -> Result<Option<EndpointId>, ReadError> {
        Ok(None)
    }

    fn attempts_of_message(&self, message: Sequence, query: &AttemptQuery) -> Result<Page<Attempt>, ReadError> {
        self.state().attempts(|attempt| attempt.delivery.message == message, query)
    }

    fn attempts_of_endpoint(&self, endpoint: EndpointKey, query: &AttemptQuery) -> Result<Page<Attempt>, ReadError> {
        self.state().attempts(|attempt| attempt.delivery.endpoint == endpoint, query)
    }

    fn deliveries_of_message(&self, message: Sequence) -> Result<Vec<DeliveryOfMessage>, ReadError> {
        let state = self.state();
        let Some((_, fan_out)) = state.messages.get(&message) else { return Ok(Vec::new()) };
        let added = state.added.iter().filter(|delivery| delivery.message == message).map(|d| d.endpoint);
        let endpoints: BTreeSet<_> = fan_out.iter().copied().chain(added).collect();
        Ok(endpoints.into_iter().map(|endpoint| state.delivery(Delivery { endpoint, message })).collect())
    }

    fn deliveries_of_endpoint(
        &self,
        endpoint: EndpointKey,
        query: &MessageQuery,
    ) -> Result<Page<DeliveryOfEndpoint>, ReadError> {
        let state = self.state();
        let found = state.deliveries_of(endpoint, query.span).into_iter().filter_map(|delivery| {
            let DeliveryOfMessage { state: stands, attempts, .. } = state.delivery(delivery);
            let (message, _) = state.messages.get(&delivery.message)?;
            let passes = carries(message, &query.event_types, query.channel.as_deref(), query.tag.as_deref())
                && query.status.is_none_or(|status| stands_as(status, stands, attempts));
            let message = without_payload(message, query.with_payload);
            passes.then_some(DeliveryOfEndpoint { message, state: stands, attempts })
        });
        Ok(page(found, query.ascending, query.limit, |delivery| delivery))
    }

    fn delivery(&self, delivery: Delivery) -> Result<Option<DeliveryOfMessage>, ReadError> {
        let state = self.state();
        let matched = state.messages.get(&delivery.message).is_some_and(|(_, f)| f.contains(&delivery.endpoint));
        Ok((matched || state.added.contains(&delivery)).then(|| state.delivery(delivery)))
    }

    fn count_deliveries(&self, endpoint: EndpointKey, span: Span) -> Result<Ledger, ReadError> {
        let state = self.state();
        let mut ledger = Ledger::default();
        for delivery in state.deliveries_of(endpoint, span) {
            ledger.accepted += 1;
            ledger.matched += 1;
            match state.stands(delivery) {
                DeliveryState::Delivered => ledger.delivered += 1,
                DeliveryState::Ended(reason) => ledger.ended[usize::from(reason.code())] += 1,
                DeliveryState::Fresh | DeliveryState::Waiting(_) => ledger.pending += 1,
            }
        }
        Ok(ledger)
    }

    fn log(&self, endpoint: EndpointKey, query: &LogQuery) -> Result<LogPage, ReadError> {
        let state = self.state();
        let span = Span { first: query.after.next(), last: Sequence::MAX };
        let mut page = LogPage {
            messages: Vec::new(),
            through: query.after.max(state.newest),
            more: false,
            floor: Sequence::ZERO,
        };
        let (mut last, mut bytes) = (query.after, 0);
        for (looked, delivery) in state.deliveries_of(endpoint, span).into_iter().enumerate() {
            let full = page.messages.len() >= query.limit.min(LOG_MESSAGES_MAX) || bytes >= query.bytes_max;
            if full || looked >= LOG_LOOKED_MAX {
                (page.more, page.through) = (true, last);
                break;
            }
            last = delivery.message;
            let message = &state.messages[&delivery.message].0;
            let skipped = self.has(StoreBug::LogSkips) && looked + 1 == query.limit;
            if carries(message, &query.event_types, query.channel.as_deref(), None) && !skipped {
                bytes += message.content_bytes();
                page.messages.push(Message::clone(message));
            }
        }
        Ok(page)
    }

    fn lag(&self, endpoint: EndpointKey, after: Sequence) -> Result<Lag, ReadError> {
        let span = Span { first: after.next(), last: Sequence::MAX };
        let ahead = self.state().deliveries_of(endpoint, span);
        let events = (ahead.len() as u64).min(LAG_COUNTED_MAX);
        Ok(Lag { events, oldest: ahead.first().map(|delivery| delivery.message) })
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
        let rows = self.lease_due(endpoint, in_order, until, usize::MAX)?;
        let free = rows.into_iter().filter(|(row, _)| !beside.contains(&row.delivery.message)).take(limit);
        let mut bytes = 0;
        let room = free.take_while(|(_, message)| {
            let is_room = bytes < bytes_max;
            bytes += message.content_bytes();
            is_room
        });
        Ok(room.collect())
    }

    fn consumer(&self, endpoint: EndpointKey, name: &str) -> Result<Option<Consumer>, ReadError> {
        Ok(self.state().consumers.get(&(endpoint, Arc::from(name))).cloned())
    }

    fn consumers(&self, endpoint: EndpointKey) -> Result<Vec<Consumer>, ReadError> {
        Ok(self.state().consumers.values().filter(|c| c.endpoint == endpoint).cloned().collect())
    }

    fn ledger(&self) -> Result<Ledger, ReadError> {
        let state = self.state();
        let pending = state.waiting.len() + state.fresh(Sequence::ZERO).len();
        Ok(Ledger { pending: pending as u64, ..state.ledger })
    }

    fn upkeep(&self, now: Timestamp) -> Result<bool, CommitError> {
        let mut state = self.state();
        state.answers.retain(|_, answer| answer.expires_at > now);
        let Some(endpoint) = state.doomed.first().copied() else { return Ok(false) };
        let first = Delivery { endpoint, message: Sequence::ZERO };
        let last = Delivery { endpoint, message: Sequence::MAX };
        let rows: Vec<_> = state.waiting.range(first..=last).map(|(delivery, _)| *delivery).take(SLICE).collect();
        if rows.is_empty() {
            state.doomed.remove(&endpoint);
            return Ok(!state.doomed.is_empty());
        }
        state.end(&rows, EndReason::EndpointDeleted, now);
        Ok(true)
    }

    fn upkeep_owed(&self) -> bool {
        false
    }

    fn has_tasks(&self) -> bool {
        let state = self.state();
        !state.cancelling.is_empty() || !state.running.is_empty()
    }

    fn advance_task(&self, now: Timestamp, matching: &dyn Matching) -> Result<Option<Advanced>, CommitError> {
        Ok(self.state().advance(now, matching, self.bug))
    }

    fn task(&self, id: TaskId) -> Result<Option<Task>, ReadError> {
        Ok(self.state().tasks.get(&id.sequence()).filter(|task| task.id == id).cloned())
    }

    fn tasks(&self, query: &TaskQuery) -> Result<Page<Task>, ReadError> {
        let state = self.state();
        let wanted = |task: &&Task| {
            task.organisation == query.organisation
                && query.application.is_none_or(|application| task.work.application() == Some(application))
                && (query.status.is_empty() || query.status.contains(&task.status))
                && query.kind.is_none_or(|kind| task.work.kind() == kind)
        };
        let range = state.tasks.range(query.span.first..=query.span.last.max(query.span.first));
        let found = range.map(|(_, task)| task).filter(wanted);
        Ok(page(found, query.ascending, query.limit, |task| {
            let mut task = task.clone();
            task.progress.found = Found::Nothing;
            if let Work::Broadcast(message) = &mut task.work {
                *message = None;
            }
            task
        }))
    }

    fn bytes_on_disk(&self) -> Option<u64> {
        None
    }
}
