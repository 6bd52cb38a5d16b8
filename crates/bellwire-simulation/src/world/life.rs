//! The process dies, stops and comes back; in the end all heals, and comes to rest.

use super::plan::configured;
use super::{Event, MS, SECOND, World};
use crate::bug::Planted;
use crate::node::{Node, Waiter};
use crate::receiver::Class;
use crate::truth::{Checked, Promise, broken};
use bellwire_engine::Input;
use bellwire_model::{Delivery, DeliveryState, Endpoint, EndpointKey, Limits, Timestamp};
use bellwire_store::{Change, Store};
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;

/// After a restart, what is due to healthy endpoints starts within this.
const BACK_WITHIN: i64 = 3 * SECOND;

impl World {
    pub(super) fn crash(&mut self) {
        let Some(node) = self.node.take() else { return };
        // What was being committed may or may not have made it.
        if let Some(sealed) = node.sealed.filter(|_| self.timing.random_ratio(1, 2)) {
            // A violation here is found again by the next check.
            let _ = self.keep(&sealed.batch);
        }
        for waiter in node.waiters.into_values().flatten() {
            if let Waiter::Message(_, request) | Waiter::Refused(request) = waiter {
                self.try_again(request);
            }
        }
        self.truth.crashed();
        self.readers_crashed();
        self.proven.clear();
        self.paused_until = 0;
        self.generation += 1;
        self.disturbed = i64::MAX / 4;
        self.note("crash", [self.generation, 0, 0]);
        let wait = self.timing.random_range(MS..3 * SECOND);
        self.after(wait, Event::Restart);
    }

    pub(super) fn restart(&mut self) -> Checked {
        if self.node.is_some() {
            return Ok(());
        }
        let recovered = self.store.recover().expect("a store in memory can be read");
        self.check_recovered(&recovered)?;
        let newest = recovered.newest.time().as_micros();
        let engine_now = (self.now + self.wall).max(newest);
        self.note("restart", [self.generation, recovered.unfinished.len() as u64, recovered.waiting.len() as u64]);
        let mut seed = [0; 32];
        self.timing.fill(&mut seed);
        for endpoint in &recovered.endpoints {
            let told = configured(endpoint, self.now);
            let old = self.truth.configured.insert(endpoint.key, told.clone());
            if old.is_some_and(|old| old.throttle != told.throttle) {
                self.truth.forget_starts(endpoint.key);
            }
        }
        let small = self.seed.is_multiple_of(3);
        let mut node = Node::new(&recovered, engine_now - self.now, small, seed, self.bug.and_then(Planted::in_engine));
        node.last_durable = self.now;
        let mut due = self.due_at_once(&recovered, Timestamp::from_micros(engine_now));
        let inputs = node.first_inputs(recovered);
        self.node = Some(node);
        self.disturbed = self.now + SECOND;
        for (shard, input) in inputs {
            self.step(shard, input)?;
        }
        due.truncate(12);
        let generation = self.generation;
        self.after(BACK_WITHIN, Event::BackAtOnce(generation, due));
        self.after(20 * SECOND, Event::StillWatching(generation));
        self.after(0, Event::Upkeep);
        self.slice_planned = false;
        self.plan_slice();
        self.feeder_restart();
        self.readers_restart()
    }

    /// Recovery finds exactly what a look at everything finds.
    fn check_recovered(&self, recovered: &bellwire_store::Recovered) -> Checked {
        let deleted = |endpoint: &EndpointKey| !recovered.endpoints.iter().any(|e| e.key == *endpoint);
        let mut all = self.store.unfinished_by_full_scan();
        all.retain(|delivery| !deleted(&delivery.endpoint));
        let mut found: Vec<Delivery> = Vec::new();
        for unfinished in &recovered.unfinished {
            let message = unfinished.message.sequence();
            found.extend(unfinished.fan_out.iter().map(|endpoint| Delivery { endpoint: *endpoint, message }));
        }
        found.retain(|delivery| !deleted(&delivery.endpoint));
        all.sort_unstable();
        found.sort_unstable();
        if all != found {
            let missing: Vec<_> = all.iter().filter(|d| !found.contains(d)).take(3).collect();
            return broken(Promise::WatermarkIsTrue, format!("recovery does not know of {missing:?}"));
        }
        self.truth.sum_comes_out(&self.store)
    }

    /// What should start soon after a restart.
    fn due_at_once(&self, recovered: &bellwire_store::Recovered, now: Timestamp) -> Vec<Delivery> {
        let fresh = recovered.unfinished.iter().flat_map(|unfinished| {
            let message = unfinished.message.sequence();
            unfinished.fan_out.iter().map(move |endpoint| Delivery { endpoint: *endpoint, message })
        });
        let rows = self.store.rows();
        let rows = rows.iter().filter(|row| row.due <= now).map(|row| row.delivery);
        let plain = |delivery: &Delivery| {
            let endpoint = recovered.endpoints.iter().find(|e| e.key == delivery.endpoint);
            endpoint.is_some_and(|e| {
                e.disabled.is_none()
                    && e.limits == Limits::default()
                    && e.health.failing_since.is_none()
                    && !self.truth.application_throttle.contains_key(&e.application)
                    && self.classes.get(&e.key) == Some(&Class::Healthy)
            })
        };
        fresh.chain(rows).filter(plain).collect()
    }

    pub(super) fn check_back(&self, generation: u64, deliveries: &[Delivery]) -> Checked {
        if !self.alive(generation) || self.disturbed > self.now - BACK_WITHIN + SECOND {
            return Ok(());
        }
        for delivery in deliveries {
            let waits = match self.store.stands(*delivery) {
                DeliveryState::Fresh => true,
                DeliveryState::Waiting(row) => row.due < self.node_now().engine.minus(Duration::from_secs(3)),
                _ => false,
            };
            let touched = self.truth.configured.get(&delivery.endpoint).is_some_and(|c| c.at > self.now - BACK_WITHIN);
            if waits && !touched && !self.truth.live.contains(delivery) {
                return broken(Promise::BackAtOnce, format!("{delivery:?} still waits after the restart"));
            }
        }
        Ok(())
    }

    /// The watermark does not stay behind for longer than a delivery may stay unsettled.
    pub(super) fn check_watermark(&mut self, generation: u64) -> Checked {
        if !self.alive(generation) || self.healed {
            return Ok(());
        }
        let (watermark, _) = self.store.progress();
        let old = self.now - 15 * SECOND;
        if self.disturbed < old - SECOND {
            let behind = self.truth.messages.range(watermark..).find(|(_, accepted)| accepted.at < old);
            // It moves with a commit; one that came after the message had time to settle must have moved it.
            let committed = self.node.as_ref().is_some_and(|node| node.last_durable > self.now - 5 * SECOND);
            if let Some((message, _)) = behind.filter(|_| committed) {
                return broken(
                    Promise::WatermarkIsTrue,
                    format!("the watermark {watermark:?} stays behind at {message:?}"),
                );
            }
        }
        self.after(5 * SECOND, Event::StillWatching(generation));
        Ok(())
    }

    pub(super) fn stop(&mut self) -> Checked {
        let Some(node) = &mut self.node else { return Ok(()) };
        node.intake.close();
        node.stopping = true;
        self.disturbed = i64::MAX / 4;
        let shards = node.engines.len();
        self.note("stop", [0; 3]);
        for shard in 0..shards {
            self.step(shard, Input::Stop)?;
        }
        let (generation, deadline) = (self.generation, self.now + 12 * SECOND);
        self.after(MS, Event::Stopped(generation, deadline));
        Ok(())
    }

    /// Waits for what is in flight, within bounds, and goes.
    pub(super) fn stopped(&mut self, generation: u64, deadline: i64) {
        if !self.alive(generation) {
            return;
        }
        let Some(node) = &self.node else { return };
        let busy = node.committing || !node.intake.is_empty() || node.engines.iter().any(|e| !e.all_ended());
        if busy && self.now < deadline {
            self.after(20 * MS, Event::Stopped(generation, deadline));
        } else {
            self.crash();
        }
    }

    /// Everything works again, and whoever is disabled is enabled.
    pub(super) fn heal(&mut self) -> Checked {
        self.healed = true;
        self.paused_until = 0;
        self.note("heal", [0; 3]);
        self.queue
            .retain(|_, event| !matches!(event, Event::Crash | Event::Pause(_) | Event::Stop | Event::Stopped(..)));
        // What hangs now hangs for a while yet.
        self.proven.clear();
        self.disturbed = self.disturbed.max(self.now + 12 * SECOND);
        self.classes.values_mut().for_each(|class| *class = Class::Healthy);
        let stopped = self.node.as_ref().is_some_and(|node| node.stopping);
        if stopped {
            self.crash();
        }
        if self.node.is_none() {
            let end = self.now + 4 * SECOND;
            self.run_until(end)?;
            self.restart()?;
        }
        // What is in flight to a receiver that hangs ends first; a 410 may still be on its way.
        self.run_until(self.now + 15 * SECOND)?;
        for _ in 0..3 {
            self.enable_all()?;
            self.run_until(self.now + 15 * SECOND)?;
        }
        Ok(())
    }

    fn enable_all(&mut self) -> Checked {
        self.version += 1;
        let version = self.version.to_string();
        let now = self.node_now().engine;
        let Some(node) = &mut self.node else { return Ok(()) };
        let all: Vec<_> = node.catalogue.endpoints().map(|e| e.key).collect();
        let mut keys = all;
        keys.sort_unstable();
        let mut changes = Vec::new();
        for key in keys {
            let Some(endpoint) = node.catalogue.endpoint(key).filter(|e| e.disabled.is_some()) else { continue };
            let new = Endpoint { description: version.clone(), ..Endpoint::clone(endpoint) };
            changes.push(Change::PutEndpoint(Arc::new(new)));
            changes.push(Change::SwitchEndpoint { endpoint: key, enabled: true });
        }
        if !changes.is_empty() && node.change(now, changes).is_ok() {
            self.schedule_seal();
        }
        Ok(())
    }

    pub(super) fn check_rest(&mut self) -> Checked {
        if let Some((at, _)) = self.queue.first_key_value().map(|(key, _)| *key) {
            let wait = (at - self.now) / SECOND;
            return broken(Promise::NoBusyLoop, format!("it does not come to rest; next in {wait} s"));
        }
        self.truth.at_rest(&self.store)?;
        self.feeder.at_rest()?;
        let Some(node) = &self.node else { return broken(Promise::BackAtOnce, "nobody is there at the end") };
        for endpoint in node.catalogue.endpoints() {
            let stored = Some((endpoint.disabled, endpoint.health.failing_since));
            let known = node.engines[node.shard_of(endpoint.application)].state_of(endpoint.key);
            if known != stored {
                let detail = format!("{:?} is {stored:?} in the catalogue and {known:?} in its engine", endpoint.key);
                return broken(Promise::ChangesTakeEffect, detail);
            }
        }
        for engine in &node.engines {
            let (in_hand, in_flight, resting) = (engine.in_hand(), engine.in_flight(), engine.resting());
            if in_hand != (0, 0) || in_flight + resting > 0 || engine.wake_at().is_some() {
                let detail =
                    format!("an engine at rest holds {in_hand:?}, {in_flight} in flight, {resting} that only wait");
                return broken(Promise::MemoryIsBounded, detail);
            }
        }
        let recovered = self.store.recover().expect("a store in memory can be read");
        self.check_recovered(&recovered)
    }
}
