//! `bellwire sign`: the three headers of a webhook, for whoever sends one by hand.

use super::input;
use bellwire_node::clock;
use bellwire_signature::{ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER, sign};
use std::process::ExitCode;

/// Sign a payload: print the three headers of a webhook.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  bellwire sign --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw --id msg_1 \\\n    payload.json > headers\n  curl -H @headers -H 'content-type: application/json' \\\n    --data-binary @payload.json http://127.0.0.1:9000/hook"
)]
pub(crate) struct Arguments {
    /// whsec_… (HMAC) or whsk_… (ed25519); repeat it, newest first, for several signatures
    #[arg(long, required = true, value_name = "SECRET", value_parser = input::secret)]
    secret: Vec<Secret>,
    /// The message's id, without full stops
    #[arg(long, value_name = "ID")]
    id: String,
    /// The attempt's time in Unix seconds [default: now]
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<i64>,
    /// Print one JSON object of the headers instead
    #[arg(long)]
    json: bool,
    /// The payload, byte for byte; - is standard input
    #[arg(default_value = "-", value_name = "FILE")]
    file: String,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let payload = input::file(&arguments.file)?;
    let timestamp = arguments.timestamp.unwrap_or_else(|| clock::wall().as_seconds());
    let headers = headers(&arguments.secret, &arguments.id, timestamp, &payload)?;
    if arguments.json {
        let object: serde_json::Map<_, _> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
        println!("{}", serde_json::Value::from(object));
    } else {
        headers.iter().for_each(|(name, value)| println!("{name}: {value}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The headers, in the order of Standard Webhooks.
///
/// # Errors
/// An id or a time that cannot be signed.
pub(crate) fn headers(
    secrets: &[Secret],
    id: &str,
    timestamp_seconds: i64,
    payload: &[u8],
) -> anyhow::Result<[(&'static str, String); 3]> {
    let signature = sign(secrets, id, timestamp_seconds, payload)?;
    Ok([(ID_HEADER, id.to_owned()), (TIMESTAMP_HEADER, timestamp_seconds.to_string()), (SIGNATURE_HEADER, signature)])
}
