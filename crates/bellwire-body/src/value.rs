//! A tree of a JSON text that keeps every digit.

use crate::number::{Number, may_be_long};
use crate::{DEPTH_MAX, is_json};
use indexmap::IndexMap;
use json_event_parser::{JsonEvent, SliceJsonParser};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;

/// A value.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A string.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// An object, in the order of its text. Of members with the same name the last counts.
    Object(IndexMap<String, Value>),
}

impl Value {
    /// Reads a JSON text; `None` if it is none, or nested too deep.
    pub fn parse(json: &str) -> Option<Value> {
        if may_be_long(json) {
            return long(json, false);
        }
        serde_json::from_str(json).ok()
    }

    /// The same with every number as it is written, where [`Value::parse`] takes `1.50` for `1.5`.
    pub fn parse_as_written(json: &str) -> Option<Value> {
        long(json, true)
    }

    /// As JSON. `None` only if memory ends.
    pub fn to_json(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }
}

/// What is open while a text is read.
enum Open {
    Array(Vec<Value>),
    Object(IndexMap<String, Value>, String),
}

/// Reads a text whose numbers are longer than serde's can be.
fn long(json: &str, as_written: bool) -> Option<Value> {
    // What is JSON is decided at one place.
    if !is_json(json) {
        return None;
    }
    let mut parser = SliceJsonParser::new(json.as_bytes());
    let mut open: Vec<Open> = Vec::new();
    loop {
        let value = match parser.parse_next().ok()? {
            JsonEvent::StartArray | JsonEvent::StartObject if open.len() == DEPTH_MAX => return None,
            JsonEvent::StartArray => {
                open.push(Open::Array(Vec::new()));
                continue;
            }
            JsonEvent::StartObject => {
                open.push(Open::Object(IndexMap::new(), String::new()));
                continue;
            }
            JsonEvent::ObjectKey(name) => {
                if let Some(Open::Object(_, next)) = open.last_mut() {
                    *next = name.into_owned();
                }
                continue;
            }
            JsonEvent::EndArray | JsonEvent::EndObject => match open.pop()? {
                Open::Array(items) => Value::Array(items),
                Open::Object(members, _) => Value::Object(members),
            },
            JsonEvent::String(text) => Value::String(text.into_owned()),
            JsonEvent::Number(text) => Value::Number(Number::parse(&text, as_written)),
            JsonEvent::Boolean(value) => Value::Bool(value),
            JsonEvent::Null => Value::Null,
            JsonEvent::Eof => return None,
        };
        match open.last_mut() {
            None => return Some(value),
            Some(Open::Array(items)) => items.push(value),
            Some(Open::Object(members, next)) => drop(members.insert(std::mem::take(next), value)),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(number) => number.serialize(serializer),
            Value::String(text) => serializer.serialize_str(text),
            Value::Array(items) => serializer.collect_seq(items),
            Value::Object(members) => serializer.collect_map(members),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    /// Of a text without numbers that `f64` does not hold.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(Number::Int(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(i64::try_from(value).map_or(Number::Uint(value), Number::Int)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(Number::Double(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = IndexMap::new();
        while let Some((name, value)) = members.next_entry()? {
            all.insert(name, value);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_says_what_its_text_said() {
        for text in [
            r#"{"b":1,"a":[null,true,"x\n",{"":-7}],"n":12345678901234567890.10,"big":123456789012345678901234567890,"e":1e400}"#,
            r#"[1,2.5,"a",{}]"#,
            "12345678901234567890123",
            "\"\"",
        ] {
            let value = Value::parse(text).expect(text);
            assert_eq!(value.to_json().as_deref(), Some(text));
            assert_eq!(Value::parse_as_written(text).expect(text).to_json().as_deref(), Some(text));
        }
        let written = Value::parse_as_written(r#"[1.50,-0,1E5]"#).expect("JSON");
        assert_eq!(written.to_json().as_deref(), Some("[1.50,-0,1E5]"));
    }

    #[test]
    fn both_ways_of_reading_say_the_same() {
        for text in [
            r#"{"a":1,"a":[2,{"x":false}],"s":"\u00e9\ud83d\ude00\/","t":"\t"}"#,
            "[ ]",
            " {\n} ",
            r#"[-1,0,1.25,1e5,"1e5"]"#,
            "[1,]",
            "{\"a\" 1}",
            "[01]",
            "[1] x",
            "\"\\ud800\"",
            "nul",
            "",
            "[.5]",
            "[+1]",
            "\"\u{1}\"",
        ] {
            assert_eq!(serde_json::from_str::<Value>(text).ok(), long(text, false), "{text}");
        }
    }

    #[test]
    fn what_is_nested_too_deep_is_not_read() {
        for count in [127, 129, 200_000] {
            let text = format!("{}1234567890123456789.5{}", "[".repeat(count), "]".repeat(count));
            assert_eq!(Value::parse(&text).is_some(), count < 128, "{count}");
        }
    }
}
