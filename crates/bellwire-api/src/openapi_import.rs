//! Event types from the webhooks of an OpenAPI document. Pure: reads a document, answers what it says, and where it cannot be read.
//!
//! Each member of `webhooks` (3.1) or `x-webhooks` (3.0) is an event type by its key; its operation gives description, `deprecated`,
//! `x-svix-group-name` and `x-svix-feature-flags`; the JSON Schema is that of its request body, with everything it refers to.

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const WEBHOOKS_MAX: usize = 1_000;
/// Values in all schemas together, with what they refer to.
const VALUES_MAX: usize = 500_000;
const METHODS: [&str; 7] = ["post", "put", "patch", "get", "delete", "head", "options"];
/// Below these, values are data and no schemas.
const DATA: [&str; 5] = ["example", "examples", "default", "enum", "const"];

/// An event type as a document has it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Imported {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) deprecated: bool,
    pub(crate) group_name: Option<String>,
    pub(crate) feature_flags: Vec<String>,
    /// Self-contained.
    pub(crate) schema: Option<Value>,
}

/// What cannot be read, and where in the document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unreadable {
    pub(crate) path: Vec<String>,
    pub(crate) msg: String,
}

/// Reads a text of YAML or JSON, of at most `depth_max` levels and `keys_max` members.
///
/// # Errors
/// Why it is neither.
pub(crate) fn parse(text: &str, depth_max: usize, keys_max: usize) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: depth_max,
            max_nodes: keys_max.saturating_mul(4),
            max_documents: 1,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let first = error.to_string();
        first.lines().next().unwrap_or_default().chars().take(300).collect()
    })
}

/// The event types of `document`, in its order.
///
/// # Errors
/// All that cannot be read.
pub(crate) fn read(document: &Value) -> Result<Vec<Imported>, Vec<Unreadable>> {
    let mut reader = Reader { document, left: VALUES_MAX, own: None };
    let mut imported: Vec<Imported> = Vec::new();
    let mut faults = Vec::new();
    let mut found = false;
    for section in ["webhooks", "x-webhooks"] {
        let Some(webhooks) = document[section].as_object() else { continue };
        found = true;
        for (name, item) in webhooks.iter().take(WEBHOOKS_MAX + 1 - imported.len()) {
            match reader.webhook(name, item) {
                Ok(webhook) => imported.push(webhook),
                Err(msg) => faults.push(Unreadable { path: vec![section.to_owned(), name.clone()], msg }),
            }
        }
    }
    let whole = |msg: &str| vec![Unreadable { path: Vec::new(), msg: msg.to_owned() }];
    if !found {
        return Err(whole("the document has neither `webhooks` nor `x-webhooks`"));
    }
    if imported.len() > WEBHOOKS_MAX {
        return Err(whole("the document has more than 1,000 webhooks"));
    }
    if faults.is_empty() { Ok(imported) } else { Err(faults) }
}

struct Reader<'a> {
    document: &'a Value,
    /// Values that may still be copied.
    left: usize,
    /// The place of the schema that is copied, if references into it are references into the copy.
    own: Option<String>,
}

impl<'a> Reader<'a> {
    fn webhook(&mut self, name: &str, item: &'a Value) -> Result<Imported, String> {
        let item = self.resolved(item)?;
        let operation = METHODS.iter().find_map(|method| item.get(*method)).ok_or("has no operation such as `post`")?;
        let body = self.resolved(&operation["requestBody"])?;
        let text = |holder: &Value, member: &str| holder[member].as_str().map(str::to_owned);
        let description = text(operation, "description").or_else(|| text(operation, "summary"));
        let description = description.or_else(|| text(body, "description")).or_else(|| text(item, "description"));
        let flags = match &operation["x-svix-feature-flags"] {
            Value::Array(flags) => flags.iter().filter_map(|flag| flag.as_str().map(str::to_owned)).collect(),
            _ => text(operation, "x-svix-feature-flag").into_iter().collect(),
        };
        let media = body["content"].as_object().and_then(|content| {
            let json = content.iter().find(|(kind, _)| *kind == "application/json" || kind.ends_with("+json"));
            json.map(|(_, media)| media)
        });
        let schema = media.and_then(|media| media.get("schema")).map(|schema| self.schema(name, schema)).transpose()?;
        Ok(Imported {
            name: name.to_owned(),
            description: description.unwrap_or_default(),
            deprecated: operation["deprecated"] == true,
            group_name: text(operation, "x-svix-group-name"),
            feature_flags: flags,
            schema,
        })
    }

    /// What it refers to, if it is a reference.
    fn resolved(&self, value: &'a Value) -> Result<&'a Value, String> {
        match value["$ref"].as_str() {
            Some(reference) => self.find(reference),
            None => Ok(value),
        }
    }

    fn find(&self, reference: &str) -> Result<&'a Value, String> {
        let found = reference.strip_prefix('#').and_then(|pointer| self.document.pointer(pointer));
        found.ok_or_else(|| format!("the reference {reference:?} leads nowhere in the document"))
    }

    /// Nothing but a reference to what has the event type's own name, as our own documents have it, is that schema itself.
    fn schema(&mut self, name: &str, schema: &'a Value) -> Result<Value, String> {
        let own = format!("#/components/schemas/{name}");
        if *schema != json!({ "$ref": own }) {
            return self.self_contained(schema);
        }
        let target = self.find(&own)?;
        self.own = Some(own);
        let whole = self.self_contained(target);
        self.own = None;
        whole
    }

    /// The schema with what it refers to below `$defs`.
    fn self_contained(&mut self, schema: &'a Value) -> Result<Value, String> {
        let mut wanted = Vec::new();
        let mut seen = BTreeSet::new();
        let mut whole = self.copy(schema, &mut wanted)?;
        let mut definitions = Map::new();
        while let Some(reference) = wanted.pop() {
            if seen.insert(reference.clone()) {
                let target = self.find(&reference)?;
                definitions.insert(local_name(&reference), self.copy(target, &mut wanted)?);
            }
        }
        let Some(members) = whole.as_object_mut() else { return Ok(whole) };
        match members.get_mut("$defs") {
            Some(Value::Object(own)) if self.own.is_some() => {
                if let Some(twice) = definitions.keys().find(|name| own.contains_key(*name)) {
                    return Err(format!("there is {twice:?} among the schemas, and below its own `$defs`; rename one"));
                }
                own.append(&mut definitions);
            }
            // Its own, if it has any, are found by their place in the document.
            _ if !definitions.is_empty() => drop(members.insert("$defs".to_owned(), Value::Object(definitions))),
            _ => {}
        }
        // What 3.1 means by a schema; 3.0 is closest to draft 7.
        if !self.document["openapi"].as_str().is_some_and(|version| version.starts_with("3.0")) {
            members.entry("$schema").or_insert_with(|| json!("https://json-schema.org/draft/2020-12/schema"));
        }
        Ok(whole)
    }

    /// The place in the schema that is copied, if the reference leads there.
    fn within<'r>(&self, reference: &'r str) -> Option<&'r str> {
        let place = reference.strip_prefix(self.own.as_deref()?)?;
        (place.is_empty() || place.starts_with('/')).then_some(place)
    }

    /// A copy with references to `$defs`, and without what only OpenAPI 3.0 knows.
    fn copy(&mut self, schema: &Value, wanted: &mut Vec<String>) -> Result<Value, String> {
        self.left = self.left.checked_sub(1).ok_or("the schemas with what they refer to are too large")?;
        match schema {
            Value::Object(members) => {
                let mut copy = Map::new();
                for (name, member) in members {
                    let member = match (name.as_str(), member) {
                        ("$ref", Value::String(reference)) => match self.within(reference) {
                            Some(place) => json!(format!("#{place}")),
                            None => {
                                wanted.push(reference.clone());
                                json!(format!("#/$defs/{}", local_name(reference)))
                            }
                        },
                        (data, member) if DATA.contains(&data) => {
                            self.left = self.left.saturating_sub(count(member));
                            member.clone()
                        }
                        (_, member) => self.copy(member, wanted)?,
                    };
                    copy.insert(name.clone(), member);
                }
                write_newer(&mut copy);
                Ok(Value::Object(copy))
            }
            Value::Array(items) => {
                items.iter().map(|item| self.copy(item, wanted)).collect::<Result<_, _>>().map(Value::Array)
            }
            other => Ok(other.clone()),
        }
    }
}

/// `nullable` and the boolean bounds of 3.0, as JSON Schema has them.
fn write_newer(schema: &mut Map<String, Value>) {
    if schema.get("nullable") == Some(&json!(true)) && schema.get("type").is_some_and(Value::is_string) {
        let kind = schema["type"].clone();
        schema.insert("type".to_owned(), json!([kind, "null"]));
        if let Some(Value::Array(values)) = schema.get_mut("enum")
            && !values.contains(&Value::Null)
        {
            values.push(Value::Null);
        }
        schema.remove("nullable");
    }
    for (exclusive, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        match schema.get(exclusive) {
            Some(Value::Bool(true)) if schema.get(bound).is_some_and(Value::is_number) => {
                let value = schema.remove(bound).unwrap_or_default();
                schema.insert(exclusive.to_owned(), value);
            }
            Some(Value::Bool(false)) => drop(schema.remove(exclusive)),
            _ => {}
        }
    }
}

/// Under which name a reference's target stands below `$defs`.
fn local_name(reference: &str) -> String {
    let pointer = reference.trim_start_matches('#').trim_start_matches('/');
    pointer.strip_prefix("components/schemas/").unwrap_or(pointer).replace('/', ".")
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(count).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWER: &str = r##"
openapi: 3.1.0
webhooks:
  pet.new:
    post:
      description: A pet came.
      x-svix-group-name: pets
      x-svix-feature-flags: [beta, gamma]
      requestBody:
        $ref: "#/components/requestBodies/Pet"
      responses:
        200:
          description: thanks
  pet.gone:
    put:
      summary: It went.
      deprecated: true
components:
  requestBodies:
    Pet:
      content:
        application/json:
          schema: { $ref: "#/components/schemas/Pet" }
  schemas:
    Pet:
      type: object
      properties:
        id: { type: integer }
        friends: { type: array, items: { $ref: "#/components/schemas/Pet" } }
        kind: { $ref: "#/components/schemas/Kind/properties/name" }
      example: { $ref: not a reference }
    Kind: { properties: { name: { type: string } } }
"##;

    #[test]
    fn webhooks_become_event_types_with_all_that_they_refer_to() {
        let document = parse(NEWER, 64, 1_000).unwrap_or_else(|error| panic!("{error}"));
        let imported = read(&document).unwrap_or_else(|faults| panic!("{faults:?}"));
        let pet = json!({
            "type": "object",
            "properties": {
                "id": { "type": "integer" },
                "friends": { "type": "array", "items": { "$ref": "#/$defs/Pet" } },
                "kind": { "$ref": "#/$defs/Kind.properties.name" },
            },
            "example": { "$ref": "not a reference" },
        });
        let expected = [
            Imported {
                name: "pet.new".into(),
                description: "A pet came.".into(),
                deprecated: false,
                group_name: Some("pets".into()),
                feature_flags: vec!["beta".into(), "gamma".into()],
                schema: Some(json!({
                    "$ref": "#/$defs/Pet",
                    "$defs": { "Pet": pet, "Kind.properties.name": { "type": "string" } },
                    "$schema": "https://json-schema.org/draft/2020-12/schema",
                })),
            },
            Imported {
                name: "pet.gone".into(),
                description: "It went.".into(),
                deprecated: true,
                group_name: None,
                feature_flags: vec![],
                schema: None,
            },
        ];
        assert_eq!(imported, expected);
        for imported in imported.iter().filter_map(|i| i.schema.as_ref()) {
            crate::schema::Schema::compile(imported, 64).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    #[test]
    fn a_schema_under_the_event_type_s_own_name_is_what_it_was_before_it_was_exported() {
        let schema = |at: &str| {
            json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "allOf": [{ "$ref": format!("{at}/$defs/Base") }],
                "properties": { "parent": { "$ref": at }, "more": { "$ref": format!("{at}/$defs/Base/properties/id") } },
                "$defs": { "Base": { "properties": { "id": { "type": "string" } } }, "Spare": {} },
                "examples": [{ "id": "1" }],
                "x-bellwire-aliases": ["0"],
            })
        };
        let body = json!({ "content": { "application/json": { "schema": { "$ref": "#/components/schemas/a.b" } } } });
        let mut document = json!({ "openapi": "3.1.0", "webhooks": { "a.b": { "post": { "requestBody": body } } },
            "components": { "schemas": { "a.b": schema("#/components/schemas/a.b") } } });
        let imported = read(&document).unwrap_or_else(|faults| panic!("{faults:?}"));
        assert_eq!(imported[0].schema, Some(schema("#")));
        // What belongs to others stands beside its own.
        document["components"]["schemas"]["a.b"]["not"] = json!({ "$ref": "#/components/schemas/a.bc" });
        document["components"]["schemas"]["a.bc"] = json!({ "type": "null" });
        let imported = read(&document).unwrap_or_else(|faults| panic!("{faults:?}"));
        let mut expected = schema("#");
        expected["not"] = json!({ "$ref": "#/$defs/a.bc" });
        expected["$defs"]["a.bc"] = json!({ "type": "null" });
        assert_eq!(imported[0].schema, Some(expected));
    }

    #[test]
    fn what_only_openapi_3_0_knows_is_written_newer() {
        let schema = json!({ "properties": {
            "a": { "type": "string", "nullable": true, "enum": ["x"] },
            "b": { "type": "integer", "minimum": 1, "exclusiveMinimum": true, "maximum": 9, "exclusiveMaximum": false },
        } });
        let document = json!({ "openapi": "3.0.2", "x-webhooks": { "a": { "post": {
            "requestBody": { "content": { "application/cloudevents+json": { "schema": schema } } } } } } });
        let imported = read(&document).unwrap_or_else(|faults| panic!("{faults:?}"));
        let expected = json!({ "properties": {
            "a": { "type": ["string", "null"], "enum": ["x", null] },
            "b": { "type": "integer", "exclusiveMinimum": 1, "maximum": 9 },
        } });
        assert_eq!(imported[0].schema, Some(expected));
    }

    #[test]
    fn faults_are_told_with_their_place() {
        let check = |document: Value, path: &[&str], msg: &str| {
            let faults = read(&document).map(|_| ()).expect_err(&document.to_string());
            assert!(faults[0].path == path && faults[0].msg.contains(msg), "{faults:?}");
        };
        check(json!({}), &[], "neither");
        check(json!({ "webhooks": { "a": {} } }), &["webhooks", "a"], "no operation");
        let body = json!({ "content": { "application/json": { "schema": { "$ref": "#/components/schemas/No" } } } });
        check(json!({ "webhooks": { "a": { "post": { "requestBody": body } } } }), &["webhooks", "a"], "leads nowhere");
        let many: Map<String, Value> = (0..1_001).map(|n| (format!("e{n}"), json!({ "post": {} }))).collect();
        check(json!({ "webhooks": many }), &[], "1,000");
    }

    #[test]
    fn hostile_texts_are_refused() {
        assert!(parse("a: [", 64, 1_000).is_err());
        assert!(parse(&"[".repeat(1_000), 64, 1_000).is_err());
        let bomb: String = (1..30).map(|n| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1)).collect();
        assert!(parse(&format!("a0: &a0 [x]\n{bomb}"), 64, 1_000).is_err());
        assert!(parse(r#"{"openapi": "3.1.0"}"#, 64, 1_000).is_ok());
    }
}
