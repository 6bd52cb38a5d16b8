//! What is refused, is refused before its body is read where its head is enough to know; leaves nothing behind by which it would be a
//! duplicate when it comes again; and is kept for its source's owner, with the reason, within bounds.

use super::*;
use crate::program::Program;
use bellwire_model::{HOPS_HEADER, Networks, Recipe, SecretText, SourceSecret};
use futures_util::FutureExt;
use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::task::Poll;

const BODY_MAX: u32 = 100_000;

/// Three requests are let in within a second.
fn source() -> Source {
    Source {
        secrets: vec![SourceSecret { text: SecretText::new("a long enough secret"), expires_at: None }],
        body_bytes_max: BODY_MAX,
        rate: std::num::NonZeroU32::new(3),
        networks: Networks { allowed: vec!["192.0.2.0/24".parse().expect("a network")], proxies: Vec::new() },
        ..crate::program::source(Recipe::Preset("gitlab".into()))
    }
}

/// Posts with a body of these bytes; answers what came of it, and whether anybody asked for the body.
fn post(
    receiver: &Receiver,
    program: &Program,
    peer: u8,
    method: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (Response<Body>, bool) {
    let asked = Arc::new(AtomicBool::new(false));
    let (asks, mut rest) = (Arc::clone(&asked), Some(Bytes::copy_from_slice(body)));
    let stream = futures_util::stream::poll_fn(move |_| {
        asks.store(true, Ordering::Relaxed);
        Poll::Ready(rest.take().map(Ok::<_, Infallible>))
    });
    let mut request = Request::builder().method(method).uri("/in/t");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::from_stream(stream)).expect("a request");
    request.extensions_mut().insert(Peer([192, 0, 2, peer].into()));
    let answer = receiver.receive_by_token(program, "t", request).now_or_never().expect("nobody waits");
    (answer, asked.load(Ordering::Relaxed))
}

const PROOF: (&str, &str) = ("x-gitlab-token", "a long enough secret");

#[test]
fn what_its_head_condemns_is_refused_before_its_body_is_read() {
    let (receiver, program) = (Receiver::default(), Program::new(source()));
    let send = |peer, method, headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers.iter().copied().chain([PROOF]).collect();
        // Each in a second of its own, so that none takes another's place.
        program.seconds.fetch_add(10, Ordering::Relaxed);
        post(&receiver, &program, peer, method, &headers, b"{}")
    };
    let check = |(answer, asked): (Response<Body>, bool), status: u16, after: Option<&str>, reason: &str| {
        assert_eq!((answer.status().as_u16(), asked), (status, false), "{reason}");
        let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(retry_after.as_deref(), after, "{reason}");
        let told = program.reason();
        assert!(told.contains(reason), "{told}");
    };
    check(send(1, "PUT", &[]), 405, None, "does not take PUT");
    check(send(1, "POST", &[(HOPS_HEADER, "200")]), 508, None, "circles");
    check(send(1, "POST", &[("content-length", "100001")]), 413, None, "larger than 100000 bytes");
    program.crowded.store(true, Ordering::Relaxed);
    check(send(1, "POST", &[]), 503, Some("7"), "too many messages wait");
    program.crowded.store(false, Ordering::Relaxed);
    program.catalogue.write().sources_mut().put(Arc::new(Source {
        networks: Networks { allowed: vec!["192.0.2.1/32".parse().expect("a network")], proxies: Vec::new() },
        ..source()
    }));
    check(send(2, "POST", &[]), 403, None, "in none of the source's networks");
    assert!(program.accepted.lock().is_empty());

    // Three in a second, and the fourth a moment later.
    program.seconds.fetch_add(10, Ordering::Relaxed);
    for _ in 0..3 {
        let (answer, asked) = post(&receiver, &program, 1, "POST", &[PROOF], b"{}");
        assert_eq!((answer.status(), asked), (StatusCode::ACCEPTED, true));
    }
    let fourth = post(&receiver, &program, 1, "POST", &[PROOF], b"{}");
    check(fourth, 429, Some("1"), "more than 3 requests in a second");
    assert_eq!(program.accepted.lock().len(), 3);
    assert_eq!(send(1, "POST", &[]).0.status(), StatusCode::ACCEPTED);
}

#[test]
fn what_is_refused_is_kept_within_bounds() {
    let (receiver, program) = (Receiver::default(), Program::new(Source { rate: None, ..source() }));
    let body = vec![b'x'; BODY_MAX as usize];
    for _ in 0..50 {
        let (answer, _) = post(&receiver, &program, 1, "POST", &[("x-gitlab-token", "some other secret text")], &body);
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
    let kept = std::mem::take(&mut *program.kept.lock());
    assert_eq!(kept.len(), 5, "of a second");
    for request in kept {
        assert_eq!(request.body.len(), KeptRequest::BODY_MAX, "the beginning of its body");
        assert!(matches!(request.outcome, RequestOutcome::Refused { .. }), "{:?}", request.outcome);
        assert_eq!((request.status, request.received.header("x-gitlab-token")), (401, Some("***")));
    }
    // One that says nothing of its length is read to the bound, and no further.
    let longer = [body.as_slice(), b"x"].concat();
    program.seconds.fetch_add(10, Ordering::Relaxed);
    let (answer, asked) = post(&receiver, &program, 1, "POST", &[PROOF], &longer);
    assert_eq!((answer.status(), asked), (StatusCode::PAYLOAD_TOO_LARGE, true));
    assert!(program.reason().contains("larger than 100000 bytes"));
    assert_eq!(post(&receiver, &program, 1, "POST", &[PROOF], &body).0.status(), StatusCode::ACCEPTED);
}
