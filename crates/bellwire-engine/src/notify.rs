//! What the operator may want to know of, as log lines and metrics. Operational webhooks are made of [`crate::Occasion`]s.

use bellwire_model::{AttemptNumber, Delivery, DisabledBy, EndReason, EndpointKey};

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
        /// Which.
        delivery: Delivery,
        /// Why.
        reason: EndReason,
        /// After so many attempts.
        attempts: AttemptNumber,
    },
    /// A delivery was delivered after having failed before.
    DeliveryRecovered {
        /// Which.
        delivery: Delivery,
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
