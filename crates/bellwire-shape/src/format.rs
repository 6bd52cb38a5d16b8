//! Formats: a JSON payload written as XML or as a form.
//!
//! **XML.** The root is `<payload>`. A member becomes an element of its name, an array one element of that name for each item, an array
//! without a name (the root, or inside another) `<item>`. `null` is an empty element with `nil="true"`; an empty array leaves nothing.
//! Names keep letters, digits, `-`, `_` and `.`; every other character becomes `_`, and `_` is put before what may not begin a name, or
//! begins with `xml`. Characters that XML cannot hold become U+FFFD.
//!
//! **Form.** `application/x-www-form-urlencoded` in UTF-8: `a=1`, members of members as `a[b]=1`, items as `a[0]=1`, `null` as nothing
//! after the `=`. The payload must be an object; empty objects and arrays leave nothing.

use bellwire_body::Value;
use bellwire_model::Format;
use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use std::borrow::Cow;

/// Names are repeated for each item, so what is written can be far larger than what was accepted.
const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why a payload cannot be written so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// A raw payload, or one that a script made a string of.
    #[error("only a JSON payload can be written as XML or as a form")]
    NotJson,
    /// A form has names.
    #[error("only a JSON object can be written as a form")]
    NotObject,
    /// See [`OUTPUT_BYTES_MAX`].
    #[error("written in this format, the payload has more than {OUTPUT_BYTES_MAX} bytes")]
    TooLarge,
}

/// The payload in `format`, and its media type. `None`: as it is.
pub fn write(format: Format, payload: &[u8]) -> Result<Option<(Vec<u8>, &'static str)>, FormatError> {
    let text = || std::str::from_utf8(bellwire_body::without_mark(payload)).ok();
    // Numbers as they are written: whoever gets another format gets the same digits.
    let parse = || text().and_then(Value::parse_as_written).ok_or(FormatError::NotJson);
    match format {
        Format::Json => Ok(None),
        Format::Xml => Ok(Some((xml(&parse()?)?, media_type(format)))),
        Format::Form => Ok(Some((form(&parse()?)?, media_type(format)))),
    }
}

/// What a format is called in `content-type`, unless the endpoint says otherwise.
pub const fn media_type(format: Format) -> &'static str {
    match format {
        Format::Json => "application/json",
        Format::Xml => "application/xml",
        Format::Form => "application/x-www-form-urlencoded",
    }
}

fn xml(payload: &Value) -> Result<Vec<u8>, FormatError> {
    let mut writer = Writer::new(br#"<?xml version="1.0" encoding="UTF-8"?>"#.to_vec());
    match payload {
        Value::Array(_) => {
            put(&mut writer, Event::Start(BytesStart::new("payload")))?;
            element(&mut writer, "item", payload)?;
            put(&mut writer, Event::End(BytesEnd::new("payload")))?;
        }
        _ => element(&mut writer, "payload", payload)?,
    }
    Ok(writer.into_inner())
}

fn element(writer: &mut Writer<Vec<u8>>, name: &str, value: &Value) -> Result<(), FormatError> {
    if writer.get_ref().len() > OUTPUT_BYTES_MAX {
        return Err(FormatError::TooLarge);
    }
    if let Value::Array(items) = value {
        for item in items {
            match item {
                Value::Array(_) => {
                    // An array of arrays: the inner one is an element of this name with items.
                    put(writer, Event::Start(BytesStart::new(name)))?;
                    element(writer, "item", item)?;
                    put(writer, Event::End(BytesEnd::new(name)))?;
                }
                _ => element(writer, name, item)?,
            }
        }
        return Ok(());
    }
    if *value == Value::Null {
        return put(writer, Event::Empty(BytesStart::new(name).with_attributes([("nil", "true")])));
    }
    put(writer, Event::Start(BytesStart::new(name)))?;
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                element(writer, &xml_name(name), value)?;
            }
        }
        Value::String(text) => put(writer, Event::Text(BytesText::new(&xml_text(text))))?,
        Value::Number(number) => put(writer, Event::Text(BytesText::new(&number.text())))?,
        Value::Bool(value) => put(writer, Event::Text(BytesText::new(if *value { "true" } else { "false" })))?,
        Value::Null | Value::Array(_) => {}
    }
    put(writer, Event::End(BytesEnd::new(name)))
}

/// Into memory, where only too much can go wrong.
fn put(writer: &mut Writer<Vec<u8>>, event: Event<'_>) -> Result<(), FormatError> {
    writer.write_event(event).map_err(|_| FormatError::TooLarge)
}

fn xml_name(name: &str) -> Cow<'_, str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let reserved = name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("xml"));
    if begins && !reserved && name.chars().all(fits) {
        return name.into();
    }
    let kept = name.chars().map(|c| if fits(c) { c } else { '_' });
    let mut safe = String::with_capacity(name.len() + 1);
    // What becomes `_` may begin a name.
    if reserved || !name.starts_with(|c: char| !fits(c) || c.is_ascii_alphabetic() || c == '_') {
        safe.push('_');
    }
    safe.extend(kept);
    safe.into()
}

/// Without what XML 1.0 cannot hold, not even escaped (section 2.2).
fn xml_text(text: &str) -> Cow<'_, str> {
    let fits = |c: char| !matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}');
    if text.chars().all(fits) {
        return text.into();
    }
    text.chars().map(|c| if fits(c) { c } else { '\u{fffd}' }).collect::<String>().into()
}

fn form(payload: &Value) -> Result<Vec<u8>, FormatError> {
    let Value::Object(members) = payload else { return Err(FormatError::NotObject) };
    let mut text = String::new();
    for (name, value) in members {
        pairs(&mut text, name.clone(), value)?;
    }
    Ok(text.into_bytes())
}

fn pairs(text: &mut String, name: String, value: &Value) -> Result<(), FormatError> {
    if text.len() + name.len() > OUTPUT_BYTES_MAX {
        return Err(FormatError::TooLarge);
    }
    let value: Cow<'_, str> = match value {
        Value::Object(members) => {
            return members.iter().try_for_each(|(inner, value)| pairs(text, format!("{name}[{inner}]"), value));
        }
        Value::Array(items) => {
            return items.iter().enumerate().try_for_each(|(at, value)| pairs(text, format!("{name}[{at}]"), value));
        }
        Value::Null => "".into(),
        Value::String(value) => value.as_str().into(),
        Value::Number(number) => number.text(),
        Value::Bool(value) => if *value { "true" } else { "false" }.into(),
    };
    if !text.is_empty() {
        text.push('&');
    }
    text.extend(form_urlencoded::byte_serialize(name.as_bytes()));
    text.push('=');
    text.extend(form_urlencoded::byte_serialize(value.as_bytes()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, payload: &str) -> Result<String, FormatError> {
        let (bytes, _) = write(format, payload.as_bytes())?.expect("another format");
        Ok(String::from_utf8(bytes).expect("UTF-8"))
    }

    #[test]
    fn json_stays_as_it_is() {
        assert_eq!(write(Format::Json, b"not even JSON"), Ok(None));
    }

    #[test]
    fn xml_is_well_formed_whatever_the_payload() {
        let check = |payload: &str, expected: &str| {
            let found = written(Format::Xml, payload).expect(payload);
            let found = found.strip_prefix(r#"<?xml version="1.0" encoding="UTF-8"?>"#).expect("a declaration");
            assert_eq!(found, expected, "{payload}");
        };
        check(r#"{"a":1,"b":{"c":true,"d":null}}"#, r#"<payload><a>1</a><b><c>true</c><d nil="true"/></b></payload>"#);
        check(
            r#"{"l":[1,{"x":2},[3,4],[]]}"#,
            "<payload><l>1</l><l><x>2</x></l><l><item>3</item><item>4</item></l><l></l></payload>",
        );
        check(r#"{"n":12345678901234567890.10}"#, "<payload><n>12345678901234567890.10</n></payload>");
        check(r#"[1,"two"]"#, "<payload><item>1</item><item>two</item></payload>");
        check(r#""text""#, "<payload>text</payload>");
        check("{}", "<payload></payload>");
        check(r#"{"e":[]}"#, "<payload></payload>");
        check(
            r#"{"t":"<a href=\"x\">&'</a>]]>"}"#,
            "<payload><t>&lt;a href=&quot;x&quot;&gt;&amp;&apos;&lt;/a&gt;]]&gt;</t></payload>",
        );
        check(
            r#"{"1st name":1,"":2,"xmlns":3,"a b":4,"<!--":5,"é":6,"-x":7}"#,
            "<payload><_1st_name>1</_1st_name><_>2</_><_xmlns>3</_xmlns><a_b>4</a_b><__-->5</__--><_>6</_><_-x>7</_-x></payload>",
        );
        check("{\"t\":\"a\\u0000b\\u001fc\\ufffe\"}", "<payload><t>a\u{fffd}b\u{fffd}c\u{fffd}</t></payload>");
    }

    #[test]
    fn a_form_nests_with_brackets() {
        let check = |payload: &str, expected: &str| assert_eq!(written(Format::Form, payload).as_deref(), Ok(expected));
        check(r#"{"a":1,"b":"x y&z=","n":null,"t":true}"#, "a=1&b=x+y%26z%3D&n=&t=true");
        check(
            r#"{"a":{"b":{"c":1.5}},"l":[1,{"x":"é"}],"e":{},"f":[]}"#,
            "a%5Bb%5D%5Bc%5D=1.5&l%5B0%5D=1&l%5B1%5D%5Bx%5D=%C3%A9",
        );
        check("{}", "");
        assert_eq!(written(Format::Form, "[1]"), Err(FormatError::NotObject));
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        for format in [Format::Xml, Format::Form] {
            assert_eq!(written(format, "<a/>"), Err(FormatError::NotJson));
            let deep = format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500));
            assert_eq!(written(format, &deep), Err(FormatError::NotJson), "beyond what is parsed");
            let wide = format!("{{\"{}\":[{}]}}", "n".repeat(10_000), vec!["1"; 10_000].join(","));
            assert_eq!(written(format, &wide), Err(FormatError::TooLarge));
        }
    }
}
