//! The process under test: intake and engines, wired as the server wires them, and all of it gone in a crash.

use bellwire_engine::{
    BatchNumber, Bug, Catalogue, Draft, Earlier, Effect, Engine, EngineSettings, Fresh, Input, Intake, IntakeSettings,
    Leases, OfferError, Operational, Receipt, Sealed, Token, Use, fan_out,
};
use bellwire_model::{
    ApplicationKey, DedupeKey, Delivery, EndpointKey, KeptHeaders, Received, RequestDigest, RetrySchedule, Sequence,
    SourceId, Timestamp,
};
use bellwire_store::{Change, Recovered};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What a producer sends.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) application: ApplicationKey,
    pub(crate) payload: Bytes,
    pub(crate) idempotency: Option<(DedupeKey, RequestDigest)>,
    pub(crate) event: Option<DedupeKey>,
    /// It comes in at a source.
    pub(crate) received: Option<ReceivedKeys>,
    /// Not before so many microseconds from now.
    pub(crate) delayed: Option<i64>,
    pub(crate) tries: u32,
}

/// By what a request at a source is told from others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceivedKeys {
    /// As the sender numbers it.
    pub(crate) number: u8,
    /// What the receiver makes of it when it comes.
    pub(crate) own: DedupeKey,
    pub(crate) earlier: Earlier,
}

/// Who waits for a batch.
#[derive(Debug)]
pub(crate) enum Waiter {
    Message(Sequence, Request),
    /// One of its keys is taken, if the batch is kept.
    Refused(Request),
    Change(#[expect(dead_code, reason = "for traces")] Vec<Change>),
    /// A reader of a pipe said how a delivery went.
    Settled(Receipt, Use),
    /// Rows of a table, up to this one.
    Page(u32),
}

pub(crate) struct Node {
    pub(crate) intake: Intake,
    pub(crate) engines: Vec<Engine>,
    pub(crate) catalogue: Catalogue,
    pub(crate) settings: EngineSettings,
    /// Of the pipe whose deliveries are taken.
    pub(crate) leases: Leases,
    pub(crate) schedule: RetrySchedule,
    /// Engine time is the world's time plus this.
    pub(crate) offset: i64,
    pub(crate) waiters: BTreeMap<BatchNumber, Vec<Waiter>>,
    /// Those whose batch is durable already.
    pub(crate) answer_now: Vec<Waiter>,
    pub(crate) sealed: Option<Sealed>,
    pub(crate) committing: bool,
    pub(crate) seal_planned: bool,
    pub(crate) changing: bool,
    pub(crate) failing: bool,
    pub(crate) stopping: bool,
    pub(crate) last_durable: i64,
    pub(crate) inbox_at: Vec<i64>,
    pub(crate) tick_at: Vec<Option<i64>>,
    pub(crate) effects: Vec<Effect>,
    /// Attempts of a window that are to be one exchange, the first first. An endpoint stays in it without any.
    pub(crate) sums: BTreeMap<EndpointKey, Vec<(Token, Delivery)>>,
}

impl Node {
    pub(crate) fn new(recovered: &Recovered, offset: i64, small: bool, seed: [u8; 32], bug: Option<Bug>) -> Self {
        let shards = 1 + usize::from(seed[0] & 1);
        let waits: &[u64] = if seed[1] & 1 == 0 { &[1, 5, 30, 300] } else { &[1, 3] };
        let waits = waits.iter().copied().map(Duration::from_secs).collect();
        let schedule = RetrySchedule::new(waits).unwrap_or_default();
        let settings = EngineSettings {
            retry_schedule: schedule.clone(),
            disable_after: Some(Duration::from_secs(3_600)),
            lane_queue_max: if small { 8 } else { 64 },
            lane_concurrency_max: 8,
            attempts_max: if small { 16 } else { 64 },
            attempts_strained: if seed[2] & 1 == 0 { 8 } else { 64 },
            queued_max: if small { 64 } else { 512 },
            queued_bytes_max: 1 << 16,
            settle_after: Duration::from_secs(1),
            breaker_failures: 5,
            breaker_wait: Duration::from_secs(1),
            breaker_wait_max: Duration::from_secs(30),
        };
        let intake_settings = IntakeSettings {
            shards,
            batch_messages_max: 16,
            batch_bytes_max: 4_096,
            queue_messages_max: 64,
            queue_bytes_max: 1 << 14,
        };
        let mut intake = Intake::new(intake_settings, recovered.newest, seed);
        intake.keep_keys(4);
        intake.plant(bug);
        let mut engines: Vec<_> = (0..shards).map(|_| Engine::new(settings.clone(), seed)).collect();
        engines.iter_mut().for_each(|engine| engine.plant(bug));
        Node {
            intake,
            engines,
            catalogue: Catalogue::new(recovered.applications.clone(), recovered.endpoints.clone(), Vec::new()),
            settings,
            leases: Leases::new(u64::from_be_bytes([
                seed[2], seed[3], seed[4], seed[5], seed[6], seed[7], seed[8], seed[9],
            ])),
            schedule,
            offset,
            waiters: BTreeMap::new(),
            answer_now: Vec::new(),
            sealed: None,
            committing: false,
            seal_planned: false,
            changing: false,
            failing: false,
            stopping: false,
            last_durable: 0,
            inbox_at: vec![0; shards],
            tick_at: vec![None; shards],
            effects: Vec::new(),
            sums: BTreeMap::new(),
        }
    }

    /// Hands changes in, with what is told of them.
    pub(crate) fn change(&mut self, now: Timestamp, changes: Vec<Change>) -> Result<BatchNumber, OfferError> {
        let told = Operational::of_changes(&self.catalogue, &changes);
        self.intake.change_and_tell(now, changes, told)
    }

    pub(crate) fn shard_of(&self, application: ApplicationKey) -> usize {
        application.partition().shard(self.engines.len())
    }

    /// Everything that the engines are told at a start, in order.
    pub(crate) fn first_inputs(&self, recovered: Recovered) -> Vec<(usize, Input)> {
        let mut inputs = Vec::new();
        for application in recovered.applications {
            inputs.push((self.shard_of(application.key), Input::Application(application)));
        }
        for endpoint in &recovered.endpoints {
            inputs.push((self.shard_of(endpoint.application), Input::Endpoint(Arc::clone(endpoint))));
        }
        for shard in 0..self.engines.len() {
            let fresh = recovered.unfinished.iter().filter(|u| self.shard_of(u.message.application) == shard);
            let fresh = fresh.map(|u| Fresh { message: Arc::clone(&u.message), fan_out: u.fan_out.clone() }).collect();
            let waiting = recovered.waiting.iter().map(|(endpoint, head)| (*endpoint, head.due)).collect();
            inputs.push((shard, Input::Recovered { fresh, waiting, through: recovered.newest }));
        }
        inputs
    }

    /// The draft of a request, if its application exists.
    pub(crate) fn draft(&self, request: &Request, now: Timestamp) -> Option<Draft> {
        let application = self.catalogue.application(request.application)?;
        let fan_out = fan_out(application, |endpoint| bellwire_model::matches(endpoint, "a.b", &[]));
        let expires_at = now.plus(Duration::from_secs(90 * 86_400));
        Some(Draft {
            received: request.received.map(|keys| Arc::new(received(keys.number))),
            earlier: request.received.map(|keys| keys.earlier),
            deliver_at: request.delayed.map(|wait| now.plus(Duration::from_micros(wait.unsigned_abs()))),
            idempotency: request.idempotency,
            event: request.received.map(|keys| keys.own).or(request.event),
            ..Draft::new(request.application, fan_out, "a.b", request.payload.clone(), expires_at)
        })
    }
}

/// What is kept of a request at the source that every application has.
fn received(number: u8) -> Received {
    Received {
        source: SourceId::from_parts(Sequence::ZERO, [0; 12]),
        method: "POST".into(),
        path: "/in/…".into(),
        query: None,
        headers: KeptHeaders::default(),
        remote: None,
        hops: 0,
        dedupe: Some(number.to_string()),
    }
}
