//! Fields of forms, of either kind.

use crate::{Kind, PARTS_MAX, Value, multipart};
use indexmap::IndexMap;
use std::borrow::Cow;

/// The fields of a form or a multipart body, in order and without files; none of what is neither.
pub fn fields<'b>(content_type: &str, body: &'b [u8]) -> Vec<(Cow<'b, str>, Cow<'b, str>)> {
    match Kind::of(content_type) {
        Kind::Form => form_urlencoded::parse(body).take(PARTS_MAX).collect(),
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

/// A form as an object.
pub(crate) fn form(text: &str) -> Value {
    let mut members = Members::default();
    for (name, value) in form_urlencoded::parse(text.as_bytes()).take(PARTS_MAX) {
        members.add(name.into_owned(), Value::String(value.into_owned()));
    }
    members.object()
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
