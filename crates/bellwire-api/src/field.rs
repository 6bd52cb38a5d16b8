//! What the fields of a body must be like. Faults are collected, so that a client hears of all of them at once.

use crate::error::{Error, Fault};
use crate::wire::Patch;
use bellwire_model::{Metadata, RetrySchedule};
use http::HeaderName;
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

const UID_MAX: usize = 256;
const CHANNELS_MAX: usize = 10;
const CHANNEL_MAX: usize = 128;
const TAGS_MAX: usize = 5;
const TAG_MAX: usize = 128;
const EVENT_TYPE_MAX: usize = 256;
const METADATA_BYTES_MAX: usize = 4_096;
const HEADERS_MAX: usize = 64;
const HEADER_VALUE_MAX: usize = 4_096;

/// Names that we set ourselves, or that belong to one hop.
const HEADERS_REFUSED: [&str; 22] = [
    "user-agent",
    "keep-alive",
    "te",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
    "age",
    "cache-control",
    "clear-site-data",
    "expires",
    "pragma",
    "warning",
    "content-length",
    "content-type",
    "content-encoding",
    "content-language",
    "content-location",
    // Beyond Svix's list: these would break the request itself.
    "host",
    "connection",
    "trailer",
];
const HEADER_PREFIXES_REFUSED: [&str; 10] = [
    "x-amz-", "x-amzn-", "x-google", "x-goog-", "x-gfe", "x-azure-", "x-fd-", "x-svix-", "svix-",
    // Beyond Svix's list: what the receiver verifies must be ours alone.
    "webhook-",
];

/// Faults found so far, and where in the body we are.
#[derive(Default)]
pub(crate) struct Faults {
    inside: Vec<String>,
    found: Vec<Fault>,
}

impl Faults {
    /// Of the whole body.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Of an object at `path` in the body.
    pub(crate) fn inside(path: &[&str]) -> Self {
        Faults { inside: path.iter().map(|&part| part.to_owned()).collect(), found: Vec::new() }
    }

    /// Notes a fault of a field.
    pub(crate) fn add(&mut self, field: &str, msg: impl Into<String>) {
        self.add_at(&[field], msg);
    }

    /// Notes a fault further down.
    pub(crate) fn add_at(&mut self, path: &[&str], msg: impl Into<String>) {
        let inside = self.inside.iter().map(String::as_str);
        let loc: Vec<&str> = std::iter::once("body").chain(inside).chain(path.iter().copied()).collect();
        self.found.push(Fault::new(&loc, msg));
    }

    /// A fault of this list of channels, tags or event types.
    fn add_item(&mut self, field: &str, at: usize, msg: impl Into<String>) {
        self.add_at(&[field, &format!("[{at}]")], msg);
    }

    /// Ends the check.
    ///
    /// # Errors
    /// 422 with all that was found.
    pub(crate) fn end(self) -> Result<(), Error> {
        if self.found.is_empty() { Ok(()) } else { Err(Error::Invalid(self.found)) }
    }

    /// A field that must be there.
    pub(crate) fn required<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            self.add(field, format!("`{field}` is required"));
        }
        value
    }

    pub(crate) fn uid(&mut self, field: &str, uid: Option<&str>, own_prefix: &str) {
        let Some(uid) = uid else { return };
        if uid.is_empty() || uid.len() > UID_MAX {
            self.add(field, format!("`{field}` must have 1 to {UID_MAX} characters"));
        } else if !uid.bytes().all(is_name) {
            self.add(field, format!("`{field}` may only hold letters, digits, `-`, `_` and `.`"));
        } else if uid.starts_with(own_prefix) {
            self.add(field, format!("`{field}` must not begin with `{own_prefix}`, which ids begin with"));
        }
    }

    /// Control characters that no terminal or page should be given.
    pub(crate) fn printable(&mut self, field: &str, text: &str) {
        if text.bytes().any(|b| b <= 8) {
            self.add(field, "Control characters 0x00-0x08 not allowed.");
        }
    }

    pub(crate) fn metadata(&mut self, metadata: &Metadata) {
        let bytes = serde_json::to_vec(metadata).map_or(usize::MAX, |json| json.len());
        if bytes > METADATA_BYTES_MAX {
            self.add("metadata", format!("`metadata` must be at most {METADATA_BYTES_MAX} bytes as JSON, not {bytes}"));
        }
    }

    /// From the field's own name or its old one.
    pub(crate) fn throttle_rate(&mut self, rate: Option<u16>, old: Option<u16>) -> Option<NonZeroU16> {
        let (field, rate) = match rate {
            Some(rate) => ("throttleRate", rate),
            None => ("rateLimit", old?),
        };
        let valid = NonZeroU16::new(rate);
        if valid.is_none() {
            self.add(field, format!("`{field}` must be at least 1 (per second); leave it out for no limit"));
        }
        valid
    }

    /// Changes a rate, from the field's own name or its old one.
    pub(crate) fn patch_throttle_rate(&mut self, slot: &mut Option<NonZeroU16>, rate: Patch<u16>, old: Patch<u16>) {
        match (rate, old) {
            (Patch::Keep, old) => old.apply(slot, |rate| self.throttle_rate(None, Some(rate))),
            (rate, _) => rate.apply(slot, |rate| self.throttle_rate(Some(rate), None)),
        }
    }

    /// Changes a uid.
    pub(crate) fn patch_uid(&mut self, slot: &mut Option<String>, uid: Patch<String>, own_prefix: &str) {
        uid.apply(slot, |uid| {
            self.uid("uid", Some(&uid), own_prefix);
            Some(uid)
        });
    }

    pub(crate) fn event_type_name(&mut self, field: &str, name: &str) {
        if let Some(msg) = event_type_fault(name) {
            self.add(field, format!("`{field}` {msg}"));
        }
    }

    /// A set of event types; that they exist is not checked here.
    pub(crate) fn event_types(&mut self, field: &str, types: Option<&[String]>) {
        let Some(types) = types else { return };
        self.set(field, types);
        for (at, name) in types.iter().enumerate() {
            if let Some(msg) = event_type_fault(name) {
                self.add_item(field, at, format!("an event type {msg}"));
            }
        }
    }

    pub(crate) fn channels(&mut self, channels: Option<&[String]>) {
        let Some(channels) = channels else { return };
        if channels.len() > CHANNELS_MAX {
            self.add("channels", format!("`channels` must have at most {CHANNELS_MAX} items"));
        }
        self.set("channels", channels);
        for (at, channel) in channels.iter().enumerate() {
            if let Some(msg) = channel_fault(channel) {
                self.add_item("channels", at, msg);
            }
        }
    }

    pub(crate) fn tags(&mut self, tags: Option<&[String]>) {
        let Some(tags) = tags else { return };
        if tags.len() > TAGS_MAX {
            self.add("tags", format!("`tags` must have at most {TAGS_MAX} items"));
        }
        self.set("tags", tags);
        for (at, tag) in tags.iter().enumerate() {
            if let Some(msg) = tag_fault(tag) {
                self.add_item("tags", at, msg);
            }
        }
    }

    /// No item twice.
    fn set(&mut self, field: &str, items: &[String]) {
        if items.len() < 2 {
            return;
        }
        let mut seen = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            if let Some(first) = seen.insert(item.as_str(), at) {
                self.add_item(field, at, format!("is the same as item {first}; items must be unique"));
            }
        }
    }

    pub(crate) fn headers<'a>(&mut self, headers: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) {
        let mut seen = BTreeMap::new();
        for (name, value) in headers {
            if let Some(msg) = header_name(name) {
                self.add_at(&["headers", name], msg);
            }
            if seen.insert(name.to_ascii_lowercase(), ()).is_some() {
                self.add_at(&["headers", name], "is there twice; header names do not differ by case");
            }
            if let Some(msg) = value.and_then(header_value) {
                self.add_at(&["headers", name], msg);
            }
        }
    }

    /// How many headers an endpoint may have.
    pub(crate) fn header_count(&mut self, count: usize) {
        if count > HEADERS_MAX {
            self.add("headers", format!("an endpoint can have at most {HEADERS_MAX} headers, not {count}"));
        }
    }

    pub(crate) fn retry_schedule(&mut self, seconds: Option<&[u64]>) -> Option<RetrySchedule> {
        match RetrySchedule::new(seconds?.iter().copied().map(Duration::from_secs).collect()) {
            Ok(schedule) => Some(schedule),
            Err(error) => {
                self.add("retrySchedule", error.to_string());
                None
            }
        }
    }
}

/// Letters, digits, `-`, `_` and `.`.
pub(crate) fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// What is wrong with a channel.
pub(crate) fn channel_fault(text: &str) -> Option<String> {
    let good = (1..=CHANNEL_MAX).contains(&text.len()) && text.bytes().all(|b| is_name(b) || matches!(b, b':' | b'+'));
    (!good).then(|| format!("a channel has 1 to {CHANNEL_MAX} letters, digits, `-`, `_`, `.`, `:` and `+`"))
}

/// What is wrong with a tag.
pub(crate) fn tag_fault(text: &str) -> Option<String> {
    let good =
        (1..=TAG_MAX).contains(&text.len()) && text.bytes().all(|b| is_name(b) || matches!(b, b'/' | b'\\' | b'#'));
    (!good).then(|| format!(r"a tag has 1 to {TAG_MAX} letters, digits, `-`, `_`, `.`, `/`, `\` and `#`"))
}

/// What is wrong with an event type's name; for whoever is given one by another way than the API.
pub fn event_type_fault(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > EVENT_TYPE_MAX {
        return Some(format!("must have 1 to {EVENT_TYPE_MAX} characters"));
    }
    (!name.bytes().all(is_name)).then(|| "may only hold letters, digits, `-`, `_` and `.`".to_owned())
}

/// What is wrong with a header that an endpoint is to have; for whoever brings one by another way than the API.
pub fn header_fault(name: &str, value: &str) -> Option<String> {
    header_name(name).or_else(|| header_value(value))
}

/// What is wrong with a header's name.
pub(crate) fn header_name(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Some("is not a header name: letters, digits and !#$%&'*+-.^_`|~ only".to_owned());
    }
    if HEADERS_REFUSED.contains(&lower.as_str()) {
        return Some(format!("`{lower}` is set by the server and cannot be chosen"));
    }
    HEADER_PREFIXES_REFUSED
        .iter()
        .find(|prefix| lower.starts_with(**prefix))
        .map(|prefix| format!("names that begin with `{prefix}` are reserved"))
}

/// What is wrong with a header's value.
pub(crate) fn header_value(value: &str) -> Option<String> {
    if value.len() > HEADER_VALUE_MAX {
        return Some(format!("the value must have at most {HEADER_VALUE_MAX} bytes, not {}", value.len()));
    }
    // What is beyond ASCII, receivers read differently, or not at all.
    let printable = value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b));
    (!printable).then(|| "the value may only hold printable ASCII characters, spaces and tabs".to_owned())
}

/// Whether a header's value is not shown to who reads the endpoint.
pub(crate) fn is_sensitive(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    matches!(lower.as_str(), "authorization" | "x-auth-token" | "x-api-key" | "www-authenticate")
        || lower.starts_with("proxy-auth")
}
