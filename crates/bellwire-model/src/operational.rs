//! Operational webhooks: messages to the operator about the system itself, and when one follows from an attempt.
//!
//! Each organisation has at most one *operational application*, made with its first operational endpoint. Operational messages are
//! messages of it, so they are as durable, retried, signed and visible as any other. What happens to them is never itself told
//! by an operational message, or one dead receiver would keep the system talking to itself.

use crate::application::Application;
use crate::attempt::{AttemptNumber, Trigger};
use crate::delivery::{AfterAttempt, EndReason};

/// The uid of the operational application. A tilde is in no uid that a user may choose, and stands in a URL as it is.
pub const OPERATIONAL_UID: &str = "~operational";

/// This failed attempt is told as [`OperationalType::AttemptFailing`].
const FAILING_AT: AttemptNumber = 4;

/// What an operational message is about; its event type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OperationalType {
    /// An endpoint was created.
    EndpointCreated,
    /// An endpoint was changed through the API.
    EndpointUpdated,
    /// An endpoint was deleted (not: with its application).
    EndpointDeleted,
    /// An endpoint was disabled, by us or through the API.
    EndpointDisabled,
    /// A disabled endpoint was enabled.
    EndpointEnabled,
    /// The fourth attempt of a delivery failed and there will be another.
    AttemptFailing,
    /// The last attempt of a delivery failed.
    AttemptExhausted,
    /// A delivery succeeded by its schedule after [`OperationalType::AttemptFailing`].
    AttemptRecovered,
    /// A background task has ended by itself.
    TaskFinished,
}

impl OperationalType {
    /// All, in the order of the reference.
    pub const ALL: [OperationalType; 9] = [
        OperationalType::EndpointCreated,
        OperationalType::EndpointUpdated,
        OperationalType::EndpointDeleted,
        OperationalType::EndpointDisabled,
        OperationalType::EndpointEnabled,
        OperationalType::AttemptFailing,
        OperationalType::AttemptExhausted,
        OperationalType::AttemptRecovered,
        OperationalType::TaskFinished,
    ];

    /// The event type's name.
    pub const fn name(self) -> &'static str {
        match self {
            OperationalType::EndpointCreated => "endpoint.created",
            OperationalType::EndpointUpdated => "endpoint.updated",
            OperationalType::EndpointDeleted => "endpoint.deleted",
            OperationalType::EndpointDisabled => "endpoint.disabled",
            OperationalType::EndpointEnabled => "endpoint.enabled",
            OperationalType::AttemptFailing => "message.attempt.failing",
            OperationalType::AttemptExhausted => "message.attempt.exhausted",
            OperationalType::AttemptRecovered => "message.attempt.recovered",
            OperationalType::TaskFinished => "background_task.finished",
        }
    }
}

impl Application {
    /// Whether it is its organisation's operational application.
    pub fn is_operational(&self) -> bool {
        self.uid.as_deref() == Some(OPERATIONAL_UID)
    }
}

/// What the operator is told of attempt `number`, given what follows it. Each delivery is failing, exhausted and recovered at most
/// once: a manual attempt is made once whatever comes of it, and whoever asked for it sees what came of it.
pub fn operational_after(number: AttemptNumber, trigger: Trigger, after: AfterAttempt) -> Option<OperationalType> {
    match after {
        AfterAttempt::Waiting { .. } if number == FAILING_AT => Some(OperationalType::AttemptFailing),
        AfterAttempt::Ended(EndReason::Exhausted) => Some(OperationalType::AttemptExhausted),
        AfterAttempt::Delivered if number > FAILING_AT && trigger == Trigger::Scheduled => {
            Some(OperationalType::AttemptRecovered)
        }
        AfterAttempt::Waiting { .. } | AfterAttempt::Ended(_) | AfterAttempt::Delivered => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn what_the_operator_is_told_of_an_attempt() {
        let check = |number, trigger, after, expected: Option<OperationalType>| {
            assert_eq!(operational_after(number, trigger, after), expected, "{number} {trigger:?} {after:?}");
        };
        use OperationalType::{AttemptExhausted, AttemptFailing, AttemptRecovered};
        let (waiting, delivered) = (AfterAttempt::Waiting { due: Timestamp::EPOCH }, AfterAttempt::Delivered);
        check(3, Trigger::Scheduled, waiting, None);
        check(4, Trigger::Scheduled, waiting, Some(AttemptFailing));
        check(5, Trigger::Scheduled, waiting, None);
        check(1, Trigger::Scheduled, delivered, None);
        check(4, Trigger::Scheduled, delivered, None);
        check(5, Trigger::Scheduled, delivered, Some(AttemptRecovered));
        check(5, Trigger::Manual, delivered, None);
        let ended = AfterAttempt::Ended;
        check(4, Trigger::Scheduled, ended(EndReason::Exhausted), Some(AttemptExhausted));
        check(1, Trigger::Scheduled, ended(EndReason::Exhausted), Some(AttemptExhausted));
        check(9, Trigger::Manual, ended(EndReason::ResendFailed), None);
        check(0, Trigger::Scheduled, ended(EndReason::EndpointDeleted), None);
    }

    #[test]
    fn no_user_can_choose_the_reserved_uid() {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        assert!(!OPERATIONAL_UID.bytes().all(allowed));
    }
}
