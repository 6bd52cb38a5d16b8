//! The pump: inputs on their way to engines, and what their effects make happen.

use super::{Event, MS, SECOND, Told, World};
use crate::bug::PumpBug;
use crate::receiver::Class;
use crate::truth::{Checked, Promise, broken};
use bellwire_engine::{Effect, Ended, Input, Operational, Start, Token, Undurable};
use bellwire_model::{Delivery, EndpointKey, Message, Outcome, Timestamp, Trigger};
use bellwire_store::Store;
use rand::Rng;
use std::sync::Arc;

/// A healthy endpoint's delivery starts within this after its message was durable.
const LATENCY_MAX: i64 = 250 * MS;
/// Likewise with sixteen slots in all, most of which hang: until an attempt is known to hang it counts as a quick one.
const LATENCY_MAX_SMALL: i64 = 1_250 * MS;

impl World {
    /// Puts an input on its way to an engine; inputs of a shard keep their order.
    pub(super) fn inbox(&mut self, shard: usize, input: Input, answers: Option<Box<Told>>) {
        let generation = self.generation;
        let late = self.timing.random_range(0..2 * MS);
        let Some(node) = &mut self.node else { return };
        let at = (self.now + late).max(node.inbox_at[shard]);
        node.inbox_at[shard] = at;
        let wait = at - self.now;
        self.after(wait, Event::Shard { generation, shard, input, answers });
    }

    pub(super) fn tell(&mut self, generation: u64, shard: usize, input: Input, answers: Option<Box<Told>>) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        if let (Some(told), Input::Endpoint(_)) = (&answers, &input) {
            // From this step on the new rate counts.
            let configured = self.truth.configured.entry(told.endpoint).or_default();
            if configured.throttle != told.configured.throttle {
                configured.throttle = told.configured.throttle;
                configured.at = self.now;
                self.truth.forget_starts(told.endpoint);
            }
        }
        if let Input::Cancelled { endpoint, before } = input {
            self.truth.withdrawn(endpoint, before);
        }
        self.step(shard, input)?;
        if let Some(told) = answers {
            self.answer_change(&told);
        }
        Ok(())
    }

    pub(super) fn tick(&mut self, generation: u64, shard: usize, at: i64) -> Checked {
        let planned = self.node.as_ref().is_some_and(|node| node.tick_at.get(shard) == Some(&Some(at)));
        if !self.alive(generation) || !planned {
            return Ok(());
        }
        if let Some(node) = &mut self.node {
            node.tick_at[shard] = None;
        }
        self.step(shard, Input::Tick)
    }

    pub(super) fn step(&mut self, shard: usize, input: Input) -> Checked {
        let now = self.node_now();
        let Some(node) = &mut self.node else { return Ok(()) };
        let mut effects = std::mem::take(&mut node.effects);
        node.engines[shard].step(now, input, &mut effects);
        let watermark = node.engines[shard].watermark();
        let mut written: Vec<Undurable> = Vec::new();
        let mut starts = Vec::new();
        let mut reads = Vec::new();
        for effect in effects.drain(..) {
            match effect {
                Effect::Start(start) => starts.push(start),
                Effect::Write(undurable) => written.push(undurable),
                Effect::Lease { endpoint, fifo, until, limit } => reads.push((endpoint, fifo, Some((until, limit)))),
                Effect::NextDue { endpoint, fifo } => reads.push((endpoint, fifo, None)),
                Effect::Notice(_) => {}
                Effect::Occasion(occasion) => {
                    let told = Operational::of_occasion(&node.catalogue, &occasion);
                    written.extend(told.map(|told| Undurable::Operational(Box::new(told))));
                }
            }
        }
        node.effects = effects;
        for undurable in &written {
            self.check_decision(now.engine, undurable)?;
        }
        let Some(node) = &mut self.node else { return Ok(()) };
        node.intake.record(shard, now.engine, written, watermark);
        let summary = [shard as u64, starts.len() as u64, reads.len() as u64];
        self.note("step", summary);
        for start in starts {
            self.start(shard, start)?;
        }
        for (endpoint, fifo, rows) in reads {
            let generation = self.generation;
            let wait = self.timing.random_range(50..2 * MS);
            self.after(wait, Event::Read { generation, shard, endpoint, fifo, rows });
        }
        self.schedule_seal();
        self.check_bounds(shard)?;
        self.plan_tick(shard)
    }

    fn plan_tick(&mut self, shard: usize) -> Checked {
        let generation = self.generation;
        let Some(node) = &mut self.node else { return Ok(()) };
        let Some(wake) = node.engines[shard].wake_at() else {
            node.tick_at[shard] = None;
            return Ok(());
        };
        let at = (wake.as_micros() - node.offset).max(self.now);
        if node.tick_at[shard] == Some(at) {
            return Ok(());
        }
        node.tick_at[shard] = Some(at);
        if self.still.0 == self.now && at == self.now {
            self.still.1 += 1;
            if self.still.1 > 200 {
                return broken(Promise::NoBusyLoop, "an engine wants to be woken again and again at one instant");
            }
        } else {
            self.still = (self.now, 0);
        }
        let wait = at - self.now;
        self.after(wait, Event::Tick(generation, shard, at));
        Ok(())
    }

    fn check_bounds(&self, shard: usize) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        let (engine, settings) = (&node.engines[shard], &node.settings);
        let (queued, in_flight) = (engine.queued(), engine.in_flight());
        let (resting, unrecorded) = (engine.resting(), engine.unrecorded());
        // Who has rested goes on whatever is in flight.
        let in_flight_max = settings.attempts_max + node.sums.len();
        if queued > settings.queued_max || in_flight > in_flight_max || resting > settings.attempts_max {
            let detail = format!("{queued} queued, {in_flight} in flight, {resting} resting");
            return broken(Promise::MemoryIsBounded, detail);
        }
        if unrecorded > settings.attempts_max * 4 + settings.queued_max {
            return broken(Promise::MemoryIsBounded, format!("{unrecorded} unrecorded"));
        }
        Ok(())
    }

    fn start(&mut self, shard: usize, mut start: Start) -> Checked {
        let generation = self.generation;
        let endpoint = start.endpoint.key;
        let delivery = Delivery { endpoint, message: start.message.sequence() };
        if self.has(PumpBug::PayloadAsText)
            && let Some(payload) = &start.message.payload
        {
            let text = String::from_utf8_lossy(payload).into_owned();
            start.message = Arc::new(Message { payload: Some(text.into()), ..Message::clone(&start.message) });
        }
        self.note("start", [u64::from(endpoint.0), delivery.message.as_u64(), u64::from(start.number)]);
        self.check_latency(&start, delivery)?;
        self.truth.started(&start, &self.store, self.now)?;
        let class = self.classes.get(&endpoint).copied().unwrap_or(Class::Healthy);
        if class == Class::Summing {
            self.gather(shard, start.token, delivery);
            return Ok(());
        }
        let wall = self.wall_now();
        let steady = Timestamp::from_micros(self.now);
        let (took, mut outcome, taken) = class.exchange(steady, &mut self.net);
        outcome.started_at = wall;
        if taken {
            self.truth.taken.insert(delivery);
        }
        let wait = took.as_micros() as i64;
        let outcome = Box::new(outcome);
        self.after(wait, Event::Outcome { generation, shard, token: start.token, delivery, outcome });
        Ok(())
    }

    /// A healthy endpoint gets its messages at once, whatever others do.
    fn check_latency(&self, start: &Start, delivery: Delivery) -> Checked {
        let Some(accepted) = self.truth.messages.get(&delivery.message) else { return Ok(()) };
        let Some(configured) = self.truth.configured.get(&delivery.endpoint) else { return Ok(()) };
        let application = self.truth.application_throttle.contains_key(&start.endpoint.application);
        let plain =
            !configured.fifo && configured.throttle.is_none() && !application && start.message.deliver_at.is_none();
        let settled = self.disturbed.max(configured.at) + SECOND;
        let proven = self.proven.get(&delivery.endpoint).is_some_and(|since| *since < accepted.at);
        let healthy = self.classes.get(&delivery.endpoint) == Some(&Class::Healthy);
        if start.number != 1
            || start.trigger == Trigger::Manual
            || !(plain && healthy && proven)
            || accepted.at < settled
        {
            return Ok(());
        }
        // In a flood it shares the few slots of a small world with its like.
        let before = self.truth.messages.range(..delivery.message).rev().nth(8);
        let flood = before.is_some_and(|(_, earlier)| earlier.at > accepted.at - SECOND);
        let late = self.now - accepted.at;
        let small = self.node.as_ref().is_some_and(|node| node.settings.attempts_max < 64);
        let most = if small { LATENCY_MAX_SMALL } else { LATENCY_MAX };
        if late > most && !flood {
            let detail = format!("{delivery:?} started {} ms after it was durable", late / MS);
            return broken(Promise::EndpointsDoNotFeelEachOther, detail);
        }
        Ok(())
    }

    pub(super) fn outcome(
        &mut self,
        generation: u64,
        shard: usize,
        token: Token,
        delivery: Delivery,
        outcome: Outcome,
    ) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        let status = outcome.result.unwrap_or(0);
        self.note("outcome", [u64::from(delivery.endpoint.0), delivery.message.as_u64(), u64::from(status)]);
        self.truth.told(delivery, outcome.is_success());
        if outcome.is_success() {
            self.proven.entry(delivery.endpoint).or_insert(self.now);
        }
        if status == 410
            && let Some(configured) = self.truth.configured.get_mut(&delivery.endpoint)
        {
            configured.disabled = true;
        }
        self.step(shard, Input::Ended(vec![Ended { token, outcome }]))
    }

    pub(super) fn read(
        &mut self,
        generation: u64,
        shard: usize,
        endpoint: EndpointKey,
        fifo: bool,
        rows: Option<(Timestamp, usize)>,
    ) {
        if !self.alive(generation) {
            return;
        }
        let fails = self.faults.failing_reads && !self.healed && self.timing.random_ratio(1, 20);
        if fails {
            self.disturbed = self.disturbed.max(self.now + 2 * SECOND);
        }
        let input = match rows {
            Some((until, limit)) => {
                let read = self.store.lease_due(endpoint, fifo, until, limit).ok().filter(|_| !fails);
                let shared = |(waiting, message)| (waiting, Arc::new(message));
                Input::Leased { endpoint, rows: read.map(|rows| rows.into_iter().map(shared).collect()) }
            }
            None => {
                let read = self.store.next_due(endpoint, fifo).ok().filter(|_| !fails);
                Input::NextDue { endpoint, due: read.map(|head| head.map(|head| head.due)) }
            }
        };
        self.note("read", [u64::from(endpoint.0), u64::from(fails), rows.map_or(0, |(_, limit)| limit as u64)]);
        let slow = if self.timing.random_ratio(1, 8) { 40 * MS } else { 2 * MS };
        let wait = self.timing.random_range(0..slow);
        self.after(wait, Event::Shard { generation, shard, input, answers: None });
    }
}
