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
