//! Pull: pages of an endpoint's log from a cursor, which changes nothing and may be done again.

use super::event::EventOut;
use super::log::{From, ReadPage, Reading, in_time};
use super::{TAG, cursor};
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::field;
use crate::operation::{Access, Operation};
use axum::response::Response;
use bellwire_model::{Endpoint, Sequence, Timestamp};
use bellwire_store::{LAG_COUNTED_MAX, LOG_MESSAGES_MAX, Lag};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

const LIMIT_DEFAULT: usize = 100;
/// The longest that a request may wait for a message.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(30);

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/api/v1/app/{app_id}/endpoint/{endpoint_id}/pull", Access::Application, pull)
            .described(
                "v1.pipe.pull",
                TAG,
                "Read a page of the endpoint's messages, oldest first, from a cursor. It changes nothing: the same cursor is the same page.",
            )
            .query::<PullQuery>()
            .query::<FilterQuery>()
            .filters_event_types()
            .answers::<PullOut<'static>>(200),
    ]
}

/// Where to read.
#[derive(Deserialize, JsonSchema)]
pub(super) struct PullQuery {
    /// As an earlier answer gave it: read what comes after.
    pub(super) cursor: Option<String>,
    /// Without a cursor: `earliest` (the default), `now`, or a time.
    pub(super) from: Option<String>,
    /// At most so many messages, 1000 at most; 100 if absent.
    #[schemars(range(min = 1, max = 1000))]
    pub(super) limit: Option<usize>,
    /// Wait so many seconds for a message if there is none, 30 at most.
    #[schemars(range(max = 30))]
    pub(super) wait: Option<u64>,
}

/// What of it.
#[derive(Deserialize, JsonSchema)]
pub(super) struct FilterQuery {
    /// Only messages on this channel
    #[schemars(length(max = 128), regex(pattern = crate::wire::CHANNEL_PATTERN))]
    pub(super) channel: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PipePullOut")]
struct PullOut<'a> {
    data: Vec<EventOut<'a>>,
    /// Read on with it, whether or not there is more yet.
    cursor: String,
    /// There is more already.
    has_more: bool,
    /// How far behind the reader is after this page.
    lag: LagOut,
}

/// How far behind a reader is.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PipeLagOut")]
pub(super) struct LagOut {
    /// Messages after its place; counted up to 1000.
    events: u64,
    /// There are more than that.
    more: bool,
    /// The age of the oldest of them.
    seconds: f64,
}

impl LagOut {
    pub(super) fn new(lag: Lag, now: Timestamp) -> Self {
        let seconds = lag.oldest.map_or(0.0, |oldest| now.since(oldest.time()).as_secs_f64());
        LagOut { events: lag.events, more: lag.events >= LAG_COUNTED_MAX, seconds: (seconds * 1e3).round() / 1e3 }
    }
}

impl PullQuery {
    pub(super) fn limit(&self) -> Result<usize, Error> {
        match self.limit.unwrap_or(LIMIT_DEFAULT) {
            limit @ 1..=LOG_MESSAGES_MAX => Ok(limit),
            _ => Err(Error::invalid(&["query", "limit"], "`limit` is between 1 and 1000")),
        }
    }

    fn wait(&self) -> Result<Duration, Error> {
        let wait = Duration::from_secs(self.wait.unwrap_or(0));
        if wait > WAIT_MAX {
            return Err(Error::invalid(&["query", "wait"], "`wait` is 30 seconds at most"));
        }
        Ok(wait)
    }
}

/// A reader asks for no more types than this.
const EVENT_TYPES_MAX: usize = 500;

/// The reader that a query describes, at its place.
pub(super) fn reading(call: &Call, endpoint: Arc<Endpoint>, reader: &str, query: &PullQuery) -> Result<Reading, Error> {
    let FilterQuery { channel } = call.query()?;
    if let Some(msg) = channel.as_deref().and_then(field::channel_fault) {
        return Err(Error::invalid(&["query", "channel"], msg));
    }
    let event_types = call.query_list("event_types");
    if let Some(msg) = event_types.iter().find_map(|name| field::event_type_fault(name)) {
        return Err(Error::invalid(&["query", "event_types"], format!("an event type {msg}")));
    }
    let twice = |(at, name): (usize, &String)| event_types[..at].contains(name);
    if event_types.len() > EVENT_TYPES_MAX || event_types.iter().enumerate().any(twice) {
        let msg = format!("give each event type once, and at most {EVENT_TYPES_MAX} of them");
        return Err(Error::invalid(&["query", "event_types"], msg));
    }
    let after = match (&query.cursor, &query.from) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid(&["query", "from"], "give either `cursor` or `from`, not both"));
        }
        (Some(text), None) => cursor::read(&["query", "cursor"], endpoint.key, text)?,
        (None, from) => From::parse(from.as_deref().unwrap_or("earliest"))?.place(&call.api),
    };
    let limit = query.limit()?;
    Ok(Reading { endpoint, reader: reader.into(), after, limit, event_types, channel })
}

async fn pull(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let query: PullQuery = call.query()?;
    let wait = query.wait()?;
    let mut reading = reading(&call, endpoint, "", &query)?;
    let api = &call.api;
    let key = reading.endpoint.key;
    let mut watch = (!wait.is_zero()).then(|| api.backend().pipes().wakes.watch(key));
    let page = reading.next(api, watch.as_mut(), in_time(wait)).await?;
    let through = page.through;
    let lag = match page.more {
        true => api.read(move |store| store.lag(key, through)).await?,
        false => Lag::default(),
    };
    let now = api.backend().now();
    let out = PullOut {
        data: events(key, &page, now),
        cursor: cursor::write(key, through),
        has_more: page.more,
        lag: LagOut::new(lag, now),
    };
    Ok(error::json(StatusCode::OK, &out))
}

fn events(endpoint: bellwire_model::EndpointKey, page: &ReadPage, now: Timestamp) -> Vec<EventOut<'_>> {
    let cursor = |at: Sequence| Some(cursor::write(endpoint, at));
    page.given.iter().map(|given| EventOut::new(given, cursor(given.message.sequence()), now)).collect()
}
