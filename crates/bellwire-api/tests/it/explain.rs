//! Why a message was or was not delivered, in the very sentences that an operator reads.

use crate::world::{OTHER_ORGANISATION, World, organisation_token};
use bellwire_model::{DisabledBy, FailureClass};
use serde_json::{Value, json};
use std::time::Duration;

/// Ids differ from run to run of other tests, not of one world; what stands for them here is easier to read.
fn named(text: &str, names: &[(&str, &str)]) -> String {
    names.iter().fold(text.to_owned(), |text, (id, name)| text.replace(id, name))
}

fn sentences(value: &Value) -> Vec<&str> {
    value["sentences"].as_array().expect("sentences").iter().filter_map(Value::as_str).collect()
}

async fn endpoint(world: &World, body: Value) -> String {
    let mut body = body;
    body["url"] = "https://u:p@example.com:8443/hook?token=secret".into();
    let out = world.post("/api/v1/app/acme/endpoint", body).await.expect(201);
    out["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn every_endpoint_is_named_with_what_happened_and_why() {
    let world = World::new();
    let app = world.application("acme").await;
    for name in ["invoice.paid", "user.signup"] {
        world.post("/api/v1/event-type", json!({ "name": name, "description": "" })).await.expect(201);
    }
    let delivered = endpoint(&world, json!({ "uid": "works" })).await;
    let exhausted = endpoint(&world, json!({})).await;
    let other_type = endpoint(&world, json!({ "eventTypes": ["invoice.paid"] })).await;
    let channel = endpoint(&world, json!({ "channels": ["north", "south"] })).await;
    let filter = endpoint(&world, json!({ "eventTypes": ["invoice.paid"] })).await;
    world.pass(Duration::from_secs(60));
    let message = world.message("acme").await;
    world.pass(Duration::from_secs(60));
    let later = endpoint(&world, json!({})).await;
    // Its settings would take the message now: they were others then.
    world.patch(&format!("/api/v1/app/acme/endpoint/{filter}"), json!({ "eventTypes": null })).await.expect(200);
    world.attempt(
        &message,
        &delivered,
        Err(FailureClass::Timeout),
        b"timed out after 15000 ms, waiting for a response",
    );
    world.attempt(&message, &delivered, Ok(200), b"thank you");
    world.attempt(&message, &exhausted, Ok(503), b"busy");

    let out = world.get(&format!("/api/v1/app/acme/msg/{message}/explain")).await.expect(200);
    assert_eq!(world.get(&format!("/api/v1/explain/{message}")).await.expect(200), out);
    let text = out.to_string();
    assert!(!text.contains("token=secret") && !text.contains("u:p@") && !text.contains("thank you"), "{text}");
    let names = [
        (message.as_str(), "MESSAGE"),
        (&app, "APP"),
        (&delivered, "DELIVERED"),
        (&exhausted, "EXHAUSTED"),
        (&other_type, "OTHER_TYPE"),
        (&channel, "CHANNEL"),
        (&filter, "CHANGED"),
        (&later, "LATER"),
    ];
    let mut told: Vec<String> = sentences(&out).iter().map(|sentence| named(sentence, &names)).collect();
    for endpoint in out["endpoints"].as_array().expect("endpoints") {
        told.push(format!("--- {} {}", endpoint["matched"], endpoint["state"]));
        told.extend(sentences(endpoint).iter().map(|sentence| named(sentence, &names)));
        let attempts = endpoint["attempts"].as_array().expect("attempts");
        told.extend(attempts.iter().map(|attempt| attempt["sentence"].as_str().expect("a sentence").to_owned()));
    }
    let expected = [
        "The message MESSAGE of type user.signup was accepted at 2026-01-01T00:01:00.000000Z for the application APP (acme).",
        "It is owed to 2 of 6 endpoints: 1 delivered, 0 pending, 1 ended undelivered.",
        "--- true \"delivered\"",
        "The endpoint DELIVERED (works) is at https://example.com:8443/hook.",
        "It was delivered by attempt 2.",
        "Attempt 1 at TIME failed after 12.0 ms (timeout: timed out after 15000 ms, waiting for a response): DNS 1.5 ms, \
         connection 20.2 ms, first byte after 95.0 ms.",
        "Attempt 2 at TIME was answered 200 after 12.0 ms: DNS 1.5 ms, connection 20.2 ms, first byte after 95.0 ms.",
        "--- true \"ended\"",
        "The endpoint EXHAUSTED is at https://example.com:8443/hook.",
        "1 attempt was made, and the retry schedule is used up: nothing more is sent unless it is resent or recovered.",
        "Attempt 1 at TIME was answered 503 after 12.0 ms: DNS 1.5 ms, connection 20.2 ms, first byte after 95.0 ms.",
        "--- false \"notMatched\"",
        "The endpoint OTHER_TYPE is at https://example.com:8443/hook.",
        "It does not take the type user.signup, only invoice.paid.",
        "--- false \"notMatched\"",
        "The endpoint CHANNEL is at https://example.com:8443/hook.",
        "It takes only messages on north and south, and the message is on no channel.",
        "--- false \"notMatched\"",
        "The endpoint CHANGED is at https://example.com:8443/hook.",
        "It did not take the message when that was accepted, although it would by its settings of now.",
        "This judges by its settings of now, which were last changed at 2026-01-01T00:02:00.000000Z, after the message; \
         those of then are not kept.",
        "--- false \"notMatched\"",
        "The endpoint LATER is at https://example.com:8443/hook.",
        "It was created later than the message, at 2026-01-01T00:02:00.000000Z, so it does not get it.",
    ];
    let told: Vec<String> = told.iter().map(|line| without_times_of_attempts(line)).collect();
    assert_eq!(told, expected, "{told:#?}");
}

fn without_times_of_attempts(line: &str) -> String {
    match (line.starts_with("Attempt"), line.split_once(" at 2026")) {
        (true, Some((before, after))) => format!("{before} at TIME{}", &after["-01-01T00:00:00.000000Z".len()..]),
        _ => line.to_owned(),
    }
}

#[tokio::test]
async fn what_happens_next_is_told_with_its_time() {
    let world = World::new();
    world.application("acme").await;
    let endpoint = world.endpoint("acme").await;
    let message = world.message("acme").await;
    let next = async || {
        let out = world.get(&format!("/api/v1/explain/{message}")).await.expect(200);
        let at = &out["endpoints"][0];
        (at["nextAttempt"].clone(), sentences(at)[1..].iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(next().await, (Value::Null, vec!["Attempt 1 is being made, or waits its turn in memory.".to_owned()]));
    world.wait(&message, &endpoint, 2, Duration::from_secs(300));
    let (at, text) = next().await;
    assert_eq!(at, "2026-01-01T00:05:00.000000Z");
    assert_eq!(text, ["Attempt 2 is due at 2026-01-01T00:05:00.000000Z, in about 5 minutes."]);
    world.pass(Duration::from_secs(301));
    assert_eq!(
        next().await.1,
        [
            "Attempt 2 has been due since 2026-01-01T00:05:00.000000Z and waits its turn.",
            "Others to the same endpoint may be before it: its rate, its concurrency, or a pause after failures hold it back.",
        ]
    );
    world.patch(&format!("/api/v1/app/acme/endpoint/{endpoint}"), json!({ "fifo": true })).await.expect(200);
    assert!(next().await.1[1].contains("in order: every earlier one must end first"));
    for (by, why) in [
        (DisabledBy::User, "by its owner"),
        (DisabledBy::Receiver, "wants nothing more"),
        (DisabledBy::Failures, "failed for too long"),
    ] {
        world.disable(&endpoint, by);
        let (_, text) = next().await;
        assert!(text[0].contains(why), "{text:?}");
        assert_eq!(text[1], "The delivery waits until the endpoint is enabled.");
    }
    world.delete(&format!("/api/v1/app/acme/endpoint/{endpoint}")).await.expect(204);
    let out = world.get(&format!("/api/v1/explain/{message}")).await.expect(200);
    assert_eq!(sentences(&out["endpoints"][0])[0], "An endpoint that has been deleted since.");
    assert!(out["endpoints"][0].get("endpointId").is_none());
}

#[tokio::test]
async fn what_a_pipe_is_owed_waits_for_a_reader() {
    let world = World::new();
    world.application("acme").await;
    let endpoint = world.endpoint("acme").await;
    let message = world.message("acme").await;
    world.patch(&format!("/api/v1/app/acme/endpoint/{endpoint}"), json!({ "kind": "pipe" })).await.expect(200);
    world.wait(&message, &endpoint, 2, Duration::from_secs(300));
    let next = async || {
        let out = world.get(&format!("/api/v1/explain/{message}")).await.expect(200);
        sentences(&out["endpoints"][0])[1..].iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        next().await,
        ["It can be taken from 2026-01-01T00:05:00.000000Z on, in about 5 minutes, as attempt 2."]
    );
    world.pass(Duration::from_secs(301));
    assert_eq!(
        next().await,
        [
            "It has been there to be taken since 2026-01-01T00:05:00.000000Z, as attempt 2: nobody has come for it, or who has it has not said \
             yet what became of it."
        ]
    );
    world.patch(&format!("/api/v1/app/acme/endpoint/{endpoint}"), json!({ "fifo": true })).await.expect(200);
    assert!(next().await[1].contains("in order: every earlier one must end first"));
}

#[tokio::test]
async fn an_event_id_leads_to_the_message_if_only_one_application_has_it() {
    let mut world = World::new();
    world.application("acme").await;
    world.application("other").await;
    let send = async |world: &World, app: &str, id: &str| {
        let body = json!({ "eventType": "a.b", "payload": {}, "eventId": id });
        world.post(&format!("/api/v1/app/{app}/msg"), body).await.expect(202)["id"].clone()
    };
    let one = send(&world, "acme", "e1").await;
    send(&world, "acme", "e2").await;
    let two = send(&world, "other", "e2").await;
    let out = world.get("/api/v1/explain/e1").await.expect(200);
    assert_eq!((&out["messageId"], &out["eventId"]), (&one, &json!("e1")));
    assert_eq!(sentences(&out)[1], "The application has no endpoints, so it goes nowhere.");
    let answer = world.get("/api/v1/explain/e2").await.expect(400);
    assert_eq!(answer["code"], "ambiguous_event_id");
    assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains(two.as_str().expect("an id"))));
    assert_eq!(world.get("/api/v1/app/other/msg/e2/explain").await.expect(200)["messageId"], two);
    world.get("/api/v1/explain/e3").await.expect(404);
    // To another organisation, none of it is there.
    world.token = organisation_token(OTHER_ORGANISATION);
    world.get(&format!("/api/v1/explain/{}", one.as_str().expect("an id"))).await.expect(404);
    world.get("/api/v1/explain/e1").await.expect(404);
}

#[tokio::test]
async fn an_endpoint_without_a_url_is_named_by_how_it_gets_its_messages() {
    let world = World::new();
    world.application("acme").await;
    for body in [
        json!({ "uid": "desk", "kind": "pipe" }),
        json!({ "uid": "deploy", "plugin": { "runs": "javascript", "code": "a" } }),
    ] {
        world.post("/api/v1/app/acme/endpoint", body).await.expect(201);
    }
    let message = world.message("acme").await;
    let out = world.get(&format!("/api/v1/app/acme/msg/{message}/explain")).await.expect(200);
    let text = out["endpoints"].to_string();
    for expected in ["(desk) is a pipe: what it is owed waits", "(deploy) is a plugin: javascript runs here."] {
        assert!(text.contains(expected), "{text}");
    }
}
