//! A message as a filter sees it.

use bellwire_body::Value;
use bellwire_model::{ContentType, Message};
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
    content_type: &'m str,
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
        Candidate {
            event_type,
            event_id,
            channels,
            tags,
            payload,
            content_type: "application/json",
            parsed: OnceCell::new(),
        }
    }

    /// The same, with the payload's media type: forms, multipart bodies and XML are read as what they are.
    #[must_use]
    pub fn typed(mut self, content_type: &'m ContentType) -> Self {
        self.content_type = content_type.as_str();
        self
    }

    /// A message that was accepted before; `None` if its payload is gone.
    pub fn of(message: &'m Message) -> Option<Self> {
        let Message { event_type, event_id, channels, tags, payload, content_type, .. } = message;
        Some(Self::new(event_type, event_id.as_deref(), channels, tags, payload.as_deref()?).typed(content_type))
    }

    /// The payload as JSON, as [`bellwire_body::json`] has it. What is none is a string of its text, with U+FFFD for what is no text.
    pub(crate) fn payload(&self) -> &Value {
        self.parsed.get_or_init(|| {
            let json = bellwire_body::json(self.content_type, self.payload);
            json.and_then(|text| Value::parse(&text))
                .unwrap_or_else(|| Value::String(String::from_utf8_lossy(self.payload).into_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(candidate: &Candidate<'_>) -> Option<String> {
        candidate.payload().to_json()
    }

    #[test]
    fn a_form_is_an_object_only_if_it_says_so() {
        let payload = b"From=%2B1555&Body=a+b&Media=1&Media=2&Media=3&n";
        let candidate = || Candidate::new("a", None, &[], &[], payload);
        let form = ContentType::Other("Application/X-WWW-Form-Urlencoded; charset=utf-8".into());
        let expected = r#"{"From":"+1555","Body":"a b","Media":["1","2","3"],"n":""}"#;
        assert_eq!(seen(&candidate().typed(&form)).as_deref(), Some(expected));
        for other in [ContentType::Json, ContentType::Other("text/plain".into())] {
            assert_eq!(
                candidate().typed(&other).payload(),
                &Value::String(String::from_utf8_lossy(payload).into_owned())
            );
        }
    }

    #[test]
    fn xml_and_multipart_bodies_are_objects() {
        let check = |content_type: &str, payload: &str, expected: &str| {
            let content_type = ContentType::Other(content_type.into());
            let candidate = Candidate::new("a", None, &[], &[], payload.as_bytes()).typed(&content_type);
            assert_eq!(seen(&candidate).as_deref(), Some(expected));
        };
        check("text/xml; charset=utf-8", "<a><b>1</b></a>", r#"{"a":{"b":"1"}}"#);
        check("text/xml", "<!DOCTYPE a><a/>", r#""<!DOCTYPE a><a/>""#);
        let part = "--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--";
        check("multipart/form-data; boundary=x", part, r#"{"a":"1"}"#);
    }
}
