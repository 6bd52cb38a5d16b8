//! `bellwire check`: looks a data folder over, also beside a running server, or a hooks file, and says what is wrong.

use super::{Hint, block_on, ledger};
use crate::hooks;
use anyhow::Context as _;
use bellwire_config::{Config, Place};
use bellwire_node::wiring;
use bellwire_store::EmbeddedStore;
use bellwire_store::embedded::Report;
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Look a data folder over: its pages, both logs, every delivery, the indexes, the ledger; or a hooks file. Exits 1 if anything is wrong.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire check --data ./bellwire-data\n  bellwire check hooks.toml\n\nIt only reads, in one consistent reading, and may run beside a server; the server's log\nfile grows until it ends. If a main secret is set, it opens every endpoint's secrets."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// A hooks file to check instead, TOML or YAML, with the settings and the environment of this command; or the data folder, as with
    /// `--data`
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Leave out the reading of every page, which takes longest
    #[arg(long)]
    quick: bool,
    /// Print one JSON object instead of the text
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(arguments.place)?;
    match arguments.path {
        Some(folder) if folder.is_dir() => config.server.data = folder,
        Some(_) if arguments.quick => {
            anyhow::bail!("--quick is for data folders: a hooks file has no pages to leave out")
        }
        Some(file) => return check_hooks(&file, &config, arguments.json),
        None => {}
    }
    let with_secrets = config.auth.main_secret.is_some().then_some(&config);
    let report = look_over(&config.server.data, with_secrets, !arguments.quick)?;
    match arguments.json {
        true => println!("{}", json(&report)),
        false => print!("{}", text(&report)),
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Declares what the file says on an empty server that nobody sees.
fn check_hooks(file: &Path, config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let found = block_on(hooks::rehearsal::on_nothing(file, config))?;
    if as_json {
        let faults = found.as_ref().err().map(|faults| faults.all.as_slice()).unwrap_or_default().iter().map(|fault| {
            serde_json::json!({ "place": fault.place, "line": fault.line, "text": fault.text, "hint": fault.hint })
        });
        println!("{}", serde_json::json!({ "sound": found.is_ok(), "faults": faults.collect::<Vec<_>>() }));
    }
    match found {
        Ok(_) if as_json => Ok(ExitCode::SUCCESS),
        Ok(done) => {
            println!("{}: nothing is wrong ({} declared)", file.display(), done.created);
            Ok(ExitCode::SUCCESS)
        }
        Err(faults) => {
            if !as_json {
                println!("{faults}");
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Checks the store in `folder`; with a configuration, the secrets in it as well.
///
/// # Errors
/// The folder holds no store, or nothing of it can be read.
pub(super) fn look_over(folder: &Path, config: Option<&Config>, pages: bool) -> anyhow::Result<Report> {
    let place = || {
        let what = format!("cannot look {} over", folder.display());
        Hint::new(what, "is it the data folder of a server that has run, or a copy of one?")
    };
    let settings = config.map(wiring::store).unwrap_or_default();
    EmbeddedStore::open_reading_with(folder, settings).with_context(place)?.check(pages).with_context(place)
}

/// For machines.
pub(super) fn json(report: &Report) -> serde_json::Value {
    let findings = report.findings.iter().map(|finding| {
        serde_json::json!({
            "kind": finding.kind.name(),
            "what": finding.what,
            "count": finding.count,
            "example": finding.example,
        })
    });
    serde_json::json!({
        "sound": report.findings.is_empty(),
        "newest": report.newest.map(|time| time.to_string()),
        "messages": report.messages,
        "attempts": report.attempts,
        "waiting": report.waiting,
        "sealed": report.sealed,
        "ledger": ledger::json(&report.ledger),
        "findings": findings.collect::<Vec<_>>(),
    })
}

/// For people.
pub(super) fn text(report: &Report) -> String {
    let Report { ledger, messages, attempts, waiting, newest, findings, .. } = report;
    let mut text = match newest {
        Some(newest) => {
            format!("as of {newest}: {messages} messages, {attempts} attempts, {waiting} deliveries wait\n")
        }
        None => "nothing was ever accepted\n".to_owned(),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", ledger::sum(ledger));
    for finding in findings {
        let (kind, what, count, example) = (finding.kind.name(), &finding.what, finding.count, &finding.example);
        let _ = writeln!(text, "{kind}: {what} ({count}; the first: {example})");
    }
    text.push_str(if findings.is_empty() { "nothing is wrong\n" } else { "" });
    text
}
