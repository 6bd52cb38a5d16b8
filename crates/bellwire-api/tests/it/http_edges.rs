//! HTTP itself: methods, slashes, CORS, unknown paths, errors of ours.

use crate::world::World;
use axum::body::Body;
use bellwire_api::backend::AcceptError;
use http::{Method, Request};
use serde_json::json;

#[tokio::test]
async fn trailing_slashes_do_not_matter() {
    let world = World::new();
    world.application("a").await;
    for path in ["/api/v1/app/", "/api/v1/app//", "/api/v1/app/a/", "/api/v1/app/a/msg/?limit=1", "/api/v1/health/"] {
        let answer = world.get(path).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
    }
    world.call(Method::POST, "/api/v1/app/", json!({ "name": "A" }).to_string()).await.expect(201);
    assert_eq!(world.get("/api/v1/app/a/msg/?limit=251").await.status, 422, "the query stays");
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let world = World::new();
    for path in ["/", "/api/v1/nope", "/api/v1/nope/", "/api/v2/app", "/api/v1", "//", "/api/v1/app/a/b/c"] {
        let answer = world.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (404, ""), "{path}");
    }
    let answer = world.call(Method::POST, "/api/v1/health", Body::empty()).await;
    assert_eq!(answer.status, 405);
    let answer = world.delete("/api/v1/app").await;
    assert_eq!(answer.status, 405);
    assert!(answer.headers.contains_key("allow"));
    // Bytes that are no text, in a path.
    assert_eq!(world.get("/api/v1/app/%ff").await.expect(400)["code"], "generic_error");
    // And text that is unusual.
    for path in [
        "/api/v1/app/%00",
        "/api/v1/app/%2e%2e",
        "/api/v1/app/..%2f..%2fetc",
        "/api/v1/app/a%20b",
        "/api/v1/app/%F0%9F%92%A9",
    ] {
        world.get(path).await.expect(404);
    }
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let world = World::new();
    world.application("a").await;
    for path in ["/api/v1/app", "/api/v1/app/a", "/api/v1/app/a/msg", "/api/v1/openapi.json"] {
        let get = world.get(path).await;
        let head = world.call(Method::HEAD, path, Body::empty()).await;
        assert_eq!((head.status, head.text.as_str()), (get.status, ""), "{path}");
    }
    for path in ["/api/v1/health", "/api/v1/health/ping"] {
        assert_eq!(world.call(Method::HEAD, path, Body::empty()).await.status, 204, "{path}");
    }
}

#[tokio::test]
async fn any_page_may_call() {
    let world = World::new();
    let preflight = Request::builder()
        .method(Method::OPTIONS)
        .uri("/api/v1/app/a/endpoint")
        .header("origin", "https://portal.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,idempotency-key");
    let answer = world.send(preflight.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    assert_eq!(answer.headers["access-control-allow-headers"], "authorization,content-type,idempotency-key");
    assert!(answer.headers["access-control-allow-methods"].to_str().unwrap().contains("PATCH"));
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    let answer = world
        .send(world.request(Method::GET, "/api/v1/app").header("origin", "null").body(Body::empty()).unwrap())
        .await;
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    let refused =
        Request::builder().uri("/api/v1/app").header("origin", "https://x.example").body(Body::empty()).unwrap();
    let refused = world.send(refused).await;
    assert_eq!(refused.headers["access-control-allow-origin"], "*", "a page must be able to read why");
}

#[tokio::test]
async fn errors_have_svixs_bodies() {
    let world = World::new();
    let nobody = world.send(Request::builder().uri("/api/v1/app").body(Body::empty()).unwrap()).await;
    assert_eq!(nobody.expect(401), json!({ "code": "authentication_failed", "detail": "Invalid token" }));
    assert_eq!(nobody.headers["www-authenticate"], "Bearer");
    assert_eq!(nobody.headers["content-type"], "application/json");
    let missing = world.get("/api/v1/app/nope").await.expect(404);
    assert_eq!(missing, json!({ "code": "not_found", "detail": "Entity not found" }));
    let invalid = world.post("/api/v1/app", json!({ "name": "" })).await.expect(422);
    let detail = json!([{ "loc": ["body", "name"], "msg": "Application names must be at least one character", "type": "value_error" }]);
    assert_eq!(invalid, json!({ "detail": detail }));
}

#[tokio::test]
async fn what_the_store_refuses_is_told_and_what_breaks_is_not() {
    let world = World::new();
    world.application("a").await;
    let cases = [
        (AcceptError::Busy, 503, "overloaded", true),
        (AcceptError::Full, 507, "storage_full", true),
        (AcceptError::Closed, 503, "shutting_down", true),
        (AcceptError::Failed("/var/lib/secret.db is broken".to_owned()), 500, "", false),
    ];
    for (error, status, code, later) in cases {
        for (path, body) in
            [("/api/v1/app/a/msg", json!({ "eventType": "t", "payload": {} })), ("/api/v1/app", json!({ "name": "N" }))]
        {
            world.kept().refuse = Some(error.clone());
            let answer = world.post(path, body).await;
            assert_eq!(answer.status.as_u16(), status, "{error:?}: {}", answer.text);
            assert_eq!(answer.headers.contains_key("retry-after"), later, "{error:?}");
            match status {
                500 => assert_eq!(answer.text, "{}"),
                _ => assert_eq!(answer.json()["code"], code),
            }
        }
    }
    world.kept().refuse = Some(AcceptError::Full);
    assert_eq!(world.get("/api/v1/health").await.expect(503)["code"], "not_ready");
    assert_eq!(world.get("/api/v1/health/ping").await.status, 204);
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_an_edit() {
    use std::future::Future;
    let world = World::new();
    world.application("a").await;
    let request =
        world.request(Method::PATCH, "/api/v1/app/a").body(Body::from(json!({ "name": "B" }).to_string())).unwrap();
    {
        let mut call = Box::pin(world.send(request));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(call.as_mut().poll(&mut context).is_pending());
        // Here the connection is gone.
    }
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.get("/api/v1/app/a").await.expect(200)["name"], "B");
}

#[tokio::test]
async fn the_document_is_served() {
    let world = World::new();
    for path in ["/openapi.json", "/api/v1/openapi.json"] {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        assert_eq!(world.send(request).await.expect(200), bellwire_api::openapi_document());
    }
}
