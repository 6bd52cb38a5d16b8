//! HMACs and plain digests over parts, the key's blocks hashed once when the source is set up.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use subtle::{Choice, ConstantTimeEq};

/// A key ready to use. As secret as the key itself.
#[derive(Clone)]
pub(crate) enum MacKey {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
}

/// The hash under an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl MacKey {
    pub(crate) fn new(hash: Hash, key: &[u8]) -> MacKey {
        fn ready<M: KeyInit>(key: &[u8]) -> M {
            M::new_from_slice(key).expect("HMAC takes keys of any length")
        }
        match hash {
            Hash::Sha1 => MacKey::Sha1(ready(key)),
            Hash::Sha256 => MacKey::Sha256(ready(key)),
            Hash::Sha384 => MacKey::Sha384(ready(key)),
            Hash::Sha512 => MacKey::Sha512(ready(key)),
        }
    }

    /// The MAC of the parts' concatenation. Compare it in constant time only.
    pub(crate) fn mac<P: AsRef<[u8]>>(&self, parts: &[P]) -> Vec<u8> {
        fn finish<M: Mac + Clone, P: AsRef<[u8]>>(state: &M, parts: &[P]) -> Vec<u8> {
            let mut state = state.clone();
            parts.iter().for_each(|part| state.update(part.as_ref()));
            state.finalize().into_bytes().to_vec()
        }
        match self {
            MacKey::Sha1(state) => finish(state, parts),
            MacKey::Sha256(state) => finish(state, parts),
            MacKey::Sha384(state) => finish(state, parts),
            MacKey::Sha512(state) => finish(state, parts),
        }
    }
}

/// SHA-256 of the parts' concatenation.
pub(crate) fn sha256<P: AsRef<[u8]>>(parts: &[P]) -> [u8; 32] {
    let mut state = Sha256::new();
    parts.iter().for_each(|part| state.update(part.as_ref()));
    state.finalize().into()
}

/// SHA-512 of one text.
pub(crate) fn sha512(bytes: &[u8]) -> [u8; 64] {
    Sha512::digest(bytes).into()
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether one of `given` is `expected`, compared in constant time, each of them.
pub(crate) fn any_is(expected: &[u8], given: &[Vec<u8>]) -> Choice {
    given.iter().fold(Choice::from(0), |fits, one| fits | expected.ct_eq(one))
}

/// CRC-32 as zip and PNG have it (reflected, polynomial 0xEDB88320).
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let mut value = at as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { 0xEDB8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[at] = value;
            at += 1;
        }
        table
    };
    let step = |crc: u32, byte: &u8| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8);
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 2202 §3 case 2 and RFC 4231 §4.3, in pieces.
    #[test]
    fn every_hash_as_published() {
        let check = |hash, expected: &str| {
            let parts: [&[u8]; 3] = [b"what do ya ", b"", b"want for nothing?"];
            assert_eq!(hex(&MacKey::new(hash, b"Jefe").mac(&parts)), expected);
        };
        check(Hash::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        check(Hash::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        check(
            Hash::Sha384,
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        );
        check(
            Hash::Sha512,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554\
             9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        );
    }

    #[test]
    fn a_crc_as_every_library_checks_it() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn a_prefix_is_not_the_whole() {
        assert!(bool::from(any_is(b"abc", &[b"x".to_vec(), b"abc".to_vec()])));
        assert!(!bool::from(any_is(b"abc", &[b"ab".to_vec(), b"abcd".to_vec(), Vec::new()])));
        assert!(!bool::from(any_is(b"", &[])));
    }
}
