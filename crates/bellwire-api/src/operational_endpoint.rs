//! Endpoints of operational webhooks: whom we tell what happens to everybody else's endpoints and messages.
//!
//! They are the endpoints of the organisation's operational application, which is made with the first of them and is in no list. Its
//! messages and attempts are read, and sent again, like those of any application, under the uid [`OPERATIONAL_UID`].

use crate::Api;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::{Begun, Edit};
use crate::endpoint::{self, UID_TAKEN, uid_taken};
use crate::endpoint_in::{check_secret, check_url, keeps_secret, new_secret, some};
use crate::error::{self, Error};
use crate::field::Faults;
use crate::operation::{Access, Operation};
use crate::page::{ListOut, Ordered, Ordering, Paging};
use crate::wire::{Pairs, Text, Time};
use crate::{endpoint_headers, endpoint_secret};
use axum::response::Response;
use bellwire_model::{
    ActiveSecret, Application, ApplicationId, ApplicationKey, DisabledBy, Endpoint, EndpointId, EndpointKey, Metadata,
    OPERATIONAL_UID, OperationalType,
};
use bellwire_signature::Secret;
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;
use std::sync::Arc;

const TAG: &str = "Operational Webhook Endpoint";

pub(crate) fn operations() -> Vec<Operation> {
    let all = "/api/v1/operational-webhook/endpoint";
    let one = "/api/v1/operational-webhook/endpoint/{endpoint_id}";
    let headers = "/api/v1/operational-webhook/endpoint/{endpoint_id}/headers";
    let secret = "/api/v1/operational-webhook/endpoint/{endpoint_id}/secret";
    let rotate = "/api/v1/operational-webhook/endpoint/{endpoint_id}/secret/rotate";
    vec![
        Operation::new(Method::GET, all, Access::Organisation, list)
            .described("v1.operational-webhook.endpoint.list", TAG, "List operational webhook endpoints.")
            .query::<Paging>()
            .query::<Ordered>()
            .answers::<ListOut<OperationalEndpointOut<'static>>>(200),
        Operation::editing(Method::POST, all, Access::Organisation, create)
            .described("v1.operational-webhook.endpoint.create", TAG, "Create an operational webhook endpoint.")
            .body::<OperationalEndpointIn>()
            .answers::<OperationalEndpointOut<'static>>(201),
        Operation::new(Method::GET, one, Access::Organisation, get)
            .described("v1.operational-webhook.endpoint.get", TAG, "Get an operational webhook endpoint.")
            .answers::<OperationalEndpointOut<'static>>(200),
        Operation::editing(Method::PUT, one, Access::Organisation, put)
            .described(
                "v1.operational-webhook.endpoint.upsert",
                TAG,
                "Update an operational webhook endpoint, or create it.",
            )
            .body::<OperationalEndpointIn>()
            .answers::<OperationalEndpointOut<'static>>(200),
        Operation::editing(Method::DELETE, one, Access::Organisation, endpoint::delete)
            .described("v1.operational-webhook.endpoint.delete", TAG, "Delete an operational webhook endpoint.")
            .answers_nothing(204),
        Operation::new(Method::GET, headers, Access::Organisation, endpoint_headers::get)
            .described(
                "v1.operational-webhook.endpoint.get-headers",
                TAG,
                "Get the additional headers to be sent with the operational webhook.",
            )
            .answers::<endpoint_headers::EndpointHeadersOut>(200),
        Operation::editing(Method::PUT, headers, Access::Organisation, endpoint_headers::put)
            .described(
                "v1.operational-webhook.endpoint.set-headers",
                TAG,
                "Set the additional headers to be sent with the operational webhook.",
            )
            .body::<endpoint_headers::EndpointHeadersIn>()
            .answers_nothing(204),
        Operation::new(Method::GET, secret, Access::Organisation, endpoint_secret::get)
            .described(
                "v1.operational-webhook.endpoint.get-secret",
                TAG,
                "Get an operational webhook endpoint's signing secret.",
            )
            .answers::<endpoint_secret::EndpointSecretOut>(200),
        Operation::editing(Method::POST, rotate, Access::Organisation, endpoint_secret::rotate)
            .described(
                "v1.operational-webhook.endpoint.rotate-secret",
                TAG,
                "Rotates an operational webhook endpoint's signing secret. The previous one remains valid for the grace period.",
            )
            .body::<endpoint_secret::EndpointSecretRotateIn>()
            .answers::<endpoint_secret::EndpointSecretOut>(200)
            .answers_nothing(204),
    ]
}

/// An operational webhook endpoint, to be created or replaced. Replaced, its secret stays, and its headers stay unless there are new ones.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OperationalWebhookEndpointIn")]
struct OperationalEndpointIn {
    #[schemars(required, url, length(min = 1, max = 65_536))]
    url: Option<String>,
    #[serde(default)]
    description: String,
    /// Maximum messages per second to send to this endpoint.
    #[schemars(range(min = 1))]
    throttle_rate: Option<u16>,
    /// Optional unique identifier for the endpoint
    #[schemars(length(min = 1, max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    uid: Option<String>,
    #[serde(default)]
    disabled: bool,
    /// Operational event types that it takes, such as `message.attempt.exhausted`; omit for all.
    event_types: Option<Vec<String>>,
    /// The endpoint's verification secret: `whsec_` and the base64 of 24 to 75 random bytes, or `whsk_` for ed25519. Recommended: omit.
    secret: Option<String>,
    /// Names and values of your own; at most 4096 bytes as JSON.
    metadata: Option<Metadata>,
    /// Sent with every attempt.
    headers: Option<Pairs<String>>,
}

/// An operational webhook endpoint. Its secret is read elsewhere.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OperationalWebhookEndpointOut")]
struct OperationalEndpointOut<'a> {
    id: Text<EndpointId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    #[schemars(url)]
    url: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttle_rate: Option<NonZeroU16>,
    #[schemars(default)]
    disabled: bool,
    event_types: Option<&'a [String]>,
    metadata: &'a Metadata,
    created_at: Time,
    updated_at: Time,
}

impl<'a> From<&'a Endpoint> for OperationalEndpointOut<'a> {
    fn from(endpoint: &'a Endpoint) -> Self {
        OperationalEndpointOut {
            id: Text(endpoint.id),
            uid: endpoint.uid.as_deref(),
            url: &endpoint.url,
            description: &endpoint.description,
            throttle_rate: endpoint.limits.throttle_rate,
            disabled: endpoint.disabled.is_some(),
            event_types: endpoint.event_types.as_deref(),
            metadata: &endpoint.metadata,
            created_at: Time(endpoint.created_at),
            updated_at: Time(endpoint.updated_at),
        }
    }
}

/// What a valid [`OperationalEndpointIn`] says.
struct Checked {
    url: String,
    description: String,
    uid: Option<String>,
    disabled: bool,
    event_types: Option<Vec<String>>,
    throttle_rate: Option<NonZeroU16>,
    secret: Option<Secret>,
    headers: Option<Vec<(String, String)>>,
    metadata: Metadata,
}

impl OperationalEndpointIn {
    fn check(self, api: &Api) -> Result<Checked, Error> {
        let mut faults = Faults::new();
        let url = faults.required("url", self.url);
        if let Some(url) = &url {
            check_url(&mut faults, api, url);
        }
        faults.printable("description", &self.description);
        faults.uid("uid", self.uid.as_deref(), EndpointId::PREFIX);
        let throttle_rate = faults.throttle_rate(self.throttle_rate, None);
        check_event_types(&mut faults, self.event_types.as_deref());
        let secret = self.secret.as_deref().and_then(|text| check_secret(&mut faults, "secret", text));
        let headers = self.headers.map(|headers| headers.0);
        if let Some(headers) = &headers {
            faults.headers(headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))));
            faults.header_count(headers.len());
        }
        let metadata = self.metadata.unwrap_or_default();
        faults.metadata(&metadata);
        faults.end()?;
        Ok(Checked {
            url: url.unwrap_or_default(),
            description: self.description,
            uid: self.uid,
            disabled: self.disabled,
            event_types: some(self.event_types),
            throttle_rate,
            secret,
            headers,
            metadata,
        })
    }
}

/// Only ours: these are not the organisation's own event types.
fn check_event_types(faults: &mut Faults, types: Option<&[String]>) {
    faults.event_types("eventTypes", types);
    let known = || OperationalType::ALL.into_iter().map(OperationalType::name);
    let types = types.unwrap_or_default().iter().map(String::as_str);
    let missing: Vec<&str> = types.filter(|name| !known().any(|known| known == *name)).collect();
    if !missing.is_empty() {
        let known: Vec<_> = known().collect();
        let msg = format!(
            "The following operational event types don't exist: {}; there are {}",
            missing.join(", "),
            known.join(", ")
        );
        faults.add("eventTypes", msg);
    }
}

impl Checked {
    /// Everything but the secret and, of an existing one, its state.
    fn write(self, endpoint: &mut Endpoint) {
        endpoint.uid = self.uid;
        endpoint.url = self.url;
        endpoint.description = self.description;
        endpoint.event_types = self.event_types;
        endpoint.limits.throttle_rate = self.throttle_rate;
        endpoint.metadata = self.metadata;
        if let Some(headers) = self.headers {
            endpoint.headers = headers;
        }
    }

    fn create(mut self, api: &Api, application: ApplicationKey) -> Endpoint {
        let backend = api.backend();
        let now = backend.now();
        let id = backend.new_id(EndpointId::from_parts);
        let secret = self.secret.take().unwrap_or_else(|| new_secret(api));
        let mut endpoint = Endpoint {
            disabled: self.disabled.then_some(DisabledBy::User),
            secrets: vec![ActiveSecret { secret, expires_at: None }],
            ..Endpoint::new(EndpointKey(backend.next_key()), application, id, "", now)
        };
        self.write(&mut endpoint);
        endpoint
    }
}

/// The operational application that `edit` adds to; made with its first endpoint.
fn application(call: &Call, edit: &mut Edit<'_>) -> ApplicationKey {
    if let Some(entry) = call.find_application() {
        return entry.application.key;
    }
    let backend = call.api.backend();
    let now = backend.now();
    let id = backend.new_id(ApplicationId::from_parts);
    let key = ApplicationKey(backend.next_key());
    edit.put(Change::PutApplication(Arc::new(Application {
        key,
        id,
        organisation: call.principal.organisation().clone(),
        uid: Some(OPERATIONAL_UID.to_owned()),
        name: "Operational webhooks".to_owned(),
        throttle_rate: None,
        settings: Default::default(),
        metadata: Metadata::new(),
        created_at: now,
        updated_at: now,
    })));
    key
}

fn refuse_taken_uid(call: &Call, uid: Option<&str>, this: Option<EndpointKey>) -> Result<(), Error> {
    let taken = call.find_application().is_some_and(|application| uid_taken(&application, uid, this));
    if taken { Err(Error::conflict(UID_TAKEN)) } else { Ok(()) }
}

async fn list(call: Call) -> Result<Response, Error> {
    let wanted = call.query::<Paging>()?.wanted_by_id::<EndpointId>("an endpoint id (ep_…)")?;
    let order = call.query::<Ordered>()?.or(Ordering::Descending);
    let application = call.find_application();
    let mut all: Vec<&Endpoint> = application.iter().flat_map(|entry| &entry.endpoints).map(|e| &**e).collect();
    all.sort_unstable_by_key(|e| e.id);
    let page = wanted.cut(all.into_iter(), |e| e.id, order);
    let data = page.items.into_iter().map(OperationalEndpointOut::from).collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out| out.id.0.to_string())))
}

async fn create(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let new = body.parse::<OperationalEndpointIn>()?.check(&call.api)?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    refuse_taken_uid(&call, new.uid.as_deref(), None)?;
    let application = application(&call, &mut edit);
    let endpoint = Arc::new(new.create(&call.api, application));
    edit.put(Change::PutEndpoint(endpoint.clone()));
    edit.answer(StatusCode::CREATED, &OperationalEndpointOut::from(&*endpoint)).await
}

async fn get(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    Ok(error::json(StatusCode::OK, &OperationalEndpointOut::from(&*endpoint)))
}

async fn put(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let mut new = body.parse::<OperationalEndpointIn>()?.check(&call.api)?;
    let mut edit = call.api.edit().await;
    let path = call.param("endpoint_id");
    let existing = call.endpoint().ok().map(|(_, endpoint)| endpoint);
    // As with other endpoints: a uid that leads here stays.
    if new.uid.is_none() && !path.starts_with(EndpointId::PREFIX) {
        let mut faults = Faults::new();
        faults.uid("uid", Some(path), EndpointId::PREFIX);
        faults.end()?;
        new.uid = Some(path.to_owned());
    }
    refuse_taken_uid(&call, new.uid.as_deref(), existing.as_ref().map(|e| e.key))?;
    let enabled = !new.disabled;
    let replaced = existing.is_some();
    let endpoint = match existing {
        None => new.create(&call.api, application(&call, &mut edit)),
        Some(existing) => {
            keeps_secret(&existing, new.secret.as_ref())?;
            let mut endpoint = Endpoint::clone(&existing);
            new.write(&mut endpoint);
            endpoint.switch(enabled);
            endpoint.updated_at = call.api.backend().now();
            endpoint
        }
    };
    let endpoint = Arc::new(endpoint);
    edit.put(Change::PutEndpoint(endpoint.clone()));
    if replaced {
        edit.put(Change::SwitchEndpoint { endpoint: endpoint.key, enabled });
    }
    edit.answer(StatusCode::OK, &OperationalEndpointOut::from(&*endpoint)).await
}
