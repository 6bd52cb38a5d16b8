//! What becomes of a message before an endpoint gets it: which it takes by their content, what its script makes of them, and
//! how they are written.
//!
//! [`judge`] is called at the door, when a message's fan-out is made, and by whoever asks later why a message did or did
//! not match. [`Scripts`] is asked by `delivery` before an attempt, and by whoever tries a script out; plugins run their handlers in a
//! [`Pool`] of their own. A crate of its own because it brings the parsers and engines of other languages, which neither the engine
//! nor the store nor the simulation needs to build; and because both doors need it, the one in (`api`) and the one out
//! (`delivery`).
//!
//! All of it is foreign code that runs inside this process, so all of it is bounded: in its source's length, in what it
//! may compute, in what it may hold. Nothing here does I/O; only a script's deadline reads a clock.

mod candidate;
mod filter;
mod transform;
pub mod format;

pub use candidate::Candidate;
pub use filter::{FilterFault, Verdict, check_filter, judge};
pub use transform::{
    Bounds, Engines, Job, Method, Pool, Sandbox, Script, ScriptError, ScriptLimits, Scripts, Transformed, Webhook,
};
