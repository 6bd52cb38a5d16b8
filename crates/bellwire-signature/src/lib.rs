//! Signs and verifies webhooks: the bytes that are signed, the secrets they are signed with, and those secrets at rest.
//!
//! The sender makes a [`Signer`] of an endpoint's secrets and asks it for one header value per attempt; a receiver
//! asks [`verify()`] before it looks at anything else. [`header_hmac`] signs for receivers that know only a form of their
//! own. [`source`] proves other senders' webhooks, each by its own scheme. [`sealed`] is what the store uses to keep secrets
//! on disk.
//!
//! Promises: no I/O, no clock, no runtime (time and randomness are arguments); no panic, whatever the input; no secret
//! in an error or in `Debug` output; secrets and keys are wiped when dropped; MACs are compared in constant time.
//!
//! Left to others: which secrets of an endpoint are current, whether a message id was seen before, what to answer.
//!
//! ```
//! # use bellwire_signature::{Secret, SignedHeaders, Signer, TOLERANCE_DEFAULT, VerifyKey, verify};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
//! let signature = Signer::new(&[&secret]).sign("msg_1", 1_614_265_330, b"{}")?;
//!
//! let headers = SignedHeaders { id: "msg_1", timestamp: "1614265330", signature: &signature };
//! verify(&[VerifyKey::from(&secret)], &headers, b"{}", 1_614_265_331, TOLERANCE_DEFAULT)?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod secret;
mod sign;
mod verify;
mod scheme;
pub mod header_hmac;
#[cfg(feature = "source")]
pub mod source;
pub mod sealed;
pub mod svix;

pub use header_hmac::HeaderHmac;
pub use scheme::standard_webhooks::{ID_HEADER, SIGNATURE_HEADER, SIGNATURES_MAX, TIMESTAMP_HEADER};
pub use sealed::{MainKey, MainKeys, OpenError};
pub use secret::{Secret, SecretError, SecretKind, VerifyKey};
pub use sign::{SignError, Signer, sign};
pub use verify::{SignedHeaders, TOLERANCE_DEFAULT, VerifyError, verify};
