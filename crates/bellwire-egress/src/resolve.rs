//! From a host name to its addresses, within a budget.
//!
//! The connector asks here before each new connection and pins the connection to exactly what was answered; it also does
//! the judging. A resolver therefore only looks names up. It is a trait so that tests can script what DNS says, and so
//! that the operator can choose the name servers.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    time::Duration,
};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
};

/// How long a positive answer is kept at most, whatever its TTL says.
const POSITIVE_TTL_MAX: Duration = Duration::from_secs(300);
/// How long "no such name" is kept at most: a customer who has just made the record should not wait for long.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);
/// Answers kept at most, for each resolver.
const CACHE_ANSWERS_MAX: u64 = 4096;

/// The answer to a lookup, in the order in which the addresses should be tried.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, ResolveError>> + Send + 'a>>;

/// Looks host names up.
pub trait Resolve: Send + Sync {
    /// All addresses of `name`, v4 and v6, none left out: one forbidden address among them must be seen.
    ///
    /// `name` is absolute; no search list applies. An answer without addresses is [`ResolveError::NotFound`].
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a>;
}

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist, or has neither A nor AAAA records.
    #[error("no addresses")]
    NotFound,
    /// The name servers did not answer within the budget.
    #[error("no answer from the name servers in time")]
    Timeout,
    /// The name servers answered with a failure, or with something that is no answer.
    #[error("the name servers failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Which name servers to ask.
#[derive(Debug, Clone, Default)]
pub enum NameServers {
    /// Those of the machine.
    #[default]
    System,
    /// These.
    Listed(Vec<SocketAddr>),
}

/// DNS, with the machine's `hosts` file consulted first. What the `hosts` file says is judged like any other answer.
pub struct Dns {
    resolver: TokioResolver,
    budget: Duration,
}

impl Dns {
    /// A resolver with a cache of its own. Its background tasks run on whichever runtime first uses it, so each core
    /// has its own.
    ///
    /// `budget` bounds one lookup from beginning to end, all retries and servers included.
    ///
    /// # Errors
    /// If the machine's configuration cannot be read or makes no sense.
    pub fn new(servers: &NameServers, budget: Duration) -> Result<Self, NetError> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = match servers {
            NameServers::System => TokioResolver::builder_tokio()?,
            NameServers::Listed(addresses) => Resolver::builder_with_config(listed(addresses), provider),
        };
        bound(builder.options_mut(), budget);
        Ok(Self { resolver: builder.build()?, budget })
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        // With the root's dot the name is absolute, and the search list of resolv.conf cannot lead it elsewhere.
        let absolute = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
        let lookup = tokio::time::timeout(self.budget, self.resolver.lookup_ip(absolute.as_str()))
            .await
            .map_err(|_| ResolveError::Timeout)?
            .map_err(classify)?;
        let addresses: Vec<IpAddr> = lookup.iter().collect();
        if addresses.is_empty() { Err(ResolveError::NotFound) } else { Ok(addresses) }
    }
}

impl Resolve for Dns {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a> {
        Box::pin(self.look_up(name))
    }
}

fn listed(addresses: &[SocketAddr]) -> ResolverConfig {
    let servers = addresses
        .iter()
        .map(|address| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            NameServerConfig::new(address.ip(), true, connections.into())
        })
        .collect();
    ResolverConfig::from_name_servers(servers)
}

fn bound(options: &mut ResolverOpts, budget: Duration) {
    // Two tries fit into the budget, whatever resolv.conf asks for.
    options.timeout = options.timeout.min(budget / 2);
    options.attempts = 1;
    options.cache_size = CACHE_ANSWERS_MAX;
    options.positive_max_ttl = Some(POSITIVE_TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    options.use_hosts_file = ResolveHosts::Always;
    options.try_tcp_on_error = true;
}

fn classify(error: NetError) -> ResolveError {
    if error.is_nx_domain() || (error.is_no_records_found() && !is_server_failure(&error)) {
        return ResolveError::NotFound;
    }
    match error {
        NetError::Timeout => ResolveError::Timeout,
        other => ResolveError::Failed(Box::new(other)),
    }
}

/// "No records" is also what hickory says when the server refused or failed; only the response code tells.
fn is_server_failure(error: &NetError) -> bool {
    use hickory_resolver::{
        net::{DnsError, NoRecords},
        proto::op::ResponseCode,
    };
    match error {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })) => {
            *response_code != ResponseCode::NoError
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_machine_says_answers_are_not_kept_for_long_and_lookups_end() {
        let mut options = ResolverOpts::default();
        options.timeout = Duration::from_secs(30);
        options.attempts = 100;
        bound(&mut options, Duration::from_secs(5));
        assert_eq!(options.negative_max_ttl, Some(Duration::from_secs(30)));
        assert_eq!(options.positive_max_ttl, Some(Duration::from_secs(300)));
        assert!(options.timeout * (options.attempts as u32 + 1) <= Duration::from_secs(5));
    }
}
