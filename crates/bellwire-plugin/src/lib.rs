//! Code at the receiving end: what an endpoint of the kind `plugin` runs when a message is due.
//!
//! [`Shared::check`] is called when an endpoint is saved, [`Plugins::run`] for each attempt that the engine starts; both take
//! the settings as they stand in the endpoint. An attempt always ends with an outcome, within its deadline, whatever the plugin
//! does. A crate of its own because it brings the engines, databases and protocols that plugins speak, none of
//! which the engine, the store or the simulation needs to build.
//!
//! ```text
//! message ──▶ event ──▶ javascript | wasm | command | sql | notify | queue ──▶ answer ──▶ outcome
//! ```
//!
//! It decides nothing beyond the answer: what an outcome means is `model`'s business, when to try again is the engine's, how many
//! attempts run at a time is the endpoint's lane's.

mod event;
mod template;
mod settings;
mod answer;
mod fetch;
#[cfg(test)]
mod echo;
pub mod command;
pub mod javascript;
#[cfg(feature = "wasm")]
mod wasm;
pub mod sql;
pub mod notify;
mod queue;
mod modules;
mod installed;
mod plugins;

pub use answer::{Answer, Emitted, Ran, Response};
pub use event::Event;
pub use installed::Installed;
pub use modules::{ModuleError, Modules};
pub use plugins::{InFlight, Limits, Plugins, Shared};
pub use settings::Fault;
