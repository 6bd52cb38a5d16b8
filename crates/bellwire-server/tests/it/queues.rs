//! Endpoints that publish to queues: real queues, which die as well as we do. `scripts/test queues` runs what needs them.

use crate::program::Program;
#[cfg(all(feature = "nats", feature = "redis"))]
use crate::program::{eventually, ledger};
use bellwire_queue::Broker;
use serde_json::{Value, json};
use std::path::Path;

#[cfg(all(feature = "nats", feature = "redis"))]
#[path = "../../../bellwire-queue/tests/it/real.rs"]
pub(crate) mod real;

/// Retries for as long as a test takes.
fn serve(folder: &Path) -> Program {
    let schedule = vec!["300ms"; 60].join(",");
    Program::start(folder, &[("BELLWIRE_DELIVERY_RETRY_SCHEDULE", &schedule)])
}

fn settings(broker: Broker, port: u16) -> Value {
    let url = format!("{}://127.0.0.1:{port}", broker.name());
    match broker {
        Broker::Nats => json!({"runs": "queue", "broker": "nats", "url": url, "subject": "{{type}}"}),
        Broker::Redis => json!({"runs": "queue", "broker": "redis", "url": url, "stream": "{{type}}"}),
        Broker::Sqs => {
            let url = "https://sqs.eu-central-1.amazonaws.com/123456789012/orders";
            json!({"runs": "queue", "broker": "sqs", "url": url, "user": "AK", "password": "secret"})
        }
    }
}

#[test]
fn a_queue_that_is_not_built_in_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    for broker in Broker::ALL {
        let endpoint = json!({"kind": "plugin", "plugin": settings(broker, 4222)});
        let (status, body) = server.call("POST", "/app/acme/endpoint", endpoint);
        if broker.is_built_in() {
            assert_eq!(status, 201, "{body}");
            continue;
        }
        assert_eq!((status, &body["detail"][0]["loc"]), (422, &json!(["body", "plugin", "broker"])), "{body}");
        assert!(body["detail"][0]["msg"].as_str().unwrap().contains("--features"), "{body}");
    }
}

fn source_settings(broker: Broker) -> Value {
    json!({ "broker": broker.name(), "url": format!("{}://127.0.0.1", broker.name()), "stream": "events" })
}

#[test]
fn settings_of_a_source_that_cannot_be_meant_are_refused_with_their_field() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    assert_eq!(server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" })).0, 201);
    let refused = |queue: Value, field: &str, text: &str| {
        let (status, told) =
            server.call("POST", "/source", json!({ "uid": "orders", "appId": "acme", "queue": queue }));
        assert_eq!((status, &told["detail"][0]["loc"]), (422, &json!(["body", "queue", field])), "{queue}: {told}");
        assert!(told["detail"][0]["msg"].as_str().unwrap().contains(text), "{told}");
    };
    refused(json!({ "broker": "kafka", "url": "kafka://h", "stream": "s" }), "broker", "nats or redis");
    for broker in Broker::ALL {
        if !broker.is_built_in() {
            refused(source_settings(broker), "broker", &format!("--features {}", broker.name()));
            continue;
        }
        // What is SQS' own is tried beside its imitation.
        if broker == Broker::Sqs {
            continue;
        }
        for (change, field, text) in [
            (json!({ "url": "http://h" }), "url", "://host"),
            (json!({ "stream": "" }), "stream", "from 1 to"),
            (json!({ "group": "" }), "group", "from 1 to"),
            (json!({ "start": "middle" }), "start", "unknown variant"),
            (json!({ "expects": "xml" }), "expects", "unknown variant"),
            (json!({ "eventTypeFrom": "body." }), "eventTypeFrom", "body.type"),
            (json!({ "dedupeHeader": "" }), "dedupeHeader", "from 1 to"),
            (json!({ "nothing": 1 }), "nothing", "unknown field"),
            match broker {
                Broker::Nats => (json!({ "payloadField": "data" }), "payloadField", "redis only"),
                _ => (json!({ "subject": "a.b" }), "subject", "nats only"),
            },
        ] {
            let mut queue = source_settings(broker);
            queue.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            refused(queue, field, text);
        }
        if broker == Broker::Nats {
            let mut queue = source_settings(broker);
            queue["stream"] = json!("a.b");
            refused(queue, "stream", "no such names");
        }
    }
    assert!(server.stop().success());
}

#[cfg(all(feature = "nats", feature = "redis"))]
fn what_is_accepted_is_in_the_queue_once_whatever_dies(broker: Broker) {
    let folder = tempfile::tempdir().unwrap();
    let mut queue = real::Real::start(broker, &[]);
    queue.make_stream();
    let mut server = serve(folder.path());
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let endpoint = json!({"uid": "queue", "kind": "plugin", "plugin": settings(broker, queue.port)});
    let (status, body) = server.call("POST", "/app/acme/endpoint", endpoint);
    assert_eq!(status, 201, "{body}");
    let send = |server: &Program, count: usize| {
        for number in 0..count {
            let message = json!({"eventType": "events", "payload": {"number": number}});
            assert_eq!(server.call("POST", "/app/acme/msg", message).0, 202);
        }
    };
    for _ in 0..3 {
        send(&server, 30);
        // In the midst of publishing.
        queue.kill();
        send(&server, 10);
        queue.start_again();
        send(&server, 10);
        server.kill();
        server = serve(folder.path());
    }
    eventually("everything is published", || (ledger(folder.path())["pending"] == 0).then_some(()));
    let ledger = ledger(folder.path());
    assert_eq!((&ledger["matched"], &ledger["delivered"]), (&json!(150), &json!(150)), "{ledger}");
    assert_eq!(queue.count(), 150);
    // What the queue said is in the log.
    let (_, page) = server.call("GET", "/app/acme/attempt/endpoint/queue?status=0&limit=1", json!(null));
    let said = page["data"][0]["response"].as_str().unwrap();
    assert!(said.starts_with("events ") || said.contains('-'), "{page}");
    assert!(server.stop().success());
}

#[cfg(all(feature = "nats", feature = "redis"))]
#[test]
#[ignore = "needs nats-server: scripts/test queues"]
fn what_is_accepted_is_in_nats_once_whatever_dies() {
    what_is_accepted_is_in_the_queue_once_whatever_dies(Broker::Nats);
}

#[cfg(all(feature = "nats", feature = "redis"))]
#[test]
#[ignore = "needs redis-server: scripts/test queues"]
fn what_is_accepted_is_in_redis_once_whatever_dies() {
    what_is_accepted_is_in_the_queue_once_whatever_dies(Broker::Redis);
}
