//! Transformations: an endpoint's own JavaScript makes of each message what is sent.
//!
//! A script defines `handler(webhook)`, as Svix has it. It is given an object with `method`, `url`, `payload`, `eventType`,
//! `channels`, `headers`, `variables`, `transformationsParams` and `cancel`, changes it, and returns it. What counts of the
//! returned object: `method` (POST, PUT or PATCH), `url`, `payload` (a string is sent as it is, anything else as JSON),
//! `headers` and `cancel`. `eventType` can be read by the rest of the script; nothing that is sent depends on it.
//!
//! Numbers are JavaScript's: whole ones beyond 2^53 lose their last digits if they pass through a script.
//!
//! [`sandbox`] holds one script in a runtime of its own, [`engine`] gives it a webhook; [`pool`] keeps threads for that, apart from those that deliver, and sees
//! to it that a script that loops costs its own endpoint and nobody else.

mod sandbox;
mod engine;
mod pool;

pub use pool::{Engines, Job, Pool, ScriptLimits};
pub use sandbox::{Bounds, Sandbox};

use bellwire_model::{ApplicationKey, Metadata};
use serde::Deserialize;
use std::sync::Arc;

/// Runs the endpoints' transformations.
pub type Scripts = Pool<Script>;

/// A script and the message that it is given.
#[derive(Clone, Debug)]
pub struct Script {
    /// Whose turn it is: scripts with the same lane run one after the other. An endpoint's key, or that with the top bit set
    /// for trying scripts out.
    pub lane: u64,
    /// Whose script it is: only so many threads are given up to those of one application.
    pub application: ApplicationKey,
    /// Its text.
    pub code: Arc<str>,
    /// What it is given; `None`: only see whether it defines a `handler`.
    pub webhook: Option<Webhook>,
}

/// What a script is given.
#[derive(Clone, Debug, Default)]
pub struct Webhook {
    /// The endpoint's URL.
    pub url: String,
    /// The payload as it was accepted.
    pub payload: bytes::Bytes,
    /// Its event type.
    pub event_type: String,
    /// Channels it was sent on.
    pub channels: Vec<String>,
    /// Of the transformation.
    pub variables: Metadata,
    /// Of the message: the text of a JSON object.
    pub params: Option<Box<str>>,
}

/// What a script wants to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transformed {
    /// Nothing at all.
    pub cancel: bool,
    /// How.
    pub method: Method,
    /// Where to; as the script wrote it. It passes the same checks as an endpoint's.
    pub url: String,
    /// What.
    pub payload: bytes::Bytes,
    /// The payload is JSON, and not a string of the script's making.
    pub is_json: bool,
    /// With these headers beside the endpoint's, and over them.
    pub headers: Vec<(String, String)>,
}

/// How a transformed message may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// The default.
    #[default]
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
}

impl Method {
    /// As it stands in a request.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
        }
    }
}

/// Why a script gave nothing that can be sent. For its owner to read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScriptError {
    /// Its time was up.
    #[error("{0}")]
    Late(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}
