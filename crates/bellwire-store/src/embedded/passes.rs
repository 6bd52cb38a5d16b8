//! What the filters of lists let through.

use super::codec;
use crate::{AttemptFilter, StatusFilter};
use bellwire_model::{AttemptNumber, DeliveryState, EndReason, FailureClass, Message};

pub(super) fn carries(message: &Message, event_types: &[String], channel: Option<&str>, tag: Option<&str>) -> bool {
    (event_types.is_empty() || event_types.contains(&message.event_type))
        && channel.is_none_or(|channel| message.channels.iter().any(|c| c == channel))
        && tag.is_none_or(|tag| message.tags.iter().any(|t| t == tag))
}

pub(super) fn status_passes(status: Option<i32>, filter: &AttemptFilter) -> bool {
    let success = status.is_some_and(|s| (200..300).contains(&s));
    let cancelled = status.is_none_or(|s| s == codec::status_code(Err(FailureClass::Cancelled)));
    let as_asked = match filter.status {
        None => true,
        Some(StatusFilter::Success) => success,
        Some(StatusFilter::Fail) => !success && !cancelled,
        Some(StatusFilter::Canceled) => cancelled,
        Some(StatusFilter::FailOrCanceled) => !success,
        // Those are states of deliveries, not of attempts.
        Some(StatusFilter::Pending | StatusFilter::Sending) => false,
    };
    as_asked && filter.status_class.is_none_or(|class| of_class(status, class))
}

/// Whether a stored status is `n00..=n99`; for class 0, whether there was none.
pub(super) fn of_class(status: Option<i32>, class: u16) -> bool {
    match class {
        0 => status.is_none_or(|s| s < 0),
        class => status.is_some_and(|s| s >= 0 && s / 100 == i32::from(if class >= 100 { class / 100 } else { class })),
    }
}

pub(super) fn stands(status: StatusFilter, state: DeliveryState, attempts: AttemptNumber) -> bool {
    match (status, state) {
        (StatusFilter::Success, DeliveryState::Delivered) => true,
        (StatusFilter::Pending, DeliveryState::Fresh | DeliveryState::Waiting(_)) => attempts == 0,
        (StatusFilter::Sending, DeliveryState::Fresh | DeliveryState::Waiting(_)) => attempts > 0,
        (StatusFilter::Fail, DeliveryState::Ended(reason)) => !on_somebodys_word(reason),
        (StatusFilter::Canceled, DeliveryState::Ended(reason)) => on_somebodys_word(reason),
        (StatusFilter::FailOrCanceled, DeliveryState::Ended(_)) => true,
        _ => false,
    }
}

fn on_somebodys_word(reason: EndReason) -> bool {
    match reason {
        EndReason::Aborted | EndReason::Expired | EndReason::EndpointDeleted | EndReason::Cancelled => true,
        EndReason::Exhausted | EndReason::ResendFailed => false,
    }
}
