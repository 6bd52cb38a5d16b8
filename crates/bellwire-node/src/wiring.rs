//! From settings to the parts that take them, where a part's own types differ from the settings'.

use crate::connections::{ConnectionLimits, clients::Clients};
use anyhow::Context;
use bellwire_config::Config;
use bellwire_delivery::PushSettings;
use bellwire_engine::{ApplicationEntry, Catalogue};
use bellwire_model::Kind;
use bellwire_plugin::command::{Allowed, warden::Warden};
use bellwire_plugin::notify::Mail;
use bellwire_plugin::sql::tls::Tls;
use bellwire_shape::{ScriptLimits, Scripts};
use bellwire_signature::sealed::MainKeys;
use bellwire_store::Sealer;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Where in the data folder installed modules are kept.
pub const MODULES: &str = "plugins";

/// Outgoing requests; `own` is where we listen ourselves.
pub(crate) fn egress(config: &Config, own: SocketAddr) -> bellwire_egress::Settings {
    let mut settings = config.egress_settings();
    settings.guard.own_addresses = vec![own];
    settings
}

/// The embedded store.
pub fn store(config: &Config) -> bellwire_store::Settings {
    bellwire_store::Settings {
        sealer: Some(Arc::new(EndpointSecrets(config.auth.main_keys()))),
        messages: config.store.retention,
        bytes_max: config.store.bytes_max,
        ..bellwire_store::Settings::default()
    }
}

/// Seals the endpoints' secrets under the main secret, or writes them as plain rows without one.
#[derive(Debug)]
struct EndpointSecrets(MainKeys);

impl Sealer for EndpointSecrets {
    fn seal(&self, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        self.0.seal(&mut rand::rng(), aad, plain)
    }

    fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
        self.0.open(aad, sealed).map(|plain| plain.to_vec()).map_err(|e| e.to_string())
    }
}

/// The threads for the endpoints' scripts.
pub fn scripts(config: &Config) -> Scripts {
    Scripts::new(ScriptLimits {
        threads: config.transformations.threads,
        deadline: config.transformations.timeout,
        heap_bytes_max: config.transformations.memory_max,
        output_bytes_max: config.server.payload_bytes_max,
    })
}

/// What runs plugins, for all shards.
pub(crate) fn plugins(config: &Config) -> anyhow::Result<Arc<bellwire_plugin::Shared>> {
    let limits = bellwire_plugin::Limits {
        scripts: ScriptLimits {
            threads: config.plugins.threads,
            deadline: config.plugins.compute_max,
            heap_bytes_max: config.plugins.memory_max,
            output_bytes_max: config.server.payload_bytes_max,
        },
        commands: Allowed {
            programs: config.plugins.commands.clone(),
            environment: config.plugins.environment.clone(),
        },
        databases: config.plugins.databases.clone(),
        tls: Tls::new(&config.egress.tls).context("TLS to databases cannot be set up")?,
        tls_settings: config.egress.tls.clone(),
        mail: Mail::new(
            config.plugins.smtp.clone(),
            config.egress.tls.extra_roots.iter().map(|root| root.to_vec()).collect(),
        )
        .beside(config.egress.proxy.clone()),
        proxy: config.egress.proxy.clone(),
    };
    // This very program, also if its file has been replaced meanwhile.
    let own = PathBuf::from("/proc/self/exe");
    let own = if own.exists() { Some(own) } else { std::env::current_exe().ok() };
    let modules = bellwire_plugin::Installed::open(config.server.data.join(MODULES))
        .context("the installed modules cannot be read")?;
    Ok(bellwire_plugin::Shared::new(limits, own.map(Warden::new).unwrap_or_default(), modules))
}

/// Modules from when they were the whole server's go to the organisations whose endpoints run them; those that nobody runs to the one that
/// the command line speaks for.
pub(crate) fn hand_out_modules(plugins: &bellwire_plugin::Shared, catalogue: &Catalogue) -> anyhow::Result<()> {
    let runs = |entry: &ApplicationEntry, name: &str| {
        entry.endpoints.iter().any(|endpoint| bellwire_api::runs_module(&endpoint.kind, name))
    };
    let owners = |name: &str| {
        let users = catalogue.applications().filter(|entry| runs(entry, name));
        let users: BTreeSet<_> = users.map(|entry| entry.application.organisation.clone()).collect();
        match users.is_empty() {
            true => vec![bellwire_config::organisation_default()],
            false => users.into_iter().collect(),
        }
    };
    let count =
        plugins.modules().hand_out(owners).context("the installed modules cannot be given to their organisations")?;
    if count > 0 {
        tracing::info!(count, "installed modules belong to organisations from now on");
    }
    Ok(())
}

/// Components that enabled endpoints run are compiled in the background.
pub(crate) fn warm_up(plugins: &bellwire_plugin::Shared, catalogue: &Catalogue) {
    let endpoints = catalogue.applications().flat_map(|entry| {
        let enabled = entry.endpoints.iter().filter(|endpoint| endpoint.disabled.is_none());
        enabled.map(|endpoint| (&entry.application.organisation, &endpoint.kind))
    });
    plugins.warm_up(endpoints.filter_map(|(organisation, kind)| match kind {
        Kind::Plugin(plugin) => Some((organisation, plugin)),
        _ => None,
    }));
}

/// The API.
pub(crate) fn api(config: &Config, scripts: &Scripts) -> anyhow::Result<bellwire_api::Settings> {
    Ok(bellwire_api::Settings {
        jwt_secret: config.jwt_secret()?.reveal().as_bytes().to_vec(),
        jwt_secrets_before: config.jwt_secrets_before(),
        ..api_for_nobody(config, scripts)
    })
}

/// The API without a secret: no token is valid.
pub fn api_for_nobody(config: &Config, scripts: &Scripts) -> bellwire_api::Settings {
    bellwire_api::Settings {
        jwt_algorithm: config.auth.jwt_algorithm,
        rate_limit: config.limits.rate_limit(),
        app_portal_url: config.server.app_portal_url.clone(),
        serves_tls: config.server.tls.is_some(),
        https_only: config.delivery.https_only,
        unverified_tls_allowed: config.egress.allow_unverified_tls,
        default_secret_kind: config.delivery.default_secret_kind,
        body_bytes_max: config.server.body_bytes_max,
        payload_bytes_max: config.server.payload_bytes_max,
        reads_max: crate::shard::READERS / 2,
        scripts: scripts.clone(),
        ..bellwire_api::Settings::default()
    }
}

/// The bounds for clients of one of `shards` listeners.
pub(crate) fn connections(config: &Config, shards: usize, clients: Option<Arc<Clients>>) -> ConnectionLimits {
    ConnectionLimits {
        clients,
        connections_max: config.limits.connections_max.div_ceil(shards),
        head_timeout: config.server.header_timeout,
        body_timeout: config.server.body_timeout,
        idle_timeout: config.server.idle_timeout,
    }
}

/// Push.
pub(crate) fn push(config: &Config, scripts: &Scripts) -> PushSettings {
    PushSettings {
        header_names: config.delivery.headers,
        timeout: config.delivery.timeout,
        response_body_max: config.delivery.response_body_bytes_max,
        user_agent: config.delivery.user_agent.clone(),
        unverified_tls: config.egress.allow_unverified_tls,
        scripts: scripts.clone(),
        https_only: config.delivery.https_only,
    }
}
