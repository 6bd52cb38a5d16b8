//! One value out of a JSON text, without building the rest and without reading numbers.
//!
//! A number is given as it is written: two ids that differ in their twentieth digit stay different. A name that stands
//! twice in an object that is looked into is a fault: two readers might each see another value.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, value::RawValue};

/// A path has at most so many steps.
const STEPS_MAX: usize = 16;

/// `*` stands for at most so many values.
pub(crate) const VALUES_MAX: usize = 1_000;

/// Where in a JSON text: names or indices with dots between, such as `data.items.0.id`; `*` is every item of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path(Vec<String>);

/// Why nothing can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonFault {
    /// It is not JSON, or a name stands twice where we look.
    NotJson,
    /// `*` stands for more than [`VALUES_MAX`] values.
    TooMany,
}

impl Path {
    pub(crate) fn parse(text: &str) -> Option<Path> {
        let steps: Vec<String> = text.split('.').map(str::to_owned).collect();
        (steps.len() <= STEPS_MAX && steps.iter().all(|step| !step.is_empty())).then_some(Path(steps))
    }

    /// Whether it can stand for more than one value.
    pub(crate) fn is_many(&self) -> bool {
        self.0.iter().any(|step| step == "*")
    }

    pub(crate) fn as_text(&self) -> String {
        self.0.join(".")
    }

    /// Puts a value there, and objects where there is nothing on the way. `false` if something else is in the way.
    pub(crate) fn set(&self, root: &mut Value, new: Value) -> bool {
        let mut at = root;
        for step in &self.0 {
            if at.is_null() {
                *at = Value::Object(serde_json::Map::new());
            }
            let next = match at {
                Value::Object(members) => Some(members.entry(step).or_insert(Value::Null)),
                Value::Array(items) => step.parse().ok().and_then(|at: usize| items.get_mut(at)),
                _ => None,
            };
            let Some(next) = next else { return false };
            at = next;
        }
        *at = new;
        true
    }

    /// The paths of every single value that this one stands for.
    pub(crate) fn expanded(&self, root: &Value) -> Vec<Path> {
        let mut found: Vec<(Path, &Value)> = vec![(Path(Vec::new()), root)];
        for step in &self.0 {
            let mut next = Vec::new();
            for (path, value) in found {
                let below =
                    |step: &str| Path(path.0.iter().map(String::as_str).chain([step]).map(str::to_owned).collect());
                match value {
                    Value::Array(items) if step == "*" => {
                        next.extend(items.iter().enumerate().map(|(at, item)| (below(&at.to_string()), item)));
                    }
                    Value::Array(items) => {
                        let item = step.parse().ok().and_then(|at: usize| items.get(at));
                        next.extend(item.map(|item| (below(step), item)));
                    }
                    Value::Object(members) => next.extend(members.get(step).map(|value| (below(step), value))),
                    _ => {}
                }
            }
            found = next;
        }
        found.into_iter().map(|(path, _)| path).collect()
    }

    /// This path, below another.
    pub(crate) fn below(&self, above: &Path) -> Path {
        Path(above.0.iter().chain(&self.0).cloned().collect())
    }

    /// The values at this path. Where a part of it is not there, even under one of several items, there is none: a
    /// list with a hole in it would be taken for another list.
    pub(crate) fn find<'a>(&self, json: &'a [u8]) -> Result<Vec<&'a RawValue>, JsonFault> {
        let (first, rest) = self.0.split_first().ok_or(JsonFault::NotJson)?;
        let mut found = if first == "*" {
            let root: &'a RawValue = serde_json::from_slice(json).map_err(|_| JsonFault::NotJson)?;
            items(root)?.unwrap_or_default()
        } else {
            // The whole text is read once, whatever is looked for.
            let mut root = serde_json::Deserializer::from_slice(json);
            let found = root.deserialize_any(Pick(first)).and_then(|found| root.end().map(|()| found));
            found.map_err(|_| JsonFault::NotJson)?.into_iter().collect()
        };
        for step in rest {
            let mut next = Vec::new();
            for value in found {
                let values = if step == "*" { items(value)? } else { child(value, step)?.map(|value| vec![value]) };
                let Some(values) = values else { return Ok(Vec::new()) };
                next.extend(values);
                if next.len() > VALUES_MAX {
                    return Err(JsonFault::TooMany);
                }
            }
            found = next;
        }
        if found.len() > VALUES_MAX {
            return Err(JsonFault::TooMany);
        }
        Ok(found)
    }

    /// The one value's text; `None` if it is not there, or neither string, number nor boolean.
    pub(crate) fn text<'a>(&self, json: &'a [u8]) -> Result<Option<Cow<'a, str>>, JsonFault> {
        Ok(self.find(json)?.first().and_then(|value| text(value)))
    }
}

/// A string's content; a number or boolean as written; `None` for anything else.
pub(crate) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    match value.get().as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(value.get()).ok().map(Cow::Owned),
        b'{' | b'[' | b'n' => None,
        _ => Some(Cow::Borrowed(value.get())),
    }
}

/// The items of a list; `None` if it is none. No more are ever held than may be.
fn items(value: &RawValue) -> Result<Option<Vec<&RawValue>>, JsonFault> {
    if !value.get().starts_with('[') {
        return Ok(None);
    }
    let items = serde_json::Deserializer::from_str(value.get()).deserialize_seq(Items);
    let items = items.map_err(|_| JsonFault::NotJson)?;
    if items.len() > VALUES_MAX { Err(JsonFault::TooMany) } else { Ok(Some(items)) }
}

fn child<'a>(value: &'a RawValue, name: &str) -> Result<Option<&'a RawValue>, JsonFault> {
    let mut json = serde_json::Deserializer::from_str(value.get());
    let found = match value.get().as_bytes().first() {
        Some(b'{') => json.deserialize_map(Pick(name)),
        Some(b'[') => json.deserialize_seq(Pick(name)),
        _ => return Ok(None),
    };
    found.map_err(|_| JsonFault::NotJson)
}

/// Finds one name in an object, or one index in a list.
struct Pick<'n>(&'n str);

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object or a list")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Is(self.0))? {
            if !is_it {
                map.next_value::<IgnoredAny>()?;
            } else if found.is_none() {
                found = Some(map.next_value::<&'de RawValue>()?);
            } else {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let index: Option<usize> = self.0.parse().ok();
        let (mut found, mut at) = (None, 0);
        while let Some(item) = seq.next_element::<&'de RawValue>()? {
            if Some(at) == index {
                found = Some(item);
            }
            at += 1;
        }
        Ok(found)
    }
}

/// The items of a list, one more than may be at most.
struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() <= VALUES_MAX {
            match seq.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(items),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(items)
    }
}

/// Whether an object's next name is this one.
struct Is<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, path: &str) -> Result<Vec<String>, JsonFault> {
        let path = Path::parse(path).expect("a path");
        let values = path.find(json.as_bytes())?;
        Ok(values.iter().map(|value| text(value).map_or("-".to_owned(), Cow::into_owned)).collect())
    }

    #[test]
    fn values_are_found_as_they_are_written() {
        let json = r#" {"a": {"b": [1, 12345678901234567890.10, "x\u00e9\n"]}, "t": true, "n": null, "o": [{"i":"1"},{}], "p": [{"i":"1"},{"i":"2"}]} "#;
        let check = |path: &str, expected: &[&str]| {
            assert_eq!(found(json, path), Ok(expected.iter().map(|text| (*text).to_owned()).collect()), "{path}");
        };
        check("a.b.0", &["1"]);
        check("a.b.1", &["12345678901234567890.10"]);
        check("a.b.2", &["xé\n"]);
        check("a.b.3", &[]);
        check("a.b", &["-"]);
        check("t", &["true"]);
        check("n", &["-"]);
        check("n.x", &[]);
        check("o.*.i", &[]);
        check("p.*.i", &["1", "2"]);
        check("a.*", &[]);
    }

    #[test]
    fn a_name_that_stands_twice_is_not_looked_up() {
        assert_eq!(found(r#"{"a":1,"a":2}"#, "a"), Err(JsonFault::NotJson));
        assert_eq!(found(r#"{"a":1,"\u0061":2}"#, "a"), Err(JsonFault::NotJson));
        assert_eq!(found(r#"{"a":1,"b":1,"b":2}"#, "a"), Ok(vec!["1".to_owned()]));
    }

    #[test]
    fn what_is_no_json_or_too_deep_or_too_long_is_a_fault() {
        for json in ["", "{", "{} x", "\u{0}", "{\"a\":}"] {
            assert_eq!(found(json, "a"), Err(JsonFault::NotJson), "{json}");
        }
        assert!(Path::parse("a").expect("a path").find(b"{\"a\":\"\xff\"}").is_err());
        let deep = format!("{{\"x\":{}{},\"a\":1}}", "[".repeat(500_000), "]".repeat(500_000));
        let _ = found(&deep, "a");
        let long = format!("[{}1]", "1,".repeat(VALUES_MAX));
        assert_eq!(found(&long, "*"), Err(JsonFault::TooMany));
        for scalar in ["1", "-1", "1.5", "true", "null", "\"x\"", "123456789012345678901234567890"] {
            assert_eq!(found(scalar, "a"), Ok(Vec::new()), "{scalar}");
        }
        for path in ["", ".", "a.", &"a.".repeat(STEPS_MAX)] {
            assert_eq!(Path::parse(path), None, "{path}");
        }
    }
}
