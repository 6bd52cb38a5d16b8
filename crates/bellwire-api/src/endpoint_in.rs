//! What a client says of an endpoint: how it is checked, and becomes one or changes one.

use crate::Api;
use crate::auth::Principal;
use crate::document::JsonSchema;
use crate::endpoint::SIGNS_NOTHING;
use crate::endpoint_kind::{KindIn, KindWire, PipeWire, PluginIn};
use crate::endpoint_shape::{FilterIn, FormatWire, check_content_type, check_filter};
use crate::error::Error;
use crate::field::{Faults, event_type_fault};
use crate::wire::{Keep, Pairs, Patch};
use bellwire_engine::ApplicationEntry;
use bellwire_model::{
    ActiveSecret, DisabledBy, Endpoint, EndpointId, EndpointKey, Format, Kind, Limits, Metadata, OrganisationId,
    RetrySchedule, Shape,
};
use bellwire_signature::{Secret, SecretKind};
use rand::{CryptoRng, RngCore};
use serde::Deserialize;
use std::sync::Arc;

const URL_MAX: usize = 65_536;

/// An endpoint, to be created or replaced. Replaced, its secret stays, and its headers stay unless there are new ones.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointIn {
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
pub(crate) struct EndpointPatch {
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
    pub(crate) disabled: Keep<bool>,
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

/// What a valid [`EndpointIn`] says.
pub(crate) struct NewEndpoint {
    kind: Kind,
    url: String,
    description: String,
    pub(crate) uid: Option<String>,
    pub(crate) disabled: bool,
    event_types: Option<Vec<String>>,
    channels: Option<Vec<String>>,
    limits: Limits,
    pub(crate) secret: Option<Secret>,
    headers: Option<Vec<(String, String)>>,
    metadata: Metadata,
    retry_schedule: Option<RetrySchedule>,
    /// Without its transformation, which is changed elsewhere.
    shape: Shape,
}

impl EndpointIn {
    /// `old` is what it replaces.
    pub(crate) fn check(
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
    pub(crate) fn create(self, api: &Api, application: &ApplicationEntry) -> Arc<Endpoint> {
        let backend = api.backend();
        let now = backend.now();
        let id = backend.new_id(EndpointId::from_parts);
        let secret = self.secret.unwrap_or_else(|| new_secret(api));
        Arc::new(Endpoint {
            uid: self.uid,
            kind: self.kind,
            description: self.description,
            disabled: self.disabled.then_some(DisabledBy::User),
            event_types: self.event_types,
            channels: self.channels,
            limits: self.limits,
            secrets: vec![ActiveSecret { secret, expires_at: None }],
            headers: self.headers.unwrap_or_default(),
            retry_schedule: self.retry_schedule,
            shape: self.shape,
            metadata: self.metadata,
            ..Endpoint::new(EndpointKey(backend.next_key()), application.application.key, id, self.url, now)
        })
    }

    /// Over an existing one: secrets stay, and headers unless new ones are given.
    pub(crate) fn replace(self, api: &Api, endpoint: &Endpoint) -> Arc<Endpoint> {
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
    let same = |secret: &Secret| endpoint.secrets.iter().any(|own| own.secret.is(secret));
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

/// They must exist and not be archived. Of what is no name it is not said as well that it does not exist.
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
        .filter(|name| event_type_fault(name).is_none())
        .filter(|name| catalogue.event_type(organisation, name).is_none_or(|t| t.archived))
        .collect();
    if !missing.is_empty() {
        faults.add(field, format!("The following event types don't exist: {}", missing.join(", ")));
    }
}

impl EndpointPatch {
    pub(crate) fn apply(self, endpoint: &mut Endpoint, faults: &mut Faults, api: &Api, principal: &Principal) {
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
