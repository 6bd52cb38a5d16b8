//! Operators are told what happens to endpoints and messages: signed, durable, once, and never about what they are told.

use crate::program::{Program, eventually};
use crate::receiver::{Arrival, Receiver};
use bellwire_model::{Sequence, TaskId};
use bellwire_signature::VerifyKey;
use bellwire_store::{Batch, Change, EmbeddedStore, Settings, Store as _, Task, Work};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const FIVE_ATTEMPTS: [(&str, &str); 1] = [("BELLWIRE_DELIVERY_RETRY_SCHEDULE", "20ms,20ms,20ms,20ms")];

/// An endpoint of operational webhooks; answers the key of its signatures.
fn listen(server: &Program, receiver: &Receiver, event_types: Value) -> VerifyKey {
    let body = json!({"url": receiver.url(), "uid": "ops", "eventTypes": event_types});
    assert_eq!(server.call("POST", "/operational-webhook/endpoint", body).0, 201);
    server.key_of("/operational-webhook/endpoint/ops")
}

/// An application with one endpoint, both with the uid `name`.
fn endpoint(server: &Program, name: &str, url: &str) {
    assert_eq!(server.call("POST", "/app", json!({"name": name, "uid": name})).0, 201);
    let endpoint = json!({"url": url, "uid": name});
    assert_eq!(server.call("POST", &format!("/app/{name}/endpoint"), endpoint).0, 201);
}

fn send(server: &Program, name: &str) -> Value {
    let message = json!({"eventType": "a.b", "eventId": format!("of-{name}"), "payload": {}});
    let (status, message) = server.call("POST", &format!("/app/{name}/msg"), message);
    assert_eq!(status, 202);
    message["id"].clone()
}

fn verified(key: &VerifyKey, arrival: &Arrival) -> Value {
    arrival.verify(key);
    serde_json::from_slice(&arrival.body).unwrap()
}

fn operational_messages(server: &Program) -> Vec<Value> {
    let (status, page) = server.call("GET", "/app/~operational/msg?limit=250", json!(null));
    assert_eq!(status, 200);
    page["data"].as_array().unwrap().clone()
}

#[test]
fn every_event_reaches_the_operator_signed_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &FIVE_ATTEMPTS);
    let operator = Receiver::answering(&[200]);
    let key = listen(&server, &operator, json!(null));

    // One endpoint works at the fifth attempt, one never does, one is gone.
    let shaky = Receiver::answering(&[500, 500, 503, 500, 200]);
    let (dead, gone) = (Receiver::answering(&[500]), Receiver::answering(&[410]));
    let mut messages = BTreeMap::new();
    for (name, receiver) in [("shaky", &shaky), ("dead", &dead), ("gone", &gone)] {
        endpoint(&server, name, &receiver.url());
        messages.insert(name, send(&server, name));
    }
    let mut told: Vec<Value> = (0..8).map(|_| verified(&key, &operator.next())).collect();

    // Then somebody disables the one that works, enables it, and deletes it.
    for change in [json!({"disabled": true}), json!({"disabled": false})] {
        assert_eq!(server.call("PATCH", "/app/shaky/endpoint/shaky", change).0, 200);
    }
    assert_eq!(server.call("DELETE", "/app/shaky/endpoint/shaky", json!(null)).0, 204);
    told.extend((0..5).map(|_| verified(&key, &operator.next())));

    let of = |kind: &str, name: &str| {
        let is = |t: &&Value| t["type"] == kind && t["data"]["appUid"] == name;
        told.iter().filter(is).map(|t| t["data"].clone()).collect::<Vec<_>>()
    };
    let seen = |name: &str| {
        let of_name = told.iter().filter(|t| t["data"]["appUid"] == name);
        let mut kinds: Vec<_> = of_name.map(|t| t["type"].as_str().unwrap().to_owned()).collect();
        kinds.sort();
        kinds
    };
    let of_shaky = [
        "endpoint.created",
        "endpoint.deleted",
        "endpoint.disabled",
        "endpoint.enabled",
        "endpoint.updated",
        "endpoint.updated",
        "message.attempt.failing",
        "message.attempt.recovered",
    ];
    assert_eq!(seen("shaky"), of_shaky);
    assert_eq!(seen("dead"), ["endpoint.created", "message.attempt.exhausted", "message.attempt.failing"]);
    assert_eq!(seen("gone"), ["endpoint.created", "endpoint.disabled"]);

    // What they say is what the API says.
    let created = &of("endpoint.created", "shaky")[0];
    assert_eq!(created["endpointUid"], "shaky");
    assert!(created["appId"].as_str().unwrap().starts_with("app_"));
    assert!(created["endpointId"].as_str().unwrap().starts_with("ep_"));
    let by_hand = &of("endpoint.disabled", "shaky")[0];
    assert_eq!((&by_hand["trigger"], by_hand.get("failSince")), (&json!("manual"), None));
    let by_us = &of("endpoint.disabled", "gone")[0];
    assert_eq!(by_us["trigger"], "automatic");
    assert!(by_us["failSince"].as_str().unwrap().ends_with('Z'), "{by_us}");
    for (kind, name, status) in [
        ("message.attempt.failing", "shaky", 500),
        ("message.attempt.recovered", "shaky", 200),
        ("message.attempt.failing", "dead", 500),
        ("message.attempt.exhausted", "dead", 500),
    ] {
        let data = &of(kind, name)[0];
        assert_eq!((&data["msgId"], &data["msgEventId"]), (&messages[name], &json!(format!("of-{name}"))), "{kind}");
        let id = data["lastAttempt"]["id"].as_str().unwrap();
        let path = format!("/app/{name}/msg/{}/attempt/{id}", messages[name].as_str().unwrap());
        let (found, attempt) = server.call("GET", &path, json!(null));
        assert_eq!((found, &attempt["msgId"]), (200, &data["msgId"]), "{kind}");
        assert_eq!(attempt["responseStatusCode"], status, "{kind}");
        assert_eq!(data["lastAttempt"]["responseStatusCode"], status, "{kind}");
        assert_eq!(data["lastAttempt"]["timestamp"], attempt["timestamp"], "{kind}");
    }
    assert_eq!(operational_messages(&server).len(), told.len());
    assert!(server.stop().success());
}

#[test]
fn what_becomes_of_operational_messages_is_seen_and_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &FIVE_ATTEMPTS);
    let operator = Receiver::answering(&[500]);
    listen(&server, &operator, json!(["message.attempt.exhausted"]));
    let dead = Receiver::answering(&[500]);
    endpoint(&server, "dead", &dead.url());
    send(&server, "dead");

    // The one message is tried to its end, under one id.
    let arrivals: Vec<_> = (0..5).map(|_| operator.next()).collect();
    assert!(arrivals.iter().all(|a| a.headers["webhook-id"] == arrivals[0].headers["webhook-id"]));
    let attempts = eventually("the last attempt is recorded", || {
        let (_, page) = server.call("GET", "/app/~operational/attempt/endpoint/ops", json!(null));
        page["data"].as_array().filter(|data| data.len() == 5).cloned()
    });
    assert!(attempts.iter().all(|a| a["status"] == 2 && a["response"] == "hi"));
    let all = operational_messages(&server);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["eventType"], "message.attempt.exhausted");
}

#[test]
fn what_a_change_tells_is_as_durable_as_the_change() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_DELIVERY_RETRY_SCHEDULE", "1s,1s,1s,1s")]);
    // Nobody listens there yet.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let body = json!({"url": format!("http://{closed}/"), "uid": "ops"});
    assert_eq!(server.call("POST", "/operational-webhook/endpoint", body).0, 201);
    endpoint(&server, "acme", "https://example.com/hooks");
    server.kill();

    let server = Program::start(folder.path(), &[("BELLWIRE_DELIVERY_RETRY_SCHEDULE", "1s,1s,1s,1s")]);
    let operator = Receiver::answering(&[200]);
    let moved = json!({"url": operator.url()});
    assert_eq!(server.call("PUT", "/operational-webhook/endpoint/ops", moved).0, 200);
    let arrival = operator.next();
    let told: Value = serde_json::from_slice(&arrival.body).unwrap();
    assert_eq!((&told["type"], &told["data"]["endpointUid"]), (&json!("endpoint.created"), &json!("acme")));
    let all = operational_messages(&server);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["id"], arrival.headers["webhook-id"].as_str());
}

#[test]
fn a_background_task_is_listed_by_the_command_and_its_end_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_DELIVERY_RETRY_SCHEDULE", "")]);
    let operator = Receiver::answering(&[200]);
    let key = listen(&server, &operator, json!(["background_task.finished"]));
    let receiver = Receiver::answering(&[500, 200]);
    endpoint(&server, "shaky", &receiver.url());
    let message = send(&server, "shaky");
    let (_, message) = server.call("GET", &format!("/app/shaky/msg/{}", message.as_str().unwrap()), json!(null));
    eventually("it is given up", || (crate::program::ledger(folder.path())["ended"]["exhausted"] == 1).then_some(()));

    let since = json!({"since": message["timestamp"]});
    let (status, task) = server.call("POST", "/app/shaky/endpoint/shaky/recover", since);
    assert_eq!(status, 202);
    let told = verified(&key, &operator.next());
    assert_eq!(told["type"], "background_task.finished");
    let data = &told["data"];
    assert_eq!((&data["taskId"], &data["task"], &data["status"]), (&task["id"], &task["task"], &json!("finished")));
    assert_eq!((&data["data"]["messagesTouched"], &data["data"]["percentComplete"]), (&json!(1), &json!(100)));

    let url = format!("http://{}", server.address);
    let id = task["id"].as_str().unwrap();
    let command = |arguments: &[&str]| {
        let output = crate::program::run(folder.path(), &[arguments, &["--json", "--url", &url]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let listed = command(&["task", "list", "--status", "finished", "--limit", "1"]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (1, &task["id"]));
    assert_eq!(command(&["task", "show", id])["data"]["messagesSent"], 1);
    let cancelled = command(&["task", "cancel", id]);
    assert_eq!((&cancelled["cancelled"], &cancelled["status"]), (&json!(false), &json!("finished")), "it had ended");
}

#[test]
fn the_end_of_a_background_task_is_told_after_a_crash_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let operator = Receiver::answering(&[200]);
    let key = listen(&server, &operator, json!(["background_task.finished"]));
    endpoint(&server, "acme", "https://example.com/hooks");
    assert!(server.stop().success());
    // A process that ended when a task was cancelled, and before it had told anybody.
    let store = EmbeddedStore::open(folder.path(), Settings::default()).unwrap();
    let recovered = store.recover().unwrap();
    let newest = recovered.applications.iter().map(|application| application.id.sequence()).max().unwrap();
    let id = TaskId::from_parts(newest.next(), [7; 12]);
    let organisation = recovered.applications[0].organisation.clone();
    let task = Task::new(id, organisation, Work::EventTypes, Sequence::ZERO, id.sequence());
    let at = task.updated_at;
    let changes = vec![Change::PutTask(task.into()), Change::CancelTask { task: id, at }];
    store.commit(&Batch { changes, ..Batch::default() }).unwrap();
    drop(store);
    eventually("no process that another test has just started holds the lock as well", || {
        let lock = std::fs::File::open(folder.path().join("lock")).unwrap();
        lock.try_lock().ok().map(|()| lock.unlock().unwrap())
    });

    let server = Program::start(folder.path(), &[]);
    let told = verified(&key, &operator.next());
    let data = &told["data"];
    assert_eq!((&told["type"], &data["taskId"]), (&json!("background_task.finished"), &json!(id.to_string())));
    assert_eq!((&data["status"], &data["data"]["cancelled"]), (&json!("failed"), &json!(true)));
    eventually("it is recorded", || (crate::program::ledger(folder.path())["delivered"] == 1).then_some(()));
    server.kill();

    let server = Program::start(folder.path(), &[]);
    let (status, task) = server.call("PUT", "/stats/usage/event-types", json!(null));
    assert_eq!(status, 202);
    let told = verified(&key, &operator.next());
    assert_eq!((&told["data"]["taskId"], &told["data"]["status"]), (&task["id"], &json!("finished")));
    assert_eq!(operational_messages(&server).len(), 2, "each end is told once");
}
