//! Looking at messages in other ways than by a list: a search with its criteria in a body, the stream of what was accepted, the bare
//! payload, and whether anybody would get a message.
//!
//! The POSTs here change nothing, so that an idempotency key has nothing to keep: the same request again looks again.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::field::{self, Faults};
use crate::message::{MessageOut, Wanted};
use crate::operation::{Access, Operation};
use crate::page::{From, ListOut, Paging, Slice, Window, first_after};
use crate::wire::Time;
use axum::response::Response;
use bellwire_model::{Message, MessageId, Sequence, matches};
use bellwire_store::Span;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

const TAG: &str = "Message";

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::POST, "/api/v1/app/{app_id}/msg/precheck/active", Access::Organisation, precheck)
            .described("v1.message.precheck", TAG, "Whether any enabled endpoint would get such a message.")
            .body::<PrecheckIn>()
            .answers::<PrecheckOut>(200),
        Operation::new(Method::POST, "/api/v1/app/{app_id}/msg/search", Access::Application, search)
            .described("v1.message.search", TAG, "Search for messages, newest first.")
            .body::<SearchIn>()
            .answers::<ListOut<MessageOut<'static>>>(200),
        Operation::new(Method::GET, "/api/v1/app/{app_id}/events", Access::Application, events)
            .described(
                "v1.message.events",
                TAG,
                "Read the stream of accepted messages, oldest first. A page's `iterator` leads on, also when `done` says that there is no \
                 more yet.",
            )
            .query::<EventsQuery>()
            .query::<ChannelsQuery>()
            .filters_event_types()
            .answers::<EventsOut<'static>>(200),
        Operation::new(Method::GET, "/api/v1/app/{app_id}/msg/{msg_id}/raw", Access::Application, raw)
            .described("v1.message.get-raw-payload", TAG, "Get a message's payload as the text that is sent.")
            .answers::<RawOut>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MessagePrecheckIn")]
struct PrecheckIn {
    /// The event type's name
    #[schemars(required, length(max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    event_type: Option<String>,
    #[schemars(length(max = 10))]
    channels: Option<Vec<String>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MessagePrecheckOut")]
struct PrecheckOut {
    /// Whether any enabled endpoint would get such a message, unless its filter on content says no.
    active: bool,
}

async fn precheck(mut call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let body = call.json().await?;
    let input: PrecheckIn = body.parse()?;
    let mut faults = Faults::new();
    let event_type = faults.required("eventType", input.event_type).unwrap_or_default();
    faults.event_type_name("eventType", &event_type);
    faults.channels(input.channels.as_deref());
    faults.end()?;
    let channels = input.channels.unwrap_or_default();
    // There is no content to ask a filter about: one that might say yes counts.
    let active = application.endpoints.iter().any(|e| e.disabled.is_none() && matches(e, &event_type, &channels));
    Ok(error::json(StatusCode::OK, &PrecheckOut { active }))
}

/// What to look for. Its names are written as those of a query.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "MessageSearchIn")]
struct SearchIn {
    /// Limit the number of returned items
    #[schemars(range(max = 250))]
    limit: Option<u64>,
    /// The iterator returned from a prior invocation
    iterator: Option<String>,
    #[schemars(length(max = 128), regex(pattern = crate::wire::CHANNEL_PATTERN))]
    channel: Option<String>,
    before: Option<Time>,
    after: Option<Time>,
    /// When `true` message payloads are included in the response
    #[serde(default)]
    with_content: bool,
    #[schemars(length(max = 128), regex(pattern = crate::wire::TAG_PATTERN))]
    tag: Option<String>,
    event_types: Option<Vec<String>>,
}

async fn search(mut call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let body = call.json().await?;
    let input: SearchIn = body.parse()?;
    let paging = Paging { limit: input.limit, iterator: input.iterator };
    let window = Window { before: input.before, after: input.after };
    let now = call.api.backend().now();
    let slice = Slice::new::<MessageId>("body", paging, &window, now)?;
    let wanted = Wanted::new("body", input.channel, input.tag, input.event_types.unwrap_or_default())?;
    let query = wanted.query(&slice, input.with_content);
    let key = application.application.key;
    let page =
        if slice.empty { slice.nothing() } else { call.api.read(move |store| store.messages(key, &query)).await? };
    let page = slice.newest_first(page);
    let data = page.items.iter().map(|message| MessageOut::new(message, input.with_content, now)).collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out| out.id.0.to_string())))
}

#[derive(Deserialize, JsonSchema)]
struct EventsQuery {
    /// Limit the number of returned items
    limit: Option<u64>,
    /// The iterator returned from a prior invocation
    iterator: Option<String>,
    /// Begin with what was accepted after this time; without effect if there is an iterator
    after: Option<Time>,
}

#[derive(JsonSchema)]
struct ChannelsQuery {
    /// Filter response based on the channel: one of these
    #[expect(dead_code, reason = "for the document; read as the list of event types is")]
    channels: Option<Vec<String>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MessageEventsOut")]
struct EventsOut<'a> {
    data: Vec<MessageOut<'a>>,
    /// Of the next page, whether or not there is one already.
    iterator: String,
    /// Whether there is no more yet.
    done: bool,
}

async fn events(call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let query: EventsQuery = call.query()?;
    let now = call.api.backend().now();
    let paging = Paging { limit: query.limit, iterator: query.iterator };
    let wanted = paging.wanted_by_id::<MessageId>("a message id (msg_…)")?;
    let channels = call.query_list("channels");
    if let Some(msg) = channels.iter().find_map(|channel| field::channel_fault(channel)) {
        return Err(Error::invalid(&["query", "channels"], msg));
    }
    let first = match wanted.from {
        From::After(id) => id.sequence().next(),
        From::Start => query.after.map_or(Sequence::ZERO, |after| first_after(after.0)),
        From::Before(_) => {
            let msg = "this stream is read forwards only: give the `iterator` that it answered";
            return Err(Error::invalid(&["query", "iterator"], msg));
        }
    };
    let span = Span { first, last: Sequence::MAX };
    let slice = Slice { span, ascending: true, limit: wanted.limit, empty: false };
    let messages = Wanted::new("query", None, None, call.query_list("event_types"))?.query(&slice, true);
    let key = application.application.key;
    let page = call.api.read(move |store| store.messages(key, &messages)).await?;
    // The last one that was looked at leads on, shown or not.
    let before = MessageId::from_parts(Sequence::from_u64(first.as_u64().saturating_sub(1)), [0; 12]);
    let iterator = page.items.last().map_or(before, |last| last.id).to_string();
    let shown = |message: &&Message| channels.is_empty() || message.channels.iter().any(|c| channels.contains(c));
    let data = page.items.iter().filter(shown).map(|message| MessageOut::new(message, true, now)).collect();
    Ok(error::json(StatusCode::OK, &EventsOut { data, iterator, done: page.done && wanted.limit > 0 }))
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MessageRawPayloadOut")]
struct RawOut {
    payload: String,
}

async fn raw(call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let message = call.message(&application, true).await?;
    match message.payload.filter(|_| message.expires_at > call.api.backend().now()) {
        // It came as JSON or as a string of Unicode characters.
        Some(payload) => {
            let payload = String::from_utf8_lossy(&payload).into_owned();
            Ok(error::json(StatusCode::OK, &RawOut { payload }))
        }
        None => Err(Error::bad_request("missing_payload", "The payload has expired or was expunged.")),
    }
}
