//! One shard's state and its single verb, [`Engine::step`].

use crate::accept::CommittedShard;
use crate::notify::Notice;
use bellwire_model::{
    AfterAttempt, Application, ApplicationKey, AttemptNumber, Delivery, DisabledBy, Endpoint, EndpointKey, FanOut,
    Message, Outcome, RetrySchedule, Timestamp, Trigger, Waiting,
};
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
    Application(Arc<Application>),
    /// An application was deleted, with its endpoints. After this step no attempt to them starts.
    ApplicationGone(ApplicationKey),
    /// An endpoint was created or changed. After this step no attempt starts with what it was before.
    Endpoint(Arc<Endpoint>),
    /// An endpoint was deleted. After this step no attempt to it starts; its deliveries end.
    EndpointGone(EndpointKey),
    /// The clock moved to what [`Engine::wake_at`] asked for.
    Tick,
    /// Records cannot be stored at the moment (or can again): bound what is unrecorded.
    StoreFailing(bool),
    /// Start nothing more; what is in flight may end.
    Stop,
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
    /// For the operator: logs, metrics, and later operational webhooks. Emitted when durable.
    Notice(Notice),
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
    /// Deliveries queued in memory in all lanes of this engine at most.
    pub queued_max: usize,
    /// Bytes of payload held for queued deliveries at most.
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
            queued_max: 16_384,
            queued_bytes_max: 16 << 20,
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
pub struct Engine {}

impl Engine {
    /// Empty; then it is told of applications, endpoints and [`Input::Recovered`].
    pub fn new(settings: EngineSettings, seed: [u8; 32]) -> Self {
        let _ = (settings, seed);
        Engine {}
    }

    /// Takes one input, appends what is to be done. Never blocks, never fails.
    pub fn step(&mut self, now: bellwire_model::Now, input: Input, effects: &mut Vec<Effect>) {
        let _ = (now, input, effects);
    }

    /// When it wants a [`Input::Tick`] at the latest; `None`: only when something else happens.
    pub fn wake_at(&self) -> Option<Timestamp> {
        None
    }

    /// Every delivery of a message below this, of the partitions of this shard, has ended or waits in the waiting room, once
    /// everything written so far is durable.
    pub fn watermark(&self) -> bellwire_model::Sequence {
        bellwire_model::Sequence::ZERO
    }

    /// Attempts in flight.
    pub fn in_flight(&self) -> usize {
        0
    }

    /// How each lane that is not idle stands.
    pub fn lanes(&self) -> Vec<LaneSnapshot> {
        Vec::new()
    }
}
