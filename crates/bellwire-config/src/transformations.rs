//! `[transformations]`: what the endpoints' scripts may take.

use super::{
    layers::Layers,
    value::{count, duration, memory},
};
use std::time::Duration;

/// See `config.default.toml`, and [`bellwire_shape::ScriptLimits`].
#[derive(Clone, Debug)]
pub struct Transformations {
    pub threads: usize,
    pub timeout: Duration,
    pub memory_max: usize,
}

impl Transformations {
    pub(super) fn read(layers: &Layers) -> Transformations {
        const LONG: Duration = Duration::from_secs(5);
        Transformations {
            threads: layers.take("transformations.threads", count(2..=256)),
            timeout: layers.take("transformations.timeout", duration(Duration::from_millis(1)..=LONG)),
            memory_max: layers.take("transformations.memory_max", memory(1 << 20..=1 << 30)),
        }
    }
}
