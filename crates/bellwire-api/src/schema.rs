//! JSON Schemas of event types: whether a text is one that is fit to be used, and checking payloads by it.
//!
//! Draft 7, as Svix has it, unless `$schema` names another. Nothing is ever fetched: references lead within the schema. Regular
//! expressions run in time linear in the text. What a schema can cost is bounded beforehand ([`crate::schema_bounds`]).

use crate::schema_bounds::{Bounds, Unfit, bounds};
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value};

/// So many looks at values for one payload; beyond, it is not checked.
const LOOKS_MAX: u64 = 20_000_000;
/// So many faults of one payload are told.
const FAULTS_MAX: usize = 8;
const MESSAGE_MAX: usize = 400;
/// Of one regular expression, compiled.
const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// A schema, compiled.
pub(crate) struct Schema {
    validator: Validator,
    bounds: Bounds,
}

/// Why a text cannot be used as a schema.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SchemaError {
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// It is no JSON Schema; the text says where and why.
    #[error("{0}")]
    Invalid(String),
}

/// What is wrong with a payload, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PayloadFault {
    /// The way from the payload down.
    pub(crate) path: Vec<String>,
    /// What the schema asks for. Does not repeat what is in the payload.
    pub(crate) msg: String,
}

impl Schema {
    /// Compiles a schema, to check payloads of at most `depth_max` levels.
    ///
    /// # Errors
    /// [`SchemaError`].
    pub(crate) fn compile(schema: &Value, depth_max: usize) -> Result<Schema, SchemaError> {
        let bounds = bounds(schema, depth_max)?;
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
        let mut options = jsonschema::options().with_pattern_options(patterns);
        if schema.get("$schema").is_none() {
            options = options.with_draft(Draft::Draft7);
        }
        let validator = options.build(schema).map_err(|error| {
            let at = error.instance_path.as_str();
            let what = short(error.to_string());
            SchemaError::Invalid(if at.is_empty() { what } else { format!("at {at}: {what}") })
        })?;
        Ok(Schema { validator, bounds })
    }

    /// About how many looks a payload of so many bytes takes.
    pub(crate) fn looks(&self, payload_bytes: usize) -> u64 {
        // A value and what parts it from the next have two bytes at the least, and eight as a rule.
        (payload_bytes as u64 / 8).saturating_mul(self.bounds.looks)
    }

    /// What is wrong with `payload`; nothing if it is as the schema says.
    pub(crate) fn check(&self, payload: &Value) -> Vec<PayloadFault> {
        let (values, widest) = measure(payload);
        let squared = if self.bounds.squared { widest } else { 1 };
        if values.saturating_mul(self.bounds.looks).saturating_mul(squared) > LOOKS_MAX {
            let msg = "the payload has too many values to be checked by the event type's schema".to_owned();
            return vec![PayloadFault { path: Vec::new(), msg }];
        }
        if self.validator.is_valid(payload) {
            return Vec::new();
        }
        let faults = self.validator.iter_errors(payload).take(FAULTS_MAX);
        faults
            .map(|error| {
                let path = error.instance_path.as_str();
                let parts = path.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~"));
                PayloadFault { path: parts.collect(), msg: short(error.masked().to_string()) }
            })
            .collect()
    }
}

/// The schemas of an event type as they are kept.
pub(crate) fn versions(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

/// The newest of an event type's schemas by version: numbers by their value, also with dots, before other texts by their letters.
pub(crate) fn newest(schemas: &Map<String, Value>) -> Option<&Value> {
    newest_version(schemas).and_then(|version| schemas.get(version))
}

/// The version of [`newest`].
pub(crate) fn newest_version(schemas: &Map<String, Value>) -> Option<&str> {
    let rank = |version: &str| {
        let numbers: Option<Vec<u64>> = version.trim_start_matches('v').split('.').map(|n| n.parse().ok()).collect();
        (numbers, version.to_owned())
    };
    schemas.keys().map(String::as_str).max_by_key(|version| rank(version))
}

fn short(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MESSAGE_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// How many values there are, and how many the widest of them holds. No deeper than what parses.
fn measure(value: &Value) -> (u64, u64) {
    let (parts, wide): (Box<dyn Iterator<Item = &Value>>, usize) = match value {
        Value::Array(items) => (Box::new(items.iter()), items.len()),
        Value::Object(members) => (Box::new(members.values()), members.len()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return (1, 1),
    };
    let (mut values, mut widest) = (1, wide.max(1) as u64);
    for part in parts {
        let (more, wider) = measure(part);
        values += more;
        widest = widest.max(wider);
    }
    (values, widest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compile(schema: Value) -> Schema {
        Schema::compile(&schema, 64).unwrap_or_else(|error| panic!("{error}: {schema}"))
    }

    #[test]
    fn faults_have_their_place_and_do_not_repeat_the_payload() {
        let schema = compile(json!({
            "type": "object",
            "required": ["id"],
            "properties": { "items": { "type": "array", "items": { "properties": { "a/b": { "type": "integer" } } } } },
        }));
        assert_eq!(schema.check(&json!({ "id": 1, "items": [{ "a/b": 1 }] })), []);
        let faults = schema.check(&json!({ "items": [{}, { "a/b": "a secret" }] }));
        let places: Vec<String> = faults.iter().map(|fault| fault.path.join(" ")).collect();
        assert_eq!(places, ["", "items 1 a/b"], "{faults:?}");
        assert!(faults.iter().all(|fault| fault.msg.len() > 5 && !fault.msg.contains("secret")), "{faults:?}");
        let many = compile(json!({ "items": false }));
        assert!(many.check(&json!(vec![1; 100])).len() <= FAULTS_MAX);
    }

    #[test]
    fn what_is_no_schema_is_told_where() {
        for (schema, expected) in [
            (json!({ "type": "text" }), "/type"),
            (json!({ "properties": { "a": 5 } }), "/properties"),
            (json!({ "required": "a" }), "/required"),
            (json!({ "pattern": "(" }), "/pattern"),
            (json!({ "pattern": "(?=a)" }), "regex"),
            (json!({ "minimum": "x" }), "/minimum"),
            (json!({ "$schema": "https://example.com/mine" }), "example.com"),
        ] {
            let error = Schema::compile(&schema, 64).map(|_| ()).expect_err(&schema.to_string()).to_string();
            assert!(error.contains(expected), "{schema}: {error}");
        }
    }

    #[test]
    fn drafts_are_told_apart() {
        let tuple = json!({ "items": [{ "type": "integer" }] });
        assert_eq!(compile(tuple).check(&json!(["x"])).len(), 1);
        let newer = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "prefixItems": [{ "type": "integer" }] });
        assert_eq!(compile(newer).check(&json!(["x"])).len(), 1);
    }

    #[test]
    fn hostile_patterns_end() {
        let schema = compile(json!({ "pattern": "^(a+)+$" }));
        assert_eq!(schema.check(&json!(format!("{}!", "a".repeat(100_000)))).len(), 1);
        assert!(Schema::compile(&json!({ "pattern": "(a{1000}){1000}" }), 64).is_err());
    }

    #[test]
    fn definitions_that_share_their_parts_compile_at_once() {
        // A hundred levels, each of which refers to the next twice: written out, it would be 2^100 subschemas.
        let defs: Map<String, Value> = (0..100)
            .map(|n| {
                let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
                (format!("d{n}"), json!({ "properties": { "a": next, "b": next } }))
            })
            .chain([("d100".to_owned(), json!({ "type": "integer" }))])
            .collect();
        let schema = compile(json!({ "$ref": "#/$defs/d0", "$defs": defs }));
        assert_eq!(schema.check(&json!({ "a": { "b": {} } })), []);
    }

    #[test]
    fn the_deepest_payload_by_the_deepest_schema_fits_the_stack() {
        // Eight subschemas for each of 64 levels.
        let mut inner = json!({ "items": { "$ref": "#" } });
        for _ in 0..5 {
            inner = json!({ "allOf": [inner] });
        }
        let schema = compile(inner);
        let mut payload = json!("bottom");
        for _ in 0..63 {
            payload = json!([payload]);
        }
        let check = move || schema.check(&payload).len();
        let thread = std::thread::Builder::new().stack_size(1024 * 1024).spawn(check).expect("a thread");
        assert_eq!(thread.join().expect("it ends"), 0);
    }

    #[test]
    fn a_payload_that_would_take_too_long_is_not_checked() {
        let any: Vec<Value> = (0..900).map(|n| json!({ "const": n })).collect();
        let schema = compile(json!({ "additionalProperties": { "items": { "anyOf": any } } }));
        assert_eq!(schema.check(&json!({ "a": [1, 2, 3] })), []);
        let faults = schema.check(&json!({ "a": vec![5; 100_000] }));
        assert!(faults[0].msg.contains("too many values"), "{faults:?}");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let check = |versions: &[&str], expected: &str| {
            let schemas = versions.iter().map(|v| ((*v).to_owned(), json!(v))).collect();
            assert_eq!(newest(&schemas), Some(&json!(expected)), "{versions:?}");
        };
        check(&["1", "10", "9"], "10");
        check(&["1.9", "1.10", "1"], "1.10");
        check(&["v1", "v2"], "v2");
        check(&["draft", "1"], "1");
        check(&["alpha", "beta"], "beta");
        assert_eq!(newest(&Map::new()), None);
    }
}
