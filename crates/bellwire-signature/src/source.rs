//! Proves that a foreign webhook comes from whom it says: one declarative verifier for all senders.
//!
//! How a sender signs is data, a [`Recipe`]; [`presets()`] has one for each sender that we know, and users write their own.
//! With a source's secrets it becomes a [`Verifier`], which is asked for every request:
//!
//! ```
//! use bellwire_signature::source::{NoKeys, ReceivedRequest, Supplied, Verifier, preset};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let supplied = Supplied { secrets: vec!["It's a Secret to Everybody".to_owned().into()], ..Supplied::default() };
//! let github = preset("github").ok_or("no such preset")?;
//! let verifier = Verifier::new(&github.recipe, &supplied).map_err(|faults| format!("{faults:?}"))?;
//!
//! let request = ReceivedRequest {
//!     method: "POST",
//!     scheme: "https",
//!     host: "hooks.example.com",
//!     path_and_query: "/in/k3",
//!     headers: &[
//!         ("X-Hub-Signature-256", b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
//!         ("X-GitHub-Event", b"push"),
//!         ("X-GitHub-Delivery", b"72d3162e-cc78-11e3-81ab-4c9367dc0958"),
//!     ],
//!     body: b"Hello, World!",
//!     body_type: None,
//! };
//! if let Some(reply) = verifier.handshake(&request, false) {
//!     // Answer with it; done.
//! #   panic!("{reply:?}");
//! }
//! let proof = verifier.verify(&request, 1_700_000_000, &NoKeys)?;
//! assert_eq!(proof.event_type.as_deref(), Some("push"));
//! if let Some(reply) = verifier.handshake(&request, true) {
//!     // Answer with it; done.
//! #   panic!("{reply:?}");
//! }
//! // A message is made of it, unless `proof.dedupe_key` came before.
//! # Ok(())
//! # }
//! ```
//!
//! The order matters: a request is verified before anything in it is believed, deduplicated or parsed. Every refusal is
//! answered alike, with 401 and an empty body; the [`Refusal`] is for the log.
//!
//! Some senders publish their keys (AWS SNS, PayPal, Plaid): then `verify` answers [`Refusal::NeedsKey`], the caller
//! fetches through its address guard, keeps what it got behind [`Keys`], and asks again.
//!
//! Promises: raw bytes only, nothing re-encoded; signatures are decoded and compared in constant time, as a whole; one of
//! several secrets is enough; an empty or short secret is refused when the source is set up; a header that comes twice
//! with different values is refused; numbers are digits; no panic, whatever the input; no secret and no right signature
//! in an error or in `Debug` output.

mod request;
mod refusal;
mod recipe;
mod presets;
mod verifier;
mod handshake;
mod sign;
mod compile;
mod key;
mod field;
mod template;
mod place;
mod time;
mod url;
mod json;
mod mac;
mod public_key;
mod fetched;
mod jwt;
mod http_signature;
mod structured;
mod identity;
mod rules;

pub use fetched::{KEY_BYTES_MAX, KeyRequest, Keys, NoKeys};
pub use handshake::{ECHO_BYTES_MAX, Handshake, HubWord, Reply, Then};
pub use identity::DedupeKey;
pub use presets::{Preset, preset, presets};
pub use recipe::{
    Algorithm, CertificatePlace, Encoding, KeyFormat, KeySetPlace, Place, Recipe, SampleText, Setting, TimeUnit,
    TimestampPlace, Way, When,
};
pub use refusal::{Fault, Refusal};
pub use request::ReceivedRequest;
pub use rules::{Condition, Parameter, Rule, RuleFault, RuleRequest, Rules, Verdict};
pub use sign::{Sample, SampleError, Signs};
pub use verifier::{Proof, Supplied, Verifier};
