//! One shard's state and its single verb, [`Engine::step`].

use crate::accept::CommittedShard;
use crate::held::{HeldTable, Table};
use crate::lane::{ApplicationIndex, Lane, LaneIndex};
use crate::notify::Notice;
use crate::operational::{Occasion, Operational};
use crate::pace::BreakerSettings;
use crate::planted::Planted;
use crate::rest::Resting;
use crate::schedules::Schedules;
use crate::settle::FreshLog;
use crate::strain::Strain;
use crate::throttle::Throttle;
use bellwire_model::{
    AfterAttempt, ApplicationKey, AttemptNumber, Delivery, DisabledBy, Endpoint, EndpointKey, EventType, FanOut,
    Message, Now, OrganisationId, Outcome, RetrySchedule, Sequence, Timestamp, Trigger, Waiting,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Names an attempt in flight within one engine's life; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// A durable message whose deliveries this engine owns.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// The message, with its payload.
    pub message: Arc<Message>,
    /// To whom.
    pub fan_out: FanOut,
}

/// An attempt that ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// From its [`Start`].
    pub token: Token,
    /// How.
    pub outcome: Outcome,
}

/// What an engine is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// At start, before anything else: what recovery found for this shard, after its endpoints.
    Recovered {
        /// Neither ended nor waiting.
        fresh: Vec<Fresh>,
        /// Endpoints with rows in the waiting room, and when the first is due.
        waiting: Vec<(EndpointKey, Timestamp)>,
        /// Everything up to here is known.
        through: bellwire_model::Sequence,
    },
    /// A commit is durable. Every engine is told of every commit, if only of `through`: all messages up to there that concern
    /// it have been handed over.
    Committed(CommittedShard),
    /// Attempts that ended since the last step.
    Ended(Vec<Ended>),
    /// An attempt only waits for others, and leaves its place to them until it ends or goes on.
    Rests(Token),
    /// An attempt that rested makes its exchange now.
    GoesOn(Token),
    /// The answer to [`Effect::Lease`], or why there is none (the engine asks again later).
    Leased {
        /// For which lane.
        endpoint: EndpointKey,
        /// The rows, fewer than asked for if that is all; `None` if the store could not be read.
        rows: Option<Vec<(Waiting, Arc<Message>)>>,
    },
    /// The answer to [`Effect::NextDue`]: the earliest due row of the waiting room, if there is any; outer `None` if the store could not be read.
    NextDue {
        /// For which lane.
        endpoint: EndpointKey,
        /// When.
        due: Option<Option<Timestamp>>,
    },
    /// An application was created or changed.
    Application(Arc<bellwire_model::Application>),
    /// An event type has another retry schedule from now on, or none of its own. Attempts that end after this step follow it.
    EventTypeSchedule {
        /// Whose.
        organisation: OrganisationId,
        /// Its name.
        event_type: String,
        /// `None`: as if there were no such event type.
        schedule: Option<RetrySchedule>,
    },
    /// An application was deleted, with its endpoints. After this step no attempt to them starts.
    ApplicationGone(ApplicationKey),
    /// An endpoint was created or changed, but for its state. After this step no attempt starts with what it was before.
    Endpoint(Arc<Endpoint>),
    /// An endpoint was enabled or disabled by its owner. After this step no attempt to one that was disabled starts.
    Switched {
        /// Which.
        endpoint: EndpointKey,
        /// Enabled from now on, or disabled.
        enabled: bool,
    },
    /// An endpoint was deleted. After this step no attempt to it starts; its deliveries end.
    EndpointGone(EndpointKey),
    /// What waits for an endpoint of messages before this one is being cancelled ([`bellwire_store::Change::CancelWaiting`]). After this
    /// step no attempt of it starts, unless somebody asks for it anew.
    Cancelled {
        /// Whose.
        endpoint: EndpointKey,
        /// Messages before this one.
        before: Sequence,
    },
    /// Rows came into the waiting room of an endpoint that are due now, or went from it, by a slice of a task
    /// ([`bellwire_store::Advanced::look_again`]). Told after the commit before the slice and before the commit after it.
    LookAgain(EndpointKey),
    /// The clock moved to what [`Engine::wake_at`] asked for.
    Tick,
    /// Records cannot be stored at the moment (or can again): bound what is unrecorded.
    StoreFailing(bool),
    /// Start nothing more; what is in flight may end.
    Stop,
}

impl Input {
    /// What engines are told of an event type.
    pub fn schedule_of(event_type: &EventType) -> Input {
        Input::EventTypeSchedule {
            organisation: event_type.organisation.clone(),
            event_type: event_type.name.clone(),
            schedule: event_type.retry_schedule.clone(),
        }
    }
}

/// What an engine wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Make an exchange; answer with [`Input::Ended`], whatever happens.
    Start(Start),
    /// To be written; goes to [`crate::Intake::record`].
    Write(Undurable),
    /// Read due rows of the waiting room ([`bellwire_store::Store::lease_due`]); answer with [`Input::Leased`].
    Lease {
        /// Of which endpoint.
        endpoint: EndpointKey,
        /// In which order.
        fifo: bool,
        /// Due until.
        until: Timestamp,
        /// At most.
        limit: usize,
    },
    /// Read the earliest due time ([`bellwire_store::Store::next_due`]); answer with [`Input::NextDue`].
    NextDue {
        /// Of which endpoint.
        endpoint: EndpointKey,
        /// In which order.
        fifo: bool,
    },
    /// For the operator: logs and metrics. Emitted when durable.
    Notice(Notice),
    /// Operators may want to be told of the write right before it: what [`crate::Operational::of_occasion`] makes of it, if anything, is
    /// handed in right behind that write as [`Undurable::Operational`].
    Occasion(Box<Occasion>),
}

/// An exchange to make.
#[derive(Clone, Debug)]
pub struct Start {
    /// Give it back.
    pub token: Token,
    /// Where to; as it is now.
    pub endpoint: Arc<Endpoint>,
    /// What.
    pub message: Arc<Message>,
    /// Which attempt of the delivery, from 1.
    pub number: AttemptNumber,
    /// Why.
    pub trigger: Trigger,
}

/// What an engine decided and is not yet durable.
#[derive(Clone, Debug)]
pub enum Undurable {
    /// An attempt ended, or a delivery ended without one (`outcome` is `None`). It gets its sequence and id in the intake.
    Attempt {
        /// Which delivery.
        delivery: Delivery,
        /// Of which application.
        application: ApplicationKey,
        /// Which attempt; 0 without an exchange.
        number: AttemptNumber,
        /// Why it was made.
        trigger: Trigger,
        /// Where it went, user info removed.
        url: Arc<str>,
        /// How it went.
        outcome: Option<Outcome>,
        /// What follows.
        after: AfterAttempt,
    },
    /// A fresh delivery goes to the waiting room: its lane is full or paused, or it is slow.
    Wait(Waiting),
    /// What was found out about an endpoint ([`bellwire_store::Change::PutHealth`]); the catalogue follows when it is durable.
    Health {
        /// Whose.
        endpoint: EndpointKey,
        /// Since when it only fails.
        failing_since: Option<Timestamp>,
        /// Whether it is disabled by this.
        disable: Option<DisabledBy>,
    },
    /// Tells of the attempt or the health right before it, and becomes durable with it.
    Operational(Box<Operational>),
}

/// Bounds and policies of an engine.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// For endpoints without one of their own.
    pub retry_schedule: RetrySchedule,
    /// Disable an endpoint that failed for so long; never if absent.
    pub disable_after: Option<Duration>,
    /// A lane holds at most so many deliveries in memory; the rest waits on disk.
    pub lane_queue_max: usize,
    /// Attempts in flight to one endpoint at most.
    pub lane_concurrency_max: usize,
    /// Attempts in flight of this engine at most.
    pub attempts_max: usize,
    /// Of them, so many young ones however busy this shard is with itself; up to the bound above if it is not.
    pub attempts_strained: usize,
    /// Deliveries queued in memory in all lanes of this engine at most.
    pub queued_max: usize,
    /// Bytes of payload held for queued deliveries at most; what several share counts once.
    pub queued_bytes_max: usize,
    /// A fresh delivery that has not ended after this long gets a row in the waiting room, so that the watermark moves on.
    pub settle_after: Duration,
    /// Consecutive outages that open a lane's breaker.
    pub breaker_failures: u32,
    /// How long an open breaker waits before its first probe; doubles up to `breaker_wait_max`.
    pub breaker_wait: Duration,
    /// The longest wait between probes.
    pub breaker_wait_max: Duration,
}

impl Default for EngineSettings {
    fn default() -> Self {
        EngineSettings {
            retry_schedule: RetrySchedule::default(),
            disable_after: Some(Duration::from_secs(120 * 3600)),
            lane_queue_max: 1_024,
            lane_concurrency_max: 64,
            attempts_max: 4_096,
            attempts_strained: 256,
            queued_max: 16_384,
            queued_bytes_max: 8 << 20,
            settle_after: Duration::from_secs(1),
            breaker_failures: 10,
            breaker_wait: Duration::from_secs(1),
            breaker_wait_max: Duration::from_secs(60),
        }
    }
}

/// How a lane stands, for metrics and for those who ask why something is late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneSnapshot {
    /// Whose lane.
    pub endpoint: EndpointKey,
    /// Deliveries in memory that have not started.
    pub queued: usize,
    /// Attempts in flight.
    pub in_flight: usize,
    /// Attempts that may be in flight now.
    pub concurrency: usize,
    /// Whether the breaker is open, and until when.
    pub open_until: Option<Timestamp>,
    /// When the oldest delivery in memory was accepted.
    pub oldest: Option<Timestamp>,
}

/// One shard. See the crate's documentation.
#[derive(Debug)]
pub struct Engine {
    pub(crate) settings: EngineSettings,
    pub(crate) breaker: BreakerSettings,
    /// Of the step that is on; its engine time never goes back.
    pub(crate) now: Now,
    pub(crate) rng: ChaCha8Rng,
    /// What waits was told.
    pub(crate) recovered: bool,
    pub(crate) stopped: bool,
    /// Records cannot be stored.
    pub(crate) failing: bool,
    /// Everything accepted up to here is known.
    pub(crate) through: Sequence,

    /// Of event types.
    pub(crate) schedules: Schedules,
    pub(crate) applications: Vec<Application>,
    pub(crate) application_of: Table<ApplicationKey, ApplicationIndex>,
    pub(crate) free_applications: Vec<ApplicationIndex>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) lane_of: Table<EndpointKey, LaneIndex>,
    pub(crate) free_lanes: Vec<LaneIndex>,
    /// Lanes to attend to before the step ends.
    pub(crate) dirty: Vec<LaneIndex>,
    /// Lanes whose order changed in this step.
    pub(crate) reordered: Vec<LaneIndex>,

    pub(crate) held: HeldTable,
    pub(crate) fresh: FreshLog,
    pub(crate) flights: Table<Token, Flight>,
    /// Attempts that began lately, in order; some have ended.
    pub(crate) young: VecDeque<(Timestamp, Token)>,
    pub(crate) next_token: u64,
    /// Attempts whose records are not durable.
    pub(crate) unrecorded: usize,

    /// Deliveries in queues, their bytes and attempts in flight, by the class of their lane.
    pub(crate) queued: [usize; 3],
    pub(crate) queued_bytes: [usize; 3],
    pub(crate) flying: [usize; 3],
    /// Of the slow class's attempts in flight, those that have been out for long.
    pub(crate) flying_long: usize,
    /// Attempts that rest, in all lanes.
    pub(crate) resting: Resting,
    pub(crate) strain: Strain,
    /// Questions that are out, and the places in queues that are kept for their answers.
    pub(crate) asks: usize,
    pub(crate) reserved: usize,
    /// Lanes that wait for their question to be asked.
    pub(crate) line: VecDeque<LaneIndex>,
    /// Applications with startable lanes, by class.
    pub(crate) rings: [VecDeque<ApplicationIndex>; 3],
    pub(crate) timers: BTreeSet<(Timestamp, Alarm)>,
    pub(crate) planted: Planted,
}

/// An attempt that is on.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) lane: LaneIndex,
    pub(crate) message: Arc<Message>,
    pub(crate) number: AttemptNumber,
    pub(crate) trigger: Trigger,
    pub(crate) started: Timestamp,
    /// It has been out for long.
    pub(crate) slow: bool,
    /// It only waits.
    pub(crate) rests: bool,
}

/// What an engine keeps of an application.
#[derive(Debug, Default)]
pub(crate) struct Application {
    /// Whose it is; `None` while only its endpoints are known.
    pub(crate) organisation: Option<OrganisationId>,
    pub(crate) throttle: Option<Box<Throttle>>,
    pub(crate) lanes: Vec<LaneIndex>,
    /// Its lanes, with those that are gone and still have something in hand.
    pub(crate) lanes_left: usize,
    pub(crate) gone: bool,
    /// Attempts in flight and deliveries in queues, by the class of their lane.
    pub(crate) flying: [usize; 3],
    pub(crate) queued: [usize; 3],
    /// Lanes that may start something, by class.
    pub(crate) ready: [VecDeque<LaneIndex>; 3],
    pub(crate) in_ring: [bool; 3],
    /// Its throttle says to wait; an alarm is set.
    pub(crate) resting: bool,
}

/// Whom a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Alarm {
    Lane(LaneIndex),
    Application(ApplicationIndex),
}

impl Engine {
    /// Empty; then it is told of applications, endpoints and [`Input::Recovered`].
    pub fn new(settings: EngineSettings, seed: [u8; 32]) -> Self {
        let breaker = BreakerSettings {
            failures: settings.breaker_failures,
            wait: settings.breaker_wait,
            wait_max: settings.breaker_wait_max,
        };
        let strain = Strain::new(settings.attempts_strained, settings.attempts_max);
        Engine {
            settings,
            breaker,
            now: Now { engine: Timestamp::EPOCH, wall: Timestamp::EPOCH },
            rng: ChaCha8Rng::from_seed(seed),
            recovered: false,
            stopped: false,
            failing: false,
            through: Sequence::ZERO,
            schedules: Schedules::default(),
            applications: Vec::new(),
            application_of: Table::default(),
            free_applications: Vec::new(),
            lanes: Vec::new(),
            lane_of: Table::default(),
            free_lanes: Vec::new(),
            dirty: Vec::new(),
            reordered: Vec::new(),
            held: HeldTable::default(),
            fresh: FreshLog::default(),
            flights: Table::default(),
            young: VecDeque::new(),
            next_token: 0,
            unrecorded: 0,
            queued: [0; 3],
            queued_bytes: [0; 3],
            flying: [0; 3],
            flying_long: 0,
            resting: Resting::default(),
            strain,
            asks: 0,
            reserved: 0,
            line: VecDeque::new(),
            rings: Default::default(),
            timers: BTreeSet::new(),
            planted: Planted::default(),
        }
    }

    /// Plants a bug.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: Option<crate::planted::Bug>) {
        self.planted.bug = bug;
    }

    /// Takes one input, appends what is to be done. Never blocks, never fails.
    pub fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        self.now = Now { engine: now.engine.max(self.now.engine), wall: now.wall };
        self.strain.step(self.now.engine);
        match input {
            Input::Recovered { fresh, waiting, through } => self.recover(fresh, waiting, through, effects),
            Input::Committed(committed) => self.committed(committed, effects),
            Input::Ended(ended) => ended.into_iter().for_each(|one| self.ended(one, effects)),
            Input::Rests(token) => self.rest(token),
            Input::GoesOn(token) => self.go_on(token),
            Input::Leased { endpoint, rows } => {
                if let Some(lane) = self.lane_of.get(&endpoint).copied() {
                    self.leased(lane, rows, effects);
                }
            }
            Input::NextDue { endpoint, due } => {
                if let Some(lane) = self.lane_of.get(&endpoint).copied() {
                    self.next_due(lane, due);
                }
            }
            Input::Application(application) => self.put_application(&application),
            Input::EventTypeSchedule { organisation, event_type, schedule } => {
                self.schedules.put(organisation, event_type, schedule);
            }
            Input::ApplicationGone(application) => self.application_gone(application, effects),
            Input::Endpoint(endpoint) => self.put_endpoint(endpoint),
            Input::Switched { endpoint, enabled } => self.switch(endpoint, enabled, effects),
            Input::EndpointGone(endpoint) => self.endpoint_gone(endpoint, effects),
            Input::Cancelled { endpoint, before } => self.cancelled(endpoint, before, effects),
            Input::LookAgain(endpoint) => self.look_again(endpoint),
            Input::Tick => {}
            Input::StoreFailing(failing) => self.failing = failing,
            Input::Stop => self.stop(),
        }
        while let Some(lane) = self.reordered.pop() {
            self.shed(lane, effects);
        }
        self.fire_timers();
        self.age_flights();
        self.settle_stragglers(effects);
        self.settle_down(effects);
    }

    /// When it wants a [`Input::Tick`] at the latest; `None`: only when something else happens.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let settle = self.fresh.since().map(|since| since.plus(self.settings.settle_after));
        #[cfg(feature = "planted-bugs")]
        let (timer, settle) = self.planted_wake(timer, settle);
        [timer, settle, self.next_aging(), self.strain.wake_at()].into_iter().flatten().min()
    }

    /// Every delivery of a message below this, of the partitions of this shard, has ended or waits in the waiting room, once
    /// everything written so far is durable.
    pub fn watermark(&self) -> Sequence {
        self.fresh.oldest().unwrap_or(self.through.next())
    }

    /// Attempts in flight; those that rest are not.
    pub fn in_flight(&self) -> usize {
        self.flying.iter().sum()
    }

    /// Attempts that rest.
    pub fn resting(&self) -> usize {
        self.resting.attempts()
    }

    /// Whether every attempt that was started has ended, those that rest included.
    pub fn all_ended(&self) -> bool {
        self.flights.is_empty()
    }

    /// Deliveries in memory that have not started.
    pub fn queued(&self) -> usize {
        self.queued.iter().sum()
    }

    /// Attempts that ended and whose records are not durable.
    pub fn unrecorded(&self) -> usize {
        self.unrecorded
    }

    /// Deliveries that are in the engine's hands, and fresh messages that are not settled: what its memory grows with.
    pub fn in_hand(&self) -> (usize, usize) {
        (self.held.len(), self.fresh.len())
    }

    /// Whether an endpoint is disabled, and since when it only fails, as this engine has it and the store has been told. Beside it
    /// are findings that are not durable yet.
    pub fn state_of(&self, endpoint: EndpointKey) -> Option<(Option<DisabledBy>, Option<Timestamp>)> {
        let lane = &self.lanes[*self.lane_of.get(&endpoint)?];
        Some((lane.endpoint.disabled, lane.health.failing_since.filter(|_| lane.health.written)))
    }

    /// Places for applications and endpoints, free ones included: what else its memory grows with.
    pub fn places(&self) -> (usize, usize) {
        (self.applications.len(), self.lanes.len())
    }

    /// When the oldest delivery was accepted that only waits for a rate, its endpoint's or its application's; `None` if none does.
    pub fn throttled_since(&mut self, endpoint: EndpointKey, now: Timestamp) -> Option<Timestamp> {
        let lane = &mut self.lanes[*self.lane_of.get(&endpoint)?];
        let oldest = lane.queue.front()?.message.sequence().time();
        if lane.paused() || lane.in_flight >= lane.limit() || lane.pace.open_until(now).is_some() {
            return None;
        }
        let application = &mut self.applications[lane.application].throttle;
        let mut throttles = [&mut lane.throttle, application].into_iter().flatten();
        throttles.any(|throttle| throttle.next_at(now) > now).then_some(oldest)
    }

    /// How each lane that is not idle stands.
    pub fn lanes(&self) -> Vec<LaneSnapshot> {
        let busy = |lane: &&Lane| {
            !lane.gone
                && (!lane.queue.is_empty() || lane.in_flight > 0 || lane.pace.open_until(self.now.engine).is_some())
        };
        self.lanes.iter().filter(busy).map(|lane| self.snapshot(lane)).collect()
    }

    fn snapshot(&self, lane: &Lane) -> LaneSnapshot {
        LaneSnapshot {
            endpoint: lane.key,
            queued: lane.queue.len(),
            in_flight: lane.in_flight,
            concurrency: lane.limit(),
            open_until: lane.pace.open_until(self.now.engine),
            oldest: lane.queue.front().map(|queued| queued.message.sequence().time()),
        }
    }

    fn recover(
        &mut self,
        fresh: Vec<Fresh>,
        waiting: Vec<(EndpointKey, Timestamp)>,
        through: Sequence,
        effects: &mut Vec<Effect>,
    ) {
        self.recovered = true;
        self.exhaust_throttles();
        for (endpoint, due) in waiting {
            let Some(lane) = self.lane_of.get(&endpoint).copied() else { continue };
            // A due time may be from another clock: the first lease looks at the rows themselves.
            let due = due.min(self.now.engine.plus(bellwire_model::RETRY_AFTER_MAX));
            self.lanes[lane].arrived(Sequence::ZERO, due);
            self.mark(lane);
        }
        self.through = self.through.max(through);
        if !self.planted.has(crate::planted::Bug::RecoverySkipped) {
            self.take_up(fresh, true, effects);
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.timers.clear();
        self.lanes.iter_mut().for_each(|lane| lane.timer = None);
    }

    #[cfg(feature = "planted-bugs")]
    fn planted_wake(
        &self,
        timer: Option<Timestamp>,
        settle: Option<Timestamp>,
    ) -> (Option<Timestamp>, Option<Timestamp>) {
        use crate::planted::Bug;
        let timer = if self.planted.has(Bug::BusyLoop) { Some(self.now.engine) } else { timer };
        (timer, settle.filter(|_| !self.planted.has(Bug::NeverSettled)))
    }
}
