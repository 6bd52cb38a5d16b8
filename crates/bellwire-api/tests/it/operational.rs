//! Endpoints of operational webhooks, and the application behind them.

use crate::world::{ORGANISATION, OTHER_ORGANISATION, World, application_token, organisation_token};
use bellwire_store::Change;
use serde_json::{Value, json};

const ALL: &str = "/api/v1/operational-webhook/endpoint";

#[tokio::test]
async fn an_operational_endpoint_lives() {
    live(World::new()).await;
}

#[tokio::test]
async fn an_operational_endpoint_lives_on_the_embedded_store() {
    live(World::embedded()).await;
}

async fn live(world: World) {
    assert_eq!(world.get(ALL).await.expect(200), json!({ "data": [], "done": true, "iterator": null }));
    let one = format!("{ALL}/alerts");
    world.get(&one).await.expect(404);

    let body = json!({
        "url": "https://example.com/ops", "uid": "alerts", "eventTypes": ["message.attempt.exhausted", "endpoint.disabled"],
        "headers": { "X-A": "1", "X-Api-Key": "s" }, "throttleRate": 7, "metadata": { "team": "on call" },
    });
    let made = world.post_once(ALL, "k", body.clone()).await.expect(201);
    assert_eq!(made, world.post_once(ALL, "k", body).await.expect(201));
    assert_eq!(made["eventTypes"], json!(["message.attempt.exhausted", "endpoint.disabled"]));
    assert_eq!(
        (&made["throttleRate"], &made["disabled"], &made["description"]),
        (&json!(7), &json!(false), &json!(""))
    );
    assert_eq!(made["metadata"], json!({ "team": "on call" }));
    assert!(made.get("channels").is_none() && made.get("version").is_none());
    assert_eq!(world.get(&one).await.expect(200), made);
    let id = made["id"].as_str().unwrap();
    assert_eq!(world.get(&format!("{ALL}/{id}")).await.expect(200), made);
    assert_eq!(world.get(ALL).await.expect(200)["data"], json!([made]));

    // Replaced: secret and headers stay, what is left out is forgotten.
    let secret = world.get(&format!("{one}/secret")).await.expect(200);
    assert!(secret["key"].as_str().unwrap().starts_with("whsec_"));
    let replaced = world.put(&one, json!({ "url": "https://example.com/new", "disabled": true })).await.expect(200);
    assert_eq!((&replaced["url"], &replaced["uid"]), (&json!("https://example.com/new"), &json!("alerts")));
    assert_eq!((&replaced["disabled"], &replaced["eventTypes"]), (&json!(true), &Value::Null));
    assert_eq!(world.get(&format!("{one}/secret")).await.expect(200), secret);
    let headers = world.get(&format!("{one}/headers")).await.expect(200);
    assert_eq!(headers, json!({ "headers": { "X-A": "1" }, "sensitive": ["X-Api-Key"] }));
    world.put(&format!("{one}/headers"), json!({ "headers": { "X-B": "2" } })).await.expect(204);
    let headers = world.get(&format!("{one}/headers")).await.expect(200);
    assert_eq!(headers, json!({ "headers": { "X-B": "2" }, "sensitive": [] }));
    let rotated = world.post(&format!("{one}/secret/rotate"), json!({})).await.expect(200);
    assert_ne!(rotated["key"], secret["key"]);
    assert_eq!(world.get(&format!("{one}/secret")).await.expect(200), rotated);

    // A PUT makes what is not there, in the same application.
    let second = world.put(&format!("{ALL}/second"), json!({ "url": "https://example.com/2" })).await.expect(200);
    assert_eq!(second["uid"], "second");
    let unfiltered = json!({ "url": "https://example.com/2", "eventTypes": [] });
    assert_eq!(world.put(&format!("{ALL}/second"), unfiltered).await.expect(200)["eventTypes"], Value::Null);
    world.put(&format!("{ALL}/second"), json!({ "url": "https://example.com/2", "uid": "alerts" })).await.expect(409);
    world.post(ALL, json!({ "url": "https://example.com/2", "uid": "alerts" })).await.expect(409);
    assert_eq!(world.get(ALL).await.expect(200)["data"].as_array().unwrap().len(), 2);
    let applications = world.kept().changes.iter().filter(|c| matches!(c, Change::PutApplication(_))).count();
    assert_eq!(applications, 1);
    world.delete(&one).await.expect(204);
    world.get(&one).await.expect(404);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let world = World::new();
    let check = async |body: Value, loc: &str, text: &str| {
        let answer = world.post(ALL, body.clone()).await.expect(422);
        let found = answer["detail"].as_array().unwrap().iter().any(|fault| {
            fault["loc"].as_array().unwrap().last().unwrap() == loc && fault["msg"].as_str().unwrap().contains(text)
        });
        assert!(found, "{body}: {answer}");
    };
    check(json!({}), "url", "required").await;
    check(json!({ "url": "https://127.0.0.1" }), "url", "not allowed").await;
    let unknown = json!({ "url": "https://a.example", "eventTypes": ["endpoint.disabled", "invoice.paid"] });
    check(unknown, "eventTypes", "don't exist: invoice.paid; there are endpoint.created").await;
    check(json!({ "url": "https://a.example", "secret": "short" }), "secret", "").await;
    check(json!({ "url": "https://a.example", "uid": "~operational" }), "uid", "may only hold").await;
    check(json!({ "url": "https://a.example", "headers": { "host": "b" } }), "host", "").await;
    assert!(world.kept().changes.is_empty());
}

#[tokio::test]
async fn the_application_behind_them_is_in_no_list_and_only_read() {
    let mut world = World::new();
    world.application("acme").await;
    world.post(ALL, json!({ "url": "https://example.com/ops", "uid": "alerts" })).await.expect(201);
    let listed = world.get("/api/v1/app").await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed}");

    // Its organisation sees what becomes of its messages.
    let app = "/api/v1/app/~operational";
    let id = world.get(app).await.expect(200)["id"].as_str().unwrap().to_owned();
    assert_eq!(world.get(&format!("{app}/msg")).await.expect(200)["data"], json!([]));
    assert_eq!(world.get(&format!("{app}/attempt/endpoint/alerts")).await.expect(200)["data"], json!([]));
    assert_eq!(world.get(&format!("{app}/endpoint/alerts")).await.expect(200)["uid"], "alerts");
    let since = json!({ "since": "2025-12-31T00:00:00Z" });
    world.post(&format!("{app}/endpoint/alerts/recover"), since).await.expect(202);

    // And does nothing else to it.
    let before = world.kept().changes.len();
    let endpoint = json!({ "url": "https://example.com" });
    let message = json!({ "eventType": "a.b", "payload": {} });
    for app in [app, &format!("/api/v1/app/{id}")] {
        world.delete(app).await.expect(404);
        world.patch(app, json!({ "name": "B" })).await.expect(404);
        world.post(&format!("{app}/endpoint"), endpoint.clone()).await.expect(404);
        world.patch(&format!("{app}/endpoint/alerts"), json!({ "channels": ["a"] })).await.expect(404);
        world.delete(&format!("{app}/endpoint/alerts")).await.expect(404);
        world.post(&format!("{app}/msg"), message.clone()).await.expect(404);
    }
    world.put(app, json!({ "name": "B" })).await.expect(422);
    world.post("/api/v1/app", json!({ "name": "B", "uid": "~operational" })).await.expect(422);
    assert_eq!(world.kept().changes.len(), before);

    // Nobody else sees it.
    world.token = application_token(ORGANISATION, &id, &[]);
    world.get(app).await.expect(404);
    world.get(&format!("/api/v1/app/{id}/msg")).await.expect(404);
    world.get(ALL).await.expect(403);
    world.token = organisation_token(OTHER_ORGANISATION);
    world.get(app).await.expect(404);
    assert_eq!(world.get(ALL).await.expect(200)["data"], json!([]));
}
