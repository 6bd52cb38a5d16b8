//! `bellwire config`: the settings as `serve` would take them, and where each comes from.

use anyhow::Context as _;
use bellwire_config::{Config, Effective, Origin, Sources};
use bellwire_node::Tls;
use std::process::ExitCode;

/// Print the settings in force and where each comes from. Exits 1 if one has no meaning.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire config --changed\n  bellwire config --check && systemctl restart bellwire\n\nIt reads what `bellwire serve` would read with the same flags, variables and files, by the\nsame code. Secrets are not shown."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// Print only what is not the default
    #[arg(long)]
    changed: bool,
    /// Print nothing but what is wrong, or worth knowing
    #[arg(long, conflicts_with_all = ["json", "changed"])]
    check: bool,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (config, mut settings) = Config::explain(arguments.sources)?;
    if arguments.changed {
        settings.retain(|setting| setting.origin != Origin::Default);
    }
    if arguments.json {
        println!("{:#}", json(&settings, &config.notes));
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.check {
        config.server.tls.clone().map(Tls::load).transpose().context("TLS cannot be offered")?;
        eprintln!("every setting has a meaning");
    } else {
        print!("{}", table(&settings));
    }
    config.notes.iter().for_each(|note| eprintln!("note: {note}"));
    Ok(ExitCode::SUCCESS)
}

/// A line for each, the longest part last.
fn table(settings: &[Effective]) -> String {
    let rows: Vec<_> =
        settings.iter().map(|setting| (setting.name.as_str(), origin(setting), shown(setting))).collect();
    let width = |column: fn(&(&str, String, String)) -> usize| rows.iter().map(column).max().unwrap_or(0);
    let (names, origins) = (width(|row| row.0.len()), width(|row| row.1.chars().count()));
    rows.iter().map(|(name, origin, value)| format!("{name:<names$}  {origin:<origins$}  {value}\n")).collect()
}

/// A secret is shown as being there, and no more.
fn shown(setting: &Effective) -> String {
    match setting.secret && !is_empty(setting) {
        true => "(hidden)".into(),
        false => setting.value.to_string(),
    }
}

/// Whether there is nothing to hide.
fn is_empty(setting: &Effective) -> bool {
    ["\"\"", "[]", "\"none\""].contains(&setting.value.to_string().as_str())
}

fn origin(setting: &Effective) -> String {
    let over: Vec<_> = setting.overridden.iter().map(ToString::to_string).collect();
    match (&setting.origin, over.as_slice()) {
        (Origin::Default, _) => "default".into(),
        (origin, []) => origin.to_string(),
        (origin, over) => format!("{origin}, over {}", over.join(", ")),
    }
}

fn json(settings: &[Effective], notes: &[String]) -> serde_json::Value {
    let one = |setting: &Effective| {
        let hidden = setting.secret && !is_empty(setting);
        let (kind, place) = match &setting.origin {
            Origin::Default => ("default", None),
            origin @ Origin::File { .. } => ("file", Some(origin.to_string())),
            origin @ Origin::Variable(_) => ("variable", Some(origin.to_string())),
            origin @ Origin::Flag(_) => ("flag", Some(origin.to_string())),
        };
        serde_json::json!({
            "value": if hidden { serde_json::Value::Null } else { setting.value.to_json() },
            "hidden": hidden,
            "from": kind,
            "place": place,
            "over": setting.overridden.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    };
    let settings: serde_json::Map<_, _> = settings.iter().map(|setting| (setting.name.clone(), one(setting))).collect();
    serde_json::json!({ "settings": settings, "notes": notes })
}
