//! Columns that hold secrets: JSON, sealed whole where the store has a [`Sealer`], and bound to their place, so that one cannot be
//! opened in another's.

use super::codec;
use bellwire_model::ApplicationKey;
use bellwire_signature::sealed;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Display;
use zeroize::Zeroizing;

/// Seals the secrets of endpoints before they are written, and opens them again.
pub trait Sealer: Send + Sync {
    /// Seals `plain`, bound to its place `aad`.
    fn seal(&self, aad: &[u8], plain: &[u8]) -> Vec<u8>;

    /// Opens what [`Sealer::seal`] made with the same `aad`, and what was written when there was no sealer: [`PLAIN`] and the text.
    ///
    /// # Errors
    /// Why it cannot be opened, for the operator.
    fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String>;
}

/// What a secret begins with that was written without a [`Sealer`]; the same as in [`bellwire_signature::sealed`].
pub const PLAIN: u8 = b'p';

/// The value of the column at `place`: sealed, or marked as plain.
pub(super) fn seal(sealer: Option<&dyn Sealer>, place: &[u8], value: &impl Serialize) -> Vec<u8> {
    let plain = Zeroizing::new(codec::json(value));
    match sealer {
        Some(sealer) => sealer.seal(place, plain.as_bytes()),
        None => [&[PLAIN], plain.as_bytes()].concat(),
    }
}

/// What [`seal`] made of it.
///
/// # Errors
/// Why it cannot be opened or read, without anything of its content.
pub(super) fn open<T: DeserializeOwned>(sealer: Option<&dyn Sealer>, place: &[u8], column: &[u8]) -> Result<T, String> {
    let plain = match (sealer, column) {
        (Some(sealer), _) => Zeroizing::new(sealer.open(place, column)?),
        (None, [PLAIN, plain @ ..]) => Zeroizing::new(plain.to_vec()),
        (None, _) => return Err("it is sealed, and there is no main secret".to_owned()),
    };
    serde_json::from_slice(&plain).map_err(|error| format!("it does not read: {:?}", error.classify()))
}

/// Where a sealed column of an endpoint or a source stands.
pub(super) fn place(application: ApplicationKey, id: impl Display, column: &str) -> Vec<u8> {
    sealed::aad(&application.0.to_string(), &id.to_string(), column)
}
