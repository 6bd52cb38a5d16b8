//! The committing thread: seals what has come in, commits it, tells everyone. The only writer of the store.
//!
//! It sleeps while there is nothing to do, and does the store's upkeep while there is nothing better to do. While a commit is
//! being synced, the next batch collects; that is all there is to group commit.

use crate::core::{Core, Mail};
use bellwire_api::backend::AcceptError;
use bellwire_engine::Input;
use bellwire_store::CommitError;
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
/// What engines decided waits so long for a message to share its commit with; nobody waits for it.
const COMPANY_WAIT: Duration = Duration::from_millis(1);

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
    let mut failing = false;
    let mut upkeep_after = Instant::now();
    loop {
        let sealed = core.intake.lock().seal();
        let Some(sealed) = sealed else {
            if core.stopping() && core.shards_done() {
                return;
            }
            if upkeep_after <= Instant::now() {
                let more = upkeep(core);
                upkeep_after = Instant::now() + if more { Duration::ZERO } else { UPKEEP_WAIT };
                continue;
            }
            let limit = if core.stopping() { COMPANY_WAIT } else { IDLE_WAIT };
            core.bell.wait(FOR_ANYTHING, limit, || !core.intake.lock().is_empty());
            continue;
        };
        if core.store.upkeep_owed() {
            upkeep(core);
        }
        let started = Instant::now();
        match core.store.commit(&sealed.batch) {
            Ok(()) => {
                core.metrics.committed(started.elapsed(), &sealed.batch);
                if failing {
                    failing = false;
                    tracing::info!("the store accepts commits again");
                    core.set_failing(None);
                    core.tell_all(|| Input::StoreFailing(false));
                }
                let messages = !sealed.batch.accepted.is_empty() || !sealed.batch.changes.is_empty();
                let number = sealed.number;
                // Given back first, so that its room is used again.
                drop(sealed);
                let shards = core.intake.lock().committed();
                for (mailbox, committed) in core.mailboxes.iter().zip(shards) {
                    mailbox.put(Mail::Committed(number, committed));
                }
                core.durable.store(number, Ordering::Release);
                if !messages && !core.stopping() {
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
                if !failing {
                    failing = true;
                    tracing::error!(%error, "the store refuses commits; trying again until it does not");
                    core.set_failing(Some(error.to_string()));
                    core.tell_all(|| Input::StoreFailing(true));
                }
                core.metrics.commit_failed();
                core.intake.lock().failed();
                for mailbox in &core.mailboxes {
                    mailbox.put(Mail::Refused(sealed.number, refusal.clone()));
                }
                if core.stopping() && core.deadline_passed() {
                    return;
                }
                std::thread::sleep(RETRY_WAIT);
            }
        }
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
