//! A seeded world: virtual time, producers, receivers, one process that is killed, paused and restarted, and a store that outlives it.
//!
//! Each seed draws its own mix of faults. First everything goes wrong that may (safety); then it heals, and the
//! program must come to rest with nothing left without a state (liveness). One event at a time, in the order of virtual
//! time; every source of chance has its own generator, so the same seed is the same world, always.

use crate::bug::{Planted, PumpBug};
use crate::feeder::{FED, Feeder};
use crate::node::{Node, ReceivedKeys, Request, Waiter};
use crate::reader::{PIPED, READ, Readers, TAKEN};
use crate::receiver::Class;
use crate::store::SimStore;
use crate::truth::{Checked, Configured, Promise, Truth, Violation, broken};
use bellwire_engine::{
    Earlier, Effect, Ended, Input, Offer, OfferError, Operational, Receipt, Start, Token, Undurable, Use,
};
use bellwire_model::{
    AfterAttempt, Application, ApplicationId, ApplicationKey, DedupeKey, Delivery, DeliveryState, Endpoint, EndpointId,
    EndpointKey, Health, Kind, Limits, Message, Now, OPERATIONAL_UID, OrganisationId, Outcome, Pipe, RequestDigest,
    Sequence, TaskId, Timestamp, Trigger, Waiting,
};
use bellwire_store::{Change, Matching, ReplayFilter, Store, Target, Task, Work};
use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// Virtual time at the start of the world, in microseconds after Unix's epoch.
const BEGIN: i64 = 1_800_000_000_000_000;
const MS: i64 = 1_000;
const SECOND: i64 = 1_000_000;
/// After so long a healed world must be at rest.
const REST_MAX: i64 = 3 * 86_400 * SECOND;
/// Of an application with many endpoints that hang or lag, and of one that is there to notice it.
const CROWD: ApplicationKey = ApplicationKey(4);
const QUIET: ApplicationKey = ApplicationKey(5);
/// The operational application of worlds that have one, and its endpoint.
const OPERATIONAL: ApplicationKey = ApplicationKey(6);
const OPERATIONAL_ENDPOINT: EndpointKey = EndpointKey(601);
/// More events than any seed needs.
const EVENTS_MAX: u64 = 400_000;
/// One seed in so many has sources.
const RECEIVING_OF: u64 = 5;
/// One seed in so many has a source that fetches its messages itself: those with [`FED_REST`].
const FED_OF: u64 = 9;
const FED_REST: u64 = 4;
/// A healthy endpoint's delivery starts within this after its message was durable.
const LATENCY_MAX: i64 = 250 * MS;
/// Likewise with sixteen slots in all, most of which hang: until an attempt is known to hang it counts as a quick one.
const LATENCY_MAX_SMALL: i64 = 1_250 * MS;
/// The window in which a request at a source is known by its key.
pub(crate) const WINDOW: i64 = 4 * SECOND;
/// After a restart, what is due to healthy endpoints starts within this.
const BACK_WITHIN: i64 = 3 * SECOND;

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Of everything that happened, in order.
    pub hash: u64,
    /// How many events there were.
    pub events: u64,
    /// The promise that was broken, and when, in seconds of virtual time.
    pub violation: Option<(f64, Violation)>,
    /// What happened, if asked for.
    pub trace: Vec<String>,
}

/// Lives through the world of `seed`.
pub fn run(seed: u64, bug: Option<Planted>, trace: bool) -> Report {
    let mut world = World::new(seed, bug, trace);
    let lived = world.live();
    let at = (world.now - BEGIN) as f64 / SECOND as f64;
    Report {
        seed,
        hash: world.hash,
        events: world.events,
        violation: lived.err().map(|violation| (at, violation)),
        trace: world.trace.unwrap_or_default(),
    }
}

/// Which faults this seed knows.
#[derive(Clone, Copy, Debug)]
struct Faults {
    crash: bool,
    pause: bool,
    slow_commits: bool,
    failing_commits: bool,
    unknown_commits: bool,
    failing_reads: bool,
    wall_jumps: bool,
    stops: bool,
    changes: bool,
    manual: bool,
}

pub(crate) enum Event {
    Produce(Request),
    Look(u64, Request),
    Offer(u64, Request, u64),
    Change(u32),
    Edit(u64, Vec<Change>),
    Resend,
    Task(bool),
    CancelTask,
    CancelWaiting,
    Expunge,
    Seal(u64),
    Commit(u64, Fate),
    Failing(u64),
    Shard { generation: u64, shard: usize, input: Input, answers: Option<Box<Told>> },
    Read { generation: u64, shard: usize, endpoint: EndpointKey, fifo: bool, rows: Option<(Timestamp, usize)> },
    Outcome { generation: u64, shard: usize, token: Token, delivery: Delivery, outcome: Box<Outcome> },
    Tick(u64, usize, i64),
    Upkeep,
    Slice(u64),
    Crash,
    Restart,
    Stop,
    Stopped(u64, i64),
    Pause(i64),
    WallJump(i64),
    BackAtOnce(u64, Vec<Delivery>),
    StillWatching(u64),
    Take(u64),
    Say(u64, Receipt, Use),
    Poll(u64),
    Feed(u64),
}

/// How a commit ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Durable,
    Failed,
    UnknownKept,
    UnknownLost,
}

/// What an engine now knows, and the asker of a change is told.
pub(crate) struct Told {
    endpoint: EndpointKey,
    configured: Configured,
}

pub(crate) struct World {
    pub(crate) now: i64,
    wall: i64,
    queue: BTreeMap<(i64, u64), Event>,
    next: u64,
    faults: Faults,
    rng: ChaCha8Rng,
    doors: ChaCha8Rng,
    net: ChaCha8Rng,
    pub(crate) timing: ChaCha8Rng,
    tells: ChaCha8Rng,
    pub(crate) readers: Readers,
    pub(crate) feeder: Feeder,
    pub(crate) store: Arc<SimStore>,
    pub(crate) node: Option<Node>,
    generation: u64,
    paused_until: i64,
    /// When something last happened that may make a healthy endpoint late.
    disturbed: i64,
    healed: bool,
    classes: BTreeMap<EndpointKey, Class>,
    /// Endpoints that answered well since the process began.
    proven: BTreeMap<EndpointKey, i64>,
    truth: Truth,
    seed: u64,
    bug: Option<Planted>,
    version: u32,
    /// Tasks that somebody asked for.
    begun: Vec<TaskId>,
    slice_planned: bool,
    produced: u32,
    hash: u64,
    events: u64,
    /// Steps at the same instant.
    still: (i64, u32),
    trace: Option<Vec<String>>,
}

impl World {
    fn new(seed: u64, bug: Option<Planted>, trace: bool) -> Self {
        let stream = |number: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(number);
            rng
        };
        let mut rng = stream(1);
        // Some worlds are calm: what must hold there is stricter.
        let calm = rng.random_ratio(1, 4);
        let mut coin = |n, of| !calm && rng.random_ratio(n, of);
        let faults = Faults {
            crash: coin(1, 2),
            pause: coin(1, 4),
            slow_commits: coin(1, 4),
            failing_commits: coin(1, 3),
            unknown_commits: coin(1, 6),
            failing_reads: coin(1, 4),
            wall_jumps: coin(1, 3),
            stops: coin(1, 4),
            changes: coin(2, 3),
            manual: coin(1, 2),
        };
        World {
            now: BEGIN,
            wall: 0,
            queue: BTreeMap::new(),
            next: 0,
            faults,
            rng,
            doors: stream(2),
            net: stream(3),
            timing: stream(4),
            tells: stream(5),
            readers: Readers::new(stream(6)),
            feeder: Feeder::new(stream(7)),
            store: Arc::new(SimStore::new(bug.and_then(Planted::in_store))),
            node: None,
            generation: 0,
            paused_until: 0,
            disturbed: BEGIN,
            healed: false,
            classes: BTreeMap::new(),
            proven: BTreeMap::new(),
            truth: Truth::default(),
            seed,
            bug,
            version: 1,
            begun: Vec::new(),
            slice_planned: false,
            produced: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            still: (0, 0),
            trace: trace.then(Vec::new),
        }
    }

    pub(crate) fn has(&self, bug: PumpBug) -> bool {
        self.bug == Some(Planted::Pump(bug))
    }

    pub(crate) fn after(&mut self, wait: i64, event: Event) {
        self.queue.insert((self.now + wait.max(0), self.next), event);
        self.next += 1;
    }

    fn note(&mut self, what: &str, numbers: [u64; 3]) {
        let mut hash = self.hash;
        for value in [self.now as u64, what.len() as u64, numbers[0], numbers[1], numbers[2]] {
            hash = (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        self.hash = hash;
        if let Some(trace) = &mut self.trace {
            let at = (self.now - BEGIN) as f64 / SECOND as f64;
            trace.push(format!("{at:12.6} {what} {} {} {}", numbers[0], numbers[1], numbers[2]));
        }
    }

    fn live(&mut self) -> Checked {
        self.found();
        self.restart()?;
        let trouble = self.rng.random_range(10..40) * SECOND;
        self.plan(trouble);
        self.run_until(BEGIN + trouble)?;
        self.heal()?;
        self.run_until(self.now + REST_MAX)?;
        self.check_rest()
    }

    /// Applications and endpoints, there from the beginning.
    fn found(&mut self) {
        let mut changes = Vec::new();
        let mut key = 10;
        for number in 1..=self.rng.random_range(1..=3u32) {
            let rate = self.rng.random_ratio(1, 6).then(|| self.rng.random_range(2..20u16));
            let application = application(ApplicationKey(number), rate);
            if let Some(rate) = rate {
                self.truth.application_throttle.insert(application.key, rate);
            }
            changes.push(Change::PutApplication(Arc::new(application)));
            for _ in 0..self.rng.random_range(1..=4) {
                key += 1;
                let fifo = self.rng.random_ratio(1, 4);
                let rate = self.rng.random_ratio(1, 5).then(|| self.rng.random_range(1..10u16));
                let endpoint = self.endpoint(EndpointKey(key), ApplicationKey(number), fifo, rate);
                self.classes.insert(endpoint.key, Class::random(&mut self.rng));
                self.truth.configured.insert(endpoint.key, configured(&endpoint, self.now));
                changes.push(Change::PutEndpoint(Arc::new(endpoint)));
            }
        }
        if self.rng.random_ratio(1, 6) {
            self.found_crowd(&mut changes);
        }
        // From a source of its own: worlds without it stay as they were.
        if self.tells.random_ratio(1, 3) {
            self.found_operational(&mut changes);
        }
        if self.readers.rng.random_ratio(1, 3) {
            self.found_pipes(&mut changes);
        }
        if self.seed % FED_OF == FED_REST {
            changes.push(Change::PutApplication(Arc::new(application(FED, None))));
            self.found_feeder(organisation(), &mut changes);
        }
        let batch = bellwire_store::Batch { changes, ..Default::default() };
        self.store.commit(&batch).expect("an empty store takes everything");
    }

    /// One application whose many endpoints are of no use, and one with a single endpoint that should not notice.
    fn found_crowd(&mut self, changes: &mut Vec<Change>) {
        let class = if self.rng.random_ratio(1, 2) { Class::Hanging } else { Class::Laggard };
        let crowd = self.rng.random_range(8..24);
        for (number, endpoints, class) in [(CROWD, crowd, class), (QUIET, 1, Class::Healthy)] {
            changes.push(Change::PutApplication(Arc::new(application(number, None))));
            for n in 0..endpoints {
                let endpoint = self.endpoint(EndpointKey(number.0 * 100 + n), number, false, None);
                self.classes.insert(endpoint.key, class);
                self.truth.configured.insert(endpoint.key, configured(&endpoint, self.now));
                changes.push(Change::PutEndpoint(Arc::new(endpoint)));
            }
        }
    }

    /// Somebody wants to be told of what happens; her receiver is no better than others.
    fn found_operational(&mut self, changes: &mut Vec<Change>) {
        // So that there is much to tell of, some endpoints get one attempt.
        for change in changes.iter_mut() {
            if let Change::PutEndpoint(endpoint) = change
                && self.tells.random_ratio(1, 2)
            {
                Arc::make_mut(endpoint).retry_schedule = bellwire_model::RetrySchedule::new(Vec::new()).ok();
            }
        }
        let uid = Some(OPERATIONAL_UID.to_owned());
        changes.push(Change::PutApplication(Arc::new(Application { uid, ..application(OPERATIONAL, None) })));
        let endpoint = self.endpoint(OPERATIONAL_ENDPOINT, OPERATIONAL, false, None);
        self.classes.insert(endpoint.key, Class::random(&mut self.tells));
        self.truth.configured.insert(endpoint.key, configured(&endpoint, self.now));
        self.truth.operational = Some(OPERATIONAL);
        changes.push(Change::PutEndpoint(Arc::new(endpoint)));
    }

    /// Two pipes with their readers, who come when they like.
    fn found_pipes(&mut self, changes: &mut Vec<Change>) {
        self.readers.present = true;
        changes.push(Change::PutApplication(Arc::new(application(PIPED, None))));
        for key in [TAKEN, READ] {
            let kind = Kind::Pipe(Pipe::default());
            let endpoint = Endpoint { kind, ..self.endpoint(key, PIPED, false, None) };
            self.truth.configured.insert(endpoint.key, configured(&endpoint, self.now));
            changes.push(Change::PutEndpoint(Arc::new(endpoint)));
        }
    }

    fn endpoint(&mut self, key: EndpointKey, application: ApplicationKey, fifo: bool, rate: Option<u16>) -> Endpoint {
        Endpoint {
            key,
            application,
            id: EndpointId::from_parts(Sequence::from_u64(u64::from(key.0)), [2; 12]),
            uid: None,
            kind: Default::default(),
            url: "https://receiver.example/hook".to_owned(),
            description: self.version.to_string(),
            disabled: None,
            event_types: None,
            channels: None,
            limits: Limits { fifo, throttle_rate: rate.and_then(NonZeroU16::new) },
            secrets: Vec::new(),
            headers: Vec::new(),
            retry_schedule: None,
            shape: Default::default(),
            access: Default::default(),
            metadata: BTreeMap::new(),
            health: Health::default(),
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
        }
    }

    /// What the producers do and what goes wrong, until `trouble` is over.
    fn plan(&mut self, trouble: i64) {
        for _ in 0..self.rng.random_range(3..30) {
            let at = self.rng.random_range(0..trouble);
            // Some come alone, some in a burst, some as equal ones at once.
            let burst = if self.rng.random_ratio(1, 8) { self.rng.random_range(5..40) } else { 1 };
            let application = self.random_application();
            for _ in 0..burst {
                let request = self.request(application);
                let equal = if request.idempotency.is_some() { self.rng.random_range(1..4) } else { 1 };
                for _ in 0..equal {
                    let request = request.clone();
                    let late = self.rng.random_range(0..5 * MS);
                    self.after(at + late, Event::Produce(request));
                }
            }
        }
        if self.truth.configured.contains_key(&EndpointKey(QUIET.0 * 100)) {
            for (application, every) in [(CROWD, 700 * MS), (QUIET, 900 * MS)] {
                for n in 0..trouble.min(20 * SECOND) / every {
                    let request =
                        Request { idempotency: None, event: None, delayed: None, ..self.request(application) };
                    let payload = Bytes::from(format!("{{\"number\":{}}}", self.produced));
                    self.after(n * every, Event::Produce(Request { payload, ..request }));
                }
            }
        }
        if self.readers.present {
            for _ in 0..self.readers.rng.random_range(3..25) {
                let at = self.readers.rng.random_range(0..trouble);
                let request = self.request(PIPED);
                self.after(at, Event::Produce(request));
            }
        }
        // A process that stood still for longer than a window between reading the clock and the log knows no better.
        if self.seed % RECEIVING_OF == RECEIVING_OF - 1 && !self.faults.pause {
            self.plan_received(trouble);
        }
        self.plan_some(self.faults.crash, 1..4, trouble, |_| Event::Crash);
        self.plan_some(self.faults.stops, 1..2, trouble, |_| Event::Stop);
        self.plan_some(self.faults.pause, 1..3, trouble, |rng| Event::Pause(rng.random_range(MS..20 * SECOND)));
        self.plan_some(self.faults.wall_jumps, 1..4, trouble, |rng| {
            let hour = 3_600 * SECOND;
            let jumps = [hour, -hour, 24 * hour, -24 * hour, -10 * 365 * 24 * hour, SECOND, -SECOND];
            Event::WallJump(jumps[rng.random_range(0..jumps.len())])
        });
        self.plan_some(self.faults.changes, 1..12, trouble, |rng| Event::Change(rng.random_range(0..100)));
        self.plan_some(self.faults.manual, 1..12, trouble, |rng| match rng.random_range(0..10) {
            0..6 => Event::Resend,
            6..8 => Event::Task(rng.random_ratio(1, 3)),
            8 if rng.random_ratio(1, 3) => Event::CancelTask,
            8 => Event::CancelWaiting,
            _ => Event::Expunge,
        });
    }

    /// Senders that repeat themselves: around the ends of windows, and all at once.
    fn plan_received(&mut self, trouble: i64) {
        for _ in 0..self.rng.random_range(2..12) {
            let application = self.random_application();
            let number = self.rng.random_range(0..3u8);
            let edge = self.rng.random_range(0..trouble / WINDOW + 1) * WINDOW;
            let burst = if self.rng.random_ratio(1, 4) { self.rng.random_range(40..90) } else { 4 };
            for n in 0..burst {
                let number = if burst > 4 { 3 + n } else { number };
                let payload = format!("{{\"at\":{},\"number\":{number}}}", application.0);
                let request = Request {
                    application,
                    payload: Bytes::from(payload),
                    idempotency: None,
                    event: None,
                    received: Some(received_keys(application, number, Timestamp::EPOCH)),
                    delayed: None,
                    tries: 0,
                };
                let around = self.rng.random_range(-4 * MS..4 * MS);
                self.after((edge + around).max(0), Event::Produce(request));
            }
        }
    }

    fn plan_some(
        &mut self,
        wanted: bool,
        times: std::ops::Range<u32>,
        trouble: i64,
        event: impl Fn(&mut ChaCha8Rng) -> Event,
    ) {
        if !wanted {
            return;
        }
        for _ in 0..self.rng.random_range(times) {
            let at = self.rng.random_range(0..trouble);
            let event = event(&mut self.rng);
            self.after(at, event);
        }
    }

    fn random_application(&mut self) -> ApplicationKey {
        ApplicationKey(self.rng.random_range(1..=3))
    }

    fn request(&mut self, application: ApplicationKey) -> Request {
        self.produced += 1;
        let key = self.rng.random_ratio(1, 3).then(|| self.rng.random_range(0..12u8));
        let variant = u8::from(self.rng.random_ratio(1, 6));
        let event = self.rng.random_ratio(1, 6).then(|| self.rng.random_range(0..8u8));
        let scope = application.0 as u8;
        let mut payload = match key {
            Some(key) => format!("{{\"key\":{key},\"body\":{variant}}}").into_bytes(),
            None => format!("{{\"number\":{}}}", self.produced).into_bytes(),
        };
        // Bytes in, bytes out: not all of them are text.
        payload.push(0xff);
        Request {
            application,
            payload: Bytes::from(payload),
            idempotency: key.map(|key| (dedupe(1, scope, key), RequestDigest([variant; 8]))),
            // An event id belongs to the body, too.
            event: event.map(|event| dedupe(2, scope, event)),
            received: None,
            delayed: self.rng.random_ratio(1, 12).then(|| self.rng.random_range(0..20 * SECOND)),
            tries: 0,
        }
    }

    fn run_until(&mut self, end: i64) -> Checked {
        while let Some(((at, id), event)) = self.queue.pop_first() {
            if at > end {
                self.queue.insert((at, id), event);
                self.now = end;
                return Ok(());
            }
            let of_node = !matches!(event, Event::Crash | Event::Pause(_) | Event::WallJump(_) | Event::Restart);
            if of_node && at < self.paused_until && self.node.is_some() {
                self.queue.insert((self.paused_until, id), event);
                continue;
            }
            self.now = self.now.max(at);
            self.events += 1;
            if self.events > EVENTS_MAX {
                return broken(Promise::NoBusyLoop, format!("more than {EVENTS_MAX} events"));
            }
            self.happen(event)?;
        }
        self.now = self.now.max(end.min(self.now));
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Produce(request) => self.produce(request),
            Event::Look(generation, request) => return self.look(generation, request),
            Event::Offer(generation, request, looked) => return self.offer(generation, request, looked),
            Event::Change(die) => self.change(die),
            Event::Edit(generation, changes) => self.edit(generation, changes),
            Event::Resend => self.resend(),
            Event::Task(bulk) => self.task(bulk),
            Event::CancelTask => self.cancel_task(),
            Event::CancelWaiting => self.cancel_waiting(),
            Event::Slice(generation) => return self.slice(generation),
            Event::Expunge => self.expunge(),
            Event::Seal(generation) => return self.seal(generation),
            Event::Commit(generation, fate) => return self.commit(generation, fate),
            Event::Failing(generation) => return self.failing(generation),
            Event::Shard { generation, shard, input, answers } => {
                return self.tell(generation, shard, input, answers);
            }
            Event::Read { generation, shard, endpoint, fifo, rows } => {
                self.read(generation, shard, endpoint, fifo, rows);
            }
            Event::Outcome { generation, shard, token, delivery, outcome } => {
                return self.outcome(generation, shard, token, delivery, *outcome);
            }
            Event::Tick(generation, shard, at) => return self.tick(generation, shard, at),
            Event::Upkeep => self.upkeep(),
            Event::Crash => self.crash(),
            Event::Restart => return self.restart(),
            Event::Stop => return self.stop(),
            Event::Stopped(generation, deadline) => self.stopped(generation, deadline),
            Event::Pause(wait) => {
                if !self.healed && self.node.is_some() {
                    self.paused_until = self.paused_until.max(self.now + wait);
                    self.disturbed = self.disturbed.max(self.paused_until);
                    self.note("pause", [wait as u64, 0, 0]);
                }
            }
            Event::WallJump(by) => {
                self.wall += by;
                self.note("wall clock jumps", [by as u64, 0, 0]);
            }
            Event::BackAtOnce(generation, deliveries) => return self.check_back(generation, &deliveries),
            Event::StillWatching(generation) => return self.check_watermark(generation),
            Event::Take(generation) => return self.take(generation),
            Event::Say(generation, receipt, what) => self.said(generation, receipt, what),
            Event::Poll(generation) => return self.poll(generation),
            Event::Feed(generation) => self.feed(generation),
        }
        Ok(())
    }

    /// The present generation of the process, if it lives.
    pub(crate) fn alive(&self, generation: u64) -> bool {
        self.generation == generation && self.node.is_some()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn is_healed(&self) -> bool {
        self.healed
    }

    pub(crate) fn engine_now(&self) -> Timestamp {
        self.node_now().engine
    }

    pub(crate) fn note_reader(&mut self, what: &str, message: Sequence) {
        self.note(what, [message.as_u64(), 0, 0]);
    }

    pub(crate) fn note_feeder(&mut self, what: &str, row: u32) {
        self.note(what, [u64::from(row), 0, 0]);
    }

    /// A reader has taken a delivery.
    pub(crate) fn taken(&mut self, delivery: Delivery) {
        self.truth.taken.insert(delivery);
    }

    /// What a reader gets is what was accepted.
    pub(crate) fn check_bytes(&self, at: Sequence, message: &Message) -> Checked {
        match self.truth.messages.get(&at) {
            Some(accepted) if message.payload.as_ref() == Some(&accepted.payload) => Ok(()),
            _ => broken(Promise::BytesInBytesOut, format!("a reader got {at:?} with other bytes")),
        }
    }

    /// The messages in `(after, through]` that were accepted for an endpoint.
    pub(crate) fn accepted_for(&self, endpoint: EndpointKey, after: Sequence, through: Sequence) -> Vec<Sequence> {
        let range = self.truth.messages.range(after.next()..=through.max(after.next()));
        let of = range.filter(|(at, accepted)| **at <= through && accepted.fan_out.contains(&endpoint));
        of.map(|(at, _)| *at).collect()
    }

    /// Messages that somebody may resend or expunge: what readers of pipes have is their own affair.
    fn touchable(&self) -> Vec<Sequence> {
        let all = self.truth.messages.iter().filter(|(_, accepted)| !accepted.fan_out.contains(&READ));
        all.map(|(message, _)| *message).collect()
    }

    pub(crate) fn wall_now(&self) -> Timestamp {
        Timestamp::from_micros(self.now + self.wall)
    }

    fn node_now(&self) -> Now {
        let offset = self.node.as_ref().map_or(0, |node| node.offset);
        Now { engine: Timestamp::from_micros(self.now + offset), wall: self.wall_now() }
    }

    // ---- doors ----

    fn produce(&mut self, mut request: Request) {
        if let Some(keys) = &mut request.received {
            *keys = received_keys(request.application, keys.number, self.node_now().engine);
        }
        let generation = self.generation;
        if self.node.is_none() {
            self.try_again(request);
            return;
        }
        let wait = self.doors.random_range(0..MS);
        self.after(wait, Event::Look(generation, request));
    }

    /// The producer got no answer, or was told to come again.
    fn try_again(&mut self, mut request: Request) {
        request.tries += 1;
        if request.tries < 4 && !self.healed && (request.tries == 1 || self.doors.random_ratio(1, 2)) {
            let wait = self.doors.random_range(50 * MS..2 * SECOND);
            self.after(wait, Event::Produce(request));
        }
    }

    fn look(&mut self, generation: u64, request: Request) -> Checked {
        let Some(looked) = self.node.as_ref().filter(|_| self.generation == generation).map(|n| n.intake.looked())
        else {
            self.try_again(request);
            return Ok(());
        };
        if let Some((key, digest)) = request.idempotency
            && let Ok(Some(entry)) = self.store.find_key(key)
        {
            let same = entry.digest == digest;
            self.note("key found", [entry.message.as_u64(), u64::from(same), 0]);
            return if same {
                self.truth.answered(&self.store, entry.message, request.idempotency, &request.payload)
            } else {
                Ok(())
            };
        }
        if let Some(keys) = request.received {
            let find = |key| self.store.find_key(key).ok().flatten();
            let Earlier { key, since, next } = keys.earlier;
            let known = find(keys.own)
                .or_else(|| find(key).filter(|entry| entry.message >= since))
                .or_else(|| next.and_then(find));
            if let Some(entry) = known {
                self.note("received before", [entry.message.as_u64(), 0, 0]);
                return self.truth.known(&self.store, entry.message, &request);
            }
        }
        if let Some(key) = request.event
            && let Ok(Some(entry)) = self.store.find_key(key)
        {
            self.note("event id found", [entry.message.as_u64(), 0, 0]);
            return Ok(());
        }
        let slow = if self.doors.random_ratio(1, 10) { 20 * MS } else { MS };
        let wait = self.doors.random_range(0..slow);
        self.after(wait, Event::Offer(generation, request, looked));
        Ok(())
    }

    fn offer(&mut self, generation: u64, request: Request, looked: u64) -> Checked {
        if !self.alive(generation) {
            self.try_again(request);
            return Ok(());
        }
        let now = self.node_now().engine;
        let Some(node) = &mut self.node else { return Ok(()) };
        let Some(draft) = node.draft(&request, now) else { return Ok(()) };
        let answer = node.intake.offer(now, draft, looked);
        let (queued, bytes) = node.intake.queued();
        let code = match &answer {
            Ok(Offer::Queued { message, batch }) => {
                let message = message.sequence();
                node.waiters.entry(*batch).or_default().push(Waiter::Message(message, request));
                0
            }
            Ok(Offer::Same { message, batch }) => {
                let sealed_or_later = *batch > node.intake.looked();
                let waiter = Waiter::Message(*message, request);
                if sealed_or_later {
                    node.waiters.entry(*batch).or_default().push(waiter);
                } else {
                    node.answer_now.push(waiter);
                }
                1
            }
            Err(OfferError::LookAgain) => {
                self.after(0, Event::Look(generation, request));
                2
            }
            Err(OfferError::Busy | OfferError::Closed) => {
                self.try_again(request);
                3
            }
            Err(OfferError::KeyReused { batch } | OfferError::EventIdTaken { batch }) => {
                if self.bug == Some(Planted::Pump(PumpBug::RefusedEarly)) {
                    self.check_refused(&request)?;
                } else if *batch > node.intake.looked() {
                    node.waiters.entry(*batch).or_default().push(Waiter::Refused(request));
                } else {
                    node.answer_now.push(Waiter::Refused(request));
                }
                4
            }
        };
        self.note("offer", [code, queued as u64, bytes as u64]);
        self.schedule_seal();
        Ok(())
    }

    /// Whoever is told that a key is taken finds the message that has it.
    fn check_refused(&self, request: &Request) -> Checked {
        let mut keys = request.idempotency.iter().map(|(key, _)| *key).chain(request.event);
        if keys.any(|key| matches!(self.store.find_key(key), Ok(Some(_)))) {
            return Ok(());
        }
        broken(Promise::AcceptedIsDurable, "a key was refused as taken, and nothing durable has it")
    }

    fn change(&mut self, die: u32) {
        let now = self.node_now().engine;
        let keys: Vec<_> = self.classes.keys().copied().collect();
        let key = keys[self.doors.random_range(0..keys.len())];
        self.version += 1;
        let version = self.version;
        let Some(node) = self.node.as_mut().filter(|node| !node.changing) else {
            if !self.healed {
                self.after(50 * MS, Event::Change(die));
            }
            return;
        };
        let Some(endpoint) = node.catalogue.endpoint(key).cloned() else { return };
        let mut new = Endpoint::clone(&endpoint);
        new.description = version.to_string();
        let switch = (die < 60).then(|| Change::SwitchEndpoint { endpoint: key, enabled: die >= 30 });
        match die {
            0..70 => {}
            70..80 => new.limits.fifo = !new.limits.fifo,
            80..90 => new.limits.throttle_rate = NonZeroU16::new((version % 6) as u16),
            _ => {}
        }
        // Whoever wants to be told goes on wanting it, so that what must be told is known.
        let delete = die >= 90 && key != OPERATIONAL_ENDPOINT;
        let change = if delete { Change::DeleteEndpoint(key) } else { Change::PutEndpoint(Arc::new(new)) };
        // What is written was read a while ago.
        node.changing = true;
        let wait = self.doors.random_range(0..2 * SECOND);
        let changes = std::iter::once(change).chain(switch).collect();
        self.after(wait, Event::Edit(self.generation, changes));
        self.note("change", [u64::from(key.0), u64::from(die), now.as_micros() as u64]);
    }

    fn edit(&mut self, generation: u64, changes: Vec<Change>) {
        let now = self.node_now().engine;
        let Some(node) = self.node.as_mut().filter(|_| self.generation == generation) else { return };
        match node.change(now, changes.clone()) {
            Ok(batch) => node.waiters.entry(batch).or_default().push(Waiter::Change(changes)),
            Err(_) => node.changing = false,
        }
        self.schedule_seal();
    }

    fn resend(&mut self) {
        let now = self.node_now().engine;
        let all = self.touchable();
        let Some(node) = self.node.as_mut().filter(|node| !node.changing && !all.is_empty()) else { return };
        let message = all[self.doors.random_range(0..all.len())];
        let keys: Vec<_> = self.truth.messages[&message].fan_out.iter().copied().collect();
        if keys.is_empty() {
            return;
        }
        let delivery = Delivery { endpoint: keys[self.doors.random_range(0..keys.len())], message };
        if node.catalogue.endpoint(delivery.endpoint).is_none() {
            return;
        }
        let Ok(Some(found)) = self.store.delivery(delivery) else { return };
        if !matches!(found.state, DeliveryState::Delivered | DeliveryState::Ended(_)) {
            return;
        }
        let waiting = Waiting { delivery, due: now, next: found.attempts + 1, trigger: Trigger::Manual };
        let change = Change::Wait { waiting, owed: true };
        if let Ok(batch) = node.change(now, vec![change.clone()]) {
            node.changing = true;
            node.waiters.entry(batch).or_default().push(Waiter::Change(vec![change]));
            self.note("resend", [u64::from(delivery.endpoint.0), message.as_u64(), 0]);
            self.schedule_seal();
        }
    }

    fn task(&mut self, bulk: bool) {
        let now = self.node_now().engine;
        let keys: Vec<_> = self.classes.keys().copied().collect();
        let endpoint = keys[self.doors.random_range(0..keys.len())];
        let Some(node) = self.node.as_mut().filter(|node| !node.changing) else { return };
        let Some(application) = node.catalogue.endpoint(endpoint).map(|e| e.application) else { return };
        let target = Target { application, endpoint };
        let work = if bulk { Work::BulkReplay(target, ReplayFilter::default()) } else { Work::Recover(target) };
        let id = TaskId::from_parts(node.intake.sequence(now), [4; 12]);
        let task = Arc::new(Task::new(id, organisation(), work, Sequence::ZERO, Sequence::MAX));
        self.begun.push(id);
        self.note("task", [u64::from(endpoint.0), u64::from(bulk), id.sequence().as_u64()]);
        self.ask(Change::PutTask(task));
    }

    fn cancel_task(&mut self) {
        let at = self.node_now().engine;
        if let Some(task) = self.begun.last().copied().filter(|_| self.node.as_ref().is_some_and(|n| !n.changing)) {
            self.note("cancel task", [task.sequence().as_u64(), 0, 0]);
            self.ask(Change::CancelTask { task, at });
        }
    }

    fn cancel_waiting(&mut self) {
        let at = self.node_now().engine;
        let keys: Vec<_> = self.classes.keys().copied().collect();
        let endpoint = keys[self.doors.random_range(0..keys.len())];
        if self.node.as_ref().is_some_and(|n| !n.changing && n.catalogue.endpoint(endpoint).is_some()) {
            self.note("cancel waiting", [u64::from(endpoint.0), 0, 0]);
            self.ask(Change::CancelWaiting { endpoint, before: Sequence::first_at(at), at });
        }
    }

    /// Hands a change to the intake.
    fn ask(&mut self, change: Change) {
        let now = self.node_now().engine;
        let Some(node) = &mut self.node else { return };
        if let Ok(batch) = node.change(now, vec![change.clone()]) {
            node.changing = true;
            node.waiters.entry(batch).or_default().push(Waiter::Change(vec![change]));
            self.schedule_seal();
        }
    }

    fn expunge(&mut self) {
        let now = self.node_now().engine;
        let all = self.touchable();
        let Some(node) = self.node.as_mut().filter(|node| !node.changing && !all.is_empty()) else { return };
        let message = all[self.doors.random_range(0..all.len())];
        if let Ok(batch) = node.change(now, vec![Change::ExpungePayload(message)]) {
            node.changing = true;
            node.waiters.entry(batch).or_default().push(Waiter::Change(vec![Change::ExpungePayload(message)]));
            self.schedule_seal();
        }
    }

    // ---- commits ----

    pub(crate) fn schedule_seal(&mut self) {
        let generation = self.generation;
        let wait = self.timing.random_range(0..MS);
        let Some(node) = &mut self.node else { return };
        if !node.seal_planned && !node.committing && !node.intake.is_empty() {
            node.seal_planned = true;
            self.after(wait, Event::Seal(generation));
        }
    }

    fn seal(&mut self, generation: u64) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        let Some(node) = &mut self.node else { return Ok(()) };
        node.seal_planned = false;
        let Some(sealed) = node.intake.seal() else { return Ok(()) };
        node.committing = true;
        let (messages, attempts) = (sealed.batch.accepted.len() as u64, sealed.batch.attempts.len() as u64);
        node.sealed = Some(sealed);
        let number = node.sealed.as_ref().map_or(0, |s| s.number);
        self.note("seal", [number, messages, attempts]);
        if self.has(PumpBug::AckBeforeDurable) {
            self.answer(number, true)?;
        }
        let fate = self.fate();
        let wait = match fate {
            Fate::Durable if self.faults.slow_commits && !self.healed && self.timing.random_ratio(1, 30) => {
                let wait = self.timing.random_range(100 * MS..8 * SECOND);
                self.disturbed = self.disturbed.max(self.now + wait);
                wait
            }
            _ => self.timing.random_range(200..6 * MS),
        };
        self.after(wait, Event::Commit(generation, fate));
        Ok(())
    }

    fn fate(&mut self) -> Fate {
        if self.healed {
            return Fate::Durable;
        }
        if self.faults.failing_commits && self.timing.random_ratio(1, 15) {
            return Fate::Failed;
        }
        match self.timing.random_range(0..200) {
            0 if self.faults.unknown_commits => Fate::UnknownKept,
            1 if self.faults.unknown_commits => Fate::UnknownLost,
            _ => Fate::Durable,
        }
    }

    /// Every retry comes by the schedule, from the moment of the decision.
    fn check_decision(&self, now: Timestamp, decided: &Undurable) -> Checked {
        let (Undurable::Attempt { delivery, number, outcome, after: AfterAttempt::Waiting { due }, .. }, Some(node)) =
            (decided, &self.node)
        else {
            return Ok(());
        };
        if matches!(decided, Undurable::Attempt { trigger: Trigger::Manual, .. }) {
            return broken(Promise::RetriesKeepTheSchedule, format!("{delivery:?} is resent more than once"));
        }
        let wait = usize::try_from(*number).ok().and_then(|n| node.schedule.waits().get(n.checked_sub(1)?).copied());
        let asked = match outcome.as_ref().and_then(|outcome| outcome.retry_after) {
            Some(bellwire_model::RetryAfter::Wait(asked)) => asked,
            _ => Duration::ZERO,
        };
        let least = wait.unwrap_or_default().max(asked);
        if wait.is_none() || *due < now.plus(least) || *due > now.plus(least.mul_f64(1.2) + Duration::from_millis(1)) {
            let detail = format!("{delivery:?}: after attempt {number} at {now} the next is due {due}");
            return broken(Promise::RetriesKeepTheSchedule, detail);
        }
        Ok(())
    }

    fn commit(&mut self, generation: u64, fate: Fate) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        let Some(sealed) = self.node.as_mut().and_then(|node| node.sealed.take()) else { return Ok(()) };
        let number = sealed.number;
        if matches!(fate, Fate::Durable | Fate::UnknownKept) {
            self.keep(&sealed.batch)?;
        }
        self.note("commit", [number, fate as u64, 0]);
        let Some(node) = &mut self.node else { return Ok(()) };
        node.committing = false;
        match fate {
            Fate::UnknownKept | Fate::UnknownLost => self.crash(),
            Fate::Failed => {
                drop(sealed);
                node.intake.failed();
                self.disturbed = self.now + SECOND;
                self.answer(number, false)?;
                self.set_failing(true);
                // It tries again in a while.
                self.after(50 * MS, Event::Failing(generation));
            }
            Fate::Durable => {
                let changes: Vec<_> = sealed.batch.changes.clone();
                drop(sealed);
                node.last_durable = self.now;
                let told = node.intake.committed();
                let was_failing = node.failing;
                if was_failing {
                    self.set_failing(false);
                }
                for (shard, committed) in told.into_iter().enumerate() {
                    self.inbox(shard, Input::Committed(committed), None);
                }
                self.apply(&changes)?;
                if !self.has(PumpBug::AckBeforeDurable) {
                    self.answer(number, true)?;
                }
                self.after(0, Event::Upkeep);
                self.plan_slice();
                self.plan_readers();
                self.schedule_seal();
            }
        }
        Ok(())
    }

    /// Writes a batch, and notes what that means.
    fn keep(&mut self, batch: &bellwire_store::Batch) -> Checked {
        self.truth.tells(batch)?;
        self.store.commit(batch).expect("a store in memory takes everything");
        self.truth.committed(batch, &self.store, self.now)?;
        self.feeder.committed(batch, &self.store)?;
        if self.events.is_multiple_of(16) {
            self.truth.sum_comes_out(&self.store)?;
        }
        Ok(())
    }

    fn failing(&mut self, generation: u64) -> Checked {
        if self.alive(generation) {
            self.schedule_seal();
        }
        Ok(())
    }

    fn set_failing(&mut self, failing: bool) {
        let Some(node) = &mut self.node else { return };
        node.failing = failing;
        for shard in 0..node.engines.len() {
            self.inbox(shard, Input::StoreFailing(failing), None);
        }
    }

    /// Changes of configuration are durable: the catalogue follows, then the engines, then whoever asked.
    fn apply(&mut self, changes: &[Change]) -> Checked {
        let early = self.has(PumpBug::ChangeAnsweredEarly);
        for change in changes {
            let Some(node) = &mut self.node else { return Ok(()) };
            // Nothing here concerns more than one application.
            let Some((Some(application), input)) = node.catalogue.apply(change) else { continue };
            let shard = node.shard_of(application);
            let told = match (change, &input) {
                (Change::PutEndpoint(_), Input::Endpoint(endpoint)) => {
                    Some(Box::new(Told { endpoint: endpoint.key, configured: configured(endpoint, self.now) }))
                }
                (Change::SwitchEndpoint { endpoint, .. }, _) => node
                    .catalogue
                    .endpoint(*endpoint)
                    .map(|found| Box::new(Told { endpoint: *endpoint, configured: configured(found, self.now) })),
                (Change::DeleteEndpoint(key), _) => self.truth.configured.get(key).map(|old| {
                    let gone = Configured { deleted: true, at: self.now, ..old.clone() };
                    Box::new(Told { endpoint: *key, configured: gone })
                }),
                _ => None,
            };
            if let Some(told) = told.as_ref().filter(|_| early) {
                self.answer_change(told);
            }
            self.inbox(shard, input, told);
        }
        self.check_catalogue(changes)
    }

    /// The catalogue has followed the store: what an engine found out and what an owner decided is the same in both.
    fn check_catalogue(&self, changes: &[Change]) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        for change in changes {
            let (Change::PutHealth { endpoint: key, .. } | Change::SwitchEndpoint { endpoint: key, .. }) = change
            else {
                continue;
            };
            let stands = |endpoint: Option<&Arc<Endpoint>>| endpoint.map(|e| (e.disabled, e.health));
            let (store, catalogue) =
                (stands(self.store.endpoint(*key).as_ref()), stands(node.catalogue.endpoint(*key)));
            if store != catalogue {
                let detail = format!("{key:?} is {store:?} in the store and {catalogue:?} in the catalogue");
                return broken(Promise::ChangesTakeEffect, detail);
            }
        }
        Ok(())
    }

    fn answer_change(&mut self, told: &Told) {
        let old = self.truth.configured.get(&told.endpoint).cloned().unwrap_or_default();
        if old.throttle != told.configured.throttle {
            self.truth.forget_starts(told.endpoint);
        }
        self.proven.remove(&told.endpoint);
        self.truth.configured.insert(told.endpoint, Configured { at: self.now, ..told.configured.clone() });
    }

    /// Answers the doors that wait for a batch.
    fn answer(&mut self, batch: u64, kept: bool) -> Checked {
        let Some(node) = &mut self.node else { return Ok(()) };
        let mut waiters = node.waiters.remove(&batch).unwrap_or_default();
        waiters.append(&mut node.answer_now);
        for waiter in waiters {
            match waiter {
                Waiter::Message(message, request) if kept => {
                    self.note("accepted", [message.as_u64(), 0, 0]);
                    self.truth.known(&self.store, message, &request)?;
                    self.truth.answered(&self.store, message, request.idempotency, &request.payload)?;
                }
                Waiter::Message(_, request) => self.try_again(request),
                Waiter::Refused(request) if kept => self.check_refused(&request)?,
                Waiter::Refused(request) => self.after(0, Event::Look(self.generation, request)),
                Waiter::Settled(receipt, what) => self.settled(receipt, what, kept),
                Waiter::Page(through) => self.fed(through, kept),
                Waiter::Change(_) => {
                    if let Some(node) = &mut self.node {
                        node.changing = false;
                    }
                }
            }
        }
        Ok(())
    }

    fn upkeep(&mut self) {
        let now = self.node_now().engine;
        if self.node.is_some() && self.store.upkeep(now).unwrap_or(false) {
            self.after(MS, Event::Upkeep);
        }
    }

    fn plan_slice(&mut self) {
        if self.node.is_some() && self.store.has_tasks() && !self.slice_planned {
            self.slice_planned = true;
            let wait = self.timing.random_range(MS..200 * MS);
            self.after(wait, Event::Slice(self.generation));
        }
    }

    /// The committing thread does a slice of a task between two commits, and tells the engines.
    fn slice(&mut self, generation: u64) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        self.slice_planned = false;
        if self.node.as_ref().is_some_and(|node| node.committing || node.stopping) {
            self.plan_slice();
            return Ok(());
        }
        let rows = || self.store.rows().into_iter().map(|row| row.delivery).collect::<BTreeSet<_>>();
        let before = rows();
        let advanced = self.store.advance_task(self.node_now().engine, &Nobody);
        let Some(advanced) = advanced.expect("a store in memory takes everything") else { return Ok(()) };
        let after = rows();
        let came: Vec<_> = after.difference(&before).copied().collect();
        let went: Vec<_> = before.difference(&after).copied().collect();
        self.note("slice", [came.len() as u64, went.len() as u64, 0]);
        self.truth.sliced(&advanced, &came, &went)?;
        self.truth.sum_comes_out(&self.store)?;
        if let Some(endpoint) = advanced.look_again {
            let shards = self.node.as_ref().map_or(0, |node| node.engines.len());
            for shard in 0..shards {
                self.inbox(shard, Input::LookAgain(endpoint), None);
            }
        }
        self.plan_slice();
        Ok(())
    }

    // ---- engines ----

    /// Puts an input on its way to an engine; inputs of a shard keep their order.
    fn inbox(&mut self, shard: usize, input: Input, answers: Option<Box<Told>>) {
        let generation = self.generation;
        let late = self.timing.random_range(0..2 * MS);
        let Some(node) = &mut self.node else { return };
        let at = (self.now + late).max(node.inbox_at[shard]);
        node.inbox_at[shard] = at;
        let wait = at - self.now;
        self.after(wait, Event::Shard { generation, shard, input, answers });
    }

    fn tell(&mut self, generation: u64, shard: usize, input: Input, answers: Option<Box<Told>>) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        if let (Some(told), Input::Endpoint(_)) = (&answers, &input) {
            // From this step on the new rate counts.
            let configured = self.truth.configured.entry(told.endpoint).or_default();
            if configured.throttle != told.configured.throttle {
                configured.throttle = told.configured.throttle;
                configured.at = self.now;
                self.truth.forget_starts(told.endpoint);
            }
        }
        if let Input::Cancelled { endpoint, before } = input {
            self.truth.withdrawn(endpoint, before);
        }
        self.step(shard, input)?;
        if let Some(told) = answers {
            self.answer_change(&told);
        }
        Ok(())
    }

    fn tick(&mut self, generation: u64, shard: usize, at: i64) -> Checked {
        let planned = self.node.as_ref().is_some_and(|node| node.tick_at.get(shard) == Some(&Some(at)));
        if !self.alive(generation) || !planned {
            return Ok(());
        }
        if let Some(node) = &mut self.node {
            node.tick_at[shard] = None;
        }
        self.step(shard, Input::Tick)
    }

    fn step(&mut self, shard: usize, input: Input) -> Checked {
        let now = self.node_now();
        let Some(node) = &mut self.node else { return Ok(()) };
        let mut effects = std::mem::take(&mut node.effects);
        node.engines[shard].step(now, input, &mut effects);
        let watermark = node.engines[shard].watermark();
        let mut written: Vec<Undurable> = Vec::new();
        let mut starts = Vec::new();
        let mut reads = Vec::new();
        for effect in effects.drain(..) {
            match effect {
                Effect::Start(start) => starts.push(start),
                Effect::Write(undurable) => written.push(undurable),
                Effect::Lease { endpoint, fifo, until, limit } => reads.push((endpoint, fifo, Some((until, limit)))),
                Effect::NextDue { endpoint, fifo } => reads.push((endpoint, fifo, None)),
                Effect::Notice(_) => {}
                Effect::Occasion(occasion) => {
                    let told = Operational::of_occasion(&node.catalogue, &occasion);
                    written.extend(told.map(|told| Undurable::Operational(Box::new(told))));
                }
            }
        }
        node.effects = effects;
        for undurable in &written {
            self.check_decision(now.engine, undurable)?;
        }
        let Some(node) = &mut self.node else { return Ok(()) };
        node.intake.record(shard, now.engine, written, watermark);
        let summary = [shard as u64, starts.len() as u64, reads.len() as u64];
        self.note("step", summary);
        for start in starts {
            self.start(shard, start)?;
        }
        for (endpoint, fifo, rows) in reads {
            let generation = self.generation;
            let wait = self.timing.random_range(50..2 * MS);
            self.after(wait, Event::Read { generation, shard, endpoint, fifo, rows });
        }
        self.schedule_seal();
        self.check_bounds(shard)?;
        self.plan_tick(shard)
    }

    fn plan_tick(&mut self, shard: usize) -> Checked {
        let generation = self.generation;
        let Some(node) = &mut self.node else { return Ok(()) };
        let Some(wake) = node.engines[shard].wake_at() else {
            node.tick_at[shard] = None;
            return Ok(());
        };
        let at = (wake.as_micros() - node.offset).max(self.now);
        if node.tick_at[shard] == Some(at) {
            return Ok(());
        }
        node.tick_at[shard] = Some(at);
        if self.still.0 == self.now && at == self.now {
            self.still.1 += 1;
            if self.still.1 > 200 {
                return broken(Promise::NoBusyLoop, "an engine wants to be woken again and again at one instant");
            }
        } else {
            self.still = (self.now, 0);
        }
        let wait = at - self.now;
        self.after(wait, Event::Tick(generation, shard, at));
        Ok(())
    }

    fn check_bounds(&self, shard: usize) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        let (engine, settings) = (&node.engines[shard], &node.settings);
        let (queued, in_flight) = (engine.queued(), engine.in_flight());
        let unrecorded = engine.unrecorded();
        if queued > settings.queued_max || in_flight > settings.attempts_max {
            return broken(Promise::MemoryIsBounded, format!("{queued} queued, {in_flight} in flight"));
        }
        if unrecorded > settings.attempts_max * 4 + settings.queued_max {
            return broken(Promise::MemoryIsBounded, format!("{unrecorded} unrecorded"));
        }
        Ok(())
    }

    fn start(&mut self, shard: usize, mut start: Start) -> Checked {
        let generation = self.generation;
        let endpoint = start.endpoint.key;
        let delivery = Delivery { endpoint, message: start.message.sequence() };
        if self.has(PumpBug::PayloadAsText)
            && let Some(payload) = &start.message.payload
        {
            let text = String::from_utf8_lossy(payload).into_owned();
            start.message = Arc::new(Message { payload: Some(text.into()), ..Message::clone(&start.message) });
        }
        self.note("start", [u64::from(endpoint.0), delivery.message.as_u64(), u64::from(start.number)]);
        self.check_latency(&start, delivery)?;
        self.truth.started(&start, &self.store, self.now)?;
        let class = self.classes.get(&endpoint).copied().unwrap_or(Class::Healthy);
        let wall = self.wall_now();
        let steady = Timestamp::from_micros(self.now);
        let (took, mut outcome, taken) = class.exchange(steady, &mut self.net);
        outcome.started_at = wall;
        if taken {
            self.truth.taken.insert(delivery);
        }
        let wait = took.as_micros() as i64;
        let outcome = Box::new(outcome);
        self.after(wait, Event::Outcome { generation, shard, token: start.token, delivery, outcome });
        Ok(())
    }

    /// A healthy endpoint gets its messages at once, whatever others do.
    fn check_latency(&self, start: &Start, delivery: Delivery) -> Checked {
        let Some(accepted) = self.truth.messages.get(&delivery.message) else { return Ok(()) };
        let Some(configured) = self.truth.configured.get(&delivery.endpoint) else { return Ok(()) };
        let application = self.truth.application_throttle.contains_key(&start.endpoint.application);
        let plain =
            !configured.fifo && configured.throttle.is_none() && !application && start.message.deliver_at.is_none();
        let settled = self.disturbed.max(configured.at) + SECOND;
        let proven = self.proven.get(&delivery.endpoint).is_some_and(|since| *since < accepted.at);
        let healthy = self.classes.get(&delivery.endpoint) == Some(&Class::Healthy);
        if start.number != 1
            || start.trigger == Trigger::Manual
            || !(plain && healthy && proven)
            || accepted.at < settled
        {
            return Ok(());
        }
        // In a flood it shares the few slots of a small world with its like.
        let before = self.truth.messages.range(..delivery.message).rev().nth(8);
        let flood = before.is_some_and(|(_, earlier)| earlier.at > accepted.at - SECOND);
        let late = self.now - accepted.at;
        let small = self.node.as_ref().is_some_and(|node| node.settings.attempts_max < 64);
        let most = if small { LATENCY_MAX_SMALL } else { LATENCY_MAX };
        if late > most && !flood {
            let detail = format!("{delivery:?} started {} ms after it was durable", late / MS);
            return broken(Promise::EndpointsDoNotFeelEachOther, detail);
        }
        Ok(())
    }

    fn outcome(
        &mut self,
        generation: u64,
        shard: usize,
        token: Token,
        delivery: Delivery,
        outcome: Outcome,
    ) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        let status = outcome.result.unwrap_or(0);
        self.note("outcome", [u64::from(delivery.endpoint.0), delivery.message.as_u64(), u64::from(status)]);
        self.truth.told(delivery, outcome.is_success());
        if outcome.is_success() {
            self.proven.entry(delivery.endpoint).or_insert(self.now);
        }
        if status == 410
            && let Some(configured) = self.truth.configured.get_mut(&delivery.endpoint)
        {
            configured.disabled = true;
        }
        self.step(shard, Input::Ended(vec![Ended { token, outcome }]))
    }

    fn read(
        &mut self,
        generation: u64,
        shard: usize,
        endpoint: EndpointKey,
        fifo: bool,
        rows: Option<(Timestamp, usize)>,
    ) {
        if !self.alive(generation) {
            return;
        }
        let fails = self.faults.failing_reads && !self.healed && self.timing.random_ratio(1, 20);
        if fails {
            self.disturbed = self.disturbed.max(self.now + 2 * SECOND);
        }
        let input = match rows {
            Some((until, limit)) => {
                let read = self.store.lease_due(endpoint, fifo, until, limit).ok().filter(|_| !fails);
                let shared = |(waiting, message)| (waiting, Arc::new(message));
                Input::Leased { endpoint, rows: read.map(|rows| rows.into_iter().map(shared).collect()) }
            }
            None => {
                let read = self.store.next_due(endpoint, fifo).ok().filter(|_| !fails);
                Input::NextDue { endpoint, due: read.map(|head| head.map(|head| head.due)) }
            }
        };
        self.note("read", [u64::from(endpoint.0), u64::from(fails), rows.map_or(0, |(_, limit)| limit as u64)]);
        let slow = if self.timing.random_ratio(1, 8) { 40 * MS } else { 2 * MS };
        let wait = self.timing.random_range(0..slow);
        self.after(wait, Event::Shard { generation, shard, input, answers: None });
    }

    // ---- life and death ----

    fn crash(&mut self) {
        let Some(node) = self.node.take() else { return };
        // What was being committed may or may not have made it.
        if let Some(sealed) = node.sealed.filter(|_| self.timing.random_ratio(1, 2)) {
            // A violation here is found again by the next check.
            let _ = self.keep(&sealed.batch);
        }
        for waiter in node.waiters.into_values().flatten() {
            if let Waiter::Message(_, request) | Waiter::Refused(request) = waiter {
                self.try_again(request);
            }
        }
        self.truth.crashed();
        self.readers_crashed();
        self.proven.clear();
        self.paused_until = 0;
        self.generation += 1;
        self.disturbed = i64::MAX / 4;
        self.note("crash", [self.generation, 0, 0]);
        let wait = self.timing.random_range(MS..3 * SECOND);
        self.after(wait, Event::Restart);
    }

    fn restart(&mut self) -> Checked {
        if self.node.is_some() {
            return Ok(());
        }
        let recovered = self.store.recover().expect("a store in memory can be read");
        self.check_recovered(&recovered)?;
        let newest = recovered.newest.time().as_micros();
        let engine_now = (self.now + self.wall).max(newest);
        self.note("restart", [self.generation, recovered.unfinished.len() as u64, recovered.waiting.len() as u64]);
        let mut seed = [0; 32];
        self.timing.fill(&mut seed);
        for endpoint in &recovered.endpoints {
            let told = configured(endpoint, self.now);
            let old = self.truth.configured.insert(endpoint.key, told.clone());
            if old.is_some_and(|old| old.throttle != told.throttle) {
                self.truth.forget_starts(endpoint.key);
            }
        }
        let small = self.seed.is_multiple_of(3);
        let mut node = Node::new(&recovered, engine_now - self.now, small, seed, self.bug.and_then(Planted::in_engine));
        node.last_durable = self.now;
        let mut due = self.due_at_once(&recovered, Timestamp::from_micros(engine_now));
        let inputs = node.first_inputs(recovered);
        self.node = Some(node);
        self.disturbed = self.now + SECOND;
        for (shard, input) in inputs {
            self.step(shard, input)?;
        }
        due.truncate(12);
        let generation = self.generation;
        self.after(BACK_WITHIN, Event::BackAtOnce(generation, due));
        self.after(20 * SECOND, Event::StillWatching(generation));
        self.after(0, Event::Upkeep);
        self.slice_planned = false;
        self.plan_slice();
        self.feeder_restart();
        self.readers_restart()
    }

    /// Recovery finds exactly what a look at everything finds.
    fn check_recovered(&self, recovered: &bellwire_store::Recovered) -> Checked {
        let deleted = |endpoint: &EndpointKey| !recovered.endpoints.iter().any(|e| e.key == *endpoint);
        let mut all = self.store.unfinished_by_full_scan();
        all.retain(|delivery| !deleted(&delivery.endpoint));
        let mut found: Vec<Delivery> = Vec::new();
        for unfinished in &recovered.unfinished {
            let message = unfinished.message.sequence();
            found.extend(unfinished.fan_out.iter().map(|endpoint| Delivery { endpoint: *endpoint, message }));
        }
        found.retain(|delivery| !deleted(&delivery.endpoint));
        all.sort_unstable();
        found.sort_unstable();
        if all != found {
            let missing: Vec<_> = all.iter().filter(|d| !found.contains(d)).take(3).collect();
            return broken(Promise::WatermarkIsTrue, format!("recovery does not know of {missing:?}"));
        }
        self.truth.sum_comes_out(&self.store)
    }

    /// What should start soon after a restart.
    fn due_at_once(&self, recovered: &bellwire_store::Recovered, now: Timestamp) -> Vec<Delivery> {
        let fresh = recovered.unfinished.iter().flat_map(|unfinished| {
            let message = unfinished.message.sequence();
            unfinished.fan_out.iter().map(move |endpoint| Delivery { endpoint: *endpoint, message })
        });
        let rows = self.store.rows();
        let rows = rows.iter().filter(|row| row.due <= now).map(|row| row.delivery);
        let plain = |delivery: &Delivery| {
            let endpoint = recovered.endpoints.iter().find(|e| e.key == delivery.endpoint);
            endpoint.is_some_and(|e| {
                e.disabled.is_none()
                    && e.limits == Limits::default()
                    && e.health.failing_since.is_none()
                    && !self.truth.application_throttle.contains_key(&e.application)
                    && self.classes.get(&e.key) == Some(&Class::Healthy)
            })
        };
        fresh.chain(rows).filter(plain).collect()
    }

    fn check_back(&self, generation: u64, deliveries: &[Delivery]) -> Checked {
        if !self.alive(generation) || self.disturbed > self.now - BACK_WITHIN + SECOND {
            return Ok(());
        }
        for delivery in deliveries {
            let waits = match self.store.stands(*delivery) {
                DeliveryState::Fresh => true,
                DeliveryState::Waiting(row) => row.due < self.node_now().engine.minus(Duration::from_secs(3)),
                _ => false,
            };
            let touched = self.truth.configured.get(&delivery.endpoint).is_some_and(|c| c.at > self.now - BACK_WITHIN);
            if waits && !touched && !self.truth.live.contains(delivery) {
                return broken(Promise::BackAtOnce, format!("{delivery:?} still waits after the restart"));
            }
        }
        Ok(())
    }

    /// The watermark does not stay behind for longer than a delivery may stay unsettled.
    fn check_watermark(&mut self, generation: u64) -> Checked {
        if !self.alive(generation) || self.healed {
            return Ok(());
        }
        let (watermark, _) = self.store.progress();
        let old = self.now - 15 * SECOND;
        if self.disturbed < old - SECOND {
            let behind = self.truth.messages.range(watermark..).find(|(_, accepted)| accepted.at < old);
            // It moves with a commit; one that came after the message had time to settle must have moved it.
            let committed = self.node.as_ref().is_some_and(|node| node.last_durable > self.now - 5 * SECOND);
            if let Some((message, _)) = behind.filter(|_| committed) {
                return broken(
                    Promise::WatermarkIsTrue,
                    format!("the watermark {watermark:?} stays behind at {message:?}"),
                );
            }
        }
        self.after(5 * SECOND, Event::StillWatching(generation));
        Ok(())
    }

    fn stop(&mut self) -> Checked {
        let Some(node) = &mut self.node else { return Ok(()) };
        node.intake.close();
        node.stopping = true;
        self.disturbed = i64::MAX / 4;
        let shards = node.engines.len();
        self.note("stop", [0; 3]);
        for shard in 0..shards {
            self.step(shard, Input::Stop)?;
        }
        let (generation, deadline) = (self.generation, self.now + 12 * SECOND);
        self.after(MS, Event::Stopped(generation, deadline));
        Ok(())
    }

    /// Waits for what is in flight, within bounds, and goes.
    fn stopped(&mut self, generation: u64, deadline: i64) {
        if !self.alive(generation) {
            return;
        }
        let Some(node) = &self.node else { return };
        let busy = node.committing || !node.intake.is_empty() || node.engines.iter().any(|e| e.in_flight() > 0);
        if busy && self.now < deadline {
            self.after(20 * MS, Event::Stopped(generation, deadline));
        } else {
            self.crash();
        }
    }

    /// Everything works again, and whoever is disabled is enabled.
    fn heal(&mut self) -> Checked {
        self.healed = true;
        self.paused_until = 0;
        self.note("heal", [0; 3]);
        self.queue
            .retain(|_, event| !matches!(event, Event::Crash | Event::Pause(_) | Event::Stop | Event::Stopped(..)));
        // What hangs now hangs for a while yet.
        self.proven.clear();
        self.disturbed = self.disturbed.max(self.now + 12 * SECOND);
        self.classes.values_mut().for_each(|class| *class = Class::Healthy);
        let stopped = self.node.as_ref().is_some_and(|node| node.stopping);
        if stopped {
            self.crash();
        }
        if self.node.is_none() {
            let end = self.now + 4 * SECOND;
            self.run_until(end)?;
            self.restart()?;
        }
        // What is in flight to a receiver that hangs ends first; a 410 may still be on its way.
        self.run_until(self.now + 15 * SECOND)?;
        for _ in 0..3 {
            self.enable_all()?;
            self.run_until(self.now + 15 * SECOND)?;
        }
        Ok(())
    }

    fn enable_all(&mut self) -> Checked {
        self.version += 1;
        let version = self.version.to_string();
        let now = self.node_now().engine;
        let Some(node) = &mut self.node else { return Ok(()) };
        let all: Vec<_> = node.catalogue.endpoints().map(|e| e.key).collect();
        let mut keys = all;
        keys.sort_unstable();
        let mut changes = Vec::new();
        for key in keys {
            let Some(endpoint) = node.catalogue.endpoint(key).filter(|e| e.disabled.is_some()) else { continue };
            let new = Endpoint { description: version.clone(), ..Endpoint::clone(endpoint) };
            changes.push(Change::PutEndpoint(Arc::new(new)));
            changes.push(Change::SwitchEndpoint { endpoint: key, enabled: true });
        }
        if !changes.is_empty() && node.change(now, changes).is_ok() {
            self.schedule_seal();
        }
        Ok(())
    }

    fn check_rest(&mut self) -> Checked {
        if let Some((at, _)) = self.queue.first_key_value().map(|(key, _)| *key) {
            let wait = (at - self.now) / SECOND;
            return broken(Promise::NoBusyLoop, format!("it does not come to rest; next in {wait} s"));
        }
        self.truth.at_rest(&self.store)?;
        self.feeder.at_rest()?;
        let Some(node) = &self.node else { return broken(Promise::BackAtOnce, "nobody is there at the end") };
        for endpoint in node.catalogue.endpoints() {
            let stored = Some((endpoint.disabled, endpoint.health.failing_since));
            let known = node.engines[node.shard_of(endpoint.application)].state_of(endpoint.key);
            if known != stored {
                let detail = format!("{:?} is {stored:?} in the catalogue and {known:?} in its engine", endpoint.key);
                return broken(Promise::ChangesTakeEffect, detail);
            }
        }
        for engine in &node.engines {
            if engine.in_hand() != (0, 0) || engine.in_flight() > 0 || engine.wake_at().is_some() {
                let detail =
                    format!("an engine at rest holds {:?}, {} in flight", engine.in_hand(), engine.in_flight());
                return broken(Promise::MemoryIsBounded, detail);
            }
        }
        let recovered = self.store.recover().expect("a store in memory can be read");
        self.check_recovered(&recovered)
    }
}

fn configured(endpoint: &Endpoint, at: i64) -> Configured {
    Configured {
        version: endpoint.description.clone(),
        disabled: endpoint.disabled.is_some(),
        deleted: false,
        fifo: endpoint.limits.fifo,
        throttle: endpoint.limits.throttle_rate.map(NonZeroU16::get),
        at,
    }
}

fn application(key: ApplicationKey, rate: Option<u16>) -> Application {
    Application {
        key,
        id: ApplicationId::from_parts(Sequence::from_u64(u64::from(key.0)), [1; 12]),
        organisation: organisation(),
        uid: None,
        name: String::new(),
        throttle_rate: rate.and_then(NonZeroU16::new),
        settings: Default::default(),
        metadata: BTreeMap::new(),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
    }
}

fn organisation() -> OrganisationId {
    OrganisationId::parse("org_sim").expect("a valid name")
}

/// No task of this world asks who would get a message now.
struct Nobody;

impl Matching for Nobody {
    fn wants_payload(&self, _: EndpointKey) -> bool {
        false
    }

    fn matches(&self, _: EndpointKey, _: &Message) -> bool {
        false
    }
}

/// As the receiver makes them of a request that comes at `now`.
fn received_keys(application: ApplicationKey, number: u8, now: Timestamp) -> ReceivedKeys {
    let window = now.as_micros().div_euclid(WINDOW);
    let key = |window: i64| {
        let mut key = dedupe(3, application.0 as u8, number);
        key.0[8..].copy_from_slice(&window.to_be_bytes());
        key
    };
    let since = Sequence::first_at(now.minus(Duration::from_micros(WINDOW.unsigned_abs())));
    ReceivedKeys {
        number,
        own: key(window),
        earlier: Earlier { key: key(window - 1), since, next: Some(key(window + 1)) },
    }
}

fn dedupe(kind: u8, scope: u8, key: u8) -> DedupeKey {
    let mut bytes = [0; 16];
    bytes[..3].copy_from_slice(&[kind, scope, key]);
    DedupeKey(bytes)
}
