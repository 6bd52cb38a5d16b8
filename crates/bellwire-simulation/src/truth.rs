//! What the world knows better than the program: what was accepted, answered, started and taken; and the promises, checked
//! against it. Each promise of the design has a name here, and a violation says which was broken.

use bellwire_engine::Start;
use bellwire_model::{
    AfterAttempt, ApplicationKey, DedupeKey, Delivery, DeliveryState, EndReason, EndpointId, EndpointKey, FanOut,
    Message, OperationalType, RequestDigest, Sequence, TaskId, Trigger, operational_after,
};
use bellwire_store::{Advanced, Batch, Change, Span, Store, Task, TaskStatus, Work};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::node::Request;
use crate::store::SimStore;

/// The promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// 1
    AcceptedIsDurable,
    /// 2
    NothingDisappears,
    /// 3
    OnceFromTheProducer,
    /// 4
    NoDuplicatesWithoutCause,
    /// 5
    EndpointsDoNotFeelEachOther,
    /// 6
    OrderWhereAskedFor,
    /// 7
    MemoryIsBounded,
    /// No attempt starts after a disable, a deletion, a change or a cancellation was answered.
    ChangesTakeEffect,
    /// A throttle is never exceeded.
    ThrottleIsKept,
    /// 9
    BytesInBytesOut,
    /// 10
    BackAtOnce,
    /// Recovery finds exactly what is unfinished, and the watermark follows.
    WatermarkIsTrue,
    /// A task touches each message of its range exactly once, whatever happens between its slices.
    TasksTouchEachOnce,
    /// Operators are told of what became durable, in the same commit, once.
    OperatorsAreTold,
    /// A retry comes by the schedule, whatever the wall clock does.
    RetriesKeepTheSchedule,
    /// What a source fetches becomes a message once, in order, with its place.
    RowsComeOnce,
    /// An idle engine does nothing, and a busy one no more than it must.
    NoBusyLoop,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// How.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.detail)
    }
}

/// So far apart are two messages of one request at a source, at least: the window of the world, less what a door may take from
/// reading the clock to its place in the log.
const WINDOW_AT_LEAST: Duration = Duration::from_micros(crate::world::WINDOW.unsigned_abs() - 500_000);

pub(crate) type Checked = Result<(), Violation>;

pub(crate) fn broken(promise: Promise, detail: impl Into<String>) -> Checked {
    Err(Violation { promise, detail: detail.into() })
}

#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) payload: Bytes,
    pub(crate) fan_out: FanOut,
    /// When its commit was durable.
    pub(crate) at: i64,
}

/// What an endpoint is, as far as anybody was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Configured {
    pub(crate) version: String,
    pub(crate) disabled: bool,
    pub(crate) deleted: bool,
    pub(crate) fifo: bool,
    pub(crate) throttle: Option<u16>,
    /// When it was last told, changed or disturbed.
    pub(crate) at: i64,
}

/// A task that sends deliveries again.
#[derive(Debug)]
struct Running {
    endpoint: EndpointKey,
    last: Sequence,
    /// Had ended when the task was created; nobody else has asked for them since.
    owes: BTreeSet<Delivery>,
    touched: BTreeSet<Delivery>,
}

#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) messages: BTreeMap<Sequence, Accepted>,
    /// Payloads that doors handed in and that may become messages.
    keys: BTreeMap<DedupeKey, Sequence>,
    /// What came in at sources, by application and the sender's number.
    received: BTreeMap<(ApplicationKey, String), BTreeSet<Sequence>>,
    /// Deliveries not ended as far as the store knows, by endpoint, without resends.
    owed: BTreeMap<EndpointKey, BTreeSet<Sequence>>,
    ended: BTreeSet<Delivery>,
    /// Resends that were committed and not started since.
    manual: BTreeMap<Delivery, bool>,
    /// Successes that the engine of this process was told of.
    told: BTreeSet<Delivery>,
    /// Attempts in flight in this process.
    pub(crate) live: BTreeSet<Delivery>,
    /// What receivers have taken.
    pub(crate) taken: BTreeSet<Delivery>,
    pub(crate) configured: BTreeMap<EndpointKey, Configured>,
    pub(crate) application_throttle: BTreeMap<ApplicationKey, u16>,
    /// The operational application, in worlds with one.
    pub(crate) operational: Option<ApplicationKey>,
    expunged: BTreeSet<Sequence>,
    /// Deliveries that were cancelled, and whether one has started since.
    cancelled: BTreeMap<Delivery, bool>,
    /// Messages before these were cancelled, and the engine knows: nothing of them starts, unless somebody asks for it anew.
    withdrawn: BTreeMap<EndpointKey, Sequence>,
    /// What was asked for or accepted after that.
    renewed: BTreeSet<Delivery>,
    /// Tasks that have not ended.
    tasks: BTreeMap<TaskId, Running>,
    starts: BTreeMap<(bool, u32), VecDeque<i64>>,
}

impl Truth {
    /// A batch has become durable.
    pub(crate) fn committed(&mut self, batch: &Batch, store: &SimStore, now: i64) -> Checked {
        for accepted in &batch.accepted {
            let sequence = accepted.message.sequence();
            for key in accepted.idempotency.iter().map(|entry| entry.key).chain(accepted.event) {
                if let Some(first) = self.keys.insert(key, sequence) {
                    return broken(
                        Promise::OnceFromTheProducer,
                        format!("messages {first:?} and {sequence:?} were made under one key"),
                    );
                }
            }
            self.received(&accepted.message)?;
            for endpoint in &accepted.fan_out {
                self.owed.entry(*endpoint).or_default().insert(sequence);
                // After a crash and a clock that went back, what is accepted now can stand before what was cancelled.
                let delivery = Delivery { endpoint: *endpoint, message: sequence };
                if self.is_withdrawn(delivery) {
                    self.renewed.insert(delivery);
                }
            }
            let Some(payload) = accepted.message.payload.clone() else {
                return broken(Promise::BytesInBytesOut, format!("{sequence:?} was stored without its payload"));
            };
            self.messages.insert(sequence, Accepted { payload, fan_out: accepted.fan_out.clone(), at: now });
        }
        for attempt in &batch.attempts {
            if matches!(attempt.after, AfterAttempt::Waiting { .. }) {
                continue;
            }
            self.ended.insert(attempt.delivery);
            if let Some(owed) = self.owed.get_mut(&attempt.delivery.endpoint) {
                owed.remove(&attempt.delivery.message);
            }
        }
        for change in &batch.changes {
            match change {
                Change::Wait { waiting, owed: true } => {
                    self.manual.insert(waiting.delivery, true);
                    self.asked_for(waiting.delivery, None);
                }
                Change::ExpungePayload(message) => {
                    self.expunged.insert(*message);
                    self.tasks.values_mut().for_each(|task| task.owes.retain(|d| d.message != *message));
                }
                Change::PutTask(task) => self.task_begins(task, store),
                Change::Settle(settled) => {
                    settled.iter().for_each(|settled| self.ended_by_reader(settled.delivery, store))
                }
                Change::Wait { waiting, owed: false } => self.ended_by_reader(waiting.delivery, store),
                Change::PutConsumer { consumer, .. } => {
                    let endpoint = consumer.endpoint;
                    let owed = self.owed.get(&endpoint).into_iter().flatten();
                    let read: Vec<_> = owed.copied().filter(|message| *message <= consumer.cursor).collect();
                    read.into_iter().for_each(|message| self.ended_by_reader(Delivery { endpoint, message }, store));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes that a delivery has ended, if it has.
    fn ended_by_reader(&mut self, delivery: Delivery, store: &SimStore) {
        if matches!(store.stands(delivery), DeliveryState::Delivered | DeliveryState::Ended(_)) {
            self.ended.insert(delivery);
            if let Some(owed) = self.owed.get_mut(&delivery.endpoint) {
                owed.remove(&delivery.message);
            }
        }
    }

    /// What must be touched by a task that is durable now, unless somebody is quicker.
    fn task_begins(&mut self, task: &Task, store: &SimStore) {
        let Some(target) = task.work.target() else { return };
        let all = store.deliveries(target.endpoint, Span { first: task.first, last: task.last });
        let wanted = all.into_iter().filter(|(delivery, state)| {
            let failed = matches!(state, DeliveryState::Ended(reason) if *reason != EndReason::Cancelled);
            let ended = matches!(state, DeliveryState::Delivered | DeliveryState::Ended(_));
            let asked = if matches!(task.work, Work::BulkReplay(..)) { ended } else { failed };
            asked && !self.expunged.contains(&delivery.message)
        });
        let owes = wanted.map(|(delivery, _)| delivery).collect();
        let touched = BTreeSet::new();
        self.tasks.insert(task.id, Running { endpoint: target.endpoint, last: task.last, owes, touched });
    }

    /// Somebody else has asked for a delivery: what a task owed it, it may have.
    fn asked_for(&mut self, delivery: Delivery, by: Option<TaskId>) {
        self.cancelled.remove(&delivery);
        self.renewed.insert(delivery);
        for (_, task) in self.tasks.iter_mut().filter(|(id, _)| Some(**id) != by) {
            task.owes.remove(&delivery);
        }
    }

    /// A slice is durable: rows came, rows went.
    pub(crate) fn sliced(&mut self, advanced: &Advanced, came: &[Delivery], went: &[Delivery]) -> Checked {
        for delivery in went {
            self.ended.insert(*delivery);
            self.cancelled.insert(*delivery, false);
            if let Some(owed) = self.owed.get_mut(&delivery.endpoint) {
                owed.remove(&delivery.message);
            }
        }
        let Some(task) = &advanced.task else { return Ok(()) };
        let Some(running) = self.tasks.get_mut(&task.id) else { return Ok(()) };
        for delivery in came {
            if !running.touched.insert(*delivery) {
                return broken(Promise::TasksTouchEachOnce, format!("{:?} touches {delivery:?} again", task.id));
            }
            if delivery.endpoint != running.endpoint || delivery.message > running.last {
                return broken(Promise::TasksTouchEachOnce, format!("{:?} touches {delivery:?}, not its own", task.id));
            }
        }
        let left = running.owes.difference(&running.touched).next();
        if let Some(left) = left.filter(|_| task.status == TaskStatus::Finished) {
            return broken(Promise::TasksTouchEachOnce, format!("{:?} has finished without {left:?}", task.id));
        }
        if task.status != TaskStatus::Running {
            self.tasks.remove(&task.id);
        }
        for delivery in came {
            self.manual.insert(*delivery, true);
            self.asked_for(*delivery, Some(task.id));
        }
        Ok(())
    }

    /// A batch is about to become durable: it tells operators of just what is in it, whatever became of the batches before.
    pub(crate) fn tells(&self, batch: &Batch) -> Checked {
        let Some(operational) = self.operational else { return Ok(()) };
        let mut told: Vec<(String, String)> = Vec::new();
        for accepted in batch.accepted.iter().filter(|a| a.message.application == operational) {
            let payload = accepted.message.payload.clone().unwrap_or_default();
            let text = String::from_utf8_lossy(&payload).into_owned();
            let id = |prefix: &str, length: usize| {
                text.find(prefix).and_then(|at| text.get(at..at + length)).unwrap_or_default().to_owned()
            };
            let kind = accepted.message.event_type.clone();
            match kind.as_str() {
                "endpoint.disabled" if text.contains("automatic") => told.push((kind, id("ep_", 30))),
                // Only of those that were not so before.
                "endpoint.disabled" | "endpoint.enabled" => {}
                "endpoint.updated" | "endpoint.deleted" => told.push((kind, String::new())),
                _ => told.push((kind, id("atmpt_", 33))),
            }
        }
        let own = |endpoint: EndpointKey| endpoint.0 / 100 == operational.0;
        let mut owed = Vec::new();
        for attempt in batch.attempts.iter().filter(|a| a.application != operational) {
            let kind = operational_after(attempt.number, attempt.trigger, attempt.after);
            owed.extend(kind.map(|kind| (kind.name().to_owned(), attempt.id.to_string())));
        }
        for change in &batch.changes {
            match change {
                Change::PutEndpoint(endpoint) if !own(endpoint.key) => {
                    owed.push((OperationalType::EndpointUpdated.name().to_owned(), String::new()));
                }
                Change::DeleteEndpoint(endpoint) if !own(*endpoint) => {
                    owed.push((OperationalType::EndpointDeleted.name().to_owned(), String::new()));
                }
                Change::PutHealth { endpoint, disable: Some(_), .. } if !own(*endpoint) => {
                    let id = EndpointId::from_parts(Sequence::from_u64(u64::from(endpoint.0)), [2; 12]);
                    owed.push((OperationalType::EndpointDisabled.name().to_owned(), id.to_string()));
                }
                _ => {}
            }
        }
        told.sort_unstable();
        owed.sort_unstable();
        if told != owed {
            return broken(Promise::OperatorsAreTold, format!("told {told:?}, owed {owed:?}"));
        }
        Ok(())
    }

    /// A request at a source has become a message: the only one of its number within a window. A door may have taken a while
    /// from reading the clock to its place in the log.
    fn received(&mut self, message: &Message) -> Checked {
        let Some(number) = message.received.as_ref().and_then(|received| received.dedupe.clone()) else {
            return Ok(());
        };
        let all = self.received.entry((message.application, number)).or_default();
        let sequence = message.sequence();
        let nearest = all.range(..sequence).next_back().copied();
        all.insert(sequence);
        match nearest.filter(|first| sequence.time().since(first.time()) < WINDOW_AT_LEAST) {
            Some(first) => broken(
                Promise::OnceFromTheProducer,
                format!("{first:?} and {sequence:?} were made of one received request, within its window"),
            ),
            None => Ok(()),
        }
    }

    /// A request at a source was answered as one that is known, or has become a message: a message of its own number, that its
    /// window still reaches.
    pub(crate) fn known(&self, store: &SimStore, message: Sequence, request: &Request) -> Checked {
        let Some(keys) = request.received else { return Ok(()) };
        let Ok(Some(stored)) = store.message(message, false) else {
            return broken(Promise::AcceptedIsDurable, format!("{message:?} was answered and is not in the store"));
        };
        let of_another = !self
            .received
            .get(&(request.application, keys.number.to_string()))
            .is_some_and(|all| all.contains(&stored.sequence()));
        if of_another || message < keys.earlier.since {
            let detail = format!("a request was taken for {message:?}, which is another, or too old");
            return broken(Promise::NothingDisappears, detail);
        }
        Ok(())
    }

    /// A door was told that its message is accepted.
    pub(crate) fn answered(
        &self,
        store: &SimStore,
        message: Sequence,
        request: Option<(DedupeKey, RequestDigest)>,
        payload: &Bytes,
    ) -> Checked {
        let Ok(Some(stored)) = store.message(message, true) else {
            return broken(Promise::AcceptedIsDurable, format!("{message:?} was answered and is not in the store"));
        };
        if let Some((key, digest)) = request {
            match store.find_key(key) {
                Ok(Some(entry)) if entry.message == message && entry.digest == digest => {}
                other => {
                    return broken(
                        Promise::OnceFromTheProducer,
                        format!("{message:?} was answered under a key that leads to {other:?}"),
                    );
                }
            }
        }
        if stored.payload.as_ref() != Some(payload) && !self.expunged.contains(&message) {
            return broken(Promise::BytesInBytesOut, format!("{message:?} was stored with other bytes"));
        }
        Ok(())
    }

    /// An engine is told that what waits for an endpoint of messages before `before` is being cancelled.
    pub(crate) fn withdrawn(&mut self, endpoint: EndpointKey, before: Sequence) {
        let known = self.withdrawn.entry(endpoint).or_insert(before);
        *known = before.max(*known);
    }

    /// Whether an engine knows that it is being cancelled, and nobody has asked for it anew.
    fn is_withdrawn(&self, delivery: Delivery) -> bool {
        let known = self.withdrawn.get(&delivery.endpoint).is_some_and(|before| delivery.message < *before);
        known && !self.renewed.contains(&delivery)
    }

    /// An attempt starts at `now`.
    pub(crate) fn started(&mut self, start: &Start, store: &SimStore, now: i64) -> Checked {
        let endpoint = start.endpoint.key;
        let message = start.message.sequence();
        let delivery = Delivery { endpoint, message };
        self.check_configuration(start)?;
        if self.is_withdrawn(delivery) && start.trigger == Trigger::Scheduled {
            return broken(Promise::ChangesTakeEffect, format!("{delivery:?} starts after it was cancelled"));
        }
        let stands = store.stands(delivery);
        let again = match stands {
            // The store knows of a deletion a moment before the engine is told.
            DeliveryState::Ended(EndReason::EndpointDeleted) => false,
            // What was in hand when it was cancelled may be sent, once.
            DeliveryState::Ended(EndReason::Cancelled) => self.cancelled.insert(delivery, true) != Some(false),
            DeliveryState::Delivered | DeliveryState::Ended(_) => true,
            DeliveryState::Fresh => self.told.contains(&delivery),
            // A row that came after the success was told is a resend.
            DeliveryState::Waiting(row) => self.told.contains(&delivery) && row.trigger == Trigger::Scheduled,
        };
        let manual = self.manual.insert(delivery, false) == Some(true) || start.trigger == Trigger::Manual;
        if self.live.contains(&delivery) || (again && !manual) {
            return broken(
                Promise::NoDuplicatesWithoutCause,
                format!("{delivery:?} starts again as attempt {} while it stands {stands:?}", start.number),
            );
        }
        match self.messages.get(&message) {
            Some(accepted) if Some(&accepted.payload) == start.message.payload.as_ref() => {}
            _ => return broken(Promise::BytesInBytesOut, format!("{delivery:?} is sent with other bytes")),
        }
        let configured = self.configured.get(&endpoint).cloned().unwrap_or_default();
        if configured.fifo {
            let busy = self.live.iter().any(|live| live.endpoint == endpoint);
            // What is being cancelled holds nobody up, although the store has not come to its row yet.
            let holds = |first: &Sequence| !self.is_withdrawn(Delivery { endpoint, message: *first });
            let before = self.owed.get(&endpoint).and_then(|owed| owed.iter().copied().find(holds));
            let overtakes = start.trigger == Trigger::Scheduled && before.is_some_and(|first| first < message);
            if busy || overtakes {
                return broken(Promise::OrderWhereAskedFor, format!("{delivery:?} starts before {before:?} has ended"));
            }
        }
        self.check_throttle((true, endpoint.0), configured.throttle, now)?;
        let application = start.endpoint.application;
        let rate = self.application_throttle.get(&application).copied();
        self.check_throttle((false, application.0), rate, now)?;
        self.told.remove(&delivery);
        self.live.insert(delivery);
        Ok(())
    }

    fn check_configuration(&self, start: &Start) -> Checked {
        let endpoint = start.endpoint.key;
        let Some(configured) = self.configured.get(&endpoint) else {
            return broken(Promise::ChangesTakeEffect, format!("an attempt starts to unknown {endpoint:?}"));
        };
        if configured.disabled || configured.deleted {
            return broken(Promise::ChangesTakeEffect, format!("an attempt starts to {endpoint:?}: {configured:?}"));
        }
        // A newer one is on its way to be answered; an older one is not.
        let number = |version: &str| version.parse::<u32>().unwrap_or(0);
        if number(&start.endpoint.description) < number(&configured.version) {
            return broken(
                Promise::ChangesTakeEffect,
                format!("{endpoint:?} is used as of {}, not {}", start.endpoint.description, configured.version),
            );
        }
        Ok(())
    }

    fn check_throttle(&mut self, who: (bool, u32), rate: Option<u16>, now: i64) -> Checked {
        let Some(rate) = rate else { return Ok(()) };
        let starts = self.starts.entry(who).or_default();
        while starts.front().is_some_and(|at| *at <= now - 1_000_000) {
            starts.pop_front();
        }
        starts.push_back(now);
        if starts.len() > usize::from(rate) {
            return broken(
                Promise::ThrottleIsKept,
                format!("{} starts in a second, {rate} allowed, {who:?}", starts.len()),
            );
        }
        Ok(())
    }

    /// The rate of an endpoint has changed: what was started before counts for the old one.
    pub(crate) fn forget_starts(&mut self, endpoint: EndpointKey) {
        self.starts.remove(&(true, endpoint.0));
    }

    /// An outcome was told to the engine.
    pub(crate) fn told(&mut self, delivery: Delivery, success: bool) {
        self.live.remove(&delivery);
        if success {
            self.told.insert(delivery);
        }
    }

    /// The process is gone.
    pub(crate) fn crashed(&mut self) {
        self.live.clear();
        self.told.clear();
    }

    /// Everything that was accepted stands somewhere, and the sum comes out.
    pub(crate) fn sum_comes_out(&self, store: &SimStore) -> Checked {
        let Ok(ledger) = store.ledger() else { return Ok(()) };
        let matches: usize = self.messages.values().map(|m| m.fan_out.len()).sum();
        if !ledger.balances() || (ledger.matched as usize) < matches || ledger.accepted as usize != self.messages.len()
        {
            return broken(
                Promise::NothingDisappears,
                format!("the sum does not come out: {ledger:?}, owed {matches}"),
            );
        }
        Ok(())
    }

    /// At rest: nothing is left without a state, and what counts as delivered was taken.
    pub(crate) fn at_rest(&self, store: &SimStore) -> Checked {
        self.sum_comes_out(store)?;
        for (message, accepted) in &self.messages {
            for endpoint in &accepted.fan_out {
                let delivery = Delivery { endpoint: *endpoint, message: *message };
                match store.stands(delivery) {
                    DeliveryState::Delivered if self.taken.contains(&delivery) => {}
                    DeliveryState::Ended(_) => {}
                    other => {
                        let detail = format!("{delivery:?} stands {other:?} when everything is at rest");
                        return broken(Promise::NothingDisappears, detail);
                    }
                }
            }
        }
        if store.has_tasks() || !self.tasks.is_empty() {
            return broken(Promise::TasksTouchEachOnce, format!("tasks do not end: {:?}", self.tasks.keys()));
        }
        if let Some(row) = store.rows().first() {
            return broken(Promise::NothingDisappears, format!("{row:?} waits for ever"));
        }
        Ok(())
    }
}
