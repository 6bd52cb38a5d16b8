//! Threads that were given up to scripts that cannot be stopped, and what is not started because of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Of all.
pub(super) const THREADS_MAX: usize = 8;
/// To one owner's scripts; then none of them is started until one has come back.
pub(super) const THREADS_OF_ONE_MAX: usize = 2;
/// `nice`'s.
#[cfg(target_os = "linux")]
const LOWEST_PRIORITY: i32 = 19;

/// Which threads are out, and may never come back.
#[derive(Default)]
pub(super) struct GivenUp {
    threads: usize,
    /// By the owner of the script.
    of_owners: HashMap<u64, usize>,
    /// By their lanes and texts.
    scripts: HashSet<(u64, Arc<str>)>,
}

impl GivenUp {
    /// How many are out.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// One more, to this script.
    pub(super) fn add(&mut self, owner: u64, lane: u64, code: &Arc<str>) {
        self.threads += 1;
        *self.of_owners.entry(owner).or_default() += 1;
        self.scripts.insert((lane, Arc::clone(code)));
    }

    /// This script's thread has come back.
    pub(super) fn remove(&mut self, owner: u64, lane: u64, code: &Arc<str>) {
        self.threads -= 1;
        self.scripts.remove(&(lane, Arc::clone(code)));
        if let Some(threads) = self.of_owners.get_mut(&owner) {
            *threads -= 1;
            if *threads == 0 {
                self.of_owners.remove(&owner);
            }
        }
    }

    /// Why this script is not to be started, whatever its turn.
    pub(super) fn refusal(&self, owner: u64, lane: u64, code: &Arc<str>) -> Option<&'static str> {
        if self.scripts.contains(&(lane, Arc::clone(code))) {
            return Some("the script could not be stopped before; change it");
        }
        let is_at_bound = self.of_owners.get(&owner).is_some_and(|threads| *threads >= THREADS_OF_ONE_MAX);
        is_at_bound.then_some(
            "scripts of the same owner could not be stopped; until they end or the server is started again, none of them is started",
        )
    }
}

/// What the system calls a thread, where threads have priorities of their own.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadId(#[cfg(target_os = "linux")] rustix::process::Pid);

impl ThreadId {
    pub(super) fn of_this() -> Self {
        ThreadId(
            #[cfg(target_os = "linux")]
            rustix::thread::gettid(),
        )
    }

    /// From now on all other threads go before it, for good: it may not raise its own priority.
    pub(super) fn yield_to_all(self) {
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(Some(self.0), LOWEST_PRIORITY);
    }
}
