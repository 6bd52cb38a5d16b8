//! `bellwire pack`: catalogues of event types that come with the program, or stand in a file, installed in a running server.
//!
//! A pack is an OpenAPI document whose `webhooks` are the event types, so any tool reads it, and the server's own import installs
//! it. A schema may say under which other names its event type is known, in `x-bellwire-aliases`; `bellwire send` understands them.

use super::http::{Api, is_plain};
use super::{Hint, block_on, server::Server};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Subcommand;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, process::ExitCode};

/// Name and document of each that comes with the program.
const PACKS: [(&str, &str); 3] = [
    ("remote-support", include_str!("../../packs/remote-support.yaml")),
    ("github", include_str!("../../packs/github.yaml")),
    ("standard-webhooks", include_str!("../../packs/standard-webhooks.yaml")),
];
/// Where a schema says how else its event type is called.
const ALIASES: &str = "x-bellwire-aliases";

/// Install ready-made event types, with schemas and samples.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire pack list\n  bellwire pack show remote-support\n  bellwire pack add remote-support --dry-run\n  bellwire pack add ./our-events.yaml\n\nA pack is an OpenAPI document with `webhooks`; a file of your own is one, too. What is there\nalready and the same stays as it is, so a pack can be added again; what was changed by hand is set back."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Which packs there are
    List {
        /// Print JSON instead
        #[arg(long)]
        json: bool,
    },
    /// Print a pack
    Show {
        /// Its name, or a file
        #[arg(value_name = "NAME|FILE")]
        pack: String,
        /// Print JSON instead of YAML
        #[arg(long)]
        json: bool,
    },
    Add(Add),
}

/// Create or update the event types of a pack in a running server
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  bellwire pack add github --dry-run\n  bellwire pack add ./our-events.yaml")]
struct Add {
    #[command(flatten)]
    server: Server,
    /// Its name, or a file
    #[arg(value_name = "NAME|FILE")]
    pack: String,
    /// Only say what would be created or changed
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Action::List { json } => list(json)?,
        Action::Show { pack, json } => {
            let text = text_of(&pack)?;
            match json {
                true => println!("{}", serde_json::to_string_pretty(&read(&pack, &text)?)?),
                false => print!("{text}"),
            }
        }
        Action::Add(add) => block_on(install(&add))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(json: bool) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for (name, text) in PACKS {
        let document = read(name, text)?;
        all.push(json!({
            "name": name,
            "description": document["info"]["description"],
            "eventTypes": names(&document),
        }));
    }
    if json {
        println!("{}", Value::Array(all));
        return Ok(());
    }
    for pack in &all {
        let event_types = pack["eventTypes"].as_array().map_or(0, Vec::len);
        let text = |member: &str| pack[member].as_str().unwrap_or_default().to_owned();
        println!("{:<18} {event_types:>3} event types  {}", text("name"), text("description"));
    }
    Ok(())
}

/// What the server's import answers.
#[derive(Deserialize)]
struct Imported {
    data: ImportedData,
}

#[derive(Deserialize)]
struct ImportedData {
    modified: Vec<String>,
    #[serde(default)]
    to_modify: Option<Vec<Named>>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

async fn install(add: &Add) -> anyhow::Result<()> {
    let text = text_of(&add.pack)?;
    let all = names(&read(&add.pack, &text)?);
    let api = add.server.api(bellwire_config::organisation_default())?;
    let before = existing(&api).await?;
    let body = json!({ "specRaw": text, "dryRun": add.dry_run }).to_string();
    let Imported { data } = api.post("/event-type/import/openapi", body).await?;
    let changed: BTreeSet<String> = match data.to_modify {
        Some(would) => would.into_iter().map(|named| named.name).collect(),
        None => data.modified.into_iter().collect(),
    };
    let of = |wanted: &str| -> Vec<&str> {
        let what = |name: &String| match (changed.contains(name), before.contains(name)) {
            (true, false) => "created",
            (true, true) => "updated",
            (false, _) => "unchanged",
        };
        all.iter().filter(|name| what(name) == wanted).map(String::as_str).collect()
    };
    let (created, updated, unchanged) = (of("created"), of("updated"), of("unchanged"));
    if add.json {
        println!(
            "{}",
            json!({ "pack": add.pack, "dryRun": add.dry_run, "created": created, "updated": updated, "unchanged": unchanged })
        );
        return Ok(());
    }
    for (what, names) in [("created", &created), ("updated", &updated)] {
        names.iter().for_each(|name| println!("{what}  {name}"));
    }
    let would = if add.dry_run { "would be " } else { "" };
    println!(
        "{}: {} {would}created, {} {would}updated, {} as they were",
        add.pack,
        created.len(),
        updated.len(),
        unchanged.len()
    );
    Ok(())
}

#[derive(Deserialize)]
struct Page {
    data: Vec<EventType>,
    done: bool,
    iterator: Option<String>,
}

#[derive(Deserialize)]
struct EventType {
    name: String,
    #[serde(default)]
    schemas: Option<serde_json::Map<String, Value>>,
}

/// Names of all that the server has, archived ones left out.
async fn existing(api: &Api) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    each(api, false, |event_type| {
        names.insert(event_type.name);
    })
    .await?;
    Ok(names)
}

async fn each(api: &Api, with_content: bool, mut take: impl FnMut(EventType)) -> anyhow::Result<()> {
    let mut from = String::new();
    loop {
        // With their schemas, so few that an answer stays below what is read.
        let limit = if with_content { 20 } else { 250 };
        let page: Page = api.get(&format!("/event-type?limit={limit}&with_content={with_content}{from}")).await?;
        page.data.into_iter().for_each(&mut take);
        match page.iterator {
            Some(iterator) if !page.done => from = format!("&iterator={iterator}"),
            _ => return Ok(()),
        }
    }
}

/// The event type that is called `name`: by its own name, else by an alias that one of its schemas has; `name` itself if there is
/// none, or the token may not look.
///
/// # Errors
/// Several have the alias, or the server does not answer.
pub(super) async fn event_type_called(api: &Api, name: &str) -> anyhow::Result<String> {
    if !is_plain(name) || api.call(Method::GET, &format!("/event-type/{name}"), Bytes::new()).await?.status != 404 {
        return Ok(name.to_owned());
    }
    let mut called = BTreeSet::new();
    each(api, true, |event_type| {
        let schemas = event_type.schemas.unwrap_or_default();
        if schemas.values().any(|schema| aliases(schema).any(|alias| alias == name)) {
            called.insert(event_type.name);
        }
    })
    .await?;
    if called.len() > 1 {
        let all = called.into_iter().collect::<Vec<_>>().join(", ");
        bail!(Hint::new(format!("several event types are also called {name}: {all}"), "use the full name"));
    }
    Ok(called.pop_first().unwrap_or_else(|| name.to_owned()))
}

fn aliases(schema: &Value) -> impl Iterator<Item = &str> {
    let own = schema[ALIASES].as_array().into_iter().flatten();
    own.filter_map(Value::as_str)
}

fn text_of(pack: &str) -> anyhow::Result<String> {
    if let Some((_, text)) = PACKS.iter().find(|(name, _)| *name == pack) {
        return Ok((*text).to_owned());
    }
    if !pack.contains(['/', '.']) {
        let names = PACKS.map(|(name, _)| name).join(", ");
        bail!(Hint::new(
            format!("there is no pack {pack:?}"),
            format!("there are {names}; a file of your own is named by its path, such as ./{pack}.yaml")
        ));
    }
    fs::read_to_string(pack).with_context(|| format!("cannot read the pack {pack}"))
}

fn read(pack: &str, text: &str) -> anyhow::Result<Value> {
    let document: Value =
        serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{pack} is neither YAML nor JSON: {error}"))?;
    if !document["webhooks"].is_object() && !document["x-webhooks"].is_object() {
        bail!("{pack} is no pack: it has no `webhooks`");
    }
    Ok(document)
}

fn names(document: &Value) -> Vec<String> {
    let sections = ["webhooks", "x-webhooks"].into_iter().filter_map(|section| document[section].as_object());
    sections.flat_map(|webhooks| webhooks.keys().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_pack_has_descriptions_groups_samples_and_aliases_that_are_its_own() {
        for (pack, text) in PACKS {
            let document = read(pack, text).unwrap_or_else(|error| panic!("{error}"));
            let mut seen = BTreeMap::new();
            for name in names(&document) {
                let post = &document["webhooks"][&name]["post"];
                assert!(post["description"].as_str().is_some_and(|text| text.ends_with('.')), "{pack} {name}");
                assert!(post["x-svix-group-name"].is_string(), "{pack} {name}");
                let schema = &post["requestBody"]["content"]["application/json"]["schema"];
                assert!(schema["examples"][0].is_object(), "{pack} {name}");
                for alias in aliases(schema) {
                    assert_eq!(seen.insert(alias.to_owned(), name.clone()), None, "{pack}: {alias} twice");
                }
            }
            if pack == "remote-support" {
                let numbers: BTreeSet<u8> = seen.keys().filter_map(|alias| alias.parse().ok()).collect();
                assert_eq!(numbers, (0..=17).collect(), "every number of Zoho Assist has its event type");
                assert_eq!((seen["4"].as_str(), seen["15"].as_str()), ("session.customer_joined", "device.deleted"));
            }
        }
    }
}
