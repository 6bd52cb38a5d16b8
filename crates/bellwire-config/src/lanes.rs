//! `[lanes]`: how endpoints are kept apart.

use super::{
    layers::Layers,
    value::{count, duration, memory, optional},
};
use std::time::Duration;

/// See `config.default.toml`, and [`bellwire_engine::EngineSettings`], which it becomes.
#[derive(Clone, Debug)]
pub struct Lanes {
    pub queue_max: usize,
    pub concurrency_max: usize,
    pub attempts_max: usize,
    /// Of all shards together; `None`: only each shard's own bound.
    pub attempts_total_max: Option<usize>,
    pub queued_max: usize,
    pub queued_bytes_max: usize,
    pub settle_after: Duration,
    pub breaker_failures: u32,
    pub breaker_wait: Duration,
    pub breaker_wait_max: Duration,
}

impl Lanes {
    pub(super) fn read(layers: &Layers) -> Lanes {
        const SHORT: Duration = Duration::from_millis(10);
        const HOUR: Duration = Duration::from_secs(3_600);
        let failures = layers.take("lanes.breaker_failures", count(1..=10_000));
        let lanes = Lanes {
            queue_max: layers.take("lanes.queue_max", count(1..=1_000_000)),
            concurrency_max: layers.take("lanes.concurrency_max", count(1..=10_000)),
            attempts_max: layers.take("lanes.attempts_max", count(1..=1_000_000)),
            attempts_total_max: layers.take("lanes.attempts_total_max", optional("none", count(1..=10_000_000))),
            queued_max: layers.take("lanes.queued_max", count(1..=10_000_000)),
            queued_bytes_max: layers.take("lanes.queued_bytes_max", memory(1 << 20..=64 << 30)),
            settle_after: layers.take("lanes.settle_after", duration(SHORT..=Duration::from_secs(60))),
            breaker_failures: u32::try_from(failures).unwrap_or(u32::MAX),
            breaker_wait: layers.take("lanes.breaker_wait", duration(SHORT..=HOUR)),
            breaker_wait_max: layers.take("lanes.breaker_wait_max", duration(SHORT..=24 * HOUR)),
        };
        if lanes.breaker_wait_max < lanes.breaker_wait {
            layers.refuse("lanes.breaker_wait_max", "it must not be shorter than lanes.breaker_wait".into());
        }
        lanes
    }
    /// The attempts in flight of one of `shards`: its share of all, at least one, and never above its own bound.
    pub fn attempts_per_shard(&self, shards: usize) -> usize {
        let share = self.attempts_total_max.map_or(usize::MAX, |total| (total / shards.max(1)).max(1));
        share.min(self.attempts_max)
    }
}
