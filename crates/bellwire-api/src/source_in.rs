//! What a client says of a source: how it is checked, and becomes one or changes one.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::endpoint_shape::check_content_type;
use crate::error::Error;
use crate::field::{Faults, event_type_fault};
use crate::json::Json;
use crate::source::new_token;
use crate::source_way::{CronWire, OutboxWire, WayIn, WayName};
use crate::source_wire::{AnswerWire, DedupeWire, networks, own_path, reveal};
use crate::wire::{Keep, Patch};
use bellwire_model::{
    ApplicationKey, EventTypeFrom, Format, Metadata, Networks, Recipe, SECRETS_MAX, SecretText, Source, SourceId,
    SourceKey, SourceSecret, Timestamp,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

const UID_TAKEN: &str = "A source with that id or uid already exists";
const PATH_TAKEN: &str = "Another source has this path";
const NAME_MAX: usize = 256;
/// The most that a source can take; the server's own bound may be lower.
const BODY_BYTES_MAX: u32 = 64 << 20;
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
const RECIPE_BYTES_MAX: usize = 64 << 10;
const SECRET_BYTES_MAX: usize = 8 << 10;
const SETTINGS_MAX: usize = 32;
/// As long as the address in the configuration of a sender may well be.
const URL_MAX: usize = 2_048;

/// A source, to be created or replaced.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SourceIn {
    #[serde(default)]
    #[schemars(length(max = 256))]
    name: String,
    /// Optional unique identifier for the source
    #[schemars(length(min = 1, max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    pub(crate) uid: Option<String>,
    /// The application that its messages belong to, by its id or uid.
    #[schemars(required)]
    app_id: Option<String>,
    /// How its messages come in: `http` if absent and none of the following three objects is there.
    way: Option<WayName>,
    /// A message at every instant of a schedule.
    cron: Option<CronWire>,
    /// The rows of a table of your database, each a message.
    outbox: Option<OutboxWire>,
    /// A queue to be read: `broker`, `url`, `stream`, and more; see the guide on other ways in. Passwords and tokens in it are shown
    /// as `***`.
    queue: Option<Map<String, Value>>,
    /// The name of a preset, such as `github` or `stripe`. Either this or `recipe` is required, if others post to it.
    preset: Option<String>,
    /// How requests are verified, in your own words; see the guide on receiving.
    recipe: Option<Value>,
    /// What the preset or recipe wants to know beside secrets.
    settings: Option<BTreeMap<String, String>>,
    /// What requests are verified with, newest first; any of them verifies.
    #[schemars(length(max = 11))]
    secrets: Option<Vec<String>>,
    /// A path of its own beside the listener URL, such as `/hooks/github`.
    #[schemars(length(max = 256))]
    path: Option<String>,
    /// Of GET, POST, PUT, PATCH, DELETE; POST alone if absent. Handshakes are answered whatever their method.
    methods: Option<Vec<String>>,
    /// What bodies are read as, and their messages' content type, for senders who call theirs something else.
    #[schemars(length(max = 256))]
    content_type: Option<String>,
    /// A longer body is refused with 413; one MiB if absent.
    #[schemars(range(min = 1, max = 67_108_864))]
    body_bytes_max: Option<u32>,
    /// Requests per second; more are refused with 429.
    #[schemars(range(min = 1))]
    rate: Option<u32>,
    /// Networks that requests may come from, such as `192.0.2.0/24`; any if absent.
    allowed_networks: Option<Vec<String>>,
    /// Proxies whose `x-forwarded-for` counts.
    trusted_proxies: Option<Vec<String>>,
    #[serde(default)]
    dedupe: DedupeWire,
    /// The event type of all its messages; as the preset or recipe has it if absent.
    #[schemars(length(min = 1, max = 256))]
    event_type: Option<String>,
    /// Where in the request the event type stands, such as `header:x-event` or `json:type`.
    event_type_from: Option<String>,
    /// Its URL as the sender has it, for schemes that sign it; as the request has it if absent.
    url: Option<String>,
    #[serde(default)]
    answer: AnswerWire,
    #[serde(default)]
    disabled: bool,
    /// Names and values of your own; at most 4096 bytes as JSON.
    metadata: Option<Metadata>,
    /// Whatever else is given has no effect, and is refused.
    #[serde(flatten)]
    #[schemars(skip)]
    unknown: BTreeMap<String, IgnoredAny>,
}

/// Changes to a source: absent keeps, null clears.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct SourcePatch {
    way: Keep<WayName>,
    cron: Keep<CronWire>,
    outbox: Keep<OutboxWire>,
    queue: Keep<Map<String, Value>>,
    name: Keep<String>,
    uid: Patch<String>,
    preset: Keep<String>,
    recipe: Keep<Value>,
    settings: Keep<BTreeMap<String, String>>,
    path: Patch<String>,
    methods: Keep<Vec<String>>,
    content_type: Patch<String>,
    body_bytes_max: Keep<u32>,
    rate: Patch<u32>,
    allowed_networks: Keep<Vec<String>>,
    trusted_proxies: Keep<Vec<String>>,
    dedupe: Keep<DedupeWire>,
    event_type: Patch<String>,
    event_type_from: Patch<String>,
    url: Patch<String>,
    answer: Keep<AnswerWire>,
    disabled: Keep<bool>,
    metadata: Keep<Metadata>,
}

impl SourceIn {
    /// Over `old`, or new.
    pub(crate) fn check(self, call: &Call, given: Vec<String>, old: Option<&Source>) -> Result<Source, Error> {
        let mut faults = Faults::new();
        self.unknown.keys().for_each(|name| faults.add(name, format!("`{name}` is no setting of a source")));
        let way = WayIn { way: self.way, cron: self.cron, outbox: self.outbox, queue: self.queue, given };
        let way = way.check(&mut faults, call.api.backend().wall(), old, true);
        let application = faults.required("appId", self.app_id).and_then(|id| find_application(call, &mut faults, &id));
        check_name(&mut faults, &self.name);
        faults.uid("uid", self.uid.as_deref(), SourceId::PREFIX);
        let recipe = check_recipe(&mut faults, self.preset, self.recipe);
        if recipe.is_none() && way.is_http() {
            faults.add("preset", "one of `preset` and `recipe` is required");
        }
        let mut settings = self.settings.unwrap_or_default();
        if let Some(old) = old {
            reveal(&mut settings, &old.settings);
        }
        check_settings(&mut faults, &settings);
        let secrets = match self.secrets {
            Some(texts) => check_secrets(&mut faults, texts),
            None => old.map(|old| old.secrets.clone()).unwrap_or_default(),
        };
        let path = self.path.inspect(|path| own_path(&mut faults, path));
        let methods = check_methods(&mut faults, self.methods.unwrap_or_else(|| vec![Source::METHOD.to_owned()]));
        check_content_type(&mut faults, Format::Json, self.content_type.as_deref());
        let body_bytes_max = self.body_bytes_max.unwrap_or(Source::BODY_BYTES);
        check_body_bytes(&mut faults, body_bytes_max);
        let rate = self.rate.and_then(|rate| check_rate(&mut faults, rate));
        let networks = Networks {
            allowed: networks(&mut faults, "allowedNetworks", self.allowed_networks.unwrap_or_default()),
            proxies: networks(&mut faults, "trustedProxies", self.trusted_proxies.unwrap_or_default()),
        };
        let dedupe = self.dedupe.check(&mut faults);
        let event_type = check_event_type(&mut faults, self.event_type, self.event_type_from);
        if let Some(url) = &self.url {
            check_public_url(&mut faults, url);
        }
        let answer = self.answer.check(&mut faults);
        let metadata = self.metadata.unwrap_or_default();
        faults.metadata(&metadata);
        faults.end()?;
        let backend = call.api.backend();
        let now = backend.now();
        let (key, id, token, created_at) = match old {
            Some(old) => (old.key, old.id, old.token.clone(), old.created_at),
            None => (SourceKey(backend.next_key()), backend.new_id(SourceId::from_parts), new_token(&call.api), now),
        };
        Ok(Source {
            key,
            id,
            organisation: call.principal.organisation().clone(),
            application: application.unwrap_or(ApplicationKey(0)),
            uid: self.uid,
            name: self.name,
            way,
            token,
            path,
            methods,
            recipe: recipe.unwrap_or(Recipe::Preset(String::new())),
            settings,
            secrets,
            content_type: self.content_type,
            body_bytes_max,
            rate,
            networks,
            dedupe,
            event_type,
            url: self.url,
            answer,
            disabled: self.disabled,
            metadata,
            created_at,
            updated_at: now,
        })
    }
}

impl SourcePatch {
    pub(crate) fn apply(self, source: &mut Source, faults: &mut Faults, given: Vec<String>, wall: Timestamp) {
        let way = WayIn { way: self.way.0, cron: self.cron.0, outbox: self.outbox.0, queue: self.queue.0, given };
        source.way = way.check(faults, wall, Some(source), false);
        if let Keep(Some(name)) = self.name {
            check_name(faults, &name);
            source.name = name;
        }
        faults.patch_uid(&mut source.uid, self.uid, SourceId::PREFIX);
        if let Some(recipe) = check_recipe(faults, self.preset.0, self.recipe.0) {
            source.recipe = recipe;
        }
        if let Keep(Some(mut settings)) = self.settings {
            reveal(&mut settings, &source.settings);
            check_settings(faults, &settings);
            source.settings = settings;
        }
        self.path.apply(&mut source.path, |path| {
            own_path(faults, &path);
            Some(path)
        });
        if let Keep(Some(methods)) = self.methods {
            source.methods = check_methods(faults, methods);
        }
        self.content_type.apply(&mut source.content_type, |content_type| {
            check_content_type(faults, Format::Json, Some(&content_type));
            Some(content_type)
        });
        if let Keep(Some(bytes)) = self.body_bytes_max {
            check_body_bytes(faults, bytes);
            source.body_bytes_max = bytes;
        }
        self.rate.apply(&mut source.rate, |rate| check_rate(faults, rate));
        if let Keep(Some(texts)) = self.allowed_networks {
            source.networks.allowed = networks(faults, "allowedNetworks", texts);
        }
        if let Keep(Some(texts)) = self.trusted_proxies {
            source.networks.proxies = networks(faults, "trustedProxies", texts);
        }
        if let Keep(Some(dedupe)) = self.dedupe {
            source.dedupe = dedupe.check(faults);
        }
        match (self.event_type, self.event_type_from) {
            (Patch::Keep, Patch::Keep) => {}
            (fixed, from) => {
                let given = |patch| if let Patch::Set(text) = patch { Some(text) } else { None };
                source.event_type = check_event_type(faults, given(fixed), given(from));
            }
        }
        self.url.apply(&mut source.url, |url| {
            check_public_url(faults, &url);
            Some(url)
        });
        if let Keep(Some(answer)) = self.answer {
            source.answer = answer.check(faults);
        }
        if let Keep(Some(disabled)) = self.disabled {
            source.disabled = disabled;
        }
        if let Keep(Some(metadata)) = self.metadata {
            faults.metadata(&metadata);
            source.metadata = metadata;
        }
    }
}

/// The names of what a request has.
pub(crate) fn given(body: &Json) -> Result<Vec<String>, Error> {
    let members: BTreeMap<String, Option<IgnoredAny>> = body.parse()?;
    Ok(members.into_iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name).collect())
}

fn find_application(call: &Call, faults: &mut Faults, id: &str) -> Option<ApplicationKey> {
    let catalogue = call.api.backend().catalogue().read();
    let found = catalogue.find_application(call.principal.organisation(), id);
    let found = found.filter(|entry| !entry.application.is_operational()).map(|entry| entry.application.key);
    if found.is_none() {
        faults.add("appId", "there is no application with this id or uid");
    }
    found
}

fn check_name(faults: &mut Faults, name: &str) {
    if name.len() > NAME_MAX {
        faults.add("name", format!("`name` must have at most {NAME_MAX} characters"));
    }
    faults.printable("name", name);
}

/// One of the two, if any; `None` with a fault or without.
fn check_recipe(faults: &mut Faults, preset: Option<String>, recipe: Option<Value>) -> Option<Recipe> {
    match (preset, recipe) {
        (Some(preset), Some(_)) => {
            faults.add("recipe", "`preset` and `recipe` exclude each other");
            Some(Recipe::Preset(preset))
        }
        (Some(preset), None) => Some(Recipe::Preset(preset)),
        (None, Some(recipe)) => {
            let text = recipe.to_string();
            if !recipe.is_object() || text.len() > RECIPE_BYTES_MAX {
                faults.add("recipe", format!("`recipe` must be an object of at most {RECIPE_BYTES_MAX} bytes"));
            }
            Some(Recipe::Own(text))
        }
        (None, None) => None,
    }
}

fn check_settings(faults: &mut Faults, settings: &BTreeMap<String, String>) {
    if settings.len() > SETTINGS_MAX || settings.iter().any(|(name, value)| name.len() + value.len() > SECRET_BYTES_MAX)
    {
        let msg = format!("`settings` must have at most {SETTINGS_MAX} members of at most {SECRET_BYTES_MAX} bytes");
        faults.add("settings", msg);
    }
}

fn check_secrets(faults: &mut Faults, texts: Vec<String>) -> Vec<SourceSecret> {
    if texts.len() > SECRETS_MAX {
        faults.add("secrets", format!("`secrets` must have at most {SECRETS_MAX} items"));
    }
    for (at, text) in texts.iter().enumerate() {
        if let Some(msg) = secret_fault(text) {
            faults.add_at(&["secrets", &format!("[{at}]")], msg);
        }
    }
    texts.into_iter().map(|text| SourceSecret { text: SecretText::new(text), expires_at: None }).collect()
}

/// What is wrong with a secret's text in itself.
pub(crate) fn secret_fault(text: &str) -> Option<String> {
    (text.is_empty() || text.len() > SECRET_BYTES_MAX).then(|| format!("a secret has 1 to {SECRET_BYTES_MAX} bytes"))
}

fn check_methods(faults: &mut Faults, methods: Vec<String>) -> Vec<String> {
    let mut known: Vec<String> = Vec::new();
    for (at, method) in methods.iter().enumerate() {
        let method = method.to_ascii_uppercase();
        if !METHODS.contains(&method.as_str()) {
            faults.add_at(&["methods", &format!("[{at}]")], format!("must be one of {}", METHODS.join(", ")));
        } else if !known.contains(&method) {
            known.push(method);
        }
    }
    if methods.is_empty() {
        faults.add("methods", "`methods` must have at least one item, or be left out");
    }
    known
}

fn check_body_bytes(faults: &mut Faults, bytes: u32) {
    if !(1..=BODY_BYTES_MAX).contains(&bytes) {
        faults.add("bodyBytesMax", format!("`bodyBytesMax` must be between 1 and {BODY_BYTES_MAX}"));
    }
}

fn check_rate(faults: &mut Faults, rate: u32) -> Option<NonZeroU32> {
    let rate = NonZeroU32::new(rate);
    if rate.is_none() {
        faults.add("rate", "`rate` must be at least 1 (per second); leave it out for no limit");
    }
    rate
}

fn check_event_type(faults: &mut Faults, fixed: Option<String>, from: Option<String>) -> EventTypeFrom {
    match (fixed, from) {
        (Some(_), Some(_)) => {
            faults.add("eventTypeFrom", "`eventType` and `eventTypeFrom` exclude each other");
            EventTypeFrom::Recipe
        }
        (Some(name), None) => {
            if let Some(msg) = event_type_fault(&name) {
                faults.add("eventType", format!("`eventType` {msg}"));
            }
            EventTypeFrom::Fixed(name)
        }
        (None, Some(place)) => EventTypeFrom::Place(place),
        (None, None) => EventTypeFrom::Recipe,
    }
}

fn check_public_url(faults: &mut Faults, text: &str) {
    let good = text.len() <= URL_MAX
        && url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.fragment().is_none());
    if !good {
        faults.add("url", "`url` must be this source's URL as its sender has it, such as https://example.com/in/…");
    }
}

/// What only the whole can tell: uids, paths, and whether the recipe can be used.
pub(crate) fn check_whole(call: &Call, source: &Source) -> Result<(), Error> {
    {
        let catalogue = call.api.backend().catalogue().read();
        let other = |found: Option<&Arc<Source>>| found.is_some_and(|found| found.key != source.key);
        let sources = catalogue.sources();
        if source.uid.as_deref().is_some_and(|uid| other(sources.find(&source.organisation, uid))) {
            return Err(Error::conflict(UID_TAKEN));
        }
        if source.path.as_deref().is_some_and(|path| other(sources.by_path(path))) {
            return Err(Error::conflict(PATH_TAKEN));
        }
    }
    let mut faults = Faults::new();
    if let Err(found) = call.api.backend().check_source(source) {
        for fault in found {
            let path: Vec<&str> = fault.path.iter().map(String::as_str).collect();
            faults.add_at(&path, fault.text);
        }
    }
    faults.end()
}
