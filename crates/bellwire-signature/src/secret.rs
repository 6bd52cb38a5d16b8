//! An endpoint's secret, and the key that verifies what was signed with it.
//!
//! Two kinds, told apart by the text's prefix. The text of a symmetric secret is the same for both sides; of an
//! ed25519 secret the receiver only ever gets the public part.
//!
//! | text | holds | may |
//! | --- | --- | --- |
//! | `whsec_…`, or no prefix | 24 to 75 random bytes; foreign ones, only verified with, from 16 | sign and verify |
//! | `whsk_…` | ed25519: 32 private, then 32 public bytes; the private alone will do | sign and verify |
//! | `whpk_…` | ed25519: 32 public bytes | verify |
//!
//! Standard Webhooks, "Signature scheme".

use std::fmt;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use ed25519_dalek::{SigningKey, VerifyingKey};
use rand::RngCore;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::scheme::{
    ed25519::{self, KEY_BYTES},
    hmac::HmacKey,
};

const SYMMETRIC_PREFIX: &str = "whsec_";
const ED25519_PREFIX: &str = "whsk_";
const ED25519_PUBLIC_PREFIX: &str = "whpk_";

const SYMMETRIC_BYTES_MIN: usize = 24;
const SYMMETRIC_BYTES_MAX: usize = 75;

/// A receiver does not choose its sender's secret, and some hand out shorter ones than the specification wants (the
/// Svix documentation's example has 18 bytes). Below this, a secret can be guessed.
const SYMMETRIC_VERIFY_BYTES_MIN: usize = 16;

/// Standard base64, read with or without its padding, as people paste it; always written with.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What an endpoint's messages are signed with.
///
/// Prints as its kind only, compares in constant time, and is wiped when dropped.
#[derive(Clone)]
pub struct Secret(Material);

#[derive(Clone)]
pub(crate) enum Material {
    Symmetric(Zeroizing<Vec<u8>>),
    /// Boxed, so that moving a secret leaves no copies behind.
    Ed25519(Box<SigningKey>),
}

/// The two kinds of secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecretKind {
    /// HMAC-SHA256, signature version `v1`.
    Symmetric,
    /// Ed25519, signature version `v1a`.
    Ed25519,
}

/// Why a text is not a secret, or not a key to verify with. Never holds any of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Not base64 where base64 must be.
    #[error(
        "a secret is `whsec_` (or `whsk_` for ed25519) and then standard base64 (A-Z a-z 0-9 + / and = at the end), \
         without spaces; what follows the prefix is not base64"
    )]
    Base64,
    /// A symmetric secret that is too short to be safe, or too long.
    #[error("a `whsec_` secret is the base64 of {SYMMETRIC_BYTES_MIN} to {SYMMETRIC_BYTES_MAX} bytes, not of {actual}")]
    SymmetricLength {
        /// How many bytes there were.
        actual: usize,
    },
    /// A foreign symmetric secret that is too short to prove anything.
    #[error(
        "a `whsec_` secret to verify with is the base64 of at least {SYMMETRIC_VERIFY_BYTES_MIN} bytes, not of {actual}"
    )]
    VerifyLength {
        /// How many bytes there were.
        actual: usize,
    },
    /// An ed25519 secret of the wrong length.
    #[error("a `whsk_` secret is the base64 of 64 bytes, private key then public key, not of {actual}")]
    Ed25519Length {
        /// How many bytes there were.
        actual: usize,
    },
    /// The private and the public half of an ed25519 secret are not of one pair.
    #[error(
        "the two halves of a `whsk_` secret are the private key and its public key; these two do not belong together"
    )]
    Ed25519Mismatch,
    /// A public key where a secret must be.
    #[error("`whpk_` is a public key and cannot sign; the secret to sign with begins with `whsk_`")]
    PublicKey,
    /// Not a usable ed25519 public key.
    #[error("a `whpk_` key is the base64 of a 32-byte ed25519 public key; this is not one, or a weak one")]
    Ed25519Public,
}

impl Secret {
    /// Reads a secret: `whsec_…`, the same without its prefix, or `whsk_…`.
    ///
    /// # Errors
    /// [`SecretError`], whose message says what a secret should look like.
    pub fn parse(text: &str) -> Result<Secret, SecretError> {
        if text.starts_with(ED25519_PUBLIC_PREFIX) {
            return Err(SecretError::PublicKey);
        }
        if let Some(base64) = text.strip_prefix(ED25519_PREFIX) {
            return parse_ed25519(base64).map(|key| Secret(Material::Ed25519(key)));
        }
        let bytes = decode_symmetric(text)?;
        if !(SYMMETRIC_BYTES_MIN..=SYMMETRIC_BYTES_MAX).contains(&bytes.len()) {
            return Err(SecretError::SymmetricLength { actual: bytes.len() });
        }
        Ok(Secret(Material::Symmetric(bytes)))
    }

    /// A new symmetric secret of 24 bytes. `rng` must be cryptographically secure.
    pub fn generate_symmetric(rng: &mut dyn RngCore) -> Secret {
        let mut bytes = Zeroizing::new(vec![0; SYMMETRIC_BYTES_MIN]);
        rng.fill_bytes(&mut bytes);
        Secret(Material::Symmetric(bytes))
    }

    /// A new ed25519 secret. `rng` must be cryptographically secure.
    pub fn generate_ed25519(rng: &mut dyn RngCore) -> Secret {
        let mut seed = Zeroizing::new([0; KEY_BYTES]);
        rng.fill_bytes(&mut *seed);
        Secret(Material::Ed25519(Box::new(SigningKey::from_bytes(&seed))))
    }

    /// Which kind of secret this is.
    pub fn kind(&self) -> SecretKind {
        match self.0 {
            Material::Symmetric(_) => SecretKind::Symmetric,
            Material::Ed25519(_) => SecretKind::Ed25519,
        }
    }

    /// Whether it is the same key, however each was written.
    pub fn is(&self, other: &Secret) -> bool {
        *self.reveal_text() == *other.reveal_text()
    }

    /// What reading an endpoint's secret shows, and what its receiver verifies with: `whsec_…` as it is, of an
    /// ed25519 secret the public key, `whpk_…`.
    ///
    /// Not for logs: a symmetric secret shows in full, since its receiver needs it.
    pub fn public_text(&self) -> String {
        match &self.0 {
            Material::Symmetric(bytes) => encode(SYMMETRIC_PREFIX, bytes).to_string(),
            Material::Ed25519(key) => encode(ED25519_PUBLIC_PREFIX, key.verifying_key().as_bytes()).to_string(),
        }
    }

    /// The whole secret, in the form that [`Secret::parse`] reads and Standard Webhooks prescribes: with prefix and
    /// padding. Only to store it, and to hand it over at creation.
    pub fn reveal_text(&self) -> Zeroizing<String> {
        match &self.0 {
            Material::Symmetric(bytes) => encode(SYMMETRIC_PREFIX, bytes),
            Material::Ed25519(key) => encode(ED25519_PREFIX, &*Zeroizing::new(key.to_keypair_bytes())),
        }
    }

    pub(crate) fn material(&self) -> &Material {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        match (&self.0, &other.0) {
            (Material::Symmetric(a), Material::Symmetric(b)) => a.ct_eq(b).into(),
            (Material::Ed25519(a), Material::Ed25519(b)) => a.ct_eq(b).into(),
            (Material::Symmetric(_), Material::Ed25519(_)) | (Material::Ed25519(_), Material::Symmetric(_)) => false,
        }
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({:?}, redacted)", self.kind())
    }
}

/// What a receiver verifies with: a symmetric secret, or an ed25519 public key.
///
/// Ready to use: verifying does not prepare the key again. Prints as its kind only.
#[derive(Clone)]
pub struct VerifyKey(Proof);

#[derive(Clone)]
pub(crate) enum Proof {
    Hmac(HmacKey),
    Ed25519(VerifyingKey),
}

impl VerifyKey {
    /// Reads `whsec_…` (or the same without its prefix), `whpk_…`, or `whsk_…`, of which only the public part is kept.
    ///
    /// Takes shorter and longer symmetric secrets than [`Secret::parse`], since the sender has chosen them: from 16
    /// bytes.
    ///
    /// # Errors
    /// [`SecretError`], whose message says what a key should look like.
    pub fn parse(text: &str) -> Result<VerifyKey, SecretError> {
        if let Some(base64) = text.strip_prefix(ED25519_PUBLIC_PREFIX) {
            return parse_ed25519_public(base64).map(|key| VerifyKey(Proof::Ed25519(key)));
        }
        if let Some(base64) = text.strip_prefix(ED25519_PREFIX) {
            return parse_ed25519(base64).map(|key| VerifyKey(Proof::Ed25519(key.verifying_key())));
        }
        let bytes = decode_symmetric(text)?;
        if bytes.len() < SYMMETRIC_VERIFY_BYTES_MIN {
            return Err(SecretError::VerifyLength { actual: bytes.len() });
        }
        Ok(VerifyKey(Proof::Hmac(HmacKey::new(&bytes))))
    }

    /// A symmetric key of any length, for those who insist.
    #[cfg(feature = "source")]
    pub(crate) fn from_bytes(bytes: &[u8]) -> VerifyKey {
        VerifyKey(Proof::Hmac(HmacKey::new(bytes)))
    }

    /// Which kind of secret signs what this key verifies.
    pub fn kind(&self) -> SecretKind {
        match self.0 {
            Proof::Hmac(_) => SecretKind::Symmetric,
            Proof::Ed25519(_) => SecretKind::Ed25519,
        }
    }

    pub(crate) fn proof(&self) -> &Proof {
        &self.0
    }
}

impl From<&Secret> for VerifyKey {
    fn from(secret: &Secret) -> VerifyKey {
        VerifyKey(match &secret.0 {
            Material::Symmetric(bytes) => Proof::Hmac(HmacKey::new(bytes)),
            Material::Ed25519(key) => Proof::Ed25519(key.verifying_key()),
        })
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyKey({:?}, redacted)", self.kind())
    }
}

/// A private key, alone or followed by its public key. Signing with a public key that is not its own would give the
/// private key away, so the pair is checked.
fn parse_ed25519(base64: &str) -> Result<Box<SigningKey>, SecretError> {
    let bytes = decode(base64)?;
    let wrong_length = || SecretError::Ed25519Length { actual: bytes.len() };
    let (seed, public) = bytes.split_first_chunk::<KEY_BYTES>().ok_or_else(wrong_length)?;
    if !matches!(public.len(), 0 | KEY_BYTES) {
        return Err(wrong_length());
    }
    let key = Box::new(SigningKey::from_bytes(seed));
    if !public.is_empty() && key.verifying_key().as_bytes() != public {
        return Err(SecretError::Ed25519Mismatch);
    }
    Ok(key)
}

fn parse_ed25519_public(base64: &str) -> Result<VerifyingKey, SecretError> {
    let bytes = decode(base64)?.as_slice().try_into().map_err(|_| SecretError::Ed25519Public)?;
    ed25519::public_key(&bytes).ok_or(SecretError::Ed25519Public)
}

fn decode_symmetric(text: &str) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    decode(text.strip_prefix(SYMMETRIC_PREFIX).unwrap_or(text))
}

fn decode(base64: &str) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    LENIENT.decode(base64).map(Zeroizing::new).map_err(|_| SecretError::Base64)
}

fn encode(prefix: &str, bytes: &[u8]) -> Zeroizing<String> {
    // Of its full size from the start: a string that grows leaves its old buffer unwiped.
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + bytes.len().div_ceil(3) * 4));
    text.push_str(prefix);
    STANDARD.encode_string(bytes, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    const SYMMETRIC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    // svix-server, `worker.rs`.
    const ED25519: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const ED25519_PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";

    fn secret(text: &str) -> Secret {
        Secret::parse(text).expect("a secret")
    }

    fn symmetric_of(length: usize) -> String {
        format!("whsec_{}", STANDARD.encode(vec![0xa5; length]))
    }

    #[test]
    fn a_symmetric_secret_reads_with_and_without_prefix_and_padding() {
        assert_eq!(secret(SYMMETRIC), secret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
        assert_eq!(secret(SYMMETRIC).public_text(), SYMMETRIC);
        assert_eq!(*secret(SYMMETRIC).reveal_text(), SYMMETRIC);

        let padded = symmetric_of(25);
        assert_eq!(*secret(padded.trim_end_matches('=')).reveal_text(), padded);
    }

    #[test]
    fn an_ed25519_secret_shows_only_its_public_key() {
        assert_eq!(secret(ED25519).kind(), SecretKind::Ed25519);
        assert_eq!(secret(ED25519).public_text(), ED25519_PUBLIC);
        assert_eq!(*secret(ED25519).reveal_text(), ED25519);

        let seed = STANDARD.encode(&STANDARD.decode(&ED25519["whsk_".len()..]).expect("base64")[..32]);
        assert_eq!(secret(&format!("whsk_{seed}")), secret(ED25519));
    }

    #[test]
    fn symmetric_secrets_have_24_to_75_bytes() {
        for length in [24, 32, 64, 75] {
            assert!(Secret::parse(&symmetric_of(length)).is_ok(), "{length}");
        }
        for length in [0, 1, 16, 23, 76, 1000] {
            assert_eq!(
                Secret::parse(&symmetric_of(length)),
                Err(SecretError::SymmetricLength { actual: length }),
                "{length}"
            );
        }
        assert_eq!(Secret::parse(""), Err(SecretError::SymmetricLength { actual: 0 }));
    }

    #[test]
    fn what_is_not_a_secret_is_refused_with_the_reason() {
        let mut mismatched = STANDARD.decode(&ED25519["whsk_".len()..]).expect("base64");
        mismatched[40] ^= 1;
        for (text, expected) in [
            ("whsec_not base64 at all, but long enough".to_owned(), SecretError::Base64),
            (format!("{SYMMETRIC}\n"), SecretError::Base64),
            (SYMMETRIC.replace("whsec_", "secret_"), SecretError::Base64),
            (format!("{}-_", &SYMMETRIC[..36]), SecretError::Base64),
            (ED25519_PUBLIC.into(), SecretError::PublicKey),
            ("whsk_".into(), SecretError::Ed25519Length { actual: 0 }),
            (SYMMETRIC.replace("whsec_", "whsk_"), SecretError::Ed25519Length { actual: 24 }),
            (format!("whsk_{}", STANDARD.encode([1; 63])), SecretError::Ed25519Length { actual: 63 }),
            (format!("whsk_{}", STANDARD.encode([1; 65])), SecretError::Ed25519Length { actual: 65 }),
            (format!("whsk_{}", STANDARD.encode(mismatched)), SecretError::Ed25519Mismatch),
        ] {
            assert_eq!(Secret::parse(&text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_verify_key_reads_all_three_prefixes() {
        for (text, kind) in [
            (SYMMETRIC, SecretKind::Symmetric),
            (&SYMMETRIC["whsec_".len()..], SecretKind::Symmetric),
            (ED25519, SecretKind::Ed25519),
            (ED25519_PUBLIC, SecretKind::Ed25519),
        ] {
            assert_eq!(VerifyKey::parse(text).expect("a key").kind(), kind, "{text}");
        }
        for length in [0, 31, 33, 64] {
            let text = format!("whpk_{}", STANDARD.encode(vec![1; length]));
            assert_eq!(VerifyKey::parse(&text).map(|key| key.kind()), Err(SecretError::Ed25519Public), "{text}");
        }
        // All zero: a point of order four.
        let weak = format!("whpk_{}", STANDARD.encode([0; 32]));
        assert_eq!(VerifyKey::parse(&weak).map(|key| key.kind()), Err(SecretError::Ed25519Public));
    }

    #[test]
    fn foreign_secrets_may_be_shorter_but_not_guessable() {
        for length in [16, 18, 24, 75, 128] {
            assert!(VerifyKey::parse(&symmetric_of(length)).is_ok(), "{length}");
        }
        for length in [0, 1, 15] {
            let verdict = VerifyKey::parse(&symmetric_of(length)).map(|key| key.kind());
            assert_eq!(verdict, Err(SecretError::VerifyLength { actual: length }));
        }
    }

    #[test]
    fn generated_secrets_differ_and_read_back() {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let secrets = [
            Secret::generate_symmetric(rng),
            Secret::generate_symmetric(rng),
            Secret::generate_ed25519(rng),
            Secret::generate_ed25519(rng),
        ];
        for (i, a) in secrets.iter().enumerate() {
            assert_eq!(&secret(&a.reveal_text()), a);
            for (j, b) in secrets.iter().enumerate() {
                assert_eq!(a == b, i == j);
            }
        }
        assert_eq!(secrets[0].public_text().len(), "whsec_".len() + 32);
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", secret(SYMMETRIC)), "Secret(Symmetric, redacted)");
        assert_eq!(format!("{:?}", secret(ED25519)), "Secret(Ed25519, redacted)");
        assert_eq!(format!("{:?}", VerifyKey::parse(SYMMETRIC).expect("a key")), "VerifyKey(Symmetric, redacted)");
    }
}
