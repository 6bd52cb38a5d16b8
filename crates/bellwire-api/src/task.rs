//! Background tasks: how far each has come, what it found, and how to stop one. What begins them stands with the resource that
//! it is about: [`crate::replay`], [`crate::purge`], [`crate::usage`], [`crate::broadcast`].
//!
//! Svix's clients know three states; a task that was cancelled is shown to them as failed, and its `data` says what it was.

use crate::auth::Principal;
use crate::call::Call;
use crate::document::JsonSchema;
#[cfg(feature = "document")]
use crate::document::{Schema, SchemaGenerator, json_schema};
use crate::edit::{Begun, Edit};
use crate::error::{self, Error};
use crate::json::Json;
#[cfg(feature = "document")]
use crate::message::AnyObject;
use crate::operation::{Access, Operation};
use crate::page::{From, ListOut, Ordered, Ordering, Paging};
use crate::wire::{Text, Time};
use axum::response::Response;
use bellwire_model::{ApplicationKey, Sequence, TaskId};
use bellwire_store::{Change, Found, Page, Span, Task, TaskKind, TaskQuery, TaskStatus, Work};
use http::{Method, StatusCode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;

const TAG: &str = "Background Task";
/// So many tasks of an organisation may run at a time.
const RUNNING_MAX: usize = 100;

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/api/v1/background-task", Access::Reader, list)
            .described(
                "v1.background-task.list",
                TAG,
                "List the background tasks of the past 90 days, newest first. What statistics have found is left out.",
            )
            .query::<TaskFilter>()
            .query::<Paging>()
            .query::<Ordered>()
            .answers::<ListOut<TaskOut>>(200),
        Operation::new(Method::GET, "/api/v1/background-task/{task_id}", Access::Reader, get)
            .described("v1.background-task.get", TAG, "Get a background task by ID, with what it has done and found.")
            .answers::<TaskOut>(200),
        Operation::editing(Method::POST, "/api/v1/background-task/{task_id}/cancel", Access::Reader, cancel)
            .described(
                "v1.background-task.cancel",
                TAG,
                "Stop a background task; what it has done stays done. Nothing happens to one that has ended.",
            )
            .answers_nothing(204),
    ]
}

/// A task.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "BackgroundTaskOut")]
struct TaskOut {
    id: Text<TaskId>,
    status: Status,
    task: Kind,
    /// How far it has come, and what it found.
    #[schemars(with = "AnyObject")]
    data: Value,
    updated_at: Time,
}

impl TaskOut {
    fn new(task: Task) -> Self {
        TaskOut {
            id: Text(task.id),
            status: Status::of(task.status),
            task: Kind(task.work.kind()),
            updated_at: Time(task.updated_at),
            data: data(task),
        }
    }
}

/// The members that Svix has, and how far the task has come.
fn data(task: Task) -> Value {
    let mut data = json!({ "messagesScanned": task.progress.scanned, "percentComplete": task.percent() });
    match task.work.kind() {
        TaskKind::Recover | TaskKind::Replay | TaskKind::BulkReplay => {
            data["messagesSent"] = task.progress.touched.into();
        }
        TaskKind::PurgeContent => data["messagesPurged"] = task.progress.touched.into(),
        TaskKind::Broadcast => data["messagesSent"] = task.progress.touched.into(),
        TaskKind::ApplicationStats | TaskKind::EventTypes => {}
    }
    match task.progress.found {
        Found::Nothing => {}
        Found::Destinations(all) => {
            let shown = all.into_iter().map(|one| {
                json!({
                    "appId": one.application.to_string(),
                    "appUid": one.uid,
                    "messageDestinations": one.destinations,
                })
            });
            data["appStats"] = shown.collect();
        }
        Found::EventTypes(all) => {
            let shown = all.into_iter().map(|one| {
                json!({
                    "appId": one.application.to_string(),
                    "explicitlySubscribedEventTypes": one.event_types,
                    "hasCatchAllEndpoint": one.catch_all,
                })
            });
            data["event_types"] = shown.collect();
        }
        Found::Messages(all) => {
            let shown = all
                .into_iter()
                .map(|one| json!({ "appId": one.application.to_string(), "msgId": one.message.to_string() }));
            data["messagesCreated"] = shown.collect();
        }
    }
    match task.status {
        TaskStatus::Running | TaskStatus::Finished => {}
        TaskStatus::Cancelled => data["cancelled"] = true.into(),
        TaskStatus::TooLarge => data["error"] = "there is more than can be kept; ask for fewer applications".into(),
    }
    data
}

/// A task's state as Svix has it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "BackgroundTaskStatus")]
pub(crate) enum Status {
    Running,
    Finished,
    Failed,
}

impl Status {
    fn of(status: TaskStatus) -> Self {
        match status {
            TaskStatus::Running => Status::Running,
            TaskStatus::Finished => Status::Finished,
            TaskStatus::TooLarge | TaskStatus::Cancelled => Status::Failed,
        }
    }
}

/// A task's kind by its name.
#[derive(Clone, Copy)]
pub(crate) struct Kind(pub(crate) TaskKind);

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        let found = TaskKind::ALL.into_iter().find(|kind| kind.name() == name);
        found.map(Kind).ok_or_else(|| {
            let all = TaskKind::ALL.map(TaskKind::name).join(", ");
            serde::de::Error::custom(format!("unknown task {name:?}; there are {all}"))
        })
    }
}

#[cfg(feature = "document")]
impl JsonSchema for Kind {
    fn schema_name() -> Cow<'static, str> {
        "BackgroundTaskType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": TaskKind::ALL.map(TaskKind::name) })
    }
}

#[derive(Deserialize, JsonSchema)]
struct TaskFilter {
    /// Filter the response based on the status.
    status: Option<Status>,
    /// Filter the response based on the type.
    task: Option<Kind>,
}

/// Begins a task on behalf of a POST with this body, once. `work` is asked when nothing can change any more what it looks at.
///
/// # Errors
/// 429 if too many are running, and what `work` answers.
pub(crate) async fn begin<T: Serialize>(
    call: &Call,
    body: &Json,
    span: Span,
    work: impl FnOnce(&Call) -> Result<Work, Error>,
    out: impl FnOnce(&Task) -> T,
) -> Result<Response, Error> {
    match call.edit_once(body).await? {
        Begun::New(edit) => begin_in(edit, call, span, work(call)?, out).await,
        Begun::Kept(answer) => Ok(answer),
    }
}

/// Begins a task in an edit.
///
/// # Errors
/// 429 if too many are running.
pub(crate) async fn begin_in<T: Serialize>(
    mut edit: Edit<'_>,
    call: &Call,
    span: Span,
    work: Work,
    out: impl FnOnce(&Task) -> T,
) -> Result<Response, Error> {
    let organisation = call.principal.organisation().clone();
    let running = TaskQuery {
        organisation: organisation.clone(),
        application: None,
        status: vec![TaskStatus::Running],
        kind: None,
        span: Span::ALL,
        ascending: true,
        limit: RUNNING_MAX,
    };
    if call.api.read(move |store| store.tasks(&running)).await?.items.len() >= RUNNING_MAX {
        let detail = "100 background tasks are running; wait for one to end, or cancel one.";
        return Err(Error::refused(StatusCode::TOO_MANY_REQUESTS, "too_many_tasks", detail));
    }
    let backend = call.api.backend();
    let id = backend.new_id(TaskId::from_parts);
    let task = Task::new(id, organisation, work, span.first, span.last);
    let out = out(&task);
    edit.put(Change::PutTask(Arc::new(task)));
    edit.answer(StatusCode::ACCEPTED, &out).await
}

/// What begins a task answers with it.
macro_rules! begun {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(serde::Serialize, crate::document::JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub(crate) struct $name {
            id: crate::wire::Text<bellwire_model::TaskId>,
            status: crate::task::Status,
            task: crate::task::Kind,
            updated_at: crate::wire::Time,
        }

        impl $name {
            pub(crate) fn new(task: &bellwire_store::Task) -> Self {
                $name {
                    id: crate::wire::Text(task.id),
                    status: crate::task::Status::Running,
                    task: crate::task::Kind(task.work.kind()),
                    updated_at: crate::wire::Time(task.updated_at),
                }
            }
        }
    };
}
pub(crate) use begun;

/// The application that the caller is confined to; 404 if it is gone.
fn own_application(call: &Call) -> Result<Option<ApplicationKey>, Error> {
    let Principal::Application { application, organisation, .. } = &*call.principal else { return Ok(None) };
    let catalogue = call.api.backend().catalogue().read();
    let entry = catalogue.find_application(organisation, &application.to_string()).ok_or_else(Error::not_found)?;
    Ok(Some(entry.application.key))
}

async fn list(call: Call) -> Result<Response, Error> {
    let filter: TaskFilter = call.query()?;
    let order = call.query::<Ordered>()?.or(Ordering::Descending);
    let wanted = call.query::<Paging>()?.wanted_by_id::<TaskId>("a task id (qtask_…)")?;
    let status = match filter.status {
        None => Vec::new(),
        Some(wanted) => TaskStatus::ALL.into_iter().filter(|status| Status::of(*status) == wanted).collect(),
    };
    let back = matches!(wanted.from, From::Before(_));
    let ascending = (order == Ordering::Ascending) != back;
    let mut span = Span::ALL;
    match &wanted.from {
        From::Start => {}
        From::After(id) | From::Before(id) if ascending => span.first = id.sequence().next(),
        From::After(id) | From::Before(id) => {
            span.last = Sequence::from_u64(id.sequence().as_u64().saturating_sub(1));
        }
    }
    let query = TaskQuery {
        organisation: call.principal.organisation().clone(),
        application: own_application(&call)?,
        status,
        kind: filter.task.map(|kind| kind.0),
        span,
        ascending,
        limit: wanted.limit,
    };
    let mut page = match wanted.limit {
        0 => Page { items: Vec::new(), done: false },
        _ => call.api.read(move |store| store.tasks(&query)).await?,
    };
    if back {
        page.items.reverse();
    }
    let data = page.items.into_iter().map(TaskOut::new).collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out: &TaskOut| out.id.0.to_string())))
}

/// The task of the path, if the caller may see it.
async fn find(call: &Call) -> Result<Task, Error> {
    let id: TaskId = call.param("task_id").parse().map_err(|_| Error::not_found())?;
    let application = own_application(call)?;
    let task = call.api.read(move |store| store.task(id)).await?.ok_or_else(Error::not_found)?;
    let own = application.is_none_or(|own| task.work.application() == Some(own));
    if task.organisation == *call.principal.organisation() && own { Ok(task) } else { Err(Error::not_found()) }
}

async fn get(call: Call) -> Result<Response, Error> {
    Ok(error::json(StatusCode::OK, &TaskOut::new(find(&call).await?)))
}

async fn cancel(mut call: Call) -> Result<Response, Error> {
    let body = call.json_or_nothing().await?;
    let task = find(&call).await?.id;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    edit.put(Change::CancelTask { task, at: call.api.backend().now() });
    edit.no_content().await
}
