//! What a filter, a schema and a transformation cost alone: processor time for each message, by the code that messages go through, with
//! what the case `features` gives its endpoints.
//!
//! A loop of its own beside the runs, because the difference between two runs of a whole server is larger than what is asked for.

use super::cases::{FILTER, TRANSFORMATION, schema};
use super::payload;
use anyhow::{Context as _, anyhow, bail};
use bellwire_api::PayloadSchema;
use bellwire_model::{
    ApplicationKey, Endpoint, EndpointId, EndpointKey, FilterSource, Health, Limits, Sequence, Shape, Timestamp,
};
use bellwire_shape::{Candidate, Script, ScriptLimits, Scripts, Verdict, Webhook, check_filter, judge};
use serde::Serialize;
use std::hint::black_box;
use std::sync::mpsc::channel;
use std::time::Duration;

const EVENT_TYPE: &str = "bench.sent";

/// What one of them costs.
#[derive(Clone, Serialize)]
pub(crate) struct Cost {
    pub(crate) what: &'static str,
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
    let filtering = filtering(&payload, times(50_000))?;
    let [first, again] = filtering;
    Ok(vec![
        Cost { what: "CEL filter, payload parsed already", us_per_message: again, us_at_most: Some(3.0) },
        Cost { what: "CEL filter, first of a message", us_per_message: first, us_at_most: None },
        Cost { what: "JSON Schema", us_per_message: checking(&payload, times(50_000))?, us_at_most: None },
        Cost {
            what: "JavaScript transformation",
            us_per_message: transforming(&payload, times(10_000))?,
            us_at_most: Some(60.0),
        },
    ])
}

/// For the first endpoint with a filter, and for each one after it.
fn filtering(payload: &[u8], times: u32) -> anyhow::Result<[f64; 2]> {
    let filter = check_filter(FilterSource::Cel(FILTER.to_owned())).map_err(|fault| anyhow!("{fault:?}"))?;
    let endpoint = endpoint(Shape { filter: Some(filter), ..Shape::default() });
    let candidate = || Candidate::new(EVENT_TYPE, None, &[], &[], payload);
    let kept = candidate();
    if judge(&endpoint, &kept) != Verdict::Match {
        bail!("the filter does not take what the bench sends");
    }
    let first = spent(times, || drop(black_box(judge(black_box(&endpoint), &candidate()))));
    let again = spent(times, || drop(black_box(judge(black_box(&endpoint), &kept))));
    Ok([first, again])
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

fn transforming(payload: &[u8], times: u32) -> anyhow::Result<f64> {
    let scripts = Scripts::new(ScriptLimits::default());
    let (code, payload) = (TRANSFORMATION.into(), bytes::Bytes::copy_from_slice(payload));
    let run = || {
        let webhook = Webhook {
            url: "https://example.com/".to_owned(),
            payload: payload.clone(),
            event_type: EVENT_TYPE.to_owned(),
            ..Webhook::default()
        };
        let (sender, receiver) = channel();
        let script = Script { lane: 1, code: std::sync::Arc::clone(&code), webhook: Some(webhook) };
        scripts.run(script, move |done| drop(sender.send(done)));
        receiver.recv()
    };
    let made = run().context("the transformation was not run")?;
    let made = made.map_err(|error| anyhow!("the transformation failed: {error}"))?;
    made.context("the transformation gave nothing")?;
    Ok(spent(times, || drop(black_box(run()))))
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
        key: EndpointKey(1),
        application: ApplicationKey(1),
        id: EndpointId::from_parts(Sequence::ZERO, [0; 12]),
        uid: None,
        kind: Default::default(),
        url: String::new(),
        description: String::new(),
        disabled: None,
        event_types: None,
        channels: None,
        limits: Limits::default(),
        secrets: Vec::new(),
        headers: Vec::new(),
        retry_schedule: None,
        shape,
        access: Default::default(),
        metadata: Default::default(),
        health: Health::default(),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cost_is_measured_by_code_that_does_its_work() {
        let costs = measure(1_024, true).expect("measured");
        assert_eq!(costs.len(), 4);
        assert!(costs.iter().all(|cost| cost.us_per_message > 0.0 && cost.us_per_message < 1e6));
    }
}
