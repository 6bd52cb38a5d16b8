//! Examples, test attempts and many endpoints at once.

use crate::world::World;
use serde_json::{Value, json};

async fn world() -> World {
    let world = World::new();
    world.application("acme").await;
    let schemas = json!({
        "1": { "type": "object", "example": { "old": true } },
        "2": { "type": "object", "examples": [{ "n": 1 }, { "n": 2 }] },
    });
    let types = [
        json!({ "name": "shown", "description": "", "schemas": schemas }),
        json!({ "name": "made", "description": "", "schemas": { "1": { "type": "object", "properties": { "id": { "type": "integer" } } } } }),
        json!({ "name": "bare", "description": "" }),
    ];
    for body in types {
        world.post("/api/v1/event-type", body).await.expect(201);
    }
    let quiet = json!({ "url": "https://example.com/a", "uid": "quiet", "eventTypes": ["bare"], "channels": ["none"] });
    world.post("/api/v1/app/acme/endpoint", quiet).await.expect(201);
    world.endpoint("acme").await;
    world
}

const EXAMPLE: &str = "/api/v1/app/acme/endpoint/quiet/send-example";

#[tokio::test]
async fn an_example_goes_to_that_endpoint_only_whatever_it_filters_on() {
    let world = world().await;
    let check = async |body: Value, payload: Value| {
        let out = world.post(EXAMPLE, body.clone()).await.expect(202);
        assert_eq!(out["payload"], payload, "{body}");
        let to = world.get(&format!("/api/v1/app/acme/msg/{}/endpoint", out["id"].as_str().unwrap())).await.expect(200);
        let uids: Vec<_> = to["data"].as_array().unwrap().iter().map(|e| e["uid"].clone()).collect();
        assert_eq!(uids, ["quiet"], "{body}");
    };
    check(json!({ "eventType": "shown" }), json!({ "n": 1 })).await;
    check(json!({ "eventType": "shown", "exampleIndex": 1 }), json!({ "n": 2 })).await;
    check(json!({ "eventType": "made" }), json!({ "id": 0 })).await;
    check(json!({ "eventType": "svix.ping" }), json!({ "success": true })).await;
    for (body, loc) in [
        (json!({ "eventType": "shown", "exampleIndex": 2 }), "exampleIndex"),
        (json!({ "eventType": "bare" }), "eventType"),
        (json!({ "eventType": "unknown" }), "eventType"),
        (json!({}), "eventType"),
    ] {
        let refused = world.post(EXAMPLE, body).await.expect(422);
        assert_eq!(refused["detail"][0]["loc"], json!(["body", loc]));
    }
}

#[tokio::test]
async fn an_example_is_sent_once_for_one_key() {
    let world = world().await;
    let body = json!({ "eventType": "shown" });
    let first = world.post_once(EXAMPLE, "k", body.clone()).await.expect(202);
    assert_eq!(world.post_once(EXAMPLE, "k", body).await.expect(202)["id"], first["id"]);
    let other = world.post_once(EXAMPLE, "k", json!({ "eventType": "made" })).await.expect(409);
    assert_eq!(other["code"], "idempotency_key_reused");
}

#[tokio::test]
async fn a_test_attempt_is_answered_with_what_the_endpoint_answered() {
    let world = World::embedded();
    world.application("acme").await;
    let endpoint = world.endpoint("acme").await;
    let path = format!("/api/v1/app/acme/endpoint/{endpoint}/msg/test-attempt");
    let body = json!({ "eventType": "a", "eventId": "one", "payload": { "a": 1 } });
    // The engine of this world: waits for the message, and records its attempt.
    let engine = async {
        loop {
            let answer = world.get("/api/v1/app/acme/msg/one").await;
            if answer.status == 200 {
                let message = answer.json()["id"].as_str().unwrap().to_owned();
                world.attempt(&message, &endpoint, Ok(418), b"short and stout");
                return message;
            }
        }
    };
    let (out, message) = tokio::join!(world.post_once(&path, "k", body.clone()), engine);
    let out = out.expect(201);
    assert_eq!((&out["msgId"], &out["endpointId"]), (&json!(message), &json!(endpoint)));
    assert_eq!((&out["responseStatusCode"], &out["response"]), (&json!(418), &json!("short and stout")));
    assert_eq!(world.post_once(&path, "k", body).await.expect(201), out);

    let later = json!({ "eventType": "a", "payload": {}, "deliverAt": "2026-01-01T01:00:00Z" });
    assert_eq!(world.post(&path, later).await.expect(422)["detail"][0]["loc"], json!(["body", "deliverAt"]));
    world.patch(&format!("/api/v1/app/acme/endpoint/{endpoint}"), json!({ "disabled": true })).await.expect(200);
    world.post(&path, json!({ "eventType": "a", "payload": {} })).await.expect(422);
}

#[tokio::test]
async fn many_endpoints_are_created_together_or_not_at_all() {
    let world = World::new();
    world.application("acme").await;
    let path = "/api/v1/app/acme/endpoint/bulk/create";
    let of = |uids: &[&str]| {
        let endpoints: Vec<_> = uids.iter().map(|uid| json!({ "url": "https://example.com", "uid": uid })).collect();
        json!({ "endpoints": endpoints })
    };
    let count = async || world.get("/api/v1/app/acme/endpoint").await.expect(200)["data"].as_array().unwrap().len();
    let out = world.post_once(path, "k", of(&["a", "b", "c"])).await.expect(201);
    assert_eq!(out["data"].as_array().unwrap().iter().map(|e| e["uid"].clone()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(world.post_once(path, "k", of(&["a", "b", "c"])).await.expect(201), out);
    assert_eq!(count().await, 3);
    world.post(path, of(&["d", "a"])).await.expect(409);
    world.post(path, of(&["d", "d"])).await.expect(409);
    world.post(path, of(&[])).await.expect(422);
    world.post(path, json!({ "endpoints": vec![json!({ "url": "https://example.com" }); 101] })).await.expect(422);
    let wrong = json!({ "endpoints": [{ "url": "https://example.com" }, { "url": "ftp://example.com" }] });
    let refused = world.post(path, wrong).await.expect(422);
    assert_eq!(refused["detail"][0]["loc"], json!(["body", "endpoints", "[1]", "url"]));
    assert_eq!(count().await, 3);
}

#[tokio::test]
async fn an_empty_list_is_no_filter() {
    let world = World::new();
    world.application("acme").await;
    world.post("/api/v1/event-type", json!({ "name": "a", "description": "" })).await.expect(201);
    let body = json!({ "url": "https://example.com", "uid": "one", "eventTypes": [], "channels": [] });
    let out = world.post("/api/v1/app/acme/endpoint", body).await.expect(201);
    assert_eq!((&out["eventTypes"], &out["channels"]), (&Value::Null, &Value::Null));
    let path = "/api/v1/app/acme/endpoint/one";
    let some = json!({ "eventTypes": ["a"], "channels": ["x"] });
    assert_eq!(world.patch(path, some).await.expect(200)["channels"], json!(["x"]));
    let out = world.patch(path, json!({ "filterTypes": [], "channels": [] })).await.expect(200);
    assert_eq!((&out["eventTypes"], &out["channels"]), (&Value::Null, &Value::Null));
    let message = json!({ "eventType": "a", "payload": {}, "channels": [] });
    assert_eq!(world.post("/api/v1/app/acme/msg", message).await.expect(202)["channels"], Value::Null);
}
