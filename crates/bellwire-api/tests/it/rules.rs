//! Every rule about what a body or a query may hold, as a table: what is sent, and where the fault is said to be.

use crate::world::World;
use http::Method;
use serde_json::{Value, json};

async fn world() -> World {
    let world = World::new();
    world.application("acme").await;
    let body = json!({ "url": "https://example.com/hook", "uid": "main" });
    world.post("/api/v1/app/acme/endpoint", body).await.expect(201);
    world.post("/api/v1/event-type", json!({ "name": "a.b", "description": "" })).await.expect(201);
    world.post("/api/v1/event-type", json!({ "name": "old", "description": "", "archived": true })).await.expect(201);
    world
}

/// With `value` at `field` of a body that is otherwise good, the fault is at `loc`; without one, it is accepted.
#[track_caller]
fn check(case: &str, answer: &crate::world::Answered, loc: &[&str]) {
    if loc.is_empty() {
        assert!(answer.status.is_success(), "{case}: {}", answer.text);
        return;
    }
    assert_eq!(answer.status, 422, "{case}: {}", answer.text);
    let faults = answer.json();
    let fault = &faults["detail"][0];
    assert_eq!(fault["loc"], json!(loc), "{case}: {}", answer.text);
    assert!(fault["msg"].as_str().is_some_and(|msg| msg.len() > 10), "{case}: {}", answer.text);
    assert!(fault["type"].is_string(), "{case}: {}", answer.text);
}

async fn table(method: Method, path: &str, good: Value, cases: Vec<(&str, Value, Vec<&str>)>) {
    for (field, value, loc) in cases {
        let world = world().await;
        let mut body = good.clone();
        if value == json!("ABSENT") {
            body.as_object_mut().unwrap().remove(field);
        } else {
            body[field] = value;
        }
        let answer = world.call(method.clone(), path, body.to_string()).await;
        let before = body.to_string();
        check(&format!("{method} {path} {}", &before[..before.len().min(300)]), &answer, &loc);
    }
}

fn long(count: usize) -> Value {
    json!("a".repeat(count))
}

fn many(count: usize) -> Value {
    json!((0..count).map(|n| format!("c{n}")).collect::<Vec<_>>())
}

fn shared_cases(prefix: &str) -> Vec<(&'static str, Value, Vec<&'static str>)> {
    vec![
        ("uid", json!("fine-uid_1.x"), vec![]),
        ("uid", json!(null), vec![]),
        ("uid", long(256), vec![]),
        ("uid", long(257), vec!["body", "uid"]),
        ("uid", json!(""), vec!["body", "uid"]),
        ("uid", json!("$$"), vec!["body", "uid"]),
        ("uid", json!("ü"), vec!["body", "uid"]),
        ("uid", json!(format!("{prefix}mine")), vec!["body", "uid"]),
        ("uid", json!(5), vec!["body", "uid"]),
        ("throttleRate", json!(1), vec![]),
        ("throttleRate", json!(65_535), vec![]),
        ("throttleRate", json!(0), vec!["body", "throttleRate"]),
        ("throttleRate", json!(65_536), vec!["body", "throttleRate"]),
        ("throttleRate", json!(-1), vec!["body", "throttleRate"]),
        ("throttleRate", json!("5"), vec!["body", "throttleRate"]),
        ("rateLimit", json!(0), vec!["body", "rateLimit"]),
        ("rateLimit", json!(7), vec![]),
        ("metadata", json!({ "a": "b" }), vec![]),
        ("metadata", json!({ "a": "x".repeat(4_088) }), vec![]),
        ("metadata", json!({ "a": "x".repeat(4_089) }), vec!["body", "metadata"]),
        ("metadata", json!({ "a": 1 }), vec!["body", "metadata", "a"]),
        ("metadata", json!([]), vec!["body", "metadata"]),
        ("unknown", json!([1, 2]), vec![]),
    ]
}

#[tokio::test]
async fn applications() {
    let mut cases = shared_cases("app_");
    cases.extend([
        ("name", json!("ABSENT"), vec!["body", "name"]),
        ("name", json!(""), vec!["body", "name"]),
        ("name", json!(null), vec!["body", "name"]),
        ("name", json!("a\u{0}b"), vec!["body", "name"]),
        ("name", json!("a\tb ü 漢"), vec![]),
    ]);
    table(Method::POST, "/api/v1/app", json!({ "name": "A" }), cases.clone()).await;
    table(Method::PUT, "/api/v1/app/other", json!({ "name": "A" }), cases).await;
    let patches = shared_cases("app_")
        .into_iter()
        .chain([
            ("name", json!(""), vec!["body", "name"]),
            ("name", json!(null), vec!["body", "name"]),
            ("metadata", json!(null), vec!["body", "metadata"]),
        ])
        .collect();
    table(Method::PATCH, "/api/v1/app/acme", json!({}), patches).await;
}

fn endpoint_cases() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let mut cases = shared_cases("ep_");
    cases.extend([
        ("url", json!("http://example.com"), vec![]),
        ("url", json!("https://user:pass@example.com:8443/a?b=c#d"), vec![]),
        ("url", json!(""), vec!["body", "url"]),
        ("url", json!("example.com"), vec!["body", "url"]),
        ("url", json!("ftp://example.com"), vec!["body", "url"]),
        ("url", json!("javascript:alert(1)"), vec!["body", "url"]),
        ("url", json!("https://"), vec!["body", "url"]),
        ("url", json!("https://exa mple.com"), vec!["body", "url"]),
        ("url", json!("https://example.com/\r\nX: y"), vec!["body", "url"]),
        ("url", json!("https://127.0.0.1/"), vec!["body", "url"]),
        ("url", json!(format!("https://example.com/{}", "a".repeat(65_536))), vec!["body", "url"]),
        ("description", json!("a\u{8}b"), vec!["body", "description"]),
        ("eventTypes", json!(["a.b"]), vec![]),
        ("eventTypes", json!([]), vec![]),
        ("eventTypes", json!(["nope"]), vec!["body", "eventTypes"]),
        ("eventTypes", json!(["old"]), vec!["body", "eventTypes"]),
        ("eventTypes", json!(["a.b", "a.b"]), vec!["body", "eventTypes", "[1]"]),
        ("eventTypes", json!(["a b"]), vec!["body", "eventTypes", "[0]"]),
        ("filterTypes", json!(["a.b"]), vec![]),
        ("filterTypes", json!([]), vec![]),
        ("filterTypes", json!(["nope"]), vec!["body", "filterTypes"]),
        ("channels", json!(["a", "b:c+d"]), vec![]),
        ("channels", many(10), vec![]),
        ("channels", many(11), vec!["body", "channels"]),
        ("channels", json!([]), vec![]),
        ("channels", json!([""]), vec!["body", "channels", "[0]"]),
        ("channels", json!(["a", "a"]), vec!["body", "channels", "[1]"]),
        ("channels", json!(["a".repeat(129)]), vec!["body", "channels", "[0]"]),
        ("channels", json!(["a", 1]), vec!["body", "channels", "[1]"]),
        ("disabled", json!("yes"), vec!["body", "disabled"]),
        ("fifo", json!(true), vec![]),
        ("fifo", json!(1), vec!["body", "fifo"]),
        ("retrySchedule", json!([]), vec![]),
        ("retrySchedule", json!([5, 604_800]), vec![]),
        ("retrySchedule", json!([604_801]), vec!["body", "retrySchedule"]),
        ("retrySchedule", json!([-1]), vec!["body", "retrySchedule", "[0]"]),
        ("retrySchedule", json!(vec![1; 65]), vec!["body", "retrySchedule"]),
    ]);
    cases
}

fn header_cases() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let mut cases = vec![
        ("headers", json!({}), vec![]),
        ("headers", json!({ "X-Custom": "a b\tc" }), vec![]),
        ("headers", json!({ "Authorization": "Bearer x" }), vec![]),
        ("headers", json!({ "X-A": "a".repeat(4_096) }), vec![]),
        ("headers", json!({ "X-A": "a".repeat(4_097) }), vec!["body", "headers", "X-A"]),
        ("headers", json!({ "X-A": "a\r\nb" }), vec!["body", "headers", "X-A"]),
        ("headers", json!({ "X-A": "a\u{0}" }), vec!["body", "headers", "X-A"]),
        ("headers", json!({ "X-A": "é" }), vec!["body", "headers", "X-A"]),
        ("headers", json!({ "X A": "a" }), vec!["body", "headers", "X A"]),
        ("headers", json!({ "": "a" }), vec!["body", "headers", ""]),
        ("headers", json!({ "X-A": "1", "x-a": "2" }), vec!["body", "headers", "x-a"]),
        ("headers", json!({ "X-A": 1 }), vec!["body", "headers", "X-A"]),
        ("headers", json!([]), vec!["body", "headers"]),
        (
            "headers",
            json!((0..65).map(|n| (format!("x-{n}"), json!("v"))).collect::<serde_json::Map<_, _>>()),
            vec!["body", "headers"],
        ),
    ];
    for name in [
        "User-Agent",
        "keep-alive",
        "te",
        "trailers",
        "transfer-encoding",
        "upgrade",
        "proxy-authenticate",
        "proxy-authorization",
        "age",
        "cache-control",
        "clear-site-data",
        "expires",
        "pragma",
        "warning",
        "content-length",
        "Content-Type",
        "content-encoding",
        "content-language",
        "content-location",
        "Host",
        "connection",
        "x-amz-a",
        "x-amzn-a",
        "x-google",
        "x-goog-a",
        "x-gfe",
        "x-azure-a",
        "x-fd-a",
        "x-svix-a",
        "svix-id",
        "Webhook-Signature",
    ] {
        cases.push(("headers", json!({ name: "v" }), vec!["body", "headers", name]));
    }
    cases
}

#[tokio::test]
async fn endpoints() {
    let mut cases = endpoint_cases();
    cases.extend([
        ("url", json!("ABSENT"), vec!["body", "url"]),
        ("secret", json!("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"), vec![]),
        ("secret", json!("C2FVsBQIhrscChlQIMV+b5sSYspob7oD"), vec![]),
        ("secret", json!(null), vec![]),
        ("secret", json!("whsec_c2hvcnQ="), vec!["body", "secret"]),
        ("secret", json!("whsec_?"), vec!["body", "secret"]),
        ("secret", json!("whpk_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"), vec!["body", "secret"]),
        ("version", json!(7), vec![]),
        ("headers", json!(null), vec![]),
    ]);
    cases.extend(header_cases());
    table(Method::POST, "/api/v1/app/acme/endpoint", json!({ "url": "https://example.com" }), cases.clone()).await;
    table(Method::PUT, "/api/v1/app/acme/endpoint/new", json!({ "url": "https://example.com" }), cases).await;
    let mut patches = endpoint_cases();
    patches.extend([
        ("url", json!(null), vec!["body", "url"]),
        ("description", json!(null), vec!["body", "description"]),
        ("eventTypes", json!(null), vec![]),
        ("channels", json!(null), vec![]),
        ("retrySchedule", json!(null), vec![]),
        ("fifo", json!(null), vec!["body", "fifo"]),
    ]);
    table(Method::PATCH, "/api/v1/app/acme/endpoint/main", json!({}), patches).await;
    let headers = "/api/v1/app/acme/endpoint/main/headers";
    let mut cases = header_cases();
    cases.push(("headers", json!("ABSENT"), vec!["body", "headers"]));
    table(Method::PUT, headers, json!({ "headers": {} }), cases.clone()).await;
    cases.push(("headers", json!({ "X-A": null, "Content-Type": null }), vec![]));
    table(Method::PATCH, headers, json!({ "headers": {} }), cases).await;
    let cases = vec![
        ("key", json!(null), vec![]),
        ("key", json!("whsec_c2hvcnQ="), vec!["body", "key"]),
        ("gracePeriodSeconds", json!(0), vec![]),
        ("gracePeriodSeconds", json!(604_800), vec![]),
        ("gracePeriodSeconds", json!(604_801), vec!["body", "gracePeriodSeconds"]),
        ("gracePeriodSeconds", json!(-1), vec!["body", "gracePeriodSeconds"]),
    ];
    table(Method::POST, "/api/v1/app/acme/endpoint/main/secret/rotate", json!({}), cases).await;
    let cases = vec![
        ("since", json!("ABSENT"), vec!["body", "since"]),
        ("since", json!("yesterday"), vec!["body", "since"]),
        ("since", json!("2025-12-18T00:00:00+00:00"), vec![]),
        ("since", json!("2025-12-17T23:54:59Z"), vec!["body", "since"]),
        ("until", json!("2025-12-31T00:00:00Z"), vec![]),
        ("until", json!("2025-12-29T00:00:00Z"), vec!["body", "until"]),
        ("until", json!(null), vec![]),
    ];
    let good = json!({ "since": "2025-12-30T00:00:00Z" });
    table(Method::POST, "/api/v1/app/acme/endpoint/main/recover", good, cases).await;
}

#[tokio::test]
async fn event_types() {
    let both = || {
        vec![
            ("description", json!("a\u{1}"), vec!["body", "description"]),
            ("archived", json!(1), vec!["body", "archived"]),
            ("schemas", json!({ "1": { "type": "object" } }), vec![]),
            ("schemas", json!(null), vec![]),
            ("schemas", json!({ "1": true }), vec!["body", "schemas", "1"]),
            ("schemas", json!([]), vec!["body", "schemas"]),
            ("featureFlag", json!("beta"), vec![]),
            ("featureFlag", json!("no flag"), vec!["body", "featureFlag"]),
            ("featureFlags", json!(["a", "b"]), vec![]),
            ("featureFlags", json!(["a b"]), vec!["body", "featureFlags"]),
            ("groupName", json!("group"), vec![]),
            ("groupName", json!(" "), vec!["body", "groupName"]),
        ]
    };
    let mut cases = both();
    cases.extend([
        ("name", json!("ABSENT"), vec!["body", "name"]),
        ("name", json!("a b"), vec!["body", "name"]),
        ("name", json!(""), vec!["body", "name"]),
        ("name", long(257), vec!["body", "name"]),
        ("description", json!("ABSENT"), vec!["body", "description"]),
    ]);
    table(Method::POST, "/api/v1/event-type", json!({ "name": "new", "description": "" }), cases).await;
    table(Method::PUT, "/api/v1/event-type/a.b", json!({ "description": "" }), both()).await;
    table(Method::PATCH, "/api/v1/event-type/a.b", json!({}), both()).await;
    world().await.put("/api/v1/event-type/a%20b", json!({ "description": "" })).await.expect(422);
}

#[tokio::test]
async fn messages() {
    let cases = vec![
        ("eventType", json!("ABSENT"), vec!["body", "eventType"]),
        ("eventType", json!(""), vec!["body", "eventType"]),
        ("eventType", json!("never-declared"), vec![]),
        ("eventType", json!("old"), vec![]),
        ("eventType", json!("a b"), vec!["body", "eventType"]),
        ("eventType", long(257), vec!["body", "eventType"]),
        ("eventId", json!("e1"), vec![]),
        ("eventId", json!("msg_1"), vec!["body", "eventId"]),
        ("eventId", json!("a/b"), vec!["body", "eventId"]),
        ("payload", json!("ABSENT"), vec!["body", "payload"]),
        ("payload", json!(null), vec!["body", "payload"]),
        ("payload", json!([]), vec!["body", "payload"]),
        ("payload", json!("text"), vec!["body", "payload"]),
        ("payload", json!({}), vec![]),
        ("channels", many(10), vec![]),
        ("channels", many(11), vec!["body", "channels"]),
        ("channels", json!([]), vec![]),
        ("channels", json!(["a b"]), vec!["body", "channels", "[0]"]),
        ("tags", many(5), vec![]),
        ("tags", json!([]), vec![]),
        ("tags", many(6), vec!["body", "tags"]),
        ("tags", json!(["a/b\\c#d"]), vec![]),
        ("tags", json!(["a b"]), vec!["body", "tags", "[0]"]),
        ("payloadRetentionPeriod", json!(1), vec![]),
        ("payloadRetentionPeriod", json!(90), vec![]),
        ("payloadRetentionPeriod", json!(91), vec!["body", "payloadRetentionPeriod"]),
        ("payloadRetentionPeriod", json!(0), vec!["body", "payloadRetentionPeriod"]),
        ("payloadRetentionPeriod", json!(-9_223_372_036_854_775_808i64), vec!["body", "payloadRetentionPeriod"]),
        ("payloadRetentionHours", json!(2_160), vec![]),
        ("payloadRetentionHours", json!(2_161), vec!["body", "payloadRetentionHours"]),
        ("deliverAt", json!("2026-01-01T00:01:00Z"), vec![]),
        ("deliverAt", json!("2026-01-02T00:00:00Z"), vec![]),
        ("deliverAt", json!("2026-01-01T00:00:40Z"), vec!["body", "deliverAt"]),
        ("deliverAt", json!("2026-01-02T00:01:00Z"), vec!["body", "deliverAt"]),
        ("deliverAt", json!("soon"), vec!["body", "deliverAt"]),
        ("transformationsParams", json!({ "free": [1, { "a": 1e308 }] }), vec![]),
        ("transformationsParams", json!({ "rawPayload": "text" }), vec![]),
        ("transformationsParams", json!({ "rawPayload": {} }), vec!["body", "transformationsParams", "rawPayload"]),
        ("transformationsParams", json!({ "headers": ["mine"] }), vec![]),
        (
            "transformationsParams",
            json!({ "headers": { "Content-Type": "text/plain\r\nx: y" } }),
            vec!["body", "transformationsParams", "headers", "content-type"],
        ),
        ("transformationsParams", json!([]), vec!["body", "transformationsParams"]),
        ("application", json!({ "nonsense": 1 }), vec![]),
        ("application", json!({ "name": 1 }), vec!["body", "application", "name"]),
    ];
    table(Method::POST, "/api/v1/app/acme/msg", json!({ "eventType": "a.b", "payload": { "a": 1 } }), cases).await;
    let both = json!({ "eventType": "a", "payload": {}, "payloadRetentionPeriod": 5, "payloadRetentionHours": 5 });
    let answer = world().await.post("/api/v1/app/acme/msg", both).await;
    check("both retentions", &answer, &["body", "payloadRetentionHours"]);
    let old = json!({ "eventType": "a", "data": { "old": true } });
    assert_eq!(world().await.post("/api/v1/app/acme/msg", old).await.expect(202)["payload"], json!({ "old": true }));
}

#[tokio::test]
async fn all_faults_are_told_at_once() {
    let body =
        json!({ "url": "ftp://x", "uid": "ep_x", "channels": ["a b"], "headers": { "Host": "a" }, "throttleRate": 0 });
    let answer = world().await.post("/api/v1/app/acme/endpoint", body).await.expect(422);
    assert_eq!(answer["detail"].as_array().unwrap().len(), 5, "{answer}");
    assert!(answer["detail"].as_array().unwrap().iter().all(|fault| fault["type"] == "value_error"));
}

#[tokio::test]
async fn queries() {
    let world = world().await;
    let cases = [
        ("/api/v1/app?limit=250", 200, ""),
        ("/api/v1/app?limit=251", 422, "limit"),
        ("/api/v1/app?limit=abc", 400, "limit"),
        ("/api/v1/app?limit=-1", 400, "limit"),
        ("/api/v1/app?limit=99999999999999999999", 400, "limit"),
        ("/api/v1/app?iterator=ep_0ujtsYcgvSTl8PAuAdqWYSMnLOv", 422, "iterator"),
        ("/api/v1/app?iterator=app_short", 422, "iterator"),
        ("/api/v1/app?iterator=-", 422, "iterator"),
        ("/api/v1/app?order=descending", 200, ""),
        ("/api/v1/app?order=sideways", 400, "order"),
        ("/api/v1/app?unknown=1", 200, ""),
        ("/api/v1/app/acme/endpoint?iterator=app_0ujtsYcgvSTl8PAuAdqWYSMnLOv", 422, "iterator"),
        ("/api/v1/event-type?iterator=a%20b", 422, "iterator"),
        ("/api/v1/event-type?with_content=maybe", 400, "with_content"),
        ("/api/v1/app/acme/msg?before=yesterday", 400, "before"),
        ("/api/v1/app/acme/msg?channel=a%20b", 422, "channel"),
        ("/api/v1/app/acme/msg?tag=a%20b", 422, "tag"),
        ("/api/v1/app/acme/msg?event_types=a%20b", 422, "event_types"),
        ("/api/v1/app/acme/msg?with_content=1", 400, "with_content"),
        ("/api/v1/app/acme/attempt/endpoint/main?status=5", 400, "status"),
        ("/api/v1/app/acme/attempt/endpoint/main?status=4", 200, ""),
        ("/api/v1/app/acme/attempt/endpoint/main?status_code_class=250", 400, "status_code_class"),
        ("/api/v1/app/acme/attempt/endpoint/main?status_code_class=0", 200, ""),
        ("/api/v1/app/acme/attempt/endpoint/main?iterator=msg_0ujtsYcgvSTl8PAuAdqWYSMnLOv", 422, "iterator"),
        ("/api/v1/app/acme/endpoint/main/stats?since=2025-12-01T00:00:00Z", 400, "28 days"),
        ("/api/v1/app/acme/endpoint/main/stats?since=2026-02-01T00:00:00Z", 400, "since"),
        ("/api/v1/app/acme/endpoint/main/stats?since=2025-12-05T00:00:00Z", 200, ""),
    ];
    for (path, status, text) in cases {
        let answer = world.get(path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text);
        assert!(answer.text.contains(text), "{path}: {}", answer.text);
        match status {
            400 => assert!(answer.json()["code"].is_string(), "{path}: {}", answer.text),
            422 => assert_eq!(answer.json()["detail"][0]["loc"][0], "query", "{path}: {}", answer.text),
            _ => {}
        }
    }
}
