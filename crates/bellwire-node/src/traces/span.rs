//! A span, and many of them as OTLP has them in JSON.
//!
//! OpenTelemetry Protocol 1.x, "JSON Protobuf Encoding": ids as hexadecimal digits, 64-bit numbers as text, names in camel case, kinds by number.

use bellwire_model::Timestamp;
use serde_json::{Value as Json, json};
use std::time::Duration;

/// Something that took time.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) trace: [u8; 16],
    pub(crate) id: [u8; 8],
    pub(crate) parent: Option<[u8; 8]>,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) begin: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    /// What went wrong, if something did.
    pub(crate) error: Option<String>,
}

/// Which side of a request it is, by its number in OTLP.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Server = 2,
    Client = 3,
}

/// An attribute's value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Switch(bool),
}

impl Value {
    pub(crate) fn count(count: usize) -> Value {
        Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    pub(crate) fn micros(took: Duration) -> Value {
        Value::Integer(i64::try_from(took.as_micros()).unwrap_or(i64::MAX))
    }

    fn json(&self) -> Json {
        match self {
            Value::Text(text) => json!({ "stringValue": text }),
            Value::Integer(number) => json!({ "intValue": number.to_string() }),
            Value::Switch(switch) => json!({ "boolValue": switch }),
        }
    }
}

/// `ExportTraceServiceRequest`.
pub(crate) fn request(service: &str, spans: &[Span]) -> Vec<u8> {
    let text = |name: &str, value: &str| json!({ "key": name, "value": { "stringValue": value } });
    let version = env!("CARGO_PKG_VERSION");
    json!({ "resourceSpans": [{
        "resource": { "attributes": [text("service.name", service), text("service.version", version)] },
        "scopeSpans": [{
            "scope": { "name": "bellwire", "version": version },
            "spans": spans.iter().map(Span::json).collect::<Vec<_>>(),
        }],
    }] })
    .to_string()
    .into_bytes()
}

impl Span {
    fn json(&self) -> Json {
        let attributes: Vec<_> =
            self.attributes.iter().map(|(name, value)| json!({ "key": name, "value": value.json() })).collect();
        let mut span = json!({
            "traceId": digits(&self.trace),
            "spanId": digits(&self.id),
            "name": self.name,
            "kind": self.kind as u8,
            "startTimeUnixNano": nanoseconds(self.begin),
            "endTimeUnixNano": nanoseconds(self.end),
            "attributes": attributes,
        });
        if let Some(parent) = &self.parent {
            span["parentSpanId"] = digits(parent).into();
        }
        if let Some(error) = &self.error {
            span["status"] = json!({ "code": 2, "message": error });
        }
        span
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nanoseconds(at: Timestamp) -> String {
    (i128::from(at.as_micros()) * 1_000).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_written_as_the_protocol_says() {
        let span = Span {
            trace: [0xab; 16],
            id: [1; 8],
            parent: Some([2; 8]),
            name: "attempt",
            kind: Kind::Client,
            begin: Timestamp::from_micros(1_700_000_000_000_001),
            end: Timestamp::from_micros(1_700_000_000_250_001),
            attributes: vec![("attempt.number", Value::Integer(3)), ("attempt.manual", Value::Switch(false))],
            error: Some("the endpoint answered 500".into()),
        };
        let request: Json = serde_json::from_slice(&request("mine", &[span])).expect("JSON");
        let resource = &request["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "mine");
        let expected = json!({
            "traceId": "abababababababababababababababab",
            "spanId": "0101010101010101",
            "parentSpanId": "0202020202020202",
            "name": "attempt",
            "kind": 3,
            "startTimeUnixNano": "1700000000000001000",
            "endTimeUnixNano": "1700000000250001000",
            "attributes": [
                { "key": "attempt.number", "value": { "intValue": "3" } },
                { "key": "attempt.manual", "value": { "boolValue": false } },
            ],
            "status": { "code": 2, "message": "the endpoint answered 500" },
        });
        assert_eq!(resource["scopeSpans"][0]["spans"][0], expected);
    }
}
