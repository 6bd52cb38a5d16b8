//! One message to all applications, as a background task: each gets a message of its own, with its own fan-out.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::Error;
#[cfg(feature = "document")]
use crate::message::AnyObject;
use crate::message::MessageIn;
use crate::operation::{Access, Operation};
use crate::payload;
use crate::task::{self, begun};
use axum::response::Response;
use bellwire_engine::ApplicationEntry;
use bellwire_model::PayloadValidation;
use bellwire_store::{Broadcast, Span, Work};
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::editing(Method::POST, "/api/v1/msg/broadcast", Access::Organisation, broadcast)
            .described(
                "v1.message.broadcast",
                "Broadcast",
                "Send a message to each application that there is now, as a background task. The task's `data` has `messagesSent`, and the first 5,000 of \
                 `messagesCreated`.",
            )
            .body::<MessageBroadcastIn>()
            .answers::<MessageBroadcastOut>(202),
    ]
}

/// A message for all.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct MessageBroadcastIn<'a> {
    /// The event type's name
    #[schemars(required, length(max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    event_type: Option<String>,
    /// Optional unique identifier for the message. An application that has a message with it already gets no other one.
    #[schemars(length(min = 1, max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    event_id: Option<String>,
    /// JSON payload to send as the request body of the webhook, byte for byte.
    #[serde(borrow)]
    #[schemars(required, with = "AnyObject")]
    payload: Option<&'a RawValue>,
    /// List of free-form identifiers that endpoints can filter by
    #[schemars(length(max = 10))]
    channels: Option<Vec<String>>,
    /// Optional number of days to retain the message payload. Not together with `payloadRetentionHours`.
    #[schemars(range(min = 1, max = 90))]
    payload_retention_period: Option<i64>,
    /// Optional number of hours to retain the message payload. Not together with `payloadRetentionPeriod`.
    #[schemars(range(min = 1, max = 2160))]
    payload_retention_hours: Option<i64>,
}

begun!(
    /// The task that was begun.
    MessageBroadcastOut
);

async fn broadcast(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let input: MessageBroadcastIn<'_> = body.parse()?;
    let message = MessageIn::for_all(
        input.event_type,
        input.event_id,
        input.payload,
        input.channels,
        (input.payload_retention_period, input.payload_retention_hours),
    );
    let now = call.api.backend().now();
    let (draft, _) = message.check(&call.api, None, now)?;
    let organisation = call.principal.organisation().clone();
    let (first, refusing) = {
        let catalogue = call.api.backend().catalogue().read();
        let mut all = catalogue.applications_of(&organisation).peekable();
        let first = all.peek().map(|first| first.application.id.sequence());
        (first, all.find(|entry| refuses(entry)).cloned())
    };
    let place = draft.place;
    let draft = match refusing {
        // The schema is the organisation's: what one application refuses, all that look refuse.
        Some(entry) => {
            let draft = draft.addressed(&entry, call.api.backend());
            payload::check(&call.api, &entry, &draft, place).await?;
            draft
        }
        None => draft.for_nobody(),
    };
    let payload = std::str::from_utf8(&draft.payload).map_err(|_| Error::Internal("JSON is not UTF-8".to_owned()))?;
    let message = Broadcast {
        payload: payload.into(),
        event_type: draft.event_type,
        event_id: draft.event_id,
        channels: draft.channels,
        expires_at: draft.expires_at,
    };
    let mut span = Span::ALL;
    if let Some(first) = first {
        span.first = first;
    }
    let work = Work::Broadcast(Some(Arc::new(message)));
    task::begin(&call, &body, span, |_| Ok(work), MessageBroadcastOut::new).await
}

/// Whether it refuses payloads that are not as their schema says.
fn refuses(entry: &ApplicationEntry) -> bool {
    entry.application.settings.payload_validation == PayloadValidation::Refuse
}
