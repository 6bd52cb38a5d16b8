//! Attempts: by message, by endpoint, one, and expunging what was answered.

use crate::call::Call;
use crate::document::JsonSchema;
#[cfg(feature = "document")]
use crate::document::{Schema, SchemaGenerator, json_schema};
use crate::error::{self, Error};
use crate::message::{MessageOut, Wanted};
use crate::operation::{Access, Operation};
use crate::page::{ListOut, Paging, Slice, Window};
use crate::wire::{MessageStatus, MessageStatusText, Text, Time};
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bellwire_engine::ApplicationEntry;
use bellwire_model::{
    AfterAttempt, Attempt, AttemptId, EndReason, EndpointId, EndpointKey, Message, MessageId, Outcome, Phases,
    Sequence, Timestamp, Trigger, whole_characters,
};
use bellwire_store::{AttemptFilter, AttemptQuery, Change, ReadError, Store};
use http::{Method, StatusCode};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

const TAG: &str = "Message Attempt";
/// So many attempts are counted one by one.
const COUNT_MAX: usize = 10_000;

pub(crate) fn operations() -> Vec<Operation> {
    let one = "/api/v1/app/{app_id}/msg/{msg_id}/attempt/{attempt_id}";
    vec![
        list(Operation::new(
            Method::GET,
            "/api/v1/app/{app_id}/attempt/endpoint/{endpoint_id}",
            Access::Application,
            list_by_endpoint,
        ))
        .described("v1.message-attempt.list-by-endpoint", TAG, "List attempts by endpoint id, newest first.")
        .query::<WithMessage>(),
        list(Operation::new(
            Method::GET,
            "/api/v1/app/{app_id}/attempt/msg/{msg_id}",
            Access::Application,
            list_by_message,
        ))
        .described("v1.message-attempt.list-by-msg", TAG, "List attempts by message ID, newest first.")
        .query::<OfEndpoint>(),
        Operation::new(
            Method::GET,
            "/api/v1/app/{app_id}/attempt/endpoint/{endpoint_id}/count",
            Access::Application,
            count_by_endpoint,
        )
        .described(
            "v1.message-attempt.count-by-endpoint",
            TAG,
            "Count attempts by endpoint id; beyond 10,000, `approximated` says that there are more.",
        )
        .query::<AttemptsQuery>()
        .query::<Window>()
        .filters_event_types()
        .answers::<AttemptCountOut>(200),
        list(Operation::new(
            Method::GET,
            "/api/v1/app/{app_id}/msg/{msg_id}/attempt",
            Access::Application,
            list_by_message,
        ))
        .described("v1.message-attempt.list-by-msg-deprecated", TAG, "The same as `v1.message-attempt.list-by-msg`.")
        .query::<OfEndpoint>(),
        list(Operation::new(
            Method::GET,
            "/api/v1/app/{app_id}/msg/{msg_id}/endpoint/{endpoint_id}/attempt",
            Access::Application,
            list_by_message,
        ))
        .described(
            "v1.message-attempt.list-by-endpoint-deprecated",
            TAG,
            "The same as `v1.message-attempt.list-by-msg` with this endpoint's id.",
        ),
        Operation::new(Method::GET, one, Access::Application, get)
            .described("v1.message-attempt.get", TAG, "Get a message attempt.")
            .query::<Expanded>()
            .answers::<AttemptOut<'static>>(200),
        Operation::editing(
            Method::DELETE,
            "/api/v1/app/{app_id}/msg/{msg_id}/attempt/{attempt_id}/content",
            Access::Organisation,
            expunge,
        )
        .described("v1.message-attempt.expunge-content", TAG, "Deletes the given attempt's response body.")
        .answers_nothing(204),
    ]
}

/// What every list of attempts takes and answers.
fn list(operation: Operation) -> Operation {
    operation
        .query::<Paging>()
        .query::<AttemptsQuery>()
        .query::<Window>()
        .query::<WithAttemptContent>()
        .query::<Expanded>()
        .filters_event_types()
        .answers::<ListOut<AttemptOut<'static>>>(200)
}

/// An attempt.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MessageAttemptOut")]
pub(crate) struct AttemptOut<'a> {
    id: Text<AttemptId>,
    msg_id: Text<MessageId>,
    endpoint_id: Text<EndpointId>,
    #[schemars(url)]
    /// Where it went, without user info: the endpoint's URL, or the one that its transformation chose.
    url: &'a str,
    /// What was answered, up to a cap; base64 if it is not UTF-8. If nothing was answered, why not.
    response: Cow<'a, str>,
    /// 0 if there was no response.
    #[schemars(with = "i16")]
    response_status_code: u16,
    /// Response duration in milliseconds.
    #[schemars(with = "i64")]
    response_duration_ms: u64,
    /// How long the parts of the exchange took. Absent for attempts that were made before this was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    phases: Option<PhasesOut>,
    status: MessageStatus,
    status_text: MessageStatusText,
    trigger_type: TriggerOut,
    timestamp: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<MessageOut<'a>>,
}

/// How long the parts of an exchange took, in microseconds. Absent is what did not take place, because the connection was
/// open already, or did not come to its end.
#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MessageAttemptPhasesOut")]
pub(crate) struct PhasesOut {
    /// Addresses of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dns_us: Option<u64>,
    /// A TCP connection, and the consent of the proxy if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connect_us: Option<u64>,
    /// The TLS handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_us: Option<u64>,
    /// From the beginning to the head of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_byte_us: Option<u64>,
    /// From the beginning to the end.
    pub(crate) total_us: u64,
}

impl PhasesOut {
    /// Of an exchange of which anything was measured.
    pub(crate) fn of(outcome: &Outcome) -> Option<Self> {
        let Phases { dns, connect, tls, first_byte } = outcome.phases;
        let micros = |part: Duration| u64::try_from(part.as_micros()).unwrap_or(u64::MAX);
        (outcome.phases != Phases::default()).then(|| PhasesOut {
            dns_us: dns.map(micros),
            connect_us: connect.map(micros),
            tls_us: tls.map(micros),
            first_byte_us: first_byte.map(micros),
            total_us: micros(outcome.duration),
        })
    }
}

/// Why an attempt was made.
#[derive(Clone, Copy)]
struct TriggerOut(Trigger);

impl Serialize for TriggerOut {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match self.0 {
            Trigger::Scheduled => 0,
            Trigger::Manual => 1,
        })
    }
}

#[cfg(feature = "document")]
impl JsonSchema for TriggerOut {
    fn schema_name() -> Cow<'static, str> {
        "MessageAttemptTriggerType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "integer",
            "title": "MessageAttemptTriggerType",
            "description": "The reason an attempt was made:\n\n- Scheduled = 0\n- Manual = 1",
            "enum": [0, 1],
            "x-enum-varnames": ["Scheduled", "Manual"],
        })
    }
}

/// Status codes by their first digit; 0 for none.
#[derive(Clone, Copy)]
pub(crate) struct StatusCodeClass(pub(crate) u16);

impl<'de> Deserialize<'de> for StatusCodeClass {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u16::deserialize(deserializer)? {
            class @ (0 | 100 | 200 | 300 | 400 | 500) => Ok(StatusCodeClass(class)),
            _ => Err(D::Error::custom("expected 0, 100, 200, 300, 400 or 500")),
        }
    }
}

#[cfg(feature = "document")]
impl JsonSchema for StatusCodeClass {
    fn schema_name() -> Cow<'static, str> {
        "StatusCodeClass".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "integer",
            "title": "StatusCodeClass",
            "description": "The different classes of HTTP status codes:\n\n- CodeNone = 0\n- Code1xx = 100\n- Code2xx = 200\n- Code3xx = 300\n- Code4xx = 400\n- Code5xx = 500",
            "enum": [0, 100, 200, 300, 400, 500],
            "x-enum-varnames": ["CodeNone", "Code1xx", "Code2xx", "Code3xx", "Code4xx", "Code5xx"],
        })
    }
}

#[derive(Deserialize, JsonSchema)]
struct AttemptsQuery {
    /// Filter response based on the status of the attempt: Success (0), Pending (1), Failed (2), Sending (3), or Canceled (4)
    status: Option<MessageStatus>,
    /// Filter response based on the HTTP status code
    status_code_class: Option<StatusCodeClass>,
    /// Filter response based on the channel
    #[expect(dead_code, reason = "read with the tag and the event types, by `Wanted`")]
    #[schemars(length(max = 128), regex(pattern = crate::wire::CHANNEL_PATTERN))]
    channel: Option<String>,
    /// Filter response based on the tag
    #[expect(dead_code, reason = "as above")]
    #[schemars(length(max = 128), regex(pattern = crate::wire::TAG_PATTERN))]
    tag: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct OfEndpoint {
    /// Filter the attempts based on the attempted endpoint
    #[schemars(length(min = 1, max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    endpoint_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct WithAttemptContent {
    /// When `true` attempt content is included in the response
    #[serde(default = "yes")]
    with_content: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize, JsonSchema)]
struct WithMessage {
    /// When `true`, the message information is included in the response
    #[serde(default)]
    with_msg: bool,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Expanded {
    /// When `true`, return the Canceled (4) status; otherwise it is shown as Fail (2)
    #[serde(default)]
    pub(crate) expanded_statuses: bool,
}

/// How attempts are to be shown.
struct Show {
    with_content: bool,
    expanded: bool,
    now: Timestamp,
}

impl Show {
    fn out<'a>(
        &self,
        attempt: &'a Attempt,
        msg_id: MessageId,
        endpoint_id: EndpointId,
        msg: Option<&'a Message>,
    ) -> AttemptOut<'a> {
        let outcome = attempt.outcome.as_ref();
        let status = match outcome {
            Some(outcome) if outcome.is_success() => MessageStatus::Success,
            // Also by the endpoint's own script.
            Some(outcome) if outcome.is_cancelled() => MessageStatus::Canceled,
            Some(_) => MessageStatus::Fail,
            None => MessageStatus::Canceled,
        };
        let status = status.shown(self.expanded);
        AttemptOut {
            id: Text(attempt.id),
            msg_id: Text(msg_id),
            endpoint_id: Text(endpoint_id),
            // Nothing was sent, and the endpoint is gone: clients want a URI all the same.
            url: if attempt.url.is_empty() { "about:blank" } else { &attempt.url },
            response: if self.with_content { response(attempt) } else { Cow::Borrowed("{}") },
            response_status_code: outcome.and_then(|o| o.result.ok()).unwrap_or(0),
            response_duration_ms: outcome.map_or(0, |o| u64::try_from(o.duration.as_millis()).unwrap_or(u64::MAX)),
            phases: outcome.and_then(PhasesOut::of),
            status,
            status_text: MessageStatusText(status),
            trigger_type: TriggerOut(attempt.trigger),
            timestamp: Time(outcome.map_or_else(|| attempt.id.sequence().time(), |o| o.started_at)),
            msg: msg.map(|message| MessageOut::new(message, self.with_content, self.now)),
        }
    }
}

/// One attempt, with all that there is.
pub(crate) fn one(attempt: &Attempt, message: MessageId, endpoint: EndpointId, now: Timestamp) -> AttemptOut<'_> {
    Show { with_content: true, expanded: false, now }.out(attempt, message, endpoint, None)
}

fn response(attempt: &Attempt) -> Cow<'_, str> {
    match &attempt.outcome {
        Some(outcome) => text_of(&outcome.body),
        None => Cow::Borrowed(match attempt.after {
            AfterAttempt::Ended(EndReason::EndpointDeleted) => "not sent: the endpoint was deleted",
            AfterAttempt::Ended(EndReason::Cancelled) => "not sent: it was cancelled",
            AfterAttempt::Ended(EndReason::Expired) => "not sent: the payload has expired or was removed",
            AfterAttempt::Ended(EndReason::Aborted) => "not sent: the receiver does not want this message",
            AfterAttempt::Ended(EndReason::Exhausted | EndReason::ResendFailed)
            | AfterAttempt::Delivered
            | AfterAttempt::Waiting { .. } => "not sent",
        }),
    }
}

/// Text as it is, but for a character that was cut in two where no more was kept; anything else in base64.
fn text_of(body: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(whole_characters(body)) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(BASE64_STANDARD.encode(body)),
    }
}

/// The public ids of the endpoints that some attempts were made to.
struct EndpointIds(HashMap<EndpointKey, EndpointId>);

impl EndpointIds {
    /// Asks the store for those that are deleted.
    fn of(store: &dyn Store, application: &ApplicationEntry, attempts: &[Attempt]) -> Result<Self, ReadError> {
        let mut ids = HashMap::new();
        for attempt in attempts {
            if let Entry::Vacant(entry) = ids.entry(attempt.delivery.endpoint) {
                let key = *entry.key();
                let id = match application.endpoint(key) {
                    Some(endpoint) => Some(endpoint.id),
                    None => store.deleted_endpoint(key)?,
                };
                entry.insert(id.unwrap_or_else(|| nobodys(key)));
            }
        }
        Ok(EndpointIds(ids))
    }

    fn id(&self, key: EndpointKey) -> EndpointId {
        self.0.get(&key).copied().unwrap_or_else(|| nobodys(key))
    }
}

/// For an endpoint that was deleted before its id was kept: an id that no endpoint has.
fn nobodys(key: EndpointKey) -> EndpointId {
    let mut tail = [0; 12];
    tail[8..].copy_from_slice(&key.0.to_be_bytes());
    EndpointId::from_parts(Sequence::ZERO, tail)
}

/// What both lists ask the store.
fn attempts_query(call: &Call, slice: &Slice, with_body: bool) -> Result<AttemptQuery, Error> {
    let query: AttemptsQuery = call.query()?;
    let Expanded { expanded_statuses } = call.query()?;
    let wanted = Wanted::of(call)?;
    Ok(AttemptQuery {
        span: slice.span,
        ascending: slice.ascending,
        limit: slice.limit,
        filter: AttemptFilter {
            status: query.status.map(|status| status.filter(expanded_statuses)),
            status_class: query.status_code_class.map(|class| class.0),
            event_types: wanted.event_types,
            channel: wanted.channel,
            tag: wanted.tag,
            endpoint: None,
        },
        with_body,
    })
}

async fn list_by_endpoint(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let slice = Slice::of::<AttemptId>(&call)?;
    let WithAttemptContent { with_content } = call.query()?;
    let WithMessage { with_msg } = call.query()?;
    let Expanded { expanded_statuses } = call.query()?;
    let query = attempts_query(&call, &slice, with_content)?;
    let key = endpoint.key;
    let (page, messages) = if slice.empty {
        (slice.nothing(), HashMap::new())
    } else {
        call.api
            .read(move |store| {
                let page = store.attempts_of_endpoint(key, &query)?;
                let mut messages = HashMap::new();
                for attempt in &page.items {
                    let sequence = attempt.delivery.message;
                    if let Entry::Vacant(entry) = messages.entry(sequence) {
                        entry.insert(store.message(sequence, with_msg && with_content)?);
                    }
                }
                Ok((page, messages))
            })
            .await?
    };
    let page = slice.newest_first(page);
    let show = Show { with_content, expanded: expanded_statuses, now: call.api.backend().now() };
    let data = page
        .items
        .iter()
        .map(|attempt| {
            let message = messages.get(&attempt.delivery.message).and_then(Option::as_ref);
            // The log may have lost a message that has passed its retention a moment before its attempts.
            let id = message.map_or_else(|| MessageId::from_parts(attempt.delivery.message, [0; 12]), |m| m.id);
            show.out(attempt, id, endpoint.id, message.filter(|_| with_msg))
        })
        .collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out: &AttemptOut<'_>| out.id.0.to_string())))
}

/// How many attempts there are.
#[derive(Serialize, JsonSchema)]
struct AttemptCountOut {
    #[schemars(with = "u64")]
    count: usize,
    /// There are more than were counted.
    approximated: bool,
}

async fn count_by_endpoint(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let every = Paging { limit: None, iterator: None };
    let slice = Slice::new::<AttemptId>("query", every, &call.query()?, call.api.backend().now())?;
    let query = AttemptQuery { limit: COUNT_MAX, ..attempts_query(&call, &slice, false)? };
    let page = if slice.empty {
        slice.nothing()
    } else {
        call.api.read(move |store| store.attempts_of_endpoint(endpoint.key, &query)).await?
    };
    Ok(error::json(StatusCode::OK, &AttemptCountOut { count: page.items.len(), approximated: !page.done }))
}

async fn list_by_message(call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let slice = Slice::of::<AttemptId>(&call)?;
    let WithAttemptContent { with_content } = call.query()?;
    let Expanded { expanded_statuses } = call.query()?;
    let mut query = attempts_query(&call, &slice, with_content)?;
    let of_path = Some(call.param("endpoint_id").to_owned()).filter(|id| !id.is_empty());
    if let Some(endpoint) = of_path.or(call.query::<OfEndpoint>()?.endpoint_id) {
        query.filter.endpoint = Some(application.find_endpoint(&endpoint).ok_or_else(Error::not_found)?.key);
    }
    let message = call.message(&application, false).await?;
    let sequence = message.sequence();
    let (page, endpoints) = if slice.empty {
        (slice.nothing(), EndpointIds(HashMap::new()))
    } else {
        let read = move |store: &dyn Store| {
            let page = store.attempts_of_message(sequence, &query)?;
            let endpoints = EndpointIds::of(store, &application, &page.items)?;
            Ok((page, endpoints))
        };
        call.api.read(read).await?
    };
    let page = slice.newest_first(page);
    let show = Show { with_content, expanded: expanded_statuses, now: call.api.backend().now() };
    let data = page
        .items
        .iter()
        .map(|attempt| show.out(attempt, message.id, endpoints.id(attempt.delivery.endpoint), None))
        .collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out: &AttemptOut<'_>| out.id.0.to_string())))
}

/// The attempt of the path, which must be of the message of the path.
async fn find(call: &Call, message: &Message) -> Result<Attempt, Error> {
    let id: AttemptId = call.param("attempt_id").parse().map_err(|_| Error::not_found())?;
    let attempt = call.api.read(move |store| store.attempt(id)).await?;
    attempt
        .filter(|a| a.id == id && a.delivery.message == message.sequence() && a.application == message.application)
        .ok_or_else(Error::not_found)
}

async fn get(call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let Expanded { expanded_statuses } = call.query()?;
    let message = call.message(&application, false).await?;
    let attempt = find(&call, &message).await?;
    let show = Show { with_content: true, expanded: expanded_statuses, now: call.api.backend().now() };
    let (attempt, endpoints) = call
        .api
        .read(move |store| {
            let endpoints = EndpointIds::of(store, &application, std::slice::from_ref(&attempt))?;
            Ok((attempt, endpoints))
        })
        .await?;
    let endpoint = endpoints.id(attempt.delivery.endpoint);
    Ok(error::json(StatusCode::OK, &show.out(&attempt, message.id, endpoint, None)))
}

async fn expunge(call: Call) -> Result<Response, Error> {
    let mut edit = call.api.edit().await;
    let application = call.application()?;
    let message = call.message(&application, false).await?;
    let attempt = find(&call, &message).await?;
    edit.put(Change::ExpungeResponse(attempt.id));
    edit.no_content().await
}

#[cfg(test)]
mod tests {
    use super::text_of;

    #[test]
    fn a_response_that_was_cut_within_a_character_is_still_text() {
        for (body, shown) in [
            ("a\u{20ac}".as_bytes(), "a\u{20ac}"),
            (b"a\xe2\x82", "a"),
            (b"", ""),
            (b"a\xe2\x82b", "YeKCYg=="),
            (b"\xff", "/w=="),
        ] {
            assert_eq!(text_of(body), shown);
        }
    }
}
