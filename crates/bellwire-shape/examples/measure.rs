//! What filters, transformations and formats cost, in processor time of this process, for a payload of about 1 kB.
//!
//! `cargo run --release -p bellwire-shape --example measure`. The figures stay of use on a busy machine, because time in which other
//! processes run does not count.
#![expect(clippy::unwrap_used, reason = "a program for developers")]

use bellwire_model::{
    ApplicationKey, ContentFilter, Endpoint, EndpointId, EndpointKey, FilterSource, Format, Health, Limits, Sequence,
    Shape, Timestamp,
};
use bellwire_shape::{Candidate, Script, ScriptLimits, Scripts, Verdict, Webhook, check_filter, format, judge};
use std::hint::black_box;
use std::sync::mpsc::channel;
use std::time::Duration;

const CODE: &str = "function handler(webhook) {
  webhook.payload = {
    text: `Invoice ${webhook.payload.id} over ${webhook.payload.amount}`,
    lines: webhook.payload.lines.map(line => line.sku),
  };
  webhook.headers = { 'x-kind': webhook.eventType };
  return webhook;
}";

const FILTERS: [(&str, &str); 4] = [
    ("CEL without the payload", "eventType.startsWith('invoice.') && 'north' in channels"),
    ("CEL, one field", "payload.amount > 1000"),
    (
        "CEL, four conditions",
        "payload.amount > 1000 && payload.currency == 'EUR' && payload.customer.country in ['NO', 'SE'] && has(payload.id)",
    ),
    ("CEL, through twelve items", "payload.lines.exists(l, l.count > 10 && l.sku.startsWith('abc'))"),
];
const DIALECT: &str = r#"{"all":[{"prefix":{"type":"invoice."}},{"exact":{"payload.currency":"EUR"}}]}"#;

fn main() {
    let line = |n| format!(r#"{{"sku":"abc-{n}","count":{n},"price":{n}.5,"note":"some longer text here"}}"#);
    let lines = (0..12).map(line).collect::<Vec<_>>().join(",");
    let payload = format!(
        r#"{{"id":"inv_1","amount":1250,"currency":"EUR","customer":{{"name":"Ada","country":"NO"}},"lines":[{lines}]}}"#
    );
    println!("payload: {} bytes; microseconds of processor time", payload.len());
    println!("{:<32} {:>10} {:>28}", "", "each", "with parsing, once a message");
    let channels = ["north".to_owned()];
    let candidate = || Candidate::new("invoice.paid", Some("e-1"), &channels, &[], payload.as_bytes());
    let cel = FILTERS.map(|(name, text)| (name, Some(FilterSource::Cel(text.to_owned()))));
    let dialect = ("CloudEvents, two conditions", Some(FilterSource::CloudEvents(DIALECT.to_owned())));
    for (name, source) in [("no filter", None)].into_iter().chain(cel).chain([dialect]) {
        let endpoint = endpoint(source.map(|source| check_filter(source).unwrap()));
        let kept = candidate();
        assert_eq!(judge(&endpoint, &kept), Verdict::Match, "{name}");
        let again = time(200_000, || drop(black_box(judge(black_box(&endpoint), &kept))));
        let first = time(20_000, || drop(black_box(judge(&endpoint, &candidate()))));
        println!("{name:<32} {again:>10.2} {first:>28.2}");
    }
    for format in [Format::Xml, Format::Form] {
        let each = time(5_000, || drop(black_box(format::write(format, payload.as_bytes()).unwrap())));
        println!("{:<32} {each:>10.2}", format!("format {format:?}"));
    }
    let scripts = Scripts::new(ScriptLimits { deadline: Duration::from_secs(5), ..ScriptLimits::default() });
    let run = |lane: u64| {
        let (sender, receiver) = channel();
        let webhook = Webhook {
            url: "https://example.com/".to_owned(),
            payload: payload.clone().into(),
            event_type: "invoice.paid".to_owned(),
            ..Webhook::default()
        };
        let script = Script { lane, code: CODE.into(), webhook: Some(webhook) };
        scripts.run(script, move |done| sender.send(done).unwrap());
        receiver.recv().unwrap().unwrap();
    };
    run(0);
    println!("{:<32} {:>10.2}", "transformation, script loaded", time(5_000, || run(0)));
    let mut lane = 0;
    let fresh = time(1_000, || {
        lane += 1;
        run(lane);
    });
    println!("{:<32} {fresh:>10.2}", "transformation, script new");
}

/// Microseconds of processor time, all threads of this process together.
fn time(count: u32, mut work: impl FnMut()) -> f64 {
    let begun = processor_ns();
    (0..count).for_each(|_| work());
    (processor_ns() - begun) as f64 / 1_000.0 / f64::from(count)
}

fn processor_ns() -> u64 {
    let spent = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0_u64)
    };
    std::fs::read_dir("/proc/self/task").unwrap().map(spent).sum()
}

fn endpoint(filter: Option<ContentFilter>) -> Endpoint {
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
        shape: Shape { filter, ..Shape::default() },
        access: Default::default(),
        metadata: Default::default(),
        health: Health::default(),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
    }
}
