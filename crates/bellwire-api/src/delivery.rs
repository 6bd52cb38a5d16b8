//! Deliveries: where a message stands at each endpoint, and trying one again (resend).

use crate::attempt::Expanded;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::Begun;
use crate::endpoint::EndpointCommon;
use crate::error::{self, Error};
use crate::message::{MessageFilter, MessageOut, Wanted, WithContent};
use crate::operation::{Access, Operation};
use crate::page::{ListOut, Ordering, Paging, Slice, Window};
use crate::wire::{EmptyResponse, MessageStatus, MessageStatusText, Time};
use axum::response::Response;
use bellwire_model::{Delivery, DeliveryState, Endpoint, EndpointId, MessageId, Timestamp, Trigger, Waiting};
use bellwire_store::{Change, DeliveryOfMessage};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

const TAG: &str = "Message Attempt";

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            Method::GET,
            "/api/v1/app/{app_id}/msg/{msg_id}/endpoint",
            Access::Application,
            list_destinations,
        )
        .described(
            "v1.message-attempt.list-attempted-destinations",
            TAG,
            "List the endpoints that a message is owed to, and where each delivery stands.",
        )
        .query::<Paging>()
        .answers::<ListOut<MessageEndpointOut<'static>>>(200),
        Operation::new(
            Method::GET,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/msg",
            Access::Application,
            list_messages,
        )
        .described(
            "v1.message-attempt.list-attempted-messages",
            TAG,
            "List messages for a particular endpoint, and where each delivery stands.",
        )
        .query::<Paging>()
        .query::<MessageFilter>()
        .query::<DeliveryFilter>()
        .query::<Window>()
        .query::<WithContent>()
        .query::<Expanded>()
        .filters_event_types()
        .answers::<ListOut<EndpointMessageOut<'static>>>(200),
        Operation::editing(
            Method::POST,
            "/api/v1/app/{app_id}/msg/{msg_id}/endpoint/{endpoint_id}/resend",
            Access::Application,
            resend,
        )
        .described("v1.message-attempt.resend", TAG, "Resend a message to the specified endpoint.")
        .answers::<EmptyResponse>(202),
    ]
}

/// An endpoint, and where a message's delivery to it stands.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MessageEndpointOut")]
struct MessageEndpointOut<'a> {
    #[serde(flatten)]
    endpoint: EndpointCommon<'a>,
    status: MessageStatus,
    status_text: MessageStatusText,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<Time>,
}

/// A message, and where its delivery to an endpoint stands.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EndpointMessageOut")]
struct EndpointMessageOut<'a> {
    #[serde(flatten)]
    message: MessageOut<'a>,
    status: MessageStatus,
    status_text: MessageStatusText,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<Time>,
}

#[derive(Deserialize, JsonSchema)]
struct DeliveryFilter {
    /// Filter response based on the status of the delivery: Success (0), Pending (1), Failed (2), Sending (3), or Canceled (4)
    status: Option<MessageStatus>,
}

fn next_attempt(state: DeliveryState) -> Option<Time> {
    match state {
        DeliveryState::Waiting(waiting) => Some(Time(waiting.due)),
        DeliveryState::Fresh | DeliveryState::Delivered | DeliveryState::Ended(_) => None,
    }
}

async fn list_destinations(call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let wanted = call.query::<Paging>()?.wanted_by_id::<EndpointId>("an endpoint id (ep_…)")?;
    let message = call.message(&application, false).await?;
    let sequence = message.sequence();
    let deliveries = call.api.read(move |store| store.deliveries_of_message(sequence)).await?;
    // Of endpoints that still exist; their keys rise, and so do their ids.
    let known: Vec<(&Endpoint, DeliveryOfMessage)> =
        deliveries.into_iter().filter_map(|d| Some((&**application.endpoint(d.endpoint)?, d))).collect();
    let page = wanted.cut(known.into_iter(), |(endpoint, _)| endpoint.id, Ordering::Ascending);
    let data = page
        .items
        .into_iter()
        .map(|(endpoint, delivery)| {
            let status = MessageStatus::of(delivery.state, delivery.attempts).shown(false);
            MessageEndpointOut {
                endpoint: endpoint.into(),
                status,
                status_text: MessageStatusText(status),
                next_attempt: next_attempt(delivery.state),
            }
        })
        .collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out| out.endpoint.id.0.to_string())))
}

async fn list_messages(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let slice = Slice::of::<MessageId>(&call)?;
    let WithContent { with_content } = call.query()?;
    let Expanded { expanded_statuses } = call.query()?;
    let mut query = Wanted::of(&call)?.query(&slice, with_content);
    query.status = call.query::<DeliveryFilter>()?.status.map(|status| status.filter(expanded_statuses));
    let key = endpoint.key;
    let page = if slice.empty {
        slice.nothing()
    } else {
        call.api.read(move |store| store.deliveries_of_endpoint(key, &query)).await?
    };
    let page = slice.newest_first(page);
    let now = call.api.backend().now();
    let data = page
        .items
        .iter()
        .map(|delivery| {
            let status = MessageStatus::of(delivery.state, delivery.attempts).shown(expanded_statuses);
            EndpointMessageOut {
                message: MessageOut::new(&delivery.message, with_content, now),
                status,
                status_text: MessageStatusText(status),
                next_attempt: next_attempt(delivery.state),
            }
        })
        .collect();
    Ok(error::json(
        StatusCode::OK,
        &ListOut::new(data, page.done, |out: &EndpointMessageOut<'_>| out.message.id.0.to_string()),
    ))
}

async fn resend(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let (application, endpoint) = call.endpoint()?;
    let message = call.message(&application, true).await?;
    let now = call.api.backend().now();
    if message.payload.is_none() || message.expires_at <= now {
        let detail = "Unable to resend message. Payload is missing (probably expired).";
        return Err(Error::bad_request("missing_payload", detail));
    }
    let delivery = Delivery { endpoint: endpoint.key, message: message.sequence() };
    let stands = call.api.read(move |store| store.delivery(delivery)).await?;
    if let Some(change) = again(delivery, stands, now) {
        edit.put(change);
    }
    edit.answer(StatusCode::ACCEPTED, &EmptyResponse {}).await
}

/// What a resend changes. One that waits is only due at once: it keeps its number and its schedule. One that the engine holds
/// is being sent as it is. One that has ended, or that never was, is owed once more.
fn again(delivery: Delivery, stands: Option<DeliveryOfMessage>, now: Timestamp) -> Option<Change> {
    match stands.map(|s| (s.state, s.attempts)) {
        Some((DeliveryState::Fresh, _)) => None,
        Some((DeliveryState::Waiting(waiting), _)) => {
            // Owed once more only if it has ended meanwhile: the store counts what it had not.
            Some(Change::Wait { waiting: Waiting { due: now, ..waiting }, owed: true })
        }
        Some((DeliveryState::Delivered | DeliveryState::Ended(_), attempts)) => Some(manual(delivery, attempts, now)),
        None => Some(manual(delivery, 0, now)),
    }
}

fn manual(delivery: Delivery, attempts: u32, now: Timestamp) -> Change {
    let waiting = Waiting { delivery, due: now, next: attempts + 1, trigger: Trigger::Manual };
    Change::Wait { waiting, owed: true }
}
