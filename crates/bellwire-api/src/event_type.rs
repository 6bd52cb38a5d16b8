//! Event types. Archived ones are hidden and refused for endpoints; messages of them are still accepted.

use crate::Api;
use crate::auth::Principal;
use crate::call::Call;
use crate::document::JsonSchema;
#[cfg(feature = "document")]
use crate::document::{SchemaGenerator, json_schema};
use crate::edit::Begun;
use crate::error::{self, Error};
use crate::field::{Faults, event_type_fault};
use crate::openapi_import::Imported;
use crate::operation::{Access, Operation};
use crate::page::{ListOut, Ordered, Ordering, Paging, cut};
use crate::schema::Schema;
use crate::wire::{Keep, Patch, Time};
use axum::response::Response;
use bellwire_model::{EventType, OrganisationId};
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

const TAG: &str = "Event Type";
const FLAGS_MAX: usize = 64;

pub(crate) fn operations() -> Vec<Operation> {
    let all = "/api/v1/event-type";
    let one = "/api/v1/event-type/{event_type_name}";
    vec![
        Operation::new(Method::GET, all, Access::Reader, list)
            .described("v1.event-type.list", TAG, "Return the list of event types, by name.")
            .query::<Paging>()
            .query::<Ordered>()
            .query::<ListQuery>()
            .answers::<ListOut<EventTypeOut<'static>>>(200),
        Operation::editing(Method::POST, all, Access::Organisation, create)
            .described("v1.event-type.create", TAG, "Create new or unarchive existing event type.")
            .body::<EventTypeIn>()
            .answers::<EventTypeOut<'static>>(201),
        Operation::new(Method::GET, one, Access::Reader, get)
            .described("v1.event-type.get", TAG, "Get an event type.")
            .answers::<EventTypeOut<'static>>(200),
        Operation::editing(Method::PUT, one, Access::Organisation, put)
            .described("v1.event-type.update", TAG, "Update an event type, or create it.")
            .body::<EventTypeUpdate>()
            .answers::<EventTypeOut<'static>>(200)
            .answers::<EventTypeOut<'static>>(201),
        Operation::editing(Method::PATCH, one, Access::Organisation, patch)
            .described("v1.event-type.patch", TAG, "Partially update an event type.")
            .body::<EventTypePatch>()
            .answers::<EventTypeOut<'static>>(200),
        Operation::editing(Method::DELETE, one, Access::Organisation, delete)
            .described(
                "v1.event-type.delete",
                TAG,
                "Archive an event type. Endpoints that filter on it go on doing so; with `expunge`, it is removed.",
            )
            .query::<DeleteQuery>()
            .answers_nothing(204),
    ]
}

/// JSON Schemas by version, as they came.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
struct Schemas(Box<RawValue>);

#[cfg(feature = "document")]
impl JsonSchema for Schemas {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Schemas".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> crate::document::Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": { "type": "object" },
            "description": "The schema for the event type for a specific version as a JSON schema.",
        })
    }
}

/// An event type, to be created or replaced.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventTypeIn {
    /// The event type's name
    #[schemars(required, length(max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    name: Option<String>,
    #[schemars(required)]
    description: Option<String>,
    #[serde(default)]
    archived: bool,
    #[serde(default)]
    deprecated: bool,
    schemas: Option<Schemas>,
    /// One flag, for older clients; see `featureFlags`.
    feature_flag: Option<String>,
    /// Application tokens see the event type only if they carry one of these.
    feature_flags: Option<Vec<String>>,
    /// The group that it is shown in.
    #[schemars(length(max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    group_name: Option<String>,
}

/// For the document: an [`EventTypeIn`] whose name is in the path.
struct EventTypeUpdate;

#[cfg(feature = "document")]
impl JsonSchema for EventTypeUpdate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EventTypeUpdate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> crate::document::Schema {
        let mut schema = EventTypeIn::json_schema(generator);
        let members = schema.ensure_object();
        if let Some(properties) = members.get_mut("properties").and_then(|p| p.as_object_mut()) {
            properties.remove("name");
        }
        if let Some(required) = members.get_mut("required").and_then(|r| r.as_array_mut()) {
            required.retain(|name| name != "name");
        }
        schema
    }
}

/// Changes to an event type: absent keeps, null clears.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct EventTypePatch {
    description: Keep<String>,
    archived: Keep<bool>,
    deprecated: Keep<bool>,
    schemas: Patch<Schemas>,
    feature_flag: Patch<String>,
    feature_flags: Patch<Vec<String>>,
    group_name: Patch<String>,
}

/// An event type.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventTypeOut")]
pub(crate) struct EventTypeOut<'a> {
    name: &'a str,
    description: &'a str,
    #[schemars(default)]
    archived: bool,
    deprecated: bool,
    #[schemars(with = "Option<Schemas>")]
    schemas: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_flag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_flags: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_name: Option<&'a str>,
    created_at: Time,
    updated_at: Time,
}

impl<'a> EventTypeOut<'a> {
    pub(crate) fn new(event_type: &'a EventType, with_content: bool) -> Self {
        let flags = &event_type.feature_flags;
        let schemas = event_type.schemas.as_deref().filter(|_| with_content);
        EventTypeOut {
            name: &event_type.name,
            description: &event_type.description,
            archived: event_type.archived,
            deprecated: event_type.deprecated,
            schemas: schemas.and_then(|text| serde_json::from_str(text).ok()),
            feature_flag: flags.first().map(String::as_str),
            feature_flags: (!flags.is_empty()).then_some(flags),
            group_name: event_type.group_name.as_deref(),
            created_at: Time(event_type.created_at),
            updated_at: Time(event_type.updated_at),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
struct ListQuery {
    /// When `true` archived (deleted but not expunged) items are included in the response
    #[serde(default)]
    include_archived: bool,
    /// When `true` the full item (including the schema) is included in the response
    #[serde(default)]
    with_content: bool,
}

#[derive(Deserialize, JsonSchema)]
struct DeleteQuery {
    /// By default event types are archived when "deleted". With this set to `true`, they are deleted entirely
    #[serde(default)]
    expunge: bool,
}

/// What a valid [`EventTypeIn`] says, beside the name.
pub(crate) struct NewEventType {
    description: String,
    archived: bool,
    deprecated: bool,
    pub(crate) schemas: Option<String>,
    feature_flags: Vec<String>,
    group_name: Option<String>,
}

impl EventTypeIn {
    /// Its name, checked.
    pub(crate) fn take_name(&mut self, faults: &mut Faults) -> String {
        let name = faults.required("name", self.name.take());
        if let Some(name) = &name {
            faults.event_type_name("name", name);
        }
        name.unwrap_or_default()
    }

    /// Beside the name.
    pub(crate) fn check(self, api: &Api, mut faults: Faults) -> Result<NewEventType, Error> {
        let description = faults.required("description", self.description).unwrap_or_default();
        faults.printable("description", &description);
        let schemas = self.schemas.and_then(|schemas| check_schemas(api, &mut faults, &schemas));
        let feature_flags = match (self.feature_flags, self.feature_flag) {
            (Some(flags), _) => check_flags(&mut faults, "featureFlags", flags),
            (None, Some(flag)) => check_flags(&mut faults, "featureFlag", vec![flag]),
            (None, None) => Vec::new(),
        };
        check_group(&mut faults, self.group_name.as_deref());
        faults.end()?;
        Ok(NewEventType {
            description,
            archived: self.archived,
            deprecated: self.deprecated,
            schemas,
            feature_flags,
            group_name: self.group_name,
        })
    }
}

impl NewEventType {
    /// From an OpenAPI document; its schema stays where it is.
    pub(crate) fn of_import(api: &Api, imported: &Imported, mut faults: Faults) -> Result<Self, Error> {
        faults.printable("description", &imported.description);
        let feature_flags = check_flags(&mut faults, "x-svix-feature-flags", imported.feature_flags.clone());
        check_group(&mut faults, imported.group_name.as_deref());
        if let Some(schema) = &imported.schema
            && let Err(error) = Schema::compile(schema, api.settings().json_depth_max)
        {
            faults.add("schema", format!("cannot be used as a JSON Schema: {error}"));
        }
        faults.end()?;
        Ok(NewEventType {
            description: imported.description.clone(),
            archived: false,
            deprecated: imported.deprecated,
            schemas: None,
            feature_flags,
            group_name: imported.group_name.clone(),
        })
    }

    /// Over an existing one, or as a new one.
    pub(crate) fn put(
        self,
        api: &Api,
        organisation: &OrganisationId,
        name: &str,
        existing: Option<&EventType>,
    ) -> Arc<EventType> {
        let now = api.backend().now();
        Arc::new(EventType {
            organisation: organisation.clone(),
            name: name.to_owned(),
            description: self.description,
            archived: self.archived,
            deprecated: self.deprecated,
            schemas: self.schemas,
            feature_flags: self.feature_flags,
            group_name: self.group_name,
            retry_schedule: existing.and_then(|t| t.retry_schedule.clone()),
            created_at: existing.map_or(now, |t| t.created_at),
            updated_at: now,
        })
    }
}

/// JSON Schemas by version, each fit to check payloads by; kept as text, written back as they came.
fn check_schemas(api: &Api, faults: &mut Faults, schemas: &Schemas) -> Option<String> {
    match serde_json::from_str(schemas.0.get()) {
        Ok(serde_json::Value::Object(versions)) => {
            for (version, schema) in &versions {
                if !schema.is_object() {
                    faults.add_at(&["schemas", version], "a JSON Schema must be an object");
                } else if let Err(error) = Schema::compile(schema, api.settings().json_depth_max) {
                    faults.add_at(&["schemas", version], format!("cannot be used as a JSON Schema: {error}"));
                }
            }
            Some(schemas.0.get().to_owned())
        }
        Ok(_) => {
            faults.add("schemas", "`schemas` must be an object: a JSON Schema for each version");
            None
        }
        Err(error) => {
            faults.add("schemas", format!("`schemas` cannot be understood: {error}"));
            None
        }
    }
}

fn check_flags(faults: &mut Faults, field: &str, flags: Vec<String>) -> Vec<String> {
    if flags.len() > FLAGS_MAX {
        faults.add(field, format!("`{field}` must have at most {FLAGS_MAX} items"));
    }
    if let Some(msg) = flags.iter().find_map(|flag| event_type_fault(flag)) {
        faults.add(field, format!("a feature flag {msg}"));
    }
    flags
}

fn check_group(faults: &mut Faults, group: Option<&str>) {
    if let Some(msg) = group.and_then(event_type_fault) {
        faults.add("groupName", format!("`groupName` {msg}"));
    }
}

/// The organisation sees all; an application what carries no flag, or one of its own.
pub(crate) fn visible(principal: &Principal, event_type: &EventType) -> bool {
    match principal {
        Principal::Organisation(_) => true,
        Principal::Application { feature_flags, .. } => {
            event_type.feature_flags.is_empty() || event_type.feature_flags.iter().any(|f| feature_flags.contains(f))
        }
    }
}

/// The event type of the path.
pub(crate) fn find(call: &Call) -> Option<Arc<EventType>> {
    let catalogue = call.api.backend().catalogue().read();
    let found = catalogue.event_type(call.principal.organisation(), call.param("event_type_name"))?;
    visible(&call.principal, found).then(|| found.clone())
}

async fn list(call: Call) -> Result<Response, Error> {
    let wanted = call
        .query::<Paging>()?
        .wanted("an event type's name", |text| event_type_fault(text).is_none().then(|| text.to_owned()))?;
    // Checked, and otherwise without effect: they always come by name.
    call.query::<Ordered>()?;
    let query: ListQuery = call.query()?;
    let page = {
        let catalogue = call.api.backend().catalogue().read();
        let all = catalogue
            .event_types_of(call.principal.organisation())
            .filter(|t| (query.include_archived || !t.archived) && visible(&call.principal, t));
        let page = cut(all, wanted.limit, &wanted.from, Ordering::Ascending, |t, at| t.name.cmp(at));
        bellwire_store::Page { items: page.items.into_iter().cloned().collect::<Vec<_>>(), done: page.done }
    };
    let data = page.items.iter().map(|t| EventTypeOut::new(t, query.with_content)).collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out| out.name.to_owned())))
}

async fn create(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let mut input: EventTypeIn = body.parse()?;
    let mut faults = Faults::new();
    let name = input.take_name(&mut faults);
    let new = input.check(&call.api, faults)?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let existing = call.api.backend().catalogue().read().event_type(call.principal.organisation(), &name).cloned();
    if existing.as_ref().is_some_and(|t| !t.archived) {
        let detail = "An event_type with this name already exists";
        return Err(Error::refused(StatusCode::CONFLICT, "event_type_exists", detail));
    }
    let event_type = new.put(&call.api, call.principal.organisation(), &name, existing.as_deref());
    edit.put(Change::PutEventType(event_type.clone()));
    edit.answer(StatusCode::CREATED, &EventTypeOut::new(&event_type, true)).await
}

async fn get(call: Call) -> Result<Response, Error> {
    let event_type = find(&call).ok_or_else(Error::not_found)?;
    Ok(error::json(StatusCode::OK, &EventTypeOut::new(&event_type, true)))
}

async fn put(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let new = body.parse::<EventTypeIn>()?.check(&call.api, Faults::new())?;
    let name = call.param("event_type_name");
    if let Some(msg) = event_type_fault(name) {
        return Err(Error::invalid(&["path", "event_type_name"], format!("the event type's name {msg}")));
    }
    let mut edit = call.api.edit().await;
    let existing = find(&call);
    let status = if existing.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let event_type = new.put(&call.api, call.principal.organisation(), name, existing.as_deref());
    edit.put(Change::PutEventType(event_type.clone()));
    edit.answer(status, &EventTypeOut::new(&event_type, true)).await
}

async fn patch(mut call: Call) -> Result<Response, Error> {
    find(&call).ok_or_else(Error::not_found)?;
    let body = call.json().await?;
    let patch: EventTypePatch = body.parse()?;
    let mut edit = call.api.edit().await;
    let mut event_type = EventType::clone(&*find(&call).ok_or_else(Error::not_found)?);
    let mut faults = Faults::new();
    if let Keep(Some(description)) = patch.description {
        faults.printable("description", &description);
        event_type.description = description;
    }
    event_type.archived = patch.archived.0.unwrap_or(event_type.archived);
    event_type.deprecated = patch.deprecated.0.unwrap_or(event_type.deprecated);
    patch.schemas.apply(&mut event_type.schemas, |schemas| check_schemas(&call.api, &mut faults, &schemas));
    match (patch.feature_flags, patch.feature_flag) {
        (Patch::Set(flags), _) => event_type.feature_flags = check_flags(&mut faults, "featureFlags", flags),
        (Patch::Keep, Patch::Set(flag)) => {
            event_type.feature_flags = check_flags(&mut faults, "featureFlag", vec![flag]);
        }
        (Patch::Clear, _) | (Patch::Keep, Patch::Clear) => event_type.feature_flags.clear(),
        (Patch::Keep, Patch::Keep) => {}
    }
    patch.group_name.apply(&mut event_type.group_name, |group| {
        check_group(&mut faults, Some(&group));
        Some(group)
    });
    faults.end()?;
    event_type.updated_at = call.api.backend().now();
    let event_type = Arc::new(event_type);
    edit.put(Change::PutEventType(event_type.clone()));
    edit.answer(StatusCode::OK, &EventTypeOut::new(&event_type, true)).await
}

async fn delete(call: Call) -> Result<Response, Error> {
    let query: DeleteQuery = call.query()?;
    let mut edit = call.api.edit().await;
    let event_type = find(&call).ok_or_else(Error::not_found)?;
    if query.expunge {
        edit.put(Change::DeleteEventType(event_type.organisation.clone(), event_type.name.clone()));
    } else {
        let mut event_type = EventType::clone(&event_type);
        event_type.archived = true;
        event_type.updated_at = call.api.backend().now();
        edit.put(Change::PutEventType(Arc::new(event_type)));
    }
    edit.no_content().await
}
