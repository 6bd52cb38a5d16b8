//! Many deliveries of an endpoint at once: all that failed (recover), all that it never got (replay missing), all that have
//! ended (bulk replay), each as a background task; and what waits, ended (cancel).

use crate::attempt::StatusCodeClass;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::Begun;
use crate::error::Error;
use crate::field::{self, Faults};
use crate::operation::{Access, Operation};
use crate::task::{self, begun};
use crate::wire::{MessageStatus, Time};
use axum::response::Response;
use bellwire_model::{Sequence, Timestamp};
use bellwire_store::{Change, ReplayFilter, Span, Target, Work};
use http::Method;
use serde::Deserialize;
use std::time::Duration;

const TAG: &str = "Endpoint";
/// Two weeks, and five minutes for clocks that differ.
const RECOVER_WITHIN: Duration = Duration::from_secs(14 * 24 * 3600 + 300);

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::editing(
            Method::POST,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/recover",
            Access::Application,
            recover)
            .described("v1.endpoint.recover", TAG, "Resend all failed messages since a given time, as a background task.")
            .body::<RecoverIn>()
            .answers::<RecoverOut>(202),
        Operation::editing(
            Method::POST,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/replay-missing",
            Access::Application,
            replay_missing)
            .described(
                "v1.endpoint.replay-missing",
                TAG,
                "Send the messages since a given time that the endpoint would get now and never got, as a background task.",
            )
            .body::<ReplayIn>()
            .answers::<ReplayOut>(202),
        Operation::editing(
            Method::POST,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/bulk-replay",
            Access::Application,
            bulk_replay)
            .described(
                "v1.endpoint.bulk-replay",
                TAG,
                "Send the endpoint's messages since a given time again, delivered or failed, as a background task.",
            )
            .body::<BulkReplayIn>()
            .answers::<ReplayOut>(202),
        Operation::editing(
            Method::POST,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/cancel-msgs",
            Access::Application,
            cancel_messages)
            .described(
                "v1.endpoint.cancel-msgs",
                TAG,
                "Cancel the pending deliveries of messages created before a given time. None of them starts any more when this is \
                 answered; they end in the background. What is on its way still arrives.",
            )
            .body::<CancelMsgsIn>()
            .answers_nothing(204),
    ]
}

/// From when to when.
#[derive(Deserialize, JsonSchema)]
struct RecoverIn {
    #[schemars(required)]
    since: Option<Time>,
    until: Option<Time>,
}

/// From when to when.
#[derive(Deserialize, JsonSchema)]
struct ReplayIn {
    #[schemars(required)]
    since: Option<Time>,
    until: Option<Time>,
}

/// From when to when, and which.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct BulkReplayIn {
    #[schemars(required)]
    since: Option<Time>,
    until: Option<Time>,
    event_types: Option<Vec<String>>,
    #[schemars(length(max = 128), regex(pattern = crate::wire::CHANNEL_PATTERN))]
    channel: Option<String>,
    #[schemars(length(max = 128), regex(pattern = crate::wire::TAG_PATTERN))]
    tag: Option<String>,
    status: Option<MessageStatus>,
    status_code_class: Option<StatusCodeClass>,
}

/// Up to when.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CancelMsgsIn {
    #[schemars(required)]
    created_before: Option<Time>,
}

begun!(
    /// The task that was begun.
    RecoverOut
);
begun!(
    /// The task that was begun.
    ReplayOut
);

/// The messages of `[since, until]`, to the end of `until`'s millisecond.
pub(crate) fn span(since: Timestamp, until: Timestamp) -> Span {
    let after = Sequence::first_at(until.plus(Duration::from_millis(1)));
    Span { first: Sequence::first_at(since), last: Sequence::from_u64(after.as_u64().saturating_sub(1)) }
}

/// Checks a range that must have a beginning.
fn range(faults: &mut Faults, since: Option<Time>, until: Option<Time>, now: Timestamp) -> Span {
    let since = faults.required("since", since).map_or(now, |time| time.0);
    if until.is_some_and(|until| until.0 < since) {
        faults.add("until", "`until` must not be before `since`");
    }
    span(since, until.map_or(now, |time| time.0))
}

fn target(call: &Call) -> Result<Target, Error> {
    let (_, endpoint) = call.endpoint()?;
    Ok(Target { application: endpoint.application, endpoint: endpoint.key })
}

async fn recover(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let input: RecoverIn = body.parse()?;
    let now = call.api.backend().now();
    let mut faults = Faults::new();
    let span = range(&mut faults, input.since, input.until, now);
    if span.first < Sequence::first_at(now.minus(RECOVER_WITHIN)) {
        faults.add("since", "Cannot recover messages more than 14 days old.");
    }
    faults.end()?;
    task::begin(&call, &body, span, |call| Ok(Work::Recover(target(call)?)), RecoverOut::new).await
}

async fn replay_missing(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let input: ReplayIn = body.parse()?;
    let mut faults = Faults::new();
    let span = range(&mut faults, input.since, input.until, call.api.backend().now());
    faults.end()?;
    task::begin(&call, &body, span, |call| Ok(Work::Replay(target(call)?)), ReplayOut::new).await
}

async fn bulk_replay(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let input: BulkReplayIn = body.parse()?;
    let mut faults = Faults::new();
    let span = range(&mut faults, input.since, input.until, call.api.backend().now());
    let filter = input.filter(&mut faults);
    faults.end()?;
    task::begin(&call, &body, span, |call| Ok(Work::BulkReplay(target(call)?, filter)), ReplayOut::new).await
}

impl BulkReplayIn {
    fn filter(self, faults: &mut Faults) -> ReplayFilter {
        faults.event_types("eventTypes", self.event_types.as_deref());
        if let Some(msg) = self.channel.as_deref().and_then(field::channel_fault) {
            faults.add("channel", msg);
        }
        if let Some(msg) = self.tag.as_deref().and_then(field::tag_fault) {
            faults.add("tag", msg);
        }
        if matches!(self.status, Some(MessageStatus::Pending | MessageStatus::Sending)) {
            faults.add("status", "only what has ended can be replayed: expected 0 (success), 2 (fail) or 4 (canceled)");
        }
        ReplayFilter {
            event_types: self.event_types.unwrap_or_default(),
            channel: self.channel,
            tag: self.tag,
            // As the lists have it: what was cancelled is among what failed.
            status: self.status.map(|status| status.filter(false)),
            status_class: self.status_code_class.map(|class| class.0),
        }
    }
}

async fn cancel_messages(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let input: CancelMsgsIn = body.parse()?;
    let mut faults = Faults::new();
    let before = faults.required("createdBefore", input.created_before);
    faults.end()?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let (_, endpoint) = call.endpoint()?;
    let backend = call.api.backend();
    // What is accepted from now on is not pending yet.
    let before = before.map_or(Sequence::ZERO, |time| Sequence::first_at(time.0)).min(backend.sequence());
    edit.put(Change::CancelWaiting { endpoint: endpoint.key, before, at: backend.now() });
    edit.no_content().await
}
