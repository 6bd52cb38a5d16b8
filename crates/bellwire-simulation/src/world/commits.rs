//! The committing thread: a batch is sealed, written or lost, and everyone is told; between batches, upkeep and slices of tasks.

use super::plan::configured;
use super::{Event, Fate, MS, SECOND, Told, World};
use crate::bug::PumpBug;
use crate::node::Waiter;
use crate::truth::{Checked, Configured, Promise, broken};
use bellwire_engine::{Input, Undurable};
use bellwire_model::{AfterAttempt, Endpoint, EndpointKey, Message, Timestamp, Trigger};
use bellwire_store::{Change, Matching, Store};
use rand::Rng;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

impl World {
    pub(crate) fn schedule_seal(&mut self) {
        let generation = self.generation;
        let wait = self.timing.random_range(0..MS);
        let Some(node) = &mut self.node else { return };
        if !node.seal_planned && !node.committing && !node.intake.is_empty() {
            node.seal_planned = true;
            self.after(wait, Event::Seal(generation));
        }
    }

    pub(super) fn seal(&mut self, generation: u64) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        let Some(node) = &mut self.node else { return Ok(()) };
        node.seal_planned = false;
        let Some(sealed) = node.intake.seal() else { return Ok(()) };
        node.committing = true;
        let (messages, attempts) = (sealed.batch.accepted.len() as u64, sealed.batch.attempts.len() as u64);
        node.sealed = Some(sealed);
        let number = node.sealed.as_ref().map_or(0, |s| s.number);
        self.note("seal", [number, messages, attempts]);
        if self.has(PumpBug::AckBeforeDurable) {
            self.answer(number, true)?;
        }
        let fate = self.fate();
        let wait = match fate {
            Fate::Durable if self.faults.slow_commits && !self.healed && self.timing.random_ratio(1, 30) => {
                let wait = self.timing.random_range(100 * MS..8 * SECOND);
                self.disturbed = self.disturbed.max(self.now + wait);
                wait
            }
            _ => self.timing.random_range(200..6 * MS),
        };
        self.after(wait, Event::Commit(generation, fate));
        Ok(())
    }

    pub(super) fn fate(&mut self) -> Fate {
        if self.healed {
            return Fate::Durable;
        }
        if self.faults.failing_commits && self.timing.random_ratio(1, 15) {
            return Fate::Failed;
        }
        match self.timing.random_range(0..200) {
            0 if self.faults.unknown_commits => Fate::UnknownKept,
            1 if self.faults.unknown_commits => Fate::UnknownLost,
            _ => Fate::Durable,
        }
    }

    /// Every retry comes by the schedule, from the moment of the decision.
    pub(super) fn check_decision(&self, now: Timestamp, decided: &Undurable) -> Checked {
        let (Undurable::Attempt { delivery, number, outcome, after: AfterAttempt::Waiting { due }, .. }, Some(node)) =
            (decided, &self.node)
        else {
            return Ok(());
        };
        if matches!(decided, Undurable::Attempt { trigger: Trigger::Manual, .. }) {
            return broken(Promise::RetriesKeepTheSchedule, format!("{delivery:?} is resent more than once"));
        }
        let wait = usize::try_from(*number).ok().and_then(|n| node.schedule.waits().get(n.checked_sub(1)?).copied());
        let asked = match outcome.as_ref().and_then(|outcome| outcome.retry_after) {
            Some(bellwire_model::RetryAfter::Wait(asked)) => asked,
            _ => Duration::ZERO,
        };
        let least = wait.unwrap_or_default().max(asked);
        if wait.is_none() || *due < now.plus(least) || *due > now.plus(least.mul_f64(1.2) + Duration::from_millis(1)) {
            let detail = format!("{delivery:?}: after attempt {number} at {now} the next is due {due}");
            return broken(Promise::RetriesKeepTheSchedule, detail);
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, generation: u64, fate: Fate) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        let Some(sealed) = self.node.as_mut().and_then(|node| node.sealed.take()) else { return Ok(()) };
        let number = sealed.number;
        if matches!(fate, Fate::Durable | Fate::UnknownKept) {
            self.keep(&sealed.batch)?;
        }
        self.note("commit", [number, fate as u64, 0]);
        let Some(node) = &mut self.node else { return Ok(()) };
        node.committing = false;
        match fate {
            Fate::UnknownKept | Fate::UnknownLost => self.crash(),
            Fate::Failed => {
                drop(sealed);
                node.intake.failed();
                self.disturbed = self.now + SECOND;
                self.answer(number, false)?;
                self.set_failing(true);
                // It tries again in a while.
                self.after(50 * MS, Event::Failing(generation));
            }
            Fate::Durable => {
                let changes: Vec<_> = sealed.batch.changes.clone();
                drop(sealed);
                node.last_durable = self.now;
                let told = node.intake.committed();
                let was_failing = node.failing;
                if was_failing {
                    self.set_failing(false);
                }
                for (shard, committed) in told.into_iter().enumerate() {
                    self.inbox(shard, Input::Committed(committed), None);
                }
                self.apply(&changes)?;
                if !self.has(PumpBug::AckBeforeDurable) {
                    self.answer(number, true)?;
                }
                self.after(0, Event::Upkeep);
                self.plan_slice();
                self.plan_readers();
                self.schedule_seal();
            }
        }
        Ok(())
    }

    /// Writes a batch, and notes what that means.
    pub(super) fn keep(&mut self, batch: &bellwire_store::Batch) -> Checked {
        self.truth.tells(batch)?;
        self.store.commit(batch).expect("a store in memory takes everything");
        self.truth.committed(batch, &self.store, self.now)?;
        self.feeder.committed(batch, &self.store)?;
        if self.events.is_multiple_of(16) {
            self.truth.sum_comes_out(&self.store)?;
        }
        Ok(())
    }

    pub(super) fn failing(&mut self, generation: u64) -> Checked {
        if self.alive(generation) {
            self.schedule_seal();
        }
        Ok(())
    }

    fn set_failing(&mut self, failing: bool) {
        let Some(node) = &mut self.node else { return };
        node.failing = failing;
        for shard in 0..node.engines.len() {
            self.inbox(shard, Input::StoreFailing(failing), None);
        }
    }

    /// Changes of configuration are durable: the catalogue follows, then the engines, then whoever asked.
    fn apply(&mut self, changes: &[Change]) -> Checked {
        let early = self.has(PumpBug::ChangeAnsweredEarly);
        for change in changes {
            let Some(node) = &mut self.node else { return Ok(()) };
            // Nothing here concerns more than one application.
            let Some((Some(application), input)) = node.catalogue.apply(change) else { continue };
            let shard = node.shard_of(application);
            let told = match (change, &input) {
                (Change::PutEndpoint(_), Input::Endpoint(endpoint)) => {
                    Some(Box::new(Told { endpoint: endpoint.key, configured: configured(endpoint, self.now) }))
                }
                (Change::SwitchEndpoint { endpoint, .. }, _) => node
                    .catalogue
                    .endpoint(*endpoint)
                    .map(|found| Box::new(Told { endpoint: *endpoint, configured: configured(found, self.now) })),
                (Change::DeleteEndpoint(key), _) => self.truth.configured.get(key).map(|old| {
                    let gone = Configured { deleted: true, at: self.now, ..old.clone() };
                    Box::new(Told { endpoint: *key, configured: gone })
                }),
                _ => None,
            };
            if let Some(told) = told.as_ref().filter(|_| early) {
                self.answer_change(told);
            }
            self.inbox(shard, input, told);
        }
        self.check_catalogue(changes)
    }

    /// The catalogue has followed the store: what an engine found out and what an owner decided is the same in both.
    fn check_catalogue(&self, changes: &[Change]) -> Checked {
        let Some(node) = &self.node else { return Ok(()) };
        for change in changes {
            let (Change::PutHealth { endpoint: key, .. } | Change::SwitchEndpoint { endpoint: key, .. }) = change
            else {
                continue;
            };
            let stands = |endpoint: Option<&Arc<Endpoint>>| endpoint.map(|e| (e.disabled, e.health));
            let (store, catalogue) =
                (stands(self.store.endpoint(*key).as_ref()), stands(node.catalogue.endpoint(*key)));
            if store != catalogue {
                let detail = format!("{key:?} is {store:?} in the store and {catalogue:?} in the catalogue");
                return broken(Promise::ChangesTakeEffect, detail);
            }
        }
        Ok(())
    }

    pub(super) fn answer_change(&mut self, told: &Told) {
        let old = self.truth.configured.get(&told.endpoint).cloned().unwrap_or_default();
        if old.throttle != told.configured.throttle {
            self.truth.forget_starts(told.endpoint);
        }
        self.proven.remove(&told.endpoint);
        self.truth.configured.insert(told.endpoint, Configured { at: self.now, ..told.configured.clone() });
    }

    /// Answers the doors that wait for a batch.
    pub(super) fn answer(&mut self, batch: u64, kept: bool) -> Checked {
        let Some(node) = &mut self.node else { return Ok(()) };
        let mut waiters = node.waiters.remove(&batch).unwrap_or_default();
        waiters.append(&mut node.answer_now);
        for waiter in waiters {
            match waiter {
                Waiter::Message(message, request) if kept => {
                    self.note("accepted", [message.as_u64(), 0, 0]);
                    self.truth.known(&self.store, message, &request)?;
                    self.truth.answered(&self.store, message, request.idempotency, &request.payload)?;
                }
                Waiter::Message(_, request) => self.try_again(request),
                Waiter::Refused(request) if kept => self.check_refused(&request)?,
                Waiter::Refused(request) => self.after(0, Event::Look(self.generation, request)),
                Waiter::Settled(receipt, what) => self.settled(receipt, what, kept),
                Waiter::Page(through) => self.fed(through, kept),
                Waiter::Change(_) => {
                    if let Some(node) = &mut self.node {
                        node.changing = false;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn upkeep(&mut self) {
        let now = self.node_now().engine;
        if self.node.is_some() && self.store.upkeep(now).unwrap_or(false) {
            self.after(MS, Event::Upkeep);
        }
    }

    pub(super) fn plan_slice(&mut self) {
        if self.node.is_some() && self.store.has_tasks() && !self.slice_planned {
            self.slice_planned = true;
            let wait = self.timing.random_range(MS..200 * MS);
            self.after(wait, Event::Slice(self.generation));
        }
    }

    /// The committing thread does a slice of a task between two commits, and tells the engines.
    pub(super) fn slice(&mut self, generation: u64) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        self.slice_planned = false;
        if self.node.as_ref().is_some_and(|node| node.committing || node.stopping) {
            self.plan_slice();
            return Ok(());
        }
        let rows = || self.store.rows().into_iter().map(|row| row.delivery).collect::<BTreeSet<_>>();
        let before = rows();
        let advanced = self.store.advance_task(self.node_now().engine, &Nobody);
        let Some(advanced) = advanced.expect("a store in memory takes everything") else { return Ok(()) };
        let after = rows();
        let came: Vec<_> = after.difference(&before).copied().collect();
        let went: Vec<_> = before.difference(&after).copied().collect();
        self.note("slice", [came.len() as u64, went.len() as u64, 0]);
        self.truth.sliced(&advanced, &came, &went)?;
        self.truth.sum_comes_out(&self.store)?;
        if let Some(endpoint) = advanced.look_again {
            let shards = self.node.as_ref().map_or(0, |node| node.engines.len());
            for shard in 0..shards {
                self.inbox(shard, Input::LookAgain(endpoint), None);
            }
        }
        self.plan_slice();
        Ok(())
    }
}

/// No task of this world asks who would get a message now.
struct Nobody;

impl Matching for Nobody {
    fn wants_payload(&self, _: EndpointKey) -> bool {
        false
    }

    fn matches(&self, _: EndpointKey, _: &Message) -> bool {
        false
    }
}
