//! What several of the small commands take: payloads, secrets.

use anyhow::Context as _;
use bellwire_signature::{Secret, VerifyKey};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng as _};
use std::{
    fs,
    io::{self, IsTerminal as _, Read as _},
};

/// The bytes of a file, or of standard input for `-`.
///
/// # Errors
/// What cannot be read, by name.
pub(crate) fn file(name: &str) -> anyhow::Result<Vec<u8>> {
    if name != "-" {
        return fs::read(name).with_context(|| format!("cannot read {name}"));
    }
    if io::stdin().is_terminal() {
        eprintln!("reading the payload from the terminal; Ctrl-D ends it");
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    Ok(bytes)
}

/// As `curl --data-binary` has it: the text itself, or `@FILE`, or `@-`.
///
/// # Errors
/// As [`file`].
pub(crate) fn text_or_file(argument: &str) -> anyhow::Result<Vec<u8>> {
    match argument.strip_prefix('@') {
        Some(name) => file(name),
        None => Ok(argument.as_bytes().to_vec()),
    }
}

/// Chance, fit for secrets.
///
/// # Errors
/// The system gives none.
pub(crate) fn chance() -> anyhow::Result<ChaCha20Rng> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
    Ok(ChaCha20Rng::from_seed(seed))
}

/// For clap: `name=value`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// For clap.
pub(crate) fn secret(text: &str) -> Result<Secret, bellwire_signature::SecretError> {
    Secret::parse(text)
}

/// For clap.
pub(crate) fn verify_key(text: &str) -> Result<VerifyKey, bellwire_signature::SecretError> {
    VerifyKey::parse(text)
}
