//! Traces as a collector and an endpoint see them.

use crate::program::{Program, eventually};
use crate::receiver::{Arrival, Receiver};
use serde_json::{Value, json};
use std::collections::HashMap;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENDER: &str = "00f067aa0ba902b7";

/// An application with one endpoint.
fn set_up(server: &Program, url: &str) {
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"url": url, "uid": "hooks"})).0, 201);
}

/// Sends a message with these headers; answers its id.
fn send(server: &Program, headers: &str) -> String {
    let body = r#"{"eventType":"a.b","payload":{}}"#;
    let (status, answer) = server.raw(&format!(
        "POST /api/v1/app/acme/msg HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n{headers}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        server.token,
        body.len()
    ));
    assert_eq!(status, 202, "{answer}");
    serde_json::from_str::<Value>(&answer).unwrap()["id"].as_str().unwrap().to_owned()
}

/// Trace, span and flags of what an endpoint got.
fn traceparent(arrival: &Arrival) -> [String; 3] {
    let mut parts = arrival.headers["traceparent"].split('-').map(str::to_owned);
    assert_eq!(parts.next().as_deref(), Some("00"));
    [(); 3].map(|()| parts.next().unwrap())
}

fn attributes(span: &Value) -> HashMap<String, Value> {
    let all = span["attributes"].as_array().unwrap().iter();
    let value = |attribute: &Value| attribute["value"].as_object().unwrap().values().next().unwrap().clone();
    all.map(|attribute| (attribute["key"].as_str().unwrap().to_owned(), value(attribute))).collect()
}

#[test]
fn otel_one_trace_leads_from_the_sender_to_the_last_attempt() {
    let folder = tempfile::tempdir().unwrap();
    // The first time it cannot take them.
    let collector = Receiver::answering(&[503, 200]);
    let endpoint = Receiver::answering(&[500, 200]);
    let at = format!("http://{}", collector.address);
    let environment = [
        ("BELLWIRE_TRACES_ENDPOINT", at.as_str()),
        ("BELLWIRE_TRACES_HEADERS", "x-team: us"),
        ("BELLWIRE_TRACES_SERVICE_NAME", "bell"),
    ];
    let server = Program::start(folder.path(), &environment);
    set_up(&server, &endpoint.url());

    let given = send(&server, &format!("traceparent: 00-{TRACE}-{SENDER}-01\r\n"));
    let [first, second] = [(); 2].map(|()| traceparent(&endpoint.next()));
    let own = send(&server, "traceparent: 00-nonsense\r\n");
    let third = traceparent(&endpoint.next());
    assert_eq!([&first[0], &second[0]], [TRACE, TRACE]);
    assert_ne!(third[0], TRACE);
    assert_ne!(first[1], second[1]);
    assert!([&first, &second, &third].iter().all(|parent| parent[2] == "01"));

    // It sends what it has when it ends.
    eventually("all is recorded", || (crate::program::ledger(folder.path())["delivered"] == 2).then_some(()));
    assert!(server.stop().success());
    let mut spans = Vec::new();
    let kept = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("traces");
    let _ = std::fs::remove_dir_all(&kept);
    std::fs::create_dir_all(&kept).unwrap();
    for number in 0.. {
        if spans.len() >= 5 {
            break;
        }
        let arrival = collector.next();
        // For `scripts/test traces`, which decodes it by OpenTelemetry's own definitions.
        std::fs::write(kept.join(format!("{number}.json")), &arrival.body).unwrap();
        assert_eq!(arrival.request, "POST /v1/traces HTTP/1.1");
        assert_eq!((&*arrival.headers["content-type"], &*arrival.headers["x-team"]), ("application/json", "us"));
        let body: Value = serde_json::from_slice(&arrival.body).unwrap();
        let resource = &body["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "bell");
        for span in resource["scopeSpans"][0]["spans"].as_array().unwrap() {
            // What was refused comes again.
            if spans.iter().all(|known: &Value| known["spanId"] != span["spanId"]) {
                spans.push(span.clone());
            }
        }
    }
    let named = |name: &str, message: &str| {
        let fits = |span: &&Value| span["name"] == name && attributes(span)["message.id"] == message;
        spans.iter().filter(fits).collect::<Vec<_>>()
    };
    let [accept] = named("accept", &given)[..] else { panic!("one acceptance") };
    assert_eq!(
        (&accept["traceId"], &accept["parentSpanId"], &accept["kind"]),
        (&json!(TRACE), &json!(SENDER), &json!(2))
    );
    let attempts = named("attempt", &given);
    for (parent, status) in [(&first, "500"), (&second, "200")] {
        let span =
            attempts.iter().find(|span| span["spanId"] == parent[1]).expect("the span that the endpoint was told");
        assert_eq!(
            (&span["traceId"], &span["parentSpanId"], &span["kind"]),
            (&json!(TRACE), &accept["spanId"], &json!(3))
        );
        assert_eq!(attributes(span)["http.response.status_code"], status);
        assert_eq!(span["status"]["code"] == 2, status == "500");
        let time = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"));
    }
    let [accept] = named("accept", &own)[..] else { panic!("one acceptance") };
    assert_eq!((&accept["traceId"], accept.get("parentSpanId")), (&json!(third[0]), None));
    assert_eq!(named("attempt", &own)[0]["parentSpanId"], accept["spanId"]);
}

#[test]
fn otel_an_attempt_after_a_crash_belongs_to_the_same_trace_and_what_is_not_sampled_is_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Receiver::answering(&[200]);
    let endpoint = Receiver::answering(&[500]);
    let at = format!("http://{}", collector.address);
    let start = |agent: &str| {
        let environment = [
            ("BELLWIRE_TRACES_ENDPOINT", at.as_str()),
            ("BELLWIRE_TRACES_SAMPLED_RATIO", "0"),
            ("BELLWIRE_DELIVERY_USER_AGENT", agent),
            ("BELLWIRE_DELIVERY_RETRY_SCHEDULE", "200ms,200ms,200ms,200ms,200ms,200ms,200ms,200ms"),
        ];
        Program::start(folder.path(), &environment)
    };
    let server = start("first");
    set_up(&server, &endpoint.url());
    let [with, without] =
        [&format!("traceparent: 00-{TRACE}-{SENDER}-01\r\n"), ""].map(|headers| send(&server, headers));
    let trace_of = |message: &str, agent: &str| loop {
        let arrival = endpoint.next();
        if arrival.headers["webhook-id"] == message && arrival.headers["user-agent"] == agent {
            return traceparent(&arrival);
        }
    };
    let before = [trace_of(&with, "first"), trace_of(&without, "first")];
    server.kill();
    let server = start("second");
    let after = [trace_of(&with, "second"), trace_of(&without, "second")];
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before[0], &before[2]), (&after[0], &after[2]));
        assert_ne!(before[1], after[1]);
    }
    assert_eq!((&*after[0][0], &*after[0][2]), (TRACE, "01"));
    assert_eq!(&*after[1][2], "00");
    assert!(server.stop().success());
    let spans = String::from_utf8(collector.next().body).unwrap();
    assert!(spans.contains(TRACE) && !spans.contains(&*after[1][0]));
}

#[test]
fn otel_a_received_request_goes_on_in_its_sender_s_trace_or_begins_one() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Receiver::answering(&[200]);
    let endpoint = Receiver::answering(&[500, 200]);
    let at = format!("http://{}", collector.address);
    let server = Program::start(folder.path(), &[("BELLWIRE_TRACES_ENDPOINT", at.as_str())]);
    set_up(&server, &endpoint.url());
    let source = json!({ "uid": "any", "appId": "acme", "preset": "none", "path": "/hooks/any" });
    assert_eq!(server.call("POST", "/source", source).0, 201);
    let post = |headers: &str| {
        let (status, answer) = server.raw(&format!(
            "POST /hooks/any HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: 2\r\n\r\n{{}}"
        ));
        assert_eq!(status, 202, "{answer}");
    };
    post(&format!("traceparent: 00-{TRACE}-{SENDER}-01\r\n"));
    let [first, second] = [(); 2].map(|()| traceparent(&endpoint.next()));
    post("");
    let own = traceparent(&endpoint.next());
    assert_eq!([&first[0], &second[0]], [TRACE, TRACE]);
    assert!(first[1] != second[1] && own[0] != TRACE);

    eventually("all is recorded", || (crate::program::ledger(folder.path())["delivered"] == 2).then_some(()));
    assert!(server.stop().success());
    let mut spans: Vec<Value> = Vec::new();
    while spans.len() < 5 {
        let body: Value = serde_json::from_slice(&collector.next().body).unwrap();
        spans.extend(body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().iter().cloned());
    }
    let of = |trace: &str, name: &str| {
        spans.iter().filter(|span| span["traceId"] == trace && span["name"] == name).collect::<Vec<_>>()
    };
    let [accept] = of(TRACE, "accept")[..] else { panic!("one acceptance: {spans:?}") };
    assert_eq!(accept["parentSpanId"], SENDER);
    let attempts = of(TRACE, "attempt");
    assert!(attempts.len() == 2 && attempts.iter().all(|span| span["parentSpanId"] == accept["spanId"]), "{spans:?}");
    let [accept] = of(&own[0], "accept")[..] else { panic!("one acceptance: {spans:?}") };
    assert_eq!((accept.get("parentSpanId"), of(&own[0], "attempt").len()), (None, 1));
}
