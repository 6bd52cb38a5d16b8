//! Payloads against the schemas of their event types.

use crate::world::World;
use http::Method;
use serde_json::{Value, json};

async fn world(validation: &str) -> World {
    let world = World::new();
    let body = json!({ "name": "Acme", "uid": "acme", "payloadValidation": validation });
    let out = world.post("/api/v1/app", body).await.expect(201);
    assert_eq!(out["payloadValidation"], validation);
    world.endpoint("acme").await;
    put(&world, json!({ "1": { "type": "object", "required": ["id"], "properties": { "items": { "items": { "type": "integer" } } } } })).await;
    world
}

async fn put(world: &World, schemas: Value) {
    world.put("/api/v1/event-type/order.paid", json!({ "description": "", "schemas": schemas })).await;
}

async fn send(world: &World, payload: Value) -> crate::world::Answered {
    world.post("/api/v1/app/acme/msg", json!({ "eventType": "order.paid", "payload": payload })).await
}

#[tokio::test]
async fn a_payload_is_refused_with_the_way_to_its_fault() {
    let world = world("refuse").await;
    send(&world, json!({ "id": 1, "items": [1, 2] })).await.expect(202);
    let refused = send(&world, json!({ "id": 1, "items": [1, "secret"] })).await.expect(422);
    let fault = &refused["detail"][0];
    assert_eq!(
        (&fault["loc"], &fault["type"]),
        (&json!(["body", "payload", "items", "1"]), &json!("value_error.schema"))
    );
    assert!(!refused.to_string().contains("secret"));
    assert_eq!(send(&world, json!({})).await.expect(422)["detail"][0]["loc"], json!(["body", "payload"]));
    assert_eq!(world.kept().messages.len(), 1);
    // Of other types, and of types without a schema, everything is good.
    let other = json!({ "eventType": "other", "payload": {} });
    world.post("/api/v1/app/acme/msg", other).await.expect(202);
}

#[tokio::test]
async fn a_warning_comes_with_the_answer_and_the_message_is_sent() {
    let world = world("warn").await;
    let good = send(&world, json!({ "id": 1 })).await;
    assert_eq!((good.status.as_u16(), good.headers.get("bellwire-payload-warning")), (202, None));
    let warned = send(&world, json!({ "items": ["\u{e9}"] })).await;
    warned.expect(202);
    let text = warned.headers["bellwire-payload-warning"].to_str().unwrap();
    assert!(text.contains("payload.items.0: ") && text.contains("; "), "{text}");
    assert_eq!(world.kept().messages.len(), 2);
}

#[tokio::test]
async fn off_looks_at_nothing_and_is_what_applications_begin_with() {
    let world = world("off").await;
    let answer = send(&world, json!({ "items": "none" })).await;
    assert_eq!((answer.status.as_u16(), answer.headers.get("bellwire-payload-warning")), (202, None));
    assert_eq!(world.post("/api/v1/app", json!({ "name": "b" })).await.expect(201)["payloadValidation"], "off");
    let path = "/api/v1/app/acme";
    assert_eq!(
        world.patch(path, json!({ "payloadValidation": "refuse" })).await.expect(200)["payloadValidation"],
        "refuse"
    );
    send(&world, json!({})).await.expect(422);
    // Clients that do not know it do not change it.
    assert_eq!(
        world.put(path, json!({ "name": "Acme", "uid": "acme" })).await.expect(200)["payloadValidation"],
        "refuse"
    );
    let off = world.put(path, json!({ "name": "Acme", "uid": "acme", "payloadValidation": "off" })).await.expect(200);
    assert_eq!(off["payloadValidation"], "off");
    send(&world, json!({})).await.expect(202);
    let wrong = world.patch(path, json!({ "payloadValidation": "maybe" })).await.expect(422);
    assert_eq!(wrong["detail"][0]["loc"], json!(["body", "payloadValidation"]));
}

#[tokio::test]
async fn the_newest_schema_counts_from_the_moment_it_is_there() {
    let world = world("refuse").await;
    send(&world, json!({ "id": 1 })).await.expect(202);
    put(&world, json!({ "2": { "required": ["a"] }, "10": { "required": ["b"] } })).await;
    send(&world, json!({ "id": 1 })).await.expect(422);
    send(&world, json!({ "a": 1 })).await.expect(422);
    send(&world, json!({ "b": 1 })).await.expect(202);
    world.patch("/api/v1/event-type/order.paid", json!({ "schemas": null })).await.expect(200);
    send(&world, json!({})).await.expect(202);
}

#[tokio::test]
async fn what_was_accepted_once_is_answered_again_whatever_the_schema_says_now() {
    let world = world("refuse").await;
    let body = json!({ "eventType": "order.paid", "payload": { "id": 1 } });
    let first = world.post_once("/api/v1/app/acme/msg", "k", body.clone()).await.expect(202);
    put(&world, json!({ "1": { "required": ["other"] } })).await;
    assert_eq!(world.post_once("/api/v1/app/acme/msg", "k", body.clone()).await.expect(202)["id"], first["id"]);
    world.post_once("/api/v1/app/acme/msg", "another", body).await.expect(422);
}

#[tokio::test]
async fn a_raw_payload_is_checked_if_it_is_json() {
    let world = world("refuse").await;
    let send = async |raw: &str| {
        let body = json!({ "eventType": "order.paid", "payload": {}, "transformationsParams": { "rawPayload": raw } });
        world.post("/api/v1/app/acme/msg", body).await
    };
    send(r#"{"id": 1}"#).await.expect(202);
    for raw in ["{}", "<xml/>", &"[".repeat(100_000)] {
        let refused = send(raw).await.expect(422);
        assert_eq!(refused["detail"][0]["loc"], json!(["body", "transformationsParams", "rawPayload"]), "{refused}");
    }
}

#[tokio::test]
async fn what_cannot_be_used_as_a_schema_is_refused_when_it_comes() {
    let world = World::new();
    for (schema, expected) in [
        (json!({ "type": "text" }), "/type"),
        (json!({ "$ref": "https://example.com/schema.json" }), "leads nowhere"),
        (json!({ "$ref": "#" }), "never end"),
        (json!({ "pattern": "(?=a)" }), "regex"),
        (json!("text"), "must be an object"),
    ] {
        let body = json!({ "name": "a", "description": "", "schemas": { "1": schema } });
        let refused = world.post("/api/v1/event-type", body).await.expect(422);
        let fault = &refused["detail"][0];
        assert_eq!(fault["loc"], json!(["body", "schemas", "1"]), "{refused}");
        assert!(fault["msg"].as_str().unwrap().contains(expected), "{refused}");
    }
}

#[tokio::test]
async fn hostile_payloads_end_in_an_answer() {
    let world = world("refuse").await;
    put(&world, json!({ "1": { "additionalProperties": { "pattern": "^(a|a)*$" } } })).await;
    send(&world, json!({ "x": format!("{}!", "a".repeat(500_000)) })).await.expect(422);
    let lone = r#"{"eventType":"order.paid","payload":{"x":"\ud800"}}"#;
    world.call(Method::POST, "/api/v1/app/acme/msg", lone).await.expect(422);
    let items = vec![0; 400_000];
    put(&world, json!({ "1": { "additionalProperties": { "items": { "anyOf": vec![json!({ "const": 1 }); 900] } } } }))
        .await;
    let refused = send(&world, json!({ "x": items })).await.expect(422);
    assert!(refused["detail"][0]["msg"].as_str().unwrap().contains("too many values"));
}
