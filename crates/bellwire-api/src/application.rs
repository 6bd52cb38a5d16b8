//! Applications.

use crate::Api;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::Begun;
use crate::error::{self, Error};
use crate::field::Faults;
use crate::operation::{Access, Operation};
use crate::page::{ListOut, Ordered, Ordering, Paging};
use crate::wire::{Keep, Patch, Text, Time};
use axum::response::Response;
use bellwire_engine::ApplicationEntry;
use bellwire_model::{
    Application, ApplicationId, ApplicationKey, ApplicationSettings, Endpoint, Metadata, OrganisationId,
    PayloadValidation,
};
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;
use std::sync::Arc;

const TAG: &str = "Application";
const UID_TAKEN: &str = "An application with that id or uid already exists";

pub(crate) fn operations() -> Vec<Operation> {
    let all = "/api/v1/app";
    let one = "/api/v1/app/{app_id}";
    vec![
        Operation::new(Method::GET, all, Access::Organisation, list)
            .described("v1.application.list", TAG, "List of all the organization's applications.")
            .query::<Paging>()
            .query::<Ordered>()
            .query::<Without>()
            .answers::<ListOut<ApplicationOut<'static>>>(200),
        Operation::editing(Method::POST, all, Access::Organisation, create)
            .described("v1.application.create", TAG, "Create a new application.")
            .query::<CreateQuery>()
            .body::<ApplicationIn>()
            .answers::<ApplicationOut<'static>>(200)
            .answers::<ApplicationOut<'static>>(201),
        Operation::new(Method::GET, one, Access::Application, get)
            .described("v1.application.get", TAG, "Get an application.")
            .answers::<ApplicationOut<'static>>(200),
        Operation::editing(Method::PUT, one, Access::Organisation, put)
            .described("v1.application.update", TAG, "Update an application, or create it.")
            .body::<ApplicationIn>()
            .answers::<ApplicationOut<'static>>(200)
            .answers::<ApplicationOut<'static>>(201),
        Operation::editing(Method::PATCH, one, Access::Organisation, patch)
            .described("v1.application.patch", TAG, "Partially update an application.")
            .body::<ApplicationPatch>()
            .answers::<ApplicationOut<'static>>(200),
        Operation::editing(Method::DELETE, one, Access::Organisation, delete)
            .described("v1.application.delete", TAG, "Delete an application with its endpoints.")
            .answers_nothing(204),
    ]
}

/// An application, to be created or replaced.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApplicationIn {
    /// Application name for human consumption.
    #[schemars(required, length(min = 1))]
    name: Option<String>,
    /// Maximum messages per second to send to this application's endpoints, all together.
    #[schemars(range(min = 1))]
    throttle_rate: Option<u16>,
    /// What older clients call `throttleRate`.
    #[schemars(skip)]
    rate_limit: Option<u16>,
    /// Optional unique identifier for the application
    #[schemars(length(min = 1, max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    uid: Option<String>,
    /// Names and values of your own; at most 4096 bytes as JSON.
    metadata: Option<Metadata>,
    /// What becomes of a message whose payload is not as the newest schema of its event type says: `off` (not looked at), `warn` (accepted;
    /// the header `bellwire-payload-warning` tells) or `refuse` (422). A PUT without it keeps it, since Svix's clients do not know it.
    payload_validation: Option<Validation>,
}

/// What a schema is good for.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "PayloadValidation")]
enum Validation {
    Off,
    Warn,
    Refuse,
}

impl From<Validation> for PayloadValidation {
    fn from(validation: Validation) -> Self {
        match validation {
            Validation::Off => PayloadValidation::Off,
            Validation::Warn => PayloadValidation::Warn,
            Validation::Refuse => PayloadValidation::Refuse,
        }
    }
}

impl From<PayloadValidation> for Validation {
    fn from(validation: PayloadValidation) -> Self {
        match validation {
            PayloadValidation::Off => Validation::Off,
            PayloadValidation::Warn => Validation::Warn,
            PayloadValidation::Refuse => Validation::Refuse,
        }
    }
}

/// Changes to an application: absent keeps, null clears.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ApplicationPatch {
    name: Keep<String>,
    /// Maximum messages per second to send to this application's endpoints, all together.
    throttle_rate: Patch<u16>,
    #[schemars(skip)]
    rate_limit: Patch<u16>,
    #[schemars(length(min = 1, max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    uid: Patch<String>,
    metadata: Keep<Metadata>,
    /// `off`, `warn` or `refuse`.
    payload_validation: Keep<Validation>,
}

/// An application.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ApplicationOut")]
pub(crate) struct ApplicationOut<'a> {
    id: Text<ApplicationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttle_rate: Option<NonZeroU16>,
    /// The same as `throttleRate`, for older clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<NonZeroU16>,
    metadata: &'a Metadata,
    payload_validation: Validation,
    created_at: Time,
    updated_at: Time,
}

impl<'a> From<&'a Application> for ApplicationOut<'a> {
    fn from(application: &'a Application) -> Self {
        ApplicationOut {
            id: Text(application.id),
            uid: application.uid.as_deref(),
            name: &application.name,
            throttle_rate: application.throttle_rate,
            rate_limit: application.throttle_rate,
            metadata: &application.metadata,
            payload_validation: application.settings.payload_validation.into(),
            created_at: Time(application.created_at),
            updated_at: Time(application.updated_at),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
struct CreateQuery {
    /// Get an existing application, or create a new one if doesn't exist
    #[serde(default)]
    get_if_exists: bool,
}

/// Which applications to leave out.
#[derive(Deserialize, JsonSchema)]
struct Without {
    /// Exclude applications that have no endpoints
    #[serde(default)]
    exclude_apps_with_no_endpoints: bool,
    /// Exclude applications that have only disabled endpoints
    #[serde(default)]
    exclude_apps_with_disabled_endpoints: bool,
    /// Exclude applications that only have endpoints at play.svix.com
    #[serde(default)]
    exclude_apps_with_svix_play_endpoints: bool,
}

impl Without {
    fn keeps(&self, entry: &ApplicationEntry) -> bool {
        let endpoints = &entry.endpoints;
        let only = |like: fn(&Endpoint) -> bool| !endpoints.is_empty() && endpoints.iter().all(|e| like(e));
        !(self.exclude_apps_with_no_endpoints && endpoints.is_empty()
            || self.exclude_apps_with_disabled_endpoints && only(|e| e.disabled.is_some())
            || self.exclude_apps_with_svix_play_endpoints && only(is_svix_play))
    }
}

/// Whether it is a page of Svix's where one looks at requests.
pub(crate) fn is_svix_play(endpoint: &Endpoint) -> bool {
    const HOST: &str = "play.svix.com";
    // Most need no parsing.
    endpoint.url.contains(HOST) && url::Url::parse(&endpoint.url).is_ok_and(|url| url.host_str() == Some(HOST))
}

/// What a valid [`ApplicationIn`] says.
pub(crate) struct NewApplication {
    name: String,
    uid: Option<String>,
    throttle_rate: Option<NonZeroU16>,
    metadata: Metadata,
    payload_validation: Option<PayloadValidation>,
}

impl ApplicationIn {
    pub(crate) fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }

    pub(crate) fn check(self, mut faults: Faults) -> Result<NewApplication, Error> {
        let name = faults.required("name", self.name);
        if let Some(name) = &name {
            check_name(&mut faults, name);
        }
        faults.uid("uid", self.uid.as_deref(), ApplicationId::PREFIX);
        let throttle_rate = faults.throttle_rate(self.throttle_rate, self.rate_limit);
        let metadata = self.metadata.unwrap_or_default();
        faults.metadata(&metadata);
        faults.end()?;
        Ok(NewApplication {
            name: name.unwrap_or_default(),
            uid: self.uid,
            throttle_rate,
            metadata,
            payload_validation: self.payload_validation.map(PayloadValidation::from),
        })
    }
}

impl NewApplication {
    /// As a new application of `organisation`.
    fn create(self, api: &Api, organisation: &OrganisationId) -> Arc<Application> {
        let backend = api.backend();
        let now = backend.now();
        let id = backend.new_id(ApplicationId::from_parts);
        Arc::new(Application {
            key: ApplicationKey(backend.next_key()),
            id,
            organisation: organisation.clone(),
            uid: self.uid,
            name: self.name,
            throttle_rate: self.throttle_rate,
            settings: ApplicationSettings { payload_validation: self.payload_validation.unwrap_or_default() },
            metadata: self.metadata,
            created_at: now,
            updated_at: now,
        })
    }
}

fn check_name(faults: &mut Faults, name: &str) {
    if name.is_empty() {
        faults.add("name", "Application names must be at least one character");
    }
    faults.printable("name", name);
}

/// Another application than `this` that has `uid`.
fn uid_taken(api: &Api, organisation: &OrganisationId, uid: Option<&str>, this: Option<ApplicationKey>) -> bool {
    let Some(uid) = uid else { return false };
    let catalogue = api.backend().catalogue().read();
    catalogue.find_application(organisation, uid).is_some_and(|other| Some(other.application.key) != this)
}

async fn list(call: Call) -> Result<Response, Error> {
    let wanted = call.query::<Paging>()?.wanted_by_id::<ApplicationId>("an application id (app_…)")?;
    let order = call.query::<Ordered>()?.or(Ordering::Ascending);
    let without: Without = call.query()?;
    let page = {
        let catalogue = call.api.backend().catalogue().read();
        let all = catalogue.applications_within(call.principal.organisation(), wanted.bounds(order));
        let all = all.filter(|entry| without.keeps(entry));
        let page = wanted.cut(all, |entry| entry.application.id, order);
        bellwire_store::Page { items: page.items.into_iter().cloned().collect::<Vec<_>>(), done: page.done }
    };
    let data = page.items.iter().map(|entry| ApplicationOut::from(&*entry.application)).collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out| out.id.0.to_string())))
}

async fn create(mut call: Call) -> Result<Response, Error> {
    let query: CreateQuery = call.query()?;
    let body = call.json().await?;
    let new = body.parse::<ApplicationIn>()?.check(Faults::new())?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let organisation = call.principal.organisation();
    let existing = new
        .uid
        .as_deref()
        .and_then(|uid| call.api.backend().catalogue().read().find_application(organisation, uid).cloned());
    if let Some(existing) = existing {
        if !query.get_if_exists {
            return Err(Error::conflict(UID_TAKEN));
        }
        return edit.answer(StatusCode::OK, &ApplicationOut::from(&*existing.application)).await;
    }
    let application = new.create(&call.api, organisation);
    edit.put(Change::PutApplication(application.clone()));
    edit.answer(StatusCode::CREATED, &ApplicationOut::from(&*application)).await
}

async fn get(call: Call) -> Result<Response, Error> {
    let entry = call.application()?;
    Ok(error::json(StatusCode::OK, &ApplicationOut::from(&*entry.application)))
}

async fn put(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let mut new = body.parse::<ApplicationIn>()?.check(Faults::new())?;
    let mut edit = call.api.edit().await;
    let organisation = call.principal.organisation();
    let existing = call.find_application();
    // A uid that led here, or was meant to lead here, stays: the same PUT again must find the same application.
    let path = call.param("app_id");
    if new.uid.is_none() && !path.starts_with(ApplicationId::PREFIX) {
        let mut faults = Faults::new();
        faults.uid("uid", Some(path), ApplicationId::PREFIX);
        faults.end()?;
        new.uid = Some(path.to_owned());
    }
    if uid_taken(&call.api, organisation, new.uid.as_deref(), existing.as_ref().map(|e| e.application.key)) {
        return Err(Error::conflict(UID_TAKEN));
    }
    let (status, application) = match existing {
        None => (StatusCode::CREATED, new.create(&call.api, organisation)),
        Some(entry) => {
            let mut application = Application::clone(&entry.application);
            application.name = new.name;
            application.uid = new.uid;
            application.throttle_rate = new.throttle_rate;
            application.metadata = new.metadata;
            if let Some(validation) = new.payload_validation {
                application.settings.payload_validation = validation;
            }
            application.updated_at = call.api.backend().now();
            (StatusCode::OK, Arc::new(application))
        }
    };
    edit.put(Change::PutApplication(application.clone()));
    edit.answer(status, &ApplicationOut::from(&*application)).await
}

async fn patch(mut call: Call) -> Result<Response, Error> {
    call.application()?;
    let body = call.json().await?;
    let patch: ApplicationPatch = body.parse()?;
    let mut edit = call.api.edit().await;
    let mut application = Application::clone(&call.application()?.application);
    let mut faults = Faults::new();
    if let Keep(Some(name)) = patch.name {
        check_name(&mut faults, &name);
        application.name = name;
    }
    faults.patch_throttle_rate(&mut application.throttle_rate, patch.throttle_rate, patch.rate_limit);
    faults.patch_uid(&mut application.uid, patch.uid, ApplicationId::PREFIX);
    if let Keep(Some(metadata)) = patch.metadata {
        faults.metadata(&metadata);
        application.metadata = metadata;
    }
    if let Keep(Some(validation)) = patch.payload_validation {
        application.settings.payload_validation = validation.into();
    }
    faults.end()?;
    if uid_taken(&call.api, &application.organisation, application.uid.as_deref(), Some(application.key)) {
        return Err(Error::conflict(UID_TAKEN));
    }
    application.updated_at = call.api.backend().now();
    let application = Arc::new(application);
    edit.put(Change::PutApplication(application.clone()));
    edit.answer(StatusCode::OK, &ApplicationOut::from(&*application)).await
}

async fn delete(call: Call) -> Result<Response, Error> {
    let mut edit = call.api.edit().await;
    edit.put(Change::DeleteApplication(call.application()?.application.key));
    edit.no_content().await
}

/// The application with the uid of `new`; made now, if there is none.
pub(crate) async fn ensure(
    api: &Api,
    organisation: &OrganisationId,
    new: NewApplication,
) -> Result<Arc<ApplicationEntry>, Error> {
    let mut edit = api.edit().await;
    let existing = new
        .uid
        .as_deref()
        .and_then(|uid| api.backend().catalogue().read().find_application(organisation, uid).cloned());
    if let Some(entry) = existing {
        return Ok(entry);
    }
    let application = new.create(api, organisation);
    let key = application.key;
    edit.put(Change::PutApplication(application));
    edit.no_content().await?;
    let entry = api.backend().catalogue().read().application(key).cloned();
    // It may have been deleted since.
    entry.ok_or_else(Error::not_found)
}
