//! What a body says: one parsed form of it, for all who look into bodies.
//!
//! Verifiers, trigger rules, event types, dedupe keys, filters and plugins each see a request's body as JSON, whatever it came as,
//! and each must see the same: what one has checked, another acts upon. [`json`] makes that text; [`Value`] is a tree of it that
//! keeps every digit of every number. The bytes themselves are kept and passed on as they came; nothing here changes them.
//!
//! Pure, and bounded: what is nested deeper than [`DEPTH_MAX`], or has more than [`PARTS_MAX`] parts, is not looked into.

mod fields;
mod multipart;
mod number;
mod value;
mod xml;

pub use fields::fields;
pub use number::{Number, compare, is_exact, may_be_long};
pub use value::Value;
pub use xml::{Element, element};

use std::borrow::Cow;

/// Objects, lists and elements are nested at most so deep.
pub const DEPTH_MAX: usize = 128;
/// A form has at most so many fields, an XML text so many elements and attributes.
pub const PARTS_MAX: usize = 16_384;

/// How a body is written, as its media type has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `multipart/form-data`.
    Multipart,
    /// `application/xml`, `text/xml`, and what ends in `+xml`.
    Xml,
    /// Everything else: JSON if it is JSON, whatever it calls itself.
    Other,
}

impl Kind {
    /// Of a `content-type`.
    pub fn of(content_type: &str) -> Kind {
        let media = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| media.eq_ignore_ascii_case(name);
        if is("application/x-www-form-urlencoded") {
            Kind::Form
        } else if is("multipart/form-data") {
            Kind::Multipart
        } else if is("application/xml") || is("text/xml") || media.to_ascii_lowercase().ends_with("+xml") {
            Kind::Xml
        } else {
            Kind::Other
        }
    }
}

/// Without the byte-order mark that some senders put before their JSON. RFC 8259 §8.1.
pub fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)
}

/// The body as a JSON text; `None` if it is none and cannot become one: then it is text, or bytes.
///
/// JSON is itself, without a byte-order mark before it. A form is an object of its fields, with a list for a name that comes twice; unless it is a JSON object or
/// list, as some senders post it without saying so. Of a multipart body a field is a string, or what its JSON says if it is called
/// `application/json`; a file is an object of `filename`, `contentType`, `size` and `content`, or `contentBase64` if it is no text.
/// An XML text is an object with the root element: an element is its text, or, with attributes or elements in it, an object of `-name`
/// for attributes, names without their prefix for elements (a list if one comes several times) and `#text` for text. An XML text with a
/// document type is not looked into.
pub fn json<'b>(content_type: &str, body: &'b [u8]) -> Option<Cow<'b, str>> {
    let kind = Kind::of(content_type);
    if kind == Kind::Multipart {
        return multipart::value(content_type, body)?.to_json().map(Cow::Owned);
    }
    let text = std::str::from_utf8(body).ok()?;
    let unmarked = text.strip_prefix('\u{feff}').unwrap_or(text);
    match kind {
        Kind::Xml => xml::value(text)?.to_json().map(Cow::Owned),
        Kind::Form if !is_json_inside(unmarked) => fields::form(text)?.to_json().map(Cow::Owned),
        _ => is_json(unmarked).then_some(Cow::Borrowed(unmarked)),
    }
}

/// The same as bytes for who finds out by itself whether it is JSON: a body that is nothing else is not read, only a byte-order mark left out.
pub fn json_or_raw<'b>(content_type: &str, body: &'b [u8]) -> Cow<'b, [u8]> {
    if Kind::of(content_type) == Kind::Other {
        return Cow::Borrowed(without_mark(body));
    }
    match json(content_type, body) {
        Some(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
        Some(Cow::Borrowed(text)) => Cow::Borrowed(text.as_bytes()),
        None => Cow::Borrowed(body),
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Whether what calls itself a form is JSON.
fn is_json_inside(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[']) && is_json(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_what_it_says_it_is() {
        let check = |content_type: &str, body: &str, expected: Option<&str>| {
            assert_eq!(json(content_type, body.as_bytes()).as_deref(), expected, "{content_type}: {body}");
        };
        let number = r#"{"n":12345678901234567890.10}"#;
        for content_type in ["application/json", "text/plain", "", "application/x-www-form-urlencoded"] {
            check(content_type, number, Some(number));
        }
        check(
            "Application/X-WWW-Form-Urlencoded; charset=utf-8",
            "a=1&b=x+y&a=2&n",
            Some(r#"{"a":["1","2"],"b":"x y","n":""}"#),
        );
        check("application/x-www-form-urlencoded", "{\"a\"", Some(r#"{"{\"a\"":""}"#));
        check("text/plain", "a=1", None);
        check("application/soap+xml", "<a>1</a>", Some(r#"{"a":"1"}"#));
        check("text/plain", "<a>1</a>", None);
        check("application/xml", "<a>", None);
        assert_eq!(json("application/xml", b"<a>\xff</a>"), None);
        assert_eq!(json("application/json", b"\xff"), None);
    }

    #[test]
    fn json_behind_a_byte_order_mark_is_json() {
        let body = "\u{feff}{\"n\":1}".as_bytes();
        for content_type in ["application/json", "text/plain", "", "application/x-www-form-urlencoded"] {
            assert_eq!(json(content_type, body).as_deref(), Some(r#"{"n":1}"#), "{content_type}");
            assert_eq!(&*json_or_raw(content_type, body), br#"{"n":1}"#, "{content_type}");
        }
        assert_eq!(json("application/json", "\u{feff}\u{feff}1".as_bytes()), None, "one is a mark, two are not");
    }

    #[test]
    fn what_is_only_json_is_not_read_for_who_reads_it_anyway() {
        assert!(matches!(json_or_raw("application/json", b"{}"), Cow::Borrowed(b"{}")));
        assert_eq!(&*json_or_raw("text/xml", b"<a/>"), br#"{"a":""}"#);
        assert_eq!(&*json_or_raw("text/xml", b"<a"), b"<a");
    }
}
