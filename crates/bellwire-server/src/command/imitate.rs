//! `bellwire imitate`: a webhook as its sender would sign it, to try a source with before the sender is asked to.

use super::{Hint, http, input};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use anyhow::{Context as _, bail};
use bellwire_egress::{Request, Response, Target, TlsSettings};
use bellwire_node::clock;
use bellwire_signature::source::{Fault, Recipe, Sample, SampleError, Supplied, Verifier, preset};
use rand_chacha::rand_core::RngCore as _;
use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode, time::Duration};

const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Send a webhook to a source as its sender would, signed with the secret that both have.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire imitate github http://127.0.0.1:8071/in/TOKEN \\\n    --secret \"It's a Secret to Everybody\"\n  bellwire imitate stripe http://127.0.0.1:8071/in/TOKEN --secret whsec_… event.json\n  bellwire imitate --recipe acme.json http://127.0.0.1:8071/in/TOKEN --secret …\n\nWithout a FILE, a sample such as the sender's is sent. Exits 0 if it is accepted,\n1 if not. Senders that sign with a key of their own cannot be imitated."
)]
pub(crate) struct Arguments {
    /// The sender's preset, unless there is a --recipe; then the source's URL
    #[arg(value_name = "PRESET", required = true)]
    first: Option<String>,
    /// The source's URL; with --recipe, the body's file
    #[arg(value_name = "URL")]
    second: Option<String>,
    /// The body, byte for byte; - is standard input
    #[arg(value_name = "FILE")]
    third: Option<String>,
    /// A recipe in JSON or TOML, instead of a preset
    #[arg(long, value_name = "FILE")]
    recipe: Option<String>,
    /// The secret that the source verifies with
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
    /// A setting of the source, name=value; repeat it
    #[arg(long = "set", value_name = "SETTING", value_parser = input::pair)]
    settings: Vec<(String, String)>,
    /// A header, "name: value"; repeat it
    #[arg(long, short = 'H', value_name = "HEADER")]
    header: Vec<String>,
    /// The sender's id for the event; the same again is a repeat [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The time of signing in Unix seconds [default: now]
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<i64>,
    /// The URL as the source knows it, for senders who sign it [default: the URL, with https]
    #[arg(long = "as", value_name = "URL")]
    known_as: Option<String>,
    /// Print the request instead of sending it
    #[arg(long)]
    dry_run: bool,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (recipe, url, file) = arguments.recipe_and_rest()?;
    let supplied = Supplied {
        secrets: arguments.secret.iter().map(|secret| secret.clone().into()).collect(),
        settings: arguments.settings.iter().cloned().collect::<BTreeMap<_, _>>(),
        ..Supplied::default()
    };
    let verifier = Verifier::new(&recipe, &supplied).map_err(|faults| faulty(&faults))?;
    let known_as = arguments.known_as.clone().unwrap_or_else(|| match url.strip_prefix("http://") {
        Some(rest) => format!("https://{rest}"),
        None => url.clone(),
    });
    let sample = arguments.sample(&recipe, known_as.clone(), file.as_deref())?;
    let id = match &arguments.id {
        Some(id) => id.clone(),
        None => format!("sample_{:016x}", input::chance()?.next_u64()),
    };
    let timestamp = arguments.timestamp.unwrap_or_else(|| clock::wall().as_seconds());
    let mut signed = verifier.sign(&sample, &id, timestamp).map_err(|error| match error {
        SampleError::NotOurs => Hint::new(
            error.to_string(),
            "senders with a private key of their own sign for themselves; have them send a test event",
        ),
        error => {
            Hint::new(error.to_string(), "the body must be such as the sender's; without a FILE there is a sample")
        }
    })?;
    // What was added to the URL is the proof's, and goes along.
    signed.url = format!("{url}{}", signed.url.strip_prefix(&known_as).unwrap_or_default());
    if arguments.dry_run {
        print!("{}", text(&signed));
        return Ok(ExitCode::SUCCESS);
    }
    let response = super::block_on(send(&signed))?;
    println!("{}", answered(&response));
    Ok(if (200..300).contains(&response.status) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Arguments {
    /// With `--recipe` there is no preset, and what else there is moves forward by one.
    fn recipe_and_rest(&self) -> anyhow::Result<(Recipe, String, Option<String>)> {
        let (recipe, url, file) = match &self.recipe {
            Some(name) => {
                if self.third.is_some() {
                    bail!("with --recipe there is no PRESET: bellwire imitate --recipe FILE URL [FILE]");
                }
                let text = String::from_utf8(input::file(name)?).context("a recipe is text")?;
                let recipe = if text.trim_start().starts_with('{') {
                    serde_json::from_str(&text).map_err(anyhow::Error::from)
                } else {
                    toml::from_str(&text).map_err(anyhow::Error::from)
                };
                let recipe = recipe.with_context(|| format!("{name} is no recipe"))?;
                (recipe, self.first.clone(), self.second.clone())
            }
            None => {
                let name = self.first.as_deref().unwrap_or_default();
                let found = preset(name).with_context(|| {
                    Hint::new(format!("there is no preset `{name}`"), "`bellwire source presets` lists them")
                })?;
                (found.recipe.clone(), self.second.clone(), self.third.clone())
            }
        };
        Ok((recipe, url.context("the source's URL is missing")?, file))
    }

    fn sample(&self, recipe: &Recipe, url: String, file: Option<&str>) -> anyhow::Result<Sample> {
        let text = &recipe.sample;
        let mut headers = vec![("Content-Type".to_owned(), text.content_type.clone())];
        headers.extend(text.headers.clone());
        for header in &self.header {
            let (name, value) = header.split_once(':').with_context(|| format!("{header} is not \"name: value\""))?;
            headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name.trim()));
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        let body = file.map_or_else(|| Ok(text.body.clone().into_bytes()), input::file)?;
        Ok(Sample { method: "POST".to_owned(), url, headers, body })
    }
}

async fn send(signed: &Sample) -> anyhow::Result<Response> {
    let mut headers = HeaderMap::new();
    for (name, value) in &signed.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).with_context(|| format!("{name} is no header's name"))?;
        let value =
            HeaderValue::from_str(value).with_context(|| format!("what {name} says cannot stand in a header"))?;
        headers.append(name, value);
    }
    let target = Target::parse(&signed.url).with_context(|| format!("{} is no URL to post to", signed.url))?;
    let request = Request {
        method: Method::POST,
        target,
        headers,
        body: signed.body.clone().into(),
        deadline: Duration::from_secs(30),
        response_body_max: ANSWER_BYTES_MAX,
    };
    let response = http::client(TlsSettings::default())?.exchange(request).await;
    response.with_context(|| Hint::new("no answer from the source", "is the server running, and the URL its own?"))
}

/// Status and body; and whether it was a repeat.
fn answered(response: &Response) -> String {
    let repeat = if response.headers.contains_key("x-duplicate") { " (a repeat of what came before)" } else { "" };
    let body: String = String::from_utf8_lossy(&response.body).chars().filter(|c| !c.is_control()).collect();
    let hint = if response.status == 401 { "\nrefused; `bellwire source requests` says why" } else { "" };
    format!("{}{repeat}{}{body}{hint}", response.status, if body.is_empty() { "" } else { " " })
}

/// The request, as it would go out.
fn text(signed: &Sample) -> String {
    let mut text = format!("{} {}\n", signed.method, signed.url);
    for (name, value) in &signed.headers {
        let _ = writeln!(text, "{name}: {value}");
    }
    let _ = write!(text, "\n{}\n", String::from_utf8_lossy(&signed.body));
    text
}

fn faulty(faults: &[Fault]) -> anyhow::Error {
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    Hint::new(
        texts.join("; "),
        "--secret and --set are what the source has; `bellwire source presets` says what each needs",
    )
    .into()
}
