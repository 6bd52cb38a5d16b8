//! The store's tasks, as simple as they can be: a slice looks at the next few messages, and a clone of the whole store is never needed.

use crate::store::{SLICE, State, StoreBug, TASK_SLICE, carries, stands_as};
use bellwire_model::{
    ApplicationKey, Delivery, DeliveryState, EndReason, EndpointKey, Sequence, Timestamp, Trigger, Waiting,
};
use bellwire_store::{
    Advanced, ApplicationDestinations, ApplicationEventTypes, Found, Matching, ReplayFilter, Task, TaskStatus, Work,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Of a broadcast that has ended; nothing else has one.
pub(crate) fn forget_message(task: &mut Task) {
    if let (Work::Broadcast(message), true) = (&mut task.work, task.status != TaskStatus::Running) {
        *message = None;
    }
}

impl State {
    /// See [`bellwire_store::Store::advance_task`].
    pub(crate) fn advance(
        &mut self,
        now: Timestamp,
        matching: &dyn Matching,
        bug: Option<StoreBug>,
    ) -> Option<Advanced> {
        if let Some((endpoint, before, at)) = self.cancelling.front().copied() {
            self.cancel_slice(endpoint, before, at, now);
            return Some(Advanced { task: None, look_again: Some(endpoint), to: Vec::new() });
        }
        let at = self.running.pop_front()?;
        let mut task = self.tasks.get(&at)?.clone();
        if let (Work::Broadcast(_), TaskStatus::Running) = (&task.work, task.status) {
            let to = self.applications.range(task.progress.application..);
            let to = to.filter(|(_, application)| application.organisation == task.organisation).map(|(key, _)| *key);
            let to: Vec<_> = to.take(TASK_SLICE).collect();
            if !to.is_empty() {
                self.running.push_back(at);
                return Some(Advanced { task: Some(task), look_again: None, to });
            }
        }
        let mut queued = false;
        if task.status == TaskStatus::Running {
            let touched = task.progress.touched;
            task.status = match self.is_orphan(&task) {
                true => TaskStatus::Cancelled,
                false if self.slice(&mut task, now, matching, bug) => TaskStatus::Finished,
                false => TaskStatus::Running,
            };
            queued = task.progress.touched > touched;
            task.updated_at = now;
            forget_message(&mut task);
            self.tasks.insert(at, task.clone());
        }
        if task.status == TaskStatus::Running {
            self.running.push_back(at);
        }
        let look_again = task.work.target().map(|target| target.endpoint).filter(|_| queued);
        Some(Advanced { task: Some(task), look_again, to: Vec::new() })
    }

    fn cancel_slice(&mut self, endpoint: EndpointKey, before: Sequence, at: Timestamp, now: Timestamp) {
        let first = Delivery { endpoint, message: Sequence::ZERO };
        let meant = |row: &Waiting| row.trigger == Trigger::Scheduled || row.due <= at;
        let rows = self.waiting.range(first..Delivery { endpoint, message: before });
        let rows: Vec<_> = rows.filter(|(_, row)| meant(row)).map(|(delivery, _)| *delivery).take(SLICE).collect();
        if rows.is_empty() {
            self.cancelling.pop_front();
        }
        self.end(&rows, EndReason::Cancelled, now);
    }

    fn is_orphan(&self, task: &Task) -> bool {
        match (task.work.target(), task.work.application()) {
            (Some(target), _) => self.deleted.contains(&target.endpoint),
            (None, Some(application)) => !self.applications.contains_key(&application),
            (None, None) => false,
        }
    }

    /// One slice; answers whether it was the last.
    fn slice(&mut self, task: &mut Task, now: Timestamp, matching: &dyn Matching, bug: Option<StoreBug>) -> bool {
        match &task.work {
            Work::ApplicationStats(only) => {
                task.progress.found = self.destinations(task, only.as_deref());
                return true;
            }
            Work::EventTypes => {
                task.progress.found = self.event_types(task);
                return true;
            }
            // Nobody is left to send to.
            Work::Broadcast(_) => return true,
            Work::Recover(_) | Work::Replay(_) | Work::BulkReplay(..) | Work::PurgeContent(_) => {}
        }
        let candidates = self.candidates(task);
        let next: Vec<Sequence> = candidates.iter().copied().take(TASK_SLICE).collect();
        for message in &next {
            task.progress.scanned += 1;
            task.progress.touched += u64::from(self.touch(&task.work, *message, now, matching));
        }
        if let Some(last) = next.last() {
            task.progress.cursor = match bug {
                Some(StoreBug::CursorStays) if candidates.len() > next.len() => *last,
                Some(StoreBug::CursorSkips) => {
                    last.next().max(candidates.get(TASK_SLICE).copied().unwrap_or_default().next())
                }
                _ => last.next(),
            };
        }
        next.len() == candidates.len()
    }

    /// The messages that are left to be looked at.
    fn candidates(&self, task: &Task) -> Vec<Sequence> {
        let left = self.messages.range(task.progress.cursor..=task.last.max(task.progress.cursor));
        let of_application = |application: ApplicationKey| {
            let of = left.clone().filter(|(at, (message, _))| **at <= task.last && message.application == application);
            of.map(|(at, _)| *at).collect()
        };
        match &task.work {
            Work::Recover(target) | Work::BulkReplay(target, _) => {
                let to = |at: &Sequence| Delivery { endpoint: target.endpoint, message: *at };
                let of = left.filter(|(at, (_, fan_out))| {
                    **at <= task.last && (fan_out.contains(&target.endpoint) || self.added.contains(&to(at)))
                });
                of.map(|(at, _)| *at).collect()
            }
            Work::Replay(target) => of_application(target.application),
            Work::PurgeContent(application) => of_application(*application),
            Work::ApplicationStats(_) | Work::EventTypes | Work::Broadcast(_) => Vec::new(),
        }
    }

    /// Does to a message what the task is for; answers whether there was something to do.
    fn touch(&mut self, work: &Work, message: Sequence, now: Timestamp, matching: &dyn Matching) -> bool {
        let (found, fan_out) = &self.messages[&message];
        if let Work::PurgeContent(_) = work {
            let full = found.payload.is_some();
            if let Some((message, _)) = self.messages.get_mut(&message).filter(|_| full) {
                Arc::make_mut(message).payload = None;
            }
            return full;
        }
        let Some(target) = work.target() else { return false };
        let delivery = Delivery { endpoint: target.endpoint, message };
        let stands = self.stands(delivery);
        let wanted = match work {
            Work::Recover(_) => matches!(stands, DeliveryState::Ended(reason) if reason != EndReason::Cancelled),
            Work::BulkReplay(_, filter) => self.passes(delivery, filter),
            Work::Replay(target) => {
                !fan_out.contains(&target.endpoint)
                    && !self.added.contains(&delivery)
                    && matching.matches(target.endpoint, found)
            }
            Work::PurgeContent(_) | Work::ApplicationStats(_) | Work::EventTypes | Work::Broadcast(_) => false,
        };
        if !wanted || found.payload.is_none() || found.expires_at <= now {
            return false;
        }
        if matches!(work, Work::Replay(_)) {
            self.added.insert(delivery);
        }
        let next = self.number(delivery) + 1;
        self.put(Waiting { delivery, due: now, next, trigger: Trigger::Manual });
        self.ledger.matched += 1;
        true
    }

    fn passes(&self, delivery: Delivery, filter: &ReplayFilter) -> bool {
        let (message, _) = &self.messages[&delivery.message];
        let (state, number) = (self.stands(delivery), self.number(delivery));
        let answers = self.of_delivery.get(&delivery).into_iter().flatten().filter_map(|at| self.attempts.get(at));
        let last = answers.filter_map(|attempt| attempt.outcome.as_ref()).next_back();
        let class = last.and_then(|outcome| outcome.result.ok()).map_or(0, |status| status / 100 * 100);
        matches!(state, DeliveryState::Delivered | DeliveryState::Ended(_))
            && filter.status.is_none_or(|status| stands_as(status, state, number))
            && filter.status_class.is_none_or(|wanted| wanted == class)
            && carries(message, &filter.event_types, filter.channel.as_deref(), filter.tag.as_deref())
    }

    fn destinations(&self, task: &Task, only: Option<&[ApplicationKey]>) -> Found {
        let mut all = Vec::new();
        for application in self.applications.values().filter(|a| a.organisation == task.organisation) {
            let asked = only.is_some_and(|only| only.contains(&application.key));
            let of = self.messages.range(task.first..=task.last.max(task.first));
            let of = of.filter(|(at, (m, _))| **at <= task.last && m.application == application.key);
            let destinations = of.map(|(at, (_, fan_out))| {
                let added = self.added.iter().filter(|d| d.message == *at && !fan_out.contains(&d.endpoint));
                (fan_out.len() + added.count()) as u64
            });
            let destinations = destinations.sum();
            if asked || only.is_none() && destinations > 0 {
                let (application, uid) = (application.id, application.uid.clone());
                all.push(ApplicationDestinations { application, uid, destinations });
            }
        }
        Found::Destinations(all)
    }

    fn event_types(&self, task: &Task) -> Found {
        let mut all = Vec::new();
        for application in self.applications.values().filter(|a| a.organisation == task.organisation) {
            let endpoints = || self.endpoints.values().filter(|e| e.application == application.key);
            let names: BTreeSet<&String> = endpoints().filter_map(|e| e.event_types.as_ref()).flatten().collect();
            all.push(ApplicationEventTypes {
                application: application.id,
                event_types: names.into_iter().cloned().collect(),
                catch_all: endpoints().any(|e| e.event_types.is_none()),
            });
        }
        Found::EventTypes(all)
    }
}
