//! Named consumers: readers whose place is kept here. What one has read past is delivered.

use super::log::From;
use super::{TAG, cursor, expiry};
use crate::Api;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::field;
use crate::operation::{Access, Operation};
use crate::wire::Time;
use axum::response::Response;
use bellwire_model::{Endpoint, Kind, Sequence};
use bellwire_store::{Change, Consumer};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// An endpoint has at most so many.
const CONSUMERS_MAX: usize = 100;

pub(super) fn operations() -> Vec<Operation> {
    let all = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/pull/consumer";
    let one = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/pull/consumer/{consumer_id}";
    let commit_path = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/pull/consumer/{consumer_id}/commit";
    let seek_path = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/pull/consumer/{consumer_id}/seek";
    vec![
        Operation::new(Method::GET, all, Access::Application, list)
            .described("v1.pipe.consumer.list", TAG, "List the endpoint's named consumers and where each is.")
            .answers::<ConsumersOut>(200),
        Operation::editing(Method::DELETE, one, Access::Application, delete)
            .described("v1.pipe.consumer.delete", TAG, "Forget a consumer and its place.")
            .answers_nothing(204),
        Operation::editing(Method::POST, commit_path, Access::Application, commit)
            .described(
                "v1.pipe.consumer.commit",
                TAG,
                "Say that the consumer has read everything up to a cursor: what waits up to there is delivered. Goes forward only.",
            )
            .body::<CommitIn>()
            .answers::<ConsumerOut>(200),
        Operation::editing(Method::POST, seek_path, Access::Application, seek)
            .described("v1.pipe.consumer.seek", TAG, "Set the consumer's place, forward or back. Nothing is delivered by that.")
            .body::<SeekIn>()
            .answers::<ConsumerOut>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PipeCommitIn")]
struct CommitIn {
    /// As a page, a message or a stream gave it.
    #[schemars(required)]
    cursor: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PipeSeekIn")]
struct SeekIn {
    /// As a page, a message or a stream gave it.
    cursor: Option<String>,
    /// Or `earliest`, `now`, or a time.
    from: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PipeConsumerOut")]
struct ConsumerOut {
    name: String,
    cursor: String,
    /// When it first had a place.
    created_at: Time,
    /// When its place was last set.
    updated_at: Time,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PipeConsumersOut")]
struct ConsumersOut {
    data: Vec<ConsumerOut>,
}

impl ConsumerOut {
    fn new(consumer: &Consumer) -> Self {
        ConsumerOut {
            name: consumer.name.to_string(),
            cursor: cursor::write(consumer.endpoint, consumer.cursor),
            created_at: Time(consumer.created_at),
            updated_at: Time(consumer.updated_at),
        }
    }
}

/// The name in the path.
pub(super) fn name(call: &Call) -> Result<Arc<str>, Error> {
    checked(call.param("consumer_id"), &["path", "consumer_id"])
}

/// A name for a consumer; `loc` is where it was given.
pub(super) fn checked(name: &str, loc: &[&str]) -> Result<Arc<str>, Error> {
    if name.is_empty() || name.len() > 128 || !name.bytes().all(field::is_name) {
        let msg = "a consumer's name has 1 to 128 letters, digits, and -_.";
        return Err(Error::invalid(loc, msg));
    }
    Ok(name.into())
}

/// Only of a pipe may readers end what is owed.
///
/// # Errors
/// 409 for an endpoint of another kind.
pub(super) fn check_pipe(endpoint: &Endpoint) -> Result<(), Error> {
    if matches!(endpoint.kind, Kind::Pipe(_)) {
        return Ok(());
    }
    let detail = "Only deliveries of an endpoint of the kind pipe can be taken by readers; this one has another kind. \
                  Its messages can be read with a cursor.";
    Err(Error::refused(StatusCode::CONFLICT, "not_a_pipe", detail))
}

/// Where a consumer is, if it has a place.
pub(super) async fn place(api: &Api, endpoint: &Endpoint, name: &Arc<str>) -> Result<Option<Consumer>, Error> {
    let (key, name) = (endpoint.key, Arc::clone(name));
    api.read(move |store| store.consumer(key, &name)).await
}

/// Moves a consumer, durably: forward, having read up to there, or to wherever it is told.
pub(super) async fn put(
    api: &Api,
    endpoint: &Endpoint,
    name: &Arc<str>,
    cursor: Sequence,
    read: bool,
) -> Result<Consumer, Error> {
    check_pipe(endpoint)?;
    expiry::noticed(api, endpoint);
    let (key, own) = (endpoint.key, Arc::clone(name));
    let all = api.read(move |store| store.consumers(key)).await?;
    let before = all.iter().find(|consumer| consumer.name == own);
    if before.is_none() && all.len() >= CONSUMERS_MAX {
        let detail = format!("An endpoint has at most {CONSUMERS_MAX} consumers; delete one that is not used.");
        return Err(Error::refused(StatusCode::CONFLICT, "too_many_consumers", detail));
    }
    // A place ahead of everything would pass over what is accepted later.
    let cursor = cursor.min(api.backend().sequence());
    let now = api.backend().now();
    let created_at = before.map_or(now, |before| before.created_at);
    let cursor = if read { before.map_or(cursor, |before| before.cursor.max(cursor)) } else { cursor };
    let consumer = Consumer { endpoint: key, name: own, cursor, created_at, updated_at: now };
    api.backend().settle(vec![Change::PutConsumer { consumer: consumer.clone(), read }]).await?;
    Ok(consumer)
}

async fn list(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let key = endpoint.key;
    let all = call.api.read(move |store| store.consumers(key)).await?;
    Ok(error::json(StatusCode::OK, &ConsumersOut { data: all.iter().map(ConsumerOut::new).collect() }))
}

async fn delete(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let name = name(&call)?;
    call.api.backend().settle(vec![Change::DeleteConsumer { endpoint: endpoint.key, name }]).await?;
    Ok(error::no_content())
}

async fn commit(mut call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let name = name(&call)?;
    let body = call.json().await?;
    let input: CommitIn = body.parse()?;
    let text = input.cursor.ok_or_else(|| Error::invalid(&["body", "cursor"], "`cursor` is required"))?;
    let at = cursor::read(&["body", "cursor"], endpoint.key, &text)?;
    let consumer = put(&call.api, &endpoint, &name, at, true).await?;
    Ok(error::json(StatusCode::OK, &ConsumerOut::new(&consumer)))
}

async fn seek(mut call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let name = name(&call)?;
    let body = call.json().await?;
    let input: SeekIn = body.parse()?;
    let at = match (input.cursor, input.from) {
        (Some(text), None) => cursor::read(&["body", "cursor"], endpoint.key, &text)?,
        (None, Some(from)) => From::parse(&from)?.place(&call.api),
        _ => return Err(Error::invalid(&["body", "cursor"], "give either `cursor` or `from`")),
    };
    let consumer = put(&call.api, &endpoint, &name, at, false).await?;
    Ok(error::json(StatusCode::OK, &ConsumerOut::new(&consumer)))
}
