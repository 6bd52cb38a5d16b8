//! Which event a request is about, so that the same one is not taken twice; and of what type it is.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};

use super::field::{Field, Scope};

/// A recipe has at most so many alternatives for one thing.
const ALTERNATIVES_MAX: usize = 16;

/// A key's text, and an event type, has at most so many bytes.
const TEXT_BYTES_MAX: usize = 256;

/// What two requests have in common that are about the same event.
///
/// Within one source; another source's keys are other keys.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DedupeKey {
    hash: [u8; 32],
    text: String,
}

impl DedupeKey {
    /// SHA-256 over the key's parts, each with its name and length before it: `("ab", "c")` is not `("a", "bc")`.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The sender's own id of the event, to be shown; of a long or compound one, the beginning.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for DedupeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DedupeKey({})", self.text)
    }
}

/// Where both stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Identity {
    dedupe: Vec<Alternative>,
    event_type: Vec<Alternative>,
}

type Alternative = Vec<Part>;

#[derive(Clone, Debug, PartialEq)]
struct Part {
    field: Field,
    /// The field as recipes write it.
    name: String,
    is_optional: bool,
}

impl Part {
    fn new(field: Field, is_optional: bool) -> Part {
        Part { name: field.to_string(), field, is_optional }
    }
}

impl Identity {
    /// Reads the alternatives of both; what is wrong comes with the name of the list and the place in it.
    pub(crate) fn parse(dedupe: &[String], event_type: &[String]) -> Result<Identity, Vec<(String, String)>> {
        let mut faults = Vec::new();
        let mut list = |name: &str, texts: &[String]| {
            if texts.len() > ALTERNATIVES_MAX {
                faults.push((name.to_owned(), format!("there may be {ALTERNATIVES_MAX} alternatives")));
            }
            let mut alternatives = Vec::new();
            for (at, text) in texts.iter().enumerate() {
                match alternative(text) {
                    Ok(alternative) => alternatives.push(alternative),
                    Err(fault) => faults.push((format!("{name}[{at}]"), fault)),
                }
            }
            alternatives
        };
        let mut identity = Identity { dedupe: list("dedupe", dedupe), event_type: list("event_type", event_type) };
        for name in ["webhook-id", "Idempotency-Key"] {
            identity.dedupe.push(vec![Part::new(Field::Header(name.to_owned()), false)]);
        }
        if faults.is_empty() { Ok(identity) } else { Err(faults) }
    }

    /// The headers of the first alternative.
    pub(crate) fn dedupe_headers(&self) -> impl Iterator<Item = &str> {
        self.dedupe.first().into_iter().flatten().filter_map(|part| match &part.field {
            Field::Header(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The first alternative of which every part is there. Without one the request is nobody's duplicate.
    pub(crate) fn dedupe_key(&self, scope: &Scope<'_>) -> Option<DedupeKey> {
        self.dedupe.iter().find_map(|alternative| {
            let parts = parts(alternative, scope)?;
            let mut hash = Sha256::new();
            let mut update = |bytes: &[u8]| {
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            };
            for (part, values) in alternative.iter().zip(&parts) {
                update(part.name.as_bytes());
                update(&(values.len() as u64).to_be_bytes());
                values.iter().for_each(|value| update(value.as_bytes()));
            }
            let text = match parts.as_slice() {
                [values] if values.len() == 1 => values[0].to_string(),
                parts => parts.iter().flatten().map(Cow::as_ref).collect::<Vec<_>>().join(" "),
            };
            Some(DedupeKey { hash: hash.finalize().into(), text: shortened(text) })
        })
    }

    /// The first alternative that is there, its parts joined with dots.
    pub(crate) fn event_type(&self, scope: &Scope<'_>) -> Option<String> {
        self.event_type.iter().find_map(|alternative| {
            let parts = parts(alternative, scope)?;
            let texts = parts.iter().filter_map(|values| values.first()).map(Cow::as_ref);
            let texts: Vec<&str> = texts.filter(|text| !text.is_empty()).collect();
            Some(texts.join(".")).filter(|name| !name.is_empty() && name.len() <= TEXT_BYTES_MAX)
        })
    }
}

fn alternative(text: &str) -> Result<Alternative, String> {
    let fields: Alternative = text
        .split(" + ")
        .map(|field| {
            let (name, optional) = field.strip_suffix('?').map_or((field, false), |name| (name, true));
            Field::parse(name).map(|field| Part::new(field, optional))
        })
        .collect::<Result<_, _>>()?;
    if fields.iter().all(|part| part.is_optional) {
        return Err("one field at least must be there without `?`".to_owned());
    }
    Ok(fields)
}

/// A part that is empty, or that cannot be read, is not there: nothing must be taken for a duplicate by mistake.
fn parts<'a>(alternative: &Alternative, scope: &Scope<'a>) -> Option<Vec<Vec<Cow<'a, str>>>> {
    alternative
        .iter()
        .map(|part| {
            let values = part.field.texts(scope).unwrap_or_default();
            let is_there = !values.is_empty() && values.iter().all(|value| !value.is_empty());
            match (is_there, part.is_optional) {
                (true, _) => Some(values),
                (false, true) => Some(Vec::new()),
                (false, false) => None,
            }
        })
        .collect()
}

fn shortened(mut text: String) -> String {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::request::ReceivedRequest;

    fn identify(
        dedupe: &[&str],
        event_type: &[&str],
        headers: &[(&str, &str)],
        body: &str,
    ) -> (Option<DedupeKey>, Option<String>) {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let identity = Identity::parse(&own(dedupe), &own(event_type)).expect("an identity");
        let headers: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let request = ReceivedRequest {
            method: "POST",
            scheme: "",
            host: "",
            path_and_query: "/",
            headers: &headers,
            body: body.as_bytes(),
            body_type: None,
        };
        let scope = Scope { request, json: request.body, url: None, list: None, proven: b"{}" };
        (identity.dedupe_key(&scope), identity.event_type(&scope))
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let key = |body: &str| identify(&["json:a + json:b"], &[], &[], body).0.expect("a key").hash();
        assert_ne!(key(r#"{"a":"ab","b":"c"}"#), key(r#"{"a":"a","b":"bc"}"#));
        assert_eq!(key(r#"{"a":"ab","b":"c"}"#), key(r#"{"b":"c","a":"ab","x":1}"#));
        let many = |body: &str| identify(&["json:*.a + json:*.b"], &[], &[], body).0.expect("a key").hash();
        assert_ne!(many(r#"[{"a":"1","b":"2"},{"a":"3","b":"4"}]"#), many(r#"[{"a":"1","b":"3"},{"a":"2","b":"4"}]"#));
    }

    #[test]
    fn a_missing_part_makes_no_key() {
        for body in ["{}", r#"{"a":"x"}"#, r#"{"a":"x","b":""}"#, r#"{"a":"x","b":null}"#, "<a/>", ""] {
            assert_eq!(identify(&["json:a + json:b"], &[], &[], body).0, None, "{body}");
        }
        assert_eq!(identify(&["json:*.id"], &[], &[], r#"[{"id":"1"},{}]"#).0, None);
        assert_eq!(identify(&["json:*.id"], &[], &[], "[]").0, None);
    }

    #[test]
    fn the_first_alternative_that_is_there_counts() {
        let headers = [("Webhook-Id", "w"), ("idempotency-key", "i"), ("X-B", "b")];
        let text = |dedupe: &[&str], headers: &[(&str, &str)]| {
            identify(dedupe, &[], headers, "").0.map(|key| key.text().to_owned())
        };
        assert_eq!(text(&["header:X-A", "header:X-B"], &headers).as_deref(), Some("b"));
        assert_eq!(text(&["header:X-A"], &headers).as_deref(), Some("w"));
        assert_eq!(text(&[], &headers[1..]).as_deref(), Some("i"));
        assert_eq!(text(&[], &headers[2..]), None);
    }

    #[test]
    fn long_numbers_are_different_keys() {
        let key = |body: &str| identify(&["json:id"], &[], &[], body).0.expect("a key").hash();
        assert_ne!(key(r#"{"id":123456789012345678901}"#), key(r#"{"id":123456789012345678902}"#));
    }

    #[test]
    fn event_types_are_put_together_with_dots() {
        let name =
            |body: &str| identify(&[], &["header:X-Event + json:action?", "json:type"], &[("X-Event", "pull")], body).1;
        assert_eq!(name(r#"{"action":"opened"}"#).as_deref(), Some("pull.opened"));
        assert_eq!(name("{}").as_deref(), Some("pull"));
        assert_eq!(identify(&[], &["json:type"], &[], r#"{"type":"a.b"}"#).1.as_deref(), Some("a.b"));
        assert_eq!(identify(&[], &["json:type"], &[], r#"{"type":""}"#).1, None);
        assert_eq!(identify(&[], &["json:type"], &[], &format!(r#"{{"type":"{}"}}"#, "x".repeat(300))).1, None);
    }

    #[test]
    fn faults_name_their_place() {
        let faults = Identity::parse(&["json:a".into(), "nope".into()], &["json:a?".into()]).expect_err("two faults");
        assert_eq!(faults.iter().map(|(place, _)| place.as_str()).collect::<Vec<_>>(), ["dedupe[1]", "event_type[0]"]);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let key = identify(&["json:id"], &[], &[], &format!(r#"{{"id":"x{}"}}"#, "é".repeat(200))).0.expect("a key");
        assert_eq!(key.text().len(), 255);
    }
}
