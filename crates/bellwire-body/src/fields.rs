//! Fields of forms, of either kind.

use crate::{Kind, PARTS_MAX, Value, multipart};
use indexmap::IndexMap;
use std::borrow::Cow;

/// The fields of a form or a multipart body, in order and without files; none of what is neither, or has more than [`PARTS_MAX`].
pub fn fields<'b>(content_type: &str, body: &'b [u8]) -> Vec<(Cow<'b, str>, Cow<'b, str>)> {
    match Kind::of(content_type) {
        Kind::Form => {
            let fields: Vec<_> = form_urlencoded::parse(body).take(PARTS_MAX + 1).collect();
            if fields.len() > PARTS_MAX { Vec::new() } else { fields }
        }
        Kind::Multipart => {
            let parts = multipart::parts(content_type, body).unwrap_or_default();
            let texts = parts.into_iter().filter(|part| part.file.is_none()).filter_map(|part| {
                let text = String::from_utf8(part.bytes.into()).ok()?;
                Some((Cow::Owned(part.name), Cow::Owned(text)))
            });
            texts.collect()
        }
        Kind::Xml | Kind::Other => Vec::new(),
    }
}

/// A form as an object; `None` if it has too many fields: what is beyond would be seen by some and not by others.
pub(crate) fn form(text: &str) -> Option<Value> {
    let mut members = Members::default();
    for (at, (name, value)) in form_urlencoded::parse(text.as_bytes()).enumerate() {
        if at == PARTS_MAX {
            return None;
        }
        members.add(name.into_owned(), Value::String(value.into_owned()));
    }
    Some(members.object())
}

/// Names with one value or several.
#[derive(Default)]
pub(crate) struct Members(IndexMap<String, Vec<Value>>);

impl Members {
    pub(crate) fn add(&mut self, name: String, value: Value) {
        self.0.entry(name).or_default().push(value);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An object, with a list for a name that has several values.
    pub(crate) fn object(self) -> Value {
        let one = |mut values: Vec<Value>| match values.len() {
            1 => values.remove(0),
            _ => Value::Array(values),
        };
        Value::Object(self.0.into_iter().map(|(name, values)| (name, one(values))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";

    #[test]
    fn a_form_with_too_many_fields_is_not_read() {
        let body = |count: usize| "a=1&".repeat(count);
        assert_eq!(fields(FORM, body(PARTS_MAX).as_bytes()).len(), PARTS_MAX);
        assert!(crate::json(FORM, body(PARTS_MAX).as_bytes()).is_some());
        assert_eq!(fields(FORM, body(PARTS_MAX + 1).as_bytes()), []);
        assert_eq!(crate::json(FORM, body(PARTS_MAX + 1).as_bytes()), None);
    }

    #[test]
    fn a_multipart_body_with_too_many_parts_is_not_read() {
        let part = "--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n";
        let nameless = "--x\r\ncontent-disposition: form-data\r\n\r\n1\r\n";
        let body = |part: &str, count: usize| format!("{}--x--\r\n", part.repeat(count));
        let read = |body: &str| crate::json("multipart/form-data; boundary=x", body.as_bytes()).is_some();
        assert!(read(&body(part, PARTS_MAX)) && !read(&body(part, PARTS_MAX + 1)));
        assert!(!read(&body(nameless, PARTS_MAX + 1)), "nameless ones count, too");
    }
}
