//! What a plugin is given of a message: one view for all kinds, by paths for templates and as JSON for code.
//!
//! A path names a part of the event: `id`, `payload.repository.name`, `payload.commits[0].id`, `headers.x-github-event`,
//! `payload["dotted.name"]`, `payload.form_field[json].id`. Values of the payload are found in its text, not in a tree made of it: numbers keep all their
//! digits, and what is not asked for is not built.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bellwire_model::{AttemptNumber, KeptHeaders, Message, Received};
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

/// A message on its way into a plugin.
pub struct Event<'a> {
    message: &'a Message,
    attempt: AttemptNumber,
    id: String,
    /// The payload as JSON text, or `None` if it is not one.
    json: OnceCell<Option<Cow<'a, str>>>,
}

/// A part of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// JSON that is not a string: a number, true, false, null, a list, an object.
    Json(Cow<'a, str>),
}

impl Found<'_> {
    /// As text stands in a template: strings bare, `null` as nothing, the rest as JSON.
    pub(crate) fn text(&self) -> &str {
        match self {
            Found::Text(text) => text,
            Found::Json(text) if text == "null" => "",
            Found::Json(text) => text,
        }
    }
}

/// The first word of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Root {
    Id,
    EventId,
    Type,
    Source,
    Time,
    Method,
    Path,
    Query,
    Headers,
    Payload,
    ContentType,
    Remote,
    Dedupe,
    Attempt,
    Channels,
    Tags,
    /// The payload as a file; for programs only.
    File,
    /// How many messages a digest is made of, and their list; for notifications only.
    Count,
    List,
}

impl Root {
    const ALL: [(&'static str, Root); 19] = [
        ("id", Root::Id),
        ("eventId", Root::EventId),
        ("type", Root::Type),
        ("source", Root::Source),
        ("time", Root::Time),
        ("method", Root::Method),
        ("path", Root::Path),
        ("query", Root::Query),
        ("headers", Root::Headers),
        ("payload", Root::Payload),
        ("contentType", Root::ContentType),
        ("remote", Root::Remote),
        ("dedupe", Root::Dedupe),
        ("attempt", Root::Attempt),
        ("channels", Root::Channels),
        ("tags", Root::Tags),
        ("file", Root::File),
        ("count", Root::Count),
        ("list", Root::List),
    ];
}

/// Names a part of an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Path {
    pub(crate) root: Root,
    steps: Vec<String>,
    /// What is there is a text of JSON, and these steps lead on inside of it; and so on.
    inside: Vec<Vec<String>>,
}

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// What is wrong with it, as a clause.
    pub(crate) fn parse(text: &str) -> Result<Path, String> {
        let end = text.find(['.', '[']).unwrap_or(text.len());
        let (first, mut rest) = text.split_at(end);
        let Some((_, root)) = Root::ALL.iter().find(|(name, _)| *name == first) else {
            return Err(format!(
                "no part of an event is called {first:?}; there are id, type, source, time, method, path, query, headers, \
                 payload, contentType, remote, attempt, channels, tags, eventId and dedupe"
            ));
        };
        let (mut steps, mut inside) = (Vec::new(), Vec::<Vec<String>>::new());
        while !rest.is_empty() {
            let step;
            if let Some(quoted) = rest.strip_prefix("[\"") {
                (step, rest) = quoted.split_once("\"]").ok_or_else(|| format!("{text:?} lacks a closing \"]"))?;
            } else if let Some(index) = rest.strip_prefix('[') {
                (step, rest) = index.split_once(']').ok_or_else(|| format!("{text:?} lacks a closing ]"))?;
                if step == "json" && matches!(root, Root::Payload | Root::Query | Root::Headers) {
                    inside.push(Vec::new());
                    continue;
                }
                if step.parse::<usize>().is_err() {
                    return Err(format!("{step:?} in {text:?} is not a place in a list; a name stands in [\"…\"]"));
                }
            } else if let Some(name) = rest.strip_prefix('.') {
                let end = name.find(['.', '[']).unwrap_or(name.len());
                (step, rest) = name.split_at(end);
                if step.is_empty() || step.contains(|c: char| c.is_whitespace() || c.is_control()) {
                    return Err(format!("{text:?} has an empty or broken name between its dots"));
                }
            } else {
                return Err(format!("{rest:?} in {text:?} is neither .name nor [place]"));
            }
            inside.last_mut().unwrap_or(&mut steps).push(step.to_owned());
        }
        let takes_steps = matches!(root, Root::Payload | Root::Query | Root::Headers | Root::Channels | Root::Tags);
        if !steps.is_empty() && !takes_steps {
            return Err(format!("{first:?} has no parts"));
        }
        Ok(Path { root: *root, steps, inside })
    }
}

impl<'a> Event<'a> {
    /// The event of an attempt.
    pub fn new(message: &'a Message, attempt: AttemptNumber) -> Self {
        Event { message, attempt, id: message.id.to_string(), json: OnceCell::new() }
    }

    /// The message's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its event type.
    pub fn event_type(&self) -> &str {
        &self.message.event_type
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> AttemptNumber {
        self.attempt
    }

    /// The source's id, or nothing for what came by the API.
    pub fn source(&self) -> String {
        self.received().map_or_else(String::new, |received| received.source.to_string())
    }

    /// Under which repetitions of it are known: what told the received request from others, the sender's own id, or the message's.
    pub fn dedupe(&self) -> &str {
        let received = self.received().and_then(|received| received.dedupe.as_deref());
        received.or(self.message.event_id.as_deref()).unwrap_or(&self.id)
    }

    /// By how many servers like this one the message had been passed on when it was received here, if it was.
    pub(crate) fn hops(&self) -> Option<u8> {
        self.received().map(|received| received.hops)
    }

    /// The message itself.
    #[cfg(feature = "wasm")]
    pub(crate) fn message(&self) -> &'a Message {
        self.message
    }

    fn received(&self) -> Option<&'a Received> {
        self.message.received.as_deref()
    }

    /// The payload; empty once expired, which no attempt sees.
    pub fn payload(&self) -> &'a [u8] {
        self.message.payload.as_deref().unwrap_or_default()
    }

    /// The same, without copying.
    pub(crate) fn payload_bytes(&self) -> Bytes {
        self.message.payload.clone().unwrap_or_default()
    }

    /// The payload's media type.
    pub(crate) fn content_type(&self) -> &str {
        self.message.content_type.as_str()
    }

    /// The payload as JSON text, as everybody sees it who looks into bodies.
    fn json(&self) -> Option<&str> {
        let message = self.message;
        let made = self.json.get_or_init(|| {
            bellwire_body::json(message.content_type.as_str(), message.payload.as_deref().unwrap_or_default())
        });
        made.as_deref()
    }

    /// What a path names; `None` if there is no such part.
    pub(crate) fn find(&self, path: &Path) -> Option<Found<'_>> {
        let found = self.find_outside(path)?;
        path.inside.iter().try_fold(found, |found, steps| found_inside(found, steps))
    }

    fn find_outside(&self, path: &Path) -> Option<Found<'_>> {
        let text = |text: &'a str| Some(Found::Text(Cow::Borrowed(text)));
        let owned = |text: String| Some(Found::Text(Cow::Owned(text)));
        match path.root {
            Root::Id => Some(Found::Text(Cow::Borrowed(&self.id))),
            Root::EventId => text(self.message.event_id.as_deref()?),
            Root::Type => text(&self.message.event_type),
            Root::Source => owned(self.received()?.source.to_string()),
            Root::Dedupe => Some(Found::Text(Cow::Borrowed(self.dedupe()))),
            Root::Time => owned(self.message.sequence().time().to_string()),
            Root::Method => text(&self.received()?.method),
            Root::Path => text(&self.received()?.path),
            Root::ContentType => text(self.message.content_type.as_str()),
            Root::Remote => owned(self.received()?.remote?.to_string()),
            Root::Attempt => Some(Found::Json(self.attempt.to_string().into())),
            Root::Channels => listed(&self.message.channels, &path.steps),
            Root::Tags => listed(&self.message.tags, &path.steps),
            Root::Query => Pairs::parse(self.received()?.query.as_deref().unwrap_or_default()).find(&path.steps),
            Root::Headers => {
                let headers = &self.received()?.headers;
                match path.steps.as_slice() {
                    [] => Some(Found::Json(serde_json::to_string(&Headers(headers)).ok()?.into())),
                    [name] => {
                        headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).and_then(|(_, value)| text(value))
                    }
                    _ => None,
                }
            }
            Root::Payload if path.steps.is_empty() && path.inside.is_empty() => {
                match std::str::from_utf8(bellwire_body::without_mark(self.payload())) {
                    Ok(payload) => text(payload),
                    Err(_) => owned(BASE64_STANDARD.encode(self.payload())),
                }
            }
            Root::Payload => {
                let json = self.json()?;
                let steps = match path.steps.split_first() {
                    // A list has no members; as adnanh's, whose hooks are taken over.
                    Some((first, rest)) if first == "root" && json.trim_start().starts_with('[') => rest,
                    _ => &path.steps,
                };
                found_in(json, steps)
            }
            Root::File | Root::Count | Root::List => None,
        }
    }
}

/// A list of texts, or one of them.
fn listed<'a>(all: &'a [String], steps: &[String]) -> Option<Found<'a>> {
    match steps {
        [] => Some(Found::Json(serde_json::to_string(all).ok()?.into())),
        [place] => all.get(place.parse::<usize>().ok()?).map(|text| Found::Text(text.into())),
        _ => None,
    }
}

/// Steps down into JSON text without building it.
fn found_in<'a>(json: &'a str, steps: &[String]) -> Option<Found<'a>> {
    let mut at = json;
    for step in steps {
        at = serde_json::Deserializer::from_str(at).deserialize_any(Step(step)).ok()??.get();
    }
    let at = at.trim();
    if at.starts_with('"') {
        return serde_json::from_str::<String>(at).ok().map(|text| Found::Text(text.into()));
    }
    Some(Found::Json(at.into()))
}

/// Steps down into what is JSON in a text, or in a file of a multipart body. A text that is none has no parts.
fn found_inside<'a>(found: Found<'a>, steps: &[String]) -> Option<Found<'a>> {
    let owned = |found: Found<'_>| match found {
        Found::Text(text) => Found::Text(Cow::Owned(text.into_owned())),
        Found::Json(text) => Found::Json(Cow::Owned(text.into_owned())),
    };
    match found {
        Found::Text(text) if serde_json::from_str::<IgnoredAny>(&text).is_ok() => found_in(&text, steps).map(owned),
        Found::Text(text) => steps.is_empty().then_some(Found::Text(text)),
        Found::Json(text) => {
            let member = |name: &str| found_in(&text, &[name.to_owned()]);
            match (member("filename"), member("content")) {
                (Some(_), Some(Found::Text(content))) => found_inside(Found::Text(content), steps).map(owned),
                _ => found_in(&text, steps).map(owned),
            }
        }
    }
}

/// One member of an object, or one item of a list. Of members with the same name the last counts, as everywhere.
struct Step<'s>(&'s str);

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Same(self.0))? {
            if is_it {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let place = self.0.parse::<usize>().ok();
        let mut found = None;
        let mut at = 0;
        loop {
            if Some(at) == place {
                found = items.next_element()?;
                if found.is_none() {
                    return Ok(None);
                }
            } else if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            at += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Whether a key is the one that is looked for.
struct Same<'s>(&'s str);

impl<'de> DeserializeSeed<'de> for Same<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Same<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

/// Fields of a query, in order; a name that comes twice has a list.
struct Pairs<'a>(Vec<(Cow<'a, str>, Vec<Cow<'a, str>>)>);

impl<'a> Pairs<'a> {
    fn parse(text: &'a str) -> Self {
        let mut pairs: Vec<(Cow<'a, str>, Vec<Cow<'a, str>>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            match pairs.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => values.push(value),
                None => pairs.push((name, vec![value])),
            }
        }
        Pairs(pairs)
    }

    fn find(self, steps: &[String]) -> Option<Found<'a>> {
        match steps {
            [] => Some(Found::Json(serde_json::to_string(&self).ok()?.into())),
            [name] => {
                let (_, values) = self.0.into_iter().find(|(known, _)| known == name)?;
                values.into_iter().next().map(Found::Text)
            }
            [name, place] => {
                let (_, values) = self.0.into_iter().find(|(known, _)| known == name)?;
                values.into_iter().nth(place.parse().ok()?).map(Found::Text)
            }
            _ => None,
        }
    }
}

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, values) in &self.0 {
            match values.as_slice() {
                [one] => map.serialize_entry(name, one)?,
                many => map.serialize_entry(name, many)?,
            }
        }
        map.end()
    }
}

/// An object of headers; one that comes several times is joined by commas, RFC 9110 §5.3.
struct Headers<'a>(&'a KeptHeaders);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut joined: Vec<(String, Cow<'_, str>)> = Vec::with_capacity(self.0.len());
        for (name, value) in self.0.iter() {
            let name = name.to_ascii_lowercase();
            match joined.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => *values = format!("{values}, {value}").into(),
                None => joined.push((name, value.into())),
            }
        }
        serializer.collect_map(joined)
    }
}

impl Serialize for Event<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("eventId", &self.message.event_id)?;
        map.serialize_entry("type", &self.message.event_type)?;
        map.serialize_entry("time", &self.message.sequence().time().to_string())?;
        map.serialize_entry("attempt", &self.attempt)?;
        map.serialize_entry("channels", &self.message.channels)?;
        map.serialize_entry("tags", &self.message.tags)?;
        map.serialize_entry("contentType", self.message.content_type.as_str())?;
        map.serialize_entry("dedupe", self.dedupe())?;
        if let Some(received) = self.received() {
            map.serialize_entry("source", &received.source.to_string())?;
            map.serialize_entry("method", &received.method)?;
            map.serialize_entry("path", &received.path)?;
            map.serialize_entry("remote", &received.remote)?;
            map.serialize_entry("query", &Pairs::parse(received.query.as_deref().unwrap_or_default()))?;
            map.serialize_entry("headers", &Headers(&received.headers))?;
        } else {
            map.serialize_entry("query", &Pairs(Vec::new()))?;
            map.serialize_entry("headers", &Headers(&KeptHeaders::default()))?;
        }
        match self.json() {
            // Checked to be JSON when it was made.
            Some(json) => {
                let payload = serde_json::from_str::<&RawValue>(json).map_err(serde::ser::Error::custom)?;
                // For languages whose numbers are doubles.
                if bellwire_body::may_be_long(json) {
                    map.serialize_entry("payloadText", json)?;
                }
                map.serialize_entry("payload", payload)?;
            }
            None => match std::str::from_utf8(self.payload()) {
                Ok(text) => map.serialize_entry("payload", text)?,
                Err(_) => {
                    map.serialize_entry("payload", &())?;
                    map.serialize_entry("payloadBase64", &BASE64_STANDARD.encode(self.payload()))?;
                }
            },
        }
        map.end()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bellwire_model::{ApplicationKey, ContentType, MessageId, Sequence, SourceId, Timestamp};

    /// A message with this payload, for all tests of this crate.
    pub(crate) fn message(payload: impl AsRef<[u8]>, content_type: &str) -> Message {
        let sequence = Sequence::first_at(Timestamp::from_seconds(1_760_000_000));
        Message {
            id: MessageId::from_parts(sequence, [7; 12]),
            application: ApplicationKey(1),
            event_type: "push".to_owned(),
            event_id: Some("d-1".to_owned()),
            channels: vec!["north".to_owned()],
            tags: Vec::new(),
            payload: Some(payload.as_ref().to_vec().into()),
            content_type: match content_type {
                "application/json" => ContentType::Json,
                other => ContentType::Other(other.to_owned()),
            },
            transformations_params: None,
            received: None,
            trace: None,
            expires_at: Timestamp::FAR_FUTURE,
            deliver_at: None,
        }
    }

    /// The same, received at a source.
    pub(crate) fn received(payload: impl AsRef<[u8]>) -> Message {
        let received = Received {
            source: SourceId::from_parts(Sequence::first_at(Timestamp::from_seconds(1_760_000_000)), [7; 12]),
            method: "POST".to_owned(),
            path: "/in/x".to_owned(),
            query: Some("a=1&b=2&a=%C3%A9".to_owned()),
            headers: [("x-github-event", "push"), ("accept", "a"), ("accept", "b")].into_iter().collect(),
            remote: Some([192, 0, 2, 7].into()),
            hops: 0,
            dedupe: None,
        };
        Message { received: Some(received.into()), ..message(payload, "application/json") }
    }

    const PAYLOAD: &str = r#"{"n":12345678901234567890.10,"repository":{"name":"caf\u00e9","a.b":[{"id":7},{"id":8}]},
        "none":null,"again":1,"again":2,"yes":true}"#;

    #[test]
    fn a_path_leads_to_its_part() {
        let message = received(PAYLOAD);
        let event = Event::new(&message, 3);
        let check = |path: &str, expected: Option<&str>| {
            let found = event.find(&Path::parse(path).unwrap_or_else(|error| panic!("{path}: {error}")));
            assert_eq!(found.as_ref().map(|found| found.text()), expected, "{path}");
        };
        check("payload.n", Some("12345678901234567890.10"));
        check("payload.repository.name", Some("café"));
        check("payload.repository[\"a.b\"][1].id", Some("8"));
        check("payload.repository[\"a.b\"][1]", Some(r#"{"id":8}"#));
        check("payload.repository[\"a.b\"][2].id", None);
        check("payload.repository.name.deeper", None);
        check("payload.none", Some(""));
        check("payload.again", Some("2"));
        check("payload.missing.deep", None);
        check("payload", Some(PAYLOAD));
        check("payload.missing[json].x", None);
        check("headers.X-GitHub-Event", Some("push"));
        check("headers.missing", None);
        check("headers", Some(r#"{"x-github-event":"push","accept":"a, b"}"#));
        check("query.a", Some("1"));
        check("query.a[1]", Some("é"));
        check("query", Some(r#"{"a":["1","é"],"b":"2"}"#));
        check("type", Some("push"));
        check("eventId", Some("d-1"));
        check("remote", Some("192.0.2.7"));
        check("dedupe", Some("d-1"));
        check("path", Some("/in/x"));
        check("attempt", Some("3"));
        check("channels[0]", Some("north"));
        check("channels", Some(r#"["north"]"#));
        check("time", Some("2025-10-09T08:53:20.000000Z"));
    }

    #[test]
    fn a_broken_path_says_what_is_wrong() {
        for (path, expected) in [
            ("", "no part"),
            ("body.x", "no part of an event is called \"body\""),
            ("payload..x", "empty or broken"),
            ("payload.", "empty or broken"),
            ("payload[x]", "not a place"),
            ("payload[\"x]", "lacks a closing"),
            ("payload[1", "lacks a closing"),
            ("payload[1]x", "neither"),
            ("id.x", "has no parts"),
        ] {
            let error = Path::parse(path).expect_err(path);
            assert!(error.contains(expected), "{path}: {error}");
        }
    }

    #[test]
    fn a_text_of_json_has_parts_for_who_asks() {
        let check = |payload: &str, content_type: &str, path: &str, expected: Option<&str>| {
            let message = message(payload.as_bytes(), content_type);
            let event = Event::new(&message, 1);
            let found = event.find(&Path::parse(path).unwrap_or_else(|error| panic!("{path}: {error}")));
            assert_eq!(found.as_ref().map(|found| found.text()), expected, "{path}");
        };
        const FORM: &str = "application/x-www-form-urlencoded";
        let form = "payload=%7B%22ref%22%3A%22main%22%2C%22n%22%3A12345678901234567890.10%2C%22deep%22%3A%22%5B7%5D%22%7D&plain=x";
        check(form, FORM, "payload.payload[json].ref", Some("main"));
        check(form, FORM, "payload.payload[json].n", Some("12345678901234567890.10"));
        check(form, FORM, "payload.payload[json].deep[json][0]", Some("7"));
        check(form, FORM, "payload.payload[json].gone", None);
        check(form, FORM, "payload.payload.ref", None);
        check(form, FORM, "payload.plain[json]", Some("x"));
        check(form, FORM, "payload.plain[json].ref", None);
        check(r#"{"a":"\"quoted\"","o":{"b":1}}"#, "application/json", "payload.a[json]", Some("quoted"));
        check(r#"{"o":{"b":1}}"#, "application/json", "payload.o[json].b", Some("1"));
        let file = "--x\r\ncontent-disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\n{\"id\":5}\r\n--x--";
        check(file, "multipart/form-data; boundary=x", "payload.f[json].id", Some("5"));
        check("b=2&a=1.50", FORM, "payload", Some("b=2&a=1.50"));
        check("b=2&a=1.50", FORM, "payload[json]", Some(r#"{"b":"2","a":"1.50"}"#));
        check("b=2&a=1.50", FORM, "payload[json].a", Some("1.50"));
        check("<x y='1'><z>2</z></x>", "text/xml", "payload[json]", Some(r#"{"x":{"-y":"1","z":"2"}}"#));
        check(r#"{"a": 1.50}"#, "application/json", "payload[json]", Some(r#"{"a": 1.50}"#));
        check(r#"[{"id":1},{"id":2}]"#, "application/json", "payload.root[1].id", Some("2"));
        check(r#"[{"id":1}]"#, "application/json", "payload.root", Some(r#"[{"id":1}]"#));
        check(r#"{"root":{"id":3}}"#, "application/json", "payload.root.id", Some("3"));
        assert!(Path::parse("type[json]").is_err());
    }

    #[test]
    fn a_payload_is_given_as_what_it_is() {
        let check = |payload: &[u8], content_type: &str, expected: &str| {
            let message = message(payload, content_type);
            let text = serde_json::to_string(&Event::new(&message, 1)).expect("serialises");
            assert!(text.ends_with(&format!("{expected}}}")), "{text}");
        };
        check(PAYLOAD.as_bytes(), "application/json", &format!("\"payload\":{PAYLOAD}"));
        check(b"a=1&b=x+y&a=2", "application/x-www-form-urlencoded", r#""payload":{"a":["1","2"],"b":"x y"}"#);
        check(b"<a><b>1</b></a>", "application/xml", r#""payload":{"a":{"b":"1"}}"#);
        check(b"<!DOCTYPE a><a/>", "application/xml", r#""payload":"<!DOCTYPE a><a/>""#);
        let part = b"--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--";
        check(part, "multipart/form-data; boundary=x", r#""payload":{"a":"1"}"#);
        check(&[0xff, 0], "application/octet-stream", r#""payload":null,"payloadBase64":"/wA=""#);
    }
}
