//! Background tasks, on the real store: what begins them, what they do, how they are shown and stopped.

use crate::world::{OTHER_ORGANISATION, World, application_token, organisation_token};
use serde_json::{Value, json};
use std::time::Duration;

const SINCE: &str = "2025-12-31T00:00:00Z";

/// An application `a` with an endpoint, and messages of which every third was delivered and the others failed.
async fn world_of_failures(messages: usize) -> (World, String, Vec<String>) {
    let world = World::embedded();
    world.application("a").await;
    let endpoint = world.endpoint("a").await;
    let mut ids = Vec::new();
    for n in 0..messages {
        let message = world.message("a").await;
        let status = if n % 3 == 0 { 200 } else { 400 + 100 * (n as u16 % 2) };
        world.attempt(&message, &endpoint, Ok(status), b"");
        ids.push(message);
    }
    (world, endpoint, ids)
}

async fn task(world: &World, id: &Value) -> Value {
    world.get(&format!("/api/v1/background-task/{}", id.as_str().expect("an id"))).await.expect(200)
}

#[tokio::test]
async fn a_recover_sends_what_failed_and_says_how_far_it_is() {
    let (world, endpoint, ids) = world_of_failures(9).await;
    let path = format!("/api/v1/app/a/endpoint/{endpoint}/recover");
    let begun = world.post(&path, json!({ "since": SINCE })).await.expect(202);
    assert_eq!((&begun["status"], &begun["task"]), (&json!("running"), &json!("endpoint.recover")));
    let late = world.message("a").await;
    world.attempt(&late, &endpoint, Ok(500), b"");
    let running = task(&world, &begun["id"]).await;
    assert_eq!(running["data"], json!({ "messagesSent": 0, "messagesScanned": 0, "percentComplete": 0 }));
    world.pass(Duration::from_secs(1));
    world.advance();
    let finished = task(&world, &begun["id"]).await;
    assert_eq!((&finished["status"], &finished["task"]), (&json!("finished"), &json!("endpoint.recover")));
    assert_eq!(finished["data"], json!({ "messagesSent": 6, "messagesScanned": 9, "percentComplete": 100 }));
    assert_ne!(finished["updatedAt"], begun["updatedAt"]);
    let waiting = format!("/api/v1/app/a/endpoint/{endpoint}/msg?status=3");
    let waiting = world.get(&waiting).await.expect(200);
    let found: Vec<_> = waiting["data"].as_array().expect("a list").iter().map(|m| m["id"].clone()).collect();
    let failed: Vec<_> = ids.iter().enumerate().filter(|(n, _)| n % 3 != 0).map(|(_, id)| json!(id)).rev().collect();
    assert_eq!(found, failed);
}

#[tokio::test]
async fn a_replay_sends_what_an_endpoint_never_got() {
    let (world, _, _) = world_of_failures(3).await;
    let known = json!({ "name": "user.signup", "description": "" });
    world.post("/api/v1/event-type", known).await.expect(201);
    let body = json!({ "url": "https://example.com/late", "filterTypes": ["user.signup"] });
    let late = world.post("/api/v1/app/a/endpoint", body).await.expect(201)["id"].clone();
    let late = late.as_str().expect("an id");
    let other = json!({ "eventType": "user.gone", "payload": {} });
    world.post("/api/v1/app/a/msg", other).await.expect(202);
    world.message("a").await;
    let path = format!("/api/v1/app/a/endpoint/{late}/replay-missing");
    let begun = world.post(&path, json!({ "since": SINCE, "until": null })).await.expect(202);
    assert_eq!(begun["task"], "endpoint.replay");
    world.advance();
    let finished = task(&world, &begun["id"]).await;
    assert_eq!(
        finished["data"]["messagesSent"], 3,
        "not what it was owed from the beginning, nor what it does not take"
    );
    let listed = world.get(&format!("/api/v1/app/a/endpoint/{late}/msg")).await.expect(200);
    assert_eq!(listed["data"].as_array().expect("a list").len(), 4);
}

#[tokio::test]
async fn a_bulk_replay_sends_what_passes_its_filter() {
    let (world, endpoint, _) = world_of_failures(12).await;
    let path = format!("/api/v1/app/a/endpoint/{endpoint}/bulk-replay");
    for (filter, sent) in [
        (json!({ "statusCodeClass": 400 }), 4),
        (json!({ "status": 0, "eventTypes": ["user.signup"] }), 4),
        (json!({ "channel": "nobody" }), 0),
        (json!({ "tag": "nobody" }), 0),
        (json!({ "status": 2 }), 4),
        (json!({}), 0),
    ] {
        let mut body = filter.clone();
        body["since"] = json!(SINCE);
        let begun = world.post(&path, body).await.expect(202);
        assert_eq!(begun["task"], "endpoint.bulk-replay");
        world.advance();
        let finished = task(&world, &begun["id"]).await;
        assert_eq!(finished["data"]["messagesSent"], sent, "{filter}; what waits is not doubled");
    }
}

#[tokio::test]
async fn what_cannot_be_replayed_is_refused_by_its_field() {
    let (world, endpoint, _) = world_of_failures(1).await;
    let all = ["recover", "replay-missing", "bulk-replay"];
    for (operation, body, field) in [
        ("recover", json!({ "since": "2025-12-01T00:00:00Z" }), "since"),
        ("bulk-replay", json!({ "since": SINCE, "status": 1 }), "status"),
        ("bulk-replay", json!({ "since": SINCE, "status": 3 }), "status"),
        ("bulk-replay", json!({ "since": SINCE, "channel": "a b" }), "channel"),
        ("bulk-replay", json!({ "since": SINCE, "tag": "a b" }), "tag"),
        ("bulk-replay", json!({ "since": SINCE, "eventTypes": ["a b"] }), "eventTypes"),
        ("cancel-msgs", json!({}), "createdBefore"),
    ]
    .into_iter()
    .chain(all.map(|operation| (operation, json!({}), "since")))
    .chain(all.map(|operation| (operation, json!({ "since": SINCE, "until": "2025-12-30T00:00:00Z" }), "until")))
    {
        let refused = world.post(&format!("/api/v1/app/a/endpoint/{endpoint}/{operation}"), body).await.expect(422);
        assert_eq!(refused["detail"][0]["loc"][1], field, "{operation}: {refused}");
    }
    world.post("/api/v1/app/a/endpoint/nope/replay-missing", json!({ "since": SINCE })).await.expect(404);
}

#[tokio::test]
async fn a_task_is_begun_once_under_one_key() {
    let (world, endpoint, _) = world_of_failures(3).await;
    for (path, body) in [
        (format!("/api/v1/app/a/endpoint/{endpoint}/recover"), json!({ "since": SINCE })),
        (format!("/api/v1/app/a/endpoint/{endpoint}/bulk-replay"), json!({ "since": SINCE })),
        (format!("/api/v1/app/a/endpoint/{endpoint}/replay-missing"), json!({ "since": SINCE })),
        ("/api/v1/app/a/msg/expunge-all-contents".to_owned(), json!({})),
        ("/api/v1/stats/usage/app".to_owned(), json!({ "since": SINCE, "until": "2026-01-02T00:00:00Z" })),
        ("/api/v1/msg/broadcast".to_owned(), json!({ "eventType": "a.b", "payload": {} })),
    ] {
        let first = world.post_once(&path, "k", body.clone()).await.expect(202);
        assert_eq!(world.post_once(&path, "k", body.clone()).await.expect(202), first, "{path}");
        let mut other = body;
        other["more"] = json!(1);
        world.post_once(&path, "k", other).await.expect(409);
    }
    assert_eq!(world.get("/api/v1/background-task").await.expect(200)["data"].as_array().expect("a list").len(), 6);
}

#[tokio::test]
async fn tasks_are_listed_in_pages_and_by_what_they_are() {
    let (world, endpoint, _) = world_of_failures(3).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let operation = ["recover", "bulk-replay"][n % 2];
        let path = format!("/api/v1/app/a/endpoint/{endpoint}/{operation}");
        ids.push(world.post(&path, json!({ "since": SINCE })).await.expect(202)["id"].clone());
        if n == 2 {
            world.advance();
        }
    }
    let list = async |query: &str| {
        let page = world.get(&format!("/api/v1/background-task?{query}")).await.expect(200);
        let ids: Vec<_> = page["data"].as_array().expect("a list").iter().map(|task| task["id"].clone()).collect();
        (ids, page)
    };
    let newest: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(list("").await.0, newest);
    assert_eq!(list("order=ascending").await.0, ids);
    assert_eq!(list("status=running").await.0, newest[..2]);
    assert_eq!(list("status=finished&task=endpoint.recover").await.0, [ids[2].clone(), ids[0].clone()]);
    let (first, page) = list("limit=2").await;
    assert_eq!((first.as_slice(), &page["done"]), (&newest[..2], &json!(false)));
    let iterator = page["iterator"].as_str().expect("an iterator").to_owned();
    let (second, page) = list(&format!("limit=2&iterator={iterator}")).await;
    assert_eq!(second, newest[2..4]);
    let back = page["prevIterator"].as_str().expect("an iterator").to_owned();
    assert_eq!(list(&format!("limit=2&iterator={back}")).await.0, newest[..2]);
    let up = ids[1].as_str().expect("an id").to_owned();
    assert_eq!(list(&format!("order=ascending&iterator={up}")).await.0, ids[2..]);
    world.get("/api/v1/background-task?task=endpoint.unknown").await.expect(400);
    world.get("/api/v1/background-task?iterator=msg_1").await.expect(422);
}

#[tokio::test]
async fn a_task_can_be_cancelled_by_its_owner_only() {
    let (mut world, endpoint, _) = world_of_failures(3).await;
    let app = world.get("/api/v1/app/a").await.expect(200)["id"].as_str().expect("an id").to_owned();
    let other = world.application("b").await;
    let path = format!("/api/v1/app/a/endpoint/{endpoint}/recover");
    let id = world.post(&path, json!({ "since": SINCE })).await.expect(202)["id"].as_str().expect("an id").to_owned();
    world.put("/api/v1/stats/usage/event-types", json!({})).await.expect(202);
    let (one, cancel) = (format!("/api/v1/background-task/{id}"), format!("/api/v1/background-task/{id}/cancel"));
    let tasks = async |world: &World| {
        world.get("/api/v1/background-task").await.expect(200)["data"].as_array().expect("a list").len()
    };
    let owner = std::mem::replace(&mut world.token, application_token(crate::world::ORGANISATION, &app, &[]));
    world.get(&one).await.expect(200);
    assert_eq!(tasks(&world).await, 1, "not the organisation's");
    for stranger in [application_token(crate::world::ORGANISATION, &other, &[]), organisation_token(OTHER_ORGANISATION)]
    {
        world.token = stranger;
        world.get(&one).await.expect(404);
        world.post(&cancel, json!({})).await.expect(404);
        assert_eq!(tasks(&world).await, 0);
    }
    world.token = owner;
    assert_eq!(tasks(&world).await, 2);
    for _ in 0..2 {
        world.post_once(&cancel, "k", json!({})).await.expect(204);
        world.post(&cancel, json!({})).await.expect(204);
    }
    world.advance();
    let cancelled = world.get(&one).await.expect(200);
    assert_eq!((&cancelled["status"], &cancelled["data"]["cancelled"]), (&json!("failed"), &json!(true)));
    assert_eq!(cancelled["data"]["messagesSent"], 0);
    let failed = world.get("/api/v1/background-task?status=failed").await.expect(200);
    assert_eq!(failed["data"].as_array().expect("a list").len(), 1);
    world.get("/api/v1/background-task/qtask_nope").await.expect(404);
}

#[tokio::test]
async fn too_many_tasks_at_a_time_are_refused() {
    let (world, endpoint, _) = world_of_failures(1).await;
    let path = format!("/api/v1/app/a/endpoint/{endpoint}/recover");
    for _ in 0..100 {
        world.post(&path, json!({ "since": SINCE })).await.expect(202);
    }
    assert_eq!(world.post(&path, json!({ "since": SINCE })).await.expect(429)["code"], "too_many_tasks");
    world.advance();
    world.post(&path, json!({ "since": SINCE })).await.expect(202);
}

#[tokio::test]
async fn payloads_can_be_removed_by_name_or_all_at_once() {
    let (world, _, ids) = world_of_failures(4).await;
    let body = json!({ "eventType": "a", "eventId": "own", "payload": { "a": 1 } });
    world.post("/api/v1/app/a/msg", body).await.expect(202);
    let body = json!({ "ids": [ids[0], "own", "nope", ids[0]] });
    let out = world.post("/api/v1/app/a/msg/bulk-expunge", body).await.expect(200);
    let expected = json!({ ids[0].clone(): "expunged", "own": "expunged", "nope": "not-found" });
    assert_eq!(out["results"], expected);
    let payload = async |id: &str| world.get(&format!("/api/v1/app/a/msg/{id}")).await.expect(200)["payload"].clone();
    assert_eq!(payload(&ids[0]).await, json!({ "expired": true }));
    assert_eq!(payload("own").await, json!({ "expired": true }));
    assert_eq!(payload(&ids[1]).await, json!({ "a": 1 }));
    let many: Vec<_> = (0..251).map(|n| n.to_string()).collect();
    let refused = world.post("/api/v1/app/a/msg/bulk-expunge", json!({ "ids": many })).await.expect(422);
    assert_eq!(refused["detail"][0]["loc"][1], "ids");

    let path = "/api/v1/app/a/msg/expunge-all-contents";
    let begun = world.call(http::Method::POST, path, axum::body::Body::empty()).await.expect(202);
    assert_eq!(begun["task"], "application.purge_content");
    let later = world.message("a").await;
    world.advance();
    assert_eq!(task(&world, &begun["id"]).await["data"]["messagesPurged"], 3);
    assert_eq!(payload(&ids[1]).await, json!({ "expired": true }));
    assert_eq!(payload(&later).await, json!({ "a": 1 }), "it came after the task");
}

#[tokio::test]
async fn usage_is_counted_by_application() {
    let (world, _, _) = world_of_failures(4).await;
    let app = world.get("/api/v1/app/a").await.expect(200)["id"].clone();
    let other = world.application("b").await;
    let range = json!({ "since": SINCE, "until": "2026-01-02T00:00:00Z" });
    let begun = world.post("/api/v1/stats/usage/app", range.clone()).await.expect(202);
    assert_eq!((&begun["task"], &begun["unresolvedAppIds"]), (&json!("application.stats"), &json!([])));
    let mut named = range.clone();
    named["appIds"] = json!(["b", "nope", app, "nope"]);
    let second = world.post("/api/v1/stats/usage/app", named).await.expect(202);
    assert_eq!(second["unresolvedAppIds"], json!(["nope"]));
    let mut nobody = range;
    nobody["appIds"] = json!(["nope"]);
    let refused = world.post("/api/v1/stats/usage/app", nobody).await.expect(422);
    assert_eq!(refused["detail"][0]["loc"][1], "appIds");
    for missing in ["since", "until"] {
        let body = json!({ (if missing == "since" { "until" } else { "since" }): SINCE });
        let refused = world.post("/api/v1/stats/usage/app", body).await.expect(422);
        assert_eq!(refused["detail"][0]["loc"][1], missing);
    }
    let types = world.put("/api/v1/stats/usage/event-types", json!({})).await.expect(202);
    assert_eq!(types["task"], "event-type.aggregate");
    world.advance();
    let one = json!({ "appId": app, "appUid": "a", "messageDestinations": 4 });
    assert_eq!(task(&world, &begun["id"]).await["data"]["appStats"], json!([one]));
    let none = json!({ "appId": other, "appUid": "b", "messageDestinations": 0 });
    assert_eq!(task(&world, &second["id"]).await["data"]["appStats"], json!([one, none]));
    let found = &task(&world, &types["id"]).await["data"]["event_types"];
    let all = json!({ "appId": app, "explicitlySubscribedEventTypes": [], "hasCatchAllEndpoint": true });
    assert_eq!(found[0], all);
}

#[tokio::test]
async fn what_waits_ends_as_cancelled() {
    let (world, endpoint, _) = world_of_failures(3).await;
    let waiting = world.message("a").await;
    world.pass(Duration::from_secs(1));
    let path = format!("/api/v1/app/a/endpoint/{endpoint}/cancel-msgs");
    let body = json!({ "createdBefore": "2027-01-01T00:00:00Z" });
    world.post_once(&path, "k", body.clone()).await.expect(204);
    world.post_once(&path, "k", body).await.expect(204);
    let later = world.message("a").await;
    world.advance();
    let stats = world.get(&format!("/api/v1/app/a/endpoint/{endpoint}/stats")).await.expect(200);
    let counted = |name: &str| stats[name].as_u64().expect("a count");
    assert_eq!((counted("success"), counted("fail"), counted("canceled")), (1, 2, 1));
    assert_eq!(counted("pending") + counted("sending"), 1, "{later} came after it");
    let attempts = world.get(&format!("/api/v1/app/a/attempt/msg/{waiting}?expanded_statuses=true")).await.expect(200);
    let only = &attempts["data"][0];
    assert_eq!((&only["status"], &only["response"]), (&json!(4), &json!("not sent: it was cancelled")));
}
