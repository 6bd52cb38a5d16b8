//! What follows from an attempt, and what follows when that is durable.
//!
//! *Decide, then act*: the outcome, what follows and what was found out about the endpoint go to the intake in one piece. The slot is free at
//! once; the delivery stays in hand until the record is durable.

use crate::accept::CommittedShard;
use crate::engine::{Effect, Ended, Engine, Undurable};
use crate::held::Phase;
use crate::lane::{LaneIndex, Queued, Room, without_user_info};
use crate::notify::Notice;
use crate::operational::{Occasion, What};
use crate::pace::Turn;
use crate::planted::Bug;
use crate::rest;
use bellwire_model::{
    AfterAttempt, ApplicationKey, Delivery, EndReason, EndpointKey, Sequence, Timestamp, Trigger, Waiting,
    after_attempt, operational_after,
};
use std::sync::Arc;

impl Engine {
    /// An exchange is over.
    pub(crate) fn ended(&mut self, ended: Ended, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flights.remove(&ended.token) else { return };
        let now = self.now.engine;
        let mut outcome = ended.outcome;
        let turn = if flight.rests {
            if !self.planted.has(Bug::RestLeaked) {
                rest::forget(&mut self.resting, &mut self.lanes[flight.lane], &flight);
            }
            // It tells of another's exchange, which has told itself.
            None
        } else {
            if !(self.planted.has(Bug::SlotLeaked) && outcome.is_success()) {
                self.leave_place(flight.lane);
            }
            self.strain.ended(flight.started, now, outcome.duration);
            let lane = &mut self.lanes[flight.lane];
            let full = lane.in_flight + 1 >= lane.pace.limit();
            lane.pace.ended(&outcome, flight.started, now, full, self.breaker)
        };
        let lane = &mut self.lanes[flight.lane];
        let application = &mut self.applications[lane.application];
        lane.slow_flights -= usize::from(flight.slow);
        self.flying_long -= usize::from(flight.slow);
        let health = lane.health.step(&outcome, now, self.settings.disable_after);
        lane.health = health.health;
        let paused = lane.paused();
        let mut decided_at = self.now;
        if self.planted.has(Bug::WallClockDue) {
            decided_at.engine = self.now.wall;
        }
        let trigger = if self.planted.has(Bug::ManualRetried) { Trigger::Scheduled } else { flight.trigger };
        let of_type = application.organisation.as_ref();
        let of_type = of_type.and_then(|own| self.schedules.of(own, &flight.message.event_type));
        let schedule = lane.endpoint.retry_schedule.as_ref().or(of_type).unwrap_or(&self.settings.retry_schedule);
        let mut after = after_attempt(&outcome, flight.number, trigger, schedule, decided_at, &mut self.rng);
        // Nobody will come back for it.
        if lane.gone && matches!(after, AfterAttempt::Waiting { .. }) {
            after = AfterAttempt::Ended(EndReason::EndpointDeleted);
        }
        let delivery = Delivery { endpoint: lane.key, message: flight.message.sequence() };
        let endpoint = lane.key;
        if self.planted.has(Bug::ExhaustedForgotten) && after == AfterAttempt::Ended(EndReason::Exhausted) {
            self.settle_place(delivery);
            self.let_go(delivery);
            return;
        }
        let told = operational_after(flight.number, trigger, after).map(|kind| {
            let what = What::attempt(kind, &flight.message, &outcome);
            Occasion { application: lane.application_key, endpoint: Arc::clone(&lane.endpoint), what }
        });
        effects.push(Effect::Write(Undurable::Attempt {
            delivery,
            application: lane.application_key,
            number: flight.number,
            trigger: flight.trigger,
            url: outcome.url.take().map_or_else(|| Arc::clone(&lane.url), |url| without_user_info(&url)),
            outcome: Some(outcome),
            after,
        }));
        effects.extend(told.map(|told| Effect::Occasion(Box::new(told))));
        self.settle_place(delivery);
        self.unrecorded += 1;
        match after {
            AfterAttempt::Waiting { due } => {
                self.turn(delivery, Phase::Returning);
                self.note_row(delivery);
                self.hold_back(flight.lane, delivery.message, due, effects);
            }
            _ => self.turn(delivery, Phase::Ending),
        }
        // What is disabled already, by whomever, is not disabled again: its owner may be about to enable it.
        let disable = health.disable.filter(|_| !paused);
        if health.write || disable.is_some() {
            let failing_since = health.health.failing_since;
            effects.push(Effect::Write(Undurable::Health { endpoint, failing_since, disable }));
        }
        if disable.is_some() {
            let lane = &self.lanes[flight.lane];
            effects.push(Effect::Occasion(Box::new(Occasion {
                application: lane.application_key,
                endpoint: Arc::clone(&lane.endpoint),
                what: What::Disabled { failing_since: health.health.failing_since },
            })));
            self.disable(flight.lane);
        }
        match turn {
            Some(Turn::Opened) => effects.push(Effect::Notice(Notice::BreakerOpened { endpoint })),
            Some(Turn::Closed) => effects.push(Effect::Notice(Notice::BreakerClosed { endpoint })),
            None => {}
        }
        self.mark(flight.lane);
    }

    /// The head of a FIFO lane has to wait, and everything behind it too: it waits in the waiting room, not in memory.
    fn hold_back(&mut self, index: LaneIndex, head: Sequence, due: Timestamp, effects: &mut Vec<Effect>) {
        let lane = &mut self.lanes[index];
        if !lane.fifo() || lane.gone || self.planted.has(Bug::FifoOvertakes) {
            return;
        }
        if lane.barrier == 0 {
            lane.room = Room::Rows { due, head: Some(head) };
        }
        self.shed(index, effects);
    }

    /// Ends a delivery in hand whose message may no longer be sent.
    pub(crate) fn expire(&mut self, index: LaneIndex, queued: &Queued, effects: &mut Vec<Effect>) {
        let delivery = Delivery { endpoint: self.lanes[index].key, message: queued.message.sequence() };
        self.end(index, delivery, queued.trigger, EndReason::Expired, effects);
    }

    /// Ends a delivery in hand without an exchange.
    pub(crate) fn end(
        &mut self,
        index: LaneIndex,
        delivery: Delivery,
        trigger: Trigger,
        reason: EndReason,
        effects: &mut Vec<Effect>,
    ) {
        let lane = &self.lanes[index];
        let (application, url) = (lane.application_key, Arc::clone(&lane.url));
        self.settle_place(delivery);
        self.turn(delivery, Phase::Ending);
        self.unrecorded += 1;
        effects.push(end_record(delivery, application, trigger, url, reason));
        self.mark(index);
    }

    /// Ends a delivery that never was in hand, because its endpoint is gone.
    pub(crate) fn end_orphan(
        &self,
        endpoint: EndpointKey,
        message: Sequence,
        application: ApplicationKey,
        effects: &mut Vec<Effect>,
    ) {
        let delivery = Delivery { endpoint, message };
        effects.push(end_record(delivery, application, Trigger::Scheduled, "".into(), EndReason::EndpointDeleted));
    }

    /// A commit is durable: what it recorded is out of hand, what it put into the waiting room can be leased, what it
    /// accepted can start.
    pub(crate) fn committed(&mut self, committed: CommittedShard, effects: &mut Vec<Effect>) {
        for (delivery, after) in committed.recorded {
            self.recorded(delivery, after, effects);
        }
        for waiting in committed.waits {
            self.waits(&waiting);
        }
        for (endpoint, by) in committed.disabled {
            self.disabled(endpoint, by, effects);
        }
        self.take_up(committed.fresh, false, effects);
        self.through = self.through.max(committed.through);
    }

    /// The waiting room of an endpoint has changed behind the engine's back.
    pub(crate) fn look_again(&mut self, endpoint: EndpointKey) {
        if let Some(index) = self.lane_of.get(&endpoint).copied() {
            self.lanes[index].arrived(Sequence::ZERO, self.now.engine);
            self.lanes[index].pace.probe(self.now.engine);
            self.mark(index);
        }
    }

    fn recorded(&mut self, delivery: Delivery, after: AfterAttempt, effects: &mut Vec<Effect>) {
        let Some(held) = self.held.get(&delivery).copied() else {
            if let AfterAttempt::Ended(reason) = after {
                let (message, endpoint) = (None, delivery.endpoint);
                effects.push(Effect::Notice(Notice::DeliveryEnded { message, endpoint, reason, attempts: 0 }));
            }
            return;
        };
        if !matches!(held.phase, Phase::Returning | Phase::Ending) {
            return;
        }
        self.unrecorded = self.unrecorded.saturating_sub(1);
        self.let_go(delivery);
        let (endpoint, attempts) = (delivery.endpoint, held.number);
        let notice = match after {
            AfterAttempt::Ended(reason) => {
                Some(Notice::DeliveryEnded { message: Some(held.id), endpoint, reason, attempts })
            }
            AfterAttempt::Delivered if attempts > 1 => {
                Some(Notice::DeliveryRecovered { message: held.id, endpoint, attempts })
            }
            _ => None,
        };
        effects.extend(notice.map(Effect::Notice));
        let lane = &mut self.lanes[held.lane];
        if let Some(ask) = &mut lane.ask {
            ask.settled.insert(delivery.message);
        }
        if let AfterAttempt::Waiting { due } = after {
            lane.arrived(delivery.message, due);
        }
    }

    fn waits(&mut self, waiting: &Waiting) {
        let Waiting { delivery, due, trigger, .. } = *waiting;
        match self.held.get(&delivery).map(|held| (held.phase, held.lane)) {
            Some((Phase::Parking, index)) => {
                self.let_go(delivery);
                self.lanes[index].arrived(delivery.message, due);
            }
            // It is in hand: a slow one that was settled, or somebody is in a hurry. Its next record moves or removes the row.
            Some(_) => self.note_row(delivery),
            None => {
                let Some(index) = self.lane_of.get(&delivery.endpoint).copied() else { return };
                self.lanes[index].arrived(delivery.message, due);
                // Not what we put there ourselves, or an endpoint that is down would be tried again and again.
                if trigger == Trigger::Manual {
                    self.lanes[index].pace.probe(self.now.engine);
                }
                self.mark(index);
            }
        }
    }
}

fn end_record(
    delivery: Delivery,
    application: ApplicationKey,
    trigger: Trigger,
    url: Arc<str>,
    reason: EndReason,
) -> Effect {
    let after = AfterAttempt::Ended(reason);
    Effect::Write(Undurable::Attempt { delivery, application, number: 0, trigger, url, outcome: None, after })
}
