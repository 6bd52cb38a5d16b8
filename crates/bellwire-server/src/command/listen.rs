//! `bellwire listen`: webhooks at a laptop, through a server elsewhere. It takes deliveries of a pipe endpoint, passes each on to a
//! local URL with the headers that a push would have, tells the server what was answered, and shows it all, one line each.
//!
//! The server keeps what was not acknowledged, so a lid that is closed, a network that is gone or a server that restarts loses nothing:
//! it goes on where it was.

mod screen;

use super::http::{Answer, Api, client};
use super::{Hint, input, server::Address};
use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use bellwire_config::{Config, Place, no_color, parse_duration};
use bellwire_egress::{Client, Request, SendError, Target, TlsSettings};
use bellwire_model::Timestamp;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use rand_chacha::rand_core::RngCore as _;
use screen::{Line, Screen};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// The server keeps the request for so long if there is nothing.
const WAIT: Duration = Duration::from_secs(20);
/// Webhooks that are on their way to the local URL at a time.
const AT_ONCE: usize = 32;
/// A local answer that takes longer counts as none.
const TIMEOUT_DEFAULT: &str = "30s";
/// Of a local answer, so much is told to the server.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// At the end, the server has so long to answer: who pressed Ctrl-C waits for it.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// Between two tries to reach the server.
const AGAIN_MIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// While nobody is there at the local URL, it is looked again after this;
const ABSENT_WAIT: Duration = Duration::from_secs(2);
/// for no longer than this, or the program would find the signature too old.
const ABSENT_MAX: Duration = Duration::from_secs(240);
/// A webhook that got no answer comes again after this.
const UNANSWERED_WAIT_SECONDS: u64 = 2;
/// A webhook is ours for as long as its local answer may take, and for this: to be told of, or to wait for a program that is being started.
const LEASE_BEYOND: Duration = Duration::from_secs(30);
/// The server leases nothing for longer.
const LEASE_SECONDS_MAX: u64 = 12 * 3600;

/// Bring webhooks from a server to this machine, and show them.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire listen --application my-app --forward http://localhost:3000/webhooks\n  bellwire listen --source github --forward 3000 --secret $SECRET\n  bellwire listen --url https://hooks.example.com --token $TOKEN --filter invoice.paid\n  bellwire listen --replay 2h --json | jq .payload\n\nWithout --endpoint it makes an endpoint of its own and takes it away at the end. With\n--endpoint it uses that pipe, or makes it, and leaves it: what comes while nobody listens\nwaits there. Address and token come from the settings or the data folder."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Pass each webhook on to this URL, or port of this machine, and tell the server what is answered
    #[arg(long, value_name = "URL")]
    forward: Option<String>,
    /// The application, by id or uid [default: the only one there is]
    #[arg(long, visible_alias = "app", value_name = "APP")]
    application: Option<String>,
    /// The application that this source's webhooks belong to: a source by id or uid
    #[arg(long, value_name = "SOURCE", conflicts_with = "application")]
    source: Option<String>,
    /// What webhooks are signed with, whsec_… [default: a new secret, which is shown]
    #[arg(long, value_name = "SECRET", conflicts_with = "endpoint")]
    secret: Option<String>,
    /// The pipe endpoint, by id or uid
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Option<String>,
    /// Only webhooks of this event type; repeat it
    #[arg(long, value_name = "TYPE", conflicts_with = "endpoint")]
    filter: Vec<String>,
    /// First what was accepted since: 30m, 2h, or a time such as 2026-01-31T09:30:00Z
    #[arg(long, value_name = "SINCE")]
    replay: Option<String>,
    /// What fails locally comes again, as the pipe has it
    #[arg(long)]
    retry: bool,
    /// How long a local answer may take
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = TIMEOUT_DEFAULT)]
    timeout: Duration,
    /// End after so many webhooks
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
    /// One JSON object for each webhook
    #[arg(long)]
    json: bool,
    #[command(flatten, next_help_heading = "The server")]
    server: Address,
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).ok_or("expected a duration such as 500ms, 30s or 5m")
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.place.clone())?;
    let api = arguments.server.api(&config, bellwire_config::organisation_default())?;
    super::block_on(async {
        let forward = arguments.forward.as_deref().map(|url| Forward::new(url, arguments.timeout)).transpose()?;
        let since = arguments.replay.as_deref().map(since).transpose()?;
        let of_source = match &arguments.source {
            Some(source) => Some(api.get::<SourceOut>(&format!("/source/{source}")).await?.app_id),
            None => None,
        };
        let application = application(&api, arguments.application.as_deref().or(of_source.as_deref())).await?;
        let pipe = Pipe::open(&api, &application, &arguments).await?;
        let screen = Screen { colour: io::stdout().is_terminal() && !no_color(), json: arguments.json };
        screen.begin(&application, &pipe.name, forward.as_ref().map(|forward| forward.url.as_str()));
        if let Some(secret) = pipe.new_secret(&arguments).await {
            screen.secret(&secret);
        }
        let listened = until_interrupted(async {
            if let Some(since) = since {
                pipe.replay(since).await?;
            }
            listen(&pipe, forward.as_ref(), screen, &arguments).await
        });
        let listened = listened.await;
        let closed = pipe.close().await;
        listened.and(closed).map(|()| ExitCode::SUCCESS)
    })
}

/// What `--replay` says.
fn since(text: &str) -> anyhow::Result<Timestamp> {
    match parse_duration(text) {
        Some(ago) => Ok(bellwire_node::clock::wall().minus(ago)),
        None => text.parse().ok().context(Hint::new(
            format!("--replay: {text} is neither a duration nor a time"),
            "such as 30m, 2h, 1d or 2026-01-31T09:30:00Z",
        )),
    }
}

/// Ctrl-C is how it usually ends.
async fn until_interrupted(listening: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        result = listening => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    }
}

#[derive(Deserialize)]
struct Named {
    id: String,
    uid: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceOut {
    app_id: String,
}

#[derive(Deserialize)]
struct List {
    data: Vec<Named>,
}

/// The application that was named, or the only one.
async fn application(api: &Api, wanted: Option<&str>) -> anyhow::Result<String> {
    if let Some(wanted) = wanted {
        let found: Named = api.get(&format!("/app/{wanted}")).await?;
        return Ok(found.uid.unwrap_or(found.id));
    }
    let List { data } = api.get("/app?limit=10").await?;
    match data.as_slice() {
        [one] => Ok(one.uid.clone().unwrap_or_else(|| one.id.clone())),
        [] => {
            bail!(Hint::new("the server has no application yet", "make one with POST /api/v1/app, then listen to it"))
        }
        several => {
            let names: Vec<_> = several
                .iter()
                .map(|one| one.uid.clone().or_else(|| one.name.clone()).unwrap_or_else(|| one.id.clone()))
                .collect();
            bail!(Hint::new(
                "the server has more than one application",
                format!("say which with --application: {}", names.join(", "))
            ))
        }
    }
}

#[derive(Deserialize)]
struct SecretOut {
    key: String,
}

#[derive(Deserialize)]
struct EndpointOut {
    kind: Option<String>,
    pipe: Option<PipeOut>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PipeOut {
    max_attempts: u32,
}

/// The endpoint that is listened to.
struct Pipe<'a> {
    api: &'a Api,
    path: String,
    name: String,
    /// Made for this, and taken away after it.
    is_temporary: bool,
    /// The last attempt at a webhook has this number.
    attempts_max: Cell<u32>,
    /// For how long a webhook is ours.
    lease_seconds: u64,
    /// Receipts of webhooks that are here and of which the server was told nothing yet.
    out: RefCell<BTreeSet<String>>,
}

impl<'a> Pipe<'a> {
    async fn open(api: &'a Api, application: &str, arguments: &Arguments) -> anyhow::Result<Pipe<'a>> {
        let is_temporary = arguments.endpoint.is_none();
        let name = match &arguments.endpoint {
            Some(name) => name.clone(),
            None => format!("listen-{:08x}", input::chance()?.next_u32()),
        };
        let path = format!("/app/{application}/endpoint/{name}");
        let lease_seconds = (arguments.timeout + LEASE_BEYOND).as_secs().min(LEASE_SECONDS_MAX);
        let attempts_max = Cell::new(u32::MAX);
        let pipe = Pipe { api, path, name, is_temporary, attempts_max, lease_seconds, out: RefCell::default() };
        if !is_temporary {
            let found = api.call(Method::GET, &pipe.path, Bytes::new()).await?;
            if found.is_success() {
                let EndpointOut { kind, pipe: settings } =
                    serde_json::from_slice(&found.body).context("an endpoint")?;
                ensure!(
                    kind.as_deref() == Some("pipe"),
                    Hint::new(
                        format!("the endpoint {} is not a pipe", pipe.name),
                        "name another, or turn it into one with PATCH and {\"kind\":\"pipe\"}: then what it is owed waits for whoever listens"
                    )
                );
                pipe.knows(settings);
                return Ok(pipe);
            }
            ensure!(found.status == 404, "the endpoint {} cannot be read: {}", pipe.name, found.reason());
        }
        let mut new = serde_json::json!({ "uid": pipe.name, "kind": "pipe", "description": "of `bellwire listen`" });
        if !arguments.filter.is_empty() {
            new["eventTypes"] = arguments.filter.as_slice().into();
        }
        if let Some(secret) = &arguments.secret {
            new["secret"] = secret.as_str().into();
        }
        let path = format!("/app/{application}/endpoint");
        let made = api.call(Method::POST, &path, new.to_string().into()).await?;
        let fault: serde_json::Value = serde_json::from_slice(&made.body).unwrap_or_default();
        if made.status == 422 && fault["detail"][0]["loc"][1] == "eventTypes" {
            bail!(Hint::new(
                format!("--filter: {}", made.reason()),
                "a filter names event types of the catalogue: POST /api/v1/event-type makes one; without --filter everything is shown"
            ));
        }
        if !made.is_success() {
            return Err(super::http::refused(&Method::POST, &path, &made));
        }
        let EndpointOut { pipe: settings, .. } = serde_json::from_slice(&made.body).context("an endpoint")?;
        pipe.knows(settings);
        Ok(pipe)
    }

    fn knows(&self, settings: Option<PipeOut>) {
        self.attempts_max.set(settings.map_or(u32::MAX, |settings| settings.max_attempts));
    }

    /// What a local program verifies with, if it is new and may be read: a secret that was there before is its owner's to show.
    async fn new_secret(&self, arguments: &Arguments) -> Option<String> {
        if !self.is_temporary || arguments.secret.is_some() {
            return None;
        }
        let SecretOut { key } = self.api.get(&format!("{}/secret", self.path)).await.ok()?;
        Some(key)
    }

    /// Has the server put what it accepted earlier before what comes.
    async fn replay(&self, since: Timestamp) -> anyhow::Result<()> {
        let body = serde_json::json!({ "since": since.to_string() }).to_string();
        let _: serde_json::Value = self.api.post(&format!("{}/replay-missing", self.path), body).await?;
        Ok(())
    }

    /// What waits, as soon as something does; nothing after a while.
    async fn receive(&self, limit: usize) -> anyhow::Result<Received> {
        let body =
            serde_json::json!({ "limit": limit, "wait": WAIT.as_secs(), "lease": self.lease_seconds }).to_string();
        let answer = self.api.call(Method::POST, &format!("{}/pull/receive", self.path), body.into()).await;
        Ok(match answer {
            Err(error) => Received::Unreachable(format!("{error:#}")),
            Ok(answer) if answer.is_success() => {
                let page: Page =
                    serde_json::from_slice(&answer.body).context("the server's answer is not as expected")?;
                Received::Deliveries(page.data)
            }
            Ok(answer) if answer.status >= 500 || answer.status == 429 => Received::Unreachable(answer.reason()),
            Ok(answer) => bail!(refused(&answer, &self.name)),
        })
    }

    /// Tells the server how it went. What does not arrive is told by silence: the webhook comes again.
    async fn tell(&self, verb: &str, body: &serde_json::Value) -> Result<(), String> {
        let path = format!("{}/pull/{verb}", self.path);
        match self.api.call(Method::POST, &path, body.to_string().into()).await {
            Ok(answer) if answer.is_success() => {
                let said: Told = serde_json::from_slice(&answer.body).unwrap_or_default();
                said.data.into_iter().find(|one| one.status >= 400).map_or(Ok(()), |one| Err(one.detail))
            }
            Ok(answer) => Err(answer.reason()),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    /// Whether a webhook is still ours, and stays so. A server that cannot be asked may know it yet when it is back.
    async fn keep(&self, receipt: &str) -> bool {
        let body = serde_json::json!({ "receipts": [receipt], "lease": self.lease_seconds });
        let path = format!("{}/pull/extend", self.path);
        match self.api.call(Method::POST, &path, body.to_string().into()).await {
            Ok(answer) if answer.is_success() => {
                let said: Told = serde_json::from_slice(&answer.body).unwrap_or_default();
                said.data.iter().all(|one| one.status < 400)
            }
            Ok(answer) => answer.status >= 500 || answer.status == 429,
            Err(_) => true,
        }
    }

    /// Passes a webhook on, as soon as somebody is there to take it: a program that is being started costs no attempts.
    async fn pass_on(&self, forward: &Forward, screen: Screen, delivery: &Delivery, bytes: Bytes) -> Went {
        let began = Instant::now();
        loop {
            let went = forward.pass_on(delivery, bytes.clone()).await;
            let Went::Absent(why) = went else {
                if forward.is_absent.take() {
                    screen.note(&format!("{} is there again", forward.url));
                }
                return went;
            };
            if !forward.is_absent.replace(true) {
                screen.note(&format!("nobody is there at {}, so webhooks wait here: {why}", forward.url));
            }
            tokio::time::sleep(ABSENT_WAIT).await;
            if began.elapsed() >= ABSENT_MAX || !self.keep(&delivery.receipt).await {
                return Went::Absent(why);
            }
        }
    }

    async fn close(&self) -> anyhow::Result<()> {
        if !self.is_temporary {
            // What is still here goes to whoever listens next, now and not only when its lease ends.
            let out: Vec<String> = self.out.take().into_iter().collect();
            if !out.is_empty() {
                let said = serde_json::json!({ "receipts": out, "delay": 0, "reason": "bellwire listen was ended" });
                let _ = tokio::time::timeout(CLOSE_MAX, self.tell("nack", &said)).await;
            }
            return Ok(());
        }
        let stays = || {
            Hint::new(
                format!("the endpoint {} is still there", self.name),
                format!("DELETE /api/v1{} takes it away", self.path),
            )
        };
        let deleted = tokio::time::timeout(CLOSE_MAX, self.api.call(Method::DELETE, &self.path, Bytes::new())).await;
        let answer = deleted.context("no answer in time").and_then(|answer| answer).with_context(stays)?;
        ensure!(
            answer.is_success() || answer.status == 404,
            "the endpoint {} could not be taken away: {}",
            self.name,
            answer.reason()
        );
        Ok(())
    }
}

fn refused(answer: &Answer, name: &str) -> anyhow::Error {
    let what = format!("the endpoint {name} cannot be listened to ({}): {}", answer.status, answer.reason());
    match answer.status {
        404 => Hint::new(what, "was it deleted? start `bellwire listen` again to make another").into(),
        401 | 403 => Hint::new(what, "--token needs one that may take what waits at a pipe").into(),
        _ => anyhow::anyhow!(what),
    }
}

/// What became of receipts.
#[derive(Default, Deserialize)]
struct Told {
    data: Vec<ToldOne>,
}

#[derive(Deserialize)]
struct ToldOne {
    status: u16,
    #[serde(default)]
    detail: String,
}

enum Received {
    Deliveries(Vec<Delivery>),
    /// The server, or the way to it, is gone for now.
    Unreachable(String),
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Delivery>,
}

/// A webhook that was handed to us.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delivery {
    receipt: String,
    attempt: u32,
    id: String,
    event_type: String,
    timestamp: String,
    payload: Box<RawValue>,
    headers: BTreeMap<String, String>,
    body: Option<String>,
    body_base64: Option<String>,
}

impl Delivery {
    /// The payload, byte for byte as it was accepted.
    fn bytes(&self) -> Bytes {
        if let Some(text) = &self.body {
            return Bytes::copy_from_slice(text.as_bytes());
        }
        let decoded =
            self.body_base64.as_ref().and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        match decoded {
            Some(bytes) => bytes.into(),
            None => Bytes::copy_from_slice(self.payload.get().as_bytes()),
        }
    }
}

/// Takes webhooks until it is told to end, or has had enough of them.
async fn listen(
    pipe: &Pipe<'_>,
    forward: Option<&Forward>,
    screen: Screen,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let mut running = FuturesUnordered::new();
    let (mut left, mut again) = (arguments.count.unwrap_or(u64::MAX), Duration::ZERO);
    // Never given up halfway: what the server has handed out by then would be nobody's until its lease ends.
    let mut receiving: Option<Pin<Box<dyn Future<Output = anyhow::Result<Received>> + '_>>> = None;
    loop {
        if left == 0 && running.is_empty() {
            return Ok(());
        }
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(AT_ONCE - running.len());
        if receiving.is_none() && room > 0 {
            let wait = again;
            receiving = Some(Box::pin(async move {
                tokio::time::sleep(wait).await;
                pipe.receive(room).await
            }));
        }
        tokio::select! {
            received = async { receiving.as_mut().expect("there is one").await }, if receiving.is_some() => {
                receiving = None;
                match received? {
                    Received::Deliveries(deliveries) => {
                        if !std::mem::take(&mut again).is_zero() {
                            screen.note("the server is back");
                        }
                        left -= deliveries.len() as u64;
                        let handled = deliveries.into_iter().map(|one| handle(pipe, forward, screen, arguments, one));
                        running.extend(handled);
                    }
                    Received::Unreachable(why) => {
                        if again.is_zero() {
                            screen.note(&format!("the server cannot be reached, trying again: {why}"));
                        }
                        again = (again * 2).clamp(AGAIN_MIN, AGAIN_MAX);
                    }
                }
            }
            Some(shown) = running.next(), if !running.is_empty() => match shown {
                // Nobody looks any more, as with `| head`.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                shown => shown.context("what came cannot be shown")?,
            },
        }
    }
}

/// Passes one webhook on, tells the server, and shows it.
///
/// # Errors
/// It cannot be shown.
async fn handle(
    pipe: &Pipe<'_>,
    forward: Option<&Forward>,
    screen: Screen,
    arguments: &Arguments,
    delivery: Delivery,
) -> io::Result<()> {
    pipe.out.borrow_mut().insert(delivery.receipt.clone());
    let bytes = delivery.bytes();
    let size = bytes.len();
    let went = match forward {
        Some(forward) => Some(pipe.pass_on(forward, screen, &delivery, bytes).await),
        None => None,
    };
    let receipts = [&delivery.receipt];
    let told = match &went {
        None => {
            let result = serde_json::json!({ "status": 200, "body": "shown by bellwire listen" });
            pipe.tell("ack", &serde_json::json!({ "receipts": receipts, "result": result })).await
        }
        Some(Went::Answered { status, body, took }) => {
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            let result = serde_json::json!({ "status": status, "body": body, "durationMs": millis });
            let is_taken = (200..300).contains(status);
            let mut said = serde_json::json!({ "receipts": receipts, "result": result });
            if !is_taken && !arguments.retry {
                said["dead"] = true.into();
            }
            pipe.tell(if is_taken { "ack" } else { "nack" }, &said).await
        }
        Some(Went::Absent(why) | Went::Nowhere(why)) => {
            let reason: String = why.chars().take(500).collect();
            let said = serde_json::json!({ "receipts": receipts, "delay": UNANSWERED_WAIT_SECONDS, "reason": reason });
            pipe.tell("nack", &said).await
        }
    };
    pipe.out.borrow_mut().remove(&delivery.receipt);
    screen.line(&Line {
        delivery: &delivery,
        size,
        went: went.as_ref(),
        is_last: delivery.attempt >= pipe.attempts_max.get(),
        told: told.as_ref().err().map(String::as_str),
    })
}

/// What became of a webhook at the local URL.
enum Went {
    Answered {
        status: u16,
        body: String,
        took: Duration,
    },
    /// It has not been sent: nobody is there.
    Absent(String),
    /// It has been sent, and was not answered.
    Nowhere(String),
}

/// The local URL.
struct Forward {
    client: Client,
    target: Target,
    /// As it is shown.
    url: String,
    timeout: Duration,
    /// Nobody was there the last time, and that was said.
    is_absent: Cell<bool>,
}

impl Forward {
    fn new(url: &str, timeout: Duration) -> anyhow::Result<Forward> {
        let url = match url {
            whole if whole.contains("://") => whole.to_owned(),
            port if port.parse::<u16>().is_ok() => format!("http://localhost:{port}"),
            number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                bail!("--forward: {number} is neither a URL nor a port, which is 65535 at most")
            }
            host => format!("http://{host}"),
        };
        let target = Target::parse(&url).with_context(|| format!("--forward: {url} is not a URL to post to"))?;
        Ok(Forward { client: client(TlsSettings::default())?, target, url, timeout, is_absent: Cell::new(false) })
    }

    async fn pass_on(&self, delivery: &Delivery, body: Bytes) -> Went {
        let began = Instant::now();
        let request = Request {
            method: Method::POST,
            target: self.target.clone(),
            headers: headers(&delivery.headers),
            body,
            deadline: self.timeout,
            response_body_max: ANSWER_BYTES_MAX,
        };
        match self.client.exchange(request).await {
            Ok(response) => Went::Answered {
                status: response.status,
                body: String::from_utf8_lossy(&response.body).into_owned(),
                took: began.elapsed(),
            },
            Err(error @ (SendError::Connect { .. } | SendError::Dns { .. })) => Went::Absent(error.operator_text()),
            Err(error) => Went::Nowhere(error.operator_text()),
        }
    }
}

/// The headers as they came; what belongs to a connection is left to the connection.
fn headers(all: &BTreeMap<String, String>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(all.len());
    for (name, value) in all {
        let of_connection = ["accept-encoding", "keep-alive", "proxy-connection", "trailer"].contains(&name.as_str());
        if let (Ok(name), Ok(value), false) = (HeaderName::try_from(name), HeaderValue::try_from(value), of_connection)
        {
            headers.insert(name, value);
        }
    }
    headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(concat!(
        "Bellwire/",
        env!("CARGO_PKG_VERSION"),
        " (listen)"
    )));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(rest: &str) -> Delivery {
        let text = format!(
            r#"{{"receipt":"r","attempt":1,"id":"msg_1","eventType":"a.b","timestamp":"2026-01-01T00:00:00Z","headers":{{}},{rest}}}"#
        );
        serde_json::from_str(&text).expect("a delivery")
    }

    #[test]
    fn the_bytes_are_those_that_were_accepted() {
        let json = delivery(r#""payload":{ "big": 12345678901234567890123, "b":1.0 }"#);
        assert_eq!(&json.bytes()[..], br#"{ "big": 12345678901234567890123, "b":1.0 }"#);
        let text = delivery(r#""payload":{"rawPayload":"<a/>"},"body":"<a/>""#);
        assert_eq!(&text.bytes()[..], b"<a/>");
        let binary = delivery(r#""payload":{"rawPayload":"?"},"bodyBase64":"AP8=""#);
        assert_eq!(&binary.bytes()[..], [0, 255]);
    }

    #[test]
    fn a_port_or_a_host_is_enough_to_pass_on_to() {
        let url = |text| Forward::new(text, Duration::ZERO).map(|forward| forward.url).ok();
        assert_eq!(url("3000").as_deref(), Some("http://localhost:3000"));
        assert_eq!(url("localhost:3000/hooks").as_deref(), Some("http://localhost:3000/hooks"));
        assert_eq!(url("https://example.com/a").as_deref(), Some("https://example.com/a"));
        assert_eq!(url("70000:1:2"), None);
        assert_eq!(url("70000"), None, "it would be an address, of nobody that is meant");
    }

    #[test]
    fn headers_go_along_but_for_those_of_a_connection() {
        let all = [("webhook-id", "msg_1"), ("accept-encoding", "gzip"), ("x bad", "y"), ("x-github-event", "push")];
        let all = all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let headers = headers(&all);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["webhook-id", "x-github-event", "user-agent"]
        );
    }
}
