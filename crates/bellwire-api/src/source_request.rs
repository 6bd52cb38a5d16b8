//! The requests of a source, for the person who asks what became of one: those that made messages, from the message log, and the
//! newest of those that did not, with the reason, which the sender was not told.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::operation::{Access, Operation};
use crate::page::{From, ListOut, Paging};
use crate::source::{TAG, find};
use crate::wire::{Text, Time};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bellwire_model::{KeptRequest, MessageId, Received, RequestId, RequestOutcome, Sequence};
use bellwire_store::{MessageQuery, Span};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::fmt::Display;

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/api/v1/source/{source_id}/request", Access::Organisation, list)
            .described(
                "v1.source.list-requests",
                TAG,
                "List the source's requests, newest first: all that made messages, and the newest of those that were refused, were \
                 duplicates, or were handshakes.",
            )
            .query::<Paging>()
            .query::<Which>()
            .answers::<ListOut<RequestOut>>(200),
    ]
}

/// Which of them.
#[derive(Deserialize, JsonSchema)]
struct Which {
    /// Only those with this outcome.
    outcome: Option<OutcomeWire>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "SourceRequestOutcome")]
enum OutcomeWire {
    Accepted,
    Refused,
    Duplicate,
    Conflict,
    Handshake,
}

/// A request at a source.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SourceRequestOut")]
struct RequestOut {
    /// Of the request, or of the message that it made.
    id: String,
    timestamp: Time,
    outcome: OutcomeWire,
    /// Why it was refused. The sender was not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The message that it made, or of which it was a duplicate.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<Text<MessageId>>,
    /// What was answered, if it made no message.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    method: String,
    /// Without the source's token.
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<String>,
    /// Names and values, in the order they came. What is secret is masked.
    headers: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_address: Option<String>,
    /// What told it from others.
    #[serde(skip_serializing_if = "Option::is_none")]
    dedupe_key: Option<String>,
    /// The beginning of its body in base64, if it made no message.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

impl RequestOut {
    fn new(id: impl Display, at: Sequence, outcome: OutcomeWire, received: &Received) -> Self {
        RequestOut {
            id: id.to_string(),
            timestamp: Time(at.time()),
            outcome,
            reason: None,
            message_id: None,
            status: None,
            method: received.method.clone(),
            path: received.path.clone(),
            query: received.query.clone(),
            headers: received.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            remote_address: received.remote.map(|address| address.to_string()),
            dedupe_key: received.dedupe.clone(),
            body: None,
        }
    }

    fn kept(request: &KeptRequest) -> Self {
        let (outcome, reason, message) = match &request.outcome {
            RequestOutcome::Refused { reason } => (OutcomeWire::Refused, Some(reason.clone()), None),
            RequestOutcome::Duplicate { message, conflict: true } => (OutcomeWire::Conflict, None, *message),
            RequestOutcome::Duplicate { message, conflict: false } => (OutcomeWire::Duplicate, None, *message),
            RequestOutcome::Handshake => (OutcomeWire::Handshake, None, None),
        };
        RequestOut {
            reason,
            message_id: message.map(Text),
            status: Some(request.status),
            body: Some(STANDARD.encode(&request.body)),
            ..RequestOut::new(request.id, request.id.sequence(), outcome, &request.received)
        }
    }
}

/// An item of the list by its place in time: ids of both kinds are made of sequences of one source.
#[derive(Clone, Copy)]
struct PlaceOf(Sequence);

impl std::str::FromStr for PlaceOf {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let message = text.parse::<MessageId>().map(|id| id.sequence());
        message.or_else(|_| text.parse::<RequestId>().map(|id| id.sequence())).map(PlaceOf).map_err(|_| ())
    }
}

async fn list(call: Call) -> Result<Response, Error> {
    let source = find(&call)?;
    let wanted = call.query::<Paging>()?.wanted_by_id::<PlaceOf>("the id of a request or message (req_…, msg_…)")?;
    let which = call.query::<Which>()?.outcome;
    // Of a page that ends before an item: everything that is newer, from which the oldest are taken.
    let (before, after) = match wanted.from {
        From::Start => (None, None),
        From::After(PlaceOf(at)) => (Some(at), None),
        From::Before(PlaceOf(at)) => (None, Some(at)),
    };
    let limit = wanted.limit;
    let (key, application, id) = (source.key, source.application, source.id);
    let mut all = call
        .api
        .read(move |store| {
            let mut all: Vec<(Sequence, RequestOut)> = Vec::new();
            if which.is_none_or(|which| which != OutcomeWire::Accepted) {
                let kept = store.kept_requests(key, before, KeptRequest::COUNT_MAX)?;
                all.extend(kept.items.iter().map(|request| (request.id.sequence(), RequestOut::kept(request))));
            }
            if which.is_none_or(|which| which == OutcomeWire::Accepted) {
                let first = after.map_or(Sequence::ZERO, Sequence::next);
                let last = before.map_or(Sequence::MAX, |at| Sequence::from_u64(at.as_u64().saturating_sub(1)));
                let query = MessageQuery {
                    span: Span { first, last },
                    ascending: after.is_some(),
                    limit: limit + 1,
                    event_types: Vec::new(),
                    channel: None,
                    tag: None,
                    source: Some(id),
                    with_payload: false,
                    status: None,
                };
                for message in store.messages(application, &query)?.items {
                    let Some(received) = &message.received else { continue };
                    let out = RequestOut {
                        message_id: Some(Text(message.id)),
                        ..RequestOut::new(message.id, message.sequence(), OutcomeWire::Accepted, received)
                    };
                    all.push((message.sequence(), out));
                }
            }
            Ok(all)
        })
        .await?;
    all.retain(|(at, out)| which.is_none_or(|w| w == out.outcome) && after.is_none_or(|after| *at > after));
    all.sort_by_key(|(at, _)| *at);
    let done = all.len() <= limit;
    // The newest, or, on the way back, the oldest of the newer ones; shown newest first.
    let page: Vec<RequestOut> = match after {
        Some(_) => all.into_iter().take(limit).rev().map(|(_, out)| out).collect(),
        None => all.into_iter().rev().take(limit).map(|(_, out)| out).collect(),
    };
    Ok(error::json(StatusCode::OK, &ListOut::new(page, done, |out: &RequestOut| out.id.clone())))
}
