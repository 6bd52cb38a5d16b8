//! What the operator may want to know of, as log lines and metrics. Operational webhooks are made of [`crate::Occasion`]s.

use bellwire_model::{AttemptNumber, DisabledBy, EndReason, EndpointKey, MessageId};

/// Something that happened and is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// An endpoint was disabled by us.
    EndpointDisabled {
        /// Which.
        endpoint: EndpointKey,
        /// Why.
        by: DisabledBy,
    },
    /// A delivery ended undelivered.
    DeliveryEnded {
        /// Of which message; absent if it never was in hand.
        message: Option<MessageId>,
        /// For which endpoint.
        endpoint: EndpointKey,
        /// Why.
        reason: EndReason,
        /// After so many attempts.
        attempts: AttemptNumber,
    },
    /// A delivery was delivered after having failed before.
    DeliveryRecovered {
        /// Of which message.
        message: MessageId,
        /// For which endpoint.
        endpoint: EndpointKey,
        /// At this attempt.
        attempts: AttemptNumber,
    },
    /// A lane's breaker opened.
    BreakerOpened {
        /// Whose.
        endpoint: EndpointKey,
    },
    /// A lane's breaker closed.
    BreakerClosed {
        /// Whose.
        endpoint: EndpointKey,
    },
}
