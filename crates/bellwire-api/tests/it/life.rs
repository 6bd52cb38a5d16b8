//! The life of an application, told once from beginning to end.

use crate::world::World;
use bellwire_model::FailureClass;
use serde_json::json;

#[tokio::test]
async fn an_application_lives() {
    live(World::new()).await;
}

#[tokio::test]
async fn an_application_lives_on_the_embedded_store() {
    live(World::embedded()).await;
}

async fn live(world: World) {
    // An application is made, found by its uid, and changed.
    let app = world.post("/api/v1/app", json!({ "name": "Acme", "uid": "acme", "throttleRate": 5 })).await.expect(201);
    assert_eq!(app["uid"], "acme");
    assert_eq!(app["throttleRate"], 5);
    assert_eq!(app["rateLimit"], 5);
    assert_eq!(app["metadata"], json!({}));
    assert_eq!(app["createdAt"], "2026-01-01T00:00:00.000000Z");
    assert_eq!(world.get("/api/v1/app/acme").await.expect(200), app);
    let id = app["id"].as_str().unwrap();
    assert_eq!(world.get(&format!("/api/v1/app/{id}")).await.expect(200), app);

    // It gets an event type and an endpoint, which gets a secret.
    world.post("/api/v1/event-type", json!({ "name": "invoice.paid", "description": "Paid" })).await.expect(201);
    let body = json!({ "url": "https://example.com/hook", "eventTypes": ["invoice.paid"], "headers": { "X-Api-Key": "s", "X-A": "1" } });
    let endpoint = world.post("/api/v1/app/acme/endpoint", body).await.expect(201);
    assert_eq!(endpoint["filterTypes"], json!(["invoice.paid"]));
    assert_eq!(endpoint["disabled"], false);
    let endpoint_id = endpoint["id"].as_str().unwrap();
    let at = format!("/api/v1/app/acme/endpoint/{endpoint_id}");
    let headers = world.get(&format!("{at}/headers")).await.expect(200);
    assert_eq!(headers, json!({ "headers": { "X-A": "1" }, "sensitive": ["X-Api-Key"] }));
    let secret = world.get(&format!("{at}/secret")).await.expect(200);
    assert!(secret["key"].as_str().unwrap().starts_with("whsec_"));
    let rotated = world.post(&format!("{at}/secret/rotate"), json!({})).await.expect(200);
    assert_ne!(rotated["key"], secret["key"]);

    // A message is sent: its payload is kept byte for byte.
    let body = r#"{"eventType":"invoice.paid","eventId":"paid-1","payload":{ "b":1.0e400, "a":"\ud800", "a":2 } }"#;
    let message = world.call(http::Method::POST, "/api/v1/app/acme/msg", body).await;
    assert_eq!(message.status, 202, "{}", message.text);
    assert!(message.text.contains(r#"{ "b":1.0e400, "a":"\ud800", "a":2 }"#), "{}", message.text);
    let got = world.get("/api/v1/app/acme/msg/paid-1").await;
    assert_eq!(got.text, message.text);
    let message_id = serde_json::from_str::<serde_json::Value>(&message.text.replace("1.0e400", "1")).ok();
    assert!(message_id.is_none(), "lone surrogates are no characters");
    let message_id = message.text.split('"').find(|part| part.starts_with("msg_")).unwrap().to_owned();

    // It was tried, in vain; the attempt is seen from all sides.
    let attempt = world.attempt(&message_id, endpoint_id, Err(FailureClass::Timeout), b"no answer within 15 s");
    let list = world.get(&format!("/api/v1/app/acme/attempt/msg/{message_id}")).await.expect(200);
    assert_eq!(list["data"][0]["id"], json!(attempt));
    assert_eq!(list["data"][0]["response"], "no answer within 15 s");
    assert_eq!(list["data"][0]["responseStatusCode"], 0);
    assert_eq!(list["data"][0]["responseDurationMs"], 12);
    assert_eq!(list["data"][0]["status"], 2);
    assert_eq!(list["data"][0]["statusText"], "fail");
    let list = world
        .get(&format!("/api/v1/app/acme/attempt/endpoint/{endpoint_id}?with_msg=true&with_content=false"))
        .await
        .expect(200);
    assert_eq!(list["data"][0]["msgId"], json!(message_id));
    assert_eq!(list["data"][0]["msg"]["payload"], json!({}));
    let one = world.get(&format!("/api/v1/app/acme/msg/paid-1/attempt/{attempt}")).await.expect(200);
    assert_eq!(one["endpointId"], json!(endpoint_id));
    let destinations = world.get("/api/v1/app/acme/msg/paid-1/endpoint").await.expect(200);
    assert_eq!(destinations["data"][0]["status"], 2);
    assert!(destinations["data"][0].get("metadata").is_none());
    let stats = world.get(&format!("{at}/stats")).await.expect(200);
    assert_eq!(stats, json!({ "success": 0, "pending": 0, "sending": 0, "fail": 1, "canceled": 0 }));

    // It is sent again.
    world.post(&format!("/api/v1/app/acme/msg/paid-1/endpoint/{endpoint_id}/resend"), json!({})).await.expect(202);
    let messages = world.get(&format!("{at}/msg?with_content=false")).await.expect(200);
    assert_eq!(messages["data"][0]["status"], 3);
    assert_eq!(messages["data"][0]["nextAttempt"], "2026-01-01T00:00:00.000000Z");
    let task = world.post(&format!("{at}/recover"), json!({ "since": "2025-12-31T00:00:00Z" })).await.expect(202);
    assert_eq!((&task["status"], &task["task"]), (&json!("running"), &json!("endpoint.recover")));

    // Its payload and its answers are forgotten.
    world.delete(&format!("/api/v1/app/acme/msg/paid-1/attempt/{attempt}/content")).await.expect(204);
    let one = world.get(&format!("/api/v1/app/acme/msg/paid-1/attempt/{attempt}")).await.expect(200);
    assert_eq!(one["response"], "EXPUNGED");
    world.delete("/api/v1/app/acme/msg/paid-1/content").await.expect(204);
    let message = world.get("/api/v1/app/acme/msg/paid-1").await.expect(200);
    assert_eq!(message["payload"], json!({ "expired": true }));
    let refused = world.post(&format!("/api/v1/app/acme/msg/paid-1/endpoint/{endpoint_id}/resend"), json!({})).await;
    assert_eq!(refused.expect(400)["code"], "missing_payload");

    // And so is the application.
    world.delete(&at).await.expect(204);
    world.get(&at).await.expect(404);
    world.delete("/api/v1/app/acme").await.expect(204);
    assert_eq!(world.get("/api/v1/app/acme").await.expect(404)["code"], "not_found");
}
