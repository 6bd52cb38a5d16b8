//! What a pipe's transformation, format and content type make of what its readers get.

use crate::pipe::{PIPE, Stream, receipts};
use crate::world::World;
use bellwire_api::Settings;
use bellwire_shape::{ScriptLimits, Scripts};
use serde_json::{Value, json};
use std::time::Duration;

/// A world with a pipe that has this script.
pub(crate) async fn world(deadline: Duration, code: &str) -> World {
    let scripts = Scripts::new(ScriptLimits { deadline, ..ScriptLimits::default() });
    let world = World::embedded_with(Settings { scripts, ..Settings::default() });
    world.application("acme").await;
    world.post("/api/v1/app/acme/endpoint", json!({ "uid": "pipe", "kind": "pipe" })).await.expect(201);
    if !code.is_empty() {
        world.script(code).await;
    }
    world
}

/// Of which nothing is ever reached.
const LONG: Duration = Duration::from_secs(20);

impl World {
    async fn script(&self, code: &str) {
        let body = json!({ "code": code, "enabled": true });
        self.patch(&format!("{PIPE}/transformation"), body).await.expect(204);
    }

    async fn say(&self, payload: Value) {
        self.post("/api/v1/app/acme/msg", json!({ "eventType": "a.b", "payload": payload })).await.expect(202);
    }
}

fn payloads(data: &Value) -> Vec<Value> {
    data.as_array().expect("a list").iter().map(|one| one["payload"].clone()).collect()
}

#[tokio::test]
async fn every_way_to_read_gives_what_the_script_made() {
    let world = world(LONG, "function handler(w) { w.payload = { seen: w.payload.n * 2 }; w.headers = { 'x-kind': w.eventType }; return w }").await;
    for n in 1..=3 {
        world.say(json!({ "n": n, "secret": "s3cret" })).await;
    }
    let expected = [json!({ "seen": 2 }), json!({ "seen": 4 }), json!({ "seen": 6 })];
    let page = world.pull("").await;
    assert_eq!(payloads(&page["data"]), expected);
    assert_eq!(page["data"][0]["headers"], json!({ "content-type": "application/json", "x-kind": "a.b" }));
    assert_eq!(world.pull("").await["data"], page["data"], "read again, it is the same");
    let (_, mut stream) = Stream::open(&world, "", &[]).await;
    let events = stream.until("a.b", 3).await;
    assert_eq!(events[2].1["payload"], expected[2]);
    let polled = world.get("/api/v1/app/acme/poller/pipe").await.expect(200);
    assert_eq!(payloads(&polled["data"]), expected);
    assert_eq!(polled["data"][0]["headers"]["x-kind"], "a.b");
    let (_, mut group) = Stream::open(&world, "mode=group&limit=1", &[]).await;
    assert_eq!(group.until("a.b", 1).await[0].1["payload"], expected[0]);
    let leased = world.receive(json!({ "limit": 1 })).await;
    assert_eq!((&leased[0]["payload"], &leased[0]["headers"]["x-kind"]), (&expected[1], &json!("a.b")));
    let set = world.post(&format!("{PIPE}/pull/set"), json!({ "returnImmediately": true })).await.expect(200);
    assert_eq!(set["sets"].as_object().map(|sets| sets.len()), Some(1));
    assert!(!format!("{page}{polled}{leased:?}{}", events[0].1).contains("s3cret"));
    // The message itself stays what was accepted, and so does what is signed for who asks for it.
    let id = page["data"][0]["id"].as_str().expect("an id");
    let message = world.get(&format!("/api/v1/app/acme/msg/{id}")).await.expect(200);
    assert_eq!(message["payload"]["secret"], "s3cret");
    // A stream that is open gives what is in force now.
    world.script("function handler(w) { return { payload: { other: true } } }").await;
    world.say(json!({ "n": 4 })).await;
    assert_eq!(stream.until("a.b", 4).await[3].1["payload"], json!({ "other": true }));
}

#[tokio::test]
async fn what_is_handed_out_is_what_is_signed() {
    let world = world(LONG, "function handler(w) { w.payload = { n: 1 }; return w }").await;
    world.patch(PIPE, json!({ "format": "form" })).await.expect(200);
    let secret = world.get(&format!("{PIPE}/secret")).await.expect(200)["key"].as_str().expect("a secret").to_owned();
    world.say(json!({ "n": 7 })).await;
    let leased = world.receive(json!({})).await.remove(0);
    assert_eq!((&leased["body"], &leased["payload"]), (&json!("n=1"), &json!({ "rawPayload": "n=1" })));
    let header = |name: &str| leased["headers"][name].as_str().expect(name);
    assert_eq!(header("content-type"), "application/x-www-form-urlencoded");
    let secret = bellwire_signature::Secret::parse(&secret).expect("a secret");
    let at = header("webhook-timestamp").parse().expect("seconds");
    let signature = bellwire_signature::Signer::new(&[secret]).sign(header("webhook-id"), at, b"n=1").expect("signs");
    assert_eq!(header("webhook-signature"), signature);
}

#[tokio::test]
async fn formats_and_content_types_have_their_effect_alone() {
    let world = world(LONG, "").await;
    world.patch(PIPE, json!({ "format": "xml", "contentType": "application/vnd.acme+xml" })).await.expect(200);
    world.say(json!({ "n": 7 })).await;
    let body = json!({ "eventType": "a.b", "payload": {}, "transformationsParams": { "rawPayload": "no JSON" } });
    world.post("/api/v1/app/acme/msg", body).await.expect(202);
    let page = world.pull("").await;
    let xml = r#"<?xml version="1.0" encoding="UTF-8"?><payload><n>7</n></payload>"#;
    assert_eq!(page["data"][0]["payload"]["rawPayload"], xml);
    assert_eq!(page["data"][0]["headers"]["content-type"], "application/vnd.acme+xml");
    let error = page["data"][1]["transformationError"].as_str().expect("a reason");
    assert!(error.contains("only a JSON payload"), "{error}");
    assert_eq!(page["data"][1]["payload"], json!({}));
    let leased = world.receive(json!({})).await;
    assert_eq!((leased.len(), &leased[0]["body"]), (1, &json!(xml)));
    // Of another kind, its shape is for what is sent.
    world.patch(PIPE, json!({ "kind": "push", "url": "https://example.com/" })).await.expect(200);
    assert_eq!(world.pull("limit=1").await["data"][0]["payload"], json!({ "n": 7 }));
}

#[tokio::test]
async fn a_script_that_fails_is_an_attempt_that_failed_and_holds_nobody_up() {
    let code = "function handler(w) { if (w.payload.n === 1) throw new Error('not one'); return w }";
    let world = world(LONG, code).await;
    world.patch(PIPE, json!({ "pipe": { "maxAttempts": 2 } })).await.expect(200);
    for n in 0..3 {
        world.say(json!({ "n": n })).await;
    }
    // By cursor it is told, with nothing of what was accepted, and the next one follows.
    let page = world.pull("").await;
    assert_eq!(payloads(&page["data"]), [json!({ "n": 0 }), json!({}), json!({ "n": 2 })]);
    assert!(page["data"][1]["transformationError"].as_str().expect("a reason").contains("not one"), "{page}");
    assert_eq!(page["data"][0].get("transformationError"), None);
    let polled = world.get("/api/v1/app/acme/poller/pipe").await.expect(200);
    assert!(polled["data"][1]["transformationError"].as_str().expect("a reason").contains("not one"));
    // By lease the others are handed out, and it comes again, until that was often enough.
    let leased = world.receive(json!({})).await;
    assert_eq!(payloads(&json!(leased)), [json!({ "n": 0 }), json!({ "n": 2 })]);
    assert!(world.receive(json!({})).await.is_empty());
    assert_eq!(world.statuses().await, [1, 3, 1]);
    assert_eq!(world.verb("ack", json!({ "receipts": receipts(&leased) })).await, [200, 200]);
    world.pass(Duration::from_secs(2));
    assert!(world.receive(json!({})).await.is_empty());
    assert_eq!(world.statuses().await, [0, 2, 0]);
    let attempts = world.get("/api/v1/app/acme/attempt/endpoint/pipe?limit=250").await.expect(200);
    let failed: Vec<_> = attempts["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|attempt| attempt["responseStatusCode"] == 0)
        .map(|attempt| attempt["response"].as_str().expect("a text").to_owned())
        .collect();
    assert_eq!(failed.len(), 2);
    assert!(failed.iter().all(|text| text.contains("Error: not one")), "{failed:?}");
}

#[tokio::test]
async fn a_script_that_is_mended_gives_what_waited() {
    let world = world(LONG, "function handler(w) { throw new Error('broken') }").await;
    world.say(json!({ "n": 1 })).await;
    assert!(world.receive(json!({})).await.is_empty());
    world.script("function handler(w) { return { payload: { ok: w.payload.n } } }").await;
    world.pass(Duration::from_secs(2));
    let leased = world.receive(json!({})).await;
    assert_eq!((&leased[0]["payload"], &leased[0]["attempt"]), (&json!({ "ok": 1 }), &json!(2)));
}

#[tokio::test]
async fn what_a_script_cancels_is_not_seen() {
    let world = world(LONG, "function handler(w) { w.cancel = w.payload.n % 2 === 0; return w }").await;
    for n in 0..4 {
        world.say(json!({ "n": n })).await;
    }
    let page = world.pull("").await;
    assert_eq!(payloads(&page["data"]), [json!({ "n": 1 }), json!({ "n": 3 })]);
    // A page of which nothing is left is passed over.
    let page = world.pull("limit=1").await;
    let cursor = page["cursor"].as_str().expect("a cursor");
    assert_eq!(payloads(&world.pull(&format!("limit=1&wait=1&cursor={cursor}")).await["data"]), [json!({ "n": 1 })]);
    let leased = world.receive(json!({ "limit": 4 })).await;
    assert_eq!(payloads(&json!(leased)), [json!({ "n": 1 }), json!({ "n": 3 })]);
    world.verb("ack", json!({ "receipts": receipts(&leased) })).await;
    let all = world.get(&format!("{PIPE}/msg?limit=250&expanded_statuses=true")).await.expect(200);
    let statuses: Vec<_> = all["data"].as_array().expect("a list").iter().map(|m| m["status"].clone()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == json!(0)).count(), 2, "{statuses:?}");
    assert!(world.receive(json!({})).await.is_empty(), "the others have ended");
    let ledger = world.get("/api/v1/app/acme/attempt/endpoint/pipe?limit=250").await.expect(200);
    let cancelled = "the endpoint's transformation cancelled this message";
    let count = ledger["data"].as_array().expect("a list").iter().filter(|a| a["response"] == cancelled).count();
    assert_eq!(count, 2);
}

#[tokio::test]
async fn a_script_that_loops_costs_one_read_no_more_than_its_share() {
    let deadline = Duration::from_millis(300);
    let world = world(deadline, "function handler(w) { if (w.payload.n > 0) for (;;) {} return w }").await;
    for n in 0..20 {
        world.say(json!({ "n": n })).await;
    }
    let begun = std::time::Instant::now();
    let page = world.pull("").await;
    let count = page["data"].as_array().expect("a list").len();
    assert!((2..20).contains(&count), "{count} in {:?}", begun.elapsed());
    assert_eq!(page["hasMore"], true);
    assert!(page["data"][1]["transformationError"].as_str().expect("a reason").contains("took longer"), "{page}");
    // Reading on begins with the next one.
    let cursor = page["cursor"].as_str().expect("a cursor");
    assert_eq!(page["data"][count - 1]["cursor"], cursor);
    let next = world.pull(&format!("cursor={cursor}&limit=1")).await;
    assert_ne!(next["data"][0]["id"], page["data"][count - 1]["id"]);
    // What is handed out does not wait for all of them either.
    let begun = std::time::Instant::now();
    let leased = world.receive(json!({})).await;
    assert_eq!(payloads(&json!(leased)), [json!({ "n": 0 })]);
    assert!(begun.elapsed() < Duration::from_secs(20 * 300 / 1_000), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_script_cannot_say_where_to_send_what_nobody_sends() {
    let world = world(LONG, "").await;
    world.say(json!({ "n": 1 })).await;
    for (code, what) in [("w.url = 'https://example.com/'", "a URL"), ("w.method = 'PUT'", "the method PUT")] {
        world.script(&format!("function handler(w) {{ {code}; return w }}")).await;
        let page = world.pull("").await;
        let error = page["data"][0]["transformationError"].as_str().expect("a reason");
        assert!(error.contains(what) && error.contains("has no URL"), "{error}");
    }
}
