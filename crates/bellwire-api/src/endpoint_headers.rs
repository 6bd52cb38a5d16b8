//! The headers that an endpoint's attempts carry. Values of sensitive ones go in and do not come out.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::endpoint_effect;
use crate::error::{self, Error};
use crate::field::{Faults, is_sensitive};
use crate::operation::{Access, Operation};
use crate::wire::Pairs;
use axum::response::Response;
use bellwire_model::Endpoint;
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const TAG: &str = "Endpoint";

pub(crate) fn operations() -> Vec<Operation> {
    let path = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/headers";
    vec![
        Operation::new(Method::GET, path, Access::Application, get)
            .described("v1.endpoint.get-headers", TAG, "Get the additional headers to be sent with the webhook.")
            .answers::<EndpointHeadersOut>(200),
        Operation::editing(Method::PUT, path, Access::Application, put)
            .described("v1.endpoint.update-headers", TAG, "Set the additional headers to be sent with the webhook.")
            .body::<EndpointHeadersIn>()
            .answers_nothing(204),
        Operation::editing(Method::PATCH, path, Access::Application, patch)
            .described(
                "v1.endpoint.patch-headers",
                TAG,
                "Partially set the additional headers to be sent with the webhook.",
            )
            .body::<EndpointHeadersPatchIn>()
            .answers_nothing(204),
    ]
}

/// All headers of an endpoint.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct EndpointHeadersIn {
    #[schemars(required)]
    headers: Option<Pairs<String>>,
}

/// Headers to set, and with null, to remove.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EndpointHeadersPatchIn {
    #[schemars(required)]
    headers: Option<Pairs<Option<String>>>,
    /// A list of headers be be removed
    #[serde(default)]
    delete_headers: Vec<String>,
}

/// The value of the headers is returned in the `headers` field. Sensitive headers that have been redacted are returned in the
/// sensitive field.
#[derive(Serialize, JsonSchema)]
pub(crate) struct EndpointHeadersOut {
    headers: Pairs<String>,
    sensitive: Vec<String>,
}

pub(crate) async fn get(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let (sensitive, shown): (Vec<_>, Vec<_>) =
        endpoint.headers.iter().cloned().partition(|(name, _)| is_sensitive(name));
    let sensitive = sensitive.into_iter().map(|(name, _)| name).collect();
    Ok(error::json(StatusCode::OK, &EndpointHeadersOut { headers: Pairs(shown), sensitive }))
}

pub(crate) async fn put(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let input: EndpointHeadersIn = body.parse()?;
    let mut faults = Faults::new();
    let headers = faults.required("headers", input.headers).unwrap_or_default().0;
    faults.headers(headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))));
    faults.header_count(headers.len());
    faults.end()?;
    store(&call, |_| Ok(headers)).await
}

async fn patch(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let input: EndpointHeadersPatchIn = body.parse()?;
    let mut faults = Faults::new();
    let given = faults.required("headers", input.headers).unwrap_or_default().0;
    // What is only removed need not be a name that could be set today.
    faults.headers(
        given.iter().filter(|(_, value)| value.is_some()).map(|(name, value)| (name.as_str(), value.as_deref())),
    );
    faults.end()?;
    store(&call, |endpoint| {
        let replaced = |name: &str| {
            given.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
                || input.delete_headers.iter().any(|other| other.eq_ignore_ascii_case(name))
        };
        let mut headers: Vec<(String, String)> =
            endpoint.headers.iter().filter(|(name, _)| !replaced(name)).cloned().collect();
        headers.extend(given.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))));
        let mut faults = Faults::new();
        faults.header_count(headers.len());
        faults.end()?;
        Ok(headers)
    })
    .await
}

async fn store(
    call: &Call,
    headers: impl FnOnce(&Endpoint) -> Result<Vec<(String, String)>, Error>,
) -> Result<Response, Error> {
    let mut edit = call.api.edit().await;
    let (_, before) = call.endpoint()?;
    let mut endpoint = Endpoint::clone(&before);
    endpoint.headers = headers(&endpoint)?;
    endpoint_effect::check(Faults::new(), Some(&before), &endpoint)?;
    endpoint.updated_at = call.api.backend().now();
    edit.put(Change::PutEndpoint(Arc::new(endpoint)));
    edit.no_content().await
}
