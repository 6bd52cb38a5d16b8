//! Event types from OpenAPI documents, and environments taken out and brought in.

use crate::world::World;
use serde_json::{Value, json};

const IMPORT: &str = "/api/v1/event-type/import/openapi";

fn spec(names: &[&str]) -> Value {
    let webhooks: serde_json::Map<String, Value> = names
        .iter()
        .map(|name| {
            let schema = json!({ "$ref": "#/components/schemas/Thing" });
            let body = json!({ "content": { "application/json": { "schema": schema } } });
            ((*name).to_owned(), json!({ "post": { "description": "It came.", "requestBody": body } }))
        })
        .collect();
    let thing = json!({ "type": "object", "required": ["id"] });
    json!({ "openapi": "3.1.0", "webhooks": webhooks, "components": { "schemas": { "Thing": thing } } })
}

async fn event_type(world: &World, name: &str) -> Value {
    world.get(&format!("/api/v1/event-type/{name}")).await.expect(200)
}

#[tokio::test]
async fn a_document_makes_event_types_whose_schemas_have_effect() {
    let world = World::new();
    world.post("/api/v1/app", json!({ "name": "A", "uid": "acme", "payloadValidation": "refuse" })).await.expect(201);
    let out = world.post(IMPORT, json!({ "spec": spec(&["a.b", "c.d"]) })).await.expect(200);
    assert_eq!(out, json!({ "data": { "modified": ["a.b", "c.d"] } }));
    assert_eq!(event_type(&world, "a.b").await["description"], "It came.");
    let send = async |payload: Value| {
        world.post("/api/v1/app/acme/msg", json!({ "eventType": "a.b", "payload": payload })).await.status.as_u16()
    };
    assert_eq!((send(json!({ "id": 1 })).await, send(json!({})).await), (202, 422));
    // The same again changes nothing.
    let again = world.post(IMPORT, json!({ "specRaw": spec(&["a.b", "c.d"]).to_string() })).await.expect(200);
    assert_eq!(again, json!({ "data": { "modified": [] } }));
}

#[tokio::test]
async fn yaml_is_read_and_a_dry_run_changes_nothing() {
    let world = World::new();
    let yaml =
        "openapi: 3.1.0\nwebhooks:\n  pet.new:\n    post:\n      summary: A pet\n      x-svix-group-name: pets\n";
    let out = world.post(IMPORT, json!({ "specRaw": yaml, "dryRun": true })).await.expect(200);
    assert_eq!(out["data"]["modified"], json!([]));
    let expected = json!([{
        "name": "pet.new", "description": "A pet", "schemas": null, "deprecated": false, "groupName": "pets", "featureFlags": [],
    }]);
    assert_eq!(out["data"]["to_modify"], expected);
    world.get("/api/v1/event-type/pet.new").await.expect(404);
}

#[tokio::test]
async fn what_is_there_is_updated_and_the_rest_archived_only_if_asked() {
    let world = World::new();
    for (name, schemas) in [("a.b", json!({ "1": { "type": "array" }, "7": {} })), ("old", json!({}))] {
        let body = json!({ "name": name, "description": "before", "archived": name == "a.b", "schemas": schemas });
        world.post("/api/v1/event-type", body).await.expect(201);
    }
    world.post(IMPORT, json!({ "spec": spec(&["a.b"]) })).await.expect(200);
    let updated = event_type(&world, "a.b").await;
    assert_eq!((&updated["archived"], &updated["description"]), (&json!(false), &json!("It came.")));
    assert_eq!(updated["schemas"]["1"], json!({ "type": "array" }));
    assert_eq!(updated["schemas"]["7"]["$ref"], "#/$defs/Thing");
    assert_eq!(event_type(&world, "old").await["archived"], false);
    let out = world.post(IMPORT, json!({ "spec": spec(&["a.b"]), "replaceAll": true })).await.expect(200);
    assert_eq!(out["data"]["modified"], json!(["old"]));
    assert_eq!(event_type(&world, "old").await["archived"], true);
}

#[tokio::test]
async fn what_cannot_be_read_is_told_with_its_place_and_changes_nothing() {
    let world = World::new();
    for body in [json!({}), json!({ "spec": {}, "specRaw": "{}" })] {
        assert_eq!(world.post(IMPORT, body).await.expect(400)["code"], "generic_error");
    }
    let bad = |schema: Value| {
        let body = json!({ "content": { "application/json": { "schema": schema } } });
        json!({ "spec": { "webhooks": { "good": { "post": {} }, "bad": { "post": { "requestBody": body } } } } })
    };
    for (body, loc) in [
        (json!({ "spec": {} }), json!(["body", "spec"])),
        (json!({ "specRaw": "a: [" }), json!(["body", "specRaw"])),
        (json!({ "specRaw": "- 1" }), json!(["body", "specRaw"])),
        (
            json!({ "spec": { "webhooks": { "a b": { "post": {} } } } }),
            json!(["body", "spec", "webhooks", "a b", "name"]),
        ),
        (bad(json!({ "$ref": "#/no" })), json!(["body", "spec", "webhooks", "bad"])),
        (bad(json!({ "type": "text" })), json!(["body", "spec", "webhooks", "bad", "schema"])),
    ] {
        let refused = world.post(IMPORT, body).await.expect(422);
        assert_eq!(refused["detail"][0]["loc"], loc, "{refused}");
    }
    assert!(world.kept().changes.is_empty());
}

#[tokio::test]
async fn an_import_is_done_once_for_one_key() {
    let world = World::new();
    let body = json!({ "spec": spec(&["a.b"]) });
    let first = world.post_once(IMPORT, "k", body.clone()).await.expect(200);
    assert_eq!(world.post_once(IMPORT, "k", body).await.expect(200), first);
    world.post_once(IMPORT, "k", json!({ "spec": spec(&["c.d"]) })).await.expect(409);
}

#[tokio::test]
async fn an_environment_that_was_taken_out_can_be_brought_in() {
    let world = World::new();
    let schemas = json!({ "1": { "type": "object" } });
    let body =
        json!({ "name": "a.b", "description": "x", "schemas": schemas, "featureFlags": ["beta"], "groupName": "g" });
    world.post("/api/v1/event-type", body).await.expect(201);
    world.post("/api/v1/event-type", json!({ "name": "old", "description": "", "archived": true })).await.expect(201);
    let out = world.post("/api/v1/environment/export", json!({})).await.expect(200);
    assert_eq!((&out["version"], &out["connectors"], &out["settings"]), (&json!(1), &json!([]), &Value::Null));
    assert_eq!(out["eventTypes"].as_array().unwrap().len(), 2);

    let other = World::new();
    other.post("/api/v1/environment/import", out.clone()).await.expect(204);
    let brought = other.post("/api/v1/environment/export", json!({})).await.expect(200);
    assert_eq!(brought["eventTypes"], out["eventTypes"]);
    other.post("/api/v1/environment/import", json!({})).await.expect(204);

    for (body, loc) in [
        (
            json!({ "connectors": [{ "name": "Slack", "transformation": "0123456789" }] }),
            json!(["body", "connectors", "[0]"]),
        ),
        (json!({ "settings": { "enforceHttps": true } }), json!(["body", "settings", "enforceHttps"])),
        (json!({ "eventTypes": [{ "name": "a" }] }), json!(["body", "eventTypes", "[0]", "description"])),
    ] {
        let refused = other.post("/api/v1/environment/import", body).await.expect(422);
        assert_eq!(refused["detail"][0]["loc"], loc, "{refused}");
    }
}
