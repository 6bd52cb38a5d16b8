//! The OpenAPI document: committed, up to date, and no narrower than Svix's.
//!
//! `data/svix-*.json` are reduced copies of Svix's documents; `data/reduce.py` makes them.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Where we differ knowingly, as the text that would be reported, with the reason.
const KNOWN: &[(&str, &str)] = &[];

#[test]
fn the_committed_document_is_up_to_date() {
    let now = format!("{}\n", serde_json::to_string_pretty(&bellwire_api::openapi_document()).unwrap());
    blessed("openapi.json", &now);
}

/// A page under `docs/` is what the code says; with `BELLWIRE_BLESS`, it is made so.
#[track_caller]
pub(crate) fn blessed(page: &str, now: &str) {
    let path = format!("{}/../../docs/{page}", env!("CARGO_MANIFEST_DIR"));
    #[expect(clippy::disallowed_methods, reason = "a switch for whoever runs the test")]
    let bless = std::env::var_os("BELLWIRE_BLESS").is_some();
    if bless {
        std::fs::write(&path, now).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == now, "docs/{page} is not what the code says: run this test with BELLWIRE_BLESS=1");
}

#[test]
fn operation_ids_are_unique_and_every_reference_leads_somewhere() {
    let document = bellwire_api::openapi_document();
    let mut ids = std::collections::BTreeSet::new();
    for (name, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(!id.is_empty() && ids.insert(id), "{name}: {id}");
        assert_ne!(operation["summary"], "", "{name}");
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[test]
fn what_the_open_server_documents_is_here() {
    let mut known = KNOWN.to_vec();
    let send_example = "POST /api/v1/app/{app_id}/endpoint/{endpoint_id}/send-example: status 200 is missing";
    known.push((
        send_example,
        "the document that the SDKs are made of has 202, as every operation that accepts a message",
    ));
    compare(include_str!("../data/svix-server.json"), &known);
}

#[test]
fn what_the_sdks_insist_on_is_here() {
    let mut known = KNOWN.to_vec();
    known.push(("GET /api/v1/auth/whoami: 200: member streamAppId is missing", "there are no streams"));
    let empty = "there are no connectors: the list is always empty, and must be";
    known.push(("POST /api/v1/environment/export: 200: member connectors[].*", empty));
    known.push(("POST /api/v1/environment/import: request member connectors[].*", empty));
    let look = "a portal's look is none of ours";
    known.extend(
        [
            "GET /api/v1/environment/settings: 200: member color*",
            "GET /api/v1/environment/settings: 200: member custom*",
            "GET /api/v1/environment/settings: 200: member logoUrl is missing",
            "GET /api/v1/environment/settings: 200: member displayName is missing",
        ]
        .map(|text| (text, look)),
    );
    compare(include_str!("../data/svix-sdk.json"), &known);
}

#[test]
fn everything_of_theirs_that_is_here_is_compared() {
    let theirs: BTreeMap<String, Value> = serde_json::from_str(include_str!("../data/svix-sdk.json")).unwrap();
    let document = bellwire_api::openapi_document();
    let here: Vec<_> = operations(&document).into_iter().map(|(name, _)| name).collect();
    for line in include_str!("../../src/svix_operations.txt").lines() {
        let name = line.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ");
        assert!(!here.contains(&name) || theirs.contains_key(&name), "{name} is claimed, and not in tests/data");
    }
}

#[track_caller]
fn compare(theirs: &str, known: &[(&str, &str)]) {
    let theirs: BTreeMap<String, Value> = serde_json::from_str(theirs).unwrap();
    let document = bellwire_api::openapi_document();
    let mut differences = Vec::new();
    let mut compared = 0;
    for (name, operation) in operations(&document) {
        let Some(theirs) = theirs.get(&name) else { continue };
        compared += 1;
        let ours = reduce(&document, operation);
        differences.extend(differ(&ours, theirs).into_iter().map(|text| format!("{name}: {text}")));
    }
    assert!(compared > 30, "only {compared} operations were compared");
    // One that ends with a star stands for all that begin so.
    let is = |difference: &str, known: &str| match known.strip_suffix('*') {
        Some(beginning) => difference.starts_with(beginning),
        None => difference == known,
    };
    let unknown: Vec<_> = differences.iter().filter(|d| !known.iter().any(|(text, _)| is(d, text))).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    for (text, _) in known {
        assert!(differences.iter().any(|d| is(d, text)), "is no difference any more: {text}");
    }
}

/// What a client of theirs would miss.
fn differ(ours: &Value, theirs: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let empty = Map::new();
    let members = |value: &'_ Value| value.as_object().cloned().unwrap_or_default();
    for (name, their) in &members(&theirs["parameters"]) {
        match ours["parameters"].get(name) {
            None => found.push(format!("parameter {name} is missing")),
            Some(our) if our["type"] != their["type"] => found.push(format!("parameter {name} has another type")),
            Some(_) => {}
        }
    }
    for (name, our) in &members(&ours["parameters"]) {
        if our["required"] == true && theirs["parameters"].get(name).is_none_or(|their| their["required"] == false) {
            found.push(format!("parameter {name} is required"));
        }
    }
    for (way, their) in &members(&theirs["request"]) {
        match ours["request"].get(way) {
            None => found.push(format!("request member {way} is missing")),
            Some(our) if our["type"] != their["type"] => found.push(format!("request member {way} has another type")),
            Some(_) => {}
        }
    }
    for (way, our) in &members(&ours["request"]) {
        if our["required"] == true && theirs["request"].get(way).is_some_and(|their| their["required"] == false) {
            found.push(format!("request member {way} is required"));
        }
    }
    let statuses = ours["statuses"].as_array().unwrap();
    // What needs no token has no errors of a token's kind, whatever their document says.
    let errors = ours["open"] == false;
    for status in theirs["statuses"].as_array().unwrap() {
        if (errors || status.as_str().unwrap().starts_with('2')) && !statuses.contains(status) {
            found.push(format!("status {} is missing", status.as_str().unwrap()));
        }
    }
    for (status, response) in theirs["responses"].as_object().unwrap_or(&empty) {
        let Some(our_response) = ours["responses"].get(status) else { continue };
        for (way, their) in &members(response) {
            match our_response.get(way) {
                None => found.push(format!("{status}: member {way} is missing")),
                Some(our) if our["type"] != their["type"] => found.push(format!("{status}: {way} has another type")),
                Some(our) if their["required"] == true && our["required"] == false => {
                    found.push(format!("{status}: {way} is not required"));
                }
                Some(_) => {}
            }
        }
    }
    found
}

pub(crate) fn operations(document: &Value) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((format!("{} {path}", method.to_ascii_uppercase()), operation));
        }
    }
    all
}

/// As `reduce.py` does it.
fn reduce(document: &Value, operation: &Value) -> Value {
    let parameters: Map<String, Value> = operation["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["in"] != "path")
        .map(|p| {
            let name = format!("{} {}", p["in"].as_str().unwrap(), p["name"].as_str().unwrap());
            let kind = resolve(document, &p["schema"])["type"].clone();
            (name, serde_json::json!({ "type": kind, "required": p["required"] == true }))
        })
        .collect();
    let responses = operation["responses"].as_object().unwrap();
    let successes: Map<String, Value> = responses
        .iter()
        .filter(|(status, _)| status.starts_with('2'))
        .map(|(status, response)| (status.clone(), body(document, response)))
        .collect();
    serde_json::json!({
        "open": operation["x-access"] == "open",
        "parameters": parameters,
        "request": body(document, &operation["requestBody"]),
        "statuses": responses.keys().collect::<Vec<_>>(),
        "responses": successes,
    })
}

fn body(document: &Value, holder: &Value) -> Value {
    let mut flat = Map::new();
    if let Some(schema) = holder.pointer("/content/application~1json/schema") {
        flatten(document, schema, "", true, 0, &mut flat);
    }
    Value::Object(flat)
}

fn resolve<'a>(document: &'a Value, mut schema: &'a Value) -> &'a Value {
    loop {
        if let Some(reference) = schema["$ref"].as_str() {
            schema = document.pointer(&reference[1..]).unwrap();
        } else if schema["allOf"].as_array().is_some_and(|all| all.len() == 1) && schema["type"].is_null() {
            schema = &schema["allOf"][0];
        } else {
            return schema;
        }
    }
}

fn flatten(document: &Value, schema: &Value, way: &str, required: bool, depth: u8, flat: &mut Map<String, Value>) {
    let schema = resolve(document, schema);
    let kind = schema["type"].as_str().unwrap_or("any");
    if !way.is_empty() {
        flat.insert(way.to_owned(), serde_json::json!({ "type": kind, "required": required }));
    }
    if depth > 6 {
        return;
    }
    let needed = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, member) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        let inside = if way.is_empty() { name.clone() } else { format!("{way}.{name}") };
        flatten(document, member, &inside, needed.iter().any(|n| n == name), depth + 1, flat);
    }
    if kind == "array" {
        flatten(document, &schema["items"], &format!("{way}[]"), true, depth + 1, flat);
    }
    if schema["additionalProperties"].as_object().is_some_and(|more| !more.is_empty()) {
        flatten(document, &schema["additionalProperties"], &format!("{way}{{}}"), true, depth + 1, flat);
    }
}
