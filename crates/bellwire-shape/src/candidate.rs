//! A message as a filter sees it.

use bellwire_model::{ContentType, Message};
use serde_json::{Map, Value};
use std::cell::OnceCell;

/// What a filter may ask about a message. The payload is parsed at most once, and only when a filter asks for it.
#[derive(Debug)]
pub struct Candidate<'m> {
    /// Its event type.
    pub event_type: &'m str,
    /// Its sender's own id for it.
    pub event_id: Option<&'m str>,
    /// Channels it was sent on.
    pub channels: &'m [String],
    /// Its tags.
    pub tags: &'m [String],
    payload: &'m [u8],
    /// The payload is a form.
    form: bool,
    parsed: OnceCell<Value>,
}

impl<'m> Candidate<'m> {
    /// A message that is about to be accepted.
    pub fn new(
        event_type: &'m str,
        event_id: Option<&'m str>,
        channels: &'m [String],
        tags: &'m [String],
        payload: &'m [u8],
    ) -> Self {
        Candidate { event_type, event_id, channels, tags, payload, form: false, parsed: OnceCell::new() }
    }

    /// The same, with the payload's media type: a form is read as one.
    #[must_use]
    pub fn typed(mut self, content_type: &ContentType) -> Self {
        let media = content_type.as_str().split(';').next().unwrap_or_default().trim();
        self.form = media.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        self
    }

    /// A message that was accepted before; `None` if its payload is gone.
    pub fn of(message: &'m Message) -> Option<Self> {
        let Message { event_type, event_id, channels, tags, payload, content_type, .. } = message;
        Some(Self::new(event_type, event_id.as_deref(), channels, tags, payload.as_deref()?).typed(content_type))
    }

    /// The payload as JSON: a form as an object, with a list for a name that comes twice. What is neither is a string of its text, with U+FFFD for what is no text.
    pub(crate) fn payload(&self) -> &Value {
        self.parsed.get_or_init(|| {
            if self.form {
                return form(self.payload);
            }
            serde_json::from_slice(self.payload)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(self.payload).into_owned()))
        })
    }
}

/// So many fields of a form are looked at; the rest is as if it were not there.
const FIELDS_MAX: usize = 4_096;

fn form(text: &[u8]) -> Value {
    let mut fields = Map::new();
    for (name, value) in form_urlencoded::parse(text).take(FIELDS_MAX) {
        let value = Value::String(value.into_owned());
        match fields.get_mut(&*name) {
            None => drop(fields.insert(name.into_owned(), value)),
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_form_is_an_object_only_if_it_says_so() {
        let payload = b"From=%2B1555&Body=a+b&Media=1&Media=2&Media=3&n";
        let candidate = || Candidate::new("a", None, &[], &[], payload);
        let form = ContentType::Other("Application/X-WWW-Form-Urlencoded; charset=utf-8".into());
        let expected = json!({ "From": "+1555", "Body": "a b", "Media": ["1", "2", "3"], "n": "" });
        assert_eq!(candidate().typed(&form).payload(), &expected);
        for other in [ContentType::Json, ContentType::Other("text/plain".into())] {
            assert_eq!(candidate().typed(&other).payload(), &json!(String::from_utf8_lossy(payload)));
        }
    }
}
