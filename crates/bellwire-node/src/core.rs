//! What all threads of the server share, and how they reach each other.
//!
//! A message crosses threads twice: from the door that took it into the intake, and from the committing thread into the
//! mailbox of the shard that owns its application. Under load it never crosses alone.

use crate::answers::Answers;
use crate::clock::Clock;
use crate::commit::Bell;
use crate::observe::Metrics;
use crate::sources::States;
use crate::traces::Tracer;
use bellwire_api::backend::{AcceptError, Tried};
use bellwire_api::pipe::Pipes;
use bellwire_engine::{BatchNumber, Catalogue, CommittedShard, Input, Intake, LaneSnapshot};
use bellwire_model::{EndpointKey, Message, Plugin, Timestamp};
use bellwire_store::{Change, Store};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use tokio::sync::{Notify, oneshot};

/// Shared by all threads.
pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) intake: Mutex<Intake>,
    pub(crate) bell: Bell,
    pub(crate) catalogue: RwLock<Catalogue>,
    /// One for each shard.
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    /// Held by whoever changes configuration.
    pub(crate) configuration: tokio::sync::Mutex<()>,
    /// The newest batch that is durable; the mail about it comes after.
    pub(crate) durable: AtomicU64,
    /// The newest batch that the catalogue has followed and every shard has its mail about.
    pub(crate) applied: AtomicU64,
    /// The last key given to an application or endpoint.
    pub(crate) last_key: AtomicU32,
    pub(crate) metrics: Metrics,
    /// Who waits for what endpoints answer.
    pub(crate) answers: Arc<Answers>,
    pub(crate) guard: Arc<bellwire_egress::Guard>,
    /// Present if messages are traced.
    pub(crate) tracer: Option<Tracer>,
    /// What readers of pipes share.
    pub(crate) pipes: Pipes,
    /// How the sources are doing that fetch their messages themselves.
    pub(crate) sources: Arc<States>,
    failing: Mutex<Option<String>>,
    /// Whether there is something in `failing`.
    is_failing: AtomicBool,
    /// Whether the intake was crowded when it was looked at last. Asked for every request, when its lock is what all of them want.
    is_crowded: AtomicBool,
    stopping: AtomicBool,
    deadline_passed: AtomicBool,
    shards_running: AtomicU32,
}

impl Core {
    #[expect(clippy::too_many_arguments, reason = "called once, when the server is put together")]
    pub(crate) fn new(
        clock: Clock,
        store: Arc<dyn Store>,
        intake: Intake,
        catalogue: Catalogue,
        shards: usize,
        last_key: u32,
        metrics: Metrics,
        guard: Arc<bellwire_egress::Guard>,
        tracer: Option<Tracer>,
        pipes: Pipes,
    ) -> Self {
        let sources = Arc::new(States::new(metrics.sources()));
        Core {
            clock,
            store,
            intake: Mutex::new(intake),
            bell: Bell::default(),
            catalogue: RwLock::new(catalogue),
            mailboxes: (0..shards).map(|_| Arc::new(Mailbox::default())).collect(),
            configuration: tokio::sync::Mutex::new(()),
            durable: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            last_key: AtomicU32::new(last_key),
            metrics,
            answers: Arc::default(),
            guard,
            tracer,
            pipes,
            sources,
            failing: Mutex::new(None),
            is_failing: AtomicBool::new(false),
            is_crowded: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            deadline_passed: AtomicBool::new(false),
            shards_running: AtomicU32::new(u32::try_from(shards).unwrap_or(u32::MAX)),
        }
    }

    /// Puts an input into every shard's mailbox.
    pub(crate) fn tell_all(&self, input: impl Fn() -> Input) {
        self.mailboxes.iter().for_each(|m| m.put(Mail::Tell(input())));
    }

    /// What a commit has changed of the configuration: the catalogue follows, and the engines are told, in the order of the commits.
    pub(crate) fn apply(&self, changes: &[Change]) {
        // Told under the lock: no door may address an endpoint before its engine's mailbox knows it.
        let mut catalogue = self.catalogue.write();
        for change in changes {
            match change {
                Change::DeleteEndpoint(endpoint) => self.pipes.forget(*endpoint),
                // What was handed out is pushed from now on.
                Change::PutEndpoint(endpoint) if endpoint.kind.is_attempted() => self.pipes.forget(endpoint.key),
                _ => {}
            }
            match catalogue.apply(change) {
                Some((Some(application), input)) => {
                    self.mailboxes[application.partition().shard(self.mailboxes.len())].put(Mail::Tell(input));
                }
                Some((None, input)) => self.tell_all(|| input.clone()),
                None => {}
            }
        }
        drop(catalogue);
        self.sources.applied(changes);
    }

    /// Why the store cannot commit, if it cannot.
    pub(crate) fn failing(&self) -> Option<String> {
        self.failing.lock().clone()
    }

    pub(crate) fn set_failing(&self, why: Option<String>) {
        let mut failing = self.failing.lock();
        self.is_failing.store(why.is_some(), Ordering::SeqCst);
        *failing = why;
    }

    /// Notes whether the intake is crowded, for [`Core::crowded`].
    pub(crate) fn note_crowd(&self, intake: &Intake) {
        let is_crowded = intake.is_crowded();
        if self.is_crowded.load(Ordering::Relaxed) != is_crowded {
            self.is_crowded.store(is_crowded, Ordering::Relaxed);
        }
    }

    /// The committing thread ends when nothing is left.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.bell.ring();
    }

    /// Why nothing more should be taken in for now, if so.
    pub(crate) fn crowded(&self) -> Option<&'static str> {
        if self.stopping() {
            return Some("the server is shutting down");
        }
        if self.is_failing.load(Ordering::SeqCst) {
            return Some("the store cannot commit at the moment");
        }
        self.is_crowded.load(Ordering::Relaxed).then_some("too many messages wait to be stored")
    }

    /// Whatever still cannot be stored is given up; it was acknowledged to nobody, or is stored already as pending.
    pub(crate) fn give_up(&self) {
        self.deadline_passed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn deadline_passed(&self) -> bool {
        self.deadline_passed.load(Ordering::SeqCst)
    }

    /// A shard's thread has ended and hands in nothing more.
    pub(crate) fn shard_done(&self) {
        self.shards_running.fetch_sub(1, Ordering::SeqCst);
        self.bell.ring();
    }

    pub(crate) fn shards_done(&self) -> bool {
        self.shards_running.load(Ordering::SeqCst) == 0
    }
}

/// What reaches a shard from other threads.
pub(crate) enum Mail {
    /// A batch is durable.
    Committed(BatchNumber, CommittedShard),
    /// A batch was not kept: whoever waits for it is refused.
    Refused(BatchNumber, AcceptError),
    /// An input for the engine.
    Tell(Input),
    /// Answered when all mail before it has been taken.
    Passed(oneshot::Sender<()>),
    /// See [`bellwire_engine::Engine::throttled_since`].
    Throttled(EndpointKey, oneshot::Sender<Option<Timestamp>>),
    /// Runs a plugin once, for somebody who tries it out.
    Try(Box<Plugin>, Arc<Message>, oneshot::Sender<Tried>),
    /// How the lanes stand.
    Lanes(oneshot::Sender<Vec<LaneSnapshot>>),
    /// Makes the pump panic.
    #[cfg(test)]
    Panic,
}

/// A shard's mailbox.
pub(crate) struct Mailbox {
    /// `None` once its pump has ended: whoever waits for an answer is told by the loss of its sender.
    mail: Mutex<Option<Vec<Mail>>>,
    /// Also rung by the shard's own tasks.
    pub(crate) notify: Notify,
    /// Requests of this shard's connections that wait for a batch, in order.
    waiters: Mutex<Vec<Waiter>>,
}

struct Waiter {
    batch: BatchNumber,
    answer: oneshot::Sender<Result<(), AcceptError>>,
}

impl Default for Mailbox {
    fn default() -> Self {
        Mailbox { mail: Mutex::new(Some(Vec::new())), notify: Notify::new(), waiters: Mutex::default() }
    }
}

impl Mailbox {
    pub(crate) fn put(&self, mail: Mail) {
        if let Some(all) = &mut *self.mail.lock() {
            all.push(mail);
        }
        self.notify.notify_one();
    }

    /// Is told when everything that is in it now has been taken, or when its pump has ended.
    pub(crate) fn passed(&self) -> oneshot::Receiver<()> {
        let (answer, receiver) = oneshot::channel();
        self.put(Mail::Passed(answer));
        receiver
    }

    /// Takes all mail, in exchange for an empty vector.
    pub(crate) fn take(&self, empty: Vec<Mail>) -> Vec<Mail> {
        self.mail.lock().as_mut().map(|all| std::mem::replace(all, empty)).unwrap_or_default()
    }

    /// Its pump has ended: nothing more is read, and nobody is left waiting.
    pub(crate) fn close(&self) {
        *self.mail.lock() = None;
        self.waiters.lock().clear();
    }

    /// Is told when `batch` is durable, or why it was not kept. Called on the shard's own thread, so that the mail about the batch
    /// is read after this returns.
    pub(crate) fn wait_for(&self, batch: BatchNumber) -> oneshot::Receiver<Result<(), AcceptError>> {
        let (answer, receiver) = oneshot::channel();
        self.waiters.lock().push(Waiter { batch, answer });
        receiver
    }

    /// Tells all that wait for `batch` or an earlier one.
    pub(crate) fn settle(&self, batch: BatchNumber, result: &Result<(), AcceptError>) {
        // `extract_if` closes the gaps in one pass; the answers wake tasks of this thread.
        for waiter in self.waiters.lock().extract_if(.., |w| w.batch <= batch) {
            let _ = waiter.answer.send(result.clone());
        }
    }
}
