//! The key behind the API's tokens: a shared secret, or a private key whose public half checks what it signed.
//!
//! Settings hold it as one text, as Svix does: the secret of HS256, HS384 and HS512, or the PEM (PKCS #8) of a private key for
//! RS256, RS384, RS512 (2,048 to 8,192 bits) and EdDSA (ed25519). RFC 7518 §3, RFC 8037.

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use std::str::FromStr;

/// How tokens are signed. RFC 7518 §3, RFC 8037.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256.
    #[default]
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// Ed25519.
    EdDsa,
}

impl JwtAlgorithm {
    /// All, by the names that tokens give them.
    pub const ALL: [(&str, JwtAlgorithm); 7] = [
        ("HS256", JwtAlgorithm::Hs256),
        ("HS384", JwtAlgorithm::Hs384),
        ("HS512", JwtAlgorithm::Hs512),
        ("RS256", JwtAlgorithm::Rs256),
        ("RS384", JwtAlgorithm::Rs384),
        ("RS512", JwtAlgorithm::Rs512),
        ("EdDSA", JwtAlgorithm::EdDsa),
    ];

    /// Its key is a private key in PEM, not a shared secret.
    pub fn takes_private_key(self) -> bool {
        !matches!(self, JwtAlgorithm::Hs256 | JwtAlgorithm::Hs384 | JwtAlgorithm::Hs512)
    }

    pub(crate) const fn library(self) -> Algorithm {
        match self {
            JwtAlgorithm::Hs256 => Algorithm::HS256,
            JwtAlgorithm::Hs384 => Algorithm::HS384,
            JwtAlgorithm::Hs512 => Algorithm::HS512,
            JwtAlgorithm::Rs256 => Algorithm::RS256,
            JwtAlgorithm::Rs384 => Algorithm::RS384,
            JwtAlgorithm::Rs512 => Algorithm::RS512,
            JwtAlgorithm::EdDsa => Algorithm::EdDSA,
        }
    }
}

impl FromStr for JwtAlgorithm {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        JwtAlgorithm::ALL.into_iter().find(|(name, _)| *name == text).map(|(_, algorithm)| algorithm).ok_or(())
    }
}

/// Why a text is no key for tokens. Says nothing of the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JwtKeyError {
    /// With an empty secret, everybody could sign.
    #[error("a secret must not be empty")]
    Empty,
    /// For an algorithm that signs with a private key.
    #[error("it must be an RSA private key of 2048 to 8192 bits in PEM (-----BEGIN PRIVATE KEY-----)")]
    NoRsaKey,
    /// For EdDSA.
    #[error("it must be an ed25519 private key in PEM (-----BEGIN PRIVATE KEY-----)")]
    NoEd25519Key,
}

/// A key that signs and checks tokens.
pub(crate) struct JwtKey {
    pub(crate) signing: EncodingKey,
    pub(crate) checking: DecodingKey,
}

impl JwtKey {
    /// Reads the text of a setting.
    pub(crate) fn read(algorithm: JwtAlgorithm, text: &[u8]) -> Result<Self, JwtKeyError> {
        if text.is_empty() {
            return Err(JwtKeyError::Empty);
        }
        match algorithm {
            JwtAlgorithm::Hs256 | JwtAlgorithm::Hs384 | JwtAlgorithm::Hs512 => {
                Ok(JwtKey { signing: EncodingKey::from_secret(text), checking: DecodingKey::from_secret(text) })
            }
            JwtAlgorithm::Rs256 | JwtAlgorithm::Rs384 | JwtAlgorithm::Rs512 => {
                rsa_key(text).ok_or(JwtKeyError::NoRsaKey)
            }
            JwtAlgorithm::EdDsa => ed25519_key(text).ok_or(JwtKeyError::NoEd25519Key),
        }
    }
}

fn rsa_key(text: &[u8]) -> Option<JwtKey> {
    let signing = EncodingKey::from_rsa_pem(text).ok()?;
    let pair = match PrivatePkcs8KeyDer::from_pem_slice(text) {
        Ok(der) => rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        Err(_) => {
            let der = rustls_pki_types::PrivatePkcs1KeyDer::from_pem_slice(text).ok()?;
            rsa::KeyPair::from_der(der.secret_pkcs1_der())
        }
    };
    let checking = DecodingKey::from_rsa_der(pair.ok()?.public_key().as_ref());
    Some(JwtKey { signing, checking })
}

fn ed25519_key(text: &[u8]) -> Option<JwtKey> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(text).ok()?;
    // OpenSSL writes the private half alone.
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).ok()?;
    let signing = EncodingKey::from_ed_der(der.secret_pkcs8_der());
    Some(JwtKey { signing, checking: DecodingKey::from_ed_der(pair.public_key().as_ref()) })
}

/// Whether a text can be the key of tokens by this algorithm.
///
/// # Errors
/// What it should be instead.
pub fn check_jwt_key(algorithm: JwtAlgorithm, text: &[u8]) -> Result<(), JwtKeyError> {
    JwtKey::read(algorithm, text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for (name, algorithm) in JwtAlgorithm::ALL {
            assert_eq!(name.parse(), Ok(algorithm));
        }
        for name in ["none", "hs256", "RS257", "ES256", ""] {
            assert_eq!(name.parse::<JwtAlgorithm>(), Err(()), "{name}");
        }
    }

    #[test]
    fn a_text_that_is_no_key_is_refused() {
        let check = |algorithm, text: &[u8], expected| assert_eq!(check_jwt_key(algorithm, text), expected);
        check(JwtAlgorithm::Hs256, b"", Err(JwtKeyError::Empty));
        check(JwtAlgorithm::Hs256, b"x", Ok(()));
        check(JwtAlgorithm::Rs256, b"a shared secret", Err(JwtKeyError::NoRsaKey));
        check(JwtAlgorithm::EdDsa, b"a shared secret", Err(JwtKeyError::NoEd25519Key));
        check(JwtAlgorithm::EdDsa, b"", Err(JwtKeyError::Empty));
    }
}
