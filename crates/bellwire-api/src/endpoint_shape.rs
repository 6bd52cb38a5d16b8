//! What an endpoint makes of a message, on the wire: its filter on content, and how the payload is written.

use crate::document::JsonSchema;
#[cfg(feature = "document")]
use crate::document::{Schema, SchemaGenerator, json_schema};
use crate::field::{self, Faults};
use bellwire_model::{ContentFilter, FilterSource, Format};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
#[cfg(feature = "document")]
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

/// How the payload is written, after the transformation. The signature is over what is sent.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "PayloadFormat")]
pub(crate) enum FormatWire {
    /// Byte for byte as it was accepted, or as the transformation returned it.
    Json,
    /// `<payload>` with an element for each member, one for each item of an array, `nil="true"` for null.
    Xml,
    /// `application/x-www-form-urlencoded`, nested as `a[b]` and `a[0]`; the payload must be an object.
    Form,
}

impl From<FormatWire> for Format {
    fn from(format: FormatWire) -> Self {
        match format {
            FormatWire::Json => Format::Json,
            FormatWire::Xml => Format::Xml,
            FormatWire::Form => Format::Form,
        }
    }
}

impl FormatWire {
    /// `None` for the default, which is not shown.
    pub(crate) fn shown(format: Format) -> Option<Self> {
        match format {
            Format::Json => None,
            Format::Xml => Some(FormatWire::Xml),
            Format::Form => Some(FormatWire::Form),
        }
    }
}

/// A content type must be one, and must not lie about the format.
pub(crate) fn check_content_type(faults: &mut Faults, format: Format, content_type: Option<&str>) {
    let Some(text) = content_type else { return };
    if let Some(msg) = field::header_value(text) {
        return faults.add("contentType", msg);
    }
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let token = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| field::is_name(b) || matches!(b, b'+' | b'!' | b'#' | b'$' | b'&' | b'^'))
    };
    if !essence.split_once('/').is_some_and(|(kind, of)| token(kind) && token(of)) {
        return faults.add("contentType", "`contentType` must be a media type such as application/json; charset=utf-8");
    }
    let fits = match format {
        Format::Json => true,
        Format::Xml => essence.ends_with("/xml") || essence.ends_with("+xml"),
        Format::Form => essence == bellwire_shape::format::media_type(Format::Form),
    };
    if !fits {
        let name = if format == Format::Xml { "xml" } else { "form" };
        faults.add("contentType", format!("`contentType` {essence} cannot be together with `format` {name}"));
    }
}

/// Both directions have the same form.
#[cfg(feature = "document")]
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

#[cfg(feature = "document")]
impl JsonSchema for FilterIn {
    fn schema_name() -> Cow<'static, str> {
        "ContentFilter".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        filter_schema()
    }
}

#[cfg(feature = "document")]
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
