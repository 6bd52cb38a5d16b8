//! Whom a broadcast is for. What is sent to them comes by a commit, as every message.

use super::super::codec::integer;
use super::super::fault::Fault;
use super::super::writer::Writer;
use super::row::find;
use super::statistics::next_application;
use crate::{BROADCAST_PAGE_MAX, Task, TaskKind, TaskStatus};
use bellwire_model::{ApplicationKey, TaskId};
use rusqlite::params;

impl Writer {
    /// A running broadcast with the applications that come next, if that is what `id` is and there are any.
    pub(super) fn audience(&self, id: TaskId) -> Result<Option<(Task, Vec<ApplicationKey>)>, Fault> {
        let mut is_one = self
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM task WHERE sequence = ?1 AND kind = ?2 AND status = ?3)")?;
        let running = TaskStatus::Running.code();
        if !is_one.query_one(params![integer(id.sequence()), TaskKind::Broadcast.code(), running], |row| row.get(0))? {
            return Ok(None);
        }
        let Some(task) = find(&self.connection, id, true)? else { return Ok(None) };
        let mut to = Vec::new();
        let mut from = task.progress.application;
        while to.len() < BROADCAST_PAGE_MAX.min(self.settings.slice)
            && let Some((key, ..)) = next_application(&self.connection, &task.organisation, from, None)?
        {
            to.push(key);
            from = ApplicationKey(key.0.saturating_add(1));
        }
        Ok((!to.is_empty()).then_some((task, to)))
    }
}
