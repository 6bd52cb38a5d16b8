//! `bellwire token`: a token for the API, and nothing else on stdout; and the server's register of tokens that can be taken back.

use super::{block_on, http::Api, server::Server};
use anyhow::Context as _;
use bellwire_api::{Principal, mint_token_by};
use bellwire_config::{Config, ORGANISATION_DEFAULT, Place};
use bellwire_model::{ApplicationId, OrganisationId, Scope, TokenId};
use bellwire_node::clock;
use http::Method;
use serde::{Deserialize, Serialize};
use std::{process::ExitCode, time::Duration};

const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
/// An application's token goes to people outside.
const DAYS: Duration = Duration::from_secs(28 * 86_400);

/// Print a token for the API, or look after those that are registered.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  bellwire token\n  curl -H \"Authorization: Bearer $(bellwire token)\" http://127.0.0.1:8071/api/v1/app\n  bellwire token create --name billing --scope send-only\n\nThe token is signed with the configured secret (BELLWIRE_JWT_SECRET, SVIX_JWT_SECRET),\nor with the one of the data folder, which is made if it is missing. An organisation's\ntoken is good for ten years, an application's for 28 days. It is not registered: only\na new secret takes it back. One of `bellwire token create` can be listed and expired."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    registered: Option<Registered>,
    #[command(flatten)]
    place: Place,
    /// Whom the token speaks for: org_ and at most 60 characters more
    #[arg(long, value_name = "ORG", default_value = ORGANISATION_DEFAULT, value_parser = organisation)]
    organisation: OrganisationId,
    /// Make a token that sees only this application
    #[arg(long, value_name = "APP")]
    application: Option<ApplicationId>,
}

#[derive(clap::Subcommand)]
enum Registered {
    /// Register a token with a running server, and print it.
    #[command(
        after_help = "Examples:\n  bellwire token create --name billing --scope send-only\n  bellwire token create --name support --scope read-only --application my-app --expires-in 30d\n\nThe token is printed once and not kept; its id and the rest go to stderr."
    )]
    Create {
        #[command(flatten)]
        server: ServerArguments,
        /// What you know it by
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What it may do: full, read-only or send-only; repeat it [default: full]
        #[arg(long, value_name = "SCOPE", value_parser = scope)]
        scope: Vec<Scope>,
        /// The only application that it is good for, by id or uid
        #[arg(long, value_name = "APP")]
        application: Option<String>,
        /// When it ends, from now on [default: never]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires_in: Option<Duration>,
    },
    /// List the registered tokens of a running server, newest first.
    #[command(
        after_help = "Examples:\n  bellwire token list\n  bellwire token list --json | jq '.[] | select(.lastUsedAt == null)'"
    )]
    List {
        #[command(flatten)]
        server: ServerArguments,
    },
    /// Take a registered token back.
    #[command(
        after_help = "Examples:\n  bellwire token expire key_2xGfWCrSPBZyUWw6RZ1TuUpnnzC\n  bellwire token expire key_2xGfWCrSPBZyUWw6RZ1TuUpnnzC --after 1h"
    )]
    Expire {
        #[command(flatten)]
        server: ServerArguments,
        /// Its id, as `bellwire token list` has it
        #[arg(value_name = "KEY")]
        id: TokenId,
        /// Only after this; at most 72h
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        after: Option<Duration>,
    },
}

/// Which server, and as whom.
#[derive(clap::Args)]
struct ServerArguments {
    #[command(flatten)]
    server: Server,
    /// Whose tokens
    #[arg(long, value_name = "ORG", default_value = ORGANISATION_DEFAULT, value_parser = organisation)]
    organisation: OrganisationId,
    /// Print JSON instead
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.registered {
        None => {
            let config = Config::load(arguments.place)?;
            println!("{}", make(&config, arguments.organisation, arguments.application)?);
        }
        Some(registered) => block_on(registered.run())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A token as `bellwire token` prints it.
///
/// # Errors
/// The secret of the data folder can neither be read nor made.
pub(crate) fn make(
    config: &Config,
    organisation: OrganisationId,
    application: Option<ApplicationId>,
) -> anyhow::Result<String> {
    let (principal, lifetime) = match application {
        None => (Principal::Organisation(organisation), YEARS),
        Some(application) => (Principal::Application { organisation, application, feature_flags: Vec::new() }, DAYS),
    };
    let secret = config.jwt_secret()?;
    let algorithm = config.auth.jwt_algorithm;
    mint_token_by(algorithm, secret.reveal().as_bytes(), &principal, clock::wall(), lifetime)
        .context("cannot make a token")
}

impl ServerArguments {
    fn api(&self) -> anyhow::Result<Api> {
        self.server.api(self.organisation.clone())
    }

    fn path(&self) -> String {
        format!("/management/authentication/{}/api-token", self.organisation)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenIn {
    name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Option<String>,
}

/// A token as the server tells of it; its text only when it is made.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenOut {
    id: String,
    name: Option<String>,
    scopes: Vec<String>,
    app_id: Option<String>,
    created_at: String,
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    censored_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl Registered {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            Registered::Create { server, name, scope, application, expires_in } => {
                let input = TokenIn {
                    name,
                    scopes: scope.into_iter().map(Scope::name).collect(),
                    expiry: expires_in.map(|lifetime| lifetime.as_secs()),
                    app_id: application,
                };
                let made: TokenOut = server.api()?.post(&server.path(), serde_json::to_vec(&input)?).await?;
                if server.json {
                    println!("{}", serde_json::to_string(&made)?);
                } else {
                    eprintln!("id       {}\nscopes   {}\nexpires  {}", made.id, made.scopes.join(", "), ends(&made));
                    println!("{}", made.token.unwrap_or_default());
                }
            }
            Registered::List { server } => {
                let tokens = server.api()?.all(&server.path(), usize::MAX).await?;
                if server.json {
                    println!("{}", serde_json::to_string(&tokens)?);
                } else {
                    println!("{}", table(&tokens));
                }
            }
            Registered::Expire { server, id, after } => {
                let body = serde_json::json!({ "expiry": after.unwrap_or_default().as_secs() }).to_string();
                let path = format!("{}/{id}/expire", server.path());
                let answer = server.api()?.call(Method::POST, &path, body.into()).await?;
                anyhow::ensure!(answer.is_success(), "{id} was not expired: {} {}", answer.status, answer.reason());
                if server.json {
                    println!("{}", serde_json::json!({ "id": id.to_string(), "expired": true }));
                } else {
                    eprintln!("{id} is expired");
                }
            }
        }
        Ok(())
    }
}

fn table(tokens: &[TokenOut]) -> String {
    let text = |value: &Option<String>, absent: &str| value.clone().unwrap_or_else(|| absent.to_owned());
    let rows = tokens.iter().map(|token| {
        vec![
            token.id.clone(),
            text(&token.name, ""),
            token.scopes.join(", "),
            text(&token.app_id, "all"),
            token.created_at.clone(),
            ends(token),
            text(&token.last_used_at, "never"),
            text(&token.censored_token, ""),
        ]
    });
    super::table(&["ID", "NAME", "SCOPES", "APPLICATION", "CREATED", "EXPIRES", "LAST USED", "TOKEN"], rows)
}

fn ends(token: &TokenOut) -> String {
    token.expires_at.clone().unwrap_or_else(|| "never".to_owned())
}

/// For a command line.
pub(crate) fn organisation(text: &str) -> Result<OrganisationId, &'static str> {
    OrganisationId::parse(text).ok_or("expected org_ and at most 60 characters more")
}

fn scope(text: &str) -> Result<Scope, &'static str> {
    text.parse().map_err(|()| "expected full, read-only or send-only")
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    bellwire_config::parse_duration(text).ok_or("expected a duration such as 90s, 12h or 30d")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organisation_is_any_text_with_its_prefix() {
        assert!(organisation("org_x").is_ok());
        for wrong in ["", "org_", "app_23rb8YdGqMT0qIzpgGwdXfHirMu"] {
            assert!(organisation(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_token() {
        let token = TokenOut {
            id: "key_1".to_owned(),
            name: Some("billing".to_owned()),
            scopes: vec!["send-only".to_owned()],
            app_id: None,
            created_at: "2026-01-01T00:00:00Z".to_owned(),
            expires_at: None,
            last_used_at: None,
            censored_token: Some("****abcd".to_owned()),
            token: None,
        };
        let table = table(&[token]);
        let line = table.lines().nth(1).expect("a line");
        for text in ["key_1", "billing", "send-only", "all", "never", "****abcd"] {
            assert!(line.contains(text), "{table}");
        }
    }
}
