//! Pipes: an endpoint's messages as a log that its owner reads, live or page by page, and as deliveries handed out for a while.
//!
//! There is one log and two ways to use it. A **cursor** is a place in the log: reading from it changes nothing, may be done as
//! often as one likes and by as many as like, and works for endpoints of every kind. Named **consumers** leave their cursor with us; what
//! one has read past is delivered. A **lease** hands a delivery to one reader for a while: who acknowledges it ends it, who refuses it or
//! says nothing gets it again, or somebody else does. Leases and consumers end deliveries, so they belong to endpoints of the kind
//! `pipe`; there the engine makes no attempts, and what is owed waits. So an endpoint can become a pipe and be pushed to again, and what
//! was not delivered is delivered the other way.
//!
//! What the endpoint's script and format make of a message is made when it is read ([`shaped`]).
//! Everything else here is a view: pages ([`pull`]), Svix's poller ([`poller`]), streams ([`stream`]).

mod cursor;
mod wake;
mod rate;
mod shaped;
mod log;
mod event;
mod pull;
mod behind;
mod lease;
mod hands;
mod expiry;
mod consumer;
mod poller;
mod standing;
mod stream;
mod socket;
mod ticket;
mod produce;
mod secevent;

pub use wake::Wakes;

use crate::operation::Operation;
use bellwire_engine::{Holder, Leases};
use bellwire_model::{EndpointKey, Sequence};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const TAG: &str = "Pipe";

pub(crate) fn operations() -> Vec<Operation> {
    let mut all = pull::operations();
    all.extend(lease::operations());
    all.extend(consumer::operations());
    all.extend(stream::operations());
    all.extend(socket::operations());
    all.extend(ticket::operations());
    all.extend(produce::operations());
    all.extend(secevent::operations());
    all.extend(poller::operations());
    all
}

/// What all requests about pipes share; one for a process.
#[derive(Debug)]
pub struct Pipes {
    /// Who waits at the end of a log.
    pub wakes: Wakes,
    desks: Mutex<HashMap<EndpointKey, Arc<Desk>>>,
    rates: rate::Rates,
    tickets: ticket::Tickets,
    /// The first lease of each endpoint is numbered from here.
    first_lease: u64,
    readers: AtomicU64,
    /// Of which it is being written down that they were read.
    renewing: Mutex<HashSet<EndpointKey>>,
}

/// Where deliveries of one endpoint are handed out.
#[derive(Debug)]
struct Desk {
    leases: Mutex<Leases>,
    /// One hands out at a time: what was read to be given is then still free.
    behind: tokio::sync::Mutex<behind::Behind>,
    issued: Mutex<secevent::Issued>,
}

impl Pipes {
    /// For a store that holds everything up to `newest`; `random` is where the numbers of leases begin.
    pub fn new(newest: Sequence, random: u64) -> Self {
        Pipes {
            wakes: Wakes::new(newest),
            desks: Mutex::default(),
            rates: rate::Rates::default(),
            tickets: ticket::Tickets::default(),
            first_lease: random,
            readers: AtomicU64::new(0),
            renewing: Mutex::default(),
        }
    }

    fn desk(&self, endpoint: EndpointKey) -> Arc<Desk> {
        let mut desks = self.desks.lock();
        let desk = desks.entry(endpoint).or_insert_with(|| {
            let leases = Mutex::new(Leases::new(self.first_lease));
            Arc::new(Desk { leases, behind: Default::default(), issued: Mutex::default() })
        });
        Arc::clone(desk)
    }

    /// The desk of an endpoint of which something was handed out.
    fn known_desk(&self, endpoint: EndpointKey) -> Option<Arc<Desk>> {
        self.desks.lock().get(&endpoint).cloned()
    }

    /// Nobody has been this one.
    fn next_holder(&self) -> Holder {
        Holder(self.readers.fetch_add(1, Ordering::Relaxed))
    }

    /// A name for a reader that has none.
    fn next_reader(&self) -> Arc<str> {
        // No consumer's name has a space.
        format!("reader {}", self.readers.fetch_add(1, Ordering::Relaxed)).into()
    }

    /// Forgets everything about an endpoint that is gone, or is no pipe any more: its leases open nothing from now on.
    pub fn forget(&self, endpoint: EndpointKey) {
        self.desks.lock().remove(&endpoint);
    }
}
