//! Why a message was or was not delivered: every endpoint of its application, what each attempt did, and what happens next.
//!
//! What was decided when the message was accepted is known for certain: the fan-out is kept with it. Why an endpoint is not in it is
//! judged by the endpoint's settings of now, since those of then are not kept; the answer says so where it matters.

use crate::attempt::PhasesOut;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::explain_text::{Judgement, application_text, attempt_text, not_matched_text, place_of, state_text};
use crate::operation::{Access, Operation};
use crate::wire::{Text, Time};
use axum::response::Response;
use bellwire_engine::ApplicationEntry;
use bellwire_model::{
    ApplicationId, Attempt, AttemptId, DeliveryState, Endpoint, EndpointId, EndpointKey, Message, MessageId, Timestamp,
};
use bellwire_shape::{Candidate, Verdict, judge};
use bellwire_store::{AttemptFilter, AttemptQuery, DeliveryOfMessage, Span};
use http::{Method, StatusCode};
use serde::Serialize;
use std::sync::Arc;

const TAG: &str = "Message";
/// So many attempts are told, the newest ones.
const ATTEMPTS_MAX: usize = 1_000;
/// An event id is looked for in so many applications.
const APPLICATIONS_MAX: usize = 10_000;

pub(crate) fn operations() -> Vec<Operation> {
    let summary = "Explain in sentences what happened to a message at every endpoint, and what happens next.";
    vec![
        Operation::new(Method::GET, "/api/v1/app/{app_id}/msg/{msg_id}/explain", Access::Application, of_application)
            .described("v1.message.explain", TAG, summary)
            .answers::<ExplanationOut>(200),
        Operation::new(Method::GET, "/api/v1/explain/{msg_id}", Access::Organisation, of_organisation)
            .described(
                "v1.message.explain-anywhere",
                TAG,
                "The same by the message's id or event id alone, in whichever application of the organisation it is.",
            )
            .answers::<ExplanationOut>(200),
    ]
}

/// What became of a message.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ExplanationOut {
    message_id: Text<MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    event_type: String,
    application_id: Text<ApplicationId>,
    timestamp: Time,
    /// About the message as a whole.
    sentences: Vec<String>,
    /// Every endpoint of the application, in order of creation; and those that the message was owed to and that are deleted.
    endpoints: Vec<ExplainedEndpointOut>,
}

/// What became of a message at one endpoint.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ExplainedEndpointOut {
    /// Absent if it is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_id: Option<Text<EndpointId>>,
    /// Whether the message was owed to it when it was accepted, or was sent to it since.
    matched: bool,
    state: ExplainedState,
    /// When the next attempt is due, if one is planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<Time>,
    /// What is to be known, one fact each.
    sentences: Vec<String>,
    /// Oldest first.
    attempts: Vec<ExplainedAttemptOut>,
}

/// Where it stands there.
#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum ExplainedState {
    NotMatched,
    Pending,
    Delivered,
    Ended,
}

/// One attempt.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ExplainedAttemptOut {
    attempt_id: Text<AttemptId>,
    number: u32,
    timestamp: Time,
    /// 0 if there was no response.
    response_status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    phases: Option<PhasesOut>,
    sentence: String,
}

/// What the store knows of a message, in one reading.
struct Facts {
    message: Message,
    deliveries: Vec<DeliveryOfMessage>,
    /// Newest first.
    attempts: Vec<Attempt>,
    /// There are older ones.
    more: bool,
}

async fn of_application(call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let message = call.message(&application, true).await?;
    answer(&call, &application, message).await
}

async fn of_organisation(call: Call) -> Result<Response, Error> {
    let (application, message) = find(&call).await?;
    answer(&call, &application, message).await
}

/// The message of the path, in any application of the organisation.
async fn find(call: &Call) -> Result<(Arc<ApplicationEntry>, Message), Error> {
    let text = call.param("msg_id");
    let organisation = call.principal.organisation();
    if let Ok(id) = text.parse::<MessageId>() {
        let message = call.api.read(move |store| store.message(id.sequence(), true)).await?;
        let message = message.filter(|message| message.id == id).ok_or_else(Error::not_found)?;
        let catalogue = call.api.backend().catalogue().read();
        let application = catalogue.application(message.application);
        let own = application.filter(|application| application.application.organisation == *organisation);
        return Ok((own.cloned().ok_or_else(Error::not_found)?, message));
    }
    let applications: Vec<_> = {
        let catalogue = call.api.backend().catalogue().read();
        catalogue.applications_of(organisation).take(APPLICATIONS_MAX + 1).cloned().collect()
    };
    if applications.len() > APPLICATIONS_MAX {
        let detail = format!(
            "There are more than {APPLICATIONS_MAX} applications to look for an event id in; ask \
             /api/v1/app/{{app_id}}/msg/{{event_id}}/explain, or give the message's id."
        );
        return Err(Error::bad_request("too_many_applications", detail));
    }
    let keys: Vec<_> =
        applications.iter().map(|entry| crate::idempotency::event_key(entry.application.id, text)).collect();
    let found = call
        .api
        .read(move |store| {
            let mut found = Vec::new();
            for (at, key) in keys.into_iter().enumerate() {
                if store.find_key(key)?.is_some() {
                    found.push(at);
                }
            }
            Ok(found)
        })
        .await?;
    let mut messages = Vec::new();
    for application in found.into_iter().filter_map(|at| applications.get(at)) {
        if let Some(message) = call.api.message(application, text, true).await? {
            messages.push((Arc::clone(application), message));
        }
    }
    match messages.pop() {
        Some(only) if messages.is_empty() => Ok(only),
        None => Err(Error::not_found()),
        Some(last) => {
            let ids: Vec<_> = messages.iter().chain([&last]).map(|(_, message)| message.id.to_string()).collect();
            let detail = format!("Several applications have a message with this event id: {}.", ids.join(", "));
            Err(Error::bad_request("ambiguous_event_id", detail))
        }
    }
}

async fn answer(call: &Call, application: &ApplicationEntry, message: Message) -> Result<Response, Error> {
    let query = AttemptQuery {
        span: Span::ALL,
        ascending: false,
        limit: ATTEMPTS_MAX,
        filter: AttemptFilter::default(),
        with_body: true,
    };
    let facts = call
        .api
        .read(move |store| {
            let deliveries = store.deliveries_of_message(message.sequence())?;
            let page = store.attempts_of_message(message.sequence(), &query)?;
            Ok(Facts { message, deliveries, attempts: page.items, more: !page.done })
        })
        .await?;
    Ok(error::json(StatusCode::OK, &explain(application, &facts, call.api.backend().now())))
}

fn explain(application: &ApplicationEntry, facts: &Facts, now: Timestamp) -> ExplanationOut {
    let Facts { message, deliveries, more, .. } = facts;
    let known = |key: EndpointKey| application.endpoint(key).is_some();
    let mut endpoints: Vec<_> = application.endpoints.iter().map(|e| explain_endpoint(e, facts, now)).collect();
    endpoints.extend(deliveries.iter().filter(|d| !known(d.endpoint)).map(|d| explain_deleted(d, facts, now)));
    ExplanationOut {
        message_id: Text(message.id),
        event_id: message.event_id.clone(),
        event_type: message.event_type.clone(),
        application_id: Text(application.application.id),
        timestamp: Time(message.sequence().time()),
        sentences: application_text(&application.application, message, deliveries, endpoints.len(), *more, now),
        endpoints,
    }
}

fn explain_endpoint(endpoint: &Endpoint, facts: &Facts, now: Timestamp) -> ExplainedEndpointOut {
    let mut out = match facts.deliveries.iter().find(|d| d.endpoint == endpoint.key) {
        Some(delivery) => explain_delivery(Some(endpoint), delivery, facts, now),
        None => ExplainedEndpointOut {
            endpoint_id: None,
            matched: false,
            state: ExplainedState::NotMatched,
            next_attempt: None,
            sentences: not_matched_text(endpoint, &facts.message, &judgement(endpoint, &facts.message)),
            attempts: Vec::new(),
        },
    };
    out.endpoint_id = Some(Text(endpoint.id));
    out.sentences.insert(0, place_of(endpoint));
    out
}

fn explain_deleted(delivery: &DeliveryOfMessage, facts: &Facts, now: Timestamp) -> ExplainedEndpointOut {
    let mut out = explain_delivery(None, delivery, facts, now);
    out.sentences.insert(0, "An endpoint that has been deleted since.".to_owned());
    out
}

fn explain_delivery(
    endpoint: Option<&Endpoint>,
    delivery: &DeliveryOfMessage,
    facts: &Facts,
    now: Timestamp,
) -> ExplainedEndpointOut {
    let own = facts.attempts.iter().rev().filter(|attempt| attempt.delivery.endpoint == delivery.endpoint);
    let attempts: Vec<_> = own
        .filter_map(|attempt| {
            let outcome = attempt.outcome.as_ref()?;
            Some(ExplainedAttemptOut {
                attempt_id: Text(attempt.id),
                number: attempt.number,
                timestamp: Time(outcome.started_at),
                response_status_code: outcome.result.unwrap_or(0),
                phases: PhasesOut::of(outcome),
                sentence: attempt_text(attempt, outcome),
            })
        })
        .collect();
    let state = match delivery.state {
        DeliveryState::Fresh | DeliveryState::Waiting(_) => ExplainedState::Pending,
        DeliveryState::Delivered => ExplainedState::Delivered,
        DeliveryState::Ended(_) => ExplainedState::Ended,
    };
    let next_attempt = match delivery.state {
        DeliveryState::Waiting(waiting) => Some(Time(waiting.due)),
        _ => None,
    };
    ExplainedEndpointOut {
        endpoint_id: None,
        matched: true,
        state,
        next_attempt,
        sentences: state_text(endpoint, delivery, &facts.message, now),
        attempts,
    }
}

/// Why the endpoint is not in the fan-out, as far as its settings of now tell.
fn judgement(endpoint: &Endpoint, message: &Message) -> Judgement {
    if endpoint.created_at > message.sequence().time() {
        return Judgement::Later;
    }
    let (candidate, whole) = match Candidate::of(message) {
        Some(candidate) => (candidate, true),
        None => {
            let Message { event_type, event_id, channels, tags, .. } = message;
            (Candidate::new(event_type, event_id.as_deref(), channels, tags, b"null"), false)
        }
    };
    match judge(endpoint, &candidate) {
        Verdict::EventType => Judgement::EventType,
        Verdict::Channels => Judgement::Channels,
        Verdict::Filter | Verdict::Fault(_) | Verdict::Match if !whole && endpoint.shape.filter.is_some() => {
            Judgement::PayloadGone
        }
        Verdict::Filter => Judgement::Filter,
        Verdict::Fault(why) => Judgement::Fault(why),
        Verdict::Match => Judgement::Match,
    }
}
