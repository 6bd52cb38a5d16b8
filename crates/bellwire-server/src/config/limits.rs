//! `[limits]`: how much the program takes on at a time.

use super::{
    layers::Layers,
    value::{count, memory},
};

/// See `config.default.toml`, and [`bellwire_engine::IntakeSettings`].
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) connections_max: usize,
    pub(crate) batch_messages_max: usize,
    pub(crate) batch_bytes_max: usize,
    pub(crate) queue_messages_max: usize,
    pub(crate) queue_bytes_max: usize,
}

impl Limits {
    pub(super) fn read(layers: &Layers) -> Limits {
        Limits {
            connections_max: layers.take("limits.connections_max", count(1..=1_000_000)),
            batch_messages_max: layers.take("limits.batch_messages_max", count(1..=100_000)),
            batch_bytes_max: layers.take("limits.batch_bytes_max", memory(64 << 10..=1 << 30)),
            queue_messages_max: layers.take("limits.queue_messages_max", count(1..=10_000_000)),
            queue_bytes_max: layers.take("limits.queue_bytes_max", memory(1 << 20..=64 << 30)),
        }
    }
}
