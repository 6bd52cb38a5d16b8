//! Keys of what was offered lately: what makes a message unique while it is on its way, and for a while after.

use super::{BatchNumber, Draft, Earlier, Intake, Offer, OfferError, Remembered};
use crate::planted::Bug;
use bellwire_model::DedupeKey;

impl Intake {
    pub(super) fn check_keys(&self, draft: &Draft, looked: BatchNumber) -> Result<Option<Offer>, OfferError> {
        if let Some((key, digest)) = draft.idempotency
            && let Some(seen) = self.keys.get(&key)
        {
            let same = seen.digest == Some(digest) || self.planted.has(Bug::DigestIgnored);
            let offer = Offer::Same { message: seen.message, batch: seen.batch };
            return if same { Ok(Some(offer)) } else { Err(OfferError::KeyReused { batch: seen.batch }) };
        }
        let earlier = draft.earlier.filter(|_| !self.planted.has(Bug::EarlierIgnored));
        let earlier = earlier.and_then(|Earlier { key, since, next }| {
            let before = self.keys.get(&key).filter(|seen| seen.message >= since);
            before.or_else(|| self.keys.get(&next?))
        });
        if let Some(seen) = draft.event.and_then(|key| self.keys.get(&key)).or(earlier) {
            if draft.received.is_some() {
                return Ok(Some(Offer::Same { message: seen.message, batch: seen.batch }));
            }
            return Err(OfferError::EventIdTaken { batch: seen.batch });
        }
        let has_keys = draft.idempotency.is_some() || draft.event.is_some();
        if has_keys && looked < self.forgotten_through { Err(OfferError::LookAgain) } else { Ok(None) }
    }

    pub(super) fn remember(&mut self, key: DedupeKey, seen: Remembered) {
        self.keys.insert(key, seen);
        self.keys_by_batch.push_back((seen.batch, key));
    }

    pub(super) fn forget_old_keys(&mut self) {
        let planted = self.planted.has(Bug::KeyForgotten);
        let kept = if planted { 0 } else { self.keys_kept };
        while self.keys_by_batch.len() > kept {
            let Some((batch, key)) = self.keys_by_batch.front().copied().filter(|(b, _)| *b <= self.durable) else {
                return;
            };
            self.keys_by_batch.pop_front();
            self.keys.remove(&key);
            if !planted {
                self.forgotten_through = batch;
            }
        }
    }
}
