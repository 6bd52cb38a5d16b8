//! One message to all applications: each gets it once, whatever crashes in between.

use crate::program::{Program, eventually, ledger};
use crate::receiver::Receiver;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// More than two pages.
const APPLICATIONS: usize = 230;

fn ended(server: &Program, task: &Value) -> Value {
    let path = format!("/background-task/{}", task["id"].as_str().unwrap());
    eventually("the task ends", || {
        let (status, task) = server.call("GET", &path, json!(null));
        assert_eq!(status, 200, "{task}");
        (task["status"] != "running").then_some(task)
    })
}

#[test]
fn a_broadcast_reaches_every_application_once_over_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let (first, last) = (Receiver::answering(&[200]), Receiver::answering(&[200]));
    for n in 0..APPLICATIONS {
        assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": format!("app-{n}")})).0, 201);
    }
    for (n, receiver) in [(0, &first), (APPLICATIONS - 1, &last)] {
        let endpoint = json!({"url": receiver.url(), "channels": ["all"]});
        assert_eq!(server.call("POST", &format!("/app/app-{n}/endpoint"), endpoint).0, 201);
    }
    let message = json!({"eventType": "news.published", "eventId": "n1", "channels": ["all"], "payload": {"ü": 1.0}});
    let (status, task) = server.call("POST", "/msg/broadcast", message.clone());
    assert_eq!((status, &task["status"], &task["task"]), (202, &json!("running"), &json!("message.broadcast")));
    server.kill();

    let server = Program::start(folder.path(), &[]);
    let done = ended(&server, &task);
    assert_eq!((&done["status"], &done["data"]["messagesSent"]), (&json!("finished"), &json!(APPLICATIONS)), "{done}");
    let created = done["data"]["messagesCreated"].as_array().unwrap();
    let to: BTreeSet<_> = created.iter().map(|one| one["appId"].as_str().unwrap()).collect();
    assert_eq!((created.len(), to.len()), (APPLICATIONS, APPLICATIONS));
    assert_eq!(ledger(folder.path())["accepted"], APPLICATIONS);
    for receiver in [&first, &last] {
        let arrival = receiver.next();
        assert_eq!(arrival.body, r#"{"ü":1.0}"#.as_bytes());
        let id = arrival.headers["webhook-id"].as_str();
        assert!(created.iter().any(|one| one["msgId"] == id), "{id}");
    }
    let (_, page) = server.call("GET", "/app/app-7/msg", json!(null));
    let found = &page["data"];
    assert_eq!((found.as_array().unwrap().len(), &found[0]["eventId"]), (1, &json!("n1")));

    // Who has a message with this event id gets no other one; who came later is new to it.
    assert_eq!(server.call("POST", "/app", json!({"name": "Late", "uid": "late"})).0, 201);
    let (_, again) = server.call("POST", "/msg/broadcast", message);
    let done = ended(&server, &again);
    assert_eq!(done["data"]["messagesSent"], 1, "{done}");
    assert_eq!(ledger(folder.path())["accepted"], APPLICATIONS + 1);
    assert!(server.stop().success());
}

#[test]
fn a_broadcast_that_cannot_be_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Lax"})).0, 201);
    let (status, fault) = server.call("POST", "/msg/broadcast", json!({"eventType": "a b", "payload": []}));
    assert_eq!(status, 422);
    let named: BTreeSet<_> =
        fault["detail"].as_array().unwrap().iter().map(|f| f["loc"][1].as_str().unwrap()).collect();
    assert_eq!(named, ["eventType", "payload"].into());

    // One application refuses what is not as the schema says, so nobody gets it.
    let schema = json!({"1": {"type": "object", "required": ["id"]}});
    let event_type = json!({"name": "a.b", "description": "", "schemas": schema});
    assert_eq!(server.call("POST", "/event-type", event_type).0, 201);
    assert_eq!(server.call("POST", "/app", json!({"name": "Strict", "payloadValidation": "refuse"})).0, 201);
    let (status, fault) = server.call("POST", "/msg/broadcast", json!({"eventType": "a.b", "payload": {}}));
    assert_eq!(status, 422, "{fault}");
    let (status, task) = server.call("POST", "/msg/broadcast", json!({"eventType": "a.b", "payload": {"id": 1}}));
    assert_eq!(status, 202, "{task}");
    assert_eq!(ended(&server, &task)["data"]["messagesSent"], 2);
}
