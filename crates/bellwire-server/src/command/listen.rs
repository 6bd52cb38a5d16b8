//! `bellwire listen`: webhooks at a laptop, through a server elsewhere. It takes deliveries of a pipe endpoint, passes each on to a
//! local URL with the headers that a push would have, tells the server what was answered, and shows it all, one line each.
//!
//! The server keeps what was not acknowledged, so a lid that is closed, a network that is gone or a server that restarts loses nothing:
//! it goes on where it was.

mod forward;
mod pipe;
mod screen;

use super::http::Api;
use super::{Hint, server::Address};
use anyhow::{Context as _, bail};
use bellwire_config::{Config, Place, no_color, parse_duration};
use bellwire_model::Timestamp;
use bytes::Bytes;
use forward::{Forward, Went};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use pipe::{Delivery, Pipe, Received};
use screen::{Line, Screen};
use serde::Deserialize;
use std::io::{self, IsTerminal as _};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Webhooks that are on their way to the local URL at a time.
const AT_ONCE: usize = 32;
/// A local answer that takes longer counts as none.
const TIMEOUT_DEFAULT: &str = "30s";
/// Between two tries to reach the server.
const AGAIN_MIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// While nobody is there at the local URL, it is looked again after this;
const ABSENT_WAIT: Duration = Duration::from_secs(2);
/// for no longer than this, or the program would find the signature too old.
const ABSENT_MAX: Duration = Duration::from_secs(240);
/// A webhook that got no answer comes again after this.
const UNANSWERED_WAIT_SECONDS: u64 = 2;

/// Bring webhooks from a server to this machine, and show them.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire listen --application my-app --forward http://localhost:3000/webhooks\n  bellwire listen --source github --forward 3000 --secret $SECRET\n  bellwire listen --url https://hooks.example.com --token $TOKEN --filter invoice.paid\n  bellwire listen --replay 2h --json | jq .payload\n\nWithout --endpoint it makes an endpoint of its own and takes it away at the end; the server does\nwhen nobody has listened for a day. With\n--endpoint it uses that pipe, or makes it, and leaves it: what comes while nobody listens\nwaits there. Address and token come from the settings or the data folder."
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
                    Received::MadeAgain => {
                        again = Duration::ZERO;
                        screen.note("nobody listened for so long that the endpoint was removed, with what waited there: here is another");
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
        Some(forward) => Some(pass_on(pipe, forward, screen, &delivery, bytes).await),
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

/// Passes a webhook on, as soon as somebody is there to take it: a program that is being started costs no attempts.
async fn pass_on(pipe: &Pipe<'_>, forward: &Forward, screen: Screen, delivery: &Delivery, bytes: Bytes) -> Went {
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
        if began.elapsed() >= ABSENT_MAX || !pipe.keep(&delivery.receipt).await {
            return Went::Absent(why);
        }
    }
}
