//! The server that a command asks: where it is, and what lets the command in. Every command that does so takes these arguments.

use super::{Hint, http::Api, token};
use anyhow::ensure;
use bellwire_config::{Config, Place};
use bellwire_model::OrganisationId;
use std::net::SocketAddr;

/// A server, found by its address or by the settings of its place.
#[derive(clap::Args)]
pub(super) struct Server {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    address: Address,
}

/// The part of it that needs settings for what is not said. `global`, so that one who has verbs takes it behind them too.
#[derive(clap::Args)]
pub(super) struct Address {
    /// The server [default: where the settings say it listens]
    #[arg(long, value_name = "URL", env = "BELLWIRE_URL", global = true, display_order = BEHIND)]
    url: Option<String>,
    /// Its token [default: one is made with the secret of the settings or the data folder]
    #[arg(
        id = TOKEN,
        long = "token",
        value_name = "TOKEN",
        env = "BELLWIRE_TOKEN",
        hide_env_values = true,
        global = true,
        display_order = BEHIND + 1
    )]
    token: Option<String>,
}

/// What [`clap::Command::mut_arg`] knows the token by, where `--token` means something else.
pub(super) const TOKEN: &str = "server_token";
/// In help, these two stand behind a command's own arguments.
const BEHIND: usize = 500;

impl Server {
    /// The API of the server, as an organisation sees it: that of the token, or `organisation` if one is made now.
    ///
    /// # Errors
    /// The settings are wrong, no token can be made, or it cannot stand in a header.
    pub(super) fn api(&self, organisation: OrganisationId) -> anyhow::Result<Api> {
        self.address.api(&Config::load(self.place.clone())?, organisation)
    }
}

impl Address {
    /// As [`Server::api`], for a command that has the settings.
    ///
    /// # Errors
    /// No token can be made, or it cannot stand in a header.
    pub(super) fn api(&self, config: &Config, organisation: OrganisationId) -> anyhow::Result<Api> {
        let url = self.url.clone().unwrap_or_else(|| own_url(&config.server));
        ensure!(
            self.token.is_some() || config.has_jwt_secret()?,
            Hint::new(
                format!(
                    "no server has used the data folder {} yet, so there is no token for one",
                    config.server.data.display()
                ),
                "name the data folder of the server with --data, or say where it is and what lets you in with --url and --token"
            )
        );
        let token = self.token.clone().map_or_else(|| token::make(config, organisation, None), Ok)?;
        Api::new(&url, &token)
    }
}

/// The server that these settings make, seen from this machine.
pub(super) fn own_url(server: &bellwire_config::server::Server) -> String {
    let scheme = if server.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{}", reachable(server.listen))
}

/// Where a listener of this machine can be reached from it.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_this_machine() {
        for (listens, at) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")] {
            assert_eq!(reachable(listens.parse().expect("an address")).to_string(), at);
        }
    }
}
