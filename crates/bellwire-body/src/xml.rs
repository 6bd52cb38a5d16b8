//! XML 1.0 without document types: no entity but the five that XML has, and characters by number.

use crate::fields::Members;
use crate::{DEPTH_MAX, PARTS_MAX, Value};
use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesRef, BytesStart, Event};

/// An element that is open.
struct Open {
    name: String,
    members: Members,
    text: String,
}

impl Open {
    fn value(mut self) -> Value {
        let text = self.text.trim();
        if self.members.is_empty() {
            return Value::String(text.to_owned());
        }
        if !text.is_empty() {
            let text = text.to_owned();
            self.members.add("#text".to_owned(), Value::String(text));
        }
        self.members.object()
    }
}

/// The text as an object with its root; `None` if it is no XML, or too much of it.
pub(crate) fn value(text: &str) -> Option<Value> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    walk(text, |step| {
        let done = match step {
            Step::Start(start) => {
                if root.is_some() {
                    return None;
                }
                open.push(opened(start)?);
                return Some(());
            }
            Step::Text(text) => {
                match open.last_mut() {
                    Some(last) => last.text.push_str(text),
                    None if text.trim_start_matches('\u{feff}').trim().is_empty() => {}
                    None => return None,
                }
                return Some(());
            }
            Step::End => open.pop()?,
        };
        let name = done.name.clone();
        match open.last_mut() {
            Some(above) => above.members.add(name, done.value()),
            None => root = Some(Value::Object([(name, done.value())].into_iter().collect())),
        }
        Some(())
    })?;
    root.filter(|_| open.is_empty())
}

/// What is found of an element that is looked for by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Element {
    /// Its text.
    Found(String),
    /// There is none.
    Missing,
    /// It stands several times.
    Several,
}

/// The text of the one element of this name, prefix and all, wherever it stands; `None` if the body is no XML.
pub fn element(body: &[u8], name: &str) -> Option<Element> {
    let text = std::str::from_utf8(body).ok()?;
    // Whether it stands in one that is open: how deep, and its text.
    let mut inside: Option<(usize, String)> = None;
    let mut found = Element::Missing;
    walk(text, |step| {
        match (step, &mut inside) {
            (Step::Start(start), None) if start.name().as_ref() == name => inside = Some((1, String::new())),
            (Step::Start(_), Some((depth, _))) => *depth += 1,
            (Step::Text(more), Some((1, text))) => text.push_str(more),
            (Step::End, Some((1, text))) => {
                found = match found {
                    Element::Missing => Element::Found(text.trim().to_owned()),
                    Element::Found(_) | Element::Several => Element::Several,
                };
                inside = None;
            }
            (Step::End, Some((depth, _))) => *depth -= 1,
            _ => {}
        }
        Some(())
    })?;
    Some(found)
}

enum Step<'s> {
    Start(&'s BytesStart<'s>),
    Text(&'s str),
    End,
}

/// Goes through a text; ends with `None` where it is no XML, is too much, or `each` says so.
fn walk(text: &str, mut each: impl FnMut(Step<'_>) -> Option<()>) -> Option<()> {
    let mut reader = Reader::from_str(text);
    let (mut depth, mut parts) = (0_usize, 0_usize);
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                (depth, parts) = (depth + 1, parts + 1);
                if depth > DEPTH_MAX || parts > PARTS_MAX {
                    return None;
                }
                each(Step::Start(&start))?;
            }
            Event::Empty(start) => {
                parts += 1;
                if parts > PARTS_MAX || depth == DEPTH_MAX {
                    return None;
                }
                each(Step::Start(&start))?;
                each(Step::End)?;
            }
            Event::End(_) => {
                depth = depth.checked_sub(1)?;
                each(Step::End)?;
            }
            Event::Text(text) => each(Step::Text(&text.xml10_content()))?,
            Event::CData(text) => each(Step::Text(&text.xml10_content()))?,
            Event::GeneralRef(reference) => each(Step::Text(&resolved(&reference)?))?,
            Event::DocType(_) => return None,
            Event::Comment(_) | Event::PI(_) | Event::Decl(_) => {}
            Event::Eof => return (depth == 0).then_some(()),
        }
    }
}

fn resolved(reference: &BytesRef<'_>) -> Option<String> {
    if let Some(character) = reference.resolve_char_ref().ok()? {
        return Some(character.to_string());
    }
    let text = match &*reference.xml10_content() {
        "amp" => "&",
        "lt" => "<",
        "gt" => ">",
        "quot" => "\"",
        "apos" => "'",
        _ => return None,
    };
    Some(text.to_owned())
}

fn opened(start: &BytesStart<'_>) -> Option<Open> {
    let mut members = Members::default();
    let mut count = 0;
    for attribute in start.attributes() {
        let attribute = attribute.ok()?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let value = attribute.normalized_value(XmlVersion::Explicit1_0).ok()?;
        count += 1;
        if count > PARTS_MAX {
            return None;
        }
        let name = format!("-{}", attribute.key.local_name().as_ref());
        members.add(name, Value::String(value.into_owned()));
    }
    Some(Open { name: start.local_name().as_ref().to_owned(), members, text: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        value(text)?.to_json()
    }

    #[test]
    fn elements_attributes_and_text_are_told_apart() {
        let check = |text: &str, expected: &str| assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        check("<a/>", r#"{"a":""}"#);
        check("<?xml version=\"1.0\"?>\n<a> x <!-- no --> y </a>\n", r#"{"a":"x  y"}"#);
        check("<a b='1' c='&lt;&#233;'>t</a>", r##"{"a":{"-b":"1","-c":"<é","#text":"t"}}"##);
        check("<a><b>1</b><c/><b>2</b></a>", r#"{"a":{"b":["1","2"],"c":""}}"#);
        check(
            "<s:E xmlns:s='urn:x' s:k='v'><s:B>&amp;&#x41;<![CDATA[<x>]]></s:B></s:E>",
            r#"{"E":{"-k":"v","B":"&A<x>"}}"#,
        );
        check("<n>12345678901234567890.10</n>", r#"{"n":"12345678901234567890.10"}"#);
    }

    #[test]
    fn what_is_no_xml_or_brings_entities_or_is_too_much_is_not_read() {
        for text in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><b/>",
            "<a/>x",
            "<a>&nbsp;</a>",
            "<a>&#0;</a>",
            "<a b='1' b='2'/>",
            "<a b='&x;'/>",
            "<!DOCTYPE a><a/>",
            "<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><a>&x;</a>",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let deep = |count: usize| format!("{}{}", "<a>".repeat(count), "</a>".repeat(count));
        assert!(read(&deep(DEPTH_MAX)).is_some() && read(&deep(DEPTH_MAX + 1)).is_none());
        let wide = |count: usize| format!("<a>{}</a>", "<b/>".repeat(count - 1));
        assert!(read(&wide(PARTS_MAX)).is_some() && read(&wide(PARTS_MAX + 1)).is_none());
    }

    #[test]
    fn an_element_is_found_by_its_name_wherever_it_stands() {
        let check =
            |text: &str, expected: Option<Element>| assert_eq!(element(text.as_bytes(), "Id"), expected, "{text}");
        check("<a><Id> 7 </Id></a>", Some(Element::Found("7".into())));
        check("<a><Id x='1'>7&amp;<b>no</b></Id></a>", Some(Element::Found("7&".into())));
        check("<a><Ids>7</Ids></a>", Some(Element::Missing));
        check("<a><Id>7</Id><b><Id>8</Id></b></a>", Some(Element::Several));
        check("<a><!-- <Id>7</Id> --></a>", Some(Element::Missing));
        check("<a>", None);
    }
}
