//! A component's run, turn by turn: it runs until it waits for something, steps aside, and goes on on whichever thread is free.

use super::components::Clock;
use super::instance::{End, Outside};
use bellwire_shape::{Engines, Job, ScriptError};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// One turn of a component.
pub(super) struct Turn {
    pub(super) lane: u64,
    pub(super) digest: Arc<str>,
    pub(super) what: What,
    /// Nobody waits for it any longer.
    pub(super) until: Instant,
}

/// What a turn is for.
pub(super) enum What {
    /// It begins, or what it waited for has come.
    GoOn(Run),
    /// Nobody waits for it any more.
    Discard(Run),
}

/// What a turn came to.
pub(super) enum Done {
    /// It waits.
    Waits(Run),
    /// It is over.
    Ended(Result<End, ScriptError>),
    /// It was given back.
    Discarded,
}

/// A run, under way. It belongs to no thread.
pub(super) struct Run {
    running: Pin<Box<dyn Future<Output = Result<End, ScriptError>> + Send>>,
    outside: Arc<Outside>,
    clock: Arc<Clock>,
    /// Whose timers its WASI uses: the shard's.
    runtime: tokio::runtime::Handle,
    /// Computed so far.
    used: Duration,
}

impl Run {
    /// Not begun. Must be called on the shard's thread.
    pub(super) fn new(
        running: impl Future<Output = Result<End, ScriptError>> + Send + 'static,
        outside: Arc<Outside>,
        clock: Arc<Clock>,
    ) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Run { running: Box::pin(running), outside, clock, runtime, used: Duration::ZERO }
    }
}

impl Job for Turn {
    type Engine = ();
    type Done = Done;

    fn lane(&self) -> u64 {
        self.lane
    }

    fn code(&self) -> &Arc<str> {
        &self.digest
    }

    fn run(self, engines: &mut Engines<()>) -> Result<Done, ScriptError> {
        let mut run = match self.what {
            What::GoOn(run) => run,
            What::Discard(run) => {
                drop(run);
                return Ok(Done::Discarded);
            }
        };
        let begun = Instant::now();
        let until = begun + engines.limits().deadline.saturating_sub(run.used);
        run.outside.may_compute_until(until.min(self.until));
        let waker = Waker::from(Arc::clone(&run.outside));
        let polled = {
            let _timers = run.runtime.enter();
            let _ticking = run.clock.tick();
            run.running.as_mut().poll(&mut Context::from_waker(&waker))
        };
        run.used += begun.elapsed();
        Ok(match polled {
            Poll::Ready(end) => Done::Ended(end),
            Poll::Pending => Done::Waits(run),
        })
    }
}
