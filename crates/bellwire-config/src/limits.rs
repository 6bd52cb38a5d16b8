//! `[limits]`: how much the program takes on at a time.

use super::{
    layers::Layers,
    value::{count, memory, optional},
};
use bellwire_api::RateLimit;
use std::num::NonZeroU32;

/// See `config.default.toml`, and [`bellwire_engine::IntakeSettings`].
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of one token; without limit if absent.
    pub requests_per_second: Option<NonZeroU32>,
    /// As many as a second has, if absent.
    pub requests_burst: Option<NonZeroU32>,
    pub connections_max: usize,
    /// `None`: as many as all may have together.
    pub connections_per_client_max: Option<usize>,
    pub batch_messages_max: usize,
    pub batch_bytes_max: usize,
    pub queue_messages_max: usize,
    pub queue_bytes_max: usize,
}

impl Limits {
    pub(super) fn read(layers: &Layers) -> Limits {
        let limits = Limits {
            requests_per_second: layers
                .take("limits.requests_per_second", optional("none", count(1..=1_000_000)))
                .and_then(number),
            requests_burst: layers
                .take("limits.requests_burst", optional("same", count(1..=1_000_000)))
                .and_then(number),
            connections_max: layers.take("limits.connections_max", count(1..=1_000_000)),
            connections_per_client_max: layers
                .take("limits.connections_per_client_max", optional("none", count(1..=1_000_000))),
            batch_messages_max: layers.take("limits.batch_messages_max", count(1..=100_000)),
            batch_bytes_max: layers.take("limits.batch_bytes_max", memory(64 << 10..=1 << 30)),
            queue_messages_max: layers.take("limits.queue_messages_max", count(1..=10_000_000)),
            queue_bytes_max: layers.take("limits.queue_bytes_max", memory(1 << 20..=64 << 30)),
        };
        if limits.requests_burst.is_some() && limits.requests_per_second.is_none() {
            layers.refuse("limits.requests_burst", "it has no effect without limits.requests_per_second".into());
        }
        limits
    }

    /// What a token may do, for all shards together.
    pub fn rate_limit(&self) -> Option<RateLimit> {
        let per_second = self.requests_per_second?;
        Some(RateLimit::new(per_second, self.requests_burst.unwrap_or(per_second)))
    }
}

fn number(count: usize) -> Option<NonZeroU32> {
    u32::try_from(count).ok().and_then(NonZeroU32::new)
}
