//! Which messages an endpoint gets by their content, from the request that sets its filter to the fan-out that is kept.

use crate::world::World;
use serde_json::{Value, json};

async fn world_with(filter: Value) -> World {
    let world = World::new();
    world.application("acme").await;
    let body = json!({ "url": "https://example.com/hook", "uid": "main", "filter": filter });
    let answer = world.post("/api/v1/app/acme/endpoint", body).await;
    let shown = answer.expect(201)["filter"].clone();
    assert_eq!(shown, filter);
    world
}

/// To how many endpoints this message is owed.
async fn owed(world: &World, message: Value) -> usize {
    let before = world.kept().deliveries.len();
    world.post("/api/v1/app/acme/msg", message).await.expect(202);
    world.kept().deliveries.len() - before
}

#[tokio::test]
async fn a_filter_decides_whom_a_message_is_owed_to() {
    let message = json!({ "eventType": "invoice.paid", "eventId": "e", "channels": ["north"], "tags": ["red"], "payload": { "amount": 7, "to": { "name": "x" } } });
    let check = async |filter: Value, expected: usize| {
        let world = world_with(filter.clone()).await;
        assert_eq!(owed(&world, message.clone()).await, expected, "{filter}");
    };
    check(json!("payload.amount > 5 && 'north' in channels && tags == ['red'] && eventId == 'e'"), 1).await;
    check(json!("payload.amount > 7"), 0).await;
    check(json!("payload.missing > 7"), 0).await;
    check(json!({ "exact": { "type": "invoice.paid", "payload.to.name": "x" } }), 1).await;
    check(json!({ "not": { "prefix": { "type": "invoice." } } }), 0).await;
    check(json!([{ "suffix": { "type": ".paid" } }, { "exact": { "id": "f" } }]), 0).await;
}

#[tokio::test]
async fn a_filter_is_changed_cleared_and_refused() {
    let world = world_with(json!("payload.a == 1")).await;
    let one = "/api/v1/app/acme/endpoint/main";
    let message = json!({ "eventType": "a.b", "payload": { "a": 2 } });
    assert_eq!(owed(&world, message.clone()).await, 0);
    let other = json!({ "filter": "payload.a == 2" });
    assert_eq!(world.patch(one, other.clone()).await.expect(200)["filter"], other["filter"]);
    assert_eq!(owed(&world, message.clone()).await, 1);
    // What is not mentioned stays; a fault changes nothing.
    assert_eq!(world.patch(one, json!({ "description": "x" })).await.expect(200)["filter"], other["filter"]);
    let refused = world.patch(one, json!({ "filter": "payload.a ==\n colour" })).await.expect(422);
    assert_eq!(refused["detail"][0]["loc"], json!(["body", "filter"]));
    let msg = refused["detail"][0]["msg"].as_str().expect("a text");
    assert!(msg.contains("line 2, column 2") && msg.contains("colour"), "{msg}");
    let refused = world.patch(one, json!({ "filter": { "sql": "type = 'a'" } })).await.expect(422);
    assert!(refused["detail"][0]["msg"].as_str().expect("a text").contains("CloudEvents SQL is not supported"));
    world.patch(one, json!({ "filter": 7 })).await.expect(422);
    assert_eq!(world.get(one).await.expect(200)["filter"], other["filter"]);
    // PUT replaces it with all the rest.
    let put = world.put(one, json!({ "url": "https://example.com/hook" })).await.expect(200);
    assert_eq!(put.get("filter"), None);
    assert_eq!(owed(&world, message.clone()).await, 1);
    world.patch(one, json!({ "filter": "false" })).await.expect(200);
    assert_eq!(owed(&world, message.clone()).await, 0);
    assert_eq!(world.patch(one, json!({ "filter": null })).await.expect(200).get("filter"), None);
    assert_eq!(owed(&world, message).await, 1);
}

const TRANSFORMATION: &str = "/api/v1/app/acme/endpoint/main/transformation";

#[tokio::test]
async fn a_transformation_is_read_changed_and_refused_with_its_line() {
    let world = world_with(json!("true")).await;
    let none = json!({ "code": null, "enabled": false, "variables": null, "updatedAt": null });
    assert_eq!(world.get(TRANSFORMATION).await.expect(200), none);
    let refused = async |body: Value, loc: &str, expected: &str| {
        let answer = world.patch(TRANSFORMATION, body.clone()).await.expect(422);
        assert_eq!(answer["detail"][0]["loc"], json!(["body", loc]), "{body}");
        let msg = answer["detail"][0]["msg"].as_str().expect("a text");
        assert!(msg.contains(expected), "{body}: {msg}");
    };
    refused(json!({ "enabled": true }), "enabled", "no `code`").await;
    refused(json!({ "code": "short" }), "code", "10 to 51200 characters, not 5").await;
    refused(json!({ "code": "a".repeat(51_201) }), "code", "10 to 51200").await;
    refused(json!({ "code": "function handler(w) {\n return ((\n}" }), "code", "SyntaxError").await;
    refused(json!({ "code": "let something = 'else'" }), "code", "function named handler").await;
    let many: serde_json::Map<_, _> = (0..65).map(|n| (format!("v{n}"), json!("x"))).collect();
    refused(json!({ "variables": many }), "variables", "at most 64").await;
    let code = "function handler(webhook) { return webhook }";
    world.patch(TRANSFORMATION, json!({ "code": code, "enabled": true, "variables": { "a": "b" } })).await.expect(204);
    let kept = world.get(TRANSFORMATION).await.expect(200);
    assert_eq!(
        (&kept["code"], &kept["enabled"], &kept["variables"]),
        (&json!(code), &json!(true), &json!({ "a": "b" }))
    );
    assert!(kept["updatedAt"].is_string());
    // PUT of the endpoint leaves it; without code it is off.
    world.put("/api/v1/app/acme/endpoint/main", json!({ "url": "https://example.com/hook" })).await.expect(200);
    assert_eq!(world.get(TRANSFORMATION).await.expect(200)["code"], kept["code"]);
    world.patch(TRANSFORMATION, json!({ "code": null, "variables": null })).await.expect(204);
    let left = world.get(TRANSFORMATION).await.expect(200);
    assert_eq!(
        (&left["code"], &left["enabled"], &left["variables"]),
        (&none["code"], &none["enabled"], &none["variables"])
    );
}

#[tokio::test]
async fn a_transformation_is_tried_out() {
    let world = world_with(json!("true")).await;
    let simulate = async |code: &str| {
        let body = json!({ "code": code, "eventType": "a.b", "payload": { "n": 1 }, "variables": { "v": "w" } });
        world.post(&format!("{TRANSFORMATION}/simulate"), body).await
    };
    let code = "function handler(w) { w.payload.v = w.variables.v; w.method = 'PATCH'; w.headers['x-a'] = w.eventType; return w }";
    let made = json!({ "url": "https://example.com/hook", "payload": r#"{"n":1,"v":"w"}"#, "method": "PATCH", "cancel": false, "headers": { "x-a": "a.b" } });
    assert_eq!(simulate(code).await.expect(200), made);
    let cancelled = simulate("function handler(w) { w.cancel = true; return w }").await.expect(200);
    assert_eq!(cancelled["cancel"], true);
    let failed = simulate("function handler(w) {\n  return w.a.b\n}").await.expect(422);
    assert_eq!(failed["detail"][0]["loc"], json!(["body", "code"]));
    assert!(failed["detail"][0]["msg"].as_str().expect("a text").contains("line 2: TypeError"), "{failed}");
    simulate("function handler(w) { for (;;) {} }").await.expect(422);
    let missing = world.post(&format!("{TRANSFORMATION}/simulate"), json!({})).await.expect(422);
    assert_eq!(missing["detail"].as_array().map(Vec::len), Some(3), "code, event type, payload: {missing}");
}

#[tokio::test]
async fn formats_and_content_types_must_fit() {
    let world = world_with(json!("true")).await;
    let one = "/api/v1/app/acme/endpoint/main";
    for (body, field) in [
        (json!({ "format": "yaml" }), "format"),
        (json!({ "contentType": "nonsense" }), "contentType"),
        (json!({ "contentType": "text/plain\r\nx-a: b" }), "contentType"),
        (json!({ "format": "xml", "contentType": "application/json" }), "contentType"),
        (json!({ "format": "form", "contentType": "text/xml" }), "contentType"),
    ] {
        let answer = world.patch(one, body.clone()).await.expect(422);
        assert_eq!(answer["detail"][0]["loc"], json!(["body", field]), "{body}");
    }
    let kept = world.patch(one, json!({ "format": "xml", "contentType": "application/soap+xml" })).await.expect(200);
    assert_eq!((&kept["format"], &kept["contentType"]), (&json!("xml"), &json!("application/soap+xml")));
    // A form now would lie about itself.
    world.patch(one, json!({ "format": "form" })).await.expect(422);
    let kept = world.patch(one, json!({ "format": null, "contentType": null })).await.expect(200);
    assert_eq!((kept.get("format"), kept.get("contentType")), (None, None));
}
