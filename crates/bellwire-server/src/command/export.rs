//! `bellwire export`: the event catalogue of a running server as a document for those who receive.

use super::{block_on, send, token};
use crate::config::{Config, Place};
use anyhow::Context as _;
use serde_json::Value;
use std::{fs, path::PathBuf, process::ExitCode};

/// Print the event catalogue as an OpenAPI 3.1 or AsyncAPI 3 document.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire export openapi -o webhooks.json\n  bellwire export asyncapi | jq .channels\n\nEvery event type that is not archived, with its newest schema and a sample. The OpenAPI\ndocument can be taken in again: `bellwire pack add ./webhooks.json`."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// As what
    format: Format,
    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The server [default: where the settings say it listens]
    #[arg(long, value_name = "URL", env = "BELLWIRE_URL")]
    url: Option<String>,
    /// Its token [default: one is made with the secret of the settings or the data folder]
    #[arg(long, value_name = "TOKEN", env = "BELLWIRE_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Openapi,
    Asyncapi,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.place.clone())?;
    let organisation = token::organisation_default();
    let api = send::api(&config, arguments.url.as_deref(), arguments.token.as_deref(), organisation)?;
    let path = match arguments.format {
        Format::Openapi => "/event-type/export/openapi",
        Format::Asyncapi => "/event-type/export/asyncapi",
    };
    let document: Value = block_on(api.get(path))?;
    let text = format!("{}\n", serde_json::to_string_pretty(&document)?);
    match &arguments.output {
        Some(file) => fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?,
        None => print!("{text}"),
    }
    Ok(ExitCode::SUCCESS)
}
