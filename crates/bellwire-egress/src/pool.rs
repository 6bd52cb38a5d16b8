//! The connections that wait for their next request.
//!
//! A pool belongs to one client, hence to one policy, one proxy setting and one core: what was authorised when a connection
//! was opened is authorised for all who can find it here. The most recently used connection is taken first, so that under
//! less load the others grow old and are closed. Bounded for each origin, in total and in age.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    connect::Connected,
    connection::{Connection, Http1, Http2},
    target::Origin,
};

/// How many idle connections are kept, and for how long.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// To one origin.
    pub idle_per_origin_max: usize,
    /// In total, for each core.
    pub idle_max: usize,
    /// Of them, so many that were used last are ready to be spoken on; of the others only the socket is kept.
    pub ready_max: usize,
    /// Shorter than most servers' own limit, so that they seldom close a connection just as we use it.
    pub idle_timeout: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { idle_per_origin_max: 64, idle_max: 2048, ready_max: 128, idle_timeout: Duration::from_secs(20) }
    }
}

pub(crate) struct Pool {
    settings: PoolSettings,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    origins: HashMap<Arc<Origin>, Waiting>,
    /// Whose connection came in when, oldest first; the number is that of [`Idle::arrival`].
    arrivals: BTreeMap<u64, Arc<Origin>>,
    next_arrival: u64,
    /// How many HTTP/1.1 connections are ready; those that came in before this number are not.
    ready: usize,
    ready_from: u64,
    sweeper_runs: bool,
}

/// What waits for one origin.
#[derive(Default)]
struct Waiting {
    /// Newest last.
    http1: VecDeque<Idle<Kept>>,
    /// At most one: it serves many requests at a time.
    http2: Option<Idle<Arc<Http2>>>,
}

/// An HTTP/1.1 connection without a request.
enum Kept {
    Ready(Box<Http1>),
    Resting(Connected),
}

/// A connection that may still be open.
pub(crate) enum Found {
    Ready(Connection),
    /// To be opened on this socket.
    Resting(Connected),
}

struct Idle<C> {
    connection: C,
    arrival: u64,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(settings: PoolSettings) -> Arc<Self> {
        Arc::new(Self { settings, inner: Mutex::default() })
    }

    /// A connection to `origin` that may still be open.
    pub(crate) fn take(&self, origin: &Arc<Origin>) -> Option<Found> {
        let mut inner = self.inner.lock();
        inner.close_older_than(self.settings.idle_timeout);
        let waiting = inner.origins.get_mut(origin)?;
        if let Some(http2) = &mut waiting.http2 {
            if http2.connection.has_room() {
                let shared = Arc::clone(&http2.connection);
                inner.renew_http2(origin);
                return Some(Found::Ready(Connection::Http2(shared)));
            }
            if http2.connection.is_closed() {
                let arrival = http2.arrival;
                waiting.http2 = None;
                inner.arrivals.remove(&arrival);
            }
        }
        let waiting = inner.origins.get_mut(origin)?;
        let idle = waiting.http1.pop_back()?;
        inner.arrivals.remove(&idle.arrival);
        inner.gone(&idle);
        Some(match idle.connection {
            Kept::Ready(http1) => Found::Ready(Connection::Http1(http1)),
            Kept::Resting(connected) => Found::Resting(connected),
        })
    }

    /// Keeps a connection whose exchange ended as it should.
    pub(crate) fn put(self: &Arc<Self>, origin: &Arc<Origin>, connection: Box<Http1>) {
        let mut inner = self.inner.lock();
        let (arrival, since) = inner.arrive(origin);
        let waiting = inner.waiting(origin);
        waiting.http1.push_back(Idle { connection: Kept::Ready(connection), arrival, since });
        let crowded = waiting.http1.len() > self.settings.idle_per_origin_max;
        let oldest = if crowded { waiting.http1.pop_front() } else { None };
        inner.ready += 1;
        if let Some(oldest) = oldest {
            inner.arrivals.remove(&oldest.arrival);
            inner.gone(&oldest);
        }
        while inner.ready > self.settings.ready_max {
            inner.rest_oldest();
        }
        self.settle(inner);
    }

    /// Lets others use an HTTP/2 connection, unless there is one already: of several opened at once, the first stays.
    pub(crate) fn share(self: &Arc<Self>, origin: &Arc<Origin>, connection: &Arc<Http2>) {
        let mut inner = self.inner.lock();
        let present = inner.origins.get(origin).and_then(|waiting| waiting.http2.as_ref());
        if present.is_some_and(|present| present.connection.has_room()) {
            return;
        }
        let replaced = present.map(|present| present.arrival);
        if let Some(arrival) = replaced {
            inner.arrivals.remove(&arrival);
        }
        let (arrival, since) = inner.arrive(origin);
        inner.waiting(origin).http2 = Some(Idle { connection: Arc::clone(connection), arrival, since });
        self.settle(inner);
    }

    /// No one begins another request on this connection; those under way go on.
    pub(crate) fn retire(&self, origin: &Arc<Origin>, connection: &Weak<Http2>) {
        let mut inner = self.inner.lock();
        let Some(waiting) = inner.origins.get_mut(origin) else { return };
        if let Some(present) = waiting.http2.take_if(|present| Arc::as_ptr(&present.connection) == connection.as_ptr())
        {
            inner.arrivals.remove(&present.arrival);
        }
    }

    /// Idle connections, for a gauge.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().arrivals.len()
    }

    /// Brings the pool back within its bounds and sees to it that someone looks after its age.
    fn settle(self: &Arc<Self>, mut inner: parking_lot::MutexGuard<'_, Inner>) {
        while inner.arrivals.len() > self.settings.idle_max {
            inner.close_oldest();
        }
        if !inner.sweeper_runs {
            inner.sweeper_runs = true;
            tokio::spawn(sweep(Arc::downgrade(self), self.settings.idle_timeout));
        }
    }
}

/// Closes what has grown old while no request came by. Ends when the pool is empty or gone.
async fn sweep(pool: Weak<Pool>, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(idle_timeout / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut inner = pool.inner.lock();
        inner.close_older_than(idle_timeout);
        inner.origins.retain(|_, waiting| waiting.http2.is_some() || !waiting.http1.is_empty());
        if inner.arrivals.is_empty() {
            inner.sweeper_runs = false;
            return;
        }
    }
}

impl Inner {
    fn waiting(&mut self, origin: &Arc<Origin>) -> &mut Waiting {
        self.origins.entry(Arc::clone(origin)).or_default()
    }

    fn arrive(&mut self, origin: &Arc<Origin>) -> (u64, Instant) {
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        self.arrivals.insert(arrival, Arc::clone(origin));
        (arrival, Instant::now())
    }

    /// A shared connection is as young as its last use.
    fn renew_http2(&mut self, origin: &Arc<Origin>) {
        let (arrival, since) = self.arrive(origin);
        if let Some(http2) = self.origins.get_mut(origin).and_then(|waiting| waiting.http2.as_mut()) {
            self.arrivals.remove(&http2.arrival);
            http2.arrival = arrival;
            http2.since = since;
        }
    }

    fn close_older_than(&mut self, age: Duration) {
        while let Some((arrival, origin)) = self.arrivals.first_key_value() {
            let (arrival, origin) = (*arrival, Arc::clone(origin));
            let Some(waiting) = self.origins.get_mut(&origin) else {
                self.arrivals.pop_first();
                continue;
            };
            if waiting.since(arrival).is_some_and(|since| since.elapsed() < age) {
                return;
            }
            // One that is in use is not idle, however long ago its last request began.
            if let Some(http2) = waiting.http2.as_ref()
                && http2.arrival == arrival
                && !http2.connection.is_idle()
                && !http2.connection.is_closed()
            {
                self.renew_http2(&origin);
                continue;
            }
            self.close_oldest();
        }
    }

    fn close_oldest(&mut self) {
        let Some((arrival, origin)) = self.arrivals.pop_first() else { return };
        let Some(waiting) = self.origins.get_mut(&origin) else { return };
        let oldest = waiting.http1.pop_front_if(|idle| idle.arrival == arrival);
        waiting.http2.take_if(|idle| idle.arrival == arrival);
        if let Some(oldest) = oldest {
            self.gone(&oldest);
        }
    }

    /// A connection has left the pool.
    fn gone(&mut self, idle: &Idle<Kept>) {
        self.ready -= usize::from(matches!(idle.connection, Kept::Ready(_)));
    }

    /// Puts the connection to rest that has been ready for the longest time.
    fn rest_oldest(&mut self) {
        let oldest = self.arrivals.range(self.ready_from..).next();
        let Some((arrival, origin)) = oldest.map(|(arrival, origin)| (*arrival, Arc::clone(origin))) else {
            debug_assert!(false, "a connection is ready that never came in");
            self.ready = 0;
            return;
        };
        self.ready_from = arrival + 1;
        let Some(waiting) = self.origins.get_mut(&origin) else { return };
        // It is another's number, a shared connection's, or its place among its origin's.
        let Ok(at) = waiting.http1.binary_search_by_key(&arrival, |idle| idle.arrival) else { return };
        let Some(Idle { connection: Kept::Ready(http1), arrival, since }) = waiting.http1.remove(at) else { return };
        match http1.rest() {
            Some(connected) => waiting.http1.insert(at, Idle { connection: Kept::Resting(connected), arrival, since }),
            None => drop(self.arrivals.remove(&arrival)),
        }
        self.ready -= 1;
    }
}

impl Waiting {
    /// When the connection with this number came in. It is the oldest of all, so it is first in its queue.
    fn since(&self, arrival: u64) -> Option<Instant> {
        let http1 = self.http1.front().filter(|idle| idle.arrival == arrival).map(|idle| idle.since);
        http1.or_else(|| self.http2.as_ref().filter(|idle| idle.arrival == arrival).map(|idle| idle.since))
    }
}
