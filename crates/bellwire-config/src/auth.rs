//! `[auth]`: the secrets behind the API's tokens and behind what is encrypted at rest.

use super::{
    layers::Layers,
    value::{Expected, Read, Value, list},
};
use bellwire_api::{JwtAlgorithm, check_jwt_key};
use bellwire_signature::{MainKey, MainKeys};
use std::fmt;

/// Below this a main secret could be guessed.
const MAIN_SECRET_CHARACTERS_MIN: usize = 16;
/// RFC 7518 §3.2: a key of HS256 is as long as its hash. Shorter ones are used, since Svix uses them, but noted.
const JWT_SECRET_BYTES_GOOD: usize = 32;

/// See `config.default.toml`.
#[derive(Clone, Debug)]
pub struct Auth {
    /// `None`: the one of the data folder, see [`super::Config::jwt_secret`].
    pub jwt_secret: Option<SecretText>,
    pub old_jwt_secrets: Vec<SecretText>,
    pub jwt_algorithm: JwtAlgorithm,
    pub main_secret: Option<SecretText>,
    pub old_main_secrets: Vec<SecretText>,
}

/// A secret of the operator's. Does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(pub(super) String);

impl SecretText {
    /// The text, for the one who signs or encrypts with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

impl Auth {
    pub(super) fn read(layers: &Layers) -> Auth {
        let auth = Auth {
            jwt_secret: layers.take("auth.jwt_secret", |value| secret(value, 1)),
            old_jwt_secrets: layers
                .take("auth.old_jwt_secrets", list(|value| secret(value, 1)))
                .into_iter()
                .flatten()
                .collect(),
            jwt_algorithm: layers.take("auth.jwt_algorithm", algorithm),
            main_secret: layers.take("auth.main_secret", |value| secret(value, MAIN_SECRET_CHARACTERS_MIN)),
            old_main_secrets: layers
                .take("auth.old_main_secrets", list(|value| secret(value, 1)))
                .into_iter()
                .flatten()
                .collect(),
        };
        if auth.main_secret.is_none() && !auth.old_main_secrets.is_empty() {
            let problem = "it needs auth.main_secret; without one the first of these would go on encrypting";
            layers.refuse("auth.old_main_secrets", problem.into());
        }
        auth.check_keys(layers);
        auth
    }

    /// Keys must be what the algorithm signs with.
    fn check_keys(&self, layers: &Layers) {
        let algorithm = self.jwt_algorithm;
        if self.jwt_secret.is_none() && algorithm.takes_private_key() {
            let problem =
                "it signs with a private key: set auth.jwt_secret to one in PEM (-----BEGIN PRIVATE KEY-----)";
            layers.refuse("auth.jwt_algorithm", problem.into());
        }
        let given = self.jwt_secret.iter().map(|secret| ("auth.jwt_secret", secret));
        let old = self.old_jwt_secrets.iter().map(|secret| ("auth.old_jwt_secrets", secret));
        for (name, secret) in given.chain(old) {
            if let Err(error) = check_jwt_key(algorithm, secret.reveal().as_bytes()) {
                layers.refuse(name, error.to_string());
            }
        }
    }

    /// What the operator should know about the secrets that were chosen.
    pub(super) fn note(&self) -> Option<String> {
        let bytes = self.jwt_secret.as_ref()?.reveal().len();
        (bytes < JWT_SECRET_BYTES_GOOD).then(|| {
            format!("auth.jwt_secret is {bytes} bytes long; whoever guesses it can do everything, {JWT_SECRET_BYTES_GOOD} random ones are safe")
        })
    }

    /// The main secrets, newest first.
    pub fn main_secrets(&self) -> impl Iterator<Item = &SecretText> {
        self.main_secret.iter().chain(&self.old_main_secrets)
    }

    /// The keys that secrets of endpoints are kept under, newest first; none without a main secret.
    pub fn main_keys(&self) -> MainKeys {
        MainKeys::new(self.main_secrets().map(|secret| MainKey::from_text(secret.reveal())).collect())
    }
}

fn algorithm(value: &Value) -> Read<JwtAlgorithm> {
    let read = match value {
        Value::Text(text) => text.trim().parse(),
        _ => Err(()),
    };
    read.map_err(|()| Expected(JwtAlgorithm::ALL.map(|(name, _)| name).join(", ")))
}

/// Empty is none. An environment variable cannot be empty: that is a mistake before it comes here.
fn secret(value: &Value, characters_min: usize) -> Read<Option<SecretText>> {
    match value {
        Value::Text(text) if text.is_empty() => Ok(None),
        Value::Text(text) if text.chars().count() >= characters_min => Ok(Some(SecretText(text.clone()))),
        _ => Err(Expected(format!("a secret of at least {characters_min} characters"))),
    }
}
