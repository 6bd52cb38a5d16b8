//! Called by the name `svix-server`, the program takes that program's command line, so that an image can be swapped without
//! a change to whatever starts it. In our container image the name is a link to `bellwire`.

use super::{healthcheck, input, serve, token};
use anyhow::bail;
use bellwire_config::{Config, Sources};
use bellwire_egress::TlsSettings;
use bellwire_model::OrganisationId;
use bellwire_signature::Secret;
use clap::{Parser, Subcommand};
use std::{path::Path, process::ExitCode, time::Duration};

const NAME: &str = "svix-server";

#[derive(Parser)]
#[command(name = NAME, version, about = "Bellwire, called by the name of the server that it replaces.")]
struct Arguments {
    /// Understood: the data folder is brought up to date at every start
    #[arg(long)]
    run_migrations: bool,
    /// Understood: there is no database to wait for
    #[arg(long, value_name = "SECONDS")]
    wait_for: Option<u64>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Does nothing: the data folder is brought up to date at every start
    Migrate,
    /// Tokens for the API
    #[command(subcommand)]
    Jwt(Jwt),
    /// Keys for asymmetric signatures
    #[command(subcommand)]
    AsymmetricKey(AsymmetricKey),
    /// Ask a server whether it is ready
    Healthcheck {
        /// Its health URL
        url: String,
    },
    /// Refused: delete the organisation's applications by the API
    #[command(hide = true)]
    Wipe(Anything),
    /// Refused: store.retention prunes by itself
    #[command(hide = true)]
    Prune(Anything),
    /// Refused: GET /api/v1/openapi.json has the document
    #[command(hide = true)]
    GenerateOpenapi(Anything),
}

#[derive(Subcommand)]
enum Jwt {
    /// Print a token
    Generate {
        /// Of which organisation
        #[arg(value_parser = token::organisation, default_value = bellwire_config::ORGANISATION_DEFAULT)]
        organisation: OrganisationId,
    },
}

#[derive(Subcommand)]
enum AsymmetricKey {
    /// Print a new pair
    Generate {
        /// The one kind that there is
        #[arg(value_parser = ["ed25519"], default_value = "ed25519")]
        kind: String,
    },
}

#[derive(clap::Args)]
struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Whether this process was started by that name.
pub(crate) fn is_meant() -> bool {
    std::env::args_os().next().is_some_and(|path| Path::new(&path).file_name().is_some_and(|name| name == NAME))
}

/// Runs what was asked for, by default the server.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        None => serve::run(serve::Arguments::default()),
        Some(Command::Migrate) => {
            eprintln!("nothing to do: the data folder is brought up to date at every start");
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Jwt(Jwt::Generate { organisation })) => {
            let config = Config::load(Sources::default())?;
            println!("Token (Bearer): {}", token::make(&config, organisation, None)?);
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::AsymmetricKey(AsymmetricKey::Generate { .. })) => {
            let secret = Secret::generate_ed25519(&mut input::chance()?);
            println!("Secret key: {}\nPublic key: {}", *secret.reveal_text(), secret.public_text());
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Healthcheck { url }) => healthcheck::check(&url, TlsSettings::default(), Duration::from_secs(10)),
        Some(Command::Wipe(_)) => bail!("there is no `wipe` here: delete the organisation's applications by the API"),
        Some(Command::Prune(_)) => {
            bail!("there is no `prune` here: store.retention and store.bytes_max prune by themselves")
        }
        Some(Command::GenerateOpenapi(_)) => {
            bail!("there is no `generate-openapi` here: GET /api/v1/openapi.json has the document")
        }
    }
}
