//! `bellwire explain`: what became of a message at every endpoint of its application, in sentences.
//!
//! The sentences are the server's; this only asks for them and sets them on lines.

use super::{http::is_plain, server::Server};
use anyhow::bail;
use serde::Deserialize;
use std::{fmt::Write as _, process::ExitCode};

/// Explain what became of a message: which endpoints took it, what each attempt did, what happens next.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire explain msg_2xGk…\n  bellwire explain my-event-id --application my-app\n\nThe application need not be known: it is found by the message's id, or by its event id\nif only one application of the organisation has that. Exits 0 if there is such a message."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: Server,
    /// The message's id (msg_…), or your own event id
    #[arg(value_name = "MESSAGE")]
    message: String,
    /// Look in this application, by id or uid
    #[arg(long, value_name = "APP")]
    application: Option<String>,
    /// Print the server's JSON instead
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    sentences: Vec<String>,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    sentences: Vec<String>,
    attempts: Vec<Attempt>,
}

#[derive(Deserialize)]
struct Attempt {
    sentence: String,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let answer = super::block_on(ask(&arguments))?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        print!("{}", text(&serde_json::from_value(answer)?));
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(arguments: &Arguments) -> anyhow::Result<serde_json::Value> {
    let message = &arguments.message;
    if !is_plain(message) {
        bail!("{message:?} is neither a message's id nor an event id: letters, digits, `-`, `_` and `.` only");
    }
    let path = match &arguments.application {
        Some(application) if !is_plain(application) => bail!("{application:?} is no application's id or uid"),
        Some(application) => format!("/app/{application}/msg/{message}/explain"),
        None => format!("/explain/{message}"),
    };
    arguments.server.api(bellwire_config::organisation_default())?.get(&path).await
}

/// A paragraph for the message, and one for each endpoint with its attempts indented.
fn text(explanation: &Explanation) -> String {
    let mut text = String::new();
    let mut line = |indent: &str, sentence: &str| {
        let printable: String = sentence.chars().filter(|c| !c.is_control()).collect();
        let _ = writeln!(text, "{indent}{printable}");
    };
    explanation.sentences.iter().for_each(|sentence| line("", sentence));
    for endpoint in &explanation.endpoints {
        line("", "");
        let mut sentences = endpoint.sentences.iter();
        sentences.by_ref().take(1).for_each(|name| line("", name));
        endpoint.attempts.iter().for_each(|attempt| line("  ", &attempt.sentence));
        sentences.for_each(|sentence| line("  ", sentence));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_stand_on_lines_attempts_before_what_follows() {
        let explanation = serde_json::from_value(serde_json::json!({
            "sentences": ["The message.", "It is owed to 1."],
            "endpoints": [
                {"sentences": ["The endpoint a.", "Attempt 2 is due."], "attempts": [{"sentence": "Attempt 1 \u{1b}[31mfailed."}]},
                {"sentences": ["The endpoint b.", "It does not take it."], "attempts": []},
            ],
        }))
        .expect("an explanation");
        assert_eq!(
            text(&explanation),
            "The message.\nIt is owed to 1.\n\nThe endpoint a.\n  Attempt 1 [31mfailed.\n  Attempt 2 is due.\n\n\
             The endpoint b.\n  It does not take it.\n"
        );
    }
}
