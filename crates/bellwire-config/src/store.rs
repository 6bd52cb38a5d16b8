//! `[store]`: how much is kept, and for how long.

use super::{
    layers::Layers,
    value::{duration, optional, size},
};
use std::time::Duration;

/// See `config.default.toml`.
#[derive(Clone, Debug)]
pub struct Store {
    pub retention: Duration,
    pub bytes_max: Option<u64>,
}

impl Store {
    pub(super) fn read(layers: &Layers) -> Store {
        const SECOND: Duration = Duration::from_secs(1);
        const YEARS: Duration = Duration::from_secs(3_650 * 86_400);
        Store {
            retention: layers.take("store.retention", duration(SECOND..=YEARS)),
            bytes_max: layers.take("store.bytes_max", optional("none", size(64 << 20..=1 << 50))),
        }
    }
}
