//! What every back end is held to, and a store that fails on purpose. For tests only; free of any back end's specifics.

pub mod access;
pub mod conformance;
pub mod faults;
mod source;
mod world;
