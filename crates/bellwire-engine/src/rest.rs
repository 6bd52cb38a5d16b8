//! Attempts that only wait for others of their lane, as notes for one digest do: they have no exchange on, and take nobody's place.
//!
//! One that rests stays a flight, and its delivery in hand: it ends like any other, and a crash finds it where one in flight is found. It
//! counts neither against its lane's limit nor against what all share; what rests has bounds of its own, in number and in bytes. One that
//! finds no room there, or is in a FIFO lane, where nothing may start before it has ended, keeps its place.

use crate::engine::{Engine, Flight, Token};
use crate::lane::Lane;
use crate::planted::Bug;

/// What rests, of a lane or of all.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Resting {
    attempts: usize,
    bytes: usize,
}

impl Resting {
    pub(crate) fn attempts(&self) -> usize {
        self.attempts
    }

    fn add(&mut self, bytes: usize) {
        self.attempts += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.attempts -= 1;
        self.bytes -= bytes;
    }
}

impl Engine {
    /// An attempt only waits from now on.
    pub(crate) fn rest(&mut self, token: Token) {
        let Some(flight) = self.flights.get_mut(&token) else { return };
        let index = flight.lane;
        let lane = &mut self.lanes[index];
        let (all, bytes) = (&mut self.resting, flight.message.content_bytes());
        let (attempts_left, bytes_left) = (
            self.settings.attempts_max.saturating_sub(all.attempts),
            self.settings.queued_bytes_max.saturating_sub(all.bytes),
        );
        // As with queues: the more rests, the less of one lane, so that some room is left for the others.
        let fits = lane.resting.attempts < attempts_left && lane.resting.bytes + bytes <= bytes_left;
        let fits = fits || self.planted.has(Bug::RestUnbounded);
        if flight.rests || lane.fifo() || !fits {
            return;
        }
        flight.rests = true;
        all.add(bytes);
        lane.resting.add(bytes);
        self.flying_long -= usize::from(flight.slow);
        lane.slow_flights -= usize::from(std::mem::take(&mut flight.slow));
        self.leave_place(index);
        self.mark(index);
    }

    /// One that rested has an exchange to make: it is in flight again, also beyond the bounds, and what it takes counts from here.
    pub(crate) fn go_on(&mut self, token: Token) {
        let now = self.now.engine;
        let Some(flight) = self.flights.get_mut(&token).filter(|flight| flight.rests) else { return };
        flight.rests = false;
        flight.started = now;
        let index = flight.lane;
        forget(&mut self.resting, &mut self.lanes[index], flight);
        self.take_place(index);
        self.young.push_back((now, token));
    }
}

/// An attempt rests no longer.
pub(crate) fn forget(all: &mut Resting, lane: &mut Lane, flight: &Flight) {
    let bytes = flight.message.content_bytes();
    all.remove(bytes);
    lane.resting.remove(bytes);
}
