//! `[plugins]`: what code at the receiving end may take, and what it may reach.

use super::{
    layers::Layers,
    value::{count, duration, list, memory, path, words},
};
use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, time::Duration};

/// See `config.default.toml`, and [`bellwire_plugin::Limits`].
#[derive(Clone, Debug)]
pub(crate) struct Plugins {
    pub(crate) threads: usize,
    pub(crate) compute_max: Duration,
    pub(crate) memory_max: usize,
    pub(crate) commands: Vec<PathBuf>,
    command_environment: Vec<String>,
    /// What these variables are for this process.
    pub(crate) environment: BTreeMap<String, String>,
}

impl Plugins {
    pub(super) fn read(layers: &Layers) -> Plugins {
        const LONG: Duration = Duration::from_secs(5);
        Plugins {
            threads: layers.take("plugins.threads", count(2..=256)),
            compute_max: layers.take("plugins.compute_max", duration(Duration::from_millis(1)..=LONG)),
            memory_max: layers.take("plugins.memory_max", memory(1 << 20..=1 << 30)),
            commands: layers.take("plugins.commands", list(path)),
            command_environment: layers.take("plugins.command_environment", list(words)),
            environment: BTreeMap::new(),
        }
    }

    /// Takes of the environment what may be handed on.
    pub(super) fn take_environment(&mut self, environment: &[(OsString, OsString)]) {
        let text = |text: &OsString| text.to_str().map(str::to_owned);
        let named = environment.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
        self.environment = named.filter(|(name, _)| self.command_environment.contains(name)).collect();
    }
}
