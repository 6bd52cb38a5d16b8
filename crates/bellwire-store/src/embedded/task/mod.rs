//! Background tasks: the slices that move them on, each in one transaction with what it touches. Their rows are in `row.rs`, and what a
//! slice does is in a file for each kind of work.

mod row;
mod resend;
mod purge;
mod statistics;
mod broadcast;

use super::fault::Fault;
use super::index::MessageRecord;
use super::ledger::Meta;
use super::reading::Snapshot;
use super::writer::{ROW_BYTES, Writer};
use crate::{Advanced, CommitError, Matching, Progress, ReplayFilter, Task, TaskStatus, Work};
use bellwire_model::{ApplicationKey, TaskId, Timestamp};

pub(super) use row::{are_forgettable, broadcasted, cancel, find, forget, list, newest, put, running, told};

/// Deliveries that one slice puts into the waiting room, or payloads that it removes, at most.
const TOUCHED_MAX: u64 = 1_000;
/// Messages that one slice looks at, at most.
const SCANNED_MAX: u64 = 2_000;
/// Bytes of payload that one slice reads or removes, about.
const BYTES_MAX: usize = 8 << 20;

/// What one slice may still do.
struct Budget {
    touched: u64,
    scanned: u64,
    bytes: usize,
}

impl Budget {
    fn new(slice: usize) -> Self {
        let slice = u64::try_from(slice).unwrap_or(u64::MAX).max(1);
        Budget { touched: TOUCHED_MAX.min(slice), scanned: SCANNED_MAX.min(slice), bytes: BYTES_MAX }
    }

    fn is_left(&self) -> bool {
        self.touched > 0 && self.scanned > 0 && self.bytes > 0
    }

    fn scan(&mut self, progress: &mut Progress) {
        self.scanned -= 1;
        progress.scanned += 1;
    }

    fn touch(&mut self, progress: &mut Progress) {
        self.touched -= 1;
        progress.touched += 1;
    }
}

impl Writer {
    /// Whether [`Writer::advance_task`] has something to do.
    pub(super) fn has_tasks(&self) -> bool {
        !self.cancelling.is_empty() || !self.running.is_empty()
    }

    /// See [`crate::Store::advance_task`].
    pub(super) fn advance_task(
        &mut self,
        now: Timestamp,
        matching: &dyn Matching,
    ) -> Result<Option<Advanced>, CommitError> {
        if let Some(cancelling) = self.cancelling.front().cloned() {
            let endpoint = cancelling.endpoint;
            self.end_cancelled(cancelling, now)?;
            return Ok(Some(Advanced { task: None, look_again: Some(endpoint), to: Vec::new() }));
        }
        let Some(id) = self.running.front().copied() else { return Ok(None) };
        if let Some((task, to)) = self.audience(id).map_err(Fault::into_commit)? {
            self.running.rotate_left(1);
            return Ok(Some(Advanced { task: Some(task), look_again: None, to }));
        }
        let mut meta = self.meta;
        let task = self.transaction(|writer| writer.slice(&mut meta, id, now, matching))?;
        self.meta = meta;
        self.running.pop_front();
        let Some(Sliced { task, queued }) = task else {
            return Ok(Some(Advanced { task: None, look_again: None, to: Vec::new() }));
        };
        if task.status == TaskStatus::Running {
            // Each in its turn.
            self.running.push_back(id);
        }
        let look_again = task.work.target().map(|target| target.endpoint).filter(|_| queued);
        Ok(Some(Advanced { task: Some(task), look_again, to: Vec::new() }))
    }

    /// A slice of a task; `None` if there is no such task.
    fn slice(
        &mut self,
        meta: &mut Meta,
        id: TaskId,
        now: Timestamp,
        matching: &dyn Matching,
    ) -> Result<Option<Sliced>, Fault> {
        let Some(mut task) = find(&self.connection, id, true)? else { return Ok(None) };
        if task.status != TaskStatus::Running {
            return Ok(Some(Sliced { task, queued: false }));
        }
        let touched = task.progress.touched;
        task.status = match self.is_orphan(&task)? {
            true => TaskStatus::Cancelled,
            false if self.work(&mut task, now, matching)? => TaskStatus::Finished,
            false => TaskStatus::Running,
        };
        let touched = task.progress.touched - touched;
        let queued = touched > 0 && task.work.target().is_some();
        if queued {
            meta.ledger.matched += touched;
        }
        task.updated_at = now;
        row::write(&self.connection, &mut task)?;
        meta.write(&self.connection)?;
        self.log_bytes += touched * ROW_BYTES;
        Ok(Some(Sliced { task, queued }))
    }

    /// Whether the endpoint or application that it is about is gone.
    fn is_orphan(&self, task: &Task) -> Result<bool, Fault> {
        if let Some(target) = task.work.target() {
            return Ok(self.deleted.contains(&target.endpoint));
        }
        let Some(application) = task.work.application() else { return Ok(false) };
        let mut gone =
            self.connection.prepare_cached("SELECT NOT EXISTS (SELECT 1 FROM application WHERE key = ?1)")?;
        Ok(gone.query_one([application.0], |row| row.get(0))?)
    }

    /// One slice; answers whether it was the last.
    fn work(&mut self, task: &mut Task, now: Timestamp, matching: &dyn Matching) -> Result<bool, Fault> {
        match task.work.clone() {
            Work::Recover(target) => {
                let all = ReplayFilter::default();
                self.send_again(task, target.endpoint, now, &all, |standing| resend::has_failed(standing.state))
            }
            Work::BulkReplay(target, filter) => {
                self.send_again(task, target.endpoint, now, &filter, |standing| resend::is_wanted(standing, &filter))
            }
            Work::Replay(target) => self.send_missing(task, target, now, matching),
            Work::PurgeContent(application) => self.purge(task, application),
            Work::ApplicationStats(only) => self.count_destinations(task, only.as_deref()),
            Work::EventTypes => self.collect_event_types(task),
            // Nobody is left to send to.
            Work::Broadcast(_) => Ok(true),
        }
    }

    /// What is of an application, as it is now.
    fn messages_of(&self, application: ApplicationKey) -> Result<Snapshot<'_>, Fault> {
        let wanted = |message: &MessageRecord| message.application == application;
        Snapshot::within(&self.connection, &self.tail, wanted, |_| false)
    }
}

/// A task after one of its slices.
struct Sliced {
    task: Task,
    /// Whether rows came into the waiting room.
    queued: bool,
}
