//! The OpenAPI document, made from the operations as they are declared. Version 3.0, as Svix's is, so that the same generators read it.
//!
//! A test makes it and compares it with `docs/openapi.json`, which is what the program serves.

use crate::document::{Schema, SchemaGenerator, SchemaOf};
use crate::error::{ErrorOut, InvalidOut};
use crate::operation::{Access, Operation};
use http::Method;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The whole document.
pub fn document() -> Value {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut paths = Map::new();
    for operation in crate::operations() {
        let method = operation.method.as_str().to_ascii_lowercase();
        let item = paths.entry(operation.path).or_insert_with(|| json!({}));
        item[&method] = describe(&operation, &mut generator);
    }
    let error = generator.subschema_for::<ErrorOut<'static>>();
    let invalid = generator.subschema_for::<InvalidOut>();
    let schemas = generator.take_definitions(true);
    let mut document = json!({
        "openapi": "3.0.2",
        "info": {
            "title": "Bellwire API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Webhooks, both ends. Compatible with Svix's API.",
        },
        "security": [{ "HTTPBearer": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Error": response("The request was not done.", &error),
                "Invalid": response("The input is wrong; every fault is listed.", &invalid),
            },
            "securitySchemes": {
                "HTTPBearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "HTTP Bearer token passed in the `Authorization` header",
                },
            },
        },
    });
    write_nullable(&mut document);
    document
}

/// A reference that may be null is `anyOf` with a schema of null alone; generators for 3.0 want `nullable` beside `allOf`.
fn write_nullable(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(write_nullable),
        Value::Object(members) => {
            members.values_mut().for_each(write_nullable);
            let Some(Value::Array(any)) = members.get("anyOf") else { return };
            if let [schema, null] = any.as_slice()
                && null["nullable"] == true
                && schema.get("$ref").is_some()
            {
                let schema = schema.clone();
                members.remove("anyOf");
                members.insert("allOf".to_owned(), json!([schema]));
                members.insert("nullable".to_owned(), json!(true));
            }
        }
        _ => {}
    }
}

fn response(description: &str, schema: &Schema) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = path_parameters(operation.path);
    for query in &operation.queries {
        parameters.extend(query_parameters(*query, generator));
    }
    if operation.event_types {
        parameters.push(json!({
            "in": "query",
            "name": "event_types",
            "description": "Filter response based on the event type",
            "schema": { "type": "array", "nullable": true, "uniqueItems": true, "items": name_schema() },
        }));
    }
    if operation.method == Method::POST {
        parameters.push(json!({
            "in": "header",
            "name": "idempotency-key",
            "description": "The request's idempotency key",
            "schema": { "type": "string" },
        }));
    }
    let mut responses = Map::new();
    for (status, schema) in &operation.answers {
        let answer = match schema {
            Some(schema) => response("", &schema(generator)),
            None => json!({ "description": "" }),
        };
        responses.insert(status.to_string(), answer);
    }
    for status in errors(operation) {
        let kind = if *status == 422 { "Invalid" } else { "Error" };
        responses.insert(status.to_string(), json!({ "$ref": format!("#/components/responses/{kind}") }));
    }
    let mut described = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": parameters,
        "responses": responses,
        "x-access": operation.access.map_or("open", Access::name),
    });
    if operation.access.is_none() {
        described["security"] = json!([]);
    }
    if let Some(body) = operation.body {
        let content = json!({ "application/json": { "schema": body(generator) } });
        described["requestBody"] = json!({ "required": operation.body_required, "content": content });
    }
    described
}

/// Every operation can give these; only those that store can find the disk full.
fn errors(operation: &Operation) -> &'static [u16] {
    match (operation.access, operation.method == Method::GET) {
        (None, _) => &[503],
        (Some(_), true) => &[400, 401, 403, 404, 409, 422, 429],
        (Some(_), false) => &[400, 401, 403, 404, 409, 413, 422, 429, 503, 507],
    }
}

fn name_schema() -> Value {
    json!({ "type": "string", "maxLength": 256, "minLength": 1, "pattern": crate::wire::NAME_PATTERN })
}

fn path_parameters(path: &str) -> Vec<Value> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "in": "path", "name": name, "required": true, "schema": name_schema() }))
        .collect()
}

/// The members of an object become parameters.
fn query_parameters(query: SchemaOf, generator: &mut SchemaGenerator) -> Vec<Value> {
    let mut schema = query(generator);
    generator.transforms_mut().for_each(|transform| transform.transform(&mut schema));
    let members = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    members
        .into_iter()
        .map(|(name, mut schema)| {
            let description = schema.as_object_mut().and_then(|s| s.remove("description")).unwrap_or(json!(""));
            json!({ "in": "query", "name": name, "description": description, "schema": schema })
        })
        .collect()
}
