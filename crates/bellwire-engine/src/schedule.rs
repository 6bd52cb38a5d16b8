//! Which delivery comes next: lanes, their part of the waiting room, and the order in which they are served.
//!
//! **Two places.** A delivery that may start soon is in its lane's queue; every other one is a row in the waiting room. A fresh one goes
//! straight into the queue unless the lane is full, paused, broken, or FIFO with older ones elsewhere; then it is *parked*: it gets a row
//! and leaves memory. A lane whose queue runs low asks for rows that are due. One question per lane is out at a time, and of what
//! comes back everything is left alone that is in hand, or became durable while the question was out. A lane that never runs low, because
//! more keeps coming, asks for those that have been due for a while.
//!
//! **Fairness.** Applications that have a startable lane stand in a ring, and so do the lanes of each application; each
//! turn starts one delivery. There is one ring for each [`Class`], and the classes take turns: lanes that hang or fail
//! share at most half of the slots, whatever their number, and one application never takes its class's last free ones from the others.
//!
//! **Attention.** A step touches only the lanes that its input concerns. Each of them is *attended* once: shed, put into its
//! ring, its question asked, its one timer set.

use crate::engine::{Alarm, Effect, Engine, Undurable};
use crate::held::{Held, Phase, Set};
use crate::lane::{Ask, Class, Gate, Lane, LaneIndex, Queued, Room};
use crate::planted::Bug;
use bellwire_model::{Delivery, Message, RETRY_AFTER_MAX, Sequence, Timestamp, Trigger, Waiting};
use std::sync::Arc;
use std::time::Duration;

/// Questions to the store that are out at once: each is answered by a thread of its own, and each thread that reads keeps memory.
const ASKS_MAX: usize = 3;
/// A store that could not be read is asked again after this.
const READ_FAILED_WAIT: Duration = Duration::from_secs(1);
/// A question that brought nothing although there was something is asked again after this.
const FRUITLESS_WAIT: Duration = Duration::from_millis(10);
/// Rows that have been due for so long are asked for although there is enough to do: what keeps coming must not hold them up for ever.
const OVERDUE_AFTER: Duration = Duration::from_millis(500);
/// So many applications that may not take more at the moment are passed over in one turn.
const PASSED_OVER_MAX: usize = 32;

/// What a lane has to ask the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    None,
    At(Timestamp),
    /// For rows that are due.
    Rows,
    /// When the next row is due.
    Next,
}

impl Engine {
    /// Takes a fresh delivery into its lane's queue or parks it; answers whether it is in the queue, and so not settled.
    pub(crate) fn take_fresh(
        &mut self,
        lane: LaneIndex,
        message: &Arc<Message>,
        place: u64,
        sharers: usize,
        recovering: bool,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let delivery = Delivery { endpoint: self.lanes[lane].key, message: message.sequence() };
        let queued = Queued { message: Arc::clone(message), number: 1, trigger: Trigger::Scheduled, sharers };
        let fits = self.lanes[lane].takes_fresh(self.now.engine)
            || (self.planted.has(Bug::FifoFreshFirst) && self.lanes[lane].fifo() && !self.lanes[lane].paused());
        if fits && self.admits(lane, queued.bytes()) {
            self.hold(message, lane, Phase::Queued, Some(place));
            self.enqueue(lane, queued);
            return true;
        }
        self.hold(message, lane, Phase::Parking, None);
        // After a restart what is fresh may be older than what waits.
        if recovering && self.lanes[lane].fifo() {
            self.raise_barrier(delivery);
        }
        self.note_parked(delivery);
        self.write_wait(delivery, 1, Trigger::Scheduled, effects);
        self.mark(lane);
        false
    }

    /// Whether the lane may hold one more delivery of so many bytes in memory. The fuller memory is, the less one lane or one
    /// application may have of it, so that some is always left for the others.
    pub(crate) fn admits(&self, lane: LaneIndex, bytes: usize) -> bool {
        if self.planted.has(Bug::LaneUnbounded) {
            return true;
        }
        let settings = &self.settings;
        let lane = &self.lanes[lane];
        let free = lane.class.share_left(&self.queued, settings.queued_max.saturating_sub(self.reserved));
        let counted = bytes.min(settings.queued_bytes_max / 4);
        lane.queue.len() < settings.lane_queue_max.min(free)
            && self.applications[lane.application].queued[lane.class as usize] < free.saturating_mul(2)
            && counted <= lane.class.share_left(&self.queued_bytes, settings.queued_bytes_max)
    }

    pub(crate) fn enqueue(&mut self, index: LaneIndex, queued: Queued) {
        let lane = &mut self.lanes[index];
        self.queued[lane.class as usize] += 1;
        self.queued_bytes[lane.class as usize] += queued.bytes();
        self.applications[lane.application].queued[lane.class as usize] += 1;
        let sequence = queued.message.sequence();
        // Only a resend of an old message to a FIFO endpoint comes out of order.
        match lane.queue.back() {
            Some(last) if lane.fifo() && last.message.sequence() > sequence => {
                let at = lane.queue.partition_point(|q| q.message.sequence() < sequence);
                lane.queue.insert(at, queued);
            }
            _ => lane.queue.push_back(queued),
        }
        self.mark(index);
    }

    pub(crate) fn dequeue(&mut self, index: LaneIndex) -> Option<Queued> {
        let lane = &mut self.lanes[index];
        let queued = lane.queue.pop_front()?;
        self.queued[lane.class as usize] -= 1;
        self.queued_bytes[lane.class as usize] -= queued.bytes();
        self.applications[lane.application].queued[lane.class as usize] -= 1;
        Some(queued)
    }

    /// Empties a lane's queue into the waiting room.
    pub(crate) fn shed(&mut self, index: LaneIndex, effects: &mut Vec<Effect>) {
        let now = self.now.engine;
        while let Some(queued) = self.dequeue(index) {
            let delivery = Delivery { endpoint: self.lanes[index].key, message: queued.message.sequence() };
            if self.held.get(&delivery).is_some_and(|held| held.row) {
                self.let_go(delivery);
                self.lanes[index].arrived(delivery.message, now);
                continue;
            }
            self.settle_place(delivery);
            self.turn(delivery, Phase::Parking);
            self.note_parked(delivery);
            if self.lanes[index].fifo() {
                self.raise_barrier(delivery);
            }
            self.write_wait(delivery, queued.number, queued.trigger, effects);
        }
        self.mark(index);
    }

    /// In a FIFO lane nothing from a lease passes what is on its way to the waiting room.
    fn note_parked(&mut self, delivery: Delivery) {
        let Some(held) = self.held.get(&delivery) else { return };
        let lane = &mut self.lanes[held.lane];
        if lane.fifo() {
            lane.parked.insert(delivery.message);
        }
    }

    fn write_wait(&self, delivery: Delivery, next: u32, trigger: Trigger, effects: &mut Vec<Effect>) {
        let waiting = Waiting { delivery, due: self.now.engine, next, trigger };
        effects.push(Effect::Write(Undurable::Wait(waiting)));
    }

    /// Nothing starts in this FIFO lane before `delivery`, which is on its way to the waiting room or in flight, is durable.
    pub(crate) fn raise_barrier(&mut self, delivery: Delivery) {
        let Some(held) = self.held.get_mut(&delivery) else { return };
        if !std::mem::replace(&mut held.barrier, true) {
            self.lanes[held.lane].barrier += 1;
        }
    }

    /// The rows that a lane asked for.
    pub(crate) fn leased(
        &mut self,
        index: LaneIndex,
        rows: Option<Vec<(Waiting, Arc<Message>)>>,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now.engine;
        let Some(ask) = self.take_ask(index) else { return };
        let lane = &mut self.lanes[index];
        let Some(rows) = rows else {
            lane.ask_after = now.plus(READ_FAILED_WAIT);
            lane.next_unknown |= ask.peek;
            return;
        };
        if lane.fifo() && (lane.returning > 0 || lane.barrier > 0) && !self.planted.has(Bug::FifoOvertakes) {
            lane.room = Room::Rows { due: now, head: None };
            return;
        }
        let full = rows.len() >= ask.limit;
        let (mut taken, mut dropped, mut next) = (false, false, None);
        for (waiting, message) in rows {
            let delivery = waiting.delivery;
            let in_hand = self.held.contains_key(&delivery) && !self.planted.has(Bug::LeasedTwice);
            let settled = ask.settled.contains(&delivery.message) && !self.planted.has(Bug::StaleLease);
            let lane = &self.lanes[index];
            if lane.fifo() && ask.arrived.is_some_and(|(_, oldest)| oldest < delivery.message) {
                break;
            }
            if lane.fifo() && lane.parked.first().is_some_and(|oldest| *oldest < delivery.message) {
                dropped = true;
                break;
            }
            if in_hand || settled || delivery.message < ask.cancelled {
                continue;
            }
            let postponed = message.deliver_at.is_some_and(|at| waiting.next == 1 && at > now);
            let clamped = !ask.peek && waiting.due <= ask.until && !postponed;
            if waiting.due > now && !clamped {
                next = Some((waiting.due, delivery.message, postponed));
                break;
            }
            let bytes = message.content_bytes();
            if lane.paused() || lane.pace.open_until(now).is_some() || !self.admits(index, bytes) {
                dropped = true;
                break;
            }
            taken = true;
            self.hold(&message, index, Phase::Queued, None);
            self.note_row(delivery);
            let queued = Queued { message, number: waiting.next, trigger: waiting.trigger, sharers: 1 };
            if expired(&queued.message, now) {
                self.expire(index, &queued, effects);
            } else {
                self.enqueue(index, queued);
            }
        }
        let longest = self.longest_wait(index);
        let forgotten = self.planted.has(Bug::RoomForgotten);
        let lane = &mut self.lanes[index];
        let anything_else = dropped || next.is_some() || full;
        if (dropped || full) && !taken && next.is_none() {
            lane.ask_after = now.plus(FRUITLESS_WAIT);
        }
        lane.room = match next {
            Some((due, message, postponed)) => {
                let wake = if postponed { due } else { due.min(now.plus(longest)) };
                lane.ask_until = due;
                Room::Rows { due: wake, head: lane.fifo().then_some(message) }
            }
            None if anything_else => Room::Rows { due: now, head: None },
            None => Room::Empty,
        };
        lane.next_unknown = !anything_else && !ask.peek && !lane.fifo() && !forgotten;
        if let Some((due, oldest)) = ask.arrived {
            lane.widen(oldest, due);
        }
    }

    /// When a lane's next row is due.
    pub(crate) fn next_due(&mut self, index: LaneIndex, due: Option<Option<Timestamp>>) {
        let now = self.now.engine;
        let longest = self.longest_wait(index);
        let Some(ask) = self.take_ask(index) else { return };
        let lane = &mut self.lanes[index];
        let Some(due) = due else {
            lane.ask_after = now.plus(READ_FAILED_WAIT);
            lane.next_unknown = true;
            return;
        };
        match due {
            Some(due) => {
                lane.ask_until = due;
                lane.room = Room::Rows { due: due.min(now.plus(longest)), head: None };
            }
            None => lane.room = Room::Empty,
        }
        if let Some((due, oldest)) = ask.arrived {
            lane.widen(oldest, due);
        }
    }

    /// The longest that a delivery can have to wait; a due time further away was written under another clock or schedule.
    fn longest_wait(&self, index: LaneIndex) -> Duration {
        let own = self.lanes[index].endpoint.retry_schedule.as_ref();
        let others = || self.settings.retry_schedule.longest_wait().max(self.schedules.longest());
        own.map_or_else(others, |own| own.longest_wait()).max(RETRY_AFTER_MAX.mul_f64(1.2))
    }

    pub(crate) fn take_ask(&mut self, index: LaneIndex) -> Option<Ask> {
        let ask = self.lanes[index].ask.take()?;
        self.asks -= 1;
        self.reserved -= ask.reserved;
        self.mark(index);
        Some(ask)
    }

    /// This lane has changed.
    pub(crate) fn mark(&mut self, index: LaneIndex) {
        if !std::mem::replace(&mut self.lanes[index].dirty, true) {
            self.dirty.push(index);
        }
    }

    /// Everything that follows from an input: lanes attended, deliveries started, questions asked, timers set.
    pub(crate) fn settle_down(&mut self, effects: &mut Vec<Effect>) {
        loop {
            while let Some(index) = self.dirty.pop() {
                self.attend(index, effects);
            }
            self.serve_line(effects);
            if !self.start_ready(effects) && self.dirty.is_empty() {
                return;
            }
        }
    }

    fn attend(&mut self, index: LaneIndex, effects: &mut Vec<Effect>) {
        let now = self.now.engine;
        self.lanes[index].dirty = false;
        self.classify(index);
        if self.lanes[index].gone {
            self.set_timer(index, None);
            self.forget_lane(index);
            return;
        }
        let lane = &self.lanes[index];
        let barred = lane.paused() && !self.planted.has(Bug::DisabledIgnored);
        if (barred || lane.pace.open_until(now).is_some()) && !lane.queue.is_empty() {
            self.shed(index, effects);
        }
        if self.stopped {
            self.set_timer(index, None);
            return;
        }
        let mut wake = None;
        match self.gate(index) {
            Gate::Ready => self.enter_ring(index),
            Gate::At(at) => wake = Some(at),
            Gate::Closed => {}
        }
        match self.question(index) {
            Question::None => {}
            Question::At(at) => wake = Some(wake.map_or(at, |other| at.min(other))),
            question => self.ask_or_wait(index, question, effects),
        }
        self.set_timer(index, wake);
    }

    pub(crate) fn gate(&mut self, index: LaneIndex) -> Gate {
        let now = self.now.engine;
        #[cfg(feature = "planted-bugs")]
        {
            let lane = &mut self.lanes[index];
            if self.planted.has(Bug::FifoOvertakes) && lane.fifo() && !lane.queue.is_empty() && !lane.paused() {
                return if lane.in_flight == 0 { Gate::Ready } else { Gate::Closed };
            }
            if self.planted.has(Bug::DisabledIgnored) && !lane.queue.is_empty() && lane.in_flight < lane.limit() {
                return Gate::Ready;
            }
        }
        self.lanes[index].gate(now)
    }

    fn question(&self, index: LaneIndex) -> Question {
        let now = self.now.engine;
        let lane = &self.lanes[index];
        let blocked = lane.fifo() && (lane.returning > 0 || lane.barrier > 0);
        if lane.ask.is_some() || lane.paused() || blocked {
            return Question::None;
        }
        // What is leased and has expired is a record at once: no more of them than can be stored one day.
        if self.failing && self.unrecorded >= self.settings.attempts_max {
            return Question::At(now.plus(READ_FAILED_WAIT));
        }
        if lane.next_unknown {
            return if lane.ask_after > now { Question::At(lane.ask_after) } else { Question::Next };
        }
        let Room::Rows { due, .. } = lane.room else { return Question::None };
        let busy_probe = lane.pace.tripped() && lane.in_flight > 0;
        let has_enough = lane.queue.len() * 4 > lane.target(self.settings.lane_queue_max);
        // Of a FIFO lane, all that is in the queue goes before what is not.
        if busy_probe || (has_enough && lane.fifo()) {
            return Question::None;
        }
        let due = if has_enough { due.plus(OVERDUE_AFTER) } else { due };
        let at = due.max(lane.ask_after).max(lane.pace.open_until(now).unwrap_or(now));
        if at > now { Question::At(at) } else { Question::Rows }
    }

    fn ask_or_wait(&mut self, index: LaneIndex, question: Question, effects: &mut Vec<Effect>) {
        if self.lanes[index].wants_lease {
            return;
        }
        if !self.ask(index, question, effects) {
            self.lanes[index].wants_lease = true;
            self.line.push_back(index);
        }
    }

    /// Asks, if there is room for the question and for the rows it may bring.
    fn ask(&mut self, index: LaneIndex, question: Question, effects: &mut Vec<Effect>) -> bool {
        if self.asks >= ASKS_MAX {
            return false;
        }
        let now = self.now.engine;
        let lane = &self.lanes[index];
        let (endpoint, fifo) = (lane.key, lane.fifo());
        let mut ask = Ask {
            until: now,
            limit: 0,
            peek: false,
            reserved: 0,
            arrived: None,
            settled: Set::default(),
            cancelled: Sequence::ZERO,
        };
        match question {
            Question::Next if lane.rows == 0 => effects.push(Effect::NextDue { endpoint, fifo }),
            Question::Next => {
                // Rows in hand would hide the next one from the cheaper question.
                ask.peek = true;
                ask.until = Timestamp::FAR_FUTURE;
                ask.limit = lane.rows + 1;
                effects.push(Effect::Lease { endpoint, fifo, until: ask.until, limit: ask.limit });
            }
            _ => {
                let free = lane.class.share_left(&self.queued, self.settings.queued_max).saturating_sub(self.reserved);
                let most = self.settings.lane_queue_max.saturating_sub(lane.queue.len());
                let target = lane.target(self.settings.lane_queue_max);
                // With enough to do, these are overdue.
                let want = target.saturating_sub(lane.queue.len()).max(target.div_ceil(4));
                ask.reserved = want.min(free).min(most);
                // What could not be taken is not asked for.
                if ask.reserved == 0 || !self.admits(index, 0) {
                    return false;
                }
                ask.until = now.max(lane.ask_until);
                ask.limit = lane.rows + ask.reserved;
                effects.push(Effect::Lease { endpoint, fifo, until: ask.until, limit: ask.limit });
            }
        }
        let lane = &mut self.lanes[index];
        lane.next_unknown = false;
        lane.ask_until = Timestamp::EPOCH;
        self.asks += 1;
        self.reserved += ask.reserved;
        lane.ask = Some(ask);
        true
    }

    /// Asks for lanes that had to wait for their question.
    fn serve_line(&mut self, effects: &mut Vec<Effect>) {
        for _ in 0..self.line.len().min(ASKS_MAX) {
            if self.asks >= ASKS_MAX || self.stopped {
                return;
            }
            let Some(index) = self.line.pop_front() else { return };
            if !std::mem::replace(&mut self.lanes[index].wants_lease, false) || self.lanes[index].gone {
                continue;
            }
            match self.question(index) {
                question @ (Question::Rows | Question::Next) => self.ask_or_wait(index, question, effects),
                _ => self.mark(index),
            }
        }
    }

    fn set_timer(&mut self, index: LaneIndex, at: Option<Timestamp>) {
        let lane = &mut self.lanes[index];
        if lane.timer == at {
            return;
        }
        if let Some(old) = std::mem::replace(&mut lane.timer, at) {
            self.timers.remove(&(old, Alarm::Lane(index)));
        }
        if let Some(at) = at {
            self.timers.insert((at, Alarm::Lane(index)));
        }
    }

    /// Marks everything whose time has come.
    pub(crate) fn fire_timers(&mut self) {
        while let Some((at, alarm)) = self.timers.first().copied() {
            if at > self.now.engine {
                return;
            }
            self.timers.pop_first();
            match alarm {
                Alarm::Lane(index) => {
                    self.lanes[index].timer = None;
                    self.mark(index);
                }
                Alarm::Application(index) => {
                    self.applications[index].resting = false;
                    for class in Class::ALL {
                        self.enter_application(index, class);
                    }
                }
            }
        }
    }

    /// Keeps the sums by class right when a lane's class has changed.
    pub(crate) fn classify(&mut self, index: LaneIndex) {
        let lane = &mut self.lanes[index];
        let class = lane.class_now();
        let old = std::mem::replace(&mut lane.class, class);
        if old == class {
            return;
        }
        let bytes: usize = lane.queue.iter().map(Queued::bytes).sum();
        let application = &mut self.applications[lane.application];
        for (sums, amount) in [
            (&mut self.queued, lane.queue.len()),
            (&mut self.queued_bytes, bytes),
            (&mut self.flying, lane.in_flight),
            (&mut application.queued, lane.queue.len()),
            (&mut application.flying, lane.in_flight),
        ] {
            sums[old as usize] -= amount;
            sums[class as usize] += amount;
        }
        // Its old ring may stand still for long.
        if self.lanes[index].in_ring[old as usize] {
            self.enter_ring(index);
        }
    }

    fn enter_ring(&mut self, index: LaneIndex) {
        let lane = &mut self.lanes[index];
        let (application, class) = (lane.application, lane.class);
        if std::mem::replace(&mut lane.in_ring[class as usize], true) {
            return;
        }
        self.applications[application].ready[class as usize].push_back(index);
        self.enter_application(application, class);
    }

    fn enter_application(&mut self, index: usize, class: Class) {
        let application = &mut self.applications[index];
        let waits = !application.ready[class as usize].is_empty();
        if waits && !application.resting && !application.in_ring[class as usize] {
            application.in_ring[class as usize] = true;
            self.rings[class as usize].push_back(index);
        }
    }

    /// Starts what may start, one delivery per turn; answers whether anything did.
    fn start_ready(&mut self, effects: &mut Vec<Effect>) -> bool {
        let mut any = false;
        loop {
            let mut started = false;
            for class in Class::ALL {
                started |= self.start_one(class, effects);
            }
            any |= started;
            if !started {
                return any;
            }
        }
    }

    /// How many more attempts of this class may be in flight.
    fn share(&self, class: Class) -> usize {
        let class = if self.planted.has(Bug::SlowTakesAll) { Class::Proven } else { class };
        class
            .share_left(&self.flying, self.settings.attempts_max)
            .min(class.share_left(&self.young_flights(), self.strain.limit()))
    }

    /// Attempts in flight that have not been out for long, by the class of their lane.
    fn young_flights(&self) -> [usize; 3] {
        let mut young = self.flying;
        // A lane with one that has is slow, at the latest when it is attended.
        young[Class::Slow as usize] = young[Class::Slow as usize].saturating_sub(self.flying_long);
        young
    }

    /// Starts one delivery of this class, if there is room for it; notes if more room would help.
    fn start_one(&mut self, class: Class, effects: &mut Vec<Effect>) -> bool {
        let started = self.start_next(class, effects);
        if !started && !self.stopped && !self.rings[class as usize].is_empty() {
            self.strain.want();
        }
        started
    }

    fn start_next(&mut self, class: Class, effects: &mut Vec<Effect>) -> bool {
        let max = self.settings.attempts_max;
        let in_flight = self.in_flight();
        let unrecorded_max = if self.failing { max } else { max.saturating_mul(4) };
        let share = self.share(class);
        if self.stopped || in_flight >= max || share == 0 || in_flight + self.unrecorded >= unrecorded_max {
            return false;
        }
        let now = self.now.engine;
        let mut passed_over = 0;
        while let Some(application) = self.rings[class as usize].pop_front() {
            let entry = &mut self.applications[application];
            if !entry.in_ring[class as usize] {
                continue;
            }
            if entry.flying[class as usize] >= share && !self.planted.has(Bug::UnfairPick) {
                self.rings[class as usize].push_back(application);
                passed_over += 1;
                if passed_over >= self.rings[class as usize].len().min(PASSED_OVER_MAX) {
                    return false;
                }
                continue;
            }
            entry.in_ring[class as usize] = false;
            if let Some(at) = entry.throttle.as_mut().map(|t| t.next_at(now)).filter(|at| *at > now) {
                if !std::mem::replace(&mut entry.resting, true) {
                    self.timers.insert((at, Alarm::Application(application)));
                }
                continue;
            }
            let started = self.start_in(application, class, effects);
            self.enter_application(application, class);
            if self.planted.has(Bug::UnfairPick) && self.applications[application].in_ring[class as usize] {
                self.rings[class as usize].rotate_right(1);
            }
            if started {
                return true;
            }
            // What is still in its ring has to wait until others are done.
            if self.applications[application].in_ring[class as usize] {
                passed_over += 1;
                if passed_over >= self.rings[class as usize].len().min(PASSED_OVER_MAX) {
                    return false;
                }
            }
        }
        false
    }

    /// Starts one delivery of the application's next lane that may.
    fn start_in(&mut self, application: usize, class: Class, effects: &mut Vec<Effect>) -> bool {
        let share = self.share(class);
        let mut passed_over = 0;
        while let Some(index) = self.applications[application].ready[class as usize].pop_front() {
            let entry = &mut self.applications[application];
            let lane = &mut self.lanes[index];
            if !lane.in_ring[class as usize] || lane.application != application {
                continue;
            }
            // As with applications: one lane never takes the last free ones of its application from the others.
            if lane.in_flight >= share.saturating_sub(entry.flying[class as usize]).max(1) {
                entry.ready[class as usize].push_back(index);
                passed_over += 1;
                if passed_over >= entry.ready[class as usize].len().min(PASSED_OVER_MAX) {
                    return false;
                }
                continue;
            }
            lane.in_ring[class as usize] = false;
            if lane.class != class {
                continue;
            }
            if self.gate(index) == Gate::Ready {
                let started = self.start(index, effects);
                if self.gate(index) == Gate::Ready {
                    self.enter_ring(index);
                }
                self.mark(index);
                if started {
                    return true;
                }
                continue;
            }
            self.mark(index);
        }
        false
    }

    /// A lane that is gone and has nothing in hand any more makes place for another.
    fn forget_lane(&mut self, index: LaneIndex) {
        let lane = &mut self.lanes[index];
        if lane.held > 0 || lane.in_flight > 0 || lane.forgotten {
            return;
        }
        lane.forgotten = true;
        lane.in_ring = [false; 3];
        let application = lane.application;
        self.free_lanes.push(index);
        self.applications[application].lanes_left -= 1;
        self.forget_application(application);
    }

    /// Takes a delivery in hand.
    pub(crate) fn hold(&mut self, message: &Message, lane: LaneIndex, phase: Phase, fresh: Option<u64>) {
        let delivery = Delivery { endpoint: self.lanes[lane].key, message: message.sequence() };
        let held = Held { lane, phase, row: false, barrier: false, fresh, id: message.id, number: 0 };
        let twice = self.held.insert(delivery, held);
        debug_assert!(twice.is_none() || cfg!(feature = "planted-bugs"), "{delivery:?} was in hand already");
        let lane = &mut self.lanes[lane];
        lane.held += 1;
        count(lane, phase, 1);
    }

    /// Moves a delivery in hand on.
    pub(crate) fn turn(&mut self, delivery: Delivery, phase: Phase) {
        let Some(held) = self.held.get_mut(&delivery) else { return };
        let lane = &mut self.lanes[held.lane];
        count(lane, held.phase, -1);
        count(lane, phase, 1);
        held.phase = phase;
    }

    /// The waiting room has, or will have, a row for a delivery in hand.
    pub(crate) fn note_row(&mut self, delivery: Delivery) {
        let Some(held) = self.held.get_mut(&delivery) else { return };
        if !std::mem::replace(&mut held.row, true) {
            self.lanes[held.lane].rows += 1;
        }
    }

    /// Lets a delivery out of hand.
    pub(crate) fn let_go(&mut self, delivery: Delivery) -> Option<Held> {
        let held = self.held.remove(&delivery)?;
        let lane = &mut self.lanes[held.lane];
        lane.held -= 1;
        lane.rows -= usize::from(held.row);
        lane.barrier -= usize::from(held.barrier);
        if held.phase == Phase::Parking {
            lane.parked.remove(&delivery.message);
        }
        count(lane, held.phase, -1);
        self.mark(held.lane);
        Some(held)
    }
}

/// Whether a message may no longer be sent.
pub(crate) fn expired(message: &Message, now: Timestamp) -> bool {
    message.payload.is_none() || message.expires_at <= now
}

fn count(lane: &mut Lane, phase: Phase, by: isize) {
    let counter = match phase {
        Phase::Queued | Phase::Flying => return,
        Phase::Parking => &mut lane.parking,
        Phase::Returning => &mut lane.returning,
        Phase::Ending => &mut lane.ending,
    };
    *counter = counter.wrapping_add_signed(by);
}
