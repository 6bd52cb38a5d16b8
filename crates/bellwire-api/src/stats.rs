//! Numbers: how an endpoint's deliveries stand, how an application's attempts went, how many endpoints there are.

use crate::application::is_svix_play;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::operation::{Access, Operation};
use crate::wire::Time;
use axum::response::Response;
use bellwire_engine::ApplicationEntry;
use bellwire_model::{Attempt, EndReason, Sequence, Timestamp};
use bellwire_store::{AttemptFilter, AttemptQuery, ReadError, Span, Store};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const RANGE_MAX: Duration = Duration::from_secs(28 * 24 * 3600);
/// So many attempts are looked at for one answer.
const ATTEMPTS_MAX: usize = 100_000;
/// And so many at a time.
const SLICE: usize = 2_000;
/// So many points of time in one answer.
const POINTS_MAX: u128 = 8_064;

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/api/v1/app/{app_id}/endpoint/{endpoint_id}/stats", Access::Application, get)
            .described("v1.endpoint.get-stats", "Endpoint", "Get basic statistics for the endpoint.")
            .query::<StatsRange>()
            .answers::<EndpointStats>(200),
        Operation::new(
            Method::GET,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/rate-limit-status",
            Access::Application,
            rate_limit_status,
        )
        .described(
            "v1.endpoint.get-throttling-status",
            "Endpoint",
            "Whether deliveries to the endpoint wait for nothing but a rate, its own or its application's.",
        )
        .answers::<ThrottlingStatusOut>(200),
        Operation::new(Method::GET, "/api/v1/app/{app_id}/stats/attempts", Access::Application, attempts)
            .described(
                "v1.application.stats.attempts",
                "Application",
                "How the attempts to the application's endpoints went, by event type. Up to 28 days, and up to 100,000 attempts.",
            )
            .query::<AttemptRange>()
            .filters_event_types()
            .answers::<AttemptStats>(200),
        Operation::new(Method::GET, "/api/v1/stats/app/{app_id}/attempt", Access::Application, series)
            .described(
                "v1.stats.app-attempts",
                "Statistics",
                "How the attempts to the application's endpoints went, over time. Up to 28 days, and up to 100,000 attempts.",
            )
            .query::<SeriesQuery>()
            .filters_event_types()
            .answers::<SeriesOut>(200),
        Operation::new(Method::GET, "/api/v1/app/stats/count-active", Access::Organisation, count_active)
            .described("v1.application.count-active", "Application", "Count applications with at least one active endpoint.")
            .query::<CountActive>()
            .answers::<CountOut>(200),
        Operation::new(Method::GET, "/api/v1/stats/endpoint/count", Access::Organisation, count_endpoints)
            .described("v1.statistics.endpoint-count", "Statistics", "Count active and disabled endpoints.")
            .query::<CountEndpoints>()
            .answers::<EndpointCountOut>(200),
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
    let span = span_of(since, until, ["since", "until"])?;
    let key = endpoint.key;
    let ledger = call.api.read(move |store| store.count_deliveries(key, span)).await?;
    let ended = |reasons: &[EndReason]| reasons.iter().map(|r| ledger.ended[usize::from(r.code())]).sum();
    let stats = EndpointStats {
        success: ledger.delivered,
        pending: 0,
        // All that wait, as in Svix, where what is on its way counts as being sent from the beginning.
        sending: ledger.pending,
        fail: ended(&[EndReason::Exhausted, EndReason::ResendFailed]),
        canceled: ended(&[EndReason::Aborted, EndReason::Expired, EndReason::EndpointDeleted, EndReason::Cancelled]),
    };
    Ok(error::json(StatusCode::OK, &stats))
}

/// What lies between two times, to the end of the last millisecond.
fn span_of(since: Timestamp, until: Timestamp, [first, last]: [&str; 2]) -> Result<Span, Error> {
    let refused = |why: String| Err(Error::bad_request("invalid_range", why));
    if since > until {
        return refused(format!("`{first}` must not be after `{last}`."));
    }
    if until.since(since) > RANGE_MAX {
        return refused(format!("`{first}` cannot be more than 28 days before `{last}`."));
    }
    let after = Sequence::first_at(until.plus(Duration::from_millis(1)));
    Ok(Span { first: Sequence::first_at(since), last: Sequence::from_u64(after.as_u64().saturating_sub(1)) })
}

/// Shows every attempt to the endpoints that the application has, as the filter wants them; `false` if there were too many.
fn each_attempt(
    store: &dyn Store,
    application: &ApplicationEntry,
    span: Span,
    event_types: &[String],
    mut visit: impl FnMut(&Attempt) -> Result<(), ReadError>,
) -> Result<bool, ReadError> {
    let mut left = ATTEMPTS_MAX;
    for endpoint in &application.endpoints {
        let filter = AttemptFilter { event_types: event_types.to_vec(), ..AttemptFilter::default() };
        let mut query = AttemptQuery { span, ascending: true, limit: SLICE, filter, with_body: false };
        loop {
            let page = store.attempts_of_endpoint(endpoint.key, &query)?;
            page.items.iter().try_for_each(&mut visit)?;
            match page.items.last() {
                Some(last) if !page.done => query.span.first = last.id.sequence().next(),
                _ => break,
            }
            left = left.saturating_sub(page.items.len());
            if left == 0 {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// How some attempts went.
#[derive(Clone, Copy, Default, Serialize, JsonSchema)]
struct Went {
    success: u64,
    failure: u64,
    canceled: u64,
}

impl Went {
    fn count(&mut self, attempt: &Attempt) {
        match &attempt.outcome {
            Some(outcome) if outcome.is_success() => self.success += 1,
            Some(outcome) if !outcome.is_cancelled() => self.failure += 1,
            _ => self.canceled += 1,
        }
    }
}

fn too_many() -> Error {
    let detail = format!("There are more than {ATTEMPTS_MAX} attempts in the range; ask for a shorter one.");
    Error::bad_request("invalid_range", detail)
}

/// The event types to count, checked.
fn event_types(call: &Call) -> Result<Vec<String>, Error> {
    Ok(crate::message::Wanted::new("query", None, None, call.query_list("event_types"))?.event_types)
}

#[derive(Deserialize, JsonSchema)]
struct AttemptRange {
    #[schemars(required)]
    since: Option<Time>,
    #[schemars(required)]
    until: Option<Time>,
}

#[derive(Serialize, JsonSchema)]
struct AttemptStats {
    by_event_type: BTreeMap<String, Went>,
    total_success: u64,
    total_failure: u64,
    total_canceled: u64,
    since: Time,
    until: Time,
}

async fn attempts(call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let range: AttemptRange = call.query()?;
    let missing = |name: &str| Error::invalid(&["query", name], format!("`{name}` is required"));
    let since = range.since.ok_or_else(|| missing("since"))?;
    let until = range.until.ok_or_else(|| missing("until"))?;
    let span = span_of(since.0, until.0, ["since", "until"])?;
    let types = event_types(&call)?;
    let (whole, by_event_type) = call
        .api
        .read(move |store| {
            let mut names: HashMap<Sequence, Arc<str>> = HashMap::new();
            let mut went: BTreeMap<Arc<str>, Went> = BTreeMap::new();
            let whole = each_attempt(store, &application, span, &types, |attempt| {
                let message = attempt.delivery.message;
                let name = match names.get(&message) {
                    Some(name) => name.clone(),
                    // One whose retention has passed has taken its type with it.
                    None => store.message(message, false)?.map_or_else(|| "".into(), |m| m.event_type.into()),
                };
                names.insert(message, name.clone());
                went.entry(name).or_default().count(attempt);
                Ok(())
            })?;
            Ok((whole, went))
        })
        .await?;
    if !whole {
        return Err(too_many());
    }
    let total = |of: fn(&Went) -> u64| by_event_type.values().map(of).sum();
    let out = AttemptStats {
        total_success: total(|went| went.success),
        total_failure: total(|went| went.failure),
        total_canceled: total(|went| went.canceled),
        by_event_type: by_event_type.iter().map(|(name, went)| (name.to_string(), *went)).collect(),
        since,
        until,
    };
    Ok(error::json(StatusCode::OK, &out))
}

/// How long a point of a series is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "StatisticsPeriod")]
enum Period {
    OneDay,
    OneHour,
    FiveMinutes,
}

impl Period {
    const fn length(self) -> Duration {
        Duration::from_secs(match self {
            Period::OneDay => 24 * 3600,
            Period::OneHour => 3600,
            Period::FiveMinutes => 300,
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SeriesQuery {
    /// Filter the range to data starting from this date; 28 days before its end if absent.
    start_date: Option<Time>,
    /// Filter the range to data ending by this date; now if absent.
    end_date: Option<Time>,
    /// The period to aggregate the data by; one day if absent.
    period: Option<Period>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AttemptStatisticsResponse")]
struct SeriesOut {
    start_date: Time,
    end_date: Time,
    period: Period,
    data: SeriesData,
}

/// One number for each period, from the first on.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AttemptStatisticsData")]
struct SeriesData {
    success_count: Option<Vec<u64>>,
    failure_count: Option<Vec<u64>>,
    canceled_count: Option<Vec<u64>>,
}

async fn series(call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let query: SeriesQuery = call.query()?;
    let period = query.period.unwrap_or(Period::OneDay);
    let end = query.end_date.map_or_else(|| call.api.backend().now(), |time| time.0);
    let start = query.start_date.map_or_else(|| end.minus(RANGE_MAX), |time| time.0);
    let span = span_of(start, end, ["startDate", "endDate"])?;
    let types = event_types(&call)?;
    let place = move |at: Timestamp| at.since(start).as_micros() / period.length().as_micros();
    let points = (place(end) + 1).min(POINTS_MAX) as usize;
    let (whole, went) = call
        .api
        .read(move |store| {
            let mut went = vec![Went::default(); points];
            let whole = each_attempt(store, &application, span, &types, |attempt| {
                let at = usize::try_from(place(attempt.id.sequence().time())).unwrap_or(usize::MAX);
                went[at.min(points - 1)].count(attempt);
                Ok(())
            })?;
            Ok((whole, went))
        })
        .await?;
    if !whole {
        return Err(too_many());
    }
    let each = |of: fn(&Went) -> u64| Some(went.iter().map(of).collect());
    let data = SeriesData {
        success_count: each(|went| went.success),
        failure_count: each(|went| went.failure),
        canceled_count: each(|went| went.canceled),
    };
    Ok(error::json(StatusCode::OK, &SeriesOut { start_date: Time(start), end_date: Time(end), period, data }))
}

#[derive(Serialize, JsonSchema)]
enum ThrottlingStatus {
    Ok,
    RateLimited,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EndpointThrottlingStatusOut")]
struct ThrottlingStatusOut {
    status: ThrottlingStatus,
    /// When the oldest delivery that is held back was accepted.
    throttled_since: Option<Time>,
}

async fn rate_limit_status(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let since = call.api.backend().throttled_since(&endpoint).await;
    let status = if since.is_some() { ThrottlingStatus::RateLimited } else { ThrottlingStatus::Ok };
    Ok(error::json(StatusCode::OK, &ThrottlingStatusOut { status, throttled_since: since.map(Time) }))
}

fn yes() -> bool {
    true
}

#[derive(Deserialize, JsonSchema)]
struct CountActive {
    /// Do not count endpoints that point to play.svix.com
    #[serde(default = "yes")]
    exclude_svix_play: bool,
    /// Do not count disabled endpoints
    #[serde(default = "yes")]
    exclude_disabled: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ApplicationCountOut")]
struct CountOut {
    #[schemars(with = "u64")]
    count: usize,
}

async fn count_active(call: Call) -> Result<Response, Error> {
    let query: CountActive = call.query()?;
    let catalogue = call.api.backend().catalogue().read();
    let active = |entry: &&Arc<ApplicationEntry>| {
        entry
            .endpoints
            .iter()
            .any(|e| !(query.exclude_disabled && e.disabled.is_some() || query.exclude_svix_play && is_svix_play(e)))
    };
    let count = catalogue.applications_of(call.principal.organisation()).filter(active).count();
    Ok(error::json(StatusCode::OK, &CountOut { count }))
}

#[derive(Deserialize, JsonSchema)]
struct CountEndpoints {
    /// Do not count endpoints that point to play.svix.com
    #[serde(default = "yes")]
    exclude_svix_play: bool,
}

#[derive(Default, Serialize, JsonSchema)]
struct EndpointCountOut {
    active: u64,
    disabled: u64,
}

async fn count_endpoints(call: Call) -> Result<Response, Error> {
    let query: CountEndpoints = call.query()?;
    let mut out = EndpointCountOut::default();
    let catalogue = call.api.backend().catalogue().read();
    let endpoints = catalogue.applications_of(call.principal.organisation()).flat_map(|entry| &entry.endpoints);
    for endpoint in endpoints.filter(|e| !(query.exclude_svix_play && is_svix_play(e))) {
        *if endpoint.disabled.is_some() { &mut out.disabled } else { &mut out.active } += 1;
    }
    Ok(error::json(StatusCode::OK, &out))
}
