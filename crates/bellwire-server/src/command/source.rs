//! `bellwire source`: the sources of a running server, at which others' webhooks come in.

use super::http::{Api, refused};
use super::server::{Server, TOKEN};
use super::token::organisation;
use super::{Hint, block_on, table};
use anyhow::Context as _;
use bellwire_config::ORGANISATION_DEFAULT;
use bellwire_model::OrganisationId;
use http::Method;
use serde_json::{Map, Value, json};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Receive others' webhooks: add, list, show, rotate, run and remove sources.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire source presets\n  bellwire source add github --preset github --app my-app --secret-file github.secret\n  bellwire source list\n  bellwire source requests github --outcome refused"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Add a source, and print the URL that its sender is to be given.
    #[command(
        after_help = "Examples:\n  bellwire source add github --preset github --app my-app --secret-file github.secret\n  BELLWIRE_SOURCE_SECRET=... bellwire source add pay --preset stripe --app my-app --path /hooks/stripe\n  bellwire source add any --preset none --app my-app --rate 20 --allow 192.0.2.0/24\n  bellwire source add orders --app my-app --queue orders.json\n\nThe URL is printed alone on stdout; keep it as you would a password. A source that fetches\nits messages itself has none: its id is printed. The application is made if it is not there."
    )]
    Add(Box<Add>),
    /// List the sources.
    #[command(after_help = "Examples:\n  bellwire source list\n  bellwire source list --json | jq -r '.[].uid'")]
    List {
        #[command(flatten)]
        server: ServerArguments,
    },
    /// Show a source, with its listener URL.
    #[command(after_help = "Examples:\n  bellwire source show github\n  bellwire source show github --json")]
    Show {
        #[command(flatten)]
        server: ServerArguments,
        /// Its id or uid
        source: String,
    },
    /// Say how a source is doing that fetches its messages itself: by a schedule, out of a table, off a queue.
    #[command(
        after_help = "Examples:\n  bellwire source state orders\n  bellwire source state orders --json | jq .lagSeconds"
    )]
    State {
        #[command(flatten)]
        server: ServerArguments,
        /// Its id or uid
        source: String,
    },
    /// Change a secret over, or with --token the listener URL.
    #[command(
        after_help = "Examples:\n  bellwire source rotate github --secret-file new.secret\n  bellwire source rotate github --secret-file new.secret --grace 0\n  bellwire source rotate github --token\n\nSecrets of before go on verifying for the grace period. An old listener URL ends at once."
    )]
    Rotate {
        #[command(flatten)]
        server: ServerArguments,
        /// Its id or uid
        source: String,
        #[command(flatten)]
        secret: SecretArguments,
        /// How long the secrets of before go on verifying, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
        grace: u32,
        /// Make another listener URL instead
        #[arg(long, conflicts_with_all = ["secret", "secret_file"])]
        token: bool,
    },
    /// Remove a source. Its messages stay.
    #[command(after_help = "Example:\n  bellwire source remove github")]
    Remove {
        #[command(flatten)]
        server: ServerArguments,
        /// Its id or uid
        source: String,
    },
    /// Run a source's schedule now, beside its own instants: makes one message.
    #[command(after_help = "Example:\n  bellwire source run month")]
    Run {
        #[command(flatten)]
        server: ServerArguments,
        /// Its id or uid
        source: String,
    },
    /// List what came in at a source, newest first, with the reason of each refusal.
    #[command(
        after_help = "Examples:\n  bellwire source requests github\n  bellwire source requests github --outcome refused --json | jq '.[0]'"
    )]
    Requests {
        #[command(flatten)]
        server: ServerArguments,
        /// Its id or uid
        source: String,
        /// Only accepted, refused, duplicate, conflict or handshake
        #[arg(long, value_name = "OUTCOME")]
        outcome: Option<String>,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=250))]
        limit: u16,
    },
    /// List the senders that are known, with what each wants to be told. Needs no server.
    #[command(
        after_help = "Examples:\n  bellwire source presets\n  bellwire source presets --json | jq '.[] | select(.name == \"stripe\")'"
    )]
    Presets {
        /// Print JSON instead
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Add {
    #[command(flatten)]
    server: ServerArguments,
    /// Its uid: letters, digits, `-`, `_` and `.`
    uid: String,
    /// The application that its messages belong to, by id or uid
    #[arg(long, value_name = "APP")]
    app: String,
    /// How the sender signs: a preset's name
    #[arg(long, value_name = "PRESET", required_unless_present_any = ["recipe", "cron", "outbox", "queue"], conflicts_with = "recipe")]
    preset: Option<String>,
    /// A recipe of your own: a file with a JSON object
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Messages by a schedule instead: a file with a JSON object as the API has it, `-` for stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["preset", "recipe"])]
    cron: Option<PathBuf>,
    /// Messages out of a table: likewise
    #[arg(long, value_name = "FILE", conflicts_with_all = ["preset", "recipe", "cron"])]
    outbox: Option<PathBuf>,
    /// Messages off a queue: likewise
    #[arg(long, value_name = "FILE", conflicts_with_all = ["preset", "recipe", "cron", "outbox"])]
    queue: Option<PathBuf>,
    #[command(flatten)]
    secret: SecretArguments,
    /// What the preset wants to know beside secrets; repeat it
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    setting: Vec<(String, String)>,
    /// A path of its own, such as /hooks/github
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// A method that it takes; repeat it [default: POST]
    #[arg(long, value_name = "METHOD")]
    method: Vec<String>,
    /// The largest body that it takes [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    body_bytes_max: Option<u32>,
    /// Requests per second that it takes [default: any number]
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// A network from which it takes requests, such as 192.0.2.0/24; repeat it [default: any]
    #[arg(long, value_name = "NETWORK")]
    allow: Vec<String>,
    /// A proxy whose x-forwarded-for is believed, an address or a network; repeat it
    #[arg(long, value_name = "NETWORK")]
    trusted_proxy: Vec<String>,
    /// The URL that the sender has, if it signs its URL and requests do not tell it
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// The event type of all its messages [default: as the preset has it]
    #[arg(long, value_name = "TYPE")]
    event_type: Option<String>,
}

/// A secret comes from a file or the environment, so that it stands in no list of processes.
#[derive(clap::Args)]
struct SecretArguments {
    /// What the sender signs with
    #[arg(long, value_name = "SECRET", env = "BELLWIRE_SOURCE_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// A file that holds it, `-` for stdin; a line end at its end is no part of it
    #[arg(long, value_name = "FILE", conflicts_with = "secret")]
    secret_file: Option<PathBuf>,
}

/// Which server, and as whom. `--token` is the listener URL's here.
#[derive(clap::Args)]
#[command(mut_arg(TOKEN, |token| token.long("api-token")))]
struct ServerArguments {
    #[command(flatten)]
    server: Server,
    /// Whose sources
    #[arg(long, value_name = "ORG", default_value = ORGANISATION_DEFAULT, value_parser = organisation)]
    organisation: OrganisationId,
    /// Print JSON instead
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.verb {
        Verb::Presets { json } => println!("{}", if json { presets_json()? } else { presets_table() }),
        verb => block_on(verb.run())?,
    }
    Ok(ExitCode::SUCCESS)
}

impl ServerArguments {
    fn api(&self) -> anyhow::Result<Api> {
        self.server.api(self.organisation.clone())
    }
}

impl SecretArguments {
    fn read(self) -> anyhow::Result<Option<String>> {
        let Some(file) = self.secret_file else { return Ok(self.secret) };
        let mut text = read(&file)?;
        let end = text.trim_end_matches(['\r', '\n']).len();
        text.truncate(end);
        Ok(Some(text))
    }
}

/// A file, or stdin for `-`.
fn read(file: &Path) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn read_json(file: &Path) -> anyhow::Result<Value> {
    serde_json::from_str(&read(file)?).with_context(|| format!("{} is no JSON", file.display()))
}

impl Verb {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            Verb::Add(add) => add.run().await,
            Verb::List { server } => {
                let api = server.api()?;
                let sources = api.all("/source", usize::MAX).await?;
                if server.json {
                    println!("{}", Value::Array(sources));
                    return Ok(());
                }
                let mut states = Vec::with_capacity(sources.len());
                for source in &sources {
                    states.push(state_word(&api, source).await?);
                }
                println!("{}", source_table(&sources, &states));
                Ok(())
            }
            Verb::Show { server, source } => {
                let api = server.api()?;
                let mut shown: Value = api.get(&format!("/source/{source}")).await?;
                if fetches(&shown).is_none() {
                    let secret: Value = api.get(&format!("/source/{source}/secret")).await?;
                    shown["listenerUrl"] = secret["listenerUrl"].clone();
                }
                print_members(&shown, server.json);
                Ok(())
            }
            Verb::State { server, source } => {
                let state: Value = server.api()?.get(&format!("/source/{source}/state")).await?;
                print_members(&state, server.json);
                Ok(())
            }
            Verb::Rotate { server, source, secret, grace, token } => {
                let api = server.api()?;
                if token {
                    let made: Value = api.post(&format!("/source/{source}/token/rotate"), "{}").await?;
                    return print_url(&made, server.json);
                }
                let missing =
                    || Hint::new("there is no new secret", "give it with --secret-file, or --token for another URL");
                let secret = secret.read()?.ok_or_else(missing)?;
                let body = json!({ "secret": secret, "gracePeriodSeconds": grace }).to_string();
                done(&api, Method::POST, &format!("/source/{source}/secret"), body).await?;
                eprintln!("{source} verifies with the new secret; those of before end in {grace} s");
                Ok(())
            }
            Verb::Remove { server, source } => {
                done(&server.api()?, Method::DELETE, &format!("/source/{source}"), String::new()).await?;
                match server.json {
                    true => println!("{}", json!({ "source": source, "removed": true })),
                    false => eprintln!("{source} is removed"),
                }
                Ok(())
            }
            Verb::Run { server, source } => {
                let made: Value = server.api()?.post(&format!("/source/{source}/run"), "{}").await?;
                match server.json {
                    true => println!("{made}"),
                    false => println!("{}", plain(&made["messageId"])),
                }
                Ok(())
            }
            Verb::Requests { server, source, outcome, limit } => {
                let outcome = outcome.map(|outcome| format!("&outcome={outcome}")).unwrap_or_default();
                let page: Value =
                    server.api()?.get(&format!("/source/{source}/request?limit={limit}{outcome}")).await?;
                let requests = page["data"].as_array().cloned().unwrap_or_default();
                match server.json {
                    true => println!("{}", Value::Array(requests)),
                    false => println!("{}", request_table(&requests)),
                }
                Ok(())
            }
            Verb::Presets { .. } => Ok(()),
        }
    }
}

impl Add {
    async fn run(self) -> anyhow::Result<()> {
        let api = self.server.api()?;
        let mut body = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        let [recipe, cron, outbox, queue] =
            [self.recipe, self.cron, self.outbox, self.queue].map(|file| file.as_deref().map(read_json).transpose());
        put("uid", Some(json!(self.uid)));
        put("name", Some(json!(self.uid)));
        put("appId", Some(json!(self.app)));
        put("preset", self.preset.map(Value::from));
        put("recipe", recipe?);
        put("cron", cron?);
        put("outbox", outbox?);
        put("queue", queue?);
        put("secrets", self.secret.read()?.map(|secret| json!([secret])));
        put(
            "settings",
            Some(self.setting)
                .filter(|all| !all.is_empty())
                .map(|all| all.into_iter().map(|(name, value)| (name, Value::from(value))).collect()),
        );
        put("path", self.path.map(Value::from));
        let texts = |all: &[String]| (!all.is_empty()).then(|| Value::from(all));
        put("methods", texts(&self.method));
        put("bodyBytesMax", self.body_bytes_max.map(Value::from));
        put("rate", self.rate.map(Value::from));
        put("allowedNetworks", texts(&self.allow));
        put("trustedProxies", texts(&self.trusted_proxy));
        put("url", self.public_url.as_deref().map(Value::from));
        put("eventType", self.event_type.map(Value::from));
        let new_application = make_application(&api, &self.app).await?;
        let answer = api.call(Method::POST, "/source", Value::Object(body).to_string().into()).await?;
        if !answer.is_success() {
            let refused = refused(&Method::POST, "/source", &answer);
            // Whoever is refused finds everything as it was. An answer that is lost is no refusal: the source may be there.
            return match new_application {
                Some(id) => Err(match done(&api, Method::DELETE, &format!("/app/{id}"), String::new()).await {
                    Ok(()) => refused,
                    Err(error) => {
                        refused.context(format!("the application {} was made and stays: {error:#}", self.app))
                    }
                }),
                None => Err(refused),
            };
        }
        let made: Value = serde_json::from_slice(&answer.body).context("the answer is no JSON")?;
        if new_application.is_some() {
            eprintln!("the application {} is made", self.app);
        }
        if self.server.json {
            println!("{made}");
            return Ok(());
        }
        if fetches(&made).is_some() {
            println!("{}", plain(&made["id"]));
            return Ok(());
        }
        eprintln!("id       {}\nuid      {}", plain(&made["id"]), plain(&made["uid"]));
        print_url(&made, false)
    }
}

/// Makes the application if it is not there; answers its id if it was made.
async fn make_application(api: &Api, named: &str) -> anyhow::Result<Option<String>> {
    let found = api.call(Method::GET, &format!("/app/{named}"), Default::default()).await?;
    if found.status != 404 || named.starts_with("app_") {
        return Ok(None);
    }
    let made: Value = api.post("/app", json!({ "name": named, "uid": named }).to_string()).await?;
    Ok(Some(plain(&made["id"])))
}

/// A call whose answer says nothing more.
async fn done(api: &Api, method: Method, path: &str, body: String) -> anyhow::Result<()> {
    api.done(method, path, body).await
}

/// The way of a source that fetches its messages itself.
fn fetches(source: &Value) -> Option<&str> {
    source["way"].as_str().filter(|way| *way != "http")
}

/// In a word, how a source is doing.
async fn state_word(api: &Api, source: &Value) -> anyhow::Result<String> {
    if source["disabled"] == true {
        return Ok("disabled".to_owned());
    }
    if fetches(source).is_none() {
        return Ok("enabled".to_owned());
    }
    let answer = api.call(Method::GET, &format!("/source/{}/state", plain(&source["id"])), Default::default()).await?;
    // One that is not there any more is none that fails.
    let state: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    Ok(match state["failureCount"].as_u64() {
        Some(0) | None => "enabled".to_owned(),
        Some(_) => "failing".to_owned(),
    })
}

fn print_members(shown: &Value, json: bool) {
    match json {
        true => println!("{shown}"),
        false => shown.as_object().into_iter().flatten().for_each(|(name, value)| {
            println!("{name:<18} {}", plain(value));
        }),
    }
}

fn print_url(made: &Value, json: bool) -> anyhow::Result<()> {
    match json {
        true => println!("{made}"),
        false => println!("{}", plain(&made["listenerUrl"])),
    }
    Ok(())
}

/// A value as a person reads it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Sources, with a word about each.
fn source_table(sources: &[Value], states: &[String]) -> String {
    let sender = |source: &Value| fetches(source).or(source["preset"].as_str()).unwrap_or("own recipe").to_owned();
    let rows = sources.iter().zip(states).map(|(source, state)| {
        let text = |name: &str| plain(&source[name]);
        vec![text("id"), text("uid"), sender(source), text("appId"), text("path"), state.clone()]
    });
    table(&["ID", "UID", "SENDER", "APPLICATION", "PATH", "STATE"], rows)
}

fn request_table(requests: &[Value]) -> String {
    let rows = requests.iter().map(|request| {
        let text = |name: &str| plain(&request[name]);
        vec![text("timestamp"), text("outcome"), text("remoteAddress"), text("messageId"), text("reason")]
    });
    table(&["TIME", "OUTCOME", "FROM", "MESSAGE", "REASON"], rows)
}

fn presets_table() -> String {
    let rows = bellwire_signature::source::presets().iter().map(|preset| {
        let recipe = &preset.recipe;
        let settings: Vec<&str> = recipe.settings.keys().map(String::as_str).collect();
        vec![preset.name.clone(), recipe.title.clone(), recipe.secret.clone(), settings.join(", ")]
    });
    table(&["PRESET", "SENDER", "SECRET", "SETTINGS"], rows)
}

fn presets_json() -> anyhow::Result<String> {
    let all: Vec<Value> = bellwire_signature::source::presets()
        .iter()
        .map(|preset| {
            let recipe = &preset.recipe;
            json!({
                "name": preset.name, "title": recipe.title, "docs": recipe.docs, "secret": recipe.secret,
                "settings": recipe.settings, "dedupe": recipe.dedupe, "eventType": recipe.event_type,
            })
        })
        .collect();
    Ok(serde_json::to_string(&all)?)
}

fn setting(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_a_line_for_each() {
        let source = json!({ "id": "src_1", "uid": "git", "preset": "github", "appId": "app_1", "disabled": true });
        let told = source_table(&[source], &["disabled".to_owned()]);
        let queue = json!({ "id": "src_2", "way": "queue", "preset": "none" });
        let line = source_table(&[queue], &["failing".to_owned()]);
        assert!(line.contains("queue") && line.contains("failing") && !line.contains("none"), "{line}");
        let line = told.lines().nth(1).expect("a line");
        assert!(["src_1", "git", "github", "app_1", "disabled"].iter().all(|text| line.contains(text)), "{told}");
        assert!(presets_table().lines().any(|line| line.contains("stripe") && line.contains("Stripe")));
    }

    #[test]
    fn a_setting_is_a_name_and_a_value() {
        assert_eq!(setting("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(setting("a").is_err());
    }
}
