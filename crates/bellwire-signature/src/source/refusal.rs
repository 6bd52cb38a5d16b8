//! Why a request is not taken for what it says it is, and what was wrong with a recipe.

use std::fmt;

use super::fetched::KeyRequest;

/// Why a request is refused.
///
/// For the operator's eyes only: whoever sent the request gets the same answer whichever it was, but for [`Refusal::Unsatisfied`] and
/// [`Refusal::NotJson`]. It never holds a secret, nor the signature that would have been right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The source has no secret yet: the provider is to bring it, or the operator.
    #[error("the source has no secret to verify with yet")]
    NoSecret,
    /// The recipe has several ways, and the request is like none of them.
    #[error("the request is like none of the ways in which this sender signs")]
    NoWay,
    /// A header, query parameter or field of the body that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// As recipes write it, such as `header:X-Hub-Signature-256`.
        field: String,
    },
    /// The same header or parameter came more than once, with different values.
    #[error("{field} came more than once, with different values")]
    Ambiguous {
        /// As recipes write it.
        field: String,
    },
    /// Something is there, but not of the form that it must have.
    #[error("{field} is not {wanted}")]
    Malformed {
        /// As recipes write it.
        field: String,
        /// What it should have been.
        wanted: &'static str,
    },
    /// The timestamp lies too far back: a replay, or a clock that is wrong.
    #[error("the timestamp is {by_seconds} s in the past, more than the tolerance")]
    TooOld {
        /// Its distance from `now_seconds`.
        by_seconds: u64,
    },
    /// The timestamp lies too far ahead.
    #[error("the timestamp is {by_seconds} s in the future, more than the tolerance")]
    TooNew {
        /// Its distance from `now_seconds`.
        by_seconds: u64,
    },
    /// More signatures, or more signed items, than any sender has.
    #[error("more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// There are signatures, but none fits: another secret, or something was changed on the way.
    #[error("none of the signatures fits the request and our keys")]
    Mismatch,
    /// The token, or user and password, are not ours.
    #[error("{field} is not what the source expects")]
    Unexpected {
        /// As recipes write it.
        field: String,
    },
    /// The signature stands, but for another body.
    #[error("the digest in {field} is not that of the body")]
    BodyDigest {
        /// As recipes write it.
        field: String,
    },
    /// The signature does not cover what the recipe wants covered.
    #[error("the signature does not cover {component}")]
    NotCovered {
        /// The component's name.
        component: String,
    },
    /// The URL of a key is not one that the recipe allows.
    #[error("the key's address in {field} is none that this sender may have")]
    KeyAddress {
        /// As recipes write it.
        field: String,
    },
    /// A key was fetched, but is not usable.
    #[error("the fetched key is not usable: {text}")]
    Key {
        /// Why.
        text: String,
    },
    /// The rules do not let the request in. No signature was wrong.
    #[error("the rules of the source are not satisfied")]
    Unsatisfied,
    /// A signature that the rules ask for is wrong or missing.
    #[error("{text}")]
    Rules {
        /// What is wrong.
        text: String,
    },
    /// The rules let the request in, but its body cannot be read: to be answered with 400.
    #[error("the body is not JSON, though its content type says so")]
    NotJson,
    /// A key has to be fetched first; then ask again.
    #[error("the key at {} is not fetched yet", .0.url)]
    NeedsKey(KeyRequest),
}

/// A mistake in a recipe, or in what was supplied with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it is, such as `verify[0].signed`, `secrets[1]` or `settings.topic_arn`.
    pub field: String,
    /// What is wrong, and what would be right. Never holds a secret.
    pub text: String,
}

impl Fault {
    pub(crate) fn new(field: impl Into<String>, text: impl Into<String>) -> Fault {
        Fault { field: field.into(), text: text.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.text)
    }
}

impl std::error::Error for Fault {}
