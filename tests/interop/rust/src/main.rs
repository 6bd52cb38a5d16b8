//! The life of an application by Svix's official Rust library, unchanged, against our server.
//!
//! Prints each thing that it did; a mismatch is printed with what was found, and the exit code is 1 at the end.
//! Needs BELLWIRE_URL, BELLWIRE_TOKEN and BELLWIRE (run.py beside this folder sets them).

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use js_option::JsOption;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use svix::api::*;
use svix::error::{Error, Result};
use svix::models::*;
use svix::webhooks::Webhook;

#[derive(Clone)]
struct Arrival {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// Keeps what arrives; `/fail` answers 500 while `failing`.
#[derive(Clone, Default)]
struct Receiver {
    arrived: Arc<Mutex<Vec<Arrival>>>,
    failing: Arc<AtomicBool>,
}

impl Receiver {
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let here = format!("http://{}", listener.local_addr().expect("an address"));
        let receiver = self.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let receiver = receiver.clone();
                let service = service_fn(move |request| receiver.clone().receive(request));
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::task::spawn_local(served);
            }
        });
        here
    }

    async fn receive(self, request: Request<Incoming>) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|whole| whole.to_bytes()).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let status = if path == "/fail" && self.failing.load(Ordering::SeqCst) { 500 } else { 200 };
        self.arrived.lock().expect("no panic").push(Arrival { path, headers: parts.headers, body });
        Ok(Response::builder().status(status).body("hello".into()).expect("a response"))
    }

    fn arrived(&self, path: &str, id: &str) -> Vec<Arrival> {
        let is = |arrival: &Arrival| {
            ["webhook-id", "svix-id"].iter().any(|name| arrival.headers.get(*name).is_some_and(|value| value == id))
        };
        self.arrived.lock().expect("no panic").iter().filter(|a| a.path == path && is(a)).cloned().collect()
    }

    /// What has arrived, once that is `count` or some seconds are over.
    async fn wait(&self, path: &str, id: &str, count: usize) -> Vec<Arrival> {
        eventually(async || Ok(self.arrived(path, id)), |found| found.len() >= count).await.unwrap_or_default()
    }
}

/// Reads until it is as wanted; answers the last reading.
async fn eventually<T>(read: impl AsyncFn() -> Result<T>, good: impl Fn(&T) -> bool) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(8);
    loop {
        let value = read().await?;
        if good(&value) || Instant::now() > end {
            return Ok(value);
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

#[derive(Default)]
struct Checks(Vec<String>);

impl Checks {
    fn check(&mut self, what: &str, good: bool) {
        println!("  {} {what}", if good { "ok      " } else { "MISMATCH" });
        if !good {
            self.0.push(what.to_owned());
        }
    }

    fn refused<T>(&mut self, what: &str, answer: Result<T>, status: u16) {
        let found = match &answer {
            Err(Error::Http(content)) => content.status.as_u16(),
            Err(Error::Validation(content)) => content.status.as_u16(),
            _ => 0,
        };
        let body = match &answer {
            Err(Error::Http(content)) => content.payload.is_some(),
            Err(Error::Validation(content)) => content.payload.is_some(),
            _ => false,
        };
        self.check(&format!("{what}: {status}, with a body that the library knows"), found == status && body);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let checks = tokio::task::LocalSet::new()
        .run_until(async {
            let mut checks = Checks::default();
            if let Err(error) = life(&mut checks).await {
                println!("  MISMATCH the life ended early: {error:?}");
                checks.0.push("the life ended early".to_owned());
            }
            checks
        })
        .await;
    println!("rust: {} mismatches", checks.0.len());
    checks.0.iter().for_each(|failure| println!("  {failure}"));
    std::process::exit(i32::from(!checks.0.is_empty()));
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is set"))
}

fn client(token: String) -> Svix {
    Svix::new(token, Some(SvixOptions { server_url: Some(variable("BELLWIRE_URL")), ..SvixOptions::default() }))
}

fn message(event_type: &str, payload: Value) -> MessageIn {
    MessageIn::new(event_type.to_owned(), payload)
}

async fn life(checks: &mut Checks) -> Result<()> {
    let receiver = Receiver::default();
    receiver.failing.store(true, Ordering::SeqCst);
    let here = receiver.start().await;
    let svix = client(variable("BELLWIRE_TOKEN"));
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let uid = format!("rust-{}", clock.as_nanos());

    println!("application");
    let named = |name: &str| ApplicationIn { uid: Some(uid.clone()), ..ApplicationIn::new(name.to_owned()) };
    let metadata = BTreeMap::from([("plan".to_owned(), "gold".to_owned())]);
    let given = ApplicationIn { metadata: Some(metadata.clone()), ..named("Life") };
    let made = svix.application().create(given, None).await?;
    let app = made.id.clone();
    checks.check("create", app.starts_with("app_") && made.uid.as_ref() == Some(&uid) && made.metadata == metadata);
    checks.check("get by uid", svix.application().get(uid.clone()).await?.id == app);
    checks.check("get_or_create", svix.application().get_or_create(named("Other"), None).await?.id == app);
    checks.refused("the same uid again", svix.application().create(named("Life"), None).await, 409);
    let upserted = svix.application().upsert(app.clone(), named("Renamed")).await?;
    checks.check("upsert", upserted.name == "Renamed" && upserted.metadata.is_empty());
    let every = ApplicationListOptions { limit: Some(250), ..Default::default() };
    checks.check("list", svix.application().list(Some(every)).await?.data.iter().any(|a| a.id == app));

    println!("event types");
    for name in ["invoice.paid", "invoice.sent"] {
        let made = svix.event_type().create(EventTypeIn::new(name.to_owned(), "happened".to_owned()), None).await;
        if made.is_err() {
            checks.refused("it exists from another life", made, 409);
        }
    }
    checks.check("get", svix.event_type().get("invoice.paid".to_owned()).await?.name == "invoice.paid");
    let bad = EventTypeIn::new("no spaces".to_owned(), "x".to_owned());
    checks.refused("a bad name", svix.event_type().create(bad, None).await, 422);

    println!("endpoints");
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned();
    let set = |name: &str| Some([name.to_owned()].into());
    let at = |path: &str| EndpointIn::new(format!("{here}{path}"));
    let given = EndpointIn {
        secret: Some(secret.clone()),
        uid: Some("main".to_owned()),
        throttle_rate: Some(1_000),
        ..at("/main")
    };
    let main = svix.endpoint().create(app.clone(), given, None).await?;
    checks.check("create", main.id.starts_with("ep_") && main.throttle_rate == Some(1_000));
    checks.check("our secret is kept", svix.endpoint().get_secret(app.clone(), "main".to_owned()).await?.key == secret);
    let given = EndpointIn { event_types: set("invoice.paid"), ..at("/fail") };
    let broken = svix.endpoint().create(app.clone(), given, None).await?.id;
    let given = EndpointIn { event_types: set("invoice.sent"), channels: set("north"), ..at("/filtered") };
    svix.endpoint().create(app.clone(), given, None).await?;
    checks.check("list holds all three", svix.endpoint().list(app.clone(), None).await?.data.len() == 3);
    let nonsense = EndpointIn::new("nonsense".to_owned());
    checks.refused("not a URL", svix.endpoint().create(app.clone(), nonsense, None).await, 422);
    let patch =
        EndpointPatch { description: Some("patched".to_owned()), throttle_rate: JsOption::Null, ..Default::default() };
    let patched = svix.endpoint().patch(app.clone(), main.id.clone(), patch).await?;
    checks.check("patch, with null to unset", patched.description == "patched" && patched.throttle_rate.is_none());

    println!("headers");
    let headers =
        [("X-One", "1"), ("Authorization", "Bearer x")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    svix.endpoint().set_headers(app.clone(), main.id.clone(), EndpointHeadersIn::new(headers.into())).await?;
    let shown = svix.endpoint().get_headers(app.clone(), main.id.clone()).await?;
    checks.check("shown, the sensitive one only named", shown.headers.len() == 1 && shown.sensitive.len() == 1);

    println!("a message arrives");
    let payload = json!({ "amount": 12.5, "text": "ünïcode ✓", "nested": { "list": [1, null, true] } });
    let given =
        MessageIn { event_id: Some("event-1".to_owned()), tags: set("t1"), ..message("invoice.paid", payload.clone()) };
    let first = svix.message().create(app.clone(), given.clone(), None).await?.id;
    let found = receiver.wait("/main", &first, 1).await;
    checks.check("arrives once", found.len() == 1);
    let Arrival { headers, body, .. } = &found[0];
    checks
        .check("the payload is what we sent", serde_json::from_slice::<Value>(body).is_ok_and(|body| body == payload));
    let hook = |secret: &str| Webhook::new(secret).expect("a secret");
    checks.check("svix::Webhook verifies it", hook(&secret).verify(body, headers).is_ok());
    checks.check("a changed body is refused", hook(&secret).verify(&[body, &b" "[..]].concat(), headers).is_err());
    checks.check("the custom header is there", headers.get("x-one").is_some_and(|value| value == "1"));
    let given_north = MessageIn { channels: set("north"), ..message("invoice.sent", json!({ "n": 1 })) };
    let north = svix.message().create(app.clone(), given_north, None).await?.id;
    checks.check("filters: sent where type and channel match", receiver.wait("/filtered", &north, 1).await.len() == 1);
    checks.refused("the same event id again", svix.message().create(app.clone(), given, None).await, 409);
    let key = || Some(MessageCreateOptions { idempotency_key: Some(uid.clone()), ..Default::default() });
    let one = svix.message().create(app.clone(), message("a.b", json!({ "x": 1 })), key()).await?;
    let two = svix.message().create(app.clone(), message("a.b", json!({ "x": 1 })), key()).await?;
    checks.check("the same idempotency key gives the same message", one.id == two.id);
    let other = svix.message().create(app.clone(), message("a.b", json!({ "x": 2 })), key()).await;
    checks.refused("with another body", other, 409);

    println!("reading messages");
    let with_content = || Some(MessageGetOptions { with_content: Some(true) });
    let got = svix.message().get(app.clone(), first.clone(), with_content()).await?;
    checks.check("get with content", got.payload == payload);
    let got = svix.message().get(app.clone(), first.clone(), None).await?;
    checks.check("get without content", got.payload == json!({}));
    for n in 0..7 {
        svix.message().create(app.clone(), message("page.turned", json!({ "n": n })), None).await?;
    }
    let every = MessageListOptions { limit: Some(250), ..Default::default() };
    let every: Vec<_> = svix.message().list(app.clone(), Some(every)).await?.data.into_iter().map(|m| m.id).collect();
    let (mut paged, mut iterator) = (Vec::new(), None);
    loop {
        let options = MessageListOptions { limit: Some(3), iterator, ..Default::default() };
        let page = svix.message().list(app.clone(), Some(options)).await?;
        paged.extend(page.data.into_iter().map(|m| m.id));
        if page.done {
            break;
        }
        iterator = page.iterator;
    }
    checks.check("page by page is the whole", paged == every);
    let typed = MessageListOptions { event_types: set("invoice.paid"), ..Default::default() };
    checks.check("by event type", svix.message().list(app.clone(), Some(typed)).await?.data.len() == 1);

    println!("attempts");
    let of_broken = async || svix.message_attempt().list_by_endpoint(app.clone(), broken.clone(), None).await;
    let failed = eventually(of_broken, |page| page.data.len() >= 3).await?.data;
    let is_failed = failed.iter().all(|a| a.status == MessageStatus::Fail && a.response_status_code == 500);
    checks.check("three failed attempts by the schedule", failed.len() == 3 && is_failed);
    let to_main = || {
        Some(MessageAttemptListByMsgOptions {
            endpoint_id: Some(main.id.clone()),
            with_content: Some(true),
            ..Default::default()
        })
    };
    let good = svix.message_attempt().list_by_msg(app.clone(), first.clone(), to_main()).await?.data;
    checks.check(
        "success, with the response",
        good.len() == 1 && good[0].response == "hello" && good[0].status == MessageStatus::Success,
    );
    let got = svix.message_attempt().get(app.clone(), first.clone(), good[0].id.clone(), None).await?;
    checks.check("get one", got.id == good[0].id);
    let destinations = svix.message_attempt().list_attempted_destinations(app.clone(), first.clone(), None).await?;
    checks.check("destinations", destinations.data.len() == 2);
    let messages = svix.message_attempt().list_attempted_messages(app.clone(), broken.clone(), None).await?;
    checks.check("attempted messages", messages.data.len() == 1);

    println!("resend, recover and replay");
    receiver.failing.store(false, Ordering::SeqCst);
    svix.message_attempt().resend(app.clone(), first.clone(), broken.clone(), None).await?;
    checks.check("resend sends once more", receiver.wait("/fail", &first, 4).await.len() == 4);
    receiver.failing.store(true, Ordering::SeqCst);
    let since = made.created_at;
    let lost = svix.message().create(app.clone(), message("invoice.paid", json!({ "lost": 1 })), None).await?.id;
    let stats = async || svix.endpoint().get_stats(app.clone(), broken.clone(), None).await;
    eventually(stats, |stats| stats.fail == 1).await?;
    receiver.failing.store(false, Ordering::SeqCst);
    let task = svix.endpoint().recover(app.clone(), broken.clone(), RecoverIn::new(since), None).await?;
    checks.check("recover is a task", task.id.starts_with("qtask_"));
    checks.check("  and sends what failed", receiver.wait("/fail", &lost, 4).await.len() == 4);
    let get = async || svix.background_task().get(task.id.clone()).await;
    let finished = eventually(get, |task| task.status == BackgroundTaskStatus::Finished).await?;
    checks.check("  and the task is finished", finished.status == BackgroundTaskStatus::Finished);
    let late = svix
        .endpoint()
        .create(app.clone(), EndpointIn { event_types: set("invoice.paid"), ..at("/late") }, None)
        .await?
        .id;
    svix.endpoint().replay_missing(app.clone(), late, ReplayIn::new(since), None).await?;
    let missed = [receiver.wait("/late", &first, 1).await, receiver.wait("/late", &lost, 1).await];
    checks.check("replay-missing sends what a new endpoint never got", missed.iter().all(|found| found.len() == 1));
    let stats = eventually(stats, |stats| stats.success == 2).await?;
    checks.check("stats: all succeeded", stats.success == 2 && stats.fail == 0);

    println!("secrets");
    svix.endpoint().rotate_secret(app.clone(), main.id.clone(), EndpointSecretRotateIn::default(), None).await?;
    let fresh = svix.endpoint().get_secret(app.clone(), main.id.clone()).await?.key;
    let sent = svix.message().create(app.clone(), message("a.b", json!({})), None).await?.id;
    let found = receiver.wait("/main", &sent, 1).await;
    let verifies = |key: &str| hook(key).verify(&found[0].body, &found[0].headers).is_ok();
    checks.check("in the grace period both verify", fresh != secret && verifies(&fresh) && verifies(&secret));

    println!("an application's token");
    let access = svix.authentication().app_portal_access(app.clone(), AppPortalAccessIn::default(), None).await?;
    let portal = client(access.token);
    checks.check("reads its own application", portal.endpoint().list(app.clone(), None).await?.data.len() == 4);
    checks.refused("  and lists no applications", portal.application().list(None).await, 403);
    portal.authentication().logout(None).await?;
    checks.refused("  and is nothing after its logout", portal.endpoint().list(app.clone(), None).await, 401);
    checks.refused("a wrong token", client("nonsense".to_owned()).application().list(None).await, 401);

    println!("the end");
    svix.message().expunge_content(app.clone(), first.clone()).await?;
    checks.check(
        "expunged",
        svix.message().get(app.clone(), first, with_content()).await?.payload == json!({ "expired": true }),
    );
    svix.application().delete(app.clone()).await?;
    checks.refused("the application is gone", svix.application().get(app).await, 404);
    Ok(())
}
