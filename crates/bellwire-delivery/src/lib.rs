//! The ways out: turns a delivery into bytes on a wire. `push` for what is posted; what an endpoint's shape makes
//! of a message is the same for those that are not ([`reshape`]).
//!
//! The server calls it once for each attempt that the engine starts, and hands the [`bellwire_model::Outcome`] back. It
//! decides nothing: what an outcome means is `model`'s business, when to try again is the engine's.

mod shaping;
mod push;
mod access;
mod oauth;

pub use oauth::{Keep, RefreshedToken};
pub use push::{HeaderNames, Push, PushSettings};
pub use shaping::{Reshaped, Unshaped, reshape, reshape_payload};
