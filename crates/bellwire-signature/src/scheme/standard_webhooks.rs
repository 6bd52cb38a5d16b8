//! Standard Webhooks 1.0: which bytes are signed, and how signatures are written in the `webhook-signature` header.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{ed25519, hmac};

/// The header with the message's id, the same at every attempt: the receiver's idempotency key.
pub const ID_HEADER: &str = "webhook-id";

/// The header with the attempt's start, in whole Unix seconds.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";

/// The header with the signatures, separated by single spaces.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// How many signatures a header may hold when we verify it.
///
/// A sender in the middle of a rotation has about a dozen. Without a bound, one request could buy hundreds of
/// ed25519 verifications.
pub const SIGNATURES_MAX: usize = 32;

const HMAC_VERSION: &str = "v1";
const ED25519_VERSION: &str = "v1a";

/// What is signed: `{id}.{timestamp}.{payload}`, in parts, so that the payload is never copied.
///
/// Only unambiguous when neither `id` nor `timestamp` contains a full stop: callers check that first.
pub(crate) fn signed_content<'a>(id: &'a str, timestamp: &'a str, payload: &'a [u8]) -> [&'a [u8]; 5] {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", payload]
}

/// Whether `id` may stand in the signed content: not empty, and no full stop, which could shift bytes from one field
/// into the next.
pub(crate) fn id_is_valid(id: &str) -> bool {
    !id.is_empty() && !id.contains('.')
}

/// One signature of the header, decoded. Its length is right by construction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Signature {
    Hmac([u8; hmac::MAC_BYTES]),
    Ed25519([u8; ed25519::SIGNATURE_BYTES]),
}

impl Signature {
    /// Appends `v1,<base64>` or `v1a,<base64>`, after a space if `header` holds a signature already.
    pub(crate) fn append_to(&self, header: &mut String) {
        let (version, bytes) = match self {
            Signature::Hmac(mac) => (HMAC_VERSION, mac.as_slice()),
            Signature::Ed25519(signature) => (ED25519_VERSION, signature.as_slice()),
        };
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str(version);
        header.push(',');
        STANDARD.encode_string(bytes, header);
    }

    /// Every signature of a version that we know and that is whole; all else is passed over, as the specification
    /// wants it, so that a sender may add versions that we do not know.
    ///
    /// `None` if there are more than [`SIGNATURES_MAX`] words, known or not.
    pub(crate) fn parse_all(header: &str) -> Option<Vec<Signature>> {
        let words = || header.split(' ').filter(|word| !word.is_empty());
        if words().nth(SIGNATURES_MAX).is_some() {
            return None;
        }
        Some(words().filter_map(Signature::parse).collect())
    }

    fn parse(word: &str) -> Option<Signature> {
        match word.split_once(',')? {
            (HMAC_VERSION, text) => decode_exactly(text).map(Signature::Hmac),
            (ED25519_VERSION, text) => decode_exactly(text).map(Signature::Ed25519),
            _ => None,
        }
    }
}

/// Padded standard base64 of exactly `LENGTH` bytes, or nothing: a signature's prefix is not a signature
/// (RUSTSEC-2024-0010).
fn decode_exactly<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    // Compared before decoding, so that a long header costs nothing.
    if text.len() != LENGTH.div_ceil(3) * 4 {
        return None;
    }
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(signatures: &[Signature]) -> String {
        signatures.iter().fold(String::new(), |mut header, signature| {
            signature.append_to(&mut header);
            header
        })
    }

    #[test]
    fn what_is_written_is_read_again() {
        let signatures = [Signature::Hmac([7; 32]), Signature::Ed25519([9; 64]), Signature::Hmac([0xff; 32])];
        let text = header(&signatures);
        assert_eq!(text.split(' ').count(), 3);
        assert_eq!(Signature::parse_all(&text).as_deref(), Some(signatures.as_slice()));
    }

    #[test]
    fn only_whole_signatures_of_known_versions_are_read() {
        let whole = header(&[Signature::Hmac([7; 32])]);
        let base64 = &whole["v1,".len()..];
        let passed_over = [
            String::new(),
            " ".into(),
            "v1".into(),
            "v1,".into(),
            "v1a,".into(),
            ",".into(),
            whole[..8].into(),
            whole[..whole.len() - 1].into(),
            format!("{whole}A"),
            format!("{whole}===="),
            format!("v2,{base64}"),
            format!("V1,{base64}"),
            format!("v1a,{base64}"),
            format!("v1=,{base64}"),
            base64.into(),
            format!("v1,{}", base64.replace('=', "!")),
            format!("v1, {base64}"),
            format!("\tv1,{base64}"),
            format!("v1,{}", "é".repeat(22)),
        ];
        for text in passed_over {
            assert_eq!(Signature::parse_all(&text), Some(Vec::new()), "{text:?}");
        }
    }

    #[test]
    fn a_header_with_too_many_words_is_refused_unread() {
        assert!(Signature::parse_all(&"v9,x ".repeat(SIGNATURES_MAX)).is_some());
        assert!(Signature::parse_all(&"v9,x ".repeat(SIGNATURES_MAX + 1)).is_none());
    }
}
