//! `bellwire ledger`: the sum that must always come out, read from the data folder, also beside a running server.

use super::Hint;
use anyhow::Context as _;
use bellwire_config::{Config, Place};
use bellwire_model::{EndReason, Ledger};
use bellwire_store::{EmbeddedStore, Store as _};
use std::{fmt::Write as _, path::Path, process::ExitCode};

/// Print what was accepted and what became of it. Exits 1 if the sum does not come out.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  bellwire ledger --data ./bellwire-data\n\nMatched is one for each message and endpoint; each of them is delivered, pending, or\nended with a reason. It only reads, and may run beside a server."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let data = Config::load(arguments.place)?.server.data;
    let ledger = read(&data)?;
    if arguments.json {
        println!("{}", json(&ledger));
    } else {
        print!("{}", table(&ledger));
    }
    if ledger.balances() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("error: the sum does not come out: something was lost or counted twice in {}", data.display());
    Ok(ExitCode::FAILURE)
}

/// Reads the ledger of a data folder.
///
/// # Errors
/// The folder is not one of ours, or cannot be read.
pub(crate) fn read(data: &Path) -> anyhow::Result<Ledger> {
    let place = || {
        let what = format!("cannot read the ledger of {}", data.display());
        Hint::new(what, "--data or BELLWIRE_DATA names the data folder of a server that has run")
    };
    EmbeddedStore::open_reading(data).with_context(place)?.ledger().with_context(place)
}

/// For machines.
pub(super) fn json(ledger: &Ledger) -> serde_json::Value {
    let ended: serde_json::Map<_, _> =
        reasons(ledger).map(|(reason, count)| (reason.name().to_owned(), count.into())).collect();
    serde_json::json!({
        "accepted": ledger.accepted,
        "matched": ledger.matched,
        "delivered": ledger.delivered,
        "pending": ledger.pending,
        "ended": ended,
    })
}

fn table(ledger: &Ledger) -> String {
    let ended: u64 = ledger.ended.iter().sum();
    let mut rows = vec![
        ("accepted", ledger.accepted, "messages"),
        ("matched", ledger.matched, "deliveries owed: one for each message and endpoint"),
        ("delivered", ledger.delivered, ""),
        ("pending", ledger.pending, ""),
        ("ended", ended, ""),
    ];
    rows.extend(reasons(ledger).filter(|(_, count)| *count > 0).map(|(reason, count)| (reason.name(), count, "")));
    let width = rows.iter().map(|(_, count, _)| count.to_string().len()).max().unwrap_or(1);
    let mut text = String::new();
    for (i, (name, count, note)) in rows.iter().enumerate() {
        let name = if i < 5 { (*name).to_owned() } else { format!("  {name}") };
        let line = format!("{name:<20}{count:>width$}  {note}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n{}", sum(ledger));
    text
}

/// The sum, as a line.
pub(super) fn sum(ledger: &Ledger) -> String {
    let sign = if ledger.balances() { "=" } else { "≠" };
    let Ledger { matched, delivered, pending, .. } = ledger;
    let ended: u64 = ledger.ended.iter().sum();
    format!("{matched} matched {sign} {delivered} delivered + {pending} pending + {ended} ended")
}

fn reasons(ledger: &Ledger) -> impl Iterator<Item = (EndReason, u64)> {
    EndReason::ALL.into_iter().zip(ledger.ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger { accepted: 1_000, matched: 2_000, delivered: 1_990, pending: 7, ended: [2, 0, 0, 1, 0, 0] }
    }

    #[test]
    fn the_json_has_every_reason() {
        assert_eq!(
            json(&ledger()).to_string(),
            r#"{"accepted":1000,"matched":2000,"delivered":1990,"pending":7,"ended":{"exhausted":2,"aborted":0,"expired":0,"endpoint_deleted":1,"resend_failed":0,"cancelled":0}}"#
        );
    }

    #[test]
    fn the_table_has_what_there_is_and_the_sum() {
        assert_eq!(
            table(&ledger()),
            "accepted            1000  messages\n\
             matched             2000  deliveries owed: one for each message and endpoint\n\
             delivered           1990\n\
             pending                7\n\
             ended                  3\n  \
               exhausted            2\n  \
               endpoint_deleted     1\n\
             \n2000 matched = 1990 delivered + 7 pending + 3 ended\n"
        );
        assert!(table(&Ledger { pending: 8, ..ledger() }).contains("2000 matched ≠ 1990"));
    }

    #[test]
    fn a_folder_without_a_store_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = read(folder.path()).expect_err("nothing there");
        assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    }
}
