//! Endpoints.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::Begun;
use crate::endpoint_effect;
use crate::endpoint_in::{EndpointIn, EndpointPatch, keeps_secret};
#[cfg(feature = "document")]
use crate::endpoint_kind::PluginIn;
use crate::endpoint_kind::{self, KindWire, PipeWire};
use crate::endpoint_shape::{FilterOut, FormatWire};
use crate::error::{self, Error};
use crate::field::Faults;
use crate::operation::{Access, Operation};
use crate::page::{ListOut, Ordered, Ordering, Paging};
use crate::wire::{Text, Time};
use axum::response::Response;
use bellwire_engine::ApplicationEntry;
use bellwire_model::{Endpoint, EndpointId, EndpointKey, Metadata};
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;
use std::sync::Arc;

const TAG: &str = "Endpoint";
/// So many endpoints in one request.
const BULK_MAX: usize = 100;
pub(crate) const SIGNS_NOTHING: &str =
    "a secret has no effect on an endpoint of the kind plugin: nothing is signed for it; leave it as it is";
pub(crate) const UID_TAKEN: &str = "An endpoint with that id or uid already exists";

pub(crate) fn operations() -> Vec<Operation> {
    let all = "/api/v1/app/{app_id}/endpoint";
    let one = "/api/v1/app/{app_id}/endpoint/{endpoint_id}";
    vec![
        Operation::new(Method::GET, all, Access::Application, list)
            .described("v1.endpoint.list", TAG, "List the application's endpoints.")
            .query::<Paging>()
            .query::<Ordered>()
            .answers::<ListOut<EndpointOut<'static>>>(200),
        Operation::editing(Method::POST, all, Access::Application, create)
            .described(
                "v1.endpoint.create",
                TAG,
                "Create a new endpoint for the application. Without a `secret`, one is made (recommended).",
            )
            .body::<EndpointIn>()
            .answers::<EndpointOut<'static>>(201),
        Operation::editing(Method::POST, "/api/v1/app/{app_id}/endpoint/bulk/create", Access::Application, bulk_create)
            .described(
                "v1.endpoint.bulk-create",
                TAG,
                "Create up to 100 endpoints for the application: all of them, or, if anything is wrong with one, none. (Ours; not in Svix.)",
            )
            .body::<BulkCreateIn>()
            .answers::<BulkCreateOut<'static>>(201),
        Operation::new(Method::GET, one, Access::Application, get)
            .described("v1.endpoint.get", TAG, "Get an endpoint.")
            .answers::<EndpointOut<'static>>(200),
        Operation::editing(Method::PUT, one, Access::Application, put)
            .described("v1.endpoint.update", TAG, "Update an endpoint, or create it.")
            .body::<EndpointIn>()
            .answers::<EndpointOut<'static>>(200)
            .answers::<EndpointOut<'static>>(201),
        Operation::editing(Method::PATCH, one, Access::Application, patch)
            .described("v1.endpoint.patch", TAG, "Partially update an endpoint.")
            .body::<EndpointPatch>()
            .answers::<EndpointOut<'static>>(200),
        Operation::editing(Method::DELETE, one, Access::Application, delete)
            .described("v1.endpoint.delete", TAG, "Delete an endpoint.")
            .answers_nothing(204),
    ]
}

/// An endpoint. Its secret is read elsewhere.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EndpointOut")]
pub(crate) struct EndpointOut<'a> {
    #[serde(flatten)]
    common: EndpointCommon<'a>,
    metadata: &'a Metadata,
}

/// What every view of an endpoint has.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointCommon<'a> {
    pub(crate) id: Text<EndpointId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[schemars(url)]
    url: &'a str,
    /// `push` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<KindWire>,
    /// What it runs; secrets are concealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<PluginIn>")]
    plugin: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipe: Option<PipeWire>,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttle_rate: Option<NonZeroU16>,
    /// The same as `throttleRate`, for older clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<NonZeroU16>,
    #[schemars(default)]
    disabled: bool,
    event_types: Option<&'a [String]>,
    /// The same as `eventTypes`, for older clients.
    filter_types: Option<&'a [String]>,
    channels: Option<&'a [String]>,
    /// Always 1; older clients want it.
    version: u8,
    /// One attempt at a time, in the order of acceptance.
    fifo: bool,
    /// Waits between attempts, in seconds, if they are not the server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_schedule: Option<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<FilterOut<'a>>,
    /// `json` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<FormatWire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    created_at: Time,
    updated_at: Time,
}

impl<'a> From<&'a Endpoint> for EndpointCommon<'a> {
    fn from(endpoint: &'a Endpoint) -> Self {
        EndpointCommon {
            id: Text(endpoint.id),
            uid: endpoint.uid.as_deref(),
            url: &endpoint.url,
            kind: KindWire::shown(&endpoint.kind),
            plugin: endpoint_kind::shown_plugin(&endpoint.kind),
            pipe: endpoint_kind::shown_pipe(&endpoint.kind),
            description: &endpoint.description,
            throttle_rate: endpoint.limits.throttle_rate,
            rate_limit: endpoint.limits.throttle_rate,
            disabled: endpoint.disabled.is_some(),
            event_types: endpoint.event_types.as_deref(),
            filter_types: endpoint.event_types.as_deref(),
            channels: endpoint.channels.as_deref(),
            version: 1,
            fifo: endpoint.limits.fifo,
            retry_schedule: endpoint
                .retry_schedule
                .as_ref()
                .map(|schedule| schedule.waits().iter().map(std::time::Duration::as_secs).collect()),
            filter: endpoint.shape.filter.as_ref().map(FilterOut::of),
            format: FormatWire::shown(endpoint.shape.format),
            content_type: endpoint.shape.content_type.as_deref(),
            created_at: Time(endpoint.created_at),
            updated_at: Time(endpoint.updated_at),
        }
    }
}

impl<'a> From<&'a Endpoint> for EndpointOut<'a> {
    fn from(endpoint: &'a Endpoint) -> Self {
        EndpointOut { common: endpoint.into(), metadata: &endpoint.metadata }
    }
}

pub(crate) fn uid_taken(application: &ApplicationEntry, uid: Option<&str>, this: Option<EndpointKey>) -> bool {
    uid.is_some_and(|uid| application.find_endpoint(uid).is_some_and(|other| Some(other.key) != this))
}

async fn list(call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let wanted = call.query::<Paging>()?.wanted_by_id::<EndpointId>("an endpoint id (ep_…)")?;
    let order = call.query::<Ordered>()?.or(Ordering::Descending);
    let mut all: Vec<&Endpoint> = application.endpoints.iter().map(|e| &**e).collect();
    all.sort_unstable_by_key(|e| e.id);
    let page = wanted.cut(all.into_iter(), |e| e.id, order);
    let data = page.items.into_iter().map(EndpointOut::from).collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out| out.common.id.0.to_string())))
}

async fn create(mut call: Call) -> Result<Response, Error> {
    call.application()?;
    let body = call.json().await?;
    let input: EndpointIn = body.parse()?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let application = call.application()?;
    let new = input.check(&call.api, &call.principal, None, Faults::new())?;
    if uid_taken(&application, new.uid.as_deref(), None) {
        return Err(Error::conflict(UID_TAKEN));
    }
    let endpoint = new.create(&call.api, &application);
    endpoint_effect::check(Faults::new(), None, &endpoint)?;
    edit.put(Change::PutEndpoint(endpoint.clone()));
    edit.answer(StatusCode::CREATED, &EndpointOut::from(&*endpoint)).await
}

/// Endpoints, to be created together.
#[derive(Deserialize, JsonSchema)]
struct BulkCreateIn {
    #[schemars(required, length(min = 1, max = 100))]
    endpoints: Option<Vec<EndpointIn>>,
}

/// Endpoints, as they were given.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "BulkCreateOut")]
struct BulkCreateOut<'a> {
    data: Vec<EndpointOut<'a>>,
}

async fn bulk_create(mut call: Call) -> Result<Response, Error> {
    call.application()?;
    let body = call.json().await?;
    let input: BulkCreateIn = body.parse()?;
    let mut faults = Faults::new();
    let inputs = faults.required("endpoints", input.endpoints).unwrap_or_default();
    if !(1..=BULK_MAX).contains(&inputs.len()) {
        faults.add("endpoints", format!("`endpoints` must have 1 to {BULK_MAX} items"));
    }
    faults.end()?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let application = call.application()?;
    let mut endpoints = Vec::with_capacity(inputs.len());
    let mut uids = std::collections::HashSet::new();
    for (at, input) in inputs.into_iter().enumerate() {
        let at = format!("[{at}]");
        let new = input.check(&call.api, &call.principal, None, Faults::inside(&["endpoints", &at]))?;
        let twice = new.uid.as_ref().is_some_and(|uid| !uids.insert(uid.clone()));
        if twice || uid_taken(&application, new.uid.as_deref(), None) {
            return Err(Error::conflict(UID_TAKEN));
        }
        let endpoint = new.create(&call.api, &application);
        endpoint_effect::check(Faults::inside(&["endpoints", &at]), None, &endpoint)?;
        endpoints.push(endpoint);
    }
    endpoints.iter().for_each(|endpoint| edit.put(Change::PutEndpoint(endpoint.clone())));
    let data = endpoints.iter().map(|endpoint| EndpointOut::from(&**endpoint)).collect();
    edit.answer(StatusCode::CREATED, &BulkCreateOut { data }).await
}

async fn get(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    Ok(error::json(StatusCode::OK, &EndpointOut::from(&*endpoint)))
}

async fn put(mut call: Call) -> Result<Response, Error> {
    call.application()?;
    let body = call.json().await?;
    let input: EndpointIn = body.parse()?;
    let mut edit = call.api.edit().await;
    let application = call.application()?;
    let path = call.param("endpoint_id");
    let existing = application.find_endpoint(path);
    let mut new = input.check(&call.api, &call.principal, existing.map(|e| &**e), Faults::new())?;
    // As with applications: a uid that leads here stays.
    if new.uid.is_none() && !path.starts_with(EndpointId::PREFIX) {
        let mut faults = Faults::new();
        faults.uid("uid", Some(path), EndpointId::PREFIX);
        faults.end()?;
        new.uid = Some(path.to_owned());
    }
    if uid_taken(&application, new.uid.as_deref(), existing.map(|e| e.key)) {
        return Err(Error::conflict(UID_TAKEN));
    }
    let enabled = !new.disabled;
    let (status, endpoint) = match existing {
        None => (StatusCode::CREATED, new.create(&call.api, &application)),
        Some(existing) => {
            keeps_secret(existing, new.secret.as_ref())?;
            (StatusCode::OK, new.replace(&call.api, existing))
        }
    };
    endpoint_effect::check(Faults::new(), existing.map(|e| &**e), &endpoint)?;
    edit.put(Change::PutEndpoint(endpoint.clone()));
    if existing.is_some() {
        edit.put(Change::SwitchEndpoint { endpoint: endpoint.key, enabled });
    }
    edit.answer(status, &EndpointOut::from(&*endpoint)).await
}

async fn patch(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let patch: EndpointPatch = body.parse()?;
    let mut edit = call.api.edit().await;
    let (application, before) = call.endpoint()?;
    let mut endpoint = Endpoint::clone(&before);
    let mut faults = Faults::new();
    let disabled = patch.disabled.0;
    patch.apply(&mut endpoint, &mut faults, &call.api, &call.principal);
    endpoint_effect::note(&mut faults, Some(&before), &endpoint);
    faults.end()?;
    if uid_taken(&application, endpoint.uid.as_deref(), Some(endpoint.key)) {
        return Err(Error::conflict(UID_TAKEN));
    }
    endpoint.updated_at = call.api.backend().now();
    let endpoint = Arc::new(endpoint);
    edit.put(Change::PutEndpoint(endpoint.clone()));
    if let Some(disabled) = disabled {
        edit.put(Change::SwitchEndpoint { endpoint: endpoint.key, enabled: !disabled });
    }
    edit.answer(StatusCode::OK, &EndpointOut::from(&*endpoint)).await
}

pub(crate) async fn delete(call: Call) -> Result<Response, Error> {
    let mut edit = call.api.edit().await;
    let (_, endpoint) = call.endpoint()?;
    edit.put(Change::DeleteEndpoint(endpoint.key));
    edit.no_content().await
}
