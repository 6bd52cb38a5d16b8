//! `bellwire plugin`: install, grant, roll back and remove modules of a server, and try a plugin out on a message.

use super::http::{Api, is_plain};
use super::{input, server::Server};
use anyhow::{Context as _, bail, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use std::{fmt::Write as _, path::Path, process::ExitCode};

/// What a component begins with, as every WebAssembly binary does.
const WASM: &[u8] = b"\0asm";

/// Modules that endpoints of the kind `plugin` run by name.
#[derive(Args)]
#[command(
    after_help = "Example:\n  bellwire plugin add deploy.js\n  bellwire plugin grant deploy\n  bellwire plugin test deploy --message msg_2xGk… --application my-app\n\nAn endpoint runs it with {\"runs\": \"javascript\", \"module\": \"deploy\"}; a WebAssembly component with {\"runs\": \"wasm\", …}."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    verb: Verb,
    /// Print the server's JSON instead
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Install a module, or its next version
    #[command(
        after_help = "Examples:\n  bellwire plugin add deploy.js\n  bellwire plugin add https://example.com/deploy.wasm --name deploy --grant\n\nA JavaScript module says in lines of its own what it wants, such as\n  // @permission fetch api.example.com"
    )]
    Add {
        /// A file, `-`, or an http or https URL: JavaScript, or a WebAssembly component
        #[arg(value_name = "FILE|URL")]
        from: String,
        /// What endpoints know it by [default: the file's name]
        #[arg(long)]
        name: Option<String>,
        /// Grant what it wants at once
        #[arg(long)]
        grant: bool,
    },
    /// List the installed modules
    List,
    /// Grant a module what its newest version wants
    #[command(
        after_help = "Examples:\n  bellwire plugin grant deploy\n  bellwire plugin grant deploy --fetch api.example.com    only this, whatever else it wants"
    )]
    Grant {
        /// The module
        name: String,
        /// Only these hosts to fetch from
        #[arg(long, value_name = "HOST")]
        fetch: Vec<String>,
        /// Only these variables
        #[arg(long, value_name = "NAME")]
        environment: Vec<String>,
        /// Only to answer whoever sent a message and waits
        #[arg(long)]
        respond: bool,
        /// Only to send messages on behalf of the application
        #[arg(long)]
        emit: bool,
    },
    /// Let the version before run again
    Rollback {
        /// The module
        name: String,
        /// This version instead
        #[arg(long, value_name = "VERSION")]
        to: Option<u64>,
    },
    /// Remove a module that no endpoint runs
    Remove {
        /// The module
        name: String,
    },
    /// Run a plugin once on a message that the server keeps
    #[command(
        after_help = "Examples:\n  bellwire plugin test deploy --message msg_2xGk… --application my-app\n  bellwire plugin test ./deploy.js --message my-event-id --application my-app --json\n\nIt really runs; what it emits is only shown, and no attempt is recorded."
    )]
    Test {
        /// A module's name; a script's file (.js); or a file with an endpoint's `plugin` as JSON (.json)
        #[arg(value_name = "NAME|FILE")]
        what: String,
        /// The message's id, or your own event id
        #[arg(long, value_name = "MESSAGE")]
        message: String,
        /// Its application, by id or uid
        #[arg(long, value_name = "APP")]
        application: String,
    },
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    super::block_on(ask(arguments))
}

async fn ask(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { verb, server, json: as_json } = arguments;
    let api = server.api(bellwire_config::organisation_default())?;
    let answer = match &verb {
        Verb::List => api.get("/plugin").await?,
        Verb::Add { from, name, grant } => {
            let (bytes, default) = read(from).await?;
            let name = name.clone().or(default).context("say --name: the source has no name to take")?;
            let module = match bytes.starts_with(WASM) {
                true => json!({ "name": name, "component": BASE64_STANDARD.encode(bytes) }),
                false => {
                    let code = String::from_utf8(bytes)
                        .with_context(|| format!("{from} is neither text nor a WebAssembly component"))?;
                    json!({ "name": name, "code": code })
                }
            };
            let added: Value = post(&api, "/plugin", &module).await?;
            match grant {
                true => post(&api, &format!("/plugin/{name}/grant"), &json!({})).await?,
                false => added,
            }
        }
        Verb::Grant { name, fetch, environment, respond, emit } => {
            let path = format!("/plugin/{}/grant", named(name)?);
            let what = json!({ "fetch": fetch, "environment": environment, "respond": respond, "emit": emit });
            post(&api, &path, &what).await?
        }
        Verb::Rollback { name, to } => {
            let version = match to {
                Some(version) => *version,
                None => before(&api.get("/plugin").await?, name)?,
            };
            post(&api, &format!("/plugin/{}/rollback", named(name)?), &json!({ "version": version })).await?
        }
        Verb::Remove { name } => {
            let path = format!("/plugin/{}", named(name)?);
            let answer = api.call(Method::DELETE, &path, Bytes::new()).await?;
            return match answer.is_success() {
                true => Ok(ExitCode::SUCCESS),
                false => Err(super::http::refused(&Method::DELETE, &path, &answer)),
            };
        }
        Verb::Test { what, message, application } => {
            let path = format!("/app/{}/msg/{}/plugin-test", named(application)?, named(message)?);
            post(&api, &path, &json!({ "plugin": plugin(&api, what).await? })).await?
        }
    };
    if as_json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", text(&answer));
    }
    let worked = answer["answer"].as_str().is_none_or(|answer| !matches!(answer, "broken" | "fail" | "retry"));
    Ok(if worked { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn post(api: &Api, path: &str, body: &Value) -> anyhow::Result<Value> {
    api.post(path, body.to_string()).await
}

/// The version before the one that runs.
fn before(modules: &Value, name: &str) -> anyhow::Result<u64> {
    let mut all = modules["data"].as_array().into_iter().flatten();
    let module = all.find(|module| module["name"] == name).with_context(|| format!("there is no module {name}"))?;
    let active = module["active"].as_u64().context("no version of it runs")?;
    let versions =
        module["versions"].as_array().into_iter().flatten().filter_map(|version| version["version"].as_u64());
    versions.filter(|version| *version < active).max().context("there is no version before the one that runs")
}

/// What can stand in a path.
fn named(name: &str) -> anyhow::Result<&str> {
    ensure!(is_plain(name), "{name:?} is no name: letters, digits, `-`, `_` and `.` only");
    Ok(name)
}

/// What is to be installed, and the name that its place suggests.
async fn read(from: &str) -> anyhow::Result<(Vec<u8>, Option<String>)> {
    let (bytes, path) = match from.starts_with("http://") || from.starts_with("https://") {
        true => (fetch(from).await?, from.split(['?', '#']).next().unwrap_or(from)),
        false => (input::file(from)?, from),
    };
    let name = Path::new(path).file_stem().and_then(|stem| stem.to_str()).filter(|_| path != "-");
    let name = name.map(|name| name.to_ascii_lowercase().replace(['.', ' '], "-"));
    Ok((bytes, name))
}

async fn fetch(url: &str) -> anyhow::Result<Vec<u8>> {
    let client = super::http::client(bellwire_egress::TlsSettings::default())?;
    let request = bellwire_egress::Request {
        method: Method::GET,
        target: bellwire_egress::Target::parse(url).with_context(|| format!("{url} is not a URL"))?,
        headers: http::HeaderMap::new(),
        body: Bytes::new(),
        deadline: std::time::Duration::from_secs(30),
        response_body_max: 16 << 20,
    };
    let response = client.exchange(request).await.with_context(|| format!("no answer from {url}"))?;
    ensure!(response.status == 200, "{url} answered {}", response.status);
    ensure!(!response.truncated && response.body_error.is_none(), "the answer of {url} broke off or is too long");
    Ok(response.body.to_vec())
}

/// What is tried.
async fn plugin(api: &Api, what: &str) -> anyhow::Result<Value> {
    let text = || String::from_utf8(input::file(what)?).with_context(|| format!("{what} is not text"));
    match Path::new(what).extension().and_then(|extension| extension.to_str()) {
        Some("js" | "mjs") => Ok(json!({ "runs": "javascript", "script": text()? })),
        Some("json") => serde_json::from_str(&text()?).with_context(|| format!("{what} is not JSON")),
        Some("wasm") => bail!("{what} must be installed first: `bellwire plugin add {what}`"),
        Some(other) => bail!("{what:?} is neither a module, nor a .js file, nor a .json file: .{other}"),
        None => {
            let modules: Value = api.get("/plugin").await?;
            let mut all = modules["data"].as_array().into_iter().flatten();
            let module = all.find(|module| module["name"] == what);
            // One that is not there is refused by the server.
            let runs = module.and_then(|module| module["versions"][0]["runs"].as_str()).unwrap_or("javascript");
            Ok(json!({ "runs": runs, "module": what }))
        }
    }
}

fn text(answer: &Value) -> String {
    let mut text = String::new();
    let word = |value: &Value| {
        value.as_str().unwrap_or_default().chars().filter(|c| !c.is_control() || *c == '\n').collect::<String>()
    };
    if let Some(answered) = answer["answer"].as_str() {
        let _ = writeln!(text, "{answered} after {} ms", answer["durationMs"]);
        let _ = writeln!(text, "{}", word(&answer["output"]).trim_end());
        for emitted in answer["emitted"].as_array().into_iter().flatten() {
            let _ = writeln!(text, "emitted {}: {}", word(&emitted["eventType"]), word(&emitted["payload"]));
        }
        return text;
    }
    let one = std::slice::from_ref(answer);
    for module in answer["data"].as_array().map_or(one, Vec::as_slice) {
        let _ = writeln!(text, "{}", word(&module["name"]));
        for version in module["versions"].as_array().into_iter().flatten() {
            let state = if version["version"] == module["active"] { "runs" } else { "" };
            let wants: Vec<String> = ["fetch", "environment"]
                .into_iter()
                .flat_map(|kind| {
                    version["wants"][kind].as_array().into_iter().flatten().map(move |w| format!("{kind} {}", word(w)))
                })
                .chain(["respond", "emit"].into_iter().filter(|kind| version["wants"][kind] == true).map(str::to_owned))
                .collect();
            let digest: String = word(&version["digest"]).chars().take(12).collect();
            let line = format!(
                "  {:>3}  {digest}  {:<4}  {}",
                version["version"].as_u64().unwrap_or_default(),
                state,
                wants.join(", ")
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        if module["active"].is_null() {
            let _ = writeln!(
                text,
                "  none runs: `bellwire plugin grant {}` grants what the newest wants",
                word(&module["name"])
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_shown_with_what_its_versions_want() {
        let version =
            |number: u32, wants: Value| json!({"version": number, "digest": "0123456789abcdef", "wants": wants});
        let modules = json!({"data": [
            {"name": "deploy", "active": 1, "versions": [version(1, json!({"fetch": [], "environment": []})), version(2, json!({"fetch": ["a.example"]}))]},
            {"name": "new", "versions": [version(1, json!({"environment": ["REGION"], "respond": true, "emit": false}))]},
        ]});
        assert_eq!(
            text(&modules),
            "deploy\n    1  0123456789ab  runs\n    2  0123456789ab        fetch a.example\nnew\n    1  0123456789ab        environment REGION, respond\n  none runs: `bellwire plugin grant new` grants what the newest wants\n"
        );
    }
}
