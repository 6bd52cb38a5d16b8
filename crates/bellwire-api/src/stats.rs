//! How an endpoint's deliveries stand, in numbers.

use crate::call::Call;
use crate::error::{self, Error};
use crate::operation::{Access, Operation};
use crate::wire::Time;
use axum::response::Response;
use bellwire_model::EndReason;
use bellwire_model::Sequence;
use bellwire_store::Span;
use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const RANGE_MAX: Duration = Duration::from_secs(28 * 24 * 3600);

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/api/v1/app/{app_id}/endpoint/{endpoint_id}/stats", Access::Application, get)
            .described("v1.endpoint.get-stats", "Endpoint", "Get basic statistics for the endpoint.")
            .query::<StatsRange>()
            .answers::<EndpointStats>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
struct StatsRange {
    /// Filter the range to data starting from this date
    since: Option<Time>,
    /// Filter the range to data ending by this date
    until: Option<Time>,
}

/// Deliveries of messages accepted in the range, by where they stand.
#[derive(Serialize, JsonSchema)]
struct EndpointStats {
    #[schemars(with = "i64")]
    success: u64,
    #[schemars(with = "i64")]
    pending: u64,
    #[schemars(with = "i64")]
    sending: u64,
    #[schemars(with = "i64")]
    fail: u64,
    #[schemars(with = "i64")]
    canceled: u64,
}

async fn get(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let range: StatsRange = call.query()?;
    let until = range.until.map_or_else(|| call.api.backend().now(), |time| time.0);
    let since = range.since.map_or_else(|| until.minus(RANGE_MAX), |time| time.0);
    if since > until {
        return Err(Error::bad_request("invalid_range", "`since` must not be after `until`."));
    }
    if until.since(since) > RANGE_MAX {
        return Err(Error::bad_request("invalid_range", "`since` cannot be more than 28 days before `until`."));
    }
    let key = endpoint.key;
    let first = Sequence::first_at(since);
    let last = Sequence::first_at(until.plus(Duration::from_millis(1)));
    let span = Span { first, last: Sequence::from_u64(last.as_u64().saturating_sub(1)) };
    let ledger = call.api.read(move |store| store.count_deliveries(key, span)).await?;
    let ended = |reasons: &[EndReason]| reasons.iter().map(|r| ledger.ended[usize::from(r.code())]).sum();
    let stats = EndpointStats {
        success: ledger.delivered,
        pending: 0,
        // All that wait, as in Svix, where what is on its way counts as being sent from the beginning.
        sending: ledger.pending,
        fail: ended(&[EndReason::Exhausted, EndReason::ResendFailed]),
        canceled: ended(&[EndReason::Aborted, EndReason::Expired, EndReason::EndpointDeleted]),
    };
    Ok(error::json(StatusCode::OK, &stats))
}
