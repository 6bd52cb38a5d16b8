//! Starting an exchange. What happens on the wire is not ours to know; it comes back as [`crate::Ended`], whatever happens.

use crate::engine::{Effect, Engine, Flight, Start, Token};
use crate::held::Phase;
use crate::lane::{LaneIndex, Queued};
use crate::pace::SLOW_AFTER;
use crate::schedule::expired;
use bellwire_model::{Delivery, Timestamp};
use std::sync::Arc;

impl Engine {
    /// Starts the lane's next delivery; answers whether one started (it may have ended as expired instead).
    pub(crate) fn start(&mut self, index: LaneIndex, effects: &mut Vec<Effect>) -> bool {
        let now = self.now.engine;
        let Some(queued) = self.dequeue(index) else { return false };
        if expired(&queued.message, now) {
            self.expire(index, &queued, effects);
            return false;
        }
        let Queued { message, number, trigger, .. } = queued;
        self.take_place(index);
        let lane = &mut self.lanes[index];
        let delivery = Delivery { endpoint: lane.key, message: message.sequence() };
        let application = &mut self.applications[lane.application];
        for throttle in [&mut lane.throttle, &mut application.throttle].into_iter().flatten() {
            throttle.start(now);
        }
        let token = Token(self.next_token);
        self.next_token += 1;
        let endpoint = Arc::clone(&lane.endpoint);
        self.turn(delivery, Phase::Flying);
        if let Some(held) = self.held.get_mut(&delivery) {
            held.number = number;
        }
        let flight = Flight {
            lane: index,
            message: Arc::clone(&message),
            number,
            trigger,
            started: now,
            slow: false,
            rests: false,
        };
        self.flights.insert(token, flight);
        self.young.push_back((now, token));
        effects.push(Effect::Start(Start { token, endpoint, message, number, trigger }));
        true
    }

    /// An attempt of the lane is in flight: it counts against the lane's limit, and against what its application and all others share.
    pub(crate) fn take_place(&mut self, index: LaneIndex) {
        let lane = &mut self.lanes[index];
        lane.in_flight += 1;
        self.flying[lane.class as usize] += 1;
        self.applications[lane.application].flying[lane.class as usize] += 1;
    }

    /// It is not any more.
    pub(crate) fn leave_place(&mut self, index: LaneIndex) {
        let lane = &mut self.lanes[index];
        lane.in_flight -= 1;
        self.flying[lane.class as usize] -= 1;
        self.applications[lane.application].flying[lane.class as usize] -= 1;
    }

    /// Notes lanes whose attempts have been out for long.
    pub(crate) fn age_flights(&mut self) {
        while let Some((started, token)) = self.young.front().copied() {
            match self.flights.get_mut(&token) {
                Some(_) if started.plus(SLOW_AFTER) > self.now.engine => return,
                // It may have rested meanwhile.
                Some(flight) if !flight.rests && flight.started == started => {
                    flight.slow = true;
                    let lane = flight.lane;
                    self.lanes[lane].slow_flights += 1;
                    self.flying_long += 1;
                    self.mark(lane);
                }
                _ => {}
            }
            self.young.pop_front();
        }
    }

    /// When the next attempt has been out for long.
    pub(crate) fn next_aging(&self) -> Option<Timestamp> {
        self.young.front().map(|(started, _)| started.plus(SLOW_AFTER))
    }
}
