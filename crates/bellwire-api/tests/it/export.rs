//! The event catalogue as documents.

use crate::world::{ORGANISATION, World, application_token};
use http::{Method, Request};
use serde_json::{Value, json};

const OPENAPI: &str = "/api/v1/event-type/export/openapi";
const ASYNCAPI: &str = "/api/v1/event-type/export/asyncapi";
const IMPORT: &str = "/api/v1/event-type/import/openapi";

async fn filled() -> World {
    let world = World::new();
    for (name, flags, archived) in
        [("a.open", json!([]), false), ("b.beta", json!(["beta"]), false), ("c.gone", json!([]), true)]
    {
        let schema = json!({ "$ref": "#/$defs/thing", "$defs": { "thing": { "type": "object", "required": ["id"] } } });
        let body = json!({
            "name": name, "description": "It happened.", "schemas": { "1": schema }, "featureFlags": flags,
            "archived": archived, "groupName": "things",
        });
        world.post("/api/v1/event-type", body).await.expect(201);
    }
    world
}

#[tokio::test]
async fn both_documents_hold_what_is_not_archived_and_what_the_token_may_see() {
    let world = filled().await;
    let names = |members: &Value| members.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let document = world.get(OPENAPI).await.expect(200);
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(names(&document["webhooks"]), ["a.open", "b.beta"]);
    let document = world.get(ASYNCAPI).await.expect(200);
    assert_eq!(document["asyncapi"], "3.0.0");
    assert_eq!(names(&document["components"]["messages"]), ["a.open", "b.beta"]);

    let app = world.application("acme").await;
    let token = application_token(ORGANISATION, &app, &[]);
    let request =
        Request::builder().method(Method::GET).uri(OPENAPI).header("authorization", format!("Bearer {token}"));
    let document = world.send(request.body(axum::body::Body::empty()).unwrap()).await.expect(200);
    assert_eq!(names(&document["webhooks"]), ["a.open"]);
}

#[tokio::test]
async fn what_was_exported_is_imported_elsewhere_and_checks_the_same_payloads() {
    let document = filled().await.get(OPENAPI).await.expect(200);
    let elsewhere = World::new();
    elsewhere
        .post("/api/v1/app", json!({ "name": "A", "uid": "acme", "payloadValidation": "refuse" }))
        .await
        .expect(201);
    let out = elsewhere.post(IMPORT, json!({ "spec": document })).await.expect(200);
    assert_eq!(out["data"]["modified"], json!(["a.open", "b.beta"]));
    let again = elsewhere.get("/api/v1/event-type/b.beta").await.expect(200);
    assert_eq!((&again["groupName"], &again["featureFlags"]), (&json!("things"), &json!(["beta"])));
    for (payload, status) in [(json!({ "id": 1 }), 202), (json!({}), 422)] {
        let sent = elsewhere.post("/api/v1/app/acme/msg", json!({ "eventType": "a.open", "payload": payload })).await;
        assert_eq!(sent.status.as_u16(), status, "{}", sent.text);
    }
}
