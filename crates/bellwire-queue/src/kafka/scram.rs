//! SCRAM (RFC 5802, RFC 7677): a user proves to know a password without saying it, and the server that it has seen it before.
//!
//! As Kafka has it: a password's bytes are taken as they are written, without SASLprep, and the connection is not bound into the proof.
//! What the server says decides how long the proof takes, so that is bounded, and made where it holds nobody up.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};
use std::ops::RangeInclusive;

/// So many rounds make a key of a password. Kafka has no fewer, and usually just so many; with more, a server would have us at work.
const ROUNDS: RangeInclusive<u32> = 4_096..=250_000;
/// What a server says is no longer.
const SAID_BYTES_MAX: usize = 4_096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

/// Why a server is not believed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum ScramError {
    #[error("what it says is not what SCRAM has here")]
    Odd,
    #[error("it wants the password to go through {0} rounds, and from 4096 to 250000 are made")]
    Rounds(u32),
    #[error("it does not prove that it knows the password")]
    Stranger,
}

/// A client before its first word.
pub(super) struct Scram {
    hash: Hash,
    password: String,
    /// The first word, without what is said of binding.
    bare: String,
    nonce: String,
}

/// A client after its last word: it knows what the server's must be.
pub(super) struct Waiting {
    hash: Hash,
    server_key: Vec<u8>,
    all: String,
}

impl Scram {
    /// `nonce` is random, and made of what can be printed, without commas.
    pub(super) fn new(hash: Hash, user: &str, password: &str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Scram { hash, password: password.to_owned(), bare: format!("n={user},r={nonce}"), nonce }
    }

    /// The client's first word.
    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// The client's last word, after the server's first one.
    pub(super) fn last(self, said: &[u8]) -> Result<(String, Waiting), ScramError> {
        let Scram { hash, password, bare, nonce } = self;
        let said = text(said)?;
        let mut parts = said.split(',');
        let mut part = |name: &str| parts.next().and_then(|part| part.strip_prefix(name)).ok_or(ScramError::Odd);
        let (both, salt, rounds) = (part("r=")?, part("s=")?, part("i=")?);
        // Its own part is behind ours, and is some.
        both.strip_prefix(nonce.as_str()).filter(|own| !own.is_empty()).ok_or(ScramError::Odd)?;
        let salt = STANDARD.decode(salt).map_err(|_| ScramError::Odd)?;
        let rounds = rounds.parse().map_err(|_| ScramError::Odd)?;
        if !ROUNDS.contains(&rounds) {
            return Err(ScramError::Rounds(rounds));
        }
        let salted = hash.salted(password.as_bytes(), &salt, rounds);
        let client_key = hash.mac(&salted, b"Client Key");
        // "n,," in base64: no binding.
        let last = format!("c=biws,r={both}");
        let all = format!("{bare},{said},{last}");
        let signature = hash.mac(&hash.digest(&client_key), all.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
        let server_key = hash.mac(&salted, b"Server Key");
        Ok((format!("{last},p={}", STANDARD.encode(proof)), Waiting { hash, server_key, all }))
    }
}

impl Waiting {
    /// Whether the server's last word proves that it knows the password.
    pub(super) fn check(&self, said: &[u8]) -> Result<(), ScramError> {
        let proof = text(said)?.split(',').next().and_then(|part| part.strip_prefix("v="));
        let proof = proof.and_then(|proof| STANDARD.decode(proof).ok()).ok_or(ScramError::Stranger)?;
        match self.hash.is_mac(&self.server_key, self.all.as_bytes(), &proof) {
            true => Ok(()),
            false => Err(ScramError::Stranger),
        }
    }
}

fn text(said: &[u8]) -> Result<&str, ScramError> {
    str::from_utf8(said).ok().filter(|text| text.len() <= SAID_BYTES_MAX).ok_or(ScramError::Odd)
}

impl Hash {
    fn digest(self, text: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha256 => Sha256::digest(text).to_vec(),
            Hash::Sha512 => Sha512::digest(text).to_vec(),
        }
    }

    fn mac(self, key: &[u8], text: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha256 => keyed::<Hmac<Sha256>>(key).chain_update(text).finalize().into_bytes().to_vec(),
            Hash::Sha512 => keyed::<Hmac<Sha512>>(key).chain_update(text).finalize().into_bytes().to_vec(),
        }
    }

    /// In the same time, whatever is wrong with it.
    fn is_mac(self, key: &[u8], text: &[u8], mac: &[u8]) -> bool {
        match self {
            Hash::Sha256 => keyed::<Hmac<Sha256>>(key).chain_update(text).verify_slice(mac).is_ok(),
            Hash::Sha512 => keyed::<Hmac<Sha512>>(key).chain_update(text).verify_slice(mac).is_ok(),
        }
    }

    fn salted(self, password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
        match self {
            Hash::Sha256 => salted(&keyed::<Hmac<Sha256>>(password), salt, rounds),
            Hash::Sha512 => salted(&keyed::<Hmac<Sha512>>(password), salt, rounds),
        }
    }
}

fn keyed<M: Mac + KeyInit>(key: &[u8]) -> M {
    <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of every length")
}

/// `Hi` of RFC 5802, which is PBKDF2 of as many bytes as the hash has.
fn salted<M: Mac + Clone>(keyed: &M, salt: &[u8], rounds: u32) -> Vec<u8> {
    let first = keyed.clone().chain_update(salt).chain_update(1_u32.to_be_bytes());
    let mut last = first.finalize().into_bytes();
    let mut all = last.to_vec();
    for _ in 1..rounds {
        last = keyed.clone().chain_update(&last).finalize().into_bytes();
        all.iter_mut().zip(&last).for_each(|(all, last)| *all ^= last);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(
        hash: Hash,
        (user, password, nonce): (&str, &str, &str),
        said: &str,
    ) -> Result<(String, Waiting), ScramError> {
        Scram::new(hash, user, password, nonce.to_owned()).last(said.as_bytes())
    }

    const USER: (&str, &str, &str) = ("user", "pencil", "rOprNGfwEbeRWgbNEkqO");
    const SAID: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn what_is_in_rfc_7677_is_said_and_believed() {
        let (user, password, nonce) = USER;
        let first = Scram::new(Hash::Sha256, user, password, nonce.to_owned()).first();
        assert_eq!(first, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (word, waiting) = last(Hash::Sha256, USER, SAID).expect("is right");
        assert_eq!(
            word,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(waiting.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        for stranger in ["v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "v=", "e=other-error", "", "v=6rri"] {
            assert_eq!(waiting.check(stranger.as_bytes()), Err(ScramError::Stranger), "{stranger}");
        }
    }

    /// No document has a vector for SHA-512; this one was made by another implementation, of Python's `hashlib` and `hmac`.
    #[test]
    fn the_longer_hash_is_spoken_too_and_names_may_have_any_letter() {
        let user = ("a=b,c", "p\u{e9}ncil,=", "abc");
        let first = Scram::new(Hash::Sha512, user.0, user.1, user.2.to_owned()).first();
        assert_eq!(first, "n,,n=a=3Db=2Cc,r=abc");
        let (word, waiting) = last(Hash::Sha512, user, "r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=8192").expect("is right");
        assert_eq!(
            word,
            "c=biws,r=abcdef,p=Z4z5qPAlpXWMj8nB4vIv0V0tI7KB72R7Z2kiWbTUKxPG1KvcdNVlqSFs8m8hbA1ov3WVccq6SeUGCJyc11mY5A=="
        );
        let proof = "v=WEbHsH8fiHZvXmiSErhd9mT+7zWkVIyPkNPnvZBtrlHMLTG/3M39rpkZYTQ0x0XKnce8VRvJtsyrOF6hw0kS7Q==";
        assert_eq!(waiting.check(proof.as_bytes()), Ok(()));
    }

    #[test]
    fn a_server_that_says_something_else_hears_no_proof() {
        let long = format!("{SAID},x={}", "x".repeat(SAID_BYTES_MAX));
        for (said, error) in [
            // Somebody else's nonce, and ours given back.
            ("r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ScramError::Odd),
            ("r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ScramError::Odd),
            // What must be understood, and is not.
            ("m=x,r=rOprNGfwEbeRWgbNEkqO1,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ScramError::Odd),
            ("r=rOprNGfwEbeRWgbNEkqO1,s=!,i=4096", ScramError::Odd),
            ("r=rOprNGfwEbeRWgbNEkqO1,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=-1", ScramError::Odd),
            // Guessed too soon, and work without end.
            ("r=rOprNGfwEbeRWgbNEkqO1,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1", ScramError::Rounds(1)),
            ("r=rOprNGfwEbeRWgbNEkqO1,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4294967295", ScramError::Rounds(u32::MAX)),
            (&long, ScramError::Odd),
            ("", ScramError::Odd),
        ] {
            assert_eq!(last(Hash::Sha256, USER, said).map(|(word, _)| word), Err(error), "{said}");
        }
    }
}
