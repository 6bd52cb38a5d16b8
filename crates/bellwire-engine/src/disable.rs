//! Endpoints and applications that come, change, rest and go. Effective in memory with the step; durable with the record or the change.

use crate::engine::{Application as Entry, Effect, Engine, Undurable};
use crate::held::Phase;
use crate::lane::{Lane, LaneIndex, Room, without_user_info};
use crate::notify::Notice;
use crate::pace::Pace;
use crate::planted::Bug;
use crate::throttle::Throttle;
use bellwire_model::{
    Application, ApplicationKey, Delivery, DisabledBy, EndReason, Endpoint, EndpointKey, Health, Timestamp,
};
use std::num::NonZeroU16;
use std::sync::Arc;

impl Engine {
    /// An application was created or changed.
    pub(crate) fn put_application(&mut self, application: &Application) {
        let index = self.application_index(application.key);
        let rate = self.planted_rate(application.throttle_rate);
        self.applications[index].organisation = Some(application.organisation.clone());
        set_throttle(&mut self.applications[index].throttle, rate);
    }

    /// An endpoint was created or changed.
    pub(crate) fn put_endpoint(&mut self, mut endpoint: Arc<Endpoint>) {
        let rate = self.planted_rate(endpoint.limits.throttle_rate);
        let Some(index) = self.lane_of.get(&endpoint.key).copied() else {
            return self.open_lane(endpoint);
        };
        let concurrency_max = self.settings.lane_concurrency_max;
        let lane = &mut self.lanes[index];
        if endpoint.disabled != lane.endpoint.disabled {
            Arc::make_mut(&mut endpoint).keep_state(&lane.endpoint);
        }
        let old = std::mem::replace(&mut lane.endpoint, endpoint);
        let was_fifo = old.limits.fifo;
        let new = &lane.endpoint;
        if new.url != old.url {
            lane.url = without_user_info(&new.url);
            lane.pace = Pace::new(concurrency_max);
        }
        let fifo = new.limits.fifo;
        set_throttle(&mut lane.throttle, rate);
        if fifo != was_fifo {
            self.change_order(index);
        }
        self.mark(index);
    }

    /// An endpoint was enabled or disabled by its owner.
    pub(crate) fn switch(&mut self, endpoint: EndpointKey, enabled: bool, effects: &mut Vec<Effect>) {
        let Some(index) = self.lane_of.get(&endpoint).copied() else { return };
        let lane = &mut self.lanes[index];
        Arc::make_mut(&mut lane.endpoint).switch(enabled);
        if enabled {
            // Its owner says that it works: the window of failures begins anew. What is on its way to the store says otherwise.
            if lane.health.written {
                let cleared = Undurable::Health { endpoint, failing_since: None, disable: None };
                effects.push(Effect::Write(cleared));
            }
            lane.health = Health::default();
            lane.pace = Pace::new(self.settings.lane_concurrency_max);
        }
        self.mark(index);
    }

    fn open_lane(&mut self, endpoint: Arc<Endpoint>) {
        let key = endpoint.key;
        let application = self.application_index(endpoint.application);
        let rate = self.planted_rate(endpoint.limits.throttle_rate);
        let mut lane = Lane::new(application, endpoint, self.settings.lane_concurrency_max);
        lane.throttle = rate.map(|rate| Throttle::new(rate.get()));
        if lane.health.failing_since.is_some() {
            lane.pace.distrust();
        }
        lane.class = lane.class_now();
        let index = match self.free_lanes.pop() {
            Some(index) => {
                self.lanes[index] = lane;
                index
            }
            None => {
                self.lanes.push(lane);
                self.lanes.len() - 1
            }
        };
        self.lane_of.insert(key, index);
        self.applications[application].lanes.push(index);
        self.applications[application].lanes_left += 1;
    }

    /// The lane became FIFO, or is no longer: the order of its queue and what it knows of the waiting room mean nothing now.
    fn change_order(&mut self, index: LaneIndex) {
        let now = self.now.engine;
        let lane = &mut self.lanes[index];
        if let Some(ask) = &mut lane.ask {
            // The answer is in the other order.
            ask.arrived = Some((now, bellwire_model::Sequence::ZERO));
            ask.limit = 0;
            ask.peek = false;
        }
        lane.room = Room::Rows { due: now, head: None };
        self.reordered.push(index);
        if !lane.fifo() {
            return;
        }
        for (delivery, held) in self.held.iter_mut().filter(|(_, held)| held.lane == index) {
            if held.phase == Phase::Parking {
                self.lanes[index].parked.insert(delivery.message);
            }
            if held.phase != Phase::Queued && !std::mem::replace(&mut held.barrier, true) {
                self.lanes[index].barrier += 1;
            }
        }
    }

    /// We disable an endpoint; the record is on its way.
    pub(crate) fn disable(&mut self, index: LaneIndex) {
        self.lanes[index].disabling = true;
        self.mark(index);
    }

    /// That an endpoint was disabled by us is durable.
    pub(crate) fn disabled(&mut self, endpoint: EndpointKey, by: DisabledBy, effects: &mut Vec<Effect>) {
        effects.push(Effect::Notice(Notice::EndpointDisabled { endpoint, by }));
        let Some(index) = self.lane_of.get(&endpoint).copied() else { return };
        let lane = &mut self.lanes[index];
        lane.disabling = false;
        Arc::make_mut(&mut lane.endpoint).disabled = Some(by);
        self.mark(index);
    }

    /// An endpoint was deleted. Rows in the waiting room are ended by the store; what has none is ended here; what is in flight ends
    /// with its outcome.
    pub(crate) fn endpoint_gone(&mut self, endpoint: EndpointKey, effects: &mut Vec<Effect>) {
        if self.planted.has(Bug::DeletedIgnored) {
            return;
        }
        let Some(index) = self.lane_of.remove(&endpoint) else { return };
        self.take_ask(index);
        while let Some(queued) = self.dequeue(index) {
            let delivery = Delivery { endpoint, message: queued.message.sequence() };
            if self.held.get(&delivery).is_some_and(|held| held.row) {
                self.let_go(delivery);
            } else {
                self.end(index, delivery, queued.trigger, EndReason::EndpointDeleted, effects);
            }
        }
        let lane = &mut self.lanes[index];
        lane.gone = true;
        lane.room = Room::Empty;
        let application = lane.application;
        self.applications[application].lanes.retain(|other| *other != index);
        self.mark(index);
    }

    /// An application was deleted with its endpoints.
    pub(crate) fn application_gone(&mut self, application: ApplicationKey, effects: &mut Vec<Effect>) {
        let Some(index) = self.application_of.remove(&application) else { return };
        let keys: Vec<_> = self.applications[index].lanes.iter().map(|lane| self.lanes[*lane].key).collect();
        for key in keys {
            self.endpoint_gone(key, effects);
        }
        self.applications[index].gone = true;
        self.forget_application(index);
    }

    /// An application that is gone and has no lane any more makes place for another.
    pub(crate) fn forget_application(&mut self, index: usize) {
        let entry = &self.applications[index];
        if entry.gone && entry.lanes_left == 0 {
            // What still names its place, in a ring or as an alarm, finds the next one there and asks it in vain.
            self.applications[index] = Entry::default();
            self.free_applications.push(index);
        }
    }

    /// Nothing may start for a second where a throttle is set: what was started before this start is not known.
    pub(crate) fn exhaust_throttles(&mut self) {
        let now: Timestamp = self.now.engine;
        let lanes = self.lanes.iter_mut().filter_map(|lane| lane.throttle.as_mut());
        let applications = self.applications.iter_mut().filter_map(|a| a.throttle.as_mut());
        lanes.chain(applications).for_each(|throttle| throttle.exhaust(now));
    }

    fn application_index(&mut self, key: ApplicationKey) -> usize {
        if let Some(index) = self.application_of.get(&key) {
            return *index;
        }
        let index = self.free_applications.pop().unwrap_or_else(|| {
            self.applications.push(Entry::default());
            self.applications.len() - 1
        });
        self.application_of.insert(key, index);
        index
    }

    fn planted_rate(&self, rate: Option<NonZeroU16>) -> Option<NonZeroU16> {
        if self.planted.has(Bug::ThrottleDoubled) { rate.map(|r| r.saturating_add(r.get())) } else { rate }
    }
}

fn set_throttle(throttle: &mut Option<Box<Throttle>>, rate: Option<NonZeroU16>) {
    match (throttle.as_mut(), rate) {
        (Some(throttle), Some(rate)) => throttle.rate = u32::from(rate.get()),
        (None, Some(rate)) => *throttle = Some(Throttle::new(rate.get())),
        (_, None) => *throttle = None,
    }
}
