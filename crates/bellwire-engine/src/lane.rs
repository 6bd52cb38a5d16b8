//! A lane per endpoint: what it holds in memory, what it knows of the waiting room, and whether its next delivery may start.

use crate::held::Set;
use crate::pace::Pace;
use crate::rest::Resting;
use crate::throttle::Throttle;
use bellwire_model::{
    ApplicationKey, AttemptNumber, Endpoint, EndpointKey, Health, Message, Sequence, Timestamp, Trigger,
};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

pub(crate) type LaneIndex = usize;
pub(crate) type ApplicationIndex = usize;

/// How much a lane is trusted with slots and memory that all share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// It answered lately, and fast.
    Proven,
    /// Nothing is known of it.
    Unknown,
    /// It fails, hangs or takes long.
    Slow,
}

impl Class {
    pub(crate) const ALL: [Class; 3] = [Class::Proven, Class::Unknown, Class::Slow];

    /// How much more of a bound `max` this class may take, when the classes hold `used`. Slow lanes together never hold more than a half,
    /// slow and unknown ones never more than three quarters: whoever answers always finds room.
    pub(crate) fn share_left(self, used: &[usize; 3], max: usize) -> usize {
        let [proven, unknown, slow] = *used;
        let all = max.saturating_sub(proven + unknown + slow);
        let unproven = (max - max / 4).saturating_sub(unknown + slow).min(all);
        match self {
            Class::Proven => all,
            Class::Unknown => unproven,
            Class::Slow => (max - max / 2).saturating_sub(slow).min(unproven),
        }
    }
}

/// A delivery in memory that has not started.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) message: Arc<Message>,
    pub(crate) number: AttemptNumber,
    pub(crate) trigger: Trigger,
    /// So many deliveries hold the same payload in memory, this one included.
    pub(crate) sharers: usize,
}

impl Queued {
    /// Its share of its payload.
    pub(crate) fn bytes(&self) -> usize {
        self.message.content_bytes().div_ceil(self.sharers.max(1))
    }
}

/// What is known of a lane's part of the waiting room, rows in hand not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    /// Nothing is there.
    Empty,
    /// Something may be.
    Rows {
        /// Nothing is due before.
        due: Timestamp,
        /// The oldest message, for a FIFO lane, if it is known: `due` is its.
        head: Option<Sequence>,
    },
}

/// A question to the store that has not been answered.
#[derive(Debug)]
pub(crate) struct Ask {
    /// Rows due until then count as due.
    pub(crate) until: Timestamp,
    /// How many rows were asked for; 0 for a question after the next due time.
    pub(crate) limit: usize,
    /// Rows beyond what is due are wanted, to learn when the next is.
    pub(crate) peek: bool,
    /// Taken from the bound of queued deliveries.
    pub(crate) reserved: usize,
    /// The earliest due time and the oldest message of the rows that came into the room since; the answer may not know of them.
    pub(crate) arrived: Option<(Timestamp, Sequence)>,
    /// Deliveries whose attempts became durable since; the answer may hold them as they were before.
    pub(crate) settled: Set<Sequence>,
    /// Messages before this one are being cancelled since; the answer may hold them.
    pub(crate) cancelled: Sequence,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) key: EndpointKey,
    pub(crate) application: ApplicationIndex,
    pub(crate) application_key: ApplicationKey,
    pub(crate) endpoint: Arc<Endpoint>,
    /// Without user info.
    pub(crate) url: Arc<str>,
    pub(crate) gone: bool,
    /// We disabled it, and that is not durable yet.
    pub(crate) disabling: bool,
    pub(crate) health: Health,

    pub(crate) queue: VecDeque<Queued>,
    pub(crate) in_flight: usize,
    /// Attempts in flight for longer than [`crate::pace::SLOW_AFTER`].
    pub(crate) slow_flights: usize,
    pub(crate) resting: Resting,
    /// Deliveries in hand; of them, those with a row, and those in each of three phases.
    pub(crate) held: usize,
    pub(crate) rows: usize,
    pub(crate) parking: usize,
    pub(crate) returning: usize,
    pub(crate) ending: usize,
    pub(crate) barrier: usize,
    /// Of a FIFO lane: what is on its way to the waiting room. A lease may not know of it yet.
    pub(crate) parked: BTreeSet<Sequence>,

    pub(crate) room: Room,
    pub(crate) ask: Option<Ask>,
    /// After a question that brought nothing, not again before this.
    pub(crate) ask_after: Timestamp,
    /// The due time that the next lease is after, if it is later than now by then: one that was too far away to be waited for.
    pub(crate) ask_until: Timestamp,
    /// All that is due was taken; when the next is, is not known.
    pub(crate) next_unknown: bool,

    pub(crate) pace: Pace,
    pub(crate) class: Class,
    pub(crate) throttle: Option<Box<Throttle>>,

    pub(crate) timer: Option<Timestamp>,
    /// It stands in its application's ring of this class. Also in that of a class that it no longer is of, until its turn there.
    pub(crate) in_ring: [bool; 3],
    pub(crate) dirty: bool,
    pub(crate) wants_lease: bool,
    /// Its place may be taken by another.
    pub(crate) forgotten: bool,
}

/// Whether a lane's next delivery may start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gate {
    Ready,
    /// Not before this time.
    At(Timestamp),
    /// Not before something happens.
    Closed,
}

impl Lane {
    pub(crate) fn new(application: ApplicationIndex, endpoint: Arc<Endpoint>, concurrency_max: usize) -> Self {
        Lane {
            key: endpoint.key,
            application,
            application_key: endpoint.application,
            url: without_user_info(&endpoint.url),
            gone: false,
            disabling: false,
            health: endpoint.health,
            queue: VecDeque::new(),
            in_flight: 0,
            slow_flights: 0,
            resting: Resting::default(),
            held: 0,
            rows: 0,
            parking: 0,
            returning: 0,
            ending: 0,
            barrier: 0,
            parked: BTreeSet::new(),
            room: Room::Empty,
            ask: None,
            ask_after: Timestamp::EPOCH,
            ask_until: Timestamp::EPOCH,
            next_unknown: false,
            pace: Pace::new(concurrency_max),
            class: Class::Unknown,
            throttle: endpoint.limits.throttle_rate.map(|rate| Throttle::new(rate.get())),
            timer: None,
            in_ring: [false; 3],
            dirty: false,
            wants_lease: false,
            forgotten: false,
            endpoint,
        }
    }

    pub(crate) fn paused(&self) -> bool {
        self.gone || self.disabling || self.endpoint.disabled.is_some() || !self.endpoint.kind.is_attempted()
    }

    pub(crate) fn fifo(&self) -> bool {
        self.endpoint.limits.fifo
    }

    /// Attempts that may be in flight now.
    pub(crate) fn limit(&self) -> usize {
        if self.fifo() { 1 } else { self.pace.limit() }
    }

    pub(crate) fn class_now(&self) -> Class {
        if self.slow_flights > 0 || self.pace.slow() {
            Class::Slow
        } else if self.pace.proven {
            Class::Proven
        } else {
            Class::Unknown
        }
    }

    /// Whether the next delivery in the queue may start, as far as this lane is concerned.
    pub(crate) fn gate(&mut self, now: Timestamp) -> Gate {
        if self.queue.is_empty() || self.paused() || self.in_flight >= self.limit() {
            return Gate::Closed;
        }
        // A FIFO lane waits until its last attempt is durable: after a crash the one before must not come after the next.
        if self.fifo() && (self.returning > 0 || self.ending > 0 || self.barrier > 0) {
            return Gate::Closed;
        }
        if let Some(until) = self.pace.open_until(now) {
            return Gate::At(until);
        }
        match self.throttle.as_mut().map(|t| t.next_at(now)) {
            Some(at) if at > now => Gate::At(at),
            _ => Gate::Ready,
        }
    }

    /// Whether a fresh delivery may stand in the queue: nothing that must go before it is elsewhere.
    pub(crate) fn takes_fresh(&self, now: Timestamp) -> bool {
        if self.paused() || self.pace.open_until(now).is_some() {
            return false;
        }
        if self.pace.tripped() && (!self.queue.is_empty() || self.in_flight > 0 || self.awaits_rows(now)) {
            return false;
        }
        !self.fifo()
            || (self.room == Room::Empty && self.ask.is_none() && self.parking + self.returning + self.barrier == 0)
    }

    /// Rows of the waiting room that are due, or on their way from there: of one attempt at a time it is the oldest one's turn.
    fn awaits_rows(&self, now: Timestamp) -> bool {
        self.ask.is_some() || matches!(self.room, Room::Rows { due, .. } if due <= now)
    }

    /// How many deliveries it is worth holding in memory.
    pub(crate) fn target(&self, queue_max: usize) -> usize {
        if self.pace.tripped() {
            return 1;
        }
        let target = (self.limit() * 8).max(64).min(queue_max.max(1));
        match &self.throttle {
            Some(throttle) => target.min(throttle.rate as usize * 2).max(1),
            None => target,
        }
    }

    /// A row is in the waiting room from now on, not in hand.
    pub(crate) fn arrived(&mut self, message: Sequence, due: Timestamp) {
        if let Some(ask) = &mut self.ask {
            let (earliest, oldest) = ask.arrived.unwrap_or((due, message));
            ask.arrived = Some((earliest.min(due), oldest.min(message)));
        }
        self.widen(message, due);
    }

    /// Takes a row into account for the next lease.
    pub(crate) fn widen(&mut self, message: Sequence, due: Timestamp) {
        match &mut self.room {
            Room::Rows { head: Some(head), .. } if self.endpoint.limits.fifo && message > *head => {}
            Room::Rows { due: known, head: Some(head) } if self.endpoint.limits.fifo && message == *head => {
                *known = due
            }
            Room::Rows { due: earliest, head } => {
                *earliest = due.min(*earliest);
                *head = None;
            }
            Room::Empty => self.room = Room::Rows { due, head: None },
        }
    }
}

/// A URL without the part that may hold a password.
pub(crate) fn without_user_info(url: &str) -> Arc<str> {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]).into(),
        None => url.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_info_never_stays_in_a_url() {
        let check = |url: &str, expected: &str| assert_eq!(&*without_user_info(url), expected);
        check("https://a:b@example.com/x?y=@z", "https://example.com/x?y=@z");
        check("https://a@b:c@example.com", "https://example.com");
        check("https://example.com/@me", "https://example.com/@me");
        check("https://a:b@example.com\\@x", "https://example.com\\@x");
    }

    #[test]
    fn slow_lanes_leave_room_for_those_that_answer() {
        assert_eq!(Class::Slow.share_left(&[0, 0, 2_048], 4_096), 0);
        assert_eq!(Class::Unknown.share_left(&[0, 0, 2_048], 4_096), 1_024);
        assert_eq!(Class::Proven.share_left(&[0, 1_024, 2_048], 4_096), 1_024);
        assert_eq!(Class::Proven.share_left(&[4_096, 0, 0], 4_096), 0);
        assert_eq!(Class::Slow.share_left(&[0, 0, 0], 1), 1, "a bound of one is still usable");
    }
}
