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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ApplicationKey, EndpointId, EndpointKey, Sequence, Timestamp};

    fn endpoint(event_types: Option<&[&str]>, channels: Option<&[&str]>) -> Endpoint {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Endpoint {
            event_types: event_types.map(owned),
            channels: channels.map(owned),
            ..Endpoint::new(
                EndpointKey(1),
                ApplicationKey(1),
                EndpointId::from_parts(Sequence::ZERO, [0; 12]),
                "",
                Timestamp::EPOCH,
            )
        }
    }

    #[test]
    fn both_filters_must_pass() {
        let check = |types: Option<&[&str]>, own: Option<&[&str]>, event_type: &str, channels: &[&str], expected| {
            let channels: Vec<_> = channels.iter().map(|c| (*c).to_owned()).collect();
            assert_eq!(
                matches(&endpoint(types, own), event_type, &channels),
                expected,
                "{types:?} {own:?} {channels:?}"
            );
        };
        check(None, None, "a.b", &[], true);
        check(None, None, "a.b", &["north"], true);
        check(Some(&["a.b", "c"]), None, "a.b", &[], true);
        check(Some(&["a"]), None, "a.b", &[], false);
        check(Some(&["a.b.c"]), None, "a.b", &[], false);
        check(None, Some(&["north"]), "a.b", &[], false);
        check(None, Some(&["north"]), "a.b", &["south"], false);
        check(None, Some(&["north", "south"]), "a.b", &["east", "south"], true);
        check(Some(&["a.b"]), Some(&["north"]), "a.b", &["north"], true);
        check(Some(&["a.b"]), Some(&["north"]), "c", &["north"], false);
    }
}
