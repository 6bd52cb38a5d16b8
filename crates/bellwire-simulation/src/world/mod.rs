//! A seeded world: virtual time, producers, receivers, one process that is killed, paused and restarted, and a store that outlives it.
//!
//! Each seed draws its own mix of faults. First everything goes wrong that may (safety); then it heals, and the
//! program must come to rest with nothing left without a state (liveness). One event at a time, in the order of virtual
//! time; every source of chance has its own generator, so the same seed is the same world, always.

mod plan;
mod doors;
mod owners;
mod commits;
mod engines;
mod sums;
mod life;

use crate::bug::{Planted, PumpBug};
use crate::feeder::Feeder;
use crate::node::{Node, Request};
use crate::reader::Readers;
use crate::receiver::Class;
use crate::store::SimStore;
use crate::truth::{Checked, Configured, Promise, Truth, Violation, broken};
use bellwire_engine::{Input, Receipt, Token, Use};
use bellwire_model::{Delivery, EndpointKey, Message, Now, Outcome, Sequence, TaskId, Timestamp};
use bellwire_store::Change;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Virtual time at the start of the world, in microseconds after Unix's epoch.
const BEGIN: i64 = 1_800_000_000_000_000;
const MS: i64 = 1_000;
const SECOND: i64 = 1_000_000;
/// After so long a healed world must be at rest.
const REST_MAX: i64 = 3 * 86_400 * SECOND;
/// More events than any seed needs.
const EVENTS_MAX: u64 = 400_000;
/// The window in which a request at a source is known by its key.
pub(crate) const WINDOW: i64 = 4 * SECOND;

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
    Summed { generation: u64, shard: usize, endpoint: EndpointKey },
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
    summing: ChaCha8Rng,
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
            summing: stream(8),
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
            Event::Summed { generation, shard, endpoint } => return self.summed(generation, shard, endpoint),
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

    pub(crate) fn wall_now(&self) -> Timestamp {
        Timestamp::from_micros(self.now + self.wall)
    }

    fn node_now(&self) -> Now {
        let offset = self.node.as_ref().map_or(0, |node| node.offset);
        Now { engine: Timestamp::from_micros(self.now + offset), wall: self.wall_now() }
    }
}
