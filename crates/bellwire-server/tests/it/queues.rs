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
        Broker::Amqp => json!({"runs": "queue", "broker": "amqp", "url": url, "routing_key": "{{type}}"}),
        Broker::Kafka => json!({"runs": "queue", "broker": "kafka", "url": url, "topic": "{{type}}"}),
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
    refused(json!({ "broker": "rabbit", "url": "rabbit://h", "stream": "s" }), "broker", "nats or redis");
    for broker in Broker::ALL {
        if !broker.is_built_in() {
            refused(source_settings(broker), "broker", &format!("--features {}", broker.name()));
            continue;
        }
        // What is SQS' own is tried beside its imitation.
        if broker == Broker::Sqs {
            continue;
        }
        if broker == Broker::Amqp {
            let queue = json!({ "broker": "amqp", "url": "amqp://127.0.0.1", "queue": "events" });
            for (change, field, text) in [
                (json!({ "url": "http://h" }), "url", "amqp://host:5672"),
                (json!({ "url": "amqp://h/a/b" }), "url", "%2F"),
                (json!({ "queue": "" }), "queue", "from 1 to 255"),
                (json!({ "queue": "q".repeat(256) }), "queue", "from 1 to 255"),
                (json!({ "queue": null }), "queue", "is required"),
                (json!({ "stream": "events" }), "stream", "it is `queue`"),
                (json!({ "group": "g" }), "group", "nothing of the kind"),
                (json!({ "start": "new" }), "start", "nothing of the kind"),
                (json!({ "subject": "a.b" }), "subject", "nats only"),
                (json!({ "payloadField": "data" }), "payloadField", "redis only"),
                (json!({ "password": "p" }), "user", "needs a `user`"),
            ] {
                let mut queue = queue.clone();
                queue.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
                refused(queue, field, text);
            }
            continue;
        }
        for (change, field, text) in [
            (json!({ "url": "http://h" }), "url", "://host"),
            match broker {
                Broker::Kafka => (json!({ "stream": "a b" }), "stream", "name of a topic"),
                _ => (json!({ "stream": "" }), "stream", "from 1 to"),
            },
            match broker {
                Broker::Kafka => (json!({ "group": "g" }), "group", "not by Kafka"),
                _ => (json!({ "group": "" }), "group", "from 1 to"),
            },
            (json!({ "start": "middle" }), "start", "unknown variant"),
            (json!({ "expects": "xml" }), "expects", "unknown variant"),
            (json!({ "eventTypeFrom": "body." }), "eventTypeFrom", "body.type"),
            (json!({ "dedupeHeader": "" }), "dedupeHeader", "from 1 to"),
            (json!({ "nothing": 1 }), "nothing", "unknown field"),
            (json!({ "queue": "q" }), "queue", "amqp only"),
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
    match broker {
        // It may have a message twice, but not under two ids.
        #[cfg(feature = "amqp")]
        Broker::Amqp => {
            let all = real::rabbit::Wire::connect(queue.port).drain();
            let ids: std::collections::HashSet<&str> = all.iter().map(|got| got.id.as_str()).collect();
            assert_eq!(ids.len(), 150);
            assert!(all.iter().all(|got| got.payload.starts_with(b"{\"number\":")));
        }
        _ => assert_eq!(queue.count(), 150),
    }
    // What the queue said is in the log.
    let (_, page) = server.call("GET", "/app/acme/attempt/endpoint/queue?status=0&limit=1", json!(null));
    let said = page["data"][0]["response"].as_str().unwrap();
    assert!(said.starts_with("events") || said.contains('-'), "{page}");
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

#[cfg(all(feature = "nats", feature = "redis", feature = "amqp"))]
#[test]
#[ignore = "needs rabbitmq-server: scripts/test queues"]
fn what_is_accepted_is_in_amqp_whatever_dies() {
    what_is_accepted_is_in_the_queue_once_whatever_dies(Broker::Amqp);
}

#[cfg(all(feature = "nats", feature = "redis", feature = "amqp"))]
#[test]
#[ignore = "needs rabbitmq-server: scripts/test queues"]
fn what_no_queue_of_amqp_takes_is_tried_again_and_not_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let queue = real::Real::start(Broker::Amqp, &[]);
    let server = serve(folder.path());
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let mut plugin = settings(Broker::Amqp, queue.port);
    plugin["routing_key"] = json!("nowhere");
    let endpoint = json!({"uid": "queue", "kind": "plugin", "plugin": plugin});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    let message = json!({"eventType": "events", "payload": {"number": 1}});
    assert_eq!(server.call("POST", "/app/acme/msg", message).0, 202);
    let attempts = "/app/acme/attempt/endpoint/queue?status=2";
    let failed = eventually("it is tried again", || {
        let (_, page) = server.call("GET", attempts, json!(null));
        Some(page).filter(|page| page["data"].as_array().is_some_and(|all| all.len() > 1))
    });
    assert!(failed["data"][0].to_string().contains("312 NO_ROUTE"), "{failed}");
    let log = server.log();
    assert!(!log.contains("returned us") && !log.contains("delivery:"), "{log}");
    assert!(server.stop().success());
}
