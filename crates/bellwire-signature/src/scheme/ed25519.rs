//! Ed25519 (RFC 8032) over a message in parts.

use ed25519_dalek::{
    Signature, SigningKey, VerifyingKey,
    ed25519::signature::{MultipartSigner, MultipartVerifier},
};

/// Length of a signature.
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// Length of a seed, and of a public key.
pub(crate) const KEY_BYTES: usize = 32;

/// Signs the parts' concatenation.
pub(crate) fn sign(key: &SigningKey, parts: &[&[u8]]) -> [u8; SIGNATURE_BYTES] {
    key.multipart_sign(parts).to_bytes()
}

/// Whether `signature` is `key`'s of the parts' concatenation. `key` comes from [`public_key`], so it is not weak.
pub(crate) fn is_signed(key: &VerifyingKey, parts: &[&[u8]], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    key.multipart_verify(parts, &Signature::from_bytes(signature)).is_ok()
}

/// A public key to verify with; `None` if the bytes are no point of the curve, or one of small order, under which a
/// signature can be made that fits almost every message.
pub(crate) fn public_key(bytes: &[u8; KEY_BYTES]) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(bytes).ok().filter(|key| !key.is_weak())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const LENGTH: usize>(text: &str) -> [u8; LENGTH] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal"))
    }

    #[test]
    fn rfc_8032_test_1() {
        // §7.1, TEST 1: the empty message.
        let key = SigningKey::from_bytes(&hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"));
        let public: [u8; 32] = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let signature: [u8; 64] = hex(concat!(
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555",
            "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ));
        assert_eq!(key.verifying_key().to_bytes(), public);
        assert_eq!(sign(&key, &[b"", b""]), signature);
        let public = public_key(&public).expect("a public key");
        assert!(is_signed(&public, &[b""], &signature));
        assert!(!is_signed(&public, &[b"x"], &signature));
    }

    #[test]
    fn public_keys_of_small_order_are_refused() {
        // The neutral element, and the point of order two.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert!(public_key(&neutral).is_none());
        let mut order_two = [0xff; 32];
        order_two[0] = 0xec;
        order_two[31] = 0x7f;
        assert!(public_key(&order_two).is_none());
    }
}
