//! Lists: pages both ways, filters, windows.

use crate::world::World;
use bellwire_model::FailureClass;
use serde_json::{Value, json};
use std::time::Duration;

fn ids(page: &Value) -> Vec<String> {
    page["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// Walks a list of `all` forwards and back, two at a time.
async fn walk(world: &World, path: &str, all: &[String]) {
    let and = if path.contains('?') { '&' } else { '?' };
    let mut seen = Vec::new();
    let mut pages = vec![world.get(&format!("{path}{and}limit=2")).await.expect(200)];
    loop {
        let page = pages.last().unwrap();
        seen.extend(ids(page));
        if page["done"] == true {
            break;
        }
        let iterator = page["iterator"].as_str().unwrap();
        let next = world.get(&format!("{path}{and}limit=2&iterator={iterator}")).await.expect(200);
        pages.push(next);
    }
    assert_eq!(seen, all, "{path} forwards");
    for pair in pages.windows(2).rev() {
        let iterator = pair[1]["prevIterator"].as_str().unwrap();
        assert!(iterator.starts_with('-'));
        let back = world.get(&format!("{path}{and}limit=2&iterator={iterator}")).await.expect(200);
        assert_eq!(ids(&back), ids(&pair[0]), "{path} backwards");
    }
    let nothing = world.get(&format!("{path}{and}limit=0")).await.expect(200);
    assert_eq!(nothing, json!({ "data": [], "iterator": null, "done": false }), "{path}");
    let whole = world.get(path).await.expect(200);
    assert_eq!((ids(&whole), &whole["done"]), (all.to_vec(), &json!(true)), "{path}");
}

#[tokio::test]
async fn every_list_pages_both_ways() {
    page_lists(World::new()).await;
    page_lists(World::embedded()).await;
}

async fn page_lists(world: World) {
    let mut apps = Vec::new();
    for n in 0..5 {
        apps.push(world.application(&format!("app{n}")).await);
    }
    walk(&world, "/api/v1/app", &apps).await;
    apps.reverse();
    walk(&world, "/api/v1/app?order=descending", &apps).await;

    let mut endpoints = Vec::new();
    for _ in 0..5 {
        endpoints.push(world.endpoint("app0").await);
    }
    walk(&world, "/api/v1/app/app0/endpoint?order=ascending", &endpoints).await;
    let mut newest_first = endpoints.clone();
    newest_first.reverse();
    walk(&world, "/api/v1/app/app0/endpoint", &newest_first).await;

    let mut messages = Vec::new();
    for _ in 0..5 {
        messages.push(world.message("app0").await);
    }
    walk(&world, &format!("/api/v1/app/app0/msg/{}/endpoint", messages[0]), &endpoints).await;
    messages.reverse();
    walk(&world, "/api/v1/app/app0/msg", &messages).await;
    walk(&world, &format!("/api/v1/app/app0/endpoint/{}/msg", endpoints[0]), &messages).await;

    let mut attempts = Vec::new();
    for _ in 0..5 {
        attempts.push(world.attempt(&messages[0], &endpoints[0], Ok(500), b"no"));
    }
    attempts.reverse();
    walk(&world, &format!("/api/v1/app/app0/attempt/msg/{}", messages[0]), &attempts).await;
    walk(&world, &format!("/api/v1/app/app0/attempt/endpoint/{}", endpoints[0]), &attempts).await;
}

#[tokio::test]
async fn event_types_page_by_name() {
    let world = World::new();
    for name in ["b", "d", "a", "c", "e"] {
        world.post("/api/v1/event-type", json!({ "name": name, "description": "" })).await.expect(201);
    }
    let names = |page: &Value| -> String {
        page["data"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect()
    };
    let page = world.get("/api/v1/event-type?limit=2&order=descending").await.expect(200);
    assert_eq!((names(&page).as_str(), &page["iterator"], &page["done"]), ("ab", &json!("b"), &json!(false)));
    let page = world.get("/api/v1/event-type?limit=2&iterator=b").await.expect(200);
    assert_eq!((names(&page).as_str(), &page["prevIterator"]), ("cd", &json!("-c")));
    let page = world.get("/api/v1/event-type?limit=2&iterator=-c").await.expect(200);
    assert_eq!((names(&page).as_str(), &page["done"]), ("ab", &json!(true)));
}

#[tokio::test]
async fn messages_are_filtered_by_channel_tag_type_and_time() {
    filter_messages(World::new()).await;
    filter_messages(World::embedded()).await;
}

async fn filter_messages(world: World) {
    world.application("a").await;
    for (n, kind) in ["x", "y", "z"].iter().enumerate() {
        world.pass(Duration::from_secs(60));
        let body = json!({ "eventType": kind, "payload": {}, "channels": [format!("c{n}")], "tags": [format!("t{n}")], "eventId": kind });
        world.post("/api/v1/app/a/msg", body).await.expect(202);
    }
    let cases = [
        ("", "zyx"),
        ("?channel=c1", "y"),
        ("?tag=t2", "z"),
        ("?event_types=x", "x"),
        ("?event_types=x,z", "zx"),
        ("?event_types=x&event_types=z", "zx"),
        ("?event_types[]=x&event_types[]=z", "zx"),
        ("?event_types%5B0%5D=x&event_types%5B1%5D=y", "yx"),
        ("?event_types=none", ""),
        ("?before=2026-01-01T00:02:30Z", "yx"),
        ("?before=2026-01-01T00:02:00Z", "x"),
        ("?after=2026-01-01T00:01:30Z", "zy"),
        ("?after=2026-01-01T00:00:30Z&limit=2", "yx"),
        ("?after=2026-01-01T00:01:30Z&before=2026-01-01T00:02:30Z", "y"),
        ("?after=2026-01-01T00:02:30Z&before=2026-01-01T00:01:30Z", ""),
        ("?before=2020-01-01T00:00:00Z", ""),
        ("?after=0001-01-01T00:00:00Z", "zyx"),
        ("?before=9999-12-31T23:59:59Z", "zyx"),
    ];
    for (query, expected) in cases {
        let page = world.get(&format!("/api/v1/app/a/msg{query}")).await.expect(200);
        let found: String = page["data"].as_array().unwrap().iter().map(|m| m["eventType"].as_str().unwrap()).collect();
        assert_eq!(found, expected, "{query}");
    }
    world.pass(Duration::from_secs(91 * 24 * 3600));
    let world = World { token: crate::world::organisation_token_for_ever(), ..world };
    assert_eq!(world.get("/api/v1/app/a/msg").await.expect(200)["data"], json!([]), "90 days");
}

#[tokio::test]
async fn attempts_are_filtered_and_shown() {
    filter_attempts(World::new()).await;
    filter_attempts(World::embedded()).await;
}

async fn filter_attempts(world: World) {
    world.application("a").await;
    let (one, two) = (world.endpoint("a").await, world.endpoint("a").await);
    let message = world.message("a").await;
    let failed = world.attempt(&message, &one, Ok(503), b"\xff\x00");
    let lost = world.attempt(&message, &one, Err(FailureClass::Connect), b"no connection");
    let good = world.attempt(&message, &two, Ok(200), b"thanks");
    let by_message = format!("/api/v1/app/a/attempt/msg/{message}");
    let cases = [
        ("".to_owned(), vec![&good, &lost, &failed]),
        ("?status=0".to_owned(), vec![&good]),
        ("?status=2".to_owned(), vec![&lost, &failed]),
        ("?status_code_class=500".to_owned(), vec![&failed]),
        ("?status_code_class=0".to_owned(), vec![&lost]),
        (format!("?endpoint_id={two}"), vec![&good]),
    ];
    for (query, expected) in cases {
        let page = world.get(&format!("{by_message}{query}")).await.expect(200);
        assert_eq!(ids(&page).iter().collect::<Vec<_>>(), expected, "{query}");
    }
    world.get(&format!("{by_message}?endpoint_id=nope")).await.expect(404);
    let page = world.get(&by_message).await.expect(200);
    assert_eq!(page["data"][2]["response"], "/wA=", "base64 of what is not UTF-8");
    assert_eq!(page["data"][2]["responseStatusCode"], 503);
    let page = world.get(&format!("{by_message}?with_content=false")).await.expect(200);
    assert_eq!(page["data"][0]["response"], "{}");
    // Of a deleted endpoint, too.
    world.delete(&format!("/api/v1/app/a/endpoint/{one}")).await.expect(204);
    assert_eq!(world.get(&by_message).await.expect(200)["data"].as_array().unwrap().len(), 3);
    // One attempt belongs to one message.
    let other = world.message("a").await;
    world.get(&format!("/api/v1/app/a/msg/{message}/attempt/{good}")).await.expect(200);
    world.get(&format!("/api/v1/app/a/msg/{other}/attempt/{good}")).await.expect(404);
    world.get(&format!("/api/v1/app/a/msg/{message}/attempt/nonsense")).await.expect(404);
}
