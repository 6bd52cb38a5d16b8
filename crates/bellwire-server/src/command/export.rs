//! `bellwire export`: the event catalogue of a running server as a document for those who receive.

use super::{block_on, server::Server};
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
    server: Server,
    /// As what
    format: Format,
    /// Write to this file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Openapi,
    Asyncapi,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let api = arguments.server.api(bellwire_config::organisation_default())?;
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
