//! Parts of a source on the wire, and what they must be like.

use crate::document::JsonSchema;
use crate::field::Faults;
use bellwire_model::{Conflict, Dedupe, DedupeFrom, SourceAnswer};
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Instead of a setting that is a secret. Sent back, it means: as it was.
const CONCEALED: &str = "***";
const PATH_MAX: usize = 256;
const NETWORKS_MAX: usize = 256;
const PLACES_MAX: usize = 8;
const PLACE_BYTES_MAX: usize = 256;
const WINDOW_SECONDS_MAX: u64 = 90 * 24 * 3600;
const ANSWER_BYTES_MAX: usize = 4_096;
/// Headers of an answer.
const HEADERS_MAX: usize = 32;
/// They belong to the connection.
const CONNECTION_HEADERS: [&str; 8] =
    ["connection", "content-length", "date", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
/// Senders have no more patience.
const WAIT_MS_MAX: u32 = 30_000;
/// The first part of paths that are the server's own.
const RESERVED: [&str; 10] =
    ["api", "in", "metrics", "openapi.json", "console", "portal", "app-portal", "assets", "health", "listen"];

/// What makes two requests the same.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schemars(rename = "SourceDedupe")]
pub(crate) struct DedupeWire {
    /// `recipe`, as the preset or recipe has it; `body`, for senders that have no id of their own; `off`; or `places`.
    by: DedupeBy,
    /// With `places`: where in the request the parts of the key stand, such as `header:x-delivery` and `json:id`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    places: Vec<String>,
    /// For how long a request is known, in seconds; seven days if absent, 90 days at most, and never longer than messages are kept.
    window_seconds: u64,
    /// What becomes of a request that is known and has another body: `flag`, or `refuse` with 409.
    conflict: ConflictWire,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "SourceDedupeBy")]
enum DedupeBy {
    Recipe,
    Body,
    Off,
    Places,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "SourceDedupeConflict")]
enum ConflictWire {
    Flag,
    Refuse,
}

impl Default for DedupeWire {
    fn default() -> Self {
        DedupeWire::of(&Dedupe::default())
    }
}

impl DedupeWire {
    pub(crate) fn of(dedupe: &Dedupe) -> Self {
        let (by, places) = match &dedupe.key {
            DedupeFrom::Recipe => (DedupeBy::Recipe, Vec::new()),
            DedupeFrom::Body => (DedupeBy::Body, Vec::new()),
            DedupeFrom::Off => (DedupeBy::Off, Vec::new()),
            DedupeFrom::Places(places) => (DedupeBy::Places, places.clone()),
        };
        let conflict = match dedupe.conflict {
            Conflict::Flag => ConflictWire::Flag,
            Conflict::Refuse => ConflictWire::Refuse,
        };
        DedupeWire { by, places, window_seconds: dedupe.window.as_secs(), conflict }
    }

    pub(crate) fn check(self, faults: &mut Faults) -> Dedupe {
        let (by, count) = (self.by, self.places.len());
        if by == DedupeBy::Places && !(1..=PLACES_MAX).contains(&count) {
            faults.add_at(&["dedupe", "places"], format!("`places` must have 1 to {PLACES_MAX} items"));
        } else if by != DedupeBy::Places && count > 0 {
            faults.add_at(&["dedupe", "places"], "`places` go with `by`: `places`");
        }
        if self.places.iter().any(|place| place.len() > PLACE_BYTES_MAX) {
            faults.add_at(&["dedupe", "places"], format!("a place has at most {PLACE_BYTES_MAX} bytes"));
        }
        if !(1..=WINDOW_SECONDS_MAX).contains(&self.window_seconds) {
            let msg = format!("`windowSeconds` must be between 1 and {WINDOW_SECONDS_MAX} (90 days)");
            faults.add_at(&["dedupe", "windowSeconds"], msg);
        }
        Dedupe {
            key: match by {
                DedupeBy::Recipe => DedupeFrom::Recipe,
                DedupeBy::Body => DedupeFrom::Body,
                DedupeBy::Off => DedupeFrom::Off,
                DedupeBy::Places => DedupeFrom::Places(self.places),
            },
            window: Duration::from_secs(self.window_seconds.clamp(1, WINDOW_SECONDS_MAX)),
            conflict: match self.conflict {
                ConflictWire::Flag => Conflict::Flag,
                ConflictWire::Refuse => Conflict::Refuse,
            },
        }
    }
}

/// What is answered to a request that was accepted.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schemars(rename = "SourceAnswer")]
pub(crate) struct AnswerWire {
    /// 202 if absent. Senders take another than 2xx for a failure, though the request was accepted.
    #[schemars(range(min = 200, max = 599))]
    status: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    body: String,
    /// Headers of the answer, also of an endpoint's that is passed on, unless that has them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    /// For so many milliseconds an endpoint is waited for, whose answer (a plugin's `respond`, or a 2xx) is passed on to the sender;
    /// `status` and `body` are answered if none comes. Not at all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 30_000))]
    wait_ms: Option<u32>,
}

impl Default for AnswerWire {
    fn default() -> Self {
        AnswerWire::of(&SourceAnswer::default())
    }
}

impl AnswerWire {
    pub(crate) fn of(answer: &SourceAnswer) -> Self {
        let wait_ms = answer.wait.map(|wait| u32::try_from(wait.as_millis()).unwrap_or(WAIT_MS_MAX));
        let headers = answer.headers.iter().cloned().collect();
        AnswerWire { status: answer.status, body: answer.body.clone(), headers, wait_ms }
    }

    pub(crate) fn check(self, faults: &mut Faults) -> SourceAnswer {
        if !(200..=599).contains(&self.status) {
            faults.add_at(&["answer", "status"], "`status` must be between 200 and 599");
        }
        if self.headers.len() > HEADERS_MAX {
            faults.add_at(&["answer", "headers"], format!("an answer has at most {HEADERS_MAX} headers of its own"));
        }
        for (name, value) in &self.headers {
            let fits = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
            if !fits || value.len() > ANSWER_BYTES_MAX {
                let msg = format!(
                    "{name:?} cannot be sent as a header: visible characters, at most {ANSWER_BYTES_MAX} of them"
                );
                faults.add_at(&["answer", "headers", name], msg);
            } else if CONNECTION_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                faults.add_at(&["answer", "headers", name], format!("{name} is the server's own"));
            }
        }
        if self.body.len() > ANSWER_BYTES_MAX {
            faults.add_at(&["answer", "body"], format!("`body` must have at most {ANSWER_BYTES_MAX} bytes"));
        } else if matches!(self.status, 204 | 304) && !self.body.is_empty() {
            faults.add_at(&["answer", "body"], format!("an answer with the status {} has no body", self.status));
        }
        if self.wait_ms.is_some_and(|wait| !(1..=WAIT_MS_MAX).contains(&wait)) {
            faults.add_at(&["answer", "waitMs"], format!("`waitMs` must be between 1 and {WAIT_MS_MAX}"));
        }
        let wait = self.wait_ms.map(|wait| Duration::from_millis(u64::from(wait)));
        SourceAnswer { status: self.status, body: self.body, headers: self.headers.into_iter().collect(), wait }
    }
}

/// A path of a source's own.
pub(crate) fn own_path(faults: &mut Faults, path: &str) {
    let parts: Vec<&str> = path.split('/').collect();
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
            && part != "."
            && part != ".."
    };
    let good = path.len() <= PATH_MAX && parts[0].is_empty() && parts.len() > 1 && parts[1..].iter().all(|p| part(p));
    if !good {
        let msg = format!(
            "`path` must be like /hooks/github: at most {PATH_MAX} characters, letters, digits, `-`, `_`, `.` and `~` between slashes"
        );
        faults.add("path", msg);
    } else if RESERVED.contains(&parts[1]) {
        faults.add("path", format!("paths that begin with /{} are the server's own", parts[1]));
    }
}

/// Networks, or single addresses.
pub(crate) fn networks(faults: &mut Faults, field: &str, texts: Vec<String>) -> Vec<ipnet::IpNet> {
    if texts.len() > NETWORKS_MAX {
        faults.add(field, format!("`{field}` must have at most {NETWORKS_MAX} items"));
    }
    let mut networks = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        let address = || text.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from);
        match text.parse::<ipnet::IpNet>().ok().or_else(address) {
            Some(network) => networks.push(network.trunc()),
            None => {
                faults.add_at(&[field, &format!("[{at}]")], "must be a network such as 192.0.2.0/24, or an address")
            }
        }
    }
    networks
}

/// Settings as they are shown: those whose names say so are secrets.
pub(crate) fn conceal(settings: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
    let shown = |(name, value): (&'_ String, &'_ String)| -> bool { !is_secret(name) || value.is_empty() };
    settings
        .iter()
        .map(|(name, value)| (name.as_str(), if shown((name, value)) { value.as_str() } else { CONCEALED }))
        .collect()
}

/// Puts back what was concealed when settings were shown.
pub(crate) fn reveal(settings: &mut BTreeMap<String, String>, old: &BTreeMap<String, String>) {
    for (name, value) in settings.iter_mut().filter(|(name, value)| is_secret(name) && *value == CONCEALED) {
        if let Some(old) = old.get(name) {
            value.clone_from(old);
        }
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["secret", "token", "password", "key"].iter().any(|secret| name.ends_with(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_paths_are_plain_and_not_the_servers() {
        for (path, good) in [
            ("/hooks/github", true),
            ("/h", true),
            ("/a-b_c.d~e/F9", true),
            ("", false),
            ("/", false),
            ("hooks", false),
            ("/hooks/", false),
            ("/a//b", false),
            ("/a/../b", false),
            ("/a b", false),
            ("/a%20b", false),
            ("/a?b", false),
            ("/api/v1/x", false),
            ("/in/x", false),
            ("/metrics", false),
        ] {
            let mut faults = Faults::new();
            own_path(&mut faults, path);
            assert_eq!(faults.end().is_ok(), good, "{path}");
        }
    }
}
