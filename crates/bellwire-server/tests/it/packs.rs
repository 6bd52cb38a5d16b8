//! Event types that come with the program: installed, understood by their aliases, given out as documents.

use crate::program::{Program, bellwire};
use crate::receiver::Receiver;
use serde_json::{Value, json};

fn command(program: &Program, folder: &std::path::Path, arguments: &[&str]) -> (bool, String) {
    let mut command = bellwire(folder);
    command.env("BELLWIRE_URL", format!("http://{}", program.address)).env("BELLWIRE_TOKEN", &program.token);
    let output = command.args(arguments).output().unwrap();
    let text = String::from_utf8(if output.status.success() { output.stdout } else { output.stderr }).unwrap();
    (output.status.success(), text)
}

/// One that works.
#[track_caller]
fn run(program: &Program, folder: &std::path::Path, arguments: &[&str]) -> String {
    let (fine, text) = command(program, folder, arguments);
    assert!(fine, "{arguments:?}: {text}");
    text
}

#[test]
fn a_pack_is_installed_once_and_its_schemas_and_samples_have_effect() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    let run = |arguments: &[&str]| run(&program, folder.path(), arguments);
    let json = |arguments: &[&str]| serde_json::from_str::<Value>(&run(arguments)).unwrap();

    let packs = json(&["pack", "list", "--json"]);
    let would = json(&["pack", "add", "remote-support", "--dry-run", "--json"]);
    assert_eq!(would["created"], packs[0]["eventTypes"]);
    assert_eq!(program.call("GET", "/event-type/device.added", Value::Null).0, 404, "a dry run");
    for pack in packs.as_array().unwrap() {
        let name = pack["name"].as_str().unwrap();
        assert_eq!(json(&["pack", "add", name, "--json"])["created"], pack["eventTypes"], "{name}");
        let again = json(&["pack", "add", name, "--json"]);
        assert_eq!((&again["created"], &again["updated"]), (&json!([]), &json!([])), "{name}");
        assert_eq!(again["unchanged"], pack["eventTypes"], "{name}");
    }

    // Every sample is a payload that its own schema lets through.
    let (status, _) = program.call("POST", "/app", json!({ "name": "A", "uid": "a", "payloadValidation": "refuse" }));
    assert_eq!(status, 201);
    let receiver = Receiver::answering(&[200]);
    let (status, _) =
        program.call("POST", "/app/a/endpoint", json!({ "url": format!("http://{}/", receiver.address), "uid": "e" }));
    assert_eq!(status, 201);
    for name in packs.as_array().unwrap().iter().flat_map(|pack| pack["eventTypes"].as_array().unwrap()) {
        let (status, answer) = program.call("POST", "/app/a/endpoint/e/send-example", json!({ "eventType": name }));
        assert!(status == 200 || status == 202, "{name}: {status} {answer}");
    }

    // What Zoho numbers, and what GitHub calls it.
    let sample = json!({ "type": "device.offline", "timestamp": "2026-03-02T09:15:00Z",
        "data": { "id": "d", "name": "n", "last_seen_at": "2026-03-02T09:14:00Z" } });
    let payload = sample.to_string();
    let sent = json(&["send", "--application", "a", "--event-type", "14", "--payload", &payload, "--json"]);
    let (_, message) = program.call("GET", &format!("/app/a/msg/{}", sent["id"].as_str().unwrap()), Value::Null);
    assert_eq!(message["eventType"], "device.offline");
    let (fine, refused) =
        command(&program, folder.path(), &["send", "--application", "a", "--event-type", "14", "--payload", "{}"]);
    assert!(!fine && refused.contains("422"), "{refused}");
    let sent = json(&["send", "--application", "a", "--event-type", "not.an.alias", "--json"]);
    let (_, message) = program.call("GET", &format!("/app/a/msg/{}", sent["id"].as_str().unwrap()), Value::Null);
    assert_eq!(message["eventType"], "not.an.alias");
}

#[test]
fn a_file_is_a_pack_and_the_catalogue_comes_out_as_documents() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    let run = |arguments: &[&str]| command(&program, folder.path(), arguments);
    assert!(run(&["pack", "add", "standard-webhooks"]).0);
    assert!(run(&["export", "openapi", "-o", "webhooks.json"]).0);
    let document: Value = serde_json::from_slice(&std::fs::read(folder.path().join("webhooks.json")).unwrap()).unwrap();
    let sample =
        &document["webhooks"]["invoice.paid"]["post"]["requestBody"]["content"]["application/json"]["examples"];
    assert_eq!(sample["sample"]["value"]["type"], "invoice.paid");
    let (fine, text) = run(&["export", "asyncapi"]);
    assert!(fine, "{text}");
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["components"]["messages"]["invoice.paid"]["tags"], json!([{ "name": "invoice" }]));

    let elsewhere = tempfile::tempdir().unwrap();
    let other = Program::start(elsewhere.path(), &[]);
    let file = folder.path().join("webhooks.json");
    let (fine, text) = command(&other, elsewhere.path(), &["pack", "add", file.to_str().unwrap()]);
    assert!(fine && text.ends_with("7 created, 0 updated, 0 as they were\n"), "{text}");

    // Schemas with parts of their own, and aliases, go out and come in as they are.
    for pack in ["remote-support", "github"] {
        assert!(run(&["pack", "add", pack]).0);
    }
    assert!(run(&["export", "openapi", "-o", "all.json"]).0);
    let (fine, text) = run(&["pack", "add", "./all.json"]);
    assert!(fine && text.ends_with("0 created, 0 updated, 39 as they were\n"), "{text}");

    let (fine, text) = run(&["pack", "add", "remote"]);
    assert!(!fine && text.contains("hint: there are remote-support, github, standard-webhooks"), "{text}");
}

#[test]
fn a_verified_webhook_of_github_has_an_event_type_of_its_pack() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(folder.path(), &[]);
    let run = |arguments: &[&str]| run(&program, folder.path(), arguments);
    run(&["pack", "add", "github"]);
    assert_eq!(program.call("POST", "/app", json!({ "name": "A", "uid": "a" })).0, 201);
    let secret = "a long enough secret";
    let source = json!({ "uid": "git", "appId": "a", "preset": "github", "secrets": [secret], "path": "/hooks/git" });
    assert_eq!(program.call("POST", "/source", source).0, 201);
    let url = format!("http://{}/hooks/git", program.address);
    run(&["imitate", "github", &url, "--secret", secret]);
    let (_, messages) = program.call("GET", "/app/a/msg", Value::Null);
    let event_type = messages["data"][0]["eventType"].as_str().expect("a message");
    let (status, known) = program.call("GET", &format!("/event-type/{event_type}"), Value::Null);
    assert_eq!((status, event_type), (200, "push"), "{known}");
    assert!(known["schemas"].is_object(), "{known}");
}
