//! Readers of pipes: one takes deliveries by lease and says well, badly or nothing; one reads the log and commits its place.
//!
//! They are of the world, not of the process: what they know outlives its crashes, and what they were promised is held against it.

use crate::bug::PumpBug;
use crate::node::Waiter;
use crate::truth::{Checked, Promise, broken};
use crate::world::{Event, World};
use bellwire_engine::{Holder, Receipt, Use};
use bellwire_model::{
    AfterAttempt, ApplicationKey, Delivery, EndReason, EndpointKey, FailureClass, Sequence, Timestamp,
};
use bellwire_store::{Change, Consumer, LogQuery, Settled, Store, told};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The application of worlds with pipes,
pub(crate) const PIPED: ApplicationKey = ApplicationKey(7);
/// the endpoint whose deliveries are taken by lease,
pub(crate) const TAKEN: EndpointKey = EndpointKey(701);
/// and the one whose log is read.
pub(crate) const READ: EndpointKey = EndpointKey(702);

const MS: i64 = 1_000;
const LEASE: Duration = Duration::from_secs(3);
/// Deliveries that are taken, messages that are read at a time.
const AT_ONCE: usize = 3;

/// What readers know.
#[derive(Debug)]
pub(crate) struct Readers {
    pub(crate) rng: ChaCha8Rng,
    pub(crate) present: bool,
    /// Leases that have not ended, as far as their holders know.
    out: BTreeMap<Sequence, (Receipt, Timestamp)>,
    /// Acknowledged, and told that it is durable.
    acknowledged: BTreeSet<Sequence>,
    /// How far the reader of the log has come.
    place: Sequence,
    planned: [bool; 2],
}

impl Readers {
    pub(crate) fn new(rng: ChaCha8Rng) -> Self {
        Readers {
            rng,
            present: false,
            out: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            place: Sequence::ZERO,
            planned: [false; 2],
        }
    }
}

impl World {
    /// The process is gone, and what it had handed out with it. A reader of the log begins where the store says that it was.
    pub(crate) fn readers_crashed(&mut self) {
        self.readers.out.clear();
        self.readers.planned = [false; 2];
    }

    /// The store knows no place that the reader has not come to.
    pub(crate) fn readers_restart(&mut self) -> Checked {
        if !self.readers.present {
            return Ok(());
        }
        let kept = self.store.consumer(READ, "reader").ok().flatten().map_or(Sequence::ZERO, |kept| kept.cursor);
        if kept > self.readers.place {
            let detail = format!("the reader was at {:?} and is at {kept:?} after a restart", self.readers.place);
            return broken(Promise::NothingDisappears, detail);
        }
        self.readers.place = kept;
        self.plan_readers();
        Ok(())
    }

    /// Readers come when there may be something.
    pub(crate) fn plan_readers(&mut self) {
        if !self.readers.present || self.node.as_ref().is_none_or(|node| node.stopping) {
            return;
        }
        let generation = self.generation();
        let waits = self.store.rows().iter().any(|row| row.delivery.endpoint == TAKEN);
        if waits && !self.readers.planned[0] {
            self.readers.planned[0] = true;
            let wait = self.readers.rng.random_range(MS..800 * MS);
            self.after(wait, Event::Take(generation));
        }
        let unread = self.store.lag(READ, self.readers.place).is_ok_and(|lag| lag.events > 0);
        let unsaid = self.store.rows().iter().any(|row| row.delivery.endpoint == READ);
        if (unread || unsaid) && !self.readers.planned[1] {
            self.readers.planned[1] = true;
            let wait = self.readers.rng.random_range(MS..400 * MS);
            self.after(wait, Event::Poll(generation));
        }
    }

    /// Somebody takes what waits.
    pub(crate) fn take(&mut self, generation: u64) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        self.readers.planned[0] = false;
        let now = self.engine_now();
        let forgetful = self.has(PumpBug::LeasesForgotten);
        let Some(node) = &mut self.node else { return Ok(()) };
        if forgetful {
            node.leases = bellwire_engine::Leases::new(now.as_micros().unsigned_abs());
        }
        let ended = node.leases.begin_ended(now, 100);
        let beside = node.leases.messages();
        for (receipt, number) in ended {
            let outcome = told(now, Err(FailureClass::Timeout), "nobody said anything".to_owned());
            self.say(receipt, number, Use::End, outcome, AfterAttempt::Waiting { due: now });
        }
        let rows = self
            .store
            .lease_beside(TAKEN, false, now, &beside, AT_ONCE, usize::MAX)
            .expect("a store in memory can be read");
        for (row, message) in rows {
            let at = row.delivery.message;
            let Some(node) = &mut self.node else { return Ok(()) };
            let Some(receipt) = node.leases.give(at, row.next, None, Holder(0), now.plus(LEASE)) else { continue };
            if self.readers.out.get(&at).is_some_and(|(_, until)| *until > now) {
                return broken(Promise::NoDuplicatesWithoutCause, format!("{at:?} was handed out twice at a time"));
            }
            if self.readers.acknowledged.contains(&at) {
                return broken(Promise::NoDuplicatesWithoutCause, format!("{at:?} was acknowledged and comes again"));
            }
            self.check_bytes(at, &message)?;
            self.readers.out.insert(at, (receipt, now.plus(LEASE)));
            self.note_reader("taken", at);
            let wait = self.readers.rng.random_range(MS..2_000 * MS);
            match self.readers.rng.random_range(0..10) {
                0..6 => self.after(wait, Event::Say(generation, receipt, Use::Acknowledge)),
                _ if self.is_healed() => self.after(wait, Event::Say(generation, receipt, Use::Acknowledge)),
                6..8 => self.after(wait, Event::Say(generation, receipt, Use::Refuse)),
                _ => {}
            }
        }
        self.plan_readers();
        Ok(())
    }

    /// A holder says how it went.
    pub(crate) fn said(&mut self, generation: u64, receipt: Receipt, what: Use) {
        if !self.alive(generation) {
            return;
        }
        let now = self.engine_now();
        let Some(node) = &mut self.node else { return };
        let Ok(number) = node.leases.begin(receipt, what, now) else {
            self.readers.out.remove(&receipt.message);
            return;
        };
        let delivery = Delivery { endpoint: TAKEN, message: receipt.message };
        let (status, after) = match what {
            Use::Acknowledge => {
                self.taken(delivery);
                (200, AfterAttempt::Delivered)
            }
            _ if number >= 5 => (503, AfterAttempt::Ended(EndReason::Exhausted)),
            _ => (503, AfterAttempt::Waiting { due: now.plus(Duration::from_secs(1)) }),
        };
        self.say(receipt, number, what, told(now, Ok(status), String::new()), after);
    }

    fn say(&mut self, receipt: Receipt, number: u32, what: Use, outcome: bellwire_model::Outcome, after: AfterAttempt) {
        let now = self.engine_now();
        let early = self.has(PumpBug::AcknowledgedEarly);
        let delivery = Delivery { endpoint: TAKEN, message: receipt.message };
        let change = Change::Settle(vec![Settled { delivery, number, at: now, outcome, after }]);
        let Some(node) = &mut self.node else { return };
        match node.change(now, vec![change]) {
            Ok(batch) => node.waiters.entry(batch).or_default().push(Waiter::Settled(receipt, what)),
            Err(_) => node.leases.give_back(receipt),
        }
        if early {
            self.settled(receipt, what, true);
        }
        self.schedule_seal();
    }

    /// What a holder said is durable, or was refused.
    pub(crate) fn settled(&mut self, receipt: Receipt, what: Use, kept: bool) {
        let Some(node) = &mut self.node else { return };
        if kept {
            node.leases.finish(receipt, what);
            self.readers.out.remove(&receipt.message);
            if what == Use::Acknowledge {
                self.readers.acknowledged.insert(receipt.message);
            }
        } else {
            node.leases.give_back(receipt);
            if what != Use::End {
                // It says so again.
                let (generation, wait) = (self.generation(), self.readers.rng.random_range(MS..500 * MS));
                self.after(wait, Event::Say(generation, receipt, what));
            }
        }
        self.plan_readers();
    }

    /// The log is read on, and the place committed.
    pub(crate) fn poll(&mut self, generation: u64) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        self.readers.planned[1] = false;
        let after = self.readers.place;
        let query = LogQuery { after, limit: AT_ONCE, bytes_max: usize::MAX, event_types: Vec::new(), channel: None };
        let page = self.store.log(READ, &query).expect("a store in memory can be read");
        let found: Vec<Sequence> = page.messages.iter().map(|message| message.sequence()).collect();
        let expected = self.accepted_for(READ, after, page.through);
        if found != expected {
            let detail = format!("after {after:?} the log has {found:?}, and {expected:?} were accepted");
            return broken(Promise::NothingDisappears, detail);
        }
        for message in &page.messages {
            self.check_bytes(message.sequence(), message)?;
            self.taken(Delivery { endpoint: READ, message: message.sequence() });
            self.note_reader("read", message.sequence());
        }
        let mut cursor = page.through;
        if self.has(PumpBug::PlaceAhead)
            && let Some(next) = self.accepted_for(READ, page.through, Sequence::MAX).first()
        {
            cursor = *next;
        }
        self.readers.place = page.through;
        let now = self.engine_now();
        let consumer = Consumer { endpoint: READ, name: "reader".into(), cursor, created_at: now, updated_at: now };
        let Some(node) = &mut self.node else { return Ok(()) };
        if node.change(now, vec![Change::PutConsumer { consumer, read: true }]).is_ok() {
            self.schedule_seal();
        }
        // What is not kept is committed with the next page, or with this one again.
        self.plan_readers();
        Ok(())
    }
}
