//! Idempotency: the same request once, whatever it does, and however many come at the same moment.

use crate::access::{Furnished, sample};
use crate::document::operations;
use crate::world::{ORGANISATION, World, application_token};
use bellwire_api::backend::AcceptError;
use bellwire_store::Change;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_equal_requests_at_once_get_one_answer() {
    answer_once(World::new()).await;
    answer_once(World::embedded()).await;
}

async fn answer_once(world: World) {
    let world = Arc::new(world);
    world.application("a").await;
    let requests = [
        ("/api/v1/app", json!({ "name": "N" })),
        ("/api/v1/app/a/endpoint", json!({ "url": "https://example.com" })),
        ("/api/v1/event-type", json!({ "name": "t", "description": "" })),
        ("/api/v1/app/a/msg", json!({ "eventType": "t", "payload": { "a": 1 } })),
    ];
    for (path, body) in requests {
        let calls = (0..100).map(|_| {
            let (world, body) = (world.clone(), body.clone());
            tokio::spawn(async move { world.post_once(path, "the-key", body).await })
        });
        let mut first = None;
        for call in calls.collect::<Vec<_>>() {
            let answer = call.await.unwrap();
            assert!(answer.status.is_success(), "{path}: {}", answer.text);
            let first = first.get_or_insert_with(|| answer.clone());
            assert_eq!((&answer.status, &answer.text), (&first.status, &first.text), "{path}");
        }
        // Another body under the same key is a mistake.
        let mut other = body.clone();
        other["description"] = json!("another");
        other["metadata"] = json!({ "another": "one" });
        let refused = world.post_once(path, "the-key", other).await.expect(409);
        assert_eq!(refused["code"], "idempotency_key_reused", "{path}");
        // Another key is another request.
        let fresh = world.post_once(path, "another-key", body).await;
        assert!(fresh.text != first.unwrap().text, "{path}");
    }
    {
        let kept = world.kept();
        let made = |which: fn(&Change) -> bool| kept.changes.iter().filter(|c| which(c)).count();
        assert_eq!(made(|c| matches!(c, Change::PutApplication(_))), 3);
        assert_eq!(made(|c| matches!(c, Change::PutEndpoint(_))), 2);
        assert_eq!(made(|c| matches!(c, Change::PutEventType(_))), 1);
    }
    let messages = world.get("/api/v1/app/a/msg").await.expect(200);
    assert_eq!(messages["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_scope_of_a_key_is_who_asks_and_what_for() {
    let mut world = World::new();
    let a = world.application("a").await;
    world.application("b").await;
    let body = json!({ "url": "https://example.com" });
    let first = world.post_once("/api/v1/app/a/endpoint", "k", body.clone()).await.expect(201);
    let path = world.post_once("/api/v1/app/b/endpoint", "k", body.clone()).await.expect(201);
    let query = world.post_once("/api/v1/app/a/endpoint?x=1", "k", body.clone()).await.expect(201);
    world.token = application_token(ORGANISATION, &a, &[]);
    let who = world.post_once("/api/v1/app/a/endpoint", "k", body.clone()).await.expect(201);
    // Another token of the same subject is the same caller.
    world.token = application_token(ORGANISATION, &a, &["flag"]);
    let again = world.post_once("/api/v1/app/a/endpoint", "k", body).await.expect(201);
    let ids = [&first, &path, &query, &who].map(|e| e["id"].as_str().unwrap().to_owned());
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), 4);
    assert_eq!(again, who);
}

#[tokio::test]
async fn only_what_was_done_is_kept_and_not_for_ever() {
    let world = World { token: crate::world::organisation_token_for_ever(), ..World::new() };
    world.post_once("/api/v1/app", "k", json!({ "name": "" })).await.expect(422);
    let first = world.post_once("/api/v1/app", "k", json!({ "name": "N" })).await.expect(201);
    world.kept().refuse = Some(AcceptError::Full);
    world.post_once("/api/v1/app", "full", json!({ "name": "N" })).await.expect(507);
    world.post_once("/api/v1/app", "full", json!({ "name": "N" })).await.expect(201);
    world.pass(Duration::from_secs(12 * 3600 - 1));
    assert_eq!(world.post_once("/api/v1/app", "k", json!({ "name": "N" })).await.expect(201), first);
    world.pass(Duration::from_secs(1));
    assert_ne!(world.post_once("/api/v1/app", "k", json!({ "name": "N" })).await.expect(201), first);
}

#[tokio::test]
async fn a_secret_is_not_rotated_twice_and_a_delivery_not_resent_twice() {
    let world = World::new();
    world.application("a").await;
    let endpoint = world.endpoint("a").await;
    let path = format!("/api/v1/app/a/endpoint/{endpoint}/secret/rotate");
    let first = world.post_once(&path, "k", json!({})).await.expect(200);
    assert_eq!(world.post_once(&path, "k", json!({})).await.expect(200), first);
    let message = world.message("a").await;
    world.attempt(&message, &endpoint, Ok(500), b"");
    let path = format!("/api/v1/app/a/msg/{message}/endpoint/{endpoint}/resend");
    world.post_once(&path, "k", json!({})).await.expect(202);
    world.post_once(&path, "k", json!({})).await.expect(202);
    let waits = world.kept().changes.iter().filter(|c| matches!(c, Change::Wait { .. })).count();
    assert_eq!(waits, 1);
}

#[tokio::test]
async fn an_answer_of_200_is_kept_as_200() {
    let world = World::new();
    world.application("a").await;
    let body = json!({ "name": "A", "uid": "a" });
    let first = world.post_once("/api/v1/app?get_if_exists=true", "k", body.clone()).await.expect(200);
    world.delete("/api/v1/app/a").await.expect(204);
    assert_eq!(world.post_once("/api/v1/app?get_if_exists=true", "k", body).await.expect(200), first);
}

/// They change nothing, so a key has nothing to keep.
const ONLY_LOOK: [&str; 4] =
    ["v1.message.precheck", "v1.message.search", "v1.environment.export", "v1.endpoint.transformation.simulate"];
/// The first ends its own token; the second waits for an engine, and has a test of its own. What readers of pipes say is about a
/// receipt or a place, which is its own key: said twice, it is the same. Lines of a stream have event ids. A module's text, grant or
/// version, given twice, is what it was. A source is run by the server, where that is tried.
const APART: [&str; 17] = [
    "v1.authentication.logout",
    "v1.message.test-attempt",
    "v1.message.stream",
    "v1.message.poller.consumer-seek",
    "v1.pipe.receive",
    "v1.pipe.ack",
    "v1.pipe.nack",
    "v1.pipe.extend",
    "v1.pipe.consumer.commit",
    "v1.pipe.consumer.seek",
    "v1.pipe.ticket",
    "v1.pipe.secevent-poll",
    "v1.plugin.add",
    "v1.plugin.grant",
    "v1.plugin.rollback",
    "v1.plugin.test",
    "v1.source.run",
];

#[tokio::test]
async fn every_post_is_done_once_for_one_key() {
    let document = bellwire_api::openapi_document();
    let mut done = 0;
    for (name, operation) in operations(&document) {
        let Some(template) = name.strip_prefix("POST ") else { continue };
        let id = operation["operationId"].as_str().unwrap();
        if APART.contains(&id) {
            continue;
        }
        let furnished = Furnished::new().await;
        let (world, path, body) = (&furnished.world, furnished.path(template), sample(id));
        let first = world.post_once(&path, "k", body.clone()).await;
        assert!(first.status.is_success(), "{id}: {}", first.text);
        let second = world.post_once(&path, "k", body.clone()).await;
        assert_eq!((second.status, &second.text), (first.status, &first.text), "{id}");
        let mut other = body;
        other["unknown"] = json!(true);
        let third = world.post_once(&path, "k", other).await;
        if ONLY_LOOK.contains(&id) {
            assert_eq!(third.status, first.status, "{id}");
        } else {
            assert_eq!(third.expect(409)["code"], "idempotency_key_reused", "{id}");
            done += 1;
        }
    }
    assert!(done > 12, "{done}");
}
