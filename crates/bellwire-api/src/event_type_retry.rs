//! The retry schedule of an event type: for deliveries of its messages to endpoints without a schedule of their own.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::event_type::find;
use crate::field::Faults;
use crate::operation::{Access, Operation};
use axum::response::Response;
use bellwire_model::{EventType, RetrySchedule};
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const TAG: &str = "Event Type";
const NANOS_MAX: u32 = 999_999_999;

pub(crate) fn operations() -> Vec<Operation> {
    let path = "/api/v1/event-type/{event_type_name}/retry-schedule";
    vec![
        Operation::new(Method::GET, path, Access::Reader, get)
            .described(
                "v1.event-type.get-retry-schedule",
                TAG,
                "The retry schedule of the event type's messages; null if it has none.",
            )
            .answers::<RetryScheduleInOut>(200),
        Operation::editing(Method::PUT, path, Access::Organisation, put)
            .described(
                "v1.event-type.set-retry-schedule",
                TAG,
                "Set the retry schedule of the event type's messages, or with null take it away. An endpoint's own schedule goes before \
                 it. It counts from the next attempt that fails.",
            )
            .body::<RetryScheduleInOut>()
            .answers::<RetryScheduleInOut>(200),
    ]
}

/// The waits between attempts; as many as there are retries.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RetryScheduleInOut {
    /// At most 64 waits of at most seven days. Without any, an attempt that fails is the last.
    #[schemars(length(max = 64))]
    retry_schedule: Option<Vec<Duration>>,
}

/// A length of time.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
struct Duration {
    secs: u64,
    #[schemars(range(max = 999_999_999))]
    nanos: u32,
}

impl RetryScheduleInOut {
    fn of(event_type: &EventType) -> Self {
        let waits = event_type.retry_schedule.as_ref().map(RetrySchedule::waits);
        let wait = |wait: &std::time::Duration| Duration { secs: wait.as_secs(), nanos: wait.subsec_nanos() };
        RetryScheduleInOut { retry_schedule: waits.map(|waits| waits.iter().map(wait).collect()) }
    }

    fn check(self) -> Result<Option<RetrySchedule>, Error> {
        let mut faults = Faults::new();
        let mut waits = Vec::new();
        let given = self.retry_schedule.is_some();
        for (index, Duration { secs, nanos }) in self.retry_schedule.into_iter().flatten().enumerate() {
            if nanos > NANOS_MAX {
                let place = index.to_string();
                faults
                    .add_at(&["retrySchedule", &place, "nanos"], format!("must be at most {NANOS_MAX}, found {nanos}"));
            }
            waits.push(std::time::Duration::new(secs, nanos.min(NANOS_MAX)));
        }
        let schedule = RetrySchedule::new(waits);
        if let Err(error) = &schedule {
            faults.add("retrySchedule", error.to_string());
        }
        faults.end()?;
        Ok(schedule.ok().filter(|_| given))
    }
}

async fn get(call: Call) -> Result<Response, Error> {
    let event_type = find(&call).ok_or_else(Error::not_found)?;
    Ok(error::json(StatusCode::OK, &RetryScheduleInOut::of(&event_type)))
}

async fn put(mut call: Call) -> Result<Response, Error> {
    find(&call).ok_or_else(Error::not_found)?;
    let body = call.json().await?;
    let retry_schedule = body.parse::<RetryScheduleInOut>()?.check()?;
    let mut edit = call.api.edit().await;
    let now = call.api.backend().now();
    let before = find(&call).ok_or_else(Error::not_found)?;
    let event_type = Arc::new(EventType { retry_schedule, updated_at: now, ..EventType::clone(&before) });
    let out = RetryScheduleInOut::of(&event_type);
    edit.put(Change::PutEventType(event_type));
    edit.answer(StatusCode::OK, &out).await
}
