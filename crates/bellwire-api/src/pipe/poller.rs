//! Svix's poller: the same log under its operations, with its names and bounds. An `iterator` is a cursor.
//!
//! A consumer's poll commits what its page before was: the iterator that it comes back with says that this has been read. One that comes
//! without begins where its consumer is.

use super::event::{headers, signer};
use super::log::{From, Reading, in_time};
use super::{TAG, consumer, cursor};
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::field;
use crate::message::MessageOut;
use crate::operation::{Access, Operation};
use crate::wire::Time;
use axum::response::Response;
use bellwire_model::Sequence;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 250;

pub(super) fn operations() -> Vec<Operation> {
    let one = "/api/v1/app/{app_id}/poller/{sink_id}/consumer/{consumer_id}";
    vec![
        Operation::new(Method::GET, "/api/v1/app/{app_id}/poller/{sink_id}", Access::Application, poll)
            .described(
                "v1.message.poller.poll",
                TAG,
                "Read the stream of the application's messages that the endpoint takes, oldest first.",
            )
            .query::<PollQuery>()
            .query::<PollFilter>()
            .answers::<PollOut<'static>>(200),
        Operation::new(Method::GET, one, Access::Application, consumer_poll)
            .described(
                "v1.message.poller.consumer-poll",
                TAG,
                "Read the stream as a named consumer, whose place is kept here: coming back with a page's `iterator` says that it was read.",
            )
            .query::<PollQuery>()
            .answers::<PollOut<'static>>(200),
        Operation::editing(
            Method::POST,
            "/api/v1/app/{app_id}/poller/{sink_id}/consumer/{consumer_id}/seek",
            Access::Application,
            seek,
        )
        .described("v1.message.poller.consumer-seek", TAG, "Set where a consumer begins.")
        .body::<SeekIn>()
        .answers::<SeekOut>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
struct PollQuery {
    /// Limit the number of returned items
    #[schemars(range(min = 1, max = 250))]
    limit: Option<usize>,
    /// The iterator returned from a prior invocation
    iterator: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct PollFilter {
    /// Only messages of this event type
    #[schemars(length(max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    event_type: Option<String>,
    /// Only messages on this channel
    #[schemars(length(max = 128), regex(pattern = crate::wire::CHANNEL_PATTERN))]
    channel: Option<String>,
    /// Without an iterator: begin with what was accepted after this time
    after: Option<Time>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PollingEndpointOut")]
struct PollOut<'a> {
    data: Vec<PolledOut<'a>>,
    /// Of the next page, whether or not there is one already.
    iterator: String,
    /// Whether there is no more yet.
    done: bool,
}

/// A message that was polled.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PollingEndpointMessageOut")]
struct PolledOut<'a> {
    #[serde(flatten)]
    message: MessageOut<'a>,
    headers: BTreeMap<String, String>,
    /// Why the endpoint's transformation or format gave nothing. Then `payload` is empty.
    #[serde(rename = "transformationError", skip_serializing_if = "Option::is_none")]
    transformation_error: Option<&'a str>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PollingEndpointConsumerSeekIn")]
struct SeekIn {
    #[schemars(required)]
    after: Option<Time>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PollingEndpointConsumerSeekOut")]
struct SeekOut {
    iterator: String,
}

impl PollQuery {
    fn limit(&self) -> Result<usize, Error> {
        match self.limit.unwrap_or(LIMIT_DEFAULT) {
            limit @ 1..=LIMIT_MAX => Ok(limit),
            _ => Err(Error::invalid(&["query", "limit"], "Given limit must be between 1 and 250")),
        }
    }

    fn place(&self, endpoint: bellwire_model::EndpointKey) -> Result<Option<Sequence>, Error> {
        self.iterator.as_deref().map(|text| cursor::read(&["query", "iterator"], endpoint, text)).transpose()
    }
}

async fn poll(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint_at("sink_id")?;
    let (query, filter): (PollQuery, PollFilter) = (call.query()?, call.query()?);
    if let Some(msg) = filter.channel.as_deref().and_then(field::channel_fault) {
        return Err(Error::invalid(&["query", "channel"], msg));
    }
    if let Some(msg) = filter.event_type.as_deref().and_then(field::event_type_fault) {
        return Err(Error::invalid(&["query", "event_type"], format!("an event type {msg}")));
    }
    let after = match query.place(endpoint.key)? {
        Some(after) => after,
        None => filter.after.map_or(From::Earliest, From::After).place(&call.api),
    };
    let reading = Reading {
        reader: "".into(),
        after,
        limit: query.limit()?,
        event_types: filter.event_type.into_iter().collect(),
        channel: filter.channel,
        endpoint,
    };
    page(&call, reading).await
}

async fn consumer_poll(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint_at("sink_id")?;
    let (name, query): (Arc<str>, PollQuery) = (consumer::name(&call)?, call.query()?);
    let limit = query.limit()?;
    consumer::check_pipe(&endpoint)?;
    let kept = consumer::place(&call.api, &endpoint, &name).await?;
    let after = match (query.place(endpoint.key)?, kept) {
        (Some(read), Some(kept)) if read < kept.cursor => {
            let detail = "This iterator is older than what the consumer has read; poll without one to begin where the consumer is.";
            return Err(Error::refused(StatusCode::CONFLICT, "iterator_is_stale", detail));
        }
        (Some(read), kept) => {
            if kept.is_none_or(|kept| kept.cursor < read) {
                // On a task of its own: a client that hangs up does not undo it halfway.
                let (api, endpoint, name) = (call.api.clone(), Arc::clone(&endpoint), Arc::clone(&name));
                tokio::spawn(async move { consumer::put(&api, &endpoint, &name, read, true).await.map(drop) })
                    .await
                    .map_err(|error| Error::Internal(format!("a commit ended: {error}")))??;
            }
            read
        }
        (None, Some(kept)) => kept.cursor,
        (None, None) => Sequence::ZERO,
    };
    page(&call, Reading { endpoint, reader: name, after, limit, event_types: Vec::new(), channel: None }).await
}

async fn page(call: &Call, mut reading: Reading) -> Result<Response, Error> {
    let page = reading.next(&call.api, None, in_time(Duration::ZERO)).await?;
    let now = call.api.backend().now();
    let endpoint = &reading.endpoint;
    let signer = signer(endpoint, now);
    let polled = page.given.iter().map(|given| PolledOut {
        message: MessageOut::new(&given.message, given.fault.is_none(), now),
        headers: headers(endpoint, &signer, &given.message, &given.headers, now),
        transformation_error: given.fault.as_deref(),
    });
    let out = PollOut { data: polled.collect(), iterator: cursor::write(endpoint.key, page.through), done: !page.more };
    Ok(error::json(StatusCode::OK, &out))
}

async fn seek(mut call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint_at("sink_id")?;
    let name = consumer::name(&call)?;
    let body = call.json().await?;
    let input: SeekIn = body.parse()?;
    let after = input.after.ok_or_else(|| Error::invalid(&["body", "after"], "`after` is required"))?;
    let place = From::After(after).place(&call.api);
    let consumer = consumer::put(&call.api, &endpoint, &name, place, false).await?;
    Ok(error::json(StatusCode::OK, &SeekOut { iterator: cursor::write(endpoint.key, consumer.cursor) }))
}
