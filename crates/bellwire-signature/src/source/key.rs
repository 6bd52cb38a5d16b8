//! Secrets as operators paste them, and the keys that they are.

use zeroize::Zeroizing;

use super::{
    mac::{Hash, MacKey},
    place::decode_hex,
    public_key::PublicKey,
    recipe::{Encoding, KeyFormat},
};
use crate::VerifyKey;

/// Shorter secrets can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// Longer ones are something else, pasted by mistake.
const SECRET_BYTES_MAX: usize = 16 * 1024;

/// Which secret is wrong, and what is.
type Wrong = Vec<(usize, String)>;

/// The keys for an HMAC.
pub(super) fn mac_keys(
    hash: Hash,
    format: KeyFormat,
    secrets: &[Zeroizing<String>],
    allow_short: bool,
) -> Result<Vec<MacKey>, Wrong> {
    Ok(secret_bytes(format, secrets, allow_short)?.iter().map(|bytes| MacKey::new(hash, bytes)).collect())
}

/// The secrets' bytes.
pub(super) fn secret_bytes(
    format: KeyFormat,
    secrets: &[Zeroizing<String>],
    allow_short: bool,
) -> Result<Vec<Zeroizing<Vec<u8>>>, Wrong> {
    all(secrets, |text| {
        let bytes = decode(format, text)?;
        check_length(bytes.len(), allow_short)?;
        Ok(bytes)
    })
}

/// Users and passwords, `user:password`.
pub(super) fn utf8_keys(secrets: &[Zeroizing<String>], allow_short: bool) -> Result<Vec<Zeroizing<Vec<u8>>>, Wrong> {
    all(secrets, |text| {
        let bytes = decode(KeyFormat::Utf8, text)?;
        match text.split_once(':') {
            Some((_, "")) | None => return Err("it is `user:password`, and the password is not empty".to_owned()),
            Some(_) => check_length(bytes.len(), allow_short)?,
        }
        Ok(bytes)
    })
}

/// Public keys of which `is_fit` holds.
pub(super) fn public_keys(
    format: KeyFormat,
    secrets: &[Zeroizing<String>],
    is_fit: impl Fn(&PublicKey) -> bool,
) -> Result<Vec<PublicKey>, Wrong> {
    all(secrets, |text| {
        let key = match format {
            KeyFormat::Hex => PublicKey::from_ed25519_hex(text)?,
            KeyFormat::Base64 => {
                let bytes = Encoding::Base64.decode(text.trim()).ok_or("it is not base64")?;
                PublicKey::from_ed25519(&bytes)?
            }
            _ => PublicKey::from_spki_text(text)?,
        };
        if is_fit(&key) { Ok(key) } else { Err("it is a public key for another algorithm".to_owned()) }
    })
}

/// `whsec_…` and `whpk_…`.
pub(super) fn standard_keys(secrets: &[Zeroizing<String>], allow_short: bool) -> Result<Vec<VerifyKey>, Wrong> {
    all(secrets, |text| {
        let empty = text.strip_prefix("whsec_").unwrap_or(text).is_empty();
        if empty {
            return Err("it is empty".to_owned());
        }
        let short = || decode(KeyFormat::Base64, text.strip_prefix("whsec_").unwrap_or(text)).ok();
        match VerifyKey::parse(text) {
            Err(crate::SecretError::VerifyLength { .. }) if allow_short => {
                short().map(|bytes| VerifyKey::from_bytes(&bytes)).ok_or_else(|| "it is not base64".to_owned())
            }
            key => key.map_err(|error| error.to_string()),
        }
    })
}

fn all<T>(secrets: &[Zeroizing<String>], read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Wrong> {
    let mut wrong = Vec::new();
    let mut keys = Vec::new();
    for (at, text) in secrets.iter().enumerate() {
        let length = if text.len() > SECRET_BYTES_MAX {
            Err(format!("it has more than {SECRET_BYTES_MAX} bytes"))
        } else {
            Ok(())
        };
        match length.and_then(|()| read(text)) {
            Ok(key) => keys.push(key),
            Err(text) => wrong.push((at, text)),
        }
    }
    if wrong.is_empty() { Ok(keys) } else { Err(wrong) }
}

fn decode(format: KeyFormat, text: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let decoded = match format {
        KeyFormat::Base64 => Encoding::Base64.decode(text.trim()).ok_or("it is not base64")?,
        KeyFormat::Hex => decode_hex(text.trim()).ok_or("it is not hexadecimal")?,
        _ if text.trim() != text => return Err("it begins or ends with a space, or a line end".to_owned()),
        _ => text.as_bytes().to_vec(),
    };
    Ok(Zeroizing::new(decoded))
}

fn check_length(bytes: usize, allow_short: bool) -> Result<(), String> {
    match bytes {
        0 => Err("it is empty; with an empty secret everybody can sign".to_owned()),
        SECRET_BYTES_MIN.. => Ok(()),
        _ if allow_short => Ok(()),
        _ => Err(format!("it has {bytes} bytes; under {SECRET_BYTES_MIN} it can be guessed")),
    }
}
