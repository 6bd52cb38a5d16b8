//! The program as its users meet it: real processes, real sockets, free ports. One file per behaviour; begin with `walkthrough`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod program;
mod receiver;
mod walkthrough;
mod receiving;
mod published_keys;
mod sources;
mod shaping;
mod plugins;
mod wasm;
mod queues;
#[cfg(all(feature = "nats", feature = "redis"))]
mod queue_sources;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "sqs")]
mod sqs_imitation;
#[cfg(feature = "sqs")]
mod sqs;
mod answers;
mod waiting;
mod access;
mod operational;
mod log;
#[cfg(feature = "otel")]
mod traces;
mod starting;
mod commands;
mod imitate;
mod packs;
mod hooks;
mod doctor;
mod backup;
mod tokens;
mod bars;
mod packaging;
mod map;
mod settings;
mod swap;
mod tls;
mod heads;
mod pipe;
mod readers;
mod broadcast;
mod websub;
