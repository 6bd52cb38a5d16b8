//! Messages that plugins emit: accepted for the application of the message that they were run for, and durable before the attempt
//! counts as a success.
//!
//! Each gets an event id of its origin's making, `emit.{message}.{endpoint}-{place}`, so that an attempt that is made again
//! emits nothing twice. What is emitted because of something emitted gets a longer one, and the chain is cut when it is too
//! long: two plugins that wake each other end.

use bellwire_api::backend::{AcceptError, Backend};
use bellwire_engine::{Draft, Start, fan_out};
use bellwire_model::{Message, Received};
use bellwire_plugin::Emitted;
use bellwire_shape::{Candidate, judge};
use std::sync::Arc;

const PREFIX: &str = "emit.";
/// From message to message to message.
const CHAIN_MAX: usize = 8;

/// Accepts all that an attempt emitted.
///
/// # Errors
/// Why one of them was not accepted; those before it were, and will not be accepted again.
pub(crate) async fn accept(backend: &dyn Backend, start: &Start, emitted: Vec<Emitted>) -> Result<(), String> {
    for (place, emitted) in emitted.into_iter().enumerate() {
        let draft = draft(backend, start, place, emitted)?;
        match backend.accept(draft).await {
            // By an earlier attempt.
            Ok(_) | Err(AcceptError::EventIdTaken) => {}
            Err(error) => return Err(format!("what the plugin emitted was not accepted: {error}")),
        }
    }
    Ok(())
}

fn draft(backend: &dyn Backend, start: &Start, place: usize, emitted: Emitted) -> Result<Draft, String> {
    let Emitted { event_type, payload, channels } = emitted;
    let event_id = event_id(&start.message, start.endpoint.key.0, place)?;
    let now = backend.now();
    // Kept for as long as its origin.
    let keep = start.message.expires_at.since(start.message.sequence().time());
    let (fan_out, event) = {
        let catalogue = backend.catalogue().read();
        let entry = catalogue.application(start.message.application).ok_or("the application is gone")?;
        let candidate = Candidate::new(&event_type, Some(&event_id), &channels, &[], payload.as_bytes());
        let fan_out =
            fan_out(entry, |endpoint| judge(endpoint, &candidate).is_match(|why| backend.filter_failed(endpoint, why)));
        (fan_out, bellwire_api::event_key(entry.application.id, &event_id))
    };
    Ok(Draft {
        event_id: Some(event_id),
        channels,
        received: start.message.received.as_deref().map(|received| Arc::new(hop(received))),
        event: Some(event),
        ..Draft::new(start.message.application, fan_out, event_type, payload, now.plus(keep))
    })
}

/// What an emitted message has of the request that its origin came in: how that was packed is nothing to its own payload.
fn hop(received: &Received) -> Received {
    let headers = received.headers.iter().filter(|(name, _)| *name != http::header::CONTENT_ENCODING).collect();
    Received { hops: received.hops.saturating_add(1), dedupe: None, headers, ..received.clone() }
}

/// Names what comes of a message at this endpoint in this place, and of nothing else.
fn event_id(origin: &Message, endpoint: u32, place: usize) -> Result<String, String> {
    let before = match origin.event_id.as_deref() {
        Some(id) if id.starts_with(PREFIX) => id.to_owned(),
        _ => format!("{PREFIX}{}", origin.id),
    };
    if before.matches('.').count() > CHAIN_MAX {
        return Err(format!("a message that came of {CHAIN_MAX} emitted ones emits nothing more"));
    }
    Ok(format!("{before}.{endpoint}-{place}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::{Sequence, SourceId};

    #[test]
    fn what_is_emitted_of_a_packed_body_is_not_packed() {
        let origin = Received {
            source: SourceId::from_parts(Sequence::ZERO, [0; 12]),
            method: "POST".into(),
            path: "/hooks/a".into(),
            query: None,
            headers: [("content-encoding", "gzip"), ("x-event", "push")].into_iter().collect(),
            remote: None,
            hops: 2,
            dedupe: Some("1".into()),
        };
        let emitted = hop(&origin);
        assert_eq!(emitted.headers.iter().collect::<Vec<_>>(), [("x-event", "push")]);
        assert_eq!((emitted.hops, emitted.dedupe), (3, None));
    }
}
