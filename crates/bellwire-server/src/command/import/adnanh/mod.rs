//! `bellwire import adnanh`: makes a `hooks.toml` of the configuration of adnanh's `webhook`, and tells what is not the same.

mod template;
mod hook;
mod convert;

use crate::command::Hint;
use anyhow::{Context as _, bail};
use convert::{Note, Started, World, convert, find_program};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use template::Fetched;

/// Make a hooks file of the configuration of adnanh's webhook.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire import adnanh hooks.json -o hooks.toml && bellwire check hooks.toml\n  bellwire import adnanh hooks.yaml more.json --template > hooks.toml\n\nEach hook becomes a source at its old path and an endpoint that runs its command. What is\notherwise here, on purpose or because it cannot be the same, is told on stderr, a line for\neach. Exits 1 if anything needs somebody to look at it; the file is written all the same."
)]
pub(super) struct Arguments {
    /// Its configuration files, JSON or YAML
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// They are templates, as with its -template
    #[arg(long)]
    template: bool,
    /// Write to this file instead of stdout; one that is there is not overwritten
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What it was given as -urlprefix
    #[arg(long, value_name = "PREFIX", default_value = "hooks")]
    urlprefix: String,
    /// What it was given as -http-methods
    #[arg(long, value_name = "METHODS", value_delimiter = ',')]
    http_methods: Vec<String>,
    /// What it was given as -header, for what hooks answer that fire; repeat it
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Tell the differences as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    if let Some(output) = arguments.output.as_ref().filter(|output| output.exists()) {
        bail!(Hint::new(format!("{} is there already", output.display()), "move it away, or choose another name"));
    }
    let machine = Machine { folder: std::env::current_dir().context("cannot tell the current folder")? };
    let mut hooks = Vec::new();
    for file in &arguments.files {
        hooks.extend(read(file, arguments.template)?);
    }
    let started = Started {
        prefix: arguments.urlprefix.trim_matches('/').to_owned(),
        methods: arguments.http_methods.clone(),
        headers: arguments.header.clone(),
    };
    let converted = convert(&hooks, &started, &machine);
    match &arguments.output {
        Some(output) => {
            fs::write(output, &converted.toml).with_context(|| format!("cannot write {}", output.display()))?
        }
        None => print!("{}", converted.toml),
    }
    tell(&converted.notes, arguments.json);
    let lost = converted.notes.iter().filter(|note| note.is_lost).count();
    eprintln!("{} of {} hooks taken over, {lost} things to look at", converted.count, hooks.len());
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("a header is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn tell(notes: &[Note], as_json: bool) {
    for Note { hook, is_lost, text } in notes {
        if as_json {
            eprintln!("{}", serde_json::json!({ "hook": hook, "lost": is_lost, "text": text }));
            continue;
        }
        let what = if *is_lost { "LOOK AT THIS" } else { "otherwise" };
        let of = if hook.is_empty() { "all hooks" } else { hook };
        eprintln!("{what}: {of}: {text}");
    }
}

fn read(file: &Path, is_template: bool) -> anyhow::Result<Vec<hook::Hook>> {
    let mut text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    if is_template {
        let folder = bellwire_config::variable("CREDENTIALS_DIRECTORY");
        let credential = |name: &str| {
            let path = Path::new(folder.as_deref()?).join(name);
            path.is_file().then(|| path.to_string_lossy().into_owned())
        };
        text = template::mark(&text, &credential).map_err(|unknown| {
            let all: Vec<String> = unknown.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}: {}", file.display(), all.join("\n  "))
        })?;
    } else if text.contains("{{ getenv") || text.contains("{{ cat") || text.contains("{{ credential") {
        eprintln!("hint: {} looks like a template; --template reads it as one", file.display());
    }
    hook::read(&text)
        .map_err(|error| anyhow::anyhow!(error))
        .with_context(|| format!("{} cannot be read", file.display()))
}

/// This one.
struct Machine {
    folder: PathBuf,
}

impl World for Machine {
    fn program(&self, name: &str) -> Option<PathBuf> {
        find_program(&bellwire_config::variable("PATH")?, name)
    }

    fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    fn fetch(&self, fetched: &Fetched) -> String {
        match fetched {
            Fetched::Variable(name) => bellwire_config::variable(name).unwrap_or_default(),
            Fetched::File(path) => {
                let text = fs::read_to_string(self.folder.join(path)).unwrap_or_default();
                text.strip_suffix('\n').unwrap_or(&text).to_owned()
            }
        }
    }
}
