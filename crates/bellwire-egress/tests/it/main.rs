//! The client against servers of every temper, all of them on loopback.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test may panic")]

mod support;
mod walkthrough;
mod guarded;
mod zoo;
mod reuse;
mod tls;
mod profile;
mod http2;
mod proxied;
mod dns;
