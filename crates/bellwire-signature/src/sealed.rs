//! Secrets at rest. The store seals each secret under the operator's main secret before it writes it, and binds it to
//! its place, so that neither a stolen disk nor a swap of two rows gives anything away.
//!
//! ```text
//! plain    'p'   plaintext                                                     no main secret was set
//! sealed   0x01  key id (8 bytes)  nonce (24)  ciphertext and tag (16 more)    XChaCha20-Poly1305
//! ```
//!
//! The first byte tells them apart, so rows from before a main secret was set stay readable after, and a rotation can
//! find what is left to do ([`MainKeys::is_current`]). The key id says under which main secret a row was sealed; it
//! reveals nothing of it. Header (the first nine bytes) and place, in this order, are the associated data.
//!
//! What this does not protect from: someone who can *write* to the store can put a plain row of their own there.

use std::fmt;

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use rand::RngCore;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

// Four bits apart: no single flipped bit makes a sealed row pass for a plain one.
const PLAIN: u8 = b'p';
const SEALED: u8 = 0x01;

const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = 1 + KEY_ID_BYTES;
const SEALED_BYTES_MIN: usize = HEADER_BYTES + NONCE_BYTES + TAG_BYTES;

/// Which main key a row was sealed under: a fingerprint of the key.
pub type KeyId = [u8; KEY_ID_BYTES];

/// The key that seals secrets, derived from the operator's main secret. Does not print.
#[derive(Clone)]
pub struct MainKey {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

/// Why a row cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The row is neither sealed nor plain: cut to nothing, overwritten, or written by a later version.
    #[error("the stored secret is neither sealed nor plain")]
    Format,
    /// The row was cut short.
    #[error("the sealed secret has {actual} bytes and needs at least {SEALED_BYTES_MIN}")]
    Short {
        /// How many bytes there were.
        actual: usize,
    },
    /// The row was sealed under another main secret than those we have.
    #[error("the secret was sealed under another main secret (key id {})", Hex(.key_id))]
    UnknownKey {
        /// Under which.
        key_id: KeyId,
    },
    /// The row was changed, or belongs to another place.
    #[error("the sealed secret was changed, or belongs to another row")]
    Corrupt,
}

/// The associated data of a secret: its place in the store. No two places give the same bytes, since each part is
/// preceded by its length.
pub fn aad(application_id: &str, row_id: &str, column: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(3 * 8 + application_id.len() + row_id.len() + column.len());
    for part in [application_id, row_id, column] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

impl MainKey {
    /// Derives the key from the operator's main secret, whatever its form: SHA-256 over a fixed label and the text.
    ///
    /// This is a key derivation, not a password hash: it does nothing against guessing. The text must be random, 32
    /// bytes in hexadecimal or base64, say; whoever reads it from the configuration should refuse short ones.
    pub fn from_text(text: &str) -> MainKey {
        let key = derive(b"bellwire main key v1\0", text.as_bytes());
        let id = derive(b"bellwire main key id v1\0", &*key);
        MainKey {
            id: *id.first_chunk().expect("a hash is longer than a key id"),
            cipher: XChaCha20Poly1305::new_from_slice(&*key).expect("a hash is as long as a cipher key"),
        }
    }

    /// Which key this is.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Seals `plaintext`, bound to `aad` (see [`aad()`]). `rng` must be cryptographically secure: it draws the nonce.
    pub fn seal(&self, rng: &mut dyn RngCore, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);

        let mut row = Vec::with_capacity(SEALED_BYTES_MIN + plaintext.len());
        row.push(SEALED);
        row.extend_from_slice(&self.id);
        let aad = [&row, aad].concat();
        let ciphertext = self
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad: &aad })
            .expect("only a plaintext of 256 GiB is too long");
        row.extend_from_slice(&nonce);
        row.extend_from_slice(&ciphertext);
        row
    }

    /// Opens what [`MainKey::seal`] made with the same `aad`, and what was stored plain.
    ///
    /// # Errors
    /// [`OpenError`] for anything else; never a panic.
    pub fn open(&self, aad: &[u8], row: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        open(std::slice::from_ref(self), aad, row)
    }
}

impl fmt::Debug for MainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MainKey({}, redacted)", Hex(&self.id))
    }
}

/// All main keys of an installation: none, one, or, during a rotation, the new one and those before it.
#[derive(Clone, Debug, Default)]
pub struct MainKeys {
    newest_first: Vec<MainKey>,
}

impl MainKeys {
    /// Seals under the first key, opens under any. Without a key, secrets are stored plain.
    pub fn new(newest_first: Vec<MainKey>) -> MainKeys {
        MainKeys { newest_first }
    }

    /// As [`MainKey::seal`] with the newest key; plain without one.
    pub fn seal(&self, rng: &mut dyn RngCore, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        match self.newest_first.first() {
            Some(key) => key.seal(rng, aad, plaintext),
            None => [&[PLAIN], plaintext].concat(),
        }
    }

    /// As [`MainKey::open`], with the key that the row names.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::UnknownKey`] also for every sealed row when there is no key at all.
    pub fn open(&self, aad: &[u8], row: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        open(&self.newest_first, aad, row)
    }

    /// Whether [`MainKeys::seal`] would store the row in the same way today. A rotation opens and seals again every
    /// row that is not.
    pub fn is_current(&self, row: &[u8]) -> bool {
        match (Row::parse(row), self.newest_first.first()) {
            (Ok(Row::Plain(_)), None) => true,
            (Ok(Row::Sealed { key_id, .. }), Some(newest)) => key_id == newest.id,
            _ => false,
        }
    }
}

fn open(keys: &[MainKey], aad: &[u8], row: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    match Row::parse(row)? {
        Row::Plain(plaintext) => Ok(Zeroizing::new(plaintext.to_vec())),
        Row::Sealed { key_id, header, nonce, ciphertext } => {
            let key = keys.iter().find(|key| key.id == key_id).ok_or(OpenError::UnknownKey { key_id })?;
            let aad = [header, aad].concat();
            key.cipher
                .decrypt(&XNonce::from(nonce), Payload { msg: ciphertext, aad: &aad })
                .map(Zeroizing::new)
                .map_err(|_| OpenError::Corrupt)
        }
    }
}

/// A row's parts, not yet verified.
enum Row<'a> {
    Plain(&'a [u8]),
    Sealed { key_id: KeyId, header: &'a [u8], nonce: [u8; NONCE_BYTES], ciphertext: &'a [u8] },
}

impl Row<'_> {
    fn parse(row: &[u8]) -> Result<Row<'_>, OpenError> {
        match row.split_first() {
            Some((&PLAIN, plaintext)) => Ok(Row::Plain(plaintext)),
            Some((&SEALED, rest)) => Row::parse_sealed(row, rest).ok_or(OpenError::Short { actual: row.len() }),
            _ => Err(OpenError::Format),
        }
    }

    fn parse_sealed<'a>(row: &'a [u8], rest: &'a [u8]) -> Option<Row<'a>> {
        let (&key_id, rest) = rest.split_first_chunk()?;
        let (&nonce, ciphertext) = rest.split_first_chunk()?;
        if ciphertext.len() < TAG_BYTES {
            return None;
        }
        Some(Row::Sealed { key_id, header: row.get(..HEADER_BYTES)?, nonce, ciphertext })
    }
}

fn derive(label: &[u8], input: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(Sha256::new().chain_update(label).chain_update(input).finalize().into())
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    const PLAINTEXT: &[u8] = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(6)
    }

    fn key() -> MainKey {
        MainKey::from_text("correct horse battery staple")
    }

    fn place() -> Vec<u8> {
        aad("app_1", "ep_1", "secret")
    }

    fn opened(row: Result<Zeroizing<Vec<u8>>, OpenError>) -> Result<Vec<u8>, OpenError> {
        row.map(|plaintext| plaintext.to_vec())
    }

    #[test]
    fn what_is_sealed_opens_again() {
        for plaintext in [PLAINTEXT, b"", &[0; 1000]] {
            let row = key().seal(&mut rng(), &place(), plaintext);
            assert_eq!(row.len(), SEALED_BYTES_MIN + plaintext.len());
            assert_eq!(opened(key().open(&place(), &row)), Ok(plaintext.to_vec()));
        }
    }

    #[test]
    fn sealing_twice_gives_two_rows_without_the_plaintext() {
        let rng = &mut rng();
        let (first, second) = (key().seal(rng, &place(), PLAINTEXT), key().seal(rng, &place(), PLAINTEXT));
        assert_ne!(first, second);
        assert!(!first.windows(6).any(|window| window == b"whsec_"));
    }

    #[test]
    fn two_swapped_rows_do_not_open() {
        let places = [
            place(),
            aad("app_2", "ep_1", "secret"),
            aad("app_1", "ep_2", "secret"),
            aad("app_1", "ep_1", "old_secret"),
        ];
        for (i, sealed_at) in places.iter().enumerate() {
            let row = key().seal(&mut rng(), sealed_at, PLAINTEXT);
            for (j, opened_at) in places.iter().enumerate() {
                assert_eq!(key().open(opened_at, &row).is_ok(), i == j);
            }
        }
    }

    #[test]
    fn the_parts_of_a_place_do_not_run_together() {
        assert_ne!(aad("ab", "c", "d"), aad("a", "bc", "d"));
        assert_ne!(aad("a", "b", ""), aad("a", "", "b"));
    }

    #[test]
    fn one_changed_bit_anywhere_is_refused() {
        let row = key().seal(&mut rng(), &place(), PLAINTEXT);
        for bit in 0..row.len() * 8 {
            let mut changed = row.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(key().open(&place(), &changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn short_rows_are_errors() {
        let row = key().seal(&mut rng(), &place(), b"");
        for length in 0..row.len() {
            let expected = if length == 0 { OpenError::Format } else { OpenError::Short { actual: length } };
            assert_eq!(opened(key().open(&place(), &row[..length])), Err(expected));
        }
        for length in 0..=40 {
            for first in (0..=u8::MAX).filter(|first| *first != PLAIN) {
                assert!(key().open(&place(), &vec![first; length]).is_err(), "{length} times {first}");
            }
        }
    }

    #[test]
    fn a_row_of_another_main_secret_names_its_key() {
        let other = MainKey::from_text("another");
        let row = other.seal(&mut rng(), &place(), PLAINTEXT);
        assert_eq!(opened(key().open(&place(), &row)), Err(OpenError::UnknownKey { key_id: other.id() }));
    }

    #[test]
    fn rows_from_before_the_main_secret_stay_readable() {
        let (without, with) = (MainKeys::default(), MainKeys::new(vec![key()]));
        let plain = without.seal(&mut rng(), &place(), PLAINTEXT);
        assert_eq!(opened(without.open(&place(), &plain)), Ok(PLAINTEXT.to_vec()));
        assert_eq!(opened(with.open(&place(), &plain)), Ok(PLAINTEXT.to_vec()));
        assert_eq!(opened(key().open(&place(), &plain)), Ok(PLAINTEXT.to_vec()));
        assert!(without.is_current(&plain) && !with.is_current(&plain));

        let sealed = with.seal(&mut rng(), &place(), PLAINTEXT);
        assert_eq!(opened(without.open(&place(), &sealed)), Err(OpenError::UnknownKey { key_id: key().id() }));
        assert!(with.is_current(&sealed) && !without.is_current(&sealed));
    }

    #[test]
    fn a_rotation_reads_the_old_and_writes_the_new() {
        let (old, new) = (MainKey::from_text("old"), MainKey::from_text("new"));
        let keys = MainKeys::new(vec![new.clone(), old.clone()]);
        let before = old.seal(&mut rng(), &place(), PLAINTEXT);
        assert!(!keys.is_current(&before));
        let after = keys.seal(&mut rng(), &place(), &keys.open(&place(), &before).expect("opened"));
        assert!(keys.is_current(&after));
        assert_eq!(opened(new.open(&place(), &after)), Ok(PLAINTEXT.to_vec()));
    }

    /// A change of the derivation or the format would lose every stored secret. This row was also opened by an
    /// independent implementation, from this file's description alone.
    #[test]
    fn rows_of_the_first_version_stay_readable() {
        assert_eq!(format!("{:?}", key()), "MainKey(0a5f69d87acdca46, redacted)");
        let row = key().seal(&mut rng(), &place(), b"x");
        let expected = concat!(
            "01",
            "0a5f69d87acdca46",
            "8b87ff0112f1cd7dd170e883f213deb5682ed77af8fc7ce6",
            "18",
            "b3f25f3d534ba40ff3f1adc32740f80c",
        );
        assert_eq!(Hex(&row).to_string(), expected);
    }

    proptest! {
        #[test]
        fn arbitrary_rows_are_opened_without_a_panic(mut row in any::<Vec<u8>>(), first in any::<u8>()) {
            if let Some(byte) = row.first_mut() {
                *byte = if first < 128 { SEALED } else { first };
            }
            let verdict = key().open(&place(), &row);
            prop_assert_eq!(verdict.is_ok(), row.first() == Some(&PLAIN));
        }
    }
}
