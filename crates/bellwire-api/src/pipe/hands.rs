//! What one reader has in hand, and what becomes of it when the reader is gone without a word.
//!
//! All of it goes back at once, for others to take. The first that was handed over and not answered counts as an attempt, because it is what
//! the reader was most likely busy with: were nothing counted, a message that crashes its readers would be handed out for ever; were all of
//! them, a reader that lost its network would use up an attempt of each message that merely lay in its buffers. What is counted comes again
//! after the wait of one that was refused, behind the others that are there.
//!
//! Where the server ends the connection, or has answered, the reader still has what it has until the lease ends.

use super::lease::{Using, again, commit, pipe_of, wait_after};
use crate::Api;
use bellwire_engine::{Holder, Receipt, Use};
use bellwire_model::{AttemptNumber, Delivery, EndpointKey, FailureClass};
use bellwire_store::{Change, Settled, told};
use std::sync::Arc;
use tokio::runtime;

/// Whose hand: that of one connection, or one request, of a reader.
#[derive(Clone, Copy)]
pub(super) struct Hand {
    pub(super) endpoint: EndpointKey,
    pub(super) holder: Holder,
}

/// See the module: gives back when it is dropped.
pub(super) struct Hands {
    pub(super) hand: Hand,
    api: Api,
    /// Something has gone out to the reader.
    is_reached: bool,
    keeps: bool,
}

impl Hands {
    pub(super) fn new(api: &Api, endpoint: EndpointKey) -> Self {
        let hand = Hand { endpoint, holder: api.backend().pipes().next_holder() };
        Hands { hand, api: api.clone(), is_reached: false, keeps: false }
    }

    /// What was taken goes out to the reader: it may work on it from now on.
    pub(super) fn reach(&mut self) {
        self.is_reached = true;
    }

    /// The reader has what it has until the leases end, wherever it goes.
    pub(super) fn keep(&mut self) {
        self.keeps = true;
    }

    fn give_back(&self) {
        let (backend, Hand { endpoint, holder }) = (self.api.backend(), self.hand);
        let Some(desk) = backend.pipes().known_desk(endpoint) else { return };
        let Ok((_, pipe)) = pipe_of(&self.api, endpoint) else { return };
        let now = backend.now();
        let begun = desk.leases.lock().begin_held_by(holder, now);
        if begun.is_empty() {
            return;
        }
        let (counted, rest) = begun.split_at(usize::from(self.is_reached));
        let using = |begun: &[(Receipt, AttemptNumber)]| {
            let receipts = begun.iter().map(|(receipt, _)| *receipt).collect();
            Using { desk: Arc::clone(&desk), what: Use::End, receipts }
        };
        using(rest).finish();
        backend.pipes().wakes.rouse(endpoint);
        let [(receipt, number)] = *counted else { return };
        let using = using(counted);
        let text = "the reader's connection ended before it answered".to_owned();
        let settled = Settled {
            delivery: Delivery { endpoint, message: receipt.message },
            number,
            at: now,
            outcome: told(now, Err(FailureClass::ResponseLost), text),
            after: again(number, &pipe, now.plus(wait_after(number))),
        };
        // Without a runtime the process ends, and with it all leases.
        if let Ok(runtime) = runtime::Handle::try_current() {
            let api = self.api.clone();
            runtime.spawn(async move { commit(&api, endpoint, vec![Change::Settle(vec![settled])], using).await });
        }
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        if !self.keeps {
            self.give_back();
        }
    }
}
