//! Looking at messages and attempts in other ways than by their lists, and counting.

use crate::world::{ORGANISATION, World, application_token};
use bellwire_model::FailureClass;
use serde_json::{Value, json};
use std::time::Duration;

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

/// Five messages, of two types, on two channels, a minute apart.
async fn five() -> (World, Vec<String>) {
    let world = World::embedded();
    world.application("acme").await;
    let mut messages = Vec::new();
    for n in 0..5 {
        let body = json!({
            "eventType": if n % 2 == 0 { "even" } else { "odd" },
            "payload": { "n": n },
            "channels": if n < 3 { json!(["low"]) } else { json!(["high", "top"]) },
            "tags": ["all"],
        });
        let out = world.post("/api/v1/app/acme/msg", body).await.expect(202);
        messages.push(out["id"].as_str().unwrap().to_owned());
        world.pass(Duration::from_secs(60));
    }
    (world, messages)
}

#[tokio::test]
async fn a_search_finds_what_the_list_with_the_same_filters_finds() {
    let (world, m) = five().await;
    let search = async |body: Value| world.post("/api/v1/app/acme/msg/search", body).await.expect(200);
    assert_eq!(ids(&search(json!({})).await), [&m[4], &m[3], &m[2], &m[1], &m[0]]);
    assert_eq!(search(json!({})).await["data"][0]["payload"], json!({}));
    assert_eq!(search(json!({ "with_content": true })).await["data"][0]["payload"], json!({ "n": 4 }));
    assert_eq!(ids(&search(json!({ "event_types": ["even"], "channel": "low", "tag": "all" })).await), [&m[2], &m[0]]);
    let first = search(json!({ "limit": 2 })).await;
    assert_eq!((ids(&first), &first["done"]), (vec![&*m[4], &*m[3]], &json!(false)));
    let second = search(json!({ "limit": 2, "iterator": first["iterator"] })).await;
    assert_eq!(ids(&second), [&m[2], &m[1]]);
    assert_eq!(ids(&search(json!({ "before": "2026-01-01T00:01:00Z" })).await), [&m[0]]);
    for (body, loc) in [
        (json!({ "limit": 251 }), "limit"),
        (json!({ "iterator": "app_x" }), "iterator"),
        (json!({ "channel": "a b" }), "channel"),
        (json!({ "tag": "" }), "tag"),
        (json!({ "event_types": ["a b"] }), "event_types"),
    ] {
        let refused = world.post("/api/v1/app/acme/msg/search", body).await.expect(422);
        assert_eq!(refused["detail"][0]["loc"], json!(["body", loc]));
    }
}

#[tokio::test]
async fn the_stream_leads_on_from_where_it_ended() {
    let (world, m) = five().await;
    let read = async |query: &str| world.get(&format!("/api/v1/app/acme/events?{query}")).await.expect(200);
    let first = read("limit=3").await;
    assert_eq!((ids(&first), &first["done"]), (vec![&*m[0], &*m[1], &*m[2]], &json!(false)));
    assert_eq!(first["data"][0]["payload"], json!({ "n": 0 }));
    let second = read(&format!("limit=3&iterator={}", first["iterator"].as_str().unwrap())).await;
    assert_eq!((ids(&second), &second["done"]), (vec![&*m[3], &*m[4]], &json!(true)));
    let end = second["iterator"].as_str().unwrap();
    let nothing = read(&format!("iterator={end}")).await;
    assert_eq!((ids(&nothing), nothing["iterator"].as_str().unwrap() > ""), (vec![], true));
    let sixth = world.message("acme").await;
    let iterator = nothing["iterator"].as_str().unwrap();
    assert_eq!(ids(&read(&format!("iterator={iterator}")).await), [&sixth]);
    assert_eq!(ids(&read("channels=top&channels=other").await), [&m[3], &m[4]]);
    assert_eq!(ids(&read("event_types=odd&after=2026-01-01T00:01:30Z").await), [&m[3]]);
    // What is filtered out is passed all the same.
    let none = read("limit=2&channels=top").await;
    assert_eq!((ids(&none), &none["done"]), (vec![], &json!(false)));
    assert_eq!(
        ids(&read(&format!("limit=2&channels=top&iterator={}", none["iterator"].as_str().unwrap())).await),
        [&m[3]]
    );
    world.get(&format!("/api/v1/app/acme/events?iterator=-{}", m[1])).await.expect(422);
}

#[tokio::test]
async fn the_raw_payload_is_the_text_that_is_sent() {
    let world = World::new();
    world.application("acme").await;
    let sent = r#"{"a" : 1.0,  "a":2}"#;
    let body = format!(r#"{{"eventType":"a","eventId":"one","payload":{sent}}}"#);
    world.call(http::Method::POST, "/api/v1/app/acme/msg", body).await.expect(202);
    assert_eq!(world.get("/api/v1/app/acme/msg/one/raw").await.expect(200), json!({ "payload": sent }));
    world.delete("/api/v1/app/acme/msg/one/content").await.expect(204);
    assert_eq!(world.get("/api/v1/app/acme/msg/one/raw").await.expect(400)["code"], "missing_payload");
    world.get("/api/v1/app/acme/msg/two/raw").await.expect(404);
}

#[tokio::test]
async fn a_precheck_tells_whether_anybody_would_get_it() {
    let world = World::new();
    world.application("acme").await;
    world.post("/api/v1/event-type", json!({ "name": "a", "description": "" })).await.expect(201);
    let active = async |body: Value| {
        world.post("/api/v1/app/acme/msg/precheck/active", body).await.expect(200)["active"].as_bool().unwrap()
    };
    assert!(!active(json!({ "eventType": "a" })).await);
    let only = json!({ "url": "https://example.com", "uid": "one", "eventTypes": ["a"], "channels": ["x"] });
    world.post("/api/v1/app/acme/endpoint", only).await.expect(201);
    assert!(active(json!({ "eventType": "a", "channels": ["x"] })).await);
    assert!(!active(json!({ "eventType": "a" })).await);
    assert!(!active(json!({ "eventType": "b", "channels": ["x"] })).await);
    world.patch("/api/v1/app/acme/endpoint/one", json!({ "disabled": true })).await.expect(200);
    assert!(!active(json!({ "eventType": "a", "channels": ["x"] })).await);
    world.post("/api/v1/app/acme/msg/precheck/active", json!({})).await.expect(422);
}

/// Two endpoints; the first got a failure and a success, the second a success.
async fn attempted() -> (World, String, String, String) {
    let world = World::embedded();
    world.application("acme").await;
    let (one, two) = (world.endpoint("acme").await, world.endpoint("acme").await);
    let message = world.message("acme").await;
    world.attempt(&message, &one, Err(FailureClass::Timeout), b"");
    world.pass(Duration::from_secs(3600));
    world.attempt(&message, &one, Ok(200), b"");
    world.attempt(&message, &two, Ok(204), b"");
    (world, message, one, two)
}

#[tokio::test]
async fn the_older_lists_of_attempts_are_the_newer_ones() {
    let (world, message, one, _) = attempted().await;
    let get = async |path: String| world.get(&format!("/api/v1/app/acme/{path}")).await.expect(200);
    let all = get(format!("attempt/msg/{message}")).await;
    assert_eq!(all["data"].as_array().unwrap().len(), 3);
    assert_eq!(get(format!("msg/{message}/attempt")).await, all);
    let of_one = get(format!("attempt/msg/{message}?endpoint_id={one}")).await;
    assert_eq!(of_one["data"].as_array().unwrap().len(), 2);
    assert_eq!(get(format!("msg/{message}/endpoint/{one}/attempt")).await, of_one);
    assert_eq!(
        get(format!("msg/{message}/attempt?endpoint_id={one}&status=0")).await["data"].as_array().unwrap().len(),
        1
    );
    world.get(&format!("/api/v1/app/acme/msg/{message}/endpoint/other/attempt")).await.expect(404);
}

#[tokio::test]
async fn attempts_are_counted() {
    let (world, _, one, two) = attempted().await;
    let count = async |endpoint: &str, query: &str| {
        world.get(&format!("/api/v1/app/acme/attempt/endpoint/{endpoint}/count?{query}")).await.expect(200)
    };
    assert_eq!(count(&one, "").await, json!({ "count": 2, "approximated": false }));
    assert_eq!(count(&one, "status=2").await["count"], 1);
    assert_eq!(count(&one, "before=2026-01-01T00:30:00Z").await["count"], 1);
    assert_eq!(count(&two, "event_types=other").await["count"], 0);

    let stats = world
        .get("/api/v1/app/acme/stats/attempts?since=2026-01-01T00:00:00Z&until=2026-01-02T00:00:00Z")
        .await
        .expect(200);
    assert_eq!(stats["by_event_type"], json!({ "user.signup": { "success": 2, "failure": 1, "canceled": 0 } }));
    assert_eq!((&stats["total_success"], &stats["total_failure"]), (&json!(2), &json!(1)));
    world.get("/api/v1/app/acme/stats/attempts?since=2026-01-01T00:00:00Z").await.expect(422);
    let long = "/api/v1/app/acme/stats/attempts?since=2026-01-01T00:00:00Z&until=2026-02-01T00:00:00Z";
    assert_eq!(world.get(long).await.expect(400)["code"], "invalid_range");

    let range = "startDate=2026-01-01T00:00:00Z&endDate=2026-01-01T01:59:00Z";
    let series = world.get(&format!("/api/v1/stats/app/acme/attempt?period=OneHour&{range}")).await.expect(200);
    assert_eq!(series["data"], json!({ "successCount": [0, 2], "failureCount": [1, 0], "canceledCount": [0, 0] }));
    let longest = world.get("/api/v1/stats/app/acme/attempt?period=FiveMinutes").await.expect(200);
    assert!(longest["data"]["successCount"].as_array().unwrap().len() <= 8_065);
}

#[tokio::test]
async fn applications_and_endpoints_are_counted_and_left_out_of_lists_by_what_they_have() {
    let world = World::new();
    for (uid, urls) in [
        ("none", vec![]),
        ("play", vec![("https://play.svix.com/in/x/", false)]),
        ("off", vec![("https://example.com", true)]),
        ("on", vec![("https://example.com", false), ("https://example.com/b", true)]),
    ] {
        world.application(uid).await;
        for (url, disabled) in urls {
            let body = json!({ "url": url, "disabled": disabled });
            world.post(&format!("/api/v1/app/{uid}/endpoint"), body).await.expect(201);
        }
    }
    let count = async |query: &str| {
        world.get(&format!("/api/v1/app/stats/count-active?{query}")).await.expect(200)["count"].clone()
    };
    assert_eq!(count("").await, 1);
    assert_eq!(count("exclude_svix_play=false").await, 2);
    assert_eq!(count("exclude_disabled=false").await, 2);
    let endpoints = async |query: &str| world.get(&format!("/api/v1/stats/endpoint/count?{query}")).await.expect(200);
    assert_eq!(endpoints("").await, json!({ "active": 1, "disabled": 2 }));
    assert_eq!(endpoints("exclude_svix_play=false").await, json!({ "active": 2, "disabled": 2 }));
    let uids = async |query: &str| {
        let list = world.get(&format!("/api/v1/app?{query}")).await.expect(200);
        let uids = list["data"].as_array().unwrap().iter().map(|a| a["uid"].as_str().unwrap().to_owned());
        uids.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(uids("exclude_apps_with_no_endpoints=true").await, "play off on");
    assert_eq!(uids("exclude_apps_with_disabled_endpoints=true").await, "none play on");
    assert_eq!(uids("exclude_apps_with_svix_play_endpoints=true&order=descending").await, "on off none");
    assert_eq!(uids("exclude_apps_with_no_endpoints=true&limit=1").await, "play");

    let mut own = World::new();
    let acme = own.application("acme").await;
    own.token = application_token(ORGANISATION, &acme, &[]);
    own.get("/api/v1/app/stats/count-active").await.expect(403);
    own.get("/api/v1/stats/endpoint/count").await.expect(403);
}

#[tokio::test]
async fn attempts_to_a_deleted_endpoint_keep_its_id() {
    let (world, message, one, two) = attempted().await;
    world.delete(&format!("/api/v1/app/acme/endpoint/{one}")).await.expect(204);
    let list = world.get(&format!("/api/v1/app/acme/attempt/msg/{message}")).await.expect(200);
    let mut endpoints: Vec<_> =
        list["data"].as_array().unwrap().iter().map(|a| a["endpointId"].as_str().unwrap()).collect();
    endpoints.sort_unstable();
    let mut expected = vec![&*one, &*one, &*two];
    expected.sort_unstable();
    assert_eq!(endpoints, expected);
    for attempt in list["data"].as_array().unwrap() {
        let path = format!("/api/v1/app/acme/msg/{message}/attempt/{}", attempt["id"].as_str().unwrap());
        assert_eq!(world.get(&path).await.expect(200)["endpointId"], attempt["endpointId"]);
    }
}

#[tokio::test]
async fn the_rate_limit_status_is_the_engines() {
    let world = World::new();
    world.application("acme").await;
    for (uid, rate) in [("free", Value::Null), ("held", json!(1))] {
        let body = json!({ "url": "https://example.com", "uid": uid, "throttleRate": rate });
        world.post("/api/v1/app/acme/endpoint", body).await.expect(201);
    }
    let status =
        async |uid: &str| world.get(&format!("/api/v1/app/acme/endpoint/{uid}/rate-limit-status")).await.expect(200);
    assert_eq!(status("free").await, json!({ "status": "Ok", "throttledSince": null }));
    let held = json!({ "status": "RateLimited", "throttledSince": "2026-01-01T00:00:00.000000Z" });
    assert_eq!(status("held").await, held);
}
