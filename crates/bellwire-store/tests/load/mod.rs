//! Batches as one engine would send them, small and plain.

use bellwire_model::{
    AfterAttempt, ApplicationKey, Attempt, AttemptId, Delivery, EndpointKey, FanOut, Message, MessageId, Sequence,
    SequenceSource, Timestamp, Trigger,
};
use bellwire_store::Accepted;
use bytes::Bytes;
use std::sync::Arc;

pub(crate) struct Load {
    pub(crate) sequences: SequenceSource,
    pub(crate) now: Timestamp,
}

impl Load {
    pub(crate) fn new() -> Self {
        Load { sequences: SequenceSource::after(Sequence::ZERO), now: Timestamp::from_seconds(1_800_000_000) }
    }

    pub(crate) fn accepted(&mut self, endpoints: &[u32]) -> Accepted {
        let sequence = self.sequences.next(self.now);
        let id = MessageId::from_parts(sequence, [1; 12]);
        let message = Message::new(id, ApplicationKey(1), "a", Bytes::from_static(&[b'x'; 300]), Timestamp::FAR_FUTURE);
        let fan_out: FanOut = endpoints.iter().copied().map(EndpointKey).collect();
        Accepted { message: Arc::new(message), fan_out, idempotency: None, event: None }
    }

    pub(crate) fn attempt(&mut self, message: Sequence, endpoint: u32, number: u32, after: AfterAttempt) -> Attempt {
        Attempt {
            id: AttemptId::from_parts(self.sequences.next(self.now), [2; 12]),
            delivery: Delivery { endpoint: EndpointKey(endpoint), message },
            application: ApplicationKey(1),
            number,
            trigger: Trigger::Scheduled,
            url: Arc::from("https://receiver.example/"),
            outcome: None,
            after,
        }
    }
}
