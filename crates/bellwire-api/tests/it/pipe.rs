//! Pipes: reading a log by cursor, named consumers, deliveries handed out for a while, Svix's poller, and streams.

use crate::world::{ORGANISATION, World, application_token, organisation_token_for_ever};
use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt;

pub(crate) const PIPE: &str = "/api/v1/app/acme/endpoint/pipe";

/// A world on the real store, with a pipe.
pub(crate) async fn world() -> World {
    world_with(json!({})).await
}

pub(crate) async fn world_with(settings: Value) -> World {
    let world = World::embedded();
    world.application("acme").await;
    let body = json!({ "uid": "pipe", "kind": "pipe", "pipe": settings });
    world.post("/api/v1/app/acme/endpoint", body).await.expect(201);
    world
}

impl World {
    pub(crate) async fn send_n(&self, range: std::ops::Range<u32>) {
        for n in range {
            let body = json!({ "eventType": "a.b", "payload": { "n": n } });
            self.post("/api/v1/app/acme/msg", body).await.expect(202);
        }
    }

    pub(crate) async fn pull(&self, query: &str) -> Value {
        self.get(&format!("{PIPE}/pull?{query}")).await.expect(200)
    }

    pub(crate) async fn receive(&self, body: Value) -> Vec<Value> {
        let out = self.post(&format!("{PIPE}/pull/receive"), body).await.expect(200);
        out["data"].as_array().expect("a list").clone()
    }

    pub(crate) async fn verb(&self, verb: &str, body: Value) -> Vec<Value> {
        let out = self.post(&format!("{PIPE}/pull/{verb}"), body).await.expect(200);
        out["data"].as_array().expect("a list").iter().map(|answer| answer["status"].clone()).collect()
    }

    pub(crate) async fn statuses(&self) -> Vec<Value> {
        let out = self.get(&format!("{PIPE}/msg?limit=250")).await.expect(200);
        let mut all: Vec<_> = out["data"].as_array().expect("a list").iter().map(|m| m["status"].clone()).collect();
        all.reverse();
        all
    }
}

pub(crate) fn numbers(data: &[Value]) -> Vec<u64> {
    data.iter().map(|event| event["payload"]["n"].as_u64().expect("a number")).collect()
}

pub(crate) fn page(out: &Value) -> (Vec<u64>, String, bool) {
    let data = out["data"].as_array().expect("a list");
    (numbers(data), out["cursor"].as_str().expect("a cursor").to_owned(), out["hasMore"] == true)
}

pub(crate) fn receipts(leased: &[Value]) -> Vec<&str> {
    leased.iter().map(|one| one["receipt"].as_str().expect("a receipt")).collect()
}

#[tokio::test]
async fn a_cursor_reads_on_and_can_be_used_again() {
    let world = world().await;
    world.send_n(0..7).await;
    let first = world.pull("limit=3").await;
    let (data, cursor, more) = page(&first);
    assert_eq!((data, more), (vec![0, 1, 2], true));
    assert_eq!(first["lag"]["events"], 4);
    let again = page(&world.pull(&format!("limit=3&cursor={cursor}")).await);
    assert_eq!(again, page(&world.pull(&format!("limit=3&cursor={cursor}")).await));
    assert_eq!(again.0, [3, 4, 5]);
    let (data, end, more) = page(&world.pull(&format!("cursor={}", again.1)).await);
    assert_eq!((data, more), (vec![6], false));
    // Of any message in a page one can go on.
    let of_first = first["data"][0]["cursor"].as_str().expect("a cursor");
    assert_eq!(page(&world.pull(&format!("limit=1&cursor={of_first}")).await).0, [1]);
    // At the end there is nothing, and then there is.
    assert_eq!(page(&world.pull(&format!("cursor={end}")).await).0, [0; 0]);
    world.send_n(7..8).await;
    assert_eq!(page(&world.pull(&format!("cursor={end}")).await).0, [7]);
    assert_eq!(page(&world.pull("from=now").await).0, [0; 0]);
    // Reading changes nothing.
    assert!(world.statuses().await.iter().all(|status| *status == 1));
    // Filters.
    assert_eq!(page(&world.pull("event_types=other").await).0, [0; 0]);
    assert_eq!(page(&world.pull("event_types=other,a.b&limit=1").await).0, [0]);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let world = world().await;
    world.post("/api/v1/app/acme/endpoint", json!({ "uid": "push", "url": "https://example.com" })).await.expect(201);
    let cursor = world.pull("").await["cursor"].as_str().expect("a cursor").to_owned();
    for (query, field) in [
        ("cursor=nonsense", "cursor"),
        (&format!("cursor={cursor}&from=now"), "from"),
        ("from=yesterday", "from"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("wait=31", "wait"),
        ("channel=%20", "channel"),
        ("event_types=%20", "event_types"),
    ] {
        let refused = world.get(&format!("{PIPE}/pull?{query}")).await.expect(422);
        assert_eq!(refused["detail"][0]["loc"], json!(["query", field]), "{query}");
    }
    // A push endpoint can be read, but nobody takes its deliveries; and a cursor belongs to one endpoint.
    let push = "/api/v1/app/acme/endpoint/push";
    world.get(&format!("{push}/pull")).await.expect(200);
    world.get(&format!("{push}/pull?cursor={cursor}")).await.expect(422);
    for path in ["receive", "consumer/me/seek"] {
        let refused = world.post(&format!("{push}/pull/{path}"), json!({ "from": "now" })).await.expect(409);
        assert_eq!(refused["code"], "not_a_pipe");
    }
    for (verb, body) in [
        ("receive", json!({ "limit": 0 })),
        ("receive", json!({ "lease": 0 })),
        ("receive", json!({ "wait": 31 })),
        ("ack", json!({})),
        ("ack", json!({ "receipts": ["x"], "result": { "status": 99 } })),
        ("nack", json!({ "receipts": ["x"], "delay": 604_801 })),
        ("extend", json!({ "receipts": ["x"], "lease": 43_201 })),
    ] {
        world.post(&format!("{PIPE}/pull/{verb}"), body.clone()).await.expect(422);
    }
    for settings in [json!({ "lease": 0 }), json!({ "maxInFlight": 0 }), json!({ "orderingKey": "x" })] {
        world.patch(PIPE, json!({ "pipe": settings })).await.expect(422);
    }
}

#[tokio::test]
async fn a_reader_who_waits_is_woken_by_the_next_message() {
    let world = world().await;
    let began = std::time::Instant::now();
    let query = format!("{PIPE}/pull?wait=30");
    let (page_of, ()) = tokio::join!(world.get(&query), async {
        tokio::task::yield_now().await;
        world.send_n(0..1).await;
    });
    assert_eq!(page(&page_of.expect(200)).0, [0]);
    let body = json!({ "wait": 30 });
    let first = world.receive(json!({})).await;
    assert_eq!(first.len(), 1);
    let (leased, ()) = tokio::join!(world.receive(body), async {
        tokio::task::yield_now().await;
        world.send_n(1..2).await;
    });
    assert_eq!(numbers(&leased), [1]);
    assert!(began.elapsed() < Duration::from_secs(20), "nobody waited to the end");
}

#[tokio::test]
async fn a_reader_who_waits_is_woken_by_what_another_refuses() {
    let world = world().await;
    world.send_n(0..1).await;
    let taken = world.receive(json!({})).await;
    let began = std::time::Instant::now();
    let (leased, ()) = tokio::join!(world.receive(json!({ "wait": 30 })), async {
        tokio::task::yield_now().await;
        assert_eq!(world.verb("nack", json!({ "receipts": receipts(&taken), "delay": 0 })).await, [200]);
    });
    assert_eq!(numbers(&leased), [0]);
    assert!(began.elapsed() < Duration::from_secs(20), "nobody waited to the end");
}

#[tokio::test]
async fn a_reader_who_waits_gets_what_is_next_in_order_when_it_is_due() {
    for settings in [json!({ "pipe": { "orderingKey": "/customer" } }), json!({ "fifo": true })] {
        let world = world().await;
        world.patch(PIPE, settings).await.expect(200);
        for n in 0..3 {
            let body = json!({ "eventType": "a.b", "payload": { "n": n, "customer": 1 } });
            world.post("/api/v1/app/acme/msg", body).await.expect(202);
        }
        let first = world.receive(json!({})).await;
        world.verb("nack", json!({ "receipts": receipts(&first), "delay": 1 })).await;
        let began = std::time::Instant::now();
        let (leased, ()) = tokio::join!(world.receive(json!({ "wait": 30 })), async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            world.pass(Duration::from_secs(2));
        });
        assert_eq!(numbers(&leased), [0]);
        assert!(began.elapsed() < Duration::from_secs(20), "nobody waited to the end");
    }
}

#[tokio::test]
async fn what_was_taken_is_acknowledged_refused_or_comes_again() {
    let world = world_with(json!({ "lease": 10, "maxAttempts": 3 })).await;
    world.send_n(0..4).await;
    let first = world.receive(json!({ "limit": 2 })).await;
    assert_eq!(numbers(&first), [0, 1]);
    assert_eq!(first[0]["attempt"], 1);
    assert!(first[0]["headers"]["webhook-signature"].as_str().expect("signed").starts_with("v1,"));
    // Two readers never have the same.
    let second = world.receive(json!({})).await;
    assert_eq!(numbers(&second), [2, 3]);
    assert!(world.receive(json!({})).await.is_empty());
    let (first, second) = (receipts(&first), receipts(&second));
    // Acknowledged, twice; one beside it that was made up does not matter.
    for _ in 0..2 {
        let answers = world.verb("ack", json!({ "receipts": [first[0], "made-up", first[0]] })).await;
        assert_eq!(answers, [200, 409, 200]);
    }
    let result = json!({ "status": 500, "body": "no", "durationMs": 12 });
    assert_eq!(world.verb("nack", json!({ "receipts": [first[1]], "delay": 60, "result": result })).await, [200]);
    assert_eq!(world.verb("nack", json!({ "receipts": [second[0]], "dead": true, "reason": "poison" })).await, [200]);
    assert_eq!(world.statuses().await, [0, 3, 2, 1]);
    // The last one is kept longer, then forgotten about.
    assert_eq!(world.verb("extend", json!({ "receipts": [second[1]], "lease": 30 })).await, [200]);
    world.pass(Duration::from_secs(20));
    assert!(world.receive(json!({})).await.is_empty(), "it was extended");
    world.pass(Duration::from_secs(20));
    let again = world.receive(json!({})).await;
    assert_eq!((numbers(&again), again[0]["attempt"].as_u64()), (vec![3], Some(2)));
    assert_eq!(world.verb("ack", json!({ "receipts": [second[1]] })).await, [409], "the old receipt opens nothing");
    assert_eq!(world.verb("extend", json!({ "receipts": [second[1]] })).await, [409]);
    // The refused one comes after its delay, and after three times it is over.
    world.pass(Duration::from_secs(21));
    let refused = world.receive(json!({})).await;
    assert_eq!(numbers(&refused), [1, 3]);
    world.pass(Duration::from_secs(11));
    let last = world.receive(json!({})).await;
    assert_eq!((numbers(&last), last[0]["attempt"].as_u64()), (vec![1], Some(3)));
    world.pass(Duration::from_secs(11));
    assert!(world.receive(json!({})).await.is_empty());
    assert_eq!(world.statuses().await, [0, 2, 2, 2]);
    let attempts = world.get("/api/v1/app/acme/attempt/endpoint/pipe?limit=250&with_content=true").await.expect(200);
    let attempts = attempts["data"].as_array().expect("a list");
    let seen: Vec<_> = attempts.iter().map(|attempt| attempt["responseStatusCode"].clone()).collect();
    assert!(attempts.iter().all(|attempt| attempt["url"] == "pipe:"), "nothing was called: {attempts:?}");
    assert!(seen.contains(&json!(200)) && seen.contains(&json!(500)) && seen.contains(&json!(503)), "{seen:?}");
}

#[tokio::test]
async fn a_wall_clock_that_jumps_ends_no_lease_and_keeps_none() {
    let world = world_with(json!({ "lease": 10 })).await;
    world.send_n(0..1).await;
    let first = world.receive(json!({})).await;
    for hours in [1, 24 * 365 * 10, -1, -24 * 365 * 10] {
        world.set_wall_ahead(hours * 3600);
        assert!(world.receive(json!({})).await.is_empty(), "{hours} hours: it is still out");
    }
    assert_eq!(world.verb("extend", json!({ "receipts": receipts(&first), "lease": 10 })).await, [200]);
    world.pass(Duration::from_secs(9));
    assert!(world.receive(json!({})).await.is_empty());
    world.pass(Duration::from_secs(2));
    assert_eq!(numbers(&world.receive(json!({})).await), [0], "its ten seconds are over, whatever the wall clock says");
}

#[tokio::test]
async fn no_more_are_out_than_may_be() {
    let world = world_with(json!({ "maxInFlight": 3 })).await;
    world.send_n(0..5).await;
    let three = world.receive(json!({})).await;
    assert_eq!(numbers(&three), [0, 1, 2]);
    assert!(world.receive(json!({})).await.is_empty());
    world.verb("ack", json!({ "receipts": [receipts(&three)[1]] })).await;
    assert_eq!(numbers(&world.receive(json!({})).await), [3]);
}

#[tokio::test]
async fn deliveries_with_one_key_are_handed_out_one_after_the_other() {
    let world = world_with(json!({ "orderingKey": "/customer" })).await;
    for (n, customer) in [(0, Some("a")), (1, Some("a")), (2, Some("b")), (3, None), (4, Some("b")), (5, None)] {
        let body = json!({ "eventType": "a.b", "payload": { "n": n, "customer": customer } });
        let mut body = body;
        if customer.is_none() {
            body["payload"].as_object_mut().expect("an object").remove("customer");
        }
        world.post("/api/v1/app/acme/msg", body).await.expect(202);
    }
    let first = world.receive(json!({})).await;
    assert_eq!(numbers(&first), [0, 2, 3, 5]);
    assert!(world.receive(json!({})).await.is_empty());
    // Refused, the first of a customer still goes before the second.
    world.verb("nack", json!({ "receipts": [receipts(&first)[0]], "delay": 60 })).await;
    world.verb("ack", json!({ "receipts": [receipts(&first)[1]] })).await;
    assert_eq!(numbers(&world.receive(json!({})).await), [4]);
    world.pass(Duration::from_secs(61));
    assert!(numbers(&world.receive(json!({})).await).starts_with(&[0]));
    // All of them, one at a time.
    world.patch(PIPE, json!({ "fifo": true, "pipe": {} })).await.expect(200);
    world.pass(Duration::from_secs(60));
    assert_eq!(numbers(&world.receive(json!({})).await), [0]);
    assert!(world.receive(json!({})).await.is_empty());
}

#[tokio::test]
async fn an_endpoint_that_becomes_fifo_hands_nothing_out_while_somebody_has_something() {
    let world = world().await;
    world.send_n(0..4).await;
    let taken = world.receive(json!({ "limit": 2 })).await;
    assert_eq!(numbers(&taken), [0, 1]);
    world.patch(PIPE, json!({ "fifo": true })).await.expect(200);
    assert!(world.receive(json!({ "limit": 2 })).await.is_empty(), "2 would overtake 0 and 1");
    world.verb("ack", json!({ "receipts": receipts(&taken) })).await;
    for n in 2..4 {
        let taken = world.receive(json!({ "limit": 2 })).await;
        assert_eq!(numbers(&taken), [n]);
        world.verb("ack", json!({ "receipts": receipts(&taken) })).await;
    }
}

#[tokio::test]
async fn a_key_of_which_many_wait_holds_no_other_up_and_stays_in_order() {
    let world = world_with(json!({ "orderingKey": "/customer" })).await;
    let send = async |n: u32, customer: &str| {
        let body = json!({ "eventType": "a.b", "payload": { "n": n, "customer": customer } });
        world.post("/api/v1/app/acme/msg", body).await.expect(202);
    };
    for n in 0..1_100 {
        send(n, "many").await;
    }
    let take = async || world.receive(json!({ "limit": 1 })).await;
    let first = take().await;
    world.verb("nack", json!({ "receipts": receipts(&first), "delay": 600 })).await;
    send(1_100, "other").await;
    let other = take().await;
    assert_eq!((numbers(&first), numbers(&other)), (vec![0], vec![1_100]));
    world.verb("ack", json!({ "receipts": receipts(&other) })).await;
    // What comes meanwhile comes behind what was there, however the first of them ends.
    send(1_101, "many").await;
    assert!(take().await.is_empty());
    world.pass(Duration::from_secs(600));
    for n in [0, 1, 2] {
        let next = take().await;
        assert_eq!(numbers(&next), [n]);
        send(2_000, "many").await;
        let (verb, body) = match n {
            1 => ("nack", json!({ "receipts": receipts(&next), "dead": true })),
            _ => ("ack", json!({ "receipts": receipts(&next) })),
        };
        world.verb(verb, body).await;
    }
    let (_, cursor, _) = page(&world.pull("limit=6").await);
    world.post(&format!("{PIPE}/pull/consumer/me/commit"), json!({ "cursor": cursor })).await.expect(200);
    assert_eq!(numbers(&take().await), [6], "three to five were read past");
}

#[tokio::test]
async fn a_pipe_is_pushed_to_again_and_nothing_is_lost_on_the_way() {
    let world = world().await;
    world.send_n(0..3).await;
    let leased = world.receive(json!({ "limit": 2 })).await;
    world.verb("ack", json!({ "receipts": [receipts(&leased)[0]] })).await;
    world.patch(PIPE, json!({ "kind": "push", "url": "https://example.com" })).await.expect(200);
    world.post(&format!("{PIPE}/pull/ack"), json!({ "receipts": [receipts(&leased)[1]] })).await.expect(409);
    world.patch(PIPE, json!({ "kind": "pipe" })).await.expect(200);
    assert_eq!(world.statuses().await, [0, 1, 1]);
}

#[tokio::test]
async fn a_consumer_goes_forward_and_what_it_has_read_is_delivered() {
    let world = world().await;
    world.send_n(0..5).await;
    let (_, cursor, _) = page(&world.pull("limit=3").await);
    let one = format!("{PIPE}/pull/consumer/reports");
    let out = world.post(&format!("{one}/commit"), json!({ "cursor": cursor })).await.expect(200);
    assert_eq!((&out["name"], &out["cursor"]), (&json!("reports"), &json!(cursor)));
    assert_eq!(world.statuses().await, [0, 0, 0, 1, 1]);
    // Back only when it is told to.
    let (_, first, _) = page(&world.pull("limit=1").await);
    let out = world.post(&format!("{one}/commit"), json!({ "cursor": first })).await.expect(200);
    assert_eq!(out["cursor"], json!(cursor));
    let out = world.post(&format!("{one}/seek"), json!({ "from": "earliest" })).await.expect(200);
    assert_ne!(out["cursor"], json!(cursor));
    let all = world.get(&format!("{PIPE}/pull/consumer")).await.expect(200);
    assert_eq!(all["data"].as_array().map(Vec::len), Some(1));
    world.delete(&one).await.expect(204);
    let all = world.get(&format!("{PIPE}/pull/consumer")).await.expect(200);
    assert_eq!(all["data"], json!([]));
    for name in ["a%20b", &"x".repeat(129)] {
        let path = format!("{PIPE}/pull/consumer/{name}/commit");
        world.post(&path, json!({ "cursor": cursor })).await.expect(422);
    }
}

#[tokio::test]
async fn svix_s_poller_reads_the_same_log() {
    let world = world().await;
    world.send_n(0..5).await;
    let poll = "/api/v1/app/acme/poller/pipe";
    let out = world.get(&format!("{poll}?limit=2")).await.expect(200);
    assert_eq!(numbers(out["data"].as_array().expect("a list")), [0, 1]);
    assert_eq!(out["done"], false);
    assert!(out["data"][0]["headers"]["webhook-id"].is_string());
    let iterator = out["iterator"].as_str().expect("an iterator");
    let out = world.get(&format!("{poll}?iterator={iterator}")).await.expect(200);
    assert_eq!(numbers(out["data"].as_array().expect("a list")), [2, 3, 4]);
    assert_eq!(out["done"], true);
    // A consumer that comes back with an iterator has read what was before it.
    let consumer = format!("{poll}/consumer/me");
    let first = world.get(&format!("{consumer}?limit=3")).await.expect(200);
    assert_eq!(world.statuses().await, [1, 1, 1, 1, 1], "that it was sent does not say that it was read");
    let iterator = first["iterator"].as_str().expect("an iterator").to_owned();
    assert_eq!(first, world.get(&format!("{consumer}?limit=3")).await.expect(200));
    let second = world.get(&format!("{consumer}?iterator={iterator}&limit=1")).await.expect(200);
    assert_eq!(numbers(second["data"].as_array().expect("a list")), [3]);
    assert_eq!(world.statuses().await, [0, 0, 0, 1, 1]);
    // Without one it begins where it is.
    let without = world.get(&format!("{consumer}?limit=1")).await.expect(200);
    assert_eq!(without["data"], second["data"]);
    let later = second["iterator"].as_str().expect("an iterator");
    world.get(&format!("{consumer}?iterator={later}")).await.expect(200);
    let stale = world.get(&format!("{consumer}?iterator={iterator}")).await.expect(409);
    assert_eq!(stale["code"], "iterator_is_stale");
    let seek = json!({ "after": "2020-01-01T00:00:00Z" });
    let sought = world.post(&format!("{consumer}/seek"), seek).await.expect(200);
    let from = sought["iterator"].as_str().expect("an iterator");
    let again = world.get(&format!("{consumer}?iterator={from}&limit=1")).await.expect(200);
    assert_eq!(numbers(again["data"].as_array().expect("a list")), [0]);
    world.get(&format!("{poll}?limit=251")).await.expect(422);
}

#[tokio::test]
async fn a_greedy_reader_gets_its_rate() {
    let world = world().await;
    world.patch(PIPE, json!({ "throttleRate": 3 })).await.expect(200);
    world.send_n(0..10).await;
    let (first, cursor, more) = page(&world.pull("").await);
    assert_eq!((first, more), (vec![0, 1, 2], true));
    // Nothing is left for this second; nobody is refused.
    let (none, same, more) = page(&world.pull(&format!("cursor={cursor}")).await);
    assert_eq!((none, &same, more), (vec![], &cursor, true));
    assert!(world.receive(json!({})).await.is_empty(), "one allowance for one reader, however it reads");
    world.pass(Duration::from_millis(1_001));
    assert_eq!(page(&world.pull(&format!("cursor={cursor}")).await).0, [3, 4, 5]);
}

#[tokio::test]
async fn another_application_s_token_finds_nothing() {
    let world = world().await;
    world.send_n(0..1).await;
    let other = world.application("other").await;
    let token = application_token(ORGANISATION, &other, &[]);
    for (method, path) in
        [(Method::GET, "/pull"), (Method::GET, "/stream"), (Method::POST, "/pull/receive"), (Method::POST, "/pull/ack")]
    {
        let request = Request::builder()
            .method(method)
            .uri(format!("{PIPE}{path}"))
            .header("authorization", format!("Bearer {token}"))
            .body(Body::from("{\"receipts\":[\"x\"]}"))
            .expect("a request");
        world.send(request).await.expect(404);
    }
}

/// A stream that is open.
pub(crate) struct Stream {
    body: Body,
    text: String,
}

impl Stream {
    pub(crate) async fn open(world: &World, query: &str, headers: &[(&str, &str)]) -> (http::response::Parts, Stream) {
        let mut request = world.request(Method::GET, &format!("{PIPE}/stream?{query}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer =
            world.router.clone().oneshot(request.body(Body::empty()).expect("a request")).await.expect("answers");
        let (parts, body) = answer.into_parts();
        (parts, Stream { body, text: String::new() })
    }

    /// Reads until there are so many events of this name, for no longer than anything should take.
    pub(crate) async fn until(&mut self, event: &str, count: usize) -> Vec<(String, Value)> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let events: Vec<_> = self
                .text
                .split("\n\n")
                .filter_map(|event_text| {
                    let line = |name: &str| event_text.lines().find_map(|line| line.strip_prefix(name));
                    (line("event: ")? == event).then(|| {
                        let data = serde_json::from_str(line("data: ").expect("data")).expect("JSON");
                        (line("id: ").unwrap_or_default().to_owned(), data)
                    })
                })
                .collect();
            if events.len() >= count {
                return events;
            }
            let frame = tokio::time::timeout_at(deadline, self.body.frame()).await.expect("it comes in time");
            let frame = frame.expect("the stream goes on").expect("a frame");
            self.text.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("UTF-8"));
        }
    }
}

#[tokio::test]
async fn a_stream_goes_on_and_is_resumed_without_a_gap() {
    let world = world().await;
    world.send_n(0..3).await;
    let (head, mut stream) = Stream::open(&world, "", &[]).await;
    assert_eq!(head.headers["content-type"], "text/event-stream");
    assert_eq!(head.headers["x-accel-buffering"], "no");
    let events = stream.until("a.b", 3).await;
    assert!(stream.text.starts_with("retry: "));
    world.send_n(3..6).await;
    let all = stream.until("a.b", 6).await;
    assert_eq!(numbers(&all.iter().map(|(_, data)| data.clone()).collect::<Vec<_>>()), [0, 1, 2, 3, 4, 5]);
    drop(stream);
    // As a browser comes again: the header counts, not what was in the URL at first.
    let resumed = [("last-event-id", events[1].0.as_str())];
    let (_, mut stream) = Stream::open(&world, "from=now", &resumed).await;
    let rest = stream.until("a.b", 4).await;
    assert_eq!(numbers(&rest.iter().map(|(_, data)| data.clone()).collect::<Vec<_>>()), [2, 3, 4, 5]);
    // The process ends.
    world.backend.close_pipes();
    let last = stream.until("reconnect", 1).await;
    let cursor = last[0].1["cursor"].as_str().expect("a cursor").to_owned();
    assert!(stream.body.frame().await.is_none(), "and it is over");
    assert_eq!(page(&world.pull(&format!("cursor={cursor}")).await).0, [0; 0]);
}

#[tokio::test]
async fn an_event_type_is_not_taken_for_something_of_the_stream_itself() {
    let world = world().await;
    for event_type in ["error", "lag", "open", "reconnect", "message"] {
        let body = json!({ "eventType": event_type, "payload": { "n": 1 } });
        world.post("/api/v1/app/acme/msg", body).await.expect(202);
    }
    let (_, mut stream) = Stream::open(&world, "", &[]).await;
    let messages = stream.until("message", 5).await;
    let types: Vec<_> = messages.iter().map(|(_, data)| data["eventType"].clone()).collect();
    assert_eq!(types, ["error", "lag", "open", "reconnect", "message"]);
    world.backend.close_pipes();
    let last = stream.until("reconnect", 1).await;
    assert!(last[0].1["cursor"].is_string(), "{last:?}");
    let (_, mut group) = Stream::open(&world, "mode=group", &[]).await;
    group.until("message", 5).await;
}

#[tokio::test]
async fn lines_of_json_are_a_stream_too() {
    let world = world().await;
    let pretty = "{\"eventType\":\"a.b\",\"payload\":{\n  \"n\": 7\n}}";
    world.call(Method::POST, "/api/v1/app/acme/msg", pretty.to_owned()).await.expect(202);
    let (head, mut stream) = Stream::open(&world, "", &[("accept", "application/x-ndjson")]).await;
    assert_eq!(head.headers["content-type"], "application/x-ndjson");
    while !stream.text.contains("\"n\"") {
        let frame = stream.body.frame().await.expect("it goes on").expect("a frame");
        stream.text.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("UTF-8"));
    }
    let line = stream.text.lines().find(|line| !line.is_empty()).expect("a line");
    let event: Value = serde_json::from_str(line).expect("one line of JSON");
    assert_eq!((&event["payload"]["n"], event["cursor"].is_string()), (&json!(7), true));
}

#[tokio::test]
async fn a_durable_stream_begins_where_its_consumer_is() {
    let world = world().await;
    world.send_n(0..4).await;
    let (_, cursor, _) = page(&world.pull("limit=2").await);
    let commit = format!("{PIPE}/pull/consumer/me/commit");
    world.post(&commit, json!({ "cursor": cursor })).await.expect(200);
    let (_, mut stream) = Stream::open(&world, "mode=durable&consumer=me", &[]).await;
    let events = stream.until("a.b", 2).await;
    assert_eq!(events[0].1["payload"]["n"], 2);
    let (head, _) = Stream::open(&world, "mode=durable", &[]).await;
    assert_eq!(head.status, 422);
    let (head, _) = Stream::open(&world, "consumer=me", &[]).await;
    assert_eq!(head.status, 422);
}

#[tokio::test]
async fn a_ticket_opens_one_stream_for_a_while() {
    let world = world().await;
    world.send_n(0..1).await;
    world.post("/api/v1/app/acme/endpoint", json!({ "uid": "other", "kind": "pipe" })).await.expect(201);
    let out = world.post(&format!("{PIPE}/ticket"), json!({})).await.expect(201);
    let ticket = out["ticket"].as_str().expect("a ticket").to_owned();
    world.backend.close_pipes();
    let open =
        async |path: String| world.send(Request::builder().uri(path).body(Body::empty()).expect("a request")).await;
    // As often as a browser comes again.
    for _ in 0..2 {
        let answer = open(format!("{PIPE}/stream?ticket={ticket}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.text.contains("\"n\":0"));
    }
    open(format!("/api/v1/app/acme/endpoint/other/stream?ticket={ticket}")).await.expect(404);
    open(format!("{PIPE}/pull?ticket={ticket}")).await.expect(401);
    open(format!("{PIPE}/stream?ticket=x{ticket}")).await.expect(401);
    world.pass(Duration::from_secs(61));
    open(format!("{PIPE}/stream?ticket={ticket}")).await.expect(401);
    world.post(&format!("{PIPE}/ticket"), json!({ "seconds": 3601 })).await.expect(422);
}

#[tokio::test]
async fn messages_come_in_line_by_line_and_each_is_answered() {
    let world = world().await;
    let line = |n: u32| format!("{{\"eventType\":\"a.b\",\"eventId\":\"e{n}\",\"payload\":{{\"n\":{n}}}}}");
    let body =
        [line(0), String::new(), "nonsense".to_owned(), line(1), line(0), "{\"payload\":{}}".to_owned(), line(2)];
    let answer = world.call(Method::POST, "/api/v1/app/acme/msg/stream", body.join("\n")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answers: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let statuses: Vec<_> = answers.iter().map(|one| one["status"].as_u64().unwrap_or(202)).collect();
    assert_eq!([statuses[1], statuses[2], statuses[4], statuses[5]], [422, 202, 422, 202]);
    assert!(
        matches!(statuses[..], [202, _, _, 409, ..] | [409, _, _, 202, ..]),
        "one event id, one message: {statuses:?}"
    );
    assert!(answers[2]["id"].as_str().expect("an id").starts_with("msg_"));
    let mut there = page(&world.pull("").await).0;
    there.sort_unstable();
    assert_eq!(there, [0, 1, 2]);
}

#[tokio::test]
async fn a_line_that_is_too_long_is_refused_and_disturbs_no_other() {
    let world = world().await;
    let line = |n: u32| format!("{{\"eventType\":\"a.b\",\"payload\":{{\"n\":{n}}}}}\n");
    let long = |bytes: usize| format!("{{\"eventType\":\"a.b\",\"payload\":{{\"x\":\"{}\"}}}}", "x".repeat(bytes));
    // The last one has no end.
    let lines =
        [line(0), long(3 << 20), "\n".to_owned(), line(1), long(9 << 20), "\n".to_owned(), line(2), long(5 << 20)]
            .concat();
    let parts = lines.as_bytes().chunks(100_000).map(|part| Ok::<_, std::io::Error>(Bytes::copy_from_slice(part)));
    let body = Body::from_stream(futures_util::stream::iter(parts.collect::<Vec<_>>()));
    let answer = world.call(Method::POST, "/api/v1/app/acme/msg/stream", body).await;
    let answers: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let statuses: Vec<_> = answers.iter().map(|one| one["status"].as_u64().unwrap_or(202)).collect();
    assert_eq!(statuses, [202, 413, 202, 413, 202, 413], "{}", answer.text);
    assert_eq!(answers[1]["code"], "payload_too_large");
    assert_eq!(page(&world.pull("").await).0, [0, 1, 2]);
}

#[tokio::test]
async fn a_stream_ends_when_its_endpoint_does() {
    let world = world().await;
    world.send_n(0..1).await;
    let (_, mut stream) = Stream::open(&world, "", &[]).await;
    stream.until("a.b", 1).await;
    world.delete(PIPE).await.expect(204);
    let told = stream.until("error", 1).await;
    assert_eq!(told[0].1["code"], "not_found");
    assert!(stream.body.frame().await.is_none());
}

#[tokio::test]
async fn no_consumer_is_ahead_of_what_was_accepted() {
    let world = world().await;
    let seek = format!("{PIPE}/pull/consumer/me/seek");
    world.post(&seek, json!({ "from": "2099-01-01T00:00:00Z" })).await.expect(200);
    world.send_n(0..2).await;
    assert_eq!(world.statuses().await, [1, 1], "nobody has read them");
    let page = world.get("/api/v1/app/acme/poller/pipe/consumer/me").await.expect(200);
    assert_eq!(numbers(page["data"].as_array().expect("a list")), [0, 1]);
}

#[tokio::test]
async fn every_consumer_has_a_rate_of_its_own() {
    let world = world().await;
    world.patch(PIPE, json!({ "throttleRate": 3 })).await.expect(200);
    world.send_n(0..10).await;
    let poll = async |name: &str| {
        let out = world.get(&format!("/api/v1/app/acme/poller/pipe/consumer/{name}")).await.expect(200);
        numbers(out["data"].as_array().expect("a list"))
    };
    assert_eq!((poll("one").await, poll("one").await), (vec![0, 1, 2], vec![]));
    assert_eq!(poll("two").await, [0, 1, 2], "what one has used up is not another's");
    assert_eq!(page(&world.pull("").await).0, [0, 1, 2], "nor that of who has no name");
    world.pass(Duration::from_millis(1_001));
    assert_eq!(poll("one").await, [0, 1, 2]);
}

#[tokio::test]
async fn who_takes_much_gets_what_there_is_room_for() {
    let world = world().await;
    let large = "x".repeat(900 << 10);
    for n in 0..8 {
        let body = json!({ "eventType": "a.b", "payload": { "n": n, "large": large } });
        world.post("/api/v1/app/acme/msg", body).await.expect(202);
    }
    let first = world.receive(json!({ "limit": 1_000 })).await;
    assert_eq!(numbers(&first), [0, 1, 2, 3, 4], "four megabytes, and the one that goes beyond");
    let (data, cursor, more) = page(&world.pull("limit=1000").await);
    assert_eq!((data, more), (vec![0, 1, 2, 3, 4], true));
    assert_eq!(page(&world.pull(&format!("cursor={cursor}")).await).0, [5, 6, 7]);
    assert_eq!(numbers(&world.receive(json!({ "limit": 1_000 })).await), [5, 6, 7]);
    // In the order of a key there is more to look at, to find what may go.
    world.patch(PIPE, json!({ "pipe": { "orderingKey": "/n" } })).await.expect(200);
    world.pass(Duration::from_secs(60));
    assert_eq!(numbers(&world.receive(json!({ "limit": 1_000 })).await), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn a_cursor_whose_messages_are_gone_is_told_where_to_go_on() {
    let world = World { token: organisation_token_for_ever(), ..world().await };
    world.send_n(0..4).await;
    let (first, behind, _) = page(&world.pull("limit=1").await);
    assert_eq!(first, [0]);
    world.pass(Duration::from_secs(100 * 24 * 3600));
    world.clean_up();
    world.send_n(4..6).await;

    let gone = world.get(&format!("{PIPE}/pull?cursor={behind}")).await.expect(410);
    assert_eq!(gone["code"], "cursor_expired");
    let detail = gone["detail"].as_str().expect("a text");
    let oldest = detail.split("The oldest cursor is ").nth(1).and_then(|rest| rest.split(';').next()).expect(detail);
    assert_eq!(page(&world.pull(&format!("cursor={oldest}")).await).0, [4, 5]);
    assert_eq!(page(&world.pull("from=earliest").await).0, [4, 5]);
}
