//! The API as a client sees it: requests into the router, answers out of it, on a backend in memory, and
//! where the store has a say, on the embedded store.

#![expect(clippy::unwrap_used, reason = "tests")]

mod world;
mod life;
mod access;
mod tokens;
mod authentication;
mod explain;
mod export;
mod rules;
mod shape;
mod source;
mod source_way;
mod kind;
mod pipe;
mod pipe_group;
mod pipe_expiry;
mod pipe_shape;
mod pipe_set;
mod change;
mod lists;
mod look;
mod payload;
mod import;
mod try_out;
mod once;
mod retry;
mod operational;
mod tasks;
mod hostile;
mod http_edges;
mod document;
mod svix_operations;
mod codes;
