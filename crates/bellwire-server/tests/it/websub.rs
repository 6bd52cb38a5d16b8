//! How a subscription at a WebSub hub ends: the hub is told, and asks back at a callback that has no source any more.

use crate::program::{Program, eventually};
use crate::receiver::{Arrival, Receiver};
use serde_json::{Value, json};
use std::path::Path;

const TOPIC: &str = "https://a.example/feed";
const OTHER: &str = "https://b.example/feed";

fn start(data: &Path) -> Program {
    let server = Program::start(data, &[]);
    assert_eq!(server.call("PUT", "/app/acme", json!({"name": "Acme"})).0 / 100, 2);
    server
}

fn source(hub: &Receiver, topic: &str) -> Value {
    json!({
        "uid": "feed", "name": "feed", "appId": "acme", "preset": "websub", "secrets": ["a long enough secret"],
        "path": "/feeds/a", "url": "https://hooks.example.com/feeds/a", "settings": {"topic": topic, "hub": hub.url()},
    })
}

/// What came to a hub: mode and topic. Its callback is the source's.
fn asked(arrival: &Arrival) -> (String, String) {
    let form: Vec<(String, String)> = url::form_urlencoded::parse(&arrival.body).into_owned().collect();
    let value = |name: &str| form.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
    assert_eq!(value("hub.callback").as_deref(), Some("https://hooks.example.com/feeds/a"));
    assert_eq!(value("hub.secret").is_some(), value("hub.mode").as_deref() == Some("subscribe"));
    (value("hub.mode").expect("a mode"), value("hub.topic").expect("a topic"))
}

fn is(mode: &str, topic: &str) -> (String, String) {
    (mode.to_owned(), topic.to_owned())
}

/// As a hub asks back at the callback.
fn question(server: &Program, mode: &str, topic: &str, lease: u32) -> (u16, String) {
    let topic: String = url::form_urlencoded::byte_serialize(topic.as_bytes()).collect();
    let query = format!("hub.mode={mode}&hub.topic={topic}&hub.challenge=c-{mode}&hub.lease_seconds={lease}");
    server.raw(&format!("GET /feeds/a?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
}

fn content(server: &Program) -> u16 {
    let head = "host: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 2";
    server.raw(&format!("POST /feeds/a HTTP/1.1\r\n{head}\r\n\r\n{{}}")).0
}

fn yes(mode: &str) -> (u16, String) {
    (200, format!("c-{mode}"))
}

const NO: u16 = 404;

#[test]
fn a_hub_is_told_of_the_end_and_answered_after_it_though_the_source_is_gone_and_the_server_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let hub = Receiver::answering(&[202]);
    assert_eq!(server.call("POST", "/source", source(&hub, TOPIC)).0, 201);
    assert_eq!(asked(&hub.next()), is("subscribe", TOPIC));
    assert_eq!(question(&server, "subscribe", TOPIC, 864_000), yes("subscribe"));
    assert_eq!(question(&server, "unsubscribe", TOPIC, 0).0, NO, "nobody here has asked for that");

    assert_eq!(server.call("DELETE", "/source/feed", Value::Null).0, 204);
    assert_eq!(asked(&hub.next()), is("unsubscribe", TOPIC));
    server.kill();

    let server = start(folder.path());
    assert_eq!(content(&server), 410);
    assert_eq!(question(&server, "unsubscribe", OTHER, 0).0, NO);
    assert_eq!(question(&server, "subscribe", TOPIC, 864_000).0, NO);
    assert_eq!(question(&server, "unsubscribe", TOPIC, 0), yes("unsubscribe"));
    let told = || server.has_said("the hub has confirmed the end of a subscription").then_some(());
    eventually("it is told to the operator", told);
    // The answer may have been lost on its way.
    assert_eq!(question(&server, "unsubscribe", TOPIC, 0), yes("unsubscribe"));
    assert_eq!(content(&server), 410);
    server.kill();

    let server = start(folder.path());
    assert_eq!(question(&server, "unsubscribe", TOPIC, 0), yes("unsubscribe"), "that is kept, too");
    assert!(hub.is_quiet(), "it knows");
    // A source that takes the place is a source like any other.
    assert_eq!(server.call("POST", "/source", source(&hub, OTHER)).0, 201);
    assert_eq!(asked(&hub.next()), is("subscribe", OTHER));
    assert_eq!(question(&server, "subscribe", OTHER, 864_000), yes("subscribe"));
    assert_eq!(content(&server), 401, "its content has to be signed");
    assert!(server.stop().success());
}

#[test]
fn what_ended_is_forgotten_when_its_lease_ends() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    // It does not even take the request.
    let hub = Receiver::answering(&[202, 500]);
    assert_eq!(server.call("POST", "/source", source(&hub, TOPIC)).0, 201);
    assert_eq!(asked(&hub.next()), is("subscribe", TOPIC));
    assert_eq!(question(&server, "subscribe", TOPIC, 8), yes("subscribe"));
    assert_eq!(server.call("DELETE", "/app/acme", Value::Null).0, 204);
    eventually("the application takes the subscription along", || {
        (asked(&hub.next()) == is("unsubscribe", TOPIC)).then_some(())
    });
    eventually("it is told to the operator", || {
        server.has_said("a hub could not be told that a subscription has ended").then_some(())
    });
    eventually("the lease has ended", || (content(&server) == NO).then_some(()));
    assert_eq!(question(&server, "unsubscribe", TOPIC, 0).0, NO);
    eventually("it is forgotten", || server.has_said("a hub has not confirmed the end").then_some(()));
    server.kill();
    assert_eq!(content(&start(folder.path())), NO);
}

#[test]
fn a_source_that_wants_another_topic_or_hub_ends_the_one_it_had_and_can_have_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let hub = Receiver::answering(&[202]);
    let settings = |hub: &Receiver, topic: &str| json!({"settings": {"topic": topic, "hub": hub.url()}});
    let edit = |body: Value| assert_eq!(server.call("PATCH", "/source/feed", body).0, 200);
    assert_eq!(server.call("POST", "/source", source(&hub, TOPIC)).0, 201);
    assert_eq!(asked(&hub.next()), is("subscribe", TOPIC));
    assert_eq!(question(&server, "subscribe", TOPIC, 864_000), yes("subscribe"));

    let both = |hub: &Receiver| {
        let mut both = [asked(&hub.next()), asked(&hub.next())];
        both.sort();
        both
    };
    edit(settings(&hub, OTHER));
    assert_eq!(both(&hub), [is("subscribe", OTHER), is("unsubscribe", TOPIC)]);
    assert_eq!(question(&server, "subscribe", OTHER, 864_000), yes("subscribe"));
    assert_eq!(question(&server, "unsubscribe", OTHER, 0).0, NO);
    assert_eq!(question(&server, "unsubscribe", TOPIC, 0), yes("unsubscribe"));
    // It is wanted again: subscribed anew, whatever has become of it, and not ended any more.
    edit(settings(&hub, TOPIC));
    assert_eq!(both(&hub), [is("subscribe", TOPIC), is("unsubscribe", OTHER)]);
    assert_eq!(question(&server, "unsubscribe", TOPIC, 0).0, NO);
    assert_eq!(question(&server, "subscribe", TOPIC, 864_000), yes("subscribe"));

    // The hub alone changes, then nobody subscribes here any more.
    let second = Receiver::answering(&[202]);
    edit(settings(&second, TOPIC));
    assert_eq!(asked(&hub.next()), is("unsubscribe", TOPIC));
    assert_eq!(asked(&second.next()), is("subscribe", TOPIC));
    assert_eq!(question(&server, "subscribe", TOPIC, 864_000), yes("subscribe"));
    edit(json!({"settings": {"topic": TOPIC}}));
    assert_eq!(asked(&second.next()), is("unsubscribe", TOPIC));
    // One that is no WebSub source at all any more answers as well.
    edit(json!({"preset": "github", "settings": {}}));
    assert_eq!(question(&server, "unsubscribe", OTHER, 0), yes("unsubscribe"));
    assert_eq!(content(&server), 401);
    assert!(hub.is_quiet() && second.is_quiet());
    assert!(server.stop().success());
}

#[test]
fn what_a_hooks_file_declares_no_more_is_unsubscribed() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Receiver::answering(&[202]);
    let write = |text: &str| {
        std::fs::write(folder.path().join("new"), text).unwrap();
        std::fs::rename(folder.path().join("new"), folder.path().join("hooks.toml")).unwrap();
    };
    let settings = format!("settings = {{ topic = \"{TOPIC}\", hub = \"{}\" }}\n", hub.url());
    let url = "url = \"https://hooks.example.com/feeds/a\"\n";
    write(&format!(
        "[sources.feed]\npreset = \"websub\"\nsecret = {{ env = \"SECRET\" }}\npath = \"/feeds/a\"\n{url}{settings}"
    ));
    let environment = [("BELLWIRE_SERVER_HOOKS", "hooks.toml"), ("SECRET", "a long enough secret")];
    let server = Program::start(folder.path(), &environment);
    assert_eq!(asked(&hub.next()), is("subscribe", TOPIC));
    assert_eq!(question(&server, "subscribe", TOPIC, 864_000), yes("subscribe"));
    write("");
    assert_eq!(asked(&hub.next()), is("unsubscribe", TOPIC));
    assert_eq!(question(&server, "unsubscribe", TOPIC, 0), yes("unsubscribe"));
    assert!(server.stop().success());
}
