//! The event catalogue as documents for receivers: OpenAPI 3.1 `webhooks`, and AsyncAPI 3. Pure.
//!
//! An event type's newest schema stands below `components/schemas` under the event type's name, where its references to itself
//! are made to lead. What our OpenAPI document says, `import/openapi` takes back.

use crate::example::example;
use crate::schema::{newest, versions};
use crate::wire::Time;
use bellwire_model::EventType;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const TITLE: &str = "Webhooks";
const ABOUT: &str =
    "Each request is signed as Standard Webhooks has it; `webhook-id` is the same whenever a message is sent again.";
/// Below these, values are data and no schemas,
const DATA: [&str; 5] = ["example", "examples", "default", "enum", "const"];
/// and below these stand names, each with a schema.
const NAMES: [&str; 5] = ["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"];
/// What every request carries.
const HEADERS: [(&str, &str, &str); 3] = [
    ("webhook-id", "string", "The message's id, the same at every attempt: dedupe by it."),
    ("webhook-timestamp", "integer", "When this attempt began, in Unix seconds."),
    ("webhook-signature", "string", "One or more signatures, `v1,…` or `v1a,…`, with single spaces between."),
];

/// As OpenAPI 3.1 has it: a webhook for each event type.
pub(crate) fn openapi(event_types: &[Arc<EventType>]) -> Value {
    let parameters = HEADERS.map(|(name, kind, about)| {
        let parameter =
            json!({ "name": name, "in": "header", "required": true, "description": about, "schema": { "type": kind } });
        (name.to_owned(), parameter)
    });
    let references = HEADERS.map(|(name, ..)| json!({ "$ref": format!("#/components/parameters/{name}") }));
    let mut webhooks = Map::new();
    let mut schemas = Map::new();
    for event_type in event_types {
        let name = &event_type.name;
        let mut media = Map::new();
        if let Some(schema) = placed_schema(event_type) {
            if let Ok(sample) = example(&schema.original, 0) {
                media.insert("examples".to_owned(), json!({ "sample": { "value": sample } }));
            }
            media.insert("schema".to_owned(), json!({ "$ref": place(name) }));
            schemas.insert(name.clone(), schema.placed);
        }
        let mut operation = json!({
            "operationId": name,
            "description": event_type.description,
            "parameters": references,
            "requestBody": { "required": true, "content": { "application/json": media } },
            "responses": {
                "2XX": { "description": "It was taken." },
                "410": { "description": "It is not wanted any more: the endpoint is disabled." },
                "default": { "description": "It was not taken, and is sent again later." },
            },
        });
        if event_type.deprecated {
            operation["deprecated"] = true.into();
        }
        if let Some(group) = &event_type.group_name {
            operation["tags"] = json!([group]);
            operation["x-svix-group-name"] = group.as_str().into();
        }
        if !event_type.feature_flags.is_empty() {
            operation["x-svix-feature-flags"] = event_type.feature_flags.clone().into();
        }
        webhooks.insert(name.clone(), json!({ "post": operation }));
    }
    json!({
        "openapi": "3.1.0",
        "info": info(event_types),
        "tags": groups(event_types),
        "webhooks": webhooks,
        "components": { "parameters": Map::from_iter(parameters), "schemas": schemas },
    })
}

/// As AsyncAPI 3 has it: one channel, an endpoint's URL, and a message for each event type.
pub(crate) fn asyncapi(event_types: &[Arc<EventType>]) -> Value {
    let headers = HEADERS.map(|(name, kind, about)| (name.to_owned(), json!({ "type": kind, "description": about })));
    let mut references = Map::new();
    let mut messages = Map::new();
    let mut schemas = Map::new();
    for event_type in event_types {
        let name = &event_type.name;
        let mut message = json!({
            "name": name,
            "title": name,
            "summary": event_type.description,
            "contentType": "application/json",
            "traits": [{ "$ref": "#/components/messageTraits/standardWebhooks" }],
        });
        if let Some(schema) = placed_schema(event_type) {
            if let Ok(sample) = example(&schema.original, 0) {
                message["examples"] = json!([{ "name": "sample", "payload": sample }]);
            }
            message["payload"] = json!({ "$ref": place(name) });
            schemas.insert(name.clone(), schema.placed);
        }
        if event_type.deprecated {
            message["x-deprecated"] = true.into();
        }
        if let Some(group) = &event_type.group_name {
            message["tags"] = json!([{ "name": group }]);
        }
        references.insert(name.clone(), json!({ "$ref": format!("#/components/messages/{name}") }));
        messages.insert(name.clone(), message);
    }
    json!({
        "asyncapi": "3.0.0",
        "info": info(event_types),
        "defaultContentType": "application/json",
        "channels": {
            "endpoint": {
                "address": null,
                "title": "The URL of an endpoint",
                "messages": references,
            },
        },
        "operations": {
            "sendWebhook": {
                "action": "send",
                "channel": { "$ref": "#/channels/endpoint" },
                "summary": "Each message whose event type the endpoint asks for is posted to its URL.",
                "bindings": { "http": { "method": "POST", "bindingVersion": "0.3.0" } },
            },
        },
        "components": {
            "messages": messages,
            "messageTraits": {
                "standardWebhooks": {
                    "headers": {
                        "type": "object",
                        "required": HEADERS.map(|(name, ..)| name),
                        "properties": Map::from_iter(headers),
                    },
                },
            },
            "schemas": schemas,
        },
    })
}

/// Its version is the time of the last change, so that it changes when the catalogue does.
fn info(event_types: &[Arc<EventType>]) -> Value {
    let changed = event_types.iter().map(|event_type| event_type.updated_at).max();
    json!({ "title": TITLE, "version": changed.map_or(json!("0"), |at| json!(Time(at))), "description": ABOUT })
}

fn groups(event_types: &[Arc<EventType>]) -> Value {
    let groups: BTreeSet<&str> = event_types.iter().filter_map(|event_type| event_type.group_name.as_deref()).collect();
    groups.into_iter().map(|group| json!({ "name": group })).collect()
}

struct PlacedSchema {
    original: Value,
    placed: Value,
}

fn placed_schema(event_type: &EventType) -> Option<PlacedSchema> {
    let original = newest(&versions(event_type.schemas.as_deref()?))?.clone();
    let mut placed = original.clone();
    let own = placed.as_object_mut().and_then(|members| members.remove("$id"));
    let home = Home { place: place(&event_type.name), id: own.as_ref().and_then(Value::as_str), root: &original };
    home.lead(&mut placed);
    Some(PlacedSchema { original, placed })
}

fn place(name: &str) -> String {
    // Names of event types need no escapes in a pointer.
    format!("#/components/schemas/{name}")
}

/// Where a schema stands now, whose references took it for a document of its own.
struct Home<'a> {
    place: String,
    /// How it called itself.
    id: Option<&'a str>,
    root: &'a Value,
}

impl Home<'_> {
    fn lead(&self, schema: &mut Value) {
        match schema {
            Value::Object(members) => {
                if members.get("$id").is_some_and(Value::is_string) {
                    // A document of its own within this one.
                    return;
                }
                for (name, member) in members {
                    match (name.as_str(), member) {
                        ("$ref", Value::String(reference)) => {
                            if let Some(led) = self.led(reference) {
                                *reference = led;
                            }
                        }
                        (name, Value::Object(named)) if NAMES.contains(&name) => {
                            named.values_mut().for_each(|schema| self.lead(schema));
                        }
                        (name, _) if DATA.contains(&name) => {}
                        (_, member) => self.lead(member),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.lead(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// `None`: it leads elsewhere, and stays.
    fn led(&self, reference: &str) -> Option<String> {
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        if !document.is_empty() && Some(document) != self.id.map(|id| id.trim_end_matches('#')) {
            return None;
        }
        if fragment.is_empty() || fragment.starts_with('/') {
            return Some(format!("{}{fragment}", self.place));
        }
        anchored(self.root, fragment).map(|pointer| format!("{}{pointer}", self.place))
    }
}

/// The pointer to the schema with this `$anchor`.
fn anchored(schema: &Value, anchor: &str) -> Option<String> {
    if schema["$anchor"] == anchor {
        return Some(String::new());
    }
    let inside = |name: &str, value: &Value| {
        anchored(value, anchor).map(|rest| format!("/{}{rest}", name.replace('~', "~0").replace('/', "~1")))
    };
    match schema {
        Value::Object(members) => members.iter().find_map(|(name, member)| inside(name, member)),
        Value::Array(items) => items.iter().enumerate().find_map(|(at, item)| inside(&at.to_string(), item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::{OrganisationId, Timestamp};

    fn event_type(name: &str, schemas: Option<Value>) -> Arc<EventType> {
        Arc::new(EventType {
            organisation: OrganisationId::parse("org_23rb8YdGqMT0qIzpgGwdXfHirMu").expect("an id"),
            name: name.to_owned(),
            description: "Something happened.".to_owned(),
            archived: false,
            deprecated: name.starts_with("old"),
            schemas: schemas.map(|schemas| schemas.to_string()),
            feature_flags: vec!["beta".to_owned()],
            group_name: Some("things".to_owned()),
            retry_schedule: None,
            created_at: Timestamp::from_seconds(1_767_225_600),
            updated_at: Timestamp::from_seconds(1_767_225_600),
        })
    }

    /// Every reference within the document leads somewhere.
    fn assert_closed(document: &Value) {
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap_or_default();
            assert!(document.pointer(pointer).is_some(), "{pointer} in {document:#}");
        }
    }

    #[test]
    fn a_schema_moves_with_all_that_it_refers_to() {
        let check = |schema: Value, expected: Value| {
            let all = [event_type("a.b", Some(json!({ "1": schema })))];
            for document in [openapi(&all), asyncapi(&all)] {
                assert_eq!(document["components"]["schemas"]["a.b"], expected);
                if !expected.to_string().contains(r##""$ref":"#/a""##) && !expected.to_string().contains("urn:own") {
                    assert_closed(&document);
                }
            }
        };
        check(
            json!({ "$ref": "#/$defs/x", "$defs": { "x": { "items": { "$ref": "#" } } } }),
            json!({
                "$ref": "#/components/schemas/a.b/$defs/x",
                "$defs": { "x": { "items": { "$ref": "#/components/schemas/a.b" } } },
            }),
        );
        check(
            json!({ "$id": "https://x.example/a", "allOf": [{ "$ref": "https://x.example/a#here" }], "$defs": { "y/z": { "$anchor": "here" } } }),
            json!({ "allOf": [{ "$ref": "#/components/schemas/a.b/$defs/y~1z" }], "$defs": { "y/z": { "$anchor": "here" } } }),
        );
        // Data stays, a member that is called like a keyword is a schema.
        check(
            json!({ "const": { "$ref": "#/a" }, "properties": { "default": { "$ref": "#" } } }),
            json!({ "const": { "$ref": "#/a" }, "properties": { "default": { "$ref": "#/components/schemas/a.b" } } }),
        );
        // A document within it keeps its own references.
        check(
            json!({ "$defs": { "own": { "$id": "urn:own", "$ref": "#/$defs/inner", "$defs": { "inner": {} } } } }),
            json!({ "$defs": { "own": { "$id": "urn:own", "$ref": "#/$defs/inner", "$defs": { "inner": {} } } } }),
        );
    }

    #[test]
    fn an_event_type_is_told_whole() {
        let schemas = json!({ "1": { "type": "string" }, "2": { "type": "object", "examples": [{ "id": 7 }] } });
        let all = [event_type("old.thing", Some(schemas)), event_type("thing", None)];
        let document = openapi(&all);
        let post = &document["webhooks"]["old.thing"]["post"];
        assert_eq!(post["deprecated"], true);
        assert_eq!(post["x-svix-group-name"], "things");
        assert_eq!(post["x-svix-feature-flags"], json!(["beta"]));
        assert_eq!(
            post["requestBody"]["content"]["application/json"]["examples"]["sample"]["value"],
            json!({ "id": 7 })
        );
        assert_eq!(document["components"]["schemas"]["old.thing"]["type"], "object", "the newest version");
        assert_eq!(document["webhooks"]["thing"]["post"]["requestBody"]["content"]["application/json"], json!({}));
        assert_eq!(document["tags"], json!([{ "name": "things" }]));
        assert_eq!(document["info"]["version"], "2026-01-01T00:00:00.000000Z");

        let document = asyncapi(&all);
        let messages = &document["components"]["messages"];
        assert_eq!(messages["old.thing"]["examples"], json!([{ "name": "sample", "payload": { "id": 7 } }]));
        assert_eq!(messages["old.thing"]["x-deprecated"], true);
        assert_eq!(messages["thing"].get("payload"), None);
        assert_eq!(document["channels"]["endpoint"]["messages"].as_object().map(Map::len), Some(2));
        assert_closed(&document);
    }

    #[test]
    fn an_empty_catalogue_is_a_document() {
        assert_eq!(openapi(&[])["webhooks"], json!({}));
        assert_eq!(asyncapi(&[])["components"]["messages"], json!({}));
    }
}
