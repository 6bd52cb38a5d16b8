//! The only way out: every request that Bellwire makes, for deliveries and for anything else, goes through here.
//!
//! Endpoints are chosen by people whom the operator does not know, and are called by the thousand. So this crate promises:
//!
//! - **No way in.** No socket is opened to an address that the [`guard`] denies, whatever the URL or DNS says, on the
//!   first attempt or on any later one.
//! - **Bounded.** Each exchange has one deadline over everything, one cap on the body that is read, and limits on heads.
//! - **No duplicates of our making.** A request is never sent twice when any byte of it may have been seen.
//! - **A reason for every failure**, with a class to count by, a text for the customer and a text for the operator.
//!
//! It knows nothing of messages, endpoints or retries. `delivery` calls [`Client::exchange`]; the API asks
//! [`Guard::check_url`] when an endpoint is saved.
//!
//! ```text
//! exchange → pool, or connect: guard → resolve → guard → (proxy) → tls → connection → exchange
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod guard;
pub mod resolve;
pub mod target;
pub mod proxy;
mod tls;
mod stream;
mod connect;
mod connection;
mod pool;
pub mod exchange;
mod probe;
mod reach;
mod chain;
mod error;

use std::{sync::Arc, time::Duration};

pub use crate::{
    chain::ChainError,
    error::{SendError, Stage, TlsProblem, with_causes},
    exchange::{BodyError, Client, Request, Response, Timings},
    guard::{Forbidden, Guard},
    pool::PoolSettings,
    probe::{CertificateFacts, Probe, TlsFacts},
    proxy::Proxy,
    reach::Reached,
    resolve::{NameServers, Resolve, ResolveError},
    target::{Target, UrlError},
    tls::{Authorities, PemError, TlsOptions, TlsProfile, TlsSettings, tls_authorities, tls_client_config},
};

/// Everything that can be set about outgoing requests.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What may be called.
    pub guard: Guard,
    /// Whom to ask for addresses.
    pub name_servers: NameServers,
    /// For one lookup from beginning to end.
    pub dns_timeout: Duration,
    /// For a TCP connection, all addresses of the host together.
    pub connect_timeout: Duration,
    /// TLS.
    pub tls: TlsSettings,
    /// The forward proxy, if requests go by way of one.
    pub proxy: Option<Proxy>,
    /// Idle connections.
    pub pool: PoolSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            guard: Guard::default(),
            name_servers: NameServers::default(),
            dns_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            tls: TlsSettings::default(),
            proxy: None,
            pool: PoolSettings::default(),
        }
    }
}

/// What all cores share: one policy and the parts that are costly to make. Makes the clients, one for each core.
pub struct Egress {
    settings: Settings,
    guard: Arc<Guard>,
    tls: Arc<tls::Base>,
    proxy: Option<Arc<Proxy>>,
}

/// Why outgoing requests cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A root certificate does not parse.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The name servers cannot be read from the machine's configuration.
    #[error("name resolution cannot be set up")]
    Dns(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Egress {
    /// Reads the authorities of the machine and checks the settings.
    ///
    /// # Errors
    /// [`SetupError::Tls`].
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        Ok(Self {
            guard: Arc::new(settings.guard.clone()),
            tls: Arc::new(tls::Base::new(&settings.tls)?),
            proxy: settings.proxy.clone().map(Arc::new),
            settings,
        })
    }

    /// The policy, for checks when an endpoint is saved.
    #[must_use]
    pub fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// A client with connections and a DNS cache of its own.
    ///
    /// # Errors
    /// [`SetupError::Dns`].
    pub fn client(&self) -> Result<Client, SetupError> {
        let dns = resolve::Dns::new(&self.settings.name_servers, self.settings.dns_timeout)
            .map_err(|error| SetupError::Dns(Box::new(error)))?;
        Ok(self.client_with_resolver(Arc::new(dns)))
    }

    /// A client that asks `resolver` instead of DNS. What it answers is judged all the same.
    #[must_use]
    pub fn client_with_resolver(&self, resolver: Arc<dyn Resolve>) -> Client {
        let connector = connect::Connector {
            guard: Arc::clone(&self.guard),
            resolver,
            tls: Arc::clone(&self.tls),
            proxy: self.proxy.clone(),
            connect_timeout: self.settings.connect_timeout,
        };
        Client::new(connector, pool::Pool::new(self.settings.pool.clone()))
    }
}
