//! For tests only: a seeded world around the engine, in which everything goes wrong that can.
//!
//! [`run`] lives through the world of one seed: producers and receivers, one process that is paused, killed and restarted, a store
//! that outlives it, clocks that jump. Time is virtual, and every choice comes from the seed, so a failing seed fails again:
//!
//! ```text
//! cargo run --release -p bellwire-simulation --bin simulate -- --seed 42 --trace
//! ```
//!
//! Every promise is checked against what the world knows better than the program ([`Promise`]), and for every promise there
//! are mistakes that can be switched on ([`Planted`]), to prove that the world would see it broken.

mod store;
mod task;
mod receiver;
mod bug;
mod truth;
mod node;
mod reader;
mod feeder;
mod world;

pub use bug::{Planted, PumpBug};
pub use store::{SimStore, StoreBug};
pub use truth::{Promise, Violation};
pub use world::{Report, run};
