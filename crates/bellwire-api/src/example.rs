//! An example of a payload, made from an event type's JSON Schema: what its author gives as an example, else something
//! that has its shape. Pure, and bounded whatever the schema says.

use serde_json::{Map, Value};

/// So deep, and no deeper: schemas may refer to themselves.
const DEPTH_MAX: usize = 16;
/// About so many bytes in one example.
const BYTES_MAX: usize = 128 * 1024;
/// What a value costs beside its text.
const VALUE_BYTES: usize = 8;
/// References that are followed one after the other.
const HOPS_MAX: usize = 32;
const ITEMS_MAX: u64 = 8;
const LENGTH_MAX: u64 = 256;

/// Why there is no example.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NoExample {
    /// The schema's author gave fewer.
    #[error("the schema has {0} examples; `exampleIndex` counts from 0")]
    Index(usize),
    /// A payload is an object.
    #[error("the schema does not describe an object, so no payload can be made from it")]
    NoObject,
}

/// Number `index` of the schema's own `examples`; without any, its `example`, its `default`, or something of its shape.
///
/// # Errors
/// [`NoExample`].
pub(crate) fn example(schema: &Value, index: usize) -> Result<Value, NoExample> {
    let given = schema["examples"].as_array().map(Vec::as_slice).unwrap_or_default();
    let made = match given.get(index) {
        Some(example) => example.clone(),
        None if index > 0 => return Err(NoExample::Index(given.len())),
        None => Maker { root: schema, left: BYTES_MAX }.make(schema, 0),
    };
    if made.is_object() { Ok(made) } else { Err(NoExample::NoObject) }
}

struct Maker<'a> {
    root: &'a Value,
    /// Bytes that may still be made.
    left: usize,
}

impl<'a> Maker<'a> {
    fn make(&mut self, schema: &'a Value, depth: usize) -> Value {
        let schema = self.resolve(schema);
        if depth > DEPTH_MAX || self.left == 0 {
            return Value::Null;
        }
        self.left = self.left.saturating_sub(VALUE_BYTES);
        let said = schema["examples"].get(0).or_else(|| schema.get("example")).or_else(|| schema.get("default"));
        if let Some(value) = said.or_else(|| schema.get("const")).or_else(|| schema["enum"].get(0)) {
            let bytes = size(value);
            let fits = bytes <= self.left;
            self.left = self.left.saturating_sub(bytes);
            return if fits { value.clone() } else { Value::Null };
        }
        if let Some(all) = schema["allOf"].as_array() {
            return self.merged(schema, all, depth);
        }
        if let Some(first) = schema["oneOf"].get(0).or_else(|| schema["anyOf"].get(0)) {
            return self.merged(schema, std::slice::from_ref(first), depth);
        }
        self.by_type(schema, depth)
    }

    /// What `parts` describe together, with what `schema` itself says beside them.
    fn merged(&mut self, schema: &'a Value, parts: &'a [Value], depth: usize) -> Value {
        let mut merged = Value::Null;
        for part in parts {
            merge(&mut merged, self.make(part, depth + 1));
        }
        if schema.get("properties").is_some() {
            merge(&mut merged, self.by_type(schema, depth));
        }
        merged
    }

    fn by_type(&mut self, schema: &'a Value, depth: usize) -> Value {
        match kind(schema) {
            "object" => {
                let mut members = Map::new();
                for (name, member) in schema["properties"].as_object().into_iter().flatten() {
                    if self.left > 0 && depth < DEPTH_MAX {
                        self.left = self.left.saturating_sub(name.len());
                        members.insert(name.clone(), self.make(member, depth + 1));
                    }
                }
                Value::Object(members)
            }
            "array" => {
                let count = schema["minItems"].as_u64().unwrap_or(1).clamp(1, ITEMS_MAX);
                let items = schema.get("items").filter(|items| items.is_object() && depth < DEPTH_MAX);
                Value::Array(
                    items.map_or_else(Vec::new, |items| (0..count).map(|_| self.make(items, depth + 1)).collect()),
                )
            }
            "string" => Value::String(text(schema)),
            "integer" | "number" => number(schema),
            "boolean" => Value::Bool(true),
            _ => Value::Null,
        }
    }

    /// Follows references within the schema.
    fn resolve(&self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..HOPS_MAX {
            let Some(reference) = schema["$ref"].as_str() else { return schema };
            match reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)) {
                Some(target) => schema = target,
                None => return &Value::Null,
            }
        }
        &Value::Null
    }
}

/// About how many bytes it has as text.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => VALUE_BYTES + text.len(),
        Value::Array(items) => VALUE_BYTES + items.iter().map(size).sum::<usize>(),
        Value::Object(members) => {
            VALUE_BYTES + members.iter().map(|(name, value)| name.len() + size(value)).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => VALUE_BYTES,
    }
}

/// The first type that is not null; guessed if there is none.
fn kind(schema: &Value) -> &str {
    let named = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|t| *t != "null"),
        one => one.as_str(),
    };
    named.unwrap_or_else(|| {
        if schema.get("properties").is_some() {
            "object"
        } else if schema.get("items").is_some() {
            "array"
        } else {
            "null"
        }
    })
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(members), Value::Object(more)) => members.extend(more),
        (into @ Value::Null, more) => *into = more,
        _ => {}
    }
}

fn text(schema: &Value) -> String {
    let mut text = match schema["format"].as_str().unwrap_or_default() {
        "date-time" => "2026-01-31T09:30:00Z",
        "date" => "2026-01-31",
        "time" => "09:30:00Z",
        "duration" => "PT1H",
        "email" | "idn-email" => "someone@example.com",
        "uri" | "url" | "iri" => "https://example.com/",
        "hostname" | "idn-hostname" => "example.com",
        "uuid" => "3f2b8c1e-7d4a-4b6f-9e05-1a2b3c4d5e6f",
        "ipv4" => "192.0.2.1",
        "ipv6" => "2001:db8::1",
        _ => "string",
    }
    .to_owned();
    let least = schema["minLength"].as_u64().unwrap_or(0).min(LENGTH_MAX) as usize;
    while text.len() < least {
        text.push('x');
    }
    if let Some(most) = schema["maxLength"].as_u64() {
        text.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    }
    text
}

fn number(schema: &Value) -> Value {
    let whole = kind(schema) == "integer";
    let bound = |name: &str| schema[name].as_f64();
    let least =
        bound("minimum").or_else(|| bound("exclusiveMinimum").map(|n| if whole { n.floor() + 1.0 } else { n + 0.5 }));
    let most =
        bound("maximum").or_else(|| bound("exclusiveMaximum").map(|n| if whole { n.ceil() - 1.0 } else { n - 0.5 }));
    let mut number = 0.0_f64.max(least.unwrap_or(f64::NEG_INFINITY)).min(most.unwrap_or(f64::INFINITY));
    if let Some(step) = bound("multipleOf").filter(|step| *step > 0.0) {
        number = (number / step).ceil() * step;
    }
    if whole { Value::from(number.ceil() as i64) } else { Value::from(number) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_author_says_comes_first() {
        let check = |schema: Value, index, expected: Result<Value, NoExample>| {
            assert_eq!(example(&schema, index), expected, "{schema} {index}");
        };
        let two = json!({ "examples": [{ "a": 1 }, { "a": 2 }], "example": { "a": 3 } });
        check(two.clone(), 0, Ok(json!({ "a": 1 })));
        check(two.clone(), 1, Ok(json!({ "a": 2 })));
        check(two, 2, Err(NoExample::Index(2)));
        check(json!({ "example": { "a": 3 }, "default": { "a": 4 } }), 0, Ok(json!({ "a": 3 })));
        check(json!({ "default": { "a": 4 } }), 0, Ok(json!({ "a": 4 })));
        check(json!({ "type": "string" }), 0, Err(NoExample::NoObject));
        check(json!({}), 0, Err(NoExample::NoObject));
    }

    #[test]
    fn else_it_has_the_shape() {
        let schema = json!({
            "type": "object",
            "properties": {
                "id": { "type": "string", "format": "uuid" },
                "name": { "type": ["null", "string"], "maxLength": 3 },
                "count": { "type": "integer", "exclusiveMinimum": 4, "multipleOf": 3 },
                "below": { "type": "integer", "maximum": -2 },
                "ratio": { "type": "number", "minimum": 0.5 },
                "kind": { "enum": ["x", "y"] },
                "items": { "type": "array", "minItems": 2, "items": { "$ref": "#/$defs/item" } },
                "both": { "allOf": [{ "properties": { "a": { "const": 1 } } }, { "properties": { "b": { "const": 2 } } }] },
                "one": { "oneOf": [{ "type": "boolean" }, { "type": "string" }] },
            },
            "$defs": { "item": { "type": "object", "properties": { "at": { "type": "string", "format": "date" } } } },
        });
        let expected = json!({
            "id": "3f2b8c1e-7d4a-4b6f-9e05-1a2b3c4d5e6f",
            "name": "str",
            "count": 6,
            "below": -2,
            "ratio": 0.5,
            "kind": "x",
            "items": [{ "at": "2026-01-31" }, { "at": "2026-01-31" }],
            "both": { "a": 1, "b": 2 },
            "one": true,
        });
        assert_eq!(example(&schema, 0), Ok(expected));
    }

    #[test]
    fn a_schema_without_an_end_gives_an_example_that_has_one() {
        let children: Map<String, Value> = (0..20).map(|n| (format!("c{n}"), json!({ "$ref": "#" }))).collect();
        let tree = json!({ "type": "object", "properties": children });
        let text = example(&tree, 0).map(|e| e.to_string()).unwrap_or_default();
        assert!(text.len() < 200_000, "{}", text.len());
        let turning =
            json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } });
        assert_eq!(example(&turning, 0), Err(NoExample::NoObject));
    }
}
