//! Endpoints that gather what comes and take it in one exchange, as notes of a digest are: what they gather rests meanwhile.

use super::{Event, SECOND, World};
use crate::receiver::Class;
use crate::truth::Checked;
use bellwire_engine::{Input, Token};
use bellwire_model::{Delivery, EndpointKey, Timestamp};

/// How long an endpoint gathers.
const WINDOW: i64 = 2 * SECOND;

impl World {
    /// An attempt waits for the window's end; the first of a window begins it.
    pub(super) fn gather(&mut self, shard: usize, token: Token, delivery: Delivery) {
        let (generation, endpoint) = (self.generation, delivery.endpoint);
        let Some(node) = &mut self.node else { return };
        let gathered = node.sums.entry(endpoint).or_default();
        gathered.push((token, delivery));
        let is_first = gathered.len() == 1;
        self.inbox(shard, Input::Rests(token), None);
        if is_first {
            self.after(WINDOW, Event::Summed { generation, shard, endpoint });
        }
    }

    /// The window ends: its first attempt makes the exchange, and all end as that does.
    pub(super) fn summed(&mut self, generation: u64, shard: usize, endpoint: EndpointKey) -> Checked {
        if !self.alive(generation) {
            return Ok(());
        }
        let gathered = self.node.as_mut().and_then(|node| node.sums.get_mut(&endpoint)).map(std::mem::take);
        let gathered = gathered.unwrap_or_default();
        let Some((first, _)) = gathered.first() else { return Ok(()) };
        self.note("summed", [u64::from(endpoint.0), gathered.len() as u64, 0]);
        self.step(shard, Input::GoesOn(*first))?;
        let (took, mut outcome, taken) = Class::Summing.exchange(Timestamp::from_micros(self.now), &mut self.summing);
        outcome.started_at = self.wall_now();
        for (token, delivery) in gathered {
            if taken {
                self.truth.taken.insert(delivery);
            }
            let outcome = Box::new(outcome.clone());
            let wait = took.as_micros() as i64;
            self.after(wait, Event::Outcome { generation, shard, token, delivery, outcome });
        }
        Ok(())
    }
}
