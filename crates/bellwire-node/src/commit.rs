//! The committing thread: seals what has come in, commits it, tells everyone. The only writer of the store.
//!
//! It sleeps while there is nothing to do, and does the store's upkeep while there is nothing better to do,
//! and slices of background tasks in between. While a commit is
//! being synced, the next batch collects; that is all there is to group commit.

use crate::core::{Core, Mail};
use crate::tasks::Tasks;
use bellwire_api::backend::AcceptError;
use bellwire_engine::Input;
use bellwire_store::{Change, CommitError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long it waits after a commit that failed for want of room before it tries again.
const RETRY_WAIT: Duration = Duration::from_millis(250);
/// Without anything to do it looks after this long anyway: retention is due now and then.
const IDLE_WAIT: Duration = Duration::from_secs(1);
/// When no upkeep was left to do, it looks again after this at the earliest: even looking takes a few queries.
const UPKEEP_WAIT: Duration = Duration::from_millis(500);
/// Between two slices of upkeep while there are commits to make as well.
const UPKEEP_PAUSE: Duration = Duration::from_millis(20);
/// After a refused commit doors may try again after this.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// What engines decided waits so long for a message to share its commit with; nobody waits for it.
const COMPANY_WAIT: Duration = Duration::from_millis(1);

/// After a commit that at least so many waited for,
const MANY: usize = 16;
/// the next ones are given so long to come together.
const GATHERING_WAIT: Duration = Duration::from_micros(200);

/// Wakes the committing thread, at no cost while it is awake.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// [`AWAKE`], or who may wake it.
    listening: AtomicU8,
    thread: std::sync::OnceLock<Thread>,
}

const AWAKE: u8 = 0;
/// Asleep until a request waits for a commit.
const FOR_REQUESTS: u8 = 1;
/// Asleep until there is anything at all.
const FOR_ANYTHING: u8 = 2;

impl Bell {
    /// A request waits for its commit.
    pub(crate) fn ring(&self) {
        if self.listening.load(Ordering::SeqCst) != AWAKE {
            self.wake();
        }
    }

    /// There is something to commit that nobody waits for.
    pub(crate) fn ring_softly(&self) {
        if self.listening.load(Ordering::SeqCst) == FOR_ANYTHING {
            self.wake();
        }
    }

    fn wake(&self) {
        if self.listening.swap(AWAKE, Ordering::SeqCst) != AWAKE
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Waits until it is rung or `limit` has passed, unless `ready` says that there is something already.
    fn wait(&self, listening: u8, limit: Duration, ready: impl Fn() -> bool) {
        self.listening.store(listening, Ordering::SeqCst);
        if !ready() {
            std::thread::park_timeout(limit);
        }
        self.listening.store(AWAKE, Ordering::SeqCst);
    }
}

/// Starts the thread. It ends when the core is stopping and nothing is left, or with the process when the store's state is unknown.
pub(crate) fn start(core: Arc<Core>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("commit".into()).spawn(move || {
        let _ = core.bell.thread.set(std::thread::current());
        let committing = std::panic::AssertUnwindSafe(|| run(&core));
        if std::panic::catch_unwind(committing).is_err() {
            tracing::error!("the committing thread failed; ending, a restart takes up what it held");
            std::process::exit(70);
        }
    })
}

fn run(core: &Core) {
    let mut refused: Option<Refused> = None;
    let mut upkeep_after = Instant::now();
    let mut tasks = Tasks::new();
    loop {
        // Read before sealing: what a shard handed in before it was done is then seen.
        let last = core.stopping() && core.shards_done();
        if core.store.upkeep_owed() || upkeep_after <= Instant::now() {
            let more = upkeep(core);
            upkeep_after = Instant::now() + if more { UPKEEP_PAUSE } else { UPKEEP_WAIT };
        }
        if refused.is_none() && !core.stopping() {
            tasks.turn(core);
        }
        if refused.is_some_and(|refused| refused.probe_at <= Instant::now()) {
            refused = None;
            accept_again(core);
        }
        let sealed = core.intake.lock().seal();
        let Some(sealed) = sealed else {
            if last || (core.stopping() && core.deadline_passed()) {
                return;
            }
            let limit = if core.stopping() { COMPANY_WAIT } else { IDLE_WAIT };
            let limit = limit.min(upkeep_after.saturating_duration_since(Instant::now())).min(tasks.wait(core));
            core.bell.wait(FOR_ANYTHING, limit, || !core.intake.lock().is_empty());
            continue;
        };
        let started = Instant::now();
        match core.store.commit(&sealed.batch) {
            Ok(()) => {
                core.metrics.committed(started.elapsed(), &sealed.batch);
                let awaited = sealed.awaited;
                let from_doors = awaited > 0;
                if from_doors && refused.take().is_some() {
                    accept_again(core);
                }
                let number = sealed.number;
                core.pipes.wakes.publish(&sealed.batch);
                let changes = configuration(&sealed.batch.changes);
                // Given back first, so that its room is used again.
                drop(sealed);
                let shards = {
                    let mut intake = core.intake.lock();
                    let shards = intake.committed();
                    core.note_crowd(&intake);
                    shards
                };
                // Before the mail: who still finds it undurable has not missed the mail.
                core.durable.store(number, Ordering::Release);
                for (mailbox, committed) in core.mailboxes.iter().zip(shards) {
                    mailbox.put(Mail::Committed(number, committed));
                }
                if !changes.is_empty() {
                    core.apply(&changes);
                    core.pipes.wakes.applied(&changes);
                }
                core.applied.store(number, Ordering::Release);
                tasks.committed(number);
                if awaited >= MANY {
                    // They come again, or others like them: what is written for every batch is then written for more of them.
                    std::thread::sleep(GATHERING_WAIT);
                }
                if !from_doors && !core.stopping() {
                    // Only outcomes: let the next ones gather, unless a message comes.
                    core.bell.wait(FOR_REQUESTS, COMPANY_WAIT, || core.intake.lock().queued().0 > 0);
                }
            }
            Err(CommitError::Unknown(detail)) => {
                tracing::error!(
                    detail,
                    "whether the last commit was kept is not known; ending at once, a restart finds out"
                );
                eprintln!("error: the store failed in the middle of a commit: {detail}");
                eprintln!("hint: check the disk; nothing acknowledged is lost, the next start recovers");
                std::process::exit(74);
            }
            Err(error) => {
                let refusal = match &error {
                    CommitError::Full => AcceptError::Full,
                    CommitError::LeaseLost { .. } => AcceptError::Closed,
                    _ => AcceptError::Busy,
                };
                if core.failing().is_none() {
                    tracing::error!(%error, "the store refuses commits; trying again until it does not");
                    core.set_failing(Some(error.to_string()));
                    core.tell_all(|| Input::StoreFailing(true));
                }
                core.metrics.commit_failed();
                tasks.refused(sealed.number);
                refused = Some(Refused { probe_at: Instant::now() + PROBE_WAIT });
                {
                    // What engines decided has the store to itself until the probe.
                    let mut intake = core.intake.lock();
                    intake.failed();
                    intake.hold_doors(true);
                    core.note_crowd(&intake);
                }
                for mailbox in &core.mailboxes {
                    mailbox.put(Mail::Refused(sealed.number, refusal.clone()));
                }
                // Removing what is past its time is what makes room.
                upkeep(core);
                if core.stopping() && core.deadline_passed() {
                    return;
                }
                std::thread::sleep(RETRY_WAIT);
            }
        }
    }
}

/// What of a batch concerns the catalogue.
fn configuration(changes: &[Change]) -> Vec<Change> {
    let elsewhere = |change: &Change| {
        matches!(
            change,
            Change::Wait { .. }
                | Change::KeepAnswer(_)
                | Change::PutSourceCursor(_)
                | Change::PutConsumer { .. }
                | Change::Settle(_)
                | Change::Broadcasted(_)
                | Change::TaskTold(_)
        )
    };
    changes.iter().filter(|change| !elsewhere(change)).cloned().collect()
}

/// The store refused a commit.
#[derive(Clone, Copy)]
struct Refused {
    /// When doors may try again. Without that, nobody would ever find out that there is room.
    probe_at: Instant,
}

/// Takes from doors again; if there is still no room, the next commit says so.
fn accept_again(core: &Core) {
    core.intake.lock().hold_doors(false);
    if core.failing().is_some() {
        tracing::info!("trying the store again with messages");
        core.set_failing(None);
        core.tell_all(|| Input::StoreFailing(false));
    }
}

/// A slice of upkeep; answers whether there is more.
fn upkeep(core: &Core) -> bool {
    match core.store.upkeep(core.clock.engine()) {
        Ok(more) => more,
        Err(CommitError::Unknown(detail)) => {
            tracing::error!(detail, "the store's upkeep failed in a way that leaves its state unknown; ending");
            eprintln!("error: the store failed: {detail}");
            std::process::exit(74);
        }
        Err(error) => {
            tracing::warn!(%error, "the store's upkeep has to wait");
            false
        }
    }
}
