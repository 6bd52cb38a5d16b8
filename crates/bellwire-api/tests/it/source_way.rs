//! Sources that fetch their messages themselves: what can be set, what is refused, and what is shown.

use crate::world::{ORGANISATION, World};
use bellwire_api::Backend;
use bellwire_model::{OrganisationId, Source, SourceCursor, SourceKey, Way};
use bellwire_store::Change;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const ALL: &str = "/api/v1/source";

async fn world() -> World {
    let world = World::new();
    world.application("acme").await;
    world
}

fn source(world: &World, uid: &str) -> Arc<Source> {
    let organisation = OrganisationId::parse(ORGANISATION).expect("an organisation");
    world.backend.catalogue().read().sources().find(&organisation, uid).cloned().expect("there")
}

fn report() -> Value {
    json!({ "uid": "report", "appId": "acme", "eventType": "report.due",
        "cron": { "schedule": "0 18 L * *", "zone": "Europe/Berlin", "payload": { "until": "{{time}}", "n": 1 } } })
}

fn rows() -> Value {
    json!({ "uid": "rows", "appId": "acme", "outbox": { "dsn": "postgres://u:geheim@db/app", "table": "billing.outbox" } })
}

#[tokio::test]
async fn a_source_without_a_url_is_made_shown_and_changed() {
    let world = world().await;
    let made = world.post(ALL, report()).await.expect(201);
    assert_eq!((&made["way"], &made["eventType"]), (&json!("cron"), &json!("report.due")));
    let cron = json!({ "schedule": "0 18 L * *", "zone": "Europe/Berlin", "payload": { "until": "{{time}}", "n": 1 },
        "missed": "one" });
    assert_eq!(made["cron"], cron);
    for of_requests in ["listenerUrl", "preset", "methods", "dedupe", "answer", "secretCount", "bodyBytesMax", "outbox"]
    {
        assert_eq!(made[of_requests], Value::Null, "{of_requests}");
    }
    world.get("/api/v1/source/report/secret").await.expect(422);
    world.post("/api/v1/source/report/token/rotate", json!({})).await.expect(422);

    let patched = world.patch("/api/v1/source/report", json!({ "name": "Month" })).await.expect(200);
    assert_eq!((&patched["name"], &patched["cron"]), (&json!("Month"), &cron));
    let change = json!({ "cron": { "schedule": "@daily", "missed": "all", "missedMax": 7 } });
    let patched = world.patch("/api/v1/source/report", change).await.expect(200);
    assert_eq!(patched["cron"], json!({ "schedule": "@daily", "zone": "UTC", "missed": "all", "missedMax": 7 }));
    // By requests it is as it always was.
    let http = json!({ "uid": "git", "appId": "acme", "preset": "github", "secrets": ["x"] });
    let made = world.post(ALL, http).await.expect(201);
    assert_eq!((&made["way"], made["listenerUrl"].is_string()), (&json!("http"), true));
    let told = world.get("/api/v1/source/git/state").await.expect(422);
    assert!(told.to_string().contains("others post to this source"), "{told}");
    let told = world.post(ALL, json!({ "appId": "acme", "cron": "@daily" })).await.expect(422);
    let msg = told["detail"][0]["msg"].as_str().expect("text");
    assert!(msg.starts_with("invalid type: string \"@daily\", expected an object at line 1"), "{msg}");
}

#[tokio::test]
async fn a_connection_string_is_not_shown_and_stays() {
    let world = world().await;
    let made = world.post(ALL, rows()).await.expect(201);
    assert!(!made.to_string().contains("geheim"), "{made}");
    let mut outbox = made["outbox"].clone();
    assert_eq!((&outbox["dsn"], &outbox["table"]), (&json!("***"), &json!("billing.outbox")));
    outbox["then"] = json!("delete");
    let patched = world.patch("/api/v1/source/rows", json!({ "outbox": outbox })).await.expect(200);
    assert_eq!((&patched["outbox"]["dsn"], &patched["outbox"]["then"]), (&json!("***"), &json!("delete")));
    let kept = source(&world, "rows");
    let Way::Outbox(outbox) = &kept.way else { panic!("an outbox: {:?}", kept.way) };
    let bellwire_model::Database::Dsn(dsn) = &outbox.database else { panic!("a DSN: {:?}", outbox.database) };
    assert_eq!(dsn.reveal(), "postgres://u:geheim@db/app");
}

#[tokio::test]
async fn what_has_no_effect_or_no_meaning_is_refused() {
    let world = world().await;
    world.post(ALL, report()).await.expect(201);
    let with = |base: Value, field: &str, value: Value| {
        let mut body = base;
        body["uid"] = Value::Null;
        body[field] = value;
        body
    };
    let cron = |change: Value| {
        let mut body = with(report(), "name", json!("x"));
        for (name, value) in change.as_object().expect("an object") {
            body["cron"][name] = value.clone();
        }
        body
    };
    let outbox = |value: Value| with(rows(), "outbox", value);
    let queue = |password: &str| json!({ "appId": "acme", "way": "queue", "queue": { "broker": "nats", "password": password } });
    for (body, place) in [
        (with(report(), "secrets", json!(["x"])), "secrets"),
        (with(report(), "preset", json!("github")), "preset"),
        (with(report(), "path", json!("/x")), "path"),
        (with(report(), "methods", json!(["POST"])), "methods"),
        (with(report(), "dedupe", json!({})), "dedupe"),
        (with(report(), "answer", json!({})), "answer"),
        (with(report(), "outbox", json!({ "connection": "x" })), "outbox"),
        (with(report(), "way", json!("http")), "cron"),
        (json!({ "appId": "acme", "way": "cron" }), "cron"),
        (json!({ "appId": "acme", "way": "http" }), "preset"),
        (cron(json!({ "missedMax": 3 })), "cron.missedMax"),
        (cron(json!({ "missed": "all", "missedMax": 0 })), "cron.missedMax"),
        (cron(json!({ "schedule": "x".repeat(300) })), "cron.schedule"),
        (outbox(json!({})), "outbox"),
        (outbox(json!({ "connection": "a", "dsn": "b" })), "outbox"),
        (outbox(json!({ "dsn": "***" })), "outbox.dsn"),
        (queue("***"), "queue.password"),
        (outbox(json!({ "connection": "a", "table": "x; DROP TABLE x" })), "outbox.table"),
        (outbox(json!({ "connection": "a", "columns": { "id": "a\"b" } })), "outbox.columns.id"),
        (outbox(json!({ "connection": "a", "pollSeconds": 0 })), "outbox.pollSeconds"),
        (outbox(json!({ "connection": "a", "notify": "a b" })), "outbox.notify"),
    ] {
        let told = world.post(ALL, body.clone()).await.expect(422);
        let places: Vec<String> = told["detail"]
            .as_array()
            .expect("faults")
            .iter()
            .map(|fault| {
                let place = fault["loc"].as_array().expect("a place").iter().skip(1);
                place.map(|part| part.as_str().expect("text")).collect::<Vec<_>>().join(".")
            })
            .collect();
        assert_eq!(places[0], place, "{body}: {told}");
    }
    let told = world.patch("/api/v1/source/report", json!({ "outbox": { "connection": "a" } })).await.expect(422);
    assert_eq!(told["detail"][0]["loc"], json!(["body", "way"]));
}

#[tokio::test]
async fn a_schedule_counts_from_when_it_was_set_or_enabled() {
    let world = world().await;
    world.post(ALL, report()).await.expect(201);
    let since = |world: &World| match &source(world, "report").way {
        Way::Cron(cron) => cron.since,
        other => panic!("a schedule: {other:?}"),
    };
    let first = since(&world);
    world.pass(Duration::from_secs(60));
    world.patch("/api/v1/source/report", json!({ "name": "Month" })).await.expect(200);
    let mut again = report();
    again["cron"]["missed"] = json!("skip");
    world.put("/api/v1/source/report", again).await.expect(200);
    assert_eq!(since(&world), first, "nothing that matters has changed");
    world.patch("/api/v1/source/report", json!({ "disabled": true })).await.expect(200);
    world.pass(Duration::from_secs(60));
    world.patch("/api/v1/source/report", json!({ "disabled": false })).await.expect(200);
    let enabled = since(&world);
    assert!(enabled > first, "what passed while it was disabled is not made up for");
    world.pass(Duration::from_secs(60));
    world.patch("/api/v1/source/report", json!({ "cron": { "schedule": "@hourly" } })).await.expect(200);
    assert!(since(&world) > enabled);
}

#[tokio::test]
async fn its_state_can_be_seen() {
    let world = world().await;
    let made = world.post(ALL, report()).await.expect(201);
    let state = world.get("/api/v1/source/report/state").await.expect(200);
    assert_eq!(state, json!({ "way": "cron", "running": false, "messageCount": 0, "failureCount": 0 }));
    let key: SourceKey = source(&world, "report").key;
    let cursor = SourceCursor { source: key, position: r#"{"through":7}"#.into(), moved_at: world.backend.now() };
    world.backend.change(vec![Change::PutSourceCursor(cursor)]).await.expect("kept");
    let path = format!("/api/v1/source/{}/state", made["id"].as_str().expect("an id"));
    let state = world.get(&path).await.expect(200);
    assert_eq!(state["position"], json!({ "through": 7 }));
    assert!(state["positionAt"].is_string());
}
