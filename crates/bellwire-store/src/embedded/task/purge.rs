//! Payloads that are removed before their time.

use super::super::fault::Fault;
use super::super::message_log;
use super::super::writer::Writer;
use super::Budget;
use crate::{Span, Task};
use bellwire_model::ApplicationKey;

impl Writer {
    /// A slice of an application's messages loses its payloads.
    pub(super) fn purge(&mut self, task: &mut Task, application: ApplicationKey) -> Result<bool, Fault> {
        let mut budget = Budget::new(self.settings.slice);
        let mut full = Vec::new();
        let span = Span { first: task.progress.cursor, last: task.last };
        let progress = &mut task.progress;
        let snapshot = self.messages_of(application)?;
        let done = snapshot.walk_application(application, span, |candidate| {
            if !budget.is_left() {
                return Ok(false);
            }
            budget.scan(progress);
            progress.cursor = candidate.at.next();
            if let Some(bytes) = message_log::payload_bytes(&self.connection, candidate.at)? {
                budget.bytes = budget.bytes.saturating_sub(bytes as usize);
                budget.touch(progress);
                full.push(candidate.at);
            }
            Ok(true)
        })?;
        drop(snapshot);
        for message in full {
            message_log::expunge(&self.connection, message)?;
        }
        Ok(done)
    }
}
