//! A delivery: one message for one endpoint, the thing that is pending, delivered or ended.
//!
//! ```text
//!              accept
//!                │
//!                ▼            outcome says later
//!   ┌────────▶ Fresh ─────────────────────────────────┐
//!   │            │ lane full, paused, slow, deliver_at ▼
//!   │            ├─────────────────────────────────▶ Waiting ◀─┐ outcome says later,
//!   │            │                                     │       │ or resend of an ended one
//!   │ crash      │ outcome is final                    ├───────┘
//!   │ (recovery) ▼                                     ▼
//!   └──────── (in memory)                  Delivered │ Ended(reason)
//! ```
//!
//! *Fresh* is known from the two logs alone (accepted, no final attempt, not in the waiting room); the engine holds it
//! in memory and recovery finds it again above the watermark. *Waiting* has a row in the waiting room. Every other
//! state is written in the attempt log and never changes.

use crate::attempt::{AttemptNumber, Trigger};
use crate::clock::Timestamp;
use crate::endpoint::EndpointKey;
use crate::id::Sequence;

/// One message for one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Delivery {
    /// The endpoint; first, so that deliveries sort by lane.
    pub endpoint: EndpointKey,
    /// The message's place in the message log.
    pub message: Sequence,
}

/// A row of the waiting room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Which delivery waits.
    pub delivery: Delivery,
    /// Not before this engine time.
    pub due: Timestamp,
    /// The number of the attempt that comes next.
    pub next: AttemptNumber,
    /// Why it will be made. A manual one is tried once and does not follow the schedule.
    pub trigger: Trigger,
}

/// What follows an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterAttempt {
    /// The endpoint has it.
    Delivered,
    /// Another attempt, not before `due`.
    Waiting {
        /// Engine time of the next attempt.
        due: Timestamp,
    },
    /// No further attempt.
    Ended(EndReason),
}

/// Why a delivery ended without being delivered. Stored as its number, printed as its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EndReason {
    /// The retry schedule is used up.
    Exhausted,
    /// The receiver said `webhook-delivery: abort-message`.
    Aborted,
    /// The payload's retention ended, or it was expunged, before the endpoint took it.
    Expired,
    /// The endpoint or its application was deleted.
    EndpointDeleted,
    /// A resend, which is tried once, failed.
    ResendFailed,
    /// Somebody asked that it be not sent any more, or the endpoint's own script said so.
    Cancelled,
}

impl EndReason {
    /// All, in the order of their numbers.
    pub const ALL: [EndReason; 6] = [
        EndReason::Exhausted,
        EndReason::Aborted,
        EndReason::Expired,
        EndReason::EndpointDeleted,
        EndReason::ResendFailed,
        EndReason::Cancelled,
    ];

    /// Its name in the ledger, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            EndReason::Exhausted => "exhausted",
            EndReason::Aborted => "aborted",
            EndReason::Expired => "expired",
            EndReason::EndpointDeleted => "endpoint_deleted",
            EndReason::ResendFailed => "resend_failed",
            EndReason::Cancelled => "cancelled",
        }
    }

    /// Its number in tables.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From its number in tables.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// Where a delivery stands, as the API tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryState {
    /// Accepted, and either never tried or being tried for the first time; the engine holds it in memory.
    Fresh,
    /// In the waiting room; due at the time given.
    Waiting(Waiting),
    /// The endpoint has it.
    Delivered,
    /// No further attempt.
    Ended(EndReason),
}
