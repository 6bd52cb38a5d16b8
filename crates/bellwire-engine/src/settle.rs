//! Fresh messages that are not settled: some delivery has neither ended nor a row in the waiting room. The oldest is the watermark.
//!
//! A delivery that is still fresh after a while (it hangs, or stands in a long queue) gets a row, so that the watermark moves on and a
//! restart has little to read. It stays in memory and in flight all the same.

use crate::engine::{Effect, Engine, Fresh, Undurable};
use crate::planted::Bug;
use bellwire_model::{Delivery, FanOut, Sequence, Timestamp, Trigger, Waiting};
use std::collections::VecDeque;

/// In the order of acceptance.
#[derive(Debug, Default)]
pub(crate) struct FreshLog {
    messages: VecDeque<FreshMessage>,
    /// The place of the first.
    first: u64,
}

#[derive(Debug)]
struct FreshMessage {
    sequence: Sequence,
    fan_out: FanOut,
    /// Deliveries that are not settled.
    left: usize,
    since: Timestamp,
}

impl FreshLog {
    /// The place that the next message will have.
    fn next_place(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    /// One delivery of the message at `place` is settled.
    fn settle(&mut self, place: u64) {
        let at = place.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(message) = at.and_then(|at| self.messages.get_mut(at)) {
            message.left -= 1;
        }
        while self.messages.front().is_some_and(|m| m.left == 0) {
            self.messages.pop_front();
            self.first += 1;
        }
    }

    /// The oldest that is not settled.
    pub(crate) fn oldest(&self) -> Option<Sequence> {
        self.messages.front().map(|m| m.sequence)
    }

    /// Since when the oldest is not settled.
    pub(crate) fn since(&self) -> Option<Timestamp> {
        self.messages.front().map(|m| m.since)
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }
}

impl Engine {
    /// Takes messages up whose deliveries are ours.
    pub(crate) fn take_up(&mut self, fresh: Vec<Fresh>, recovering: bool, effects: &mut Vec<Effect>) {
        let since = self.now.engine;
        for Fresh { message, fan_out } in fresh {
            let place = self.fresh.next_place();
            let sequence = message.sequence();
            let (mut left, sharers) = (0, fan_out.len());
            for endpoint in &fan_out {
                match self.lane_of.get(endpoint).copied() {
                    Some(lane) => {
                        left += usize::from(self.take_fresh(lane, &message, place, sharers, recovering, effects));
                    }
                    None => self.end_orphan(*endpoint, sequence, message.application, effects),
                }
            }
            if left > 0 {
                self.fresh.messages.push_back(FreshMessage { sequence, fan_out, left, since });
            }
        }
    }

    /// A delivery in hand has ended or has got a row.
    pub(crate) fn settle_place(&mut self, delivery: Delivery) {
        if let Some(place) = self.held.get_mut(&delivery).and_then(|held| held.fresh.take()) {
            self.fresh.settle(place);
        }
    }

    /// Gives rows to what has been fresh for too long.
    pub(crate) fn settle_stragglers(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now.engine;
        if self.planted.has(Bug::NeverSettled) {
            return;
        }
        while self.fresh.since().is_some_and(|since| since.plus(self.settings.settle_after) <= now) {
            let Some(message) = self.fresh.messages.front() else { return };
            let (sequence, fan_out, place) = (message.sequence, message.fan_out.clone(), self.fresh.first);
            for endpoint in fan_out {
                let delivery = Delivery { endpoint, message: sequence };
                if self.held.get(&delivery).is_none_or(|held| held.fresh != Some(place)) {
                    continue;
                }
                // Due at once: nobody leases it while it is in hand, and after a crash it must not lose time.
                let waiting = Waiting { delivery, due: now, next: 1, trigger: Trigger::Scheduled };
                effects.push(Effect::Write(Undurable::Wait(waiting)));
                self.note_row(delivery);
                self.settle_place(delivery);
            }
            if self.fresh.first == place {
                // Nothing of it is in hand any more: it should have been settled, and must not hold up the rest.
                debug_assert!(false, "an unsettled message without deliveries in hand");
                self.fresh.messages.pop_front();
                self.fresh.first += 1;
            }
        }
    }
}
