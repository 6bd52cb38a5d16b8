//! Makes the `webhook-signature` header of an attempt. `deliver` keeps one [`Signer`] per endpoint and signs with it
//! tens of thousands of times a second.

use std::{borrow::Borrow, fmt};

use ed25519_dalek::SigningKey;

use crate::{
    scheme::{
        ed25519,
        hmac::HmacKey,
        standard_webhooks::{Signature, id_is_valid, signed_content},
    },
    secret::{Material, Secret},
};

/// An endpoint's current secrets, ready to sign with: each symmetric key is hashed once, here, and every signature
/// only copies the state. As secret as the secrets; prints as their number.
#[derive(Clone)]
pub struct Signer {
    newest_first: Vec<Key>,
}

#[derive(Clone)]
enum Key {
    Hmac(HmacKey),
    Ed25519(Box<SigningKey>),
}

/// Why nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The id is empty or contains a full stop, which could shift bytes from one signed field into the next.
    #[error("message id {id:?} cannot be signed: it must not be empty and must not contain a full stop")]
    Id {
        /// The id as it came.
        id: String,
    },
    /// A time before 1970, which receivers do not read.
    #[error("timestamp {timestamp_seconds} cannot be signed: it is before 1970")]
    Timestamp {
        /// The timestamp as it came.
        timestamp_seconds: i64,
    },
    /// There is no secret; an unsigned message must not go out as if it were signed.
    #[error("there is no secret to sign with")]
    NoSecret,
}

impl Signer {
    /// Prepares `secrets`, newest first: all that have not expired, of either kind.
    pub fn new<S: Borrow<Secret>>(secrets: &[S]) -> Signer {
        let prepare = |secret: &S| match secret.borrow().material() {
            Material::Symmetric(bytes) => Key::Hmac(HmacKey::new(bytes)),
            Material::Ed25519(key) => Key::Ed25519(key.clone()),
        };
        Signer { newest_first: secrets.iter().map(prepare).collect() }
    }

    /// The `webhook-signature` header: one `v1,<base64>` (HMAC) or `v1a,<base64>` (ed25519) per secret, newest first,
    /// single spaces between.
    ///
    /// Signs `{id}.{timestamp}.{payload}` over the payload's exact bytes, UTF-8 or not. `timestamp_seconds` is Unix
    /// time, and goes into the `webhook-timestamp` header in plain decimal digits.
    ///
    /// # Errors
    /// [`SignError`] if `id` or `timestamp_seconds` cannot be signed, or if there is no secret.
    ///
    /// Standard Webhooks, "Signature scheme".
    pub fn sign(&self, id: &str, timestamp_seconds: i64, payload: &[u8]) -> Result<String, SignError> {
        if !id_is_valid(id) {
            return Err(SignError::Id { id: id.to_owned() });
        }
        if timestamp_seconds < 0 {
            return Err(SignError::Timestamp { timestamp_seconds });
        }
        if self.newest_first.is_empty() {
            return Err(SignError::NoSecret);
        }
        let timestamp = timestamp_seconds.to_string();
        let content = signed_content(id, &timestamp, payload);
        // 48 bytes for a space and `v1,<44 characters>`; the rarer ed25519 may grow it.
        let mut header = String::with_capacity(48 * self.newest_first.len());
        for key in &self.newest_first {
            key.sign(&content).append_to(&mut header);
        }
        Ok(header)
    }
}

impl Key {
    fn sign(&self, content: &[&[u8]]) -> Signature {
        match self {
            Key::Hmac(key) => Signature::Hmac(key.mac(content)),
            Key::Ed25519(key) => Signature::Ed25519(ed25519::sign(key, content)),
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets, redacted)", self.newest_first.len())
    }
}

/// Signs once; see [`Signer::sign`]. Whoever signs with the same secrets again keeps a [`Signer`].
///
/// # Errors
/// As [`Signer::sign`].
pub fn sign<S: Borrow<Secret>>(
    secrets: &[S],
    id: &str,
    timestamp_seconds: i64,
    payload: &[u8],
) -> Result<String, SignError> {
    Signer::new(secrets).sign(id, timestamp_seconds, payload)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    #[test]
    fn one_signature_per_secret_newest_first() {
        let rng = &mut ChaCha20Rng::seed_from_u64(2);
        let old = Secret::generate_symmetric(rng);
        let new = Secret::generate_ed25519(rng);
        let by = |secrets: &[&Secret]| sign(secrets, "msg_1", 1, b"payload").expect("signed");
        assert_eq!(by(&[&new, &old]), format!("{} {}", by(&[&new]), by(&[&old])));
        assert!(by(&[&new]).starts_with("v1a,"));
        assert!(by(&[&old]).starts_with("v1,"));
    }

    #[test]
    fn what_receivers_could_not_verify_is_not_signed() {
        let signer = Signer::new(&[Secret::generate_symmetric(&mut ChaCha20Rng::seed_from_u64(3))]);
        for id in ["", ".", "msg_1.1614265330", "msg."] {
            assert_eq!(signer.sign(id, 1, b"{}"), Err(SignError::Id { id: id.to_owned() }), "{id}");
        }
        assert_eq!(signer.sign("msg_1", -1, b"{}"), Err(SignError::Timestamp { timestamp_seconds: -1 }));
        assert_eq!(Signer::new::<Secret>(&[]).sign("msg_1", 1, b"{}"), Err(SignError::NoSecret));
    }

    #[test]
    fn any_bytes_can_be_signed() {
        let signer = Signer::new(&[Secret::generate_symmetric(&mut ChaCha20Rng::seed_from_u64(4))]);
        for payload in [b"".as_slice(), b"\xff\x00\xfe", b"a.b.c"] {
            assert!(signer.sign("msg_1", i64::MAX, payload).is_ok());
        }
    }
}
