//! Bodies that were written to hurt (S24): each is answered, none is worse than refused, and what is valid stays as it is.

use crate::document::operations;
use crate::world::World;
use axum::body::Body;
use bellwire_api::Settings;
use http::Method;

async fn send(world: &World, payload: impl Into<Body>) -> (u16, String) {
    let answer = world.call(Method::POST, "/api/v1/app/a/msg", payload).await;
    (answer.status.as_u16(), answer.text)
}

async fn world() -> World {
    let world = World::new();
    world.application("a").await;
    world
}

fn message(payload: &str) -> String {
    format!(r#"{{"eventType":"t","payload":{payload}}}"#)
}

#[tokio::test]
async fn too_deep_and_too_wide_are_refused() {
    let world = world().await;
    let (status, text) = send(&world, "[".repeat(1_000_000)).await;
    assert_eq!((status, text.contains("json_too_deep")), (400, true), "{text}");
    let deep = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    assert_eq!(send(&world, message(&deep)).await.0, 400);
    let fits = format!("{}1{}", r#"{"a":"#.repeat(63), "}".repeat(63));
    assert_eq!(send(&world, message(&fits)).await.0, 202);
    let keys: Vec<String> = (0..100_000).map(|n| format!(r#""{n}":1"#)).collect();
    let (status, text) = send(&world, message(&format!("{{{}}}", keys.join(",")))).await;
    assert_eq!((status, text.contains("json_too_wide")), (400, true), "{text}");
}

#[tokio::test]
async fn too_large_is_413() {
    let world = world().await;
    let (status, text) = send(&world, message(&format!(r#"{{"a":"{}"}}"#, "x".repeat(1024 * 1024)))).await;
    assert_eq!((status, text.contains("payload_too_large")), (413, true), "{text}");
    assert_eq!(send(&world, " ".repeat(2 * 1024 * 1024 + 1)).await.0, 413);
    // Without a length, counted as it comes; with one, not even read.
    let stream = futures_body(3 * 1024 * 1024);
    assert_eq!(send(&world, stream).await.0, 413);
    let declared = world.request(Method::POST, "/api/v1/app/a/msg").header("content-length", "3000000");
    assert_eq!(world.send(declared.body(Body::empty()).unwrap()).await.status, 413);
    let settings = Settings { jwt_secret: crate::world::SECRET.to_vec(), payload_bytes_max: 10, ..Settings::default() };
    let small = World::with(settings);
    small.application("a").await;
    assert_eq!(send(&small, message(r#"{"a":"12"}"#)).await.0, 202);
    assert_eq!(send(&small, message(r#"{"a":"123"}"#)).await.0, 413);
}

#[tokio::test]
async fn an_array_is_no_object_for_any_operation() {
    let document = bellwire_api::openapi_document();
    let world = World::new();
    world.application("own").await;
    let endpoint = world.endpoint("own").await;
    for (name, operation) in operations(&document) {
        if operation.get("requestBody").is_none() {
            continue;
        }
        let (method, path) = name.split_once(' ').unwrap();
        let path = path.replace("{app_id}", "own").replace("{endpoint_id}", &endpoint);
        for body in ["[]", " [null, null, null]"] {
            let answer = world.call(method.parse().unwrap(), &path, body).await;
            // A stream says so line by line.
            let refused = matches!(answer.status.as_u16(), 400..=499) || answer.text.contains("\"status\":422");
            assert!(refused, "{name} with {body}: {}", answer.text);
        }
    }
}

fn futures_body(bytes: usize) -> Body {
    struct Slowly(usize);
    impl http_body::Body for Slowly {
        type Data = bytes::Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, std::io::Error>>> {
            let part = self.0.min(65_536);
            self.0 -= part;
            std::task::Poll::Ready((part > 0).then(|| Ok(http_body::Frame::data(vec![b' '; part].into()))))
        }
    }
    Body::new(Slowly(bytes))
}

#[tokio::test]
async fn what_is_valid_stays_as_it_is() {
    let world = world().await;
    let payloads = [
        r#"{"a":1e400,"b":-1E+9999,"c":123456789012345678901234567890.123456789}"#,
        r#"{"a":"\ud800","b":"\udc00\ud800","\ud800":1}"#,
        r#"{"a":1,"a":2,"a":3}"#,
        "{ \"z\" : 1 ,\n\t\"a\":[ ] }",
        r#"{"a":"\u0000\/\b\f","b":"é漢😀"}"#,
        r#"{"$serde_json::private::RawValue":"x","__proto__":{},"constructor":null}"#,
        "{}",
    ];
    for payload in payloads {
        let (status, text) = send(&world, message(payload)).await;
        assert_eq!(status, 202, "{payload}: {text}");
        assert!(text.contains(payload), "{payload}: {text}");
        let kept = world.kept();
        let last = kept.messages.values().last().unwrap();
        assert_eq!(last.payload.as_deref(), Some(payload.as_bytes()));
    }
}

#[tokio::test]
async fn what_is_no_json_is_told_where() {
    let world = world().await;
    let cases: [(&[u8], &str); 18] = [
        (b"", "empty"),
        (b" ", "EOF"),
        (b"null", "null"),
        (b"[]", "t"),
        (b"{", "EOF"),
        (b"{\"eventType\":\"t\",\"payload\":{}", "EOF"),
        (b"{\"eventType\":\"t\",\"payload\":{}}x", "trailing"),
        (b"{\"eventType\":\"t\",\"payload\":{\"a\":\xff\xfe}}", "line 1"),
        (b"{\"eventType\":\"t\",\"payload\":{\"a\":\"\xc3\x28\"}}", "unicode"),
        (b"\xef\xbb\xbf{}", "line 1"),
        (b"{\"eventType\":\"\\ud800\",\"payload\":{}}", "eventType"),
        (b"{\"eventType\":\"t\",\"eventType\":\"u\",\"payload\":{}}", "duplicate"),
        (b"{\"eventType\":1e400,\"payload\":{}}", "eventType"),
        (b"{\"eventType\":\"t\",\"payload\":{'a':1}}", "payload"),
        (b"{\"eventType\":\"t\",\"payload\":{\"a\":01}}", "payload"),
        (b"{\"eventType\":\"t\",\"payload\":{\"a\":NaN}}", "payload"),
        (b"{\"eventType\":\"t\",\"payload\":{},}", "line 1"),
        (b"a=b&c=d", "line 1"),
    ];
    for (body, expected) in cases {
        let (status, text) = send(&world, body.to_vec()).await;
        let shown = String::from_utf8_lossy(body);
        assert_eq!(status, 422, "{shown}: {text}");
        assert!(text.contains("value_error"), "{shown}: {text}");
        assert!(text.contains(expected), "{shown}: {text}");
    }
}

#[tokio::test]
async fn nothing_panics_on_any_small_body() {
    let world = world().await;
    let paths = ["/api/v1/app", "/api/v1/app/a/endpoint", "/api/v1/event-type", "/api/v1/app/a/msg"];
    let words = ["{", "}", "[", "]", "\"a\"", ":", ",", "null", "1", "\"name\"", "\"url\"", "\"payload\""];
    let mut seed = 1u64;
    for _ in 0..2_000 {
        let mut body = String::new();
        for _ in 0..(seed >> 60) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            body.push_str(words[(seed >> 33) as usize % words.len()]);
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let path = paths[(seed >> 33) as usize % paths.len()];
        let answer = world.call(Method::POST, path, body.clone()).await;
        assert!(answer.status.as_u16() < 500, "{path} {body}: {}", answer.text);
    }
}
