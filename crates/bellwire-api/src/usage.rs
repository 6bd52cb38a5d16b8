//! Statistics over all applications, as background tasks: how many deliveries each had, what event types each asks for. What they
//! found is in the task ([`crate::task`]).

use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::Error;
use crate::field::Faults;
use crate::operation::{Access, Operation};
use crate::replay::span;
use crate::task::{self, Kind, Status, begun};
use crate::wire::{Text, Time};
use axum::response::Response;
use bellwire_model::{ApplicationKey, TaskId};
use bellwire_store::{Span, Work};
use http::Method;
use serde::{Deserialize, Serialize};

const TAG: &str = "Statistics";
/// So many applications can be named in one request.
const APPLICATIONS_MAX: usize = 1_000;

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::editing(Method::POST, "/api/v1/stats/usage/app", Access::Organisation, applications)
            .described(
                "v1.statistics.aggregate-app-stats",
                TAG,
                "Count the deliveries of each application, as a background task. Without `appIds`, of all that had any.",
            )
            .body::<AppUsageStatsIn>()
            .answers::<AppUsageStatsOut>(202),
        Operation::editing(Method::PUT, "/api/v1/stats/usage/event-types", Access::Organisation, event_types)
            .described(
                "v1.statistics.aggregate-event-types",
                TAG,
                "List the event types that the endpoints of each application ask for, as a background task.",
            )
            .answers::<AggregateEventTypesOut>(202),
    ]
}

/// From when to when, and of whom.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AppUsageStatsIn {
    #[schemars(required)]
    since: Option<Time>,
    #[schemars(required)]
    until: Option<Time>,
    /// Specific app IDs or UIDs to aggregate stats for.
    app_ids: Option<Vec<String>>,
}

/// The task that was begun, and who was not found.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AppUsageStatsOut {
    id: Text<TaskId>,
    status: Status,
    task: Kind,
    updated_at: Time,
    /// Any app IDs or UIDs received in the request that weren't found.
    unresolved_app_ids: Vec<String>,
}

begun!(
    /// The task that was begun.
    AggregateEventTypesOut
);

async fn applications(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let input: AppUsageStatsIn = body.parse()?;
    let now = call.api.backend().now();
    let mut faults = Faults::new();
    let since = faults.required("since", input.since).map_or(now, |time| time.0);
    let until = faults.required("until", input.until).map_or(now, |time| time.0);
    if until < since {
        faults.add("until", "`until` must not be before `since`");
    }
    let asked = input.app_ids.as_deref();
    if asked.is_some_and(|ids| ids.len() > APPLICATIONS_MAX) {
        faults.add("appIds", format!("at most {APPLICATIONS_MAX} applications at a time"));
    }
    let (only, unresolved_app_ids) = resolve(&call, asked.unwrap_or_default());
    if asked.is_some() && only.is_empty() {
        faults.add("appIds", "none of them is an application");
    }
    faults.end()?;
    let work = Work::ApplicationStats(asked.map(|_| only));
    task::begin(
        &call,
        &body,
        span(since, until),
        |_| Ok(work),
        |task| AppUsageStatsOut {
            id: Text(task.id),
            status: Status::Running,
            task: Kind(task.work.kind()),
            updated_at: Time(task.updated_at),
            unresolved_app_ids,
        },
    )
    .await
}

/// Whom these ids or uids mean, and which mean nobody.
fn resolve(call: &Call, ids: &[String]) -> (Vec<ApplicationKey>, Vec<String>) {
    let catalogue = call.api.backend().catalogue().read();
    let (mut found, mut unresolved) = (Vec::new(), Vec::new());
    for id in ids {
        match catalogue.find_application(call.principal.organisation(), id) {
            Some(entry) => found.push(entry.application.key),
            None if unresolved.contains(id) => {}
            None => unresolved.push(id.clone()),
        }
    }
    (found, unresolved)
}

async fn event_types(call: Call) -> Result<Response, Error> {
    let edit = call.api.edit().await;
    task::begin_in(edit, &call, Span::ALL, Work::EventTypes, AggregateEventTypesOut::new).await
}
