//! An endpoint's script: read it, change it, try it out. What a script is, and what it may do, is `bellwire-shape`'s business.

use crate::Api;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::endpoint_effect;
use crate::error::{self, Error};
use crate::field::Faults;
#[cfg(feature = "document")]
use crate::message::AnyObject;
use crate::operation::{Access, Operation};
use crate::wire::{Keep, Patch, Time};
use axum::response::Response;
use bellwire_model::{Endpoint, Kind, Metadata, Transformation};
use bellwire_shape::{Script, ScriptError, Transformed, Webhook};
use bellwire_store::Change;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

const TAG: &str = "Endpoint";
const CODE_MIN: usize = 10;
const CODE_MAX: usize = 51_200;
const VARIABLES_MAX: usize = 64;
const VARIABLES_BYTES_MAX: usize = 16 * 1024;
/// Scripts that are tried out wait in other lanes than those that deliver.
const TRYING: u64 = 1 << 63;

pub(crate) fn operations() -> Vec<Operation> {
    let path = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/transformation";
    let simulate_path = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/transformation/simulate";
    vec![
        Operation::new(Method::GET, path, Access::Application, get)
            .described("v1.endpoint.transformation.get", TAG, "Get the transformation code associated with this endpoint.")
            .answers::<EndpointTransformationOut<'static>>(200),
        Operation::editing(Method::PATCH, path, Access::Application, patch)
            .described(
                "v1.endpoint.transformation.patch",
                TAG,
                "Set or unset the transformation code associated with this endpoint.",
            )
            .body::<EndpointTransformationPatch>()
            .answers_nothing(204),
        Operation::new(Method::POST, simulate_path, Access::Application, simulate)
            .described(
                "v1.endpoint.transformation.simulate",
                TAG,
                "Simulate running the transformation on the payload and code. Nothing is sent or kept. What the code gets wrong is a 422 at `code`, \
                 with its line.",
            )
            .body::<TransformationSimulateIn<'static>>()
            .answers::<TransformationSimulateOut>(200),
    ]
}

/// A transformation as it is kept.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EndpointTransformationOut<'a> {
    #[schemars(length(min = 10, max = 51_200))]
    code: Option<&'a str>,
    #[schemars(default)]
    enabled: bool,
    variables: Option<&'a Metadata>,
    updated_at: Option<Time>,
}

/// Changes to a transformation: absent keeps, null clears.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct EndpointTransformationPatch {
    /// JavaScript that defines `handler(webhook)`. It is given `method`, `url`, `payload`, `eventType`, `channels`, `headers`, `variables`,
    /// `transformationsParams` and `cancel`, and returns the object with what is to be sent: `method` (POST, PUT, PATCH), `url`, `payload` (a
    /// string is sent as it is), `headers`, `cancel`. Whole numbers beyond 2^53 lose digits in it.
    #[schemars(length(min = 10, max = 51_200))]
    code: Patch<String>,
    /// Whether it is applied; needs `code`.
    enabled: Keep<bool>,
    /// What the code reads as `webhook.variables`: at most 64, and 16384 bytes as JSON.
    variables: Patch<Metadata>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TransformationSimulateIn<'a> {
    #[schemars(required, length(min = 10, max = 51_200))]
    code: Option<String>,
    /// The event type's name
    #[schemars(required, length(max = 256), regex(pattern = crate::wire::NAME_PATTERN))]
    event_type: Option<String>,
    channels: Option<Vec<String>>,
    #[serde(borrow)]
    #[schemars(required, with = "AnyObject")]
    payload: Option<&'a RawValue>,
    /// Instead of the endpoint's.
    variables: Option<Metadata>,
}

/// What would be sent.
#[derive(Serialize, JsonSchema)]
struct TransformationSimulateOut {
    #[schemars(url, length(min = 1, max = 65_536))]
    url: String,
    /// The text of the body.
    payload: String,
    method: Option<TransformationHttpMethod>,
    cancel: bool,
    /// Headers beside the endpoint's own.
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    headers: Metadata,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum TransformationHttpMethod {
    Post,
    Put,
    Patch,
}

async fn get(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let none = Transformation::default();
    let kept = endpoint.shape.transformation.as_ref().unwrap_or(&none);
    let out = EndpointTransformationOut {
        code: kept.code.as_deref(),
        enabled: kept.enabled,
        variables: (!kept.variables.is_empty()).then_some(&kept.variables),
        updated_at: kept.updated_at.map(Time),
    };
    Ok(error::json(StatusCode::OK, &out))
}

async fn patch(mut call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let body = call.json().await?;
    let patch: EndpointTransformationPatch = body.parse()?;
    let mut faults = Faults::new();
    if let Patch::Set(code) = &patch.code {
        check_code(&mut faults, code);
    }
    if let Patch::Set(variables) = &patch.variables {
        check_variables(&mut faults, variables);
    }
    faults.end()?;
    if let Patch::Set(code) = &patch.code {
        // Before the edit begins: it may take as long as a script may.
        let script = trying(&endpoint, code.as_str().into(), None);
        run(&call.api, script).await.map_err(|error| refused(&error))?;
    }
    let mut edit = call.api.edit().await;
    let (_, before) = call.endpoint()?;
    if call.principal.application().is_some() && matches!(before.kind, Kind::Plugin(_)) {
        let msg = "what a plugin is given is the operator's: a token of one application cannot change it";
        return Err(Error::invalid(&["body", "code"], msg));
    }
    let mut endpoint = Endpoint::clone(&before);
    let now = call.api.backend().now();
    let mut kept = endpoint.shape.transformation.take().unwrap_or_default();
    patch.code.apply(&mut kept.code, |code| Some(code.into()));
    match patch.variables {
        Patch::Keep => {}
        Patch::Clear => kept.variables.clear(),
        Patch::Set(variables) => kept.variables = variables,
    }
    match patch.enabled {
        Keep(Some(true)) if kept.code.is_none() => {
            return Err(Error::invalid(&["body", "enabled"], "there is no `code` to enable; send it along"));
        }
        Keep(Some(enabled)) => kept.enabled = enabled,
        // Without code there is nothing left to apply.
        Keep(None) => kept.enabled &= kept.code.is_some(),
    }
    kept.updated_at = Some(now);
    endpoint.shape.transformation = Some(kept);
    endpoint_effect::check(Faults::new(), Some(&before), &endpoint)?;
    endpoint.updated_at = now;
    edit.put(Change::PutEndpoint(Arc::new(endpoint)));
    edit.no_content().await
}

async fn simulate(mut call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let body = call.json().await?;
    let input: TransformationSimulateIn<'_> = body.parse()?;
    let mut faults = Faults::new();
    let code = faults.required("code", input.code);
    if let Some(code) = &code {
        check_code(&mut faults, code);
    }
    let event_type = faults.required("eventType", input.event_type);
    if let Some(event_type) = &event_type {
        faults.event_type_name("eventType", event_type);
    }
    faults.channels(input.channels.as_deref());
    let payload = faults.required("payload", input.payload).map_or("{}", RawValue::get);
    if !payload.starts_with('{') {
        faults.add("payload", "Payload must be an object.");
    }
    let kept = endpoint.shape.transformation.as_ref().map(|kept| kept.variables.clone());
    let variables = input.variables.or(kept).unwrap_or_default();
    check_variables(&mut faults, &variables);
    faults.end()?;
    let webhook = Webhook {
        url: endpoint.url.clone(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        event_type: event_type.unwrap_or_default(),
        channels: input.channels.unwrap_or_default(),
        variables,
        params: None,
    };
    let code = code.unwrap_or_default().into();
    let script = trying(&endpoint, code, Some(webhook));
    let made = run(&call.api, script).await.map_err(|error| refused(&error))?;
    let made = made.ok_or_else(|| Error::Internal("a script that was given a message gave nothing".to_owned()))?;
    let out = TransformationSimulateOut {
        url: made.url,
        payload: String::from_utf8_lossy(&made.payload).into_owned(),
        method: Some(match made.method {
            bellwire_shape::Method::Post => TransformationHttpMethod::Post,
            bellwire_shape::Method::Put => TransformationHttpMethod::Put,
            bellwire_shape::Method::Patch => TransformationHttpMethod::Patch,
        }),
        cancel: made.cancel,
        headers: made.headers.into_iter().collect(),
    };
    Ok(error::json(StatusCode::OK, &out))
}

/// A script that is tried out: nobody's messages wait for it.
fn trying(endpoint: &Endpoint, code: Arc<str>, webhook: Option<Webhook>) -> Script {
    Script { lane: TRYING | u64::from(endpoint.key.0), application: endpoint.application, code, webhook }
}

async fn run(api: &Api, script: Script) -> Result<Option<Transformed>, ScriptError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Gone with whoever waits here.
    let asked_by = Arc::new(());
    api.settings().scripts.run_for(&asked_by, script, move |done| drop(sender.send(done)));
    receiver.await.unwrap_or_else(|_| Err(ScriptError::Failed("the server is shutting down".to_owned())))
}

fn refused(error: &ScriptError) -> Error {
    Error::invalid(&["body", "code"], format!("`code` cannot be used: {error}"))
}

fn check_code(faults: &mut Faults, code: &str) {
    let count = code.chars().count();
    if !(CODE_MIN..=CODE_MAX).contains(&count) {
        faults.add("code", format!("`code` must have {CODE_MIN} to {CODE_MAX} characters, not {count}"));
    }
}

fn check_variables(faults: &mut Faults, variables: &Metadata) {
    let bytes = serde_json::to_vec(variables).map_or(usize::MAX, |json| json.len());
    if variables.len() > VARIABLES_MAX || bytes > VARIABLES_BYTES_MAX {
        let msg = format!(
            "`variables` must be at most {VARIABLES_MAX}, and {VARIABLES_BYTES_MAX} bytes as JSON, not {bytes}"
        );
        faults.add("variables", msg);
    }
}
