//! Trying an endpoint out: an example of an event type, or a message of one's own, to this endpoint alone, whatever it filters on.

use crate::attempt::{self, AttemptOut};
use crate::backend::Accepted;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::event_type::visible;
use crate::example::example;
use crate::field::Faults;
use crate::idempotency::Once;
use crate::message::{MessageIn, MessageOut};
use crate::operation::{Access, Operation};
use crate::payload;
use crate::schema::{newest, versions};
use axum::response::Response;
use bellwire_engine::Draft;
use bellwire_model::{Attempt, Delivery, FanOut, Message};
use bellwire_store::{AttemptFilter, AttemptQuery, Span};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// Svix's name for an example that needs no event type.
const PING: &str = "svix.ping";
const PING_PAYLOAD: &str = r#"{"success":true}"#;
const EXAMPLE_KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long a request waits for its attempt, and how often it looks.
const ATTEMPT_WAIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            Method::POST,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/send-example",
            Access::Application,
            send_example,
        )
        .described(
            "v1.endpoint.send-example",
            "Endpoint",
            "Send an example of an event type to this endpoint only: one that its newest schema gives, or one made from it.",
        )
        .body::<EventExampleIn>()
        .answers::<MessageOut<'static>>(202),
        Operation::new(
            Method::POST,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/msg/test-attempt",
            Access::Application,
            test_attempt,
        )
        .described(
            "v1.message.test-attempt",
            "Message",
            "Send a message to this endpoint only, and wait up to 30 seconds for its first attempt.",
        )
        .body::<MessageIn<'static>>()
        .answers::<AttemptOut<'static>>(201),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EventExampleIn {
    /// The event type's name
    #[schemars(required, length(max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    event_type: Option<String>,
    /// Which of the schema's `examples`, from 0.
    #[serde(default)]
    example_index: u64,
}

async fn send_example(mut call: Call) -> Result<Response, Error> {
    let (application, endpoint) = call.endpoint()?;
    let body = call.json().await?;
    let input: EventExampleIn = body.parse()?;
    let mut faults = Faults::new();
    let event_type = faults.required("eventType", input.event_type).unwrap_or_default();
    faults.event_type_name("eventType", &event_type);
    faults.end()?;
    let payload = example_of(&call, &event_type, usize::try_from(input.example_index).unwrap_or(usize::MAX))?;
    let now = call.api.backend().now();
    let fan_out = FanOut::from_slice(&[endpoint.key]);
    let draft = Draft {
        idempotency: call.once(body.bytes()).map(|Once { key, digest }| (key, digest)),
        ..Draft::new(application.application.key, fan_out, event_type, payload, now.plus(EXAMPLE_KEPT_FOR))
    };
    let message = accept(&call, draft).await?;
    Ok(error::json(StatusCode::ACCEPTED, &MessageOut::new(&message, true, now)))
}

/// The payload of an example.
fn example_of(call: &Call, event_type: &str, index: usize) -> Result<Bytes, Error> {
    if event_type == PING {
        return Ok(Bytes::from_static(PING_PAYLOAD.as_bytes()));
    }
    let known = {
        let catalogue = call.api.backend().catalogue().read();
        catalogue.event_type(call.principal.organisation(), event_type).cloned()
    };
    let fault = |field: &str, msg: String| Error::invalid(&["body", field], msg);
    let Some(known) = known.filter(|known| !known.archived && visible(&call.principal, known)) else {
        return Err(fault("eventType", format!("there is no event type {event_type}")));
    };
    let schemas = known.schemas.as_deref().map(versions).unwrap_or_default();
    let Some(schema) = newest(&schemas) else {
        return Err(fault("eventType", format!("the event type {event_type} has no schema to make an example from")));
    };
    let made = example(schema, index).map_err(|why| {
        let field = if index > 0 { "exampleIndex" } else { "eventType" };
        fault(field, why.to_string())
    })?;
    let payload = Bytes::from(made.to_string());
    let payload_bytes_max = call.api.settings().payload_bytes_max;
    if payload.len() > payload_bytes_max {
        return Err(Error::too_large("example", payload_bytes_max));
    }
    Ok(payload)
}

async fn accept(call: &Call, draft: Draft) -> Result<Arc<Message>, Error> {
    let (Accepted::New(message) | Accepted::Same(message)) = call.api.backend().accept(draft).await?;
    Ok(message)
}

async fn test_attempt(mut call: Call) -> Result<Response, Error> {
    let (application, endpoint) = call.endpoint()?;
    let body = call.json().await?;
    let input: MessageIn<'_> = body.parse()?;
    let mut faults = Faults::new();
    if input.deliver_at.is_some() {
        faults.add("deliverAt", "an attempt that is waited for is made at once; leave `deliverAt` out");
    }
    if endpoint.disabled.is_some() {
        faults.add_at(&[], "the endpoint is disabled, so no attempt would be made; enable it first");
    }
    faults.end()?;
    let once = call.once(body.bytes());
    let now = call.api.backend().now();
    let (draft, _) = input.check(&call.api, once, now)?;
    let place = draft.place;
    let mut draft = draft.addressed(&application, call.api.backend());
    payload::check(&call.api, &application, &draft, place).await?;
    draft.fan_out = FanOut::from_slice(&[endpoint.key]);
    let message = accept(&call, draft).await?;
    let delivery = Delivery { endpoint: endpoint.key, message: message.sequence() };
    let looks = ATTEMPT_WAIT.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..looks {
        if let Some(attempt) = first_attempt(&call, delivery).await? {
            let out = attempt::one(&attempt, message.id, endpoint.id, call.api.backend().now());
            return Ok(error::json(StatusCode::CREATED, &out));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Error::Later {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: "attempt_pending",
        detail: "The message was accepted, but its attempt has not ended yet. The same request with the same idempotency key waits on.",
        after_seconds: 1,
    })
}

async fn first_attempt(call: &Call, delivery: Delivery) -> Result<Option<Attempt>, Error> {
    let filter = AttemptFilter { endpoint: Some(delivery.endpoint), ..AttemptFilter::default() };
    let query = AttemptQuery { span: Span::ALL, ascending: true, limit: 1, filter, with_body: true };
    let page = call.api.read(move |store| store.attempts_of_message(delivery.message, &query)).await?;
    Ok(page.items.into_iter().next())
}
