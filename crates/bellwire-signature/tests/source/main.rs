//! Others' webhooks: published vectors, what we sign ourselves for every preset, handshakes, and arbitrary input.

mod request;
mod vector;
mod pair;
mod vectors;
mod survey;
mod presets;
mod handshakes;
mod robustness;
mod document;
