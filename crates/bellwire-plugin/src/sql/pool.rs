//! Connections to databases that are spoken to over a network: a few to each, on each shard.

use super::Failed;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Connections to one database from one shard.
const CONNECTIONS_MAX: usize = 4;
/// What was idle for so long is not used again: something between here and there may have forgotten it without a word, and whoever used
/// it would wait for an answer in vain.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Databases whose connections are kept.
const DATABASES_MAX: usize = 64;

/// A DSN, and whether the address guard was asked. A connection that the operator has named is none of an endpoint's owner who writes
/// the same DSN: it may lead where only the operator may go.
type Key = (String, bool);

/// Those of one shard.
pub(super) struct Connections<C>(RefCell<HashMap<Key, Rc<Pool<C>>>>);

/// Those to one database.
pub(super) struct Pool<C> {
    places: Semaphore,
    /// Since when; the one that was used last at the end.
    idle: RefCell<Vec<(Instant, C)>>,
}

impl<C> Default for Connections<C> {
    fn default() -> Self {
        Connections(RefCell::default())
    }
}

impl<C> Connections<C> {
    pub(super) fn pool(&self, dsn: &str, is_guarded: bool) -> Rc<Pool<C>> {
        let key = (dsn.to_owned(), is_guarded);
        let mut pools = self.0.borrow_mut();
        if pools.len() >= DATABASES_MAX && !pools.contains_key(&key) {
            pools.clear();
        }
        let new = || Rc::new(Pool { places: Semaphore::new(CONNECTIONS_MAX), idle: RefCell::default() });
        Rc::clone(pools.entry(key).or_insert_with(new))
    }
}

impl<C> Pool<C> {
    /// Waits until there is a place for one more that is used.
    pub(super) async fn place(&self) -> Result<SemaphorePermit<'_>, Failed> {
        self.places.acquire().await.map_err(|error| Failed::later(error.to_string()))
    }

    /// One that nobody uses.
    pub(super) fn take(&self) -> Option<C> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(since, _)| since.elapsed() < IDLE_MAX);
        idle.pop().map(|(_, connection)| connection)
    }

    /// Keeps one for the next.
    pub(super) fn give_back(&self, connection: C) {
        self.idle.borrow_mut().push((Instant::now(), connection));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_idle_for_long_is_not_used_again() {
        let pool = Connections::<&str>::default().pool("postgres://h/d", true);
        let long_ago = Instant::now().checked_sub(IDLE_MAX).expect("the clock is older");
        pool.idle.borrow_mut().push((long_ago, "forgotten"));
        pool.give_back("used before");
        pool.give_back("used last");
        assert_eq!((pool.take(), pool.take(), pool.take()), (Some("used last"), Some("used before"), None));
    }
}
