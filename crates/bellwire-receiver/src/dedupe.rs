//! What makes two requests of a source the same: a key with the number of its window in it.
//!
//! So a key never changes hands, the store knows nothing of windows, and a request is looked for in its window and in the one
//! before, there from exactly one window ago on.

use bellwire_engine::Earlier;
use bellwire_model::{DedupeFrom, DedupeKey, Sequence, Source, SourceId, Timestamp};
use bellwire_signature::source::Proof;
use sha2::{Digest, Sha256};

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
    Some(Keys { own: key(number), earlier: Earlier { key: key(number - 1), since }, text })
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
