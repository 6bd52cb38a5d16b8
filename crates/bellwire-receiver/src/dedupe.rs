//! What makes two requests of a source the same: a key with the number of its window in it.
//!
//! So a key never changes hands, the store knows nothing of windows, and a request is looked for in its window and in the one
//! before, there from exactly one window ago on; near its end also in the one after, for the same request may have come a moment
//! later and be quicker.

use bellwire_engine::Earlier;
use bellwire_model::{DedupeFrom, DedupeKey, Sequence, Source, SourceId, Timestamp};
use bellwire_signature::source::Proof;
use sha2::{Digest, Sha256};

/// So long before the end of a window the next one is looked at, too: longer than a request takes from here to the log.
const NEAR_MICROS: i64 = 60_000_000;

/// The keys of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Keys {
    /// Becomes the message's.
    pub(crate) own: DedupeKey,
    /// Of the window before.
    pub(crate) earlier: Earlier,
    /// What is shown of it.
    pub(crate) text: String,
}

/// The keys of a request that is proven; `None` if it is like no other.
pub(crate) fn keys(source: &Source, proof: &Proof, body: &[u8], now: Timestamp) -> Option<Keys> {
    let (hash, text) = match &source.dedupe.key {
        DedupeFrom::Off => return None,
        DedupeFrom::Body => {
            let hash: [u8; 32] = Sha256::digest(body).into();
            let hex = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            (hash, hex)
        }
        DedupeFrom::Recipe | DedupeFrom::Places(_) => {
            let key = proof.dedupe_key.as_ref()?;
            (key.hash(), key.text().to_owned())
        }
    };
    let window = i64::try_from(source.dedupe.window.as_micros()).unwrap_or(i64::MAX).max(1);
    let number = now.as_micros().div_euclid(window);
    let key = |number: i64| digest(source.id, window, number, &hash);
    let since = Sequence::first_at(now.minus(source.dedupe.window));
    let left = window - now.as_micros().rem_euclid(window);
    let next = (left < NEAR_MICROS).then(|| key(number + 1));
    Some(Keys { own: key(number), earlier: Earlier { key: key(number - 1), since, next }, text })
}

/// All parts are of fixed length, so none can run into the next.
fn digest(source: SourceId, window: i64, number: i64, key: &[u8; 32]) -> DedupeKey {
    let mut hash = Sha256::new();
    hash.update(b"bellwire received");
    hash.update(source.0.as_bytes());
    hash.update(window.to_le_bytes());
    hash.update(number.to_le_bytes());
    hash.update(key);
    let digest: [u8; 32] = hash.finalize().into();
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    DedupeKey(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::{Dedupe, Ksuid, Recipe};
    use std::time::Duration;

    fn source(id: u8, key: DedupeFrom) -> Source {
        Source {
            id: SourceId(Ksuid::from_bytes([id; 20])),
            dedupe: Dedupe { key, window: Duration::from_secs(600), ..Dedupe::default() },
            ..crate::program::source(Recipe::Preset("github".into()))
        }
    }

    fn at(seconds: i64, id: u8, body: &[u8]) -> Keys {
        let proof = Proof { dedupe_key: None, event_type: None, signed_at_seconds: None };
        let now = Timestamp::from_seconds(1_800_000_000 + seconds);
        keys(&source(id, DedupeFrom::Body), &proof, body, now).expect("keys")
    }

    #[test]
    fn a_request_finds_those_of_one_window_ago_and_of_a_moment_later() {
        // The window ends at 600.
        let first = at(100, 1, b"a");
        assert_eq!(at(599, 1, b"a").own, first.own);
        let later = at(650, 1, b"a");
        assert_eq!((later.own == first.own, later.earlier.key), (false, first.own));
        assert_eq!(later.earlier.since.time(), Timestamp::from_seconds(1_800_000_050));
        // Across the edge each finds the other, whichever comes first.
        let (before, after) = (at(599, 1, b"a"), at(600, 1, b"a"));
        assert_eq!((before.earlier.next, after.earlier.key), (Some(after.own), before.own));
        assert_eq!(at(500, 1, b"a").earlier.next, None, "far from the end there is one look less");
        assert!(first.own != at(100, 2, b"a").own && first.own != at(100, 1, b"b").own);
    }

    #[test]
    fn without_a_key_a_request_is_like_no_other() {
        let proof = Proof { dedupe_key: None, event_type: None, signed_at_seconds: None };
        for from in [DedupeFrom::Recipe, DedupeFrom::Off, DedupeFrom::Places(vec!["json:id".into()])] {
            assert_eq!(keys(&source(1, from), &proof, b"a", Timestamp::EPOCH), None);
        }
    }
}
