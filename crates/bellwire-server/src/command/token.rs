//! `bellwire token`: a token for the API, and nothing else on stdout.

use crate::{
    clock,
    config::{Config, Place},
};
use anyhow::Context as _;
use bellwire_api::{Principal, mint_token};
use bellwire_model::{ApplicationId, OrganisationId};
use std::{process::ExitCode, time::Duration};

/// The one that Svix's own command makes tokens for, so that both see the same applications.
pub(crate) const ORGANISATION_DEFAULT: &str = "org_23rb8YdGqMT0qIzpgGwdXfHirMu";
const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
/// An application's token goes to people outside.
const DAYS: Duration = Duration::from_secs(28 * 86_400);

/// Print a token for the API.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire token\n  curl -H \"Authorization: Bearer $(bellwire token)\" http://127.0.0.1:8071/api/v1/app\n\nThe token is signed with the configured secret (BELLWIRE_JWT_SECRET, SVIX_JWT_SECRET),\nor with the one of the data folder, which is made if it is missing. An organisation's\ntoken is good for ten years, an application's for 28 days."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Whom the token speaks for: org_ and at most 60 characters more
    #[arg(long, value_name = "ORG", default_value = ORGANISATION_DEFAULT, value_parser = organisation)]
    organisation: OrganisationId,
    /// Make a token that sees only this application
    #[arg(long, value_name = "APP")]
    application: Option<ApplicationId>,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.place)?;
    println!("{}", make(&config, arguments.organisation, arguments.application)?);
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
    mint_token(secret.reveal().as_bytes(), &principal, clock::wall(), lifetime).context("cannot make a token")
}

/// The default one.
pub(crate) fn organisation_default() -> OrganisationId {
    OrganisationId::parse(ORGANISATION_DEFAULT).expect("it begins with org_")
}

/// For a command line.
pub(crate) fn organisation(text: &str) -> Result<OrganisationId, &'static str> {
    OrganisationId::parse(text).ok_or("expected org_ and at most 60 characters more")
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
        assert_eq!(organisation_default().as_str(), ORGANISATION_DEFAULT);
    }
}
