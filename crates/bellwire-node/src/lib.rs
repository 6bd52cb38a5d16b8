//! The running server of one machine: requests in, the engine's effects carried out, everything committed before it is acknowledged.
//!
//! [`serve`] puts the parts together. A [`shard`] is a thread with an engine of its own, which takes connections ([`connections`]), lets
//! requests in by its [`doors`], and starts attempts ([`pump`], [`attempters`]); what must be durable goes through the one thread that
//! commits ([`commit`]). [`sources`] takes what comes in by itself: schedules, tables and queues. What shards share is the [`core`].
//!
//! Who calls it: the commands that run a server. Promises: nothing is answered with a 2xx before it is durable; the clock is read in
//! [`clock`] alone.

pub mod clock;
pub mod wiring;
mod traces;
mod connections;
mod doors;
mod emit;
mod receiving;
mod answers;
mod core;
mod commit;
mod tasks;
mod broadcast;
mod pump;
mod attempters;
mod shard;
pub mod serve;
pub mod empty;
mod sources;
pub mod observe;

pub use connections::tls::Tls;
