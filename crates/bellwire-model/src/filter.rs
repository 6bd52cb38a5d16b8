//! Who gets which message.

use crate::endpoint::Endpoint;

/// Whether `endpoint` takes a message of `event_type` on `channels`. Both filters must pass:
///
/// * no event types on the endpoint: every type; otherwise the message's type must be among them;
/// * no channels on the endpoint: every message; otherwise at least one of the message's channels must be among them,
///   so a message without channels does not match.
///
/// A disabled endpoint matches: whether its deliveries go out now or wait is not the filter's business.
pub fn matches(endpoint: &Endpoint, event_type: &str, channels: &[String]) -> bool {
    let type_matches = endpoint.event_types.as_ref().is_none_or(|types| types.iter().any(|t| t == event_type));
    type_matches && endpoint.channels.as_ref().is_none_or(|own| channels.iter().any(|c| own.contains(c)))
}
