//! Many event types at once: from an OpenAPI document, and as an environment that is taken out and brought in.

use crate::Api;
use crate::auth::Principal;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::Begun;
use crate::error::{self, Error, Fault};
use crate::event_type::{EventTypeIn, EventTypeOut, NewEventType};
use crate::field::Faults;
#[cfg(feature = "document")]
use crate::message::AnyObject;
use crate::openapi_import::{Imported, Unreadable, parse, read};
use crate::operation::{Access, Operation};
use crate::schema::{newest_version, versions};
use crate::wire::Time;
use axum::response::Response;
use bellwire_model::EventType;
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::sync::Arc;

/// The version of a schema whose event type had none.
const FIRST_VERSION: &str = "1";

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::editing(Method::POST, "/api/v1/event-type/import/openapi", Access::Organisation, import_openapi)
            .described(
                "v1.event-type.import-openapi",
                "Event Type",
                "Create or update event types from the `webhooks` or `x-webhooks` of an OpenAPI document. Archived ones come back; a new schema takes \
                 the place of the newest version.",
            )
            .body::<ImportIn>()
            .answers::<ImportOut>(200),
        Operation::new(Method::POST, "/api/v1/environment/export", Access::Organisation, export)
            .described("v1.environment.export", "Environment", "Everything that is configured for all applications: the event types.")
            .answers::<EnvironmentOut<'static>>(200),
        Operation::editing(Method::POST, "/api/v1/environment/import", Access::Organisation, import)
            .described(
                "v1.environment.import",
                "Environment",
                "Create or update what an export holds; nothing is removed. Settings and connectors of Svix's hosted service are refused.",
            )
            .body::<EnvironmentIn>()
            .answers_nothing(204),
    ]
}

/// Exactly one of `spec` and `specRaw`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventTypeImportOpenApiIn")]
struct ImportIn {
    /// The document.
    #[schemars(with = "Option<AnyObject>")]
    spec: Option<Map<String, Value>>,
    /// The document as a text of YAML or JSON.
    spec_raw: Option<String>,
    /// Only answer what would change.
    #[serde(default)]
    dry_run: bool,
    /// Archive all event types that are not in the document.
    #[serde(default)]
    replace_all: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EventTypeImportOpenApiOut")]
struct ImportOut {
    data: ImportOutData,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EventTypeImportOpenApiOutData")]
struct ImportOutData {
    /// The names of the event types that were changed.
    modified: Vec<String>,
    /// What would be changed, with `dryRun`.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_modify: Option<Vec<ToModify>>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventTypeFromOpenApi")]
struct ToModify {
    name: String,
    description: String,
    #[schemars(with = "Option<AnyObject>")]
    schemas: Option<Value>,
    deprecated: bool,
    group_name: Option<String>,
    feature_flags: Option<Vec<String>>,
}

impl From<&EventType> for ToModify {
    fn from(event_type: &EventType) -> Self {
        ToModify {
            name: event_type.name.clone(),
            description: event_type.description.clone(),
            schemas: event_type.schemas.as_deref().map(|text| Value::Object(versions(text))),
            deprecated: event_type.deprecated,
            group_name: event_type.group_name.clone(),
            feature_flags: Some(event_type.feature_flags.clone()),
        }
    }
}

async fn import_openapi(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let input: ImportIn = body.parse()?;
    let (dry_run, replace_all) = (input.dry_run, input.replace_all);
    let api = call.api.clone();
    // Reading a large document and compiling its schemas takes its time.
    let imported = tokio::task::spawn_blocking(move || imported(&api, input.spec, input.spec_raw)).await;
    let imported = imported.map_err(|error| Error::Internal(format!("reading a document ended: {error}")))??;

    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let changed = changes(&call.api, &call.principal, imported, replace_all);
    let mut data = ImportOutData { modified: Vec::new(), to_modify: None };
    if dry_run {
        data.to_modify = Some(changed.iter().map(|event_type| ToModify::from(&**event_type)).collect());
    } else {
        data.modified = changed.iter().map(|event_type| event_type.name.clone()).collect();
        changed.into_iter().for_each(|event_type| edit.put(Change::PutEventType(event_type)));
    }
    edit.answer(StatusCode::OK, &ImportOut { data }).await
}

/// What a document holds, checked as if each had come by itself.
fn imported(
    api: &Api,
    spec: Option<Map<String, Value>>,
    raw: Option<String>,
) -> Result<Vec<(Imported, NewEventType)>, Error> {
    let settings = api.settings();
    let (field, document) = match (spec, raw) {
        (Some(spec), None) => ("spec", Value::Object(spec)),
        (None, Some(raw)) => match parse(&raw, settings.json_depth_max, settings.json_keys_max) {
            Ok(document) => ("specRaw", document),
            Err(why) => return Err(Error::invalid(&["body", "specRaw"], format!("is neither YAML nor JSON: {why}"))),
        },
        _ => return Err(Error::bad_request("generic_error", "Give exactly one of `spec` and `specRaw`.")),
    };
    let imported = read(&document).map_err(|faults| {
        let fault = |Unreadable { path, msg }: Unreadable| {
            let loc: Vec<&str> = ["body", field].into_iter().chain(path.iter().map(String::as_str)).collect();
            Fault::new(&loc, msg)
        };
        Error::Invalid(faults.into_iter().map(fault).collect())
    })?;
    imported
        .into_iter()
        .map(|imported| {
            let mut faults = Faults::inside(&[field, "webhooks", &imported.name]);
            faults.event_type_name("name", &imported.name);
            let new = NewEventType::of_import(api, &imported, faults)?;
            Ok((imported, new))
        })
        .collect()
}

/// What is not there yet, or is there otherwise.
fn changes(
    api: &Api,
    principal: &Principal,
    imported: Vec<(Imported, NewEventType)>,
    replace_all: bool,
) -> Vec<Arc<EventType>> {
    let now = api.backend().now();
    let organisation = principal.organisation();
    let catalogue = api.backend().catalogue().read();
    let mut named = HashSet::new();
    let mut changed = Vec::new();
    for (Imported { name, schema, .. }, mut new) in imported {
        let existing = catalogue.event_type(organisation, &name);
        if let Some(schema) = schema {
            let mut schemas = existing.and_then(|e| e.schemas.as_deref()).map(versions).unwrap_or_default();
            let version = newest_version(&schemas).unwrap_or(FIRST_VERSION).to_owned();
            schemas.insert(version, schema);
            new.schemas = Some(Value::Object(schemas).to_string());
        } else {
            new.schemas = existing.and_then(|e| e.schemas.clone());
        }
        let event_type = new.put(api, organisation, &name, existing.map(|e| &**e));
        let same = |existing: &Arc<EventType>| {
            EventType { updated_at: event_type.updated_at, ..EventType::clone(existing) } == *event_type
        };
        if !existing.is_some_and(same) {
            changed.push(event_type);
        }
        named.insert(name);
    }
    if replace_all {
        let others = catalogue.event_types_of(organisation).filter(|t| !t.archived && !named.contains(&t.name));
        changed.extend(others.map(|t| Arc::new(EventType { archived: true, updated_at: now, ..EventType::clone(t) })));
    }
    changed
}

/// What is configured for all applications.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EnvironmentOut")]
struct EnvironmentOut<'a> {
    version: u8,
    created_at: Time,
    event_types: Vec<EventTypeOut<'a>>,
    /// Always null: what Svix's hosted service sets here is in the server's settings, or nowhere.
    #[schemars(with = "AnyObject", required, extend("nullable" = true))]
    settings: Option<Map<String, Value>>,
    /// Always empty.
    #[schemars(with = "Vec<AnyObject>")]
    connectors: [(); 0],
}

async fn export(call: Call) -> Result<Response, Error> {
    let all: Vec<Arc<EventType>> = {
        let catalogue = call.api.backend().catalogue().read();
        catalogue.event_types_of(call.principal.organisation()).cloned().collect()
    };
    let out = EnvironmentOut {
        version: 1,
        created_at: Time(call.api.backend().now()),
        event_types: all.iter().map(|event_type| EventTypeOut::new(event_type, true)).collect(),
        settings: None,
        connectors: [],
    };
    Ok(error::json(StatusCode::OK, &out))
}

/// What an export answered, here or at Svix.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EnvironmentIn")]
struct EnvironmentIn {
    event_types: Option<Vec<EventTypeIn>>,
    /// Refused unless it is empty.
    #[schemars(with = "Option<AnyObject>")]
    settings: Option<Map<String, Value>>,
    /// Refused unless it is empty.
    #[schemars(with = "Option<Vec<AnyObject>>")]
    connectors: Option<Vec<Value>>,
}

async fn import(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let input: EnvironmentIn = body.parse()?;
    let mut faults = Faults::new();
    let settings = input.settings.unwrap_or_default();
    for (name, _) in settings.iter().filter(|(_, value)| !value.is_null()) {
        faults.add_at(&["settings", name], "Bellwire has no such setting of an environment; leave it out");
    }
    for (at, connector) in input.connectors.unwrap_or_default().iter().enumerate() {
        let name = connector["name"].as_str().unwrap_or("without a name");
        faults.add_at(&["connectors", &format!("[{at}]")], format!("Bellwire has no connectors; leave {name:?} out"));
    }
    faults.end()?;
    let mut new = Vec::new();
    for (at, mut event_type) in input.event_types.unwrap_or_default().into_iter().enumerate() {
        let mut faults = Faults::inside(&["eventTypes", &format!("[{at}]")]);
        let name = event_type.take_name(&mut faults);
        new.push((name, event_type.check(&call.api, faults)?));
    }
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    for (name, new) in new {
        let organisation = call.principal.organisation();
        let existing = call.api.backend().catalogue().read().event_type(organisation, &name).cloned();
        edit.put(Change::PutEventType(new.put(&call.api, organisation, &name, existing.as_deref())));
    }
    edit.no_content().await
}
