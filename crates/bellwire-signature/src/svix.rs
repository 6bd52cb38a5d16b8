//! Secrets as a Svix server keeps them, so that they can be taken over: read, never written.
//!
//! ```text
//! 24 bytes         a symmetric secret, bare
//! marker, rest     marker & 0x7f: 1 symmetric (24 to 75 bytes), 2 Ed25519 (seed and public key, 64 bytes)
//!                  marker & 0x80: the rest is encrypted: nonce (24), ciphertext and tag (16 more), XChaCha20-Poly1305
//! ```
//!
//! The key is HMAC-SHA256 of the word `main` under the main secret. There is no associated data, so a row says nothing of its
//! place; once taken over, it is sealed as ours are ([`crate::sealed`]).

use crate::secret::{Secret, SecretError};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce, aead::Aead};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroizing;

const BARE_BYTES: usize = 24;
const ENCRYPTED: u8 = 0x80;
const SYMMETRIC: u8 = 1;
const ED25519: u8 = 2;
const NONCE_BYTES: usize = 24;

/// What a Svix server with this main secret encrypts with. Does not print.
#[derive(Clone)]
pub struct SvixKey(XChaCha20Poly1305);

impl SvixKey {
    /// From the main secret's text.
    pub fn from_text(main_secret: &str) -> SvixKey {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(main_secret.as_bytes()).expect("a key has any length");
        mac.update(b"main");
        let key = Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()));
        SvixKey(XChaCha20Poly1305::new_from_slice(&*key).expect("a hash is as long as a cipher key"))
    }
}

impl fmt::Debug for SvixKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SvixKey(redacted)")
    }
}

/// Why a stored secret cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvixSecretError {
    /// It is too short, or of a kind that is not known.
    #[error("the stored secret is not as a Svix server writes it")]
    Format,
    /// It is encrypted, and no main secret was given.
    #[error("the stored secret is encrypted, and there is no main secret")]
    NoKey,
    /// None of the main secrets opens it.
    #[error("the stored secret was encrypted under another main secret, or was changed")]
    WrongKey,
    /// What came out is no secret.
    #[error("the stored secret is none")]
    Secret(#[from] SecretError),
}

/// The secret in a row's column, with whichever of `keys` opens it.
///
/// # Errors
/// [`SvixSecretError`]; never a panic, whatever the bytes.
pub fn read_secret(stored: &[u8], keys: &[SvixKey]) -> Result<Secret, SvixSecretError> {
    if stored.len() == BARE_BYTES {
        return secret(SYMMETRIC, stored);
    }
    let (marker, rest) = stored.split_first().filter(|_| stored.len() > BARE_BYTES).ok_or(SvixSecretError::Format)?;
    let kind = marker & !ENCRYPTED;
    if marker & ENCRYPTED == 0 {
        return secret(kind, rest);
    }
    if keys.is_empty() {
        return Err(SvixSecretError::NoKey);
    }
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SvixSecretError::Format)?;
    let opened = keys.iter().find_map(|key| key.0.decrypt(&XNonce::from(*nonce), ciphertext).ok());
    secret(kind, &Zeroizing::new(opened.ok_or(SvixSecretError::WrongKey)?))
}

/// The same from the text in which former secrets are kept: base64 of the above, or an older form, `whsec_…`.
///
/// # Errors
/// As [`read_secret`].
pub fn read_secret_text(stored: &str, keys: &[SvixKey]) -> Result<Secret, SvixSecretError> {
    if stored.starts_with("whsec_") {
        return Ok(Secret::parse(stored)?);
    }
    let bytes = BASE64_STANDARD.decode(stored).map_err(|_| SvixSecretError::Format)?;
    read_secret(&Zeroizing::new(bytes), keys)
}

fn secret(kind: u8, key: &[u8]) -> Result<Secret, SvixSecretError> {
    let prefix = match kind {
        SYMMETRIC => "whsec_",
        ED25519 => "whsk_",
        _ => return Err(SvixSecretError::Format),
    };
    Ok(Secret::parse(&Zeroizing::new(format!("{prefix}{}", BASE64_STANDARD.encode(key))))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn bytes(text: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(text.rsplit('_').next().expect("a prefix")).expect("base64")
    }

    fn encrypted(kind: u8, main_secret: &str, plain: &[u8]) -> Vec<u8> {
        let nonce = [7; NONCE_BYTES];
        let ciphertext = SvixKey::from_text(main_secret).0.encrypt(&XNonce::from(nonce), plain).expect("it encrypts");
        [&[kind | ENCRYPTED], &nonce[..], &ciphertext].concat()
    }

    fn text(read: Result<Secret, SvixSecretError>) -> Result<String, SvixSecretError> {
        read.map(|secret| secret.reveal_text().to_string())
    }

    #[test]
    fn every_form_is_read() {
        let keys = [SvixKey::from_text("a former one"), SvixKey::from_text("the main secret")];
        let plain = bytes(KEY);
        assert_eq!(text(read_secret(&plain, &[])), Ok(KEY.to_owned()));
        assert_eq!(text(read_secret(&[&[SYMMETRIC], &plain[..]].concat(), &[])), Ok(KEY.to_owned()));
        let row = encrypted(SYMMETRIC, "the main secret", &plain);
        assert_eq!(text(read_secret(&row, &keys)), Ok(KEY.to_owned()));
        assert_eq!(text(read_secret_text(&BASE64_STANDARD.encode(&row), &keys)), Ok(KEY.to_owned()));
        assert_eq!(text(read_secret_text(KEY, &[])), Ok(KEY.to_owned()));
        let mut rng = rand_chacha::ChaCha20Rng::from_seed([1; 32]);
        let asymmetric = Secret::generate_ed25519(&mut rng).reveal_text().to_string();
        let row = encrypted(ED25519, "a former one", &bytes(&asymmetric));
        assert_eq!(text(read_secret(&row, &keys)), Ok(asymmetric));
    }

    #[test]
    fn what_cannot_be_read_is_an_error_whatever_its_length() {
        let keys = [SvixKey::from_text("the main secret")];
        let row = encrypted(SYMMETRIC, "the main secret", &bytes(KEY));
        assert_eq!(text(read_secret(&row, &[])), Err(SvixSecretError::NoKey));
        assert_eq!(text(read_secret(&row, &[SvixKey::from_text("another")])), Err(SvixSecretError::WrongKey));
        for length in (0..row.len()).filter(|length| *length != BARE_BYTES) {
            assert!(read_secret(&row[..length], &keys).is_err(), "{length} bytes");
        }
        for byte in 0..row.len() {
            let mut changed = row.clone();
            changed[byte] ^= 4;
            assert!(read_secret(&changed, &keys).is_err(), "byte {byte} changed");
        }
        assert!(read_secret_text("not base64!", &keys).is_err());
    }
}
