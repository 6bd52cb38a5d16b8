//! Producers and senders at the doors: a key is looked up, a message offered, and whoever gets no answer comes again.

use super::plan::received_keys;
use super::{Event, MS, SECOND, World};
use crate::bug::{Planted, PumpBug};
use crate::node::{Request, Waiter};
use crate::truth::{Checked, Promise, broken};
use bellwire_engine::{Earlier, Offer, OfferError};
use bellwire_store::Store;
use rand::Rng;

impl World {
    pub(super) fn produce(&mut self, mut request: Request) {
        if let Some(keys) = &mut request.received {
            *keys = received_keys(request.application, keys.number, self.node_now().engine);
        }
        let generation = self.generation;
        if self.node.is_none() {
            self.try_again(request);
            return;
        }
        let wait = self.doors.random_range(0..MS);
        self.after(wait, Event::Look(generation, request));
    }

    /// The producer got no answer, or was told to come again.
    pub(super) fn try_again(&mut self, mut request: Request) {
        request.tries += 1;
        if request.tries < 4 && !self.healed && (request.tries == 1 || self.doors.random_ratio(1, 2)) {
            let wait = self.doors.random_range(50 * MS..2 * SECOND);
            self.after(wait, Event::Produce(request));
        }
    }

    pub(super) fn look(&mut self, generation: u64, request: Request) -> Checked {
        let Some(looked) = self.node.as_ref().filter(|_| self.generation == generation).map(|n| n.intake.looked())
        else {
            self.try_again(request);
            return Ok(());
        };
        if let Some((key, digest)) = request.idempotency
            && let Ok(Some(entry)) = self.store.find_key(key)
        {
            let same = entry.digest == digest;
            self.note("key found", [entry.message.as_u64(), u64::from(same), 0]);
            return if same {
                self.truth.answered(&self.store, entry.message, request.idempotency, &request.payload)
            } else {
                Ok(())
            };
        }
        if let Some(keys) = request.received {
            let find = |key| self.store.find_key(key).ok().flatten();
            let Earlier { key, since, next } = keys.earlier;
            let known = find(keys.own)
                .or_else(|| find(key).filter(|entry| entry.message >= since))
                .or_else(|| next.and_then(find));
            if let Some(entry) = known {
                self.note("received before", [entry.message.as_u64(), 0, 0]);
                return self.truth.known(&self.store, entry.message, &request);
            }
        }
        if let Some(key) = request.event
            && let Ok(Some(entry)) = self.store.find_key(key)
        {
            self.note("event id found", [entry.message.as_u64(), 0, 0]);
            return Ok(());
        }
        let slow = if self.doors.random_ratio(1, 10) { 20 * MS } else { MS };
        let wait = self.doors.random_range(0..slow);
        self.after(wait, Event::Offer(generation, request, looked));
        Ok(())
    }

    pub(super) fn offer(&mut self, generation: u64, request: Request, looked: u64) -> Checked {
        if !self.alive(generation) {
            self.try_again(request);
            return Ok(());
        }
        let now = self.node_now().engine;
        let Some(node) = &mut self.node else { return Ok(()) };
        let Some(draft) = node.draft(&request, now) else { return Ok(()) };
        let answer = node.intake.offer(now, draft, looked);
        let (queued, bytes) = node.intake.queued();
        let code = match &answer {
            Ok(Offer::Queued { message, batch }) => {
                let message = message.sequence();
                node.waiters.entry(*batch).or_default().push(Waiter::Message(message, request));
                0
            }
            Ok(Offer::Same { message, batch }) => {
                let sealed_or_later = *batch > node.intake.looked();
                let waiter = Waiter::Message(*message, request);
                if sealed_or_later {
                    node.waiters.entry(*batch).or_default().push(waiter);
                } else {
                    node.answer_now.push(waiter);
                }
                1
            }
            Err(OfferError::LookAgain) => {
                self.after(0, Event::Look(generation, request));
                2
            }
            Err(OfferError::Busy | OfferError::Closed) => {
                self.try_again(request);
                3
            }
            Err(OfferError::KeyReused { batch } | OfferError::EventIdTaken { batch }) => {
                if self.bug == Some(Planted::Pump(PumpBug::RefusedEarly)) {
                    self.check_refused(&request)?;
                } else if *batch > node.intake.looked() {
                    node.waiters.entry(*batch).or_default().push(Waiter::Refused(request));
                } else {
                    node.answer_now.push(Waiter::Refused(request));
                }
                4
            }
        };
        self.note("offer", [code, queued as u64, bytes as u64]);
        self.schedule_seal();
        Ok(())
    }

    /// Whoever is told that a key is taken finds the message that has it.
    pub(super) fn check_refused(&self, request: &Request) -> Checked {
        let mut keys = request.idempotency.iter().map(|(key, _)| *key).chain(request.event);
        if keys.any(|key| matches!(self.store.find_key(key), Ok(Some(_)))) {
            return Ok(());
        }
        broken(Promise::AcceptedIsDurable, "a key was refused as taken, and nothing durable has it")
    }
}
