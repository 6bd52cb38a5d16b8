//! A store under test, and beside it a model so small that it can be believed: maps of what was committed.

use super::conformance::Harness;
use crate::{
    Accepted, Advanced, AttemptFilter, AttemptQuery, Batch, Change, DedupeEntry, Matching, MessageQuery, Page,
    Recovered, ReplayFilter, Span, StatusFilter, Store, Task, TaskStatus, WaitingHead, Work,
};
use bellwire_model::{
    AfterAttempt, ApplicationKey, Attempt, AttemptId, AttemptNumber, ContentType, DedupeKey, Delivery, DeliveryState,
    EndReason, EndpointKey, FanOut, Ledger, Message, MessageId, OrganisationId, Outcome, Received, RequestDigest,
    Sequence, SequenceSource, TaskId, Timestamp, TraceParent, Trigger, Waiting,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The random numbers of the suite: SplitMix64, so that a seed means the same everywhere and for ever.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.roll() % n as u64) as usize
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }
}

/// What should be in the store.
#[derive(Default)]
pub(super) struct Model {
    pub(super) messages: BTreeMap<Sequence, (Arc<Message>, FanOut)>,
    /// Without those of number 0, which upkeep makes when it likes.
    pub(super) attempts: BTreeMap<Sequence, Attempt>,
    pub(super) waiting: BTreeMap<Delivery, Waiting>,
    pub(super) ended: BTreeMap<Delivery, AfterAttempt>,
    pub(super) added: BTreeSet<Delivery>,
    pub(super) deleted: BTreeSet<EndpointKey>,
    pub(super) keys: BTreeMap<DedupeKey, Sequence>,
    pub(super) watermark: Sequence,
    pub(super) ledger: Ledger,
}

impl Model {
    fn apply(&mut self, batch: &Batch) {
        for accepted in &batch.accepted {
            let message = &accepted.message;
            self.ledger.accepted += 1;
            self.ledger.matched += accepted.fan_out.len() as u64;
            for key in accepted.idempotency.iter().map(|i| i.key).chain(accepted.event) {
                self.keys.entry(key).or_insert(message.sequence());
            }
            for endpoint in &accepted.fan_out {
                let delivery = Delivery { endpoint: *endpoint, message: message.sequence() };
                if let Some(due) = message.deliver_at {
                    self.waiting.insert(delivery, Waiting { delivery, due, next: 1, trigger: Trigger::Scheduled });
                }
            }
            self.messages.insert(message.sequence(), (Arc::clone(message), accepted.fan_out.clone()));
        }
        for attempt in &batch.attempts {
            self.attempts.insert(attempt.id.sequence(), attempt.clone());
            self.record(attempt);
        }
        for change in &batch.changes {
            self.change(change);
        }
        self.watermark = self.watermark.max(batch.watermark.unwrap_or_default());
    }

    fn record(&mut self, attempt: &Attempt) {
        let delivery = attempt.delivery;
        if let AfterAttempt::Waiting { due } = attempt.after {
            let next = attempt.number + 1;
            self.waiting.insert(delivery, Waiting { delivery, due, next, trigger: Trigger::Scheduled });
        } else {
            self.waiting.remove(&delivery);
            self.ended.insert(delivery, attempt.after);
            self.ledger.count(attempt.after);
        }
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Wait { waiting, owed } => {
                let new = self.waiting.insert(waiting.delivery, *waiting).is_none();
                if *owed {
                    self.added.insert(waiting.delivery);
                    self.ledger.matched += u64::from(new);
                }
            }
            Change::CancelWaiting { endpoint, before, at } => {
                for delivery in self.deliveries_of(*endpoint).into_iter().filter(|d| d.message < *before) {
                    let cancelled = match self.state(delivery) {
                        DeliveryState::Fresh => true,
                        DeliveryState::Waiting(row) => row.trigger == Trigger::Scheduled || row.due <= *at,
                        DeliveryState::Delivered | DeliveryState::Ended(_) => false,
                    };
                    if cancelled {
                        self.waiting.remove(&delivery);
                        self.ended.insert(delivery, AfterAttempt::Ended(EndReason::Cancelled));
                        self.ledger.count(AfterAttempt::Ended(EndReason::Cancelled));
                    }
                }
            }
            Change::DeleteEndpoint(endpoint) => {
                for delivery in self.deliveries_of(*endpoint) {
                    if matches!(self.state(delivery), DeliveryState::Fresh | DeliveryState::Waiting(_)) {
                        self.waiting.remove(&delivery);
                        let after = AfterAttempt::Ended(EndReason::EndpointDeleted);
                        self.ended.insert(delivery, after);
                        self.ledger.count(after);
                    }
                }
                self.deleted.insert(*endpoint);
            }
            Change::ExpungePayload(sequence) => {
                if let Some((message, _)) = self.messages.get_mut(sequence) {
                    *message = Arc::new(Message {
                        payload: None,
                        transformations_params: None,
                        received: None,
                        ..Message::clone(message)
                    });
                }
            }
            Change::ExpungeResponse(id) => {
                let attempt = self.attempts.get_mut(&id.sequence()).filter(|attempt| attempt.id == *id);
                if let Some(outcome) = attempt.and_then(|attempt| attempt.outcome.as_mut()) {
                    outcome.body = Bytes::from_static(b"EXPUNGED");
                }
            }
            _ => {}
        }
    }

    /// What a task does from its cursor to its end, if nothing else happens meanwhile. Answers how much it touches.
    pub(super) fn finish(&mut self, task: &Task, now: Timestamp, matching: &dyn Matching) -> u64 {
        let range = task.progress.cursor..=task.last;
        let before = self.ledger.matched;
        let sendable = |model: &Self, message: Sequence| {
            let message = &model.messages[&message].0;
            message.payload.is_some() && message.expires_at > now
        };
        let wanted: Vec<Delivery> = match &task.work {
            Work::Recover(target) => {
                let failed =
                    |d: &Delivery| matches!(self.state(*d), DeliveryState::Ended(r) if r != EndReason::Cancelled);
                self.deliveries_of(target.endpoint).into_iter().filter(failed).collect()
            }
            Work::BulkReplay(target, filter) => {
                self.deliveries_of(target.endpoint).into_iter().filter(|d| self.passes(*d, filter)).collect()
            }
            Work::Replay(target) => {
                let known: BTreeSet<_> = self.deliveries_of(target.endpoint).into_iter().collect();
                let takes =
                    |m: &&Arc<Message>| m.application == target.application && matching.matches(target.endpoint, m);
                let all = self.messages.values().map(|(message, _)| message).filter(takes);
                let all = all.map(|m| Delivery { endpoint: target.endpoint, message: m.sequence() });
                all.filter(|delivery| !known.contains(delivery)).collect()
            }
            Work::PurgeContent(application) => {
                let mut purged = 0;
                for (message, _) in self.messages.range_mut(range).map(|(_, m)| m) {
                    if message.application == *application && message.payload.is_some() {
                        *message = Arc::new(Message { payload: None, ..Message::clone(message) });
                        purged += 1;
                    }
                }
                return purged;
            }
            Work::ApplicationStats(_) | Work::EventTypes | Work::Broadcast(_) => return 0,
        };
        for delivery in wanted.into_iter().filter(|d| range.contains(&d.message)) {
            if sendable(self, delivery.message) {
                let next = self.number(delivery) + 1;
                self.waiting.insert(delivery, Waiting { delivery, due: now, next, trigger: Trigger::Manual });
                if !self.messages[&delivery.message].1.contains(&delivery.endpoint) {
                    self.added.insert(delivery);
                }
                self.ledger.matched += 1;
            }
        }
        self.ledger.matched - before
    }

    fn passes(&self, delivery: Delivery, filter: &ReplayFilter) -> bool {
        let message = &self.messages[&delivery.message].0;
        let last = self.attempts.values().rfind(|a| a.delivery == delivery && a.outcome.is_some());
        let answer = last.and_then(|a| a.outcome.as_ref()).and_then(|o| o.result.ok());
        let stands = match (self.state(delivery), filter.status) {
            (DeliveryState::Delivered, None | Some(StatusFilter::Success)) => true,
            (DeliveryState::Ended(_), None | Some(StatusFilter::FailOrCanceled)) => true,
            (DeliveryState::Ended(reason), Some(StatusFilter::Fail)) => {
                matches!(reason, EndReason::Exhausted | EndReason::ResendFailed)
            }
            _ => false,
        };
        stands
            && (filter.event_types.is_empty() || filter.event_types.contains(&message.event_type))
            && filter.channel.as_ref().is_none_or(|channel| message.channels.contains(channel))
            && filter.tag.as_ref().is_none_or(|tag| message.tags.contains(tag))
            && filter.status_class.is_none_or(|class| answer.map_or(0, |status| status / 100 * 100) == class)
    }

    pub(super) fn deliveries_of(&self, endpoint: EndpointKey) -> Vec<Delivery> {
        let matched = |(message, (_, fan_out)): (&Sequence, &(Arc<Message>, FanOut))| {
            let delivery = Delivery { endpoint, message: *message };
            (fan_out.contains(&endpoint) || self.added.contains(&delivery)).then_some(delivery)
        };
        self.messages.iter().filter_map(matched).collect()
    }

    pub(super) fn state(&self, delivery: Delivery) -> DeliveryState {
        match (self.waiting.get(&delivery), self.ended.get(&delivery)) {
            (Some(waiting), _) => DeliveryState::Waiting(*waiting),
            (None, Some(AfterAttempt::Ended(reason))) => DeliveryState::Ended(*reason),
            (None, Some(_)) => DeliveryState::Delivered,
            (None, None) => DeliveryState::Fresh,
        }
    }

    pub(super) fn number(&self, delivery: Delivery) -> AttemptNumber {
        self.attempts.values().filter(|a| a.delivery == delivery).map(|a| a.number).max().unwrap_or(0)
    }

    /// Fresh deliveries of living endpoints, in order of acceptance.
    pub(super) fn fresh(&self) -> Vec<Delivery> {
        let all = self.messages.iter().flat_map(|(message, (_, fan_out))| {
            fan_out.iter().map(|endpoint| Delivery { endpoint: *endpoint, message: *message })
        });
        all.filter(|delivery| self.state(*delivery) == DeliveryState::Fresh).collect()
    }

    pub(super) fn expected_ledger(&self) -> Ledger {
        Ledger { pending: (self.waiting.len() + self.fresh().len()) as u64, ..self.ledger }
    }
}

/// A store, its model, and what an engine would hold: a clock and a source of sequences.
pub(super) struct World {
    harness: Box<dyn Harness>,
    pub(super) model: Model,
    pub(super) now: Timestamp,
    pub(super) sequences: SequenceSource,
    pub(super) dice: Dice,
}

pub(super) const APPLICATION: ApplicationKey = ApplicationKey(1);

/// Every endpoint takes one event type, and looks at payloads that it never lets pass: those without bytes.
pub(super) struct Takes(pub(super) &'static str);

impl Matching for Takes {
    fn wants_payload(&self, _: EndpointKey) -> bool {
        true
    }

    fn matches(&self, _: EndpointKey, message: &Message) -> bool {
        message.event_type == self.0 && message.payload.as_ref().is_some_and(|payload| !payload.is_empty())
    }
}

pub(super) const TAKES: Takes = Takes("invoice.paid");

/// Everything about an accepted message that the checks vary.
#[derive(Clone, Default)]
pub(super) struct Draft {
    pub(super) fan_out: Vec<u32>,
    pub(super) application: u32,
    pub(super) event_type: &'static str,
    pub(super) channels: Vec<String>,
    pub(super) tags: Vec<String>,
    pub(super) payload: Option<Bytes>,
    pub(super) params: Option<Box<str>>,
    pub(super) received: Option<Arc<Received>>,
    pub(super) trace: Option<TraceParent>,
    pub(super) deliver_at: Option<Timestamp>,
    pub(super) lives: Option<Duration>,
    pub(super) idempotency: Option<(DedupeKey, RequestDigest)>,
    pub(super) event: Option<DedupeKey>,
}

impl Draft {
    pub(super) fn to(fan_out: &[u32]) -> Draft {
        Draft {
            fan_out: fan_out.to_vec(),
            application: APPLICATION.0,
            event_type: "invoice.paid",
            payload: Some(Bytes::from_static(b"{\"a\":1}")),
            ..Draft::default()
        }
    }
}

impl World {
    pub(super) fn new(harness: Box<dyn Harness>, seed: u64) -> World {
        World {
            harness,
            model: Model::default(),
            now: Timestamp::from_seconds(1_800_000_000),
            sequences: SequenceSource::after(Sequence::ZERO),
            dice: Dice(seed),
        }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        self.harness.store()
    }

    /// How long messages are kept by the store under test, if that can be tested.
    pub(super) fn kept_for(&self) -> Option<Duration> {
        self.harness.messages_kept_for()
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    pub(super) fn sequence(&mut self) -> Sequence {
        self.sequences.next(self.now)
    }

    /// Closes the store, opens it again, and goes on as an engine would.
    pub(super) fn reopen(&mut self) -> Recovered {
        self.harness.reopen();
        let recovered = self.store().recover().expect("recovers");
        assert!(recovered.newest >= self.newest(), "the newest sequence was forgotten");
        self.sequences = SequenceSource::after(recovered.newest);
        recovered
    }

    fn newest(&self) -> Sequence {
        let message = self.model.messages.keys().next_back().copied().unwrap_or_default();
        message.max(self.model.attempts.keys().next_back().copied().unwrap_or_default())
    }

    /// Commits to the store and to the model.
    pub(super) fn commit(&mut self, batch: Batch) {
        self.store().commit(&batch).expect("commits");
        self.model.apply(&batch);
    }

    pub(super) fn change(&mut self, change: Change) {
        self.changes(vec![change]);
    }

    pub(super) fn changes(&mut self, changes: Vec<Change>) {
        self.commit(Batch { changes, ..Batch::default() });
    }

    pub(super) fn draft(&mut self, draft: &Draft) -> Accepted {
        let sequence = self.sequence();
        let mut tail = [0; 12];
        tail[..8].copy_from_slice(&self.dice.roll().to_be_bytes());
        let message = Message {
            id: MessageId::from_parts(sequence, tail),
            application: ApplicationKey(draft.application),
            event_type: draft.event_type.to_owned(),
            event_id: draft.event.map(|_| format!("event-{}", sequence.as_u64())),
            channels: draft.channels.clone(),
            tags: draft.tags.clone(),
            payload: draft.payload.clone(),
            content_type: ContentType::default(),
            transformations_params: draft.params.clone(),
            received: draft.received.clone(),
            trace: draft.trace,
            expires_at: sequence.time().plus(draft.lives.unwrap_or(Duration::from_secs(90 * 24 * 3600))),
            deliver_at: draft.deliver_at,
        };
        Accepted {
            message: Arc::new(message),
            fan_out: draft.fan_out.iter().copied().map(EndpointKey).collect(),
            idempotency: draft.idempotency.map(|(key, digest)| DedupeEntry { key, digest, message: Sequence::ZERO }),
            event: draft.event,
        }
    }

    pub(super) fn accept(&mut self, draft: &Draft) -> Sequence {
        let accepted = self.draft(draft);
        let sequence = accepted.message.sequence();
        self.commit(Batch { accepted: vec![accepted], ..Batch::default() });
        sequence
    }

    pub(super) fn outcome(&mut self, result: u16) -> Outcome {
        Outcome {
            started_at: self.now,
            duration: Duration::from_micros(self.dice.roll() % 100_000),
            result: Ok(result),
            body: Bytes::from(format!("answer {}", self.dice.roll() % 1_000)),
            retry_after: None,
            directive: None,
            url: None,
            phases: Default::default(),
        }
    }

    pub(super) fn attempt(&mut self, delivery: Delivery, result: u16, after: AfterAttempt) -> Attempt {
        let mut tail = [7; 12];
        tail[..8].copy_from_slice(&self.dice.roll().to_be_bytes());
        let waiting = self.model.waiting.get(&delivery).copied();
        let application = self.model.messages.get(&delivery.message).map_or(APPLICATION, |(m, _)| m.application);
        Attempt {
            id: AttemptId::from_parts(self.sequence(), tail),
            delivery,
            application,
            number: self.model.number(delivery) + 1,
            trigger: waiting.map_or(Trigger::Scheduled, |waiting| waiting.trigger),
            url: Arc::from("https://receiver.example/hook"),
            outcome: Some(self.outcome(result)),
            after,
        }
    }

    pub(super) fn record(&mut self, delivery: Delivery, result: u16, after: AfterAttempt) -> AttemptId {
        let attempt = self.attempt(delivery, result, after);
        let id = attempt.id;
        self.commit(Batch { attempts: vec![attempt], ..Batch::default() });
        id
    }

    pub(super) fn deliver(&mut self, delivery: Delivery) -> AttemptId {
        self.record(delivery, 200, AfterAttempt::Delivered)
    }

    pub(super) fn exhaust(&mut self, delivery: Delivery) -> AttemptId {
        self.record(delivery, 500, AfterAttempt::Ended(EndReason::Exhausted))
    }

    pub(super) fn postpone(&mut self, delivery: Delivery, wait: Duration) -> AttemptId {
        let due = self.now.plus(wait);
        self.record(delivery, 503, AfterAttempt::Waiting { due })
    }

    /// Does upkeep until there is no more.
    pub(super) fn upkeep(&self) {
        for _ in 0..10_000 {
            if !self.store().upkeep(self.now).expect("upkeep") {
                return;
            }
        }
        panic!("upkeep does not come to an end");
    }

    /// A task of the suite's organisation, created now.
    pub(super) fn task(&mut self, work: Work, span: Span) -> Task {
        let organisation = OrganisationId::parse("org_1").expect("an organisation");
        let mut tail = [9; 12];
        tail[..8].copy_from_slice(&self.dice.roll().to_be_bytes());
        let id = TaskId::from_parts(self.sequence(), tail);
        let task = Task::new(id, organisation, work, span.first, span.last);
        self.change(Change::PutTask(Arc::new(task.clone())));
        task
    }

    /// One slice of what goes on in the background.
    pub(super) fn slice(&self) -> Option<Advanced> {
        self.store().advance_task(self.now, &TAKES).expect("a slice")
    }

    /// All slices.
    pub(super) fn advance(&self) {
        for _ in 0..10_000 {
            if self.slice().is_none() {
                assert!(!self.store().has_tasks());
                return;
            }
        }
        panic!("the tasks do not come to an end");
    }

    /// Does all that a task does, to the store and to the model, and closes the store in the middle.
    pub(super) fn run_task(&mut self, work: Work, span: Span) -> Task {
        let task = self.task(work, span);
        let touched = self.model.finish(&task, self.now, &TAKES);
        assert!(self.store().has_tasks());
        self.slice();
        self.reopen();
        self.advance();
        let found = self.store().task(task.id).expect("read").expect("a task");
        assert_eq!((found.status, found.progress.touched), (TaskStatus::Finished, touched), "{found:?}");
        assert_eq!((&found.work, found.first, found.last, found.percent()), (&task.work, task.first, task.last, 100));
        found
    }

    /// Compares everything that can be asked with the model.
    pub(super) fn check(&mut self) {
        let store = self.store();
        let ledger = store.ledger().expect("ledger");
        assert!(ledger.balances(), "{ledger:?}");
        assert_eq!(ledger, self.model.expected_ledger());
        for (sequence, (message, fan_out)) in &self.model.messages {
            assert_eq!(store.message(*sequence, true).expect("read").as_ref(), Some(&**message));
            self.check_message(&*store, *sequence, fan_out);
        }
        for application in [1, 2] {
            self.check_lists_of_application(&*store, ApplicationKey(application));
        }
        for endpoint in 1..=6 {
            self.check_lists_of_endpoint(&*store, EndpointKey(endpoint));
        }
        for (key, message) in &self.model.keys {
            let found = store.find_key(*key).expect("read").map(|entry| entry.message);
            assert_eq!(found, Some(*message), "{key:?}");
        }
        for attempt in self.model.attempts.values() {
            assert_eq!(store.attempt(attempt.id).expect("read").as_ref(), Some(attempt));
        }
        self.check_waiting_room(&*store);
    }

    fn check_message(&self, store: &dyn Store, message: Sequence, fan_out: &FanOut) {
        let mut endpoints: BTreeSet<EndpointKey> = fan_out.iter().copied().collect();
        endpoints.extend(self.model.added.iter().filter(|d| d.message == message).map(|d| d.endpoint));
        let expected: Vec<_> = endpoints
            .iter()
            .map(|endpoint| {
                let delivery = Delivery { endpoint: *endpoint, message };
                (*endpoint, self.model.state(delivery), self.model.number(delivery))
            })
            .collect();
        let found = store.deliveries_of_message(message).expect("read");
        let found: Vec<_> = found.iter().map(|d| (d.endpoint, d.state, d.attempts)).collect();
        assert_eq!(found, expected, "deliveries of {message:?}");
        for (endpoint, state, attempts) in expected {
            let found = store.delivery(Delivery { endpoint, message }).expect("read").expect("a delivery");
            assert_eq!((found.state, found.attempts), (state, attempts));
        }
        let expected = |ascending| self.attempts(ascending, |attempt| attempt.delivery.message == message);
        for ascending in [false, true] {
            let query = attempt_query(ascending, 1_000);
            let found = store.attempts_of_message(message, &query).expect("read");
            assert_eq!(without_zero(found.items), expected(ascending), "attempts of {message:?}");
        }
    }

    fn attempts(&self, ascending: bool, wanted: impl Fn(&Attempt) -> bool) -> Vec<Attempt> {
        directed(self.model.attempts.values().filter(|attempt| wanted(attempt)).cloned().collect(), ascending)
    }

    fn check_lists_of_application(&mut self, store: &dyn Store, application: ApplicationKey) {
        let messages = || self.model.messages.values().map(|(message, _)| message);
        let of_application: Vec<Message> =
            messages().filter(|m| m.application == application).map(|m| Message::clone(m)).collect();
        for ascending in [false, true] {
            let mut query = message_query(ascending, 1_000);
            let expected = directed(of_application.clone(), ascending);
            let found = store.messages(application, &query).expect("read");
            assert_eq!((found.items, found.done), (expected.clone(), true), "messages of {application:?}");
            query.limit = 1 + self.dice.below(5);
            let paged = pages(&query, |query| store.messages(application, query).expect("read"), |m| m.sequence());
            assert_eq!(paged, expected, "messages of {application:?}, page by page");
            query.event_types = vec!["invoice.paid".to_owned()];
            query.tag = Some("red".to_owned());
            let paged = pages(&query, |query| store.messages(application, query).expect("read"), |m| m.sequence());
            let wanted = |m: &Message| m.event_type == "invoice.paid" && m.tags.iter().any(|tag| tag == "red");
            let expected: Vec<_> = expected.into_iter().filter(wanted).collect();
            assert_eq!(paged, expected, "messages of {application:?} by type and tag");
        }
    }

    fn check_lists_of_endpoint(&mut self, store: &dyn Store, endpoint: EndpointKey) {
        let deliveries = self.model.deliveries_of(endpoint);
        for ascending in [false, true] {
            let expected = self.attempts(ascending, |attempt| attempt.delivery.endpoint == endpoint);
            let mut query = attempt_query(ascending, 1_000);
            let found = store.attempts_of_endpoint(endpoint, &query).expect("read");
            assert_eq!(without_zero(found.items), expected, "attempts of {endpoint:?}");
            query.limit = 1 + self.dice.below(4);
            query.filter.status = Some(StatusFilter::Fail);
            let failed = |a: &Attempt| a.outcome.as_ref().is_some_and(|o| !o.is_success() && !o.is_cancelled());
            let expected: Vec<_> = expected.into_iter().filter(failed).collect();
            let paged = attempt_pages(&query, |query| store.attempts_of_endpoint(endpoint, query).expect("read"));
            assert_eq!(paged, expected, "failed attempts of {endpoint:?}, page by page");

            let mut query = message_query(ascending, 1 + self.dice.below(4));
            let statuses = [None, Some(StatusFilter::Success), Some(StatusFilter::Sending), Some(StatusFilter::Fail)];
            query.status = statuses[self.dice.below(4)];
            let wanted = |delivery: &&Delivery| match (query.status, self.model.state(**delivery)) {
                (None, _) => true,
                (Some(StatusFilter::Success), state) => state == DeliveryState::Delivered,
                (Some(StatusFilter::Fail), DeliveryState::Ended(reason)) => {
                    matches!(reason, EndReason::Exhausted | EndReason::ResendFailed)
                }
                (Some(StatusFilter::Sending), DeliveryState::Waiting(_)) => self.model.number(**delivery) > 0,
                _ => false,
            };
            let expected: Vec<_> = deliveries
                .iter()
                .filter(wanted)
                .map(|delivery| (delivery.message, self.model.state(*delivery), self.model.number(*delivery)))
                .collect();
            let found = pages(
                &query,
                |query| store.deliveries_of_endpoint(endpoint, query).expect("read"),
                |delivery| delivery.message.sequence(),
            );
            let found: Vec<_> = found.iter().map(|d| (d.message.sequence(), d.state, d.attempts)).collect();
            assert_eq!(found, directed(expected, ascending), "deliveries of {endpoint:?}, {:?}", query.status);
        }
        let mut expected = Ledger::default();
        for delivery in &deliveries {
            match self.model.state(*delivery) {
                DeliveryState::Delivered => expected.delivered += 1,
                DeliveryState::Ended(reason) => expected.ended[usize::from(reason.code())] += 1,
                DeliveryState::Fresh | DeliveryState::Waiting(_) => expected.pending += 1,
            }
        }
        let counted = store.count_deliveries(endpoint, Span::ALL).expect("read");
        let counts = |ledger: Ledger| (ledger.delivered, ledger.pending, ledger.ended);
        assert_eq!(counts(counted), counts(expected), "count of {endpoint:?}");
    }

    fn check_waiting_room(&mut self, store: &dyn Store) {
        for endpoint in (1..=6).map(EndpointKey) {
            let mut rows: Vec<_> =
                self.model.waiting.values().filter(|w| w.delivery.endpoint == endpoint).copied().collect();
            let head = |rows: &[Waiting]| rows.first().map(|first| WaitingHead { due: first.due });
            // The map is in order of acceptance.
            assert_eq!(store.next_due(endpoint, true).expect("read"), head(&rows));
            rows.sort_by_key(|waiting| (waiting.due, waiting.delivery.message));
            assert_eq!(store.next_due(endpoint, false).expect("read"), head(&rows));
            let limit = 1 + self.dice.below(10);
            let until = self.now.plus(Duration::from_secs(self.dice.roll() % 100));
            let found = store.lease_due(endpoint, false, until, limit).expect("read");
            let expected: Vec<_> = rows.into_iter().filter(|w| w.due <= until).take(limit).collect();
            assert_eq!(found.iter().map(|(waiting, _)| *waiting).collect::<Vec<_>>(), expected);
            for (waiting, message) in found {
                assert_eq!(message, *self.model.messages[&waiting.delivery.message].0);
            }
        }
    }

    /// Compares what a start was told with the model.
    pub(super) fn check_recovered(&self, recovered: &Recovered) {
        let mut unfinished = Vec::new();
        for message in &recovered.unfinished {
            let sequence = message.message.sequence();
            assert_eq!(*message.message, *self.model.messages[&sequence].0, "with its payload");
            unfinished.extend(message.fan_out.iter().map(|e| Delivery { endpoint: *e, message: sequence }));
        }
        assert_eq!(unfinished, self.model.fresh());
        let mut heads: BTreeMap<EndpointKey, WaitingHead> = BTreeMap::new();
        for waiting in self.model.waiting.values() {
            let head = heads.entry(waiting.delivery.endpoint).or_insert(WaitingHead { due: waiting.due });
            head.due = head.due.min(waiting.due);
        }
        let mut found = recovered.waiting.clone();
        found.sort_by_key(|(endpoint, _)| *endpoint);
        assert_eq!(found, heads.into_iter().collect::<Vec<_>>());
        assert_eq!(recovered.ledger, Ledger { pending: 0, ..self.model.ledger });
    }

    /// The greatest watermark that is true.
    pub(super) fn true_watermark(&self) -> Sequence {
        self.model.fresh().iter().map(|delivery| delivery.message).min().unwrap_or(self.newest().next())
    }
}

pub(super) fn message_query(ascending: bool, limit: usize) -> MessageQuery {
    MessageQuery {
        span: Span::ALL,
        ascending,
        limit,
        event_types: Vec::new(),
        channel: None,
        tag: None,
        source: None,
        with_payload: true,
        status: None,
    }
}

pub(super) fn attempt_query(ascending: bool, limit: usize) -> AttemptQuery {
    AttemptQuery { span: Span::ALL, ascending, limit, filter: AttemptFilter::default(), with_body: true }
}

/// Follows the pages to the end, as a client of the API does.
pub(super) fn pages<T>(
    query: &MessageQuery,
    read: impl Fn(&MessageQuery) -> Page<T>,
    at: impl Fn(&T) -> Sequence,
) -> Vec<T> {
    let (mut query, mut all) = (query.clone(), Vec::new());
    loop {
        let page = read(&query);
        let last = page.items.last().map(&at);
        assert!(page.items.len() <= query.limit);
        assert!(page.done || page.items.len() == query.limit, "a page is full or the last");
        all.extend(page.items);
        match last {
            Some(last) if !page.done => query.span = rest(query.span, query.ascending, last),
            _ => return all,
        }
    }
}

pub(super) fn attempt_pages(query: &AttemptQuery, read: impl Fn(&AttemptQuery) -> Page<Attempt>) -> Vec<Attempt> {
    let (mut query, mut all) = (query.clone(), Vec::new());
    loop {
        let page = read(&query);
        let last = page.items.last().map(|attempt| attempt.id.sequence());
        all.extend(page.items);
        match last {
            Some(last) if !page.done => query.span = rest(query.span, query.ascending, last),
            _ => return all,
        }
    }
}

fn rest(span: Span, ascending: bool, last: Sequence) -> Span {
    if ascending {
        Span { first: last.next(), ..span }
    } else {
        Span { last: Sequence::from_u64(last.as_u64() - 1), ..span }
    }
}

fn directed<T>(mut rising: Vec<T>, ascending: bool) -> Vec<T> {
    if !ascending {
        rising.reverse();
    }
    rising
}

fn without_zero(attempts: Vec<Attempt>) -> Vec<Attempt> {
    attempts.into_iter().filter(|attempt| attempt.number > 0).collect()
}
