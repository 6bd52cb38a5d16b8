//! What an endpoint makes of a message, on the wire: its filter on content.

use crate::field::Faults;
use bellwire_model::{ContentFilter, FilterSource};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A filter: a string is CEL, an object or an array is of the CloudEvents Subscriptions API.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct FilterIn(Value);

/// A filter as it was given.
pub(crate) struct FilterOut<'a>(&'a FilterSource);

impl<'a> FilterOut<'a> {
    pub(crate) fn of(filter: &'a ContentFilter) -> Self {
        FilterOut(&filter.source)
    }
}

impl Serialize for FilterOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            FilterSource::Cel(text) => text.serialize(serializer),
            FilterSource::CloudEvents(json) => match serde_json::from_str::<&RawValue>(json) {
                Ok(json) => json.serialize(serializer),
                Err(_) => serializer.serialize_none(),
            },
        }
    }
}

/// Both directions have the same form.
fn filter_schema() -> Schema {
    json_schema!({
        "description": "Takes only messages for which this says yes. Decided once, when a message is accepted. A string is an expression of the \
            Common Expression Language over `payload` (or `data`), `eventType` (or `type`), `eventId`, `channels` and `tags`, such as \
            `payload.amount > 1000 && 'north' in channels`. An object or an array is a filter of the CloudEvents Subscriptions API \
            (`exact`, `prefix`, `suffix`, `all`, `any`, `not`) over `type`, `id` (the event id), and `payload.…` with the names on the way. \
            A filter that cannot say, because a field is missing or of another type, means no. At most 4096 bytes of CEL, 16384 of JSON, \
            256 parts; 10000 steps for a message.",
        "oneOf": [
            { "type": "string", "minLength": 1, "maxLength": 4096 },
            { "type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": true },
            { "type": "array", "minItems": 1, "items": { "type": "object", "additionalProperties": true } },
        ],
    })
}

impl JsonSchema for FilterIn {
    fn schema_name() -> Cow<'static, str> {
        "ContentFilter".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        filter_schema()
    }
}

impl JsonSchema for FilterOut<'_> {
    fn schema_name() -> Cow<'static, str> {
        "ContentFilter".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        filter_schema()
    }
}

/// Compiles a filter, or notes what is wrong with it.
pub(crate) fn check_filter(faults: &mut Faults, FilterIn(filter): FilterIn) -> Option<ContentFilter> {
    let source = match filter {
        Value::String(text) => FilterSource::Cel(text),
        Value::Object(_) | Value::Array(_) => FilterSource::CloudEvents(filter.to_string()),
        _ => {
            faults.add("filter", "`filter` must be a string of CEL, or an object of the CloudEvents filter dialect");
            return None;
        }
    };
    match bellwire_shape::check_filter(source) {
        Ok(filter) => Some(filter),
        Err(fault) => {
            faults.add("filter", format!("`filter` cannot be used: {fault}"));
            None
        }
    }
}
