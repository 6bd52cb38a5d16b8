//! Others' webhooks: published vectors, what we sign ourselves for every preset, handshakes, and arbitrary input.

mod request;
mod vectors;
