//! What becomes a span, in which trace, and whether it is sent at all.

use super::export::{self, Exporter};
use super::span::{Kind, Span, Value};
use bellwire_config::Config;
use bellwire_engine::Start;
use bellwire_model::{Message, MessageId, Outcome, Timestamp, TraceParent, Trigger};
use http::HeaderValue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Spans that wait to be sent; what comes while so many wait is dropped.
const WAITING_MAX: usize = 8_192;

/// Takes down what happens to messages. Shared by all threads; never waits.
pub(crate) struct Tracer {
    /// Traces whose number is below this are sampled.
    sampled_below: u64,
    spans: mpsc::Sender<Span>,
    dropped: Arc<AtomicU64>,
    exporter: Exporter,
}

/// An attempt's own span, known before it is made.
pub(crate) struct AttemptTrace {
    own: TraceParent,
    parent: [u8; 8],
}

impl Tracer {
    /// Starts sending, if the settings say where to.
    ///
    /// # Errors
    /// If outgoing requests or the thread cannot be set up.
    pub(crate) fn start(config: &Config) -> anyhow::Result<Option<Tracer>> {
        let traces = &config.traces;
        let Some(endpoint) = &traces.endpoint else { return Ok(None) };
        let (spans, waiting) = mpsc::channel(WAITING_MAX);
        let dropped = Arc::default();
        let exporter = export::start(config, endpoint, waiting, Arc::clone(&dropped))?;
        Ok(Some(Tracer { sampled_below: sampled_below(traces.sampled_ratio), spans, dropped, exporter }))
    }

    /// A message became durable just now, `took` after its draft was handed over.
    pub(crate) fn accepted(&self, message: &Message, took: Duration) {
        let trace = self.trace_of(message);
        if !trace.sampled {
            return;
        }
        let end = crate::clock::wall();
        self.take(Span {
            trace: trace.trace,
            id: trace.span,
            parent: message.trace.map(|sender| sender.span),
            name: "accept",
            kind: Kind::Server,
            begin: before(end, took),
            end,
            attributes: vec![
                ("message.id", Value::Text(message.id.to_string())),
                ("message.event_type", Value::Text(message.event_type.clone())),
                ("message.payload_bytes", Value::count(message.payload.as_ref().map_or(0, |payload| payload.len()))),
            ],
            error: None,
        });
    }

    /// An attempt is about to be made.
    pub(crate) fn attempt(&self, message: &Message) -> AttemptTrace {
        let accept = self.trace_of(message);
        AttemptTrace { own: TraceParent { span: new_span(), ..accept }, parent: accept.span }
    }

    /// It is over.
    pub(crate) fn ended(&self, attempt: AttemptTrace, start: &Start, outcome: &Outcome) {
        let AttemptTrace { own, parent } = attempt;
        if !own.sampled {
            return;
        }
        let mut attributes = vec![
            ("message.id", Value::Text(start.message.id.to_string())),
            ("endpoint.id", Value::Text(start.endpoint.id.to_string())),
            ("attempt.number", Value::Integer(i64::from(start.number))),
            ("attempt.manual", Value::Switch(start.trigger == Trigger::Manual)),
        ];
        if let Some(host) = url::Url::parse(&start.endpoint.url).ok().and_then(|url| url.host_str().map(str::to_owned))
        {
            attributes.push(("server.address", Value::Text(host)));
        }
        match outcome.result {
            Ok(status) => attributes.push(("http.response.status_code", Value::Integer(i64::from(status)))),
            Err(class) => attributes.push(("error.type", Value::Text(class.name().to_owned()))),
        }
        let phases = outcome.phases;
        for (name, took) in [
            ("phase.dns_us", phases.dns),
            ("phase.connect_us", phases.connect),
            ("phase.tls_us", phases.tls),
            ("phase.first_byte_us", phases.first_byte),
        ] {
            attributes.extend(took.map(|took| (name, Value::micros(took))));
        }
        let error = (!outcome.is_success()).then(|| match outcome.result {
            Ok(status) => format!("the endpoint answered {status}"),
            Err(class) => class.name().to_owned(),
        });
        self.take(Span {
            trace: own.trace,
            id: own.span,
            parent: Some(parent),
            name: "attempt",
            kind: Kind::Client,
            begin: outcome.started_at,
            end: outcome.started_at.plus(outcome.duration),
            attributes,
            error,
        });
    }

    /// Sends what waits, until `deadline` at the latest.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.exporter.stop(deadline);
    }

    fn take(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The message's trace and its accept span in it.
    fn trace_of(&self, message: &Message) -> TraceParent {
        let (trace, span) = ids(message.id);
        match message.trace {
            Some(sender) => TraceParent { span, ..sender },
            None => TraceParent { trace, span, sampled: number(&trace) < self.sampled_below },
        }
    }
}

impl AttemptTrace {
    /// What the endpoint gets as `traceparent`.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.own.to_string()).ok()
    }
}

/// The trace of a message that begins with it, and its accept span: 16 bytes of its id, behind the seconds, and the random ones among them.
fn ids(message: MessageId) -> ([u8; 16], [u8; 8]) {
    let bytes = message.0.as_bytes();
    let (mut trace, mut span) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&bytes[4..20]);
    span.copy_from_slice(&bytes[12..20]);
    // Zeros alone would be no id.
    (if trace == [0; 16] { [1; 16] } else { trace }, if span == [0; 8] { [1; 8] } else { span })
}

/// An id that no other span has.
fn new_span() -> [u8; 8] {
    rand::random_range(1..=u64::MAX).to_be_bytes()
}

/// The random part of a trace's id, by which it is sampled: the same everywhere. W3C Trace Context Level 2, "random-trace-id".
fn number(trace: &[u8; 16]) -> u64 {
    let mut last = [0; 8];
    last[1..].copy_from_slice(&trace[9..]);
    u64::from_be_bytes(last)
}

fn sampled_below(ratio: f64) -> u64 {
    // 56 bits are random; all of them are below 2^56.
    (ratio * 2f64.powi(56)) as u64
}

fn before(end: Timestamp, took: Duration) -> Timestamp {
    Timestamp::from_micros(end.as_micros().saturating_sub_unsigned(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::Sequence;

    #[test]
    fn a_trace_is_found_again_by_the_message_s_id_alone() {
        let id = MessageId::from_parts(Sequence::from_u64(0x0123_4567_89ab_cdef), [7; 12]);
        let again = id.to_string().parse::<MessageId>().expect("what was written is read");
        assert_eq!(ids(id), ids(again));
        let other = MessageId::from_parts(Sequence::from_u64(0x0123_4567_89ab_cdf0), [7; 12]);
        assert_ne!(ids(id).0, ids(other).0);
        assert_ne!(new_span(), new_span());
    }

    #[test]
    fn about_as_many_are_sampled_as_was_asked_for() {
        let sampled = |ratio: f64| {
            let below = sampled_below(ratio);
            (0..10_000).filter(|_| number(&rand::random()) < below).count()
        };
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 10_000));
        assert!((2_000..3_000).contains(&sampled(0.25)));
    }
}
