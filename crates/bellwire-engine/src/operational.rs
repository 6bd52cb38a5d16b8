//! Operational messages: whom one goes to, and what it says. They are messages of the organisation's operational application, and take the
//! same road as any other from the commit of what they tell of.
//!
//! An engine that decides something worth telling emits an [`Occasion`] right after the decision. Who carries its effects out looks up
//! who wants to know ([`Operational::of_occasion`]; nobody, as a rule) and hands the answer to the intake with the decision, so that both
//! become durable in one commit: never one without the other, never twice. Changes of configuration are told of in the same way
//! ([`Operational::of_changes`]).

use crate::catalogue::{ApplicationEntry, Catalogue};
use crate::fan_out::fan_out;
use bellwire_model::{
    Application, ApplicationKey, AttemptId, Endpoint, FanOut, Message, MessageId, OperationalType, Outcome, Timestamp,
    matches,
};
use bellwire_store::{Change, Task, TaskStatus};
use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// An operational message is kept and tried for so long at most, as any message without a retention of its own.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3600);

/// Something that an engine decided and that operators may want to hear of.
#[derive(Clone, Debug)]
pub struct Occasion {
    /// Of which application.
    pub application: ApplicationKey,
    /// Of which endpoint.
    pub endpoint: Arc<Endpoint>,
    /// What.
    pub what: What,
}

/// What an [`Occasion`] is about.
#[derive(Clone, Debug)]
pub enum What {
    /// An attempt ended.
    Attempt {
        /// Failing, exhausted or recovered.
        kind: OperationalType,
        /// Of which message.
        message: Arc<Message>,
        /// Its status; 0 without one.
        status: u16,
        /// When it began, wall time.
        started_at: Timestamp,
    },
    /// We disabled the endpoint.
    Disabled {
        /// Since when it only failed.
        failing_since: Option<Timestamp>,
    },
}

impl What {
    /// Of an attempt of `message`.
    pub(crate) fn attempt(kind: OperationalType, message: &Arc<Message>, outcome: &Outcome) -> What {
        let (status, started_at) = (outcome.result.unwrap_or(0), outcome.started_at);
        What::Attempt { kind, message: Arc::clone(message), status, started_at }
    }
}

/// A message to operators, addressed; it gets its id, and that of the attempt that it tells of, from the intake.
#[derive(Clone, Debug)]
pub struct Operational {
    application: ApplicationKey,
    fan_out: FanOut,
    kind: OperationalType,
    data: Data,
}

impl Operational {
    /// What is to be told of `occasion`; `None` if nobody wants to know.
    pub fn of_occasion(catalogue: &Catalogue, occasion: &Occasion) -> Option<Operational> {
        let application = &catalogue.application(occasion.application)?.application;
        let kind = match &occasion.what {
            What::Attempt { kind, .. } => *kind,
            What::Disabled { .. } => OperationalType::EndpointDisabled,
        };
        let listener = Listener::of(catalogue, application)?;
        listener.told(kind, || match &occasion.what {
            What::Attempt { message, status, started_at, .. } => Data::Attempt(AttemptData {
                app_id: application.id.to_string(),
                app_uid: application.uid.clone(),
                msg_id: message.id.to_string(),
                msg_event_id: message.event_id.clone(),
                endpoint_id: occasion.endpoint.id.to_string(),
                last_attempt: LastAttempt {
                    id: String::new(),
                    response_status_code: *status,
                    timestamp: started_at.to_string(),
                },
            }),
            What::Disabled { failing_since } => {
                Data::disabled(application, &occasion.endpoint, *failing_since, Disabler::Automatic)
            }
        })
    }

    /// What is to be told of `changes`, which somebody makes to what `catalogue` holds. As a rule nothing.
    pub fn of_changes(catalogue: &Catalogue, changes: &[Change]) -> Vec<Operational> {
        let mut all = Vec::new();
        if !catalogue.has_operational() {
            return all;
        }
        for change in changes {
            let (endpoint, kind) = match change {
                Change::PutEndpoint(new) => match catalogue.endpoint(new.key) {
                    None => (new, OperationalType::EndpointCreated),
                    Some(_) => (new, OperationalType::EndpointUpdated),
                },
                Change::DeleteEndpoint(key) => {
                    let Some(old) = catalogue.endpoint(*key) else { continue };
                    (old, OperationalType::EndpointDeleted)
                }
                Change::SwitchEndpoint { endpoint, enabled } => {
                    let Some(old) = catalogue.endpoint(*endpoint) else { continue };
                    match (old.disabled.is_some(), enabled) {
                        (true, true) => (old, OperationalType::EndpointEnabled),
                        (false, false) => (old, OperationalType::EndpointDisabled),
                        _ => continue,
                    }
                }
                _ => continue,
            };
            let Some(application) = application_of(catalogue, changes, endpoint.application) else { continue };
            let Some(listener) = Listener::of(catalogue, application) else { continue };
            all.extend(listener.told(kind, || match kind {
                OperationalType::EndpointDisabled => {
                    Data::disabled(application, endpoint, endpoint.health.failing_since, Disabler::Manual)
                }
                _ => Data::Endpoint(EndpointData::of(application, endpoint)),
            }));
        }
        all
    }

    /// What is to be told of a task that has ended, by itself or on somebody's word; `None` if nobody wants to know.
    pub fn of_task(catalogue: &Catalogue, task: &Task) -> Option<Operational> {
        let listener = Listener(catalogue.operational(&task.organisation)?);
        listener.told(OperationalType::TaskFinished, || {
            Data::Task(TaskData {
                task_id: task.id.to_string(),
                task: task.work.kind().name(),
                status: if task.status == TaskStatus::Finished { "finished" } else { "failed" },
                data: TaskProgress {
                    messages_scanned: task.progress.scanned,
                    messages_touched: task.progress.touched,
                    percent_complete: task.percent(),
                    cancelled: (task.status == TaskStatus::Cancelled).then_some(true),
                },
            })
        })
    }

    /// The message, as of `id`. `attempt` is the one that it tells of, if it tells of one.
    pub(crate) fn message(&mut self, id: MessageId, attempt: Option<AttemptId>, now: Timestamp) -> Message {
        if let (Data::Attempt(data), Some(attempt)) = (&mut self.data, attempt) {
            data.last_attempt.id = attempt.to_string();
        }
        Message::new(id, self.application, self.kind.name(), self.payload(), now.plus(KEPT_FOR))
    }

    /// To whom.
    pub(crate) fn fan_out(&self) -> FanOut {
        self.fan_out.clone()
    }

    fn payload(&self) -> Bytes {
        let payload = Payload { data: &self.data, kind: self.kind.name() };
        serde_json::to_vec(&payload).expect("strings and numbers can be written as JSON").into()
    }
}

/// The operational application that hears of another one.
struct Listener<'a>(&'a ApplicationEntry);

impl<'a> Listener<'a> {
    /// `None` for the operational application itself: nobody is told of what happens to operational messages.
    fn of(catalogue: &'a Catalogue, application: &Application) -> Option<Self> {
        if application.is_operational() {
            return None;
        }
        catalogue.operational(&application.organisation).map(|entry| Listener(entry))
    }

    /// Without an endpoint that takes this type there is no message.
    fn told(&self, kind: OperationalType, data: impl FnOnce() -> Data) -> Option<Operational> {
        let fan_out = fan_out(self.0, |endpoint| matches(endpoint, kind.name(), &[]));
        if fan_out.is_empty() {
            return None;
        }
        Some(Operational { application: self.0.application.key, fan_out, kind, data: data() })
    }
}

/// The application of an endpoint; it may be new with it.
fn application_of<'a>(
    catalogue: &'a Catalogue,
    changes: &'a [Change],
    key: ApplicationKey,
) -> Option<&'a Arc<Application>> {
    let new = || {
        changes.iter().find_map(|change| match change {
            Change::PutApplication(application) if application.key == key => Some(application),
            _ => None,
        })
    };
    catalogue.application(key).map(|entry| &entry.application).or_else(new)
}

/// As Svix's clients read it.
#[derive(Serialize)]
struct Payload<'a> {
    data: &'a Data,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Data {
    Endpoint(EndpointData),
    Disabled(DisabledData),
    Attempt(AttemptData),
    Task(TaskData),
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointData {
    app_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_uid: Option<String>,
    endpoint_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_uid: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DisabledData {
    #[serde(flatten)]
    endpoint: EndpointData,
    #[serde(skip_serializing_if = "Option::is_none")]
    fail_since: Option<String>,
    trigger: Disabler,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Disabler {
    Manual,
    Automatic,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AttemptData {
    app_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_uid: Option<String>,
    msg_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg_event_id: Option<String>,
    endpoint_id: String,
    last_attempt: LastAttempt,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LastAttempt {
    id: String,
    response_status_code: u16,
    timestamp: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TaskData {
    task_id: String,
    task: &'static str,
    status: &'static str,
    data: TaskProgress,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TaskProgress {
    messages_scanned: u64,
    messages_touched: u64,
    percent_complete: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled: Option<bool>,
}

impl EndpointData {
    fn of(application: &Application, endpoint: &Endpoint) -> Self {
        EndpointData {
            app_id: application.id.to_string(),
            app_uid: application.uid.clone(),
            endpoint_id: endpoint.id.to_string(),
            endpoint_uid: endpoint.uid.clone(),
        }
    }
}

impl Data {
    fn disabled(application: &Application, endpoint: &Endpoint, since: Option<Timestamp>, trigger: Disabler) -> Self {
        let endpoint = EndpointData::of(application, endpoint);
        Data::Disabled(DisabledData { endpoint, fail_since: since.map(|since| since.to_string()), trigger })
    }
}
