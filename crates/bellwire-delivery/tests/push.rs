//! Push against a real socket: what arrives is what was accepted, signed, and what comes back is told as it was.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use bellwire_delivery::{HeaderNames, Push, PushSettings};
use bellwire_egress::{Egress, Guard, Settings};
use bellwire_model::{
    ActiveSecret, ApplicationKey, Directive, Endpoint, EndpointId, EndpointKey, FailureClass, Format, Message,
    MessageId, Outcome, RetryAfter, Sequence, Timestamp,
};
use bellwire_signature::{Secret, SignedHeaders, VerifyKey, verify};
use rand::SeedableRng;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const WALL: Timestamp = Timestamp::from_seconds(1_700_000_000);

/// What one attempt sent, and how it ended, against a server that answers `response`.
async fn attempt(
    response: &'static [u8],
    change: impl Fn(&mut Endpoint),
    settings: PushSettings,
) -> (Received, Outcome) {
    attempt_of(message(), response, change, settings).await
}

async fn attempt_of(
    message: Message,
    response: &'static [u8],
    change: impl Fn(&mut Endpoint),
    settings: PushSettings,
) -> (Received, Outcome) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:pass@{}/hook?token=1", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        while !complete(&bytes) {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the request ended early");
        }
        stream.write_all(response).await.unwrap();
        bytes
    });
    let mut endpoint = endpoint(url);
    change(&mut endpoint);
    let outcome = push(settings).attempt(&Arc::new(endpoint), &message, WALL).await;
    (Received::parse(&server.await.unwrap()), outcome)
}

fn push(settings: PushSettings) -> Push {
    let guard = Guard { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Guard::default() };
    let egress = Egress::new(Settings { guard, ..Settings::default() }).unwrap();
    Push::new(egress.client().unwrap(), settings)
}

fn complete(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= PAYLOAD.len())
}

/// Odd on purpose: spaces, a big number, a repeated key, an escape.
const PAYLOAD: &str = "{ \"b\":1, \"a\" : 123456789012345678901234567890, \"b\":2,\n\"c\":\"\\u00e9\" }";

fn message() -> Message {
    let id = MessageId::from_parts(Sequence::first_at(WALL), [7; 12]);
    Message::new(id, ApplicationKey(1), "invoice.paid", PAYLOAD, Timestamp::FAR_FUTURE)
}

fn secret(seed: u64) -> Secret {
    Secret::generate_symmetric(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed))
}

fn endpoint(url: String) -> Endpoint {
    Endpoint {
        secrets: vec![ActiveSecret { secret: secret(1), expires_at: None }],
        headers: vec![("X-Own".into(), "yes".into())],
        ..Endpoint::new(EndpointKey(2), ApplicationKey(1), EndpointId::from_parts(Sequence::ZERO, [0; 12]), url, WALL)
    }
}

struct Received {
    first_line: String,
    headers: HashMap<String, String>,
    body: String,
}

impl Received {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let first_line = lines.next().unwrap().to_owned();
        let headers = lines.map(|l| l.split_once(": ").unwrap()).map(|(n, v)| (n.to_lowercase(), v.to_owned()));
        Received { first_line, headers: headers.collect(), body: body.to_owned() }
    }

    fn verify(&self, prefix: &str, seed: u64) -> bool {
        let header = |name: &str| self.headers.get(&format!("{prefix}-{name}")).map_or("", String::as_str);
        let signed = SignedHeaders { id: header("id"), timestamp: header("timestamp"), signature: header("signature") };
        let key = VerifyKey::from(&secret(seed));
        verify(&[key], &signed, self.body.as_bytes(), WALL.as_seconds(), Duration::from_secs(300)).is_ok()
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn the_payload_arrives_byte_for_byte_and_verifies() {
    let (received, outcome) = attempt(OK, |_| {}, PushSettings::default()).await;
    assert_eq!(received.first_line, "POST /hook?token=1 HTTP/1.1");
    assert_eq!(received.body, PAYLOAD);
    assert_eq!(received.headers["content-type"], "application/json");
    assert_eq!(received.headers["authorization"], "Basic dXNlcjpwYXNz");
    assert_eq!(received.headers["x-own"], "yes");
    assert!(received.verify("webhook", 1) && received.verify("svix", 1));
    assert!(!received.verify("webhook", 2));
    assert_eq!((outcome.result, outcome.body.as_ref(), outcome.started_at), (Ok(200), b"ok".as_slice(), WALL));
}

#[tokio::test]
async fn a_body_that_came_packed_says_so_where_it_is_passed_on_as_it_came() {
    let came = |coding: Option<&str>| {
        let source = bellwire_model::SourceId::from_parts(Sequence::ZERO, [0; 12]);
        let headers = coding.map(|coding| ("content-encoding".to_owned(), coding.to_owned())).into_iter().collect();
        let received = bellwire_model::Received {
            source,
            method: "POST".into(),
            path: "/hooks/a".into(),
            query: None,
            headers,
            remote: None,
            hops: 0,
            dedupe: None,
        };
        Message { received: Some(Arc::new(received)), ..message() }
    };
    for (coding, format, sent) in [
        (None, Format::Json, None),
        (Some("gzip"), Format::Json, Some("gzip")),
        (Some("gzip"), Format::Xml, None),
        (Some("gzip\r\nx: y"), Format::Json, None),
    ] {
        let change = |endpoint: &mut Endpoint| endpoint.shape.format = format;
        let (received, outcome) = attempt_of(came(coding), OK, change, PushSettings::default()).await;
        assert!(outcome.result.is_ok(), "{outcome:?}");
        assert_eq!(received.headers.get("content-encoding").map(String::as_str), sent, "{coding:?}, {format:?}");
    }
}

#[tokio::test]
async fn header_names_follow_the_setting() {
    for (header_names, webhook, svix) in
        [(HeaderNames::Webhook, true, false), (HeaderNames::Svix, false, true), (HeaderNames::Both, true, true)]
    {
        let (received, _) = attempt(OK, |_| {}, PushSettings { header_names, ..PushSettings::default() }).await;
        assert_eq!((received.verify("webhook", 1), received.verify("svix", 1)), (webhook, svix), "{header_names:?}");
    }
}

#[tokio::test]
async fn every_unexpired_secret_signs_and_no_other() {
    let rotated = |endpoint: &mut Endpoint| {
        let old = |seed, expires_at| ActiveSecret { secret: secret(seed), expires_at: Some(expires_at) };
        endpoint.secrets.push(old(2, WALL.plus(Duration::from_secs(1))));
        endpoint.secrets.push(old(3, WALL));
    };
    let (received, _) = attempt(OK, rotated, PushSettings::default()).await;
    assert_eq!([1, 2, 3].map(|seed| received.verify("webhook", seed)), [true, true, false]);
}

#[tokio::test]
async fn what_the_receiver_asks_for_is_told() {
    let busy = b"HTTP/1.1 503 Busy\r\nretry-after: 1.5\r\nwebhook-delivery: abort-message\r\ncontent-length: 0\r\n\r\n";
    let (_, outcome) = attempt(busy, |_| {}, PushSettings::default()).await;
    assert_eq!(outcome.result, Ok(503));
    assert_eq!(outcome.retry_after, Some(RetryAfter::Wait(Duration::from_millis(1_500))));
    assert_eq!(outcome.directive, Some(Directive::AbortMessage));
    let other = b"HTTP/1.1 200 OK\r\nwebhook-delivery: dance\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(attempt(other, |_| {}, PushSettings::default()).await.1.directive, None);
}

#[tokio::test]
async fn a_response_body_is_kept_as_bytes_up_to_the_cap() {
    let odd = b"HTTP/1.1 500 No\r\ncontent-length: 6\r\n\r\na\0\xff\xfebc";
    let settings = PushSettings { response_body_max: 4, ..PushSettings::default() };
    let (_, outcome) = attempt(odd, |_| {}, settings).await;
    assert_eq!((outcome.result, outcome.body.as_ref()), (Ok(500), b"a\0\xff\xfe".as_slice()));
}

#[tokio::test]
async fn what_cannot_be_sent_says_why() {
    let check = async |change: fn(&mut Endpoint), class: FailureClass, text: &str| {
        let mut endpoint = endpoint("http://127.0.0.1:1/".into());
        change(&mut endpoint);
        let outcome = push(PushSettings::default()).attempt(&Arc::new(endpoint), &message(), WALL).await;
        assert_eq!(outcome.result, Err(class));
        let body = String::from_utf8(outcome.body.to_vec()).unwrap();
        assert!(body.contains(text), "{body}");
    };
    check(|e| e.url = "ftp://a/".into(), FailureClass::Unsendable, "URL").await;
    check(|e| e.url = "http://10.0.0.1/".into(), FailureClass::Forbidden, "private").await;
    check(|e| e.secrets.clear(), FailureClass::Unsendable, "secret").await;
    check(|e| e.headers.push(("a b".into(), "c".into())), FailureClass::Unsendable, "header").await;
    check(|e| e.headers.push(("a".into(), "b\r\nc: d".into())), FailureClass::Unsendable, "header").await;
}
