//! What is kept: messages, attempts, rows and settings in maps, and what each change makes of them.

use super::{StoreBug, carries, page};
use crate::task::forget_message;
use bellwire_model::{
    AfterAttempt, Application, ApplicationKey, Attempt, AttemptId, AttemptNumber, DedupeKey, Delivery, DeliveryState,
    EndReason, EndedSubscription, Endpoint, EndpointKey, EventType, FailureClass, FanOut, KeptRequest, Ledger, Message,
    OrganisationId, Pipe, RequestDigest, Sequence, Source, SourceCursor, SourceKey, SubscriptionKey, Timestamp,
    Trigger, Waiting,
};
use bellwire_store::{
    Accepted, AttemptFilter, AttemptQuery, Change, Consumer, DedupeEntry, DeliveryOfMessage, Fence, KeptAnswer, Page,
    ReadError, RecoveredTokens, Settled, Span, StatusFilter, Task, TaskStatus, read_outcome,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The upper half of a millisecond's sequences is upkeep's.
const UPKEEP_FROM: u64 = 1 << 19;

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) messages: BTreeMap<Sequence, (Arc<Message>, FanOut)>,
    pub(crate) attempts: BTreeMap<Sequence, Attempt>,
    pub(crate) of_delivery: BTreeMap<Delivery, Vec<Sequence>>,
    pub(crate) waiting: BTreeMap<Delivery, Waiting>,
    pub(crate) by_due: BTreeSet<(EndpointKey, Timestamp, Sequence)>,
    pub(crate) ended: BTreeMap<Delivery, AfterAttempt>,
    /// Deliveries that were not among the fan-out.
    pub(crate) added: BTreeSet<Delivery>,
    pub(crate) keys: BTreeMap<DedupeKey, DedupeEntry>,
    pub(crate) answers: BTreeMap<DedupeKey, KeptAnswer>,
    pub(crate) tokens: RecoveredTokens,
    pub(crate) sources: BTreeMap<SourceKey, Arc<Source>>,
    /// The newest of each source, oldest first.
    pub(crate) requests: BTreeMap<SourceKey, VecDeque<KeptRequest>>,
    pub(crate) cursors: BTreeMap<SourceKey, SourceCursor>,
    pub(crate) ended_subscriptions: BTreeMap<SubscriptionKey, Arc<EndedSubscription>>,
    pub(crate) applications: BTreeMap<ApplicationKey, Arc<Application>>,
    pub(crate) endpoints: BTreeMap<EndpointKey, Arc<Endpoint>>,
    pub(crate) event_types: BTreeMap<(OrganisationId, String), Arc<EventType>>,
    pub(crate) deleted: BTreeSet<EndpointKey>,
    /// Deleted endpoints that may still have rows.
    pub(crate) doomed: BTreeSet<EndpointKey>,
    pub(crate) watermark: Sequence,
    pub(crate) newest: Sequence,
    pub(crate) upkeep_newest: Sequence,
    pub(crate) last_key: u32,
    pub(crate) ledger: Ledger,
    pub(crate) leases: BTreeMap<u8, (String, Fence, Timestamp)>,
    pub(crate) tasks: BTreeMap<Sequence, Task>,
    /// The first one's turn is next.
    pub(crate) running: VecDeque<Sequence>,
    /// Tasks whose end nobody was told of.
    untold: BTreeSet<Sequence>,
    pub(crate) cancelling: VecDeque<(EndpointKey, Sequence, Timestamp)>,
    pub(crate) consumers: BTreeMap<(EndpointKey, Arc<str>), Consumer>,
    /// Endpoints of which a reader settled something.
    pub(crate) settled: BTreeSet<EndpointKey>,
}

impl State {
    pub(crate) fn stands(&self, delivery: Delivery) -> DeliveryState {
        match (self.waiting.get(&delivery), self.ended.get(&delivery)) {
            (Some(waiting), _) => DeliveryState::Waiting(*waiting),
            (None, Some(AfterAttempt::Ended(reason))) => DeliveryState::Ended(*reason),
            (None, Some(_)) => DeliveryState::Delivered,
            (None, None) => DeliveryState::Fresh,
        }
    }

    pub(super) fn fresh(&self, from: Sequence) -> Vec<Delivery> {
        let all = self.messages.range(from..).flat_map(|(message, (_, fan_out))| {
            fan_out.iter().map(|endpoint| Delivery { endpoint: *endpoint, message: *message })
        });
        all.filter(|delivery| self.stands(*delivery) == DeliveryState::Fresh).collect()
    }

    pub(crate) fn number(&self, delivery: Delivery) -> AttemptNumber {
        let attempts = self.of_delivery.get(&delivery).into_iter().flatten();
        attempts.filter_map(|at| self.attempts.get(at)).map(|a| a.number).max().unwrap_or(0)
    }

    pub(crate) fn put(&mut self, waiting: Waiting) -> bool {
        let Delivery { endpoint, message } = waiting.delivery;
        self.by_due.insert((endpoint, waiting.due, message));
        match self.waiting.insert(waiting.delivery, waiting) {
            Some(old) if old.due != waiting.due => {
                self.by_due.remove(&(endpoint, old.due, message));
                false
            }
            old => old.is_none(),
        }
    }

    pub(super) fn remove(&mut self, delivery: Delivery) -> bool {
        let Some(old) = self.waiting.remove(&delivery) else { return false };
        self.by_due.remove(&(delivery.endpoint, old.due, delivery.message));
        true
    }

    pub(super) fn accept(&mut self, accepted: &Accepted, keys: bool) {
        let message = &accepted.message;
        let sequence = message.sequence();
        self.newest = self.newest.max(sequence);
        self.ledger.accepted += 1;
        self.ledger.matched += accepted.fan_out.len() as u64;
        let event = accepted.event.map(|key| DedupeEntry { key, digest: RequestDigest([0; 8]), message: sequence });
        let idempotency = accepted.idempotency.map(|entry| DedupeEntry { message: sequence, ..entry });
        for entry in idempotency.into_iter().chain(event).filter(|_| keys) {
            self.keys.entry(entry.key).or_insert(entry);
        }
        for endpoint in &accepted.fan_out {
            let delivery = Delivery { endpoint: *endpoint, message: sequence };
            let doomed = self.deleted.contains(endpoint);
            if doomed {
                self.doomed.insert(*endpoint);
            }
            if let Some(due) = message.deliver_at.or(doomed.then_some(sequence.time())) {
                self.put(Waiting { delivery, due, next: 1, trigger: Trigger::Scheduled });
            }
        }
        self.messages.insert(sequence, (Arc::clone(message), accepted.fan_out.clone()));
    }

    pub(super) fn record(&mut self, attempt: &Attempt, bug: Option<StoreBug>) {
        let delivery = attempt.delivery;
        let sequence = attempt.id.sequence();
        self.newest = self.newest.max(sequence);
        let mut attempt = attempt.clone();
        let gone = self.deleted.contains(&delivery.endpoint);
        match attempt.after {
            _ if gone && !self.waiting.contains_key(&delivery) => {
                // Upkeep has ended it already.
                attempt.after = self.ended.get(&delivery).copied().unwrap_or(attempt.after);
            }
            _ if self.ended_by_reader(delivery) => {
                attempt.after = self.ended.get(&delivery).copied().unwrap_or(attempt.after);
            }
            _ if self.was_cancelled(delivery) => attempt.after = AfterAttempt::Ended(EndReason::Cancelled),
            AfterAttempt::Waiting { due } => {
                let next = attempt.number + 1;
                self.put(Waiting { delivery, due, next, trigger: Trigger::Scheduled });
                if bug == Some(StoreBug::RetryLosesRow) {
                    self.remove(delivery);
                }
            }
            after => {
                if bug != Some(StoreBug::RowStays) {
                    self.remove(delivery);
                }
                self.ledger.count(after);
                self.ended.insert(delivery, after);
            }
        }
        self.of_delivery.entry(delivery).or_default().push(sequence);
        self.attempts.insert(sequence, attempt);
    }

    pub(super) fn change(&mut self, change: &Change, bug: Option<StoreBug>) {
        match change {
            Change::PutApplication(application) => {
                self.last_key = self.last_key.max(application.key.0);
                self.applications.insert(application.key, Arc::clone(application));
            }
            Change::DeleteApplication(key) => {
                self.applications.remove(key);
                let sources = self.sources.values().filter(|s| s.application == *key).map(|s| s.key);
                sources.collect::<Vec<_>>().into_iter().for_each(|source| self.delete_source(source));
                let of = self.endpoints.values().filter(|e| e.application == *key).map(|e| e.key);
                for endpoint in of.collect::<Vec<_>>() {
                    self.delete_endpoint(endpoint);
                }
            }
            Change::PutEndpoint(endpoint) => {
                self.last_key = self.last_key.max(endpoint.key.0);
                if !self.deleted.contains(&endpoint.key) {
                    let mut new = Endpoint::clone(endpoint);
                    new.health.written = new.health.failing_since.is_some();
                    if let Some(old) = self.endpoints.get(&new.key).filter(|_| bug != Some(StoreBug::EditUndoesDisable))
                    {
                        new.keep_state(old);
                    }
                    self.endpoints.insert(new.key, Arc::new(new));
                }
            }
            Change::SwitchEndpoint { endpoint, enabled } => {
                if let Some(endpoint) = self.endpoints.get_mut(endpoint).map(Arc::make_mut) {
                    endpoint.switch(*enabled);
                }
            }
            Change::DeleteEndpoint(key) => self.delete_endpoint(*key),
            Change::PutHealth { endpoint, failing_since, disable } => {
                if let Some(endpoint) = self.endpoints.get_mut(endpoint).map(Arc::make_mut) {
                    endpoint.found_out(*failing_since, *disable);
                }
            }
            Change::PutEventType(event_type) => {
                let key = (event_type.organisation.clone(), event_type.name.clone());
                self.event_types.insert(key, Arc::clone(event_type));
            }
            Change::DeleteEventType(organisation, name) => {
                self.event_types.remove(&(organisation.clone(), name.clone()));
            }
            Change::PutSource(source) => {
                self.last_key = self.last_key.max(source.key.0);
                self.sources.insert(source.key, Arc::clone(source));
            }
            Change::DeleteSource(key) => self.delete_source(*key),
            Change::KeepRequest(request) => self.keep_request(request),
            Change::PutSourceCursor(cursor) => {
                if self.sources.contains_key(&cursor.source) {
                    self.cursors.insert(cursor.source, cursor.clone());
                }
            }
            Change::PutEndedSubscription(ended) => {
                self.last_key = self.last_key.max(ended.key.0);
                self.ended_subscriptions.insert(ended.key, Arc::clone(ended));
            }
            Change::DeleteEndedSubscription(key) => {
                self.ended_subscriptions.remove(key);
            }
            Change::Token(change) => self.tokens.apply(change),
            Change::KeepAnswer(answer) => {
                self.answers.insert(answer.key, answer.clone());
            }
            Change::Wait { waiting, owed } => self.wait(*waiting, *owed),
            Change::PutConsumer { consumer, read } => self.put_consumer(consumer, *read),
            Change::DeleteConsumer { endpoint, name } => {
                self.consumers.remove(&(*endpoint, Arc::clone(name)));
            }
            Change::Settle(settled) => settled.iter().for_each(|settled| self.settle(settled)),
            Change::PutTask(task) => {
                self.tasks.entry(task.id.sequence()).or_insert_with(|| {
                    self.running.push_back(task.id.sequence());
                    self.untold.insert(task.id.sequence());
                    Task::clone(task)
                });
            }
            Change::CancelTask { task, at } => {
                let found = self.tasks.get_mut(&task.sequence()).filter(|found| found.id == *task);
                if let Some(found) = found.filter(|found| found.status == TaskStatus::Running) {
                    (found.status, found.updated_at) = (TaskStatus::Cancelled, *at);
                    forget_message(found);
                }
            }
            Change::Broadcasted(page) => {
                let found = self.tasks.get_mut(&page.task.sequence()).filter(|found| found.id == page.task);
                if let Some(found) = found {
                    found.broadcasted(page);
                }
            }
            Change::TaskTold(task) => {
                let ended = self.tasks.get(&task.sequence()).is_some_and(|found| found.status != TaskStatus::Running);
                if ended {
                    self.untold.remove(&task.sequence());
                }
            }
            Change::CancelWaiting { endpoint, before, at } => self.cancel_waiting(*endpoint, *before, *at),
            Change::ExpungePayload(sequence) => {
                if let Some((message, _)) = self.messages.get_mut(sequence) {
                    let message = Arc::make_mut(message);
                    (message.payload, message.transformations_params, message.received) = (None, None, None);
                }
            }
            Change::ExpungeResponse(id) => {
                let attempt = self.attempts.get_mut(&id.sequence()).filter(|attempt| attempt.id == *id);
                if let Some(outcome) = attempt.and_then(|attempt| attempt.outcome.as_mut()) {
                    outcome.body = Bytes::from_static(b"EXPUNGED");
                }
            }
        }
    }

    /// As a start does: those that run, and those whose end was not told.
    pub(super) fn take_up_tasks(&mut self) {
        self.running = self.untold.iter().copied().collect();
    }

    fn delete_source(&mut self, key: SourceKey) {
        self.sources.remove(&key);
        self.requests.remove(&key);
        self.cursors.remove(&key);
    }

    fn keep_request(&mut self, request: &KeptRequest) {
        if !self.sources.contains_key(&request.source) {
            return;
        }
        let kept = self.requests.entry(request.source).or_default();
        kept.push_back(request.clone());
        let bytes = |kept: &VecDeque<KeptRequest>| kept.iter().map(|r| r.body.len()).sum::<usize>();
        while kept.len() > KeptRequest::COUNT_MAX || bytes(kept) > KeptRequest::BYTES_MAX {
            kept.pop_front();
        }
    }

    fn delete_endpoint(&mut self, endpoint: EndpointKey) {
        if !self.deleted.insert(endpoint) {
            return;
        }
        self.endpoints.remove(&endpoint);
        self.consumers.retain(|(of, _), _| *of != endpoint);
        self.doomed.insert(endpoint);
        for delivery in self.fresh(self.watermark).into_iter().filter(|d| d.endpoint == endpoint) {
            self.put(Waiting { delivery, due: delivery.message.time(), next: 1, trigger: Trigger::Scheduled });
        }
    }

    fn wait(&mut self, waiting: Waiting, owed: bool) {
        let delivery = waiting.delivery;
        if self.deleted.contains(&delivery.endpoint) && !self.waiting.contains_key(&delivery) {
            return;
        }
        if !owed && self.was_cancelled(delivery) {
            return;
        }
        let new = self.put(waiting);
        if owed {
            self.added.insert(delivery);
            self.ledger.matched += u64::from(new);
        } else if waiting.next == 1 && waiting.trigger == Trigger::Scheduled {
            let read = self.consumers.values().filter(|c| c.endpoint == delivery.endpoint).map(|c| c.cursor).max();
            if read.is_some_and(|read| delivery.message <= read) {
                let outcome = read_outcome("a consumer", waiting.due);
                let after = AfterAttempt::Delivered;
                self.settle(&Settled { delivery, number: 1, at: waiting.due, outcome, after });
            }
        }
    }

    fn put_consumer(&mut self, consumer: &Consumer, read: bool) {
        let endpoint = consumer.endpoint;
        if self.deleted.contains(&endpoint) {
            return;
        }
        let key = (endpoint, Arc::clone(&consumer.name));
        let kept = self.consumers.entry(key).or_insert_with(|| consumer.clone());
        kept.cursor = if read { kept.cursor.max(consumer.cursor) } else { consumer.cursor };
        kept.updated_at = consumer.updated_at;
        if !read {
            return;
        }
        self.settled.insert(endpoint);
        let (first, last) = (Sequence::ZERO, consumer.cursor);
        let rows = self.waiting.range(Delivery { endpoint, message: first }..=Delivery { endpoint, message: last });
        let rows: Vec<_> = rows.map(|(_, row)| *row).filter(|row| row.trigger == Trigger::Scheduled).collect();
        for row in rows {
            let (at, number) = (consumer.updated_at, row.next);
            let outcome = read_outcome(&consumer.name, at);
            let after = AfterAttempt::Delivered;
            self.settle(&Settled { delivery: row.delivery, number, at, outcome, after });
        }
    }

    fn settle(&mut self, settled: &Settled) {
        let delivery = settled.delivery;
        let Some(row) = self.waiting.get(&delivery).copied() else { return };
        if row.next != settled.number {
            return;
        }
        let sequence = self.upkeep_sequence(settled.at);
        match settled.after {
            AfterAttempt::Waiting { due } => {
                self.put(Waiting { due, next: row.next + 1, ..row });
            }
            after => {
                self.remove(delivery);
                self.ledger.count(after);
                self.ended.insert(delivery, after);
            }
        }
        self.settled.insert(delivery.endpoint);
        self.of_delivery.entry(delivery).or_default().push(sequence);
        let attempt = Attempt {
            id: AttemptId::from_parts(sequence, [0; 12]),
            delivery,
            application: self.messages[&delivery.message].0.application,
            number: row.next,
            trigger: row.trigger,
            url: Pipe::ADDRESS.into(),
            outcome: Some(settled.outcome.clone()),
            after: settled.after,
        };
        self.attempts.insert(sequence, attempt);
    }

    fn upkeep_sequence(&mut self, now: Timestamp) -> Sequence {
        let from = Sequence::from_u64(Sequence::first_at(now).as_u64() | UPKEEP_FROM);
        self.upkeep_newest = from.max(self.upkeep_newest.next());
        self.upkeep_newest
    }

    /// Whether a reader has ended it while an engine had it in flight.
    fn ended_by_reader(&self, delivery: Delivery) -> bool {
        self.settled.contains(&delivery.endpoint)
            && !self.waiting.contains_key(&delivery)
            && self.ended.contains_key(&delivery)
    }

    fn cancel_waiting(&mut self, endpoint: EndpointKey, before: Sequence, at: Timestamp) {
        if self.deleted.contains(&endpoint) {
            return;
        }
        for delivery in self.fresh(self.watermark).into_iter().filter(|d| d.endpoint == endpoint && d.message < before)
        {
            self.put(Waiting { delivery, due: delivery.message.time(), next: 1, trigger: Trigger::Scheduled });
        }
        self.cancelling.push_back((endpoint, before, at));
    }

    /// Whether a slice will end this row as cancelled.
    pub(crate) fn is_cancelling(&self, row: &Waiting) -> bool {
        self.cancelling.iter().any(|(endpoint, before, at)| {
            row.delivery.endpoint == *endpoint
                && row.delivery.message < *before
                && (row.trigger == Trigger::Scheduled || row.due <= *at)
        })
    }

    /// Whether it was cancelled while an engine may have had it, and nobody asked for it since.
    fn was_cancelled(&self, delivery: Delivery) -> bool {
        let cancelled = Some(&AfterAttempt::Ended(EndReason::Cancelled));
        self.ended.get(&delivery) == cancelled && !self.waiting.contains_key(&delivery)
    }

    /// Ends rows without an exchange, as a store's own work does.
    pub(crate) fn end(&mut self, rows: &[Delivery], reason: EndReason, now: Timestamp) {
        for delivery in rows.iter().copied() {
            let sequence = self.upkeep_sequence(now);
            let application = self.messages[&delivery.message].0.application;
            self.remove(delivery);
            let after = AfterAttempt::Ended(reason);
            self.ledger.count(after);
            self.ended.insert(delivery, after);
            self.of_delivery.entry(delivery).or_default().push(sequence);
            let attempt = Attempt {
                id: AttemptId::from_parts(sequence, [0; 12]),
                delivery,
                application,
                number: 0,
                trigger: Trigger::Scheduled,
                url: "".into(),
                outcome: None,
                after,
            };
            self.attempts.insert(sequence, attempt);
        }
    }

    pub(super) fn deliveries_of(&self, endpoint: EndpointKey, span: Span) -> Vec<Delivery> {
        let messages = self.messages.range(span.first..=span.last.max(span.first));
        let of = messages.filter_map(|(message, (_, fan_out))| {
            let delivery = Delivery { endpoint, message: *message };
            (fan_out.contains(&endpoint) || self.added.contains(&delivery)).then_some(delivery)
        });
        of.collect()
    }

    pub(super) fn delivery(&self, delivery: Delivery) -> DeliveryOfMessage {
        let (state, attempts) = (self.stands(delivery), self.number(delivery));
        DeliveryOfMessage { endpoint: delivery.endpoint, state, attempts }
    }

    pub(super) fn attempts(
        &self,
        which: impl Fn(&Attempt) -> bool,
        query: &AttemptQuery,
    ) -> Result<Page<Attempt>, ReadError> {
        let range = self.attempts.range(query.span.first..=query.span.last.max(query.span.first));
        let passes = |attempt: &&Attempt| which(attempt) && self.attempt_passes(attempt, &query.filter);
        let found = range.map(|(_, attempt)| attempt).filter(passes);
        Ok(page(found, query.ascending, query.limit, |attempt| {
            let mut attempt = attempt.clone();
            if let Some(outcome) = attempt.outcome.as_mut().filter(|_| !query.with_body) {
                outcome.body = Bytes::new();
            }
            attempt
        }))
    }

    fn attempt_passes(&self, attempt: &Attempt, filter: &AttemptFilter) -> bool {
        let status = attempt.outcome.as_ref().map(|outcome| outcome.result);
        let success = matches!(status, Some(Ok(200..=299)));
        let cancelled = matches!(status, None | Some(Err(FailureClass::Cancelled)));
        let as_asked = match filter.status {
            None => true,
            Some(StatusFilter::Success) => success,
            Some(StatusFilter::Fail) => !success && !cancelled,
            Some(StatusFilter::Canceled) => cancelled,
            Some(StatusFilter::FailOrCanceled) => !success,
            Some(_) => false,
        };
        let in_class = match filter.status_class {
            None => true,
            Some(0) => !matches!(status, Some(Ok(_))),
            Some(class) => matches!(status, Some(Ok(s)) if s / 100 == if class >= 100 { class / 100 } else { class }),
        };
        let message = self.messages.get(&attempt.delivery.message).map(|(message, _)| message);
        let carried =
            message.is_some_and(|m| carries(m, &filter.event_types, filter.channel.as_deref(), filter.tag.as_deref()));
        as_asked && in_class && carried && filter.endpoint.is_none_or(|e| e == attempt.delivery.endpoint)
    }
}
