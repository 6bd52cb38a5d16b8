//! Payloads that must go before their time: those of some messages, at once, or all of an application's, as a background task.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::Begun;
use crate::error::Error;
use crate::field::Faults;
use crate::operation::{Access, Operation};
use crate::task::{self, begun};
use axum::response::Response;
use bellwire_store::{Change, Span, Work};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const TAG: &str = "Message";
/// So many messages can be named in one request.
const IDS_MAX: usize = 250;

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::editing(Method::POST, "/api/v1/app/{app_id}/msg/bulk-expunge", Access::Organisation, bulk_expunge)
            .described(
                "v1.message.bulk-expunge-content",
                TAG,
                "Delete the payloads of up to 250 messages, by id or event id.",
            )
            .body::<BulkExpungeContentsIn>()
            .answers::<BulkExpungeContentsOut>(200),
        Operation::editing(
            Method::POST,
            "/api/v1/app/{app_id}/msg/expunge-all-contents",
            Access::Organisation,
            expunge_all,
        )
        .described(
            "v1.message.expunge-all-contents",
            TAG,
            "Delete all message payloads of the application, as a background task.",
        )
        .answers::<ExpungeAllContentsOut>(202),
    ]
}

#[derive(Deserialize, JsonSchema)]
struct BulkExpungeContentsIn {
    /// Message ID or UID to delete
    #[serde(default)]
    ids: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct BulkExpungeContentsOut {
    /// Results of expunging (by ID)
    results: BTreeMap<String, BulkExpungeStatus>,
}

#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum BulkExpungeStatus {
    Expunged,
    NotFound,
}

begun!(
    /// The task that was begun.
    ExpungeAllContentsOut
);

async fn bulk_expunge(mut call: Call) -> Result<Response, Error> {
    call.application()?;
    let body = call.json().await?;
    let BulkExpungeContentsIn { ids } = body.parse()?;
    let mut faults = Faults::new();
    if ids.len() > IDS_MAX {
        faults.add("ids", format!("at most {IDS_MAX} messages at a time, found {}", ids.len()));
    }
    faults.end()?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let application = call.application()?;
    let mut results = BTreeMap::new();
    for id in ids {
        let found = call.api.message(&application, &id, false).await?;
        let status = match found {
            Some(message) => {
                edit.put(Change::ExpungePayload(message.sequence()));
                BulkExpungeStatus::Expunged
            }
            None => BulkExpungeStatus::NotFound,
        };
        results.insert(id, status);
    }
    edit.answer(StatusCode::OK, &BulkExpungeContentsOut { results }).await
}

async fn expunge_all(mut call: Call) -> Result<Response, Error> {
    call.application()?;
    let body = call.json_or_nothing().await?;
    let work = |call: &Call| Ok(Work::PurgeContent(call.application()?.application.key));
    task::begin(&call, &body, Span::ALL, work, ExpungeAllContentsOut::new).await
}
