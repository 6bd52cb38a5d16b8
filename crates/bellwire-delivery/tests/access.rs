//! How attempts prove who sends them, against real sockets: what arrives at the endpoint and at its token endpoint.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::KeyPair;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bellwire_delivery::{Keep, Push, PushSettings, RefreshedToken};
use bellwire_egress::{Egress, Guard, Settings};
use bellwire_model::{
    Access, ActiveSecret, ApplicationKey, AssertionAlgorithm, ClientAssertion, ClientAuthentication, Credentials,
    Endpoint, EndpointId, EndpointKey, FailureClass, Message, MessageId, Oauth, OauthGrant, Outcome, RefreshToken,
    SecretText, Sequence, Timestamp,
};
use bellwire_signature::header_hmac::{HashAlgorithm, MacEncoding, Template, TemplateUse};
use bellwire_signature::{HeaderHmac, Secret};
use rand::SeedableRng;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use zeroize::Zeroizing;

const WALL: Timestamp = Timestamp::from_seconds(1_700_000_000);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
const BODY: &[u8] = b"Hello, World!";

/// A server that gives its answers in turn, the last one for ever, and keeps what it was asked. It can be made to wait.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    go: Arc<Notify>,
}

impl Server {
    async fn answering(answers: impl IntoIterator<Item = String>) -> Server {
        Server::start(answers, false).await
    }

    async fn start(answers: impl IntoIterator<Item = String>, waits: bool) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let answers: Arc<Mutex<VecDeque<String>>> = Arc::new(Mutex::new(answers.into_iter().collect()));
        let (asked, go) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let server = Server { url, asked: Arc::clone(&asked), go: Arc::clone(&go) };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answers, asked, go) = (Arc::clone(&answers), Arc::clone(&asked), Arc::clone(&go));
                tokio::spawn(async move {
                    while let Some(request) = read(&mut stream).await {
                        asked.lock().unwrap().push(request);
                        if waits {
                            go.notified().await;
                        }
                        let answer = {
                            let mut answers = answers.lock().unwrap();
                            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
                        };
                        if stream.write_all(answer.unwrap().as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        server
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The value of a header in each request.
    fn header(&self, name: &str) -> Vec<String> {
        let of = |request: &String| {
            let lines = request.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned()).collect::<Vec<_>>().join("|")
        };
        self.asked().iter().map(of).collect()
    }
}

async fn read(stream: &mut tokio::net::TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if body.len() >= length.map_or(0, |(_, value)| value.parse().unwrap()) {
            return Some(text);
        }
    }
}

fn settings() -> PushSettings {
    PushSettings { timeout: Duration::from_secs(5), ..PushSettings::default() }
}

fn push(settings: PushSettings) -> Push {
    let guard = Guard { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Guard::default() };
    let egress = Egress::new(Settings { guard, ..Settings::default() }).unwrap();
    Push::new(egress.client().unwrap(), settings)
}

fn message() -> Message {
    let id = MessageId::from_parts(Sequence::first_at(WALL), [7; 12]);
    Message::new(id, ApplicationKey(1), "invoice.paid", BODY, Timestamp::FAR_FUTURE)
}

fn endpoint(url: &str, credentials: Credentials) -> Arc<Endpoint> {
    let secret = Secret::generate_symmetric(&mut rand_chacha::ChaCha8Rng::seed_from_u64(1));
    Arc::new(Endpoint {
        secrets: vec![ActiveSecret { secret, expires_at: None }],
        headers: vec![("Authorization".into(), "mine".into())],
        access: Access { credentials: Some(credentials), ..Access::default() },
        ..Endpoint::new(
            EndpointKey(2),
            ApplicationKey(1),
            EndpointId::from_parts(Sequence::ZERO, [0; 12]),
            url.to_owned(),
            WALL,
        )
    })
}

fn secret(text: &str) -> SecretText {
    SecretText::new(text)
}

async fn one(credentials: Credentials) -> (Server, Outcome) {
    let server = Server::answering([OK.to_owned()]).await;
    let url = format!("{}?a=1", server.url);
    let outcome = push(settings()).attempt(&endpoint(&url, credentials), &message(), WALL).await;
    (server, outcome)
}

#[tokio::test]
async fn basic_and_bearer_take_the_place_of_an_own_header() {
    let basic = Credentials::Basic { username: "Aladdin".into(), password: secret("open sesame") };
    let (server, outcome) = one(basic).await;
    assert_eq!(outcome.result, Ok(200));
    // RFC 7617 §2.
    assert_eq!(server.header("authorization"), ["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]);
    let (server, _) = one(Credentials::Bearer { token: secret("t.o-k") }).await;
    assert_eq!(server.header("authorization"), ["Bearer t.o-k"]);
    assert!(server.header("webhook-signature")[0].starts_with("v1,"), "the signature stays");
}

#[tokio::test]
async fn a_parameter_is_added_to_the_url_and_to_nothing_else() {
    let (server, outcome) = one(Credentials::Query { name: "to&ken".into(), value: secret("a b&c=d") }).await;
    assert_eq!(outcome.result, Ok(200));
    assert!(server.asked()[0].starts_with("POST /hook?a=1&to%26ken=a+b%26c%3Dd HTTP/1.1\r\n"), "{:?}", server.asked());
    assert_eq!(server.header("authorization"), ["mine"]);
}

#[tokio::test]
async fn a_legacy_receiver_finds_the_signature_where_it_looks() {
    let hmac = |signed: &str, format: &str, key: &str| {
        HeaderHmac::new(
            HashAlgorithm::Sha256,
            MacEncoding::Hex,
            Template::parse(signed, TemplateUse::Signed).unwrap(),
            Template::parse(format, TemplateUse::Header).unwrap(),
            Zeroizing::new(key.as_bytes().to_vec()),
        )
    };
    // GitHub, "Validating webhook deliveries", test values.
    let (server, _) = one(Credentials::Hmac {
        header: "X-Hub-Signature-256".into(),
        timestamp_header: None,
        hmac: hmac("{body}", "sha256={signature}", "It's a Secret to Everybody"),
    })
    .await;
    let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert_eq!(server.header("x-hub-signature-256"), [expected]);

    let timed = hmac("v0:{timestamp}:{body}", "v0={signature}", "k");
    let (server, _) = one(Credentials::Hmac {
        header: "X-Slack-Signature".into(),
        timestamp_header: Some("X-Slack-Request-Timestamp".into()),
        hmac: timed.clone(),
    })
    .await;
    assert_eq!(server.header("x-slack-request-timestamp"), ["1700000000"]);
    assert_eq!(server.header("x-slack-signature"), [timed.sign("", 1_700_000_000, BODY)]);
    assert_eq!(server.header("webhook-timestamp"), server.header("x-slack-request-timestamp"));
}

fn token(text: &str, seconds: u64) -> String {
    json(&format!(r#"{{"access_token":"{text}","token_type":"Bearer","expires_in":{seconds}}}"#))
}

fn json(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn oauth(token_url: &str) -> Oauth {
    Oauth {
        token_url: token_url.to_owned(),
        grant: OauthGrant::ClientCredentials,
        client_id: "bell:wire".to_owned(),
        method: ClientAuthentication::Basic(secret("hunter 2")),
        scopes: vec!["hooks:write".to_owned(), "b".to_owned()],
        parameters: vec![("audience".to_owned(), secret("https://receiver.example/?a"))],
        headers: vec![("x-tenant".to_owned(), secret("t1"))],
    }
}

fn at(seconds: u64) -> Timestamp {
    WALL.plus(Duration::from_secs(seconds))
}

/// An endpoint, its token endpoint, and what calls them.
struct World {
    receiver: Server,
    issuer: Server,
    push: Push,
    endpoint: Arc<Endpoint>,
}

impl World {
    async fn new(tokens: impl IntoIterator<Item = String>, answers: &[&str]) -> World {
        let receiver = Server::answering(answers.iter().map(|a| (*a).to_owned())).await;
        let issuer = Server::answering(tokens).await;
        let endpoint = endpoint(&receiver.url, Credentials::Oauth(Arc::new(oauth(&issuer.url))));
        World { receiver, issuer, push: push(settings()), endpoint }
    }

    async fn attempt(&self, seconds: u64) -> Outcome {
        self.push.attempt(&self.endpoint, &message(), at(seconds)).await
    }

    async fn failure(&self, seconds: u64) -> String {
        let outcome = self.attempt(seconds).await;
        assert_eq!(outcome.result, Err(FailureClass::AccessToken));
        String::from_utf8(outcome.body.to_vec()).unwrap()
    }
}

#[tokio::test]
async fn the_token_request_is_as_the_standard_has_it() {
    let world = World::new([token("t1", 3600)], &[OK]).await;
    assert_eq!(world.attempt(0).await.result, Ok(200));
    let request = world.issuer.asked().remove(0);
    assert!(request.starts_with("POST /hook HTTP/1.1\r\n"));
    let body = "grant_type=client_credentials&scope=hooks%3Awrite+b&audience=https%3A%2F%2Freceiver.example%2F%3Fa";
    assert!(request.ends_with(&format!("\r\n\r\n{body}")), "{request}");
    // RFC 6749 §2.3.1: both are form-encoded before they are joined: bell%3Awire:hunter+2.
    assert_eq!(world.issuer.header("authorization"), ["Basic YmVsbCUzQXdpcmU6aHVudGVyKzI="]);
    assert_eq!(world.issuer.header("content-type"), ["application/x-www-form-urlencoded"]);
    assert_eq!(world.issuer.header("x-tenant"), ["t1"]);
    assert_eq!(world.receiver.header("authorization"), ["Bearer t1"]);

    let receiver = Server::answering([OK.to_owned()]).await;
    let issuer = Server::answering([token("t1", 3600)]).await;
    let post =
        Oauth { method: ClientAuthentication::Post(secret("hunter 2")), scopes: Vec::new(), ..oauth(&issuer.url) };
    let endpoint = endpoint(&receiver.url, Credentials::Oauth(Arc::new(post)));
    assert_eq!(push(settings()).attempt(&endpoint, &message(), WALL).await.result, Ok(200));
    assert!(issuer.asked()[0].ends_with("&client_id=bell%3Awire&client_secret=hunter+2"), "{:?}", issuer.asked());
    assert_eq!(issuer.header("authorization"), [""]);
}

#[tokio::test]
async fn a_token_is_used_until_shortly_before_its_end_and_renewed_then() {
    let world = World::new([token("t1", 100), token("t2", 100), token("t3", 100)], &[OK]).await;
    // A fifth of its life before the end, at 80 s, the next one is fetched; after a pause, at its end for certain.
    for seconds in [0, 50, 79, 80, 100, 300] {
        assert_eq!(world.attempt(seconds).await.result, Ok(200));
    }
    let used = world.receiver.header("authorization");
    assert_eq!(used, ["Bearer t1", "Bearer t1", "Bearer t1", "Bearer t2", "Bearer t2", "Bearer t3"]);
    assert_eq!(world.issuer.asked().len(), 3);
}

#[tokio::test]
async fn while_it_can_not_be_renewed_the_old_one_is_good_until_it_ends() {
    let down = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_owned();
    let world = World::new([token("t1", 100), down], &[OK]).await;
    for (seconds, asked) in [(0, 1), (80, 2), (85, 2), (90, 3), (99, 3)] {
        assert_eq!(world.attempt(seconds).await.result, Ok(200));
        assert_eq!(world.issuer.asked().len(), asked, "at {seconds} s");
    }
    assert_eq!(world.failure(100).await, "no access token: the token endpoint answered 503");
    assert_eq!(world.receiver.asked().len(), 5, "without a token nothing is sent");
}

#[tokio::test]
async fn many_attempts_ask_for_one_token_and_share_its_fate() {
    let receiver = Server::answering([OK.to_owned()]).await;
    let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-length: 26\r\n\r\n{\"error\":\"invalid_client\"}".to_owned();
    let issuer = Server::start([refusal, token("t1", 3600)], true).await;
    let push = push(settings());
    let endpoint = endpoint(&receiver.url, Credentials::Oauth(Arc::new(oauth(&issuer.url))));
    let message = message();
    for expected in [Err(FailureClass::AccessToken), Ok(200)] {
        let before = issuer.asked().len();
        let all = futures_join((0..8).map(|_| push.attempt(&endpoint, &message, WALL)).collect(), async {
            while issuer.asked().len() == before {
                tokio::task::yield_now().await;
            }
            issuer.go.notify_one();
        });
        for outcome in all.await {
            assert_eq!(outcome.result, expected);
            if expected.is_err() {
                assert_eq!(&outcome.body[..], b"no access token: the token endpoint answered 400 (invalid_client)");
            }
        }
        assert_eq!(issuer.asked().len(), before + 1);
    }
}

/// All of them at once, while `meanwhile` happens.
async fn futures_join<F: Future<Output = Outcome>>(all: Vec<F>, meanwhile: impl Future<Output = ()>) -> Vec<Outcome> {
    use std::pin::Pin;
    use std::task::Poll;
    let mut all: Vec<Pin<Box<F>>> = all.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<Outcome>> = all.iter().map(|_| None).collect();
    let mut meanwhile = std::pin::pin!(meanwhile);
    let mut over = false;
    std::future::poll_fn(move |cx| {
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none()
                && let Poll::Ready(outcome) = future.as_mut().poll(cx)
            {
                *done = Some(outcome);
            }
        }
        over = over || meanwhile.as_mut().poll(cx).is_ready();
        if over && done.iter().all(Option::is_some) {
            return Poll::Ready(done.iter_mut().filter_map(Option::take).collect());
        }
        Poll::Pending
    })
    .await
}

#[tokio::test]
async fn a_401_throws_the_token_away_but_not_again_at_once() {
    let tokens = [token("t1", 3600), token("t2", 3600), token("t3", 3600)];
    let world = World::new(tokens, &[OK, UNAUTHORIZED]).await;
    // At 2 s there is another; that it is refused as well changes nothing until a minute after the first refusal.
    let course = [(0, 200, 1), (1, 401, 1), (2, 401, 2), (3, 401, 2), (60, 401, 2), (61, 401, 2), (62, 401, 3)];
    for (seconds, status, asked) in course {
        assert_eq!(world.attempt(seconds).await.result, Ok(status), "at {seconds} s");
        assert_eq!(world.issuer.asked().len(), asked, "at {seconds} s");
    }
    let used = world.receiver.header("authorization");
    assert_eq!(used, ["t1", "t1", "t2", "t2", "t2", "t2", "t3"].map(|token| format!("Bearer {token}")));
}

#[tokio::test]
async fn a_token_outlives_changes_of_the_endpoint_but_not_of_its_oauth() {
    let mut world = World::new([token("t1", 3600), token("t2", 3600)], &[OK]).await;
    assert_eq!(world.attempt(0).await.result, Ok(200));
    world.endpoint = Arc::new(Endpoint { description: "other".into(), ..Endpoint::clone(&world.endpoint) });
    assert_eq!(world.attempt(1).await.result, Ok(200));
    assert_eq!(world.issuer.asked().len(), 1);
    let other = Oauth { client_id: "other".into(), ..oauth(&world.issuer.url) };
    world.endpoint = endpoint(&world.receiver.url, Credentials::Oauth(Arc::new(other)));
    assert_eq!(world.attempt(2).await.result, Ok(200));
    assert_eq!(world.issuer.asked().len(), 2);
    world.push.forget(EndpointKey(2));
    assert_eq!(world.attempt(3).await.result, Ok(200));
    assert_eq!(world.issuer.asked().len(), 3);
}

/// Keeps refresh tokens, or refuses to for a while.
#[derive(Default)]
struct Kept {
    all: RefCell<Vec<RefreshedToken>>,
    refuses: Cell<bool>,
}

impl Kept {
    fn keep(self: &Rc<Self>) -> Keep {
        let kept = Rc::clone(self);
        Rc::new(move |refreshed| {
            let kept = Rc::clone(&kept);
            Box::pin(async move {
                if kept.refuses.get() {
                    return Err("the disk is full".to_owned());
                }
                kept.all.borrow_mut().push(refreshed);
                Ok(())
            })
        })
    }

    fn take(&self) -> Vec<RefreshedToken> {
        self.all.take()
    }
}

fn refresh(token: &str, before: Option<&str>) -> RefreshToken {
    RefreshToken { token: secret(token), before: before.map(secret) }
}

fn refreshed(known: RefreshToken, now: RefreshToken) -> RefreshedToken {
    RefreshedToken { endpoint: EndpointKey(2), known, now }
}

fn granted(token: &str, more: &str) -> String {
    json(&format!(r#"{{"access_token":"{token}","expires_in":100{more}}}"#))
}

fn invalid_grant() -> String {
    let body = r#"{"error":"invalid_grant"}"#;
    format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

impl World {
    /// With the grant `refreshToken`, and whoever keeps what comes of it.
    async fn refreshing(tokens: impl IntoIterator<Item = String>) -> (World, Rc<Kept>) {
        let mut world = World::new(tokens, &[OK]).await;
        let kept = Rc::new(Kept::default());
        world.push = push(settings()).keeping(kept.keep());
        (world, kept)
    }

    fn configure(&mut self, refresh: RefreshToken) {
        let grant = OauthGrant::RefreshToken(refresh);
        let oauth = Oauth { grant, scopes: Vec::new(), parameters: Vec::new(), ..oauth(&self.issuer.url) };
        self.endpoint = endpoint(&self.receiver.url, Credentials::Oauth(Arc::new(oauth)));
    }

    /// Which refresh tokens the token endpoint was asked with.
    fn used(&self) -> Vec<String> {
        let of = |request: &String| request.rsplit("&refresh_token=").next().expect("a form").to_owned();
        self.issuer.asked().iter().map(of).collect()
    }
}

#[tokio::test]
async fn a_refresh_token_is_used_and_the_one_that_comes_with_a_token_takes_its_place() {
    let (mut world, kept) = World::refreshing([
        granted("t1", r#","refresh_token":"r2""#),
        granted("t2", ""),
        granted("t3", r#","refresh_token":"r3""#),
    ])
    .await;
    world.configure(refresh("r1", None));
    assert_eq!(world.attempt(0).await.result, Ok(200));
    let after_one = refresh("r2", Some("r1"));
    assert_eq!(kept.take(), [refreshed(refresh("r1", None), after_one.clone())]);
    // That it was kept asks for nothing.
    world.configure(after_one.clone());
    assert_eq!(world.attempt(1).await.result, Ok(200));
    assert_eq!(world.issuer.asked().len(), 1);
    assert_eq!(world.attempt(100).await.result, Ok(200));
    let after_two = refresh("r2", None);
    assert_eq!(kept.take(), [refreshed(after_one, after_two.clone())], "it works: the one before is needed no more");
    world.configure(after_two.clone());
    assert_eq!(world.attempt(300).await.result, Ok(200));
    assert_eq!(kept.take(), [refreshed(after_two, refresh("r3", Some("r2")))]);
    assert_eq!(world.used(), ["r1", "r2", "r2"]);
    assert!(world.issuer.asked()[0].ends_with("\r\ngrant_type=refresh_token&refresh_token=r1"));
    assert_eq!(world.receiver.header("authorization"), ["Bearer t1", "Bearer t1", "Bearer t2", "Bearer t3"]);
}

#[tokio::test]
async fn a_token_endpoint_that_forgot_what_it_gave_is_asked_with_the_one_before() {
    let (mut world, kept) = World::refreshing([
        granted("t1", r#","refresh_token":"r2""#),
        // It failed after it had answered: r2 is unknown to it.
        invalid_grant(),
        granted("t2", r#","refresh_token":"s2""#),
        // And now it knows nothing of us any more.
        invalid_grant(),
    ])
    .await;
    world.configure(refresh("r1", None));
    assert_eq!(world.attempt(0).await.result, Ok(200));
    // The process starts again with what was kept.
    let known = kept.take().remove(0).now;
    world.push = push(settings()).keeping(kept.keep());
    world.configure(known.clone());
    assert_eq!(world.attempt(1).await.result, Ok(200));
    assert_eq!(kept.take(), [refreshed(known, refresh("s2", Some("r1")))]);
    assert_eq!(world.used(), ["r1", "r2", "r1"]);
    assert_eq!(world.failure(200).await, "no access token: the token endpoint answered 400 (invalid_grant)");
    assert_eq!(world.used()[3..], ["s2", "r1"]);
    assert_eq!(kept.take(), [], "what is refused changes nothing");
    assert_eq!(world.receiver.header("authorization"), ["Bearer t1", "Bearer t2"]);
}

#[tokio::test]
async fn an_access_token_is_not_used_before_its_refresh_token_is_kept() {
    let (mut world, kept) = World::refreshing([granted("t1", r#","refresh_token":"r2""#), invalid_grant()]).await;
    world.configure(refresh("r1", None));
    kept.refuses.set(true);
    for seconds in [0, 1] {
        let why = world.failure(seconds).await;
        assert_eq!(why, "no access token: the new refresh token cannot be kept: the disk is full");
    }
    assert!(world.receiver.asked().is_empty());
    // An edit of the endpoint in between does not lose it.
    world.endpoint = Arc::new(Endpoint { description: "other".into(), ..Endpoint::clone(&world.endpoint) });
    kept.refuses.set(false);
    assert_eq!(world.attempt(2).await.result, Ok(200));
    assert_eq!(kept.take(), [refreshed(refresh("r1", None), refresh("r2", Some("r1")))]);
    assert_eq!(
        (world.used(), world.receiver.header("authorization")),
        (vec!["r1".to_owned()], vec!["Bearer t1".to_owned()])
    );
}

#[tokio::test]
async fn a_client_can_prove_itself_by_an_assertion_that_it_signs() {
    let private = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let public = private.public_key().as_ref().to_vec();
    let der = BASE64_STANDARD.encode(private.as_der().unwrap().as_ref());
    let lines: Vec<_> = der.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = &*format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    let shared = BASE64_STANDARD.encode("a shared secret");
    for (algorithm, key, key_id) in
        [(AssertionAlgorithm::Rs256, pem, Some("k1")), (AssertionAlgorithm::Hs256, &*shared, None)]
    {
        let mut world = World::new([token("t1", 10), token("t2", 10)], &[OK]).await;
        let assertion =
            ClientAssertion { algorithm, key: secret(key), key_id: key_id.map(str::to_owned), lifetime_seconds: 60 };
        let oauth = Oauth { method: ClientAuthentication::Jwt(assertion), ..oauth(&world.issuer.url) };
        let url = oauth.token_url.clone();
        world.endpoint = endpoint(&world.receiver.url, Credentials::Oauth(Arc::new(oauth)));
        for seconds in [0, 20] {
            assert_eq!(world.attempt(seconds).await.result, Ok(200));
        }
        assert_eq!(world.issuer.header("authorization"), ["", ""]);
        let mut ids = Vec::new();
        for (request, seconds) in world.issuer.asked().iter().zip([0, 20]) {
            let form: std::collections::HashMap<String, String> =
                form_urlencoded::parse(request.rsplit("\r\n").next().unwrap().as_bytes()).into_owned().collect();
            assert_eq!(form["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
            assert_eq!((&*form["client_id"], form.contains_key("client_secret")), ("bell:wire", false));
            let (algorithm, key) = match algorithm {
                AssertionAlgorithm::Rs256 => {
                    (jsonwebtoken::Algorithm::RS256, jsonwebtoken::DecodingKey::from_rsa_der(&public))
                }
                AssertionAlgorithm::Hs256 => {
                    (jsonwebtoken::Algorithm::HS256, jsonwebtoken::DecodingKey::from_secret(b"a shared secret"))
                }
            };
            let mut wanted = jsonwebtoken::Validation::new(algorithm);
            wanted.set_audience(&[&url]);
            wanted.validate_exp = false;
            let read = jsonwebtoken::decode::<serde_json::Value>(&form["client_assertion"], &key, &wanted).unwrap();
            assert_eq!(read.header.kid.as_deref(), key_id);
            let claims = read.claims;
            assert_eq!((&claims["iss"], &claims["sub"]), (&"bell:wire".into(), &"bell:wire".into()));
            let issued = at(seconds).as_seconds();
            assert_eq!((&claims["iat"], &claims["exp"]), (&issued.into(), &(issued + 60).into()));
            ids.push(claims["jti"].to_string());
        }
        assert_ne!(ids[0], ids[1]);
    }
}

#[tokio::test]
async fn a_token_endpoint_that_fails_is_a_failed_attempt_that_says_so() {
    let check = async |answer: &str, expected: &str| {
        let world = World::new([answer.to_owned()], &[OK]).await;
        assert_eq!(world.failure(0).await, format!("no access token: {expected}"));
        assert!(world.receiver.asked().is_empty());
    };
    let elsewhere = "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    check(elsewhere, "the token endpoint answered 307; redirects are not followed").await;
    check(&json("{}"), "the token endpoint's answer is not a JSON object with access_token").await;
    let huge = format!("HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n{}", " ".repeat(70_000));
    check(&huge, "the token endpoint's answer is larger than 65536 bytes").await;

    let refused = async |url: &str, timeout: Duration| {
        let receiver = Server::answering([OK.to_owned()]).await;
        let endpoint = endpoint(&receiver.url, Credentials::Oauth(Arc::new(oauth(url))));
        let push = push(PushSettings { timeout, ..settings() });
        let outcome = push.attempt(&endpoint, &message(), WALL).await;
        assert_eq!(outcome.result, Err(FailureClass::AccessToken));
        assert!(receiver.asked().is_empty());
        String::from_utf8(outcome.body.to_vec()).unwrap()
    };
    // A private address is as closed to it as to any attempt.
    let text = refused("http://10.0.0.1/token", Duration::from_secs(5)).await;
    assert!(text.contains("cannot be asked") && text.contains("private"), "{text}");
    let silent = Server::start([String::new()], true).await;
    let text = refused(&silent.url, Duration::from_millis(50)).await;
    assert!(text.contains("the token endpoint"), "{text}");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let text = refused(&format!("http://{closed}/"), Duration::from_secs(5)).await;
    assert!(text.contains("the connection was refused"), "{text}");
}

#[tokio::test]
async fn certificates_that_do_not_parse_fail_the_attempt_with_their_reason() {
    let mut endpoint = Endpoint::clone(&endpoint("https://127.0.0.1:1/", Credentials::Bearer { token: secret("t") }));
    endpoint.access.tls.identity = Some(secret("nonsense"));
    let outcome = push(settings()).attempt(&Arc::new(endpoint), &message(), WALL).await;
    assert_eq!(outcome.result, Err(FailureClass::Unsendable));
    assert!(outcome.body.starts_with(b"the endpoint's certificates cannot be used: is not PEM"), "{:?}", outcome.body);
}
