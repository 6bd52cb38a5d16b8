//! What the operator sees: logs, and the metrics with what moves each. Payloads, secrets, signatures and user info never appear.

use crate::core::{Core, Mail};
use bellwire_config::log::{Format, Log};
use bellwire_engine::{Ended, LaneSnapshot, Notice, Start};
use bellwire_model::{Outcome, Timestamp};
use bellwire_receiver::Outcome as Received;
use bellwire_store::Batch;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WayLabel {
    way: &'static str,
}

/// What is counted of sources that fetch their messages themselves.
#[derive(Clone)]
pub(crate) struct SourceMetrics {
    messages: Family<WayLabel, Counter>,
    failures: Family<WayLabel, Counter>,
    failing: Gauge,
}

impl SourceMetrics {
    fn register(registry: &mut Registry) -> Self {
        let (messages, failures, failing) = (Family::default(), Family::default(), Gauge::default());
        let text = "Messages that sources have fetched themselves, by their way: cron, outbox, queue";
        registry.register("source_messages", text, Family::clone(&messages));
        let text = "Times that such a source failed and is tried again, by its way";
        registry.register("source_failures", text, Family::clone(&failures));
        registry.register(
            "sources_failing",
            "Such sources that failed the last time they tried",
            Gauge::clone(&failing),
        );
        SourceMetrics { messages, failures, failing }
    }

    /// So many messages of such a source are durable.
    pub(crate) fn brought(&self, way: &'static str, count: usize) {
        self.messages.get_or_create(&WayLabel { way }).inc_by(count as u64);
    }

    /// Such a source failed.
    pub(crate) fn failed(&self, way: &'static str) {
        self.failures.get_or_create(&WayLabel { way }).inc();
    }

    /// So many fail at present.
    pub(crate) fn failing(&self, count: usize) {
        self.failing.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// Everything that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    messages_accepted: Counter,
    filters_failed: Counter,
    source_requests: [Counter; Received::ALL.len()],
    sources: SourceMetrics,
    attempts: Family<OutcomeLabel, Counter>,
    commit_seconds: Histogram,
    commit_rows: Histogram,
    commits_failed: Counter,
    deliveries_ended: Family<OutcomeLabel, Counter>,
    endpoints_disabled: Counter,
    breakers_opened: Counter,
    lane_depth: Gauge,
    lanes_active: Gauge,
    attempts_in_flight: Gauge,
    oldest_waiting_seconds: Gauge<f64, AtomicU64>,
    store_bytes: Gauge,
    // Looked up once: they are moved for every message.
    accept_stage: Histogram,
    start_stage: Histogram,
    exchange_stage: Histogram,
    succeeded: Counter,
}

fn seconds() -> Histogram {
    // 0.25 ms to about 65 s.
    Histogram::new(exponential_buckets(0.000_25, 2.0, 19))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("bellwire");
        let messages_accepted = Counter::default();
        registry.register("messages_accepted", "Messages accepted and durable", messages_accepted.clone());
        let filters_failed = Counter::default();
        registry.register(
            "filters_failed",
            "Endpoints that got no delivery of a message because their filter could not say: a missing field, too many steps",
            filters_failed.clone(),
        );
        let source_requests = Family::<OutcomeLabel, Counter>::default();
        registry.register(
            "source_requests",
            "Requests at sources by what became of them: accepted, duplicate, unverified, throttled, …",
            source_requests.clone(),
        );
        let source_requests = Received::ALL
            .map(|outcome| source_requests.get_or_create(&OutcomeLabel { outcome: outcome.name() }).clone());
        let sources = SourceMetrics::register(&mut registry);
        let attempts = Family::<OutcomeLabel, Counter>::default();
        registry.register(
            "attempts_ended",
            "Attempts by class of outcome: 2xx to 5xx, or why there was no status",
            attempts.clone(),
        );
        let stages = Family::<StageLabel, Histogram, fn() -> Histogram>::new_with_constructor(seconds);
        registry.register_with_unit(
            "stage_duration",
            "accept: from the request to durable; start: from accepted to the first attempt; exchange: one attempt",
            Unit::Seconds,
            stages.clone(),
        );
        let commit_seconds = seconds();
        registry.register_with_unit(
            "commit_duration",
            "One commit of the store, sync included",
            Unit::Seconds,
            commit_seconds.clone(),
        );
        let commit_rows = Histogram::new(exponential_buckets(1.0, 2.0, 14));
        registry.register("commit_rows", "Messages and attempts written by one commit", commit_rows.clone());
        let commits_failed = Counter::default();
        registry.register("commits_failed", "Commits that the store refused", commits_failed.clone());
        let deliveries_ended = Family::<OutcomeLabel, Counter>::default();
        registry.register("deliveries_ended", "Deliveries that ended undelivered, by reason", deliveries_ended.clone());
        let endpoints_disabled = Counter::default();
        registry.register(
            "endpoints_disabled",
            "Endpoints that were disabled by their answers or failures",
            endpoints_disabled.clone(),
        );
        let breakers_opened = Counter::default();
        registry.register(
            "breakers_opened",
            "Lanes that stopped because their endpoint failed in a row",
            breakers_opened.clone(),
        );
        let lane_depth = Gauge::default();
        registry.register("lane_depth", "Deliveries that wait in memory, all lanes", lane_depth.clone());
        let lanes_active = Gauge::default();
        registry.register("lanes_active", "Lanes with something queued or in flight", lanes_active.clone());
        let attempts_in_flight = Gauge::default();
        registry.register("attempts_in_flight", "Attempts under way", attempts_in_flight.clone());
        let oldest_waiting_seconds = Gauge::<f64, AtomicU64>::default();
        registry.register_with_unit(
            "oldest_waiting_age",
            "Age of the oldest delivery that waits for an attempt, in memory or on disk, disabled endpoints included",
            Unit::Seconds,
            oldest_waiting_seconds.clone(),
        );
        let store_bytes = Gauge::default();
        registry.register_with_unit("store_size", "What the store takes on disk", Unit::Bytes, store_bytes.clone());
        let stage = |stage| stages.get_or_create(&StageLabel { stage }).clone();
        let (accept_stage, start_stage, exchange_stage) = (stage("accept"), stage("start"), stage("exchange"));
        let succeeded = attempts.get_or_create(&OutcomeLabel { outcome: "2xx" }).clone();
        Metrics {
            registry,
            messages_accepted,
            filters_failed,
            source_requests,
            sources,
            attempts,
            commit_seconds,
            commit_rows,
            commits_failed,
            deliveries_ended,
            endpoints_disabled,
            breakers_opened,
            lane_depth,
            lanes_active,
            attempts_in_flight,
            oldest_waiting_seconds,
            store_bytes,
            accept_stage,
            start_stage,
            exchange_stage,
            succeeded,
        }
    }

    /// A message is durable, so long after its request came.
    pub(crate) fn accepted(&self, took: Duration) {
        self.messages_accepted.inc();
        self.accept_stage.observe(took.as_secs_f64());
    }

    /// A request at a source has come to its end.
    pub(crate) fn received(&self, outcome: Received) {
        self.source_requests[outcome as usize].inc();
    }

    /// Those of sources that fetch their messages themselves.
    pub(crate) fn sources(&self) -> SourceMetrics {
        self.sources.clone()
    }

    /// A filter could not say.
    pub(crate) fn filter_failed(&self) {
        self.filters_failed.inc();
    }

    /// The first attempt of a delivery begins, so long after its message was accepted.
    pub(crate) fn started(&self, after: Duration) {
        self.start_stage.observe(after.as_secs_f64());
    }

    /// Attempts ended.
    pub(crate) fn ended(&self, ended: &[Ended]) {
        for Ended { outcome, .. } in ended {
            self.exchange_stage.observe(outcome.duration.as_secs_f64());
            match class(outcome) {
                "2xx" => self.succeeded.inc(),
                outcome => self.attempts.get_or_create(&OutcomeLabel { outcome }).inc(),
            };
        }
    }

    /// A commit took so long.
    pub(crate) fn committed(&self, took: Duration, batch: &Batch) {
        self.commit_seconds.observe(took.as_secs_f64());
        self.commit_rows.observe((batch.accepted.len() + batch.attempts.len()) as f64);
    }

    /// The store refused a commit.
    pub(crate) fn commit_failed(&self) {
        self.commits_failed.inc();
    }

    /// As Prometheus reads it.
    pub(crate) fn text(
        &self,
        lanes: &[LaneSnapshot],
        oldest_on_disk: Option<Timestamp>,
        now: Timestamp,
        store_bytes: Option<u64>,
    ) -> String {
        let sum = |f: fn(&LaneSnapshot) -> usize| i64::try_from(lanes.iter().map(f).sum::<usize>()).unwrap_or(i64::MAX);
        self.lane_depth.set(sum(|l| l.queued));
        self.attempts_in_flight.set(sum(|l| l.in_flight));
        self.lanes_active.set(i64::try_from(lanes.len()).unwrap_or(i64::MAX));
        let oldest = lanes.iter().filter_map(|l| l.oldest).chain(oldest_on_disk).min();
        self.oldest_waiting_seconds.set(oldest.map_or(0.0, |o| now.since(o).as_secs_f64()));
        if let Some(bytes) = store_bytes {
            self.store_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

/// The class of an outcome: the hundred of its status, or why there was none.
fn class(outcome: &Outcome) -> &'static str {
    match outcome.result {
        Ok(100..=199) => "1xx",
        Ok(200..=299) => "2xx",
        Ok(300..=399) => "3xx",
        Ok(400..=499) => "4xx",
        Ok(_) => "5xx",
        Err(class) => class.name(),
    }
}

/// Asks every shard how its lanes stand, and answers the whole text.
pub(crate) async fn metrics_text(core: Arc<Core>) -> String {
    let mut lanes = Vec::new();
    for mailbox in &core.mailboxes {
        let (answer, receiver) = tokio::sync::oneshot::channel();
        mailbox.put(Mail::Lanes(answer));
        lanes.extend(receiver.await.unwrap_or_default());
    }
    let store = Arc::clone(&core.store);
    let read = tokio::task::spawn_blocking(move || (store.oldest_waiting(), store.bytes_on_disk())).await;
    let (oldest, bytes) = match read {
        Ok((Ok(oldest), bytes)) => (oldest.map(|message| message.time()), bytes),
        Ok((Err(error), bytes)) => {
            tracing::error!(%error, "the waiting room could not be read");
            (None, bytes)
        }
        Err(_) => (None, None),
    };
    core.metrics.text(&lanes, oldest, core.clock.engine(), bytes)
}

/// One line for an attempt: a failure is the endpoint's business, so it is `info`; success is `debug`, and so is what the endpoint's own code
/// did not want.
pub(crate) fn attempt(start: &Start, outcome: &Outcome) {
    let duration_ms = u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX);
    if outcome.is_success() {
        tracing::debug!(
            message.id = %start.message.id, endpoint.id = %start.endpoint.id, attempt.number = start.number,
            status = class(outcome), duration_ms, "delivered"
        );
    } else if outcome.is_cancelled() {
        tracing::debug!(
            message.id = %start.message.id, endpoint.id = %start.endpoint.id, attempt.number = start.number,
            duration_ms, "cancelled by the endpoint's own code"
        );
    } else {
        tracing::info!(
            message.id = %start.message.id, endpoint.id = %start.endpoint.id, attempt.number = start.number,
            status = outcome.result.unwrap_or(0), outcome = class(outcome), reason = outcome.reason(), duration_ms,
            "attempt failed"
        );
    }
}

/// What an engine wants the operator to know.
pub(crate) fn notice(core: &Core, notice: Notice) {
    let id = |key| core.catalogue.read().endpoint(key).map(|e| e.id.to_string()).unwrap_or_default();
    match notice {
        Notice::EndpointDisabled { endpoint, by } => {
            core.metrics.endpoints_disabled.inc();
            tracing::warn!(endpoint.id = id(endpoint), by = ?by, "endpoint disabled; its deliveries wait until it is enabled");
        }
        Notice::DeliveryEnded { message, endpoint, reason, attempts } => {
            core.metrics.deliveries_ended.get_or_create(&OutcomeLabel { outcome: reason.name() }).inc();
            tracing::info!(
                message.id = message.map(tracing::field::display),
                endpoint.id = id(endpoint),
                attempt.number = attempts,
                reason = reason.name(),
                "delivery ended undelivered"
            );
        }
        Notice::DeliveryRecovered { message, endpoint, attempts } => {
            tracing::info!(
                message.id = %message, endpoint.id = id(endpoint), attempt.number = attempts, "delivered after failures"
            );
        }
        Notice::BreakerOpened { endpoint } => {
            core.metrics.breakers_opened.inc();
            tracing::info!(endpoint.id = id(endpoint), "endpoint failed in a row; probing until it answers");
        }
        Notice::BreakerClosed { endpoint } => tracing::info!(endpoint.id = id(endpoint), "endpoint answers again"),
    }
}

/// The client of AMQP warns of what a broker returned, and shows its payload. What goes wrong there is told by whoever asked for it.
const MUTE: &str = "lapin";

/// Starts logging to standard error.
pub fn start_logging(log: &Log) {
    let builder = tracing_subscriber::fmt().with_max_level(log.level).with_writer(std::io::stderr).with_target(false);
    let ours = FilterFn::new(|of| !of.target().starts_with(MUTE));
    let result = match log.format {
        Format::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(terminal).finish().with(ours).try_init()
        }
        Format::Json => builder.json().flatten_event(true).finish().with(ours).try_init(),
    };
    // A second start within one process (tests) keeps the first subscriber.
    drop(result);
}
