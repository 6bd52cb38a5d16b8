//! Traces: one for each message, from its acceptance to its last attempt, for an operator's own collector.
//!
//! ```text
//! sender's span (its `traceparent`, if it gave one)
//!   └─ accept          from the request's draft until it is durable
//!        ├─ attempt 1  one exchange; the endpoint gets its span as `traceparent`
//!        └─ attempt 2
//! ```
//!
//! Nothing is kept for it but what the sender gave: without that the trace's id is the part of the message's id that is its own, and the accept
//! span's id comes from there too. So attempts after a restart, on whatever machine, belong to the same trace.
//!
//! `doors` and `pump` tell the [`Tracer`] what happened; it never waits. `export` sends what has collected, on a thread of its own, and drops
//! what nobody takes. Built with the feature `otel` only; without it the tracer is a type without values, and every question whether there
//! is one is answered by the compiler.

#[cfg(feature = "otel")]
mod span;
#[cfg(feature = "otel")]
mod tracer;
#[cfg(feature = "otel")]
mod export;
#[cfg(not(feature = "otel"))]
mod absent;

#[cfg(not(feature = "otel"))]
pub(crate) use absent::{AttemptTrace, Tracer};
#[cfg(feature = "otel")]
pub(crate) use tracer::{AttemptTrace, Tracer};
