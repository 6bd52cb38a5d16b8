//! HMAC-SHA256 (RFC 2104) with the key's two blocks hashed once, when the key is made, not once per message.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Length of a MAC.
pub(crate) const MAC_BYTES: usize = 32;

/// A key ready to use. As secret as the key itself: whoever has it can sign.
#[derive(Clone)]
pub(crate) struct HmacKey(Hmac<Sha256>);

impl HmacKey {
    pub(crate) fn new(key: &[u8]) -> HmacKey {
        HmacKey(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    /// The MAC of the parts' concatenation. Compare it in constant time only.
    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        let mut state = self.0.clone();
        for part in parts {
            state.update(part);
        }
        state.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &[u8], parts: &[&[u8]], expected_hex: &str) {
        let hex: String = HmacKey::new(key).mac(parts).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected_hex);
    }

    #[test]
    fn rfc_4231_test_cases() {
        // §4.2, §4.3 and §4.7 (a key longer than a block).
        check(&[0x0b; 20], &[b"Hi There"], "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        check(
            b"Jefe",
            &[b"what do ya ", b"", b"want for nothing?"],
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        check(
            &[0xaa; 131],
            &[b"Test Using Larger Than Block-Size Key - Hash Key First"],
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
    }

    #[test]
    fn a_key_signs_again_and_again() {
        let key = HmacKey::new(b"key");
        assert_eq!(key.mac(&[b"ab", b"c"]), key.mac(&[b"a", b"bc"]));
        assert_ne!(key.mac(&[b"abc"]), key.mac(&[b"abd"]));
    }
}
