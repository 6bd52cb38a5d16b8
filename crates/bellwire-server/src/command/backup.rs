//! `bellwire backup` and `bellwire restore`: a copy of the data folder as it is at one instant, beside a running server; and back.

use super::{Hint, check};
use anyhow::{Context as _, ensure};
use bellwire_config::{Config, Place, copy_secret};
use bellwire_node::wiring::MODULES;
use bellwire_store::embedded::{BackupError, Progress, backup};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Copy the data folder as it is now, also beside a running server, and check the copy.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  bellwire backup /var/backups/bellwire/$(date +%F)\n\nEvery message that was acknowledged before it began is in the copy. The copy is a data\nfolder: it holds the secret of the API's tokens if that was made by the server, and what\nis encrypted stays so. Keep auth.main_secret elsewhere: without it a copy signs nothing."
)]
pub(crate) struct BackupArguments {
    #[command(flatten)]
    place: Place,
    /// Where the copy goes: a folder that is empty, or not there
    #[arg(value_name = "DIR")]
    to: PathBuf,
    /// Do not look the copy over
    #[arg(long)]
    unchecked: bool,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

/// Put a copy that `bellwire backup` made into an empty data folder.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  bellwire restore /var/backups/bellwire/2026-11-21 --data /var/lib/bellwire\n\nIt looks the copy over first, and refuses a data folder that is not empty. What was\npending when the copy was made is sent when the server starts; what was delivered after\nthat is not known to be, and is sent again under the same webhook-id."
)]
pub(crate) struct RestoreArguments {
    #[command(flatten)]
    place: Place,
    /// The copy
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

/// Runs `backup`.
pub(crate) fn run_backup(arguments: BackupArguments) -> anyhow::Result<ExitCode> {
    let BackupArguments { place, to, unchecked, json } = arguments;
    let begun = Instant::now();
    let data = Config::load(place)?.server.data;
    let secret = copy(&data, &to, "copying")?;
    if unchecked {
        match json {
            true => println!("{}", serde_json::json!({"folder": to, "jwtSecret": secret, "checked": false})),
            false => println!("copied to {}, not looked over", to.display()),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let report = check::look_over(&to, None, true)?;
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    if json {
        let found = check::json(&report);
        let told = serde_json::json!({
            "folder": to, "jwtSecret": secret, "checked": true, "durationMs": duration_ms, "check": found,
        });
        println!("{told}");
    } else {
        print!("{}", check::text(&report));
        println!("copied to {} in {:.1} s", to.display(), duration_ms as f64 / 1_000.0);
    }
    ensure!(report.findings.is_empty(), "the copy in {} is not sound, and so the data folder may not be", to.display());
    Ok(ExitCode::SUCCESS)
}

/// Runs `restore`.
pub(crate) fn run_restore(arguments: RestoreArguments) -> anyhow::Result<ExitCode> {
    let RestoreArguments { place, from, json } = arguments;
    let data = Config::load(place)?.server.data;
    let report = check::look_over(&from, None, true)?;
    ensure!(report.findings.is_empty(), "the copy is not sound, and nothing was restored:\n{}", check::text(&report));
    let secret = copy(&from, &data, "restoring")?;
    if json {
        let told = serde_json::json!({"folder": data, "jwtSecret": secret, "check": check::json(&report)});
        println!("{told}");
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", check::text(&report));
    println!("restored to {}", data.display());
    if report.ledger.pending > 0 {
        println!("{} deliveries were pending then, and are sent when the server starts", report.ledger.pending);
    }
    if report.sealed > 0 {
        println!("{} endpoints' secrets are encrypted: start with the same auth.main_secret", report.sealed);
    }
    if !secret {
        println!("the copy holds no secret of the API's tokens: start with the same auth.jwt_secret");
    }
    Ok(ExitCode::SUCCESS)
}

/// Copies the store, and the secret beside it. Answers whether there was one.
fn copy(from: &Path, to: &Path, verb: &'static str) -> anyhow::Result<bool> {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {percent} % {eta}").expect("a template");
    // Shows nothing where there is no terminal.
    let bar = ProgressBar::new(0).with_style(style).with_message(verb);
    let made = backup(from, to, |Progress { pages, pages_total }| {
        bar.set_length(pages_total);
        bar.set_position(pages);
    });
    bar.finish_and_clear();
    made.map_err(|error| {
        let hint = match &error {
            BackupError::NotEmpty { .. } => "nothing is overwritten; name another folder, or empty this one",
            BackupError::Open(_) => "--data or BELLWIRE_DATA names the data folder of a server that has run",
            BackupError::Folder { .. } | BackupError::Copy(_) => "is there room, and may this user write there?",
        };
        let what = format!("cannot copy {} to {}", from.display(), to.display());
        anyhow::Error::from(error).context(Hint::new(what, hint))
    })?;
    copy_modules(&from.join(MODULES), &to.join(MODULES))
        .with_context(|| format!("cannot copy the installed modules to {}", to.display()))?;
    copy_secret(from, to).with_context(|| format!("cannot copy the secret to {}", to.display()))
}

/// Copies the folder of the modules, if there is one. A server may change it meanwhile; then the copy does not fit together and is
/// made again.
fn copy_modules(from: &Path, to: &Path) -> anyhow::Result<()> {
    const TRIES: usize = 10;
    for _ in 1..TRIES {
        if !from.try_exists()? || try_copy_modules(from, to).is_ok() {
            return Ok(());
        }
    }
    try_copy_modules(from, to)
}

fn try_copy_modules(from: &Path, to: &Path) -> anyhow::Result<()> {
    copy_folder(from, to)?;
    bellwire_plugin::Installed::open(to.to_owned())?;
    // What an older version left, and none has taken over yet.
    bellwire_plugin::Modules::open(to.to_owned())?;
    Ok(())
}

/// Copies the files of a folder, and the folders in it.
fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    // The index first: what it names is there by then, and stays unless it is changed.
    let mut files = std::fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(|file| !file.file_name().as_encoded_bytes().ends_with(b".json"));
    for name in files.iter().map(std::fs::DirEntry::file_name).filter(|name| !name.as_encoded_bytes().starts_with(b"."))
    {
        if from.join(&name).is_dir() {
            copy_folder(&from.join(&name), &to.join(&name))?;
            continue;
        }
        std::fs::copy(from.join(&name), to.join(&name))?;
        std::fs::File::open(to.join(&name))?.sync_all()?;
    }
    std::fs::File::open(to)?.sync_all()?;
    Ok(())
}
