//! Letting go of what is being cancelled. The store ends it row by row, in slices; until it has, nothing of it starts any more.

use crate::engine::{Effect, Engine};
use crate::planted::Bug;
use bellwire_model::{Delivery, EndpointKey, Sequence};

impl Engine {
    /// What waits for an endpoint of messages before `before` is being cancelled: all of it has a row since the commit that says so, and a
    /// lease leaves those rows alone. What is in the queue goes out of hand; what is in flight ends with its outcome.
    pub(crate) fn cancelled(&mut self, endpoint: EndpointKey, before: Sequence, effects: &mut Vec<Effect>) {
        let Some(index) = self.lane_of.get(&endpoint).copied() else { return };
        if self.planted.has(Bug::CancelIgnored) {
            return;
        }
        let now = self.now.engine;
        if let Some(ask) = &mut self.lanes[index].ask {
            // It was asked before that commit, perhaps.
            ask.cancelled = ask.cancelled.max(before);
        }
        for _ in 0..self.lanes[index].queue.len() {
            let Some(queued) = self.dequeue(index) else { break };
            let message = queued.message.sequence();
            if message >= before {
                self.enqueue(index, queued);
                continue;
            }
            let delivery = Delivery { endpoint, message };
            self.settle_place(delivery);
            self.let_go(delivery);
        }
        // A resend that was asked for since has a row that stays: what it was queued as is gone, so the row is looked for.
        self.lanes[index].arrived(Sequence::ZERO, now);
        if self.lanes[index].fifo() {
            self.shed(index, effects);
        }
        self.mark(index);
    }
}
