//! `bellwire healthcheck`: whether a server is ready, as an exit code; for containers, which have no other client.

use super::{Hint, block_on, http, server};
use anyhow::{Context as _, bail};
use bellwire_config::{Config, Place};
use bellwire_egress::{Request, Target, TlsSettings};
use bytes::Bytes;
use std::{process::ExitCode, time::Duration};

/// Ask a server whether it is ready. Exits 0 if it says so, and 1 otherwise.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire healthcheck\n  bellwire healthcheck https://hooks.example.com/api/v1/health/\n\nReady means that the server answers and that its store can commit."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// What to ask [default: this machine, at the port that the settings name]
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Wait so many seconds for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let deadline = Duration::from_secs(arguments.timeout);
    match arguments.url {
        Some(url) => check(&url, TlsSettings::default(), deadline),
        None => {
            let config = Config::load(arguments.place)?;
            // No certificate is made out to this address, and nothing secret is sent.
            check(
                &format!("{}/api/v1/health/", server::own_url(&config.server)),
                TlsSettings { verify: false, ..TlsSettings::default() },
                deadline,
            )
        }
    }
}

/// Asks `url` once. Follows nothing.
///
/// # Errors
/// Every answer but a 2xx, and none.
pub(crate) fn check(url: &str, tls: TlsSettings, deadline: Duration) -> anyhow::Result<ExitCode> {
    let request = Request {
        method: ::http::Method::GET,
        target: Target::parse(url).with_context(|| format!("{url} is not a URL that can be asked"))?,
        headers: ::http::HeaderMap::new(),
        body: Bytes::new(),
        deadline,
        response_body_max: 4096,
    };
    let client = http::client(tls)?;
    let unreachable = || Hint::new(format!("no answer from {url}"), "is the server running, and does it listen there?");
    let response = block_on(async { client.exchange(request).await.with_context(unreachable) })?;
    if !(200..300).contains(&response.status) {
        bail!("{url} answered {}", response.status);
    }
    Ok(ExitCode::SUCCESS)
}
