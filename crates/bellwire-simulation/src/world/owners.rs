//! What owners and operators ask for: other settings, resends, tasks, an end to waiting, payloads gone.

use super::plan::{OPERATIONAL_ENDPOINT, organisation};
use super::{Event, MS, SECOND, World};
use crate::node::Waiter;
use crate::reader::READ;
use bellwire_model::{Delivery, DeliveryState, Endpoint, Sequence, TaskId, Trigger, Waiting};
use bellwire_store::{Change, ReplayFilter, Store, Target, Task, Work};
use rand::Rng;
use std::num::NonZeroU16;
use std::sync::Arc;

impl World {
    /// Messages that somebody may resend or expunge: what readers of pipes have is their own affair.
    fn touchable(&self) -> Vec<Sequence> {
        let all = self.truth.messages.iter().filter(|(_, accepted)| !accepted.fan_out.contains(&READ));
        all.map(|(message, _)| *message).collect()
    }

    pub(super) fn change(&mut self, die: u32) {
        let now = self.node_now().engine;
        let keys: Vec<_> = self.classes.keys().copied().collect();
        let key = keys[self.doors.random_range(0..keys.len())];
        self.version += 1;
        let version = self.version;
        let Some(node) = self.node.as_mut().filter(|node| !node.changing) else {
            if !self.healed {
                self.after(50 * MS, Event::Change(die));
            }
            return;
        };
        let Some(endpoint) = node.catalogue.endpoint(key).cloned() else { return };
        let mut new = Endpoint::clone(&endpoint);
        new.description = version.to_string();
        let switch = (die < 60).then(|| Change::SwitchEndpoint { endpoint: key, enabled: die >= 30 });
        match die {
            0..70 => {}
            70..80 => new.limits.fifo = !new.limits.fifo,
            80..90 => new.limits.throttle_rate = NonZeroU16::new((version % 6) as u16),
            _ => {}
        }
        // Whoever wants to be told goes on wanting it, so that what must be told is known.
        let delete = die >= 90 && key != OPERATIONAL_ENDPOINT;
        let change = if delete { Change::DeleteEndpoint(key) } else { Change::PutEndpoint(Arc::new(new)) };
        // What is written was read a while ago.
        node.changing = true;
        let wait = self.doors.random_range(0..2 * SECOND);
        let changes = std::iter::once(change).chain(switch).collect();
        self.after(wait, Event::Edit(self.generation, changes));
        self.note("change", [u64::from(key.0), u64::from(die), now.as_micros() as u64]);
    }

    pub(super) fn edit(&mut self, generation: u64, changes: Vec<Change>) {
        let now = self.node_now().engine;
        let Some(node) = self.node.as_mut().filter(|_| self.generation == generation) else { return };
        match node.change(now, changes.clone()) {
            Ok(batch) => node.waiters.entry(batch).or_default().push(Waiter::Change(changes)),
            Err(_) => node.changing = false,
        }
        self.schedule_seal();
    }

    pub(super) fn resend(&mut self) {
        let now = self.node_now().engine;
        let all = self.touchable();
        let Some(node) = self.node.as_mut().filter(|node| !node.changing && !all.is_empty()) else { return };
        let message = all[self.doors.random_range(0..all.len())];
        let keys: Vec<_> = self.truth.messages[&message].fan_out.iter().copied().collect();
        if keys.is_empty() {
            return;
        }
        let delivery = Delivery { endpoint: keys[self.doors.random_range(0..keys.len())], message };
        if node.catalogue.endpoint(delivery.endpoint).is_none() {
            return;
        }
        let Ok(Some(found)) = self.store.delivery(delivery) else { return };
        if !matches!(found.state, DeliveryState::Delivered | DeliveryState::Ended(_)) {
            return;
        }
        let waiting = Waiting { delivery, due: now, next: found.attempts + 1, trigger: Trigger::Manual };
        let change = Change::Wait { waiting, owed: true };
        if let Ok(batch) = node.change(now, vec![change.clone()]) {
            node.changing = true;
            node.waiters.entry(batch).or_default().push(Waiter::Change(vec![change]));
            self.note("resend", [u64::from(delivery.endpoint.0), message.as_u64(), 0]);
            self.schedule_seal();
        }
    }

    pub(super) fn task(&mut self, bulk: bool) {
        let now = self.node_now().engine;
        let keys: Vec<_> = self.classes.keys().copied().collect();
        let endpoint = keys[self.doors.random_range(0..keys.len())];
        let Some(node) = self.node.as_mut().filter(|node| !node.changing) else { return };
        let Some(application) = node.catalogue.endpoint(endpoint).map(|e| e.application) else { return };
        let target = Target { application, endpoint };
        let work = if bulk { Work::BulkReplay(target, ReplayFilter::default()) } else { Work::Recover(target) };
        let id = TaskId::from_parts(node.intake.sequence(now), [4; 12]);
        let task = Arc::new(Task::new(id, organisation(), work, Sequence::ZERO, Sequence::MAX));
        self.begun.push(id);
        self.note("task", [u64::from(endpoint.0), u64::from(bulk), id.sequence().as_u64()]);
        self.ask(Change::PutTask(task));
    }

    pub(super) fn cancel_task(&mut self) {
        let at = self.node_now().engine;
        if let Some(task) = self.begun.last().copied().filter(|_| self.node.as_ref().is_some_and(|n| !n.changing)) {
            self.note("cancel task", [task.sequence().as_u64(), 0, 0]);
            self.ask(Change::CancelTask { task, at });
        }
    }

    pub(super) fn cancel_waiting(&mut self) {
        let at = self.node_now().engine;
        let keys: Vec<_> = self.classes.keys().copied().collect();
        let endpoint = keys[self.doors.random_range(0..keys.len())];
        if self.node.as_ref().is_some_and(|n| !n.changing && n.catalogue.endpoint(endpoint).is_some()) {
            self.note("cancel waiting", [u64::from(endpoint.0), 0, 0]);
            self.ask(Change::CancelWaiting { endpoint, before: Sequence::first_at(at), at });
        }
    }

    /// Hands a change to the intake.
    fn ask(&mut self, change: Change) {
        let now = self.node_now().engine;
        let Some(node) = &mut self.node else { return };
        if let Ok(batch) = node.change(now, vec![change.clone()]) {
            node.changing = true;
            node.waiters.entry(batch).or_default().push(Waiter::Change(vec![change]));
            self.schedule_seal();
        }
    }

    pub(super) fn expunge(&mut self) {
        let now = self.node_now().engine;
        let all = self.touchable();
        let Some(node) = self.node.as_mut().filter(|node| !node.changing && !all.is_empty()) else { return };
        let message = all[self.doors.random_range(0..all.len())];
        if let Ok(batch) = node.change(now, vec![Change::ExpungePayload(message)]) {
            node.changing = true;
            node.waiters.entry(batch).or_default().push(Waiter::Change(vec![Change::ExpungePayload(message)]));
            self.schedule_seal();
        }
    }
}
