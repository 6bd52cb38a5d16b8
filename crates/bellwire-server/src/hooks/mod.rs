//! `hooks.toml`: sources, and what is done with what they receive, in one file that a person can read.
//!
//! ```toml
//! [sources.github]
//! preset = "github"
//! secret = { env = "GITHUB_WEBHOOK_SECRET" }
//! path = "/hooks/github"
//!
//! [endpoints.build]
//! from = "github"
//! event_types = ["push"]
//! plugin = { runs = "command", program = "/usr/local/bin/build", args = ["{{payload.after}}"] }
//! ```
//!
//! Code that endpoints run can stand beside it: `[plugins.deploy]` with a `file` installs the module that endpoints name. Secrets and plugins
//! are read again when their files change.
//!
//! [`file`] reads it and knows the line of everything in it; [`plan`] makes of it what the API is to be asked, by the API's [`names`]; [`apply`] asks, by way
//! of the API's own router, so that nothing can be declared that the API would refuse, and reads its refusals ([`refusal`]). What has no effect is refused, too.
//! A new file is first tried on a copy of the configuration ([`rehearsal`]); only if all of it is right, the server's own is
//! changed, else the old one stays in force ([`keeper`]). `bellwire check hooks.toml` is that rehearsal on an empty server.
//!
//! What the file declares carries a uid that begins with `hooks.`; modules, which have none, are noted as its own when it makes them. What it
//! no longer declares is removed; applications stay, because their messages do, and modules that something else runs.

pub(crate) mod file;
mod names;
pub(crate) mod plan;
mod refusal;
pub(crate) mod apply;
pub(crate) mod rehearsal;
pub(crate) mod keeper;
