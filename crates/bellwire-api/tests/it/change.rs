//! PUT and PATCH, uids, on-the-fly applications, secrets and headers: what a change leaves behind.

use crate::world::World;
use axum::body::Body;
use bellwire_api::Settings;
use bellwire_model::{DisabledBy, Health};
use bellwire_signature::SecretKind;
use bellwire_store::Change;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn put_creates_and_replaces() {
    let world = World::new();
    let first = world.put("/api/v1/app/acme", json!({ "name": "A", "metadata": { "k": "v" } })).await.expect(201);
    assert_eq!(first["uid"], "acme", "it is found where it was put");
    world.pass(Duration::from_secs(1));
    let second = world.put("/api/v1/app/acme", json!({ "name": "B" })).await.expect(200);
    assert_eq!(second["id"], first["id"]);
    assert_eq!((&second["name"], &second["metadata"]), (&json!("B"), &json!({})));
    assert_eq!(second["createdAt"], first["createdAt"]);
    assert_ne!(second["updatedAt"], first["updatedAt"]);
    // By its id, without a uid: then it has none, as Svix has it.
    let id = first["id"].as_str().unwrap();
    let third = world.put(&format!("/api/v1/app/{id}"), json!({ "name": "C" })).await.expect(200);
    assert!(third.get("uid").is_none());

    world.application("own").await;
    let endpoint = world.put("/api/v1/app/own/endpoint/e", json!({ "url": "https://a.example" })).await.expect(201);
    assert_eq!(endpoint["uid"], "e");
    let body = json!({ "url": "https://b.example", "channels": ["x"] });
    let replaced = world.put("/api/v1/app/own/endpoint/e", body).await.expect(200);
    assert_eq!((&replaced["id"], &replaced["channels"]), (&endpoint["id"], &json!(["x"])));

    let new = world.put("/api/v1/event-type/x.y", json!({ "description": "1" })).await.expect(201);
    let old = world.put("/api/v1/event-type/x.y", json!({ "description": "2" })).await.expect(200);
    assert_eq!((&new["description"], &old["description"]), (&json!("1"), &json!("2")));
}

#[tokio::test]
async fn uids_are_unique_and_free_again() {
    let world = World::new();
    world.application("a").await;
    let b = world.application("b").await;
    let taken = world.post("/api/v1/app", json!({ "name": "A", "uid": "a" })).await;
    assert_eq!(
        taken.expect(409),
        json!({ "code": "conflict", "detail": "An application with that id or uid already exists" })
    );
    world.patch(&format!("/api/v1/app/{b}"), json!({ "uid": "a" })).await.expect(409);
    world.put(&format!("/api/v1/app/{b}"), json!({ "name": "B", "uid": "a" })).await.expect(409);
    world.patch("/api/v1/app/b", json!({ "uid": "b" })).await.expect(200);
    world.delete("/api/v1/app/a").await.expect(204);
    world.application("a").await;

    let endpoint = json!({ "url": "https://example.com", "uid": "e" });
    world.post("/api/v1/app/a/endpoint", endpoint.clone()).await.expect(201);
    world.post("/api/v1/app/a/endpoint", endpoint.clone()).await.expect(409);
    world.post("/api/v1/app/b/endpoint", endpoint).await.expect(201);
}

#[tokio::test]
async fn get_if_exists_gets_or_makes() {
    let world = World::new();
    let made = world.post("/api/v1/app?get_if_exists=true", json!({ "name": "A", "uid": "a" })).await.expect(201);
    let got = world.post("/api/v1/app?get_if_exists=true", json!({ "name": "B", "uid": "a" })).await.expect(200);
    assert_eq!(made, got);
}

#[tokio::test]
async fn patch_keeps_clears_and_sets() {
    let world = World::new();
    world.application("a").await;
    world.post("/api/v1/event-type", json!({ "name": "t", "description": "d", "groupName": "g" })).await.expect(201);
    let full = json!({
        "url": "https://example.com", "uid": "e", "description": "d", "throttleRate": 5, "eventTypes": ["t"],
        "channels": ["c"], "metadata": { "k": "v" }, "fifo": true, "retrySchedule": [1, 2],
    });
    let before = world.post("/api/v1/app/a/endpoint", full).await.expect(201);
    let path = "/api/v1/app/a/endpoint/e";
    assert_eq!(world.patch(path, json!({})).await.expect(200), before, "absent keeps");
    let cleared = json!({ "throttleRate": null, "eventTypes": null, "channels": null, "retrySchedule": null });
    let after = world.patch(path, cleared).await.expect(200);
    assert_eq!(
        (&after["eventTypes"], &after["filterTypes"], &after["channels"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert!(after.get("throttleRate").is_none() && after.get("retrySchedule").is_none());
    assert_eq!((&after["uid"], &after["fifo"], &after["metadata"]), (&json!("e"), &json!(true), &json!({ "k": "v" })));
    let set = json!({ "rateLimit": 9, "filterTypes": ["t"], "channels": ["x"], "uid": null, "fifo": false, "url": "https://b.example" });
    let after = world.patch(path, set).await.expect(200);
    assert_eq!((&after["throttleRate"], &after["eventTypes"]), (&json!(9), &json!(["t"])));
    assert!(after.get("uid").is_none());
    world.get(path).await.expect(404);

    let app = world.patch("/api/v1/app/a", json!({ "throttleRate": 3, "metadata": { "x": "y" } })).await.expect(200);
    assert_eq!((&app["throttleRate"], &app["metadata"]), (&json!(3), &json!({ "x": "y" })));
    let app = world.patch("/api/v1/app/a", json!({ "throttleRate": null })).await.expect(200);
    assert!(app.get("throttleRate").is_none());

    let patched =
        world.patch("/api/v1/event-type/t", json!({ "groupName": null, "featureFlag": "f" })).await.expect(200);
    assert!(patched.get("groupName").is_none());
    assert_eq!((&patched["description"], &patched["featureFlags"]), (&json!("d"), &json!(["f"])));
    let patched = world.patch("/api/v1/event-type/t", json!({ "featureFlags": null })).await.expect(200);
    assert!(patched.get("featureFlag").is_none());
}

#[tokio::test]
async fn enabling_an_endpoint_forgets_its_failures() {
    let world = World::new();
    world.application("a").await;
    world.endpoint("a").await;
    let list = world.get("/api/v1/app/a/endpoint").await.expect(200);
    let path = format!("/api/v1/app/a/endpoint/{}", list["data"][0]["id"].as_str().unwrap());
    use bellwire_api::Backend;
    let stands = |world: &World| {
        let catalogue = world.backend.catalogue().read();
        let endpoint = catalogue.endpoints().next().unwrap();
        (endpoint.disabled, endpoint.health)
    };
    let failing = Health { failing_since: Some(crate::world::START), written: true };
    // As the engine would have left it.
    let fail = |world: &World, disable| {
        let endpoint = world.backend.catalogue().read().endpoints().next().unwrap().key;
        world.backend.catalogue().write().change_endpoint(endpoint, |e| e.found_out(failing.failing_since, disable));
    };
    fail(&world, Some(DisabledBy::Failures));
    assert_eq!(world.get(&path).await.expect(200)["disabled"], true);
    world.patch(&path, json!({ "disabled": true })).await.expect(200);
    world.patch(&path, json!({ "description": "d" })).await.expect(200);
    assert_eq!(stands(&world), (Some(DisabledBy::Failures), failing), "our reason stays");
    assert_eq!(world.patch(&path, json!({ "disabled": false })).await.expect(200)["disabled"], false);
    assert_eq!(stands(&world), (None, Health::default()));
    fail(&world, None);
    world.patch(&path, json!({ "description": "e" })).await.expect(200);
    assert_eq!(stands(&world), (None, failing));
    world.patch(&path, json!({ "disabled": false })).await.expect(200);
    assert_eq!(stands(&world), (None, Health::default()), "its owner says that it works");
    fail(&world, Some(DisabledBy::Receiver));
    world.put(&path, json!({ "url": "https://example.com/" })).await.expect(200);
    assert_eq!(stands(&world), (None, Health::default()), "a whole endpoint says whether it is disabled");
    world.patch(&path, json!({ "disabled": true })).await.expect(200);
    assert_eq!(stands(&world), (Some(DisabledBy::User), Health::default()));
}

#[tokio::test]
async fn old_secrets_sign_until_their_grace_period_ends() {
    let world = World::new();
    world.application("a").await;
    let endpoint = world.endpoint("a").await;
    let path = format!("/api/v1/app/a/endpoint/{endpoint}/secret/rotate");
    for _ in 0..10 {
        world.post(&path, json!({})).await.expect(200);
    }
    let refused = world.post(&path, json!({})).await.expect(400);
    assert_eq!(refused["code"], "limit_reached");
    let key = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    assert_eq!(world.post(&path, json!({ "key": key, "gracePeriodSeconds": 0 })).await.expect(200)["key"], key);
    world.pass(Duration::from_secs(3000));
    world.post(&path, json!({})).await.expect(400);
    let secrets = {
        let kept = world.kept();
        kept.changes
            .iter()
            .rev()
            .find_map(|c| if let Change::PutEndpoint(e) = c { Some(e.secrets.len()) } else { None })
    };
    assert_eq!(secrets, Some(11));
}

#[tokio::test]
async fn a_new_secret_is_of_the_configured_kind() {
    let settings = Settings {
        jwt_secret: crate::world::SECRET.to_vec(),
        default_secret_kind: SecretKind::Ed25519,
        https_only: true,
        ..Settings::default()
    };
    let world = World::with(settings);
    world.application("a").await;
    let endpoint = world.endpoint("a").await;
    let secret = world.get(&format!("/api/v1/app/a/endpoint/{endpoint}/secret")).await;
    assert!(secret.expect(200)["key"].as_str().unwrap().starts_with("whpk_"), "the public half only");
    let refused = world.post("/api/v1/app/a/endpoint", json!({ "url": "http://example.com" })).await.expect(422);
    assert_eq!(refused["detail"][0]["loc"], json!(["body", "url"]));
}

#[tokio::test]
async fn headers_are_replaced_merged_and_withheld() {
    let world = World::new();
    world.application("a").await;
    let endpoint = world.endpoint("a").await;
    let path = format!("/api/v1/app/a/endpoint/{endpoint}/headers");
    let all = json!({ "headers": { "X-B": "1", "Authorization": "secret", "X-A": "2", "x-api-key": "secret" } });
    world.put(&path, all).await.expect(204);
    let answer = world.get(&path).await;
    assert!(!answer.text.contains("secret"), "{}", answer.text);
    assert_eq!(answer.text, r#"{"headers":{"X-B":"1","X-A":"2"},"sensitive":["Authorization","x-api-key"]}"#);
    world
        .patch(&path, json!({ "headers": { "x-b": "3", "X-A": null }, "deleteHeaders": ["X-API-Key"] }))
        .await
        .expect(204);
    let answer = world.get(&path).await.expect(200);
    assert_eq!(answer, json!({ "headers": { "x-b": "3" }, "sensitive": ["Authorization"] }));
    world.put(&path, json!({ "headers": {} })).await.expect(204);
    assert_eq!(world.get(&path).await.expect(200), json!({ "headers": {}, "sensitive": [] }));
}

#[tokio::test]
async fn event_types_are_archived_brought_back_and_removed() {
    let world = World::new();
    let body = json!({ "name": "t", "description": "d", "schemas": { "1": { "a": 1 } } });
    let made = world.post("/api/v1/event-type", body.clone()).await.expect(201);
    assert_eq!(made["schemas"], json!({ "1": { "a": 1 } }));
    assert_eq!(world.post("/api/v1/event-type", body.clone()).await.expect(409)["code"], "event_type_exists");
    world.delete("/api/v1/event-type/t").await.expect(204);
    assert_eq!(world.get("/api/v1/event-type/t").await.expect(200)["archived"], true);
    assert_eq!(world.get("/api/v1/event-type").await.expect(200)["data"], json!([]));
    let all = world.get("/api/v1/event-type?include_archived=true").await.expect(200);
    assert_eq!(all["data"][0]["schemas"], Value::Null, "not asked for");
    let all = world.get("/api/v1/event-type?include_archived=true&with_content=true").await.expect(200);
    assert_eq!(all["data"][0]["schemas"], json!({ "1": { "a": 1 } }));
    let back = world.post("/api/v1/event-type", body).await.expect(201);
    assert_eq!((&back["archived"], &back["createdAt"]), (&json!(false), &made["createdAt"]));
    world.delete("/api/v1/event-type/t?expunge=true").await.expect(204);
    world.get("/api/v1/event-type/t").await.expect(404);
}

#[tokio::test]
async fn a_message_can_bring_its_application() {
    let world = World::new();
    let message = |application: Value| json!({ "eventType": "a", "payload": {}, "application": application });
    world.post("/api/v1/app/new/msg", json!({ "eventType": "a", "payload": {} })).await.expect(404);
    let fault = world.post("/api/v1/app/new/msg", message(json!({ "name": "N" }))).await.expect(422);
    assert_eq!(fault["detail"][0]["type"], "application_uid_missing");
    assert_eq!(fault["detail"][0]["loc"], json!(["body", "application", "uid"]));
    let fault = world.post("/api/v1/app/new/msg", message(json!({ "name": "N", "uid": "old" }))).await.expect(422);
    assert_eq!(fault["detail"][0]["type"], "application_uid_mismatch");
    let fault = world.post("/api/v1/app/new/msg", message(json!({ "name": "", "uid": "new" }))).await.expect(422);
    assert_eq!(fault["detail"][0]["loc"], json!(["body", "application", "name"]));
    for (malformed, place) in [
        (json!("new"), vec!["body", "application"]),
        (json!([]), vec!["body", "application"]),
        (json!({ "uid": "new" }), vec!["body", "application", "name"]),
        (json!({ "name": 5, "uid": "new" }), vec!["body", "application", "name"]),
        (json!({ "name": "N", "uid": "a b" }), vec!["body", "application", "uid"]),
        (json!({ "name": "N", "uid": "new", "throttleRate": "x" }), vec!["body", "application", "throttleRate"]),
        (json!({ "name": "N", "uid": "new", "metadata": [1] }), vec!["body", "application", "metadata"]),
    ] {
        let fault = world.post("/api/v1/app/new/msg", message(malformed.clone())).await.expect(422);
        assert_eq!(fault["detail"][0]["loc"], json!(place), "{malformed}: {fault}");
    }
    world.get("/api/v1/app/new").await.expect(404);
    world.post("/api/v1/app/new/msg", message(json!({ "name": "N", "uid": "new" }))).await.expect(202);
    assert_eq!(world.get("/api/v1/app/new").await.expect(200)["name"], "N");
    world.post("/api/v1/app/new/msg", message(json!({ "name": "ignored", "uid": "old" }))).await.expect(202);
    assert_eq!(world.get("/api/v1/app/new").await.expect(200)["name"], "N");
}

#[tokio::test]
async fn a_message_says_everything_it_was_given() {
    let world = World::new();
    world.application("a").await;
    let body = json!({
        "eventType": "t", "eventId": "e", "payload": { "z": 1, "a": 2 }, "channels": ["c"], "tags": ["g"],
        "deliverAt": "2026-01-01T01:00:00+00:00", "payloadRetentionHours": 2,
    });
    let out = world.post("/api/v1/app/a/msg", body.clone()).await.expect(202);
    assert_eq!(out["deliverAt"], "2026-01-01T01:00:00.000000Z");
    assert_eq!((&out["channels"], &out["tags"]), (&json!(["c"]), &json!(["g"])));
    assert_eq!(world.post("/api/v1/app/a/msg", body).await.expect(409)["code"], "conflict");
    let without = world.get("/api/v1/app/a/msg/e?with_content=false").await.expect(200);
    assert_eq!(without["payload"], json!({}));
    {
        let kept = world.kept();
        let message = kept.messages.values().next().unwrap();
        assert_eq!(message.expires_at, crate::world::START.plus(Duration::from_secs(7200)));
    }
    world.pass(Duration::from_secs(7200 - 3600));
    world.get("/api/v1/app/a/msg/e").await.expect(200);

    let raw = json!({
        "eventType": "t", "eventId": "raw", "payload": {},
        "transformationsParams": { "rawPayload": "<a/>", "headers": { "Content-Type": "text/xml" } },
    });
    let out = world.post("/api/v1/app/a/msg?with_content=true", raw).await.expect(202);
    assert_eq!(out["payload"], json!({ "rawPayload": "<a/>" }));
    let kept = world.kept();
    let message = kept.messages.values().last().unwrap();
    assert_eq!(message.payload.as_deref(), Some(&b"<a/>"[..]));
    assert_eq!(message.content_type.as_str(), "text/xml");
}

#[tokio::test]
async fn a_rotation_answers_as_each_generation_of_libraries_expects() {
    let world = World::new();
    world.application("a").await;
    let endpoint = world.endpoint("a").await;
    let path = format!("/api/v1/app/a/endpoint/{endpoint}/secret/rotate");
    for (agent, status) in [
        ("curl/8.5", 200),
        ("svix-libs/1.99.1/python", 200),
        ("svix-libs/1.99.1/javascript", 200),
        ("svix-libs/2.9.1/java", 200),
        ("svix-libs/1.99.1/java", 204),
        ("svix-libs/1.99.1/kotlin", 204),
        ("svix-libs/1.99.1/csharp", 204),
    ] {
        let request = world.request(Method::POST, &path).header("user-agent", agent).body(Body::from("{}")).unwrap();
        assert_eq!(world.send(request).await.status.as_u16(), status, "{agent}");
    }
}

#[tokio::test]
async fn a_put_does_not_change_a_secret_without_saying_so() {
    let world = World::new();
    world.application("acme").await;
    let (path, secret) = ("/api/v1/app/acme/endpoint/main", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let with = |secret: &str| json!({ "url": "https://example.com/hook", "secret": secret });
    world.put(path, with(secret)).await.expect(201);
    world.put(path, with(secret)).await.expect(200);
    let refused = world.put(path, with("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")).await.expect(422);
    assert_eq!(refused["detail"][0]["loc"], json!(["body", "secret"]));
    assert_eq!(world.get(&format!("{path}/secret")).await.expect(200)["key"], secret);
}

#[tokio::test]
async fn an_event_type_has_a_retry_schedule_that_its_other_edits_leave_alone() {
    let world = World::new();
    let path = "/api/v1/event-type/a.b/retry-schedule";
    world.get(path).await.expect(404);
    world.put(path, json!({ "retrySchedule": null })).await.expect(404);
    world.post("/api/v1/event-type", json!({ "name": "a.b", "description": "" })).await.expect(201);
    assert_eq!(world.get(path).await.expect(200), json!({ "retrySchedule": null }));
    let schedule = json!({ "retrySchedule": [{ "secs": 5, "nanos": 500_000_000 }, { "secs": 60, "nanos": 0 }] });
    assert_eq!(world.put(path, schedule.clone()).await.expect(200), schedule);
    world.put("/api/v1/event-type/a.b", json!({ "description": "other" })).await.expect(200);
    world.patch("/api/v1/event-type/a.b", json!({ "deprecated": true })).await.expect(200);
    assert_eq!(world.get(path).await.expect(200), schedule);
    let none = json!({ "retrySchedule": [] });
    assert_eq!(world.put(path, none.clone()).await.expect(200), none, "an attempt that fails is the last");
    for (bad, place) in [
        (json!([{ "secs": 1, "nanos": 1_000_000_000 }]), vec!["body", "retrySchedule", "0", "nanos"]),
        (json!([{ "secs": 604_801, "nanos": 0 }]), vec!["body", "retrySchedule"]),
        (json!(vec![json!({ "secs": 1, "nanos": 0 }); 65]), vec!["body", "retrySchedule"]),
        (json!("soon"), vec!["body", "retrySchedule"]),
    ] {
        let fault = world.put(path, json!({ "retrySchedule": bad })).await.expect(422);
        assert_eq!(fault["detail"][0]["loc"], json!(place), "{fault}");
    }
    assert_eq!(world.put(path, json!({})).await.expect(200), json!({ "retrySchedule": null }));
    assert_eq!(world.get(path).await.expect(200), json!({ "retrySchedule": null }));
}
