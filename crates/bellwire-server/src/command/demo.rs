//! `bellwire demo`: the whole story in a few seconds, with nothing set up. A server on the embedded store, a receiver, real
//! webhooks of GitHub's from the one to the other, an endpoint that fails and recovers, and the ledger at the end.
//!
//! It reads neither settings nor environment, so that it runs anywhere and always the same. The receiver is on the loopback
//! address, which the demo's own server is allowed to call; nobody else's is.

mod payload;
mod receiver;
mod screen;

use super::{Hint, http::Api, input, ledger, send, server, token};
use anyhow::{Context as _, bail, ensure};
use bellwire_config::{self as config, Config};
use bellwire_model::{Ledger, RetrySchedule, Timestamp};
use bellwire_node::{clock, serve::Server};
use bytes::Bytes;
use http::Method;
use payload::{EXAMPLES, Example};
use rand_chacha::rand_core::RngCore as _;
use receiver::{Arrival, Endpoint};
use screen::Screen;
use serde::Deserialize;
use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, IsTerminal as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{sleep, timeout},
};

/// Tried first, so that what people copy from elsewhere works here.
const PORT: u16 = 8_071;
const APPLICATION: &str = "github-demo";
/// So that the eye can follow.
const PAUSE: Duration = Duration::from_millis(150);
/// For the waits between attempts the retry schedule is shortened to this.
const WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// All of it is over long before, or something is wrong.
const STORY_MAX: Duration = Duration::from_secs(30);
/// For the last outcomes to be written.
const LEDGER_MAX: Duration = Duration::from_secs(5);

/// See webhooks arrive: a server, a receiver and real payloads, with nothing set up.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire demo\n  bellwire demo --once\n\nIt stays up at the end, for you to try the API. With --once, or where there is no\nterminal, it ends after the story: with 0 if everything arrived and was verified,\notherwise with the reason."
)]
pub(crate) struct Arguments {
    /// End after the story
    #[arg(long)]
    once: bool,
    /// Keep everything in this folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the API listens [default: 127.0.0.1:8071, or any free port if that is taken]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let is_terminal = io::stdout().is_terminal();
    let screen = Screen { colour: is_terminal && !config::no_color() };
    let folder = Folder::take(arguments.data)?;
    let config = config(&folder.path, arguments.listen)?;
    let token = token::make(&config, bellwire_config::organisation_default(), None)?;
    let server = Server::start(&config, None).context("the demo's server cannot start")?;
    let url = format!("http://{}", server::reachable(server.address()));
    let stays = is_terminal && !arguments.once;
    let result = super::block_on(until_interrupted(async {
        let mut story = Story::begin(screen, &url, &token, &folder.path).await?;
        story.tell().await?;
        story.end(&url, &token, stays).await
    }));
    server.stop();
    result.map(|()| ExitCode::SUCCESS)
}

/// The data folder.
struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Folder {
    /// The user's, or a temporary one of a name that nobody can have taken before.
    fn take(wanted: Option<PathBuf>) -> anyhow::Result<Folder> {
        if let Some(path) = wanted {
            return Ok(Folder { path, is_temporary: false });
        }
        let name = format!("bellwire-demo-{:016x}", input::chance()?.next_u64());
        let path = config::temporary_folder().join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make the temporary folder {}", path.display()))?;
        Ok(Folder { path, is_temporary: true })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_temporary {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("warning: the temporary folder {} stays: {error}", self.path.display());
        }
    }
}

/// The defaults, with short waits and the loopback networks allowed.
fn config(data: &Path, listen: Option<SocketAddr>) -> anyhow::Result<Config> {
    let mut config = Config::defaults();
    data.clone_into(&mut config.server.data);
    config.server.listen = listen.unwrap_or_else(|| {
        let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        if TcpListener::bind(usual).is_ok() { usual } else { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) }
    });
    config.server.shutdown_deadline = Duration::from_secs(2);
    config.egress.allow = vec!["127.0.0.0/8".parse()?];
    config.delivery.retry_schedule = RetrySchedule::new(WAITS.to_vec())?;
    Ok(config)
}

/// Ctrl-C is the usual end of the demo, and no failure; so is a terminal that is closed.
async fn until_interrupted(story: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        result = story => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    }
}

/// A message that is on its way, or has arrived.
struct Sent {
    event_type: String,
    at: Timestamp,
}

struct Story<'a> {
    screen: Screen,
    api: Api,
    data: &'a Path,
    endpoints: Vec<Arc<Endpoint>>,
    arrivals: mpsc::Receiver<Arrival>,
    /// By message id.
    sent: HashMap<String, Sent>,
    /// How often each message came to each endpoint.
    attempts: HashMap<(&'static str, String), u32>,
    /// What is still to arrive, and to be answered with success.
    open: HashSet<(&'static str, String)>,
    /// Before the story: a kept folder has a past.
    before: Ledger,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageOut {
    event_type: String,
    timestamp: String,
}

impl<'a> Story<'a> {
    /// Starts the receiver, and registers everything with the server.
    async fn begin(screen: Screen, url: &str, token: &str, data: &'a Path) -> anyhow::Result<Story<'a>> {
        let rng = &mut input::chance()?;
        const BUILDS: &[&str] = &["github.push", "github.pull_request.opened", "github.check_run.completed"];
        let endpoints: Vec<_> = [
            Endpoint::new("chat", &[], 0, rng),
            Endpoint::new("builds", BUILDS, 0, rng),
            Endpoint::new("deploy", &["github.release.published"], 2, rng),
        ]
        .map(Arc::new)
        .into();
        let (address, arrivals) = receiver::start(endpoints.clone()).await?;
        let api = Api::new(url, token)?;
        let before = ledger::read(data)?;
        let story = Story {
            screen,
            api,
            data,
            endpoints,
            arrivals,
            sent: HashMap::new(),
            attempts: HashMap::new(),
            open: HashSet::new(),
            before,
        };
        story.register(address).await.context("the demo's application cannot be registered")?;

        screen.title("Bellwire: GitHub's webhooks, sent, verified, retried and counted");
        screen.fact("server", format_args!("{url}, keeping everything in {}", data.display()));
        screen.fact("receiver", format_args!("http://{address}, with three endpoints:"));
        screen.fact("", "chat    takes every event");
        screen.fact("", "builds  takes pushes, pull requests and checks");
        screen.fact("", "deploy  takes releases; it is down, and comes back after two failures");
        screen.plain("");
        screen.head();
        Ok(story)
    }

    async fn register(&self, receiver: SocketAddr) -> anyhow::Result<()> {
        for Example { event_type, description, .. } in EXAMPLES {
            let body = serde_json::json!({ "name": event_type, "description": description }).to_string();
            let answer = self.api.call(Method::POST, "/event-type", body.into()).await?;
            ensure!(answer.is_success() || answer.status == 409, "event type {event_type}: {}", answer.reason());
        }
        let application = serde_json::json!({ "name": "GitHub, a demo", "uid": APPLICATION }).to_string();
        let _: send::WithId = self.api.post("/app?get_if_exists=true", application).await?;
        for endpoint in &self.endpoints {
            // Of an earlier demo on this folder; its receiver is gone.
            let old = format!("/app/{APPLICATION}/endpoint/{}", endpoint.name);
            let answer = self.api.call(Method::DELETE, &old, Bytes::new()).await?;
            ensure!(answer.is_success() || answer.status == 404, "endpoint {}: {}", endpoint.name, answer.reason());
            let mut new = serde_json::json!({
                "url": format!("http://{receiver}/{}", endpoint.name),
                "uid": endpoint.name,
                "description": "of `bellwire demo`",
                "secret": *endpoint.secret.reveal_text(),
            });
            if !endpoint.event_types.is_empty() {
                new["eventTypes"] = endpoint.event_types.into();
            }
            let _: send::WithId = self.api.post(&format!("/app/{APPLICATION}/endpoint"), new.to_string()).await?;
        }
        Ok(())
    }

    /// Sends every example and shows what arrives, until all of it has.
    async fn tell(&mut self) -> anyhow::Result<()> {
        for example in EXAMPLES {
            self.send(&example).await?;
            let pause = sleep(PAUSE);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    Some(arrival) = self.arrivals.recv() => self.show(arrival).await?,
                    () = &mut pause => break,
                }
            }
        }
        match timeout(STORY_MAX, self.rest()).await {
            Ok(result) => result,
            Err(_) => {
                let missing: Vec<_> =
                    self.open.iter().map(|(endpoint, message)| format!("{message} at {endpoint}")).collect();
                bail!("not everything arrived within {} s: {} missing", STORY_MAX.as_secs(), missing.join(", "))
            }
        }
    }

    async fn rest(&mut self) -> anyhow::Result<()> {
        while !self.open.is_empty() {
            let arrival = self.arrivals.recv().await.context("the receiver has ended")?;
            self.show(arrival).await?;
        }
        Ok(())
    }

    async fn send(&mut self, example: &Example) -> anyhow::Result<()> {
        let at = clock::wall();
        let body = send::message(example.event_type, example.payload.trim_end().as_bytes(), None, &[])?;
        let path = format!("/app/{APPLICATION}/msg");
        let send::WithId { id } =
            self.api.post(&path, body).await.with_context(|| format!("{} was not accepted", example.event_type))?;
        let takers = self.endpoints.iter().filter(|endpoint| endpoint.takes(example.event_type));
        self.open.extend(takers.map(|endpoint| (endpoint.name, id.clone())));
        self.sent.insert(id, Sent { event_type: example.event_type.to_owned(), at });
        Ok(())
    }

    async fn show(&mut self, arrival: Arrival) -> anyhow::Result<()> {
        let Sent { event_type, at } = self.origin(&arrival).await;
        let key = (arrival.endpoint, arrival.message.clone());
        if (200..300).contains(&arrival.answered) {
            self.open.remove(&key);
        }
        let attempt = self.attempts.entry(key).or_default();
        *attempt += 1;
        self.screen.arrival(&arrival, &event_type, *attempt, arrival.at.since(at));
        arrival.verified.with_context(|| format!("{event_type} arrived at {} and is not genuine", arrival.endpoint))
    }

    /// What is known of a message; of the user's own, what the server says.
    async fn origin(&mut self, arrival: &Arrival) -> Sent {
        if let Some(Sent { event_type, at }) = self.sent.get(&arrival.message) {
            return Sent { event_type: event_type.clone(), at: *at };
        }
        let path = format!("/app/{APPLICATION}/msg/{}?with_content=false", arrival.message);
        let asked: Option<MessageOut> = self.api.get(&path).await.ok();
        let at = asked.as_ref().and_then(|message| message.timestamp.parse().ok()).unwrap_or(arrival.at);
        Sent { event_type: asked.map_or_else(|| arrival.message.clone(), |message| message.event_type), at }
    }

    /// The ledger and the way on; then, if it stays, whatever else arrives.
    async fn end(&mut self, url: &str, token: &str, stays: bool) -> anyhow::Result<()> {
        let ledger = self.settled().await?;
        self.screen.title("The ledger");
        let Ledger { accepted, matched, delivered, pending, .. } = ledger;
        let ended: u64 = ledger.ended.iter().sum();
        self.screen.fact("accepted", format_args!("{accepted} messages"));
        self.screen
            .fact("matched", format_args!("{matched} = {delivered} delivered + {pending} pending + {ended} ended"));
        self.screen.good("nothing was lost: every message has been delivered to every endpoint that takes it");

        self.screen.title("Your turn");
        self.screen.fact("API", format_args!("{url}/api/v1 (Svix's libraries work with it)"));
        self.screen.fact("token", token);
        self.screen.plain("\n  Send a message of your own:\n");
        self.screen.plain(&format!(
            "curl -X POST {url}/api/v1/app/{APPLICATION}/msg -H 'Authorization: Bearer {token}' \
             -H 'Content-Type: application/json' -d '{{\"eventType\":\"github.push\",\"payload\":{{\"hello\":\"world\"}}}}'"
        ));
        if !stays {
            self.screen
                .plain("\n  The demo ends here, and its server with it; in a terminal, without --once, it stays up.");
            return Ok(());
        }
        self.screen.plain("\n  It stays up and shows what arrives. Ctrl-C ends it.\n");
        while let Some(arrival) = self.arrivals.recv().await {
            self.show(arrival).await?;
        }
        Ok(())
    }

    /// The ledger, once the last outcomes are in it.
    async fn settled(&self) -> anyhow::Result<Ledger> {
        let owed: usize = EXAMPLES
            .iter()
            .map(|example| self.endpoints.iter().filter(|at| at.takes(example.event_type)).count())
            .sum();
        let wait = async {
            loop {
                let ledger = ledger::read(self.data)?;
                let delivered = ledger.delivered.saturating_sub(self.before.delivered);
                if ledger.pending == 0 && delivered >= owed as u64 {
                    return Ok(ledger);
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let ledger = match timeout(LEDGER_MAX, wait).await {
            Ok(ledger) => ledger,
            Err(_) => ledger::read(self.data),
        }?;
        let delivered = ledger.delivered.saturating_sub(self.before.delivered);
        ensure!(ledger.balances(), "the ledger does not balance: {ledger:?}");
        ensure!(
            ledger.pending == 0 && delivered >= owed as u64,
            Hint::new(
                format!(
                    "{owed} deliveries were owed; the ledger has {delivered} delivered, {} pending",
                    ledger.pending
                ),
                "a folder of an earlier demo can hold deliveries that are still pending; try without --data",
            )
        );
        Ok(ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_calls_its_own_machine_and_nothing_else_private() {
        let config = config(Path::new("data"), None).expect("a configuration");
        let guard = config.egress_settings().guard;
        assert!(guard.check_ip("127.0.0.1".parse().expect("an address")).is_ok());
        assert!(guard.check_ip("10.0.0.1".parse().expect("an address")).is_err());
        assert!(config.server.listen.ip().is_loopback());
    }
}
