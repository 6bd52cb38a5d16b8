//! Cursors as clients have them: opaque, and refused if they were cut off, made up, or belong to another endpoint.
//!
//! A cursor gives no access: whoever may read an endpoint's log may begin anywhere in it. So it carries a sum against mistakes, not a
//! signature against forgers, and stays good when the server's secret is replaced.

use crate::error::Error;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bellwire_model::{EndpointKey, Sequence};
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;
const BYTES: usize = 16;
const SUMMED: usize = 13;

/// The cursor of a reader of `endpoint` that has seen everything up to `at`.
pub(super) fn write(endpoint: EndpointKey, at: Sequence) -> String {
    let mut bytes = [0; BYTES];
    bytes[0] = VERSION;
    bytes[1..5].copy_from_slice(&endpoint.0.to_be_bytes());
    bytes[5..SUMMED].copy_from_slice(&at.as_u64().to_be_bytes());
    let sum = sum(&bytes[..SUMMED]);
    bytes[SUMMED..].copy_from_slice(&sum);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What [`write()`] made, back; `loc` is where it was given.
///
/// # Errors
/// 422 if it is none, or one of another endpoint.
pub(super) fn read(loc: &[&str], endpoint: EndpointKey, text: &str) -> Result<Sequence, Error> {
    let invalid = |msg: &str| Error::invalid(loc, format!("Invalid cursor: {msg}"));
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| <[u8; BYTES]>::try_from(bytes).ok());
    let bytes = bytes.ok_or_else(|| invalid("expected one as an earlier answer gave it"))?;
    if bytes[0] != VERSION || bytes[SUMMED..] != sum(&bytes[..SUMMED]) {
        return Err(invalid("expected one as an earlier answer gave it"));
    }
    let [_, a, b, c, d, sequence @ ..] = bytes;
    if u32::from_be_bytes([a, b, c, d]) != endpoint.0 {
        return Err(invalid("it belongs to another endpoint"));
    }
    let mut at = [0; 8];
    at.copy_from_slice(&sequence[..8]);
    let at = u64::from_be_bytes(at);
    if at > Sequence::MAX.as_u64() {
        return Err(invalid("expected one as an earlier answer gave it"));
    }
    Ok(Sequence::from_u64(at))
}

fn sum(bytes: &[u8]) -> [u8; BYTES - SUMMED] {
    let digest: [u8; 32] = Sha256::new_with_prefix(b"bellwire cursor").chain_update(bytes).finalize().into();
    [digest[0], digest[1], digest[2]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_back_and_nothing_else_does() {
        let at = Sequence::from_u64(1 << 60 | 12_345);
        let text = write(EndpointKey(7), at);
        assert_eq!(read(&["query"], EndpointKey(7), &text).ok(), Some(at));
        assert!(read(&["query"], EndpointKey(8), &text).is_err());
        for (index, _) in text.char_indices() {
            let mut other = text.clone().into_bytes();
            other[index] = if other[index] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).expect("ASCII");
            assert!(read(&["query"], EndpointKey(7), &other).is_err(), "{other}");
        }
        for wrong in ["", "x", &text[..20], &format!("{text}A"), "ä"] {
            assert!(read(&["query"], EndpointKey(7), wrong).is_err(), "{wrong}");
        }
    }
}
