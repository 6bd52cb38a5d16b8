//! Threads for scripts, and whose turn it is.
//!
//! What a script is and what running it means is its [`Job`]'s business: endpoints' transformations here, handlers of plugins elsewhere.
//!
//! Scripts never run on the threads that accept and deliver. Each endpoint is a lane here: one script at a time, and the lane
//! that has used the least time goes first, so an endpoint whose script loops waits for itself. Lanes whose last run was slow
//! never take the last free thread.
//!
//! A script is stopped at its deadline by the interpreter. Should it sit in one of the interpreter's own loops, which cannot be
//! stopped, it has failed before twice its deadline, its thread is given up and replaced, and the script is not started again until that
//! thread has come back, if it ever does. It computes on with what nobody else wants of the processor. A few are given up at most, of them
//! two to one owner's scripts.

mod given_up;

use super::ScriptError;
use super::sandbox::Bounds;
use given_up::{GivenUp, THREADS_MAX, ThreadId};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Bounds of all scripts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScriptLimits {
    /// Threads for them; they are started with the first script. At least 2, so that a slow one leaves one free.
    pub threads: usize,
    /// For one message.
    pub deadline: Duration,
    /// For one script, its message included.
    pub heap_bytes_max: usize,
    /// Of what it returns, as JSON.
    pub output_bytes_max: usize,
}

impl Default for ScriptLimits {
    fn default() -> Self {
        ScriptLimits {
            threads: 2,
            deadline: Duration::from_millis(100),
            heap_bytes_max: 32 * 1024 * 1024,
            output_bytes_max: 1024 * 1024,
        }
    }
}

/// Slower than this, a lane leaves a thread to others.
const SLOW_AFTER: Duration = Duration::from_millis(10);
/// Loaded scripts that each thread keeps.
const ENGINES_KEPT_MAX: usize = 32;
const STACK_BYTES_MAX: usize = 256 * 1024;
const THREAD_STACK_BYTES: usize = 4 * 1024 * 1024;
/// After its deadline a script may take half as long again before its thread is given up, but no longer than this.
const GRACE_MAX: Duration = Duration::from_secs(1);
/// From so many waiting in a lane on, those that nobody wants any more are thrown out when the next one comes: a reader who hangs up again and
/// again would leave one each time, with its message.
const UNWANTED_MAX: usize = 16;
/// Lanes that are remembered while nothing of theirs waits.
const LANES_KEPT_MAX: usize = 4_096;

/// A script's turn: what a thread does without a break.
pub trait Job: Send + 'static {
    /// A loaded script, as a thread keeps it for the next turn of the same.
    type Engine: 'static;
    /// What comes of a turn.
    type Done: Send + 'static;

    /// Whose turn it is: jobs with the same lane run one after the other.
    fn lane(&self) -> u64;

    /// Whose script it is. An owner has one or several lanes.
    fn owner(&self) -> u64 {
        self.lane()
    }

    /// The script's text.
    fn code(&self) -> &Arc<str>;

    /// Does it, within [`ScriptLimits::deadline`].
    ///
    /// # Errors
    /// What the script's owner is to read.
    fn run(self, engines: &mut Engines<Self::Engine>) -> Result<Self::Done, ScriptError>;
}

type Answer<J> = Box<dyn FnOnce(Result<<J as Job>::Done, ScriptError>) + Send>;

/// Runs scripts. Cheap to clone; all clones share the threads, which end with the last clone.
pub struct Pool<J: Job>(Arc<Owner<J>>);

struct Owner<J: Job>(Arc<Shared<J>>);

struct Shared<J: Job> {
    limits: ScriptLimits,
    state: Mutex<State<J>>,
    work: Condvar,
    watch: Condvar,
}

struct State<J: Job> {
    lanes: HashMap<u64, Lane<J>>,
    /// Lanes with work and nothing running, by the time that they have used.
    quick: BTreeSet<(Duration, u64)>,
    slow: BTreeSet<(Duration, u64)>,
    running: HashMap<u64, Running<J>>,
    slow_running: usize,
    threads: usize,
    next_ticket: u64,
    /// What the lane that was started last had used: a new lane begins here, not with a lead.
    used: Duration,
    given_up: GivenUp,
    ending: bool,
    watched: bool,
}

struct Lane<J: Job> {
    waiting: VecDeque<Waiting<J>>,
    used: Duration,
    slow: bool,
    busy: bool,
}

struct Waiting<J: Job> {
    job: J,
    answer: Answer<J>,
    /// Who asked; nobody that can go away if absent.
    asked_by: Option<Weak<()>>,
}

impl<J: Job> Waiting<J> {
    fn is_wanted(&self) -> bool {
        self.asked_by.as_ref().is_none_or(|asked_by| asked_by.strong_count() > 0)
    }
}

struct Running<J: Job> {
    lane: u64,
    owner: u64,
    code: Arc<str>,
    since: Instant,
    slow: bool,
    answer: Answer<J>,
    thread: ThreadId,
}

// By hand, because `derive` would ask for a job that can be made from nothing.
impl<J: Job> Default for State<J> {
    fn default() -> Self {
        State {
            lanes: HashMap::new(),
            quick: BTreeSet::new(),
            slow: BTreeSet::new(),
            running: HashMap::new(),
            slow_running: 0,
            threads: 0,
            next_ticket: 0,
            used: Duration::ZERO,
            given_up: GivenUp::default(),
            ending: false,
            watched: false,
        }
    }
}

impl<J: Job> Default for Lane<J> {
    fn default() -> Self {
        Lane { waiting: VecDeque::new(), used: Duration::ZERO, slow: false, busy: false }
    }
}

impl<J: Job> Pool<J> {
    /// No thread is started yet.
    pub fn new(limits: ScriptLimits) -> Self {
        let limits = ScriptLimits { threads: limits.threads.max(2), ..limits };
        let shared = Shared { limits, state: Mutex::default(), work: Condvar::new(), watch: Condvar::new() };
        Pool(Arc::new(Owner(Arc::new(shared))))
    }

    /// What was said when it was made.
    pub fn limits(&self) -> ScriptLimits {
        self.0.0.limits
    }

    /// Runs a script when its lane's turn comes, and hands what came of it to `answer`, on another thread. How many wait is
    /// bounded by who asks.
    pub fn run(&self, job: J, answer: impl FnOnce(Result<J::Done, ScriptError>) + Send + 'static) {
        self.push(job, None, Box::new(answer));
    }

    /// The same for somebody who may go away: what `asked_by` no longer leads to does not wait for long, and may never be answered.
    pub fn run_for(
        &self,
        asked_by: &Arc<()>,
        job: J,
        answer: impl FnOnce(Result<J::Done, ScriptError>) + Send + 'static,
    ) {
        self.push(job, Some(Arc::downgrade(asked_by)), Box::new(answer));
    }

    fn push(&self, job: J, asked_by: Option<Weak<()>>, answer: Answer<J>) {
        let shared = &self.0.0;
        let mut state = shared.lock();
        if state.threads == 0 && !shared.start_threads(&mut state) {
            drop(state);
            return answer(Err(ScriptError::Failed("no thread is left for scripts".to_owned())));
        }
        if let Some(why) = state.refusal(&job) {
            drop(state);
            return answer(Err(ScriptError::Failed(why.to_owned())));
        }
        let key = job.lane();
        let least = state.used;
        let lane = state.lanes.entry(key).or_default();
        if lane.waiting.is_empty() && !lane.busy {
            lane.used = lane.used.max(least);
        }
        if lane.waiting.len() >= UNWANTED_MAX {
            lane.waiting.retain(Waiting::is_wanted);
        }
        lane.waiting.push_back(Waiting { job, answer, asked_by });
        if !lane.busy && lane.waiting.len() == 1 {
            let place = (lane.used, key);
            if lane.slow {
                state.slow.insert(place)
            } else {
                state.quick.insert(place)
            };
            shared.work.notify_one();
        }
    }
}

impl<J: Job> Clone for Pool<J> {
    fn clone(&self) -> Self {
        Pool(Arc::clone(&self.0))
    }
}

impl<J: Job> Default for Pool<J> {
    fn default() -> Self {
        Pool::new(ScriptLimits::default())
    }
}

impl<J: Job> std::fmt::Debug for Pool<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pool").field(&self.0.0.limits).finish()
    }
}

impl<J: Job> Drop for Owner<J> {
    fn drop(&mut self) {
        self.0.lock().ending = true;
        self.0.work.notify_all();
        self.0.watch.notify_all();
    }
}

impl<J: Job> Shared<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        // Nothing that can panic happens under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether at least one runs.
    fn start_threads(self: &Arc<Self>, state: &mut State<J>) -> bool {
        if state.given_up.threads() >= THREADS_MAX {
            return false;
        }
        while state.threads < self.limits.threads {
            let shared = Arc::clone(self);
            let builder = std::thread::Builder::new().name("script".to_owned()).stack_size(THREAD_STACK_BYTES);
            if builder.spawn(move || shared.serve()).is_err() {
                break;
            }
            state.threads += 1;
        }
        if !state.watched {
            let shared = Arc::clone(self);
            let watching = std::thread::Builder::new().name("script-watch".to_owned()).spawn(move || shared.watch());
            state.watched = watching.is_ok();
        }
        state.threads > 0
    }

    /// A thread's life.
    fn serve(self: Arc<Self>) {
        let mut engines = Engines { limits: self.limits, kept: VecDeque::new() };
        let thread = ThreadId::of_this();
        let mut state = self.lock();
        loop {
            if state.ending {
                return;
            }
            let Some((ticket, job)) = state.start(self.limits.threads, thread) else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            self.watch.notify_one();
            drop(state);
            let (owner, lane, code) = (job.owner(), job.lane(), Arc::clone(job.code()));
            let begun = Instant::now();
            // A panic of ours ends as a failed script, not as a thread that is missing.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job.run(&mut engines)))
                .unwrap_or_else(|_| Err(ScriptError::Failed("the script failed on our side".to_owned())));
            let took = begun.elapsed();
            state = self.lock();
            let Some(running) = state.running.remove(&ticket) else {
                // It was given up, and has come back, but to the lowest priority.
                state.given_up.remove(owner, lane, &code);
                self.start_threads(&mut state);
                return;
            };
            state.finish(&running, took);
            self.work.notify_one();
            drop(state);
            (running.answer)(done);
            state = self.lock();
        }
    }

    /// Gives threads up that a script holds beyond its deadline.
    fn watch(self: Arc<Self>) {
        let patience = self.limits.deadline + GRACE_MAX.min(self.limits.deadline / 2);
        let mut state = self.lock();
        loop {
            if state.ending {
                return;
            }
            let Some(first) = state.running.values().map(|running| running.since).min() else {
                state = self.watch.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = patience.saturating_sub(first.elapsed());
            if !left.is_zero() {
                // Woken with every start; there is no hurry to look.
                state = self.watch.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            let Some(ticket) = state.running.iter().find(|(_, r)| r.since == first).map(|(ticket, _)| *ticket) else {
                continue;
            };
            let Some(running) = state.running.remove(&ticket) else { continue };
            state.threads -= 1;
            state.given_up.add(running.owner, running.lane, &running.code);
            // It cannot end before it has the lock.
            running.thread.yield_to_all();
            // Those that wait for the same script would each take a thread with them.
            let mut refused = state.refused();
            state.finish(&running, patience);
            self.start_threads(&mut state);
            if state.threads == 0 {
                let waiting = state.lanes.drain().flat_map(|(_, lane)| lane.waiting);
                refused.extend(waiting.map(|waiting| (waiting.answer, "no thread is left for scripts")));
                state.quick.clear();
                state.slow.clear();
            }
            self.work.notify_all();
            drop(state);
            (running.answer)(Err(ScriptError::Late("the script could not be stopped at its deadline".to_owned())));
            for (answer, why) in refused {
                answer(Err(ScriptError::Failed(why.to_owned())));
            }
            state = self.lock();
        }
    }
}

impl<J: Job> State<J> {
    /// Takes the script whose turn it is.
    fn start(&mut self, threads: usize, thread: ThreadId) -> Option<(u64, J)> {
        let quick = self.quick.first().copied();
        let slow = self.slow.first().copied().filter(|_| self.slow_running + 1 < threads);
        let (place, is_slow) = match (quick, slow) {
            (Some(quick), Some(slow)) if slow < quick => (slow, true),
            (Some(quick), _) => (quick, false),
            (None, Some(slow)) => (slow, true),
            (None, None) => return None,
        };
        if is_slow {
            self.slow.remove(&place)
        } else {
            self.quick.remove(&place)
        };
        let (used, key) = place;
        let lane = self.lanes.get_mut(&key)?;
        let Waiting { job, answer, .. } = lane.waiting.pop_front()?;
        let owner = job.owner();
        lane.busy = true;
        self.used = self.used.max(used);
        self.slow_running += usize::from(is_slow);
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let (code, since) = (Arc::clone(job.code()), Instant::now());
        let running = Running { lane: key, owner, code, since, slow: is_slow, answer, thread };
        self.running.insert(ticket, running);
        Some((ticket, job))
    }

    /// See [`GivenUp::refusal`].
    fn refusal(&self, job: &J) -> Option<&'static str> {
        self.given_up.refusal(job.owner(), job.lane(), job.code())
    }

    /// Takes what waits and is not to be started any more.
    fn refused(&mut self) -> Vec<(Answer<J>, &'static str)> {
        let lanes: Vec<u64> =
            self.lanes.iter().filter(|(_, lane)| !lane.waiting.is_empty()).map(|(key, _)| *key).collect();
        let mut refused = Vec::new();
        for key in lanes {
            let Some(mut waiting) = self.lanes.get_mut(&key).map(|lane| std::mem::take(&mut lane.waiting)) else {
                continue;
            };
            let mut kept = VecDeque::with_capacity(waiting.len());
            while let Some(one) = waiting.pop_front() {
                match self.refusal(&one.job) {
                    Some(why) => refused.push((one.answer, why)),
                    None => kept.push_back(one),
                }
            }
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            lane.waiting = kept;
            if lane.waiting.is_empty() {
                let place = (lane.used, key);
                self.quick.remove(&place);
                self.slow.remove(&place);
            }
        }
        refused
    }

    fn finish(&mut self, running: &Running<J>, took: Duration) {
        self.slow_running -= usize::from(running.slow);
        let Some(lane) = self.lanes.get_mut(&running.lane) else { return };
        lane.busy = false;
        lane.used += took;
        lane.slow = took > SLOW_AFTER;
        let place = (lane.used, running.lane);
        if !lane.waiting.is_empty() {
            if lane.slow {
                self.slow.insert(place)
            } else {
                self.quick.insert(place)
            };
        } else if self.lanes.len() > LANES_KEPT_MAX {
            self.lanes.retain(|_, lane| lane.busy || !lane.waiting.is_empty());
        }
    }
}

/// Scripts that one thread has loaded, the one used last at the end.
pub struct Engines<E> {
    limits: ScriptLimits,
    kept: VecDeque<(u64, Arc<str>, E)>,
}

impl<E> Engines<E> {
    /// Bounds for each of them.
    pub fn bounds(&self) -> Bounds {
        Bounds { heap_bytes_max: self.limits.heap_bytes_max, stack_bytes_max: STACK_BYTES_MAX }
    }

    /// Of all scripts.
    pub fn limits(&self) -> ScriptLimits {
        self.limits
    }

    /// The engine that was kept for this script, if there is one; it is the caller's now.
    pub fn take(&mut self, lane: u64, code: &Arc<str>) -> Option<E> {
        let found = self.kept.iter().position(|(kept, text, _)| *kept == lane && text == code);
        found.and_then(|at| self.kept.remove(at)).map(|(_, _, engine)| engine)
    }

    /// Keeps one for the next turn, in place of the one that was not used for longest.
    pub fn keep(&mut self, lane: u64, code: Arc<str>, engine: E) {
        if self.kept.len() >= ENGINES_KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back((lane, code, engine));
    }
}

#[cfg(test)]
mod tests;
