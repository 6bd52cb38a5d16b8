//! What a filter, a schema, a transformation and a format cost alone: processor time for each message, by the code that messages go through,
//! with what the case `features` gives its endpoints, and with an invoice of twelve lines.
//!
//! A loop of its own beside the runs, because the difference between two runs of a whole server is larger than what is asked for.

use super::cases::{FILTER, TRANSFORMATION, schema};
use super::payload;
use anyhow::{Context as _, anyhow, bail};
use bellwire_api::PayloadSchema;
use bellwire_model::{
    ApplicationKey, Endpoint, EndpointId, EndpointKey, FilterSource, Format, Sequence, Shape, Timestamp,
};
use bellwire_shape::{Candidate, Script, ScriptLimits, Scripts, Verdict, Webhook, check_filter, format, judge};
use bytes::Bytes;
use serde::Serialize;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

const EVENT_TYPE: &str = "bench.sent";
/// All of them take the invoice.
const FILTERS: [(&str, &str); 4] = [
    ("CEL without the payload", "eventType.startsWith('bench.') && 'north' in channels"),
    ("CEL, one field", "payload.amount > 1000"),
    (
        "CEL, four conditions",
        "payload.amount > 1000 && payload.currency == 'EUR' && payload.customer.country in ['NO', 'SE'] && has(payload.id)",
    ),
    ("CEL, through twelve lines", "payload.lines.exists(l, l.count > 10 && l.sku.startsWith('abc'))"),
];
const DIALECT: (&str, &str) =
    ("CloudEvents, two conditions", r#"{"all":[{"prefix":{"type":"bench."}},{"exact":{"payload.currency":"EUR"}}]}"#);
/// Makes another payload of the invoice.
const SCRIPT: &str = "function handler(webhook) {
  webhook.payload = {
    text: `Invoice ${webhook.payload.id} over ${webhook.payload.amount}`,
    lines: webhook.payload.lines.map(line => line.sku),
  };
  webhook.headers = { 'x-kind': webhook.eventType };
  return webhook;
}";

/// What one of them costs.
#[derive(Clone, Serialize)]
pub(crate) struct Cost {
    pub(crate) what: String,
    /// Microseconds of processor time for a message, parsing of its payload included.
    pub(crate) us_per_message: f64,
    /// What it may cost at most, if that was said.
    pub(crate) us_at_most: Option<f64>,
}

/// Measures all of them with payloads of so many bytes; `quick` measures less exactly.
///
/// # Errors
/// If one of them does not do what it should.
pub(crate) fn measure(payload_bytes: usize, quick: bool) -> anyhow::Result<Vec<Cost>> {
    let (payload, _) = payload::build(payload_bytes);
    let times = |full: u32| if quick { full / 20 } else { full };
    let cel = FilterSource::Cel(FILTER.to_owned());
    let [first, again] = filtering(cel, &[], &payload, times(50_000))?;
    let cost = |what: &str, us_per_message: f64| Cost { what: what.to_owned(), us_per_message, us_at_most: None };
    let at_most = |us: f64, cost: Cost| Cost { us_at_most: Some(us), ..cost };
    let mut costs = vec![
        at_most(3.0, cost("CEL filter, payload parsed already", again)),
        cost("CEL filter, first of a message", first),
        cost("JSON Schema", checking(&payload, times(50_000))?),
        at_most(60.0, cost("JavaScript transformation", transforming(&payload, times(10_000))?)),
    ];
    let invoice = invoice();
    let cel = FILTERS.map(|(name, text)| (name, FilterSource::Cel(text.to_owned())));
    for (name, source) in cel.into_iter().chain([(DIALECT.0, FilterSource::CloudEvents(DIALECT.1.to_owned()))]) {
        let [first, again] = filtering(source, &["north".to_owned()], invoice.as_bytes(), times(20_000))?;
        costs.push(cost(&format!("invoice: {name}, parsed already"), again));
        costs.push(cost(&format!("invoice: {name}, first of a message"), first));
    }
    for (name, form) in [("XML", Format::Xml), ("form", Format::Form)] {
        costs.push(cost(&format!("invoice: written as {name}"), writing(form, invoice.as_bytes(), times(5_000))?));
    }
    costs.push(cost("invoice: a script that is new", loading(invoice.as_bytes(), times(1_000))?));
    Ok(costs)
}

/// About 1 kB.
fn invoice() -> String {
    let line = |n| format!(r#"{{"sku":"abc-{n}","count":{n},"price":{n}.5,"note":"some longer text here"}}"#);
    let lines = (0..12).map(line).collect::<Vec<_>>().join(",");
    format!(
        r#"{{"id":"inv_1","amount":1250,"currency":"EUR","customer":{{"name":"Ada","country":"NO"}},"lines":[{lines}]}}"#
    )
}

/// For the first endpoint with a filter, and for each one after it.
fn filtering(source: FilterSource, channels: &[String], payload: &[u8], times: u32) -> anyhow::Result<[f64; 2]> {
    let filter = check_filter(source).map_err(|fault| anyhow!("{fault:?}"))?;
    let endpoint = endpoint(Shape { filter: Some(filter), ..Shape::default() });
    let candidate = || Candidate::new(EVENT_TYPE, None, channels, &[], payload);
    let kept = candidate();
    if judge(&endpoint, &kept) != Verdict::Match {
        bail!("the filter does not take what the bench sends");
    }
    let first = spent(times, || drop(black_box(judge(black_box(&endpoint), &candidate()))));
    let again = spent(times, || drop(black_box(judge(black_box(&endpoint), &kept))));
    Ok([first, again])
}

fn writing(form: Format, payload: &[u8], times: u32) -> anyhow::Result<f64> {
    format::write(form, payload).map_err(|error| anyhow!("the invoice cannot be written: {error:?}"))?;
    Ok(spent(times, || drop(black_box(format::write(form, black_box(payload))))))
}

fn checking(payload: &[u8], times: u32) -> anyhow::Result<f64> {
    let schema = PayloadSchema::new(&schema()).map_err(|error| anyhow!(error))?;
    if !schema.takes(payload) {
        bail!("the schema does not take what the bench sends");
    }
    Ok(spent(times, || {
        black_box(schema.takes(black_box(payload)));
    }))
}

/// A script that is loaded already.
fn transforming(payload: &[u8], times: u32) -> anyhow::Result<f64> {
    let (scripts, payload) = (Scripts::new(ScriptLimits::default()), Bytes::copy_from_slice(payload));
    let code = TRANSFORMATION.into();
    transform(&scripts, 1, &code, &payload)?;
    Ok(spent(times, || drop(black_box(transform(&scripts, 1, &code, &payload)))))
}

/// Each time that of an endpoint which has not run one yet.
fn loading(payload: &[u8], times: u32) -> anyhow::Result<f64> {
    let (scripts, payload) = (Scripts::new(ScriptLimits::default()), Bytes::copy_from_slice(payload));
    let code = SCRIPT.into();
    transform(&scripts, 0, &code, &payload)?;
    let mut lane = 0;
    Ok(spent(times, || {
        lane += 1;
        drop(black_box(transform(&scripts, lane, &code, &payload)));
    }))
}

fn transform(scripts: &Scripts, lane: u64, code: &Arc<str>, payload: &Bytes) -> anyhow::Result<()> {
    let webhook = Webhook {
        url: "https://example.com/".to_owned(),
        payload: payload.clone(),
        event_type: EVENT_TYPE.to_owned(),
        ..Webhook::default()
    };
    let (sender, receiver) = channel();
    let script = Script { lane, application: ApplicationKey(0), code: Arc::clone(code), webhook: Some(webhook) };
    scripts.run(script, move |done| drop(sender.send(done)));
    let made = receiver.recv().context("the transformation was not run")?;
    let made = made.map_err(|error| anyhow!("the transformation failed: {error}"))?;
    made.context("the transformation gave nothing")?;
    Ok(())
}

/// Microseconds of processor time for each of `times`, of all threads of this process together: also on a busy machine.
fn spent(times: u32, mut work: impl FnMut()) -> f64 {
    let begun = processor_time();
    (0..times).for_each(|_| work());
    let spent = processor_time().saturating_sub(begun);
    spent.as_secs_f64() * 1e6 / f64::from(times.max(1))
}

/// What this process has spent so far, with its threads that have ended.
fn processor_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(spent).unwrap_or_default()
}

fn endpoint(shape: Shape) -> Endpoint {
    Endpoint {
        shape,
        ..Endpoint::new(
            EndpointKey(1),
            ApplicationKey(1),
            EndpointId::from_parts(Sequence::ZERO, [0; 12]),
            "",
            Timestamp::EPOCH,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cost_is_measured_by_code_that_does_its_work() {
        let costs = measure(1_024, true).expect("measured");
        assert_eq!(costs.len(), 17);
        assert!(costs.iter().all(|cost| cost.us_per_message > 0.0 && cost.us_per_message < 1e6));
    }
}
