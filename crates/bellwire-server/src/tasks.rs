//! Background tasks: the committing thread does a slice of one between two commits, and rests after it, so that messages that
//! arrive have most of its time. A task that runs when the process ends goes on after the next start, from where it stopped.

use crate::core::Core;
use bellwire_engine::{Input, Operational};
use bellwire_model::{Endpoint, EndpointKey, Message};
use bellwire_shape::{Candidate, Verdict, judge};
use bellwire_store::{Advanced, CommitError, Matching, Task, TaskStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least rest after a slice; after a long one it is [`REST`] times as long as that took.
const REST_MIN: Duration = Duration::from_millis(2);
const REST: u32 = 2;
/// After a slice that could not be stored.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// When the next slice may be done.
pub(crate) struct Tasks {
    next: Instant,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Tasks { next: Instant::now() }
    }

    /// How long the committing thread may sleep as far as tasks are concerned.
    pub(crate) fn wait(&self, core: &Core) -> Duration {
        if core.store.has_tasks() { self.next.saturating_duration_since(Instant::now()) } else { Duration::MAX }
    }

    /// Does a slice, if there is one to do and the rest is over. The engines are told of every commit before it.
    pub(crate) fn turn(&mut self, core: &Core) {
        let started = Instant::now();
        if !core.store.has_tasks() || started < self.next {
            return;
        }
        match core.store.advance_task(core.clock.engine(), &Present(core)) {
            Ok(advanced) => {
                self.next = Instant::now() + (started.elapsed() * REST).max(REST_MIN);
                if let Some(advanced) = advanced {
                    tell(core, &advanced);
                }
            }
            Err(CommitError::Unknown(detail)) => {
                tracing::error!(
                    detail,
                    "a slice of a task failed in a way that leaves the store's state unknown; ending"
                );
                eprintln!("error: the store failed: {detail}");
                std::process::exit(74);
            }
            Err(error) => {
                tracing::warn!(%error, "background tasks have to wait");
                self.next = Instant::now() + RETRY_WAIT;
            }
        }
    }
}

fn tell(core: &Core, advanced: &Advanced) {
    if let Some(endpoint) = advanced.look_again {
        core.tell_all(|| Input::LookAgain(endpoint));
        core.pipes.wakes.rouse(endpoint);
    }
    if let Some(task) = advanced.task.as_ref().filter(|task| task.status != TaskStatus::Running) {
        background_task_finished(core, task);
    }
}

/// A task has ended, however it did. Called once for each, by the committing thread, when that is durable; a crash right after
/// its last slice leaves it out. The operational webhook `background_task.finished` goes out from here.
fn background_task_finished(core: &Core, task: &Task) {
    if let Some(told) = Operational::of_task(&core.catalogue.read(), task)
        && let Err(error) = core.intake.lock().change_and_tell(core.clock.engine(), Vec::new(), vec![told])
    {
        tracing::warn!(task.id = %task.id, ?error, "nobody can be told that a background task has ended");
    }
    tracing::info!(
        task.id = %task.id,
        task.kind = task.work.kind().name(),
        task.status = ?task.status,
        task.scanned = task.progress.scanned,
        task.touched = task.progress.touched,
        "background task ended"
    );
}

/// Who would get a message as things are now.
struct Present<'a>(&'a Core);

impl Present<'_> {
    /// The lock is held for a look, not for a slice: doors need it, too.
    fn endpoint(&self, key: EndpointKey) -> Option<Arc<Endpoint>> {
        self.0.catalogue.read().endpoint(key).cloned()
    }
}

impl Matching for Present<'_> {
    fn wants_payload(&self, endpoint: EndpointKey) -> bool {
        self.endpoint(endpoint).is_some_and(|endpoint| endpoint.shape.filter.is_some())
    }

    fn matches(&self, endpoint: EndpointKey, message: &Message) -> bool {
        let Some(endpoint) = self.endpoint(endpoint) else { return false };
        let Message { event_type, event_id, channels, tags, payload, content_type, .. } = message;
        let payload = payload.as_deref().unwrap_or_default();
        let candidate = Candidate::new(event_type, event_id.as_deref(), channels, tags, payload).typed(content_type);
        match judge(&endpoint, &candidate) {
            Verdict::Match => true,
            Verdict::EventType | Verdict::Channels | Verdict::Filter => false,
            Verdict::Fault(_) => {
                self.0.metrics.filter_failed();
                false
            }
        }
    }
}
