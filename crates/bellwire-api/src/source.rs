//! Sources: URLs at which others' webhooks come in. (Ours; not in Svix.)
//!
//! What a source's listener URL ends with is a secret, or may be one: it is shown when it is made and by [`crate::source_secret`],
//! never in a list. What of a recipe can be used says the program, by [`crate::Backend::check_source`].

use crate::Api;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::{Begun, Edit};
use crate::error::{self, Error};
use crate::field::Faults;
use crate::operation::{Access, Operation};
use crate::page::{ListOut, Ordered, Ordering, Paging};
use crate::source_in::{SourceIn, SourcePatch, check_whole, given};
use crate::source_way::{CronWire, OutboxWire, WayName, WayShown};
use crate::source_wire::{AnswerWire, DedupeWire, conceal};
use crate::wire::{Text, Time};
use axum::response::Response;
use bellwire_model::{ApplicationId, EventTypeFrom, Metadata, Recipe, SecretText, Source, SourceId};
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

pub(crate) const TAG: &str = "Source";
/// So many sources can an organisation have.
const SOURCES_MAX: usize = 10_000;

pub(crate) fn operations() -> Vec<Operation> {
    let (all, one) = ("/api/v1/source", "/api/v1/source/{source_id}");
    let organisation = Access::Organisation;
    vec![
        Operation::new(Method::GET, all, organisation, list)
            .described("v1.source.list", TAG, "List the sources at which others' webhooks come in.")
            .query::<Paging>()
            .query::<Ordered>()
            .answers::<ListOut<SourceOut<'static>>>(200),
        Operation::editing(Method::POST, all, organisation, create)
            .described(
                "v1.source.create",
                TAG,
                "Create a source. The answer holds its listener URL, to be given to the sender.",
            )
            .body::<SourceIn>()
            .answers::<SourceWithUrlOut<'static>>(201),
        Operation::new(Method::GET, one, organisation, get)
            .described("v1.source.get", TAG, "Get a source.")
            .answers::<SourceOut<'static>>(200),
        Operation::editing(Method::PUT, one, organisation, put)
            .described(
                "v1.source.update",
                TAG,
                "Update a source, or create it. Its secrets stay unless there are new ones.",
            )
            .body::<SourceIn>()
            .answers::<SourceOut<'static>>(200)
            .answers::<SourceWithUrlOut<'static>>(201),
        Operation::editing(Method::PATCH, one, organisation, patch)
            .described("v1.source.patch", TAG, "Partially update a source.")
            .body::<SourcePatch>()
            .answers::<SourceOut<'static>>(200),
        Operation::editing(Method::DELETE, one, organisation, delete)
            .described("v1.source.delete", TAG, "Delete a source. Its messages stay.")
            .answers_nothing(204),
    ]
}

/// A source, without what is secret about it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SourceOut")]
pub(crate) struct SourceOut<'a> {
    id: Text<SourceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    name: &'a str,
    app_id: Text<ApplicationId>,
    way: WayName,
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<CronWire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outbox: Option<OutboxWire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipe: Option<Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    settings: BTreeMap<&'a str, &'a str>,
    /// How many secrets verify.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_bytes_max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_networks: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_proxies: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedupe: Option<DedupeWire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type_from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerWire>,
    disabled: bool,
    metadata: &'a Metadata,
    created_at: Time,
    updated_at: Time,
}

/// A source with its listener URL.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SourceWithUrlOut")]
struct SourceWithUrlOut<'a> {
    #[serde(flatten)]
    source: SourceOut<'a>,
    /// Where the sender is to post to, if others post to it. Keep it as you would a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    listener_url: Option<String>,
}

impl<'a> SourceOut<'a> {
    /// `None` if its application is gone.
    fn of(call: &Call, source: &'a Source) -> Option<Self> {
        let application = call.api.backend().catalogue().read().application(source.application)?.application.id;
        let (preset, recipe) = match &source.recipe {
            _ if !source.way.is_http() => (None, None),
            Recipe::Preset(name) => (Some(name.as_str()), None),
            Recipe::Own(text) => (None, serde_json::from_str(text).ok()),
        };
        let (event_type, event_type_from) = match &source.event_type {
            EventTypeFrom::Recipe => (None, None),
            EventTypeFrom::Fixed(name) => (Some(name.as_str()), None),
            EventTypeFrom::Place(place) => (None, Some(place.as_str())),
        };
        let now = call.api.backend().now();
        // What concerns requests only sources have that take them.
        let http = source.way.is_http();
        let texts = |networks: &[ipnet::IpNet]| networks.iter().map(ToString::to_string).collect();
        let WayShown { cron, outbox, queue } = WayShown::of(&source.way);
        Some(SourceOut {
            id: Text(source.id),
            uid: source.uid.as_deref(),
            name: &source.name,
            app_id: Text(application),
            way: WayName::of(&source.way),
            cron,
            outbox,
            queue,
            preset,
            recipe,
            settings: conceal(&source.settings),
            secret_count: http.then(|| source.secrets_at(now).count()),
            path: source.path.as_deref(),
            methods: http.then_some(source.methods.as_slice()),
            content_type: source.content_type.as_deref(),
            body_bytes_max: http.then_some(source.body_bytes_max),
            rate: source.rate,
            allowed_networks: http.then(|| texts(&source.networks.allowed)),
            trusted_proxies: http.then(|| texts(&source.networks.proxies)),
            dedupe: http.then(|| DedupeWire::of(&source.dedupe)),
            event_type,
            event_type_from,
            url: source.url.as_deref(),
            answer: http.then(|| AnswerWire::of(&source.answer)),
            disabled: source.disabled,
            metadata: &source.metadata,
            created_at: Time(source.created_at),
            updated_at: Time(source.updated_at),
        })
    }

    fn with_url(self, call: &Call, source: &Source) -> SourceWithUrlOut<'a> {
        let listener_url = source.way.is_http().then(|| listener_url(call, source));
        SourceWithUrlOut { source: self, listener_url }
    }
}

/// At the address that the client has of us.
pub(crate) fn listener_url(call: &Call, source: &Source) -> String {
    format!("{}/in/{}", call.own_url().unwrap_or_default(), source.token.reveal())
}

/// A token that nobody guesses: 32 characters of 62, 190 bits.
pub(crate) fn new_token(api: &Api) -> SecretText {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = String::with_capacity(32);
    while text.len() < 32 {
        let mut bytes = [0; 32];
        api.backend().random(&mut bytes);
        // 248 is the last multiple of 62 in a byte: what is above would favour the first letters.
        let fair = bytes.iter().filter(|byte| **byte < 248).map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        text.extend(fair.take(32 - text.len()));
    }
    SecretText::new(text)
}

/// The source of the path.
pub(crate) fn find(call: &Call) -> Result<Arc<Source>, Error> {
    find_by(call, call.param("source_id")).ok_or_else(Error::not_found)
}

/// The source of the path, if others post to it.
pub(crate) fn find_of_requests(call: &Call) -> Result<Arc<Source>, Error> {
    let msg = "this source fetches its messages itself: it has no listener URL, and no secrets to verify by";
    Some(find(call)?).filter(|source| source.way.is_http()).ok_or_else(|| Error::invalid(&["path", "source_id"], msg))
}

fn find_by(call: &Call, id_or_uid: &str) -> Option<Arc<Source>> {
    call.api.backend().catalogue().read().sources().find(call.principal.organisation(), id_or_uid).cloned()
}

fn shown<'a>(call: &Call, source: &'a Source) -> Result<SourceOut<'a>, Error> {
    SourceOut::of(call, source).ok_or_else(Error::not_found)
}

async fn list(call: Call) -> Result<Response, Error> {
    let wanted = call.query::<Paging>()?.wanted_by_id::<SourceId>("a source id (src_…)")?;
    let order = call.query::<Ordered>()?.or(Ordering::Descending);
    let organisation = call.principal.organisation();
    let all: Vec<_> = call.api.backend().catalogue().read().sources().of_organisation(organisation).cloned().collect();
    let page = wanted.cut(all.iter(), |source| source.id, order);
    let data = page.items.into_iter().filter_map(|source| SourceOut::of(&call, source)).collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out: &SourceOut<'_>| out.id.0.to_string())))
}

/// What is kept of an answer that holds a listener URL: where to find it.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeptAnswerOf {
    pub(crate) source: String,
}

async fn create(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let (input, given): (SourceIn, _) = (body.parse()?, given(&body)?);
    let edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => {
            let kept: KeptAnswerOf = crate::portal::kept(answer).await?;
            let source = find_by(&call, &kept.source).ok_or_else(Error::not_found)?;
            return Ok(error::json(StatusCode::CREATED, &shown(&call, &source)?.with_url(&call, &source)));
        }
    };
    let organisation = call.principal.organisation();
    let count = call.api.backend().catalogue().read().sources().of_organisation(organisation).count();
    if count >= SOURCES_MAX {
        return Err(Error::bad_request(
            "limit_reached",
            format!("An organization can have at most {SOURCES_MAX} sources."),
        ));
    }
    let source = input.check(&call, given, None)?;
    created(&call, edit, source).await
}

async fn created(call: &Call, mut edit: Edit<'_>, source: Source) -> Result<Response, Error> {
    check_whole(call, &source)?;
    let source = Arc::new(source);
    edit.put(Change::PutSource(Arc::clone(&source)));
    let out = shown(call, &source)?.with_url(call, &source);
    edit.answer_keeping(StatusCode::CREATED, &out, &KeptAnswerOf { source: source.id.to_string() }).await
}

async fn get(call: Call) -> Result<Response, Error> {
    Ok(error::json(StatusCode::OK, &shown(&call, &*find(&call)?)?))
}

async fn put(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let (mut input, given): (SourceIn, _) = (body.parse()?, given(&body)?);
    let mut edit = call.api.edit().await;
    let path = call.param("source_id").to_owned();
    let old = find_by(&call, &path);
    // As with endpoints: a uid that leads here stays.
    if input.uid.is_none() && !path.starts_with(SourceId::PREFIX) {
        input.uid = Some(path);
    } else if old.is_none() {
        return Err(Error::not_found());
    }
    let source = input.check(&call, given, old.as_deref())?;
    if old.is_none() {
        return created(&call, edit, source).await;
    }
    check_whole(&call, &source)?;
    let source = Arc::new(source);
    edit.put(Change::PutSource(Arc::clone(&source)));
    edit.answer(StatusCode::OK, &shown(&call, &source)?).await
}

async fn patch(mut call: Call) -> Result<Response, Error> {
    find(&call)?;
    let body = call.json().await?;
    let (patch, given): (SourcePatch, _) = (body.parse()?, given(&body)?);
    let mut edit = call.api.edit().await;
    let mut source = Source::clone(&*find(&call)?);
    let mut faults = Faults::new();
    patch.apply(&mut source, &mut faults, given, call.api.backend().wall());
    faults.end()?;
    source.updated_at = call.api.backend().now();
    check_whole(&call, &source)?;
    let source = Arc::new(source);
    edit.put(Change::PutSource(Arc::clone(&source)));
    edit.answer(StatusCode::OK, &shown(&call, &source)?).await
}

async fn delete(call: Call) -> Result<Response, Error> {
    let mut edit = call.api.edit().await;
    edit.put(Change::DeleteSource(find(&call)?.key));
    edit.no_content().await
}
