//! Settings: read once, at the edge, into valid types; or all that is wrong with them at once, before anything starts.
//!
//! ```text
//! config.default.toml < the user's file < SVIX_* variables < BELLWIRE_* variables < flags
//! ```
//!
//! The first layer is complete, so it is also the list of what there is: a name that it lacks is a mistake. Every value of
//! every layer must have a meaning, also where a stronger layer overrides it. A section is a file here, a struct in it,
//! and a table in `config.default.toml`; a new setting is a line in each of them.
//!
//! Who calls it: every command that needs to know the data folder. Promises: secrets do not print; the environment is
//! read in one place, and comes in as an argument everywhere else.

#![expect(missing_docs, reason = "a field is a setting: config.default.toml says what it does, and in which unit")]

mod hint;
mod mistake;
mod value;
mod layers;
mod svix;
mod secret;
pub mod tls;
pub mod server;
pub mod auth;
pub mod store;
pub mod delivery;
pub mod transformations;
pub mod plugins;
pub mod lanes;
pub mod traces;
pub mod egress;
pub mod log;
pub mod limits;

pub use auth::SecretText;
pub use bellwire_delivery::HeaderNames;
pub use hint::Hint;
pub use layers::Effective;
pub use mistake::{Mistakes, Origin, did_you_mean};
pub use secret::{copy as copy_secret, secret};
pub use value::parse_duration;

use bellwire_egress::Guard;
use bellwire_engine::{EngineSettings, IntakeSettings};
use bellwire_model::OrganisationId;
use layers::Layers;
use std::{
    ffi::OsString,
    io::ErrorKind,
    path::{Path, PathBuf},
};
use value::Value;

/// Read if it is there and no other file is named.
const FILE: &str = "bellwire.toml";

/// Every setting, valid.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: server::Server,
    pub auth: auth::Auth,
    pub store: store::Store,
    pub delivery: delivery::Delivery,
    pub transformations: transformations::Transformations,
    pub plugins: plugins::Plugins,
    pub lanes: lanes::Lanes,
    pub traces: traces::Traces,
    pub egress: egress::Egress,
    pub log: log::Log,
    pub limits: limits::Limits,
    /// What the operator should know although it stops nothing: variables that are not used, weak secrets. To be logged.
    pub notes: Vec<String>,
}

/// Where settings come from besides the environment: the flags of `serve`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Sources {
    #[command(flatten)]
    place: Place,
    /// Address and port to listen on [default: 127.0.0.1:8071; BELLWIRE_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// File that declares sources and endpoints; read again when it changes
    #[arg(long, value_name = "FILE")]
    hooks: Option<PathBuf>,
}

/// The same for a command that does not listen.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Place {
    /// Settings file [default: ./bellwire.toml if it exists; BELLWIRE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder [default: bellwire-data; BELLWIRE_DATA]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl From<Place> for Sources {
    fn from(place: Place) -> Sources {
        Sources { place, listen: None, hooks: None }
    }
}

/// A variable of this process's environment, for what a file of the user refers to.
pub fn variable(name: &str) -> Option<String> {
    let (_, value) = std::env::vars_os().find(|(other, _)| other == name)?;
    value.into_string().ok()
}

impl Config {
    /// Reads the settings of this process: its flags and its environment.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(sources: impl Into<Sources>) -> Result<Config, Mistakes> {
        Config::read(&sources.into(), std::env::vars_os())
    }

    /// The defaults alone, whatever the environment says: for the demo, which must run anywhere.
    pub fn defaults() -> Config {
        Config::from_layers(Layers::defaults()).expect("the defaults are right; a test sees to it")
    }

    /// Reads the settings from all layers.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the layers.
    pub fn read(
        flags: &Sources,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Config, Mistakes> {
        let environment: Vec<_> = environment.into_iter().collect();
        let mut config = Config::from_layers(Config::layers(flags, environment.clone()))?;
        config.plugins.take_environment(&environment);
        Ok(config)
    }

    /// As [`Config::load`], with what stands in force for each setting and where it came from.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn explain(sources: impl Into<Sources>) -> Result<(Config, Vec<Effective>), Mistakes> {
        let layers = Config::layers(&sources.into(), std::env::vars_os());
        let effective = layers.effective();
        Config::from_layers(layers).map(|config| (config, effective))
    }

    fn layers(flags: &Sources, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Layers {
        let environment: Vec<_> = environment.into_iter().collect();
        let mut layers = Layers::defaults();
        let named = environment.iter().find(|(name, value)| name == "BELLWIRE_CONFIG" && !value.is_empty());
        match (&flags.place.config, named) {
            (Some(path), _) => add_file(&mut layers, path, Some(Origin::Flag("--config"))),
            (None, Some((name, path))) => {
                let origin = Origin::Variable(name.to_string_lossy().into_owned());
                add_file(&mut layers, Path::new(path), Some(origin));
            }
            (None, None) => add_file(&mut layers, Path::new(FILE), None),
        }
        layers.add_environment(environment.into_iter());
        layers.add_flag("--listen", "server.listen", flags.listen.clone().map(Value::Text));
        layers.add_flag("--hooks", "server.hooks", flags.hooks.clone().map(Value::Path));
        layers.add_flag("--data", "server.data", flags.place.data.clone().map(Value::Path));
        note_left_behind(&mut layers, Path::new("."));
        layers
    }

    fn from_layers(mut layers: Layers) -> Result<Config, Mistakes> {
        let server = server::Server::read(&layers);
        let auth = auth::Auth::read(&layers);
        let store = store::Store::read(&layers);
        let delivery = delivery::Delivery::read(&layers);
        let lanes = lanes::Lanes::read(&layers);
        let traces = traces::Traces::read(&layers);
        let egress = egress::Egress::read(&layers);
        let log = log::Log::read(&layers);
        let transformations = transformations::Transformations::read(&layers);
        let plugins = plugins::Plugins::read(&layers);
        let limits = limits::Limits::read(&layers);
        if let Some(note) = auth.note() {
            layers.note(note);
        }
        layers.finish(|notes| Config {
            server,
            auth,
            store,
            delivery,
            transformations,
            plugins,
            lanes,
            traces,
            egress,
            log,
            limits,
            notes,
        })
    }

    /// What the API's tokens are signed with: the configured secret, or the one of the data folder, which is made if it is
    /// missing.
    ///
    /// # Errors
    /// As [`secret()`].
    pub fn jwt_secret(&self) -> anyhow::Result<SecretText> {
        match &self.auth.jwt_secret {
            Some(configured) => Ok(configured.clone()),
            None => secret(&self.server.data),
        }
    }

    /// Whether there is such a secret already. Without one, no server knows a token that is made here.
    ///
    /// # Errors
    /// As [`secret()`].
    pub fn has_jwt_secret(&self) -> anyhow::Result<bool> {
        Ok(self.auth.jwt_secret.is_some() || secret::kept(&self.server.data)?.is_some())
    }

    /// The secrets of before, by which tokens are still checked.
    pub fn jwt_secrets_before(&self) -> Vec<Vec<u8>> {
        self.auth.old_jwt_secrets.iter().map(|secret| secret.reveal().as_bytes().to_vec()).collect()
    }

    /// For each shard's engine.
    pub fn engine_settings(&self) -> EngineSettings {
        EngineSettings {
            retry_schedule: self.delivery.retry_schedule.clone(),
            disable_after: self.delivery.disable_after,
            lane_queue_max: self.lanes.queue_max,
            lane_concurrency_max: self.lanes.concurrency_max,
            attempts_max: self.lanes.attempts_per_shard(self.server.shards()),
            attempts_strained: EngineSettings::default().attempts_strained,
            queued_max: self.lanes.queued_max,
            queued_bytes_max: self.lanes.queued_bytes_max,
            settle_after: self.lanes.settle_after,
            breaker_failures: self.lanes.breaker_failures,
            breaker_wait: self.lanes.breaker_wait,
            breaker_wait_max: self.lanes.breaker_wait_max,
        }
    }

    /// For the one intake.
    pub fn intake_settings(&self) -> IntakeSettings {
        IntakeSettings {
            shards: self.server.shards(),
            batch_messages_max: self.limits.batch_messages_max,
            batch_bytes_max: self.limits.batch_bytes_max,
            queue_messages_max: self.limits.queue_messages_max,
            queue_bytes_max: self.limits.queue_bytes_max,
        }
    }

    /// For all that goes out. The listeners' own addresses are added by who knows them.
    pub fn egress_settings(&self) -> bellwire_egress::Settings {
        bellwire_egress::Settings {
            guard: Guard {
                allowed_networks: self.egress.allow.clone(),
                nat64: self.egress.nat64,
                denied_ports: self.egress.deny_ports.clone(),
                https_only: self.delivery.https_only,
                own_addresses: Vec::new(),
            },
            name_servers: self.egress.name_servers(),
            dns_timeout: self.egress.dns_timeout,
            connect_timeout: self.egress.connect_timeout,
            tls: self.egress.tls.clone(),
            proxy: self.egress.proxy.clone(),
            pool: self.egress.pool.clone(),
        }
    }
}

/// The organisation that the command line and the hooks file speak for if nobody says otherwise: the one that Svix's own command makes
/// tokens for, so that both see the same applications.
pub const ORGANISATION_DEFAULT: &str = "org_23rb8YdGqMT0qIzpgGwdXfHirMu";

/// [`ORGANISATION_DEFAULT`] as an id.
#[must_use]
pub fn organisation_default() -> OrganisationId {
    OrganisationId::parse(ORGANISATION_DEFAULT).expect("it begins with org_")
}

/// Where what need not last is kept.
pub fn temporary_folder() -> PathBuf {
    std::env::temp_dir()
}

/// Whether the user wants no colour: <https://no-color.org>.
#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Adds the user's file. One that somebody named must be there; the one that nobody named may be missing.
fn add_file(layers: &mut Layers, path: &Path, named_by: Option<Origin>) {
    match std::fs::read_to_string(path) {
        Ok(text) => layers.add_file(path, &text),
        Err(error) if error.kind() == ErrorKind::NotFound && named_by.is_none() => {}
        Err(error) => {
            let origin = named_by.unwrap_or(Origin::File { path: path.into(), line: 1 });
            layers.mistake(None, origin, format!("cannot read {}: {error}", path.display()));
        }
    }
}

/// What a Svix server would have read from the current folder, and we do not: told, and never what stands in it.
fn note_left_behind(layers: &mut Layers, folder: &Path) {
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    if text(".env").lines().any(|line| svix::is_variable(line.trim_start().trim_start_matches("export "))) {
        layers
            .note(".env is not read; export its SVIX_* variables, or hand the file to what starts this program".into());
    }
    // A file of that name may be anybody's; one with these in it is theirs.
    let theirs =
        |line: &str| ["jwt_secret", "db_dsn", "redis_dsn"].iter().any(|name| line.trim_start().starts_with(name));
    if text("config.toml").lines().any(theirs) {
        layers
            .note("config.toml looks like a Svix server's and is not read; give its values as SVIX_* variables".into());
    }
}

#[cfg(test)]
mod tests;
