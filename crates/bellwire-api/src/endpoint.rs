//! Endpoints.

use crate::Api;
use crate::auth::Principal;
use crate::call::Call;
use crate::edit::Begun;
use crate::endpoint_effect;
use crate::endpoint_kind::{self, KindIn, KindWire, PipeWire, PluginIn};
use crate::endpoint_shape::{FilterIn, FilterOut, FormatWire, check_content_type, check_filter};
use crate::error::{self, Error};
use crate::field::Faults;
use crate::operation::{Access, Operation};
use crate::page::{ListOut, Ordered, Ordering, Paging};
use crate::wire::{Keep, Pairs, Patch, Text, Time};
use axum::response::Response;
use bellwire_engine::ApplicationEntry;
use bellwire_model::{
    ActiveSecret, DisabledBy, Endpoint, EndpointId, EndpointKey, Format, Health, Kind, Limits, Metadata,
    OrganisationId, RetrySchedule, Shape,
};
use bellwire_signature::{Secret, SecretKind};
use bellwire_store::Change;
use http::{Method, StatusCode};
use rand::{CryptoRng, RngCore};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;
use std::sync::Arc;

const TAG: &str = "Endpoint";
const URL_MAX: usize = 65_536;
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

/// An endpoint, to be created or replaced. Replaced, its secret stays, and its headers stay unless there are new ones.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EndpointIn {
    /// Required where we push to it, which is the default.
    #[schemars(url, length(min = 1, max = 65_536))]
    url: Option<String>,
    /// How it gets its messages: `push` if absent. Replacing an endpoint keeps it unless there is a new one.
    kind: Option<KindWire>,
    /// What an endpoint of the kind `plugin` runs.
    plugin: Option<PluginIn>,
    /// How an endpoint of the kind `pipe` is read.
    pipe: Option<PipeWire>,
    #[serde(default)]
    description: String,
    /// Maximum messages per second to send to this endpoint.
    #[schemars(range(min = 1))]
    throttle_rate: Option<u16>,
    /// What older clients call `throttleRate`.
    #[schemars(skip)]
    rate_limit: Option<u16>,
    /// Optional unique identifier for the endpoint
    #[schemars(length(min = 1, max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    uid: Option<String>,
    #[serde(default)]
    disabled: bool,
    /// Event types that it takes; omit, or give none, for all.
    event_types: Option<Vec<String>>,
    /// What older clients call `eventTypes`.
    #[schemars(skip)]
    filter_types: Option<Vec<String>>,
    /// List of message channels this endpoint listens to (omit, or give none, for all)
    #[schemars(length(max = 10))]
    channels: Option<Vec<String>>,
    /// The endpoint's verification secret: `whsec_` and the base64 of 24 to 75 random bytes, or `whsk_` for ed25519. Recommended: omit.
    secret: Option<String>,
    /// Names and values of your own; at most 4096 bytes as JSON.
    metadata: Option<Metadata>,
    /// Sent with every attempt.
    headers: Option<Pairs<String>>,
    /// Ignored; older clients send it.
    #[expect(dead_code, reason = "accepted so that its type is checked")]
    #[schemars(skip)]
    version: Option<i64>,
    /// One attempt at a time, in the order of acceptance; a later message waits until the earlier one has ended.
    #[serde(default)]
    fifo: bool,
    /// Waits between attempts, in seconds, instead of the server's.
    retry_schedule: Option<Vec<u64>>,
    filter: Option<FilterIn>,
    /// `json` if absent.
    format: Option<FormatWire>,
    /// The `content-type` header, instead of that of the format or the message.
    #[schemars(length(min = 3, max = 4096))]
    content_type: Option<String>,
}

/// Changes to an endpoint: absent keeps, null clears.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct EndpointPatch {
    url: Keep<String>,
    kind: Keep<KindWire>,
    plugin: Keep<PluginIn>,
    pipe: Keep<PipeWire>,
    description: Keep<String>,
    /// Maximum messages per second to send to this endpoint.
    throttle_rate: Patch<u16>,
    #[schemars(skip)]
    rate_limit: Patch<u16>,
    #[schemars(length(min = 1, max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    uid: Patch<String>,
    disabled: Keep<bool>,
    event_types: Patch<Vec<String>>,
    #[schemars(skip)]
    filter_types: Patch<Vec<String>>,
    channels: Patch<Vec<String>>,
    metadata: Keep<Metadata>,
    /// One attempt at a time, in the order of acceptance.
    fifo: Keep<bool>,
    /// Waits between attempts, in seconds, instead of the server's.
    retry_schedule: Patch<Vec<u64>>,
    filter: Patch<FilterIn>,
    format: Patch<FormatWire>,
    /// The `content-type` header, instead of that of the format or the message.
    #[schemars(length(min = 3, max = 4096))]
    content_type: Patch<String>,
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

/// What a valid [`EndpointIn`] says.
struct NewEndpoint {
    kind: Kind,
    url: String,
    description: String,
    uid: Option<String>,
    disabled: bool,
    event_types: Option<Vec<String>>,
    channels: Option<Vec<String>>,
    limits: Limits,
    secret: Option<Secret>,
    headers: Option<Vec<(String, String)>>,
    metadata: Metadata,
    retry_schedule: Option<RetrySchedule>,
    /// Without its transformation, which is changed elsewhere.
    shape: Shape,
}

impl EndpointIn {
    /// `old` is what it replaces.
    fn check(
        self,
        api: &Api,
        principal: &Principal,
        old: Option<&Endpoint>,
        mut faults: Faults,
    ) -> Result<NewEndpoint, Error> {
        let organisation = principal.organisation();
        let kind = KindIn { kind: self.kind, plugin: self.plugin, pipe: self.pipe, url: self.url };
        let (kind, url) = kind.check(&mut faults, api, principal, old);
        faults.printable("description", &self.description);
        faults.uid("uid", self.uid.as_deref(), EndpointId::PREFIX);
        let throttle_rate = faults.throttle_rate(self.throttle_rate, self.rate_limit);
        let (field, event_types) = match self.event_types {
            Some(types) => ("eventTypes", Some(types)),
            None => ("filterTypes", self.filter_types),
        };
        check_event_types(&mut faults, api, organisation, field, event_types.as_deref());
        faults.channels(self.channels.as_deref());
        let secret = self.secret.as_deref().and_then(|text| check_secret(&mut faults, "secret", text));
        if secret.is_some() && matches!(kind, Kind::Plugin(_)) {
            faults.add("secret", SIGNS_NOTHING);
        }
        let headers = self.headers.map(|headers| headers.0);
        if let Some(headers) = &headers {
            faults.headers(headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))));
            faults.header_count(headers.len());
        }
        let metadata = self.metadata.unwrap_or_default();
        faults.metadata(&metadata);
        let retry_schedule = faults.retry_schedule(self.retry_schedule.as_deref());
        let filter = self.filter.and_then(|filter| check_filter(&mut faults, filter));
        let format = self.format.map_or(Format::Json, Format::from);
        check_content_type(&mut faults, format, self.content_type.as_deref());
        faults.end()?;
        Ok(NewEndpoint {
            kind,
            url,
            description: self.description,
            uid: self.uid,
            disabled: self.disabled,
            event_types: some(event_types),
            channels: some(self.channels),
            limits: Limits { throttle_rate, fifo: self.fifo },
            secret,
            headers,
            metadata,
            retry_schedule,
            shape: Shape { filter, transformation: None, format, content_type: self.content_type },
        })
    }
}

/// None of a list means no filter, as Svix's own pages have it, which send an empty one.
pub(crate) fn some(items: Option<Vec<String>>) -> Option<Vec<String>> {
    items.filter(|items| !items.is_empty())
}

impl NewEndpoint {
    fn create(self, api: &Api, application: &ApplicationEntry) -> Arc<Endpoint> {
        let backend = api.backend();
        let now = backend.now();
        let id = backend.new_id(EndpointId::from_parts);
        let secret = self.secret.unwrap_or_else(|| new_secret(api));
        Arc::new(Endpoint {
            key: EndpointKey(backend.next_key()),
            application: application.application.key,
            id,
            uid: self.uid,
            kind: self.kind,
            url: self.url,
            description: self.description,
            disabled: self.disabled.then_some(DisabledBy::User),
            event_types: self.event_types,
            channels: self.channels,
            limits: self.limits,
            secrets: vec![ActiveSecret { secret, expires_at: None }],
            headers: self.headers.unwrap_or_default(),
            retry_schedule: self.retry_schedule,
            shape: self.shape,
            access: Default::default(),
            metadata: self.metadata,
            health: Health::default(),
            created_at: now,
            updated_at: now,
        })
    }

    /// Over an existing one: secrets stay, and headers unless new ones are given.
    fn replace(self, api: &Api, endpoint: &Endpoint) -> Arc<Endpoint> {
        let mut endpoint = endpoint.clone();
        endpoint.uid = self.uid;
        (endpoint.kind, endpoint.url) = (self.kind, self.url);
        endpoint.description = self.description;
        endpoint.switch(!self.disabled);
        endpoint.event_types = self.event_types;
        endpoint.channels = self.channels;
        endpoint.limits = self.limits;
        endpoint.retry_schedule = self.retry_schedule;
        endpoint.shape = Shape { transformation: endpoint.shape.transformation.take(), ..self.shape };
        endpoint.metadata = self.metadata;
        if let Some(headers) = self.headers {
            endpoint.headers = headers;
        }
        endpoint.updated_at = api.backend().now();
        Arc::new(endpoint)
    }
}

/// A secret that is given must be the one that the endpoint has: receivers need time to learn of another.
pub(crate) fn keeps_secret(endpoint: &Endpoint, given: Option<&Secret>) -> Result<(), Error> {
    let same = |secret: &Secret| endpoint.secrets.iter().any(|own| *own.secret.reveal_text() == *secret.reveal_text());
    if given.is_none_or(same) {
        return Ok(());
    }
    let msg = "the secret of an endpoint is changed by `secret/rotate`; leave `secret` out";
    Err(Error::invalid(&["body", "secret"], msg))
}

/// Random bytes of the backend, as secrets want them.
struct BackendRandom<'a>(&'a Api);

impl RngCore for BackendRandom<'_> {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.backend().random(bytes);
    }
}

impl CryptoRng for BackendRandom<'_> {}

/// Of the kind that the operator chose.
pub(crate) fn new_secret(api: &Api) -> Secret {
    match api.settings().default_secret_kind {
        SecretKind::Symmetric => Secret::generate_symmetric(&mut BackendRandom(api)),
        SecretKind::Ed25519 => Secret::generate_ed25519(&mut BackendRandom(api)),
    }
}

pub(crate) fn check_secret(faults: &mut Faults, field: &str, text: &str) -> Option<Secret> {
    match Secret::parse(text) {
        Ok(secret) => Some(secret),
        Err(error) => {
            faults.add(field, error.to_string());
            None
        }
    }
}

pub(crate) fn check_url(faults: &mut Faults, api: &Api, text: &str) {
    if text.len() > URL_MAX {
        return faults.add("url", format!("`url` must have at most {URL_MAX} characters, not {}", text.len()));
    }
    if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return faults.add("url", "`url` must not hold spaces or control characters; write them as %20 and the like");
    }
    let url = match url::Url::parse(text) {
        Ok(url) => url,
        Err(error) => {
            return faults.add("url", format!("`url` must be a URL such as https://example.com/webhook: {error}"));
        }
    };
    if !matches!(url.scheme(), "http" | "https") {
        return faults.add("url", format!("`url` must begin with http:// or https://, not {}:", url.scheme()));
    }
    if api.settings().https_only && url.scheme() != "https" {
        return faults.add("url", "Endpoint URL schemes must be https when endpoint_https_only is set.");
    }
    if let Err(reason) = api.backend().check_url(&url) {
        faults.add("url", reason);
    }
}

/// They must exist and not be archived.
fn check_event_types(
    faults: &mut Faults,
    api: &Api,
    organisation: &OrganisationId,
    field: &str,
    types: Option<&[String]>,
) {
    faults.event_types(field, types);
    let catalogue = api.backend().catalogue().read();
    let missing: Vec<&str> = types
        .unwrap_or_default()
        .iter()
        .map(String::as_str)
        .filter(|name| catalogue.event_type(organisation, name).is_none_or(|t| t.archived))
        .collect();
    if !missing.is_empty() {
        faults.add(field, format!("The following event types don't exist: {}", missing.join(", ")));
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

impl EndpointPatch {
    fn apply(self, endpoint: &mut Endpoint, faults: &mut Faults, api: &Api, principal: &Principal) {
        let organisation = principal.organisation();
        let kind = KindIn { kind: self.kind.0, plugin: self.plugin.0, pipe: self.pipe.0, url: self.url.0 };
        (endpoint.kind, endpoint.url) = kind.check(faults, api, principal, Some(endpoint));
        if let Keep(Some(description)) = self.description {
            faults.printable("description", &description);
            endpoint.description = description;
        }
        faults.patch_throttle_rate(&mut endpoint.limits.throttle_rate, self.throttle_rate, self.rate_limit);
        faults.patch_uid(&mut endpoint.uid, self.uid, EndpointId::PREFIX);
        if let Keep(Some(disabled)) = self.disabled {
            endpoint.switch(!disabled);
        }
        let (field, event_types) = match self.event_types {
            Patch::Keep => ("filterTypes", self.filter_types),
            given => ("eventTypes", given),
        };
        event_types.apply(&mut endpoint.event_types, |types| {
            check_event_types(faults, api, organisation, field, Some(&types));
            some(Some(types))
        });
        self.channels.apply(&mut endpoint.channels, |channels| {
            faults.channels(Some(&channels));
            some(Some(channels))
        });
        if let Keep(Some(metadata)) = self.metadata {
            faults.metadata(&metadata);
            endpoint.metadata = metadata;
        }
        if let Keep(Some(fifo)) = self.fifo {
            endpoint.limits.fifo = fifo;
        }
        self.retry_schedule.apply(&mut endpoint.retry_schedule, |seconds| faults.retry_schedule(Some(&seconds)));
        self.filter.apply(&mut endpoint.shape.filter, |filter| check_filter(faults, filter));
        match self.format {
            Patch::Keep => {}
            Patch::Clear => endpoint.shape.format = Format::Json,
            Patch::Set(format) => endpoint.shape.format = format.into(),
        }
        self.content_type.apply(&mut endpoint.shape.content_type, Some);
        check_content_type(faults, endpoint.shape.format, endpoint.shape.content_type.as_deref());
    }
}

pub(crate) async fn delete(call: Call) -> Result<Response, Error> {
    let mut edit = call.api.edit().await;
    let (_, endpoint) = call.endpoint()?;
    edit.put(Change::DeleteEndpoint(endpoint.key));
    edit.no_content().await
}
