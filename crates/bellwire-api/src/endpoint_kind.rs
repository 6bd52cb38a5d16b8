//! The kind of an endpoint, on the wire: pushed to, a plugin, or a pipe.

use crate::Api;
use crate::auth::Principal;
use crate::document::JsonSchema;
use crate::endpoint_in::check_url;
use crate::field::Faults;
use bellwire_model::{Endpoint, Expiry, Kind, Pipe, Plugin, Runs, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// A plugin's settings, as text.
const SETTINGS_MAX: usize = 262_144;
/// Instead of a setting that is a secret. Sent back, it means: as it was.
const CONCEALED: &str = "***";

/// How an endpoint gets its messages.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EndpointKind")]
pub(crate) enum KindWire {
    /// We post to its URL.
    Push,
    /// Code runs here.
    Plugin,
    /// The receiver keeps a channel open, or pulls pages.
    Pipe,
}

impl KindWire {
    pub(crate) fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Push => KindWire::Push,
            Kind::Plugin(_) => KindWire::Plugin,
            Kind::Pipe(_) => KindWire::Pipe,
        }
    }

    /// As it stands on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            KindWire::Push => "push",
            KindWire::Plugin => "plugin",
            KindWire::Pipe => "pipe",
        }
    }

    /// `None` for the default, which is not shown.
    pub(crate) fn shown(kind: &Kind) -> Option<Self> {
        Some(KindWire::of(kind)).filter(|kind| *kind != KindWire::Push)
    }
}

/// What runs a plugin, and its settings beside it.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "EndpointPlugin")]
#[serde(expecting = "an object with `runs`")]
pub(crate) struct PluginIn {
    /// `javascript`, `wasm`, `command`, `sql`, `notify` or `queue`.
    #[schemars(required)]
    runs: Option<String>,
    /// The settings of that kind.
    #[serde(flatten)]
    settings: Map<String, Value>,
}

/// The settings of a pipe.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EndpointPipe")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PipeWire {
    /// For how many seconds a delivery is handed out, unless its reader says otherwise; 30 if absent.
    #[schemars(range(min = 1, max = 43_200))]
    lease: Option<u64>,
    /// So often a delivery is handed out; then it is exhausted. 16 if absent.
    #[schemars(range(min = 1, max = 1000))]
    max_attempts: Option<u16>,
    /// So many deliveries are out at a time; 1000 if absent.
    #[schemars(range(min = 1, max = 10_000))]
    max_in_flight: Option<u16>,
    /// A JSON pointer into the payload, such as `/customer/id`: deliveries with the same value there are handed out one after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    ordering_key: Option<String>,
    /// The endpoint is removed, with all that waits at it, when nobody has read it for so many seconds, or a quarter more; never if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 2_592_000))]
    expires_after: Option<u64>,
}

impl PipeWire {
    fn check(self, faults: &mut Faults, now: Timestamp) -> Pipe {
        let default = Pipe::default();
        let lease = self.lease.unwrap_or(default.lease.as_secs());
        let attempts_max = self.max_attempts.unwrap_or(default.attempts_max);
        let in_flight_max = self.max_in_flight.unwrap_or(default.in_flight_max);
        if !(1..=43_200).contains(&lease) {
            faults.add_at(&["pipe", "lease"], "`lease` is between 1 and 43200 seconds");
        }
        if !(1..=1_000).contains(&attempts_max) {
            faults.add_at(&["pipe", "maxAttempts"], "`maxAttempts` is between 1 and 1000");
        }
        if !(1..=10_000).contains(&in_flight_max) {
            faults.add_at(&["pipe", "maxInFlight"], "`maxInFlight` is between 1 and 10000");
        }
        if self.ordering_key.as_ref().is_some_and(|key| !key.starts_with('/') || key.len() > 256) {
            let msg =
                "`orderingKey` is a JSON pointer of at most 256 bytes that begins with a slash, such as /customer/id";
            faults.add_at(&["pipe", "orderingKey"], msg);
        }
        if self.expires_after.is_some_and(|seconds| !(60..=2_592_000).contains(&seconds)) {
            faults.add_at(&["pipe", "expiresAfter"], "`expiresAfter` is between 60 and 2592000 seconds");
        }
        let expiry = self.expires_after.map(|seconds| Expiry::new(Duration::from_secs(seconds.min(2_592_000)), now));
        let (lease, ordering_key) = (Duration::from_secs(lease), self.ordering_key);
        Pipe { lease, attempts_max, in_flight_max, ordering_key, expiry }
    }
}

/// What a request says about an endpoint's kind.
pub(crate) struct KindIn {
    pub(crate) kind: Option<KindWire>,
    pub(crate) plugin: Option<PluginIn>,
    pub(crate) pipe: Option<PipeWire>,
    pub(crate) url: Option<String>,
}

impl KindIn {
    /// The kind of an endpoint that was `old`, and what stands in the place of its URL.
    pub(crate) fn check(
        self,
        faults: &mut Faults,
        api: &Api,
        principal: &Principal,
        old: Option<&Endpoint>,
    ) -> (Kind, String) {
        let before = old.map_or(&Kind::Push, |old| &old.kind);
        let given = match (&self.plugin, &self.pipe) {
            (Some(_), Some(_)) => {
                faults.add("pipe", "an endpoint has either `plugin` or `pipe`, not both");
                None
            }
            (Some(_), None) => Some(KindWire::Plugin),
            (None, Some(_)) => Some(KindWire::Pipe),
            (None, None) => None,
        };
        let wanted = self.kind.or(given).unwrap_or_else(|| KindWire::of(before));
        if let (Some(given), Some(_)) = (given, self.kind)
            && given != wanted
        {
            let (field, name) = if given == KindWire::Plugin { ("plugin", "plugin") } else { ("pipe", "pipe") };
            faults.add(field, format!("`{field}` belongs to endpoints of the kind {name}"));
        }
        let kind = match wanted {
            KindWire::Push => Kind::Push,
            KindWire::Pipe => match (self.pipe, before) {
                (None, Kind::Pipe(pipe)) => Kind::Pipe(pipe.clone()),
                (None, _) => Kind::Pipe(Pipe::default()),
                (Some(pipe), _) => Kind::Pipe(pipe.check(faults, api.backend().now())),
            },
            KindWire::Plugin => match (self.plugin, before) {
                (None, Kind::Plugin(plugin)) => Kind::Plugin(plugin.clone()),
                (plugin, _) => check_plugin(faults, api, principal, plugin, before),
            },
        };
        if principal.application().is_some() && matches!(kind, Kind::Plugin(_)) && kind != *before {
            faults.add("plugin", "plugins run at the operator's: a token of one application cannot install them");
        }
        let url = match (wanted, &kind) {
            // A plugin that is none, as is told already: whether a URL belongs here depends on what it was to be.
            (KindWire::Plugin, Kind::Push) => self.url.unwrap_or_default(),
            _ => check_address(faults, api, &kind, self.url, old),
        };
        (kind, url)
    }
}

/// The URL, where the kind has one.
fn check_address(faults: &mut Faults, api: &Api, kind: &Kind, url: Option<String>, old: Option<&Endpoint>) -> String {
    match (kind.address(), url) {
        (None, Some(url)) => {
            check_url(faults, api, &url);
            url
        }
        (None, None) => match old.filter(|old| old.kind == Kind::Push) {
            Some(old) => old.url.clone(),
            None => faults.required("url", None).unwrap_or_default(),
        },
        (Some(address), Some(url)) => {
            if url != address && old.is_none_or(|old| old.url != url) {
                faults.add("url", "only an endpoint of the kind push has a `url`; leave it out");
            }
            address.to_owned()
        }
        (Some(address), None) => address.to_owned(),
    }
}

pub(crate) fn check_plugin(
    faults: &mut Faults,
    api: &Api,
    principal: &Principal,
    given: Option<PluginIn>,
    before: &Kind,
) -> Kind {
    let Some(PluginIn { runs, settings }) = faults.required("plugin", given) else { return Kind::Push };
    let names = || Runs::ALL.map(Runs::name).join(", ");
    let Some(runs) = runs else {
        faults.add_at(&["plugin", "runs"], format!("`runs` is required: one of {}", names()));
        return Kind::Push;
    };
    let Some(runs) = Runs::parse(&runs) else {
        faults.add_at(&["plugin", "runs"], format!("`runs` must be one of {}", names()));
        return Kind::Push;
    };
    let mut settings = Value::Object(settings);
    if let Kind::Plugin(old) = before
        && old.runs == runs
    {
        reveal(&mut settings, &parsed(old));
    }
    refuse_concealed(faults, "plugin", &settings);
    let text = settings.to_string();
    if text.len() > SETTINGS_MAX {
        faults.add("plugin", format!("`plugin` must have at most {SETTINGS_MAX} bytes as JSON"));
        return Kind::Push;
    }
    if let Err(found) = api.backend().check_plugin(principal.organisation(), runs, &settings) {
        for fault in found {
            let path: Vec<&str> = std::iter::once("plugin").chain(fault.path.iter().map(String::as_str)).collect();
            faults.add_at(&path, fault.text);
        }
    }
    Kind::Plugin(Plugin::new(runs, text))
}

fn parsed(plugin: &Plugin) -> Value {
    serde_json::from_str(plugin.settings.reveal()).unwrap_or_default()
}

/// A plugin as it is shown: what runs it and its settings, secrets concealed.
pub(crate) fn shown_plugin(kind: &Kind) -> Option<Value> {
    let Kind::Plugin(plugin) = kind else { return None };
    let mut shown = parsed(plugin);
    conceal(&mut shown);
    if let Value::Object(shown) = &mut shown {
        shown.insert("runs".to_owned(), plugin.runs.name().into());
    }
    Some(shown)
}

/// A pipe as it is shown.
pub(crate) fn shown_pipe(kind: &Kind) -> Option<PipeWire> {
    let Kind::Pipe(pipe) = kind else { return None };
    Some(PipeWire {
        lease: Some(pipe.lease.as_secs()),
        max_attempts: Some(pipe.attempts_max),
        max_in_flight: Some(pipe.in_flight_max),
        ordering_key: pipe.ordering_key.clone(),
        expires_after: pipe.expiry.map(|expiry| expiry.after.as_secs()),
    })
}

/// By their names: plugins call their secrets so. `beside` is the object that it is a member of.
fn is_secret(name: &str, beside: &Map<String, Value>) -> bool {
    // Of a queue these say where in it a message goes.
    if beside.contains_key("broker") && matches!(name, "key" | "routing_key") {
        return false;
    }
    let name = name.to_ascii_lowercase();
    ["password", "secret", "secrets", "token", "dsn", "webhook_url", "authorization", "key"]
        .iter()
        .any(|secret| name == *secret || name.ends_with(&format!("_{secret}")))
}

pub(crate) fn conceal(settings: &mut Value) {
    match settings {
        Value::Object(members) => {
            let secret: Vec<bool> = members.keys().map(|name| is_secret(name, members)).collect();
            for (value, is_secret) in members.values_mut().zip(secret) {
                match value {
                    Value::String(text) if is_secret => *text = CONCEALED.to_owned(),
                    Value::Object(inner) if is_secret => {
                        inner.values_mut().for_each(|value| *value = CONCEALED.into());
                    }
                    value => conceal(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(conceal),
        _ => {}
    }
}

/// Puts back what was concealed when `settings` were shown.
pub(crate) fn reveal(settings: &mut Value, old: &Value) {
    match (settings, old) {
        (Value::String(text), Value::String(old)) if text == CONCEALED => text.clone_from(old),
        (Value::Object(members), Value::Object(old)) => {
            members.iter_mut().for_each(|(name, value)| {
                if let Some(old) = old.get(name) {
                    reveal(value, old);
                }
            });
        }
        (Value::Array(items), Value::Array(old)) => {
            items.iter_mut().zip(old).for_each(|(item, old)| reveal(item, old));
        }
        _ => {}
    }
}

/// Refuses what conceals a secret that nobody has put back: it would be taken for the secret.
pub(crate) fn refuse_concealed(faults: &mut Faults, field: &str, settings: &Value) {
    for way in still_concealed(settings) {
        let way: Vec<&str> = std::iter::once(field).chain(way.iter().map(String::as_str)).collect();
        let msg = format!(
            "`{CONCEALED}` stands for a secret that was shown, and there is none here to keep: say the secret itself"
        );
        faults.add_at(&way, msg);
    }
}

/// The ways to what conceals a secret that nobody has put back.
fn still_concealed(settings: &Value) -> Vec<Vec<String>> {
    let below = |name: String, value: &Value| -> Vec<Vec<String>> {
        let ways = still_concealed(value).into_iter();
        ways.map(|way| [vec![name.clone()], way].concat()).collect()
    };
    match settings {
        Value::Object(members) => {
            let of_member = |(name, value): (&String, &Value)| match value {
                Value::String(text) if is_secret(name, members) && text == CONCEALED => vec![vec![name.clone()]],
                Value::Object(inner) if is_secret(name, members) => {
                    let concealed = inner.iter().filter(|(_, value)| *value == CONCEALED);
                    concealed.map(|(inner, _)| vec![name.clone(), inner.clone()]).collect()
                }
                value => below(name.clone(), value),
            };
            members.iter().flat_map(of_member).collect()
        }
        Value::Array(items) => items.iter().enumerate().flat_map(|(at, item)| below(at.to_string(), item)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_concealed_and_come_back() {
        let kept = json!({ "dsn": "postgres://u:p@h/d", "smtp": { "password": "x", "host": "h" }, "secrets": { "a": "b" }, "to": ["t"] });
        let mut shown = kept.clone();
        conceal(&mut shown);
        assert_eq!(
            shown,
            json!({ "dsn": "***", "smtp": { "password": "***", "host": "h" }, "secrets": { "a": "***" }, "to": ["t"] })
        );
        reveal(&mut shown, &kept);
        assert_eq!(shown, kept);
    }

    #[test]
    fn where_a_message_goes_in_a_queue_is_no_secret() {
        let check = |settings: Value, expected: Value| {
            let mut shown = settings;
            conceal(&mut shown);
            assert_eq!(shown, expected);
        };
        let amqp = json!({ "broker": "amqp", "routing_key": "events", "password": "x" });
        check(amqp, json!({ "broker": "amqp", "routing_key": "events", "password": "***" }));
        let kafka = json!({ "broker": "kafka", "topic": "t", "key": "{{payload.id}}", "token": "x" });
        check(kafka, json!({ "broker": "kafka", "topic": "t", "key": "{{payload.id}}", "token": "***" }));
        let env = json!({ "program": "/p", "env": { "key": "x", "routing_key": "x" } });
        check(env, json!({ "program": "/p", "env": { "key": "***", "routing_key": "***" } }));
    }

    #[test]
    fn a_secret_that_is_given_anew_stays_as_given() {
        let mut given = json!({ "password": "new" });
        reveal(&mut given, &json!({ "password": "old" }));
        assert_eq!(given, json!({ "password": "new" }));
    }
}
