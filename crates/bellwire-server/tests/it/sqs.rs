//! Amazon SQS in both directions, with an imitation of it that judges every signature: an endpoint that sends to a queue, and a source
//! that takes from one, with the process killed in between.

use crate::program::{Program, eventually, ledger};
use crate::sources::{messages, state};
use crate::sqs_imitation::{Imitation, KEY_ID, SECRET};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

fn settings(queue: &Imitation, name: &str) -> Value {
    json!({ "broker": "sqs", "url": queue.url(name), "user": KEY_ID, "password": SECRET })
}

fn start(folder: &Path) -> Program {
    Program::start(folder, &[("BELLWIRE_DELIVERY_RETRY_SCHEDULE", &vec!["300ms"; 60].join(","))])
}

fn attributes(all: &[(&str, &str)]) -> Value {
    all.iter()
        .map(|(name, value)| ((*name).to_owned(), json!({ "DataType": "String", "StringValue": value })))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn put(queue: &Imitation, numbers: std::ops::Range<usize>) {
    let of = attributes(&[("webhook-event-type", "order.placed")]);
    queue.put(numbers.map(|n| (json!({ "n": n }).to_string(), of.clone())));
}

/// All of them, each once, in whatever order, and the queue has none left.
fn all_arrive(server: &Program, queue: &Imitation, count: usize) {
    eventually("the queue is empty", || (queue.left() == 0).then_some(()));
    let all = messages(server);
    let numbers: BTreeSet<u64> = all.iter().map(|(_, payload)| payload["n"].as_u64().unwrap()).collect();
    assert_eq!((all.len(), numbers.len()), (count, count), "each once");
    assert!(all.iter().all(|(event_type, _)| event_type == "order.placed"));
}

#[test]
fn what_is_in_a_queue_of_sqs_becomes_messages_once_whatever_dies() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Imitation::start();
    put(&queue, 0..50);
    let mut server = start(folder.path());
    assert_eq!(server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" })).0, 201);
    let source = json!({ "uid": "orders", "appId": "acme", "queue": settings(&queue, "orders") });
    let (status, made) = server.call("POST", "/source", source);
    assert_eq!((status, &made["queue"]["password"]), (201, &json!("***")), "{made}");
    all_arrive(&server, &queue, 50);
    let mut count = 50;
    for round in 0..3 {
        let before = messages(&server).len();
        put(&queue, count..count + 200);
        count += 200;
        eventually("it has begun", || (messages(&server).len() > before).then_some(()));
        queue.die(round == 1);
        server.kill();
        server = start(folder.path());
        queue.die(false);
    }
    all_arrive(&server, &queue, count);

    // What is durable, and of whose deletion the queue has not heard, comes again, and is known.
    queue.swallow(true);
    put(&queue, count..count + 15);
    count += 15;
    eventually("they are durable", || (messages(&server).len() == count).then_some(()));
    eventually("it deletes", || (queue.swallowed() > 0).then_some(()));
    server.kill();
    queue.swallow(false);
    server = start(folder.path());
    all_arrive(&server, &queue, count);
    let seen = eventually("it is well", || {
        Some(state(&server, "orders")).filter(|seen| seen["failureCount"] == json!(0) && seen["lastRun"].is_string())
    });
    assert!(seen["position"]["last"].as_str().unwrap().starts_with("orders id-"), "{seen}");
    assert!(server.stop().success());
}

#[test]
fn what_cannot_be_taken_from_sqs_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Imitation::start();
    let server = start(folder.path());
    assert_eq!(server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" })).0, 201);
    let source = |queue: Value| json!({ "uid": "orders", "appId": "acme", "queue": queue });
    for (change, field, text) in [
        (json!({ "url": "https://sqs.eu-central-1.amazonaws.com" }), "url", "the queue's URL"),
        (json!({ "user": null }), "user", "access key"),
        (json!({ "region": "EU" }), "region", "eu-central-1"),
        (json!({ "stream": "s" }), "stream", "the URL says"),
        (json!({ "group": "g" }), "group", "leave it out"),
        (json!({ "start": "new" }), "start", "leave it out"),
    ] {
        let mut wanted = settings(&queue, "orders");
        wanted.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let (status, told) = server.call("POST", "/source", source(wanted));
        assert_eq!((status, &told["detail"][0]["loc"]), (422, &json!(["body", "queue", field])), "{told}");
        assert!(told["detail"][0]["msg"].as_str().unwrap().contains(text), "{told}");
    }
    let mut wrong = settings(&queue, "orders");
    wrong["password"] = json!("wrong");
    assert_eq!(server.call("POST", "/source", source(wrong)).0, 201);
    let error = || state(&server, "orders")["lastError"]["message"].as_str().map(str::to_owned);
    let told = eventually("it is not let in", error);
    assert!(told.contains("SignatureDoesNotMatch"), "{told}");
    let none = attributes(&[]);
    queue.put([("no JSON".to_owned(), none.clone()), ("{}".to_owned(), none)]);
    put(&queue, 2..3);
    let change = json!({ "queue": settings(&queue, "orders") });
    assert_eq!(server.call("PATCH", "/source/orders", change).0, 200);
    all_arrive(&server, &queue, 1);
    let (_, page) = server.call("GET", "/source/orders/request?outcome=refused", Value::Null);
    let reasons: Vec<&str> = page["data"].as_array().unwrap().iter().map(|r| r["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.len(), 2, "{page}");
    assert!(reasons.iter().any(|reason| reason.contains("not JSON")), "{page}");
    assert!(reasons.iter().any(|reason| reason.contains("webhook-event-type")), "{page}");
    assert!(server.stop().success());
}

#[test]
fn what_is_accepted_is_in_sqs_once_though_it_dies() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Imitation::start();
    let mut server = start(folder.path());
    assert_eq!(server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" })).0, 201);
    let mut plugin = settings(&queue, "orders.fifo");
    plugin["runs"] = json!("queue");
    plugin["group"] = json!("{{type}}");
    let endpoint = json!({ "uid": "queue", "kind": "plugin", "plugin": plugin });
    let (status, told) = server.call("POST", "/app/acme/endpoint", endpoint);
    assert_eq!(status, 201, "{told}");
    for round in 0..3 {
        queue.die(round == 1);
        for n in 0..10 {
            let message = json!({ "eventType": "order.placed", "payload": { "n": n } });
            assert_eq!(server.call("POST", "/app/acme/msg", message).0, 202);
        }
        server.kill();
        server = start(folder.path());
        queue.die(false);
    }
    eventually("everything is sent", || (ledger(folder.path())["pending"] == 0).then_some(()));
    let sent = queue.sent();
    assert_eq!((sent.len(), &ledger(folder.path())["delivered"]), (30, &json!(30)));
    for one in &sent {
        assert_eq!(one["MessageGroupId"], "order.placed");
        assert_eq!(one["MessageAttributes"]["webhook-event-type"]["StringValue"], "order.placed");
        assert!(one["MessageBody"].as_str().unwrap().starts_with(r#"{"n":"#), "{one}");
    }
    // What SQS does not take is not tried again.
    let text =
        json!({ "eventType": "order.placed", "payload": {}, "transformationsParams": { "rawPayload": "a\u{1}b" } });
    assert_eq!(server.call("POST", "/app/acme/msg", text).0, 202);
    eventually("it is given up", || (ledger(folder.path())["pending"] == 0).then_some(()));
    assert_eq!(queue.sent().len(), 30);
    assert!(server.stop().success());
}
