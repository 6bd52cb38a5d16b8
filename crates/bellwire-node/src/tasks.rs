//! Background tasks: the committing thread does a slice of one between two commits, and rests after it, so that messages that
//! arrive have most of its time. A task that runs when the process ends goes on after the next start, from where it stopped.

use crate::broadcast;
use crate::core::Core;
use bellwire_engine::{BatchNumber, Input, Operational};
use bellwire_model::{ApplicationKey, Endpoint, EndpointKey, Message};
use bellwire_shape::{Candidate, judge};
use bellwire_store::{Change, CommitError, Matching, Task, TaskStatus, Work};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least rest after a slice; after a long one it is [`REST`] times as long as that took.
const REST_MIN: Duration = Duration::from_millis(2);
const REST: u32 = 2;
/// After a slice that could not be stored.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// After a page of a broadcast that found the intake full.
const PAGE_WAIT: Duration = Duration::from_millis(100);

/// When the next slice may be done, and whose end is still to be told.
pub(crate) struct Tasks {
    next: Instant,
    /// Tasks that have ended. The store remembers, too: what is left here when the process ends is told after the next start.
    ended: VecDeque<Task>,
    /// Those that a batch tells of which is not durable yet.
    telling: Vec<(BatchNumber, Task)>,
    /// The batch with a page of a broadcast: there is no slice before it is known what became of it.
    page: Option<BatchNumber>,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Tasks { next: Instant::now(), ended: VecDeque::new(), telling: Vec::new(), page: None }
    }

    /// How long the committing thread may sleep as far as tasks are concerned.
    pub(crate) fn wait(&self, core: &Core) -> Duration {
        let is_busy = core.store.has_tasks() || !self.ended.is_empty();
        if is_busy { self.next.saturating_duration_since(Instant::now()) } else { Duration::MAX }
    }

    /// Does a slice, if there is one to do and the rest is over. The engines are told of every commit before it.
    pub(crate) fn turn(&mut self, core: &Core) {
        let started = Instant::now();
        if started < self.next {
            return;
        }
        self.tell(core);
        if !core.store.has_tasks() || self.page.is_some() {
            return;
        }
        match core.store.advance_task(core.clock.engine(), &Present(core)) {
            Ok(advanced) => {
                self.next = Instant::now() + (started.elapsed() * REST).max(REST_MIN);
                let Some(advanced) = advanced else { return };
                if let Some(endpoint) = advanced.look_again {
                    core.tell_all(|| Input::LookAgain(endpoint));
                    core.pipes.wakes.rouse(endpoint);
                }
                if let Some(task) = advanced.task.as_ref().filter(|_| !advanced.to.is_empty()) {
                    self.broadcast(core, task, &advanced.to);
                }
                if let Some(task) = advanced.task.filter(|task| task.status != TaskStatus::Running) {
                    note_end(&task);
                    self.ended.push_back(task);
                    self.tell(core);
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

    /// A batch is durable, and what it tells of is told.
    pub(crate) fn committed(&mut self, batch: BatchNumber) {
        self.page.take_if(|page| *page == batch);
        self.telling.retain(|(number, _)| *number != batch);
    }

    /// A batch was refused: what it would have told of is told by another one.
    pub(crate) fn refused(&mut self, batch: BatchNumber) {
        if self.page.take_if(|page| *page == batch).is_some() {
            self.next = Instant::now() + RETRY_WAIT;
        }
        self.ended.extend(self.telling.extract_if(.., |(number, _)| *number == batch).map(|(_, task)| task));
    }

    fn broadcast(&mut self, core: &Core, task: &Task, to: &[ApplicationKey]) {
        let Work::Broadcast(Some(message)) = &task.work else { return };
        match broadcast::offer(core, task, message, to) {
            Ok(batch) => self.page = Some(batch),
            Err(error) => {
                tracing::debug!(task.id = %task.id, %error, "a page of a broadcast has to wait");
                self.next = Instant::now() + PAGE_WAIT;
            }
        }
    }

    /// Tells of each end to whoever wants to know: the operational webhook `background_task.finished` goes out from here. That it was told is in
    /// the batch that tells it, so a crash makes it neither lost nor told twice.
    fn tell(&mut self, core: &Core) {
        while let Some(task) = self.ended.pop_front() {
            let told = Operational::of_task(&core.catalogue.read(), &task);
            let change = vec![Change::TaskTold(task.id)];
            let taken = core.intake.lock().change_and_tell(core.clock.engine(), change, told.into_iter().collect());
            match taken {
                Ok(batch) => self.telling.push((batch, task)),
                Err(error) => {
                    tracing::warn!(task.id = %task.id, ?error, "nobody can be told yet that a background task has ended");
                    self.ended.push_front(task);
                    self.next = Instant::now() + RETRY_WAIT;
                    return;
                }
            }
        }
    }
}

fn note_end(task: &Task) {
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
        judge(&endpoint, &candidate).is_match(|_| self.0.metrics.filter_failed())
    }
}
