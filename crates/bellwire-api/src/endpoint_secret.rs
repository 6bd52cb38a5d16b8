//! An endpoint's secret, and its rotation: old ones go on signing until their grace period ends.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::Begun;
use crate::endpoint::SIGNS_NOTHING;
use crate::endpoint_in::{check_secret, new_secret};
use crate::error::{self, Error};
use crate::field::Faults;
use crate::operation::{Access, Operation};
use axum::response::Response;
use bellwire_model::{ActiveSecret, Endpoint, Kind};
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

const TAG: &str = "Endpoint";
const GRACE_SECONDS_DEFAULT: u32 = 24 * 3600;
const GRACE_SECONDS_MAX: u32 = 7 * 24 * 3600;
const OLD_SECRETS_MAX: usize = 10;

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/api/v1/app/{app_id}/endpoint/{endpoint_id}/secret", Access::Application, get)
            .described("v1.endpoint.get-secret", TAG, "Get the endpoint's signing secret.")
            .answers::<EndpointSecretOut>(200),
        Operation::editing(
            Method::POST,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/secret/rotate",
            Access::Application,
            rotate,
        )
        .described(
            "v1.endpoint.rotate-secret",
            TAG,
            "Rotates the endpoint's signing secret. The previous secret remains valid for the grace period.",
        )
        .body::<EndpointSecretRotateIn>()
        .answers::<EndpointSecretOut>(200)
        .answers_nothing(204),
    ]
}

/// What a receiver verifies with.
#[derive(Serialize, JsonSchema)]
pub(crate) struct EndpointSecretOut {
    /// `whsec_…`, or of an ed25519 secret the public key, `whpk_…`.
    key: String,
}

/// How to rotate.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointSecretRotateIn {
    /// The new secret, as on creating an endpoint; one is made if it is absent.
    #[serde(default)]
    key: Option<String>,
    /// How long the old secret will be valid for, in seconds. The default is 24 hours, the most 7 days.
    #[serde(default)]
    #[schemars(range(max = 604_800))]
    grace_period_seconds: Option<u32>,
}

pub(crate) async fn get(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let current = endpoint.secrets.first().ok_or_else(Error::not_found)?;
    Ok(error::json(StatusCode::OK, &EndpointSecretOut { key: current.secret.public_text() }))
}

pub(crate) async fn rotate(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let input: EndpointSecretRotateIn = body.parse()?;
    let mut faults = Faults::new();
    let given = input.key.as_deref().and_then(|text| check_secret(&mut faults, "key", text));
    let grace = input.grace_period_seconds.unwrap_or(GRACE_SECONDS_DEFAULT);
    if grace > GRACE_SECONDS_MAX {
        let msg = format!("`gracePeriodSeconds` must be at most {GRACE_SECONDS_MAX} (7 days)");
        faults.add("gracePeriodSeconds", msg);
    }
    faults.end()?;

    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let (_, endpoint) = call.endpoint()?;
    if matches!(endpoint.kind, Kind::Plugin(_)) {
        return Err(Error::invalid(&["body", "key"], SIGNS_NOTHING));
    }
    let now = call.api.backend().now();
    let mut endpoint = Endpoint::clone(&endpoint);
    let mut old = std::mem::take(&mut endpoint.secrets);
    if let Some(current) = old.first_mut() {
        current.expires_at = Some(now.plus(Duration::from_secs(u64::from(grace))));
    }
    old.retain(|secret| secret.expires_at.is_none_or(|end| end > now));
    if old.len() > OLD_SECRETS_MAX {
        let detail = format!(
            "At most {OLD_SECRETS_MAX} old secrets can be within their grace period; wait, or rotate with a shorter one."
        );
        return Err(Error::bad_request("limit_reached", detail));
    }
    let secret = given.unwrap_or_else(|| new_secret(&call.api));
    // Back to one that still signs: once is enough.
    old.retain(|before| !before.secret.is(&secret));
    let key = secret.public_text();
    endpoint.secrets.push(ActiveSecret { secret, expires_at: None });
    endpoint.secrets.append(&mut old);
    endpoint.updated_at = now;
    edit.put(Change::PutEndpoint(Arc::new(endpoint)));
    if call.expects_no_body() {
        return edit.no_content().await;
    }
    edit.answer(StatusCode::OK, &EndpointSecretOut { key }).await
}
