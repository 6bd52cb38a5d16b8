//! Checking payloads by the newest schema of their event type, for applications that ask for it. For all others nothing here runs.
//!
//! A schema is compiled when the first message needs it, and kept until its event type changes.

use crate::error::{Error, Fault};
use crate::json;
use crate::schema::{PayloadFault, Schema, newest, versions};
use crate::{Api, Settings};
use bellwire_engine::{ApplicationEntry, Draft};
use bellwire_model::{EventType, OrganisationId, PayloadValidation};
use http::{HeaderName, HeaderValue};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

/// What a sender is told whose payload is accepted all the same.
pub(crate) const WARNING: HeaderName = HeaderName::from_static("bellwire-payload-warning");
const WARNING_MAX: usize = 1_000;
/// Schemas that are kept compiled; beyond, all are dropped and made again as they are needed.
const COMPILED_MAX: usize = 1_024;
/// Below so many looks, a payload is checked where it arrives; above, on a thread that may take its time.
const LOOKS_AT_ONCE: u64 = 20_000;

/// Compiled schemas, by event type.
#[derive(Default)]
pub(crate) struct Schemas(RwLock<HashMap<(OrganisationId, String), Compiled>>);

#[derive(Clone)]
struct Compiled {
    /// The version that it was made from; another is found by its address.
    of: Arc<EventType>,
    /// `None` if the event type has none that can be used.
    schema: Option<Arc<Schema>>,
}

impl Schemas {
    fn find(&self, event_type: &Arc<EventType>) -> Option<Compiled> {
        let key = (event_type.organisation.clone(), event_type.name.clone());
        self.0.read().get(&key).filter(|compiled| Arc::ptr_eq(&compiled.of, event_type)).cloned()
    }

    fn compile(&self, event_type: &Arc<EventType>, depth_max: usize) -> Option<Arc<Schema>> {
        let schemas = event_type.schemas.as_deref().map(versions).unwrap_or_default();
        let compiled = newest(&schemas).map(|schema| Schema::compile(schema, depth_max));
        let schema = match compiled {
            Some(Ok(schema)) => Some(Arc::new(schema)),
            // It was kept by a version that looked less closely.
            Some(Err(error)) => {
                tracing::error!(event_type.name = %event_type.name, %error, "an event type's schema cannot be used; payloads of it are not checked");
                None
            }
            None => None,
        };
        let mut all = self.0.write();
        if all.len() >= COMPILED_MAX {
            all.clear();
        }
        let key = (event_type.organisation.clone(), event_type.name.clone());
        all.insert(key, Compiled { of: event_type.clone(), schema: schema.clone() });
        schema
    }
}

/// Checks the payload of `draft`, which stands at `place` in the request's body, if its application wants that. Answers what to
/// warn of.
///
/// # Errors
/// 422 if it is not as it should be, and the application refuses that; not for a request that was accepted before.
pub(crate) async fn check(
    api: &Api,
    entry: &ApplicationEntry,
    draft: &Draft,
    place: &[&str],
) -> Result<Option<HeaderValue>, Error> {
    let wanted = entry.application.settings.payload_validation;
    if wanted == PayloadValidation::Off {
        return Ok(None);
    }
    let faults = faults(api, entry, draft).await?;
    let Some(first) = faults.first() else { return Ok(None) };
    tracing::warn!(
        application.id = %entry.application.id,
        event_type.name = %draft.event_type,
        fault.path = %first.path.join("."),
        fault = %first.msg,
        refused = wanted == PayloadValidation::Refuse,
        "a payload is not as its event type's schema says"
    );
    if wanted == PayloadValidation::Warn {
        return Ok(Some(warning(&faults, place)));
    }
    if let Some((key, _)) = draft.idempotency
        && api.read(move |store| store.find_key(key)).await?.is_some()
    {
        return Ok(None);
    }
    let told = faults.into_iter().map(|PayloadFault { path, msg }| {
        let loc: Vec<&str> = place.iter().copied().chain(path.iter().map(String::as_str)).collect();
        Fault::of_kind("value_error.schema", &loc, msg)
    });
    Err(Error::Invalid(told.collect()))
}

async fn faults(api: &Api, entry: &ApplicationEntry, draft: &Draft) -> Result<Vec<PayloadFault>, Error> {
    let event_type = {
        let catalogue = api.backend().catalogue().read();
        catalogue.event_type(&entry.application.organisation, &draft.event_type).cloned()
    };
    let Some(event_type) = event_type.filter(|event_type| event_type.schemas.is_some()) else { return Ok(Vec::new()) };
    let (payload, settings) = (draft.payload.clone(), api.settings().clone());
    let parsed_by = move |schema: &Schema| faults_of(schema, &payload, settings.json_depth_max, settings.json_keys_max);
    match api.schemas().find(&event_type) {
        Some(Compiled { schema: None, .. }) => Ok(Vec::new()),
        Some(Compiled { schema: Some(schema), .. }) if schema.looks(draft.payload.len()) <= LOOKS_AT_ONCE => {
            Ok(parsed_by(&schema))
        }
        found => {
            let api = api.clone();
            let work = move || {
                let known = found.and_then(|compiled| compiled.schema);
                let depth_max = api.settings().json_depth_max;
                known.or_else(|| api.schemas().compile(&event_type, depth_max)).map(|schema| parsed_by(&schema))
            };
            let faults = tokio::task::spawn_blocking(work).await;
            Ok(faults
                .map_err(|error| Error::Internal(format!("checking a payload ended: {error}")))?
                .unwrap_or_default())
        }
    }
}

/// What is wrong with the bytes of a payload.
fn faults_of(schema: &Schema, payload: &[u8], depth_max: usize, keys_max: usize) -> Vec<PayloadFault> {
    let unreadable = |msg: &str| vec![PayloadFault { path: Vec::new(), msg: msg.to_owned() }];
    // A raw payload has not passed the door's own scan.
    if json::scan(payload, depth_max, keys_max).is_err() {
        return unreadable("the payload is nested too deeply, or has too many members, to be checked");
    }
    match serde_json::from_slice(payload) {
        Ok(payload) => schema.check(&payload),
        Err(_) => unreadable("the payload is not JSON of Unicode characters, so it is not as the schema says"),
    }
}

/// A schema of an event type as messages are checked by it, for those who measure what that costs.
pub struct PayloadSchema(Schema);

impl PayloadSchema {
    /// Compiles it.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn new(schema: &serde_json::Value) -> Result<Self, String> {
        let depth_max = Settings::default().json_depth_max;
        Schema::compile(schema, depth_max).map(PayloadSchema).map_err(|error| error.to_string())
    }

    /// Whether a payload is as it says: the bytes scanned, parsed and checked, as for a message.
    pub fn takes(&self, payload: &[u8]) -> bool {
        let settings = Settings::default();
        faults_of(&self.0, payload, settings.json_depth_max, settings.json_keys_max).is_empty()
    }
}

/// The faults in one line of printable ASCII.
fn warning(faults: &[PayloadFault], place: &[&str]) -> HeaderValue {
    let place = place.iter().skip(1).copied().collect::<Vec<_>>().join(".");
    let mut text = String::new();
    for PayloadFault { path, msg } in faults {
        let way = path.iter().fold(place.clone(), |way, part| way + "." + part);
        text += if text.is_empty() { "" } else { "; " };
        text += &format!("{way}: {msg}");
    }
    let printable = text.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' });
    HeaderValue::from_str(&printable.take(WARNING_MAX).collect::<String>()).expect("printable ASCII fits a header")
}
