//! Messages: the hot path (create), list, get, expunge.

use crate::Api;
use crate::application::{self, ApplicationIn};
use crate::backend::{Accepted, Backend};
use crate::call::Call;
use crate::document::JsonSchema;
#[cfg(feature = "document")]
use crate::document::{Schema, SchemaGenerator, json_schema};
use crate::error::{self, Error, Fault};
use crate::field::{self, Faults};
use crate::idempotency::{Once, event_key};
use crate::operation::{Access, Operation};
use crate::page::{ListOut, Paging, Slice, Window};
use crate::payload;
use crate::wait::{AnswerOut, Wait, WaitQuery, can_be_waited_for};
use crate::wire::{Pairs, Text, Time};
use axum::response::Response;
use bellwire_engine::{ApplicationEntry, Draft, fan_out};
use bellwire_model::{ContentType, Message, MessageId, Timestamp};
use bellwire_shape::{Candidate, judge};
use bellwire_store::{Change, MessageQuery};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

const TAG: &str = "Message";
const DAY_SECONDS: u64 = 24 * 3600;
const RETENTION_DAYS_MAX: i64 = 90;
const RETENTION_HOURS_MAX: i64 = 2_160;
const DELAY_MIN: Duration = Duration::from_secs(60);
const DELAY_MAX: Duration = Duration::from_secs(DAY_SECONDS);
/// The way of the request takes a moment, and clocks differ.
const DELAY_SLACK: Duration = Duration::from_secs(10);

pub(crate) fn operations() -> Vec<Operation> {
    let all = "/api/v1/app/{app_id}/msg";
    vec![
        Operation::new(Method::GET, all, Access::Application, list)
            .described("v1.message.list", TAG, "List all of the application's messages, newest first.")
            .query::<Paging>()
            .query::<MessageFilter>()
            .query::<Window>()
            .query::<WithContent>()
            .filters_event_types()
            .answers::<ListOut<MessageOut<'static>>>(200),
        Operation::new(Method::POST, all, Access::Sender, create)
            .described(
                "v1.message.create",
                TAG,
                "Creates a new message and dispatches it to all of the application's endpoints. It is durable when this is answered.",
            )
            .query::<WithContent>()
            .query::<WaitQuery>()
            .body::<MessageIn<'static>>()
            .answers::<MessageOut<'static>>(202),
        Operation::new(Method::GET, "/api/v1/app/{app_id}/msg/{msg_id}", Access::Application, get)
            .described("v1.message.get", TAG, "Get a message by its ID or eventID.")
            .query::<WithContent>()
            .answers::<MessageOut<'static>>(200),
        Operation::editing(
            Method::DELETE,
            "/api/v1/app/{app_id}/msg/{msg_id}/content",
            Access::Organisation,
            expunge,
        )
        .described(
            "v1.message.expunge-content",
            TAG,
            "Delete the given message's payload. It can not be resent any more; what was not delivered ends as expired.",
        )
        .answers_nothing(204),
    ]
}

/// A message, to be sent.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MessageIn")]
pub(crate) struct MessageIn<'a> {
    /// The event type's name
    #[schemars(required, length(max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    event_type: Option<String>,
    /// Optional unique identifier for the message
    #[schemars(length(min = 1, max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    event_id: Option<String>,
    /// JSON payload to send as the request body of the webhook, byte for byte.
    #[serde(borrow)]
    #[schemars(required, with = "AnyObject")]
    payload: Option<&'a RawValue>,
    /// What older clients call `payload`.
    #[serde(borrow)]
    #[schemars(skip)]
    data: Option<&'a RawValue>,
    /// List of free-form identifiers that endpoints can filter by
    #[schemars(length(max = 10))]
    channels: Option<Vec<String>>,
    /// List of free-form tags that can be filtered by when listing messages
    #[schemars(length(max = 5))]
    tags: Option<Vec<String>>,
    /// Optional number of days to retain the message payload. Not together with `payloadRetentionHours`.
    #[schemars(range(min = 1, max = 90))]
    payload_retention_period: Option<i64>,
    /// Optional number of hours to retain the message payload. Not together with `payloadRetentionPeriod`.
    #[schemars(range(min = 1, max = 2160))]
    payload_retention_hours: Option<i64>,
    /// The date and time at which the message will be delivered: at least a minute, at most 24 hours from now.
    pub(crate) deliver_at: Option<Time>,
    /// For the endpoints' transformations to read. `rawPayload` (a string) is sent instead of the payload; `headers.content-type` is its
    /// media type. Counts as payload.
    #[serde(borrow)]
    #[schemars(with = "Option<AnyObject>")]
    transformations_params: Option<&'a RawValue>,
    /// Optionally creates a new application alongside the message. Ignored if the application of the path exists.
    application: Option<ApplicationIn>,
}

/// What we understand of a message's free parameters.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TransformationsParams<'a> {
    #[serde(borrow)]
    raw_payload: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
}

/// A message.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MessageOut")]
pub(crate) struct MessageOut<'a> {
    pub(crate) id: Text<MessageId>,
    event_id: Option<&'a str>,
    event_type: &'a str,
    #[schemars(with = "AnyObject")]
    payload: Payload<'a>,
    channels: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<Time>,
    timestamp: Time,
    /// What the endpoints answered, if the sender waited for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerOut>,
}

/// A payload as it is shown.
enum Payload<'a> {
    /// `{}`: it was not asked for.
    Left,
    /// `{"expired":true}`.
    Expired,
    /// The exact bytes.
    Json(&'a RawValue),
    /// `{"rawPayload":…}`: what is sent is no JSON object.
    Raw(Cow<'a, str>),
}

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Payload::Left => serializer.collect_map(std::iter::empty::<((), ())>()),
            Payload::Expired => serializer.collect_map([("expired", true)]),
            Payload::Json(text) => text.serialize(serializer),
            Payload::Raw(text) => serializer.collect_map([("rawPayload", text)]),
        }
    }
}

/// For the document: any JSON object.
pub(crate) struct AnyObject;

#[cfg(feature = "document")]
impl JsonSchema for AnyObject {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AnyObject".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": true })
    }
}

impl<'a> MessageOut<'a> {
    pub(crate) fn new(message: &'a Message, with_content: bool, now: Timestamp) -> Self {
        let payload = match &message.payload {
            _ if !with_content => Payload::Left,
            Some(bytes) if message.expires_at > now => shown(bytes),
            _ => Payload::Expired,
        };
        let present = |items: &'a [String]| (!items.is_empty()).then_some(items);
        MessageOut {
            id: Text(message.id),
            event_id: message.event_id.as_deref(),
            event_type: &message.event_type,
            payload,
            channels: present(&message.channels),
            tags: present(&message.tags),
            deliver_at: message.deliver_at.map(Time),
            timestamp: Time(message.sequence().time()),
            answer: None,
        }
    }
}

fn shown(payload: &Bytes) -> Payload<'_> {
    match serde_json::from_slice::<&RawValue>(bellwire_body::without_mark(payload)) {
        Ok(json) if json.get().starts_with('{') => Payload::Json(json),
        _ => Payload::Raw(String::from_utf8_lossy(payload)),
    }
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
pub(crate) struct WithContent {
    /// When `true` message payloads are included in the response
    #[serde(default = "yes")]
    pub(crate) with_content: bool,
}

fn yes() -> bool {
    true
}

/// Which messages.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct MessageFilter {
    /// Filter response based on the channel
    #[schemars(length(max = 128), regex(pattern = crate::wire::CHANNEL_PATTERN))]
    channel: Option<String>,
    /// Filter response based on the tag
    #[schemars(length(max = 128), regex(pattern = crate::wire::TAG_PATTERN))]
    tag: Option<String>,
}

/// What to look for among messages, checked.
pub(crate) struct Wanted {
    pub(crate) channel: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) event_types: Vec<String>,
}

impl Wanted {
    /// From the query: a channel, a tag, and event types.
    pub(crate) fn of(call: &Call) -> Result<Self, Error> {
        let filter: MessageFilter = call.query()?;
        Self::new("query", filter.channel, filter.tag, call.query_list("event_types"))
    }

    /// The same, given in `place`.
    pub(crate) fn new(
        place: &str,
        channel: Option<String>,
        tag: Option<String>,
        event_types: Vec<String>,
    ) -> Result<Self, Error> {
        let fault = |field: &str, msg: String| Err(Error::invalid(&[place, field], msg));
        if let Some(msg) = channel.as_deref().and_then(field::channel_fault) {
            return fault("channel", msg);
        }
        if let Some(msg) = tag.as_deref().and_then(field::tag_fault) {
            return fault("tag", msg);
        }
        if let Some(msg) = event_types.iter().find_map(|name| field::event_type_fault(name)) {
            return fault("event_types", format!("an event type {msg}"));
        }
        Ok(Wanted { channel, tag, event_types })
    }

    pub(crate) fn query(self, slice: &Slice, with_payload: bool) -> MessageQuery {
        MessageQuery {
            span: slice.span,
            ascending: slice.ascending,
            limit: slice.limit,
            event_types: self.event_types,
            channel: self.channel,
            tag: self.tag,
            source: None,
            with_payload,
            status: None,
        }
    }
}

async fn create(mut call: Call) -> Result<Response, Error> {
    let WithContent { with_content } = call.query()?;
    let wait: WaitQuery = call.query()?;
    let body = call.json().await?;
    let input: MessageIn<'_> = body.parse_fast()?;
    let once = call.once(body.bytes());
    let now = call.api.backend().now();
    let (draft, application) = input.check(&call.api, once, now)?;
    let entry = match call.find_application() {
        Some(entry) => entry,
        None => create_application(&call, application).await?,
    };
    let wait = Wait::of(&call, wait, &entry)?;
    let place = draft.place;
    let mut draft = draft.addressed(&entry, call.api.backend());
    draft.trace = call.trace_parent();
    let warning = payload::check(&call.api, &entry, &draft, place).await?;
    let (accepted, answered) = match wait {
        None => (call.api.backend().accept(draft).await?, None),
        Some(wait) => {
            can_be_waited_for(draft.deliver_at)?;
            let owed = draft.fan_out.clone();
            let (accepted, listening) = call.api.backend().accept_and_listen(draft).await?;
            let answered = wait.answer(&call, &entry, &accepted, owed, listening).await?;
            (accepted, Some(answered))
        }
    };
    let (Accepted::New(message) | Accepted::Same(message)) = accepted;
    let shown = MessageOut { answer: answered, ..MessageOut::new(&message, with_content, now) };
    let content = if with_content { message.content_bytes() } else { 0 };
    let mut answer = error::json_of_about(512 + content, StatusCode::ACCEPTED, &shown);
    if let Some(warning) = warning {
        answer.headers_mut().insert(payload::WARNING, warning);
    }
    Ok(answer)
}

/// For a message whose application is not there yet: from its own `application`.
pub(crate) async fn create_application(
    call: &Call,
    input: Option<ApplicationIn>,
) -> Result<Arc<ApplicationEntry>, Error> {
    // An application's token makes no others.
    let allowed = call.principal.application().is_none();
    let input = input.filter(|_| allowed).ok_or_else(Error::not_found)?;
    let loc = ["body", "application", "uid"];
    let fault = match input.uid() {
        None => Some(Fault::of_kind("application_uid_missing", &loc, "Application UID not set in body")),
        Some(uid) if uid != call.param("app_id") => {
            let msg = "Application UID in the path and body must match";
            Some(Fault::of_kind("application_uid_mismatch", &loc, msg))
        }
        Some(_) => None,
    };
    if let Some(fault) = fault {
        return Err(Error::Invalid(vec![fault]));
    }
    let new = input.check(Faults::inside(&["application"]))?;
    let (api, principal) = (call.api.clone(), call.principal.clone());
    // On a task of its own, as every edit.
    tokio::spawn(async move { application::ensure(&api, principal.organisation(), new).await })
        .await
        .map_err(|error| Error::Internal(format!("making an application ended: {error}")))?
}

/// A draft that does not know its application yet.
pub(crate) struct Unaddressed {
    draft: Draft,
    /// Where in the body the payload stands.
    pub(crate) place: &'static [&'static str],
}

impl Unaddressed {
    /// As it is: somebody else says to whom.
    pub(crate) fn for_nobody(self) -> Draft {
        self.draft
    }

    /// To the endpoints of the application that take it. A filter that cannot say means no.
    pub(crate) fn addressed(self, entry: &ApplicationEntry, backend: &dyn Backend) -> Draft {
        let Unaddressed { mut draft, .. } = self;
        draft.application = entry.application.key;
        let Draft { event_type, event_id, channels, tags, payload, content_type, .. } = &draft;
        let candidate = Candidate::new(event_type, event_id.as_deref(), channels, tags, payload).typed(content_type);
        draft.fan_out =
            fan_out(entry, |endpoint| judge(endpoint, &candidate).is_match(|why| backend.filter_failed(endpoint, why)));
        draft.event = draft.event_id.as_deref().map(|id| event_key(entry.application.id, id));
        draft
    }
}

impl<'a> MessageIn<'a> {
    /// What a message for all applications can say.
    pub(crate) fn for_all(
        event_type: Option<String>,
        event_id: Option<String>,
        payload: Option<&'a RawValue>,
        channels: Option<Vec<String>>,
        (payload_retention_period, payload_retention_hours): (Option<i64>, Option<i64>),
    ) -> Self {
        MessageIn {
            event_type,
            event_id,
            payload,
            data: None,
            channels,
            tags: None,
            payload_retention_period,
            payload_retention_hours,
            deliver_at: None,
            transformations_params: None,
            application: None,
        }
    }

    pub(crate) fn check(
        self,
        api: &Api,
        once: Option<Once>,
        now: Timestamp,
    ) -> Result<(Unaddressed, Option<ApplicationIn>), Error> {
        let mut faults = Faults::new();
        let event_type = faults.required("eventType", self.event_type);
        if let Some(event_type) = &event_type {
            faults.event_type_name("eventType", event_type);
        }
        faults.uid("eventId", self.event_id.as_deref(), MessageId::PREFIX);
        faults.channels(self.channels.as_deref());
        faults.tags(self.tags.as_deref());
        let transformations_params = self.transformations_params.and_then(for_scripts);
        let raw = self.transformations_params.and_then(|params| RawPayload::read(&mut faults, params));
        let (raw, content_type) = raw.map_or((None, ContentType::Json), |raw| (raw.payload, raw.content_type));
        let place: &[&str] =
            if raw.is_some() { &["body", "transformationsParams", "rawPayload"] } else { &["body", "payload"] };
        let payload = match (raw, self.payload.or(self.data)) {
            (Some(raw), _) => raw.into(),
            (None, Some(payload)) => {
                if !payload.get().starts_with('{') {
                    faults.add("payload", "Payload must be an object.");
                }
                // A slice would hold on to the connection's whole read buffer for as long as the message waits.
                Bytes::copy_from_slice(payload.get().as_bytes())
            }
            (None, None) => {
                faults.add("payload", "`payload` is required and must be an object");
                Bytes::new()
            }
        };
        let keep = retention(&mut faults, self.payload_retention_period, self.payload_retention_hours);
        let deliver_at = self.deliver_at.map(|Time(at)| at);
        if let Some(at) = deliver_at {
            let (first, last) = (now.plus(DELAY_MIN).minus(DELAY_SLACK), now.plus(DELAY_MAX).plus(DELAY_SLACK));
            if at < first || at > last {
                faults.add("deliverAt", "`deliverAt` must be at least one minute and at most 24 hours from now");
            }
        }
        faults.end()?;
        let payload_bytes_max = api.settings().payload_bytes_max;
        if payload.len() + transformations_params.as_ref().map_or(0, |text| text.len()) > payload_bytes_max {
            return Err(Error::too_large("payload", payload_bytes_max));
        }
        let (nobody, nowhere) = (bellwire_model::ApplicationKey(0), bellwire_model::FanOut::new());
        let draft = Draft {
            event_id: self.event_id,
            channels: self.channels.unwrap_or_default(),
            tags: self.tags.unwrap_or_default(),
            content_type,
            transformations_params,
            deliver_at,
            idempotency: once.map(|once| (once.key, once.digest)),
            ..Draft::new(nobody, nowhere, event_type.unwrap_or_default(), payload, now.plus(keep))
        };
        Ok((Unaddressed { draft, place }, self.application))
    }
}

/// What is kept for scripts to read: the object as it came, or, since its raw payload is kept as the payload, all that is beside that.
fn for_scripts(params: &RawValue) -> Option<Box<str>> {
    let Ok(Pairs(mut members)) = serde_json::from_str::<Pairs<&RawValue>>(params.get()) else { return None };
    let all = members.len();
    members.retain(|(name, _)| name != "rawPayload");
    if members.is_empty() {
        return None;
    }
    if members.len() == all {
        return Some(params.get().into());
    }
    serde_json::to_string(&Pairs(members)).ok().map(String::into_boxed_str)
}

fn retention(faults: &mut Faults, days: Option<i64>, hours: Option<i64>) -> Duration {
    let mut within = |field: &str, value: i64, max: i64| {
        if !(1..=max).contains(&value) {
            faults.add(field, format!("`{field}` must be between 1 and {max}"));
        }
        value.clamp(1, max).unsigned_abs()
    };
    match (days, hours) {
        (Some(_), Some(_)) => {
            let msg = "`payloadRetentionHours` cannot be used together with `payloadRetentionPeriod`";
            faults.add("payloadRetentionHours", msg);
            Duration::ZERO
        }
        (None, Some(hours)) => Duration::from_secs(within("payloadRetentionHours", hours, RETENTION_HOURS_MAX) * 3600),
        (days, None) => {
            let days = days.unwrap_or(RETENTION_DAYS_MAX);
            Duration::from_secs(within("payloadRetentionPeriod", days, RETENTION_DAYS_MAX) * DAY_SECONDS)
        }
    }
}

/// What `transformationsParams` asks to be sent.
struct RawPayload {
    payload: Option<String>,
    content_type: ContentType,
}

impl RawPayload {
    fn read(faults: &mut Faults, params: &RawValue) -> Option<Self> {
        let at = "transformationsParams";
        let Ok(params) = serde_json::from_str::<TransformationsParams<'_>>(params.get()) else {
            faults.add(at, format!("`{at}` must be an object"));
            return None;
        };
        let payload = params.raw_payload.and_then(|raw| match serde_json::from_str(raw.get()) {
            Ok(text) => Some(text),
            Err(_) => {
                faults.add_at(&[at, "rawPayload"], "`rawPayload` must be a string of Unicode characters");
                None
            }
        });
        // The object is free: headers of another form are somebody else's.
        let headers = params.headers.and_then(|h| serde_json::from_str::<Pairs<&RawValue>>(h.get()).ok());
        let content_type = headers
            .unwrap_or_default()
            .0
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
            .and_then(|(_, value)| serde_json::from_str::<String>(value.get()).ok());
        if let Some(msg) = content_type.as_deref().and_then(field::header_value) {
            faults.add_at(&[at, "headers", "content-type"], msg);
        }
        let content_type = match content_type {
            Some(text) if text != ContentType::Json.as_str() => ContentType::Other(text),
            _ => ContentType::Json,
        };
        Some(RawPayload { payload, content_type })
    }
}

async fn list(call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let slice = Slice::of::<MessageId>(&call)?;
    let WithContent { with_content } = call.query()?;
    let query = Wanted::of(&call)?.query(&slice, with_content);
    let key = application.application.key;
    let page =
        if slice.empty { slice.nothing() } else { call.api.read(move |store| store.messages(key, &query)).await? };
    let page = slice.newest_first(page);
    let now = call.api.backend().now();
    let data = page.items.iter().map(|message| MessageOut::new(message, with_content, now)).collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out| out.id.0.to_string())))
}

async fn get(call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let WithContent { with_content } = call.query()?;
    let message = call.message(&application, with_content).await?;
    let now = call.api.backend().now();
    Ok(error::json(StatusCode::OK, &MessageOut::new(&message, with_content, now)))
}

async fn expunge(call: Call) -> Result<Response, Error> {
    let mut edit = call.api.edit().await;
    let application = call.application()?;
    let message = call.message(&application, false).await?;
    edit.put(Change::ExpungePayload(message.sequence()));
    edit.no_content().await
}
