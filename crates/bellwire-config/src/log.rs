//! `[log]`: what is told to the operator, and how.

use super::{layers::Layers, value::choice};
use tracing::level_filters::LevelFilter;

/// See `config.default.toml`.
#[derive(Clone, Debug)]
pub struct Log {
    pub level: LevelFilter,
    pub format: Format,
}

/// How a line of the log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people.
    Text,
    /// An object per line.
    Json,
}

impl Log {
    pub(super) fn read(layers: &Layers) -> Log {
        const LEVELS: &[(&str, LevelFilter)] = &[
            ("off", LevelFilter::OFF),
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
        ];
        Log {
            level: layers.take("log.level", choice(LEVELS)),
            format: layers.take("log.format", choice(&[("text", Format::Text), ("json", Format::Json)])),
        }
    }
}
