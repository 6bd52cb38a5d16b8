//! The tasks of a shard that make attempts by push, one attempt after another: the room for one is a few kilobytes, and to make
//! it anew for each would cost more than its signature.

use crate::pump::{Handing, answered, traced};
use crate::traces::AttemptTrace;
use bellwire_delivery::Push;
use bellwire_engine::Start;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::sync::Notify;
use tokio::task::spawn_local;

/// So many wait for their next attempt at most; those beyond end with the one that they made.
const IDLE_MAX: usize = 128;

/// A shard's.
pub(crate) struct Attempters {
    push: Rc<Push>,
    /// Those that wait for their next attempt, the last one to begin it first.
    idle: RefCell<Vec<Rc<Attempter>>>,
}

/// An idle one takes the job that lies here when it is called.
#[derive(Default)]
struct Attempter {
    job: RefCell<Option<Job>>,
    called: Notify,
}

/// An attempt to be made.
pub(crate) struct Job {
    pub(crate) start: Start,
    pub(crate) trace: Option<AttemptTrace>,
    pub(crate) handing: Handing,
}

impl Attempters {
    pub(crate) fn new(push: Rc<Push>) -> Self {
        Attempters { push, idle: RefCell::default() }
    }

    /// Has an attempt made; its outcome is handed in whatever happens.
    pub(crate) fn make(self: &Rc<Self>, job: Job) {
        let idle = self.idle.borrow_mut().pop();
        match idle {
            Some(idle) => {
                *idle.job.borrow_mut() = Some(job);
                idle.called.notify_one();
            }
            None => drop(spawn_local(Rc::clone(self).work(job))),
        }
    }

    /// Makes attempts until there are enough others to make them.
    async fn work(self: Rc<Self>, first: Job) {
        let own = Rc::new(Attempter::default());
        let mut next = Some(first);
        loop {
            if let Some(job) = next.take() {
                self.attempt(job).await;
                let mut idle = self.idle.borrow_mut();
                if idle.len() >= IDLE_MAX {
                    return;
                }
                idle.push(Rc::clone(&own));
            }
            own.called.notified().await;
            next = own.job.take();
        }
    }

    async fn attempt(&self, Job { start, trace, handing }: Job) {
        let parent = trace.as_ref().and_then(AttemptTrace::header);
        let outcome = self.push.attempt_in_trace(&start.endpoint, &start.message, crate::clock::wall(), parent).await;
        crate::observe::attempt(&start, &outcome);
        traced(&handing.core, trace, &start, &outcome);
        answered(&handing.core, &start, &outcome);
        handing.done(outcome);
    }
}
